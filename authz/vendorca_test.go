package authz

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/asn1"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// shop is a stage `vendor-ca` with its folder, its log and a clock of its own.
type shop struct {
	t     *testing.T
	dir   string // of the configuration; the CAs are in dir/vendors
	log   bytes.Buffer
	clock time.Time
	*VendorCA
}

func newShop(t *testing.T, c VendorCAConfig, prepare func(dir string)) *shop {
	t.Helper()
	s := &shop{t: t, dir: t.TempDir(), clock: noon}
	if prepare != nil {
		prepare(s.dir)
	}
	if c.Dir == "" && c.CAs == nil {
		c.Dir = "vendors"
	}
	var err error
	s.VendorCA, err = NewVendorCA(c, s.dir, slog.New(slog.NewTextHandler(&s.log, nil)), func() time.Time { return s.clock })
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// drop writes a file into the folder, as old as the day before so that it is at rest.
func (s *shop) drop(name string, data []byte) {
	s.t.Helper()
	dropFile(s.t, s.dir, name, data, noon.AddDate(0, 0, -1))
}

func dropFile(t *testing.T, dir, name string, data []byte, modified time.Time) {
	t.Helper()
	folder := filepath.Join(dir, "vendors")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	path := write(t, folder, name, data)
	if err := os.Chtimes(path, modified, modified); err != nil {
		t.Fatal(err)
	}
}

func (s *shop) remove(name string) {
	s.t.Helper()
	if err := os.Remove(filepath.Join(s.dir, "vendors", name)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *shop) decide(chain ...*x509.Certificate) gateway.Verdict {
	r := &gateway.Request{Credentials: []gateway.Credential{credential(gateway.CredentialSigner, chain...)}}
	return s.Decide(context.Background(), r, &gateway.Grant{})
}

// warnings are the lines of the log since the last call that hold the word.
func (s *shop) warnings(word string) int {
	n := 0
	for line := range strings.Lines(s.log.String()) {
		if strings.Contains(line, word) && strings.Contains(line, "WARN") {
			n++
		}
	}
	s.log.Reset()
	return n
}

func TestVendorCA(t *testing.T) {
	v := newVendor(t)
	purposes := func(usages ...x509.ExtKeyUsage) *x509.Certificate {
		return v.issuing.issue(2, "bts-1", func(c *x509.Certificate) { c.ExtKeyUsage = usages })
	}
	iKE := v.issuing.issue(2, "bts-1", func(c *x509.Certificate) {
		c.ExtKeyUsage, c.UnknownExtKeyUsage = nil, []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 17}}
	})
	good := v.issuing.issue(2, "bts-1", nil)
	revoked := v.issuing.issue(66, "bts-66", nil)
	expired := v.issuing.issue(3, "bts-3", func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Second) })
	blocked := v.issuing.issue(4, "bts-4", nil)
	prepare := func(dir string) {
		dropFile(t, dir, "root.pem", pemOf(v.root.cert), noon.AddDate(0, 0, -1))
		write(t, dir, "root.pem", pemOf(v.root.cert))
		write(t, dir, "issuing.pem", pemOf(v.issuing.cert))
		write(t, dir, "issuing.crl", v.issuing.crl(noon.AddDate(0, 0, -1), noon.AddDate(0, 0, 6), 66))
		write(t, dir, "root.crl", v.root.crl(noon.AddDate(0, 0, -1), noon.AddDate(0, 0, 6)))
		write(t, dir, "block", []byte(hexSum(blocked.RawSubjectPublicKeyInfo)+"\n"))
	}
	crls := VendorCAConfig{Intermediates: []string{"issuing.pem"}, CRLs: []string{"issuing.crl", "root.crl"}}
	half := VendorCAConfig{Intermediates: []string{"issuing.pem"}, CRLs: []string{"issuing.crl"}}
	lax := half
	lax.AllowUnknownRevocation = true
	for name, c := range map[string]struct {
		config   VendorCAConfig
		kind     gateway.CredentialKind
		chain    []*x509.Certificate
		before   string
		decision gateway.Decision
		reason   gateway.Reason
		device   string
		note     string
	}{
		"from the folder":               {chain: []*x509.Certificate{good, v.issuing.cert}, decision: gateway.Allow, note: "message-signer"},
		"from the configuration":        {config: VendorCAConfig{CAs: []string{"root.pem"}}, chain: []*x509.Certificate{good, v.issuing.cert}, decision: gateway.Allow},
		"the TLS certificate":           {kind: gateway.CredentialTLS, chain: []*x509.Certificate{good, v.issuing.cert}, decision: gateway.Allow},
		"an intermediate is configured": {config: VendorCAConfig{Intermediates: []string{"issuing.pem"}}, chain: []*x509.Certificate{good}, decision: gateway.Allow},
		"serial number":                 {config: VendorCAConfig{Serial: "subject.serialNumber"}, chain: []*x509.Certificate{good, v.issuing.cert}, decision: gateway.Allow, device: "SN-bts-1", note: `device "SN-bts-1"`},
		"another device known before":   {config: VendorCAConfig{Serial: "subject.serialNumber"}, chain: []*x509.Certificate{good, v.issuing.cert}, before: "SN-bts-2", decision: gateway.Deny, reason: gateway.NotAuthorized},
		"no such serial number":         {config: VendorCAConfig{Serial: "san.uri"}, chain: []*x509.Certificate{good, v.issuing.cert}, decision: gateway.Deny, reason: gateway.NotAuthorized, note: "has 0 values"},
		"no purpose":                    {chain: []*x509.Certificate{purposes(), v.issuing.cert}, decision: gateway.Allow},
		"any purpose":                   {chain: []*x509.Certificate{purposes(x509.ExtKeyUsageAny), v.issuing.cert}, decision: gateway.Allow},
		"ipsecIKE":                      {chain: []*x509.Certificate{iKE, v.issuing.cert}, decision: gateway.Allow},
		"serverAuth only":               {chain: []*x509.Certificate{purposes(x509.ExtKeyUsageServerAuth), v.issuing.cert}, decision: gateway.Deny, reason: gateway.Untrusted, note: "extended key usage"},
		"ipsecIKE where not listed":     {config: VendorCAConfig{Purposes: []string{"clientAuth"}}, chain: []*x509.Certificate{iKE, v.issuing.cert}, decision: gateway.Deny, reason: gateway.Untrusted},
		"foreign":                       {chain: []*x509.Certificate{newCA(t, "Vendor Root", nil).issue(2, "bts-1", nil)}, decision: gateway.Deny, reason: gateway.Untrusted},
		"an intermediate is no anchor":  {config: VendorCAConfig{Dir: "none", Intermediates: []string{"issuing.pem"}}, chain: []*x509.Certificate{good}, decision: gateway.Deny, reason: gateway.Untrusted},
		"expired":                       {chain: []*x509.Certificate{expired, v.issuing.cert}, decision: gateway.Deny, reason: gateway.Untrusted, note: "validity"},
		"a CA's certificate":            {chain: []*x509.Certificate{v.issuing.cert}, decision: gateway.Deny, reason: gateway.Untrusted},
		"on the block list":             {config: VendorCAConfig{Blocklist: "block"}, chain: []*x509.Certificate{blocked, v.issuing.cert}, decision: gateway.Deny, reason: gateway.Untrusted, note: "blocklist"},
		"not revoked":                   {config: crls, chain: []*x509.Certificate{good}, decision: gateway.Allow},
		"revoked":                       {config: crls, chain: []*x509.Certificate{revoked}, decision: gateway.Deny, reason: gateway.Revoked},
		"no list of the root":           {config: half, chain: []*x509.Certificate{good}, decision: gateway.CannotAnswer, reason: gateway.Unavailable, note: "no revocation list"},
		"unknown revocation is allowed": {config: lax, chain: []*x509.Certificate{good}, decision: gateway.Allow},
		"a kind that is not looked at":  {config: VendorCAConfig{Kinds: []string{"message-signer"}}, kind: gateway.CredentialTLS, chain: []*x509.Certificate{good, v.issuing.cert}, decision: gateway.Deny, reason: gateway.Unauthenticated, note: "carries no message-signer"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.kind == "" {
				c.kind = gateway.CredentialSigner
			}
			s := newShop(t, c.config, prepare)
			r := &gateway.Request{Credentials: []gateway.Credential{credential(c.kind, c.chain...)}}
			g := &gateway.Grant{Device: c.before}
			expect(t, s.Decide(context.Background(), r, g), c.decision, c.reason, c.note)
			if c.decision == gateway.Allow && (g.Requester != string(c.kind)+":"+gateway.Fingerprint(c.chain[0]) || g.Device != c.device) {
				t.Errorf("grant %+v", g)
			}
			if c.reason != "" && c.reason != gateway.NotAuthorized && g.Requester != "" {
				t.Errorf("grant %+v", g)
			}
			endedDenies(t, s, r)
		})
	}
}

