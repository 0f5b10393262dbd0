package pkix

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestChainCAs(t *testing.T) {
	for _, tt := range []struct {
		name   string
		root   func(c *x509.Certificate)
		inter  func(c *x509.Certificate)
		leaf   func(c *x509.Certificate)
		key    crypto.Signer // of the intermediate
		after  func(c *x509.Certificate)
		policy ChainPolicy
		want   error
	}{
		{name: "good"},
		{name: "not a CA", inter: func(c *x509.Certificate) { c.IsCA = false }, want: ErrUsage},
		{name: "no basicConstraints", inter: func(c *x509.Certificate) { c.BasicConstraintsValid, c.IsCA = false, false }, want: ErrUsage},
		{name: "version 1", after: func(c *x509.Certificate) { c.Version, c.BasicConstraintsValid, c.IsCA = 1, false, false }, want: ErrUsage},
		{name: "no keyCertSign", inter: func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }, want: ErrUsage},
		{name: "no key usage", inter: func(c *x509.Certificate) { c.KeyUsage = 0 }},
		{name: "RSA-1024", key: smallRSA(), want: ErrWeak},
		{name: "expired", inter: func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Second) }, want: ErrExpired},
		{name: "expired with grace", policy: ChainPolicy{Grace: time.Hour}, inter: func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Second) }, want: ErrExpired},
		{
			name: "expired within the leaf's grace", policy: ChainPolicy{Grace: time.Hour}, want: ErrExpired,
			inter: func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Second) },
			leaf:  func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Minute) },
		},
		{name: "root expired", root: func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Second) }, want: ErrExpired},
		{name: "path too long", root: func(c *x509.Certificate) { c.MaxPathLenZero = true }, want: ErrUsage},
		{name: "names outside", inter: func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"example.org"} }, want: ErrUsage},
		{name: "names inside", inter: func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"example.com"} }},
		{name: "critical extension", inter: func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		}, want: ErrUsage},
		{name: "for servers only", inter: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, want: ErrUsage},
		{name: "for clients", inter: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }},
		{name: "for anything", inter: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rootTmpl, interTmpl := ca("Root"), ca("Intermediate")
			if tt.root != nil {
				tt.root(rootTmpl)
			}
			if tt.inter != nil {
				tt.inter(interTmpl)
			}
			key := tt.key
			if key == nil {
				key = newKey(t)
			}
			root := issue(t, rootTmpl, nil)
			inter := issue(t, interTmpl, root, key)
			tmpl := device("device")
			tmpl.DNSNames = []string{"device.example.com"}
			if tt.leaf != nil {
				tt.leaf(tmpl)
			}
			leaf := issue(t, tmpl, inter)
			if tt.after != nil {
				tt.after(inter.Certificate)
			}
			p := tt.policy
			p.Roots = certs(root)
			if _, err := p.Verify(certs(leaf, inter), noon); !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
}

func TestChainSHA1(t *testing.T) {
	sha1 := func(c *x509.Certificate) *x509.Certificate {
		c.SignatureAlgorithm = x509.SHA1WithRSA
		return c
	}
	key := soundRSA()
	root := issue(t, ca("Root"), nil, key)
	old := issue(t, sha1(ca("Old")), root, key)
	leaf := issue(t, sha1(device("device")), old)
	modern := issue(t, device("modern"), old)
	constrained := ca("Constrained")
	constrained.PermittedDNSDomains = []string{"example.com"}
	narrow := issue(t, constrained, root, key)
	below := issue(t, sha1(device("below")), narrow)
	expired := sha1(device("expired"))
	expired.NotAfter = noon.Add(-time.Second)
	late := issue(t, expired, old)
	short := ca("Short")
	short.MaxPathLenZero = true
	top := issue(t, short, nil, key)
	mid := issue(t, ca("Mid"), top, key)
	deep := issue(t, sha1(device("deep")), mid)
	policies := ca("Policies")
	policies.ExtraExtensions = []pkix.Extension{{Id: oidPolicyConstraints, Critical: true, Value: []byte{0x30, 3, 0x80, 1, 0}}} // requireExplicitPolicy 0
	strict := issue(t, policies, root, key)
	demanded := issue(t, sha1(device("demanded")), strict)
	curved := issue(t, ca("Curved"), root)
	byECDSA := device("by ECDSA")
	byECDSA.SignatureAlgorithm = x509.ECDSAWithSHA1
	elliptic := issue(t, byECDSA, curved)
	forged := *leaf.Certificate
	forged.Signature = slices.Clone(forged.Signature)
	forged.Signature[9] ^= 1
	bare := *old.Certificate
	bare.Version, bare.BasicConstraintsValid, bare.IsCA = 1, false, false
	critical := sha1(device("critical"))
	critical.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
	unknown := issue(t, critical, root)
	// The OID of MD5WithRSA in place of SHA1WithRSA's: the signature is wrong then, but is not looked at.
	md5 := bytes.ReplaceAll(leaf.Raw, []byte("\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05"), []byte("\x2a\x86\x48\x86\xf7\x0d\x01\x01\x04"))
	broken, err := x509.ParseCertificate(md5)
	if err != nil || broken.SignatureAlgorithm != x509.MD5WithRSA {
		t.Fatal(broken.SignatureAlgorithm, err)
	}
	for _, tt := range []struct {
		name  string
		chain []*x509.Certificate
		plain error // without AllowSHA1
		want  error // with it
	}{
		{"leaf and CA", certs(leaf, old), ErrWeak, nil},
		{"CA only", certs(modern, old), ErrWeak, nil},
		{"ECDSA", certs(elliptic, curved), ErrWeak, nil},
		{"below name constraints", certs(below, narrow), ErrWeak, ErrUsage},
		{"below policy constraints", certs(demanded, strict), ErrWeak, ErrUsage},
		{"expired", certs(late, old), ErrWeak, ErrExpired},
		{"path too long", certs(deep, mid), ErrWeak, ErrUsage},
		{"critical extension", certs(unknown), ErrWeak, ErrUsage},
		{"CA of version 1", []*x509.Certificate{leaf.Certificate, &bare}, ErrWeak, ErrUsage},
		{"forged", []*x509.Certificate{&forged, old.Certificate}, ErrWeak, ErrUntrusted},
		{"MD5", []*x509.Certificate{broken, old.Certificate}, ErrWeak, ErrWeak},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := ChainPolicy{Roots: certs(root, top)}
			if _, err := p.Verify(tt.chain, noon); !errors.Is(err, tt.plain) {
				t.Errorf("%v, want %v", err, tt.plain)
			}
			p.AllowSHA1 = true
			if path, err := p.Verify(tt.chain, noon); !errors.Is(err, tt.want) || (err == nil) != (len(path) > 0) {
				t.Errorf("allowed: %v, want %v", err, tt.want)
			}
		})
	}
}

