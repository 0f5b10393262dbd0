package pkix

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"slices"
	"testing"
	"time"
)

// generation is a root's key, with a certificate by which another key signed it where there is one.
type generation struct {
	key  *ecdsa.PrivateKey
	self *x509.Certificate
}

func newGeneration(t *testing.T) generation {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	g := generation{key: key}
	g.self = g.sign(t, key.Public())
	return g
}

// sign makes a CA certificate for a key, under the one name that all have.
func (g generation) sign(t *testing.T, pub crypto.PublicKey) *x509.Certificate {
	t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "Root"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, pub, g.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The way from one root to those before it: over two changes of keys, in order, whatever else lies there.
func TestCrosses(t *testing.T) {
	a, b, c, stranger := newGeneration(t), newGeneration(t), newGeneration(t), newGeneration(t)
	bWithA, aWithB := a.sign(t, b.key.Public()), b.sign(t, a.key.Public())
	cWithB, bWithC := b.sign(t, c.key.Public()), c.sign(t, b.key.Public())
	renewed := c.sign(t, c.key.Public()) // the same key: no other root
	rollover := []*x509.Certificate{a.self, b.self, renewed, aWithB, bWithC, cWithB, bWithA, stranger.self}
	for name, tt := range map[string]struct {
		root *x509.Certificate
		want []*x509.Certificate
	}{
		"the newest": {c.self, []*x509.Certificate{cWithB, bWithA}},
		"the first":  {a.self, []*x509.Certificate{aWithB}},
		"a stranger": {stranger.self, nil},
	} {
		got := Crosses(tt.root, rollover)
		if len(got) < len(tt.want) || tt.want == nil && got != nil {
			t.Fatalf("%s: %d certificates", name, len(got))
		}
		for i, want := range tt.want {
			if !got[i].Equal(want) {
				t.Errorf("%s: certificate %d is another", name, i)
			}
		}
	}
	// Whatever their order: a link may stand before the root of its key.
	slices.Reverse(rollover)
	if got := Crosses(c.self, rollover); len(got) != 2 || !got[0].Equal(cWithB) || !got[1].Equal(bWithA) {
		t.Errorf("in another order: %d certificates", len(got))
	}
	if Crosses(c.self, nil) != nil {
		t.Error("from nothing")
	}
	// One whose signature nobody there has made leads nowhere.
	if got := Crosses(c.self, []*x509.Certificate{cWithB, a.self}); got != nil {
		t.Errorf("%d certificates", len(got))
	}
}

func crlOf(t *testing.T, g generation, change func(*x509.RevocationList)) []byte {
	t.Helper()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	list := &x509.RevocationList{Number: big.NewInt(7), ThisUpdate: now, NextUpdate: now.Add(time.Hour),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(5), RevocationTime: now}}}
	if change != nil {
		change(list)
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, g.self, g.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestParseCRL(t *testing.T) {
	g, other := newGeneration(t), newGeneration(t)
	der := crlOf(t, g, nil)
	c, err := ParseCRL(der)
	if err != nil || !bytes.Equal(c.Issuer, g.self.RawSubject) || c.Number.Int64() != 7 || c.NextUpdate.Sub(c.ThisUpdate) != time.Hour || c.ThisUpdate.Hour() != 12 {
		t.Fatalf("%+v, %v", c, err)
	}
	if err := c.CheckSignature(g.self); err != nil {
		t.Error(err)
	}
	if c.CheckSignature(other.self) == nil {
		t.Error("another key's signature")
	}
	noSigner := *g.self
	noSigner.KeyUsage = x509.KeyUsageCertSign
	if c.CheckSignature(&noSigner) == nil {
		t.Error("a key that signs no CRLs")
	}
	noCA := *g.self
	noCA.IsCA = false
	if c.CheckSignature(&noCA) == nil {
		t.Error("a certificate that is no CA's")
	}
	if _, err := ParseCRL(crlOf(t, g, func(l *x509.RevocationList) { l.RevokedCertificateEntries = nil })); err != nil {
		t.Errorf("an empty one: %v", err)
	}
	for n := range der { // no prefix is a CRL
		if _, err := ParseCRL(der[:n]); err == nil {
			t.Fatalf("the first %d bytes", n)
		}
	}
	if _, err := ParseCRL(append(bytes.Clone(der), 0)); err == nil {
		t.Error("a remnant")
	}
	if _, err := ParseCRL(crlOf(t, g, func(l *x509.RevocationList) { l.NextUpdate = l.ThisUpdate })); err == nil {
		t.Error("a nextUpdate that is the thisUpdate")
	}
}

func FuzzCRL(f *testing.F) {
	f.Add([]byte{0x30, 0})
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	ca := &x509.Certificate{Subject: pkix.Name{CommonName: "Root"}, SubjectKeyId: []byte{1}, KeyUsage: x509.KeyUsageCRLSign}
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Unix(0, 0), NextUpdate: time.Unix(60, 0)}, ca, key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(der)
	f.Fuzz(func(t *testing.T, der []byte) {
		ours, err := ParseCRL(der)
		theirs, other := x509.ParseRevocationList(der)
		if err == nil && other == nil && (!bytes.Equal(ours.Issuer, theirs.RawIssuer) || !ours.NextUpdate.Equal(theirs.NextUpdate)) {
			t.Fatalf("%+v, %+v", ours, theirs)
		}
	})
}
