package gateway_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
)

// hangs has the upstream hold each message until it is let go, and then answer it.
func (w *passWorld) hangs(answer string) (came chan string, release func()) {
	came, gate := make(chan string, 64), make(chan struct{})
	w.up.exchange = func(_ string, message []byte) ([]byte, error) {
		came <- string(message)
		<-gate
		return []byte(answer), nil
	}
	return came, sync.OnceFunc(func() { close(gate) })
}

// One authority that hangs takes a part of the requests under way; who is turned away has claimed nothing.
func TestForwardHangs(t *testing.T) {
	w := newPassWorld(t, stage(func(r *gateway.Request, _ *gateway.Grant) gateway.Verdict {
		return gateway.Allowed("", gateway.Claim{Key: r.WireID, Limit: 1})
	}))
	w.opts.MaxInFlight = 8
	w.restart()
	came, release := w.hangs("wait")
	defer release()
	ask := func(message string) *gateway.Request {
		r := w.ask(message)
		r.Resume = nil
		return r
	}
	first, second := ask("one"), ask("two")
	var all sync.WaitGroup
	for _, r := range []*gateway.Request{first, second} {
		all.Go(func() {
			if _, err := w.gw.Enroll(t.Context(), r); err != nil {
				t.Errorf("%s: %v", r.Raw, err)
			}
		})
		<-came
	}
	third := ask("three")
	turnedAway(t, came, release, func() error { _, err := w.gw.Enroll(t.Context(), third); return err })
	if len(w.transactions()) != 2 {
		t.Errorf("%d transactions", len(w.transactions()))
	}
	release()
	all.Wait()
	var held string
	for _, r := range []*gateway.Request{third, ask("four"), ask("five")} { // its claim is not used, and the places are free again
		again := w.again(r)
		res, err := w.gw.Enroll(t.Context(), again)
		w.want(res, err, "wait")
		if r == third {
			held = again.ID
		}
	}
	// A later message takes a place, too.
	came, release = w.hangs("wait")
	defer release()
	for _, r := range []*gateway.Request{first, second} {
		all.Go(func() {
			if _, err := w.gw.Forward(t.Context(), r.ID, w.later(r, "poll")); err != nil {
				t.Error(err)
			}
		})
		<-came
	}
	turnedAway(t, came, release, func() error { _, err := w.gw.Forward(t.Context(), held, w.later(third, "poll")); return err })
	release()
	all.Wait()
}

// turnedAway has a request made that must be refused at once, while others hang.
func turnedAway(t *testing.T, came chan string, release func(), request func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- request() }()
	select {
	case err := <-done:
		if reason(err) != gateway.Busy {
			t.Error(err)
		}
	case m := <-came:
		release()
		t.Errorf("%s is passed on, too: %v", m, <-done)
	}
}

// The same message sixteen times at once is passed on once.
func TestForwardAtOnce(t *testing.T) {
	w := newPassWorld(t, always(gateway.Allowed("", gateway.Claim{Key: "device", Limit: 1})))
	r := w.ask("ir")
	w.cert("a", r)
	came, release := w.hangs("cert a")
	defer release()
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			res, err := w.gw.Enroll(t.Context(), w.again(r))
			if err != nil || string(res.Answer) != "cert a" {
				t.Errorf("%+v, %v", res, err)
			}
		})
	}
	<-came
	release()
	all.Wait()
	if len(w.up.asked) != 1 || len(w.transactions()) != 1 {
		t.Errorf("passed on %d times, %d transactions", len(w.up.asked), len(w.transactions()))
	}
}

