package cmp

import (
	"bytes"
	"crypto/x509"
	stdpkix "crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// rr asks to revoke a certificate, with extensions for the CRL entry.
func rr(t testing.TB, cert *x509.Certificate, extensions ...stdpkix.Extension) *cmpmsg.RevReq {
	t.Helper()
	d := cmpmsg.RevDetails{Certificate: cmpmsg.CertTemplate{Issuer: cert.RawIssuer, SerialNumber: cert.SerialNumber}}
	if extensions != nil {
		der, err := asn1.Marshal(extensions)
		if err != nil {
			t.Fatal(err)
		}
		d.Extensions = der
	}
	return &cmpmsg.RevReq{Details: []cmpmsg.RevDetails{d}}
}

func reasonCode(value ...byte) stdpkix.Extension {
	return stdpkix.Extension{Id: oidReasonCode, Value: append([]byte{0x0a, byte(len(value))}, value...)}
}

// A device revokes its certificate: rp with the certificate that it named, signed, and the same again for the same message,
// from another replica and late too (RFC 9810 sections 5.3.9, 5.3.10).
func TestRevocation(t *testing.T) {
	w := newWorld(t, worldOptions{})
	c := w.vendorClient("device-1")
	c.info = []cmpmsg.InfoTypeAndValue{implicitConfirm()} // which says nothing here
	sent := c.message(rr(t, c.cert, reasonCode(1)))
	first := w.post(sent)
	m := c.accept(sent, first)
	rp, ok := m.Body.(*cmpmsg.RevRep)
	if !ok || len(rp.Statuses) != 1 || rp.Statuses[0].Status != cmpmsg.StatusAccepted || rp.Statuses[0].FailInfo != 0 || len(rp.CertIDs) != 1 || len(rp.CRLs) != 0 {
		t.Fatalf("%+v", m.Body)
	}
	if name, ok := cmpmsg.DirectoryName(rp.CertIDs[0].Issuer); !ok || !bytes.Equal(name, c.cert.RawIssuer) || rp.CertIDs[0].Serial.Cmp(c.cert.SerialNumber) != 0 {
		t.Errorf("revCerts: %+v", rp.CertIDs)
	}
	if m.Header.ProtectionAlg.IsMAC() || len(m.Header.GeneralInfo) != 0 {
		t.Errorf("header: %+v", m.Header)
	}
	r := w.gateway.revoked[0]
	if r.Operation != gateway.Revoke || !bytes.Equal(r.Target.Issuer, c.cert.RawIssuer) || r.Target.Serial.Cmp(c.cert.SerialNumber) != 0 || r.Target.Reason != 1 ||
		!bytes.Equal(r.Content, sent) || len(r.Credentials) != 1 || r.Credentials[0].ID != gateway.Fingerprint(c.cert) || r.PublicKey != nil || r.Confirm {
		t.Errorf("%+v", r)
	}
	if notes := strings.Join(r.Notes, "\n"); !strings.Contains(notes, "keyCompromise") || !strings.Contains(notes, "rr, ") {
		t.Errorf("notes: %s", notes)
	}
	w.now = w.now.Add(time.Hour)
	if again := w.post(sent); !bytes.Equal(again, first) {
		t.Error("the same message got another answer")
	}
	if again := w.again().post(sent); !bytes.Equal(again, first) {
		t.Error("the same message got another answer from another replica")
	}
	if len(w.gateway.revoked) != 1 {
		t.Errorf("%d revocations", len(w.gateway.revoked))
	}
	w.now = testTime
	// Nothing goes on from it.
	for name, body := range map[string]cmpmsg.Body{
		"certConf": &cmpmsg.CertConf{}, "pollReq": &cmpmsg.PollReq{ReqIDs: []*big.Int{big.NewInt(0)}},
	} {
		if fail, text, _ := failure(c.ask(body)); fail != cmpmsg.BadRequest {
			t.Errorf("%s: %v, %s", name, fail, text)
		}
	}
}

// Every reason of RFC 5280 comes through, and none is unspecified.
func TestRevocationReasons(t *testing.T) {
	w := newWorld(t, worldOptions{})
	for n := range 11 {
		c := w.vendorClient("device-1")
		c.ask(rr(t, c.cert, reasonCode(byte(n))))
		if n == 7 {
			continue
		}
		if last := w.gateway.revoked[len(w.gateway.revoked)-1]; last.Target.Reason != n {
			t.Errorf("%d became %d", n, last.Target.Reason)
		}
	}
	before := len(w.gateway.revoked)
	for name, body := range map[string]func(c *client) *cmpmsg.RevReq{
		"no crlEntryDetails": func(c *client) *cmpmsg.RevReq { return rr(t, c.cert) },
		"no extension":       func(c *client) *cmpmsg.RevReq { return rr(t, c.cert, []stdpkix.Extension{}...) },
		"another extension": func(c *client) *cmpmsg.RevReq { // invalidityDate
			return rr(t, c.cert, stdpkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 24}, Value: []byte("\x18\x0f20260101000000Z")})
		},
	} {
		c := w.vendorClient("device-1")
		if fail, text, _ := failure(c.ask(body(c))); fail != 0 {
			t.Errorf("%s: %v, %s", name, fail, text)
			continue
		}
		last := w.gateway.revoked[len(w.gateway.revoked)-1]
		if last.Target.Reason != 0 || name == "another extension" != strings.Contains(strings.Join(last.Notes, "\n"), "2.5.29.24") {
			t.Errorf("%s: %+v, %q", name, last.Target, last.Notes)
		}
	}
	if n := len(w.gateway.revoked) - before; n != 3 {
		t.Errorf("%d revocations", n)
	}
}

