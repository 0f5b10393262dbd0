package authz

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// issued is a look-up that holds what was put in, or fails.
type issued struct {
	certs []*gateway.Certificate
	err   error
}

func (f *issued) Certificate(_ context.Context, issuer, serial []byte) (*gateway.Certificate, error) {
	if f.err != nil {
		return nil, f.err
	}
	for _, c := range f.certs {
		if bytes.Equal(c.Issuer, issuer) && bytes.Equal(c.Serial, serial) {
			return c, nil
		}
	}
	return nil, gateway.ErrNotFound
}

// Certificates lists successors: those of the fake are confirmed while they are issued.
func (f *issued) Certificates(_ context.Context, filter gateway.CertificateFilter) (list []*gateway.Certificate, err error) {
	for _, c := range f.certs {
		if filter.Renewed != nil && filter.Confirmed && bytes.Equal(c.Replaces, filter.Renewed) && c.State == gateway.StateIssued {
			list = append(list, c)
		}
	}
	return list, f.err
}

func record(cert *x509.Certificate, device string) *gateway.Certificate {
	return &gateway.Certificate{Issuer: cert.RawIssuer, Serial: cert.SerialNumber.Bytes(), Endpoint: "ran", Device: device, DER: cert.Raw, State: gateway.StateIssued}
}

// renewal is a request over TLS that renews the certificate under its own names.
func renewal(cert *x509.Certificate) *gateway.Request {
	return &gateway.Request{
		Operation: gateway.Renew, Endpoint: "ran", OldCert: cert, Subject: cert.RawSubject, Extensions: sanExtension(sanOf(cert)),
		Credentials: []gateway.Credential{credential(gateway.CredentialTLS, cert)},
	}
}

