package scep

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cms"
)

// issuerAndSerial is the messageData of GetCert and GetCRL (RFC 8894 section 3.3.4; RFC 5652 section 10.2.4).
func issuerAndSerial(issuer []byte, serial *big.Int) []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(issuer)
		b.AddASN1BigInt(serial)
	})
	return b.BytesOrPanic()
}

func unknownCert(*gateway.Request) (*gateway.Result, error) {
	return nil, &gateway.Error{Reason: gateway.UnknownCert, Detail: "told by the gateway", Transaction: testReference}
}

// GetCert: RFC 8894 sections 2.6, 3.3.4, 4.5 and 4.5.1. The certificate alone comes back, encrypted to the one that asked.
func TestGetCert(t *testing.T) {
	w := newWorld(t, worldOptions{})
	own := w.device(deviceKey())
	w.gateway.query = func(r *gateway.Request) (*gateway.Result, error) {
		return &gateway.Result{Kind: gateway.ResultAnswer, Transaction: r.ID, Certificates: []*x509.Certificate{own}}, nil
	}
	get := wish{kind: "21", csr: issuerAndSerial(own.RawIssuer, own.SerialNumber), signer: own, cipher: cms.AES256}
	a := w.ask(t, get)
	if a.status != "0" || a.cipher != cms.AES256 || len(a.certs) != 1 || !a.certs[0].Equal(own) {
		t.Fatalf("%+v", a)
	}
	if want := must(cms.CertsOnly(own.Raw)); !bytes.Equal(a.content, want) {
		t.Errorf("in the envelope: %x, want %x", a.content, want)
	}
	r := w.gateway.asked[0]
	if r.Operation != gateway.Query || r.Target == nil || !bytes.Equal(r.Target.Issuer, own.RawIssuer) || r.Target.Serial.Cmp(own.SerialNumber) != 0 || r.CSR != nil || r.PublicKey != nil {
		t.Errorf("%+v", r)
	}
	if len(r.Credentials) != 1 || r.Credentials[0].Kind != gateway.CredentialSigner || r.Credentials[0].ID != gateway.Fingerprint(own) {
		t.Errorf("credentials: %v", r.Credentials)
	}
	// One without a certificate has a key to show, and no more: the pipeline sees that.
	w.gateway.query = nil
	a = w.ask(t, wish{kind: "21", csr: get.csr})
	if r := w.gateway.asked[1]; a.status != "2" || a.failInfo != "2" || len(r.Credentials) != 1 || r.Credentials[0].Kind != gateway.CredentialKey {
		t.Errorf("self-signed: %+v, %v", a, r.Credentials)
	}
	if len(w.paused()) != 1 {
		t.Error("a refusal of the pipeline, which comes after the decryption, did not wait for the clock") // section 7
	}
	if len(w.gateway.allEnrolled()) != 0 {
		t.Error("a query became a request")
	}
}

// GetCRL: RFC 8894 sections 2.7, 3.3.4, 4.6 and 4.6.1: "only the most recent CRL in the crls field".
func TestGetCRL(t *testing.T) {
	w := newWorld(t, worldOptions{})
	own := w.device(deviceKey())
	crl := must(x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(7), ThisUpdate: testTime, NextUpdate: testTime.Add(time.Hour)},
		signCertificate(&x509.Certificate{Subject: pkix.Name{CommonName: "a CA"}, SubjectKeyId: []byte{1}, KeyUsage: x509.KeyUsageCRLSign, IsCA: true, BasicConstraintsValid: true}, nil, issuerKey().Public(), issuerKey()), issuerKey()))
	w.gateway.query = func(r *gateway.Request) (*gateway.Result, error) {
		return &gateway.Result{Kind: gateway.ResultAnswer, Transaction: r.ID, Answer: crl}, nil
	}
	a := w.ask(t, wish{kind: "22", csr: issuerAndSerial(own.RawIssuer, own.SerialNumber), signer: own})
	if a.status != "0" || len(a.certs) != 0 || !bytes.Equal(a.content, must(cms.CRLsOnly(crl))) {
		t.Fatalf("%+v", a)
	}
	if r := w.gateway.asked[0]; r.Target == nil || r.Target.Serial.Cmp(own.SerialNumber) != 0 || r.Operation != gateway.Query {
		t.Errorf("%+v", r)
	}
	// A device cannot have the gateway make copies of any size.
	crl = make([]byte, maxCRLAnswer+1)
	a = w.ask(t, wish{kind: "22", csr: issuerAndSerial(own.RawIssuer, own.SerialNumber), signer: own})
	if a.status != "2" || a.failInfo != "2" || !strings.Contains(a.text, "over HTTP") {
		t.Errorf("a CRL of %d bytes: %+v", len(crl), a)
	}
}

