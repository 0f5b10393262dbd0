package authz

import (
	"context"
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
			s, err := NewApproval(c.config)
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
		_, err := NewApproval(c)
		wantError(t, err, want)
	}
}
