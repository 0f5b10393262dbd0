package cms

import (
	"encoding/asn1"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// OIDCapabilities is the type of an attribute with SMIMECapabilities (RFC 8551 section 2.5.2).
var OIDCapabilities = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 15}

// maxCapabilities is how many algorithms are read.
const maxCapabilities = 64

// Capabilities are the algorithms that somebody says to be able to decrypt with.
type Capabilities struct {
	ciphers    []Cipher                // AES in CBC mode, the largest key first
	wraps      []int                   // AES key wrap, octets of its key, the largest first
	transports []asn1.ObjectIdentifier // with RSA
	schemes    []asn1.ObjectIdentifier // of key agreement
	others     bool                    // there are algorithms that are none of these
}

// ParseCapabilities reads the value of an attribute SMIMECapabilities. Algorithms that are not known here are passed over. The
// error is ErrSyntax or ErrLimit.
//
//	SMIMECapabilities ::= SEQUENCE OF SMIMECapability       -- RFC 8551 section 2.5.2
//	SMIMECapability ::= SEQUENCE {
//	    capabilityID  OBJECT IDENTIFIER,
//	    parameters    ANY DEFINED BY capabilityID OPTIONAL }
//
// Those of a key agreement are the key wrap that goes with it (RFC 5753 section 7.1.5).
func ParseCapabilities(der []byte) (*Capabilities, error) {
	bad := func(what string) (*Capabilities, error) { return nil, &Error{What: what, Err: ErrSyntax} }
	in := cryptobyte.String(der)
	var list cryptobyte.String
	if !in.ReadASN1(&list, cbasn1.SEQUENCE) || !in.Empty() {
		return bad("SMIMECapabilities")
	}
	c := &Capabilities{}
	for n := 0; !list.Empty(); n++ {
		if n == maxCapabilities {
			return nil, &Error{What: "number of SMIMECapabilities", Err: ErrLimit}
		}
		var oid, wrap asn1.ObjectIdentifier
		var params cryptobyte.String
		if !readAlgorithm(&list, &oid, &params) {
			return bad("SMIMECapability")
		}
		if isScheme(oid) {
			c.schemes = append(c.schemes, oid)
			if readAlgorithm(&params, &wrap, new(cryptobyte.String)) {
				c.addWrap(wrap)
			}
			continue
		}
		if oid.Equal(oidRSA) || oid.Equal(oidOAEP) {
			c.transports = append(c.transports, oid)
			continue
		}
		if alg := cipherByOID(oid); alg == AES128 || alg == AES192 || alg == AES256 {
			c.ciphers = append(c.ciphers, alg)
		} else if !c.addWrap(oid) {
			c.others = true
		}
	}
	slices.Sort(c.ciphers)
	slices.Reverse(c.ciphers)
	slices.Sort(c.wraps)
	slices.Reverse(c.wraps)
	return c, nil
}

func (c *Capabilities) addWrap(oid asn1.ObjectIdentifier) bool {
	for size, name := range wraps {
		if name.Equal(oid) {
			c.wraps = append(c.wraps, size)
			return true
		}
	}
	return false
}

// isScheme reports whether an OID is a key agreement of RFC 5753 section 7.1.4: those with SHA-2, and those with SHA-1 under
// X9.63's own arc.
func isScheme(oid asn1.ObjectIdentifier) bool {
	under := func(arc asn1.ObjectIdentifier) bool { return len(oid) > len(arc) && oid[:len(arc)].Equal(arc) }
	return under(asn1.ObjectIdentifier{1, 3, 132, 1}) || under(asn1.ObjectIdentifier{1, 3, 133, 16, 840, 63, 0})
}

// Fit makes an Envelope with algorithms that are among the capabilities, nil for any: content in AES-CBC with the largest key. Where
// they name no algorithm of a kind (ciphers, key wraps, key transports, schemes of key agreement), the kind is left to us; where
// they name some and none is ours it is ErrAlgorithm, and the Error's text is what is missing. to is *KeyTransport, *KeyAgreement or
// *SharedKey, and not changed.
func (c *Capabilities) Fit(to Recipient) (*Envelope, error) {
	cipher, to, err := c.choose(to)
	if err != nil {
		return nil, err
	}
	return NewEnvelope(cipher, to)
}

// Allow returns the error that Fit would for want of an algorithm, and encrypts nothing.
func (c *Capabilities) Allow(to Recipient) error {
	_, _, err := c.choose(to)
	return err
}

func (c *Capabilities) choose(to Recipient) (Cipher, Recipient, error) {
	if c == nil {
		return AES256, to, nil
	}
	missing := func(what string) (Cipher, Recipient, error) { return 0, nil, &Error{What: what, Err: ErrAlgorithm} }
	cipher := AES256
	switch {
	case len(c.ciphers) > 0:
		cipher = c.ciphers[0]
	case c.others:
		return missing("AES-256-CBC, AES-192-CBC or AES-128-CBC")
	case len(c.wraps) > 0:
		cipher = map[int]Cipher{16: AES128, 24: AES192, 32: AES256}[c.wraps[0]]
	}
	switch r := to.(type) {
	case *SharedKey:
		if len(c.wraps) > 0 && !slices.Contains(c.wraps, len(r.Key)) {
			return missing("AES key wrap with a key of the size of the one that is shared")
		}
	case *KeyAgreement:
		if len(c.schemes) > 0 && !slices.ContainsFunc(c.schemes, schemeOf(r).Equal) {
			return missing("the key agreement of the key's curve with SHA-2 (RFC 5753 section 7.1.4)")
		}
		if len(c.wraps) > 0 {
			to = &KeyAgreement{Key: r.Key, WrapSize: c.wraps[0]}
		}
	case *KeyTransport:
		if len(c.transports) > 0 {
			to = &KeyTransport{Key: r.Key, PKCS1v15: !slices.ContainsFunc(c.transports, oidOAEP.Equal)}
		}
	}
	return cipher, to, nil
}

// schemeOf is the key agreement of a key's curve, nil for a curve that is none of ours.
func schemeOf(r *KeyAgreement) asn1.ObjectIdentifier {
	if r.Key == nil {
		return nil
	}
	pub, err := r.Key.ECDH()
	if err != nil {
		return nil
	}
	for _, a := range agreements {
		if a.curve == pub.Curve() {
			return a.scheme
		}
	}
	return nil
}
