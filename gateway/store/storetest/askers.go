package storetest

import (
	"errors"
	"fmt"
	"strings"

	"github.com/muster-pki/muster/gateway"
)

// testAskedUnder: clients that share a wire ID are told apart by their credentials.
func testAskedUnder(e *env) {
	begin := func(credentials ...string) (*gateway.Transaction, int64) {
		t := e.transaction(gateway.StateIssuing)
		t.WireID, t.Credentials = "0", credentials
		return t, e.mustBegin(e.s, t)
	}
	want := func(id string, credentials ...string) {
		e.Helper()
		got, err := e.s.AskedUnder(e.ctx(), "ran", "0", credentials)
		switch {
		case id == "" && !errors.Is(err, gateway.ErrNotFound):
			e.Errorf("%q: %+v, %v; want not found", credentials, got, err)
		case id != "" && err != nil:
			e.Errorf("%q: %v, want %s", credentials, err, id)
		case id != "":
			e.equal("asked under", got, e.get(id))
		}
	}
	const a, b = "message-key:aa", "message-key:bb"
	want("", a)
	first, epoch := begin("challenge:", a)
	s := e.issued(first, epoch)
	e.must(e.s.Settle(e.ctx(), s))
	want(first.ID, a) // with its certificate
	second, _ := begin(b)
	want(first.ID, a)
	want(second.ID, b)
	want(second.ID, "message-key:cc", b)
	// What is open goes before what is newer, and what was refused is nobody's.
	open, _ := begin(a)
	newest, epoch := begin(a)
	e.must(e.s.Settle(e.ctx(), e.failed(newest, epoch)))
	want(open.ID, a)
	want(open.ID, a, "challenge:")
	refused := e.transaction(gateway.StateRefused)
	refused.WireID, refused.Credentials = "0", []string{"message-key:dd"}
	e.must(e.s.Refuse(e.ctx(), refused, event("refused", refused)))
	want("", "message-key:dd")
	// Nobody is found by a part of a credential, or by what a pattern would find, or without any.
	odd := `mac-key:100%_!"\` + "\x00é<"
	strange, _ := begin(odd)
	want(strange.ID, odd)
	for _, credential := range []string{"", "%", "_", "message-key:a", "message-key:_a", "MESSAGE-KEY:AA", `message-key:aa","challenge:`, "mac-key:100", `mac-key:100%_!`, `mac-key:100__!"\` + "\x00é<"} {
		want("", credential)
	}
	want("")
	for _, at := range [][2]string{{"ran", ""}, {"ran", "00"}, {"core", "0"}, {"", "0"}, {"ran", "\xff"}, {"ran", "0\x00"}} {
		if got, err := e.s.AskedUnder(e.ctx(), at[0], at[1], []string{a}); !errors.Is(err, gateway.ErrNotFound) {
			e.Errorf("%q at %q: %+v, %v", at[1], at[0], got, err)
		}
	}
	if _, err := e.s.AskedUnder(e.ctx(), "ran", "0", strings.Split(strings.Repeat("x,", 100), ",")); err == nil || errors.Is(err, gateway.ErrNotFound) {
		e.Errorf("with 100 credentials: %v", err)
	}
	// Those of many others hide it not.
	for i := range 40 {
		begin(fmt.Sprintf("message-key:other-%d", i))
	}
	want(second.ID, b)
}