func TestOwnCertificate(t *testing.T) {
	ca := newCA(t, "Operator", nil)
	withSAN := func(c *x509.Certificate) { c.DNSNames = []string{"device-0002.example"} }
	mine := ca.issue(2, "device-0002", withSAN)
	bare := ca.issue(3, "device-0003", nil)
	other := ca.issue(4, "victim", nil)
	revoked := ca.issue(5, "device-0005", nil)
	forged := newCA(t, "Operator", nil).issue(2, "device-0002", withSAN) // the same issuer and serial, another CA's key
	unknown := ca.issue(6, "device-0006", nil)
	revokedRecord := record(revoked, "")
	revokedRecord.RevokedAt, revokedRecord.Revocation = noon, 1
	store := &issued{certs: []*gateway.Certificate{record(mine, "device-0002"), record(bare, ""), record(other, "victim"), revokedRecord}}
	next := ca.issue(7, "device-0002", withSAN)
	renewed := func(change func(*gateway.Certificate)) *issued {
		successor := record(next, "device-0002")
		successor.Replaces = mine.SerialNumber.Bytes()
		change(successor)
		return &issued{certs: []*gateway.Certificate{record(mine, "device-0002"), successor}}
	}
	victim := subject(t, "CN=victim")
	newNames := &gateway.Names{Subject: subject(t, "CN=device-new"), SubjectAltName: sans(t, 2, "new.example")}

	in := func(state gateway.State) *issued {
		r := record(mine, "device-0002")
		r.State = state
		return &issued{certs: []*gateway.Certificate{r}}
	}

	type change func(*gateway.Request)
	for name, c := range map[string]struct {
		config OwnCertificateConfig
		cert   *x509.Certificate
		change change
		device string // named by an earlier stage
		store  *issued
		now    time.Time
		claims int
		reason gateway.Reason // "" when allowed
		notes  []string
	}{
		"the same names":                {cert: mine, notes: []string{"CN=device-0002", "endpoint ran"}},
		"rekey":                         {cert: mine, change: func(r *gateway.Request) { r.Operation = gateway.Rekey }},
		"signer of the message":         {cert: mine, change: func(r *gateway.Request) { r.Credentials[0].Kind = gateway.CredentialSigner }},
		"no subjectAltName":             {cert: bare},
		"a template without names":      {cert: mine, change: func(r *gateway.Request) { r.Subject, r.Extensions = nil, nil }},
		"another endpoint, allowed":     {config: OwnCertificateConfig{Endpoints: []string{"ran", "core"}}, cert: mine, change: func(r *gateway.Request) { r.Endpoint = "core" }},
		"within grace":                  {config: OwnCertificateConfig{Grace: strictyaml.Duration(48 * time.Hour)}, cert: mine, now: noon.AddDate(1, 0, 1)},
		"the device known before":       {cert: mine, device: "device-0002"},
		"revocation of itself":          {cert: mine, change: func(r *gateway.Request) { revokes(r, mine) }},
		"new names, allowed":            {config: OwnCertificateConfig{ChangeNames: true}, cert: mine, change: func(r *gateway.Request) { r.NewNames = newNames }, notes: []string{"from subject", "device-new"}},
		"no certificate":                {cert: mine, change: func(r *gateway.Request) { r.Credentials = nil }, reason: gateway.Unauthenticated, notes: []string{"carries no"}},
		"a password only":               {cert: mine, change: func(r *gateway.Request) { r.Credentials = basic("x", "y").Credentials }, reason: gateway.Unauthenticated},
		"a kind that is not looked at":  {config: OwnCertificateConfig{Kinds: []string{"message-signer"}}, cert: mine, reason: gateway.Unauthenticated, notes: []string{"message-signer"}},
		"issued elsewhere":              {cert: unknown, reason: gateway.Untrusted, notes: []string{"not among those issued here"}},
		"same serial, other content":    {cert: forged, reason: gateway.Untrusted, notes: []string{"other content"}},
		"revoked":                       {cert: revoked, reason: gateway.Revoked, notes: []string{"reason 1"}},
		"not confirmed":                 {cert: mine, store: in(gateway.StateUnconfirmed), reason: gateway.NotAuthorized, notes: []string{"waits to be confirmed"}},
		"not confirmed, its revocation": {cert: mine, store: in(gateway.StateUnconfirmed), change: func(r *gateway.Request) { revokes(r, mine) }},
		"rejected, not revoked yet":     {cert: mine, store: in(gateway.StateRejected), reason: gateway.Revoked, notes: []string{"is to be revoked"}},
		"not what was granted":          {cert: mine, store: in(gateway.StateFailed), reason: gateway.Revoked, notes: []string{"is to be revoked"}},
		"in a state of its own":         {cert: mine, store: in(""), reason: gateway.Unavailable},
		"once asked":                    {config: OwnCertificateConfig{Once: "asked"}, cert: mine, claims: 1},
		"once asked, its revocation":    {config: OwnCertificateConfig{Once: "asked"}, cert: mine, change: func(r *gateway.Request) { revokes(r, mine) }},
		// RFC 9810 section 5.3.5, and CONFORMANCE's certRevoked for what is updated already.
		"renewed, and confirmed":        {cert: mine, store: renewed(func(*gateway.Certificate) {}), reason: gateway.Revoked, notes: []string{"was renewed by certificate 07", "confirmed"}},
		"the same, said so":             {config: OwnCertificateConfig{Once: "confirmed"}, cert: mine, store: renewed(func(*gateway.Certificate) {}), reason: gateway.Revoked},
		"the same, its revocation":      {cert: mine, store: renewed(func(*gateway.Certificate) {}), change: func(r *gateway.Request) { revokes(r, mine) }},
		"the same, never once":          {config: OwnCertificateConfig{Once: "never"}, cert: mine, store: renewed(func(*gateway.Certificate) {})},
		"the same, asked":               {config: OwnCertificateConfig{Once: "asked"}, cert: mine, store: renewed(func(*gateway.Certificate) {}), claims: 1},
		"renewed, the new one revoked":  {cert: mine, store: renewed(func(c *gateway.Certificate) { c.RevokedAt = noon }), reason: gateway.Revoked, notes: []string{"was renewed by certificate 07", "which was revoked at"}},
		"renewed, not confirmed yet":    {cert: mine, store: renewed(func(c *gateway.Certificate) { c.State = gateway.StateUnconfirmed })},
		"another device's was renewed":  {cert: mine, store: renewed(func(c *gateway.Certificate) { c.Device = "victim" })},
		"another CA's was renewed":      {cert: mine, store: renewed(func(c *gateway.Certificate) { c.Backend = "other" })},
		"expired":                       {cert: mine, now: noon.AddDate(1, 0, 1), reason: gateway.Untrusted, notes: []string{"expired"}},
		"past its grace":                {config: OwnCertificateConfig{Grace: strictyaml.Duration(time.Hour)}, cert: mine, now: noon.AddDate(1, 0, 1), reason: gateway.Untrusted, notes: []string{"grace: 1h"}},
		"not valid yet":                 {cert: mine, now: noon.AddDate(0, 0, -1), reason: gateway.Untrusted, notes: []string{"not valid before"}},
		"another endpoint":              {cert: mine, change: func(r *gateway.Request) { r.Endpoint = "core" }, reason: gateway.NotAuthorized, notes: []string{`"ran"`, `"core"`}},
		"endpoints without its own":     {config: OwnCertificateConfig{Endpoints: []string{"core"}}, cert: mine, reason: gateway.NotAuthorized, notes: []string{"core"}},
		"no certificate to renew":       {cert: mine, change: func(r *gateway.Request) { r.OldCert = nil }, reason: gateway.UnknownCert},
		"another's certificate":         {cert: mine, change: func(r *gateway.Request) { r.OldCert = other }, reason: gateway.NotAuthorized, notes: []string{"CN=victim", "CN=device-0002"}},
		"an enrollment":                 {cert: mine, change: func(r *gateway.Request) { r.Operation = gateway.Enroll }, reason: gateway.NotAuthorized, notes: []string{"not enroll"}},
		"revocation without target":     {cert: mine, change: func(r *gateway.Request) { r.Operation = gateway.Revoke }, reason: gateway.UnknownCert},
		"revocation of another":         {cert: mine, change: func(r *gateway.Request) { revokes(r, other) }, reason: gateway.NotAuthorized, notes: []string{"to revoke certificate 04 of"}},
		"CN=victim for device-0002":     {cert: mine, change: func(r *gateway.Request) { r.Subject = victim }, reason: gateway.NotAuthorized, notes: []string{"CN=victim", "CN=device-0002"}},
		"an empty subject":              {cert: mine, change: func(r *gateway.Request) { r.Subject = []byte{0x30, 0} }, reason: gateway.NotAuthorized, notes: []string{"subject (none)"}},
		"no subject, its own SAN":       {cert: mine, change: func(r *gateway.Request) { r.Subject = nil }, reason: gateway.NotAuthorized},
		"the subject in another string": {cert: bare, change: func(r *gateway.Request) { r.Subject = utf8Subject(t, bare) }},
		"another subjectAltName":        {cert: mine, change: func(r *gateway.Request) { r.Extensions = sanExtension(sans(t, 2, "victim.example")) }, reason: gateway.NotAuthorized, notes: []string{"dns:victim.example", "dns:device-0002.example"}},
		"one subjectAltName more": {cert: mine, change: func(r *gateway.Request) {
			r.Extensions = sanExtension(sans(t, 2, "device-0002.example", 2, "victim.example"))
		}, reason: gateway.NotAuthorized, notes: []string{"dns:victim.example"}},
		"subjectAltName left out":      {cert: mine, change: func(r *gateway.Request) { r.Extensions = nil }, reason: gateway.NotAuthorized, notes: []string{"asks for subjectAltName (none)"}},
		"subjectAltName put in":        {cert: bare, change: func(r *gateway.Request) { r.Extensions = sanExtension(sans(t, 2, "victim.example")) }, reason: gateway.NotAuthorized, notes: []string{"the certificate has (none)"}},
		"an empty subjectAltName":      {cert: bare, change: func(r *gateway.Request) { r.Extensions = sanExtension([]byte{}) }, reason: gateway.NotAuthorized},
		"new names":                    {cert: mine, change: func(r *gateway.Request) { r.NewNames = newNames }, reason: gateway.NotAuthorized, notes: []string{"device-0002", "device-new", "change-names is off"}},
		"new names, wrong old ones":    {config: OwnCertificateConfig{ChangeNames: true}, cert: mine, change: func(r *gateway.Request) { r.NewNames, r.Subject = newNames, victim }, reason: gateway.NotAuthorized},
		"no name would remain":         {config: OwnCertificateConfig{ChangeNames: true}, cert: mine, change: func(r *gateway.Request) { r.NewNames = &gateway.Names{} }, reason: gateway.BadTemplate},
		"another device known before":  {cert: mine, device: "victim", reason: gateway.NotAuthorized, notes: []string{`"victim"`, `"device-0002"`}},
		"the store fails":              {cert: mine, store: &issued{err: errors.New("disk on fire")}, reason: gateway.Unavailable, notes: []string{"disk on fire"}},
		"the store's time is up":       {cert: mine, store: &issued{err: context.DeadlineExceeded}, reason: gateway.Unavailable, notes: []string{"deadline"}},
		"the store gives nothing":      {cert: mine, store: &issued{certs: nil, err: nil}, reason: gateway.Untrusted},
		"a serial number that is none": {cert: &x509.Certificate{Raw: []byte{1}, SerialNumber: big.NewInt(-2)}, reason: gateway.Untrusted, notes: []string{"not positive"}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.store == nil {
				c.store = store
			}
			if c.now.IsZero() {
				c.now = noon
			}
			s, err := NewOwnCertificate(c.config, c.store, func() time.Time { return c.now })
			if err != nil {
				t.Fatal(err)
			}
			r := renewal(c.cert)
			if c.change != nil {
				c.change(r)
			}
			g := &gateway.Grant{Device: c.device, Subject: r.Subject}
			v := s.Decide(context.Background(), r, g)
			switch c.reason {
			case "":
				expect(t, v, gateway.Allow, "", c.notes...)
				wantGrant(t, r, g, c.cert)
			case gateway.Unavailable:
				expect(t, v, gateway.CannotAnswer, c.reason, c.notes...)
			default:
				expect(t, v, gateway.Deny, c.reason, c.notes...)
			}
			if len(v.Claims) != c.claims || c.claims == 1 && (v.Claims[0].Limit != 1 || v.Claims[0].Reason != gateway.Revoked || !strings.Contains(v.Claims[0].Key, gateway.Fingerprint(c.cert))) {
				t.Errorf("claims %+v", v.Claims)
			}
			if v.Decision != gateway.Allow && g.Replaces != nil && c.device == "" {
				t.Errorf("a refusal left %+v", g)
			}
			known := c.reason == "" || c.reason == gateway.NotAuthorized || c.reason == gateway.UnknownCert || c.reason == gateway.BadTemplate || strings.Contains(v.Note, "was renewed by")
			if known != (g.Requester != "") {
				t.Errorf("requester %q after %s", g.Requester, v.Note)
			}
			endedDenies(t, s, r)
		})
	}
}

