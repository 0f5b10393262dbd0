package scep

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1" // for crypto.Hash.New
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net/http"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/protocols/cms"
)

// wish is a request as a client would make it. Zero values make a good PKCSReq with the right challenge.
type wish struct {
	kind        string            // "": 19
	challenge   string            // "": the right one; "-": none
	key         crypto.Signer     // that is to be certified; nil: deviceKey
	signer      *x509.Certificate // nil: self-signed with key
	signerKey   crypto.Signer     // nil: key
	subject     string            // "": device-0001
	wireID      string            // "": a fixed one
	digest      crypto.Hash       // 0: SHA-256
	cipher      cms.Cipher        // 0: AES128
	csr         []byte            // instead of one made of the above
	envelope    func([]byte) []byte
	attributes  func([]cms.Attribute) []cms.Attribute
	plainRSA    bool
	chain       []*x509.Certificate
	algorithm   x509.SignatureAlgorithm // of the CSR
	contentType asn1.ObjectIdentifier
	recipient   *x509.Certificate // nil: the RA
}

var testNonce = []byte("a nonce of 16 by")

// makeCSR makes a PKCS#10 request with a challengePassword as PrintableString.
func makeCSR(key crypto.Signer, cn, challenge string, algorithm x509.SignatureAlgorithm) []byte {
	tmpl := &x509.CertificateRequest{Subject: pkix.Name{CommonName: cn}, DNSNames: []string{cn + ".example"}, SignatureAlgorithm: algorithm}
	der := must(x509.CreateCertificateRequest(rand.Reader, tmpl, key))
	if challenge == "-" {
		return der
	}
	return withAttribute(key, der, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7}, cbasn1.PrintableString, challenge)
}

// withAttribute adds an attribute to a request, signed anew.
func withAttribute(key crypto.Signer, der []byte, oid asn1.ObjectIdentifier, tag cbasn1.Tag, value string) []byte {
	csr := must(x509.ParseCertificateRequest(der))
	input := cryptobyte.String(csr.RawTBSCertificateRequest)
	var info, attributes cryptobyte.String
	var head []byte
	input.ReadASN1(&info, cbasn1.SEQUENCE)
	tagAttributes := cbasn1.Tag(0).ContextSpecific().Constructed()
	for !info.Empty() && !info.PeekASN1Tag(tagAttributes) {
		var e cryptobyte.String
		var any cbasn1.Tag
		info.ReadAnyASN1Element(&e, &any)
		head = append(head, e...)
	}
	info.ReadASN1(&attributes, tagAttributes)
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(head)
		b.AddASN1(tagAttributes, func(b *cryptobyte.Builder) {
			b.AddBytes(attributes)
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(oid)
				b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
					b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes([]byte(value)) })
				})
			})
		})
	})
	return signInfo(key, b.BytesOrPanic())
}

// signInfo signs a CertificationRequestInfo with SHA-256.
func signInfo(key crypto.Signer, info []byte) []byte {
	h := crypto.SHA256.New()
	h.Write(info)
	signature := must(key.Sign(rand.Reader, h.Sum(nil), crypto.SHA256))
	algorithm := asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}
	if _, ok := key.(*ecdsa.PrivateKey); ok {
		algorithm = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(info)
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(algorithm) })
		b.AddASN1BitString(signature)
	})
	return b.BytesOrPanic()
}

func newP256() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) }

