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

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// bareSeal is an adapter's Seal of a key that travels as it is.
type bareSeal struct {
	mu   sync.Mutex
	keys []crypto.Signer
	err  error
}

func (s *bareSeal) seal(key crypto.Signer) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys = append(s.keys, key)
	d, err := key.(*ecdsa.PrivateKey).Bytes()
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

// dies runs what passes the crash point, and starts anew.
func (w *world) dies(crash *string, at string, do func()) {
	w.t.Helper()
	*crash = at
	func() {
		defer func() {
			if recover() == nil {
				w.t.Fatalf("%s was not passed", at)
			}
		}()
		do()
	}()
	w.restart()
}

func crashing(crash *string) func(*world) {
	return func(w *world) {
		w.opts.Crash = func(at string) {
			if at == *crash {
				*crash = ""
				panic("crash at " + at)
			}
		}
	}
}

// Wherever the gateway dies, over the first key or another: who asks again gets a key in the end, with the one certificate that
// is valid, and is counted once.
func TestBareKeyOverCrash(t *testing.T) {
	for _, point := range gateway.CrashPoints {
		for _, deliveries := range []int{0, 1, 2} {
			t.Run(fmt.Sprint(point, " ", deliveries), func(t *testing.T) {
				crash, judged := "", 0
				w := newWorld(t, backendtest.FaultPlan{}, countedOnce(&judged), crashing(&crash))
				s := &bareSeal{}
				r := w.bare("device-1", s)
				for range deliveries {
					w.gets(w.again(r), s)
				}
				w.dies(&crash, point, func() { w.gw.Enroll(t.Context(), w.again(r)) }) //nolint:errcheck // it does not return
				if point == gateway.CrashAfterIntent || point == gateway.CrashAfterIssue {
					made := len(s.keys)
					if res := w.mustEnroll(w.again(r)); res.Kind != gateway.ResultPending || res.Key != nil || res.RetryAfter == 0 || len(s.keys) != made {
						t.Errorf("while nobody knows: %+v, %d keys", res, len(s.keys)-made)
					}
				}
				w.work(time.Minute)
				last := w.gets(w.again(r), s)
				w.work(0)
				w.onlyValid(last.Transaction)
				if w.used(r) != 1 {
					t.Errorf("%d uses", w.used(r))
				}
			})
		}
	}
}

// Where the CA's answer is not known the key is gone: pending, and another one once it is.
func TestBareKeyOfUnknownOutcome(t *testing.T) {
	judged, lost := 0, true
	w := newWorld(t, backendtest.FaultPlan{}, countedOnce(&judged))
	w.twist(&twisted{issue: lostOnce(w, &lost)})
	s := &bareSeal{}
	r := w.bare("device-1", s)
	for range 2 {
		if res := w.mustEnroll(w.again(r)); res.Kind != gateway.ResultPending || res.Key != nil || len(s.keys) != 1 {
			t.Fatalf("%+v, %d keys", res, len(s.keys))
		}
	}
	w.work(time.Minute)
	first := w.transactions()[0]
	if first.State != gateway.StateIssued || !strings.Contains(first.Note, "with a key that is gone") {
		t.Errorf("%+v", first)
	}
	last := w.gets(w.again(r), s)
	w.work(0)
	w.onlyValid(last.Transaction)
	if len(s.keys) != 2 || w.used(r) != 1 {
		t.Errorf("%d keys, %d uses", len(s.keys), w.used(r))
	}
}

// noticed is a password that says when it is asked for.
type noticed struct {
	password
	asked chan struct{}
}

func (n noticed) Decide(ctx context.Context, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	n.asked <- struct{}{}
	return n.password.Decide(ctx, r, g)
}

