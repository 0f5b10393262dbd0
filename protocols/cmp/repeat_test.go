package cmp

import (
	"bytes"
	"crypto/x509"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// The same message gets the same answer, byte for byte: at once, later than messageTime allows, from another replica,
// while it is undecided and when it is confirmed. Nothing is issued twice.
//
// RFC 9810 section 5.1.1, transactionID.
func TestRepeat(t *testing.T) {
	key := newP256()
	for name, make := range map[string]func(*world) (*client, cmpmsg.Body){
		"ir, MAC": func(w *world) (*client, cmpmsg.Body) {
			return w.macClient("ref-1"), crmf{kind: cmpmsg.TypeIR, key: key, subject: "device-1"}.body(t)
		},
		"cr, signature": func(w *world) (*client, cmpmsg.Body) {
			return w.vendorClient("device-1"), crmf{kind: cmpmsg.TypeCR, key: key, subject: "device-1"}.body(t)
		},
		"p10cr, MAC": func(w *world) (*client, cmpmsg.Body) {
			return w.macClient("ref-1"), &cmpmsg.PKCS10{CSR: csr(t, key, "device-1")}
		},
		"kur": func(w *world) (*client, cmpmsg.Body) {
			return w.vendorClient("device-1"), crmf{kind: cmpmsg.TypeKUR, key: key, subject: "device-1"}.body(t)
		},
		"ir, implicit": func(w *world) (*client, cmpmsg.Body) {
			c := w.macClient("ref-1")
			c.info = []cmpmsg.InfoTypeAndValue{implicitConfirm()}
			return c, crmf{kind: cmpmsg.TypeIR, key: key, subject: "device-1"}.body(t)
		},
		"ir, no transactionID": func(w *world) (*client, cmpmsg.Body) {
			c := w.macClient("ref-1")
			c.txid = nil
			return c, crmf{kind: cmpmsg.TypeIR, key: key, subject: "device-1"}.body(t)
		},
		"ir, Ed25519": func(w *world) (*client, cmpmsg.Body) {
			w.identity = &gateway.Identity{Key: newEd25519(), Chain: w.identity.Chain}
			tmpl := *w.ca.issuer
			tmpl.IsCA = false
			w.identity.Certificate = w.ca.issue(t, &tmpl, w.identity.Key.Public())
			return w.vendorClient("device-1"), crmf{kind: cmpmsg.TypeIR, key: key, subject: "device-1"}.body(t)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, worldOptions{})
			c, body := make(w)
			der := c.message(body)
			first := w.post(der)
			if !bytes.Equal(w.post(der), first) {
				t.Error("at once: another answer")
			}
			if w.gateway.tx(t).State == gateway.StateUnconfirmed {
				w.now = testTime.Add(time.Hour)
			} else {
				w.now = testTime.Add(time.Minute)
			}
			if !bytes.Equal(w.post(der), first) {
				t.Error("later: another answer")
			}
			if !bytes.Equal(w.again().post(der), first) {
				t.Error("another replica: another answer")
			}
			if w.gateway.issued != 1 {
				t.Errorf("%d issued", w.gateway.issued)
			}
			m := c.accept(der, first)
			cert := certificate(t, m, answerTo(body.Type()))
			w.now = testTime
			if w.gateway.tx(t).State == gateway.StateIssued {
				return
			}
			id := response(t, m, answerTo(body.Type())).ReqID.Int64()
			if m := c.ask(confirmation(certHash(cert), id)); m.Body.Type() != cmpmsg.TypePKIConf {
				t.Fatalf("%+v", m.Body)
			}
			if !bytes.Equal(w.post(der), first) {
				t.Error("confirmed: another answer")
			}
		})
	}
}

func TestRepeatWhilePending(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.gateway.decide = func(*gateway.Request) (*gateway.Error, gateway.State) { return nil, gateway.StateHeld }
	c := w.macClient("ref-1")
	der := c.message(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t))
	first := w.post(der)
	w.now = w.now.Add(time.Hour)
	if !bytes.Equal(w.post(der), first) {
		t.Error("another answer")
	}
	w.gateway.settle(w.gateway.tx(t), w.gateway.last(t))
	certificate(t, c.accept(der, w.post(der)), cmpmsg.TypeIP)
}

// A message that is no repetition does not get into an open transaction; a stale one begins none.
func TestTransactionID(t *testing.T) {
	w := newWorld(t, worldOptions{})
	q := crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}
	c, cert := enrolled(t, w, w.macClient("ref-1"))
	used, peer := c.txid, c.peer
	for name, tt := range map[string]struct {
		c    *client
		want cmpmsg.FailInfo
	}{
		"the same device":     {w.macClient("ref-1"), cmpmsg.TransactionIDInUse},
		"another device":      {w.macClient("ref-2"), cmpmsg.TransactionIDInUse},
		"another protection":  {w.vendorClient("device-1"), cmpmsg.WrongIntegrity},
		"another transaction": {w.macClient("ref-1"), 0},
	} {
		if tt.want != 0 {
			tt.c.txid = used
		}
		if fail, text, _ := failure(tt.c.ask(q.body(t))); fail != tt.want {
			t.Errorf("%s: %b, %s", name, fail, text)
		}
	}
	c.txid, c.peer = used, peer
	if m := c.ask(confirmation(certHash(cert), 0)); m.Body.Type() != cmpmsg.TypePKIConf {
		t.Fatalf("%+v", m.Body)
	}
	// It is free again (RFC 9810 section 5.1.1: in progress).
	c.peer = nil
	certificate(t, c.ask(q.body(t)), cmpmsg.TypeIP)
	// At another endpoint it always was.
	d := w.macClient("ref-1")
	d.txid, d.path = used, "/cmp/plant"
	certificate(t, d.ask(q.body(t)), cmpmsg.TypeIP)

	// What was sent long ago, and belongs to a transaction that has ended, is stale.
	der := c.lastSent
	w.gateway.tx(t).State = gateway.StateRejected
	for _, tx := range w.gateway.byID {
		tx.State = gateway.StateRejected
	}
	w.now = w.now.Add(time.Hour)
	before := w.gateway.issued
	if fail, text, _ := failure(c.send(der)); fail != cmpmsg.BadTime || w.gateway.issued != before {
		t.Errorf("%b, %s", fail, text)
	}
}

