package e2e

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"testing"
	"time"

	x509pkix "crypto/x509/pkix"

	"github.com/muster-pki/muster/protocols/cms"
)

// scepDevice is a SCEP client of our own, for messages that no good client sends, and for the same message again. What it
// proves about the wire, strongSwan and scepclient prove better.
type scepDevice struct {
	t    testing.TB
	g    *instance
	http *http.Client
	path string // below the gateway's URL
	ra   *x509.Certificate
	key  *rsa.PrivateKey
	self *x509.Certificate // of the key, self-signed
}

// scepDevice makes a device with a key of its own.
func (g *instance) scepDevice() *scepDevice {
	g.t.Helper()
	ra, err := g.scepRA()
	if err != nil {
		g.t.Fatal(err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		g.t.Fatal(err)
	}
	d := &scepDevice{t: g.t, g: g, http: &http.Client{Timeout: time.Minute}, path: "/scep", ra: ra, key: key}
	d.self = d.certify("SCEP SIGNER", nil)
	return d
}

// certify makes a certificate of the device's key: self-signed, or under a CA that nobody here knows.
func (d *scepDevice) certify(name string, ca crypto.Signer) *x509.Certificate {
	d.t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: x509pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}
	parent, signer := tmpl, crypto.Signer(d.key)
	if ca != nil {
		parent, signer = &x509.Certificate{Subject: x509pkix.Name{CommonName: "Somebody Else's CA"}}, ca
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, d.key.Public(), signer)
	if err != nil {
		d.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		d.t.Fatal(err)
	}
	return cert
}

// scepWish is one request. The zero value is a PKCSReq, signed with the device's self-signed certificate.
type scepWish struct {
	kind      string // "": 19
	name      string // common name asked for
	challenge string // "": none
	tid       string // "": a random one
	key       *rsa.PrivateKey
	signer    *x509.Certificate
	signerKey crypto.Signer
	chain     []*x509.Certificate
	envelope  []byte // instead of one made of the above
}

// scepMessage is a message with what its answer is held against.
type scepMessage struct {
	der, nonce []byte
	tid        string
	signer     *x509.Certificate
	key        crypto.Signer
}

// message makes a pkiMessage.
func (d *scepDevice) message(w scepWish) *scepMessage {
	d.t.Helper()
	if w.kind == "" {
		w.kind = "19"
	}
	if w.tid == "" {
		w.tid = fmt.Sprintf("%x", random(16))
	}
	if w.key == nil {
		w.key = d.key
	}
	if w.signer == nil {
		w.signer = d.self
	}
	if w.signerKey == nil {
		w.signerKey = d.key
	}
	if w.envelope == nil {
		csr, err := scepCSR(w.key, w.name, w.challenge)
		if err != nil {
			d.t.Fatal(err)
		}
		if w.envelope, err = cms.Encrypt(csr, d.ra, cms.AES128); err != nil {
			d.t.Fatal(err)
		}
	}
	m := &scepMessage{nonce: random(16), tid: w.tid, signer: w.signer, key: w.signerKey}
	var err error
	m.der, err = cms.Sign(cms.SignOptions{
		Content: w.envelope, Key: w.signerKey, Certificate: w.signer, Certificates: append([]*x509.Certificate{w.signer}, w.chain...), Digest: crypto.SHA256,
		Attributes: []cms.Attribute{
			cms.AttributePrintable(cms.SCEPMessageType, w.kind), cms.AttributePrintable(cms.SCEPTransactionID, w.tid),
			cms.AttributeOctets(cms.SCEPSenderNonce, m.nonce),
		},
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return m
}

// scepAnswer is what came back, verified: HTTP 200 means a CertRep signed by the RA for this very message.
type scepAnswer struct {
	http                   int
	status, failInfo, text string
	envelope               []byte
	content                []byte            // with SUCCESS, decrypted
	cert                   *x509.Certificate // with SUCCESS, decrypted
	body                   []byte
}

func (a *scepAnswer) String() string {
	switch {
	case a.http != http.StatusOK:
		return fmt.Sprintf("HTTP %d %s", a.http, a.body)
	case a.status == "2":
		return "FAILURE " + a.failInfo + ": " + a.text
	}
	return "status " + a.status
}

// send posts a message and verifies the answer.
func (d *scepDevice) send(m *scepMessage) (*scepAnswer, error) {
	res, err := d.http.Post(d.g.env["MUSTER_HTTP"]+d.path+"?operation=PKIOperation", "application/x-pki-message", bytes.NewReader(m.der))
	if err != nil {
		return nil, err
	}
	return d.take(m, res)
}

func (d *scepDevice) take(m *scepMessage, res *http.Response) (*scepAnswer, error) {
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	a := &scepAnswer{http: res.StatusCode, body: body}
	if a.http != http.StatusOK {
		return a, nil
	}
	s, err := cms.ParseSigned(body, cms.Limits{})
	if err != nil {
		return nil, err
	}
	if s.Signer == nil || !bytes.Equal(s.Signer.Raw, d.ra.Raw) {
		return nil, fmt.Errorf("the answer is not signed by the RA")
	}
	a.envelope = s.Content
	if err := s.Verify([]crypto.Hash{crypto.SHA256}); err != nil {
		return nil, err
	}
	text := func(oid asn1.ObjectIdentifier) string {
		value, _ := s.Attribute(oid)
		text, _ := cms.StringValue(value)
		return text
	}
	value, _ := s.Attribute(cms.SCEPRecipientNonce)
	if nonce, _ := cms.OctetsValue(value); !bytes.Equal(nonce, m.nonce) || text(cms.SCEPTransactionID) != m.tid || text(cms.SCEPMessageType) != "3" {
		return nil, fmt.Errorf("the answer is not one to this message")
	}
	a.status, a.failInfo, a.text = text(cms.SCEPPKIStatus), text(cms.SCEPFailInfo), text(cms.SCEPFailInfoText)
	if a.status != "0" {
		if len(s.Content) != 0 || (a.status == "2") != (a.failInfo != "" && a.text != "") {
			return nil, fmt.Errorf("status %s with content %x, failInfo %q, %q", a.status, s.Content, a.failInfo, a.text)
		}
		return a, nil
	}
	env, err := cms.ParseEnveloped(s.Content, cms.Limits{})
	if err != nil {
		return nil, err
	}
	key, ok := m.key.(*rsa.PrivateKey)
	if !ok {
		return a, nil
	}
	der, err := env.Decrypt(key, m.signer)
	if err != nil {
		return nil, err
	}
	a.content = der
	certs, err := cms.ParseCertsOnly(der, cms.Limits{})
	if err == nil && len(certs) == 0 { // a CRL
		return a, nil
	}
	if err != nil || len(certs) != 1 {
		return nil, fmt.Errorf("%d certificates, %v", len(certs), err)
	}
	a.cert, err = x509.ParseCertificate(certs[0])
	return a, err
}

// ask makes and sends a message.
func (d *scepDevice) ask(w scepWish) *scepAnswer {
	d.t.Helper()
	return d.must(d.message(w))
}

func (d *scepDevice) must(m *scepMessage) *scepAnswer {
	d.t.Helper()
	a, err := d.send(m)
	if err != nil {
		d.t.Fatal(err)
	}
	return a
}
