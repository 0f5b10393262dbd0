package ejbca

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
)

// A refusal is none when the search cannot be made, and none when there is a certificate.
func TestRefusalAfterAll(t *testing.T) {
	f := newFakeCA(t)
	c := f.configured(t)
	f.after = func(w http.ResponseWriter, _ *http.Request, _ *issued) bool {
		refuse(w, 400, "Certificate could not be read.")
		return true
	}
	got, err := c.Issue(t.Context(), request("one"))
	if err != nil {
		t.Fatal(err)
	}
	f.leaf(t, got)
	f.unseen, f.after = true, nil
	f.before = func(w http.ResponseWriter, _ *http.Request) bool {
		refuse(w, 400, "User is not allowed")
		return true
	}
	if _, err := c.Issue(t.Context(), request("two")); err == nil || backend.Definite(err) || !strings.Contains(err.Error(), "User is not allowed") {
		t.Errorf("%v", err)
	}
}

// However a call ends, there is one certificate, and Lookup finds it.
func TestCrashAfterIssuing(t *testing.T) {
	for name, crash := range map[string]func(w http.ResponseWriter, r *http.Request, cancel func()){
		"dropped": func(http.ResponseWriter, *http.Request, func()) { panic(http.ErrAbortHandler) },
		"late":    func(_ http.ResponseWriter, r *http.Request, cancel func()) { cancel(); <-r.Context().Done() },
		"500":     func(w http.ResponseWriter, _ *http.Request, _ func()) { refuse(w, 500, "General failure.") },
		"garbage": func(w http.ResponseWriter, _ *http.Request, _ func()) { w.WriteHeader(201); w.Write([]byte("<html>")) }, //nolint:errcheck // as it is
		"nothing": func(w http.ResponseWriter, _ *http.Request, _ func()) { answer(w, 201, map[string]any{}) },
		"half": func(w http.ResponseWriter, _ *http.Request, _ func()) {
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(201)
			w.Write([]byte("{")) //nolint:errcheck // as it is
		},
	} {
		for _, lines := range []string{"", `username: "{{device}}"`} {
			f := newFakeCA(t)
			c := f.configured(t, lines)
			ctx, cancel := context.WithCancel(t.Context())
			f.after = func(w http.ResponseWriter, r *http.Request, _ *issued) bool { crash(w, r, cancel); return true }
			r := request("one")
			if _, err := c.Issue(ctx, r); err == nil || backend.Definite(err) {
				t.Errorf("%s: %v", name, err)
			}
			cancel()
			r.Asked = f.now()
			again := f.configured(t, lines) // after a restart
			o, err := again.Lookup(t.Context(), r)
			if err != nil || o.State != backend.OutcomeIssued {
				t.Fatalf("%s: %+v, %v", name, o, err)
			}
			f.leaf(t, o.Issuance)
			got, err := again.Issue(t.Context(), r) // whoever asks in spite of it
			if err != nil {
				t.Fatal(err)
			}
			f.leaf(t, got)
		}
	}
}

// A call that ended before anything was issued, or is still under way: unknown until EJBCA must have ended it, and then never.
func TestNever(t *testing.T) {
	for _, lines := range []string{"", `username: "{{device}}"`} {
		f := newFakeCA(t)
		start := time.Now()
		f.now = func() time.Time { return start }
		c := f.configured(t, lines)
		must(c.Issue(t.Context(), request("other")))
		r := request("one")
		if o := must(c.Lookup(t.Context(), r)); o.State != backend.OutcomeNever {
			t.Errorf("never asked: %s", o.State)
		}
		f.before = func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }
		if _, err := c.Issue(t.Context(), r); err == nil || backend.Definite(err) {
			t.Errorf("%v", err)
		}
		r.Asked, f.before = start, nil
		for after, want := range map[time.Duration]backend.OutcomeState{0: backend.OutcomeUnknown, defaultSettle: backend.OutcomeUnknown, defaultSettle + 15*time.Second: backend.OutcomeNever} {
			f.now = func() time.Time { return start.Add(after) }
			if o := must(c.Lookup(t.Context(), r)); o.State != want {
				t.Errorf("after %s: %s, not %s", after, o.State, want)
			}
		}
		if _, err := c.Issue(t.Context(), r); err != nil {
			t.Error(err)
		}
		if n, _ := f.count(); n != 2 {
			t.Errorf("%d certificates", n)
		}
	}
}

