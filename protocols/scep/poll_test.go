package scep

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cms"
)

// issuerAndSubject is what a CertPoll's envelope holds (RFC 8894 section 3.3.3): two empty Names.
var issuerAndSubject = []byte{0x30, 4, 0x30, 0, 0x30, 0}

// heldWorld has one request of a self-signed key under the fixed transactionID, which the gateway holds.
func heldWorld(t *testing.T) (w *world, signer *x509.Certificate) {
	t.Helper()
	w, signer = newWorld(t, worldOptions{}), selfSigned(deviceKey())
	w.gateway.enroll = func(r *gateway.Request) (*gateway.Result, error) {
		return &gateway.Result{Kind: gateway.ResultPending, Transaction: r.ID, RetryAfter: time.Minute}, nil
	}
	w.gateway.poll = func(e *gateway.Request) (*gateway.Result, error) {
		return &gateway.Result{Kind: gateway.ResultPending, Transaction: e.ID}, nil
	}
	if a := w.ask(t, wish{signer: signer}); a.status != "3" {
		t.Fatalf("%+v", a)
	}
	return w, signer
}

// A poll by the one who asked gets what became of the request: pending, its certificate, the refusal. By POST and GET.
// RFC 8894 sections 3.3.3, 4.4 and 4.4.1.
func TestPoll(t *testing.T) {
	w, signer := heldWorld(t)
	poll := wish{kind: "20", csr: issuerAndSubject, signer: signer, cipher: cms.AES256}
	if a := w.ask(t, poll); a.status != "3" {
		t.Errorf("held: %+v", a)
	}
	byGet := w.get("/scep?operation=PKIOperation&message=" + base64.RawURLEncoding.EncodeToString(w.message(poll)))
	if a := w.read(t, byGet, deviceKey(), signer); a.status != "3" {
		t.Errorf("by GET: %+v", a)
	}
	r := w.gateway.polled[0]
	if r.Operation != gateway.Query || r.WireID != "1234567890+/= 77" || r.Endpoint != "phones" || r.CSR != nil || r.PublicKey != nil {
		t.Errorf("%+v", r)
	}
	w.gateway.poll = w.sign
	if a := w.ask(t, poll); a.status != "0" || len(a.certs) != 1 || a.certs[0].Subject.CommonName != "device-0001" || a.cipher != cms.AES256 {
		t.Errorf("approved: %+v", a)
	}
	// A certificate of its own making for the same key: certmonger makes one for each message.
	if a := w.ask(t, wish{kind: "20", csr: issuerAndSubject}); a.status != "0" {
		t.Errorf("another self-signed certificate: %+v", a)
	}
	w.gateway.poll = func(*gateway.Request) (*gateway.Result, error) {
		return nil, &gateway.Error{Reason: gateway.NotAuthorized, Detail: "the request was denied", Transaction: testReference}
	}
	if a := w.ask(t, poll); a.status != "2" || a.failInfo != "2" || a.text != "the request was denied (reference "+testReference+")" {
		t.Errorf("denied: %+v", a)
	}
	if len(w.gateway.allEnrolled()) != 1 {
		t.Error("a poll became a request")
	}
}

// Whoever is not the one who asked learns what is learnt of a transactionID that nobody used; and what is no poll at all
// asks the gateway nothing.
// RFC 8894 sections 3.3.3 and 4.4.
func TestPollRefused(t *testing.T) {
	w, signer := heldWorld(t)
	w.gateway.poll = w.sign
	unknown := func(name string, a answer) {
		t.Helper()
		if a.status != "2" || a.failInfo != "4" || a.text != "no such request (reference "+testReference+")" {
			t.Errorf("%s: %+v", name, a)
		}
	}
	unknown("another key", w.ask(t, wish{kind: "20", csr: issuerAndSubject, key: otherKey()}))
	unknown("another key under the same certificate's name", w.ask(t, wish{kind: "20", csr: issuerAndSubject, key: otherKey(),
		signer: signCertificate(&x509.Certificate{RawSubject: signer.RawSubject, SerialNumber: signer.SerialNumber}, nil, otherKey().Public(), otherKey())}))
	unknown("another's certificate", w.ask(t, wish{kind: "20", csr: issuerAndSubject, key: otherKey(), signer: w.device(otherKey())}))
	unknown("another transactionID", w.ask(t, wish{kind: "20", csr: issuerAndSubject, signer: signer, wireID: "1"}))
	unknown("another endpoint", w.read(t, w.post("/scep/plant", w.message(wish{kind: "20", csr: issuerAndSubject, signer: signer})), deviceKey(), signer))

	asked := len(w.gateway.polled)
	for name, tt := range map[string]struct {
		wish
		failInfo, text string
	}{
		"a signature of nobody":      {wish{}, "1", "signature does not verify"},
		"no envelope":                {wish{envelope: func([]byte) []byte { return issuerAndSubject }}, "2", "not a CMS EnvelopedData"},
		"an envelope with a remnant": {wish{envelope: func(e []byte) []byte { return append(e, 0) }}, "2", "not a CMS EnvelopedData"},
		"single DES":                 {wish{cipher: cms.DES}, "0", "DES"},
	} {
		tt.wish.kind, tt.wish.csr, tt.wish.signer = "20", issuerAndSubject, signer
		message := w.message(tt.wish)
		if name == "a signature of nobody" {
			message[len(message)-1] ^= 1
		}
		a := w.read(t, w.post("/scep", message), deviceKey(), signer)
		if a.status != "2" || a.failInfo != tt.failInfo || !strings.Contains(a.text, tt.text) {
			t.Errorf("%s: %+v", name, a)
		}
	}
	if len(w.gateway.polled) != asked {
		t.Error("the gateway was asked")
	}
}

