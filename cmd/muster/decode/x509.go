package decode

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/gateway/pkix"
)

// certificate is what the view shows of a certificate. It is read leniently, not with crypto/x509, which refuses what
// captures are taken for: odd serial numbers, unknown curves, extensions that occur twice.
type certificate struct {
	raw, issuer, subject, spki, extensions []byte
	serial                                 *big.Int
	validity                               string
	signature                              []byte // DER AlgorithmIdentifier
}

// parseCertificate takes a DER certificate apart (RFC 5280 section 4.1):
//
//	Certificate ::= SEQUENCE { tbsCertificate TBSCertificate, signatureAlgorithm AlgorithmIdentifier, signature BIT STRING }
//	TBSCertificate ::= SEQUENCE {
//	    version [0] DEFAULT v1, serialNumber INTEGER, signature AlgorithmIdentifier, issuer Name, validity Validity,
//	    subject Name, subjectPublicKeyInfo SubjectPublicKeyInfo, issuerUniqueID [1] OPTIONAL, subjectUniqueID [2] OPTIONAL,
//	    extensions [3] OPTIONAL }
func parseCertificate(der []byte) (*certificate, bool) {
	c := &certificate{raw: der, serial: new(big.Int)}
	in := cryptobyte.String(der)
	var outer, tbs, issuer, validity, subject, spki, signature cryptobyte.String
	if !in.ReadASN1(&outer, cbasn1.SEQUENCE) || !in.Empty() || !outer.ReadASN1(&tbs, cbasn1.SEQUENCE) ||
		!outer.ReadASN1Element(&signature, cbasn1.SEQUENCE) || !outer.SkipASN1(cbasn1.BIT_STRING) ||
		!tbs.SkipOptionalASN1(contextTag(0).Constructed()) || !tbs.ReadASN1Integer(c.serial) || !tbs.SkipASN1(cbasn1.SEQUENCE) ||
		!tbs.ReadASN1Element(&issuer, cbasn1.SEQUENCE) || !tbs.ReadASN1(&validity, cbasn1.SEQUENCE) ||
		!tbs.ReadASN1Element(&subject, cbasn1.SEQUENCE) || !tbs.ReadASN1Element(&spki, cbasn1.SEQUENCE) ||
		!tbs.SkipOptionalASN1(contextTag(1)) || !tbs.SkipOptionalASN1(contextTag(2)) {
		return nil, false
	}
	c.issuer, c.subject, c.spki, c.signature = issuer, subject, spki, signature
	before, ok := readTime(&validity)
	after, ok2 := readTime(&validity)
	c.validity = "(not a Validity)"
	if ok && ok2 {
		c.validity = words.Moment(before) + " to " + words.Moment(after)
	}
	var extensions cryptobyte.String
	if tbs.PeekASN1Tag(contextTag(3).Constructed()) && tbs.ReadASN1(&extensions, contextTag(3).Constructed()) {
		c.extensions = extensions
	}
	return c, true
}

// keyID is the value of the subjectKeyIdentifier, nil without one.
func (c *certificate) keyID() (id []byte) {
	extensions(c.extensions, func(oid asn1.ObjectIdentifier, _ bool, value []byte) {
		in := cryptobyte.String(value)
		var content cryptobyte.String
		if oid.String() == oidSubjectKeyID && in.ReadASN1(&content, cbasn1.OCTET_STRING) {
			id = content
		}
	})
	return id
}

// addCertificate shows a DER certificate below n.
func addCertificate(n *node, label string, der []byte) *node {
	c, ok := parseCertificate(der)
	if !ok {
		return n.addf(label, "(not a certificate, %s) %s", bytesOf(len(der)), hexOf(der))
	}
	n = n.add(label, nameText(c.subject))
	n.add("issuer", nameText(c.issuer))
	n.add("serial", serialText(c.serial))
	n.add("valid", c.validity)
	addKey(n, "key", c.spki)
	n.add("signed with", algorithmOf(c.signature))
	addExtensions(n, c.extensions)
	sum := sha256.Sum256(der)
	n.add("SHA-256", hex.EncodeToString(sum[:]))
	return n
}

