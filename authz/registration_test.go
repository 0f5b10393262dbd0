package authz

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// newRegistered has entities with one identifier each, and entries that each have something against them.
func newRegistered() *fleet {
	id := func(kind, value string) gateway.DeviceID { return gateway.DeviceID{Kind: kind, Value: value} }
	return &fleet{devices: []*gateway.Device{
		{Name: "cse", Identifiers: []gateway.DeviceID{id("serial", "SN1"), id("cse-id", "cse1.in-cse.m2m.example.com")}},
		{Name: "ae", Identifiers: []gateway.DeviceID{id("serial", "SN2"), id("ae-id", "//m2m.example.com/S98821")}},
		{Name: "node", Identifiers: []gateway.DeviceID{id("node-id", "urn:gsma:imei:49015420-323751-8")}},
		{Name: "digits", Identifiers: []gateway.DeviceID{id("node-id", "490154203237518")}},
		{Name: "none", Identifiers: []gateway.DeviceID{id("serial", "SN3")}},
		{Name: "both", Identifiers: []gateway.DeviceID{id("cse-id", "cse2.in-cse.m2m.example.com"), id("ae-id", "//m2m.example.com/S2")}},
		{Name: "two", Identifiers: []gateway.DeviceID{id("ae-id", "//m2m.example.com/S3"), id("ae-id", "//m2m.example.com/S4")}},
		{Name: "relative", Identifiers: []gateway.DeviceID{id("ae-id", "S98821")}},
		{Name: "disabled", Identifiers: []gateway.DeviceID{id("ae-id", "//m2m.example.com/S5")}, Disabled: true},
		{Name: "over", Identifiers: []gateway.DeviceID{id("ae-id", "//m2m.example.com/S6")}, NotAfter: noon.Add(-time.Second)},
		{Name: "twin-1", Identifiers: []gateway.DeviceID{id("serial", "twin")}},
		{Name: "twin-2", Identifiers: []gateway.DeviceID{id("imei", "twin")}},
	}}
}

