package cmp

import (
	"bytes"
	"crypto"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// enrolled is a client whose certificate waits for its certConf.
func enrolled(t testing.TB, w *world, c *client) (*client, *x509.Certificate) {
	t.Helper()
	m := c.ask(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t))
	return c, certificate(t, m, cmpmsg.TypeIP)
}

// Each certConf with what becomes of the certificate (RFC 9810 section 5.3.18).
func TestConfirm(t *testing.T) {
	status := func(s cmpmsg.Status) *cmpmsg.PKIStatusInfo { return &cmpmsg.PKIStatusInfo{Status: s} }
	oid := func(last int) *cmpmsg.AlgorithmIdentifier {
		return &cmpmsg.AlgorithmIdentifier{OID: asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, last}}
	}
	sha384 := func(c *x509.Certificate) []byte { s := sha512.Sum384(c.Raw); return s[:] }
	for _, tt := range []struct {
		name  string
		pvno  int
		conf  func(cert *x509.Certificate) *cmpmsg.CertConf
		want  cmpmsg.FailInfo
		state gateway.State
	}{
		{"accepted", 2, func(c *x509.Certificate) *cmpmsg.CertConf { return confirmation(certHash(c), 0) }, 0, gateway.StateIssued},
		{"accepted, with a status", 2, func(c *x509.Certificate) *cmpmsg.CertConf {
			cc := confirmation(certHash(c), 0)
			cc.Statuses[0].Status = status(cmpmsg.StatusAccepted)
			return cc
		}, 0, gateway.StateIssued},
		{"wrong hash", 2, func(*x509.Certificate) *cmpmsg.CertConf { return confirmation(random(32), 0) }, cmpmsg.BadCertID, gateway.StateRejected},
		{"no hash", 2, func(*x509.Certificate) *cmpmsg.CertConf { return confirmation([]byte{}, 0) }, cmpmsg.BadCertID, gateway.StateRejected},
		{"another algorithm's hash", 2, func(c *x509.Certificate) *cmpmsg.CertConf { return confirmation(sha384(c), 0) }, cmpmsg.BadCertID, gateway.StateRejected},
		{"empty", 2, func(*x509.Certificate) *cmpmsg.CertConf { return &cmpmsg.CertConf{} }, 0, gateway.StateRejected},
		{"rejection", 2, func(c *x509.Certificate) *cmpmsg.CertConf {
			cc := confirmation(certHash(c), 0)
			cc.Statuses[0].Status = &cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusRejection, Text: []string{"wrong issuer"}, FailInfo: cmpmsg.IncorrectData}
			return cc
		}, 0, gateway.StateRejected},
		{"accepted, and what is wrong with it", 2, func(c *x509.Certificate) *cmpmsg.CertConf {
			cc := confirmation(certHash(c), 0)
			cc.Statuses[0].Status = &cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusAccepted, FailInfo: cmpmsg.IncorrectData}
			return cc
		}, cmpmsg.BadRequest, gateway.StateUnconfirmed},
		{"waiting", 2, func(c *x509.Certificate) *cmpmsg.CertConf {
			cc := confirmation(certHash(c), 0)
			cc.Statuses[0].Status = status(cmpmsg.StatusWaiting)
			return cc
		}, cmpmsg.BadRequest, gateway.StateUnconfirmed},
		{"another certReqId", 2, func(c *x509.Certificate) *cmpmsg.CertConf { return confirmation(certHash(c), 1) }, cmpmsg.BadRequest, gateway.StateUnconfirmed},
		{"certReqId of p10cr", 2, func(c *x509.Certificate) *cmpmsg.CertConf { return confirmation(certHash(c), -1) }, cmpmsg.BadRequest, gateway.StateUnconfirmed},
		{"twice in one", 2, func(c *x509.Certificate) *cmpmsg.CertConf {
			cc := confirmation(certHash(c), 0)
			cc.Statuses = append(cc.Statuses, cc.Statuses[0])
			return cc
		}, cmpmsg.BadRequest, gateway.StateUnconfirmed},
		{"hashAlg in version 2", 2, func(c *x509.Certificate) *cmpmsg.CertConf {
			cc := confirmation(certHash(c), 0)
			cc.Statuses[0].HashAlg = oid(1)
			return cc
		}, cmpmsg.BadCertID, gateway.StateUnconfirmed},
		{"hashAlg in version 3", 3, func(c *x509.Certificate) *cmpmsg.CertConf {
			cc := confirmation(sha384(c), 0)
			cc.Statuses[0].HashAlg = oid(2)
			return cc
		}, 0, gateway.StateIssued},
		{"unknown hashAlg", 3, func(c *x509.Certificate) *cmpmsg.CertConf {
			cc := confirmation(certHash(c), 0)
			cc.Statuses[0].HashAlg = oid(11)
			return cc
		}, cmpmsg.BadAlg, gateway.StateUnconfirmed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, worldOptions{})
			c := w.macClient("ref-1")
			c.pvno = tt.pvno
			_, cert := enrolled(t, w, c)
			m := c.ask(tt.conf(cert))
			fail, text, _ := failure(m)
			if fail != tt.want {
				t.Errorf("failInfo %b, want %b: %s", fail, tt.want, text)
			}
			if _, ok := m.Body.(*cmpmsg.PKIConf); ok != (tt.want == 0) {
				t.Errorf("%+v", m.Body)
			}
			if got := w.gateway.tx(t).State; got != tt.state {
				t.Errorf("%s, want %s", got, tt.state)
			}
			for _, conf := range w.gateway.confirms {
				if conf.Note == "" || conf.Request == nil || len(conf.Request.Credentials) != 1 || conf.Request.Endpoint != "ran" {
					t.Errorf("%+v", conf)
				}
			}
		})
	}
}

