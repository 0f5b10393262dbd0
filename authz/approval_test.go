package authz

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

func TestApproval(t *testing.T) {
	const day = 24 * time.Hour
	for name, c := range map[string]struct {
		config    ApprovalConfig
		operation gateway.Operation
		terms     gateway.HoldTerms
		decision  gateway.Decision
		note      string
	}{
		"defaults":          {operation: gateway.Enroll, terms: gateway.HoldTerms{Approvers: 1, Expires: 7 * day}, decision: gateway.Hold, note: "1 person to approve within 7d"},
		"every operation":   {operation: gateway.Renew, terms: gateway.HoldTerms{Approvers: 1, Expires: 7 * day}, decision: gateway.Hold},
		"two people":        {config: ApprovalConfig{Approvers: 2, Expires: strictyaml.Duration(day)}, operation: gateway.Rekey, terms: gateway.HoldTerms{Approvers: 2, Expires: day}, decision: gateway.Hold, note: "2 people to approve within 1d"},
		"this operation":    {config: ApprovalConfig{Operations: []gateway.Operation{gateway.Enroll, gateway.Rekey}}, operation: gateway.Rekey, terms: gateway.HoldTerms{Approvers: 1, Expires: 7 * day}, decision: gateway.Hold},
		"another operation": {config: ApprovalConfig{Operations: []gateway.Operation{gateway.Enroll}}, operation: gateway.Renew, decision: gateway.Allow, note: "renew waits for nobody"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := NewApproval(c.config, time.Now)
			if err != nil {
				t.Fatal(err)
			}
			r := &gateway.Request{Operation: c.operation}
			v := s.Decide(context.Background(), r, &gateway.Grant{})
			expect(t, v, c.decision, "", c.note)
			if v.Terms != c.terms {
				t.Errorf("terms %+v", v.Terms)
			}
			endedDenies(t, s, r)
		})
	}
	for want, c := range map[string]ApprovalConfig{
		"approvers: 1 to 10": {Approvers: -1},
		"approvers: 1 to":    {Approvers: 11},
		"expires: 1m":        {Expires: strictyaml.Duration(time.Second)},
		"expires: 1m to 90d": {Expires: strictyaml.Duration(91 * day)},
		`"enrol" does not wait (did you mean "enroll"?)`: {Operations: []gateway.Operation{"enrol"}},
		`"revoke" does not wait`:                         {Operations: []gateway.Operation{gateway.Revoke}},
		`operations: "renew" stands twice`:               {Operations: []gateway.Operation{gateway.Renew, gateway.Renew}},
	} {
		_, err := NewApproval(c, time.Now)
		wantError(t, err, want)
	}
}

// Of those whom nobody has authenticated only so many wait, from one address and from all. Others do not count.
func TestApprovalOfStrangers(t *testing.T) {
	now := noon
	s, err := NewApproval(ApprovalConfig{}, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	ask := func(address string, g gateway.Grant) gateway.Verdict {
		return s.Decide(t.Context(), &gateway.Request{Operation: gateway.Enroll, Source: netip.MustParseAddr(address)}, &g)
	}
	held := func(what, address string, g gateway.Grant, n int) {
		t.Helper()
		for i := range n {
			if v := ask(address, g); v.Decision != gateway.Hold {
				t.Fatalf("%s, %d: %+v", what, i, v)
			}
		}
	}
	held("one address", "192.0.2.1", gateway.Grant{}, 10)
	v := ask("192.0.2.1", gateway.Grant{})
	expect(t, v, gateway.Deny, gateway.Busy, "nobody has authenticated requests of 192.0.2.1/32")
	if v.RetryAfter != time.Minute || !strings.Contains(v.Detail, "try again in 1m0s") {
		t.Errorf("%+v", v)
	}
	held("authenticated", "192.0.2.1", gateway.Grant{Requester: "password:a"}, 200)
	held("another address", "192.0.2.2", gateway.Grant{}, 1)
	now = now.Add(time.Minute)
	held("later", "192.0.2.1", gateway.Grant{}, 1)
	now = now.Add(time.Hour)
	for i := range 10 {
		held("many addresses", fmt.Sprintf("198.51.100.%d", i), gateway.Grant{}, 10)
	}
	expect(t, ask("203.0.113.1", gateway.Grant{}), gateway.Deny, gateway.Busy, "requests of any address")
	now = now.Add(6 * time.Second)
	held("many addresses, later", "203.0.113.1", gateway.Grant{}, 1)

	_, err = NewApproval(ApprovalConfig{Strangers: PasswordLimit{Burst: -1}}, time.Now)
	wantError(t, err, "strangers: burst")
	_, err = NewApproval(ApprovalConfig{}, nil)
	wantError(t, err, "no clock")
}
