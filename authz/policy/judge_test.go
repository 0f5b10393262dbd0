package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
)

const rulesOfAllKinds = `rules:
  - {name: weak, if: 'request.key.algorithm == "RSA" && request.key.bits < 3072', deny: "RSA keys need 3072 bits"}
  - {name: lab, if: 'device.attributes["site"] == "lab"', profile: lab}
  - {name: second, if: 'grant.profile == "lab"', profile: other}
  - {name: night, if: 'now.getHours() < 6', hold: "it is night", approvers: 2, expires: 3d}
  - {name: known, if: device.known, allow: true}
`

func TestJudge(t *testing.T) {
	for name, c := range map[string]struct {
		change   func(f *gateway.Facts)
		decision gateway.Decision
		rule     string
		detail   string
		profile  string
		note     string
	}{
		"deny":  {func(*gateway.Facts) {}, gateway.Deny, "weak", "RSA keys need 3072 bits", "base", `rule weak (policy.yaml:2): deny "RSA keys need 3072 bits", since request.key.algorithm = "RSA", request.key.bits = 2048`},
		"allow": {func(f *gateway.Facts) { f.Request.Key.Bits = 3072 }, gateway.Allow, "known", "", "base", "rule known (policy.yaml:6): allow, since device.known = true"},
		"profile, allow": {func(f *gateway.Facts) {
			f.Request.Key.Bits, f.Device.Attributes = 3072, map[string]string{"site": "lab"}
		}, gateway.Allow, "known", "", "lab", `rule lab (policy.yaml:3): profile lab, since device.attributes["site"] = "lab"; rule known`},
		"hold":                 {func(f *gateway.Facts) { f.Request.Key.Bits, f.Now = 3072, noon.Add(-10*time.Hour) }, gateway.Hold, "night", "", "base", `rule night (policy.yaml:5): hold "it is night", since now = 2026-11-23T02:00:00Z`},
		"otherwise":            {func(f *gateway.Facts) { f.Request.Key.Bits, f.Device.Known = 3072, false }, gateway.Deny, "", "no rule allows this", "base", "no rule of policy.yaml decides: otherwise deny"},
		"error":                {func(f *gateway.Facts) { f.Request.Key.Bits, f.Device.Attributes = 3072, nil }, gateway.CannotAnswer, "lab", "", "base", "rule lab (policy.yaml:3:39): no such key: site"},
		"lazily":               {func(f *gateway.Facts) { f.Device.Attributes = nil }, gateway.Deny, "weak", "RSA keys need 3072 bits", "base", ""},
		"too many":             {func(f *gateway.Facts) { f.Request.SANs.DNS = make([]string, 129) }, gateway.CannotAnswer, "", "", "base", "request.sans.dns has 129 elements, and rules look at 128 at most"},
		"too many credentials": {func(f *gateway.Facts) { f.Credentials = make([]gateway.FactsCredential, 17) }, gateway.CannotAnswer, "", "", "base", "credentials has 17 elements, and rules look at 16 at most"},
		"too long a DNS name":  {func(f *gateway.Facts) { f.Request.SANs.DNS = []string{strings.Repeat("x", 256)} }, gateway.CannotAnswer, "", "", "base", "request.sans.dns has 256 bytes, and rules look at 255 at most"},
		"too long":             {func(f *gateway.Facts) { f.Request.Subject.CommonName = strings.Repeat("x", 1025) }, gateway.CannotAnswer, "", "", "base", "request.subject.commonName has 1025 bytes, and rules look at 1024 at most"},
		"too long within": {func(f *gateway.Facts) {
			f.Credentials[0].Certificate.Subject.Attributes = map[string][]string{"x": {strings.Repeat("x", 1025)}}
		}, gateway.CannotAnswer, "", "", "base", "credentials.certificate.subject.attributes has 1025 bytes"},
		"long key": {func(f *gateway.Facts) { f.Attributes = map[string]string{strings.Repeat("x", 1025): ""} }, gateway.CannotAnswer, "", "", "base", "attributes has 1025 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			f := request()
			c.change(f)
			d := judge(t, rulesOfAllKinds, f)
			rule := ""
			if d.Rule != nil {
				rule = d.Rule.Name
			}
			if d.Decision != c.decision || rule != c.rule || d.Detail != c.detail || f.Grant.Profile != c.profile {
				t.Errorf("%+v, rule %q, profile %q", d, rule, f.Grant.Profile)
			}
			wantText(t, d.Note, c.note)
		})
	}
	rules := mustParse(t, rulesOfAllKinds)
	if r := rules.Rules()[3]; r.Approvers != 2 || r.Expires != 3*24*time.Hour || !rules.Holds() {
		t.Errorf("%+v", r)
	}
	if d := judge(t, "rules: [{name: a, if: 'false', deny: x}]\notherwise: allow\n", request()); d.Decision != gateway.Allow || d.Detail != "" {
		t.Errorf("otherwise allow: %+v", d)
	}
}

