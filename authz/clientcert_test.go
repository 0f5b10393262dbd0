package authz

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// vendor is a vendor's root, its issuing CA, and the folder that holds their files.
type vendor struct {
	dir           string
	root, issuing *authority
}

func newVendor(t *testing.T) *vendor {
	v := &vendor{dir: t.TempDir(), root: newCA(t, "Vendor Root", nil)}
	v.issuing = newCA(t, "Vendor Issuing", v.root)
	write(t, v.dir, "root.pem", pemOf(v.root.cert))
	write(t, v.dir, "issuing.der", v.issuing.cert.Raw)
	return v
}

func (v *vendor) stage(t *testing.T, c ClientCertificateConfig, now time.Time) *ClientCertificate {
	t.Helper()
	if c.CAs == nil && c.Dir == "" {
		c.CAs = []string{"root.pem"}
	}
	s, err := NewClientCertificate(c, v.dir, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestClientCertificate(t *testing.T) {
	v := newVendor(t)
	stranger := newCA(t, "Vendor Root", nil) // the same name, another key
	good := v.issuing.issue(2, "device-1", nil)
	server := v.issuing.issue(3, "device-1", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	weak := v.issuing.issue(4, "device-1", nil)
	revoked := v.issuing.issue(66, "device-1", nil)
	tooMany := []*x509.Certificate{good}
	for range 20 {
		tooMany = append(tooMany, v.issuing.cert)
	}
	write(t, v.dir, "issuing.crl", v.issuing.crl(noon.AddDate(0, 0, -1), noon.AddDate(0, 0, 6), 66))
	write(t, v.dir, "root.crl", pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: v.root.crl(noon.AddDate(0, 0, -1), noon.AddDate(0, 0, 6))}))
	write(t, v.dir, "block", []byte(hexSum(weak.RawSubjectPublicKeyInfo)+"\n"))
	crls := ClientCertificateConfig{Intermediates: []string{"issuing.der"}, CRLs: []string{"issuing.crl", "root.crl"}}
	half := ClientCertificateConfig{Intermediates: []string{"issuing.der"}, CRLs: []string{"issuing.crl"}}
	lax := half
	lax.AllowUnknownRevocation = true

	for name, c := range map[string]struct {
		config   ClientCertificateConfig
		kind     gateway.CredentialKind
		chain    []*x509.Certificate
		now      time.Time
		decision gateway.Decision
		reason   gateway.Reason
		note     string
	}{
		"the peer sends the chain":       {chain: []*x509.Certificate{good, v.issuing.cert}, decision: gateway.Allow, note: "CN=Vendor Root"},
		"signer of the message":          {kind: gateway.CredentialSigner, chain: []*x509.Certificate{good, v.issuing.cert}, decision: gateway.Allow, note: "message-signer"},
		"an intermediate is configured":  {config: ClientCertificateConfig{Intermediates: []string{"issuing.der"}}, chain: []*x509.Certificate{good}, decision: gateway.Allow},
		"an issuing CA is the anchor":    {config: ClientCertificateConfig{CAs: []string{"issuing.der"}}, chain: []*x509.Certificate{good}, decision: gateway.Allow},
		"CAs from a folder":              {config: ClientCertificateConfig{Dir: "."}, chain: []*x509.Certificate{good}, decision: gateway.Allow},
		"purpose allowed":                {config: ClientCertificateConfig{Purposes: []string{"serverAuth"}}, chain: []*x509.Certificate{server, v.issuing.cert}, decision: gateway.Allow},
		"within grace":                   {config: ClientCertificateConfig{Grace: strictyaml.Duration(48 * time.Hour)}, chain: []*x509.Certificate{good, v.issuing.cert}, now: noon.AddDate(1, 0, 1), decision: gateway.Allow},
		"not revoked":                    {config: crls, chain: []*x509.Certificate{good}, decision: gateway.Allow},
		"unknown revocation is allowed":  {config: lax, chain: []*x509.Certificate{good}, decision: gateway.Allow},
		"no chain":                       {chain: []*x509.Certificate{good}, decision: gateway.Deny, reason: gateway.Untrusted, note: "Vendor Issuing"},
		"a CA of the same name":          {chain: []*x509.Certificate{stranger.issue(5, "device-1", nil)}, decision: gateway.Deny, reason: gateway.Untrusted},
		"expired":                        {chain: []*x509.Certificate{good, v.issuing.cert}, now: noon.AddDate(1, 0, 1), decision: gateway.Deny, reason: gateway.Untrusted, note: "device-1"},
		"not valid yet":                  {chain: []*x509.Certificate{good, v.issuing.cert}, now: noon.AddDate(0, 0, -1), decision: gateway.Deny, reason: gateway.Untrusted},
		"CA expired":                     {chain: []*x509.Certificate{good, v.issuing.cert}, now: noon.AddDate(11, 0, 0), decision: gateway.Deny, reason: gateway.Untrusted},
		"another purpose":                {chain: []*x509.Certificate{server, v.issuing.cert}, decision: gateway.Deny, reason: gateway.Untrusted, note: "extended key usage"},
		"a CA's certificate":             {chain: []*x509.Certificate{v.issuing.cert}, decision: gateway.Deny, reason: gateway.Untrusted, note: "certificate of a CA"},
		"on the block list":              {config: ClientCertificateConfig{Blocklist: "block"}, chain: []*x509.Certificate{weak, v.issuing.cert}, decision: gateway.Deny, reason: gateway.Untrusted, note: "blocklist"},
		"too many certificates":          {chain: tooMany, decision: gateway.Deny, reason: gateway.Untrusted, note: "21 certificates"},
		"revoked":                        {config: crls, chain: []*x509.Certificate{revoked}, decision: gateway.Deny, reason: gateway.Revoked, note: "42"},
		"revoked, whatever is allowed":   {config: lax, chain: []*x509.Certificate{revoked}, decision: gateway.Deny, reason: gateway.Revoked},
		"no list of the CA's own issuer": {config: half, chain: []*x509.Certificate{good}, decision: gateway.CannotAnswer, reason: gateway.Unavailable, note: "no revocation list"},
		"lists out of date":              {config: crls, chain: []*x509.Certificate{good}, now: noon.AddDate(0, 0, 7), decision: gateway.CannotAnswer, reason: gateway.Unavailable, note: "is for"},
		"lists of the future":            {config: crls, chain: []*x509.Certificate{v.issuing.issue(7, "x", func(c *x509.Certificate) { c.NotBefore = noon.AddDate(0, 0, -9) })}, now: noon.AddDate(0, 0, -2), decision: gateway.CannotAnswer, reason: gateway.Unavailable},
		"revoked on an old list":         {config: crls, chain: []*x509.Certificate{revoked}, now: noon.AddDate(0, 0, 7), decision: gateway.Deny, reason: gateway.Revoked},
		"a kind that is not looked at":   {config: ClientCertificateConfig{Kinds: []string{"tls-certificate"}}, kind: gateway.CredentialSigner, chain: []*x509.Certificate{good, v.issuing.cert}, decision: gateway.Deny, reason: gateway.Unauthenticated, note: "carries no tls-certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.now.IsZero() {
				c.now = noon
			}
			if c.kind == "" {
				c.kind = gateway.CredentialTLS
			}
			r := &gateway.Request{Credentials: []gateway.Credential{credential(c.kind, c.chain...)}}
			g := &gateway.Grant{}
			s := v.stage(t, c.config, c.now)
			expect(t, s.Decide(context.Background(), r, g), c.decision, c.reason, c.note)
			if (g.Requester != "") != (c.decision == gateway.Allow) || g.Device != "" {
				t.Errorf("grant %+v", g)
			}
			endedDenies(t, s, r)
		})
	}
}

