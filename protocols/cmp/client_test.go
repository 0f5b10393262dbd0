package cmp

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	stdpkix "crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// client is a device that speaks CMP. Its fields may be changed between messages.
type client struct {
	w         *world
	reference []byte // MAC
	secret    []byte
	mac       func(salt []byte) (*cmpmsg.MAC, error)
	key       crypto.Signer // signature
	sign      *signedWith   // another than the one that fits key; nil for that
	cert      *x509.Certificate
	extra     [][]byte // nil: cert and its issuer
	sender    []byte   // DER Name; nil: cert's subject, or none
	pvno      int
	path      string

	txid     []byte
	peer     []byte // the server's last senderNonce
	info     []cmpmsg.InfoTypeAndValue
	change   func(*cmpmsg.Outgoing) // of the message, before protection
	lastSent []byte
}

func (w *world) macClient(reference string) *client {
	secret := []byte(w.gateway.secrets[reference])
	return &client{w: w, reference: []byte(reference), secret: secret, pvno: 2, path: "/.well-known/cmp", txid: random(16),
		mac: func(salt []byte) (*cmpmsg.MAC, error) { return cmpmsg.NewPBM(crypto.SHA256, crypto.SHA256, 500, salt) }}
}

// vendorClient signs with a certificate of a vendor's CA.
func (w *world) vendorClient(cn string) *client {
	vendor := newTestCA(w.t, "Vendor", newP256())
	key := newP256()
	cert := vendor.issue(w.t, &x509.Certificate{
		Subject: stdpkix.Name{CommonName: cn}, KeyUsage: x509.KeyUsageDigitalSignature, SubjectKeyId: []byte("kid of " + cn),
	}, key.Public())
	c := w.signer(cert, key)
	c.extra = [][]byte{cert.Raw, vendor.issuer.Raw}
	return c
}

func (w *world) signer(cert *x509.Certificate, key crypto.Signer) *client {
	return &client{w: w, cert: cert, key: key, extra: [][]byte{cert.Raw}, pvno: 2, path: "/.well-known/cmp", txid: random(16)}
}

func random(n int) []byte {
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		panic(err)
	}
	return b
}

// message makes the DER of a protected message.
func (c *client) message(body cmpmsg.Body) []byte {
	c.w.t.Helper()
	out := &cmpmsg.Outgoing{Body: body, Header: cmpmsg.Header{
		PVNO: c.pvno, Sender: cmpmsg.GeneralDirectoryName(c.name()), Recipient: cmpmsg.GeneralDirectoryName(nullDN[:]),
		MessageTime: c.w.now, TransactionID: c.txid, SenderNonce: random(16), RecipNonce: c.peer, GeneralInfo: c.info,
	}}
	var protect func([]byte) ([]byte, error)
	if c.key == nil {
		mac, err := c.mac(random(16))
		if err != nil {
			c.w.t.Fatal(err)
		}
		alg := mac.Algorithm()
		out.Header.ProtectionAlg, out.Header.SenderKID = &alg, c.reference
		protect = func(part []byte) ([]byte, error) { return mac.Sum(c.secret, part), nil }
	} else {
		alg, err := pkix.SignatureAlgorithm(c.key)
		if err != nil {
			c.w.t.Fatal(err)
		}
		out.Header.ProtectionAlg = &cmpmsg.AlgorithmIdentifier{Raw: alg}
		out.Header.SenderKID = c.cert.SubjectKeyId
		out.ExtraCerts = c.extra
		protect = func(part []byte) ([]byte, error) {
			_, sig, err := pkix.Sign(c.key, part)
			return sig, err
		}
		if s := c.sign; s != nil {
			out.Header.ProtectionAlg = &cmpmsg.AlgorithmIdentifier{Raw: s.algorithm}
			protect = func(part []byte) ([]byte, error) { return s.sign(c.key, part), nil }
		}
	}
	if c.change != nil {
		c.change(out)
		if out.Header.ProtectionAlg == nil {
			protect = nil
		}
	}
	der, err := out.Protect(protect)
	if err != nil {
		c.w.t.Fatal(err)
	}
	c.lastSent = der
	return der
}

func (c *client) name() []byte {
	switch {
	case c.sender != nil:
		return c.sender
	case c.cert != nil:
		return c.cert.RawSubject
	default:
		return nullDN[:]
	}
}

