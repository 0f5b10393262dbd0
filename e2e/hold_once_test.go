package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/muster-pki/muster/backends/local"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/admin"
)

// TestHeldCrashPoints kills the gateway or the CA's process at each named point of an approval. Whether the approver was told or
// not: the request is held as before, or issued, once; and the device gets that certificate.
func TestHeldCrashPoints(t *testing.T) {
	t.Parallel()
	g := configured(t, strings.Replace(holdESTSCEPConfig, "- names: {}", "- names: {san: {dns: {}}}", 1),
		"users", heldSecret(t, "held-password"), "challenges", heldSecret(t, "held-challenge"))
	for i, point := range append(append([]string(nil), gateway.CrashPoints...), local.CrashPoints...) {
		t.Run(point, func(t *testing.T) {
			g.t = t
			defer func() { g.again() }()
			name := fmt.Sprintf("held-crash-%d", i)
			d := newDevice(t, name)
			ask := func() *answer {
				t.Helper()
				a, err := g.post(t.Context(), g.client(nil), "simpleenroll", "held", "held-password", "application/pkcs10", []byte(toBase64(d.csr)))
				if err != nil {
					t.Fatal(err)
				}
				return a
			}
			if a := ask(); a.status != http.StatusAccepted {
				t.Fatalf("%d %s", a.status, a.body)
			}
			id := g.held(name)
			once := filepath.Join(t.TempDir(), "once")
			g.again("MUSTER_CRASH_AT="+point, "MUSTER_CRASH_ONCE="+once)
			told, code := g.run(g.dir, binary, "approve", id, "--reason", "it is on the list", "--data", g.dir)
			if _, err := os.Stat(once); err != nil {
				t.Fatalf("the crash point was never passed: %v\n%s", err, told)
			}
			if strings.HasPrefix(point, "gateway.") {
				if code == 0 {
					t.Errorf("a gateway that was killed at %s told the approver: %s", point, told)
				}
				<-g.exited
				g.again()
			} else if code != 0 {
				t.Errorf("a CA process that was killed at %s cost the approver the answer: exit %d\n%s", point, code, told)
			}
			g.settled()
			rows := g.transactions(name)
			if want := point == gateway.CrashBeforeIntent; len(rows) != 1 || (rows[0].State == "held") != want || len(g.ledger(name)) == 0 != want {
				t.Fatalf("after a kill at %s: %+v, %d in the ledger", point, rows, len(g.ledger(name)))
			}
			if out, code := g.run(g.dir, binary, "approve", id, "--reason", "once more", "--data", g.dir); (code == 0) != (rows[0].State == "held") {
				t.Errorf("approved once more: exit %d\n%s", code, out)
			}
			a := ask()
			rows, entries := g.transactions(name), g.ledger(name)
			if a.status != http.StatusOK || len(rows) != 1 || rows[0].State != "issued" || rows[0].ID != id || len(entries) != 1 ||
				entries[0].ID != id || !bytes.Equal(entries[0].Certificate, a.cert.Raw) {
				t.Errorf("in the end: %d %s, %+v, ledger %+v", a.status, a.body, rows, entries)
			}
		})
	}
}

// Two devices that call their transaction "0", for ever, are held, and poll: each gets its own, and a stranger nothing.
func TestHeldUnderOneTransactionID(t *testing.T) {
	g := held(t)
	devices := []*scepDevice{g.scepDevice(), g.scepDevice(), g.scepDevice()}
	var ids []string
	for i, d := range devices[:2] {
		name := fmt.Sprintf("zero-%d", i)
		if a := d.ask(scepWish{name: name, challenge: "held-challenge", tid: "0"}); a.status != "3" {
			t.Fatalf("%s: %v", name, a)
		}
		ids = append(ids, g.held(name))
	}
	poll := func(i int) *scepAnswer { return devices[i].ask(scepWish{kind: "20", tid: "0"}) }
	g.muster("approve", ids[0], "--reason", "it is on the list")
	if a := poll(0); a.cert == nil || a.cert.Subject.CommonName != "zero-0" {
		t.Errorf("the one that was approved: %v", a)
	}
	if a := poll(1); a.status != "3" {
		t.Errorf("the one that waits: %v", a)
	}
	if a := poll(2); a.status != "2" {
		t.Errorf("a stranger: %v", a)
	}
	g.muster("approve", ids[1], "--reason", "it is on the list")
	for i, name := range []string{"zero-0", "zero-1"} {
		if a := poll(i); a.cert == nil || a.cert.Subject.CommonName != name {
			t.Errorf("%s: %v", name, a)
		}
	}
}

