package main

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
	"github.com/muster-pki/muster/protocols/cmp"
	"github.com/muster-pki/muster/protocols/est"
	"github.com/muster-pki/muster/protocols/mdm"
	"github.com/muster-pki/muster/protocols/scep"
)

// endpointView is an endpoint with what its requests pass, as `muster pipeline show --json` prints it. Names are only ever added.
type endpointView struct {
	Endpoint   string              `json:"endpoint"`
	Protocol   string              `json:"protocol"`
	Running    string              `json:"running,omitempty"` // that the gateway on this machine goes by something else, and by what
	Listeners  []listenerView      `json:"listeners"`
	Operations []operationView     `json:"operations"`
	Denied     []gateway.Operation `json:"denied,omitempty"` // what the protocol has, and the endpoint no pipeline for
}

// listenerView is where devices reach it.
type listenerView struct {
	Name  string   `json:"name"`
	URLs  []string `json:"urls"`
	Proxy bool     `json:"proxy,omitempty"` // clients reach the proxies in front of it, where their TLS ends, and not these URLs
}

// operationView is one pipeline.
type operationView struct {
	Operations  []gateway.Operation `json:"operations"`            // that pass it: rekey may have renew's
	Asks        string              `json:"asks"`                  // by which request of the protocol
	Credentials []string            `json:"credentials,omitempty"` // that a stage looks at
	Stages      []stageView         `json:"stages"`
	Behind      []stageView         `json:"behind,omitempty"` // what comes when all have allowed: profiles with their CAs
	Refusals    []refusalView       `json:"refusals"`
}

// stageView is a stage, or what is drawn as one.
type stageView struct {
	Name     string        `json:"name"`
	Checks   []string      `json:"checks,omitempty"`
	Holds    string        `json:"holds,omitempty"`
	Uses     string        `json:"uses,omitempty"`
	Added    bool          `json:"added,omitempty"`    // by the gateway, to each pipeline that certifies
	Branches [][]stageView `json:"branches,omitempty"` // of anyOf; allOf and not have one

	stage   gateway.Stage
	refuses []gateway.Reason
}

// refusalView says how a client is told of a refusal.
type refusalView struct {
	Reason gateway.Reason `json:"reason"`
	Told   string         `json:"told"`
	By     []string       `json:"by,omitempty"` // stages
}

// composed says in words what composed stages check.
var composed = map[string]string{
	"anyOf": "one of %d has to allow; the first that does counts",
	"allOf": "all of these have to allow",
	"not":   "denies those that pass all of this",
}

// view makes the picture of an endpoint.
func (c *Config) view(made *gateway.Endpoint) endpointView {
	e := c.Endpoints[made.Name]
	speaks, _ := spoken(e.Protocol)
	v := endpointView{Endpoint: made.Name, Protocol: speaks.title, Operations: []operationView{}}
	for _, name := range e.Listeners {
		v.Listeners = append(v.Listeners, listenerView{name, c.urls(name, made.Name, e), c.Listeners[name].TLS == nil && len(c.Listeners[name].Proxies) > 0})
	}
	passwords := false
	for _, p := range made.Pipelines {
		passwords = passwords || slices.Contains(looksAt(p), gateway.CredentialPassword)
	}
	for _, op := range gateway.Operations {
		p := made.Pipelines[op]
		switch {
		case !speaks.serves(op):
		case len(p) > 0:
			v.Operations = append(v.Operations, c.operation(op, e, p, passwords))
		case op == gateway.Rekey && len(made.Pipelines[gateway.Renew]) > 0: // gateway.Endpoint gives it that
			i := slices.IndexFunc(v.Operations, func(o operationView) bool { return o.Operations[0] == gateway.Renew })
			v.Operations[i].Operations = append(v.Operations[i].Operations, op)
		default:
			v.Denied = append(v.Denied, op)
		}
	}
	return v
}

// operation makes the picture of one pipeline.
func (c *Config) operation(op gateway.Operation, e *EndpointConfig, p gateway.Pipeline, passwords bool) operationView {
	speaks, _ := spoken(e.Protocol)
	v := operationView{Operations: []gateway.Operation{op}, Asks: requestsFor[e.Protocol][op], Stages: viewOf(p)}
	if e.Protocol == gateway.EST && op == gateway.Enroll && len(kindsMade(p)) > 0 {
		v.Asks += ", serverkeygen"
	}
	certifies := op == gateway.Enroll || op == gateway.Renew || op == gateway.Rekey
	if certifies {
		last := &v.Stages[len(v.Stages)-1]
		last.Added = true // pipeline() appends the profiles' keys
	}
	for _, k := range looksAt(p) {
		if slices.Contains(speaks.proofs(op), k) {
			v.Credentials = append(v.Credentials, credentials[k])
		}
	}
	switch to := c.forwardsTo(e, op); {
	case to != "":
		v.Behind = append(v.Behind, stageView{Name: "backend " + to, Checks: []string{"the message goes to it unchanged, and its answer to the device", "plugin " + c.Backends[to].Plugin}})
	case certifies:
		for i, name := range e.offered() {
			v.Behind = append(v.Behind, c.profileView(name, i > 0))
		}
	case op == gateway.Revoke:
		v.Behind = append(v.Behind, stageView{Name: "the certificate is revoked", Checks: []string{"at once in the gateway's records; its CA is told until it has it"}})
	}
	v.Refusals = refusals(e.Protocol, v, passwords)
	return v
}

