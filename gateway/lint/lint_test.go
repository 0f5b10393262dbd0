package lint

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	stdpkix "crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	zx509 "github.com/zmap/zcrypto/x509"
	zlint "github.com/zmap/zlint/v3/lint"

	"github.com/muster-pki/muster/backends/local"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

var start = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// issuers are CA certificates with each kind of key.
func issuers(t testing.TB) map[string]*x509.Certificate {
	t.Helper()
	made := map[string]*x509.Certificate{}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]crypto.Signer{"P-384": p384, "P-521": p521}
	for kind, key := range signers() {
		all[kind] = key
	}
	for kind, key := range all {
		tmpl := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: stdpkix.Name{CommonName: "CA " + kind}, NotBefore: start, NotAfter: start.AddDate(10, 0, 0),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, SubjectKeyId: []byte{1, 2, 3, 4},
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		if made[kind], err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
	}
	return made
}

func subject(t testing.TB, name stdpkix.Name) []byte {
	t.Helper()
	der, err := asn1.Marshal(name.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func spki(t testing.TB, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// signers are made once: RSA keys take their time.
var signers = sync.OnceValue(func() map[string]crypto.Signer {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return map[string]crypto.Signer{"EC": ec, "RSA": rs, "Ed25519": ed}
})

func keys(t testing.TB) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for kind, key := range signers() {
		all[kind] = spki(t, key.Public())
	}
	return all
}

var clientAuth = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 2}

// template is a device's certificate as most profiles have it.
func template(t testing.TB, key []byte) *backend.Template {
	t.Helper()
	return &backend.Template{
		Subject: subject(t, stdpkix.Name{CommonName: "bts-17", Organization: []string{"Operator"}, SerialNumber: "0017"}), PublicKey: key,
		NotBefore: start, NotAfter: start.Add(397*24*time.Hour - time.Second),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []asn1.ObjectIdentifier{clientAuth},
	}
}

func sanOf(t testing.TB, n pkix.GeneralNames) []byte {
	t.Helper()
	der, err := n.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// good are templates that certificates for devices have, by what is special about them.
func good(t testing.TB, key []byte) map[string]*backend.Template {
	all := map[string]*backend.Template{}
	add := func(name string, change func(*backend.Template)) {
		all[name] = template(t, key)
		change(all[name])
	}
	add("subject only", func(*backend.Template) {})
	add("dns", func(c *backend.Template) {
		c.SubjectAltName = sanOf(t, pkix.GeneralNames{DNS: []string{"bts-17.ran.example"}})
	})
	add("no subject", func(c *backend.Template) {
		c.Subject, c.SubjectAltName = []byte{0x30, 0}, sanOf(t, pkix.GeneralNames{URI: []string{"urn:gsma:imei:35-209900-176148-1"}})
	})
	add("address", func(c *backend.Template) {
		c.SubjectAltName = sanOf(t, pkix.GeneralNames{IP: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}})
	})
	add("long", func(c *backend.Template) { c.NotAfter = start.AddDate(9, 0, 0) })
	return all
}

// What the shipped CA makes of ordinary requests passes the default set, before and after, and both see the same.
func TestOwnCA(t *testing.T) {
	c := local.New(local.Options{Clock: func() time.Time { return start }})
	if err := c.Configure(t.Context(), fmt.Appendf(nil, "dir: %q\n", t.TempDir())); err != nil {
		t.Fatal(err)
	}
	list, err := c.CACertificates(t.Context())
	if err != nil || len(list) < 2 {
		t.Fatal(len(list), err)
	}
	l := New(nil)
	for _, i := range list {
		issuer, err := x509.ParseCertificate(i.Chain[0])
		if err != nil {
			t.Fatal(err)
		}
		for kind, key := range keys(t) {
			all := good(t, key)
			if kind == "RSA" { // SCEP
				all["encipherment"] = template(t, key)
				all["encipherment"].KeyUsage |= x509.KeyUsageKeyEncipherment
			}
			for what, tmpl := range all {
				if err := l.Before(tmpl, issuer); err != nil {
					t.Errorf("%s, %s, %s: before: %v", i.Name, kind, what, err)
				}
				made, err := c.Issue(t.Context(), &backend.IssueRequest{ID: i.Name + kind + what, Issuer: i.Name, Template: *tmpl})
				if err != nil {
					t.Fatal(err)
				}
				cert, err := x509.ParseCertificate(made.Certificate)
				if err != nil {
					t.Fatal(err)
				}
				if err := l.After(cert); err != nil {
					t.Errorf("%s, %s, %s: after: %v", i.Name, kind, what, err)
				}
			}
		}
	}
}

// read reads a configuration as it stands in a file.
func read(config string) (*Config, error) {
	c := &Config{}
	return c, strictyaml.Decode("muster.yaml", []byte(config), c)
}

func linter(t testing.TB, config string) *Linter {
	t.Helper()
	c, err := read(config)
	if err != nil {
		t.Fatal(err)
	}
	return New(c)
}

// issued signs the template as a CA would that looks at nothing.
func issued(t testing.TB, tmpl *backend.Template, critical bool) *x509.Certificate {
	t.Helper()
	key := signers()["EC"]
	c := &x509.Certificate{SerialNumber: big.NewInt(7), RawSubject: tmpl.Subject, NotBefore: tmpl.NotBefore, NotAfter: tmpl.NotAfter, KeyUsage: tmpl.KeyUsage,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true}
	if tmpl.SubjectAltName != nil {
		c.ExtraExtensions = []stdpkix.Extension{{Id: stdOID(oidSubjectAltName), Critical: critical, Value: tmpl.SubjectAltName}}
	}
	pub, err := x509.ParsePKIXPublicKey(tmpl.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, issuers(t)["EC"], pub, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func stdOID(id []int) asn1.ObjectIdentifier { return id }

const underscore = "e_rfc_dnsname_underscore_in_sld"

func TestBadCertificates(t *testing.T) {
	key := keys(t)["EC"]
	bad := template(t, key)
	bad.SubjectAltName = sanOf(t, pkix.GeneralNames{DNS: []string{"bts.ran_x.example"}})
	unsaid := template(t, key)
	unsaid.Subject, unsaid.SubjectAltName = []byte{0x30, 0}, sanOf(t, pkix.GeneralNames{DNS: []string{"a.example"}})
	warned := template(t, key)
	warned.SubjectAltName = sanOf(t, pkix.GeneralNames{DNS: []string{"bts_17.ran.example"}})
	relative := template(t, key)
	relative.SubjectAltName = sanOf(t, pkix.GeneralNames{URI: []string{"//m2m.example.com/S98821"}})
	ec := issuers(t)["EC"]
	for _, tt := range []struct {
		config string
		tmpl   *backend.Template
		want   string // "" passes
	}{
		{"{}", bad, underscore},
		{"{set: rfc5280}", bad, underscore},
		{"{set: [RFC5280]}", bad, underscore},
		{"{set: [RFC5480]}", bad, ""},
		{"{ignore: [" + underscore + "]}", bad, ""},
		{"{set: none, add: [" + underscore + "]}", bad, underscore},
		{"{set: none, add: [e_ext_san_dns_name_too_long]}", bad, ""},
		{"{}", warned, ""},
		{"{fail: warn}", warned, "w_rfc_dnsname_underscore_in_trd"},
		{"{fail: warn}", bad, underscore},
		{"{}", relative, "e_ext_san_uri_relative"},
		{"{ignore: [e_ext_san_uri_relative, e_ext_san_uri_format_invalid]}", relative, ""},
	} {
		for when, err := range map[string]error{
			"before": linter(t, tt.config).Before(tt.tmpl, ec), "after": linter(t, tt.config).After(issued(t, tt.tmpl, false)),
		} {
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want+" (")) {
				t.Errorf("%s, %s: %v, want %q", when, tt.config, err, tt.want)
			}
		}
	}
	// A CA that forgets what an empty subject asks of the subjectAltName (RFC 5280 section 4.2.1.6).
	if err := New(nil).Before(unsaid, ec); err != nil {
		t.Error(err)
	}
	if err := New(nil).After(issued(t, unsaid, true)); err != nil {
		t.Error(err)
	}
	if err := New(nil).After(issued(t, unsaid, false)); err == nil || !strings.Contains(err.Error(), "e_ext_san_not_critical_without_subject") {
		t.Error(err)
	}
}

// Whatever cannot be linted is refused.
func TestFailsClosed(t *testing.T) {
	key := keys(t)["EC"]
	ec := issuers(t)["EC"]
	l := New(nil)
	broken := func(change func(*backend.Template)) *backend.Template {
		c := template(t, key)
		change(c)
		return c
	}
	for what, err := range map[string]error{
		"no issuer":      l.Before(template(t, key), nil),
		"unknown key":    l.Before(template(t, key), &x509.Certificate{}),
		"subject":        l.Before(broken(func(c *backend.Template) { c.Subject = []byte{0x30} }), ec),
		"key":            l.Before(broken(func(c *backend.Template) { c.PublicKey = []byte{0x30, 1} }), ec),
		"subjectAltName": l.Before(broken(func(c *backend.Template) { c.SubjectAltName = []byte{0x30, 5, 1} }), ec),
		"year":           l.Before(broken(func(c *backend.Template) { c.NotAfter = start.AddDate(9000, 0, 0) }), ec),
		"no certificate": l.After(nil),
		"not parsed":     l.After(&x509.Certificate{Raw: []byte{0x30, 0}}),
		"extension twice": l.Before(broken(func(c *backend.Template) {
			c.Extensions = []stdpkix.Extension{{Id: stdOID(oidKeyUsage), Value: []byte{3, 2, 7, 128}}}
		}), ec),
	} {
		if err == nil {
			t.Errorf("%s: passes", what)
		}
	}
	for what, one := range map[string]func(*zx509.Certificate) *zlint.LintResult{
		"panics":        func(*zx509.Certificate) *zlint.LintResult { panic("broken") },
		"fatal":         func(*zx509.Certificate) *zlint.LintResult { return &zlint.LintResult{Status: zlint.Fatal} },
		"gives nothing": func(*zx509.Certificate) *zlint.LintResult { return nil },
		"decides none":  func(*zx509.Certificate) *zlint.LintResult { return &zlint.LintResult{} },
	} {
		l := &Linter{refuse: zlint.Error, lints: []chosen{{CertificateLint: &zlint.CertificateLint{
			LintMetadata: zlint.LintMetadata{Name: "e_x", Description: "d"}, Lint: func() zlint.CertificateLintInterface { return double(one) },
		}}}}
		if err := l.Before(template(t, key), ec); err == nil || !strings.Contains(err.Error(), "e_x (d)") {
			t.Errorf("a lint that %s: %v", what, err)
		}
	}
}

type double func(*zx509.Certificate) *zlint.LintResult

func (double) CheckApplies(*zx509.Certificate) bool             { return true }
func (d double) Execute(c *zx509.Certificate) *zlint.LintResult { return d(c) }

// A draft is what a CA would sign, whatever its key, and no certificate.
func TestDraft(t *testing.T) {
	for kind, issuer := range issuers(t) {
		tmpl := template(t, keys(t)["EC"])
		tmpl.SubjectAltName = sanOf(t, pkix.GeneralNames{DNS: []string{"a.example"}})
		tmpl.NotAfter = time.Date(2055, 1, 1, 0, 0, 0, 0, time.UTC)
		tmpl.KeyUsage |= x509.KeyUsageDecipherOnly
		tmpl.Extensions = []stdpkix.Extension{{Id: stdOID([]int{1, 2, 3}), Value: []byte{5, 0}}}
		der, err := draft(tmpl, issuer)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		if c.CheckSignatureFrom(issuer) == nil {
			t.Errorf("%s: the draft has a signature", kind)
		}
		if c.SignatureAlgorithm != issuer.SignatureAlgorithm || c.KeyUsage != tmpl.KeyUsage || !c.NotAfter.Equal(tmpl.NotAfter) ||
			string(c.AuthorityKeyId) != string(issuer.SubjectKeyId) || len(c.SubjectKeyId) != 20 || c.IsCA || len(c.Extensions) != 7 ||
			string(c.RawSubject) != string(tmpl.Subject) || string(c.RawIssuer) != string(issuer.RawSubject) || c.DNSNames[0] != "a.example" {
			t.Errorf("%s: %+v", kind, c)
		}
	}
}

// A lint that is left out where an extension is missing would have found nothing.
func TestLooksAt(t *testing.T) {
	all := (&Config{Set: Set{"RFC5280", "RFC3279", "RFC5480", "RFC5891", "RFC8813", "Community", "CABF_BR"}}).choose()
	serverAuth := template(t, keys(t)["EC"])
	serverAuth.ExtKeyUsage = []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 1}}
	ec, count := issuers(t)["EC"], 0
	for _, tmpl := range []*backend.Template{template(t, keys(t)["EC"]), good(t, keys(t)["RSA"])["dns"], good(t, keys(t)["EC"])["no subject"], serverAuth} {
		der, err := draft(tmpl, ec)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := parse(der)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range all {
			if l.extension == nil || has(cert, l.extension) {
				continue
			}
			count++
			if r := l.Execute(cert, noConfiguration); r.Status > zlint.Pass {
				t.Errorf("%s says %s without the extension %v", l.Name, r.Status, l.extension)
			}
		}
	}
	if count < 100 {
		t.Errorf("%d lints were left out", count)
	}
}

