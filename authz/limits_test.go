package authz

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

func decodeLimits(t testing.TB, text string) (*Limits, error) {
	t.Helper()
	var n yaml.Node
	if err := yaml.Unmarshal([]byte(text), &n); err != nil {
		t.Fatal(err)
	}
	var c LimitsConfig
	if err := strictyaml.DecodeNode("muster.yaml", n.Content[0], &c); err != nil {
		return nil, err
	}
	return NewLimits(c, atNoon)
}

func TestLimits(t *testing.T) {
	s, err := decodeLimits(t, `{device: {issued: 3, per: 24h, active: 2}, endpoint: {issued: 10000, per: 1h}, source: {issued: 100, per: 1h, active: 500}}`)
	if err != nil {
		t.Fatal(err)
	}
	r := &gateway.Request{Operation: gateway.Enroll, Endpoint: "ran", Source: netip.MustParseAddr("192.0.2.7")}
	v := s.Decide(t.Context(), r, &gateway.Grant{Device: "d"})
	expect(t, v, gateway.Allow, "", `device "d": 3 issued per 1d`, `device "d": 2 active`, `endpoint "ran": 10000 issued per 1h`, "source 192.0.2.7/32: 500 active")
	day, hour := noon.Add(24*time.Hour), noon.Add(time.Hour)
	want := []gateway.Claim{
		{Key: "limit:device:1:d:issued:1d", Limit: 3, Until: day, Reason: gateway.Busy},
		{Key: "limit:device:1:d:active", Limit: 2, Active: true, Reason: gateway.NotAuthorized},
		{Key: "limit:endpoint:3:ran:issued:1h", Limit: 10000, Until: hour, Reason: gateway.Busy},
		{Key: "limit:source:12:192.0.2.7/32:issued:1h", Limit: 100, Until: hour, Reason: gateway.Busy},
		{Key: "limit:source:12:192.0.2.7/32:active", Limit: 500, Active: true, Reason: gateway.NotAuthorized},
	}
	if len(v.Claims) != len(want) {
		t.Fatalf("%d claims: %+v", len(v.Claims), v.Claims)
	}
	for i, c := range v.Claims {
		if c.Lost == "" || c.Detail == "" {
			t.Errorf("claim %s says nothing when it is lost", c.Key)
		}
		c.Lost, c.Detail = "", ""
		if fmt.Sprintf("%+v", c) != fmt.Sprintf("%+v", want[i]) {
			t.Errorf("claim %d:\n got %+v\nwant %+v", i, c, want[i])
		}
	}
	expect(t, s.Decide(t.Context(), r, &gateway.Grant{}), gateway.Deny, gateway.NotAuthorized, "no stage before", "named the device")
	endedDenies(t, s, r)
}

// One IPv6 subscriber counts as one, and who has no address as one, too. What is not configured claims nothing.
func TestLimitsOfSources(t *testing.T) {
	s, err := decodeLimits(t, `{source: {active: 5}}`)
	if err != nil {
		t.Fatal(err)
	}
	for source, key := range map[string]string{
		"2001:db8:1:2:3::4": "limit:source:17:2001:db8:1:2::/64:active", "2001:db8:1:2:ffff::": "limit:source:17:2001:db8:1:2::/64:active",
		"::ffff:192.0.2.7": "limit:source:12:192.0.2.7/32:active", "": "limit:source:10:no address:active",
	} {
		r := &gateway.Request{}
		if source != "" {
			r.Source = netip.MustParseAddr(source)
		}
		v := s.Decide(t.Context(), r, &gateway.Grant{})
		if len(v.Claims) != 1 || v.Claims[0].Key != key {
			t.Errorf("%s: %+v", source, v.Claims)
		}
	}
}

