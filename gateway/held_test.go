package gateway_test

import (
	"context"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// holds is a stage that finds the certificate of who asks.
type holds struct {
	cert  *x509.Certificate
	looks bool
	err   error
}

func (holds) Name() string { return "holds" }
func (holds) Decide(context.Context, *gateway.Request, *gateway.Grant) gateway.Verdict {
	return gateway.Allowed("")
}
func (h holds) HeldBy(context.Context, string, gateway.Credential, gateway.Names) (*x509.Certificate, bool, error) {
	return h.cert, h.looks, h.err
}

// with serves an endpoint with these pipelines.
func (w *world) with(pipelines map[gateway.Operation]gateway.Pipeline) {
	w.t.Helper()
	profile := &gateway.Profile{Name: "device", Backend: "ca", Validity: 72 * time.Hour, KeyUsage: x509.KeyUsageDigitalSignature}
	if err := w.gw.Swap(w.t.Context(), &gateway.Runtime{
		Endpoints: map[string]*gateway.Endpoint{"est": {Name: "est", Protocol: gateway.EST, Profile: profile, Pipelines: pipelines}},
		Backends:  map[string]backend.Backend{"ca": described{w.ca, w.desc}},
	}); err != nil {
		w.t.Fatal(err)
	}
}

func TestHeldBy(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	one, two := &x509.Certificate{Raw: []byte{1}}, &x509.Certificate{Raw: []byte{2}}
	branch := func(s ...gateway.Stage) gateway.Pipeline {
		return gateway.Pipeline{gateway.AnyOf(gateway.Pipeline{always(gateway.Allowed(""))}, s)}
	}
	type pipelines = map[gateway.Operation]gateway.Pipeline
	for name, c := range map[string]struct {
		pipelines pipelines
		endpoint  string
		want      *x509.Certificate
		renews    bool
		reason    gateway.Reason
	}{
		"renews":                       {pipelines: pipelines{gateway.Renew: {holds{cert: one, looks: true}}}, want: one, renews: true},
		"rekeys only":                  {pipelines: pipelines{gateway.Rekey: {holds{cert: one, looks: true}}}, want: one, renews: true},
		"in a branch":                  {pipelines: pipelines{gateway.Renew: branch(holds{cert: one, looks: true})}, want: one, renews: true},
		"the first that finds one":     {pipelines: pipelines{gateway.Renew: {holds{looks: true}, holds{cert: one, looks: true}, holds{cert: two, looks: true}}}, want: one, renews: true},
		"finds nothing":                {pipelines: pipelines{gateway.Renew: {holds{looks: true}}}, renews: true},
		"does not look":                {pipelines: pipelines{gateway.Renew: {holds{cert: one}}}},
		"no such stage":                {pipelines: pipelines{gateway.Renew: {always(gateway.Allowed(""))}}},
		"turned round":                 {pipelines: pipelines{gateway.Renew: {gateway.Not(gateway.Pipeline{holds{cert: one, looks: true}})}}},
		"for the first enrollment":     {pipelines: pipelines{gateway.Enroll: {holds{cert: one, looks: true}}}},
		"both operations":              {pipelines: pipelines{gateway.Renew: {holds{cert: one, looks: true}}, gateway.Rekey: {holds{cert: two, looks: true}}}, want: one, renews: true},
		"one operation judges it":      {pipelines: pipelines{gateway.Renew: {holds{cert: one, looks: true}}, gateway.Rekey: {always(gateway.Allowed(""))}}},
		"the other operation does":     {pipelines: pipelines{gateway.Rekey: {holds{cert: one, looks: true}}, gateway.Renew: {always(gateway.Allowed(""))}}},
		"another endpoint":             {pipelines: pipelines{gateway.Renew: {holds{cert: one, looks: true}}}, endpoint: "none"},
		"no answer":                    {pipelines: pipelines{gateway.Renew: {holds{looks: true, err: errors.New("down")}}}, reason: gateway.Unavailable},
		"no answer, and one who finds": {pipelines: pipelines{gateway.Renew: {holds{looks: true, err: errors.New("down")}, holds{cert: one, looks: true}}}, reason: gateway.Unavailable},
	} {
		if c.pipelines[gateway.Enroll] == nil {
			c.pipelines[gateway.Enroll] = w.enroll
		}
		w.with(c.pipelines)
		if c.endpoint == "" {
			c.endpoint = "est"
		}
		got, renews, err := w.gw.HeldBy(t.Context(), c.endpoint, gateway.Credential{Kind: gateway.CredentialPassword, ID: "a"}, gateway.Names{})
		if got != c.want || renews != c.renews || (err == nil) != (c.reason == "") || err != nil && gateway.AsError(err).Reason != c.reason {
			t.Errorf("%s: %v, %t, %v", name, got, renews, err)
		}
	}
}

// By a password alone a request that comes again is a renewal, where it was a rekey: the certificate that it had made is the
// newest by now, with its very key. It gets that one, not another.
func TestRekeyThatComesAgainAsRenewal(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	w.with(map[gateway.Operation]gateway.Pipeline{gateway.Enroll: w.enroll, gateway.Renew: w.enroll})
	r := w.request("device-1")
	r.Operation = gateway.Rekey
	first := w.mustEnroll(r)
	again := w.again(r)
	again.Operation = gateway.Renew
	if res := w.mustEnroll(again); !res.Repeated || res.Transaction != first.Transaction {
		t.Errorf("%+v is not the repeat of %s", res, first.Transaction)
	}
	enroll := w.again(r)
	enroll.Operation = gateway.Enroll
	if res := w.mustEnroll(enroll); res.Repeated {
		t.Error("a first enrollment is the repeat of a rekey")
	}
}