func TestConfig(t *testing.T) {
	for config, want := range map[string]string{
		"set: rfc5820":            `muster.yaml:1: set: there is no set "rfc5820" (did you mean "rfc5280"?)`,
		"set: [RFC5280, RFC5281]": `there is no source "RFC5281" (did you mean "RFC5280"?)`,
		"set: []":                 "`set: none` turns linting off",
		"set: {}":                 "set wants text",
		"ignore: [e_rfc_dnsname_underscore_in_slt]": `there is no lint "e_rfc_dnsname_underscore_in_slt" (did you mean "` + underscore + `"?)`,
		"add:\n- x":    `muster.yaml:2: add[0]`,
		"fail: fatal":  `"fatal" is not known`,
		"failed: warn": `did you mean "fail"?`,
	} {
		if _, err := read(config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", config, err, want)
		}
	}
	if l := linter(t, "set: none"); l != nil {
		t.Error("none runs lints")
	}
	n := len(New(nil).lints)
	if n < 100 || n != len(linter(t, "set: rfc5280").lints) || n != len(linter(t, "{}").lints) {
		t.Errorf("%d lints in the default set", n)
	}
	for name := range unsuited {
		if zlint.GlobalRegistry().CertificateLints().ByName(name) == nil {
			t.Errorf("zlint has no %s any more", name)
		}
		for _, l := range New(nil).lints {
			if l.Name == name {
				t.Errorf("%s runs", name)
			}
		}
		if l := linter(t, "add: ["+name+"]"); len(l.lints) != n+1 {
			t.Errorf("%s cannot be added", name)
		}
	}
}

