package pkix

import (
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// What the search spares is counted: it finds the same without, for more.
func TestChainSearch(t *testing.T) {
	root := issue(t, ca("Root"), nil)
	begin := func(p *ChainPolicy, chain ...*entity) *search {
		return &search{policy: p, now: noon, leafTime: noon, signatures: maxSignatures, steps: maxSteps, pool: certs(chain[1:]...)}
	}

	// Two CAs that certified each other lead nowhere, at once.
	one, two := issue(t, ca("One"), nil), issue(t, ca("Two"), nil)
	chain := []*entity{issue(t, device("device"), one), issue(t, ca("One"), two, one.key), issue(t, ca("Two"), one, two.key)}
	s := begin(&ChainPolicy{Roots: certs(root)}, chain...)
	if path := s.extend(certs(chain[0])); path != nil || maxSteps-s.steps > 3 {
		t.Errorf("path of %d after %d steps", len(path), maxSteps-s.steps)
	}

	// An operator's roots of one name are tried until the steps run out, and no further.
	stranger := issue(t, device("device"), issue(t, ca("Root"), nil))
	many := &ChainPolicy{}
	for range maxSteps + 10 {
		many.Roots = append(many.Roots, root.Certificate)
	}
	s = begin(many, stranger)
	if path := s.extend(certs(stranger)); path != nil || s.steps != -1 || s.signatures != 0 {
		t.Errorf("path of %d, %d steps and %d signatures left", len(path), s.steps, s.signatures)
	}

	// Of two CAs of a name the one whose key identifier the leaf has is tried first, and the other one too: the identifier is a hint
	// (RFC 5280 section 4.2.1.1).
	right, wrong := issue(t, ca("CA"), root), issue(t, ca("CA"), root)
	leaf := issue(t, device("device"), right)
	p := &ChainPolicy{Roots: certs(root), MaxSignatures: 2}
	if _, err := p.Verify(certs(leaf, wrong, right), noon); err != nil {
		t.Error(err)
	}
	misled := *leaf.Certificate
	misled.AuthorityKeyId = wrong.SubjectKeyId
	if _, err := p.Verify([]*x509.Certificate{&misled, wrong.Certificate, right.Certificate}, noon); !errors.Is(err, ErrUntrusted) {
		t.Errorf("both ways by a budget for one: %v", err)
	}
	p.MaxSignatures = 0
	if _, err := p.Verify([]*x509.Certificate{&misled, wrong.Certificate, right.Certificate}, noon); err != nil {
		t.Error(err)
	}
}

// Of several ways that fail, what is told is the one that says more than that nobody is trusted.
func TestChainTells(t *testing.T) {
	over := ca("Root")
	over.NotAfter = noon.Add(-time.Second)
	root := issue(t, over, nil)
	leaf := issue(t, device("device"), root)
	leaf.AuthorityKeyId = nil // or the right root is always first
	stranger := issue(t, ca("Root"), nil)
	for _, roots := range [][]*entity{{stranger, root}, {root, stranger}} {
		p := ChainPolicy{Roots: certs(roots...)}
		if _, err := p.Verify(certs(leaf), noon); !errors.Is(err, ErrExpired) {
			t.Error(err)
		}
	}
}

// An anchor may be a bare version 1 certificate, and its own signature, which proves nothing, any.
func TestChainAnchor(t *testing.T) {
	root := issue(t, ca("Root"), nil)
	leaf := issue(t, device("device"), root)
	bare := *root.Certificate
	bare.Version, bare.BasicConstraintsValid, bare.IsCA, bare.Extensions, bare.KeyUsage = 1, false, false, nil, 0
	byMD5 := *root.Certificate
	byMD5.SignatureAlgorithm = x509.MD5WithRSA
	for name, anchor := range map[string]*x509.Certificate{"version 1": &bare, "signed with MD5": &byMD5} {
		p := ChainPolicy{Roots: []*x509.Certificate{anchor}}
		if _, err := p.Verify(certs(leaf), noon); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestChainBlocklist(t *testing.T) {
	root := issue(t, ca("Root"), nil)
	inter := issue(t, ca("Intermediate"), root)
	leaf := issue(t, device("device"), inter)
	for name, e := range map[string]*entity{"leaf": leaf, "intermediate": inter, "root": root} {
		sum := sha256.Sum256(e.RawSubjectPublicKeyInfo)
		list, err := ReadBlocklist(strings.NewReader(hex.EncodeToString(sum[:])))
		if err != nil {
			t.Fatal(err)
		}
		p := ChainPolicy{Roots: certs(root), Blocklist: list}
		if _, err := p.Verify(certs(leaf, inter), noon); !errors.Is(err, ErrWeak) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What is no list of purposes holds none, whatever it begins with.
func TestChainPurposesMalformed(t *testing.T) {
	list := func(more ...byte) []byte {
		var b cryptobyte.Builder
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(OIDClientAuth)
			b.AddBytes(more)
		})
		return b.BytesOrPanic()
	}
	for name, tt := range map[string]struct {
		value []byte
		want  bool
	}{
		"list": {list(), true}, "trailing": {append(list(), 5, 0), false}, "no OID after it": {list(5, 0), false}, "empty": {nil, false},
		"no sequence": {[]byte{5, 0}, false},
	} {
		c := &x509.Certificate{}
		c.Extensions = append(c.Extensions, pkix.Extension{Id: oidExtKeyUsage, Value: tt.value})
		if hasPurpose(c, OIDClientAuth) != tt.want {
			t.Errorf("%s: has the purpose: %t", name, !tt.want)
		}
	}
}

// Every CA below the root has to be for a purpose of the leaf's, all of them for the same one; what a root is for is the operator's to say.
func TestChainPurposesNested(t *testing.T) {
	for name, tt := range map[string]struct {
		root, upper, lower x509.ExtKeyUsage
		want               error
	}{
		"all for clients":          {x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageClientAuth, nil},
		"both for mail":            {x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageEmailProtection, x509.ExtKeyUsageEmailProtection, nil},
		"each for another":         {x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageEmailProtection, x509.ExtKeyUsageClientAuth, ErrUsage},
		"for any, and for clients": {x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageAny, x509.ExtKeyUsageClientAuth, nil},
		"a root for servers":       {x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageClientAuth, nil},
		"the upper for servers":    {x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth, ErrUsage},
		"what the leaf is not for": {x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageIPSECTunnel, x509.ExtKeyUsageIPSECTunnel, ErrUsage},
	} {
		t.Run(name, func(t *testing.T) {
			usage := func(c *x509.Certificate, u ...x509.ExtKeyUsage) *x509.Certificate {
				c.ExtKeyUsage = u
				return c
			}
			root := issue(t, usage(ca("Root"), tt.root), nil)
			upper := issue(t, usage(ca("Upper"), tt.upper), root)
			lower := issue(t, usage(ca("Lower"), tt.lower), upper)
			leaf := issue(t, usage(device("device"), x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageEmailProtection), lower)
			p := ChainPolicy{Roots: certs(root), ExtKeyUsages: []asn1.ObjectIdentifier{OIDClientAuth, {1, 3, 6, 1, 5, 5, 7, 3, 4}}}
			if _, err := p.Verify(certs(leaf, lower, upper), noon); !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
}