func TestChainRevocation(t *testing.T) {
	root := issue(t, ca("Root"), nil)
	inter := issue(t, ca("Intermediate"), root)
	leaf := issue(t, device("device"), inter)
	chain := certs(leaf, inter)
	down := errors.New("no CRL")
	for _, tt := range []struct {
		name    string
		revoked *entity
		err     error
		allow   bool
		want    error
	}{
		{"none", nil, nil, false, nil},
		{"leaf", leaf, nil, false, ErrRevoked},
		{"intermediate", inter, nil, false, ErrRevoked},
		{"the root is not asked about", root, nil, false, nil},
		{"unknown", nil, down, false, ErrRevocationUnknown},
		{"unknown, allowed", nil, down, true, nil},
		{"revoked and an error, unknown allowed", leaf, down, true, ErrRevoked},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := ChainPolicy{Roots: certs(root), AllowUnknownRevocation: tt.allow}
			p.Revoked = func(c *x509.Certificate) (bool, error) {
				return tt.revoked != nil && c.Equal(tt.revoked.Certificate), tt.err
			}
			_, err := p.Verify(chain, noon)
			if !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if tt.want == ErrRevocationUnknown && !errors.Is(err, down) {
				t.Errorf("%v hides its cause", err)
			}
		})
	}
	p := ChainPolicy{Roots: certs(leaf), Revoked: func(*x509.Certificate) (bool, error) { return true, nil }}
	if _, err := p.Verify(chain, noon); !errors.Is(err, ErrRevoked) {
		t.Errorf("pinned leaf: %v", err)
	}
	sum := sha256.Sum256(inter.RawSubjectPublicKeyInfo)
	list, err := ReadBlocklist(strings.NewReader(hex.EncodeToString(sum[:])))
	if err != nil {
		t.Fatal(err)
	}
	p = ChainPolicy{Roots: certs(root), Blocklist: list}
	if _, err := p.Verify(chain, noon); !errors.Is(err, ErrWeak) {
		t.Errorf("key of the intermediate on the blocklist: %v", err)
	}
}

// A peer that makes all names alike, and all keys too, buys no search: x509.Verify would check 100 signatures at once.
func TestChainBudget(t *testing.T) {
	root := issue(t, ca("Root"), nil)
	key := newKey(t)
	self := &entity{Certificate: ca("Root"), key: key}
	var chain []*entity
	for i := range MaxChain - 1 {
		tmpl := ca("Root")
		tmpl.DNSNames = []string{fmt.Sprint(i)}
		chain = append(chain, issue(t, tmpl, self, key))
	}
	chain = append([]*entity{issue(t, device("device"), self)}, chain...)
	p := ChainPolicy{Roots: certs(root)}
	s := search{policy: &p, now: noon, leafTime: noon, signatures: maxSignatures, steps: maxSteps, pool: certs(chain[1:]...)}
	if path := s.extend(certs(chain[0])); path != nil {
		t.Fatal("an untrusted chain verifies")
	}
	if s.signatures < 0 || s.steps < -maxPath {
		t.Errorf("budgets overdrawn: %d signatures, %d steps", s.signatures, s.steps)
	}
	if _, err := p.Verify(certs(chain...), noon); !errors.Is(err, ErrUntrusted) {
		t.Error(err)
	}
	// Where no root has the name, no signature is checked at all, and the steps run out.
	elsewhere := ChainPolicy{Roots: certs(issue(t, ca("Another"), nil))}
	s = search{policy: &elsewhere, now: noon, leafTime: noon, signatures: maxSignatures, steps: maxSteps, pool: certs(chain[1:]...)}
	if path := s.extend(certs(chain[0])); path != nil || s.signatures != maxSignatures || s.steps >= 0 || !errors.Is(s.err, ErrUntrusted) {
		t.Errorf("path of %d, %d signatures and %d steps left, %v", len(path), s.signatures, s.steps, s.err)
	}
	// The right path is still found when it comes first.
	good := issue(t, device("device"), root)
	if _, err := p.Verify(append(certs(good), certs(chain[1:]...)...), noon); err != nil {
		t.Error(err)
	}
}

func BenchmarkVerify(b *testing.B) {
	root := issue(b, ca("Root"), nil)
	inter := issue(b, ca("Intermediate"), root)
	leaf := issue(b, device("device"), inter)
	p := ChainPolicy{Roots: certs(root)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Verify(certs(leaf, inter), noon); err != nil {
			b.Fatal(err)
		}
	}
}
