package authz

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/authz/webhook"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

func newWebhook(t *testing.T, d *decider, hold bool) *Webhook {
	t.Helper()
	none := 0
	s, err := NewWebhook(WebhookConfig{Config: webhook.Config{URL: d.URL, Retries: &none}, Hold: hold}, "", atNoon)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// atPhones is an endpoint with two profiles.
func atPhones() *gateway.Endpoint {
	phone, router := &gateway.Profile{Name: "phone", Validity: 48 * time.Hour}, &gateway.Profile{Name: "router", Validity: 96 * time.Hour}
	return &gateway.Endpoint{Profile: phone, Profiles: map[string]*gateway.Profile{"phone": phone, "router": router}}
}

// known is a grant of who has authenticated.
func known(r *gateway.Request) *gateway.Grant {
	g := gateway.NewGrant(r, atPhones(), noon)
	g.Authenticate(gateway.Credential{Kind: gateway.CredentialPassword, ID: "anna"})
	return g
}

// What an answer comes to, and that it changes nothing of the grant where it denies or is none.
func TestWebhookAnswers(t *testing.T) {
	const unanswered = gateway.CannotAnswer
	many := map[string]string{}
	for i := range maxAnsweredAttributes + 1 {
		many[fmt.Sprintf("a%d", i)] = "x"
	}
	tooMany, _ := json.Marshal(map[string]any{"decision": "allow", "attributes": many})
	for name, tt := range map[string]struct {
		status   int
		says     string
		decision gateway.Decision
		reason   gateway.Reason
		note     string
	}{
		"allowed":          {200, `{"decision":"allow","reason":"known since Monday"}`, gateway.Allow, "", `allows it: "known since Monday"`},
		"denied":           {200, `{"decision":"deny","reason":"stolen"}`, gateway.Deny, gateway.NotAuthorized, `denies it: "stolen"`},
		"denied, and more": {200, `{"decision":"deny","device":"device-2","profile":"none","attributes":{"a":"b"}}`, gateway.Deny, gateway.NotAuthorized, "denies it"},
		"no decision":      {200, `{"reason":"hm"}`, unanswered, gateway.Unavailable, "no `decision`"},
		"null":             {200, `{"decision":null}`, unanswered, gateway.Unavailable, "no `decision`"},
		"another word":     {200, `{"decision":"Allow"}`, unanswered, gateway.Unavailable, "no `decision`"},
		"a gateway's word": {200, `{"decision":"cannot-answer"}`, unanswered, gateway.Unavailable, "no `decision`"},
		"unknown name":     {200, `{"decision":"allow","allow":true}`, unanswered, gateway.Unavailable, "not documented"},
		"other case":       {200, `{"decision":"allow","notafter":"2026-03-02T00:00:00Z"}`, unanswered, gateway.Unavailable, "not documented"},
		"name twice":       {200, `{"decision":"deny","decision":"allow"}`, unanswered, gateway.Unavailable, "a name twice"},
		"attribute twice":  {200, `{"decision":"allow","attributes":{"a":"b","a":"c"}}`, unanswered, gateway.Unavailable, "a name twice"},
		"trailing data":    {200, `{"decision":"allow"} {}`, unanswered, gateway.Unavailable, "not one JSON object"},
		"garbage":          {200, `allow`, unanswered, gateway.Unavailable, "not one JSON object"},
		"another type":     {200, `{"decision":"allow","device":7}`, unanswered, gateway.Unavailable, "not one JSON object"},
		"too large":        {200, `{"decision":"allow","reason":"` + strings.Repeat("x", 70000) + `"}`, unanswered, gateway.Unavailable, "larger than"},
		"down":             {500, `{"decision":"allow"}`, unanswered, gateway.Unavailable, "answered 500"},
		"redirected":       {307, `{"decision":"allow"}`, unanswered, gateway.Unavailable, "redirections are not followed"},

		"message of controls": {200, `{"decision":"deny","message":"a\nb"}`, unanswered, gateway.Unavailable, "no `message`"},
		"message too long":    {200, `{"decision":"deny","message":"` + strings.Repeat("x", 201) + `"}`, unanswered, gateway.Unavailable, "no `message`"},
		"device of controls":  {200, `{"decision":"allow","device":"a\u0000"}`, unanswered, gateway.Unavailable, "no `device`"},
		"profile of controls": {200, `{"decision":"allow","profile":"a\u0000"}`, unanswered, gateway.Unavailable, "no `profile`"},
		"subject":             {200, `{"decision":"allow","subject":"CN=device-1"}`, gateway.Allow, "", "for CN=device-1"},
		"another subject":     {200, `{"decision":"allow","subject":"CN=device-2"}`, gateway.Deny, gateway.NotAuthorized, "for subject CN=device-2, the request asks for CN=device-1"},
		"no subject":          {200, `{"decision":"allow","subject":"device"}`, unanswered, gateway.Unavailable, "no `subject`"},
		"another profile":     {200, `{"decision":"allow","profile":"router"}`, gateway.Deny, gateway.NotAuthorized, `not "phone"`},
		"end that has been":   {200, `{"decision":"allow","notAfter":"2026-03-01T12:00:00Z"}`, unanswered, gateway.Unavailable, "`notAfter` that is to come"},
		"end of year one":     {200, `{"decision":"allow","notAfter":"0001-01-01T00:00:00Z"}`, unanswered, gateway.Unavailable, "`notAfter` that is to come"},
		"end within a second": {200, `{"decision":"allow","notAfter":"2026-03-01T12:00:00.5Z"}`, unanswered, gateway.Unavailable, "before the certificate would begin"},
		"no date":             {200, `{"decision":"allow","notAfter":"tomorrow"}`, unanswered, gateway.Unavailable, "not one JSON object"},
		"sans":                {200, `{"decision":"allow","sans":["dns:DEVICE-1.example","ip:192.0.2.1"]}`, gateway.Allow, "", "allows it"},
		"another san":         {200, `{"decision":"allow","sans":["dns:device-2.example"]}`, gateway.Deny, gateway.NotAuthorized, "the request asks for dns:device-1.example"},
		"san of another kind": {200, `{"decision":"allow","sans":["uri:device-1.example"]}`, gateway.Deny, gateway.NotAuthorized, "the request asks for dns:device-1.example"},
		"no san":              {200, `{"decision":"allow","sans":[]}`, gateway.Deny, gateway.NotAuthorized, "the request asks for dns:device-1.example"},
		"any san":             {200, `{"decision":"allow","sans":null}`, gateway.Allow, "", "allows it"},
		"san without a kind":  {200, `{"decision":"allow","sans":["device-1.example"]}`, unanswered, gateway.Unavailable, "no `sans`"},
		"san of no kind":      {200, `{"decision":"allow","sans":["other:1"]}`, unanswered, gateway.Unavailable, "no `sans`"},
		"many sans":           {200, `{"decision":"allow","sans":["dns:device-1.example"` + strings.Repeat(`,"dns:x.example"`, maxNames) + `]}`, unanswered, gateway.Unavailable, "129 sans, at most 128"},
		"no address":          {200, `{"decision":"allow","sans":["ip:x"]}`, unanswered, gateway.Unavailable, "no `sans`"},
		"no such attribute":   {200, `{"decision":"allow","attributes":{"a-b":"x"}}`, unanswered, gateway.Unavailable, `"a-b" is no name of an attribute`},
		"empty attribute":     {200, `{"decision":"allow","attributes":{"a":null}}`, unanswered, gateway.Unavailable, "attribute a is empty"},
		"attribute, controls": {200, `{"decision":"allow","attributes":{"a":"b\nc"}}`, unanswered, gateway.Unavailable, "cannot be printed"},
		"attribute too long":  {200, `{"decision":"allow","attributes":{"a":"` + strings.Repeat("x", 257) + `"}}`, unanswered, gateway.Unavailable, "at most 256"},
		"many attributes":     {200, string(tooMany), unanswered, gateway.Unavailable, "at most 32"},

		"hold":                {200, `{"decision":"hold","approvers":2,"expires":"3d"}`, unanswered, gateway.Unavailable, "no `hold: true`"},
		"terms without hold":  {200, `{"decision":"allow","approvers":2}`, unanswered, gateway.Unavailable, "its decision is not hold"},
		"time without hold":   {200, `{"decision":"deny","expires":"3d"}`, unanswered, gateway.Unavailable, "its decision is not hold"},
		"attribute of before": {200, `{"decision":"allow","attributes":{"site":"ber"}}`, gateway.Deny, gateway.NotAuthorized, `site="ber", of which an earlier stage has found "muc"`},
		"device of before":    {200, `{"decision":"allow","device":"device-2"}`, gateway.Deny, gateway.NotAuthorized, `this stage found device "device-2", an earlier one "device-1"`},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDecider(t)
			d.status, d.says = tt.status, tt.says
			r := enrolling(asked4)
			r.Extensions = sanExtension(sans(t, 2, "device-1.example"))
			g := known(r)
			g.NameDevice("device-1")
			before := map[string]string{"site": "muc"}
			g.Attributes = before
			v := newWebhook(t, d, false).Decide(context.Background(), r, g)
			expect(t, v, tt.decision, tt.reason, tt.note)
			if len(v.Claims) != 0 || v.Detail != "" && strings.Contains(v.Detail, "stolen") {
				t.Errorf("%+v", v)
			}
			if len(before) != 1 || before["site"] != "muc" || !maps.Equal(g.Attributes, before) {
				t.Errorf("attributes %v", g.Attributes)
			}
		})
	}
}