// A certificate that was kept when no confirmation came: the device that takes it late is told so, and nobody else is.
func TestConfirmKept(t *testing.T) {
	w := newWorld(t, worldOptions{})
	c, cert := enrolled(t, w, w.macClient("ref-1"))
	tx := w.gateway.tx(t)
	tx.State = gateway.StateIssued // as the time-out leaves it
	w.gateway.byID[tx.ID] = tx
	peer := c.peer
	for _, conf := range []*cmpmsg.CertConf{{}, confirmation(random(32), 0)} {
		c.peer = peer
		if fail, text, _ := failure(c.ask(conf)); fail != cmpmsg.CertConfirmed {
			t.Errorf("rejected: %b %s", fail, text)
		}
	}
	c.peer = peer
	if m := c.ask(confirmation(certHash(cert), 0)); m.Body.Type() != cmpmsg.TypePKIConf {
		t.Errorf("accepted: %+v", m.Body)
	}
	if n := len(w.gateway.confirms); n != 0 || w.gateway.tx(t).State != gateway.StateIssued {
		t.Errorf("%d confirmations, %s", n, w.gateway.tx(t).State)
	}
	other := w.macClient("ref-2")
	other.txid, other.peer = c.txid, peer
	if fail, _, _ := failure(other.ask(confirmation(certHash(cert), 0))); fail != cmpmsg.NotAuthorized {
		t.Errorf("another device: %b", fail)
	}
}

// RFC 9810 section 5.3.18: the certReqId of the answer to p10cr is -1.
func TestConfirmP10CR(t *testing.T) {
	for id, want := range map[int64]cmpmsg.FailInfo{-1: 0, 0: 0, 1: cmpmsg.BadRequest} {
		w := newWorld(t, worldOptions{})
		c := w.macClient("ref-1")
		cert := certificate(t, c.ask(&cmpmsg.PKCS10{CSR: csr(t, newP256(), "device-1")}), cmpmsg.TypeCP)
		if fail, text, _ := failure(c.ask(confirmation(certHash(cert), id))); fail != want {
			t.Errorf("%d: %b, %s", id, fail, text)
		}
	}
}

