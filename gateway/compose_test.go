package gateway

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"
)

// tree is a composition for the truth table: a leaf, or an operator over trees. The operator "list" stands within others.
type tree struct {
	op     string // "": a leaf
	leaf   Decision
	id     string // of a leaf
	of     []tree
	called *[]string
}

func (t tree) String() string {
	if t.op == "" {
		return string(t.leaf)
	}
	return fmt.Sprint(t.op, t.of)
}

// marking is a leaf as a stage: whatever it decides, it authenticates somebody, marks the grant and claims something.
type marking struct{ tree }

func (m marking) Name() string { return m.id }
func (m marking) Decide(_ context.Context, _ *Request, g *Grant) Verdict {
	*m.called = append(*m.called, m.id)
	g.Authenticate(Credential{Kind: CredentialPassword, ID: m.id})
	g.AllowPOP(POP(m.id))
	g.Vendor, g.Device, g.Replaces, g.Forward = m.id, m.id, &Replaced{Serial: []byte(m.id)}, m.id
	g.Attributes = map[string]string{m.id: "seen"}
	v := Verdict{Decision: m.leaf, Claims: []Claim{{Key: m.id, Limit: 1}}}
	switch m.leaf {
	case Deny:
		v.Reason = BadTemplate
	case Hold:
		v.Terms.Approvers = 2
	}
	return v
}

// stage makes what the gateway runs of a tree.
func (t tree) stage() Stage {
	var p Pipeline
	for _, o := range t.of {
		p = append(p, o.stage())
	}
	switch t.op {
	case "":
		return marking{t}
	case "anyOf":
		var branches []Pipeline
		for _, s := range p {
			branches = append(branches, Pipeline{s})
		}
		return AnyOf(branches...)
	case "allOf":
		return AllOf(p)
	}
	return Not(p)
}

// verdictOf is the reference: what a tree decides, and the leaves whose word stands in the grant, and that claim. It
// knows no grants, only which leaves count.
func verdictOf(t tree) (d Decision, marks, claims []string) {
	if t.op == "" {
		return t.leaf, []string{t.id}, map[bool][]string{true: {t.id}}[t.leaf == Allow || t.leaf == Hold]
	}
	type result struct {
		d             Decision
		marks, claims []string
	}
	var all []result
	for _, o := range t.of {
		d, m, c := verdictOf(o)
		all = append(all, result{d, m, c})
	}
	first := func(wanted ...Decision) int {
		return slices.IndexFunc(all, func(r result) bool { return slices.Contains(wanted, r.d) })
	}
	if t.op == "anyOf" {
		for _, d := range []Decision{Allow, Hold} {
			if i := first(d); i >= 0 {
				return d, all[i].marks, all[i].claims
			}
		}
		if first(CannotAnswer) >= 0 {
			return CannotAnswer, nil, nil
		}
		return Deny, nil, nil
	}
	d = Allow
	if first(Hold) >= 0 {
		d = Hold
	}
	end := first(Deny, CannotAnswer)
	for i, r := range all {
		marks, claims = append(marks, r.marks...), append(claims, r.claims...)
		if i == end {
			d, claims = r.d, nil
			break
		}
	}
	if t.op == "not" {
		return map[Decision]Decision{Allow: Deny, Hold: Deny, Deny: Allow, CannotAnswer: CannotAnswer}[d], nil, nil
	}
	return d, marks, claims
}

// combinations are all operators over one and two of the trees.
func combinations(of []tree) (all []tree) {
	for _, op := range []string{"allOf", "anyOf", "not"} {
		for _, a := range of {
			all = append(all, tree{op: op, of: []tree{a}})
			for _, b := range of {
				all = append(all, tree{op: op, of: []tree{a, b}})
			}
		}
	}
	return all
}

// numbered gives each leaf of a tree a name of its own.
func numbered(t tree, n *int, called *[]string) tree {
	if t.op == "" {
		*n++
		t.id, t.called = fmt.Sprint("leaf-", *n), called
	}
	t.of = slices.Clone(t.of)
	for i := range t.of {
		t.of[i] = numbered(t.of[i], n, called)
	}
	return t
}

