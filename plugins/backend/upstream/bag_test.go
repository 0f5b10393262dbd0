package upstream

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
)

// issuerOf is a CA for tests.
type issuerOf struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// under makes a CA's certificate for a name and key (nil: a new one), by another CA (nil: self-signed).
func under(t *testing.T, by *issuerOf, cn string, key *ecdsa.PrivateKey, ca bool) *issuerOf {
	t.Helper()
	var err error
	if key == nil {
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: cn}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		BasicConstraintsValid: true, IsCA: ca, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if ca {
		c.KeyUsage = x509.KeyUsageCertSign
	}
	parent, signer := c, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issuerOf{key, made}
}

// A chain out of a bag in any order: the issuing CA's, by the shortest way, with what a rollover adds left aside.
func TestBagChain(t *testing.T) {
	oldRoot := under(t, nil, "Root", nil, true)
	newRoot := under(t, nil, "Root", nil, true)
	newWithOld := under(t, oldRoot, "Root", newRoot.key, true)
	oldWithNew := under(t, newRoot, "Root", oldRoot.key, true)
	issuing := under(t, newRoot, "Issuing", nil, true)
	ra := under(t, issuing, "RA", nil, false)
	leaf := under(t, issuing, "device", nil, false)
	bag := Bag{ra.cert, oldRoot.cert, newWithOld.cert, oldWithNew.cert, newRoot.cert, issuing.cert}
	for range len(bag) {
		bag = append(bag[1:], bag[0])
		chain, err := bag.Chain()
		if err != nil || len(chain) != 2 || !chain[0].Equal(issuing.cert) || !chain[1].Equal(newRoot.cert) {
			t.Fatalf("%d certificates, %v", len(chain), err)
		}
		if ca := bag.CA("x", chain); len(ca.Chain) != 2 || len(ca.Rollover) != 3 {
			t.Errorf("chain of %d, rollover of %d", len(ca.Chain), len(ca.Rollover))
		}
		if up := bag.Above(leaf.cert); len(up) != 2 || !up[0].Equal(issuing.cert) {
			t.Errorf("%d above the leaf", len(up))
		}
	}
	if _, err := (Bag{issuing.cert, ra.cert, newWithOld.cert}).Chain(); err == nil {
		t.Error("a chain without a root")
	}
	if chain, err := (Bag{newRoot.cert}).Chain(); err != nil || len(chain) != 1 {
		t.Errorf("a root that certifies devices: %d, %v", len(chain), err)
	}
	// A name alone does not make an issuer, and a ring of certificates has no end.
	imposter := under(t, nil, "Issuing", nil, true)
	if up := (Bag{imposter.cert}).Above(leaf.cert); up != nil {
		t.Error("an issuer by its name")
	}
	if up := (Bag{newWithOld.cert, oldWithNew.cert}).Above(issuing.cert); up != nil {
		t.Error("a ring")
	}
}

func TestBagIssued(t *testing.T) {
	root := under(t, nil, "Root", nil, true)
	leaf, other := under(t, root, "device", nil, false), under(t, root, "other", nil, false)
	bag, key := Bag{root.cert}, leaf.cert.RawSubjectPublicKeyInfo
	if got, err := bag.Issued(key, Bag{root.cert, leaf.cert}); err != nil || !slices.Equal(got.Certificate, leaf.cert.Raw) || len(got.Chain) != 1 {
		t.Errorf("%v", err)
	}
	if got, err := bag.Issued(key, Bag{other.cert}); err != nil || !slices.Equal(got.Certificate, other.cert.Raw) {
		t.Errorf("another key's certificate is for the gateway to refuse, and revoke: %v", err)
	}
	for name, sent := range map[string]Bag{"nothing": nil, "two others": {other.cert, root.cert}, "a stranger's": {under(t, under(t, nil, "Stranger", nil, true), "device", leaf.key, false).cert}} {
		if _, err := bag.Issued(key, sent); err == nil || backend.Definite(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDecides(t *testing.T) {
	if got, err := Decides(nil, backend.FieldValidity); err != nil || len(got) != 1 {
		t.Error(got, err)
	}
	if got, err := Decides([]string{"validity", "subject"}); err != nil || !slices.Equal(got, []backend.Field{backend.FieldValidity, backend.FieldSubject}) {
		t.Error(got, err)
	}
	for want, given := range map[string][]string{"each once": {"validity", "validity"}, "serial": {"validity", "serial"}, "no place for dates": {"subject"}} {
		if _, err := Decides(given); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", given, err)
		}
	}
}

func TestParseBag(t *testing.T) {
	root := under(t, nil, "Root", nil, true)
	bag, err := ParseBag([][]byte{root.cert.Raw, {0x30, 0}, root.cert.Raw})
	if err != nil || len(bag) != 1 {
		t.Errorf("%d, %v", len(bag), err)
	}
	if _, err := ParseBag(make([][]byte, maxBag+1)); err == nil {
		t.Error("a bag without bounds")
	}
}

// Certificates that certify each other in all ways lead nowhere, and soon: there are more ways than anybody can go.
func TestBagOfCircles(t *testing.T) {
	root := under(t, nil, "Root", nil, true)
	x, y := under(t, root, "X", nil, true), under(t, root, "Y", nil, true)
	var bag Bag
	for range maxBag/2 - 1 {
		bag = append(bag, under(t, y, "X", x.key, true).cert, under(t, x, "Y", y.key, true).cert)
	}
	leaf := under(t, x, "device", nil, false)
	if up := bag.Above(leaf.cert); up != nil {
		t.Errorf("%d above the leaf", len(up))
	}
	if chain, err := bag.Chain(); err == nil {
		t.Errorf("a chain of %d", len(chain))
	}
	bag = append(bag, y.cert, root.cert)
	for i, up := range bag.AboveEach(Bag{leaf.cert, y.cert, root.cert}) {
		if want := []int{3, 1, 0}[i]; len(up) != want || up == nil {
			t.Errorf("%d above, not %d", len(up), want)
		}
	}
}
