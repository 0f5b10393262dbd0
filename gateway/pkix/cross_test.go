package pkix

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
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

// TestParseCRLPoint: which certificates a CRL is of (RFC 5280 section 5.2.5).
func TestParseCRLPoint(t *testing.T) {
	g := newGeneration(t)
	with := func(critical bool, value string) (*CRL, error) {
		return ParseCRL(crlOf(t, g, func(l *x509.RevocationList) {
			l.ExtraExtensions = []pkix.Extension{{Id: oidIssuingDistributionPoint, Critical: critical, Value: []byte(value)}}
		}))
	}
	if c, err := ParseCRL(crlOf(t, g, nil)); err != nil || c.Point != nil {
		t.Errorf("without: %+v, %v", c.Point, err)
	}
	for _, x := range []struct {
		name, value string
		uris        []string
		narrower    bool
	}{
		{"empty", "\x30\x00", nil, false},
		{"user certificates", "\x30\x03\x81\x01\xff", nil, false},
		{"two URIs", "\x30\x0d\xa0\x08\xa0\x06\x86\x01a\x86\x01b\x81\x01\xff", []string{"a", "b"}, false},
		{"a directory name", "\x30\x08\xa0\x06\xa0\x04\xa4\x02\x30\x00", nil, true},
		{"a relative name", "\x30\x04\xa0\x02\xa1\x00", nil, true},
		{"CA certificates", "\x30\x03\x82\x01\xff", nil, true},
		{"some reasons", "\x30\x04\x83\x02\x06\x40", nil, true},
		{"indirect", "\x30\x03\x84\x01\xff", nil, true},
		{"attribute certificates", "\x30\x03\x85\x01\xff", nil, true},
	} {
		for _, critical := range []bool{true, false} {
			c, err := with(critical, x.value)
			if err != nil || c.Point == nil || c.Point.Critical != critical || c.Point.Narrower != x.narrower || !slices.Equal(c.Point.URIs, x.uris) {
				t.Errorf("%s: %+v, %v", x.name, c, err)
			}
		}
	}
	for _, value := range []string{"", "\x30\x01", "\x31\x00", "\x30\x00\x00", "\x30\x02\xa0\x00", "\x30\x02\x86\x00", "\x30\x05\xa0\x03\xa0\x01\x86",
		"\x30\x06\xa0\x04\xa0\x00\xa0\x00", "\x30\x06\x82\x01\xff\x81\x01\xff"} {
		if _, err := with(true, value); !errors.Is(err, ErrMalformed) {
			t.Errorf("%x: %v", value, err)
		}
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
