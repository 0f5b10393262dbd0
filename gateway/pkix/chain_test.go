package pkix

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"testing"
	"time"
)

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// entity is a certificate with its key.
type entity struct {
	*x509.Certificate
	key crypto.Signer
}

var serial struct {
	sync.Mutex
	n int64
}

func template(name string) *x509.Certificate {
	serial.Lock()
	defer serial.Unlock()
	serial.n++
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial.n), Subject: pkix.Name{CommonName: name},
		NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(time.Hour),
	}
}

func ca(name string) *x509.Certificate {
	c := template(name)
	c.BasicConstraintsValid, c.IsCA, c.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	return c
}

func device(name string) *x509.Certificate {
	c := template(name)
	c.KeyUsage, c.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return c
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue signs a template with a new P-256 key, or the given one. A nil issuer makes it self-signed.
func issue(t testing.TB, tmpl *x509.Certificate, issuer *entity, keys ...crypto.Signer) *entity {
	t.Helper()
	e := &entity{}
	if len(keys) > 0 {
		e.key = keys[0]
	} else {
		e.key = newKey(t)
	}
	parent, signer := tmpl, e.key
	if issuer != nil {
		parent, signer = issuer.Certificate, issuer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, e.key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	if e.Certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return e
}

func certs(list ...*entity) []*x509.Certificate {
	out := make([]*x509.Certificate, 0, len(list))
	for _, e := range list {
		out = append(out, e.Certificate)
	}
	return out
}

var smallRSA = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		panic(err)
	}
	return key
})

var soundRSA = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func TestChainLeaf(t *testing.T) {
	root := issue(t, ca("Root"), nil)
	inter := issue(t, ca("Intermediate"), root)
	other := issue(t, ca("Root"), nil) // the same name, another key
	oidOther := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}
	for _, tt := range []struct {
		name   string
		policy ChainPolicy
		leaf   func(c *x509.Certificate) // changes the template
		issuer *entity
		key    crypto.Signer
		after  func(c *x509.Certificate) // changes the certificate as parsed
		want   error
	}{
		{name: "good"},
		{name: "directly below the root", issuer: root},
		{name: "a stranger of the root's name", issuer: other, want: ErrUntrusted},
		{name: "CA", leaf: func(c *x509.Certificate) { c.BasicConstraintsValid, c.IsCA = true, true }, want: ErrUsage},
		{name: "version 1", after: func(c *x509.Certificate) { c.Version = 1 }, want: ErrUsage},
		{name: "no key usage", leaf: func(c *x509.Certificate) { c.KeyUsage = 0 }},
		{name: "keyEncipherment only", leaf: func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }, want: ErrUsage},
		{name: "empty key usage", leaf: func(c *x509.Certificate) {
			c.KeyUsage = 0
			c.ExtraExtensions = []pkix.Extension{{Id: oidKeyUsage, Value: []byte{3, 1, 0}}}
		}, want: ErrUsage},
		{name: "no extended key usage", leaf: func(c *x509.Certificate) { c.ExtKeyUsage = nil }},
		{name: "serverAuth only", leaf: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, want: ErrUsage},
		{name: "serverAuth and clientAuth", leaf: func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		}},
		{name: "any purpose", leaf: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }, want: ErrUsage},
		{
			name: "any purpose, listed", policy: ChainPolicy{ExtKeyUsages: []asn1.ObjectIdentifier{oidAnyExtKeyUsage}},
			leaf: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} },
		},
		{
			name: "own purpose, listed", policy: ChainPolicy{ExtKeyUsages: []asn1.ObjectIdentifier{OIDClientAuth, oidOther}},
			leaf: func(c *x509.Certificate) {
				c.ExtKeyUsage, c.UnknownExtKeyUsage = nil, []asn1.ObjectIdentifier{oidOther}
			},
		},
		{
			name: "own purpose", want: ErrUsage,
			leaf: func(c *x509.Certificate) {
				c.ExtKeyUsage, c.UnknownExtKeyUsage = nil, []asn1.ObjectIdentifier{oidOther}
			},
		},
		{name: "expired", leaf: func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Second) }, want: ErrExpired},
		{name: "not yet valid", leaf: func(c *x509.Certificate) { c.NotBefore = noon.Add(time.Second) }, want: ErrExpired},
		{name: "last second", leaf: func(c *x509.Certificate) { c.NotAfter = noon }},
		{
			name: "expired within the grace period", policy: ChainPolicy{Grace: time.Minute},
			leaf: func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Minute) },
		},
		{
			name: "expired beyond the grace period", policy: ChainPolicy{Grace: time.Minute}, want: ErrExpired,
			leaf: func(c *x509.Certificate) { c.NotAfter = noon.Add(-61 * time.Second) },
		},
		{name: "not yet valid with grace", policy: ChainPolicy{Grace: time.Hour}, leaf: func(c *x509.Certificate) { c.NotBefore = noon.Add(time.Second) }, want: ErrExpired},
		{name: "RSA-2048", key: soundRSA()},
		{name: "RSA-1024", key: smallRSA(), want: ErrWeak},
		{name: "unknown critical extension", leaf: func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: oidOther, Critical: true, Value: []byte{5, 0}}}
		}, want: ErrUsage},
		{name: "unknown extension", leaf: func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: oidOther, Value: []byte{5, 0}}}
		}},
		{name: "unknown signature algorithm", after: func(c *x509.Certificate) { c.SignatureAlgorithm = 0 }, want: ErrAlgorithm},
		{name: "altered signature", after: func(c *x509.Certificate) {
			c.Signature = slices.Clone(c.Signature)
			c.Signature[len(c.Signature)-1] ^= 1
		}, want: ErrUntrusted},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tmpl := device("device")
			if tt.leaf != nil {
				tt.leaf(tmpl)
			}
			issuer := inter
			if tt.issuer != nil {
				issuer = tt.issuer
			}
			key := tt.key
			if key == nil {
				key = newKey(t)
			}
			leaf := issue(t, tmpl, issuer, key)
			if tt.after != nil {
				tt.after(leaf.Certificate)
			}
			p := tt.policy
			p.Roots = certs(root)
			path, err := p.Verify(certs(leaf, inter), noon)
			if !errors.Is(err, tt.want) {
				t.Fatalf("%v, want %v", err, tt.want)
			}
			if err != nil && path != nil {
				t.Error("a path beside an error")
			}
			if err == nil && (path[0] != leaf.Certificate || !path[len(path)-1].Equal(root.Certificate)) {
				t.Errorf("path of %d", len(path))
			}
		})
	}
}