// What an answer adds.
func TestWebhookEnriches(t *testing.T) {
	d := newDecider(t)
	s := newWebhook(t, d, false)
	r := enrolling(asked4)
	r.Profile = ""
	g := known(r)
	before := map[string]string{"site": "muc"}
	g.Attributes = before
	d.says = `{"decision":"allow","device":"IMEI 1","profile":"router","notAfter":"2026-03-02T00:00:00.9+00:00","attributes":{"rack":"7","site":"muc"},"subject":"CN=device-1","message":"ignored"}`
	v := s.Decide(context.Background(), r, g)
	expect(t, v, gateway.Allow, "", `device "IMEI 1"`, "profile router", "until 2026-03-02T00:00:00Z", `attributes rack="7" site="muc"`)
	if g.Device != "IMEI 1" || g.Profile != "router" || !g.ProfileChosen() || !maps.Equal(g.Attributes, map[string]string{"rack": "7", "site": "muc"}) {
		t.Errorf("%+v", g)
	}
	if len(before) != 1 {
		t.Errorf("the map of an earlier stage was changed: %v", before)
	}
	if want := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC); !g.NotAfter.Equal(want) {
		t.Errorf("it ends %v", g.NotAfter)
	}
	// A later end, or a profile that a later stage chooses, lengthens nothing.
	d.says = `{"decision":"allow","notAfter":"2027-03-02T00:00:00Z"}`
	expect(t, s.Decide(context.Background(), r, g), gateway.Allow, "")
	if g.ChooseProfile("phone"); !g.NotAfter.Equal(time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("it ends %v", g.NotAfter)
	}
	g = known(r)
	expect(t, s.Decide(context.Background(), r, g), gateway.Allow, "")
	if want := noon.Add(48*time.Hour - time.Second); !g.NotAfter.Equal(want) {
		t.Errorf("it ends %v, want the profile's %v", g.NotAfter, want)
	}
	// With those of other services there are no more than of one.
	d.says = `{"decision":"allow","attributes":{"more":"x"}}`
	g.Attributes = map[string]string{}
	for i := range maxAnsweredAttributes {
		g.Attributes[fmt.Sprintf("a%d", i)] = "x"
	}
	expect(t, s.Decide(context.Background(), r, g), gateway.Deny, gateway.NotAuthorized, "33 attributes")
}