// A profile that cannot be had refuses: nothing goes on under another one than the rules want.
func TestJudgeRefusedProfile(t *testing.T) {
	p := mustParse(t, "rules:\n  - {name: lab, if: device.known, profile: lab}\n  - {name: all, if: 'true', allow: true}\n")
	d := p.Judge(t.Context(), request(), func(string) error { return errors.New("the endpoint does not offer it") })
	if d.Decision != gateway.Deny || d.Rule == nil || d.Rule.Name != "lab" {
		t.Errorf("%+v", d)
	}
	wantText(t, d.Note, "rule lab (policy.yaml:2) chooses the profile lab: the endpoint does not offer it")
}

// What takes too much, or has no time left, is no answer.
func TestJudgeStops(t *testing.T) {
	p := mustParse(t, "rules: [{name: loop, if: 'request.sans.dns.exists(a, request.sans.dns.exists(b, a == b && b == \"\"))', deny: x}]\notherwise: allow\n")
	f := request()
	for len(f.Request.SANs.DNS) < 128 {
		f.Request.SANs.DNS = append(f.Request.SANs.DNS, strings.Repeat("x", 200))
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	d := p.Judge(ended, f, nil)
	if d.Decision != gateway.CannotAnswer {
		t.Errorf("%+v", d)
	}
	wantText(t, d.Note, "rule loop", "not evaluated in time")
	// The bound at run time counts by itself: what the estimate has let pass is stopped.
	x, faults := compileWithin("request.sans.dns.exists(a, a == \"\")", MaxCost, 50)
	if faults != nil {
		t.Fatal(faults)
	}
	if _, failed := x.evaluate(t.Context(), f); failed.message != "it costs more than 50 units" {
		t.Errorf("%+v", failed)
	}
}

// Programs are shared by all requests.
func TestJudgeConcurrently(t *testing.T) {
	p := mustParse(t, rulesOfAllKinds)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 50 {
				f := request()
				f.Request.Key.Bits = 2048 + i%2*1024
				want := []gateway.Decision{gateway.Deny, gateway.Allow}[i%2]
				if d := p.Judge(t.Context(), f, nil); d.Decision != want {
					t.Errorf("%+v", d)
				}
			}
		})
	}
	wg.Wait()
}

func TestTry(t *testing.T) {
	p := mustParse(t, rulesOfAllKinds)
	f := request()
	f.Request.Key.Bits, f.Device.Attributes = 3072, map[string]string{"site": "lab"}
	tried, d := p.Try(t.Context(), f)
	var got []string
	for _, r := range tried {
		got = append(got, fmt.Sprint(r.Rule.Name, " ", r.Matched, " ", r.Reached, " ", r.Seen))
	}
	want := []string{
		`weak false true [request.key.algorithm = "RSA" request.key.bits = 3072]`, `lab true true [device.attributes["site"] = "lab"]`,
		`second true false [grant.profile = "lab"]`, `night false true [now = 2026-11-23T12:00:00Z]`, `known true true [device.known = true]`,
	}
	if d.Decision != gateway.Allow || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%+v\n%s", d, strings.Join(got, "\n"))
	}
	f = request()
	f.Device.Attributes = nil
	if tried, d = p.Try(t.Context(), f); d.Decision != gateway.Deny || tried[1].Failed != "no such key: site" || tried[1].Reached || tried[1].Seen[0].Value != nil {
		t.Errorf("%+v, %+v", d, tried[1])
	}
}

