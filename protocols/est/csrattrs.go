package est

import (
	"encoding/asn1"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	cryptobyteasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/wire"
)

// typeCSRAttrs is the content type of /csrattrs (RFC 8951 section 4).
const typeCSRAttrs = "application/csrattrs"

var (
	oidRSA     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1} // RFC 3279 section 2.3.1
	oidEC      = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}     // RFC 5480 section 2.1.1
	oidEd25519 = asn1.ObjectIdentifier{1, 3, 101, 112}             // RFC 8410 section 3

	oidSHA256WithRSA = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11} // RFC 4055 section 5
)

// curves are those of RFC 5480 section 2.1.1.1, each with the hash of its strength for the request's signature (RFC 5758
// section 3.2).
var curves = map[string]struct{ oid, signature asn1.ObjectIdentifier }{
	"P-256": {asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}},
	"P-384": {asn1.ObjectIdentifier{1, 3, 132, 0, 34}, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}},
	"P-521": {asn1.ObjectIdentifier{1, 3, 132, 0, 35}, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 4}},
}

// announcement is an answer to /csrattrs, kept for the profile that it was made of.
type announcement struct {
	profile *gateway.Profile
	der     []byte // CsrAttrs; nil when there is nothing to ask for
}

// csrAttrs answers RFC 7030 section 4.5 (4.5.2 as in RFC 8951 section 4): what a request should have to be certified under
// the endpoint's profile. It is the same for everybody, but an MEF's clients. 204 says that there is nothing to ask for.
func (x *exchange) csrAttrs() *wire.Refusal {
	announced := x.announced
	switch {
	case x.mef():
		announced = x.announcedToMEF
	case x.mefByPassword():
		announced = x.announcedToUser
	}
	der, err := announced()
	if err != nil {
		return wire.Refused(gateway.Internal, "", err)
	}
	if der == nil {
		x.Answered = true
		x.W.WriteHeader(http.StatusNoContent)
		return nil
	}
	x.writeBase64(typeCSRAttrs, der)
	return nil
}

// announced returns the endpoint's CsrAttrs, made once for each profile that it has had.
func (x *exchange) announced() ([]byte, error) {
	profiles := x.h.gateway.ProfilesOf(x.endpoint.Name)
	if len(profiles) == 0 {
		return nil, errors.New("the endpoint has no profile")
	}
	p := profiles[0]
	if a := x.endpoint.announced.Load(); a != nil && a.profile == p {
		return a.der, nil
	}
	der, err := announce(p, x.endpoint.Config.CSRAttrs, x.h.gateway.RequiresLinking(x.endpoint.Name))
	if err != nil {
		return nil, err
	}
	x.endpoint.announced.Store(&announcement{p, der})
	return der, nil
}

// announce makes the CsrAttrs for a profile, nil when there is nothing to ask for. linked says that requests have to carry
// the channel binding, which MUST be announced (RFC 8951 section 4).
func announce(p *gateway.Profile, form CSRAttrs, linked bool) ([]byte, error) {
	var list []attrOrOID
	if linked { // whatever the form
		list = append(list, attrOrOID{oid: oidChallengePassword})
	}
	if form != CSRAttrsNone {
		wanted := p.NamesWanted()
		asked, err := askedFor(p, wanted, form == CSRAttrsTemplate, form == CSRAttrsAuto && len(wanted.SAN) > 0)
		if err != nil {
			return nil, err
		}
		list = append(list, asked...)
	}
	if len(list) == 0 {
		return nil, nil
	}
	return marshalCSRAttrs(list)
}