// viewOf makes the pictures of stages.
func viewOf(p gateway.Pipeline) []stageView {
	var all []stageView
	for _, s := range p {
		v := stageView{Name: s.Name(), stage: s}
		branches := gateway.Branches(s)
		for _, b := range branches {
			v.Branches = append(v.Branches, viewOf(b))
		}
		if text := composed[v.Name]; len(branches) > 0 && text != "" {
			if strings.Contains(text, "%d") {
				text = fmt.Sprintf(text, len(branches))
			}
			v.Checks = []string{text}
		}
		if v.Name == "not" {
			v.refuses = []gateway.Reason{gateway.NotAuthorized}
		}
		if d, ok := s.(gateway.Describer); ok {
			is := d.Describe()
			v.Checks, v.Holds, v.Uses, v.refuses = is.Checks, is.Holds, is.Uses, is.Refuses
		}
		all = append(all, v)
	}
	return all
}

// looksAt lists the credentials that a pipeline can let somebody pass by: none of what stands in `not`.
func looksAt(p gateway.Pipeline) []gateway.CredentialKind {
	var kinds []gateway.CredentialKind
	for _, s := range p {
		var more []gateway.CredentialKind
		if r, ok := s.(interface {
			Credentials() []gateway.CredentialKind
		}); ok {
			more = r.Credentials()
		}
		if s.Name() != "not" {
			for _, b := range gateway.Branches(s) {
				more = append(slices.Clone(more), looksAt(b)...)
			}
		}
		for _, k := range more {
			if !slices.Contains(kinds, k) {
				kinds = append(kinds, k)
			}
		}
	}
	return kinds
}

// profileView draws a profile with its lints and CA.
func (c *Config) profileView(name string, further bool) stageView {
	p := c.Profiles[name]
	v := stageView{Name: "profile " + name}
	if further {
		v.Name = "or profile " + name
		v.Checks = append(v.Checks, "where it is asked for by name, or a stage chooses it")
	}
	text := func(path ...string) string {
		n := c.nodeAt(append(at("profiles", name), path...)...)
		switch {
		case n == nil:
			return ""
		case n.Kind == yaml.ScalarNode:
			return n.Value
		}
		var all []string
		for _, item := range n.Content {
			all = append(all, item.Value)
		}
		return strings.Join(all, ", ")
	}
	names := "subject: " + text("subject")
	if p.Subject == nil {
		names = "subject: as asked for"
	}
	v.Checks = append(v.Checks, names)
	san := ""
	for _, kind := range []string{"dns", "ip", "uri", "email"} {
		if of := text("san", kind); of != "" {
			san += ", " + kind + " " + of
		}
	}
	switch {
	case san != "":
		v.Checks = append(v.Checks, "subjectAltName: "+strings.TrimPrefix(san, ", "))
	case p.Subject == nil:
		v.Checks = append(v.Checks, "subjectAltName: as asked for")
	}
	lasts := "valid for " + strictyaml.Duration(p.validity()).String()
	if p.Backdate > 0 {
		lasts += ", from " + p.Backdate.String() + " before"
	}
	if jitter := text("jitter"); jitter != "" {
		lasts += ", less up to " + jitter + " at random"
	}
	v.Checks = append(v.Checks, lasts, usages(p))
	lint := "lints: rfc5280"
	if p.Lint != nil {
		if set := text("lint", "set"); set != "" {
			lint = "lints: " + set
		}
		for _, key := range []string{"ignore", "add"} {
			if of := text("lint", key); of != "" {
				lint += ", " + map[string]string{"ignore": "without ", "add": "and "}[key] + of
			}
		}
		if fail := text("lint", "fail"); fail != "" {
			lint += ", refused for " + fail
		}
	}
	ca := "CA: " + p.Backend + "/" + p.Issuer
	if p.Issuer == "" {
		ca = "CA: " + p.Backend + ", its default"
	}
	if b := c.Backends[p.Backend]; b != nil && b.Plugin != p.Backend {
		ca += " (plugin " + b.Plugin + ")"
	}
	if len(p.Standby) > 0 {
		ca += ", while it cannot be asked: " + p.shownStandbys()
	}
	v.Checks = append(v.Checks, lint, ca)
	if b := c.Backends[p.Backend]; b != nil && b.Rate != nil {
		v.Checks = append(v.Checks, fmt.Sprintf("at most %d in %s asked of it; others wait, or are told when to come back", b.Rate.Issued, b.Rate.Per))
	}
	return v
}