// Of several copies of a request that are under way at once one has the key; the others come back, and the last one's counts.
func TestBareKeyAskedForAtOnce(t *testing.T) {
	judged := 0
	asked := make(chan struct{}, 100)
	w := newWorld(t, backendtest.FaultPlan{}, countedOnce(&judged), func(w *world) { w.enroll[0] = noticed{password{"secret"}, asked} })
	s := &bareSeal{}
	r := w.bare("device-1", s)
	// The CA takes its time with the first; the second has found that, and waits.
	began, goOn := make(chan struct{}), make(chan struct{})
	w.twist(&twisted{issue: func(ctx context.Context, q *backend.IssueRequest) (*backend.Issuance, error) {
		close(began)
		<-goOn
		return w.memory.Issue(ctx, q)
	}})
	var wg sync.WaitGroup
	results := make([]*gateway.Result, 2)
	ask := func(i int) {
		res, err := w.gw.Enroll(t.Context(), w.again(r))
		if results[i] = res; err != nil {
			t.Error(err)
		}
	}
	over := make(chan struct{})
	wg.Go(func() { defer close(over); ask(0) })
	select {
	case <-began:
	case <-over:
		t.Fatalf("the CA was not asked: %+v", results[0])
	}
	<-asked
	wg.Go(func() { ask(1) })
	<-asked
	close(goOn)
	wg.Wait()
	if results[0].Kind != gateway.ResultIssued || results[0].Key == nil || results[1].Kind != gateway.ResultPending || results[1].Key != nil || len(s.keys) != 1 {
		t.Fatalf("the first %+v, the second %+v", results[0], results[1])
	}
	w.onlyValid(results[0].Transaction)
	w.twist(&twisted{})
	// All at once, of what has been given.
	for range 2 { // in the worst case each of four gets a key
		errs := make([]error, 4)
		given := make([]*gateway.Result, 4)
		for i := range given {
			again := w.again(r)
			wg.Go(func() { given[i], errs[i] = w.gw.Enroll(t.Context(), again) })
		}
		wg.Wait()
		last := ""
		for i, res := range given {
			if errs[i] != nil || (res.Kind == gateway.ResultIssued) != (res.Key != nil) {
				t.Fatalf("%+v, %v", res, errs[i])
			}
			if res.Kind == gateway.ResultIssued && !w.revoked(res.Transaction) {
				if last != "" {
					t.Error("two certificates are valid")
				}
				last = res.Transaction
			}
		}
		w.work(0)
		w.onlyValid(last)
	}
	if w.used(r) != 1 {
		t.Errorf("%d uses", w.used(r))
	}
}

// What the CA refuses gives back what the first key was counted for; its certificate is revoked.
func TestBareKeyRefusedAgain(t *testing.T) {
	judged := 0
	w := newWorld(t, backendtest.FaultPlan{}, countedOnce(&judged))
	s := &bareSeal{}
	r := w.bare("device-1", s)
	first := w.gets(r, s)
	w.twist(&twisted{issue: func(context.Context, *backend.IssueRequest) (*backend.Issuance, error) {
		return nil, status.Error(codes.InvalidArgument, "no")
	}})
	again := w.again(r)
	if _, err := w.gw.Enroll(t.Context(), again); reason(err) != gateway.BadTemplate || w.state(again.ID) != gateway.StateFailed {
		t.Errorf("%v, %s", err, w.state(again.ID))
	}
	w.work(0)
	if !w.revoked(first.Transaction) || !w.memory.Revoked(first.Transaction) || w.used(r) != 0 {
		t.Errorf("revoked %t, %d uses", w.revoked(first.Transaction), w.used(r))
	}
	w.twist(&twisted{})
	last := w.gets(w.again(r), s)
	w.onlyValid(last.Transaction)
	if judged != 2 || w.used(r) != 1 {
		t.Errorf("judged %d times, %d uses", judged, w.used(r))
	}
}