// Nothing that the envelope of a query may hold changes the answer, but the very name of a certificate to be told of: one FAILURE
// badCertId, its text fixed, by the clock; and the pipeline is asked in any case.
// RFC 8894 sections 3.3.4 and 7.
func TestQueryIsNoOracle(t *testing.T) {
	w := newWorld(t, worldOptions{})
	own := w.device(deviceKey())
	w.gateway.query = unknownCert
	key := bytes.Repeat([]byte{0x42}, 16)
	name := issuerAndSerial(own.RawIssuer, own.SerialNumber)
	envelopes := map[string][]byte{"another's certificate": envelope(w, block(2, key), key, pad(name, 16))}
	for kind, e := range oracleKinds(w, makeCSR(otherKey(), "device-0002", testChallenge, 0)) {
		envelopes[kind] = e
	}
	for kind, content := range map[string][]byte{
		"nothing": {}, "text": []byte("no ASN.1"), "two Names": issuerAndSubject, "a remnant": append(bytes.Clone(name), 0),
		"no serial number": {0x30, 2, 0x30, 0}, "a negative serial number": issuerAndSerial(own.RawIssuer, big.NewInt(-1)),
		"a serial number of 21 octets": issuerAndSerial(own.RawIssuer, new(big.Int).Lsh(big.NewInt(1), 161)), "serial number 0": issuerAndSerial(own.RawIssuer, new(big.Int)),
		"a third element": append([]byte{0x30, byte(len(name) + 1)}, append(bytes.Clone(name[2:]), 2, 1, 1)...),
	} {
		envelopes[kind] = envelope(w, block(2, key), key, pad(content, 16))
	}
	for _, kind := range []string{"21", "22"} {
		var want []byte
		for name, e := range envelopes {
			before, paused := len(w.gateway.asked), len(w.paused())
			got := w.post("/scep", w.message(wish{kind: kind, signer: own, envelope: func([]byte) []byte { return e }}))
			a := w.read(t, got, deviceKey(), own)
			rest := stripped(got.body, a)
			if want == nil {
				want = rest
			}
			if a.status != "2" || a.failInfo != "4" || a.text != noSuch+" (reference "+testReference+")" || !bytes.Equal(rest, want) {
				t.Errorf("%s: another answer than the others: %+v", name, a)
			}
			if len(w.gateway.asked) != before+1 || len(w.paused()) != paused+1 {
				t.Errorf("%s: the pipeline was asked %d times, the answer waited %d times", name, len(w.gateway.asked)-before, len(w.paused())-paused)
				continue
			}
			if r := w.gateway.asked[before]; (r.Target != nil) != (name == "another's certificate") {
				t.Errorf("%s: target %v", name, r.Target)
			} else if r.Target == nil && (len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "the envelope")) {
				t.Errorf("%s: the operator is told %q", name, r.Notes)
			}
		}
	}
}

// Nor does the time of any other refusal, which comes after the decryption too. RFC 8894 sections 3.3.4 and 7.
func TestQueryRefusalTime(t *testing.T) {
	w := newWorld(t, worldOptions{})
	own := w.device(deviceKey())
	for i, reason := range []gateway.Reason{gateway.NotAuthorized, gateway.Revoked, gateway.Unavailable} {
		w.gateway.query = func(*gateway.Request) (*gateway.Result, error) { return nil, &gateway.Error{Reason: reason} }
		w.post("/scep", w.message(wish{kind: "21", signer: own, csr: issuerAndSerial(own.RawIssuer, own.SerialNumber)}))
		if len(w.paused()) != i+1 {
			t.Errorf("%v: waited %d times in all", reason, len(w.paused()))
		}
	}
}

// The allow-list of message types (RFC 8894 section 3.2.1.2), closed: every number from 0 to 25 and spellings of those that are let in.
func TestAllowList(t *testing.T) {
	allowed := []string{"17", "19", "20", "21", "22"}
	kinds := []string{"019", "19 ", " 19", "+19", "1９", "0x13", "PKCSReq", "-1", "1.9", "190"}
	for n := range 26 {
		kinds = append(kinds, strconv.Itoa(n))
	}
	for _, kind := range kinds {
		w := newWorld(t, worldOptions{})
		own := w.device(deviceKey())
		content := []byte(nil)
		if kind == "21" || kind == "22" {
			content = issuerAndSerial(own.RawIssuer, own.SerialNumber)
		}
		a := w.ask(t, wish{kind: kind, signer: own, csr: content})
		asked := len(w.gateway.allEnrolled()) + len(w.gateway.polled) + len(w.gateway.asked)
		if slices.Contains(allowed, kind) != (asked == 1) {
			t.Errorf("messageType %q: the gateway was asked %d times: %+v", kind, asked, a)
		}
		if asked == 0 && (a.status != "2" || a.failInfo != "2" || !strings.Contains(a.text, "messageType") || w.gateway.rejections() != 1) {
			t.Errorf("messageType %q: %+v", kind, a)
		}
	}
}