func usages(p *ProfileConfig) string {
	use, extended := p.KeyUsage, p.ExtKeyUsage
	if len(use) == 0 {
		use = []string{"digitalSignature"}
	}
	if len(extended) == 0 {
		extended = []string{"clientAuth"}
	}
	return "for " + strings.Join(use, ", ") + "; " + strings.Join(extended, ", ")
}

// nodeAt is what stands at a path of keys in the file, nil for nothing.
func (c *Config) nodeAt(path ...string) *yaml.Node {
	n := c.root
	for _, key := range path {
		var next *yaml.Node
		for i := 0; n != nil && n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == key {
				next = n.Content[i+1]
			}
		}
		n = next
	}
	return n
}

// urls are where an endpoint is reached at a listener.
func (c *Config) urls(listener, name string, e *EndpointConfig) []string {
	l := c.Listeners[listener]
	scheme := "http"
	if l.TLS != nil {
		scheme = "https"
	}
	host, port, err := net.SplitHostPort(l.Address)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		host = "HOST"
	}
	paths := map[gateway.Protocol][]string{
		gateway.CMP: {"/.well-known/cmp/p/" + name, "/.well-known/cmp"}, gateway.EST: {"/.well-known/est/" + name, "/.well-known/est"},
		gateway.SCEP: {"/scep/" + name, "/scep"}, gateway.MDM: {"/ota/" + name, "/ota"},
	}[e.Protocol]
	if !e.Default {
		paths = paths[:1]
	}
	var urls []string
	for _, path := range paths {
		urls = append(urls, (&url.URL{Scheme: scheme, Host: net.JoinHostPort(host, port), Path: path}).String())
	}
	return urls
}

// refusals says how a client is told of each reason for which something of the pipeline refuses.
func refusals(p gateway.Protocol, v operationView, passwords bool) []refusalView {
	by := map[gateway.Reason][]string{}
	var walk func(all []stageView)
	walk = func(all []stageView) {
		for _, s := range all {
			for _, reason := range s.refuses {
				if !slices.Contains(by[reason], s.Name) {
					by[reason] = append(by[reason], s.Name)
				}
			}
			if s.Name != "not" {
				for _, b := range s.Branches {
					walk(b)
				}
			}
		}
	}
	walk(v.Stages)
	if len(v.Behind) > 0 && strings.HasPrefix(v.Behind[0].Name, "profile ") {
		by[gateway.BadTemplate] = append(by[gateway.BadTemplate], "profile")
	}
	by[gateway.Unavailable] = nil
	told := func(r gateway.Reason) string {
		switch p {
		case gateway.CMP:
			return cmp.Told(r)
		case gateway.SCEP:
			return scep.Told(r)
		case gateway.MDM:
			return mdm.Told(r)
		}
		return est.Told(r, passwords)
	}
	var all []refusalView
	for _, reason := range gateway.Reasons {
		if stages, refuses := by[reason]; refuses {
			all = append(all, refusalView{reason, told(reason), stages})
		}
	}
	return all
}

// requestsFor says by which requests a protocol asks for an operation.
var requestsFor = map[gateway.Protocol]map[gateway.Operation]string{
	gateway.CMP: {gateway.Enroll: "ir, cr, p10cr", gateway.Renew: "kur", gateway.Rekey: "kur for another key", gateway.Revoke: "rr"},
	gateway.EST: {gateway.Enroll: "simpleenroll", gateway.Renew: "simplereenroll", gateway.Rekey: "simplereenroll for another key", gateway.Query: "eecerts"},
	gateway.SCEP: {
		gateway.Enroll: "PKCSReq", gateway.Renew: "RenewalReq", gateway.Rekey: "RenewalReq for another key", gateway.Query: "GetCert, GetCRL",
	},
	gateway.MDM: {gateway.Query: "a device's answer to the profile, check"},
}

// credentials says what credentials are.
var credentials = map[gateway.CredentialKind]string{
	gateway.CredentialTLS: "a TLS client certificate", gateway.CredentialSigner: "a certificate that signs the message", gateway.CredentialPassword: "a user name and password (HTTP)",
	gateway.CredentialMAC: "a shared secret (MAC)", gateway.CredentialChallenge: "a challenge in the request", gateway.CredentialNested: "an RA that passes the message on",
	gateway.CredentialDevice: "the device's own certificate, its maker's",
}

// Describe is gateway.Describer.
func (s profileKeys) Describe() gateway.Description {
	var d gateway.Description
	for _, name := range byName(s) {
		is := s[name].Describe()
		d.Refuses = is.Refuses
		if len(s) == 1 {
			d.Checks = is.Checks
			continue
		}
		d.Checks = append(d.Checks, name+": "+strings.Join(is.Checks, ", "))
	}
	return d
}