// Only who began a transaction goes on with it, in the same way, with the nonce of our answer (RFC 9810 sections 5.1.1, 5.3.18; one
// kind of protection: section 5.2.3, wrongIntegrity).
func TestConfirmIsTheRequesters(t *testing.T) {
	for name, tt := range map[string]struct {
		signed bool
		change func(w *world, c *client, cert *x509.Certificate, key crypto.Signer)
		want   cmpmsg.FailInfo
	}{
		"another secret": {false, func(w *world, c *client, _ *x509.Certificate, _ crypto.Signer) {
			c.reference, c.secret = []byte("ref-2"), w.gateway.secrets["ref-2"]
		}, cmpmsg.NotAuthorized},
		"a wrong MAC": {false, func(_ *world, c *client, _ *x509.Certificate, _ crypto.Signer) { c.secret = []byte("wrong") }, cmpmsg.BadMessageCheck},
		"MAC, then the new key": {false, func(_ *world, c *client, cert *x509.Certificate, key crypto.Signer) {
			c.cert, c.key, c.extra = cert, key, [][]byte{cert.Raw}
		}, cmpmsg.WrongIntegrity},
		"MAC, then another device": {false, func(w *world, c *client, _ *x509.Certificate, _ crypto.Signer) {
			v := w.vendorClient("x")
			c.cert, c.key, c.extra = v.cert, v.key, v.extra
		}, cmpmsg.WrongIntegrity},
		"signature, then a MAC": {true, func(w *world, c *client, _ *x509.Certificate, _ crypto.Signer) {
			c.key, c.reference, c.secret = nil, []byte("ref-1"), w.gateway.secrets["ref-1"]
			c.mac = w.macClient("ref-1").mac
		}, cmpmsg.WrongIntegrity},
		"signature, then the new key": {true, func(_ *world, c *client, cert *x509.Certificate, key crypto.Signer) {
			c.cert, c.key, c.extra = cert, key, [][]byte{cert.Raw}
		}, cmpmsg.NotAuthorized},
		"signature, another device": {true, func(w *world, c *client, _ *x509.Certificate, _ crypto.Signer) {
			v := w.vendorClient("device-1")
			c.cert, c.key, c.extra = v.cert, v.key, v.extra
		}, cmpmsg.NotAuthorized},
		"no recipNonce":      {false, func(_ *world, c *client, _ *x509.Certificate, _ crypto.Signer) { c.peer = nil }, cmpmsg.BadRecipientNonce},
		"another recipNonce": {false, func(_ *world, c *client, _ *x509.Certificate, _ crypto.Signer) { c.peer = random(16) }, cmpmsg.BadRecipientNonce},
		"long recipNonce":    {false, func(_ *world, c *client, _ *x509.Certificate, _ crypto.Signer) { c.peer = random(32) }, cmpmsg.BadRecipientNonce},
		"late": {false, func(w *world, c *client, _ *x509.Certificate, _ crypto.Signer) {
			w.now = w.now.Add(301 * time.Second)
			c.change = func(o *cmpmsg.Outgoing) { o.Header.MessageTime = testTime }
		}, cmpmsg.BadTime},
		"extraCerts left out": {true, func(_ *world, c *client, _ *x509.Certificate, _ crypto.Signer) { c.extra = nil }, 0},
		"senderKID left out": {false, func(_ *world, c *client, _ *x509.Certificate, _ crypto.Signer) {
			c.change = func(o *cmpmsg.Outgoing) { o.Header.SenderKID = nil }
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, worldOptions{})
			c := w.macClient("ref-1")
			if tt.signed {
				c = w.vendorClient("device-1")
			}
			key := newP256()
			cert := certificate(t, c.ask(crmf{kind: cmpmsg.TypeIR, key: key, subject: "device-1"}.body(t)), cmpmsg.TypeIP)
			tt.change(w, c, cert, key)
			fail, text, _ := failure(c.ask(confirmation(certHash(cert), 0)))
			if fail != tt.want {
				t.Errorf("failInfo %b, want %b: %s", fail, tt.want, text)
			}
			if got := w.gateway.tx(t).State; (got == gateway.StateIssued) != (tt.want == 0) {
				t.Error(got)
			}
		})
	}
}

// A failure is an answer, too: the recipNonce of what follows is its senderNonce. Only the requester's own counts.
func TestConfirmAfterFailure(t *testing.T) {
	w := newWorld(t, worldOptions{})
	c, cert := enrolled(t, w, w.macClient("ref-1"))
	early := confirmation(certHash(cert), 0)
	early.Statuses[0].HashAlg = &cmpmsg.AlgorithmIdentifier{OID: asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}}
	if fail, _, _ := failure(c.ask(early)); fail != cmpmsg.BadCertID { // version 3 only
		t.Fatalf("%b", fail)
	}
	again := c.peer
	if fail, _, _ := failure(c.ask(early)); fail != cmpmsg.BadCertID || bytes.Equal(again, c.peer) {
		t.Fatalf("%b, nonce %x, before %x", fail, c.peer, again)
	}
	stranger := w.macClient("ref-2")
	stranger.txid, stranger.peer = c.txid, c.peer
	if fail, _, _ := failure(stranger.ask(early)); fail != cmpmsg.NotAuthorized {
		t.Fatalf("%b", fail)
	}
	mine := c.peer
	c.peer = stranger.peer
	if fail, _, _ := failure(c.ask(confirmation(certHash(cert), 0))); fail != cmpmsg.BadRecipientNonce {
		t.Errorf("with the nonce of another's failure: %b", fail)
	}
	c.peer = mine
	if m := c.ask(confirmation(certHash(cert), 0)); m.Body.Type() != cmpmsg.TypePKIConf {
		_, text, _ := failure(m)
		t.Errorf("%s %s", m.Body.Type(), text)
	}
}

