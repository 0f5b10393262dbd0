package gateway_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// bareSeal is an adapter's Seal of a key that travels as it is.
type bareSeal struct {
	mu   sync.Mutex
	keys []crypto.Signer
	out  [][]byte // what was made of each
	err  error
}

func (s *bareSeal) seal(key crypto.Signer) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys = append(s.keys, key)
	d, err := key.(*ecdsa.PrivateKey).Bytes()
	s.out = append(s.out, d)
	return d, errors.Join(err, s.err)
}

// bare is a request for a key that travels without protection of its own: RFC 7030 section 4.4 without a DecryptKeyIdentifier.
func (w *world) bare(name string, s *bareSeal) *gateway.Request {
	r := w.request(name)
	r.PublicKey, r.POP, r.Content = nil, gateway.POPNone, []byte("a key for "+name)
	r.KeyGen = &gateway.KeyGen{Wrap: gateway.WrapNone, Seal: s.seal}
	return r
}

// countedOnce lets each device enrol once, with a key made for it; judged counts what the counting stage has judged.
func countedOnce(judged *int) func(*world) {
	return func(w *world) {
		w.enroll = gateway.Pipeline{password{"secret"}, stage(func(r *gateway.Request, _ *gateway.Grant) gateway.Verdict {
			*judged++
			return gateway.Allowed("the first time", gateway.Claim{Key: "device:" + string(r.Subject), Limit: 1, Lost: "enrolled already"})
		}), making("P-256")}
	}
}

// gets is the answer with a certificate for the key that goes with it.
func (w *world) gets(r *gateway.Request, s *bareSeal) *gateway.Result {
	w.t.Helper()
	made := len(s.keys)
	res, err := w.gw.Enroll(w.t.Context(), r)
	if err != nil || res.Kind != gateway.ResultIssued || res.Repeated || len(s.keys) != made+1 {
		w.t.Fatalf("%+v, %v; %d keys", res, err, len(s.keys)-made)
	}
	key := s.keys[made].(*ecdsa.PrivateKey)
	want, err := key.Bytes()
	if err != nil || !bytes.Equal(res.Key, want) || !key.PublicKey.Equal(res.Certificate.PublicKey) {
		w.t.Fatalf("the key given is not the certificate's: %v", err)
	}
	if kept := w.sealedKey(res.Transaction); kept != nil {
		w.t.Fatalf("%x is kept", kept)
	}
	return res
}

// onlyValid checks that of all certificates that were issued one is valid: here, and, once all work is done, at the CA.
func (w *world) onlyValid(id string) {
	w.t.Helper()
	found := false
	for _, t := range w.transactions() {
		if t.State != gateway.StateIssued {
			continue
		}
		valid := t.ID == id
		found = found || valid
		if w.revoked(t.ID) == valid || w.memory.Revoked(t.ID) == valid {
			w.t.Errorf("%s, of which %s is to be valid: revoked %t, at the CA %t", t.ID, id, w.revoked(t.ID), w.memory.Revoked(t.ID))
		}
	}
	if !found {
		w.t.Errorf("%s is not issued", id)
	}
}

// used is how many uses of its claim stand for a device.
func (w *world) used(r *gateway.Request) int64 {
	w.t.Helper()
	uses, err := w.store.Uses(w.t.Context(), []string{"device:" + string(r.Subject)})
	if err != nil {
		w.t.Fatal(err)
	}
	return uses["device:"+string(r.Subject)]
}

