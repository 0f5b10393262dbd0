package gateway

import (
	"context"
	"errors"
	"testing"
	"time"
)

// step is a stage that decides as told, counts its calls, and may name a device.
type step struct {
	name   string
	v      Verdict
	device string
	calls  *int
	panics bool
}

func (s step) Name() string { return s.name }
func (s step) Decide(_ context.Context, _ *Request, g *Grant) Verdict {
	if s.calls != nil {
		*s.calls++
	}
	if s.panics {
		panic("boom")
	}
	if s.device != "" && !g.NameDevice(s.device) {
		return Denied(NotAuthorized, "", "two devices: "+g.Device+" and "+s.device)
	}
	return s.v
}

// who is a step that identifies.
type who struct {
	step
	kinds []CredentialKind
}

func (who) Identifies()                     {}
func (w who) Credentials() []CredentialKind { return w.kinds }
func (w who) Decide(ctx context.Context, r *Request, g *Grant) Verdict {
	v := w.step.Decide(ctx, r, g)
	if v.Decision == Allow {
		g.Authenticate(Credential{Kind: CredentialPassword, ID: w.name})
	}
	return v
}

func allow(name string) step { return step{name: name, v: Allowed(name + " saw it")} }
func deny(name string, reason Reason) step {
	return step{name: name, v: Denied(reason, "no", name+" refused")}
}
func hold(name string) step { return step{name: name, v: Held(name + " waits")} }
func silent(name string) step {
	return step{name: name, v: Unanswered(errors.New(name + " is down"))}
}

func runPipeline(t *testing.T, p Pipeline) (ruling, *Grant) {
	t.Helper()
	g := &Grant{}
	return p.run(t.Context(), &Request{}, g, time.Now), g
}

func TestPipeline(t *testing.T) {
	for _, c := range []struct {
		name   string
		p      Pipeline
		want   Decision
		reason Reason
		stage  string
		device string
	}{
		{"all allow", Pipeline{allow("a"), allow("b")}, Allow, "", "", ""},
		{"one denies", Pipeline{allow("a"), deny("b", Untrusted), allow("c")}, Deny, Untrusted, "b", ""},
		{"deny without a reason", Pipeline{step{name: "a", v: Verdict{Decision: Deny}}}, Deny, NotAuthorized, "a", ""},
		{"one cannot answer", Pipeline{allow("a"), silent("b")}, CannotAnswer, Unavailable, "b", ""},
		{"one decides nothing", Pipeline{step{name: "a"}}, CannotAnswer, Unavailable, "a", ""},
		{"one panics", Pipeline{step{name: "a", panics: true}}, CannotAnswer, Unavailable, "a", ""},
		{"one holds", Pipeline{allow("a"), hold("b"), allow("c")}, Hold, "", "b", ""},
		{"held, then denied", Pipeline{hold("a"), deny("b", BadTemplate)}, Deny, BadTemplate, "b", ""},
		{"held, then not answered", Pipeline{hold("a"), silent("b")}, CannotAnswer, Unavailable, "b", ""},
		{"two devices", Pipeline{step{name: "a", v: Allowed(""), device: "x"}, step{name: "b", v: Allowed(""), device: "y"}}, Deny, NotAuthorized, "b", "x"},
		{"one device twice", Pipeline{step{name: "a", v: Allowed(""), device: "x"}, step{name: "b", v: Allowed(""), device: "x"}}, Allow, "", "", "x"},
		{"anyOf: second allows", Pipeline{AnyOf(Pipeline{deny("a", Untrusted)}, Pipeline{allow("b")})}, Allow, "", "", ""},
		{"anyOf: grant of the branch that allowed", Pipeline{AnyOf(
			Pipeline{step{name: "a", v: Allowed(""), device: "x"}, deny("no", NotAuthorized)},
			Pipeline{step{name: "b", v: Allowed(""), device: "y"}})}, Allow, "", "", "y"},
		{"anyOf: none allows, the farthest decides", Pipeline{AnyOf(
			Pipeline{deny("a", Unauthenticated)}, Pipeline{allow("b"), deny("c", BadTime)})}, Deny, BadTime, "anyOf", ""},
		{"anyOf: none allows, the first decides a tie", Pipeline{AnyOf(
			Pipeline{deny("a", BadTemplate)}, Pipeline{deny("b", Untrusted)})}, Deny, BadTemplate, "anyOf", ""},
		{"anyOf: none allows, of a tie the first that found its credentials decides", Pipeline{AnyOf(
			Pipeline{deny("a", Unauthenticated)}, Pipeline{deny("b", Untrusted)}, Pipeline{deny("c", BadTemplate)})}, Deny, Untrusted, "anyOf", ""},
		{"anyOf: allow beats hold", Pipeline{AnyOf(Pipeline{hold("a")}, Pipeline{allow("b")})}, Allow, "", "", ""},
		{"anyOf: hold beats deny", Pipeline{AnyOf(Pipeline{deny("a", Untrusted)}, Pipeline{hold("b")})}, Hold, "", "anyOf", ""},
		{"anyOf: nothing", Pipeline{AnyOf()}, Deny, NotAuthorized, "anyOf", ""},
		{"anyOf: silent branch does not stop another", Pipeline{AnyOf(Pipeline{silent("a")}, Pipeline{allow("b")})}, Allow, "", "", ""},
		{"anyOf: only silence", Pipeline{AnyOf(Pipeline{silent("a")})}, CannotAnswer, Unavailable, "anyOf", ""},
		{"not: denied", Pipeline{Not(Pipeline{deny("a", Untrusted)})}, Allow, "", "", ""},
		{"not: allowed", Pipeline{Not(Pipeline{allow("a")})}, Deny, NotAuthorized, "not", ""},
		{"not: held", Pipeline{Not(Pipeline{hold("a")})}, Deny, NotAuthorized, "not", ""},
		{"not: silent", Pipeline{Not(Pipeline{silent("a")})}, CannotAnswer, Unavailable, "not", ""},
		{"not: leaves no trace in the grant", Pipeline{Not(Pipeline{step{name: "a", v: Denied(Untrusted, "", ""), device: "x"}})}, Allow, "", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, g := runPipeline(t, c.p)
			if out.Decision != c.want || out.Reason != c.reason || out.stage != c.stage || g.Device != c.device {
				t.Errorf("got %s/%s by %q for device %q, want %s/%s by %q for %q",
					out.Decision, out.Reason, out.stage, g.Device, c.want, c.reason, c.stage, c.device)
			}
			if out.Decision != Allow && len(out.trail) == 0 {
				t.Error("no verdict is kept")
			}
		})
	}
}