// Every composition of two levels decides as the table of logic says, shapes the grant and claims by those alone whose word
// counts, and leaves nothing of the others.
func TestCompositionsAreTheirTruthTable(t *testing.T) {
	leaves := []tree{{leaf: Allow}, {leaf: Deny}, {leaf: Hold}, {leaf: CannotAnswer}}
	all := combinations(append(combinations(leaves), leaves...))
	if len(all) != 3*(64+64*64) {
		t.Fatalf("%d compositions", len(all))
	}
	for _, shape := range all {
		var called []string
		n := 0
		tr := numbered(shape, &n, &called)
		want, marks, claims := verdictOf(tr)
		g := &Grant{NotAfter: time.Unix(1, 0)}
		out := Pipeline{tr.stage()}.run(t.Context(), &Request{}, g, time.Now)

		if out.Decision != want {
			t.Fatalf("%s: %s, want %s", tr, out.Decision, want)
		}
		var got []string
		for _, c := range out.Claims {
			got = append(got, c.Key)
			if c.stage != c.Key {
				t.Fatalf("%s: the claim of %s is %s's", tr, c.Key, c.stage)
			}
		}
		if !slices.Equal(got, claims) {
			t.Fatalf("%s: claims %v, want %v", tr, got, claims)
		}
		if want == Hold != (out.Terms.Approvers == 2) {
			t.Fatalf("%s: %s with terms %+v", tr, want, out.Terms)
		}
		expected := &Grant{NotAfter: time.Unix(1, 0)}
		for _, id := range marks {
			quiet := []string{}
			marking{tree{id: id, called: &quiet}}.Decide(t.Context(), nil, expected)
		}
		if want == Deny || want == CannotAnswer {
			// Who authenticated is told of a refusal, whichever branch it was.
			if g.Requester != "" && !slices.ContainsFunc(called, func(id string) bool { return g.Requester == "password:"+id }) {
				t.Fatalf("%s: refused %s", tr, g.Requester)
			}
			expected.Requester = g.Requester
		}
		if !reflect.DeepEqual(g, expected) {
			t.Fatalf("%s: %s leaves\n%+v, want\n%+v", tr, want, g, expected)
		}
	}
}

// not says nothing of who asks, whatever it denies.
func TestNotTellsNobody(t *testing.T) {
	known := Pipeline{who{step: allow("good")}}
	for _, s := range []Stage{Not(known), Not(Pipeline{AllOf(known), silent("x")}), Not(Pipeline{Not(known)}), Not(Pipeline{AnyOf(known)})} {
		if _, g := runPipeline(t, Pipeline{s}); g.Requester != "" || len(g.authentic) > 0 {
			t.Errorf("%+v leaves %q", s, g.Requester)
		}
	}
}

// allOf says what it is, and is judged as if its stages stood in its place.
func TestAllOf(t *testing.T) {
	out, _ := runPipeline(t, Pipeline{AllOf(Pipeline{allow("a"), deny("b", BadTime)})})
	if out.Decision != Deny || out.Reason != BadTime || out.stage != "allOf" || out.Note != "b: b refused" || out.Detail != "no" {
		t.Errorf("%+v", out)
	}
	if j := out.trail[0]; j.Stage != "allOf" || len(j.Parts) != 2 || j.Parts[0].Stage != "a" || j.Parts[1].Stage != "b" || j.Parts[1].Decision != Deny {
		t.Errorf("%+v", j)
	}
	if out, _ = runPipeline(t, Pipeline{AllOf(Pipeline{allow("a"), allow("b")})}); out.trail[0].Note != "all 2 allowed" {
		t.Errorf("%+v", out.trail[0])
	}
	// A list in the branch, or an allOf of it, come equally far.
	for _, far := range []Pipeline{
		{allow("a"), allow("b"), deny("c", BadTime)},
		{AllOf(Pipeline{allow("a"), allow("b")}), deny("c", BadTime)},
		{AllOf(Pipeline{allow("a"), allow("b"), deny("c", BadTime)})},
		{AnyOf(Pipeline{allow("a"), allow("b"), deny("c", BadTime)}, Pipeline{deny("d", Untrusted)})},
		{hold("a"), allow("b"), deny("c", BadTime)},
	} {
		if out, _ := runPipeline(t, Pipeline{AnyOf(Pipeline{allow("x"), deny("y", Untrusted)}, far)}); out.Reason != BadTime {
			t.Errorf("%+v: %s", far, out.Reason)
		}
	}
	if asked, v := (Pipeline{AllOf(Pipeline{who{step: allow("a")}, who{step: deny("b", Untrusted)}})}).identify(t.Context(), &Request{}, &Grant{}, time.Now); !asked || v.Reason != Untrusted {
		t.Errorf("identify: %v %+v", asked, v)
	}
}