// The issuer is found in whatever string type a client writes it when it means its own certificate.
func TestRevocationInAnotherEncoding(t *testing.T) {
	w := newWorld(t, worldOptions{})
	c := w.vendorClient("device-1")
	body := rr(t, c.cert)
	other := bytes.Replace(c.cert.RawIssuer, []byte{0x13}, []byte{0x0c}, 1) // PrintableString -> UTF8String
	if bytes.Equal(other, c.cert.RawIssuer) {
		t.Fatal("the same encoding")
	}
	body.Details[0].Certificate.Issuer = other
	if fail, text, _ := failure(c.ask(body)); fail != 0 {
		t.Fatalf("%v, %s", fail, text)
	}
	if got := w.gateway.revoked[0].Target.Issuer; !bytes.Equal(got, c.cert.RawIssuer) {
		t.Errorf("the issuer is %x", got)
	}
}

func TestRevocationRefused(t *testing.T) {
	otherIssuer := func(b *cmpmsg.RevReq) { b.Details[0].Certificate.Issuer = nil }
	for _, tt := range []struct {
		name    string
		mac     bool
		prep    func(w *world, c *client)
		change  func(b *cmpmsg.RevReq)
		ext     []stdpkix.Extension
		decide  *gateway.Error
		want    cmpmsg.FailInfo
		reject  bool // in rp
		text    string
		reached bool // the gateway was asked
	}{
		{name: "MAC", mac: true, want: cmpmsg.WrongIntegrity, text: "MAC"},
		{name: "two certificates", change: func(b *cmpmsg.RevReq) { b.Details = append(b.Details, b.Details[0]) }, want: cmpmsg.BadRequest, text: "2 certificates"},
		{name: "none", change: func(b *cmpmsg.RevReq) { b.Details = nil }, want: cmpmsg.BadRequest, text: "0 certificates"},
		{name: "no issuer", change: otherIssuer, want: cmpmsg.AddInfoNotAvailable, reject: true, text: "both"},
		{name: "NULL-DN issuer", change: func(b *cmpmsg.RevReq) { b.Details[0].Certificate.Issuer = nullDN[:] }, want: cmpmsg.AddInfoNotAvailable, reject: true},
		{name: "no serial", change: func(b *cmpmsg.RevReq) { b.Details[0].Certificate.SerialNumber = nil }, want: cmpmsg.AddInfoNotAvailable, reject: true},
		{name: "reason 7", ext: []stdpkix.Extension{reasonCode(7)}, want: cmpmsg.BadRequest, reject: true, text: "reasonCode"},
		{name: "reason 11", ext: []stdpkix.Extension{reasonCode(11)}, want: cmpmsg.BadRequest, reject: true, text: "reasonCode"},
		{name: "negative reason", ext: []stdpkix.Extension{reasonCode(0xff)}, want: cmpmsg.BadRequest, reject: true, text: "reasonCode"},
		{name: "huge reason", ext: []stdpkix.Extension{reasonCode(1, 0)}, want: cmpmsg.BadRequest, reject: true, text: "reasonCode"},
		{name: "reason that is no ENUMERATED", ext: []stdpkix.Extension{{Id: oidReasonCode, Value: []byte{2, 1, 1}}}, want: cmpmsg.BadRequest, reject: true},
		{name: "something behind the reason", ext: []stdpkix.Extension{{Id: oidReasonCode, Value: []byte{0x0a, 1, 1, 5, 0}}}, want: cmpmsg.BadRequest, reject: true},
		{name: "two reasons", ext: []stdpkix.Extension{reasonCode(1), reasonCode(4)}, want: cmpmsg.BadRequest, reject: true, text: "twice"},
		{name: "a critical extension", ext: []stdpkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 29}, Critical: true, Value: []byte{0x30, 0}}},
			want: cmpmsg.BadRequest, reject: true, text: "critical"},
		{name: "recipNonce", prep: func(_ *world, c *client) { c.peer = random(16) }, want: cmpmsg.BadRecipientNonce},
		{name: "late", prep: func(_ *world, c *client) {
			c.change = func(o *cmpmsg.Outgoing) { o.Header.MessageTime = testTime.Add(-time.Hour) }
		}, want: cmpmsg.BadTime},
		{name: "transactionID in use", prep: func(w *world, c *client) {
			w.gateway.decide = func(*gateway.Request) (*gateway.Error, gateway.State) { return nil, gateway.StateHeld }
			c.ask(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t))
			c.peer = nil
		}, want: cmpmsg.TransactionIDInUse},
		{name: "unknown", decide: &gateway.Error{Reason: gateway.UnknownCert}, want: cmpmsg.BadCertID, reject: true, reached: true},
		{name: "revoked", decide: &gateway.Error{Reason: gateway.Revoked, Detail: "the certificate is revoked already"}, want: cmpmsg.CertRevoked,
			reject: true, reached: true, text: "already"},
		{name: "another's", decide: &gateway.Error{Reason: gateway.NotAuthorized}, want: cmpmsg.NotAuthorized, reject: true, reached: true},
		{name: "the store is down", decide: &gateway.Error{Reason: gateway.Unavailable}, want: cmpmsg.SystemUnavail, reject: true, reached: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, worldOptions{})
			c := w.vendorClient("device-1")
			body := rr(t, c.cert, tt.ext...)
			if tt.mac {
				c = w.macClient("ref-1")
			}
			if tt.prep != nil {
				tt.prep(w, c)
			}
			if tt.change != nil {
				tt.change(body)
			}
			if tt.decide != nil {
				w.gateway.decide = func(*gateway.Request) (*gateway.Error, gateway.State) { return tt.decide, "" }
			}
			m := c.ask(body)
			fail, text, rejection := failure(m)
			if fail != tt.want || rejection != tt.reject || !strings.Contains(text, tt.text) {
				t.Errorf("%v (%t): %s", fail, rejection, text)
			}
			if _, ok := m.Body.(*cmpmsg.RevRep); ok != tt.reject {
				t.Errorf("the answer is of type %s", m.Body.Type())
			}
			if (len(w.gateway.revoked) > 0) != tt.reached {
				t.Errorf("%d requests reached the gateway", len(w.gateway.revoked))
			}
			// A refusal is never repeated: it is the operation to revoke that was refused.
			for _, r := range w.gateway.revoked {
				if r.Operation != gateway.Revoke {
					t.Errorf("operation %s", r.Operation)
				}
			}
		})
	}
}

