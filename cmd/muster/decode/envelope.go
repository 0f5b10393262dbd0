package decode

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/protocols/cms"
)

// envelope shows an EnvelopedData in DER (RFC 5652 section 6), and what is in it when there is a key for it. base is its
// offset in the file.
func (d *decoder) envelope(n *node, messageType string, der []byte, base int) {
	ids, _ := addEnvelope(n, contentOf(der))
	e, err := cms.ParseEnveloped(der, captureLimits)
	if err != nil {
		d.fail("EnvelopedData", base, err)
		d.brokenOutline(n.add("outline of the encoding", ""), der, base)
		return
	}
	if d.keys == nil {
		n.add("decrypted", "no: --key names the file with the recipient's key")
		return
	}
	content := d.decrypt(e, ids)
	if content == nil {
		n.add("decrypted", "NO: the key is none of the recipients', or the encryption is broken")
		return
	}
	d.decrypted(n.add("decrypted", bytesOf(len(content))), messageType, content)
}

// decrypt tries every key as every recipient: a certificate of the key tells which, but is not needed. nil is a failure.
func (d *decoder) decrypt(e *cms.Enveloped, ids []*x509.Certificate) []byte {
	var odd []byte
	try := func(key *rsa.PrivateKey, cert *x509.Certificate) bool {
		content, err := e.Decrypt(key, cert)
		if err != nil {
			return false
		}
		// A wrong key gives sound padding by chance. So does a client that encrypts what is no message: hence odd is kept.
		odd = content
		_, err = cms.Normalize(content, captureLimits)
		return err == nil
	}
	for _, key := range d.keys {
		for _, cert := range d.certs {
			if key.PublicKey.Equal(cert.PublicKey) && e.For(cert) && try(key, cert) {
				return odd
			}
		}
		for _, id := range ids {
			id.PublicKey = &key.PublicKey
			if try(key, id) {
				return odd
			}
		}
	}
	return odd
}

// decrypted shows the messageData (RFC 8894 sections 3.3.1 and 3.3.2) by its form: the type of the message is not always known.
func (d *decoder) decrypted(n *node, messageType string, content []byte) {
	clean, err := cms.Normalize(content, captureLimits)
	if err != nil {
		d.fail("decrypted content (or the key is wrong, and the padding right by chance)", 0, err)
		d.brokenOutline(n, content, 0)
		return
	}
	switch {
	case contentType(clean) == "signedData":
		if p, ok := readSignedParts(clean); ok {
			n.value = "certificates only, " + n.value
			addParts(n, p)
			return
		}
	case isCSR(clean):
		d.addCSR(n, "CSR", clean)
		return
	}
	switch messageType {
	case "GetCert (21)", "GetCRL (22)":
		n.add("about", issuerAndSerial(clean))
		return
	case "CertPoll (20)":
		// IssuerAndSubject ::= SEQUENCE { issuer Name, subject Name }   -- RFC 8894 section 3.3.3
		var names []string
		if each(clean, cbasn1.SEQUENCE, func(one []byte) { names = append(names, nameText(one)) }) && len(names) == 2 {
			n.add("issuer", names[0])
			n.add("subject", names[1])
			return
		}
	}
	d.brokenOutline(n, clean, 0)
}

// isCSR tells a PKCS #10 request from the other SEQUENCEs: it begins with a SEQUENCE that begins with version 0.
func isCSR(der []byte) bool {
	in := cryptobyte.String(der)
	var outer, info cryptobyte.String
	var version int64
	return in.ReadASN1(&outer, cbasn1.SEQUENCE) && outer.ReadASN1(&info, cbasn1.SEQUENCE) && info.ReadASN1Integer(&version) && version == 0
}

// contentOf is the EnvelopedData in a ContentInfo, nil when it is none.
func contentOf(der []byte) []byte {
	in := cryptobyte.String(der)
	var info, content cryptobyte.String
	if !in.ReadASN1(&info, cbasn1.SEQUENCE) || !info.SkipASN1(cbasn1.OBJECT_IDENTIFIER) || !info.ReadASN1(&content, contextTag(0).Constructed()) {
		return nil
	}
	return content
}

