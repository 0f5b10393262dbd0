package cms

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// pair is a key with its certificate.
type pair struct {
	key  crypto.Signer
	cert *x509.Certificate
}

// rsaPair is the one of testdata/cms.
func rsaPair(t testing.TB) pair {
	t.Helper()
	key, err := x509.ParsePKCS8PrivateKey(readPEM(t, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(readPEM(t, "cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return pair{key.(crypto.Signer), cert}
}

func (p pair) rsa() *rsa.PrivateKey { return p.key.(*rsa.PrivateKey) }

// otherRSA and ecPair are made once.
var (
	otherRSA = sync.OnceValue(func() pair {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		return selfSigned(key, key.Public(), 0xabcdef)
	})
	ecPair = sync.OnceValue(func() pair {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			panic(err)
		}
		return selfSigned(key, key.Public(), 0xfedcba)
	})
)

// selfSigned makes a certificate for pub; the signature is by key, whether or not that is its own.
func selfSigned(key crypto.Signer, pub crypto.PublicKey, serial int64) pair {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "another"},
		NotBefore: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2126, 1, 1, 0, 0, 0, 0, time.UTC),
		SubjectKeyId: []byte{1, 2, 3, 4},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, pub, key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return pair{key, cert}
}

func oidDER(oid asn1.ObjectIdentifier) string {
	der, err := asn1.Marshal(oid)
	if err != nil {
		panic(err)
	}
	return string(der)
}

func intDER(n *big.Int) string {
	der, err := asn1.Marshal(n)
	if err != nil {
		panic(err)
	}
	return string(der)
}

const null = "\x05\x00"

func algorithm(oid asn1.ObjectIdentifier, params string) string {
	return tlv(0x30, oidDER(oid), params)
}

func issuerAndSerial(cert *x509.Certificate) string {
	return tlv(0x30, string(cert.RawIssuer), intDER(cert.SerialNumber))
}

func attributeDER(oid asn1.ObjectIdentifier, values ...string) string {
	return tlv(0x30, oidDER(oid), tlv(0x31, values...))
}

// transactionID is an attribute of RFC 8894 section 3.2.1.1.
var transactionID = asn1.ObjectIdentifier{2, 16, 840, 1, 113733, 1, 9, 7}

// signedParts are the elements of a SignedData, so that tests can make any of them wrong.
type signedParts struct {
	outer                                 asn1.ObjectIdentifier
	version, digestAlgorithms             string
	contentType, eContent                 string // eContent with its [0]
	certificates, crls                    string
	siVersion, sid, digestAlgorithm       string
	attrs                                 []string // in the order sent
	noAttrs, noSigner                     bool
	signatureAlgorithm, signature, unsign string
	afterSigners, moreSigners             string

	// how it is signed
	signer    pair
	hash      crypto.Hash
	sorted    bool   // hash the attributes sorted, not as sent
	content   string // that messageDigest is made from
	signBytes string // signed in place of content or attributes
}

func newSigned(t testing.TB) *signedParts {
	p := rsaPair(t)
	return &signedParts{
		outer: oidSignedData, version: "\x02\x01\x01", digestAlgorithms: tlv(0x31, algorithm(digests[0].oid, "")),
		contentType: oidDER(oidData), eContent: tlv(0xa0, tlv(4, "hello")), content: "hello",
		certificates: tlv(0xa0, string(p.cert.Raw)), siVersion: "\x02\x01\x01", sid: issuerAndSerial(p.cert),
		digestAlgorithm: algorithm(digests[0].oid, ""), signatureAlgorithm: algorithm(digests[0].rsa, null),
		signer: p, hash: crypto.SHA256, sorted: true,
	}
}

func sum(h crypto.Hash, content string) string {
	w := h.New()
	w.Write([]byte(content))
	return string(w.Sum(nil))
}

// attributes are the ones that RFC 5652 demands, and a transactionID, in the order of DER.
func (p *signedParts) attributes() []string {
	return []string{
		attributeDER(oidContentType, p.contentType),
		attributeDER(transactionID, tlv(0x13, "1234")),
		attributeDER(oidMessageDigest, tlv(4, sum(p.hash, p.content))),
	}
}

// sign fills in what is not set.
func (p *signedParts) sign() *signedParts {
	if p.attrs == nil && !p.noAttrs {
		p.attrs = p.attributes()
	}
	if p.signature != "" {
		return p
	}
	input := p.signBytes
	if input == "" {
		if input = p.content; !p.noAttrs {
			attrs := slices.Clone(p.attrs)
			if p.sorted {
				slices.Sort(attrs)
			}
			input = tlv(0x31, attrs...)
		}
	}
	signature, err := p.signer.key.Sign(rand.Reader, []byte(sum(p.hash, input)), p.hash)
	if err != nil {
		panic(err)
	}
	p.signature = tlv(4, string(signature))
	return p
}

func (p *signedParts) der() []byte {
	attrs := ""
	if !p.noAttrs {
		attrs = tlv(0xa0, p.attrs...)
	}
	signer := tlv(0x30, p.siVersion, p.sid, p.digestAlgorithm, attrs, p.signatureAlgorithm, p.signature, p.unsign)
	if p.noSigner {
		signer = ""
	}
	return []byte(tlv(0x30, oidDER(p.outer), tlv(0xa0, tlv(0x30, p.version, p.digestAlgorithms,
		tlv(0x30, p.contentType, p.eContent), p.certificates, p.crls, tlv(0x31, signer, p.moreSigners), p.afterSigners))))
}

// envelopedParts are the elements of an EnvelopedData.
type envelopedParts struct {
	version, originator          string
	recipients                   []string
	contentType, cipher, content string // content with its [0]
	after                        string
}

// recipientInfo is a KeyTransRecipientInfo with issuer and serial number.
func recipientInfo(cert *x509.Certificate, alg, encryptedKey string) string {
	return tlv(0x30, "\x02\x01\x00", issuerAndSerial(cert), alg, tlv(4, encryptedKey))
}

var (
	rsaTransport = algorithm(oidRSA, null)
	aes128       = algorithm(ciphers[AES128].oid, tlv(4, strings.Repeat("i", 16)))
)

func newEnveloped(recipients ...string) *envelopedParts {
	return &envelopedParts{
		version: "\x02\x01\x00", recipients: recipients, contentType: oidDER(oidData), cipher: aes128,
		content: tlv(0x80, encryptCBC(AES128, strings.Repeat("k", 16), string(pad([]byte("hello"), 16)))),
	}
}

// encryptCBC encrypts whole blocks under the IV of aes128.
func encryptCBC(c Cipher, key, plain string) string {
	b, err := c.newBlock([]byte(key))
	if err != nil {
		panic(err)
	}
	out := []byte(plain)
	previous := []byte(strings.Repeat("i", b.BlockSize()))
	for at := 0; at < len(out); at += b.BlockSize() {
		block := out[at : at+b.BlockSize()]
		for i := range block {
			block[i] ^= previous[i]
		}
		b.Encrypt(block, block)
		previous = block
	}
	return string(out)
}

// wrapped is key encrypted to the certificate by PKCS #1 v1.5.
func wrapped(cert *x509.Certificate, key string) string {
	//lint:ignore SA1019 what RFC 8894 clients send
	out, err := rsa.EncryptPKCS1v15(rand.Reader, cert.PublicKey.(*rsa.PublicKey), []byte(key))
	if err != nil {
		panic(err)
	}
	return string(out)
}

// rawRSA is m to the public exponent, without any padding.
func rawRSA(cert *x509.Certificate, m []byte) string {
	pub := cert.PublicKey.(*rsa.PublicKey)
	c := new(big.Int).Exp(new(big.Int).SetBytes(m), big.NewInt(int64(pub.E)), pub.N)
	return string(c.FillBytes(make([]byte, pub.Size())))
}

func (p *envelopedParts) der() []byte {
	return []byte(tlv(0x30, oidDER(oidEnvelopedData), tlv(0xa0, tlv(0x30, p.version, p.originator,
		tlv(0x31, p.recipients...), tlv(0x30, p.contentType, p.cipher, p.content), p.after))))
}