// Whose request it is, is no proof of it.
func TestWebhookAuthenticatesNobody(t *testing.T) {
	d := newDecider(t)
	d.says = `{"decision":"allow","device":"device-1"}`
	r := enrolling(asked4)
	g := gateway.NewGrant(r, atPhones(), noon)
	expect(t, newWebhook(t, d, false).Decide(context.Background(), r, g), gateway.Deny, gateway.NotAuthorized, "no stage before has authenticated")
	if g.Device != "" || g.Requester != "" {
		t.Errorf("%+v", g)
	}
	d.says = `{"decision":"allow"}`
	expect(t, newWebhook(t, d, false).Decide(context.Background(), r, g), gateway.Allow, "")
	if g.Requester != "" {
		t.Errorf("%+v", g)
	}
	var s any = newWebhook(t, d, false)
	if _, is := s.(gateway.Identifier); is {
		t.Error("it says who asks")
	}
	if _, is := s.(gateway.Recogniser); is {
		t.Error("it says who asks")
	}
}

// A client that is denied is told what the service has for it, and no more.
func TestWebhookMessage(t *testing.T) {
	d := newDecider(t)
	r := enrolling(asked4)
	for says, want := range map[string]string{
		`{"decision":"deny","reason":"stolen","message":"call the service desk"}`:            "call the service desk",
		`{"decision":"deny","reason":"stolen"}`:                                              detailDenied,
		`{"decision":"allow","reason":"stolen","message":"hello","subject":"CN=device-2"}`:   "this is for another subject",
		`{"decision":"allow","reason":"stolen","message":"hello","profile":"switch"}`:        "this is for another profile",
		`{"decision":"deny","message":"` + strings.Repeat("ä", 100) + `","reason":"stolen"}`: strings.Repeat("ä", 100),
	} {
		d.says = says
		if v := newWebhook(t, d, false).Decide(context.Background(), r, known(r)); v.Decision != gateway.Deny || v.Detail != want {
			t.Errorf("%s: %+v", says, v)
		}
	}
}

