package gateway_test

import (
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// counted is a gateway that counts two certificates per hour, and one valid one.
func counted(t *testing.T, plan backendtest.FaultPlan, change ...func(*world)) *world {
	return newWorld(t, plan, append([]func(*world){func(made *world) {
		made.enroll = gateway.Pipeline{password{"secret"}, stage(func(r *gateway.Request, g *gateway.Grant) gateway.Verdict {
			if r.OldCert != nil {
				g.Replaces = &gateway.Replaced{Issuer: r.OldCert.RawIssuer, Serial: r.OldCert.SerialNumber.Bytes()}
			}
			return gateway.Allowed("counts",
				gateway.Claim{Key: "issued", Limit: 2, Until: made.clock.now().Add(time.Hour), Lost: "two an hour", Reason: gateway.Busy, Detail: "too many"},
				gateway.Claim{Key: "active", Limit: 1, Active: true, Lost: "one at a time", Reason: gateway.NotAuthorized, Detail: "too many are valid"})
		})}
	}}, change...)...)
}

// issue enrols, in the place of a certificate where one is given.
func (w *world) issue(name string, old *x509.Certificate) (*gateway.Result, error) {
	r := w.request(name)
	r.OldCert = old
	return w.gw.Enroll(w.t.Context(), r)
}

// wantLost fails unless a request was refused for the reason, with all of the words in the operator's note.
func (w *world) wantLost(err error, reason gateway.Reason, words ...string) *gateway.Error {
	w.t.Helper()
	var e *gateway.Error
	if !errors.As(err, &e) || e.Reason != reason {
		w.t.Fatalf("%v, want %s", err, reason)
	}
	tr, err := w.gw.Explain(w.t.Context(), e.Transaction)
	if err != nil {
		w.t.Fatal(err)
	}
	last := tr.Verdicts[len(tr.Verdicts)-1]
	for _, word := range words {
		if !strings.Contains(tr.Note, word) || !strings.Contains(last.Note, word) || last.Stage != "test" {
			w.t.Errorf("%q, %+v: no %q", tr.Note, last, word)
		}
	}
	return e
}

func TestLimitReached(t *testing.T) {
	w := counted(t, backendtest.FaultPlan{})
	first, err := w.issue("a", nil)
	if err != nil {
		t.Fatal(err)
	}
	// As many as may be are valid, until the first of them ends.
	ends := first.Certificate.NotAfter.UTC().Format(time.RFC3339)
	e := w.wantLost(func() error { _, err := w.issue("a", nil); return err }(), gateway.NotAuthorized, "one at a time: 1 of 1, until "+ends)
	if e.Detail != "too many are valid" || e.RetryAfter != 0 {
		t.Errorf("%+v", e)
	}
	// A renewal takes the certificate's place, and then there are two within the hour.
	second, err := w.issue("a", first.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	w.clock.add(20 * time.Minute)
	_, err = w.issue("a", second.Certificate)
	e = w.wantLost(err, gateway.Busy, "two an hour: 2 of 2, until "+w.clock.now().Add(40*time.Minute).UTC().Format(time.RFC3339))
	if e.RetryAfter < 40*time.Minute || e.RetryAfter > 41*time.Minute || e.RetryAfter%time.Second != 0 || e.Detail != "too many, try again in "+e.RetryAfter.String() {
		t.Errorf("retry after %v: %s", e.RetryAfter, e.Detail)
	}
	w.clock.add(e.RetryAfter)
	third, err := w.issue("a", second.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	// The same request again, and the answer to it, count nothing.
	r := w.request("b")
	r.OldCert = third.Certificate
	w.clock.add(time.Hour)
	if _, err := w.gw.Enroll(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if res, err := w.gw.Enroll(t.Context(), w.again(r)); err != nil || !res.Repeated {
			t.Errorf("repeat: %+v, %v", res, err)
		}
	}
	w.wantUses(map[string]int64{"issued": 1, "active": 1})
	// What ends counts no more.
	w.clock.add(73 * time.Hour)
	if _, err := w.issue("c", nil); err != nil {
		t.Error(err)
	}
}

func (w *world) wantUses(want map[string]int64) {
	w.t.Helper()
	got, err := w.store.Uses(w.t.Context(), []string{"issued", "active"})
	if err != nil {
		w.t.Fatal(err)
	}
	for key := range map[string]bool{"issued": true, "active": true} {
		if got[key] != want[key] {
			w.t.Errorf("%d uses of %s, want %d", got[key], key, want[key])
		}
	}
}

// When a limit was refused, not all come back in one second, and nobody later than a day.
func TestLimitSpread(t *testing.T) {
	w := counted(t, backendtest.FaultPlan{})
	seen := map[time.Duration]bool{}
	res, err := w.issue("a", nil)
	if err == nil {
		res, err = w.issue("a", res.Certificate)
	}
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		_, err := w.issue("a", res.Certificate)
		seen[w.wantLost(err, gateway.Busy).RetryAfter] = true
	}
	if len(seen) < 5 {
		t.Errorf("20 of them come back at %v", seen)
	}
}

// What was not issued does not count, and what was to be renewed counts again.
func TestLimitGivenBack(t *testing.T) {
	w := counted(t, backendtest.FaultPlan{})
	first, err := w.issue("a", nil)
	if err != nil {
		t.Fatal(err)
	}
	r := w.exchange(w.request("a"), "77")
	r.OldCert = first.Certificate
	w.mustEnroll(r)
	w.wantUses(map[string]int64{"issued": 2, "active": 1})
	if _, err := w.confirm(r.ID, false); err != nil {
		t.Fatal(err)
	}
	// But that it was issued: whoever rejects each of his would have the CA issue as fast as he can ask.
	w.wantUses(map[string]int64{"issued": 2, "active": 1})
	w.wantLost(func() error { _, err := w.issue("a", first.Certificate); return err }(), gateway.Busy)
	w.clock.add(time.Hour)
	w.wantLost(func() error { _, err := w.issue("b", nil); return err }(), gateway.NotAuthorized)
	// Never confirmed, likewise.
	r = w.exchange(w.request("a"), "78")
	r.OldCert = first.Certificate
	w.mustEnroll(r)
	w.work(6 * time.Minute)
	if s := w.state(r.ID); s != gateway.StateRejected {
		t.Errorf("state %s", s)
	}
	w.wantUses(map[string]int64{"issued": 1, "active": 1})
	// Revoked, it is over with the certificate; that it was issued stands.
	if _, _, err := w.gw.RevokeCertificate(t.Context(), first.Certificate.RawIssuer, first.Certificate.SerialNumber.Bytes(), 1, "anna", ""); err != nil {
		t.Fatal(err)
	}
	w.wantUses(map[string]int64{"issued": 1})
	if _, err := w.issue("b", nil); err != nil {
		t.Error(err)
	}
}

// A held request counts until the latest end that it may have, and from its approval on until its own.
func TestLimitHeld(t *testing.T) {
	w := counted(t, backendtest.FaultPlan{}, func(w *world) {
		w.enroll = append(w.enroll, stage(func(*gateway.Request, *gateway.Grant) gateway.Verdict {
			v := gateway.Held("wait")
			v.Terms.Expires = 100 * time.Hour
			return v
		}))
	})
	r := w.request("a")
	if _, err := w.gw.Enroll(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	w.clock.add(99 * time.Hour) // its dates as they were asked have passed
	w.wantUses(map[string]int64{"active": 1})
	tr, err := w.approve(r.ID, "anna")
	if err != nil || tr.Certificate == nil {
		t.Fatalf("%+v, %v", tr, err)
	}
	w.clock.add(tr.Certificate.NotAfter.Sub(w.clock.now()) - time.Second)
	w.wantUses(map[string]int64{"active": 1})
	w.clock.add(time.Second)
	w.wantUses(nil)
}

// Certificates end earlier by a part that only the request decides.
func TestJitter(t *testing.T) {
	const jitter = 10 * time.Hour
	w := newWorld(t, backendtest.FaultPlan{}, func(w *world) { w.shape = func(p *gateway.Profile) { p.Jitter, p.Backdate = jitter, time.Hour } })
	full := w.clock.now().Add(72*time.Hour - time.Second)
	seen := map[time.Duration]bool{}
	for range 20 {
		r := w.request("a")
		res, err := w.gw.Enroll(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		early := full.Sub(res.Certificate.NotAfter)
		if early < 0 || early > jitter {
			t.Errorf("ends %v early", early)
		}
		seen[early] = true
		again, err := w.gw.Enroll(t.Context(), w.again(r))
		if err != nil || !again.Certificate.Equal(res.Certificate) {
			t.Errorf("a repeat: %v", err)
		}
		tr, err := w.gw.Explain(t.Context(), r.ID)
		if err != nil {
			t.Fatal(err)
		}
		if last := tr.Verdicts[len(tr.Verdicts)-1]; early > 0 && (last.Stage != "profile" || !strings.Contains(last.Note, early.String()+" before its validity does, by jitter")) {
			t.Errorf("%v early: %+v", early, last)
		}
	}
	if len(seen) < 15 {
		t.Errorf("20 end at %d times", len(seen))
	}
}

// What waits for approval keeps its part of the jitter: dates begin anew, no other end is drawn.
func TestJitterHeld(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, func(w *world) {
		w.shape = func(p *gateway.Profile) { p.Jitter = 30 * time.Hour }
		w.enroll = append(w.enroll, always(gateway.Held("wait")))
	})
	for range 3 {
		r := w.request("a")
		if _, err := w.gw.Enroll(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		held, err := w.gw.Explain(t.Context(), r.ID)
		if err != nil {
			t.Fatal(err)
		}
		w.clock.add(5 * time.Hour)
		tr, err := w.approve(r.ID, "anna")
		if err != nil {
			t.Fatal(err)
		}
		if want := held.Intent.Template.NotAfter.Add(5 * time.Hour); held.Hold.Fixed || !tr.Certificate.NotAfter.Equal(want) {
			t.Errorf("ends %s, want %s (fixed: %t)", tr.Certificate.NotAfter, want, held.Hold.Fixed)
		}
	}
}

// Who has used up his limits takes no turn at a CA that has a rate: others get it.
func TestLimitTakesNoTurn(t *testing.T) {
	w := counted(t, backendtest.FaultPlan{}, paced(gateway.Rate{Every: time.Hour, Burst: 3}))
	first, err := w.issue("a", nil)
	if err != nil {
		t.Fatal(err)
	}
	w.clock.add(2 * time.Hour)
	for range 10 {
		_, err := w.issue("a", nil)
		w.wantLost(err, gateway.NotAuthorized)
	}
	for _, name := range []string{"b", "c"} { // a renewal takes the certificate's place, though none is left
		r := w.request(name)
		r.OldCert = first.Certificate
		res, err := w.gw.Enroll(t.Context(), r)
		if err != nil {
			t.Fatalf("%s found no turn: %v", name, err)
		}
		first = res
		for range 10 { // nor does another renewal of the same certificate
			_, err := w.issue("d", r.OldCert)
			if e := gateway.AsError(err); e.Reason != gateway.NotAuthorized && e.Reason != gateway.Busy || strings.Contains(e.Detail, "the CA") {
				t.Fatal(err)
			}
		}
	}
	// It does take turns: there were three.
	w.clock.add(59 * time.Minute)
	if total := w.ca.Total(); total != 3 {
		t.Errorf("%d certificates", total)
	}
}

// A request that people have to approve counts for nobody where it is not known who sent it: a stranger knows a device's name.
func TestLimitOfStrangers(t *testing.T) {
	claims := []gateway.Claim{
		{Key: "issued", Limit: 1, Until: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), Reason: gateway.Busy}, {Key: "active", Limit: 1, Active: true}, {Key: "once", Limit: 9},
	}
	w := newWorld(t, backendtest.FaultPlan{}, func(w *world) {
		w.enroll = gateway.Pipeline{stage(func(r *gateway.Request, g *gateway.Grant) gateway.Verdict {
			if len(r.Credentials) > 1 {
				g.Authenticate(r.Credentials[0])
			}
			return gateway.Held("wait", claims...)
		})}
	})
	if res, err := w.gw.Enroll(t.Context(), w.request("victim")); err != nil || res.Kind != gateway.ResultPending {
		t.Fatalf("%+v, %v", res, err)
	}
	w.wantUses(nil)
	if uses, err := w.store.Uses(t.Context(), []string{"once"}); err != nil || uses["once"] != 0 {
		t.Errorf("what does not lapse, and an approval takes: %v, %v", uses, err)
	}
	r := w.request("victim")
	r.Credentials = append(r.Credentials, gateway.Credential{Kind: gateway.CredentialPassword, ID: "another"})
	if res, err := w.gw.Enroll(t.Context(), r); err != nil || res.Kind != gateway.ResultPending {
		t.Fatalf("%+v, %v", res, err)
	}
	w.wantUses(map[string]int64{"issued": 1, "active": 1})
}
