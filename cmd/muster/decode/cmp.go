package decode

import (
	"bytes"
	"encoding/asn1"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

const (
	maxNesting = 6  // PKIMessages within another one; real ones have two at most
	maxMACs    = 20 // computed for one file: each may cost as much as the message asks for
)

// cmpMessage shows a PKIMessage, and those within it. number is "" or like "1.2", base its offset in the input.
func (d *decoder) cmpMessage(der []byte, number string, base int) *node {
	title := "PKIMessage"
	if number != "" {
		title += " " + number
	}
	n := &node{label: title}
	m, err := cmpmsg.Parse(der)
	if err != nil {
		d.fail(n.label, base, err)
	}
	if m == nil {
		n.value = "(does not parse: this is the outline of its encoding)"
		d.brokenOutline(n, der, base)
		return n
	}
	tag := int(m.RawBody[0] & 0x1f)
	n.value = summaryOf(m)
	d.cmpHeader(n.add("header", ""), &m.Header, number, base, m.Raw)
	d.cmpProtection(n, m)
	body := n.add("body", numbered(cmpmsg.BodyType(tag), tag))
	if m.Body == nil {
		body.value += " (does not parse: this is the outline of its encoding)"
		d.brokenOutline(body, m.RawBody, base+offsetOf(m.Raw, m.RawBody))
	} else {
		d.cmpBody(body, m, number, base)
	}
	if len(m.ExtraCerts) > 0 {
		addCertificates(n, "extraCerts", m.ExtraCerts)
	}
	return n
}

// addCertificates shows a list of certificates, numbered from 1.
func addCertificates(n *node, label string, list [][]byte) {
	n = n.addf(label, "%d", len(list))
	for i, der := range list {
		addCertificate(n, fmt.Sprint(i+1), der)
	}
}

// cmpHeader shows a PKIHeader (RFC 9810 section 5.1.1).
func (d *decoder) cmpHeader(n *node, h *cmpmsg.Header, number string, base int, raw []byte) {
	n.add("pvno", fmt.Sprint(h.PVNO))
	n.add("sender", generalName(h.Sender))
	n.add("recipient", generalName(h.Recipient))
	n.some("messageTime", when(h.MessageTime))
	if h.ProtectionAlg != nil {
		addProtectionAlg(n, "protectionAlg", h.ProtectionAlg)
	}
	n.some("senderKID", keyIDText(h.SenderKID))
	n.some("recipKID", keyIDText(h.RecipKID))
	n.some("transactionID", present(h.TransactionID))
	n.some("senderNonce", present(h.SenderNonce))
	n.some("recipNonce", present(h.RecipNonce))
	n.some("freeText", quotedList(h.FreeText))
	if len(h.GeneralInfo) > 0 {
		d.cmpInfo(n.add("generalInfo", ""), h.GeneralInfo, number, base, raw)
	}
}

// keyIDText shows a key identifier: a hash of a key, or the reference of a shared secret, which often is text.
func keyIDText(id []byte) string {
	text := present(id)
	if len(id) > 0 && utf8.Valid(id) && words.Plain(string(id)) == string(id) {
		text += " (" + quoted(string(id)) + ")"
	}
	return text
}

// addProtectionAlg shows an algorithm of protection; of a MAC its parameters, accepted by the gateway or not.
func addProtectionAlg(n *node, label string, a *cmpmsg.AlgorithmIdentifier) {
	n = n.add(label, algorithmName(a.OID, a.Parameters))
	in := cryptobyte.String(a.Parameters)
	var seq, salt cryptobyte.String
	iterations := new(big.Int)
	switch a.OID.String() {
	case "1.2.840.113533.7.66.13":
		// PBMParameter ::= SEQUENCE { salt OCTET STRING, owf AlgorithmIdentifier, iterationCount INTEGER, mac AlgorithmIdentifier }
		var owf, mac cryptobyte.String
		if in.ReadASN1(&seq, cbasn1.SEQUENCE) && seq.ReadASN1(&salt, cbasn1.OCTET_STRING) && seq.ReadASN1Element(&owf, cbasn1.SEQUENCE) &&
			seq.ReadASN1Integer(iterations) && seq.ReadASN1Element(&mac, cbasn1.SEQUENCE) {
			n.add("salt", hexOf(salt))
			n.add("one-way function", algorithmOf(owf))
			n.add("iterations", valueNumber(iterations))
			n.add("MAC", algorithmOf(mac))
			return
		}
	case "1.2.840.113549.1.5.14":
		// PBMAC1-params ::= SEQUENCE { keyDerivationFunc AlgorithmIdentifier, messageAuthScheme AlgorithmIdentifier }
		// PBKDF2-params ::= SEQUENCE { salt OCTET STRING, iterationCount INTEGER, keyLength INTEGER OPTIONAL, prf DEFAULT hmacWithSHA1 }
		var mac, params cryptobyte.String
		if !in.ReadASN1(&seq, cbasn1.SEQUENCE) {
			break
		}
		kdf, kdfParams, ok := readAlgorithm(&seq)
		params = kdfParams
		if !ok || !seq.ReadASN1Element(&mac, cbasn1.SEQUENCE) || !params.ReadASN1(&params, cbasn1.SEQUENCE) ||
			!params.ReadASN1(&salt, cbasn1.OCTET_STRING) || !params.ReadASN1Integer(iterations) {
			break
		}
		n.add("key derivation", oidName(kdf))
		n.add("salt", hexOf(salt))
		n.add("iterations", valueNumber(iterations))
		if length := new(big.Int); params.PeekASN1Tag(cbasn1.INTEGER) && params.ReadASN1Integer(length) {
			n.add("key length", valueNumber(length)+" bytes")
		}
		prf := "HMAC-SHA1 (by default)"
		if !params.Empty() {
			prf = algorithmOf(params)
		}
		n.add("function", prf)
		n.add("MAC", algorithmOf(mac))
		return
	default:
		return
	}
	outline(n, "parameters", a.Parameters)
}

func valueNumber(n *big.Int) string {
	if n.BitLen() > 256 {
		return fmt.Sprintf("a number of %d bits", n.BitLen())
	}
	return n.String()
}

// cmpProtection shows the protection (RFC 9810 section 5.1.3), and whether it verifies.
func (d *decoder) cmpProtection(n *node, m *cmpmsg.Message) {
	alg := m.Header.ProtectionAlg
	switch {
	case m.Protection == nil && alg == nil:
		n.add("protection", "none")
		return
	case m.Protection == nil:
		n.add("protection", "NONE, though the header has a protectionAlg")
		return
	case alg == nil:
		n.add("protection", bytesOf(len(m.Protection))+", WITHOUT a protectionAlg in the header")
		return
	}
	n = n.add("protection", bytesOf(len(m.Protection)))
	n.add("algorithm", algorithmName(alg.OID, alg.Parameters))
	if alg.IsMAC() {
		n.add("MAC", d.macState(alg, m.Protected(), m.Protection))
		return
	}
	n.add("signature", signerState(m))
}

// macState says whether a MAC is right, as far as the secret is known.
func (d *decoder) macState(alg *cmpmsg.AlgorithmIdentifier, data, mac []byte) string {
	if d.secret == nil {
		return "not checked: --secret-file names the file with the shared secret"
	}
	if d.macs++; d.macs > maxMACs {
		return fmt.Sprintf("not checked: over %d of them", maxMACs)
	}
	parsed, err := cmpmsg.ParseMAC(alg, cmpmsg.MACPolicy{AllowSHA1: true})
	if err != nil {
		return fmt.Sprintf("not checked: %v", err)
	}
	if parsed.Verify(d.secret, data, mac) {
		return "verifies with the secret"
	}
	return "DOES NOT VERIFY with the secret"
}

// signerState says with which of extraCerts the signature verifies. The one that the header names comes first, else the
// first, which the signer's should be (RFC 9810 section 5.1.1).
func signerState(m *cmpmsg.Message) string {
	if len(m.ExtraCerts) == 0 {
		return "not checked: no extraCerts to check it with"
	}
	algorithm := m.Header.ProtectionAlg.Raw
	data := m.Protected()
	var first string
	for i, c := range signersFirst(m) {
		key, err := pkix.ParsePublicKey(c.spki)
		if err == nil {
			err = pkix.VerifySignature(key, algorithm, data, m.Protection, pkix.AllowSHA1())
		}
		if err == nil {
			return fmt.Sprintf("verifies with extraCerts %d, %s", c.number, nameText(c.subject))
		}
		if i == 0 {
			first = fmt.Sprintf("%s with extraCerts %d, %s", signatureState(err), c.number, nameText(c.subject))
		}
	}
	switch {
	case first == "":
		return "not checked: no certificate in extraCerts"
	case len(m.ExtraCerts) > 1:
		first += ", nor with any other"
	}
	return first
}

type numberedCertificate struct {
	*certificate
	number int // in extraCerts, from 1
	rank   int
}

func signersFirst(m *cmpmsg.Message) (list []numberedCertificate) {
	for i, der := range m.ExtraCerts {
		c, ok := parseCertificate(der)
		if !ok {
			continue
		}
		name, isName := cmpmsg.DirectoryName(m.Header.Sender)
		rank := 2
		switch {
		case m.Header.SenderKID != nil && bytes.Equal(c.keyID(), m.Header.SenderKID):
			rank = 0
		case isName && pkix.SameName(name, c.subject):
			rank = 1
		}
		list = append(list, numberedCertificate{certificate: c, number: i + 1, rank: rank})
	}
	slices.SortStableFunc(list, func(a, b numberedCertificate) int { return a.rank - b.rank })
	return list
}

// cmpInfo shows generalInfo, genm and genp elements by name (RFC 9810 section 5.3.19).
func (d *decoder) cmpInfo(n *node, list []cmpmsg.InfoTypeAndValue, number string, base int, raw []byte) {
	for _, v := range list {
		d.cmpInfoValue(n, v.Type, v.Value, number, base, raw)
	}
}

func (d *decoder) cmpInfoValue(n *node, oid asn1.ObjectIdentifier, value []byte, number string, base int, raw []byte) {
	name := oidName(oid)
	if value == nil {
		n.add(name, "")
		return
	}
	switch name {
	case "implicitConfirm":
		if valueText(value) == "NULL" {
			n.add(name, "")
			return
		}
	case "caProtEncCert", "rootCaCert":
		addCertificate(n, name, value)
		return
	case "caCerts":
		var list [][]byte
		if each(value, cbasn1.SEQUENCE, func(one []byte) { list = append(list, one) }) {
			addCertificates(n, name, list)
			return
		}
	case "currentCRL":
		addCRL(n, name, value)
		return
	case "crls":
		c := &node{label: name}
		if each(value, cbasn1.SEQUENCE, func(one []byte) { addCRL(c, fmt.Sprint(len(c.children)+1), one) }) {
			n.children = append(n.children, c)
			return
		}
	case "certProfile", "suppLangTags", "unsupportedOIDs":
		if text := joined(value, valueText); text != "" {
			n.add(name, text)
			return
		}
	case "signKeyPairTypes", "encKeyPairTypes":
		if text := joined(value, algorithmOf); text != "" {
			n.add(name, text)
			return
		}
	case "preferredSymmAlg", "keyPairParamRep":
		n.add(name, algorithmOf(value))
		return
	case "rootCaKeyUpdate":
		if u, err := cmpmsg.ParseRootUpdate(value); err == nil {
			addRootUpdate(n.add(name, ""), u)
			return
		}
	case "certReqTemplate":
		if t, err := cmpmsg.ParseCertReqTemplate(value); err == nil {
			n = n.add(name, "")
			addTemplate(n.add("certTemplate", ""), &t.Template)
			d.controls(n, "keySpec", t.KeySpec)
			return
		}
	case "crlStatusList":
		if list, err := cmpmsg.ParseCRLStatusList(value); err == nil {
			n = n.add(name, "")
			for i := range list {
				addCRLStatus(n, &list[i])
			}
			return
		}
	case "origPKIMessage":
		c := &node{label: name}
		if each(value, cbasn1.SEQUENCE, func(one []byte) { d.within(c, one, number, base, raw) }) {
			n.children = append(n.children, c)
			return
		}
	}
	d.outline(n, name, value)
}

// joined shows the elements of a DER SEQUENCE on one line, "" when it is none or empty.
func joined(der []byte, text func([]byte) string) string {
	var out strings.Builder
	if !each(der, cbasn1.SEQUENCE, func(one []byte) {
		if out.Len() > 0 {
			out.WriteString(", ")
		}
		out.WriteString(text(one))
	}) {
		return ""
	}
	return out.String()
}

// addRootUpdate shows RootCaKeyUpdateContent (RFC 9810 section 5.3.19.15).
func addRootUpdate(n *node, u *cmpmsg.CAKeyUpdate) {
	for _, c := range []struct {
		label string
		der   []byte
	}{{"newWithNew", u.NewWithNew}, {"newWithOld", u.NewWithOld}, {"oldWithNew", u.OldWithNew}} {
		if c.der != nil {
			addCertificate(n, c.label, c.der)
		}
	}
}

// addCRLStatus shows which CRL is asked for (RFC 9810 section 5.3.19.17).
func addCRLStatus(n *node, s *cmpmsg.CRLStatus) {
	switch in := cryptobyte.String(s.DistributionPoint); {
	case s.Issuer != nil:
		n = n.add("issuer", generalNames(s.Issuer))
	case in.PeekASN1Tag(contextTag(0).Constructed()): // fullName: GeneralNames
		n = n.add("distributionPoint", strings.Join(uris(s.DistributionPoint, 0), ", "))
	default:
		n = n.add("distributionPoint", hexOf(s.DistributionPoint))
	}
	n.some("thisUpdate", when(s.ThisUpdate))
}

// offsetOf is where a part of a message stands in it.
func offsetOf(whole, part []byte) int { return max(bytes.Index(whole, part), 0) }

// within shows a PKIMessage that stands in another one.
func (d *decoder) within(n *node, der []byte, number string, base int, raw []byte) {
	next := fmt.Sprint(len(n.children) + 1)
	if number != "" {
		next = number + "." + next
	}
	if d.nesting == maxNesting {
		n.addf("PKIMessage "+next, "%s, nested deeper than %d messages: left out", bytesOf(len(der)), maxNesting)
		return
	}
	d.nesting++
	defer func() { d.nesting-- }()
	base += offsetOf(raw, der)
	n.children = append(n.children, d.cmpMessage(der, next, base))
}

// summaryOf is the kind of a message and its size.
func summaryOf(m *cmpmsg.Message) string {
	tag := int(m.RawBody[0] & 0x1f)
	return fmt.Sprintf("%s, %s", numbered(cmpmsg.BodyType(tag), tag), bytesOf(len(m.Raw)))
}
