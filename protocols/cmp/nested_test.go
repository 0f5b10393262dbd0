package cmp

import (
	"bytes"
	"encoding/asn1"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// nest makes the message in which the RA passes one message on: its transactionID and senderNonce are that message's.
func (c *client) nest(inner []byte, change func(*cmpmsg.Outgoing)) []byte {
	c.w.t.Helper()
	return c.nestAll([][]byte{inner}, func(o *cmpmsg.Outgoing) {
		if m, _ := cmpmsg.Parse(inner); m != nil {
			o.Header.TransactionID, o.Header.SenderNonce = m.Header.TransactionID, m.Header.SenderNonce
		}
		if change != nil {
			change(o)
		}
	})
}

func (c *client) nestAll(inner [][]byte, change func(*cmpmsg.Outgoing)) []byte {
	c.w.t.Helper()
	c.change = change
	return c.message(&cmpmsg.Nested{Messages: inner})
}

// through sends a device's body through an RA and returns the answer, which is the device's.
func (c *client) through(ra *client, body cmpmsg.Body) *cmpmsg.Message {
	c.w.t.Helper()
	inner := c.message(body)
	return c.accept(inner, c.w.postTo("/.well-known/cmp/nested", ra.nest(inner, nil)))
}

// A message to which an RA has added its protection is answered as if it had come by itself: protected for the device, and not
// nested (RFC 9810 section 5.1.3.5). Both credentials are known of.
func TestNested(t *testing.T) {
	for name, client := range map[string]func(*world) *client{
		"MAC":       func(w *world) *client { return w.macClient("ref-1") },
		"signature": func(w *world) *client { return w.vendorClient("device-1") },
	} {
		w := newWorld(t, worldOptions{})
		ra, device := w.ra("LRA", false), client(w)
		q := crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}
		m := device.through(ra, q.body(t))
		if m.Header.ProtectionAlg.IsMAC() != (name == "MAC") {
			t.Errorf("%s: answered with %v", name, m.Header.ProtectionAlg.OID)
		}
		cert := certificate(t, m, cmpmsg.TypeIP)
		r := w.gateway.last(t)
		if len(r.Credentials) != 2 || r.Credentials[0].Kind == gateway.CredentialNested || r.Credentials[1].Kind != gateway.CredentialNested || r.Credentials[1].ID != gateway.Fingerprint(ra.cert) {
			t.Errorf("%s: credentials %v", name, r.Credentials)
		}
		if !strings.Contains(strings.Join(r.Notes, "\n"), "added by CN=LRA") || !bytes.Equal(r.Raw, device.lastSent) {
			t.Errorf("%s: notes %q, %d bytes", name, r.Notes, len(r.Raw))
		}
		if _, ok := device.through(ra, confirmation(certHash(cert), 0)).Body.(*cmpmsg.PKIConf); !ok {
			t.Errorf("%s: not confirmed", name)
		}
		if tx := w.gateway.tx(t); tx.State != gateway.StateIssued {
			t.Errorf("%s: %s", name, tx.State)
		}
	}
}

func TestNestedPolling(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.gateway.decide = func(*gateway.Request) (*gateway.Error, gateway.State) { return nil, gateway.StateHeld }
	ra, device := w.ra("LRA", false), w.macClient("ref-1")
	if s := response(t, device.through(ra, crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t)), cmpmsg.TypeIP).Status; s.Status != cmpmsg.StatusWaiting {
		t.Fatalf("%+v", s)
	}
	asks := &cmpmsg.PollReq{ReqIDs: []*big.Int{big.NewInt(0)}}
	if _, ok := device.through(ra, asks).Body.(*cmpmsg.PollRep); !ok {
		t.Error("pollReq through the RA")
	}
	if _, ok := device.ask(asks).Body.(*cmpmsg.PollRep); !ok {
		t.Error("pollReq without the RA")
	}
	// The RA is not the one who began it.
	ra.txid, ra.peer, ra.change = device.txid, device.peer, nil
	if fail, text, _ := failure(ra.ask(asks)); fail != cmpmsg.WrongIntegrity {
		t.Errorf("%v %s", fail, text)
	}
}