// Findings are bounded, however many there are.
func TestManyFindings(t *testing.T) {
	l := &Linter{refuse: zlint.Error}
	for range 50 {
		l.lints = append(l.lints, chosen{CertificateLint: &zlint.CertificateLint{
			LintMetadata: zlint.LintMetadata{Name: "e_x", Description: strings.Repeat("d\n", 5000), Citation: strings.Repeat("c", 5000)},
			Lint: func() zlint.CertificateLintInterface {
				return double(func(*zx509.Certificate) *zlint.LintResult {
					return &zlint.LintResult{Status: zlint.Error, Details: strings.Repeat("x", 1<<20)}
				})
			},
		}})
	}
	err := l.Before(template(t, keys(t)["EC"]), issuers(t)["EC"])
	if err == nil || len(err.Error()) > 8<<10 || !strings.HasSuffix(err.Error(), "and 42 more") || strings.Contains(err.Error(), "\n") {
		t.Errorf("%.200v", err)
	}
}

func BenchmarkBefore(b *testing.B) {
	l, ec := New(nil), issuers(b)["EC"]
	for kind, key := range keys(b) {
		tmpl := good(b, key)["dns"]
		b.Run(kind, func(b *testing.B) {
			for b.Loop() {
				if err := l.Before(tmpl, ec); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAfter(b *testing.B) {
	l := New(nil)
	for kind, key := range keys(b) {
		cert := issued(b, good(b, key)["dns"], false)
		b.Run(kind, func(b *testing.B) {
			for b.Loop() {
				if err := l.After(cert); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		New(nil)
	}
}

// What only the CA can know is not missed in a draft, and is in a certificate.
func TestWhatTheCAAdds(t *testing.T) {
	serverAuth := template(t, keys(t)["EC"])
	serverAuth.ExtKeyUsage = []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 1}}
	ec := issuers(t)["EC"]
	l := New(&Config{Set: Set{"RFC5280", "CABF_BR"}, Fail: Warn})
	before := l.Before(serverAuth, ec)
	if before == nil {
		t.Fatal("the name of a device is one of a public TLS server")
	}
	der, err := draft(serverAuth, ec)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	after := ""
	for _, name := range []Name{"e_sub_cert_aia_missing", "e_sub_cert_certificate_policies_missing", "e_missing_crl_distrib_point"} {
		one := New(&Config{Set: Set{setNone}, Add: []Name{name}})
		if err := one.Before(serverAuth, ec); err != nil {
			t.Errorf("of a draft: %v", err)
		}
		if err := one.After(cert); err == nil || !strings.Contains(err.Error(), string(name)) {
			t.Errorf("of a certificate: %v", err)
		}
		if strings.Contains(before.Error(), string(name)) {
			after += string(name) + " "
		}
	}
	if after != "" {
		t.Errorf("%sbefore: %v", after, before)
	}
	all := zlint.GlobalRegistry().CertificateLints()
	for _, name := range addedByCA {
		if all.ByName(name) == nil {
			t.Errorf("there is no lint %s", name)
		}
	}
}
