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
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// The key is made once, wherever the gateway dies: who asks again gets the same.
func TestKeyOverCrash(t *testing.T) {
	for _, point := range []string{gateway.CrashAfterIntent, gateway.CrashAfterIssue, gateway.CrashAfterSettle} {
		t.Run(point, func(t *testing.T) {
			crash := point
			w := newWorld(t, backendtest.FaultPlan{}, makes("P-256"), func(w *world) {
				w.opts.Crash = func(at string) {
					if at == crash {
						crash = ""
						panic("crash at " + at)
					}
				}
			})
			s := &sealing{}
			r := w.keygen("a", "", s)
			func() {
				defer func() {
					if recover() == nil {
						t.Fatal("the point was not passed")
					}
				}()
				w.gw.Enroll(t.Context(), r) //nolint:errcheck // it does not return
			}()
			w.restart()
			want, _ := (&sealing{}).seal(s.keys[0])
			if !bytes.Equal(w.sealedKey(r.ID), want) {
				t.Fatal("the store has no key")
			}
			w.work(time.Minute)
			// The same message, and the same wish in a new exchange.
			for _, again := range []*gateway.Request{w.again(r), w.keygen("b", "", s), w.keygen("c", "", s)} {
				res, err := w.gw.Enroll(t.Context(), again)
				if err != nil || res.Kind != gateway.ResultIssued || res.Transaction != r.ID || !bytes.Equal(res.Key, want) || !res.Certificate.PublicKey.(*ecdsa.PublicKey).Equal(s.keys[0].Public()) {
					t.Fatalf("%s: %+v, %v", again.WireID, res, err)
				}
			}
			if len(s.keys) != 1 || w.ca.Total() != 1 {
				t.Errorf("%d keys, %d certificates", len(s.keys), w.ca.Total())
			}
			// Another kind is another wish.
			res, err := w.gw.Enroll(t.Context(), w.keygen("d", "P-256", s))
			if err != nil || res.Transaction == r.ID || len(s.keys) != 2 || bytes.Equal(res.Key, want) {
				t.Errorf("%+v, %v", res, err)
			}
		})
	}
}

// What was sealed is erased with the end of its transaction.
func TestKeyErased(t *testing.T) {
	held := func(w *world) {
		w.enroll = append(w.enroll, stage(func(*gateway.Request, *gateway.Grant) gateway.Verdict {
			v := gateway.Held("look")
			v.Terms.Expires = time.Hour
			return v
		}))
	}
	refusing := func(w *world) {
		w.twist(&twisted{issue: func(context.Context, *backend.IssueRequest) (*backend.Issuance, error) {
			return nil, status.Error(codes.InvalidArgument, "no")
		}})
	}
	must := func(w *world, err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		change func(*world)
		before func(*world) // the request
		end    func(w *world, id string)
		want   gateway.State
	}{
		"confirmed":                        {end: func(w *world, id string) { _, err := w.confirm(id, true); must(w, err) }, want: gateway.StateIssued},
		"rejected":                         {end: func(w *world, id string) { _, err := w.confirm(id, false); must(w, err) }, want: gateway.StateRejected},
		"expired":                          {end: func(w *world, _ string) { w.work(5 * time.Minute) }, want: gateway.StateRejected},
		"kept":                             {change: func(w *world) { w.keep = true }, end: func(w *world, _ string) { w.work(5 * time.Minute) }, want: gateway.StateIssued},
		"denied":                           {change: held, end: func(w *world, id string) { _, err := w.gw.Deny(w.t.Context(), id, "alice", ""); must(w, err) }, want: gateway.StateDenied},
		"nobody approved":                  {change: held, end: func(w *world, _ string) { w.work(time.Hour) }, want: gateway.StateDenied},
		"refused by the CA, once approved": {change: held, before: refusing, end: func(w *world, id string) { _, err := w.approve(id, "alice"); must(w, err) }, want: gateway.StateFailed},
		"revoked": {end: func(w *world, id string) {
			tr, err := w.store.Transaction(w.t.Context(), id)
			must(w, err)
			_, _, err = w.gw.RevokeCertificate(w.t.Context(), tr.Certificate.Issuer, tr.Certificate.Serial, 1, "alice", "")
			must(w, err)
		}, want: gateway.StateRejected},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, backendtest.FaultPlan{}, makes("P-256"), func(w *world) {
				if c.change != nil {
					c.change(w)
				}
			})
			if c.before != nil {
				c.before(w)
			}
			r := w.keygen("a", "", &sealing{})
			w.mustEnroll(r)
			if len(w.sealedKey(r.ID)) == 0 {
				t.Fatal("it is not kept to begin with")
			}
			c.end(w, r.ID)
			if w.state(r.ID) != c.want || w.sealedKey(r.ID) != nil {
				t.Errorf("%s, key %x", w.state(r.ID), w.sealedKey(r.ID))
			}
		})
	}
}