// An answer that was lost: the device asks again in a new transaction, and gets its certificate, confirms it there.
func TestResume(t *testing.T) {
	key := newP256()
	for name, tt := range map[string]struct {
		again crmf
		same  bool
	}{
		"the same":        {crmf{kind: cmpmsg.TypeIR, key: key, subject: "device-1", dns: []string{"a.example"}, notAfter: testTime.Add(2 * time.Hour)}, true},
		"by cr":           {crmf{kind: cmpmsg.TypeCR, key: key, subject: "device-1", dns: []string{"a.example"}}, true},
		"another key":     {crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1", dns: []string{"a.example"}}, false},
		"another subject": {crmf{kind: cmpmsg.TypeIR, key: key, subject: "device-2", dns: []string{"a.example"}}, false},
		"another SAN":     {crmf{kind: cmpmsg.TypeIR, key: key, subject: "device-1", dns: []string{"b.example"}}, false},
	} {
		w := newWorld(t, worldOptions{})
		first := certificate(t, w.macClient("ref-1").ask(crmf{kind: cmpmsg.TypeIR, key: key, subject: "device-1", dns: []string{"a.example"}}.body(t)), cmpmsg.TypeIP)
		c := w.macClient("ref-1")
		second := certificate(t, c.ask(tt.again.body(t)), answerTo(tt.again.kind))
		if first.Equal(second) != tt.same {
			t.Errorf("%s: the same certificate: %v", name, first.Equal(second))
		}
		if m := c.ask(confirmation(certHash(second), 0)); m.Body.Type() != cmpmsg.TypePKIConf {
			t.Errorf("%s: %+v", name, m.Body)
		}
	}
}

func TestResumeIsUnambiguous(t *testing.T) {
	r := gateway.Request{PublicKey: spkiOf(t, newP256()), Subject: cn("x")}
	seen := map[string]bool{}
	for _, change := range []func(*gateway.Request){
		func(*gateway.Request) {}, func(r *gateway.Request) { r.Subject = nil }, func(r *gateway.Request) { r.Profile = "p" },
		func(r *gateway.Request) { r.NewNames = &gateway.Names{Subject: cn("y")} },
		func(r *gateway.Request) { r.NewNames = &gateway.Names{SubjectAltName: cn("y")} },
		func(r *gateway.Request) { r.POP = gateway.POPConfirm },
		func(r *gateway.Request) { r.PublicKey, r.KeyGen = nil, &gateway.KeyGen{} },
		func(r *gateway.Request) { r.PublicKey, r.KeyGen = nil, &gateway.KeyGen{Algorithm: "P-256"} },
		func(r *gateway.Request) { r.OldCert = &x509.Certificate{Raw: []byte("one")} },
		func(r *gateway.Request) { r.OldCert = &x509.Certificate{Raw: []byte("another")} },
	} {
		for _, kind := range []cmpmsg.BodyType{cmpmsg.TypeIR, cmpmsg.TypeKUR} {
			q := r
			change(&q)
			der, err := resumeOf(&q, kind, 3)
			if err != nil || seen[string(der)] {
				t.Errorf("%x: %v", der, err)
			}
			seen[string(der)] = true
		}
	}
}

// A message that has had its certificate makes no other, when it comes again after all that is repeated: it may be a replay.
func TestReplayAfterTheEnd(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(w *world, c *client, cert *x509.Certificate)
		want cmpmsg.FailInfo
	}{
		"confirmed": {func(_ *world, c *client, cert *x509.Certificate) { c.ask(confirmation(certHash(cert), 0)) }, cmpmsg.TransactionIDInUse},
		"rejected":  {func(_ *world, c *client, _ *x509.Certificate) { c.ask(&cmpmsg.CertConf{}) }, cmpmsg.TransactionIDInUse},
		"failed":    {func(w *world, _ *client, _ *x509.Certificate) { w.gateway.tx(t).State = gateway.StateFailed }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, worldOptions{config: Config{ClockSkew: Skew{Any: true}}})
			c := w.macClient("ref-1")
			first := c.message(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t))
			tt.end(w, c, certificate(t, c.send(first), cmpmsg.TypeIP))
			clear(w.gateway.repeats) // the repeat time is over
			clear(w.gateway.resumes)
			w.now = w.now.Add(30 * 24 * time.Hour)
			issued := w.gateway.issued
			if fail, text, _ := failure(c.send(first)); fail != tt.want {
				t.Errorf("%b, want %b: %s", fail, tt.want, text)
			}
			if (w.gateway.issued != issued) != (tt.want == 0) {
				t.Errorf("%d issued, before %d", w.gateway.issued, issued)
			}
		})
	}
}