// A new exchange does not take over while a message of the one before is under way: what answers that would be taken down as the
// new one's.
func TestForwardResumedMeanwhile(t *testing.T) {
	w := newPassWorld(t)
	w.opts.TwinWait = time.Nanosecond
	w.restart()
	r := w.ask("ir")
	w.cert("a", r)
	came, release := w.hangs("cert a")
	defer release()
	var all sync.WaitGroup
	all.Go(func() {
		res, err := w.gw.Enroll(t.Context(), r)
		if err != nil || string(res.Answer) != "cert a" {
			t.Errorf("%+v, %v", res, err)
		}
	})
	<-came
	anew := w.ask("ir anew")
	anew.PublicKey = r.PublicKey
	if _, err := w.gw.Enroll(t.Context(), anew); reason(err) != gateway.Unavailable {
		t.Errorf("while the first is under way: %v", err)
	}
	if tx := w.tx(r.ID); tx.WireID != r.WireID {
		t.Errorf("it goes on as %s", tx.WireID)
	}
	release()
	all.Wait()
	if tx := w.tx(r.ID); tx.WireID != r.WireID || (passing{message: "ir"}).Answered(tx.Exchange) == nil {
		t.Errorf("%s: %s", tx.WireID, tx.Exchange)
	}
	res, err := w.gw.Enroll(t.Context(), w.again(anew))
	w.want(res, err, "cert a")
	if tx := w.tx(r.ID); tx.WireID != anew.WireID || len(w.transactions()) != 1 {
		t.Errorf("%s, %d transactions", tx.WireID, len(w.transactions()))
	}
	// What belongs to the exchange before goes nowhere any more.
	if _, err := w.gw.Forward(t.Context(), r.ID, w.later(r, "certConf")); reason(err) != gateway.NotAuthorized || len(w.up.asked) != 2 {
		t.Errorf("%v, passed on %q", err, w.up.asked)
	}
}