// askedFor is what a request should have beside a challengePassword: the profile's first key, the names wanted, and what signs. template
// puts what it can into a template (RFC 9908 section 3.4); extension names subjectAltName by its OID.
func askedFor(p *gateway.Profile, wanted gateway.NamesWanted, template, extension bool) (list []attrOrOID, err error) {
	key := firstKey(p.Keys)
	if key != nil {
		list = append(list, key.attribute())
	}
	if template {
		filled, err := requestTemplate(p, key, wanted)
		if err != nil {
			return nil, err
		}
		if filled != nil {
			list = append(list, attrOrOID{oidRequestTemplate, filled, true})
		}
	}
	if extension {
		// RFC 8951 section 4 puts the OIDs of extensions here, which RFC 9908 section 5.2 finds to be wrong.
		list = append(list, attrOrOID{oidExtensionRequest, oidElement(oidSubjectAltName), true})
	}
	for _, name := range wanted.Subject { // as RFC 9908 section 5.5 asks for a serialNumber
		list = append(list, attrOrOID{oid: name})
	}
	if key != nil && key.signature != nil {
		list = append(list, attrOrOID{oid: key.signature})
	}
	return list, nil
}

// attrOrOID is an element of CsrAttrs: an OID alone, or an attribute.
type attrOrOID struct {
	oid         asn1.ObjectIdentifier
	value       []byte // DER; nil for none, as RFC 9908 section 3.2 allows
	isAttribute bool
}

// marshalCSRAttrs writes RFC 8951 section 4's
//
//	CsrAttrs ::= SEQUENCE SIZE (0..MAX) OF AttrOrOID
//	AttrOrOID ::= CHOICE { oid OBJECT IDENTIFIER, attribute Attribute }
func marshalCSRAttrs(list []attrOrOID) ([]byte, error) {
	return sequence(func(b *cryptobyte.Builder) {
		for _, a := range list {
			a.add(b)
		}
	})
}

func (a attrOrOID) add(b *cryptobyte.Builder) {
	if a.isAttribute {
		addAttribute(b, a.oid, a.value)
	} else {
		b.AddASN1ObjectIdentifier(a.oid)
	}
}

// addAttribute adds Attribute ::= SEQUENCE { type OBJECT IDENTIFIER, values SET OF ANY } (RFC 2986 section 4.1) with one value
// or none.
func addAttribute(b *cryptobyte.Builder, oid asn1.ObjectIdentifier, value []byte) {
	b.AddASN1(cryptobyteasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oid)
		b.AddASN1(cryptobyteasn1.SET, func(b *cryptobyte.Builder) {
			b.AddBytes(value)
		})
	})
}

// oidElement is the DER of a constant OBJECT IDENTIFIER.
func oidElement(oid asn1.ObjectIdentifier) []byte {
	var b cryptobyte.Builder
	b.AddASN1ObjectIdentifier(oid)
	return b.BytesOrPanic()
}

// askedKey is the key that a request should have.
type askedKey struct {
	algorithm asn1.ObjectIdentifier
	curve     asn1.ObjectIdentifier // nil unless algorithm is oidEC
	bits      int                   // of an RSA modulus
	signature asn1.ObjectIdentifier // the algorithm that signs the request; nil where the key leaves no choice
}

// firstKey is the first kind of key that a profile certifies, nil where it does not say: RFC 9908 section 3.2 lets one be
// asked for. The others are certified as well.
func firstKey(keys []string) *askedKey {
	if len(keys) == 0 {
		return nil
	}
	name := keys[0]
	if name == "Ed25519" {
		return &askedKey{algorithm: oidEd25519} // the key says what signs
	}
	if c, ok := curves[name]; ok {
		return &askedKey{algorithm: oidEC, curve: c.oid, signature: c.signature}
	}
	digits := strings.TrimPrefix(strings.TrimPrefix(name, "RSA-"), "RSA>=")
	bits, err := strconv.Atoi(digits)
	if err != nil {
		return nil // a kind that this file does not know
	}
	return &askedKey{algorithm: oidRSA, bits: bits, signature: oidSHA256WithRSA}
}

// attribute names the kind of key with its curve or size (RFC 8951 section 4, RFC 9908 section 3.2).
func (k *askedKey) attribute() attrOrOID {
	a := attrOrOID{oid: k.algorithm, isAttribute: true}
	switch {
	case k.curve != nil:
		a.value = oidElement(k.curve)
	case k.bits > 0:
		var b cryptobyte.Builder
		b.AddASN1Int64(int64(k.bits))
		a.value = b.BytesOrPanic()
	}
	return a
}