func revokes(r *gateway.Request, cert *x509.Certificate) {
	r.Operation, r.OldCert = gateway.Revoke, nil
	r.Target = &gateway.CertID{Issuer: cert.RawIssuer, Serial: cert.SerialNumber}
}

// utf8Subject is the certificate's subject with its strings in UTF8String.
func utf8Subject(t *testing.T, cert *x509.Certificate) []byte {
	t.Helper()
	der := bytes.ReplaceAll(bytes.Clone(cert.RawSubject), []byte{0x13}, []byte{0x0c})
	if bytes.Equal(der, cert.RawSubject) {
		t.Fatal("no PrintableString in the subject")
	}
	return der
}

func wantGrant(t *testing.T, r *gateway.Request, g *gateway.Grant, cert *x509.Certificate) {
	t.Helper()
	if r.Operation == gateway.Revoke {
		if g.Replaces != nil {
			t.Errorf("a revocation replaces %+v", g.Replaces)
		}
		return
	}
	if g.Replaces == nil || !bytes.Equal(g.Replaces.Issuer, cert.RawIssuer) || !bytes.Equal(g.Replaces.Serial, cert.SerialNumber.Bytes()) {
		t.Errorf("replaces %+v", g.Replaces)
	}
	names := gateway.Names{Subject: cert.RawSubject, SubjectAltName: sanOf(cert)}
	if r.NewNames != nil {
		names = *r.NewNames
	}
	if !bytes.Equal(g.Subject, names.Subject) || !bytes.Equal(g.SubjectAltName, names.SubjectAltName) {
		t.Errorf("granted %s %s", formatSubject(g.Subject), formatSAN(g.SubjectAltName))
	}
	if want := map[string]string{"device-0002": "device-0002", "device-0003": ""}[cert.Subject.CommonName]; g.Device != want {
		t.Errorf("device %q, want %q", g.Device, want)
	}
}