// explained is the trail of a transaction, in one text.
func (w *world) explained(id string) string {
	w.t.Helper()
	t, err := w.gw.Explain(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	heard, err := w.gw.Messages(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return fmt.Sprintf("%v %s %v", t.Verdicts, t.Note, heard)
}

// A key that travels as it is, is in the answer and nowhere else.
func TestBareKeyIsKeptNowhere(t *testing.T) {
	var logs bytes.Buffer
	judged := 0
	w := newWorld(t, backendtest.FaultPlan{}, countedOnce(&judged), func(w *world) { w.logs = &logs })
	s := &bareSeal{}
	r := w.bare("device-1", s)
	w.gets(r, s)
	w.gets(w.again(r), s)
	w.work(0)
	if n, err := w.gw.Work(t.Context()); n != 0 || err != nil {
		t.Errorf("work is left: %d, %v", n, err)
	}
	var shown strings.Builder
	shown.Write(logs.Bytes())
	for _, tx := range w.transactions() {
		fmt.Fprintf(&shown, "%+v %+v %s", tx, tx.Intent, w.explained(tx.ID))
	}
	w.close()
	path := strings.TrimPrefix(w.dsn, "sqlite:")
	var stored []byte
	for _, file := range []string{path, path + "-wal"} {
		data, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		stored = append(stored, data...)
	}
	if !bytes.Contains(stored, r.Subject) || !strings.Contains(shown.String(), "made a P-256 key for the device, which is given with one answer and not kept") {
		t.Fatal("the test does not find what it looks for")
	}
	for _, key := range s.keys {
		d, err := key.(*ecdsa.PrivateKey).Bytes()
		if err != nil {
			t.Fatal(err)
		}
		for _, form := range []string{string(d), hex.EncodeToString(d), base64.StdEncoding.EncodeToString(d), fmt.Sprint(d)} {
			if strings.Contains(shown.String(), form) || bytes.Contains(stored, []byte(form)) {
				t.Error("the key stands in the log, the trail or the store")
			}
		}
	}
}

// Who asks again has not got it: another key is made, and the earlier certificate revoked. Nothing is judged or counted again.
func TestBareKeyAskedForAgain(t *testing.T) {
	judged := 0
	w := newWorld(t, backendtest.FaultPlan{}, countedOnce(&judged))
	var told []int
	w.twist(&twisted{revoke: func(ctx context.Context, q *backend.RevokeRequest) error {
		told = append(told, q.Reason)
		return w.memory.Revoke(ctx, q)
	}})
	s := &bareSeal{}
	r := w.bare("device-1", s)
	first := w.gets(r, s)
	var last *gateway.Result
	ids := []string{r.ID}
	for range 3 {
		w.clock.add(6 * time.Minute) // 18 in all: each delivery has its time
		again := w.again(r)
		again.Received = w.clock.now()
		last = w.gets(again, s)
		ids = append(ids, again.ID)
		if last.Transaction != again.ID || !last.Certificate.NotBefore.Equal(w.clock.now()) || last.Certificate.NotAfter.Sub(last.Certificate.NotBefore) != first.Certificate.NotAfter.Sub(first.Certificate.NotBefore) {
			t.Errorf("%s, valid from %s to %s at %s", last.Transaction, last.Certificate.NotBefore, last.Certificate.NotAfter, w.clock.now())
		}
		if !bytes.Equal(last.Certificate.RawSubject, first.Certificate.RawSubject) || w.used(r) != 1 || judged != 1 {
			t.Errorf("subject %s, %d uses, judged %d times", last.Certificate.Subject, w.used(r), judged)
		}
	}
	w.work(0)
	w.onlyValid(last.Transaction)
	if !slices.Equal(told, []int{4, 4, 4}) {
		t.Errorf("the CA was told %v", told)
	}
	// An operator sees it on both.
	before, after := w.explained(ids[0]), w.explained(ids[1])
	if !strings.Contains(before, "superseded: its key was asked for again, by transaction "+ids[1]) || !strings.Contains(before, "another key, in "+ids[1]) {
		t.Errorf("the earlier one: %s", before)
	}
	for _, want := range []string{"the first time", "key 2 of one enrollment: that of transaction " + ids[0] + " was asked for again", "made a P-256 key"} {
		if strings.Count(after, want) != 1 {
			t.Errorf("%q %d times in %s", want, strings.Count(after, want), after)
		}
	}
	if text := w.explained(ids[3]); strings.Count(text, "was asked for again") != 1 || !strings.Contains(text, "key 4 of one enrollment") || !strings.Contains(text, "did not keep") {
		t.Errorf("the last one: %s", text)
	}
	// After its time it is a request like any other.
	w.clock.add(10 * time.Minute)
	if _, err := w.gw.Enroll(t.Context(), w.again(r)); reason(err) != gateway.NotAuthorized || judged != 2 || w.used(r) != 1 {
		t.Errorf("%v, judged %d times", err, judged)
	}
	w.onlyValid(last.Transaction)
}

// Only who asked before is given another key, and only of what it asked for.
func TestBareKeyAskedForBySomebodyElse(t *testing.T) {
	judged := 0
	w := newWorld(t, backendtest.FaultPlan{}, countedOnce(&judged))
	s := &bareSeal{}
	r := w.bare("device-1", s)
	first := w.gets(r, s)
	for name, change := range map[string]func(*gateway.Request){
		"another password": func(r *gateway.Request) {
			r.Credentials = []gateway.Credential{{Kind: gateway.CredentialPassword, ID: "factory", Secret: gateway.Secret("wrong")}}
		},
		"another user": func(r *gateway.Request) {
			r.Credentials = []gateway.Credential{{Kind: gateway.CredentialPassword, ID: "other", Secret: gateway.Secret("secret")}}
		},
		"another kind of key": func(r *gateway.Request) {
			g := *r.KeyGen
			g.Algorithm = "P-256"
			r.KeyGen = &g
		},
		"a key that is kept": func(r *gateway.Request) {
			g := *r.KeyGen
			g.Wrap = gateway.WrapAsymmetric
			r.KeyGen = &g
		},
		"with a key of its own": func(r *gateway.Request) { r.KeyGen, r.PublicKey, r.POP = nil, []byte{1}, gateway.POPSignature },
	} {
		again := w.again(r)
		change(again)
		if res, err := w.gw.Enroll(t.Context(), again); err == nil || res != nil {
			t.Errorf("%s: %+v, %v", name, res, err)
		}
		w.onlyValid(first.Transaction)
	}
	// The device was disabled meanwhile: a stage that identifies says so.
	w.enroll[0] = password{"changed"}
	w.swap()
	if _, err := w.gw.Enroll(t.Context(), w.again(r)); reason(err) != gateway.Unauthenticated {
		t.Error(err)
	}
	w.onlyValid(first.Transaction)
	// And what an operator has revoked is not made again.
	w.enroll[0] = password{"secret"}
	w.swap()
	c := first.Certificate
	if _, _, err := w.gw.RevokeCertificate(t.Context(), c.RawIssuer, c.SerialNumber.Bytes(), 1, "alice", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := w.gw.Enroll(t.Context(), w.again(r)); reason(err) != gateway.NotAuthorized || w.used(r) != 1 {
		t.Error(err)
	}
}