func TestChainBuilding(t *testing.T) {
	root := issue(t, ca("Root"), nil)
	one := issue(t, ca("One"), root)
	two := issue(t, ca("Two"), one)
	leaf := issue(t, device("device"), two)
	stranger := issue(t, ca("Stranger"), nil)
	// NewWithOld: the root's next key, certified by its present one (RFC 4210 section 4.4).
	next := issue(t, ca("Root"), root)
	young := issue(t, device("young"), next)
	third := issue(t, ca("Root"), next)
	younger := issue(t, device("younger"), third)
	junk := make([]*entity, MaxChain-3)
	for i := range junk {
		junk[i] = issue(t, ca(fmt.Sprint("Junk ", i)), nil)
	}
	for _, tt := range []struct {
		name   string
		policy ChainPolicy
		chain  []*entity
		want   error
		length int
	}{
		{"in order", ChainPolicy{Roots: certs(root)}, []*entity{leaf, two, one, root}, nil, 4},
		{"without the root", ChainPolicy{Roots: certs(root)}, []*entity{leaf, two, one}, nil, 4},
		{"in disorder, twice, with others", ChainPolicy{Roots: certs(root)}, []*entity{leaf, stranger, root, one, two, one, leaf}, nil, 4},
		{"intermediates configured", ChainPolicy{Roots: certs(root), Intermediates: certs(two, one)}, []*entity{leaf}, nil, 4},
		{"second of two roots", ChainPolicy{Roots: certs(stranger, root)}, []*entity{leaf, one, two}, nil, 4},
		{"an intermediate as root", ChainPolicy{Roots: certs(two)}, []*entity{leaf, two, one, root}, nil, 2},
		{"missing intermediate", ChainPolicy{Roots: certs(root)}, []*entity{leaf, two}, ErrUntrusted, 0},
		{"no root", ChainPolicy{}, []*entity{leaf, two, one, root}, ErrUntrusted, 0},
		{"another root", ChainPolicy{Roots: certs(stranger)}, []*entity{leaf, two, one, root}, ErrUntrusted, 0},
		{"new with old", ChainPolicy{Roots: certs(root)}, []*entity{young, next}, nil, 3},
		// A name that stands twice may cost x509.Verify each signature twice, and the root itself has been tried before.
		{"new with old, small budget", ChainPolicy{Roots: certs(root), MaxSignatures: 4}, []*entity{young, next}, ErrUntrusted, 0},
		{"new with old, just enough budget", ChainPolicy{Roots: certs(root), MaxSignatures: 5}, []*entity{young, next}, nil, 3},
		// Sound, but a name that stands three times leaves x509.Verify too many ways.
		{"new with old, twice", ChainPolicy{Roots: certs(root), MaxSignatures: 100}, []*entity{younger, third, next}, ErrUntrusted, 0},
		{"pinned leaf", ChainPolicy{Roots: certs(leaf)}, []*entity{leaf}, nil, 1},
		{"16 certificates", ChainPolicy{Roots: certs(root)}, append([]*entity{leaf, two, one}, junk...), nil, 4},
		{"17 certificates", ChainPolicy{Roots: certs(root)}, append([]*entity{leaf, two, one, stranger}, junk...), ErrMalformed, 0},
		{"none", ChainPolicy{Roots: certs(root)}, nil, ErrMalformed, 0},
		{"small budget", ChainPolicy{Roots: certs(root), MaxSignatures: 2}, []*entity{leaf, two, one}, ErrUntrusted, 0},
		{"just enough budget", ChainPolicy{Roots: certs(root), MaxSignatures: 3}, []*entity{leaf, two, one}, nil, 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path, err := tt.policy.Verify(certs(tt.chain...), noon)
			if !errors.Is(err, tt.want) || len(path) != tt.length {
				t.Errorf("path of %d, %v; want %d, %v", len(path), err, tt.length, tt.want)
			}
		})
	}
	p := ChainPolicy{Roots: certs(root)}
	if _, err := p.Verify([]*x509.Certificate{leaf.Certificate, nil}, noon); !errors.Is(err, ErrMalformed) {
		t.Errorf("nil certificate: %v", err)
	}
	if _, err := p.Verify(certs(leaf, two, one), time.Time{}); !errors.Is(err, ErrExpired) {
		t.Errorf("no time: %v", err)
	}
}