// What is lax has to be asked for; and the signer of the message is looked at first.
func TestVendorCASettings(t *testing.T) {
	s := newShop(t, VendorCAConfig{AllowSHA1: true, AllowUnknownRevocation: true}, nil)
	p, err := s.policy(context.Background())
	if err != nil || !p.AllowSHA1 || !p.AllowUnknownRevocation || p.Grace != 0 {
		t.Errorf("%+v %v", p, err)
	}
	if p, err = newShop(t, VendorCAConfig{}, nil).policy(context.Background()); err != nil || p.AllowSHA1 || p.AllowUnknownRevocation {
		t.Errorf("%+v %v", p, err)
	}
	if _, anchored := any(s.VendorCA).(interface{ Anchors() []*x509.Certificate }); anchored {
		t.Error("a TLS listener would name the CAs of the start to its clients")
	}
	r := &gateway.Request{Credentials: []gateway.Credential{
		credential(gateway.CredentialTLS, newCA(t, "Other", nil).cert), credential(gateway.CredentialSigner, newCA(t, "Other", nil).cert),
	}}
	expect(t, s.Decide(context.Background(), r, &gateway.Grant{}), gateway.Deny, gateway.Untrusted, "message-signer")
}

// Lists of CAs that are yet to come say nothing until they have come.
func TestVendorCARevocationInTheFolder(t *testing.T) {
	v := newVendor(t)
	good, revoked := v.root.issue(2, "bts-1", nil), v.root.issue(66, "bts-66", nil)
	s := newShop(t, VendorCAConfig{CRLs: []string{"root.crl"}}, func(dir string) {
		write(t, dir, "root.crl", v.root.crl(noon.AddDate(0, 0, -1), noon.AddDate(0, 0, 6), 66))
		dropFile(t, dir, "imposter.pem", pemOf(newCA(t, "Vendor Root", nil).cert), noon)
	})
	expect(t, s.decide(good), gateway.Deny, gateway.Untrusted)
	s.drop("root.pem", pemOf(v.root.cert))
	s.clock = s.clock.Add(watchFresh)
	expect(t, s.decide(good), gateway.Allow, "")
	expect(t, s.decide(revoked), gateway.Deny, gateway.Revoked)
	s.clock = noon.AddDate(0, 0, 7)
	expect(t, s.decide(good), gateway.CannotAnswer, gateway.Unavailable, "is for")

	// The list of a CA of the same name and key identifier is not the root's.
	template := *v.root.cert
	template.PublicKey = nil
	imposter := &authority{t: t, key: newKey(t)}
	imposter.cert = create(t, &template, &template, imposter.key.Public(), imposter.key)
	s = newShop(t, VendorCAConfig{CRLs: []string{"forged.crl"}}, func(dir string) {
		write(t, dir, "forged.crl", imposter.crl(noon.AddDate(0, 0, -1), noon.AddDate(0, 0, 6)))
		dropFile(t, dir, "root.pem", pemOf(v.root.cert), noon)
	})
	expect(t, s.decide(good), gateway.CannotAnswer, gateway.Unavailable, "no revocation list")
}