// addKey shows the kind of a public key, and why the gateway would not certify it.
func addKey(n *node, label string, spki []byte) {
	in := cryptobyte.String(spki)
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !in.Empty() {
		n.add(label, "(not a SubjectPublicKeyInfo) "+hexOf(spki))
		return
	}
	oid, params, ok := readAlgorithm(&seq)
	if !ok {
		n.add(label, "(not a SubjectPublicKeyInfo) "+hexOf(spki))
		return
	}
	name := algorithmName(oid, params)
	key, err := x509.ParsePKIXPublicKey(spki)
	if err == nil {
		if known := pkix.KeyName(key); known != "unknown" {
			name = known
		}
	}
	if seq.Empty() { // CRMF asks for a generated key so (RFC 9810 section 5.2.8): nothing to judge
		n.add(label, name+" (no key)")
		return
	}
	var bits cryptobyte.String
	if whole := seq; whole.ReadASN1(&bits, cbasn1.BIT_STRING) && len(bits) <= 1 {
		n.add(label, name+" (empty: to be generated)")
		return
	}
	if _, err := pkix.ParsePublicKey(spki); err != nil {
		name += fmt.Sprintf(" (refused by the gateway: %v)", err)
	}
	n.add(label, name)
}

const (
	oidSubjectKeyID = "2.5.29.14"
	oidExtRequest   = "1.2.840.113549.1.9.14"
	oidChallenge    = "1.2.840.113549.1.9.7"
)

// extensions calls f for each Extension of DER Extensions (RFC 5280 section 4.1); false when that is none.
func extensions(der []byte, f func(oid asn1.ObjectIdentifier, critical bool, value []byte)) bool {
	if der == nil {
		return true
	}
	good := true
	return each(der, cbasn1.SEQUENCE, func(one []byte) {
		in := cryptobyte.String(one)
		var seq, value cryptobyte.String
		var oid asn1.ObjectIdentifier
		critical := false
		if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !seq.ReadASN1ObjectIdentifier(&oid) ||
			seq.PeekASN1Tag(cbasn1.BOOLEAN) && !seq.ReadASN1Boolean(&critical) ||
			!seq.ReadASN1(&value, cbasn1.OCTET_STRING) {
			good = false
			return
		}
		f(oid, critical, value)
	}) && good
}

// addExtensions shows each extension by name.
func addExtensions(n *node, der []byte) {
	if !extensions(der, func(oid asn1.ObjectIdentifier, critical bool, value []byte) {
		text := extensionText(oid, value)
		if critical {
			text += " (critical)"
		}
		n.add(oidName(oid), text)
	}) {
		n.add("extensions", "(not Extensions) "+hexOf(der))
	}
}

