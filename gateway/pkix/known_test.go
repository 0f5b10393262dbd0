package pkix

import (
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// What was verified once is not verified again, and all that can change since is.
func TestKnownPaths(t *testing.T) {
	root := issue(t, ca("Root"), nil)
	inter := issue(t, ca("Intermediate"), root)
	upper := certs(inter, root)
	policy := func() *ChainPolicy {
		p := &ChainPolicy{Roots: certs(root), Known: &KnownPaths{}}
		if _, err := p.Verify(certs(issue(t, device("first"), inter), inter), noon); err != nil || !p.Known.has(upper) {
			t.Fatalf("%v; known: %t", err, p.Known.has(upper))
		}
		return p
	}
	leaf := issue(t, device("second"), inter)
	if path, err := policy().Verify(certs(leaf, inter), noon); err != nil || len(path) != 3 || !path[2].Equal(root.Certificate) {
		t.Errorf("the next device: path of %d, %v", len(path), err)
	}

	// Nobody has signed this one: it passes since it is taken for known, which shows that nothing looks again.
	forged := issue(t, ca("Intermediate"), issue(t, ca("Root"), nil))
	below := certs(issue(t, device("third"), forged), forged)
	p := policy()
	if _, err := p.Verify(below, noon); !errors.Is(err, ErrUntrusted) {
		t.Errorf("an issuer that the root has not signed: %v", err)
	}
	if p.Known.has(certs(forged, root)) {
		t.Error("what was refused is known")
	}
	p.Known.add(certs(forged, root))
	if _, err := p.Verify(below, noon); err != nil {
		t.Errorf("an issuer that is known: %v", err)
	}

	spoiled := *leaf.Certificate
	spoiled.Signature = append([]byte(nil), leaf.Signature...)
	spoiled.Signature[len(spoiled.Signature)-1] ^= 1
	blocked, err := ReadBlocklist(strings.NewReader(fmt.Sprintf("%x\n", sha256.Sum256(inter.RawSubjectPublicKeyInfo))))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		leaf *x509.Certificate
		now  time.Time
		p    func(*ChainPolicy)
		want error
	}{
		"the leaf's signature":             {leaf: &spoiled, want: ErrUntrusted},
		"the root is not trusted any more": {p: func(p *ChainPolicy) { p.Roots = certs(issue(t, ca("Root"), nil)) }, want: ErrUntrusted},
		"all have ended":                   {now: noon.Add(2 * time.Hour), want: ErrExpired},
		"all have ended, the leaf but a while ago": {
			now: noon.Add(2 * time.Hour), p: func(p *ChainPolicy) { p.Grace = 24 * time.Hour }, want: ErrExpired,
		},
		"the issuer is revoked": {p: func(p *ChainPolicy) {
			p.Revoked = func(c *x509.Certificate) (bool, error) { return c.Equal(inter.Certificate), nil }
		}, want: ErrRevoked},
		"the issuer's key is on the blocklist": {p: func(p *ChainPolicy) { p.Blocklist = blocked }, want: ErrWeak},
	} {
		t.Run(name, func(t *testing.T) {
			p := policy()
			if c.p != nil {
				c.p(p)
			}
			if c.leaf == nil {
				c.leaf = leaf.Certificate
			}
			if c.now.IsZero() {
				c.now = noon
			}
			if _, err := p.Verify([]*x509.Certificate{c.leaf, inter.Certificate}, c.now); !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}

// Within the grace period the CA certificates are judged by the leaf's end, too: what is known says nothing of that.
func TestKnownPathsInGrace(t *testing.T) {
	root := issue(t, ca("Root"), nil)
	young := ca("Intermediate")
	young.NotBefore = noon.Add(-10 * time.Minute)
	inter := issue(t, young, root)
	old := device("old")
	old.NotBefore, old.NotAfter = noon.Add(-time.Hour), noon.Add(-30*time.Minute)
	leaf := issue(t, old, inter)
	for _, known := range []*KnownPaths{nil, {}} {
		p := &ChainPolicy{Roots: certs(root), Grace: time.Hour, Known: known}
		if known != nil {
			known.add(certs(inter, root))
		}
		if _, err := p.Verify(certs(leaf, inter), noon); !errors.Is(err, ErrExpired) {
			t.Errorf("known %v: %v", known != nil, err)
		}
	}
}

// Constraints judge each leaf: a path with any is verified whole each time.
func TestKnownPathsConstrained(t *testing.T) {
	sequence := func(b ...byte) []byte { return append([]byte{0x30, byte(len(b))}, b...) }
	with := func(name string, id asn1.ObjectIdentifier, value []byte) *x509.Certificate {
		c := ca(name)
		c.ExtraExtensions = []pkix.Extension{{Id: id, Value: value}}
		return c
	}
	named := func(c *x509.Certificate) *x509.Certificate {
		c.PermittedDNSDomains = []string{"example.com"}
		return c
	}
	requireExplicit := sequence(0x80, 1, 0)
	for name, c := range map[string]struct {
		root, inter *x509.Certificate
		leaf        func(*x509.Certificate)
	}{
		"names, root":         {root: named(ca("Root"))},
		"names, intermediate": {inter: named(ca("Intermediate"))},
		"policyConstraints":   {inter: with("Intermediate", oidPolicyConstraints, requireExplicit)},
		"policyMappings":      {inter: with("Intermediate", asn1.ObjectIdentifier{2, 5, 29, 33}, sequence(sequence(6, 2, 42, 3, 6, 2, 42, 4)...))},
		"inhibitAnyPolicy":    {inter: with("Intermediate", asn1.ObjectIdentifier{2, 5, 29, 54}, []byte{2, 1, 0})},
		"the leaf's": {leaf: func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: oidPolicyConstraints, Value: requireExplicit}}
		}},
		"one name": {inter: ca("Root")},
	} {
		t.Run(name, func(t *testing.T) {
			if c.root == nil {
				c.root = ca("Root")
			}
			if c.inter == nil {
				c.inter = ca("Intermediate")
			}
			root := issue(t, c.root, nil)
			inter := issue(t, c.inter, root)
			for i, host := range []string{"a.example.com", "a.example.org"} {
				tmpl := device("device")
				tmpl.DNSNames = []string{host}
				if c.leaf != nil {
					c.leaf(tmpl)
				}
				chain := certs(issue(t, tmpl, inter), inter)
				plain := &ChainPolicy{Roots: certs(root)}
				_, want := plain.Verify(chain, noon)
				knowing := &ChainPolicy{Roots: certs(root), Known: &KnownPaths{}}
				if i == 1 { // whoever came before
					knowing.Known.add(certs(inter, root))
				}
				if _, err := knowing.Verify(chain, noon); (err == nil) != (want == nil) {
					t.Errorf("%s: %v, and %v where nothing is known", host, err, want)
				}
				if i == 0 && knowing.Known.has(certs(inter, root)) {
					t.Error("it is known now")
				}
			}
		})
	}
}

func TestKnownPathsBounded(t *testing.T) {
	root := issue(t, ca("Root"), nil)
	k := &KnownPaths{}
	for i := range 3 * maxKnown {
		c := &x509.Certificate{Raw: []byte{byte(i >> 8), byte(i)}}
		if k.add([]*x509.Certificate{c, root.Certificate}); len(k.seen) > maxKnown || !k.has([]*x509.Certificate{c, root.Certificate}) {
			t.Fatalf("%d paths after %d", len(k.seen), i+1)
		}
	}
}