// ask sends a body and returns the answer, whose header and protection must be right.
func (c *client) ask(body cmpmsg.Body) *cmpmsg.Message {
	c.w.t.Helper()
	return c.send(c.message(body))
}

func (c *client) send(der []byte) *cmpmsg.Message {
	c.w.t.Helper()
	return c.accept(der, c.w.postTo(c.path, der))
}

// accept checks an answer against what was sent.
func (c *client) accept(sent, der []byte) *cmpmsg.Message {
	c.w.t.Helper()
	t := c.w.t
	m, err := cmpmsg.Parse(der)
	if err != nil {
		t.Fatalf("the answer does not parse: %v", err)
	}
	q, _ := cmpmsg.Parse(sent)
	h := &m.Header
	if q != nil {
		if q.Header.TransactionID != nil && !bytes.Equal(h.TransactionID, q.Header.TransactionID) {
			t.Fatalf("transactionID %x, sent %x", h.TransactionID, q.Header.TransactionID)
		}
		if !bytes.Equal(h.RecipNonce, q.Header.SenderNonce) || !bytes.Equal(h.Recipient, q.Header.Sender) {
			t.Fatalf("recipNonce %x, sent %x; recipient %x", h.RecipNonce, q.Header.SenderNonce, h.Recipient)
		}
		if q.Header.PVNO >= 2 && q.Header.PVNO <= 3 && h.PVNO != q.Header.PVNO {
			t.Fatalf("pvno %d, sent %d", h.PVNO, q.Header.PVNO)
		}
	}
	if len(h.SenderNonce) < 16 || bytes.Equal(h.SenderNonce, h.RecipNonce) || h.MessageTime.IsZero() {
		t.Fatalf("senderNonce %x, messageTime %v", h.SenderNonce, h.MessageTime)
	}
	if name, ok := cmpmsg.DirectoryName(h.Sender); !ok || !bytes.Equal(name, c.w.identity.Certificate.RawSubject) {
		t.Fatalf("sender %x", h.Sender)
	}
	if h.ProtectionAlg == nil || m.Protection == nil {
		t.Fatal("the answer is not protected")
	}
	c.verify(m)
	c.peer = h.SenderNonce
	if c.txid == nil {
		c.txid = h.TransactionID
	}
	return m
}

func (c *client) verify(m *cmpmsg.Message) {
	c.w.t.Helper()
	t := c.w.t
	if m.Header.ProtectionAlg.IsMAC() {
		mac, err := cmpmsg.ParseMAC(m.Header.ProtectionAlg, cmpmsg.MACPolicy{AllowSHA1: true})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(m.Header.SenderKID, c.reference) || !mac.Verify(c.secret, m.Protected(), m.Protection) {
			t.Fatalf("the answer's MAC is wrong, senderKID %q", m.Header.SenderKID)
		}
		return
	}
	if !bytes.Equal(m.Header.SenderKID, c.w.identity.Certificate.SubjectKeyId) {
		t.Fatalf("senderKID %x", m.Header.SenderKID)
	}
	for i, want := range []*x509.Certificate{c.w.identity.Certificate, c.w.ca.issuer, c.w.ca.root} {
		if i >= len(m.ExtraCerts) || !bytes.Equal(m.ExtraCerts[i], want.Raw) {
			t.Fatalf("extraCerts: %d, number %d is not %s", len(m.ExtraCerts), i+1, want.Subject)
		}
	}
	pub, _ := pkix.ParsePublicKey(c.w.identity.Certificate.RawSubjectPublicKeyInfo)
	if err := pkix.VerifySignature(pub, m.Header.ProtectionAlg.Raw, m.Protected(), m.Protection); err != nil {
		t.Fatalf("the answer's signature: %v", err)
	}
}

// crmf makes a certificate request message of one request.
type crmf struct {
	kind       cmpmsg.BodyType
	key        crypto.Signer // asked for
	popKey     crypto.Signer // that signs; nil: key
	subject    string        // CN; "" for none
	rawSubject []byte
	noKey      bool
	dns        []string
	notAfter   time.Time
	reqID      int64
	controls   []cmpmsg.AttributeTypeAndValue
	input      func(*crmf, []byte) *cmpmsg.POPOSigningKey // poposkInput, without the signature
	change     func(*cmpmsg.CertReqMsg)
	count      int
}