// extensionText shows the value of an extension (RFC 5280 section 4.2).
func extensionText(oid asn1.ObjectIdentifier, value []byte) string {
	in := cryptobyte.String(value)
	var content cryptobyte.String
	switch oid.String() {
	case "2.5.29.17", "2.5.29.18":
		return generalNames(value)
	case "2.5.29.15":
		return bitNames(value, pkix.KeyUsages)
	case "2.5.29.37":
		var out []string
		if each(value, cbasn1.SEQUENCE, func(one []byte) { out = append(out, valueText(one)) }) {
			return strings.Join(out, ", ")
		}
	case "2.5.29.21":
		var reason int
		if in.ReadASN1Enum(&reason) {
			return choice(crlReasons, reason)
		}
	case "2.5.29.19":
		// BasicConstraints ::= SEQUENCE { cA BOOLEAN DEFAULT FALSE, pathLenConstraint INTEGER OPTIONAL }
		ca, text := false, "not a CA"
		if !in.ReadASN1(&content, cbasn1.SEQUENCE) || content.PeekASN1Tag(cbasn1.BOOLEAN) && !content.ReadASN1Boolean(&ca) {
			break
		}
		if ca {
			text = "CA"
		}
		if !content.Empty() {
			text += ", path length " + valueText(content)
		}
		return text
	case "2.5.29.35":
		// AuthorityKeyIdentifier ::= SEQUENCE { keyIdentifier [0], authorityCertIssuer [1], authorityCertSerialNumber [2] }
		var id cryptobyte.String
		if in.ReadASN1(&content, cbasn1.SEQUENCE) && content.PeekASN1Tag(contextTag(0)) && content.ReadASN1(&id, contextTag(0)) {
			return hexOf(id)
		}
	case "2.5.29.31", "2.5.29.46", "1.3.6.1.5.5.7.1.1", "1.3.6.1.5.5.7.1.11":
		if list := uris(value, 0); len(list) > 0 {
			return strings.Join(list, ", ")
		}
	case "2.5.29.32":
		var out []string
		if each(value, cbasn1.SEQUENCE, func(one []byte) {
			in := cryptobyte.String(one)
			if oid, _, ok := readAlgorithm(&in); ok { // PolicyInformation begins as an AlgorithmIdentifier does
				out = append(out, oidName(oid))
			}
		}) {
			return strings.Join(out, ", ")
		}
	}
	return valueText(value)
}

// bitNames names the bits of a BIT STRING with named bits.
func bitNames(der []byte, names []string) string {
	in := cryptobyte.String(der)
	var bits asn1.BitString
	if !in.ReadASN1BitString(&bits) || !in.Empty() || bits.BitLength > 64 {
		return hexOf(der)
	}
	var out []string
	for i := range bits.BitLength {
		switch {
		case bits.At(i) == 0:
		case i < len(names):
			out = append(out, names[i])
		default:
			out = append(out, fmt.Sprintf("bit %d", i))
		}
	}
	if out == nil {
		return "none"
	}
	return strings.Join(out, ", ")
}

// uris are the uniformResourceIdentifiers anywhere inside distribution points and access descriptions.
func uris(der []byte, depth int) (out []string) {
	in := cryptobyte.String(der)
	for !in.Empty() && depth < 8 {
		var content cryptobyte.String
		var tag cbasn1.Tag
		if !in.ReadAnyASN1(&content, &tag) {
			break
		}
		switch {
		case tag == contextTag(6):
			out = append(out, string(content))
		case tag&0x20 != 0:
			out = append(out, uris(content, depth+1)...)
		}
	}
	return out
}

// addCSR shows a PKCS#10 request (RFC 2986). Only what the gateway would take is shown in full; of anything else its error.
func (d *decoder) addCSR(n *node, label string, der []byte) {
	csr, err := pkix.ParseCSR(der, pkix.AllowSHA1())
	if err != nil {
		d.addOddCSR(n.addf(label, "(%v)", err), der)
		return
	}
	n = n.add(label, nameText(csr.Subject))
	addKey(n, "key", csr.PublicKey)
	for _, a := range csr.Attributes {
		for _, value := range a.Values {
			d.addAttribute(n, a.OID, value)
		}
	}
	n.add("self-signed", signatureState(csr.CheckSignature(pkix.AllowSHA1())))
}