// oneM2M TS-0003 clauses 8.3.6.2 and 10.1.1: the subjectAltName holds the identifier that is registered for the client that
// authenticated, as the name that its type has, and nothing else.
func TestRegistration(t *testing.T) {
	const (
		cse, other = "cse1.in-cse.m2m.example.com", "cse2.in-cse.m2m.example.com"
		ae         = "//m2m.example.com/S98821"
		template   = "the subjectAltName has to hold "
	)
	clientAuth := asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 2}
	serverAuth := asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 1}
	purposes := func(list ...asn1.ObjectIdentifier) func(*gateway.Request) {
		return func(r *gateway.Request) {
			r.Extensions = append(r.Extensions, pkix.Extension{Id: oidExtKeyUsage, Value: marshal(t, list)})
		}
	}
	ca := newCA(t, "Operator", nil)
	old := ca.issue(2, "ae", func(c *x509.Certificate) { c.URIs = []*url.URL{{Host: "m2m.example.com", Path: "/S98821"}} })
	older := ca.issue(3, "ae", func(c *x509.Certificate) { c.URIs = []*url.URL{{Host: "m2m.example.com", Path: "/S1"}} })
	renew := func(cert *x509.Certificate, more ...func(*gateway.Request)) func(*gateway.Request) {
		return func(r *gateway.Request) {
			r.Operation, r.OldCert, r.Subject = gateway.Renew, cert, cert.RawSubject
			if r.Extensions == nil {
				r.Extensions = sanExtension(sanOf(cert))
			}
			for _, m := range more {
				m(r)
			}
		}
	}
	changes := func(san []byte) func(*gateway.Request) {
		return func(r *gateway.Request) {
			r.NewNames = &gateway.Names{Subject: r.Subject, SubjectAltName: san}
		}
	}
	nameless := func(r *gateway.Request) { r.Subject, r.Extensions = nil, nil }
	for name, c := range map[string]struct {
		config RegistrationConfig
		device string
		san    []byte
		change func(*gateway.Request)
		grant  func(*gateway.Grant)
		reg    string // what is registered; "" when denied before that is known
		reason gateway.Reason
		detail string
		note   string
	}{
		"a CSE":                                {device: "cse", san: sans(t, 2, cse), reg: "cse-id " + cse, note: `device "cse" is registered as cse-id ` + cse},
		"by another of its names":              {device: "SN1", san: sans(t, 2, cse), reg: "cse-id " + cse},
		"an inventory has found it":            {san: sans(t, 2, cse), grant: func(g *gateway.Grant) { g.Recognise(newRegistered().devices[0]) }, reg: "cse-id " + cse},
		"domain names have no case (RFC 4343)": {device: "cse", san: sans(t, 2, "CSE1.in-cse.M2M.example.com"), reg: "cse-id " + cse},
		"an AE":                                {device: "ae", san: sans(t, 6, ae), reg: "ae-id " + ae},
		"an AE, with a scheme":                 {config: RegistrationConfig{AEIDForm: "m2m:{{value}}"}, device: "ae", san: sans(t, 6, "m2m:"+ae), reg: "ae-id m2m:" + ae},
		"the absolute form, said so":           {config: RegistrationConfig{AEIDForm: "absolute"}, device: "ae", san: sans(t, 6, ae), reg: "ae-id " + ae},
		"a node":                               {device: "node", san: sans(t, 6, "urn:gsma:imei:49015420-323751-8"), reg: "node-id urn:gsma:imei:49015420-323751-8"},
		"a node, by a form":                    {config: RegistrationConfig{NodeIDForm: "urn:gsma:imei:{{value}}"}, device: "digits", san: sans(t, 6, "urn:gsma:imei:490154203237518"), reg: "node-id urn:gsma:imei:490154203237518"},
		"the purposes that are certified":      {device: "cse", san: sans(t, 2, cse), change: purposes(clientAuth), reg: "cse-id " + cse},
		"one type of two":                      {config: RegistrationConfig{Types: []string{"cse-id", "node-id"}}, device: "both", san: sans(t, 2, other), reg: "cse-id " + other},

		"another AE's":                   {device: "ae", san: sans(t, 6, "//m2m.example.com/S98822"), reason: gateway.NotAuthorized, detail: detailNotRegistered, note: `asks for "uri://m2m.example.com/S98822", registered is ae-id ` + ae},
		"another AE's, by case":          {device: "ae", san: sans(t, 6, "//m2m.example.com/s98821"), reason: gateway.NotAuthorized, detail: detailNotRegistered},
		"another host, by case":          {device: "ae", san: sans(t, 6, "//M2M.example.com/S98821"), reason: gateway.NotAuthorized, detail: detailNotRegistered},
		"with a scheme":                  {device: "ae", san: sans(t, 6, "m2m:"+ae), reason: gateway.NotAuthorized, detail: detailNotRegistered},
		"another CSE's":                  {device: "cse", san: sans(t, 2, other), reason: gateway.NotAuthorized, detail: detailNotRegistered, note: `asks for "dns:` + other + `", registered is cse-id ` + cse},
		"a wildcard":                     {device: "cse", san: sans(t, 2, "*.in-cse.m2m.example.com"), reason: gateway.NotAuthorized, detail: detailNotRegistered},
		"no name":                        {device: "cse", reason: gateway.BadTemplate, detail: "no identifier is asked for: " + template + "one dNSName, the CSE-ID"},
		"no name, of an AE":              {device: "ae", reason: gateway.BadTemplate, detail: "no identifier is asked for: " + template + "one URI, the AE-ID"},
		"a name of another kind":         {device: "cse", san: sans(t, 6, cse), reason: gateway.BadTemplate, detail: "a name of another kind is asked for", note: "which is a name of kind dns"},
		"an AE as DNS name":              {device: "ae", san: sans(t, 2, "m2m.example.com"), reason: gateway.BadTemplate, detail: "a name of another kind"},
		"a name more":                    {device: "cse", san: sans(t, 2, cse, 2, other), reason: gateway.BadTemplate, detail: "more than one name is asked for"},
		"twice the same":                 {device: "cse", san: sans(t, 2, cse, 2, cse), reason: gateway.BadTemplate, detail: "more than one name is asked for"},
		"an unread name more":            {device: "cse", san: sans(t, 2, cse, 8, "\x2a\x03"), reason: gateway.BadTemplate, detail: "more than one name is asked for"},
		"malformed":                      {device: "cse", san: []byte{0x30, 1}, reason: gateway.BadTemplate, detail: "the subjectAltName is malformed"},
		"two subjectAltNames":            {device: "cse", san: sans(t, 2, cse), change: func(r *gateway.Request) { r.Extensions = append(r.Extensions, sanExtension(sans(t, 2, other))...) }, reason: gateway.BadTemplate, detail: "more than one subjectAltName"},
		"other purposes":                 {device: "cse", san: sans(t, 2, cse), change: purposes(clientAuth, serverAuth), reason: gateway.BadTemplate, detail: "the extended key usage is not the one certified here", note: "clientAuth, serverAuth"},
		"too few purposes":               {device: "cse", san: sans(t, 2, cse), change: purposes(serverAuth), reason: gateway.BadTemplate, detail: "the extended key usage is not"},
		"fewer than are certified":       {device: "cse", san: sans(t, 2, cse), change: purposes(clientAuth), grant: func(g *gateway.Grant) { g.ExtKeyUsage = append(g.ExtKeyUsage, serverAuth) }, reason: gateway.BadTemplate, detail: "the extended key usage is not"},
		"malformed purposes":             {device: "cse", san: sans(t, 2, cse), change: purposes(), reason: gateway.BadTemplate, detail: "the extended key usage is malformed"},
		"nobody named a device":          {san: sans(t, 2, cse), reason: gateway.NotAuthorized, detail: "the device is not known", note: "no stage before"},
		"unknown":                        {device: "SN9", san: sans(t, 2, cse), reason: gateway.NotAuthorized, detail: detailUnknown},
		"two devices'":                   {device: "twin", san: sans(t, 2, cse), reason: gateway.NotAuthorized, detail: detailUnknown, note: "put an `inventory`"},
		"disabled":                       {device: "disabled", san: sans(t, 6, "//m2m.example.com/S5"), reason: gateway.NotAuthorized, detail: detailMayNot},
		"not any more":                   {device: "over", san: sans(t, 6, "//m2m.example.com/S6"), reason: gateway.NotAuthorized, detail: detailMayNot, note: "its entry ended"},
		"nothing registered":             {device: "none", san: sans(t, 2, cse), reason: gateway.NotAuthorized, detail: detailUnregistered, note: "no identifier of the types cse-id, ae-id, node-id"},
		"nothing of the type":            {config: RegistrationConfig{Types: []string{"ae-id"}}, device: "cse", san: sans(t, 2, cse), reason: gateway.NotAuthorized, detail: detailUnregistered, note: "types ae-id"},
		"two types":                      {device: "both", san: sans(t, 2, other), reason: gateway.NotAuthorized, detail: detailUnregistered, note: "2 identifiers"},
		"two of a type":                  {device: "two", san: sans(t, 6, "//m2m.example.com/S3"), reason: gateway.NotAuthorized, detail: detailUnregistered, note: "//m2m.example.com/S4"},
		"an entry older than its check":  {device: "relative", san: sans(t, 6, "S98821"), reason: gateway.NotAuthorized, detail: detailUnregistered, note: "absolute form"},
		"a Node-ID that makes no URI":    {device: "digits", san: sans(t, 6, "490154203237518"), reason: gateway.NotAuthorized, detail: detailUnregistered, note: "that is no URI"},
		"a renewal":                      {device: "ae", change: renew(old), reg: "ae-id " + ae},
		"a renewal without names (CRMF)": {device: "ae", change: renew(old, nameless), reg: "ae-id " + ae},
		// A changed registration ends what the old certificate renews: anew, or by asking for the change.
		"a renewal under the former name":    {device: "ae", change: renew(older), reason: gateway.NotAuthorized, detail: detailNotRegistered, note: "registered is ae-id " + ae},
		"the same, without names":            {device: "ae", change: renew(older, nameless), reason: gateway.NotAuthorized, detail: detailNotRegistered, note: "the certificate that is renewed asks for"},
		"a renewal that changes the name":    {device: "ae", change: renew(older, changes(sans(t, 6, ae))), reg: "ae-id " + ae},
		"a renewal that changes to another":  {device: "ae", change: renew(old, changes(sans(t, 6, "//m2m.example.com/S1"))), reason: gateway.NotAuthorized, detail: detailNotRegistered, note: "ChangeSubjectName asks for"},
		"a renewal that changes the subject": {device: "ae", change: renew(older, changes(sans(t, 6, ae)), func(r *gateway.Request) { r.NewNames.Subject = subject(t, "CN=cse1") }), reason: gateway.NotAuthorized, detail: "the subject cannot be changed here", note: "CN=cse1"},
		"a renewal without subject":          {device: "ae", change: renew(older, changes(sans(t, 6, ae)), func(r *gateway.Request) { r.NewNames.Subject = nil }), reg: "ae-id " + ae},
		"a renewal that takes the name away": {device: "ae", change: renew(old, changes(nil)), reason: gateway.BadTemplate, detail: "no identifier is asked for"},
	} {
		s, err := NewRegistration(c.config, newRegistered(), atNoon)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		r := &gateway.Request{Operation: gateway.Enroll, Endpoint: "ran", Subject: subject(t, "CN=x")}
		if c.san != nil {
			r.Extensions = sanExtension(c.san)
		}
		if c.change != nil {
			c.change(r)
		}
		g := &gateway.Grant{Device: c.device, ExtKeyUsage: []asn1.ObjectIdentifier{clientAuth}}
		if c.grant != nil {
			c.grant(g)
		}
		v := s.Decide(context.Background(), r, g)
		if c.reason == "" && (v.Decision != gateway.Allow || g.Registration == nil || g.Registration.String() != c.reg) ||
			c.reason != "" && (v.Decision != gateway.Deny || v.Reason != c.reason || !strings.HasPrefix(v.Detail, c.detail) && !strings.Contains(v.Detail, c.detail)) || !strings.Contains(v.Note, c.note) {
			t.Errorf("%s: %+v, registered %v", name, v, g.Registration)
			continue
		}
		if c.reason != "" {
			continue
		}
		want, err := g.Registration.SubjectAltName()
		if err != nil || string(g.SubjectAltName) != string(want) {
			t.Errorf("%s: granted %x, %v", name, g.SubjectAltName, err)
		}
	}
}