// What a transaction that has ended answers (RFC 9810 sections 5.2.3, 5.3.18).
func TestConfirmAgain(t *testing.T) {
	w := newWorld(t, worldOptions{})
	c, cert := enrolled(t, w, w.macClient("ref-1"))
	first := c.message(confirmation(certHash(cert), 0))
	answer := w.post(first)
	c.accept(first, answer)
	w.now = w.now.Add(time.Hour)
	if again := w.again().post(first); !bytes.Equal(again, answer) {
		t.Error("the same certConf got another pkiConf")
	}
	w.now = testTime
	c.peer = w.recorded(t).Answer.Nonce
	if fail, _, _ := failure(c.ask(confirmation(certHash(cert), 0))); fail != cmpmsg.CertConfirmed {
		t.Errorf("another certConf: %b", fail)
	}
	if len(w.gateway.confirms) != 1 {
		t.Errorf("%d confirmations", len(w.gateway.confirms))
	}

	// Rejected: the same message is answered in the same way, too.
	c, _ = enrolled(t, w, w.macClient("ref-1"))
	first = c.message(&cmpmsg.CertConf{})
	answer = w.post(first)
	if again := w.post(first); !bytes.Equal(again, answer) {
		t.Error("the same rejection got another pkiConf")
	}
	// A wrong hash: it stays wrong.
	c, _ = enrolled(t, w, w.macClient("ref-1"))
	first = c.message(confirmation(random(32), 0))
	for range 2 {
		m, err := cmpmsg.Parse(w.post(first))
		if err != nil {
			t.Fatal(err)
		}
		if fail, _, _ := failure(m); fail != cmpmsg.BadCertID {
			t.Errorf("%b", fail)
		}
	}

	// Out of time: the gateway has revoked it.
	c, cert = enrolled(t, w, w.macClient("ref-1"))
	w.gateway.tx(t).State = gateway.StateRejected
	if fail, _, _ := failure(c.ask(confirmation(certHash(cert), 0))); fail != cmpmsg.CertRevoked {
		t.Errorf("after the time-out: %b", fail)
	}
	// Revoked by the operator before it was confirmed.
	c, cert = enrolled(t, w, w.macClient("ref-1"))
	w.gateway.tx(t).Certificate.RevokedAt = testTime
	if fail, _, _ := failure(c.ask(confirmation(certHash(cert), 0))); fail != cmpmsg.CertRevoked {
		t.Errorf("revoked: %b", fail)
	}
	// Nothing to confirm yet.
	w.gateway.decide = func(*gateway.Request) (*gateway.Error, gateway.State) { return nil, gateway.StateHeld }
	c = w.macClient("ref-1")
	c.ask(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t))
	if fail, text, _ := failure(c.ask(confirmation(random(32), 0))); fail != cmpmsg.BadRequest || !strings.Contains(text, "pollReq") {
		t.Errorf("held: %b, %s", fail, text)
	}
}