// GetNextCACert: RFC 8894 sections 3.5.2, 4.7 and 4.7.1.
func TestNextCACert(t *testing.T) {
	w := newWorld(t, worldOptions{})
	caps := func() bool {
		return slices.Contains(strings.Split(string(w.get("/scep?operation=GetCACaps").body), "\n"), "GetNextCACert")
	}
	if caps() {
		t.Error("announced while there is none")
	}
	if got := w.get("/scep?operation=GetNextCACert"); got.StatusCode != 501 || !strings.Contains(string(got.body), "no next certificate") {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
	next := signCertificate(&x509.Certificate{Subject: w.ca.issuer.Subject, IsCA: true, BasicConstraintsValid: true}, w.ca.root, otherKey().Public(), rootKey())
	w.gateway.next = []*x509.Certificate{next, w.ca.root}
	signed := func(o cms.SignOptions) func([]byte) ([]byte, error) {
		return func(content []byte) ([]byte, error) {
			if o.Content == nil {
				o.Content = content
			}
			return cms.Sign(o)
		}
	}
	good := cms.SignOptions{Key: issuerKey(), Certificate: w.ca.issuer, Certificates: []*x509.Certificate{w.ca.issuer}, Digest: crypto.SHA256, PlainRSA: true}
	w.gateway.vouch = signed(good)
	if !caps() {
		t.Error("not announced")
	}
	got := w.get("/scep?operation=GetNextCACert&message=whatever")
	if got.StatusCode != 200 || got.Header.Get("Content-Type") != "application/x-x509-next-ca-cert" {
		t.Fatalf("%d %v %s", got.StatusCode, got.Header, got.body)
	}
	s := must(cms.ParseSigned(got.body, cms.Limits{}))
	if !s.ContentType.Equal(oidData) || s.Signer == nil || !s.Signer.Equal(w.ca.issuer) {
		t.Errorf("signed by %v over %v", s.Signer, s.ContentType)
	}
	if list := must(cms.ParseCertsOnly(s.Content, cms.Limits{})); len(list) != 2 || !bytes.Equal(list[0], next.Raw) || !bytes.Equal(list[1], w.ca.root.Raw) {
		t.Errorf("%d certificates", len(list))
	}

	// What a CA gives back goes out only if it is what was asked for, signed by its present key.
	other := good
	other.Key, other.Certificate, other.Certificates = otherKey(), next, []*x509.Certificate{next}
	changed, sha1 := good, good
	changed.Content = must(cms.CertsOnly(w.ca.ra.Raw))
	sha1.Digest = crypto.SHA1
	for name, vouch := range map[string]func([]byte) ([]byte, error){
		"signed by the next key": signed(other), "another content": signed(changed), "SHA-1": signed(sha1),
		"no SignedData": func(content []byte) ([]byte, error) { return content, nil },
		"a wrong signature": func(content []byte) ([]byte, error) {
			der, err := signed(good)(content)
			der[len(der)-1] ^= 1
			return der, err
		},
	} {
		w.gateway.vouch = vouch
		if got := w.get("/scep?operation=GetNextCACert"); got.StatusCode != 500 {
			t.Errorf("%s: %d %s", name, got.StatusCode, got.Header)
		}
	}
	w.gateway.vouch = func([]byte) ([]byte, error) { return nil, &gateway.Error{Reason: gateway.Unavailable} }
	if got := w.get("/scep?operation=GetNextCACert"); got.StatusCode != 503 {
		t.Errorf("the CA does not answer: %d", got.StatusCode)
	}
	w.gateway.vouch = signed(good)
	w.gateway.next = []*x509.Certificate{selfSigned(newP256())}
	if got := w.get("/scep?operation=GetNextCACert"); got.StatusCode != 500 || caps() {
		t.Errorf("an EC key: %d, in GetCACaps: %v", got.StatusCode, caps())
	}
	w.gateway.caCerts = func() ([]*x509.Certificate, error) { return nil, &gateway.Error{Reason: gateway.Unavailable} }
	if got := w.get("/scep?operation=GetCACaps"); got.StatusCode != 200 || caps() {
		t.Errorf("GetCACaps without the CA: %d %s", got.StatusCode, got.body)
	}
	// With `root: false` the root is left out, as from GetCACert.
	no := false
	w = newWorld(t, worldOptions{config: Config{Root: &no}})
	w.gateway.next, w.gateway.vouch = []*x509.Certificate{next, w.ca.root}, signed(cms.SignOptions{Key: issuerKey(), Certificate: w.ca.issuer, Certificates: []*x509.Certificate{w.ca.issuer}, Digest: crypto.SHA256})
	got = w.get("/scep?operation=GetNextCACert")
	if list := must(cms.ParseCertsOnly(must(cms.ParseSigned(got.body, cms.Limits{})).Content, cms.Limits{})); len(list) != 1 {
		t.Errorf("without the root: %d certificates", len(list))
	}
}