// A request is held on the service's terms, where it may.
func TestWebhookHolds(t *testing.T) {
	d := newDecider(t)
	s := newWebhook(t, d, true)
	r := enrolling(asked4)
	for says, want := range map[string]gateway.HoldTerms{
		`{"decision":"hold"}`:                               {Approvers: 1, Expires: 7 * 24 * time.Hour},
		`{"decision":"hold","approvers":2,"expires":"3d"}`:  {Approvers: 2, Expires: 72 * time.Hour},
		`{"decision":"hold","approvers":10,"expires":"1m"}`: {Approvers: 10, Expires: time.Minute},
	} {
		d.says = says
		v := s.Decide(context.Background(), r, known(r))
		expect(t, v, gateway.Hold, "", "holds it")
		if v.Terms != want {
			t.Errorf("%s: %+v", says, v.Terms)
		}
	}
	g := known(r)
	d.says = `{"decision":"hold","attributes":{"site":"muc"},"device":"device-1"}`
	if expect(t, s.Decide(context.Background(), r, g), gateway.Hold, ""); g.Attributes["site"] != "muc" || g.Device != "device-1" {
		t.Errorf("%+v", g)
	}
	for says, want := range map[string]string{
		`{"decision":"hold","approvers":11}`: "no `approvers`", `{"decision":"hold","approvers":-1}`: "no `approvers`",
		`{"decision":"hold","expires":"59s"}`: "no `expires`", `{"decision":"hold","expires":"91d"}`: "no `expires`", `{"decision":"hold","expires":"x"}`: "no `expires`",
	} {
		d.says = says
		expect(t, s.Decide(context.Background(), r, known(r)), gateway.CannotAnswer, gateway.Unavailable, want)
	}
	d.says = `{"decision":"hold","device":"device-2"}`
	g = known(r)
	g.NameDevice("device-1")
	expect(t, s.Decide(context.Background(), r, g), gateway.Deny, gateway.NotAuthorized, `this stage found device "device-2"`)
}