func TestVendorCAConfigErrors(t *testing.T) {
	v := newVendor(t)
	write(t, v.dir, "device.pem", pemOf(v.issuing.issue(2, "d", nil)))
	write(t, v.dir, "other.crl", newCA(t, "Other", nil).crl(noon, noon.AddDate(0, 0, 1)))
	ca := []string{"root.pem"}
	for want, c := range map[string]VendorCAConfig{
		"no CA is trusted":                     {},
		"cas: device.pem":                      {CAs: []string{"device.pem"}},
		"intermediates: device.pem":            {CAs: ca, Intermediates: []string{"device.pem"}},
		`kinds: "password"`:                    {CAs: ca, Kinds: []string{"password"}},
		`did you mean "ipsecIKE"?`:             {CAs: ca, Purposes: []string{"ipsec-ike"}},
		"serial: ":                             {CAs: ca, Serial: "serial"},
		"none of cas and intermediates signed": {CAs: ca, CRLs: []string{"other.crl"}},
		"crls: open":                           {Dir: "x", CRLs: []string{"absent.crl"}},
		"blocklist: ":                          {CAs: ca, Blocklist: "absent"},
		"dir: ":                                {Dir: "root.pem"},
	} {
		_, err := NewVendorCA(c, v.dir, quiet(), atNoon)
		if want == "crls: open" {
			want = "absent.crl"
		}
		wantError(t, err, want)
	}
	if _, err := NewVendorCA(VendorCAConfig{CAs: ca}, v.dir, quiet(), nil); err == nil {
		t.Error("made without a clock")
	}
	if _, err := NewVendorCA(VendorCAConfig{CAs: ca}, v.dir, nil, atNoon); err == nil {
		t.Error("made without a log")
	}
}

