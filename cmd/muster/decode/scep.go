package decode

import (
	"crypto"
	"encoding/asn1"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/cms"
)

// captureLimits let through whatever a file may hold; the guard's own depth stays.
var captureLimits = cms.Limits{Size: maxCapture, Elements: 1 << 18}

// scepMessage shows one message of SCEP: a pkiMessage (RFC 8894 section 3), or what the other operations answer.
func (d *decoder) scepMessage(der []byte) *node {
	clean, err := cms.Normalize(der, captureLimits)
	if err != nil {
		d.fail("message", 0, err)
		n := &node{label: "message", value: "(does not parse: this is the outline of its encoding)"}
		d.brokenOutline(n, der, 0)
		return n
	}
	switch contentType(clean) {
	case "signedData":
		return d.signedData(der, clean)
	case "envelopedData":
		n := &node{label: "EnvelopedData", value: bytesOf(len(der))}
		d.envelope(n, "", clean, 0)
		return n
	}
	if _, ok := parseCertificate(clean); ok {
		n := &node{}
		return addCertificate(n, "certificate", clean)
	}
	n := &node{label: "message", value: "(nothing that SCEP carries: this is the outline of its encoding)"}
	d.brokenOutline(n, clean, 0)
	hint := "neither a CMS message nor a certificate"
	if m, _ := cmpmsg.Parse(clean); m != nil {
		hint = "a CMP message: `muster cmp decode` shows it"
	}
	d.faults = append(d.faults, fmt.Errorf("%s: byte 0: %s", d.file, hint))
	return n
}

// contentType is the name of a ContentInfo's type, "" when der is none.
func contentType(der []byte) string {
	in := cryptobyte.String(der)
	var seq cryptobyte.String
	var oid asn1.ObjectIdentifier
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !seq.ReadASN1ObjectIdentifier(&oid) || !seq.PeekASN1Tag(contextTag(0).Constructed()) {
		return ""
	}
	return oidName(oid)
}

// allDigests are those that a capture may use: what an endpoint accepts is not judged here.
var allDigests = []crypto.Hash{crypto.SHA1, crypto.SHA224, crypto.SHA256, crypto.SHA384, crypto.SHA512}

// signedData shows a SignedData: with a signer a pkiMessage, without one a list of certificates.
func (d *decoder) signedData(der, clean []byte) *node {
	n := &node{label: "SignedData", value: bytesOf(len(der))}
	p, ok := readSignedParts(clean)
	if ok && p.signers == 0 {
		n.value = "certificates only, " + n.value
		addParts(n, p)
		return n
	}
	s, err := cms.ParseSigned(der, captureLimits)
	if err != nil {
		d.fail("SignedData", 0, err)
		if ok {
			addParts(n, p)
		} else {
			n.value += " (does not parse: this is the outline of its encoding)"
			d.brokenOutline(n, clean, 0)
		}
		return n
	}
	messageType, status := scepKind(s)
	if messageType != "" {
		n.label, n.value = "pkiMessage", messageType+status+", "+n.value
	}
	n.add("contentType", oidName(s.ContentType))
	c := n.add("signer", "")
	if s.Signer != nil {
		c.value = nameText(s.Signer.RawSubject)
		c.add("issuer", nameText(s.Signer.RawIssuer))
		c.add("serial", serialText(s.Signer.SerialNumber))
	} else {
		c.value = "its certificate is not in the message"
	}
	c.add("digest", oidName(s.DigestOID))
	c.add("algorithm", oidName(s.SignatureOID))
	c.add("signature", signedState(s))
	if attributes := s.Attributes(); len(attributes) > 0 {
		c = n.add("signed attributes", "")
		for _, a := range attributes {
			scepAttribute(c, a)
		}
	}
	if ok && len(p.certificates) > 0 {
		addCertificates(n, "certificates", p.certificates)
	}
	switch {
	case s.Content == nil:
		n.add("content", "none")
	case contentType(s.Content) == "envelopedData":
		d.envelope(n.add("EnvelopedData", bytesOf(len(s.Content))), messageType, s.Content, offsetOf(der, s.Content))
	default:
		n.add("content", bytesOf(len(s.Content)))
	}
	return n
}