// A device that was disabled, or whose certificate was revoked, while its request was held is not approved, and the request stays held.
func TestHeldOfWhoMayNot(t *testing.T) {
	config := strings.Replace(holdESTSCEPConfig, "- names: {}", "- inventory: {by: [subject.commonName]}\n      - names: {san: {dns: {}}}", 1)
	config = strings.Replace(config, "  scep:\n", "    renew:\n      - own-certificate: {}\n      - approval: {approvers: 1}\n  scep:\n", 1)
	g := configured(t, config, "users", heldSecret(t, "held-password"), "challenges", heldSecret(t, "held-challenge"))
	g.muster("device", "add", "station")
	d := newDevice(t, "station")
	ask := func(operation, user string) *answer {
		t.Helper()
		a, err := g.post(t.Context(), g.client(d), operation, user, "held-password", "application/pkcs10", []byte(toBase64(d.csr)))
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	refused := func(id, why string) {
		t.Helper()
		out, code := g.run(g.dir, binary, "approve", id, "--data", g.dir)
		if code == 0 || !strings.Contains(out, why) {
			t.Errorf("approved: exit %d, no %q in\n%s", code, why, out)
		}
		if rows := listing[admin.Transaction](g, "--state", "held"); len(rows) != 1 || rows[0].ID != id {
			t.Errorf("held are %+v", rows)
		}
	}
	if a := ask("simpleenroll", "held"); a.status != http.StatusAccepted {
		t.Fatalf("%d %s", a.status, a.body)
	}
	id := g.held("station")
	g.muster("device", "disable", "station")
	refused(id, "the device station is disabled")
	if a := ask("simpleenroll", "held"); a.status != http.StatusForbidden {
		t.Errorf("disabled, it asks again: %d %s", a.status, a.body)
	}
	g.muster("device", "add", "station", "--replace")
	g.muster("approve", id)
	a := ask("simpleenroll", "held")
	if a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	d.cert = a.cert
	if a := ask("simplereenroll", ""); a.status != http.StatusAccepted {
		t.Fatalf("renewing: %d %s", a.status, a.body)
	}
	g.muster("revoke", fmt.Sprintf("%x", d.cert.SerialNumber), "--reason", "keyCompromise")
	refused(g.held("station"), "was revoked")
	if n := len(g.ledger("station")); n != 1 {
		t.Errorf("%d in the ledger, want 1", n)
	}
}

// A device that shows nothing but its key is held, asks again and again, over a restart, and gets its certificate.
func TestHeldOfAStranger(t *testing.T) {
	config := strings.Replace(holdESTSCEPConfig, "- password: {file: users}\n      - names: {}", "- names: {san: {dns: {}}}", 1)
	g := configured(t, config, "challenges", heldSecret(t, "held-challenge"))
	d, other := newDevice(t, "stranger"), newDevice(t, "stranger")
	ask := func(d *device, want int) *answer {
		t.Helper()
		a, err := g.post(t.Context(), g.client(nil), "simpleenroll", "", "", "application/pkcs10", []byte(toBase64(d.csr)))
		if err != nil || a.status != want {
			t.Fatalf("%v, %d %s, want %d", err, a.status, a.body, want)
		}
		return a
	}
	ask(d, http.StatusAccepted)
	id := g.held("stranger")
	ask(d, http.StatusAccepted)
	g.again()
	d.csr = request(t, d.key, "stranger") // signed anew
	ask(d, http.StatusAccepted)
	if rows := g.transactions("stranger"); len(rows) != 1 {
		t.Fatalf("%d transactions, want 1", len(rows))
	}
	g.muster("approve", id)
	ask(other, http.StatusAccepted)
	a := ask(d, http.StatusOK)
	if entries := g.ledger("stranger"); len(entries) != 1 || !bytes.Equal(entries[0].Certificate, a.cert.Raw) {
		t.Errorf("%d in the ledger", len(entries))
	}
}

const oneChallengeConfig = onLocalCA + `profiles:
  mobile: {backend: local, issuer: rsa, validity: 30d, key-usage: [digitalSignature, keyEncipherment]}
endpoints:
  scep:
    protocol: scep
    listeners: [http]
    default: true
    profile: mobile
    enroll:
      - challenge: {issued: true}
      - names: {}
`

// Of 64 requests at once with one challenge, from 8 devices at one SCEP endpoint, one gets a certificate. The device that has it
// gets it again; the challenge is good for nothing else.
func TestOneChallengeOverSCEP(t *testing.T) {
	g := configured(t, oneChallengeConfig)
	challenge := strings.TrimSpace(g.muster("challenge", "new", "--endpoint", "scep"))
	devices := make([]*scepDevice, 8)
	var wg sync.WaitGroup
	for i := range devices {
		wg.Go(func() { devices[i] = g.scepDevice() })
	}
	wg.Wait()
	messages, answers := make([]*scepMessage, 64), make([]*scepAnswer, 64)
	for i := range messages {
		messages[i] = devices[i%8].message(scepWish{name: fmt.Sprintf("challenged-%d", i), challenge: challenge})
	}
	for i, m := range messages {
		wg.Go(func() {
			a, err := devices[i%8].send(m)
			if err != nil {
				t.Error(err)
				return
			}
			answers[i] = a
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	winner := -1
	for i, a := range answers {
		switch {
		case a.cert != nil && winner < 0:
			winner = i
		case a.cert != nil:
			t.Errorf("requests %d and %d have both a certificate", winner, i)
		case a.status != "2":
			t.Errorf("request %d: %v", i, a)
		}
	}
	if winner < 0 {
		t.Fatal("nobody has a certificate")
	}
	if again := devices[winner%8].must(messages[winner]); again.cert == nil || !bytes.Equal(again.cert.Raw, answers[winner].cert.Raw) {
		t.Errorf("the winner again: %v", again)
	}
	if again := devices[winner%8].ask(scepWish{name: "another", challenge: challenge}); again.status != "2" {
		t.Errorf("another request with the challenge: %v", again)
	}
	if n := len(g.ledger("challenged-")); n != 1 {
		t.Errorf("%d in the ledger, want 1", n)
	}
}