// What was wrong stands in the note, however long the names before it are.
func TestNotesKeepTheirEnd(t *testing.T) {
	v := newVendor(t)
	leaf := v.issuing.issue(77, "radio", func(c *x509.Certificate) { c.Subject.SerialNumber = strings.Repeat("S", 10<<10) })
	s, err := NewVendorCA(VendorCAConfig{CAs: []string{"root.pem"}, Serial: "subject.serialNumber"}, v.dir, quiet(), atNoon)
	if err != nil {
		t.Fatal(err)
	}
	c := credential(gateway.CredentialSigner, leaf)
	c.Chain = append(c.Chain, v.issuing.cert)
	got := s.Decide(t.Context(), &gateway.Request{Operation: gateway.Enroll, Credentials: []gateway.Credential{c}}, &gateway.Grant{})
	if got.Decision != gateway.Deny || len(got.Note) > 1024 || !strings.HasSuffix(got.Note, "subject.serialNumber has 10240 bytes, 1 to 256 are taken") {
		t.Errorf("%d bytes: %+v", len(got.Note), got)
	}
}

// While nobody is trusted, a refusal says so to the operator, and where a CA's certificate is to be put.
func TestNobodyIsTrustedYet(t *testing.T) {
	v := newVendor(t)
	good := v.issuing.issue(2, "bts-1", nil)
	s := newShop(t, VendorCAConfig{}, nil)
	note := "no vendor's CA is trusted: there is none in " + filepath.Join(s.dir, "vendors")
	if v := s.decide(good); v.Reason != gateway.Untrusted || !strings.Contains(v.Note, note) || strings.Contains(v.Detail, s.dir) {
		t.Errorf("%+v", v)
	}
	other := newVendor(t)
	s = newShop(t, VendorCAConfig{}, func(dir string) { dropFile(t, dir, "root.pem", pemOf(other.root.cert), noon.AddDate(0, 0, -1)) })
	if v := s.decide(good); v.Reason != gateway.Untrusted || strings.Contains(v.Note, "there is none in") || !strings.Contains(v.Note, "is not trusted here, nor") {
		t.Errorf("%+v", v)
	}
}
