package pkixtest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	pkixrules "github.com/muster-pki/muster/gateway/pkix"
)

// algorithms are chains whose CAs are at fault where badchains.go has the leaf's, leaves that are no certificates by RFC 5280, and
// what looks odd and is sound.
func algorithms() []plan {
	edwards := func(v *vendor) Key {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			v.t.Fatal(err)
		}
		return key
	}
	rsa2048 := func(*vendor) Key { return keys().rsa2048 }
	return []plan{
		// By a root of RSA, since SHA-1 and MD5 are with RSA here.
		{name: "issuing CA by SHA-1", want: pkixrules.ErrWeak, legacy: errNone, rootKey: rsa2048, issuing: func(c *x509.Certificate) { c.SignatureAlgorithm = x509.SHA1WithRSA }},
		{name: "issuing CA by MD5", want: pkixrules.ErrWeak, rootKey: rsa2048, above: md5WithRSA},
		{name: "issuing CA of P-224", want: pkixrules.ErrAlgorithm, caKey: func(*vendor) Key { return keys().p224 }},
		{name: "issuing CA of ROCA", want: pkixrules.ErrWeak, caKey: func(*vendor) Key { return keys().roca }},
		{name: "root of RSA-1024", want: pkixrules.ErrWeak, rootKey: func(*vendor) Key { return keys().rsa1024 }},

		// RFC 5280 sections 4.1.2.2 and 4.2.
		{name: "negative serial number", want: pkixrules.ErrMalformed, rewrite: negativeSerial, broken: true},
		{name: "an extension twice", want: pkixrules.ErrMalformed, rewrite: extensionTwice, broken: true},

		{name: "any extended key usage", want: pkixrules.ErrUsage, leaf: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }},
		{name: "key usage without a bit", want: pkixrules.ErrUsage, leaf: func(c *x509.Certificate) {
			c.KeyUsage = 0
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: []byte{3, 1, 0}}}
		}},

		{name: "sound, a root by SHA-1", rootKey: rsa2048, root: func(c *x509.Certificate) { c.SignatureAlgorithm = x509.SHA1WithRSA }},
		{name: "sound, a leaf of Ed25519", key: edwards},
		{name: "sound, all of Ed25519", key: edwards, caKey: edwards, rootKey: edwards},
		// RFC 5280 section 4.2.1.1: it helps to find the issuer, whose key says whether it is the right one.
		{name: "sound, the key identifier of another issuer", leaf: func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 35}, Value: []byte("\x30\x06\x80\x04else")}}
		}},
		{name: "sound, an issuing CA for any purpose", issuing: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }},
	}
}

// negativeSerial gives a TBSCertificate the serial number -1 (RFC 5280 section 4.1.2.2 has positive ones alone).
func negativeSerial(tbs []byte) []byte {
	done := false
	return eachField(tbs, func(b *cryptobyte.Builder, tag cbasn1.Tag, field []byte) {
		if tag == cbasn1.INTEGER && !done {
			done, field = true, []byte{2, 1, 0xff}
		}
		b.AddBytes(field)
	})
}

// extensionTwice writes the first extension of a TBSCertificate twice (RFC 5280 section 4.2).
func extensionTwice(tbs []byte) []byte {
	return eachField(tbs, func(b *cryptobyte.Builder, tag cbasn1.Tag, field []byte) {
		if tag != tagExtensions {
			b.AddBytes(field)
			return
		}
		in := cryptobyte.String(field)
		var outer, list, first cryptobyte.String
		if !in.ReadASN1(&outer, tagExtensions) || !outer.ReadASN1(&list, cbasn1.SEQUENCE) {
			return
		}
		all := bytes.Clone(list)
		if !list.ReadASN1Element(&first, cbasn1.SEQUENCE) {
			return
		}
		b.AddASN1(tagExtensions, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddBytes(first)
				b.AddBytes(all)
			})
		})
	})
}
