package storetest

import (
	"bytes"
	"errors"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway"
)

func (e *env) secret(endpoint, reference string) *gateway.StoredSecret {
	return &gateway.StoredSecret{Endpoint: endpoint, Reference: reference, Device: "Gerät 1", Sealed: []byte{1, 0, 0xff, 2},
		Created: e.clock.Now(), NotAfter: e.clock.Now().Add(time.Hour + time.Microsecond)}
}

func (e *env) put(s *gateway.StoredSecret) {
	e.Helper()
	e.must(e.s.PutSecret(e.ctx(), s, gateway.AuditEvent{Kind: "secret-put", At: e.clock.Now(), Transaction: s.Endpoint}))
}

func (e *env) wantSecret(endpoint, reference string, want *gateway.StoredSecret) {
	e.Helper()
	got, err := e.s.Secret(e.ctx(), endpoint, reference)
	if want == nil {
		if !errors.Is(err, gateway.ErrNotFound) {
			e.Errorf("%q at %q: %+v, %v; want not found", reference, endpoint, got, err)
		}
		return
	}
	e.must(err)
	e.equal("secret", got, want)
}

func testSecrets(e *env) {
	drop := gateway.AuditEvent{Kind: "secret-dropped", At: e.clock.Now(), Transaction: "ran"}
	e.wantSecret("ran", "a", nil)
	e.wantErr(e.s.DropSecret(e.ctx(), "ran", "a", drop), gateway.ErrNotFound)
	e.wantAudited("secret-dropped", "ran", false)
	e.wantAudited("secret-put", "ran", false)

	// References are bytes: none is another.
	var all []*gateway.StoredSecret
	for i, ref := range []string{"a", "A", "a\x00", "\x00", "\xff", "\xfe", "\xff\xff", "'; DROP TABLE secrets --", strings.Repeat("\xee", 1024)} {
		s := e.secret("ran", ref)
		s.Sealed = bytes.Repeat([]byte{byte(i)}, i+1)
		e.put(s)
		all = append(all, s)
	}
	e.wantAudited("secret-put", "ran", true)
	elsewhere := e.secret("core", "a")
	elsewhere.Device, elsewhere.NotAfter, elsewhere.Sealed = "", time.Time{}, bytes.Repeat([]byte{7}, 4096)
	e.put(elsewhere)
	check := func() {
		e.Helper()
		for _, s := range all {
			e.wantSecret("ran", s.Reference, s)
		}
		e.wantSecret("core", "a", elsewhere)
	}
	check()
	for _, k := range [][2]string{{"ran", ""}, {"ran", "b"}, {"ran", "\uFFFD"}, {"", "a"}, {"core", "A"}, {"ran\x00", "a"}} {
		e.wantSecret(k[0], k[1], nil)
	}
	// What is over is found, and still says so: the caller judges.
	e.clock.Advance(2 * time.Hour)
	check()
	// In the place of one that stands, every part of it.
	again := e.secret("ran", "a")
	again.Device, again.Sealed, again.NotAfter = "another", []byte("sealed anew"), time.Time{}
	e.put(again)
	all[0] = again
	check()
	// Gone, and only this one.
	e.must(e.s.DropSecret(e.ctx(), "ran", "a\x00", drop))
	e.wantAudited("secret-dropped", "ran", true)
	e.wantErr(e.s.DropSecret(e.ctx(), "ran", "a\x00", drop), gateway.ErrNotFound)
	e.wantSecret("ran", "a\x00", nil)
	all = append(all[:2], all[3:]...)
	check()
	// They survive a crash.
	e.db.Crash(e, e.s)
	e.s = e.db.Open(e, "one", e.clock.Now)
	check()
}

