package authz

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

const (
	// minSharedSecret is the shortest shared secret, in bytes: whoever sees one message can search for it offline.
	minSharedSecret = 8
	maxSharedSecret = 1024
	// maxReference bounds a reference, in bytes.
	maxReference = 128
)

// sealedInConfig is what secrets in a configuration are sealed for, followed by the reference's bytes.
const sealedInConfig = "config"

// sealedInStore is what secrets in the store are sealed for, followed by endpoint, the reference's bytes, and device.
const sealedInStore = "secret"

// sealedInInventory is what the secret in an entry of the inventory is sealed for, followed by the device's name.
const sealedInInventory = "device"

// Secrets is where `shared-secret` finds the secrets of single devices; gateway.Store is one.
type Secrets interface {
	// Secret returns the secret with the reference, as raw bytes, at the endpoint, past its NotAfter too;
	// gateway.ErrNotFound when there is none.
	Secret(ctx context.Context, endpoint, reference string) (*gateway.StoredSecret, error)
}

// Opener opens what is sealed; seal.Sealer is one.
type Opener interface {
	// Open fails when sealed was sealed for another context, or with another key.
	Open(sealed []byte, context ...string) ([]byte, error)
}

// SharedSecretConfig configures the stage `shared-secret`: the requester knows a secret, by which its messages are
// authenticated (CMP's PBM and PBMAC1). At least one secret, Devices or Inventory has to be given.
type SharedSecretConfig struct {
	// Secrets maps references (CMP senderKID) to secrets: a printable reference as it is, any other one as "hex:" and
	// its bytes in hexadecimal. They are good at every endpoint that this stage stands at.
	Secrets map[string]SharedSecretEntry `yaml:"secrets"`
	// Devices takes the secrets in the store as well: one per device, put there with the admin API, each good at its
	// own endpoint.
	Devices bool `yaml:"devices"`
	// Inventory takes the secrets of devices in the inventory as well: the reference is the device's name, or one of its
	// identifiers. A disabled device, or one whose entry is not valid here and now, has none.
	Inventory bool `yaml:"inventory"`
}

// SharedSecretEntry is one shared secret: either File or Sealed.
type SharedSecretEntry struct {
	// File holds the secret, 8 to 1024 bytes; one line end after it is cut. Others than owner and group may not have
	// any access to it. Relative paths are below the configuration's folder.
	File string `yaml:"file"`
	// Sealed is the secret in base64, sealed under the store's key for this reference.
	Sealed string `yaml:"sealed"`
	// Device is the device that the secret belongs to. Default: whoever knows it, which names no device.
	Device string `yaml:"device"`
	// NotAfter is the last instant at which the secret is good (RFC 3339, in quotes). Default: for ever.
	NotAfter time.Time `yaml:"not-after"`
}

// SharedSecret is the stage `shared-secret`, and what adapters verify MACs with. It denies with Unauthenticated when the
// request is not authenticated by one of its secrets, with NotAuthorized when the secret belongs to another device than
// an earlier stage named; it cannot answer when the store cannot be read.
type SharedSecret struct {
	fixed   map[string]*sharedSecret // by the reference's bytes
	secrets Secrets                  // nil: no secrets of single devices
	devices Devices                  // nil: none of the inventory
	opener  Opener
	now     func() time.Time
}

// sharedSecret is a secret of the configuration, or one of the store that has not been opened.
type sharedSecret struct {
	value    gateway.Secret
	device   string
	notAfter time.Time
	stored   *gateway.StoredSecret
	entry    *gateway.Device // of the inventory
}

func (s *sharedSecret) over(now time.Time) bool { return !s.notAfter.IsZero() && now.After(s.notAfter) }

// NewSharedSecret reads the secrets. secrets is needed for Devices, devices for Inventory, opener for both and for sealed
// entries; now is the clock.
func NewSharedSecret(c SharedSecretConfig, dir string, secrets Secrets, devices Devices, opener Opener, now func() time.Time) (*SharedSecret, error) {
	if now == nil {
		return nil, errors.New("shared-secret: no clock given")
	}
	if len(c.Secrets) == 0 && !c.Devices && !c.Inventory {
		return nil, errors.New("no secrets: give secrets, devices or inventory")
	}
	s := &SharedSecret{opener: opener, now: now}
	if c.Devices {
		if secrets == nil || opener == nil {
			return nil, errors.New("devices: there is no store of sealed secrets")
		}
		s.secrets = secrets
	}
	if c.Inventory {
		if devices == nil || opener == nil {
			return nil, errors.New("inventory: there is no store of sealed secrets")
		}
		s.devices = devices
	}
	var err error
	s.fixed, err = byReference("secrets: reference", c.Secrets, func(reference []byte, e SharedSecretEntry) (*sharedSecret, error) { return s.entry(dir, reference, e) })
	if err != nil {
		return nil, err
	}
	return s, nil
}

