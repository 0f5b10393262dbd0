package cmp

import (
	"bytes"
	"crypto/sha256"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// resumeOf is what a new transaction of the same requester shares with one whose certificate was never confirmed, so
// that it gets that certificate: the answer was lost on its way, and a device that may enrol once must not be stranded.
// The validity is left out: clients count it from now.
//
//	Resume ::= SEQUENCE {
//	    version     INTEGER (1),
//	    update      BOOLEAN,                        -- kur; ir, cr and p10cr ask for the same thing
//	    key         CHOICE {
//	        publicKey  SubjectPublicKeyInfo,
//	        made       [0] IMPLICIT UTF8String,     -- the kind of key that is made here; empty: any
//	        made2      [2] IMPLICIT UTF8String },   -- the same, under version 2
//	    subject     Name,                           -- empty when not asked for
//	    profile     UTF8String,
//	    newSubject  OCTET STRING,                   -- of a change of names; empty for none
//	    newSAN      OCTET STRING,
//	    extensions  SEQUENCE OF SEQUENCE { OBJECT IDENTIFIER, BOOLEAN, OCTET STRING },      -- sorted by encoding
//	    encrypted   [1] IMPLICIT NULL OPTIONAL,     -- possession is to be proven by decrypting the certificate
//	    replaces    [3] IMPLICIT OCTET STRING OPTIONAL } -- kur: SHA-256 of the certificate, which need not be the signer's
func resumeOf(r *gateway.Request, body cmpmsg.BodyType, pvno int) ([]byte, error) {
	var extensions [][]byte
	for _, e := range r.Extensions {
		var b cryptobyte.Builder
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(e.Id)
			b.AddASN1Boolean(e.Critical)
			b.AddASN1OctetString(e.Value)
		})
		der, err := b.Bytes()
		if err != nil {
			return nil, err
		}
		extensions = append(extensions, der)
	}
	slices.SortFunc(extensions, bytes.Compare)
	subject := r.Subject
	if subject == nil {
		subject = nullDN[:]
	}
	var names gateway.Names
	if r.NewNames != nil {
		names = *r.NewNames
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(1)
		b.AddASN1Boolean(body == cmpmsg.TypeKUR)
		if r.KeyGen != nil {
			// What was sealed under one version is not read under the other.
			tag := cbasn1.Tag(0).ContextSpecific()
			if pvno < 3 {
				tag = cbasn1.Tag(2).ContextSpecific()
			}
			b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes([]byte(r.KeyGen.Algorithm)) })
		} else {
			b.AddBytes(r.PublicKey)
		}
		b.AddBytes(subject)
		b.AddASN1(cbasn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(r.Profile)) })
		b.AddASN1OctetString(names.Subject)
		b.AddASN1OctetString(names.SubjectAltName)
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			for _, e := range extensions {
				b.AddBytes(e)
			}
		})
		if r.POP == gateway.POPConfirm {
			b.AddASN1(cbasn1.Tag(1).ContextSpecific(), func(*cryptobyte.Builder) {})
		}
		if r.OldCert != nil {
			sum := sha256.Sum256(r.OldCert.Raw)
			b.AddASN1(cbasn1.Tag(3).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(sum[:]) })
		}
	})
	return b.Bytes()
}