// addOddCSR shows subject, key and attributes of a request that the gateway would refuse.
func (d *decoder) addOddCSR(n *node, der []byte) {
	in := cryptobyte.String(der)
	var outer, info, subject, spki, attributes cryptobyte.String
	if !in.ReadASN1(&outer, cbasn1.SEQUENCE) || !outer.ReadASN1(&info, cbasn1.SEQUENCE) || !info.SkipASN1(cbasn1.INTEGER) ||
		!info.ReadASN1Element(&subject, cbasn1.SEQUENCE) {
		n.add("content", hexOf(der))
		return
	}
	n.add("subject", nameText(subject))
	if !info.ReadASN1Element(&spki, cbasn1.SEQUENCE) {
		return
	}
	addKey(n, "key", spki)
	if info.ReadASN1(&attributes, contextTag(0).Constructed()) {
		for !attributes.Empty() {
			var one, values, value cryptobyte.String
			var oid asn1.ObjectIdentifier
			var tag cbasn1.Tag
			if !attributes.ReadASN1(&one, cbasn1.SEQUENCE) || !one.ReadASN1ObjectIdentifier(&oid) || !one.ReadASN1(&values, cbasn1.SET) {
				return
			}
			for values.ReadAnyASN1Element(&value, &tag) {
				d.addAttribute(n, oid, value)
			}
		}
	}
}

// addAttribute shows an attribute of a request.
func (d *decoder) addAttribute(n *node, oid asn1.ObjectIdentifier, value []byte) {
	switch name := oidName(oid); {
	case oid.String() == oidChallenge:
		n.add(name, d.secretText(value))
	case strings.HasPrefix(name, "extensionRequest"):
		addExtensions(n.add(name, ""), value)
	default:
		d.outline(n, name, value)
	}
}

// secretText shows that there is a secret text, and the text itself only when told to.
func (d *decoder) secretText(der []byte) string {
	in := cryptobyte.String(der)
	var content cryptobyte.String
	var tag cbasn1.Tag
	switch {
	case d.showSecrets:
		return valueText(der)
	case !in.ReadAnyASN1(&content, &tag) || !in.Empty():
		return fmt.Sprintf("present (%s)", bytesOf(len(der)))
	case tag == cbasn1.Tag(30):
		return fmt.Sprintf("present (%d characters)", len(content)/2)
	}
	return fmt.Sprintf("present (%d characters)", utf8.RuneCount(content))
}

// signatureState says what came of verifying.
func signatureState(err error) string {
	switch {
	case err == nil:
		return "verifies"
	case errors.Is(err, pkix.ErrSignature):
		return "DOES NOT VERIFY"
	}
	return fmt.Sprintf("not checked: %v", err)
}

// addCRL shows a DER CertificateList (RFC 5280 section 5.1) without its entries.
func addCRL(n *node, label string, der []byte) {
	in := cryptobyte.String(der)
	var outer, tbs, signature, issuer, revoked, explicit cryptobyte.String
	if !in.ReadASN1(&outer, cbasn1.SEQUENCE) || !in.Empty() || !outer.ReadASN1(&tbs, cbasn1.SEQUENCE) ||
		!tbs.SkipOptionalASN1(cbasn1.INTEGER) || !tbs.ReadASN1Element(&signature, cbasn1.SEQUENCE) ||
		!tbs.ReadASN1Element(&issuer, cbasn1.SEQUENCE) {
		n.addf(label, "(not a CRL, %s) %s", bytesOf(len(der)), hexOf(der))
		return
	}
	n = n.add(label, "of "+nameText(issuer))
	n.add("signed with", algorithmOf(signature))
	if t, ok := readTime(&tbs); ok {
		n.add("this update", words.Moment(t))
	}
	if tbs.PeekASN1Tag(cbasn1.UTCTime) || tbs.PeekASN1Tag(cbasn1.GeneralizedTime) {
		if t, ok := readTime(&tbs); ok {
			n.add("next update", words.Moment(t))
		}
	}
	entries := 0
	if tbs.PeekASN1Tag(cbasn1.SEQUENCE) && tbs.ReadASN1(&revoked, cbasn1.SEQUENCE) {
		for revoked.SkipASN1(cbasn1.SEQUENCE) {
			entries++
		}
	}
	n.addf("revoked", "%d", entries)
	if tbs.PeekASN1Tag(contextTag(0).Constructed()) && tbs.ReadASN1(&explicit, contextTag(0).Constructed()) {
		addExtensions(n, explicit)
	}
}
