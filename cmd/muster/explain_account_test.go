package main

import (
	"testing"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/admin"
)

// Nobody is said not to have authenticated who has.
func TestExplainKeptInMemory(t *testing.T) {
	for _, tt := range []struct {
		requester string
		reason    gateway.Reason
		want      string
	}{
		{"", gateway.Unauthenticated, ", as with all who do not authenticate"}, {"", gateway.Unavailable, ", as with all who do not authenticate"},
		{"password:anna", gateway.Unavailable, ", as with all that is refused for the time being"}, {"password:anna", gateway.Busy, ", as with all that is refused for the time being"},
		{"password:anna", gateway.BadTemplate, ""},
	} {
		if got := asWith(&admin.Transaction{Requester: tt.requester, Reason: string(tt.reason)}); got != tt.want {
			t.Errorf("%+v: %q", tt, got)
		}
	}
}
