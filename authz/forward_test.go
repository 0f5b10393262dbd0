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
}