// The refusal of a device that is known is recorded under its name.
func TestOwnCertificateNamesWhomItRefuses(t *testing.T) {
	mine := newCA(t, "Operator", nil).issue(2, "device-0002", nil)
	s, err := NewOwnCertificate(OwnCertificateConfig{}, &issued{certs: []*gateway.Certificate{record(mine, "device-0002")}}, atNoon)
	if err != nil {
		t.Fatal(err)
	}
	r := renewal(mine)
	r.Subject = subject(t, "CN=victim")
	g := &gateway.Grant{Subject: r.Subject}
	v := s.Decide(context.Background(), r, g)
	expect(t, v, gateway.Deny, gateway.NotAuthorized, "CN=victim", "CN=device-0002")
	if g.Device != "device-0002" || g.Requester != "tls-certificate:"+gateway.Fingerprint(mine) || g.Replaces != nil {
		t.Errorf("grant %+v", g)
	}
	if strings.Contains(v.Detail, "device-0002") {
		t.Errorf("the client is told %q", v.Detail)
	}
}

// A change that names no subject removes it (RFC 6402 section 2.8).
func TestOwnCertificateRemovesTheSubject(t *testing.T) {
	mine := newCA(t, "Operator", nil).issue(2, "d", func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "d"} })
	s, err := NewOwnCertificate(OwnCertificateConfig{ChangeNames: true}, &issued{certs: []*gateway.Certificate{record(mine, "d")}}, atNoon)
	if err != nil {
		t.Fatal(err)
	}
	r := renewal(mine)
	r.NewNames = &gateway.Names{SubjectAltName: sans(t, 2, "d.example")}
	g := &gateway.Grant{}
	expect(t, s.Decide(context.Background(), r, g), gateway.Allow, "")
	if !bytes.Equal(g.Subject, []byte{0x30, 0}) || formatSAN(g.SubjectAltName) != "dns:d.example" {
		t.Errorf("granted %x, %s", g.Subject, formatSAN(g.SubjectAltName))
	}
}