// Once confirmed, the certificate is not given again without its key; another key is another request.
func TestKeyIsGivenUntilConfirmed(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, makes("P-256"))
	s := &sealing{}
	r := w.keygen("a", "", s)
	w.mustEnroll(r)
	if _, err := w.confirm(r.ID, true); err != nil {
		t.Fatal(err)
	}
	if res, err := w.gw.Enroll(t.Context(), w.again(r)); reason(err) != gateway.DuplicateCert || len(s.keys) != 1 {
		t.Errorf("%+v, %v", res, err)
	}
	if res := w.mustEnroll(w.keygen("b", "", s)); res.Transaction == r.ID || res.Key == nil || len(s.keys) != 2 {
		t.Errorf("%+v", res)
	}
}

// A key that nobody confirms is kept for as long as its answer is repeated.
func TestKeyWithoutConfirmation(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, makes("P-256"))
	s := &sealing{}
	r := w.keygen("", "", s)
	r.Confirm = false
	res := w.mustEnroll(r)
	if res.Unconfirmed || res.Key == nil || w.state(r.ID) != gateway.StateIssued {
		t.Fatalf("%+v", res)
	}
	before, err := w.store.Transaction(t.Context(), r.ID)
	if err != nil {
		t.Fatal(err)
	}
	w.work(10*time.Minute - time.Second)
	if again := w.mustEnroll(w.again(r)); !bytes.Equal(again.Key, res.Key) || !again.Repeated || len(s.keys) != 1 {
		t.Errorf("%+v", again)
	}
	w.restart()
	w.work(time.Second)
	after, err := w.store.Transaction(t.Context(), r.ID)
	if err != nil || after.SealedKey != nil {
		t.Fatalf("the key is kept: %x, %v", after.SealedKey, err)
	}
	before.SealedKey = nil
	if a, b := fmt.Sprintf("%+v", *after.Certificate), fmt.Sprintf("%+v", *before.Certificate); a != b || after.Note != before.Note || after.State != before.State || !after.Updated.Equal(before.Updated) {
		t.Errorf("more than the key has changed: %+v, %+v", before, after)
	}
	if n, err := w.gw.Work(t.Context()); n != 0 || err != nil {
		t.Errorf("work is left: %d, %v", n, err)
	}
	if again := w.mustEnroll(w.again(r)); again.Repeated || bytes.Equal(again.Key, res.Key) || len(s.keys) != 2 {
		t.Errorf("%+v", again)
	}
}

// A revoked certificate's key is erased, whatever waits for it.
func TestKeyOfRevoked(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, makes("P-256"))
	r := w.keygen("", "", &sealing{})
	r.Confirm = false
	w.mustEnroll(r)
	tr, err := w.store.Transaction(t.Context(), r.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, done, err := w.gw.RevokeCertificate(t.Context(), tr.Certificate.Issuer, tr.Certificate.Serial, 1, "alice", ""); err != nil || done != gateway.ToldCA {
		t.Fatal(done, err)
	}
	if w.sealedKey(r.ID) != nil || w.state(r.ID) != gateway.StateIssued {
		t.Errorf("%s, %x", w.state(r.ID), w.sealedKey(r.ID))
	}
	w.clock.add(time.Hour)
	if n, err := w.gw.Work(t.Context()); n != 0 || err != nil {
		t.Errorf("work is left: %d, %v", n, err)
	}
}

