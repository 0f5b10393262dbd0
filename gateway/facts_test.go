package gateway_test

import (
	"bytes"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	own "github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// What is kept with a transaction is what was known when it was judged, and no secret.
func TestFactsAreKept(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	w.enroll = gateway.Pipeline{
		password{"secret"},
		stage(func(r *gateway.Request, g *gateway.Grant) gateway.Verdict {
			g.NameDevice("device-1")
			g.Attributes = map[string]string{"site": "muc"}
			if r.Profile != "" {
				return gateway.Denied(gateway.NotAuthorized, "", "")
			}
			return gateway.Allowed("")
		}),
	}
	w.swap()
	names := own.GeneralNames{DNS: []string{"a.example"}, IP: []netip.Addr{netip.MustParseAddr("192.0.2.9")}}
	san, err := names.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	issued := w.request("device-1")
	issued.Source = netip.MustParseAddr("::ffff:192.0.2.7")
	issued.Extensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: san}}
	if _, err := w.gw.Enroll(t.Context(), issued); err != nil {
		t.Fatal(err)
	}
	refused := w.request("device-1")
	refused.Profile = "device" // the endpoint's own
	stranger := w.request("device-1")
	stranger.Credentials[0].Secret = gateway.Secret("wrong-secret")
	for _, r := range []*gateway.Request{refused, stranger} {
		if _, err := w.gw.Enroll(t.Context(), r); err == nil {
			t.Fatal("allowed")
		}
	}
	for name, c := range map[string]struct {
		request   *gateway.Request
		requester string
	}{"issued": {issued, "password:factory"}, "refused": {refused, "password:factory"}, "stranger": {stranger, ""}} {
		tr, err := w.gw.Explain(t.Context(), c.request.ID)
		if err != nil {
			t.Fatal(err)
		}
		var f gateway.Facts
		if err := json.Unmarshal(tr.Facts, &f); err != nil {
			t.Fatalf("%s: %q: %v", name, tr.Facts, err)
		}
		if f.Request.ID != c.request.ID || f.Requester != c.requester || f.Request.Subject.CommonName != "device-1" || f.Request.Key.Type != "P-256" || len(f.Credentials) != 1 {
			t.Errorf("%s: %s", name, tr.Facts)
		}
		if bytes.Contains(tr.Facts, []byte("secret")) {
			t.Errorf("%s: a secret is kept: %s", name, tr.Facts)
		}
		if name != "issued" {
			continue
		}
		if f.Request.Source != "192.0.2.7" || !reflect.DeepEqual(f.Request.SANs, gateway.FactsSANs{DNS: []string{"a.example"}, IP: []string{"192.0.2.9"}}) ||
			f.Device.Name != "device-1" || f.Attributes["site"] != "muc" || !f.Credentials[0].Accepted || f.Grant.Profile == "" {
			t.Errorf("%s", tr.Facts)
		}
	}
	if all := w.transactions(); all[0].Facts != nil {
		t.Error("a list has facts")
	}
}

// A name that stands several times is none of them: a rule that compares it fails closed.
func TestFactsOfAName(t *testing.T) {
	der, err := own.ParseRFC4514("CN=a,CN=b,SERIALNUMBER=1,O=X,O=Y")
	if err != nil {
		t.Fatal(err)
	}
	r := &gateway.Request{Subject: der, Extensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: []byte{0x30, 0x03}}}}
	f := gateway.FactsOf(r, nil, time.Unix(0, 0))
	n := f.Request.Subject
	if n.CommonName != "" || len(n.Attributes["commonName"]) != 2 || n.SerialNumber != "1" || len(n.OrganizationName) != 2 {
		t.Errorf("%+v", n)
	}
	if !f.Request.SANs.Malformed {
		t.Error("a malformed subjectAltName looks like none")
	}
}

// What rules compare is whole: two names that only differ far behind are two.
func TestFactsAreWhole(t *testing.T) {
	long := "OU=" + strings.Repeat("x", 2500) + ","
	facts := func(end string) gateway.FactsRequest {
		der, err := own.ParseRFC4514("CN=a," + long + "O=" + end)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Repeat("x", 600) + end
		r := &gateway.Request{Subject: der, WireID: text, Profile: text, Target: &gateway.CertID{Issuer: der}, Credentials: []gateway.Credential{{Kind: gateway.CredentialPassword, ID: text}}}
		f := gateway.FactsOf(r, nil, time.Unix(0, 0))
		f.Request.ID = f.Credentials[0].ID // to be compared with the others
		return f.Request
	}
	a, b := facts("X"), facts("Y")
	if a.Subject.DN == b.Subject.DN || a.Transaction == b.Transaction || a.Profile == b.Profile || a.Target.Issuer == b.Target.Issuer || a.ID == b.ID {
		t.Errorf("texts are cut short")
	}
}

// Nothing of what a stranger sent is kept beyond a bound; of others neither.
func TestFactsAreBounded(t *testing.T) {
	for _, c := range []struct {
		name string
		ok   string
		size int
		kept bool
	}{
		{"a stranger's", "wrong", 4 << 10, false},
		{"a device's", "secret", 4 << 10, true},
		{"a device's, too many", "secret", 40 << 10, false},
	} {
		w := newWorld(t, backendtest.FaultPlan{})
		w.enroll = gateway.Pipeline{password{"secret"}, always(gateway.Denied(gateway.NotAuthorized, "", ""))}
		w.swap()
		r := w.request("device-1")
		r.Credentials[0].Secret = gateway.Secret(c.ok)
		r.Identifiers = []gateway.DeviceID{{Kind: "serial", Value: strings.Repeat("x", c.size)}}
		if _, err := w.gw.Enroll(t.Context(), r); err == nil {
			t.Fatal("allowed")
		}
		tr, err := w.gw.Explain(t.Context(), r.ID)
		partial := strings.Contains(string(tr.Facts), `"partial":true`) // what the audit trail needs
		if err != nil || (tr.Facts != nil && !partial) != c.kept || len(tr.Facts) > 8<<10 {
			t.Errorf("%s: %d bytes, %v", c.name, len(tr.Facts), err)
		}
	}
}
