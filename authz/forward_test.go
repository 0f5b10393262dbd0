package authz

import (
	"testing"

	"github.com/muster-pki/muster/gateway"
)

var _ gateway.Forwarder = (*Forward)(nil)

func TestForward(t *testing.T) {
	if _, err := NewForward(ForwardConfig{}); err == nil {
		t.Error("a stage that passes on to nobody")
	}
	s, err := NewForward(ForwardConfig{Backend: "central"})
	if err != nil {
		t.Fatal(err)
	}
	var g gateway.Grant
	if v := s.Decide(t.Context(), &gateway.Request{}, &g); v.Decision != gateway.Allow || g.Forward != "central" || s.ForwardsTo() != "central" || s.Name() != "forward" {
		t.Errorf("%+v, to %q", v, g.Forward)
	}
	// What is passed on cannot be told when to end.
	g = gateway.Grant{}
	g.EndBy(noon)
	if expect(t, s.Decide(t.Context(), &gateway.Request{}, &g), gateway.Deny, gateway.NotAuthorized, "2026-03-01T12:00:00Z"); g.Forward != "" {
		t.Errorf("to %q", g.Forward)
	}
}
