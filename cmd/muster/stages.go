package main

import (
	"errors"
	"log/slog"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/authz"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// stageDeps is what stages are made with.
type stageDeps struct {
	Dir        string             // that relative paths start from
	Certs      authz.Certificates // where own-certificate looks
	Secrets    authz.Secrets      // where shared-secret looks
	Devices    authz.Devices      // where inventory, device-password and shared-secret look
	Challenges authz.Challenges   // where challenge looks
	Opener     authz.Opener       // opens what is sealed: secrets, digest forms
	Clock      func() time.Time
	Log        *slog.Logger
	Hashing    *authz.Hashing // one for the process: it bounds password hashing
}

// told has the log say what an operator should know of a stage that was made.
func (d stageDeps) told(s gateway.Stage, err error) (gateway.Stage, error) {
	if err != nil {
		return nil, err
	}
	if why := authz.DearGuesses(s); why != "" {
		d.Log.Warn("passwords are dear to compare", "stage", s.Name(), "why", why)
	}
	return s, nil
}

// stageStore is what stages look things up in; gateway.Store is one.
type stageStore interface {
	authz.Certificates
	authz.Secrets
	authz.Devices
	authz.Challenges
}

// stageNames lists what decodeStage knows.
var stageNames = []string{
	"password", "client-certificate", "shared-secret", "challenge", "vendor-ca", "device-certificate", "ra", "own-certificate", "inventory", "registration", "device-password", "approval", "policy", "webhook", "limits",
	"keys", "names", "forward", "anyOf", "allOf", "not",
}

// decodeStage makes one stage of a pipeline from its node: a map of one key, the stage's name, to its settings.
// Every error has its line.
func decodeStage(file string, n *yaml.Node, deps stageDeps) (gateway.Stage, error) {
	name, settings, err := stageNode(file, n)
	if err != nil {
		return nil, err
	}
	switch name {
	case "password":
		return makeStage(file, name, settings, func(c authz.PasswordConfig) (gateway.Stage, error) {
			return deps.told(authz.NewPassword(c, deps.Dir, deps.Hashing, deps.Opener, deps.Clock))
		})
	case "shared-secret":
		return makeStage(file, name, settings, func(c authz.SharedSecretConfig) (gateway.Stage, error) {
			return authz.NewSharedSecret(c, deps.Dir, deps.Secrets, deps.Devices, deps.Opener, deps.Clock)
		})
	case "challenge":
		return makeStage(file, name, settings, func(c authz.ChallengeConfig) (gateway.Stage, error) {
			return deps.told(authz.NewChallenge(c, deps.Dir, deps.Hashing, deps.Challenges, deps.Clock))
		})
	case "vendor-ca":
		return makeStage(file, name, settings, func(c authz.VendorCAConfig) (gateway.Stage, error) {
			return authz.NewVendorCA(c, deps.Dir, deps.Log, deps.Clock)
		})
	case "device-certificate":
		return makeStage(file, name, settings, func(c authz.DeviceCertificateConfig) (gateway.Stage, error) { return authz.NewDeviceCertificate(c) })
	case "ra":
		return makeStage(file, name, settings, func(c authz.RAConfig) (gateway.Stage, error) { return authz.NewRA(c, deps.Dir, deps.Clock) })
	case "client-certificate":
		return makeStage(file, name, settings, func(c authz.ClientCertificateConfig) (gateway.Stage, error) {
			return authz.NewClientCertificate(c, deps.Dir, deps.Clock)
		})
	case "own-certificate":
		return makeStage(file, name, settings, func(c authz.OwnCertificateConfig) (gateway.Stage, error) {
			return authz.NewOwnCertificate(c, deps.Certs, deps.Clock)
		})
	case "inventory":
		return makeStage(file, name, settings, func(c authz.InventoryConfig) (gateway.Stage, error) {
			return authz.NewInventory(c, deps.Devices, deps.Clock)
		})
	case "registration":
		return makeStage(file, name, settings, func(c authz.RegistrationConfig) (gateway.Stage, error) {
			return authz.NewRegistration(c, deps.Devices, deps.Clock)
		})
	case "device-password":
		return makeStage(file, name, settings, func(c authz.DevicePasswordConfig) (gateway.Stage, error) {
			return authz.NewDevicePassword(c, deps.Devices, deps.Hashing, deps.Clock)
		})
	case "approval":
		return makeStage(file, name, settings, func(c authz.ApprovalConfig) (gateway.Stage, error) { return authz.NewApproval(c, deps.Clock) })
	case "webhook":
		return makeStage(file, name, settings, func(c authz.WebhookConfig) (gateway.Stage, error) {
			return authz.NewWebhook(c, deps.Dir, deps.Clock)
		})
	case "policy":
		return decodePolicy(file, settings, deps)
	case "limits":
		return makeStage(file, name, settings, func(c authz.LimitsConfig) (gateway.Stage, error) { return authz.NewLimits(c, deps.Clock) })
	case "keys":
		return makeStage(file, name, settings, func(c authz.KeysConfig) (gateway.Stage, error) {
			return authz.NewKeysFrom(c, deps.Dir, deps.Secrets, deps.Opener, deps.Clock)
		})
	case "names":
		return makeStage(file, name, settings, func(c authz.NamesConfig) (gateway.Stage, error) { return authz.NewNames(c) })
	case "forward":
		return makeStage(file, name, settings, func(c authz.ForwardConfig) (gateway.Stage, error) { return authz.NewForward(c) })
	case "anyOf":
		return decodeAnyOf(file, settings, deps)
	case "allOf":
		p, err := decodeBranch(file, settings, deps)
		if err != nil {
			return nil, err
		}
		return gateway.AllOf(p), nil
	case "not":
		p, err := decodeBranch(file, settings, deps)
		if err != nil {
			return nil, err
		}
		return gateway.Not(p), nil
	}
	return nil, strictyaml.Errorf(file, n, "unknown stage %q%s", name, strictyaml.Suggest(name, stageNames))
}

// decodePipeline makes the stages of a list. An empty list is an error: it would allow everything.
func decodePipeline(file string, n *yaml.Node, deps stageDeps) (gateway.Pipeline, error) {
	if n.Kind != yaml.SequenceNode {
		return nil, strictyaml.Errorf(file, n, "want a list of stages")
	}
	if len(n.Content) == 0 {
		return nil, strictyaml.Errorf(file, n, "the list of stages is empty")
	}
	var p gateway.Pipeline
	var errs []error
	for _, c := range n.Content {
		s, err := decodeStage(file, c, deps)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		p = append(p, s)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return p, nil
}

// decodeAnyOf reads a list of branches.
func decodeAnyOf(file string, n *yaml.Node, deps stageDeps) (gateway.Stage, error) {
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		return nil, strictyaml.Errorf(file, n, "anyOf wants a list of branches: each a stage, or a list of stages that all have to allow")
	}
	var branches []gateway.Pipeline
	var errs []error
	for _, c := range n.Content {
		p, err := decodeBranch(file, c, deps)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		branches = append(branches, p)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return gateway.AnyOf(branches...), nil
}

// decodeBranch reads a stage, or a list of stages that all have to allow.
func decodeBranch(file string, n *yaml.Node, deps stageDeps) (gateway.Pipeline, error) {
	if n.Kind == yaml.SequenceNode {
		return decodePipeline(file, n, deps)
	}
	s, err := decodeStage(file, n, deps)
	if err != nil {
		return nil, err
	}
	return gateway.Pipeline{s}, nil
}

// stageNode takes a stage's node apart.
func stageNode(file string, n *yaml.Node) (name string, settings *yaml.Node, err error) {
	if n == nil {
		return "", nil, &strictyaml.Error{File: file, Message: "a stage is missing"}
	}
	switch {
	case n.Kind == yaml.MappingNode && len(n.Content) == 2:
		return n.Content[0].Value, n.Content[1], nil
	case n.Kind == yaml.MappingNode && len(n.Content) > 2:
		return "", nil, strictyaml.Errorf(file, n, "stages %q and %q stand in one item: give each a dash of its own", n.Content[0].Value, n.Content[2].Value)
	case n.Kind == yaml.ScalarNode && n.Value != "":
		return "", nil, strictyaml.Errorf(file, n, "a stage is written `%s: {}`", n.Value)
	}
	return "", nil, strictyaml.Errorf(file, n, "want a stage, such as `own-certificate: {}`")
}

// makeStage decodes a stage's settings and constructs it.
func makeStage[C any](file, name string, settings *yaml.Node, construct func(C) (gateway.Stage, error)) (gateway.Stage, error) {
	var c C
	if err := strictyaml.DecodeNodeAt(file, name, settings, &c); err != nil {
		return nil, err
	}
	s, err := construct(c)
	if err != nil {
		return nil, strictyaml.Errorf(file, settings, "%s: %v", name, err)
	}
	return s, nil
}