// However often somebody asks: an enrollment costs ten keys.
func TestBareKeyTooOften(t *testing.T) {
	judged := 0
	w := newWorld(t, backendtest.FaultPlan{}, countedOnce(&judged))
	s := &bareSeal{}
	r := w.bare("device-1", s)
	var last *gateway.Result
	for range 10 {
		last = w.gets(w.again(r), s)
	}
	again := w.again(r)
	if _, err := w.gw.Enroll(t.Context(), again); reason(err) != gateway.NotAuthorized || len(s.keys) != 10 {
		t.Errorf("%v, %d keys", err, len(s.keys))
	}
	if text := w.explained(again.ID); w.state(again.ID) != gateway.StateRefused || !strings.Contains(text, "10 keys were made for one enrollment") {
		t.Errorf("%s: %s", w.state(again.ID), text)
	}
	w.work(0)
	w.onlyValid(last.Transaction)
}

// What cannot be superseded is not given as it is.
func TestBareKeyWithoutRevocation(t *testing.T) {
	judged, revokes := 0, false
	w := newWorld(t, backendtest.FaultPlan{}, countedOnce(&judged), func(w *world) {
		w.desc = func(d *backend.Description) {
			if !revokes {
				d.Capabilities = slices.DeleteFunc(slices.Clone(d.Capabilities), func(c backend.Capability) bool { return c == backend.CapRevoke })
			}
		}
	})
	s := &bareSeal{}
	r := w.bare("device-1", s)
	if _, err := w.gw.Enroll(t.Context(), r); reason(err) != gateway.Unsupported || len(s.keys) != 0 || w.state(r.ID) != gateway.StateRefused {
		t.Errorf("%v, %d keys", err, len(s.keys))
	}
	revokes = true
	w.swap()
	first := w.gets(w.again(r), s)
	revokes = false
	w.swap()
	if _, err := w.gw.Enroll(t.Context(), w.again(r)); reason(err) != gateway.DuplicateCert || len(s.keys) != 1 {
		t.Errorf("%v, %d keys", err, len(s.keys))
	}
	w.onlyValid(first.Transaction)
}

// What was allowed is made again only while it would be issued: the device counts still, the profile is the same CA's.
func TestBareKeyStands(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, func(w *world) {
		w.enroll = gateway.Pipeline{password{"secret"}, stage(func(r *gateway.Request, g *gateway.Grant) gateway.Verdict {
			d, err := w.store.Device(w.t.Context(), "name", "station-1")
			if err != nil {
				return gateway.Unanswered(err)
			}
			g.Inventory = d
			return gateway.Allowed("")
		}), making("P-256")}
	})
	w.enter(gateway.Device{Name: "station-1"})
	s := &bareSeal{}
	r := w.bare("device-1", s)
	first := w.gets(r, s)
	for name, c := range map[string]struct{ change, back func() }{
		"disabled": {func() { w.enter(gateway.Device{Name: "station-1", Disabled: true}) }, func() { w.enter(gateway.Device{Name: "station-1"}) }},
		"another CA of that backend": {
			func() { w.shape = func(p *gateway.Profile) { p.Issuer = "other" }; w.swap() }, func() { w.shape = nil; w.swap() },
		},
	} {
		c.change()
		again := w.again(r)
		if _, err := w.gw.Enroll(t.Context(), again); reason(err) != gateway.NotAuthorized || strings.Contains(gateway.AsError(err).Detail, "station-1") {
			t.Errorf("%s: %v", name, err)
		}
		if tx, err := w.store.Transaction(t.Context(), again.ID); err != nil || tx.State != gateway.StateRefused || tx.Requester != "password:factory" {
			t.Errorf("%s: %+v, %v", name, tx, err)
		}
		w.onlyValid(first.Transaction)
		c.back()
	}
	last := w.gets(w.again(r), s)
	w.work(0)
	w.onlyValid(last.Transaction)
}

// A key that cannot be made as it travels leaves what was given before.
func TestBareKeyNotSealed(t *testing.T) {
	judged := 0
	w := newWorld(t, backendtest.FaultPlan{}, countedOnce(&judged))
	s := &bareSeal{}
	r := w.bare("device-1", s)
	first := w.gets(r, s)
	s.err = errors.New("no")
	if _, err := w.gw.Enroll(t.Context(), w.again(r)); reason(err) != gateway.Internal {
		t.Error(err)
	}
	w.onlyValid(first.Transaction)
	if confirmed := w.exchange(w.bare("device-2", &bareSeal{}), "wire"); true {
		if _, err := w.gw.Enroll(t.Context(), confirmed); reason(err) != gateway.Unsupported {
			t.Errorf("in an exchange that confirms: %v", err)
		}
	}
}

