package local

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
)

var (
	oidCMSData       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidCMSSigned     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidContentType   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidMessageDigest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}

	tagCMSContent = cbasn1.Tag(0).ContextSpecific().Constructed() // ContentInfo.content, eContent, certificates, signedAttrs
)

// SignCMS vouches with the key of an issuing CA for the certificates that it has announced, and for nothing else: it takes the
// content apart and signs it only if each certificate in it is one of the announced chain, byte for byte.
//
// INVALID_ARGUMENT: no such issuer, or another content. FAILED_PRECONDITION: nothing is announced, or the CA's key is Ed25519,
// which next to nobody verifies in CMS.
func (c *CA) SignCMS(_ context.Context, issuer string, content []byte) ([]byte, error) {
	r, err := c.running()
	if err != nil {
		return nil, err
	}
	i := r.issuer(issuer)
	if i == nil {
		return nil, backend.Refuse(codes.InvalidArgument, "there is no issuing CA %q", issuer)
	}
	certs, err := certsOnly(content)
	if err != nil {
		return nil, backend.Refuse(codes.InvalidArgument, "the content is not what a CA's key signs: %v", err)
	}
	if i.announced == nil {
		return nil, backend.Refuse(codes.FailedPrecondition, "CA %s has announced no next certificate", i.name)
	}
	for _, cert := range certs {
		if !slices.ContainsFunc(i.announced.chain, func(der []byte) bool { return bytes.Equal(der, cert) }) {
			return nil, backend.Refuse(codes.InvalidArgument, "the content is not what a CA's key signs: a certificate in it is not the next of CA %s", i.name)
		}
	}
	signed, err := signData(content, i.cert, &signer{key: i.key})
	if err != nil {
		return nil, backend.Refuse(codes.FailedPrecondition, "CA %s: %v", i.name, err)
	}
	return signed, nil
}

var _ backend.CMSSigner = (*CA)(nil)

// certsOnly returns the certificates of a degenerate SignedData (RFC 8894 section 3.4), DER without anything else in it.
//
//	ContentInfo ::= SEQUENCE { contentType OBJECT IDENTIFIER (id-signedData), content [0] EXPLICIT SignedData }
//	SignedData  ::= SEQUENCE {                      -- RFC 5652 section 5.1
//	    version           INTEGER (1),
//	    digestAlgorithms  SET OF ... (none),
//	    encapContentInfo  SEQUENCE { eContentType OBJECT IDENTIFIER (id-data) },
//	    certificates      [0] IMPLICIT SET OF Certificate (one at least),
//	    signerInfos       SET OF ... (none) }
func certsOnly(der []byte) ([][]byte, error) {
	errOther := errors.New("it is no degenerate SignedData of certificates alone (RFC 8894 section 3.4)")
	var info, content, signed, digests, encap, certs, signers cryptobyte.String
	var contentType, inner asn1.ObjectIdentifier
	var version int64
	in := cryptobyte.String(der)
	if !in.ReadASN1(&info, cbasn1.SEQUENCE) || !in.Empty() ||
		!info.ReadASN1ObjectIdentifier(&contentType) || !contentType.Equal(oidCMSSigned) ||
		!info.ReadASN1(&content, tagCMSContent) || !info.Empty() ||
		!content.ReadASN1(&signed, cbasn1.SEQUENCE) || !content.Empty() ||
		!signed.ReadASN1Integer(&version) || version != 1 ||
		!signed.ReadASN1(&digests, cbasn1.SET) || !digests.Empty() ||
		!signed.ReadASN1(&encap, cbasn1.SEQUENCE) || !encap.ReadASN1ObjectIdentifier(&inner) || !inner.Equal(oidCMSData) || !encap.Empty() ||
		!signed.ReadASN1(&certs, tagCMSContent) || certs.Empty() ||
		!signed.ReadASN1(&signers, cbasn1.SET) || !signers.Empty() || !signed.Empty() {
		return nil, errOther
	}
	var list [][]byte
	for !certs.Empty() {
		var one cryptobyte.String
		if !certs.ReadASN1Element(&one, cbasn1.SEQUENCE) || len(list) == backend.MaxChain {
			return nil, errOther
		}
		list = append(list, one)
	}
	return list, nil
}

// signData makes the SignedData over content, in a ContentInfo, with the signer's certificate in it. RSA is named
// rsaEncryption (RFC 3370 section 3.2), which every client knows.
//
//	SignerInfo ::= SEQUENCE {                       -- RFC 5652 section 5.3
//	    version             INTEGER (1),
//	    sid                 SEQUENCE { issuer Name, serialNumber INTEGER },
//	    digestAlgorithm     AlgorithmIdentifier,
//	    signedAttrs         [0] IMPLICIT SET OF Attribute,   -- contentType and messageDigest
//	    signatureAlgorithm  AlgorithmIdentifier,
//	    signature           OCTET STRING }
func signData(content []byte, cert *x509.Certificate, key *signer) ([]byte, error) {
	digestOID := asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1} // SHA-256
	var signatureOID asn1.ObjectIdentifier
	null := false
	switch key.Public().(type) {
	case *rsa.PublicKey:
		signatureOID, null = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}, true
	case *ecdsa.PublicKey:
		signatureOID = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
	default:
		return nil, errors.New("its key is neither RSA nor ECDSA")
	}
	attributes, err := signedAttributes(content)
	if err != nil {
		return nil, err
	}
	// Signed is the SET OF, in place of the implicit tag (RFC 5652 section 5.4).
	signature, err := key.SignMessage(nil, attributes, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	set := cryptobyte.String(attributes)
	var inside cryptobyte.String
	if !set.ReadASN1(&inside, cbasn1.SET) {
		return nil, errors.New("the attributes are no SET")
	}
	algorithm := func(b *cryptobyte.Builder, oid asn1.ObjectIdentifier, null bool) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oid)
			if null {
				b.AddASN1NULL()
			}
		})
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oidCMSSigned)
		b.AddASN1(tagCMSContent, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1Int64(1)
				b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) { algorithm(b, digestOID, false) })
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier(oidCMSData)
					b.AddASN1(tagCMSContent, func(b *cryptobyte.Builder) { b.AddASN1OctetString(content) })
				})
				b.AddASN1(tagCMSContent, func(b *cryptobyte.Builder) { b.AddBytes(cert.Raw) })
				b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
					b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
						b.AddASN1Int64(1)
						b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
							b.AddBytes(cert.RawIssuer)
							b.AddASN1BigInt(cert.SerialNumber)
						})
						algorithm(b, digestOID, false)
						b.AddASN1(tagCMSContent, func(b *cryptobyte.Builder) { b.AddBytes(inside) })
						algorithm(b, signatureOID, null)
						b.AddASN1OctetString(signature)
					})
				})
			})
		})
	})
	return b.Bytes()
}

// signedAttributes is the SET OF Attribute of contentType and messageDigest, in DER order: both begin alike, and the shorter
// comes first.
func signedAttributes(content []byte) ([]byte, error) {
	digest := sha256.Sum256(content)
	attribute := func(b *cryptobyte.Builder, oid asn1.ObjectIdentifier, value func(*cryptobyte.Builder)) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oid)
			b.AddASN1(cbasn1.SET, value)
		})
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
		attribute(b, oidContentType, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidCMSData) })
		attribute(b, oidMessageDigest, func(b *cryptobyte.Builder) { b.AddASN1OctetString(digest[:]) })
	})
	return b.Bytes()
}