// Of branches that come equally far, the words are those of one that found a wrong password, not of one that looked for a
// certificate that nobody showed.
func TestAnyOfSpeaksOfWhatWasShown(t *testing.T) {
	certificate := Pipeline{who{step{name: "certificate", v: Denied(Unauthenticated, "a client certificate is required", "")}, []CredentialKind{CredentialTLS}}}
	password := Pipeline{who{step{name: "password", v: Denied(Unauthenticated, "wrong user or password", "")}, []CredentialKind{CredentialPassword}}}
	untrusted := Pipeline{deny("untrusted", Untrusted)}
	shown := &Request{Credentials: []Credential{{Kind: CredentialPassword, ID: "a", Secret: []byte("b")}}}
	for _, c := range []struct {
		r    *Request
		p    Stage
		want string
	}{
		{shown, AnyOf(certificate, password), "wrong user or password"},
		{shown, AnyOf(password, certificate), "wrong user or password"},
		{shown, AnyOf(certificate, Pipeline{AllOf(password)}), "wrong user or password"},
		{shown, AnyOf(certificate, Pipeline{AnyOf(certificate, password)}), "wrong user or password"},
		{&Request{}, AnyOf(certificate, password), "a client certificate is required"},
		{shown, AnyOf(certificate, password, untrusted), "no"},
	} {
		if out := (Pipeline{c.p}).run(t.Context(), c.r, &Grant{}, time.Now); out.Detail != c.want {
			t.Errorf("%+v: %q, want %q", c.p, out.Detail, c.want)
		}
		if c.want == "no" { // which identifies nobody
			continue
		}
		if _, v := (Pipeline{c.p}).identify(t.Context(), c.r, &Grant{}, time.Now); v.Detail != c.want {
			t.Errorf("identify: %+v: %q, want %q", c.p, v.Detail, c.want)
		}
	}
}

// What a branch found of who asks is told when all refuse, also where that alone is asked.
func TestAnyOfIdentifiesWhoWasRefused(t *testing.T) {
	known := Pipeline{who{step: allow("good")}, who{step: deny("disabled", NotAuthorized)}}
	for _, p := range []Stage{AnyOf(known, Pipeline{who{step: deny("b", Unauthenticated)}}), AnyOf(Pipeline{who{step: deny("b", Unauthenticated)}}, known)} {
		g := &Grant{}
		asked, v := Pipeline{p}.identify(t.Context(), &Request{}, g, time.Now)
		if !asked || v.Reason != NotAuthorized || g.Requester != "password:good" || len(g.authentic) > 0 {
			t.Errorf("%v %s of %q", asked, v.Reason, g.Requester)
		}
	}
	down := Pipeline{who{step: silent("down")}}
	if _, v := (Pipeline{AnyOf(down, known)}).identify(t.Context(), &Request{}, &Grant{}, time.Now); v.Decision != CannotAnswer {
		t.Errorf("a branch that cannot answer is %s", v.Decision)
	}
}