// The device's message is the same by whatever way it comes, and however late.
func TestNestedRepeated(t *testing.T) {
	w := newWorld(t, worldOptions{})
	ra, other, device := w.ra("LRA 1", false), w.ra("LRA 2", true), w.vendorClient("device-1")
	inner := device.message(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t))
	nested := ra.nest(inner, nil)
	first := w.post(nested)
	certificate(t, device.accept(inner, first), cmpmsg.TypeIP)
	through := other.nest(inner, nil)
	w.now = w.now.Add(time.Hour) // too late for anything else
	for name, der := range map[string][]byte{"the same": nested, "through another RA": through, "directly": inner, "nested anew": ra.nest(inner, nil)} {
		if again := w.post(der); !bytes.Equal(again, first) {
			t.Errorf("%s: another answer", name)
		}
	}
	if w.gateway.issued != 1 {
		t.Errorf("%d issued", w.gateway.issued)
	}
}

// RFC 9810 section 5.1.3.5: what a nested message must be, and a batch.
func TestNestedRefusals(t *testing.T) {
	inner := func(w *world) []byte {
		return w.macClient("ref-1").message(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(w.t))
	}
	header := func(f func(*cmpmsg.Header)) func(*cmpmsg.Outgoing) {
		return func(o *cmpmsg.Outgoing) { f(&o.Header) }
	}
	for _, tt := range []struct {
		name  string
		send  func(w *world, ra *client) []byte
		want  cmpmsg.FailInfo
		text  string
		inner bool // the device is told, in an answer to its own message
		mac   bool // with the MAC that it has shown
	}{
		{"an outer MAC", func(w *world, _ *client) []byte { return w.macClient("ref-1").nest(inner(w), nil) }, cmpmsg.WrongIntegrity, "signed by the RA", false, false},
		{"an outer MAC that is wrong", func(w *world, _ *client) []byte {
			c := w.macClient("ref-1")
			c.secret = []byte("wrong")
			return c.nest(inner(w), nil)
		}, cmpmsg.WrongIntegrity, "", false, false},
		{"not protected", func(w *world, ra *client) []byte {
			return ra.nest(inner(w), header(func(h *cmpmsg.Header) { h.ProtectionAlg, h.SenderKID = nil, nil }))
		}, cmpmsg.BadMessageCheck, "not protected", false, false},
		{"another key's signature", func(w *world, ra *client) []byte {
			c := *ra
			c.key = newP256()
			return c.nest(inner(w), nil)
		}, cmpmsg.BadMessageCheck, "does not verify", false, false},
		{"no RA", func(w *world, _ *client) []byte { return w.vendorClient("device-2").nest(inner(w), nil) }, cmpmsg.NotAuthorized, "not a registration authority", false, false},
		{"an RA that cannot be judged", func(w *world, ra *client) []byte {
			w.gateway.fails = errStore
			return ra.nest(inner(w), nil)
		}, cmpmsg.SystemUnavail, "", false, false},
		{"another transactionID", func(w *world, ra *client) []byte {
			return ra.nest(inner(w), header(func(h *cmpmsg.Header) { h.TransactionID = random(16) }))
		}, cmpmsg.BadRequest, "transactionID", false, false},
		{"no transactionID", func(w *world, ra *client) []byte {
			return ra.nest(inner(w), header(func(h *cmpmsg.Header) { h.TransactionID = nil }))
		}, cmpmsg.BadRequest, "transactionID", false, false},
		{"another senderNonce", func(w *world, ra *client) []byte {
			return ra.nest(inner(w), header(func(h *cmpmsg.Header) { h.SenderNonce = random(16) }))
		}, cmpmsg.BadSenderNonce, "senderNonce", false, false},
		{"too late", func(w *world, ra *client) []byte {
			return ra.nest(inner(w), header(func(h *cmpmsg.Header) { h.MessageTime = testTime.Add(-time.Hour) }))
		}, cmpmsg.BadTime, "messageTime", true, true},
		{"no message within", func(w *world, ra *client) []byte { return ra.nest([]byte{0x30, 0x03, 0x02, 0x01, 0x05}, nil) }, cmpmsg.BadDataFormat, "within nested", false, false},
		{"within nested", func(w *world, ra *client) []byte { return ra.nest(ra.nest(inner(w), nil), nil) }, cmpmsg.BadRequest, "within another", true, false},
		{"a batch within nested", func(w *world, ra *client) []byte {
			return ra.nest(ra.nestAll([][]byte{inner(w), inner(w)}, nil), nil)
		}, cmpmsg.BadRequest, "within another", true, false},
		{"too many", func(w *world, ra *client) []byte {
			var list [][]byte
			for range maxBatch + 1 {
				list = append(list, inner(w))
			}
			return ra.nestAll(list, nil)
		}, cmpmsg.BadRequest, "at most 16", false, false},
		{"a wrong MAC within", func(w *world, ra *client) []byte {
			c := w.macClient("ref-1")
			c.secret = []byte("wrong")
			return ra.nest(c.message(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(w.t)), nil)
		}, cmpmsg.BadMessageCheck, "senderKID", true, false},
		{"no protection within", func(w *world, ra *client) []byte {
			c := w.macClient("ref-1")
			c.change = header(func(h *cmpmsg.Header) { h.ProtectionAlg, h.SenderKID = nil, nil })
			return ra.nest(c.message(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(w.t)), nil)
		}, cmpmsg.BadMessageCheck, "not protected", true, false},
		{"raVerified within, by the device", func(w *world, ra *client) []byte {
			c := w.vendorClient("device-1")
			return ra.nest(c.message(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1", change: raVerified}.body(w.t)), nil)
		}, cmpmsg.NotAuthorized, "raVerified", true, false},
		{"an old message within", func(w *world, ra *client) []byte {
			c := w.macClient("ref-1")
			c.change = header(func(h *cmpmsg.Header) { h.MessageTime = testTime.Add(-time.Hour) })
			return ra.nest(c.message(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(w.t)), nil)
		}, cmpmsg.BadTime, "messageTime", true, true},
		{"batch: two of one transaction", func(w *world, ra *client) []byte {
			c := w.macClient("ref-1")
			q := crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}
			return ra.nestAll([][]byte{c.message(q.body(w.t)), c.message(q.body(w.t))}, nil)
		}, cmpmsg.BadRequest, "message 2", false, false},
		{"batch: the transactionID of one in it", func(w *world, ra *client) []byte {
			c := w.macClient("ref-1")
			c.txid = ra.txid
			return ra.nestAll([][]byte{inner(w), c.message(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(w.t))}, nil)
		}, cmpmsg.BadRequest, "message 2", false, false},
		{"batch: the senderNonce of one in it", func(w *world, ra *client) []byte {
			list := [][]byte{inner(w), inner(w)}
			m, _ := cmpmsg.Parse(list[1])
			return ra.nestAll(list, header(func(h *cmpmsg.Header) { h.SenderNonce = m.Header.SenderNonce }))
		}, cmpmsg.BadSenderNonce, "message 2", false, false},
		{"batch: the senderNonce of another in it", func(w *world, ra *client) []byte {
			nonce := random(16)
			one := func() []byte {
				c := w.macClient("ref-1")
				c.change = header(func(h *cmpmsg.Header) { h.SenderNonce = nonce })
				return c.message(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(w.t))
			}
			return ra.nestAll([][]byte{one(), inner(w), one()}, nil)
		}, cmpmsg.BadSenderNonce, "message 3", false, false},
		{"batch: recipNonce", func(w *world, ra *client) []byte {
			return ra.nestAll([][]byte{inner(w), inner(w)}, header(func(h *cmpmsg.Header) { h.RecipNonce = random(16) }))
		}, cmpmsg.BadRecipientNonce, "", false, false},
		{"batch: no RA", func(w *world, _ *client) []byte {
			return w.vendorClient("device-2").nestAll([][]byte{inner(w), inner(w)}, nil)
		}, cmpmsg.NotAuthorized, "", false, false},
		{"batch: an outer MAC", func(w *world, _ *client) []byte {
			return w.macClient("ref-1").nestAll([][]byte{inner(w), inner(w)}, nil)
		}, cmpmsg.WrongIntegrity, "", false, false},
	} {
		w := newWorld(t, worldOptions{})
		ra := w.ra("LRA", false)
		der := tt.send(w, ra)
		sent := der
		if tt.inner {
			m, _ := cmpmsg.Parse(der)
			sent = m.Body.(*cmpmsg.Nested).Messages[0]
		}
		m := w.macClient("ref-1").accept(sent, w.post(der))
		if m.Header.ProtectionAlg.IsMAC() != tt.mac {
			t.Errorf("%s: the refusal is protected with %v", tt.name, m.Header.ProtectionAlg.OID)
		}
		if fail, text, _ := failure(m); fail != tt.want || !strings.Contains(text, tt.text) {
			t.Errorf("%s: %v %s", tt.name, fail, text)
		}
		if w.gateway.issued != 0 {
			t.Errorf("%s: issued", tt.name)
		}
	}
}

// Whatever else a device asks comes through an RA as well (RFC 9810 section 5.1.3.5): rr, whose answer is signed, and genm, with the
// protection of its own.
func TestNestedOthers(t *testing.T) {
	w := newWorld(t, worldOptions{})
	ra, device := w.ra("LRA", false), w.vendorClient("device-1")
	m := device.through(ra, rr(t, device.cert, reasonCode(4)))
	if rp, ok := m.Body.(*cmpmsg.RevRep); !ok || rp.Statuses[0].Status != cmpmsg.StatusAccepted || m.Header.ProtectionAlg.IsMAC() {
		t.Errorf("rr: %+v", m.Body)
	}
	r := w.gateway.revoked[0]
	if len(r.Credentials) != 2 || r.Credentials[0].ID != gateway.Fingerprint(device.cert) || r.Credentials[1].Kind != gateway.CredentialNested || r.Credentials[1].ID != gateway.Fingerprint(ra.cert) {
		t.Errorf("rr: %v", r.Credentials)
	}
	// The RA revokes nothing by passing on what it made up: the rr within is signed by whoever is judged.
	if fail, _, _ := failure(w.macClient("ref-1").through(ra, rr(t, device.cert))); fail != cmpmsg.WrongIntegrity {
		t.Errorf("rr with a MAC: %v", fail)
	}
	for name, c := range map[string]*client{"MAC": w.macClient("ref-1"), "signature": w.vendorClient("device-2")} {
		m := c.through(ra, genm(cmpmsg.OIDCACerts))
		if g, ok := m.Body.(*cmpmsg.General); !ok || g.Kind != cmpmsg.TypeGenP || len(g.Info) != 1 || m.Header.ProtectionAlg.IsMAC() != (name == "MAC") {
			t.Errorf("genm, %s: %+v", name, m.Body)
		}
	}
}

// An RA that has changed a device's request may say what it was (RFC 9810 section 5.1.1.3): nothing is read from it, since the RA
// vouches for what it asks.
func TestOrigPKIMessage(t *testing.T) {
	w := newWorld(t, worldOptions{})
	ra := w.ra("RA", true)
	original := w.macClient("ref-1").message(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t))
	ra.info = []cmpmsg.InfoTypeAndValue{{Type: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 4, 15}, Value: element(0x30, original)}}
	cert := certificate(t, ra.ask(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-2", change: raVerified}.body(t)), cmpmsg.TypeIP)
	if r := w.gateway.last(t); len(r.Credentials) != 1 || cert.Subject.CommonName != "device-2" {
		t.Errorf("%s by %v", cert.Subject, r.Credentials)
	}
}