// The key of a request that is held is made when it is held, and given when it is approved.
func TestKeyOfHeld(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, holding(1), func(w *world) { w.enroll = append(w.enroll, making("P-256")) })
	s := &sealing{}
	r := w.keygen("a", "", s)
	res := w.mustEnroll(r)
	sealed := w.sealedKey(r.ID)
	if res.Kind != gateway.ResultPending || res.Key != nil || len(s.keys) != 1 || len(sealed) == 0 {
		t.Fatalf("%+v, %d keys", res, len(s.keys))
	}
	w.restart()
	if again := w.mustEnroll(w.again(r)); again.Kind != gateway.ResultPending || again.Key != nil {
		t.Errorf("while it is held: %+v", again)
	}
	if _, err := w.approve(r.ID, "alice"); err != nil {
		t.Fatal(err)
	}
	asked := w.again(r)
	asked.Credentials = []gateway.Credential{{Kind: gateway.CredentialMAC, ID: "1"}}
	if _, err := w.gw.Poll(t.Context(), asked); reason(err) != gateway.UnknownCert {
		t.Errorf("somebody else: %v", err)
	}
	got := w.mustEnroll(w.again(r))
	if got.Kind != gateway.ResultIssued || !bytes.Equal(got.Key, sealed) || len(s.keys) != 1 || !got.Certificate.PublicKey.(*ecdsa.PublicKey).Equal(s.keys[0].Public()) {
		t.Errorf("%+v, %d keys", got, len(s.keys))
	}
}

// Its own requester polls for it, too.
func TestKeyByPoll(t *testing.T) {
	lost := true
	w := newWorld(t, backendtest.FaultPlan{}, makes("P-256"), func(w *world) {
		w.enroll = gateway.Pipeline{stage(func(r *gateway.Request, g *gateway.Grant) gateway.Verdict {
			g.Authenticate(r.Credentials[0])
			return gateway.Allowed("")
		}), making("P-256")}
	})
	w.twist(&twisted{issue: lostOnce(w, &lost)})
	r := w.keygen("a", "", &sealing{})
	r.Credentials = []gateway.Credential{{Kind: gateway.CredentialMAC, ID: "1"}}
	if res := w.mustEnroll(r); res.Kind != gateway.ResultPending || res.Key != nil {
		t.Fatalf("%+v", res)
	}
	w.work(time.Minute)
	res, err := w.gw.Poll(t.Context(), w.again(r))
	if err != nil || res.Kind != gateway.ResultIssued || len(res.Key) == 0 || !bytes.Equal(res.Key, w.sealedKey(r.ID)) {
		t.Errorf("%+v, %v", res, err)
	}
}

// The key itself stands nowhere: not in the log, not in the store, not where the trail is shown; and what was sealed is not shown.
func TestKeyIsKeptNowhere(t *testing.T) {
	var logs bytes.Buffer
	w := newWorld(t, backendtest.FaultPlan{}, makes("P-256"), func(w *world) { w.logs = &logs })
	s := &sealing{}
	r := w.keygen("a", "", s)
	w.mustEnroll(r)
	s.fail = func(key crypto.Signer) ([]byte, error) { panic(fmt.Sprintf("%+v", key)) }
	failing := w.keygen("b", "P-256", s)
	if _, err := w.gw.Enroll(t.Context(), failing); reason(err) != gateway.Internal {
		t.Fatal(err)
	}
	if len(s.keys) != 2 {
		t.Fatalf("%d keys", len(s.keys))
	}
	var shown strings.Builder
	shown.Write(logs.Bytes())
	for _, id := range []string{r.ID, failing.ID} {
		tr, err := w.gw.Explain(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&shown, "%+v %+v", tr.Verdicts, tr.Note)
	}
	sealed := string(w.sealedKey(r.ID))
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
	if !bytes.Contains(stored, []byte(sealed)) {
		t.Fatal("the test does not find what it looks for")
	}
	for _, key := range s.keys {
		d, err := key.(*ecdsa.PrivateKey).Bytes()
		if err != nil {
			t.Fatal(err)
		}
		for _, form := range []string{string(d), hex.EncodeToString(d), base64.StdEncoding.EncodeToString(d), new(big.Int).SetBytes(d).String()} {
			if strings.Contains(shown.String(), form) || bytes.Contains(stored, []byte(form)) {
				t.Error("the key stands in the log, the trail or the store")
			}
		}
	}
	if strings.Contains(shown.String(), sealed[7:]) || strings.Contains(shown.String(), hex.EncodeToString([]byte(sealed[7:]))) {
		t.Error("what was sealed is shown")
	}
}