// byReference makes a secret of each entry, which a configuration names by its reference; what names those in errors.
func byReference[E any](what string, entries map[string]E, secret func(reference []byte, e E) (*sharedSecret, error)) (map[string]*sharedSecret, error) {
	made := make(map[string]*sharedSecret)
	for _, id := range slices.Sorted(maps.Keys(entries)) {
		reference, ok := gateway.ParseReferenceID(id)
		if !ok || len(reference) > maxReference {
			return nil, fmt.Errorf("%s %s: 1 to %d bytes, as text or as hex: and hexadecimal digits", what, shown(id), maxReference)
		}
		if made[string(reference)] != nil {
			return nil, fmt.Errorf("%s %s stands twice", what, shown(gateway.ReferenceID(reference)))
		}
		one, err := secret(reference, entries[id])
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", what, shown(id), err)
		}
		made[string(reference)] = one
	}
	return made, nil
}

func (s *SharedSecret) entry(dir string, reference []byte, e SharedSecretEntry) (*sharedSecret, error) {
	if e.Device != "" && (len(e.Device) > 256 || !printable(e.Device)) {
		return nil, errors.New("device: 1 to 256 bytes, without control characters")
	}
	one := &sharedSecret{device: e.Device, notAfter: e.NotAfter}
	var err error
	switch {
	case (e.File != "") == (e.Sealed != ""):
		return nil, errors.New("give either file or sealed")
	case e.File != "":
		if one.value, err = readSecret(dir, e.File); err != nil {
			return nil, fmt.Errorf("file: %w", err)
		}
	case s.opener == nil:
		return nil, errors.New("sealed: there is no key to open it with")
	default:
		sealed, err := base64.StdEncoding.DecodeString(e.Sealed)
		if err != nil {
			return nil, errors.New("sealed: want base64")
		}
		if one.value, err = s.opener.Open(sealed, sealedInConfig, string(reference)); err != nil {
			return nil, fmt.Errorf("sealed: %w", err)
		}
	}
	if len(one.value) < minSharedSecret || len(one.value) > maxSharedSecret {
		return nil, fmt.Errorf("a shared secret has %d to %d bytes", minSharedSecret, maxSharedSecret)
	}
	return one, nil
}

// readSecret is readPrivate for a text: one line end after it is cut.
func readSecret(dir, path string) ([]byte, error) {
	data, err := readPrivate(dir, path)
	if err != nil {
		return nil, err
	}
	return trimLineEnd(data), nil
}

func trimLineEnd(data []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(data, []byte("\n")), []byte("\r"))
}

// readPrivate reads a file that nobody but its owner and group may touch. There is room for a line's end.
func readPrivate(dir, path string) ([]byte, error) {
	return strictyaml.ReadSecret(dir, path, maxSharedSecret+2)
}

// Name is "shared-secret".
func (s *SharedSecret) Name() string { return "shared-secret" }

// Credentials is what the stage looks at.
func (s *SharedSecret) Credentials() []gateway.CredentialKind {
	return []gateway.CredentialKind{gateway.CredentialMAC}
}

// Identifies marks the stage as one that depends only on who is asking.
func (s *SharedSecret) Identifies() {}

// SharedSecret returns the secret with the reference at the endpoint: one of the configuration, else the store's, else the
// inventory's.
// gateway.ErrNotFound when there is none, or it is past its time.
func (s *SharedSecret) SharedSecret(ctx context.Context, endpoint string, reference []byte) (gateway.Secret, error) {
	one, err := s.find(ctx, endpoint, reference)
	if err != nil {
		return nil, err
	}
	// A reference that somebody has takes as long as one that nobody has: the store is asked the same for both.
	if one.stored == nil && one.entry == nil && s.secrets != nil {
		s.secrets.Secret(ctx, endpoint, string(reference)) //nolint:errcheck // the answer is not needed
	}
	if one.entry == nil && s.devices != nil {
		find(ctx, s.devices, "", gateway.ReferenceID(reference)) //nolint:errcheck // the answer is not needed
	}
	return s.open(one)
}

// find looks a secret up that is good now.
func (s *SharedSecret) find(ctx context.Context, endpoint string, reference []byte) (*sharedSecret, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(reference) == 0 || len(reference) > maxReference {
		return nil, gateway.ErrNotFound
	}
	one := s.fixed[string(reference)]
	var err error
	if one == nil && s.secrets != nil {
		if one, err = s.stored(ctx, endpoint, reference); err != nil && !errors.Is(err, gateway.ErrNotFound) {
			return nil, err
		}
	}
	if one == nil && s.devices != nil {
		if one, err = s.entered(ctx, endpoint, reference); err != nil {
			return nil, err
		}
	}
	if one == nil {
		return nil, gateway.ErrNotFound
	}
	if one.over(s.now()) {
		return nil, fmt.Errorf("it was good until %s: %w", one.notAfter.UTC().Format(time.RFC3339), gateway.ErrNotFound)
	}
	return one, nil
}