// Nothing that the envelope of a poll may hold changes the answer: else whoever has a pending request could find out
// what others' envelopes hold.
func TestPollIsNoOracle(t *testing.T) {
	w, signer := heldWorld(t)
	victim := makeCSR(otherKey(), "device-0002", testChallenge, 0)
	key := bytes.Repeat([]byte{0x42}, 16)
	envelopes := map[string][]byte{"two Names": envelope(w, block(2, key), key, pad(issuerAndSubject, 16))}
	for name, e := range oracleKinds(w, victim) {
		envelopes[name] = e
	}
	for name, content := range map[string][]byte{"nothing": {}, "no Names": {0x30, 3, 2, 1, 0}, "one Name": {0x30, 2, 0x30, 0}, "a CSR": victim, "text": []byte("no ASN.1")} {
		envelopes[name] = envelope(w, block(2, key), key, pad(content, 16))
	}
	var want []byte
	for name, e := range envelopes {
		got := w.post("/scep", w.message(wish{kind: "20", signer: signer, envelope: func([]byte) []byte { return e }}))
		a := w.read(t, got, deviceKey(), signer)
		rest := stripped(got.body, a)
		if want == nil {
			want = rest
		}
		if a.status != "3" || !bytes.Equal(rest, want) || len(w.paused()) != 0 {
			t.Errorf("%s: another answer than the others: %+v", name, a)
		}
	}
}

// The RA certificate before the current one still works: the request is decrypted, and the answer is that RA's.
// RFC 8894 sections 2.1.2 and 4.2: what GetCACert gave goes on being good until it ends.
func TestPreviousRA(t *testing.T) {
	var w *world
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "SCEP Test RA"}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment}
	var now *gateway.Identity
	w = newWorld(t, worldOptions{identity: func(w *world) *gateway.Identity {
		if now == nil {
			now = &gateway.Identity{Key: raKey(), Certificate: w.ca.ra}
		}
		return now
	}})
	before := w.ca.ra
	next := w.ca.issue(template, foreignKey().Public())
	now = &gateway.Identity{Key: foreignKey(), Certificate: next, Previous: &gateway.Identity{Key: raKey(), Certificate: before}}
	// read compares the answer's certificate with that which the client knows.
	if a := w.ask(t, wish{recipient: before}); a.status != "0" {
		t.Errorf("to the one before: %+v", a)
	}
	between := w.ca.issue(template, foreignKey().Public())
	now.Previous = &gateway.Identity{Key: foreignKey(), Certificate: between, Previous: now.Previous}
	if a := w.ask(t, wish{recipient: before}); a.status != "0" {
		t.Errorf("to the one before that: %+v", a)
	}
	w.ca.ra = next
	if a := w.ask(t, wish{recipient: next}); a.status != "0" {
		t.Errorf("to the current one: %+v", a)
	}
	if a := w.ask(t, wish{recipient: w.ca.issuer}); a.status != "2" || a.text != undecryptable {
		t.Errorf("to another: %+v", a)
	}
	now = &gateway.Identity{Key: foreignKey(), Certificate: next}
	if a := w.ask(t, wish{recipient: before}); a.status != "2" || a.text != undecryptable {
		t.Errorf("to the one before, which is gone: %+v", a)
	}
	ended := *before
	ended.NotAfter = testTime.Add(-time.Second)
	now = &gateway.Identity{Key: foreignKey(), Certificate: next, Previous: &gateway.Identity{Key: raKey(), Certificate: &ended}}
	if a := w.ask(t, wish{recipient: before}); a.status != "2" || a.text != undecryptable {
		t.Errorf("to the one before, which has ended: %+v", a)
	}
	raw := w.get("/scep?operation=GetCACert")
	if list := must(cms.ParseCertsOnly(raw.body, cms.Limits{})); bytes.Equal(list[0], before.Raw) || !bytes.Equal(list[0], next.Raw) {
		t.Error("GetCACert begins with another RA certificate than the current one")
	}
}

// GetCACert has the current chain alone while the CA changes over.
// RFC 8894 section 4.2.
func TestCACertDuringRollover(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.gateway.rollover = []*x509.Certificate{selfSigned(otherKey()), selfSigned(newP256())}
	got := w.get("/scep?operation=GetCACert")
	if list := must(cms.ParseCertsOnly(got.body, cms.Limits{})); len(list) != 3 {
		t.Errorf("%d certificates", len(list))
	}
}
