package gateway_test

import (
	"context"
	"errors"
	"math/big"
	"testing"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// knowsRA is a stage that trusts one RA.
type knowsRA struct {
	id      string
	speaks  bool
	unknown bool // it cannot tell
}

func (knowsRA) Name() string { return "ra" }

func (k knowsRA) Decide(ctx context.Context, r *gateway.Request, _ *gateway.Grant) gateway.Verdict {
	return k.TrustsRA(ctx, r.Credentials[0], true)
}

func (k knowsRA) TrustsRA(_ context.Context, c gateway.Credential, speaks bool) gateway.Verdict {
	switch {
	case k.unknown:
		return gateway.Unanswered(errors.New("no list"))
	case c.ID != k.id, speaks && !k.speaks:
		return gateway.Denied(gateway.Untrusted, "", "another one")
	}
	return gateway.Allowed("")
}

func TestTrustedRA(t *testing.T) {
	any := func(s ...gateway.Stage) gateway.Stage {
		var branches []gateway.Pipeline
		for _, one := range s {
			branches = append(branches, gateway.Pipeline{one})
		}
		return gateway.AnyOf(branches...)
	}
	password := password{"secret"}
	for name, tt := range map[string]struct {
		enroll, revoke gateway.Pipeline
		endpoint       string
		speaks         bool
		want           gateway.Reason // "" when trusted
	}{
		"asks":                        {enroll: gateway.Pipeline{knowsRA{id: "a", speaks: true}}, speaks: true},
		"passes on":                   {enroll: gateway.Pipeline{knowsRA{id: "a"}}},
		"asks, and may not":           {enroll: gateway.Pipeline{knowsRA{id: "a"}}, speaks: true, want: gateway.NotAuthorized},
		"who may ask passes on":       {enroll: gateway.Pipeline{knowsRA{id: "a", speaks: true}}},
		"in a branch":                 {enroll: gateway.Pipeline{any(password, any(knowsRA{id: "b"}, knowsRA{id: "a"}))}},
		"of another operation":        {enroll: gateway.Pipeline{password}, revoke: gateway.Pipeline{knowsRA{id: "a"}}},
		"another one":                 {enroll: gateway.Pipeline{knowsRA{id: "b", speaks: true}}, want: gateway.NotAuthorized},
		"no stage knows any":          {enroll: gateway.Pipeline{password}, want: gateway.NotAuthorized},
		"one that is to be kept out":  {enroll: gateway.Pipeline{password, gateway.Not(gateway.Pipeline{knowsRA{id: "a", speaks: true}})}, speaks: true, want: gateway.NotAuthorized},
		"no answer":                   {enroll: gateway.Pipeline{any(knowsRA{unknown: true}, knowsRA{id: "b"})}, want: gateway.Unavailable},
		"no answer, and one who does": {enroll: gateway.Pipeline{any(knowsRA{unknown: true}, knowsRA{id: "a"})}},
		"no such endpoint":            {enroll: gateway.Pipeline{knowsRA{id: "a"}}, endpoint: "none", want: gateway.NotAuthorized},
	} {
		w := newWorld(t, backendtest.FaultPlan{}, func(w *world) { w.enroll, w.revoke = tt.enroll, tt.revoke })
		if tt.endpoint == "" {
			tt.endpoint = "est"
		}
		e := w.gw.TrustedRA(t.Context(), tt.endpoint, gateway.Credential{Kind: gateway.CredentialNested, ID: "a"}, tt.speaks)
		if (e == nil) != (tt.want == "") || e != nil && (e.Reason != tt.want || e.Err == nil) {
			t.Errorf("%s: %v", name, e)
		}
	}
}

// Who has passed a request on is kept with it, and does not make it another one: by another way it is its repeat.
func TestNestedSignerIsNotTheRequester(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	device := w.request("device-1")
	relayed := func(ra string) *gateway.Request {
		r := w.again(device)
		if ra != "" {
			r.Credentials = append(r.Credentials, gateway.Credential{Kind: gateway.CredentialNested, ID: ra})
		}
		return r
	}
	first, err := w.gw.Enroll(t.Context(), relayed("a"))
	if err != nil {
		t.Fatal(err)
	}
	for _, ra := range []string{"a", "b", ""} {
		again, err := w.gw.Enroll(t.Context(), relayed(ra))
		if err != nil || !again.Repeated || again.Transaction != first.Transaction {
			t.Errorf("through %q: %+v, %v", ra, again, err)
		}
	}
	kept, err := w.store.Transaction(t.Context(), first.Transaction)
	if err != nil || len(kept.Credentials) != 2 || kept.Credentials[1] != "nested-signer:a" {
		t.Errorf("%+v, %v", kept, err)
	}
	if (gateway.Credential{Kind: gateway.CredentialNested}).Proven() {
		t.Error("taken for the requester's")
	}
}

func TestIssuedAs(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	res, err := w.gw.Enroll(t.Context(), w.request("device-1"))
	if err != nil {
		t.Fatal(err)
	}
	c := res.Certificate
	if got, err := w.gw.IssuedAs(t.Context(), c.RawIssuer, c.SerialNumber); err != nil || got == nil || !got.Equal(c) {
		t.Errorf("%v, %v", got, err)
	}
	for name, serial := range map[string]*big.Int{"another": big.NewInt(77), "none": nil, "negative": new(big.Int).Neg(c.SerialNumber)} {
		if got, err := w.gw.IssuedAs(t.Context(), c.RawIssuer, serial); err != nil || got != nil {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	w.close()
	if _, err := w.gw.IssuedAs(t.Context(), c.RawIssuer, c.SerialNumber); gateway.AsError(err).Reason != gateway.Unavailable {
		t.Errorf("%v", err)
	}
}