// stored looks a secret up that the store keeps for the endpoint.
func (s *SharedSecret) stored(ctx context.Context, endpoint string, reference []byte) (*sharedSecret, error) {
	t, err := s.secrets.Secret(ctx, endpoint, string(reference))
	switch {
	case err != nil:
		return nil, err
	// What was sealed for another place or reference does not open; that the look-up gave it is a fault all the same.
	case t == nil || t.Endpoint != endpoint || t.Reference != string(reference):
		return nil, errors.New("the look-up gave another secret than was asked for")
	}
	return &sharedSecret{device: t.Device, notAfter: t.NotAfter, stored: t}, nil
}

// entered looks a device's secret up in the inventory.
func (s *SharedSecret) entered(ctx context.Context, endpoint string, reference []byte) (*sharedSecret, error) {
	d, err := find(ctx, s.devices, "", gateway.ReferenceID(reference))
	var ambiguous *gateway.AmbiguousDeviceError
	switch {
	case errors.As(err, &ambiguous):
		return nil, fmt.Errorf("%v: %w", ambiguous, gateway.ErrNotFound)
	case err != nil:
		return nil, err
	case len(d.Sealed) == 0:
		return nil, fmt.Errorf("device %s has no shared secret: %w", shown(d.Name), gateway.ErrNotFound)
	}
	if fault := d.Fault(endpoint, s.now()); fault != "" {
		return nil, fmt.Errorf("device %s %s: %w", shown(d.Name), fault, gateway.ErrNotFound)
	}
	return &sharedSecret{device: d.Name, entry: d}, nil
}

func (s *SharedSecret) open(one *sharedSecret) (gateway.Secret, error) {
	var value []byte
	var err error
	var whose string
	switch {
	case one.stored != nil:
		t := one.stored
		whose = fmt.Sprintf("shared secret %s of endpoint %s", shown(gateway.ReferenceID([]byte(t.Reference))), t.Endpoint)
		value, err = s.opener.Open(t.Sealed, sealedInStore, t.Endpoint, t.Reference, t.Device)
	case one.entry != nil:
		whose = "the shared secret of device " + shown(one.entry.Name)
		value, err = s.opener.Open(one.entry.Sealed, sealedInInventory, one.entry.Name)
	default:
		return bytes.Clone(one.value), nil
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", whose, err)
	case len(value) < minSharedSecret:
		// An empty key would let everybody in.
		return nil, fmt.Errorf("%s has fewer than %d bytes", whose, minSharedSecret)
	}
	return value, nil
}

// Decide checks that the secret by which the message was authenticated is one of this stage's. The adapter has verified
// the MAC; other stages of the endpoint may have other secrets.
func (s *SharedSecret) Decide(ctx context.Context, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	if err := ctx.Err(); err != nil {
		return gateway.Unanswered(err)
	}
	const detail = "a message authenticated with a shared secret of this endpoint is required"
	c, ok := r.Credential(gateway.CredentialMAC)
	if !ok {
		return gateway.Denied(gateway.Unauthenticated, detail, "the request carries no "+string(gateway.CredentialMAC))
	}
	reference, ok := gateway.ParseReferenceID(c.ID)
	if !ok {
		return gateway.Denied(gateway.Unauthenticated, detail, "the message names no shared secret")
	}
	id := shown(gateway.ReferenceID(reference))
	one, err := s.find(ctx, r.Endpoint, reference)
	switch {
	case errors.Is(err, gateway.ErrNotFound):
		return gateway.Denied(gateway.Unauthenticated, detail, fmt.Sprintf("shared secret %s is none of this stage's: %v", id, err))
	case err != nil:
		return gateway.Unanswered(fmt.Errorf("shared secret %s cannot be looked up: %w", id, err))
	}
	value, err := s.open(one)
	if err != nil {
		return gateway.Unanswered(err)
	}
	if subtle.ConstantTimeCompare(value, c.Secret) != 1 {
		return gateway.Denied(gateway.Unauthenticated, detail,
			fmt.Sprintf("the message was authenticated with another secret than this stage's %s: two stages have one reference", id))
	}
	g.Authenticate(c)
	note := "shared secret " + id
	if one.stored != nil {
		note += " of the store"
	}
	if one.entry != nil {
		if denied, ok := recognise(g, one.entry); !ok {
			return denied
		}
		return gateway.Allowed(note + " of device " + shown(one.device) + " in the inventory")
	}
	if one.device == "" {
		return gateway.Allowed(note)
	}
	if denied, ok := nameDevice(g, one.device); !ok {
		return denied
	}
	return gateway.Allowed(note + ", device " + shown(one.device))
}