// What expressions can do.
func TestExpressions(t *testing.T) {
	f := request()
	for text, want := range map[string]bool{
		`cidr("10.0.0.0/8").containsIP(request.source)`:                              true,
		`isIP(request.source) && ip(request.source).family() == 6`:                   false,
		`request.sans.dns.all(n, n.endsWith(".example"))`:                            true,
		`request.sans.dns.all(n, n.matches("^bts-[0-9]+[.]ran[.]example$"))`:         false,
		`device.attributes.?site.orValue("") == "north"`:                             true,
		`attributes[?"region"].orValue("none") == "none"`:                            true,
		`"tier" in attributes && attributes.tier == "gold"`:                          true,
		`has(attributes.region)`:                                                     false,
		`has(request.notAfter)`:                                                      false,
		`has(request.renews)`:                                                        false,
		`sets.contains(["Vendor", "Other"], request.subject.organizationName)`:       true,
		`request.subject.attributes.exists(k, v, k == "commonName" && "bts-7" in v)`: true,
		`request.subject.commonName.lowerAscii().startsWith("bts-") && request.subject.commonName.split("-").size() == 2`: true,
		`credentials.exists(c, c.accepted && c.certificate.issuer.dn == "CN=Vendor CA")`:                                  true,
		`now.getDayOfWeek() == 1 && now.getHours("Europe/Berlin") == 13`:                                                  true,
		`device.identifiers["serial"] == ["SN7"]`:                                                                         true,
		`now < timestamp("2027-01-01T00:00:00Z") && request.notAfter - now < duration("24h")`:                             true,
		`now.getHours("+01:00") == 13 && now.getHours("UTC") == 12 && now.getHours("-09:30") == 2`:                        true,
		// What rules are for is not too much.
		`credentials.exists(c, c.accepted && sets.contains(c.certificate.sans.dns, request.sans.dns))`:   false,
		`credentials.filter(c, c.accepted).all(c, request.sans.dns.all(n, n in c.certificate.sans.dns))`: false,
		`credentials.map(c, c.certificate.sans.dns).flatten().exists(n, n == "a")`:                       false,
		`request.sans.dns.all(n, device.identifiers["serial"].exists(s, n == s + ".ran.example"))`:       false,
		`request.sans.dns.map(x, [x]) == [["bts-7.ran.example"], ["bts-7.example"]]`:                     true,
		`request.key.algorithm != "" && request.protocol in ["est", "cmp"] && request.operation != ""`:   true,
		`request.subject.attributes[?"commonName"].orValue([]).exists(n, n == "bts-7")`:                  true,
		`request.notAfter < now + duration("24h")`:                                                       true,
		`attributes.?site.or(optional.none()).hasValue()`:                                                false,
		`request.sans.uri == [] && device.profiles.size() == 0`:                                          true,
		`request.sans == request.renews.sans`:                                                            false,
		`requester == ""`:                                                                                false,
	} {
		x, faults := compile(text)
		if faults != nil {
			t.Errorf("%s: %v", text, faults)
			continue
		}
		if got, failed := x.evaluate(t.Context(), f); got != want || failed.message != "" {
			t.Errorf("%s: %v, %v", text, got, failed)
		}
	}
}

// BenchmarkJudge is what the rules of a stage cost a request: five rules, the last decides.
func BenchmarkJudge(b *testing.B) {
	p := mustParse(b, rulesOfAllKinds)
	f := request()
	f.Request.Key.Bits = 3072
	b.ReportAllocs()
	for b.Loop() {
		if d := p.Judge(context.Background(), f, nil); d.Decision != gateway.Allow {
			b.Fatal(d)
		}
	}
}

// BenchmarkParse is what one rule costs when a configuration is loaded.
func BenchmarkParse(b *testing.B) {
	for b.Loop() {
		if _, faults := compile(`request.key.algorithm == "RSA" && request.key.bits < 3072`); faults != nil {
			b.Fatal(faults)
		}
	}
}
