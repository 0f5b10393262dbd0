package cmp

import (
	"bytes"
	"context"
	"crypto/x509"
	stdpkix "crypto/x509/pkix"
	"errors"
	"math/big"
	"testing"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

func (g *fakeGateway) TrustedRA(_ context.Context, endpoint string, c gateway.Credential, speaks bool) *gateway.Error {
	if g.fails != nil {
		return gateway.AsError(g.fails)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	may, known := g.ras[c.ID]
	if endpoint != "ran" || !known || speaks && !may {
		return &gateway.Error{Reason: gateway.NotAuthorized, Err: errors.New("not an RA")}
	}
	return nil
}

func (g *fakeGateway) IssuedAs(_ context.Context, issuer []byte, serial *big.Int) (*x509.Certificate, error) {
	if g.fails != nil {
		return nil, g.fails
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, t := range g.byID {
		if t.Certificate == nil {
			continue
		}
		cert, err := x509.ParseCertificate(t.Certificate.DER)
		if err != nil {
			return nil, err
		}
		if pkix.SameName(cert.RawIssuer, issuer) && cert.SerialNumber.Cmp(serial) == 0 {
			return cert, nil
		}
	}
	return nil, nil
}

// ra is a client that signs with the certificate of an RA. speaks: it may ask in a device's place.
func (w *world) ra(name string, speaks bool) *client {
	key := newP256()
	cert := w.ca.issue(w.t, &x509.Certificate{
		Subject: stdpkix.Name{CommonName: name}, KeyUsage: x509.KeyUsageDigitalSignature, SubjectKeyId: []byte("kid of " + name),
	}, key.Public())
	w.gateway.mu.Lock()
	defer w.gateway.mu.Unlock()
	if w.gateway.ras == nil {
		w.gateway.ras = map[string]bool{}
	}
	w.gateway.ras[gateway.Fingerprint(cert)] = speaks
	return w.signer(cert, key)
}

// raVerified takes the proof of possession out of a request (RFC 4211 section 4).
func raVerified(m *cmpmsg.CertReqMsg) { m.POP = &cmpmsg.ProofOfPossession{Kind: cmpmsg.POPRAVerified} }

// raVerified is an RA's word: from one that may ask in a device's place it is taken, from nobody else (RFC 9810 section
// 5.2.8.1).
func TestRAVerified(t *testing.T) {
	w := newWorld(t, worldOptions{})
	ra, relays := w.ra("RA", true), w.ra("LRA", false)
	q := crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1", change: raVerified}
	cert := certificate(t, ra.ask(q.body(t)), cmpmsg.TypeIP)
	if r := w.gateway.last(t); r.POP != gateway.POPRA || r.Credentials[0].ID != gateway.Fingerprint(ra.cert) {
		t.Errorf("%s by %v", r.POP, r.Credentials)
	}
	if _, ok := ra.ask(confirmation(certHash(cert), 0)).Body.(*cmpmsg.PKIConf); !ok {
		t.Error("not confirmed")
	}
	// An RA that sends what the device has signed establishes no more than that.
	signed := crmf{kind: cmpmsg.TypeCR, key: newP256(), subject: "device-2"}
	ra.txid, ra.peer = random(16), nil
	certificate(t, ra.ask(signed.body(t)), cmpmsg.TypeCP)
	if r := w.gateway.last(t); r.POP != gateway.POPSignature {
		t.Errorf("%s", r.POP)
	}
	issued := w.gateway.issued
	elsewhere := w.ra("RA", true)
	elsewhere.path = "/.well-known/cmp/p/plant"
	for name, c := range map[string]*client{
		"a device": w.vendorClient("device-3"), "a shared secret": w.macClient("ref-1"), "an RA that passes on": relays, "an RA of another endpoint": elsewhere,
	} {
		if fail, text, rejection := failure(c.ask(q.body(t))); fail != cmpmsg.NotAuthorized || !rejection {
			t.Errorf("%s: %v %s", name, fail, text)
		}
	}
	w.gateway.fails = errStore
	relays.txid = nil
	if fail, text, _ := failure(w.ra("RA 2", true).ask(q.body(t))); fail != cmpmsg.SystemUnavail {
		t.Errorf("%v %s", fail, text)
	}
	if w.gateway.issued != issued {
		t.Errorf("%d issued", w.gateway.issued-issued)
	}
}

// kur by an RA updates the certificate that oldCertId names (RFC 9810 section 5.3.5).
func TestUpdateByRA(t *testing.T) {
	w := newWorld(t, worldOptions{})
	device := w.macClient("ref-1")
	old := certificate(t, device.ask(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t)), cmpmsg.TypeIP)
	issuer := old.RawIssuer
	naming := func(serial *big.Int) crmf {
		id := cmpmsg.CertID{Issuer: cmpmsg.GeneralDirectoryName(issuer), Serial: serial}
		der, err := id.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return crmf{kind: cmpmsg.TypeKUR, key: newP256(), rawSubject: nullDN[:], controls: []cmpmsg.AttributeTypeAndValue{{Type: cmpmsg.OIDOldCertID, Value: der}}}
	}
	ra := w.ra("RA", true)
	certificate(t, ra.ask(naming(old.SerialNumber).body(t)), cmpmsg.TypeKUP)
	r := w.gateway.last(t)
	if r.Operation != gateway.Rekey || r.OldCert == nil || !r.OldCert.Equal(old) || !bytes.Equal(r.Subject, old.RawSubject) || r.Credentials[0].ID != gateway.Fingerprint(ra.cert) {
		t.Errorf("%+v", r)
	}
	// The RA may have encoded the issuer anew: PrintableString as UTF8String is the same name.
	issuer = bytes.Replace(issuer, []byte{0x13, byte(len("CMP Test Issuing CA"))}, []byte{0x0c, byte(len("CMP Test Issuing CA"))}, 1)
	if bytes.Equal(issuer, old.RawIssuer) {
		t.Fatal("the issuer is not a PrintableString")
	}
	ra.txid, ra.peer = random(16), nil
	certificate(t, ra.ask(naming(old.SerialNumber).body(t)), cmpmsg.TypeKUP)
	if r := w.gateway.last(t); !r.OldCert.Equal(old) {
		t.Errorf("updates %s", r.OldCert.Subject)
	}
	// Without oldCertId, or with its own, the RA's certificate is the one.
	ra.txid, ra.peer = random(16), nil
	certificate(t, ra.ask(crmf{kind: cmpmsg.TypeKUR, key: newP256(), rawSubject: nullDN[:]}.body(t)), cmpmsg.TypeKUP)
	if r := w.gateway.last(t); !r.OldCert.Equal(ra.cert) {
		t.Errorf("updates %s", r.OldCert.Subject)
	}
	for name, tt := range map[string]struct {
		c      *client
		serial *big.Int
		fails  error
		want   cmpmsg.FailInfo
	}{
		"no certificate of ours": {c: w.ra("RA", true), serial: big.NewInt(7), want: cmpmsg.BadCertID},
		"another device":         {c: w.vendorClient("device-2"), serial: old.SerialNumber, want: cmpmsg.BadCertID},
		"an RA that passes on":   {c: w.ra("LRA", false), serial: old.SerialNumber, want: cmpmsg.BadCertID},
		"no answer":              {c: w.ra("RA", true), serial: old.SerialNumber, fails: errStore, want: cmpmsg.SystemUnavail},
	} {
		w.gateway.fails = tt.fails
		if fail, text, _ := failure(tt.c.ask(naming(tt.serial).body(t))); fail != tt.want {
			t.Errorf("%s: %v %s", name, fail, text)
		}
	}
}

// Keys that an RA has made in the place of two certificates of one name are two: neither request takes the other's over.
func TestKeysByRA(t *testing.T) {
	w := newWorld(t, worldOptions{})
	key := newP256()
	cert := w.ca.issue(t, &x509.Certificate{Subject: stdpkix.Name{CommonName: "RA"}, KeyUsage: usages, SubjectKeyId: []byte("kid of RA")}, key.Public())
	w.gateway.ras = map[string]bool{gateway.Fingerprint(cert): true}
	asks := func(old *x509.Certificate) *x509.Certificate {
		id := cmpmsg.CertID{Issuer: cmpmsg.GeneralDirectoryName(old.RawIssuer), Serial: old.SerialNumber}
		der, err := id.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		b := without(cmpmsg.TypeKUR, nil)
		b.Messages[0].Template.Subject = nil
		b.Messages[0].Controls = []cmpmsg.AttributeTypeAndValue{{Type: cmpmsg.OIDOldCertID, Value: der}}
		ra := w.signer(cert, key)
		made, _ := ra.madeKey(ra.ask(b), cmpmsg.TypeKUP)
		if r := w.gateway.last(t); !r.OldCert.Equal(old) {
			t.Errorf("updates %v", r.OldCert.Subject)
		}
		return made
	}
	held := func(ref string) *x509.Certificate {
		return certificate(t, w.macClient(ref).ask(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t)), cmpmsg.TypeIP)
	}
	one, another := held("ref-1"), held("ref-1")
	if one.Equal(another) {
		t.Fatal("one certificate")
	}
	first := asks(one)
	if asks(another).Equal(first) {
		t.Error("two certificates are renewed by one")
	}
	if !asks(one).Equal(first) {
		t.Error("an answer that was lost is not given again")
	}
}