// What certifies nothing has no names, profile or end to speak of, and does not wait; the rest counts.
func TestWebhookOperations(t *testing.T) {
	d := newDecider(t)
	s := newWebhook(t, d, true)
	for _, op := range gateway.Operations {
		r := enrolling(asked4)
		r.Operation, r.Profile = op, ""
		certifies := op != gateway.Revoke && op != gateway.Query
		for says, want := range map[string]bool{
			`{"decision":"allow","device":"device-1","attributes":{"site":"muc"}}`: true, `{"decision":"allow","profile":"phone"}`: certifies,
			`{"decision":"allow","subject":"CN=device-1"}`: certifies, `{"decision":"allow","sans":[]}`: certifies,
			`{"decision":"allow","notAfter":"2026-03-02T00:00:00Z"}`: certifies, `{"decision":"hold"}`: certifies,
		} {
			d.says = says
			g := known(r)
			v := s.Decide(context.Background(), r, g)
			if passes := v.Decision == gateway.Allow || v.Decision == gateway.Hold; passes != want || !want && v.Decision != gateway.CannotAnswer {
				t.Errorf("%s, %s: %+v", op, says, v)
			}
		}
		d.says = `{"decision":"deny"}`
		expect(t, s.Decide(context.Background(), r, known(r)), gateway.Deny, gateway.NotAuthorized)
		if got := d.questions[len(d.questions)-1]["request"].(map[string]any)["operation"]; got != string(op) {
			t.Errorf("asked about %v", got)
		}
	}
}

// The names that a renewal changes to are those that the answer is about (RFC 6402 section 2.8).
func TestWebhookChangedNames(t *testing.T) {
	d := newDecider(t)
	s := newWebhook(t, d, false)
	r := enrolling(asked4)
	r.Operation = gateway.Renew
	r.NewNames = &gateway.Names{Subject: subject(t, "CN=device-9"), SubjectAltName: sans(t, 2, "device-9.example")}
	for says, want := range map[string]gateway.Decision{
		`{"decision":"allow","subject":"CN=device-9","sans":["dns:device-9.example"]}`: gateway.Allow,
		`{"decision":"allow","subject":"CN=device-1"}`:                                 gateway.Deny,
		`{"decision":"allow","sans":["dns:device-1.example"]}`:                         gateway.Deny,
	} {
		d.says = says
		if v := s.Decide(context.Background(), r, known(r)); v.Decision != want {
			t.Errorf("%s: %+v", says, v)
		}
	}
	asked, _ := json.Marshal(d.questions[0]["request"])
	if !bytes.Contains(asked, []byte(`"newSubject":{`)) || !bytes.Contains(asked, []byte(`"dns":["device-9.example"]`)) {
		t.Errorf("asked %s", asked)
	}
	d.says = `{"decision":"allow","sans":[]}`
	r.NewNames.SubjectAltName = []byte("x")
	expect(t, s.Decide(context.Background(), r, known(r)), gateway.Deny, gateway.BadTemplate)
}

// Addresses are compared as such.
func TestWebhookAddresses(t *testing.T) {
	d := newDecider(t)
	s := newWebhook(t, d, false)
	r := enrolling(asked4)
	r.Extensions = sanExtension(sans(t, 7, "\xc0\x00\x02\x01"))
	for says, want := range map[string]gateway.Decision{
		`["ip:192.0.2.1"]`: gateway.Allow, `["ip:::ffff:192.0.2.1"]`: gateway.Allow, `["ip:192.0.2.2"]`: gateway.Deny, `["dns:192.0.2.1"]`: gateway.Deny,
	} {
		d.says = `{"decision":"allow","sans":` + says + `}`
		if v := s.Decide(context.Background(), r, known(r)); v.Decision != want {
			t.Errorf("%s: %+v", says, v)
		}
	}
}

func TestWebhookConfigErrors(t *testing.T) {
	for want, c := range map[string]WebhookConfig{
		"url: where the service is": {}, "signed-answers: with which secret": {Config: webhook.Config{URL: "https://example.com", SignedAnswers: true}},
		"timeout: 100ms to 30s": {Config: webhook.Config{URL: "https://example.com", Timeout: strictyaml.Duration(time.Millisecond)}},
	} {
		s, err := NewWebhook(c, "", atNoon)
		if wantError(t, err, want); s != nil {
			t.Errorf("%s: made", want)
		}
	}
	_, err := NewWebhook(WebhookConfig{Config: webhook.Config{URL: "https://example.com"}}, "", nil)
	wantError(t, err, "no clock")
}