// A CA that takes PKCS#10 only gets one signed with each key.
func TestBareKeyForCSR(t *testing.T) {
	judged := 0
	w := newWorld(t, backendtest.FaultPlan{}, countedOnce(&judged), func(w *world) {
		w.desc = func(d *backend.Description) { d.Forms = []backend.Form{backend.FormPKCS10} }
	})
	s := &bareSeal{}
	r := w.bare("device-1", s)
	for range 2 {
		res := w.gets(w.again(r), s)
		tx, err := w.store.Transaction(t.Context(), res.Transaction)
		if err != nil {
			t.Fatal(err)
		}
		csr, err := pkix.ParseCSR(tx.Intent.CSR)
		if err != nil || csr.CheckSignature() != nil || !bytes.Equal(csr.PublicKey, res.Certificate.RawSubjectPublicKeyInfo) || !bytes.Equal(csr.Subject, res.Certificate.RawSubject) {
			t.Errorf("%+v, %v", csr, err)
		}
	}
}

// The store fails when another key is recorded, before it or on its way back: the client is told to come back, and gets one.
func TestStoreFailsADelivery(t *testing.T) {
	for _, lost := range []bool{false, true} {
		judged, s := 0, &watched{}
		w := newWorld(t, backendtest.FaultPlan{}, countedOnce(&judged), watch(s))
		seal := &bareSeal{}
		r := w.bare("device-1", seal)
		first := w.gets(r, seal)
		f := &failing{call: "Supersede", nth: 1, lost: lost}
		s.fails = f.fails
		if _, err := w.gw.Enroll(t.Context(), w.again(r)); reason(err) != gateway.Unavailable || !f.hit {
			t.Fatalf("%v, failed %t", err, f.hit)
		}
		s.fails = nil
		if w.revoked(first.Transaction) != lost {
			t.Errorf("lost %t: revoked %t", lost, w.revoked(first.Transaction))
		}
		w.work(time.Minute)
		last := w.gets(w.again(r), seal)
		w.work(0)
		w.onlyValid(last.Transaction)
		if w.used(r) != 1 {
			t.Errorf("%d uses", w.used(r))
		}
	}
}

// Two replicas on one database: whoever asks at both has one valid certificate, the one of the last answer.
func TestBareKeyAtTwoReplicas(t *testing.T) {
	c := pgtest.Start(t, pgtest.Volatile)
	one, two := replicas(t, c, backendtest.FaultPlan{}, backend.IdempotencyNative)
	judged := 0
	countedOnce(&judged)(one)
	two.enroll = one.enroll
	one.swap()
	two.swap()
	s := &bareSeal{}
	r := one.bare("device-1", s)
	first := one.gets(r, s)
	if second := two.gets(two.again(r), s); !two.revoked(first.Transaction) || one.revoked(second.Transaction) {
		t.Error("the second replica does not supersede the first one's")
	}
	var wg sync.WaitGroup
	given, errs := make([]*gateway.Result, 8), make([]error, 8)
	for i := range given {
		w := []*world{one, two}[i%2]
		again := w.again(r)
		wg.Go(func() { given[i], errs[i] = w.gw.Enroll(t.Context(), again) })
	}
	wg.Wait()
	last := ""
	for i, res := range given {
		if errs[i] != nil {
			t.Fatal(errs[i])
		}
		if res.Kind == gateway.ResultIssued && !one.revoked(res.Transaction) {
			if last != "" {
				t.Error("two certificates are valid")
			}
			last = res.Transaction
		}
	}
	one.work(0)
	two.work(0)
	one.onlyValid(last)
	if one.used(r) != 1 {
		t.Errorf("%d uses", one.used(r))
	}
}