// Who asks is known before anything is asked for, and by others' word alone; a device that is disabled is nobody. The time of the
// entry does not matter to a request that is repeated.
func TestRegistrationIdentifies(t *testing.T) {
	s, err := NewRegistration(RegistrationConfig{}, newRegistered(), atNoon)
	if err != nil {
		t.Fatal(err)
	}
	var _ gateway.Recogniser = s
	for device, want := range map[string]gateway.Decision{"cse": gateway.Allow, "over": gateway.Allow, "disabled": gateway.Deny, "none": gateway.Deny, "": gateway.Deny} {
		g := &gateway.Grant{Device: device}
		v, proves := s.Identify(t.Context(), &gateway.Request{Operation: gateway.Enroll, Endpoint: "ran"}, g)
		if v.Decision != want || proves || (g.Registration != nil) != (want == gateway.Allow) {
			t.Errorf("%q: %+v, %t, %v", device, v, proves, g.Registration)
		}
	}
	down := newRegistered()
	down.err = errors.New("down")
	if s, err = NewRegistration(RegistrationConfig{}, down, atNoon); err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, ctx := range []context.Context{t.Context(), cancelled} {
		if v := s.Decide(ctx, &gateway.Request{}, &gateway.Grant{Device: "cse"}); v.Decision != gateway.CannotAnswer {
			t.Errorf("%+v", v)
		}
	}
}