func signedState(s *cms.Signed) string {
	if s.Signer == nil {
		return "not checked: the signer's certificate is not in the message"
	}
	verify := s.Verify
	if s.Content == nil {
		// A FAILURE or PENDING carries none (RFC 8894 section 3.2.1): the signature is over nothing.
		verify = func(accept []crypto.Hash) error { return s.VerifyDetached(nil, accept) }
	}
	switch err := verify(allDigests); {
	case errors.Is(err, cms.ErrAlgorithm):
		return fmt.Sprintf("not checked: %v", err)
	case err != nil:
		return fmt.Sprintf("DOES NOT VERIFY: %v", err)
	case s.Content == nil:
		return "verifies, without content"
	}
	return "verifies"
}

// scepKind is what the message is, in words: its type, and the status of an answer.
func scepKind(s *cms.Signed) (messageType, status string) {
	for _, a := range s.Attributes() {
		text, ok := cms.StringValue(a.Value)
		if !ok {
			continue
		}
		switch oidName(a.Type) {
		case "messageType":
			messageType = worded(scepTypes, text)
		case "pkiStatus":
			status = ", " + worded(scepStatuses, text)
		}
	}
	return messageType, status
}

// worded is the name of a number that travels as text.
func worded(names map[string]string, text string) string {
	if name, ok := names[text]; ok {
		return name + " (" + text + ")"
	}
	return "unknown (" + text + ")"
}

// scepAttribute shows a signed attribute (RFC 8894 section 3.2.1, RFC 5652 section 11).
func scepAttribute(n *node, a cms.Attribute) {
	name := oidName(a.Type)
	names := map[string]map[string]string{"messageType": scepTypes, "pkiStatus": scepStatuses, "failInfo": scepFailures}[name]
	text, isText := cms.StringValue(a.Value)
	switch {
	case names != nil && isText:
		n.add(name, worded(names, text))
	case len(a.Value) > 0 && a.Value[0]&0x20 != 0:
		outline(n, name, a.Value)
	default:
		n.add(name, valueText(a.Value))
	}
}

// signedParts are what the view shows of a SignedData that crypto/x509 does not have to understand.
type signedParts struct {
	certificates, crls [][]byte
	signers            int
}

// readSignedParts reads certificates and CRLs of a DER SignedData (RFC 5652 section 5.1).
func readSignedParts(der []byte) (p signedParts, ok bool) {
	in := cryptobyte.String(der)
	var info, content, signed, set cryptobyte.String
	if !in.ReadASN1(&info, cbasn1.SEQUENCE) || !info.SkipASN1(cbasn1.OBJECT_IDENTIFIER) ||
		!info.ReadASN1(&content, contextTag(0).Constructed()) || !content.ReadASN1(&signed, cbasn1.SEQUENCE) ||
		!signed.SkipASN1(cbasn1.INTEGER) || !signed.SkipASN1(cbasn1.SET) || !signed.SkipASN1(cbasn1.SEQUENCE) {
		return p, false
	}
	for i, list := range []*[][]byte{&p.certificates, &p.crls} {
		tag := contextTag(uint8(i)).Constructed()
		if !signed.PeekASN1Tag(tag) {
			continue
		}
		if !signed.ReadASN1(&set, tag) {
			return p, false
		}
		for !set.Empty() {
			var one cryptobyte.String
			var t cbasn1.Tag
			if !set.ReadAnyASN1Element(&one, &t) {
				return p, false
			}
			*list = append(*list, one)
		}
	}
	if !signed.ReadASN1(&set, cbasn1.SET) {
		return p, false
	}
	for set.SkipASN1(cbasn1.SEQUENCE) {
		p.signers++
	}
	return p, set.Empty()
}

func addParts(n *node, p signedParts) {
	addCertificates(n, "certificates", p.certificates)
	for i, der := range p.crls {
		addCRL(n, fmt.Sprintf("CRL %d", i+1), der)
	}
}
