package cmp

import (
	"bytes"
	"context"
	"crypto/x509"
	"math/big"
	"slices"
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

// A batch is answered with the answers in order, each protected for its own device; a fault in one is that one's.
func TestBatch(t *testing.T) {
	w := newWorld(t, worldOptions{})
	ra := w.ra("LRA", false)
	devices := []*client{w.macClient("ref-1"), w.vendorClient("device-2"), w.macClient("ref-2"), w.vendorClient("device-4")}
	wrong := w.macClient("ref-1")
	wrong.secret = []byte("wrong")
	devices[2] = wrong
	var list [][]byte
	for _, c := range devices {
		list = append(list, c.message(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device"}.body(t)))
	}
	list = append(list, []byte{0x30, 0x03, 0x02, 0x01, 0x05}, ra.nest(w.macClient("ref-1").message(&cmpmsg.PKIConf{}), nil))
	send := func() [][]byte {
		ra.txid, ra.peer = random(16), nil
		der := ra.nestAll(list, nil)
		m := ra.accept(der, w.post(der))
		b, ok := m.Body.(*cmpmsg.Nested)
		if !ok || len(b.Messages) != len(list) || m.Header.ProtectionAlg.IsMAC() {
			t.Fatalf("%+v", m.Body)
		}
		return b.Messages
	}
	answers := send()
	for i, c := range devices {
		m := c.accept(list[i], answers[i])
		if i == 2 {
			if fail, _, _ := failure(m); fail != cmpmsg.BadMessageCheck {
				t.Errorf("%d: %v", i, fail)
			}
			continue
		}
		if m.Header.ProtectionAlg.IsMAC() != (c.key == nil) {
			t.Errorf("%d: answered with %v", i, m.Header.ProtectionAlg.OID)
		}
		certificate(t, m, cmpmsg.TypeIP)
	}
	if m, err := cmpmsg.Parse(answers[4]); err != nil {
		t.Error(err)
	} else if fail, _, _ := failure(m); fail != cmpmsg.BadDataFormat {
		t.Errorf("what is no message: %v", fail)
	}
	if fail, _, _ := failure(ra.accept(list[5], answers[5])); fail != cmpmsg.BadRequest {
		t.Errorf("nested in a batch: %v", fail)
	}
	if w.gateway.issued != 3 {
		t.Errorf("%d issued", w.gateway.issued)
	}
	for _, r := range w.gateway.enrolled {
		if len(r.Credentials) != 2 || r.Credentials[1].ID != gateway.Fingerprint(ra.cert) || !strings.Contains(r.Notes[0], "of 6 in a batch") {
			t.Errorf("%v, %q", r.Credentials, r.Notes)
		}
	}
	// The batch again, in a new transaction: the answers in it are the same.
	again := send()
	for _, i := range []int{0, 1, 3} {
		if !bytes.Equal(again[i], answers[i]) {
			t.Errorf("%d: another answer", i)
		}
	}
	if w.gateway.issued != 3 {
		t.Errorf("%d issued", w.gateway.issued)
	}
}

// What is wrong while one message of a batch is answered is that one's alone.
func TestBatchPanic(t *testing.T) {
	w := newWorld(t, worldOptions{})
	ra := w.ra("LRA", false)
	w.gateway.panics = "Enroll"
	a, b := w.macClient("ref-1"), w.macClient("ref-1")
	list := [][]byte{a.message(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "a"}.body(t)), b.message(&cmpmsg.ErrorMsg{Status: cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusRejection}})}
	der := ra.nestAll(list, nil)
	answers := ra.accept(der, w.post(der)).Body.(*cmpmsg.Nested).Messages
	if fail, _, _ := failure(a.accept(list[0], answers[0])); fail != cmpmsg.SystemFailure {
		t.Errorf("%v", fail)
	}
	if _, ok := b.accept(list[1], answers[1]).Body.(*cmpmsg.PKIConf); !ok {
		t.Error("the other one")
	}
}

// A batch in a file: the answers come back in one, for what is no message too.
func TestBatchInFile(t *testing.T) {
	w := newWorld(t, worldOptions{})
	ra, device := w.ra("LRA", false), w.macClient("ref-1")
	list := [][]byte{device.message(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t)), {0x30, 0x00}}
	w.now = w.now.Add(24 * time.Hour) // on its way
	der := ra.nestAll(list, nil)
	out, err := w.handler.Process(context.Background(), "ran", der)
	if err != nil {
		t.Fatal(err)
	}
	answers := ra.accept(der, out).Body.(*cmpmsg.Nested).Messages
	certificate(t, device.accept(list[0], answers[0]), cmpmsg.TypeIP)
	if m, err := cmpmsg.Parse(answers[1]); err != nil {
		t.Error(err)
	} else if fail, _, _ := failure(m); fail != cmpmsg.BadDataFormat {
		t.Errorf("%v", fail)
	}
	if r := w.gateway.last(t); r.Transport == "" || r.ConfirmWait == 0 {
		t.Errorf("%q, %s", r.Transport, r.ConfirmWait)
	}
}

// Answers that are too large together are not sent; each can be asked for again.
func TestBatchTooLarge(t *testing.T) {
	w := newWorld(t, worldOptions{})
	ra := w.ra("LRA", false)
	w.identity.Chain = append(w.identity.Chain, w.ca.issue(t, &x509.Certificate{DNSNames: slices.Repeat([]string{strings.Repeat("x", 60)}, 300)}, newP256().Public()))
	var list [][]byte
	for range maxBatch {
		list = append(list, w.vendorClient("device").message(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device"}.body(t)))
	}
	der := ra.nestAll(list, nil)
	if fail, text, _ := failure(ra.accept(der, w.post(der))); fail != cmpmsg.BadRequest || !strings.Contains(text, "fewer messages") {
		t.Errorf("%v %s", fail, text)
	}
}