func TestClientCertificateMissing(t *testing.T) {
	v := newVendor(t)
	s := v.stage(t, ClientCertificateConfig{}, noon)
	for name, r := range map[string]*gateway.Request{
		"nothing":        {},
		"a password":     basic("anna", "x"),
		"an empty chain": {Credentials: []gateway.Credential{{Kind: gateway.CredentialTLS, ID: "x"}}},
		"a nil leaf":     {Credentials: []gateway.Credential{{Kind: gateway.CredentialTLS, ID: "x", Chain: []*x509.Certificate{nil}}}},
	} {
		t.Run(name, func(t *testing.T) {
			expect(t, s.Decide(context.Background(), r, &gateway.Grant{}), gateway.Deny, gateway.Unauthenticated, "carries no tls-certificate or message-signer")
		})
	}
}

// The first kind that is carried counts: a sound signature of the message does not make up for a bad TLS certificate.
func TestClientCertificateTakesTheFirstKind(t *testing.T) {
	v := newVendor(t)
	good := v.issuing.issue(2, "device-1", nil)
	bad := newCA(t, "Other", nil).issue(2, "device-1", nil)
	s := v.stage(t, ClientCertificateConfig{}, noon)
	r := &gateway.Request{Credentials: []gateway.Credential{credential(gateway.CredentialSigner, good, v.issuing.cert), credential(gateway.CredentialTLS, bad)}}
	expect(t, s.Decide(context.Background(), r, &gateway.Grant{}), gateway.Deny, gateway.Untrusted, "tls-certificate")
	s = v.stage(t, ClientCertificateConfig{Kinds: []string{"message-signer", "tls-certificate"}}, noon)
	expect(t, s.Decide(context.Background(), r, &gateway.Grant{}), gateway.Allow, "", "message-signer")
}