// After a change of the configuration nobody is bound to what began before it.
func TestForwardReload(t *testing.T) {
	swap := func(w *passWorld, backends map[string]backend.Backend, last ...gateway.Stage) {
		t.Helper()
		err := w.gw.Swap(t.Context(), &gateway.Runtime{
			Endpoints: map[string]*gateway.Endpoint{"est": {
				Name: "est", Protocol: gateway.EST, Profile: &gateway.Profile{Name: "device", Backend: "ca", Validity: time.Hour},
				Pipelines: map[gateway.Operation]gateway.Pipeline{gateway.Enroll: append(gateway.Pipeline{password{"secret"}}, last...)},
			}},
			Backends: backends,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	w := newPassWorld(t)
	ca, first := described{w.ca, nil}, w.up
	anew := func(r *gateway.Request, message string) *gateway.Request {
		a := w.ask(message)
		a.PublicKey, a.Subject = r.PublicKey, r.Subject
		return a
	}
	r := w.ask("ir")
	w.cert("a", r)
	w.answers("wait")
	res, err := w.gw.Enroll(t.Context(), r)
	w.want(res, err, "wait")

	w.up = &upstream{}
	w.answers("wait")
	swap(w, map[string]backend.Backend{"ca": ca, "other": w.up}, forwards{"other"})
	res, err = w.gw.Enroll(t.Context(), anew(r, "to another"))
	w.want(res, err, "wait")
	if !slices.Equal(w.up.asked, []string{"to another"}) || len(first.asked) != 1 {
		t.Errorf("passed on %q, and %q", w.up.asked, first.asked)
	}
	// What stands open waits for its backend.
	if _, err := w.gw.Forward(t.Context(), r.ID, w.later(r, "poll")); reason(err) != gateway.Unavailable || w.state(r.ID) != gateway.StateForwarded {
		t.Errorf("%v", err)
	}

	swap(w, map[string]backend.Backend{"ca": ca})
	res, err = w.gw.Enroll(t.Context(), anew(r, "certified here"))
	if err != nil || res.Kind != gateway.ResultIssued {
		t.Errorf("%+v, %v", res, err)
	}
	local := w.ask("certified here, too")
	local.Resume = []byte("another wish")
	res, err = w.gw.Enroll(t.Context(), local)
	if err != nil || !res.Unconfirmed {
		t.Fatalf("%+v, %v", res, err)
	}
	w.answers("wait")
	swap(w, map[string]backend.Backend{"ca": ca, "up": w.up}, forwards{"up"})
	again := anew(local, "passed on again")
	again.Resume = local.Resume
	res, err = w.gw.Enroll(t.Context(), again)
	w.want(res, err, "wait")
	if s := w.state(local.ID); s != gateway.StateUnconfirmed {
		t.Error(s)
	}
}

// What came in a file waits to be confirmed for as long as files do.
func TestForwardFileWaits(t *testing.T) {
	w := newPassWorld(t)
	r := w.ask("ir")
	r.ConfirmWait = 14 * 24 * time.Hour
	w.cert("a", r)
	w.answers("cert a")
	res, err := w.gw.Enroll(t.Context(), r)
	w.want(res, err, "cert a")
	w.work(13 * 24 * time.Hour)
	if s := w.state(r.ID); s != gateway.StateForwarded {
		t.Errorf("%s after 13 days", s)
	}
	w.work(24 * time.Hour)
	if s := w.state(r.ID); s != gateway.StateRejected {
		t.Errorf("%s after 14 days", s)
	}
}

// A certificate whose successor the device has confirmed is known as such, however it was confirmed; and what is confirmed is
// resumed by nobody.
func TestForwardConfirmed(t *testing.T) {
	old := []byte{7}
	for answer, want := range map[string]int{"cert a": 1, "implicit a": 0} {
		w := newPassWorld(t, stage(func(_ *gateway.Request, g *gateway.Grant) gateway.Verdict {
			g.Replaces = &gateway.Replaced{Serial: old}
			return gateway.Allowed("")
		}))
		r := w.ask("kur")
		w.cert("a", r)
		w.answers(answer, "confirmed")
		res, err := w.gw.Enroll(t.Context(), r)
		w.want(res, err, answer)
		successors := func() int {
			list, err := w.store.Certificates(t.Context(), gateway.CertificateFilter{Renewed: old, Confirmed: true})
			if err != nil {
				t.Fatal(err)
			}
			return len(list)
		}
		if n := successors(); n != 0 {
			t.Errorf("%s: %d confirmed before anybody said so", answer, n)
		}
		if want == 0 {
			continue // as everywhere: nobody has said that it is there
		}
		res, err = w.gw.Forward(t.Context(), r.ID, w.later(r, "certConf"))
		w.want(res, err, "confirmed")
		if n := successors(); n != want {
			t.Errorf("%s: %d confirmed, want %d", answer, n, want)
		}
		w.answers("wait")
		next := w.ask("the next")
		res, err = w.gw.Enroll(t.Context(), next)
		w.want(res, err, "wait")
		if tx := w.tx(next.ID); tx.Resume == "" {
			t.Error("the next request of the kind cannot be resumed")
		}
	}
}

// An RA may have written the issuer in other string types: it is our certificate that is revoked.
func TestForwardRevocationSpelt(t *testing.T) {
	w := newPassWorld(t)
	r := w.ask("ir")
	w.cert("a", r)
	w.answers("implicit a", "revoked spelt")
	res, err := w.gw.Enroll(t.Context(), r)
	w.want(res, err, "implicit a")
	spelt := &x509.Certificate{RawIssuer: respelt(t, w.certs["a"].RawIssuer, asn1.TagUTF8String, same), SerialNumber: w.certs["a"].SerialNumber}
	w.certs["spelt"] = spelt
	rr := w.rr(spelt, "rr")
	rr.Raw, rr.Exchange, rr.Forwarding = []byte("rr"), []byte("{}"), passing{"rr", w.certs}
	res, err = w.gw.Revoke(t.Context(), rr)
	w.want(res, err, "revoked spelt")
	if !w.revoked(r.ID) {
		t.Error("the certificate is not revoked here")
	}
}

// A certificate of another CA is not revoked by the word of this one: its own would never hear of it.
func TestForwardRevocationOfAnothers(t *testing.T) {
	w := newPassWorld(t)
	w.enroll = gateway.Pipeline{password{"secret"}}
	w.put()
	r := w.ask("ir")
	r.Confirm = false
	cert := w.mustEnroll(r).Certificate
	w.certs["a"] = cert
	w.answers()
	rr := w.rr(cert, "rr")
	rr.Raw, rr.Exchange, rr.Forwarding = []byte("rr"), []byte("{}"), passing{"rr", w.certs}
	if _, err := w.gw.Revoke(t.Context(), rr); reason(err) != gateway.Unsupported || w.revoked(r.ID) || len(w.up.asked) != 0 {
		t.Errorf("%v, passed on %q", err, w.up.asked)
	}
}

// An authority may give the certificate again that the device has, and wait for certConf.
func TestForwardCertificateTwiceConfirmed(t *testing.T) {
	w := newPassWorld(t)
	r := w.ask("ir")
	w.cert("a", r)
	w.answers("implicit a", "cert a", "confirmed")
	res, err := w.gw.Enroll(t.Context(), r)
	w.want(res, err, "implicit a")
	anew := w.ask("ir anew")
	res, err = w.gw.Enroll(t.Context(), anew)
	w.want(res, err, "cert a")
	res, err = w.gw.Forward(t.Context(), anew.ID, w.later(anew, "certConf"))
	w.want(res, err, "confirmed")
	if tx, was := w.tx(anew.ID), w.tx(r.ID); tx.State != gateway.StateFailed || tx.Reason != gateway.DuplicateCert || was.State != gateway.StateIssued || was.Certificate == nil {
		t.Errorf("%s %s, the first %s", tx.State, tx.Reason, was.State)
	}
}

// Where an authority gives a device another one's certificate, what it gave before counts no more.
func TestForwardCertificateThenAnothers(t *testing.T) {
	w := newPassWorld(t)
	var revoked []*backend.RevokeRequest
	w.up.revokes = func(q *backend.RevokeRequest) error { revoked = append(revoked, q); return nil }
	w.put()
	others := w.ask("other")
	others.Credentials[0].ID, others.Resume = "somebody", nil
	w.cert("b", others)
	r := w.ask("ir")
	w.cert("a", r)
	w.answers("implicit b", "cert a", "cert b")
	res, err := w.gw.Enroll(t.Context(), others)
	w.want(res, err, "implicit b")
	res, err = w.gw.Enroll(t.Context(), r)
	w.want(res, err, "cert a")
	if _, err := w.gw.Forward(t.Context(), r.ID, w.later(r, "poll")); reason(err) != gateway.Internal {
		t.Errorf("given back: %v", err)
	}
	w.work(time.Second)
	if tx := w.tx(r.ID); tx.State != gateway.StateFailed || len(revoked) != 1 || !bytes.Equal(revoked[0].Serial, w.certs["a"].SerialNumber.Bytes()) {
		t.Errorf("%s, revoked %v", tx.State, revoked)
	}
	if w.state(others.ID) != gateway.StateIssued || w.revoked(others.ID) {
		t.Error("the other's is gone")
	}
}

// Who gave a certificate up, and lost the answer, gets that again, though the certificate is revoked by now.
func TestForwardGivenUpTwice(t *testing.T) {
	w := newPassWorld(t)
	w.up.revokes = func(*backend.RevokeRequest) error { return nil }
	w.put()
	r := w.ask("ir")
	w.cert("a", r)
	w.answers("cert a", "given-up")
	res, err := w.gw.Enroll(t.Context(), r)
	w.want(res, err, "cert a")
	for range 2 {
		res, err = w.gw.Forward(t.Context(), r.ID, w.later(r, "no thanks"))
		w.want(res, err, "given-up")
		w.work(time.Second)
		if !w.revoked(r.ID) {
			t.Error("not revoked")
		}
	}
}

// A device that an operator has revoked while a message was under way does not get its answer.
func TestForwardRevokedMeanwhile(t *testing.T) {
	w := newPassWorld(t)
	r := w.ask("ir")
	w.cert("a", r)
	w.answers("cert a")
	res, err := w.gw.Enroll(t.Context(), r)
	w.want(res, err, "cert a")
	w.up.exchange = func(string, []byte) ([]byte, error) {
		c := w.certs["a"]
		if _, _, err := w.gw.RevokeCertificate(context.Background(), c.RawIssuer, c.SerialNumber.Bytes(), 1, "operator", ""); err != nil {
			t.Error(err)
		}
		return []byte("confirmed"), nil
	}
	if _, err := w.gw.Forward(t.Context(), r.ID, w.later(r, "certConf")); reason(err) != gateway.Unavailable {
		t.Errorf("%v", err)
	}
	if s := w.state(r.ID); s != gateway.StateRejected || !w.revoked(r.ID) {
		t.Errorf("%s", s)
	}
}
