package upstream

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/muster-pki/muster/plugins/backend"
)

// maxBag is how many certificates of a bag are looked at.
const maxBag = 64

// Bag is a set of certificates in no order that means anything, as EST's cacerts and SCEP's GetCACert give them.
type Bag []*x509.Certificate

// ParseBag takes DER certificates, at most 64 and each once. Those that do not parse are left out: a bag may hold keys that are not
// known here.
func ParseBag(ders [][]byte) (Bag, error) {
	if len(ders) > maxBag {
		return nil, fmt.Errorf("more than %d CA certificates", maxBag)
	}
	var b Bag
	for _, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err == nil && !slices.ContainsFunc(b, c.Equal) {
			b = append(b, c)
		}
	}
	return b, nil
}

// ReadBag reads a PEM file of certificates; one without any, or with one that does not parse, is an error.
func ReadBag(path string) (Bag, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var b Bag
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		b = append(b, c)
	}
	if len(b) == 0 || len(b) > maxBag {
		return nil, fmt.Errorf("%s has %d PEM certificates, and wants 1 to %d", path, len(b), maxBag)
	}
	return b, nil
}

// Above returns the certificates above c, its issuer first and a self-signed one last, by the shortest way; nil when the bag has
// none that leads there. Of a self-signed c it is empty, not nil. Dates are not looked at, but later certificates come first.
func (b Bag) Above(c *x509.Certificate) Bag { return b.above(c, checked{}) }

// AboveEach is Above of each, at the cost of little more than one.
func (b Bag) AboveEach(certs Bag) (ways []Bag) {
	seen := checked{}
	for _, c := range certs {
		ways = append(ways, b.above(c, seen))
	}
	return ways
}

// checked are signatures that were verified, of a certificate by another one. A bag may be made so that many lead in circles: each
// pair is verified once.
type checked map[[2]*x509.Certificate]bool

func (k checked) signed(c, by *x509.Certificate) bool {
	pair := [2]*x509.Certificate{c, by}
	good, known := k[pair]
	if !known {
		good = bytes.Equal(by.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(by) == nil
		k[pair] = good
	}
	return good
}

// above goes up step by step from all that the step before has reached, and never back.
func (b Bag) above(c *x509.Certificate, k checked) Bag {
	if k.signed(c, c) {
		return Bag{}
	}
	below := map[*x509.Certificate]*x509.Certificate{c: nil}
	reached := Bag{c}
	for depth := 1; depth <= backend.MaxChain && len(reached) > 0; depth++ {
		var next Bag
		for _, from := range reached {
			for _, by := range b.issuersOf(from, k) {
				if _, back := below[by]; back {
					continue
				}
				below[by] = from
				if k.signed(by, by) {
					return way(by, below)
				}
				next = append(next, by)
			}
		}
		reached = next
	}
	return nil
}

// way is how a root was reached, from the first certificate's issuer on.
func way(root *x509.Certificate, below map[*x509.Certificate]*x509.Certificate) (up Bag) {
	for c := root; below[c] != nil; c = below[c] {
		up = append(up, c)
	}
	slices.Reverse(up)
	return up
}

func (b Bag) issuersOf(c *x509.Certificate, k checked) (found Bag) {
	for _, by := range b {
		if k.signed(c, by) {
			found = append(found, by)
		}
	}
	slices.SortStableFunc(found, func(x, y *x509.Certificate) int { return cmp.Compare(y.NotBefore.Unix(), x.NotBefore.Unix()) })
	return found
}

// Chain is the chain of the issuing CA, its certificate first and the root last: of the first CA certificate in the bag that
// certified no other CA; a root that certifies devices itself is taken where there is no such below it. It fails when none leads to a root.
func (b Bag) Chain() (Bag, error) {
	k := checked{}
	for _, root := range []bool{false, true} {
		for _, c := range b {
			// What a name certified for itself is a link between two roots, or one of these.
			if own := bytes.Equal(c.RawSubject, c.RawIssuer); !certifies(c) || own != root || root && !k.signed(c, c) || b.certifiedCA(c, k) {
				continue
			}
			if up := b.above(c, k); up != nil {
				return append(Bag{c}, up...), nil
			}
		}
	}
	return nil, errors.New("the CA's certificates lead to no root among them")
}

// certifiedCA reports whether a CA of another name in the bag is below c.
func (b Bag) certifiedCA(c *x509.Certificate, k checked) bool {
	return slices.ContainsFunc(b, func(below *x509.Certificate) bool {
		return certifies(below) && !bytes.Equal(below.RawSubject, c.RawSubject) && k.signed(below, c)
	})
}

// CA is the one issuing CA with that chain: what else of CAs is in the bag is Rollover.
func (b Bag) CA(name string, chain Bag) backend.CA {
	ca := backend.CA{Name: name, Chain: chain.DER()}
	for _, c := range b {
		if certifies(c) && !slices.ContainsFunc(chain, c.Equal) {
			ca.Rollover = append(ca.Rollover, c.Raw)
		}
	}
	return ca
}

// DER are the certificates' encodings.
func (b Bag) DER() [][]byte {
	ders := make([][]byte, len(b))
	for i, c := range b {
		ders[i] = c.Raw
	}
	return ders
}

func certifies(c *x509.Certificate) bool {
	return c.IsCA && c.BasicConstraintsValid && c.KeyUsage&x509.KeyUsageCertSign != 0
}
