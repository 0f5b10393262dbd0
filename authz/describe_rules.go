package authz

import (
	"fmt"
	"time"

	"github.com/muster-pki/muster/authz/policy"
	"github.com/muster-pki/muster/gateway"
)

// Describe is gateway.Describer.
func (s *Policy) Describe() gateway.Description {
	rules := s.rules.Rules()
	d := gateway.Description{
		Checks:  []string{counted(len(rules), "rule") + ", the first that decides counts; what none decides: " + string(s.rules.Otherwise())},
		Refuses: []gateway.Reason{gateway.NotAuthorized},
	}
	const most = 8
	for i, r := range rules {
		if i == most {
			d.Checks = append(d.Checks, fmt.Sprintf("and %d more", len(rules)-most))
			break
		}
		does := string(r.Effect)
		switch {
		case r.Effect == policy.Profile:
			does += " " + r.Profile
		case r.Text != "":
			does += fmt.Sprintf(" %q", r.Text)
		}
		d.Checks = append(d.Checks, fmt.Sprintf("%s: %s if %s", r.Name, does, r.If))
	}
	for _, r := range rules {
		if r.Effect == policy.Hold && d.Holds == "" {
			d.Holds = fmt.Sprintf("where a rule says so, until %s, %s at most", approving(r.Approvers), lasting(r.Expires))
		}
	}
	return d
}

// Describe is gateway.Describer.
func (s *Webhook) Describe() gateway.Description {
	d := gateway.Description{
		Checks:  []string{"what the service at " + s.service.Host() + " says: it allows, or denies, or says more of the request"},
		Refuses: []gateway.Reason{gateway.NotAuthorized},
	}
	if s.hold {
		d.Holds = "where the service says so, until people approve it"
	}
	return d
}

// Describe is gateway.Describer.
func (s *Limits) Describe() gateway.Description {
	d := gateway.Description{Refuses: []gateway.Reason{gateway.Busy, gateway.NotAuthorized}, Uses: "one certificate of each number"}
	for _, l := range []struct {
		of    string
		limit *Limit
	}{{"the device", s.config.Device}, {"the endpoint", s.config.Endpoint}, {"the address (an IPv6 /64 counts as one)", s.config.Source}} {
		if l.limit == nil {
			continue
		}
		if n := int(l.limit.Issued); n > 0 && l.limit.Per != nil {
			d.Checks = append(d.Checks, fmt.Sprintf("at most %s issued in %s for %s", counted(n, "certificate"), lasting(time.Duration(*l.limit.Per)), l.of))
		}
		if n := int(l.limit.Active); n > 0 {
			d.Checks = append(d.Checks, fmt.Sprintf("at most %s valid at a time for %s", counted(n, "certificate"), l.of))
		}
	}
	return d
}