// An empty search proves nothing where EJBCA may not show what it has issued.
func TestBlind(t *testing.T) {
	for name, blind := range map[string]struct {
		lines string
		make  func(f *fakeCA)
		want  string
	}{
		"certificates are not stored":     {"", func(f *fakeCA) { f.unstored = true }, "may not store them"},
		"the role may not see them":       {"", func(f *fakeCA) { f.unseen = true }, "unknown end entity profile"},
		"the time of the query is over":   {"", func(f *fakeCA) { f.slow = true }, "not searched to the end"},
		"account binding IDs are dropped": {`username: "{{device}}"`, func(f *fakeCA) { f.noBinding = true }, "may not keep them"},
		"nothing was ever issued":         {"", func(f *fakeCA) { f.ledger = nil }, "may not store them"},
	} {
		f := newFakeCA(t)
		blind.make(f)
		c := f.configured(t, blind.lines)
		r := request("one")
		f.after = func(http.ResponseWriter, *http.Request, *issued) bool { panic(http.ErrAbortHandler) }
		if name == "nothing was ever issued" {
			f.before = func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }
		}
		if _, err := c.Issue(t.Context(), r); err == nil || backend.Definite(err) {
			t.Errorf("%s: %v", name, err)
		}
		r.Asked = f.now().Add(-24 * time.Hour)
		if o, err := c.Lookup(t.Context(), r); err == nil || backend.Definite(err) || !strings.Contains(err.Error(), blind.want) {
			t.Errorf("%s: %+v, %v", name, o, err)
		}
		// Nor is another issued in spite of it, but where the search went well.
		if name == "the role may not see them" || name == "the time of the query is over" {
			if _, err := c.Issue(t.Context(), r); err == nil || backend.Definite(err) {
				t.Errorf("%s: Issue: %v", name, err)
			}
		}
	}
}

// What was issued in this process, and was not found by its account binding ID, does not make it sighted.
func TestBindingProvesItself(t *testing.T) {
	f := newFakeCA(t)
	f.noBinding = true
	c := f.configured(t, `username: "{{device}}"`)
	f.issue(parsedCSR(request("earlier")), "earlier", "", "x", "") // which the search at the start sees
	must(c.CACertificates(t.Context()))
	must(c.Issue(t.Context(), request("other")))
	r := request("one")
	r.Asked = f.now().Add(-24 * time.Hour)
	if o, err := c.Lookup(t.Context(), r); err == nil {
		t.Errorf("%s", o.State)
	}
	f.noBinding = false
	before := f.searches
	must(c.Issue(t.Context(), request("third")))
	if f.searches != before {
		t.Error("searched for again at once")
	}
	later := f.now().Add(lookAgain)
	f.now = func() time.Time { return later }
	must(c.Issue(t.Context(), request("fourth")))
	if o := must(c.Lookup(t.Context(), r)); o.State != backend.OutcomeNever {
		t.Errorf("%s", o.State)
	}
}

// Of what nobody can tell apart, none is it.
func TestAmbiguous(t *testing.T) {
	f := newFakeCA(t)
	c := f.configured(t)
	r := request("one")
	must(c.Issue(t.Context(), r))
	other := request("one")
	if o, err := c.Lookup(t.Context(), other); err == nil || !strings.Contains(err.Error(), "another key") {
		t.Errorf("another key: %+v, %v", o, err)
	}
	f.issue(parsedCSR(r), "id-one", "", "x", "")
	if o, err := c.Lookup(t.Context(), r); err == nil || !strings.Contains(err.Error(), "could both be it") {
		t.Errorf("two: %+v, %v", o, err)
	}
}