func orValue[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// complete fills in what is not given.
func (r wish) complete() wish {
	r.kind = orValue(r.kind, "19")
	r.challenge = orValue(r.challenge, testChallenge)
	if r.key == nil {
		r.key = deviceKey()
	}
	if r.signerKey == nil {
		r.signerKey = r.key
	}
	if r.signer == nil {
		r.signer = selfSigned(r.signerKey)
	}
	r.subject = orValue(r.subject, "device-0001")
	r.wireID = orValue(r.wireID, "1234567890+/= 77")
	r.digest = orValue(r.digest, crypto.SHA256)
	r.cipher = orValue(r.cipher, cms.AES128)
	if r.csr == nil {
		r.csr = makeCSR(r.key, r.subject, r.challenge, r.algorithm)
	}
	return r
}

// message makes the request's pkiMessage.
func (w *world) message(r wish) []byte {
	w.t.Helper()
	r = r.complete()
	if r.recipient == nil {
		r.recipient = w.ca.ra
	}
	envelope := must(cms.Encrypt(r.csr, r.recipient, r.cipher))
	if r.envelope != nil {
		envelope = r.envelope(envelope)
	}
	attributes := []cms.Attribute{
		cms.AttributePrintable(cms.SCEPMessageType, r.kind), cms.AttributePrintable(cms.SCEPTransactionID, r.wireID),
		cms.AttributeOctets(cms.SCEPSenderNonce, testNonce),
	}
	if r.attributes != nil {
		attributes = r.attributes(attributes)
	}
	return must(cms.Sign(cms.SignOptions{
		ContentType: r.contentType, Content: envelope, Key: r.signerKey, Certificate: r.signer,
		Certificates: append([]*x509.Certificate{r.signer}, r.chain...), Digest: r.digest, Attributes: attributes, PlainRSA: r.plainRSA,
	}))
}

// answer is a CertRep, verified.
type answer struct {
	status, failInfo, text, wireID string
	senderNonce                    []byte
	digest                         crypto.Hash
	cipher                         cms.Cipher
	certs                          []*x509.Certificate // decrypted
	content                        []byte              // decrypted: the degenerate SignedData
	signed                         *cms.Signed
}

// read verifies an answer to a message, and decrypts it with the key.
func (w *world) read(t testing.TB, got reply, key crypto.Signer, cert *x509.Certificate) answer {
	t.Helper()
	if got.StatusCode != http.StatusOK || got.Header.Get("Content-Type") != "application/x-pki-message" {
		t.Fatalf("%d, %s: %s", got.StatusCode, got.Header.Get("Content-Type"), got.body)
	}
	s, err := cms.ParseSigned(got.body, cms.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	a := answer{digest: s.Digest, signed: s}
	// Section 3.2.1: which attributes there are, and of which type.
	value := func(oid asn1.ObjectIdentifier, tag cbasn1.Tag) string {
		der, ok := s.Attribute(oid)
		if !ok {
			return ""
		}
		in := cryptobyte.String(der)
		var v cryptobyte.String
		if !in.ReadASN1(&v, tag) {
			t.Fatalf("attribute %v: %x", oid, der)
		}
		return string(v)
	}
	if kind := value(cms.SCEPMessageType, cbasn1.PrintableString); kind != "3" {
		t.Errorf("messageType %q", kind)
	}
	if nonce := value(cms.SCEPRecipientNonce, cbasn1.OCTET_STRING); nonce != string(testNonce) {
		t.Errorf("recipientNonce %x", nonce)
	}
	a.status, a.failInfo = value(cms.SCEPPKIStatus, cbasn1.PrintableString), value(cms.SCEPFailInfo, cbasn1.PrintableString)
	a.text, a.wireID = value(cms.SCEPFailInfoText, cbasn1.UTF8String), value(cms.SCEPTransactionID, cbasn1.PrintableString)
	a.senderNonce = []byte(value(cms.SCEPSenderNonce, cbasn1.OCTET_STRING))
	if len(a.senderNonce) != 16 || bytes.Equal(a.senderNonce, testNonce) {
		t.Errorf("senderNonce %x", a.senderNonce)
	}
	if len(s.Certificates) != 1 || !bytes.Equal(s.Certificates[0].Raw, w.ca.ra.Raw) || s.Signer == nil {
		t.Errorf("%d certificates with the answer: want the RA's alone", len(s.Certificates))
	}
	if !s.SignatureOID.Equal(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}) {
		t.Errorf("signature algorithm %v", s.SignatureOID)
	}
	if a.status != "0" {
		// Sections 3.3.2.2 and 3.3.2.3: no pkcsPKIEnvelope. The content is there and empty: certmonger does not read such an
		// answer without one.
		if s.Content == nil || len(s.Content) != 0 {
			t.Errorf("content with status %s: %x, nil %t", a.status, s.Content, s.Content == nil)
		}
		if err := s.Verify([]crypto.Hash{a.digest}); err != nil {
			t.Error(err)
		}
		if (a.status == "2") != (a.failInfo != "" && a.text != "") {
			t.Errorf("status %s with failInfo %q, %q", a.status, a.failInfo, a.text)
		}
		return a
	}
	if err := s.Verify([]crypto.Hash{a.digest}); err != nil {
		t.Error(err)
	}
	env, err := cms.ParseEnveloped(s.Content, cms.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	a.cipher = env.Cipher
	content, err := env.Decrypt(key.(*rsa.PrivateKey), cert)
	if err != nil {
		t.Fatal(err)
	}
	a.content = content
	for _, der := range must(cms.ParseCertsOnly(content, cms.Limits{})) {
		a.certs = append(a.certs, must(x509.ParseCertificate(der)))
	}
	return a
}

// ask sends a request by POST and reads what comes back.
func (w *world) ask(t testing.TB, r wish) answer {
	t.Helper()
	r = r.complete()
	a := w.read(t, w.post("/scep", w.message(r)), r.signerKey, r.signer)
	if a.wireID != r.wireID {
		t.Errorf("transactionID %q, want %q", a.wireID, r.wireID)
	}
	return a
}

// sha1CSR is a request signed with SHA-1, which crypto/x509 no longer makes.
func sha1CSR() ([]byte, error) {
	csr := must(x509.ParseCertificateRequest(makeCSR(deviceKey(), "device-0001", testChallenge, 0)))
	h := crypto.SHA1.New()
	h.Write(csr.RawTBSCertificateRequest)
	signature := must(deviceKey().Sign(rand.Reader, h.Sum(nil), crypto.SHA1))
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(csr.RawTBSCertificateRequest)
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 5})
			b.AddASN1NULL()
		})
		b.AddASN1BitString(signature)
	})
	return b.Bytes()
}