func TestLimitsNonsense(t *testing.T) {
	for text, word := range map[string]string{
		`{}`:                                         "nothing is limited: say device, endpoint or source",
		`{device: {}}`:                               "device: nothing is limited: say issued and per, or active",
		`{device: {issued: 3}}`:                      "device: per: say in what time 3 may be issued",
		`{source: {per: 1h}}`:                        "source: issued: say how many per 1h",
		`{device: {per: 1h, active: 1}}`:             "issued: say how many",
		`{endpoint: {per: 0s, active: 1}}`:           "issued: say how many",
		`{endpoint: {issued: 3, per: 0s}}`:           "per: 1s to 365d",
		`{endpoint: {issued: 3, per: 366d}}`:         "per: 1s to 365d",
		`{endpoint: {issued: 3, per: -1h}}`:          "wants a period",
		`{endpoint: {issued: 0, per: 1h}}`:           "wants a number from 1 to",
		`{endpoint: {issued: -1, per: 1h}}`:          "wants a number from 1 to",
		`{endpoint: {active: 0}}`:                    "wants a number from 1 to",
		`{endpoint: {active: 1.5}}`:                  "wants a number from 1 to",
		`{endpoint: {active: 1000000001}}`:           "wants a number from 1 to",
		`{endpiont: {active: 1}}`:                    "endpoint",
		`{endpoint: {isued: 1, per: 1h}}`:            "issued",
		`{device: {active: 1}, source: {issued: 1}}`: "source: per",
	} {
		_, err := decodeLimits(t, text)
		wantError(t, err, word)
	}
	if _, err := NewLimits(LimitsConfig{Endpoint: &Limit{Active: 1}}, nil); err == nil {
		t.Error("no clock")
	}
}

func TestWindow(t *testing.T) {
	ca := newCA(t, "Operator", nil)
	cert := ca.issue(2, "device-0002", nil) // noon - 1h to noon + 1 year
	lasts := cert.NotAfter.Sub(cert.NotBefore)
	store := &issued{certs: []*gateway.Certificate{record(cert, "device-0002")}}
	for text, opens := range map[string]time.Time{
		"30d": cert.NotAfter.AddDate(0, 0, -30), "50%": cert.NotBefore.Add(lasts / 2), "100%": cert.NotBefore, "2000d": cert.NotBefore,
	} {
		var c OwnCertificateConfig
		if err := strictyaml.DecodeNode("muster.yaml", yamlNode(t, "{window: "+text+"}"), &c); err != nil {
			t.Fatal(err)
		}
		for _, op := range []gateway.Operation{gateway.Renew, gateway.Rekey} {
			r := renewal(cert)
			r.Operation = op
			at := func(now time.Time) gateway.Verdict {
				s, err := NewOwnCertificate(c, store, func() time.Time { return now })
				if err != nil {
					t.Fatal(err)
				}
				if v, _ := s.Identify(t.Context(), r, &gateway.Grant{}); v.Decision != gateway.Allow {
					t.Errorf("%s: a repeat at %s: %s", text, now, v.Note)
				}
				return s.Decide(t.Context(), r, &gateway.Grant{})
			}
			if opens.After(cert.NotBefore) {
				v := at(opens.Add(-2 * time.Second))
				expect(t, v, gateway.Deny, gateway.NotAuthorized, "not before 20")
				if _, err := time.Parse(time.RFC3339, v.Detail[len(v.Detail)-len("2006-01-02T15:04:05Z"):]); err != nil {
					t.Errorf("%q does not say from when on", v.Detail)
				}
			}
			expect(t, at(opens.Add(time.Second)), gateway.Allow, "")
		}
	}
	// Who revokes, or asks, need not wait.
	r := renewal(cert)
	revokes(r, cert)
	s, err := NewOwnCertificate(OwnCertificateConfig{Window: Portion{percent: 1}}, store, atNoon)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, s.Decide(t.Context(), r, &gateway.Grant{}), gateway.Allow, "")
	expect(t, s.Decide(t.Context(), renewal(cert), &gateway.Grant{}), gateway.Deny, gateway.NotAuthorized)
}

func yamlNode(t testing.TB, text string) *yaml.Node {
	t.Helper()
	var n yaml.Node
	if err := yaml.Unmarshal([]byte(text), &n); err != nil {
		t.Fatal(err)
	}
	return n.Content[0]
}

func TestPortion(t *testing.T) {
	for text, want := range map[string]time.Duration{"30d": 30 * 24 * time.Hour, "1h30m": 90 * time.Minute, "33%": 33 * time.Hour, "100%": 100 * time.Hour, "1%": time.Hour} {
		var p Portion
		if err := strictyaml.DecodeNode("muster.yaml", yamlNode(t, text), &p); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if got := p.Of(100 * time.Hour); got != want || p.String() != text || p.IsZero() {
			t.Errorf("%s: %s, written %s", text, got, p)
		}
	}
	for _, text := range []string{"0%", "101%", "-1%", "+5%", "'%'", "1.5%", "0s", "soon", "-30d", "[30d]", "30", "\"\""} {
		var p Portion
		wantError(t, strictyaml.DecodeNode("muster.yaml", yamlNode(t, text), &p), "wants a period such as 30d, or a share")
	}
}