func TestPipelineStopsAtTheFirstDenial(t *testing.T) {
	calls := 0
	p := Pipeline{deny("a", Untrusted), step{name: "b", v: Allowed(""), calls: &calls}}
	if runPipeline(t, p); calls != 0 {
		t.Errorf("the stage behind a denial was asked %d times", calls)
	}
}

func TestPipelineEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	out := Pipeline{allow("a")}.run(ctx, &Request{}, &Grant{}, time.Now)
	if out.Decision != CannotAnswer {
		t.Errorf("decided %s after its context ended", out.Decision)
	}
}

func TestClaimsOfTheBranchThatAllowed(t *testing.T) {
	claim := func(key string) Stage {
		return step{name: key, v: Allowed("", Claim{Key: key, Limit: 1})}
	}
	p := Pipeline{claim("a"), AnyOf(Pipeline{claim("lost"), deny("x", Untrusted)}, Pipeline{claim("b")}), Not(Pipeline{claim("never"), deny("y", Untrusted)})}
	out, _ := runPipeline(t, p)
	if out.Decision != Allow || len(out.Claims) != 2 || out.Claims[0].Key != "a" || out.Claims[1].Key != "b" {
		t.Errorf("claims %v", out.Claims)
	}
	out, _ = runPipeline(t, append(p, deny("end", Untrusted)))
	if len(out.Claims) != 0 {
		t.Errorf("a denied request claims %v", out.Claims)
	}
}

func TestIdentify(t *testing.T) {
	good := who{step: allow("good")}
	bad := who{step: deny("bad", Unauthenticated)}
	spent := deny("spent", NotAuthorized) // does not identify: not asked
	for _, c := range []struct {
		name  string
		p     Pipeline
		asked bool
		want  Decision
	}{
		{"none identifies", Pipeline{spent}, false, Allow},
		{"one does", Pipeline{good, spent}, true, Allow},
		{"one refuses", Pipeline{spent, bad}, true, Deny},
		{"all must", Pipeline{good, bad}, true, Deny},
		{"any branch", Pipeline{AnyOf(Pipeline{bad}, Pipeline{good, spent})}, true, Allow},
		{"no branch", Pipeline{AnyOf(Pipeline{bad}, Pipeline{bad})}, true, Deny},
		{"a branch that asks nobody proves nobody", Pipeline{AnyOf(Pipeline{spent}, Pipeline{bad})}, true, Deny},
		{"not asks nobody", Pipeline{Not(Pipeline{bad})}, false, Allow},
	} {
		t.Run(c.name, func(t *testing.T) {
			asked, v := c.p.identify(t.Context(), &Request{}, &Grant{}, time.Now)
			if asked != c.asked || v.Decision != c.want {
				t.Errorf("asked %v, %s; want %v, %s", asked, v.Decision, c.asked, c.want)
			}
		})
	}
}

func TestReads(t *testing.T) {
	p := Pipeline{AnyOf(Pipeline{who{step: allow("a"), kinds: []CredentialKind{CredentialPassword}}}, Pipeline{allow("b")})}
	if !p.reads(CredentialPassword) || p.reads(CredentialTLS) {
		t.Error("reads does not look into branches, or sees what is not there")
	}
}

// Who authenticated in a branch that refused is known: the refusal is kept for good.
func TestAnyOfTellsWhoWasRefused(t *testing.T) {
	known := Pipeline{who{step: allow("good")}, deny("names", BadTemplate)}
	for _, p := range []Pipeline{
		{AnyOf(known, Pipeline{deny("a", Untrusted)})},
		{AnyOf(Pipeline{deny("a", Untrusted)}, Pipeline{AnyOf(Pipeline{deny("b", Untrusted)}, known)})},
	} {
		out, g := runPipeline(t, p)
		if out.Decision != Deny || g.Requester != "password:good" {
			t.Errorf("%s/%s of %q", out.Decision, out.Reason, g.Requester)
		}
	}
	if _, g := runPipeline(t, Pipeline{Not(known), allow("b")}); g.Requester != "" {
		t.Errorf("not leaves %q", g.Requester)
	}
}

// Notes are bounded, whatever a stage quotes.
func TestNotesAreCutShort(t *testing.T) {
	long := make([]byte, 1<<20)
	out, _ := runPipeline(t, Pipeline{AnyOf(Pipeline{step{name: "a", v: Denied(Untrusted, "", string(long))}})})
	if n := len(out.Note) + len(out.trail[0].Note) + len(out.trail[0].Parts[0].Note) + len(out.trail[0].Parts[0].Parts[0].Note); n > 16<<10 {
		t.Errorf("%d bytes are kept", n)
	}
}