func (w *world) recorded(t testing.TB) *record {
	t.Helper()
	rec, err := decodeRecord(w.gateway.tx(t).Exchange)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// Two replicas get the same certConf: one of them is too late, and both answer the same.
func TestConfirmRace(t *testing.T) {
	w := newWorld(t, worldOptions{})
	c, cert := enrolled(t, w, w.macClient("ref-1"))
	der := c.message(confirmation(certHash(cert), 0))
	var winner []byte
	w.gateway.confirm = func(*gateway.Confirmation) error {
		w.gateway.confirm = nil
		winner = w.again().post(der)
		return &gateway.Error{Reason: gateway.Unavailable, Err: gateway.ErrStale}
	}
	if loser := w.post(der); !bytes.Equal(loser, winner) {
		t.Error("two answers to one certConf")
	}
	// The time-out wins.
	c, cert = enrolled(t, w, w.macClient("ref-1"))
	w.gateway.confirm = func(*gateway.Confirmation) error {
		w.gateway.tx(t).State = gateway.StateRejected
		return &gateway.Error{Reason: gateway.Unavailable, Err: gateway.ErrStale}
	}
	if fail, _, _ := failure(c.ask(confirmation(certHash(cert), 0))); fail != cmpmsg.CertRevoked {
		t.Errorf("%b", fail)
	}
	// The store fails.
	c, cert = enrolled(t, w, w.macClient("ref-1"))
	w.gateway.confirm = func(*gateway.Confirmation) error { return errStore }
	if fail, text, _ := failure(c.ask(confirmation(certHash(cert), 0))); fail != cmpmsg.SystemUnavail || strings.Contains(text, "disk") {
		t.Errorf("%b, %s", fail, text)
	}
	if w.gateway.tx(t).State != gateway.StateUnconfirmed {
		t.Error(w.gateway.tx(t).State)
	}
}

// The client's error ends the transaction (RFC 9810 section 5.3.21).
func TestClientError(t *testing.T) {
	abort := &cmpmsg.ErrorMsg{Status: cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusRejection, Text: []string{"no trust in\nthis CA"}, FailInfo: cmpmsg.SignerNotTrusted}}
	w := newWorld(t, worldOptions{})
	c, _ := enrolled(t, w, w.macClient("ref-1"))
	der := c.message(abort)
	answer := w.post(der)
	if m := c.accept(der, answer); m.Body.Type() != cmpmsg.TypePKIConf {
		t.Errorf("%+v", m.Body)
	}
	if tx := w.gateway.tx(t); tx.State != gateway.StateRejected {
		t.Error(tx.State)
	}
	if note := w.gateway.confirms[0].Note; !strings.Contains(note, "no trust in this CA") || !strings.Contains(note, "signer not trusted") {
		t.Errorf("%q", note)
	}
	if again := w.post(der); !bytes.Equal(again, answer) {
		t.Error("the same error got another pkiConf")
	}
	// Another one's.
	c, _ = enrolled(t, w, w.macClient("ref-1"))
	c.reference, c.secret = []byte("ref-2"), w.gateway.secrets["ref-2"]
	if fail, _, _ := failure(c.ask(abort)); fail != cmpmsg.NotAuthorized || w.gateway.tx(t).State != gateway.StateUnconfirmed {
		t.Errorf("%b, %s", fail, w.gateway.tx(t).State)
	}
	w.gateway.tx(t).State = gateway.StateHeld
	if fail, _, _ := failure(c.ask(abort)); fail != cmpmsg.NotAuthorized {
		t.Errorf("another one's, held: %b", fail)
	}
	// Without a transaction there is nothing to end.
	if m := w.macClient("ref-1").ask(abort); m.Body.Type() != cmpmsg.TypePKIConf {
		t.Errorf("%+v", m.Body)
	}
	// Unprotected: anybody's.
	c, _ = enrolled(t, w, w.macClient("ref-1"))
	c.change = func(o *cmpmsg.Outgoing) { o.Header.ProtectionAlg = nil }
	if fail, _, _ := failure(c.ask(abort)); fail != cmpmsg.BadMessageCheck || w.gateway.tx(t).State != gateway.StateUnconfirmed {
		t.Errorf("%b, %s", fail, w.gateway.tx(t).State)
	}
}

// implicitConfirm is granted by its echo alone (RFC 9810 section 5.1.1.1), and never where the endpoint says explicit.
func TestImplicitConfirm(t *testing.T) {
	ask := []cmpmsg.InfoTypeAndValue{implicitConfirm()}
	for _, tt := range []struct {
		confirm Confirm
		asked   bool
		granted bool
	}{{"", true, true}, {"", false, false}, {ConfirmOnRequest, true, true}, {ConfirmExplicit, true, false}, {ConfirmExplicit, false, false}} {
		w := newWorld(t, worldOptions{config: Config{Confirm: tt.confirm}})
		c := w.macClient("ref-1")
		if tt.asked {
			c.info = ask
		}
		m := c.ask(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t))
		cert := certificate(t, m, cmpmsg.TypeIP)
		value, granted := m.Header.Info(cmpmsg.OIDImplicitConfirm)
		if granted != tt.granted || granted && !bytes.Equal(value, []byte{5, 0}) {
			t.Errorf("%+v: granted %v, %x", tt, granted, value)
		}
		want := gateway.StateUnconfirmed
		if tt.granted {
			want = gateway.StateIssued
		}
		if got := w.gateway.tx(t).State; got != want {
			t.Errorf("%+v: %s", tt, got)
		}
		fail, _, _ := failure(c.ask(confirmation(certHash(cert), 0)))
		if tt.granted != (fail == cmpmsg.CertConfirmed) {
			t.Errorf("%+v: certConf %b", tt, fail)
		}
	}
}