func TestRegistrationConfig(t *testing.T) {
	for want, c := range map[string]RegistrationConfig{
		`types: "cse" is none of cse-id, ae-id, node-id`:                   {Types: []string{"cse"}},
		`types: "ae-id" stands twice`:                                      {Types: []string{"ae-id", "ae-id"}},
		`ae-id-form: "relative" is not a text with {{value}} in it, once`:  {AEIDForm: "relative"},
		`ae-id-form: "{{value}}{{value}}" is not`:                          {AEIDForm: "{{value}}{{value}}"},
		`node-id-form: "absolute" is not a text with {{value}} in it`:      {NodeIDForm: "absolute"},
		`node-id-form: "urn:{{value}} x" makes no URI`:                     {NodeIDForm: "urn:{{value}} x"},
		`node-id-form: "urn:{{value}}*" makes no URI`:                      {NodeIDForm: "urn:{{value}}*"},
		`ae-id-form: "m2m:{{value}}%zz" makes no URI: m2m://m2m.example.c`: {AEIDForm: "m2m:{{value}}%zz"},
	} {
		if _, err := NewRegistration(c, newRegistered(), atNoon); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if _, err := NewRegistration(RegistrationConfig{}, nil, atNoon); err == nil {
		t.Error("no devices")
	}
	if _, err := NewRegistration(RegistrationConfig{}, newRegistered(), nil); err == nil {
		t.Error("no clock")
	}
}

// A certificate that renews is for the purposes that count (oneM2M TS-0003 clause 8.3.6.2.3); one without the extension is for any.
func TestOwnCertificatePurposes(t *testing.T) {
	ca := newCA(t, "Operator", nil)
	server := ca.issue(2, "device-0002", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	both := ca.issue(3, "device-0003", func(c *x509.Certificate) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	})
	bare := ca.issue(4, "device-0004", func(c *x509.Certificate) { c.ExtKeyUsage = nil })
	store := &issued{certs: []*gateway.Certificate{record(server, ""), record(both, ""), record(bare, "")}}
	for _, c := range []struct {
		cert     *x509.Certificate
		purposes []string
		want     gateway.Decision
	}{
		{server, nil, gateway.Allow}, {server, []string{"clientAuth"}, gateway.Deny}, {server, []string{"clientAuth", "serverAuth"}, gateway.Allow},
		{both, []string{"clientAuth"}, gateway.Allow}, {bare, []string{"clientAuth"}, gateway.Allow},
	} {
		s, err := NewOwnCertificate(OwnCertificateConfig{Purposes: c.purposes}, store, atNoon)
		if err != nil {
			t.Fatal(err)
		}
		g := &gateway.Grant{}
		v := s.Decide(t.Context(), renewal(c.cert), g)
		if v.Decision != c.want || v.Decision == gateway.Deny && (v.Reason != gateway.Untrusted || !strings.Contains(v.Note, "serverAuth") || g.Requester != "") {
			t.Errorf("%s %v: %+v", c.cert.Subject, c.purposes, v)
		}
	}
	if _, err := NewOwnCertificate(OwnCertificateConfig{Purposes: []string{"clientauht"}}, store, atNoon); err == nil || !strings.Contains(err.Error(), "clientAuth") {
		t.Error(err)
	}
}
