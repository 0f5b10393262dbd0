package policy

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// noon is when the requests of these tests are judged, a Monday.
var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// request is one with something in every field that tests look at.
func request() *gateway.Facts {
	return &gateway.Facts{
		Request: gateway.FactsRequest{
			ID: "06gz", Protocol: "cmp", Endpoint: "ran", Operation: "enroll", Source: "10.1.2.3",
			Subject: gateway.FactsName{DN: "CN=bts-7,O=Vendor", CommonName: "bts-7", OrganizationName: []string{"Vendor"}, Attributes: map[string][]string{"commonName": {"bts-7"}, "organizationName": {"Vendor"}}},
			SANs:    gateway.FactsSANs{DNS: []string{"bts-7.ran.example", "bts-7.example"}},
			Key:     gateway.FactsKey{Type: "RSA-2048", Algorithm: "RSA", Bits: 2048},
		},
		Credentials: []gateway.FactsCredential{{Kind: "message-signer", Proven: true, Accepted: true, Certificate: gateway.FactsCertificate{Issuer: gateway.FactsName{DN: "CN=Vendor CA"}, SHA256: "ab"}}},
		Requester:   "message-signer:ab",
		Device:      gateway.FactsDevice{Name: "bts-7", Known: true, Attributes: map[string]string{"site": "north"}, Identifiers: map[string][]string{"serial": {"SN7"}}},
		Grant:       gateway.FactsGrant{Profile: "base", Backend: "local"},
		Attributes:  map[string]string{"tier": "gold"},
		Now:         noon,
	}
}

// mustParse reads rules that are good.
func mustParse(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := Parse("policy.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// judge asks rules with every profile on offer but "none".
func judge(t testing.TB, text string, f *gateway.Facts) Decision {
	t.Helper()
	return mustParse(t, text).Judge(context.Background(), f, func(profile string) error {
		f.Grant.Profile = profile
		return nil
	})
}

func wantText(t testing.TB, got string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(got, want) {
			t.Errorf("%q\nlacks %q", got, want)
		}
	}
}

func parseError(t testing.TB, text string) string {
	t.Helper()
	_, err := Parse("policy.yaml", []byte(text))
	if err == nil {
		t.Fatalf("read:\n%s", text)
	}
	return err.Error()
}
