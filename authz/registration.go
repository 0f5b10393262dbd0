package authz

import (
	"bytes"
	"context"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// RegistrationConfig configures the stage `registration`: the certificate names the oneM2M identifier that the inventory
// registers for the device, and nothing else (oneM2M TS-0003 clauses 8.3.6 and 10.1).
type RegistrationConfig struct {
	// Types of identifiers that may be certified: cse-id, ae-id, node-id. A device's entry has to have one of them. Default: all.
	Types []string `yaml:"types"`
	// AEIDForm is how an AE-ID stands in the certificate, as URI: absolute (//m2m.example.com/S98821, without scheme), or a text
	// with {{value}} in the place of that: "m2m:{{value}}". Default: absolute.
	AEIDForm string `yaml:"ae-id-form"`
	// NodeIDForm is how a Node-ID does: a text with {{value}}, such as "urn:gsma:imei:{{value}}". Default: {{value}}.
	NodeIDForm string `yaml:"node-id-form"`
}

// Registration is the stage `registration`. It denies with NotAuthorized a device whose entry has none of the identifiers, or
// several, and a request for another one than the registered; with BadTemplate a request whose subjectAltName has not exactly one
// name of its type, or that asks for other purposes than the profile's. It cannot answer when the inventory cannot be read.
type Registration struct {
	types   []string
	forms   map[string]string
	devices Devices
	now     func() time.Time
}

var registrationTypes = []string{gateway.KindCSEID, gateway.KindAEID, gateway.KindNodeID}

// valueMark is where a form has the identifier.
const valueMark = "{{value}}"

// NewRegistration makes the stage. now is the clock.
func NewRegistration(c RegistrationConfig, devices Devices, now func() time.Time) (*Registration, error) {
	if devices == nil || now == nil {
		return nil, errors.New("registration: no devices or clock given")
	}
	s := &Registration{types: c.Certified(), devices: devices, now: now, forms: map[string]string{
		gateway.KindCSEID: valueMark, gateway.KindAEID: c.AEIDForm, gateway.KindNodeID: c.NodeIDForm,
	}}
	for i, t := range s.types {
		if !slices.Contains(registrationTypes, t) {
			return nil, fmt.Errorf("types: %q is none of %s%s", t, strings.Join(registrationTypes, ", "), strictyaml.Suggest(t, registrationTypes))
		}
		if slices.Contains(s.types[:i], t) {
			return nil, fmt.Errorf("types: %q stands twice", t)
		}
	}
	if c.AEIDForm == "" || c.AEIDForm == "absolute" {
		s.forms[gateway.KindAEID] = valueMark
	}
	if c.NodeIDForm == "" {
		s.forms[gateway.KindNodeID] = valueMark
	}
	for kind, sample := range map[string]string{gateway.KindAEID: "//m2m.example.com/S1", gateway.KindNodeID: "1"} {
		form := s.forms[kind]
		if strings.Count(form, valueMark) != 1 {
			return nil, fmt.Errorf("%s-form: %q is not a text with %s in it, once%s", kind, form, valueMark, map[bool]string{true: ", nor absolute"}[kind == gateway.KindAEID])
		}
		if made := strings.Replace(form, valueMark, sample, 1); !pkix.IsURI(made) || strings.Contains(made, "*") {
			return nil, fmt.Errorf("%s-form: %q makes no URI: %s", kind, form, made)
		}
	}
	return s, nil
}

// Certified lists the types of identifiers that may be certified.
func (c RegistrationConfig) Certified() []string {
	if len(c.Types) == 0 {
		return registrationTypes
	}
	return c.Types
}

// Name is "registration".
func (s *Registration) Name() string { return "registration" }

// Identify says which identifier is registered for the one who asks. It proves nothing: who that is, other stages say. What was
// asked for, and the time of the device's entry, do not matter.
func (s *Registration) Identify(ctx context.Context, r *gateway.Request, g *gateway.Grant) (v gateway.Verdict, proves bool) {
	return s.register(ctx, r, g, false), false
}

// Decide finds the registered identifier and holds the names that are asked for against it.
func (s *Registration) Decide(ctx context.Context, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	v := s.register(ctx, r, g, true)
	if v.Decision != gateway.Allow {
		return v
	}
	asked, where, denied, ok := s.asked(r)
	if ok {
		denied, ok = s.judge(asked, where, g.Registration)
	}
	if ok {
		denied, ok = judgePurposes(r, g)
	}
	if !ok {
		denied.Note = v.Note + "; " + denied.Note
		return denied
	}
	san, err := g.Registration.SubjectAltName()
	if err != nil {
		return gateway.Denied(gateway.NotAuthorized, detailUnregistered, fmt.Sprintf("%s: %v", v.Note, err))
	}
	g.SubjectAltName = san
	return v
}

// What clients are told.
const (
	detailUnregistered  = "no identifier that could be certified here is registered for this client"
	detailNotRegistered = "the identifier asked for is not the one registered for this client"
)

// register puts the registered identifier into the grant. whole: the time of an entry that no stage before has judged counts.
func (s *Registration) register(ctx context.Context, r *gateway.Request, g *gateway.Grant, whole bool) gateway.Verdict {
	if err := ctx.Err(); err != nil {
		return gateway.Unanswered(err)
	}
	d, v := s.device(ctx, r, g, whole)
	if v.Decision != gateway.Allow {
		return v
	}
	deny := func(format string, args ...any) gateway.Verdict {
		return gateway.Denied(gateway.NotAuthorized, detailUnregistered, fmt.Sprintf(format, args...))
	}
	var found []gateway.DeviceID
	for _, id := range d.Identifiers {
		if slices.Contains(s.types, id.Kind) {
			found = append(found, id)
		}
	}
	types, name := strings.Join(s.types, ", "), shown(d.Name)
	if len(found) == 0 {
		return deny("the entry of device %s has no identifier of the types %s", name, types)
	}
	if len(found) > 1 {
		return deny("the entry of device %s has %d identifiers of the types %s, where one is certified: %s %s, %s %s, ...; name fewer `types`, or give each an entry of its own",
			name, len(found), types, found[0].Kind, shown(found[0].Value), found[1].Kind, shown(found[1].Value))
	}
	id := found[0]
	// Entries may be older than their check.
	if err := gateway.CheckIdentifier(id.Kind, id.Value); err != nil {
		return deny("the entry of device %s has the %s %s: %v", name, id.Kind, shown(id.Value), err)
	}
	made := strings.Replace(s.forms[id.Kind], valueMark, id.Value, 1)
	if id.Kind != gateway.KindCSEID && (!pkix.IsURI(made) || strings.Contains(made, "*") || !strings.Contains(made, ":") && !strings.HasPrefix(made, "//")) {
		return deny("the entry of device %s has the %s %s, of which %s-form makes %s: that is no URI", name, id.Kind, shown(id.Value), id.Kind, shown(made))
	}
	g.Registration = &gateway.Registration{Type: id.Kind, Value: made, Entered: id.Value}
	return gateway.Allowed(fmt.Sprintf("device %s is registered as %s", name, g.Registration))
}

// device is the entry that a stage before has looked up, or the one of the device that it has named.
func (s *Registration) device(ctx context.Context, r *gateway.Request, g *gateway.Grant, whole bool) (*gateway.Device, gateway.Verdict) {
	if g.Inventory != nil {
		return g.Inventory, gateway.Allowed("")
	}
	if g.Device == "" {
		return nil, gateway.Denied(gateway.NotAuthorized, "the device is not known", "no stage before this one has named a device")
	}
	d, err := find(ctx, s.devices, "", g.Device)
	var ambiguous *gateway.AmbiguousDeviceError
	switch {
	case errors.Is(err, gateway.ErrNotFound):
		return nil, gateway.Denied(gateway.NotAuthorized, detailUnknown, shown(g.Device)+" is no device's")
	case errors.As(err, &ambiguous):
		return nil, gateway.Denied(gateway.NotAuthorized, detailUnknown, fmt.Sprintf("%v; put an `inventory` before this stage that says by `kind` which one is meant", err))
	case err != nil:
		return nil, gateway.Unanswered(fmt.Errorf("%s cannot be looked up: %w", shown(g.Device), err))
	}
	if denied, ok := recognise(g, d); !ok {
		return nil, denied
	}
	fault := ""
	if whole {
		fault = d.Fault(r.Endpoint, s.now())
	} else if d.Disabled {
		fault = "is disabled"
	}
	if fault != "" {
		return nil, gateway.Denied(gateway.NotAuthorized, detailMayNot, "device "+shown(d.Name)+" "+fault)
	}
	return d, gateway.Allowed("")
}

// asked is the subjectAltName that would be certified if it were for the requester: of a renewal that changes its names, the new
// one; of one that gives none (CRMF), that of the certificate.
func (s *Registration) asked(r *gateway.Request) (san []byte, where string, denied gateway.Verdict, ok bool) {
	where = "the request"
	n := 0
	for _, e := range r.Extensions {
		if e.Id.Equal(oidSubjectAltName) {
			san, n = e.Value, n+1
		}
	}
	if n > 1 {
		return nil, "", gateway.Denied(gateway.BadTemplate, "the request has more than one subjectAltName", fmt.Sprintf("the request has %d extensions subjectAltName", n)), false
	}
	switch renewal := r.Operation != gateway.Enroll; {
	case r.NewNames != nil && r.NewNames.Subject != nil && r.OldCert != nil && !bytes.Equal(r.NewNames.Subject, r.OldCert.RawSubject):
		// No profile makes a renewal's subject, so that it could be another entity's.
		return nil, "", gateway.Denied(gateway.NotAuthorized, "the subject cannot be changed here", fmt.Sprintf("ChangeSubjectName asks for the subject %s, the certificate has %s",
			formatSubject(r.NewNames.Subject), formatSubject(r.OldCert.RawSubject))), false
	case r.NewNames != nil:
		return r.NewNames.SubjectAltName, "ChangeSubjectName", denied, true
	case renewal && n == 0 && r.Subject == nil && r.OldCert != nil:
		return sanOf(r.OldCert), "the certificate that is renewed", denied, true
	}
	return san, where, denied, true
}

// judge holds a subjectAltName against the registered identifier: that one name, and no other.
func (s *Registration) judge(asked []byte, where string, reg *gateway.Registration) (gateway.Verdict, bool) {
	wanted := "one URI, the " + titleOf(reg.Type)
	if reg.Tag() == 2 {
		wanted = "one dNSName, the " + titleOf(reg.Type)
	}
	bad := func(what, format string, args ...any) (gateway.Verdict, bool) {
		return gateway.Denied(gateway.BadTemplate, what+": the subjectAltName has to hold "+wanted+" (EST: see /csrattrs)", fmt.Sprintf(format, args...)), false
	}
	if asked == nil {
		return bad("no identifier is asked for", "%s has no subjectAltName, registered is %s", where, reg)
	}
	names, err := parseNames(asked)
	if err != nil {
		return bad("the subjectAltName is malformed", "the subjectAltName of %s: %v", where, err)
	}
	if len(names) != 1 {
		return bad("more than one name is asked for", "%s asks for %s, registered is %s", where, shown(formatSAN(asked)), reg)
	}
	name := names[0]
	kind := map[uint8]string{2: sanDNS, 6: sanURI}[reg.Tag()]
	if name.kind != kind {
		return bad("a name of another kind is asked for", "%s asks for %s, registered is %s, which is a name of kind %s", where, shown(name.String()), reg, kind)
	}
	same := name.text == reg.Value
	if kind == sanDNS { // RFC 4343
		same = strings.EqualFold(name.text, reg.Value)
	}
	if !same {
		return gateway.Denied(gateway.NotAuthorized, detailNotRegistered, fmt.Sprintf("%s asks for %s, registered is %s", where, shown(name.String()), reg)), false
	}
	return gateway.Verdict{}, true
}

// titleOf is what people call a type of identifier.
func titleOf(kind string) string {
	return map[string]string{gateway.KindCSEID: "CSE-ID", gateway.KindAEID: "AE-ID", gateway.KindNodeID: "Node-ID"}[kind]
}

// judgePurposes refuses a request for other extended key usages than those that the client was told of (oneM2M TS-0003 clause
// 8.3.6.2.3). None is none in particular.
func judgePurposes(r *gateway.Request, g *gateway.Grant) (gateway.Verdict, bool) {
	value, ok := r.Extension(oidExtKeyUsage)
	if !ok {
		return gateway.Verdict{}, true
	}
	var asked []asn1.ObjectIdentifier
	if rest, err := asn1.Unmarshal(value, &asked); err != nil || len(rest) > 0 || len(asked) == 0 {
		return gateway.Denied(gateway.BadTemplate, "the extended key usage is malformed", "the extKeyUsage of the request is no SEQUENCE of OBJECT IDENTIFIER"), false
	}
	listed := func(list, in []asn1.ObjectIdentifier) bool {
		return !slices.ContainsFunc(list, func(oid asn1.ObjectIdentifier) bool { return !slices.ContainsFunc(in, oid.Equal) })
	}
	if !listed(asked, g.ExtKeyUsage) || !listed(g.ExtKeyUsage, asked) {
		return gateway.Denied(gateway.BadTemplate, "the extended key usage is not the one certified here (EST: see /csrattrs)",
			fmt.Sprintf("the request asks for the extended key usage %s, the profile gives %s", shown(oids(asked)), oids(g.ExtKeyUsage))), false
	}
	return gateway.Verdict{}, true
}