func testSecretsNonsense(e *env) {
	good := e.secret("ran", "a")
	e.put(good)
	event := gateway.AuditEvent{Kind: "secret-put", At: e.clock.Now()}
	for name, change := range map[string]func(s *gateway.StoredSecret, a *gateway.AuditEvent){
		"no endpoint":                          func(s *gateway.StoredSecret, _ *gateway.AuditEvent) { s.Endpoint = "" },
		"a NUL":                                func(s *gateway.StoredSecret, _ *gateway.AuditEvent) { s.Endpoint = "ran\x00" },
		"no reference":                         func(s *gateway.StoredSecret, _ *gateway.AuditEvent) { s.Reference = "" },
		"a long reference":                     func(s *gateway.StoredSecret, _ *gateway.AuditEvent) { s.Reference = strings.Repeat("a", 1025) },
		"a device that the store would change": func(s *gateway.StoredSecret, _ *gateway.AuditEvent) { s.Device = "\xff" },
		"nothing sealed":                       func(s *gateway.StoredSecret, _ *gateway.AuditEvent) { s.Sealed = nil },
		"no audit":                             func(_ *gateway.StoredSecret, a *gateway.AuditEvent) { a.Kind = "" },
	} {
		s, a := *good, event
		s.Sealed = []byte("other")
		change(&s, &a)
		if err := e.s.PutSecret(e.ctx(), &s, a); err == nil {
			e.Errorf("%s: no error", name)
		} else if strings.Contains(err.Error(), "other") {
			e.Errorf("%s: the error tells what is sealed: %v", name, err)
		}
	}
	if err := e.s.DropSecret(e.ctx(), "ran", "a", gateway.AuditEvent{}); err == nil {
		e.Error("dropped without an audit event")
	}
	e.wantSecret("ran", "a", good)
	list, err := e.s.Secrets(e.ctx(), "", "", "", 0)
	e.must(err)
	if len(list) != 1 {
		e.Errorf("%d secrets, want 1", len(list))
	}
}

func testSecretsPages(e *env) {
	// In the order of bytes, whatever the locale: upper case first, an umlaut last.
	var all []*gateway.StoredSecret
	for _, endpoint := range []string{"B", "a", "a-b", "a1", "ä"} {
		for _, ref := range []string{"\x00", "A", "\xc3\xa4", "\xff"} {
			s := e.secret(endpoint, ref)
			e.put(s)
			listed := *s
			listed.Sealed = nil
			all = append(all, &listed)
		}
	}
	list := func(endpoint string, limit int) (out []*gateway.StoredSecret) {
		e.Helper()
		afterEndpoint, afterReference := "", ""
		for range 100 {
			page, err := e.s.Secrets(e.ctx(), endpoint, afterEndpoint, afterReference, limit)
			e.must(err)
			if len(page) == 0 {
				return out
			}
			if len(page) > limit {
				e.Fatalf("%d on a page, want at most %d", len(page), limit)
			}
			out = append(out, page...)
			last := page[len(page)-1]
			afterEndpoint, afterReference = last.Endpoint, last.Reference
		}
		e.Fatal("the pages have no end")
		return nil
	}
	for _, limit := range []int{1, 3, 20, 21} {
		e.equal("all", list("", limit), all)
		e.equal("of an endpoint", list("a-b", limit), all[8:12])
		e.equal("of none", list("nobody", limit), []*gateway.StoredSecret(nil))
	}
	// Within an endpoint its references are enough; after what is not there it goes on all the same.
	for _, c := range []struct {
		endpoint, afterEndpoint, afterReference string
		want                                    []*gateway.StoredSecret
	}{
		{"a", "", "A", all[6:8]},
		{"a", "a", "A\x00", all[6:8]},
		{"a", "B", "\xff", all[4:8]},
		{"a", "a-b", "", nil},
		{"", "a-", "", all[8:]},
		{"", "ä", "\xff", nil},
	} {
		got, err := e.s.Secrets(e.ctx(), c.endpoint, c.afterEndpoint, c.afterReference, 0)
		e.must(err)
		e.equal("after "+c.afterEndpoint+" "+c.afterReference, got, c.want)
	}
	for i := range 100 {
		e.put(e.secret("many", string(rune('a'+i))))
	}
	got, err := e.s.Secrets(e.ctx(), "", "", "", 0)
	e.must(err)
	if len(got) != 100 {
		e.Errorf("%d without a limit, want 100", len(got))
	}
}