func TestClientCertificateDevice(t *testing.T) {
	v := newVendor(t)
	for name, c := range map[string]struct {
		field, before string
		change        func(*x509.Certificate)
		device        string // "" when denied
		note          string
	}{
		"serial number":    {field: "subject.serialNumber", device: "SN-device-1"},
		"common name":      {field: "subject.CN", device: "device-1"},
		"DNS name":         {field: "san.dns", change: func(c *x509.Certificate) { c.DNSNames = []string{"d1.example"} }, device: "d1.example"},
		"IP address":       {field: "san.ip", change: func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)} }, device: "10.0.0.1"},
		"the same again":   {field: "subject.CN", before: "device-1", device: "device-1"},
		"another device":   {field: "subject.CN", before: "device-2", note: `an earlier one "device-2"`},
		"absent":           {field: "san.uri", note: "has 0 values"},
		"two values":       {field: "san.dns", change: func(c *x509.Certificate) { c.DNSNames = []string{"a", "b"} }, note: "has 2 values"},
		"control sequence": {field: "subject.CN", change: func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "device\x00-1"} }, note: "control"},
	} {
		t.Run(name, func(t *testing.T) {
			s := v.stage(t, ClientCertificateConfig{Device: c.field}, noon)
			leaf := v.issuing.issue(2, "device-1", c.change)
			g := &gateway.Grant{Device: c.before}
			verdict := s.Decide(context.Background(), &gateway.Request{Credentials: []gateway.Credential{credential(gateway.CredentialTLS, leaf, v.issuing.cert)}}, g)
			if c.device == "" {
				expect(t, verdict, gateway.Deny, gateway.NotAuthorized, c.note)
				return
			}
			expect(t, verdict, gateway.Allow, "", c.device)
			if g.Device != c.device {
				t.Errorf("device %q, want %q", g.Device, c.device)
			}
		})
	}
}

func TestClientCertificateConfigErrors(t *testing.T) {
	v := newVendor(t)
	other := newCA(t, "Other", nil)
	write(t, v.dir, "device.pem", pemOf(v.issuing.issue(2, "d", nil)))
	write(t, v.dir, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{0}}))
	write(t, v.dir, "broken.pem", []byte("-----BEGIN CERTIFICATE-----\nAAAA"))
	write(t, v.dir, "garbage", []byte("not a certificate"))
	write(t, v.dir, "other.crl", other.crl(noon, noon.AddDate(0, 0, 1)))
	if err := os.Mkdir(filepath.Join(v.dir, "empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	ca := []string{"root.pem"}
	for want, c := range map[string]ClientCertificateConfig{
		"no CA is trusted":                       {},
		"holds no file":                          {Dir: "empty"},
		"absent":                                 {Dir: "absent"},
		"is not a CA's certificate":              {CAs: []string{"device.pem"}},
		`a PEM block "PRIVATE KEY"`:              {CAs: []string{"key.pem"}},
		"broken PEM":                             {CAs: []string{"broken.pem"}},
		"garbage":                                {CAs: []string{"garbage"}},
		"intermediates: device.pem":              {CAs: ca, Intermediates: []string{"device.pem"}},
		`kinds: "password"`:                      {CAs: ca, Kinds: []string{"password"}},
		"stands twice":                           {CAs: ca, Kinds: []string{"tls-certificate", "tls-certificate"}},
		`did you mean "clientAuth"?`:             {CAs: ca, Purposes: []string{"client-auth"}},
		`did you mean "serialNumber"?`:           {CAs: ca, Device: "subject.serialnumbr"},
		"want subject.ATTRIBUTE":                 {CAs: ca, Device: "serial"},
		"none of cas and intermediates signed":   {CAs: ca, CRLs: []string{"other.crl"}},
		"absent.crl":                             {CAs: ca, CRLs: []string{"absent.crl"}},
		"blocklist: " + v.dir + " is not a file": {CAs: ca, Blocklist: "."},
		"grace":                                  {CAs: ca, Grace: -1},
	} {
		_, err := NewClientCertificate(c, v.dir, atNoon)
		wantError(t, err, want)
	}
	if _, err := NewClientCertificate(ClientCertificateConfig{CAs: ca}, v.dir, nil); err == nil {
		t.Error("made without a clock")
	}
}
