package cmp

import (
	"bytes"
	"context"
	"crypto/x509"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// A batch (RFC 9810 section 5.1.3.5) is answered with the answers in order, each protected for its own device; a fault in one is that one's.
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

// One answer that is too large for its batch is that one's fault: the others are sent, and it is to be had by itself (RFC 9810
// section 5.1.3.5).
func TestBatchWithALargeAnswer(t *testing.T) {
	w := newWorld(t, worldOptions{})
	ra := w.ra("LRA", false)
	w.gateway.tells.crls = map[string]toldCRL{"local/ec": {der: element(0x30, element(0x04, make([]byte, 60_000)))}}
	device := w.vendorClient("device-1")
	list := [][]byte{device.message(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t))}
	clients := []*client{device}
	for range 5 {
		c := w.macClient("ref-1")
		clients, list = append(clients, c), append(list, c.message(genm(cmpmsg.OIDCurrentCRL)))
	}
	der := ra.nestAll(list, nil)
	b, ok := ra.accept(der, w.post(der)).Body.(*cmpmsg.Nested)
	if !ok || len(b.Messages) != len(list) {
		t.Fatalf("%+v", b)
	}
	certificate(t, device.accept(list[0], b.Messages[0]), cmpmsg.TypeIP)
	large := 0
	for i := 1; i < len(list); i++ {
		m := clients[i].accept(list[i], b.Messages[i])
		if _, ok := m.Body.(*cmpmsg.General); ok {
			continue
		}
		large++
		if fail, text, _ := failure(m); fail != cmpmsg.BadRequest || !strings.Contains(text, "by itself") || !m.Header.ProtectionAlg.IsMAC() {
			t.Errorf("%d: %v %s", i, fail, text)
		}
		if m := clients[i].send(list[i]); m.Body.Type() != cmpmsg.TypeGenP {
			t.Errorf("by itself: %s", m.Body.Type())
		}
	}
	if large != 1 {
		t.Errorf("%d answers are left out", large)
	}
}

// Answers that are too large together, refusals too, are not sent; each can be asked for again.
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