// addEnvelope shows recipients and cipher of a DER EnvelopedData, and returns a stand-in for the certificate of every
// recipient by key transport.
func addEnvelope(n *node, der []byte) (ids []*x509.Certificate, ok bool) {
	in := cryptobyte.String(der)
	var body, set, info, encrypted cryptobyte.String
	if !in.ReadASN1(&body, cbasn1.SEQUENCE) || !body.SkipASN1(cbasn1.INTEGER) || !body.SkipOptionalASN1(contextTag(0).Constructed()) ||
		!body.ReadASN1(&set, cbasn1.SET) {
		return nil, false
	}
	for !set.Empty() {
		var one cryptobyte.String
		var tag cbasn1.Tag
		if !set.ReadAnyASN1Element(&one, &tag) {
			return ids, false
		}
		if id := addRecipient(n, tag, one); id != nil {
			ids = append(ids, id)
		}
	}
	var contentType asn1.ObjectIdentifier
	if !body.ReadASN1(&info, cbasn1.SEQUENCE) || !info.ReadASN1ObjectIdentifier(&contentType) {
		return ids, false
	}
	n.add("contentType", oidName(contentType))
	cipher, params, ok := readAlgorithm(&info)
	if !ok {
		return ids, false
	}
	n.add("cipher", algorithmName(cipher, params))
	var tag cbasn1.Tag
	if info.ReadAnyASN1(&encrypted, &tag) {
		n.add("encrypted", bytesOf(len(encrypted)))
	}
	return ids, true
}

// recipientKinds are the choices of RecipientInfo beside key transport (RFC 5652 section 6.2).
var recipientKinds = map[cbasn1.Tag]string{
	contextTag(1).Constructed(): "by key agreement",
	contextTag(2).Constructed(): "by a shared key-encryption key",
	contextTag(3).Constructed(): "by a password",
	contextTag(4).Constructed(): "in another way",
}

// addRecipient shows a RecipientInfo. Of key transport it returns a stand-in for the recipient's certificate.
//
//	KeyTransRecipientInfo ::= SEQUENCE {            -- RFC 5652 section 6.2.1
//	    version INTEGER, rid RecipientIdentifier, keyEncryptionAlgorithm AlgorithmIdentifier, encryptedKey OCTET STRING }
func addRecipient(n *node, tag cbasn1.Tag, der []byte) *x509.Certificate {
	if kind, ok := recipientKinds[tag]; ok {
		n.add("recipient", kind)
		return nil
	}
	in := cryptobyte.String(der)
	var info, id, issuer, keyID cryptobyte.String
	if !in.ReadASN1(&info, cbasn1.SEQUENCE) || !info.SkipASN1(cbasn1.INTEGER) {
		n.add("recipient", hexOf(der))
		return nil
	}
	cert := &x509.Certificate{SerialNumber: new(big.Int)}
	switch {
	case info.PeekASN1Tag(contextTag(0)) && info.ReadASN1(&keyID, contextTag(0)):
		cert.SubjectKeyId = keyID
		n = n.add("recipient", "key identifier "+hexOf(keyID))
	case info.ReadASN1Element(&id, cbasn1.SEQUENCE):
		n = n.add("recipient", issuerAndSerial(id))
		if !id.ReadASN1(&id, cbasn1.SEQUENCE) || !id.ReadASN1Element(&issuer, cbasn1.SEQUENCE) || !id.ReadASN1Integer(cert.SerialNumber) {
			return nil
		}
		cert.RawIssuer = issuer
	default:
		n.add("recipient", hexOf(der))
		return nil
	}
	if oid, params, ok := readAlgorithm(&info); ok {
		n.add("key encryption", algorithmName(oid, params))
	}
	return cert
}

// encryptedKey shows an EncryptedKey of CRMF (RFC 4211 section 2.1, item 9): EnvelopedData in [0], else an EncryptedValue.
func (d *decoder) encryptedKey(n *node, label string, der []byte) {
	in := cryptobyte.String(der)
	var body cryptobyte.String
	if !in.PeekASN1Tag(contextTag(0).Constructed()) || !in.ReadASN1(&body, contextTag(0).Constructed()) {
		d.outline(n, label, der)
		return
	}
	n = n.addf(label, "EnvelopedData, %s", bytesOf(len(der)))
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(body) })
	if sequence, err := b.Bytes(); err == nil {
		if _, ok := addEnvelope(n, sequence); ok {
			return
		}
	}
	d.brokenOutline(n, der, 0)
}