func TestOwnCertificateConfigErrors(t *testing.T) {
	for want, c := range map[string]OwnCertificateConfig{
		`kinds: "mac-key"`: {Kinds: []string{"mac-key"}},
		"endpoints":        {Endpoints: []string{""}},
		"grace":            {Grace: -1},
		`once: "asket" is none of confirmed, asked, never`: {Once: "asket"},
	} {
		_, err := NewOwnCertificate(c, &issued{}, atNoon)
		wantError(t, err, want)
	}
	if _, err := NewOwnCertificate(OwnCertificateConfig{}, nil, atNoon); err == nil {
		t.Error("made without certificates")
	}
	if _, err := NewOwnCertificate(OwnCertificateConfig{}, &issued{}, nil); err == nil {
		t.Error("made without a clock")
	}
}

// CMP kur and SCEP RenewalReq: the message is signed by the certificate that is renewed.
func TestOwnCertificateSignsTheMessage(t *testing.T) {
	root := newCA(t, "Operator Root", nil)
	ca := newCA(t, "Operator", root)
	mine := ca.issue(2, "device-0002", func(c *x509.Certificate) { c.DNSNames = []string{"device-0002.example"} })
	other := ca.issue(3, "device-0003", nil)
	vendors := newCA(t, "Vendor", nil).issue(2, "device-0002", nil)
	s, err := NewOwnCertificate(OwnCertificateConfig{}, &issued{certs: []*gateway.Certificate{record(mine, "device-0002"), record(other, "device-0003")}}, atNoon)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		chain  []*x509.Certificate
		change func(*gateway.Request)
		reason gateway.Reason // "" when allowed
		note   string
	}{
		"the leaf only":             {chain: []*x509.Certificate{mine}},
		"with its chain":            {chain: []*x509.Certificate{mine, ca.cert, root.cert}},
		"with others' certificates": {chain: []*x509.Certificate{mine, vendors, other}},
		"a new key":                 {chain: []*x509.Certificate{mine}, change: func(r *gateway.Request) { r.Operation, r.PublicKey = gateway.Rekey, other.RawSubjectPublicKeyInfo }},
		"the same key":              {chain: []*x509.Certificate{mine}, change: func(r *gateway.Request) { r.PublicKey = mine.RawSubjectPublicKeyInfo }},
		"a template without names":  {chain: []*x509.Certificate{mine}, change: func(r *gateway.Request) { r.Subject, r.Extensions = nil, nil }},
		"a challenge beside it":     {chain: []*x509.Certificate{mine}, change: func(r *gateway.Request) { r.Credentials = append(r.Credentials, challenged("spent").Credentials...) }},
		"a vendor's certificate":    {chain: []*x509.Certificate{vendors, mine}, reason: gateway.Untrusted, note: "not among those issued here"},
		"a vendor's, of the device": {chain: []*x509.Certificate{vendors}, change: func(r *gateway.Request) { r.OldCert = mine }, reason: gateway.Untrusted},
		"another device's":          {chain: []*x509.Certificate{other}, reason: gateway.NotAuthorized, note: "asks to renew certificate 02"},
		"another device's first":    {chain: []*x509.Certificate{other, mine}, reason: gateway.NotAuthorized},
		"another endpoint's":        {chain: []*x509.Certificate{mine}, change: func(r *gateway.Request) { r.Endpoint = "core" }, reason: gateway.NotAuthorized, note: `endpoint "ran"`},
		"a MAC":                     {change: func(r *gateway.Request) { r.Credentials = mac("3078").Credentials }, reason: gateway.Unauthenticated},
	} {
		t.Run(name, func(t *testing.T) {
			r := renewal(mine)
			r.Credentials = nil
			if c.chain != nil {
				r.Credentials = []gateway.Credential{credential(gateway.CredentialSigner, c.chain...)}
			}
			if c.change != nil {
				c.change(r)
			}
			g := &gateway.Grant{Subject: r.Subject, PublicKey: r.PublicKey}
			v := s.Decide(context.Background(), r, g)
			if c.reason != "" {
				expect(t, v, gateway.Deny, c.reason, c.note)
				return
			}
			expect(t, v, gateway.Allow, "", "certificate 02")
			wantGrant(t, r, g, mine)
			if want := "message-signer:" + gateway.Fingerprint(mine); g.Requester != want || !bytes.Equal(g.PublicKey, r.PublicKey) {
				t.Errorf("requester %q, want %q", g.Requester, want)
			}
		})
	}
}