// FuzzRevocation: bodies behind a signature that is right, those of kur too. What reaches the gateway names a certificate and a reason.
func FuzzRevocation(f *testing.F) {
	w := newWorld(f, worldOptions{})
	c := w.vendorClient("device-1")
	whole, err := cmpmsg.Parse(c.message(rr(f, c.cert)))
	if err != nil {
		f.Fatal(err)
	}
	two := rr(f, c.cert)
	two.Details = append(two.Details, two.Details[0])
	old, err := (&cmpmsg.CertID{Issuer: cmpmsg.GeneralDirectoryName(c.cert.RawIssuer), Serial: c.cert.SerialNumber}).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	update := crmf{kind: cmpmsg.TypeKUR, key: newP256(), subject: "device-1", controls: []cmpmsg.AttributeTypeAndValue{{Type: cmpmsg.OIDOldCertID, Value: old}}}
	for _, body := range []cmpmsg.Body{update.body(f), rr(f, c.cert), rr(f, c.cert, reasonCode(1)), rr(f, c.cert, reasonCode(8), reasonCode(8)), &cmpmsg.RevReq{}, two} {
		m, err := cmpmsg.Parse(c.message(body))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(m.RawBody)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > 60000 {
			return
		}
		w.gateway.t = t
		_, sig, err := pkix.Sign(c.key, element(0x30, whole.RawHeader, body))
		if err != nil {
			t.Fatal(err)
		}
		der := element(0x30, whole.RawHeader, body, element(0xa0, element(0x03, []byte{0}, sig)), element(0xa1, element(0x30, c.extra...)))
		r := httptest.NewRequest("POST", "/cmp", bytes.NewReader(der))
		r.Header.Set("Content-Type", typePKIXCMP)
		rec := httptest.NewRecorder()
		before := len(w.gateway.revoked)
		w.handler.serve(rec, r, func(string) bool { return true })
		m, err := cmpmsg.Parse(rec.Body.Bytes())
		if rec.Code != 200 || err != nil || m.Protection == nil {
			t.Fatalf("%d, %v: %x", rec.Code, err, rec.Body.Bytes())
		}
		if fail, text, _ := failure(m); fail == cmpmsg.SystemFailure {
			t.Fatalf("%s\n%s", text, w.log)
		}
		for _, q := range w.gateway.revoked[before:] {
			if q.Target == nil || q.Target.Serial == nil || isNullDN(q.Target.Issuer) || q.Target.Reason < 0 || q.Target.Reason > 10 || q.Target.Reason == 7 || len(q.Exchange) == 0 {
				t.Fatalf("%+v", q)
			}
		}
	})
}