func cn(name string) []byte {
	der, err := asn1.Marshal(stdpkix.Name{CommonName: name}.ToRDNSequence())
	if err != nil {
		panic(err)
	}
	return der
}

func (q crmf) body(t testing.TB) *cmpmsg.CertReqMessages {
	t.Helper()
	if q.popKey == nil {
		q.popKey = q.key
	}
	m := cmpmsg.CertReqMsg{ReqID: big.NewInt(q.reqID), Controls: q.controls}
	spki, err := x509.MarshalPKIXPublicKey(q.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	if !q.noKey {
		m.Template.PublicKey = spki
	}
	if q.subject != "" {
		m.Template.Subject = cn(q.subject)
	}
	if q.rawSubject != nil {
		m.Template.Subject = q.rawSubject
	}
	if !q.notAfter.IsZero() {
		m.Template.NotBefore, m.Template.NotAfter = testTime.Add(-time.Hour), q.notAfter
	}
	if len(q.dns) > 0 {
		names := pkix.GeneralNames{DNS: q.dns}
		san, err := names.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		m.Template.Extensions, err = asn1.Marshal([]stdpkix.Extension{{Id: oidSubjectAltName, Value: san}})
		if err != nil {
			t.Fatal(err)
		}
	}
	request, err := m.Request()
	if err != nil {
		t.Fatal(err)
	}
	alg, err := pkix.SignatureAlgorithm(q.popKey)
	if err != nil {
		t.Fatal(err)
	}
	signing := &cmpmsg.POPOSigningKey{}
	data := request
	if q.input != nil {
		signing = q.input(&q, spki)
		data = signing.RawInput
	}
	signing.Algorithm = cmpmsg.AlgorithmIdentifier{Raw: alg}
	if _, signing.Signature, err = pkix.Sign(q.popKey, data); err != nil {
		t.Fatal(err)
	}
	m.POP = &cmpmsg.ProofOfPossession{Kind: cmpmsg.POPSignature, Signing: signing}
	if q.change != nil {
		q.change(&m)
	}
	out := &cmpmsg.CertReqMessages{Kind: q.kind}
	for range max(q.count, 1) {
		out.Messages = append(out.Messages, m)
	}
	return out
}

// certificate takes the certificate out of an answer of the type.
func certificate(t testing.TB, m *cmpmsg.Message, kind cmpmsg.BodyType) *x509.Certificate {
	t.Helper()
	r := response(t, m, kind)
	if r.Status.Status > cmpmsg.StatusGrantedWithMods || r.Certificate == nil {
		t.Fatalf("status %+v, certificate of %d bytes", r.Status, len(r.Certificate))
	}
	cert, err := x509.ParseCertificate(r.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func response(t testing.TB, m *cmpmsg.Message, kind cmpmsg.BodyType) cmpmsg.CertResponse {
	t.Helper()
	rep, ok := m.Body.(*cmpmsg.CertRepMessage)
	if !ok || rep.Kind != kind || len(rep.Responses) != 1 {
		t.Fatalf("the answer is of type %d: %+v", m.Body.Type(), m.Body)
	}
	return rep.Responses[0]
}

func certHash(cert *x509.Certificate) []byte {
	sum := sha256.Sum256(cert.Raw)
	return sum[:]
}

func confirmation(hash []byte, id int64) *cmpmsg.CertConf {
	return &cmpmsg.CertConf{Statuses: []cmpmsg.CertStatus{{CertHash: hash, ReqID: big.NewInt(id)}}}
}

// failure is the failInfo and text of an answer that refuses, in whichever body; 0 when it does not.
func failure(m *cmpmsg.Message) (fail cmpmsg.FailInfo, text string, rejection bool) {
	var s cmpmsg.PKIStatusInfo
	switch b := m.Body.(type) {
	case *cmpmsg.ErrorMsg:
		s = b.Status
	case *cmpmsg.CertRepMessage:
		s, rejection = b.Responses[0].Status, true
	case *cmpmsg.RevRep:
		s, rejection = b.Statuses[0], true
	}
	if len(s.Text) > 0 {
		text = s.Text[0]
	}
	if s.Status != cmpmsg.StatusRejection {
		return 0, text, rejection
	}
	return s.FailInfo, text, rejection
}