// Whoever asks again by the same message is known, though the certificate has its successor by now: the gateway gives the
// answer again.
func TestOwnCertificateKnowsWhoRepeats(t *testing.T) {
	ca := newCA(t, "Operator", nil)
	mine, next := ca.issue(2, "d", nil), record(ca.issue(3, "d", nil), "d")
	next.Replaces = mine.SerialNumber.Bytes()
	s, err := NewOwnCertificate(OwnCertificateConfig{}, &issued{certs: []*gateway.Certificate{record(mine, "d"), next}}, atNoon)
	if err != nil {
		t.Fatal(err)
	}
	v, proves := s.Identify(context.Background(), renewal(mine), &gateway.Grant{})
	if !proves {
		t.Error("a certificate of ours proves nobody")
	}
	expect(t, v, gateway.Allow, "")
	expect(t, s.Decide(context.Background(), renewal(mine), &gateway.Grant{}), gateway.Deny, gateway.Revoked)
}

// What stood here before is told what it is now: put in quotes, as the general advice would be, it would be wrong again.
func TestOnceIsAWord(t *testing.T) {
	for text, want := range map[string]string{
		"once: true":  "f:1: once: wants one of confirmed, asked, never: what was true is asked, what was false is never",
		"once: false": "f:1: once: wants one of confirmed, asked, never: what was true is asked, what was false is never",
		"once: 1":     "once wants text, not a number",
		"once: asked": "",
	} {
		var c OwnCertificateConfig
		err := strictyaml.Decode("f", []byte(text+"\n"), &c)
		if want == "" && (err != nil || c.Once != onceAsked) || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, %q", text, err, c.Once)
		}
	}
}
