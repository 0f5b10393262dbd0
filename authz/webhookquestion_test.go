package authz

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/authz/webhook"
	"github.com/muster-pki/muster/gateway"
)

func csrWith(t *testing.T, challenge bool) []byte {
	t.Helper()
	if challenge {
		return csrWithAttribute(t, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7}, secret) // challengePassword (RFC 2985 section 5.4.1)
	}
	return csrWithAttribute(t, nil, "")
}

// csrWithAttribute makes a PKCS#10 with an attribute, or with none.
func csrWithAttribute(t *testing.T, oid asn1.ObjectIdentifier, value string) []byte {
	t.Helper()
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "device-1"}}
	if oid != nil {
		//lint:ignore SA1019 crypto/x509 has no other way to write an attribute
		template.Attributes = []pkix.AttributeTypeAndValueSET{{Type: oid, Value: [][]pkix.AttributeTypeAndValue{{
			{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: value}}}}}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// The service is asked with the facts of the request as others judge them, and with the PKCS#10, but for secrets.
func TestWebhookQuestion(t *testing.T) {
	d := newDecider(t)
	d.says = `{"decision":"allow"}`
	s := newWebhook(t, d, false)
	r := enrolling(asked4)
	r.CSR = csrWith(t, false)
	r.Credentials = append(r.Credentials, gateway.Credential{Kind: gateway.CredentialPassword, ID: "anna", Secret: gateway.Secret(secret)})
	g := known(r)
	g.NameDevice("device-1")
	g.Attributes = map[string]string{"site": "muc"}
	expect(t, s.Decide(context.Background(), r, g), gateway.Allow, "", "the webhook 127.0.0.1 allows it")

	facts, err := json.Marshal(gateway.FactsOf(r, g, noon))
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]any
	if err := json.Unmarshal(facts, &want); err != nil {
		t.Fatal(err)
	}
	want["csr"] = base64.StdEncoding.EncodeToString(r.CSR)
	if got := d.questions[0]; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("asked\n%v, want\n%v", got, want)
	}
	for _, hidden := range []string{asked4, secret} {
		if strings.Contains(fmt.Sprint(d.questions), hidden) {
			t.Errorf("the question has a secret: %v", d.questions)
		}
	}
	if g.Requester != "password:anna" {
		t.Errorf("the webhook authenticates: %s", g.Requester)
	}

	// A PKCS#10 with a challengePassword, or that is none, stays here.
	for name, csr := range map[string][]byte{"challengePassword": csrWith(t, true), "broken": []byte("x"), "none": nil} {
		r.CSR = csr
		expect(t, s.Decide(context.Background(), r, known(r)), gateway.Allow, "")
		if _, has := d.questions[len(d.questions)-1]["csr"]; has {
			t.Errorf("%s: the PKCS#10 is in the question", name)
		}
	}
	endedDenies(t, s, r)
}

// Equal questions have one key, and what the service sees otherwise gives another.
func TestWebhookIdempotency(t *testing.T) {
	d := newDecider(t)
	d.says = `{"decision":"allow"}`
	s := newWebhook(t, d, false)
	decide := func(change func(*gateway.Request, *gateway.Grant)) string {
		r := enrolling(asked4)
		r.Extensions = sanExtension(sans(t, 2, "device-1.example"))
		g := known(r)
		change(r, g)
		expect(t, s.Decide(context.Background(), r, g), gateway.Allow, "")
		return d.keys[len(d.keys)-1]
	}
	first := decide(func(*gateway.Request, *gateway.Grant) {})
	s.now = func() time.Time { return noon.Add(time.Hour) }
	for name, same := range map[string]func(*gateway.Request, *gateway.Grant){
		"time": func(*gateway.Request, *gateway.Grant) {}, "ID": func(r *gateway.Request, _ *gateway.Grant) { r.ID = "request-2" },
		"received": func(r *gateway.Request, _ *gateway.Grant) { r.Received = noon.Add(time.Minute) }, "challengePassword": func(r *gateway.Request, _ *gateway.Grant) { r.CSR = csrWith(t, true) }, "signature": func(r *gateway.Request, _ *gateway.Grant) { r.CSR = csrWith(t, false) },
		"dates": func(_ *gateway.Request, g *gateway.Grant) {
			g.NotBefore, g.NotAfter = g.NotBefore.Add(time.Hour), g.NotAfter.Add(time.Hour)
		},
	} {
		if got := decide(same); got != first {
			t.Errorf("another %s has another key", name)
		}
	}
	for name, other := range map[string]func(*gateway.Request, *gateway.Grant){
		"source": func(r *gateway.Request, _ *gateway.Grant) { r.Source = netip.MustParseAddr("192.0.2.8") }, "device": func(_ *gateway.Request, g *gateway.Grant) { g.Device = "device-1" },
		"attribute": func(_ *gateway.Request, g *gateway.Grant) { g.Attributes = map[string]string{"site": "muc"} }, "key": func(r *gateway.Request, _ *gateway.Grant) { r.PublicKey = []byte("x") },
		"operation": func(r *gateway.Request, _ *gateway.Grant) { r.Operation = gateway.Rekey }, "endpoint": func(r *gateway.Request, _ *gateway.Grant) { r.Endpoint = "x" },
		"extension's value": func(r *gateway.Request, _ *gateway.Grant) {
			r.Extensions = append(r.Extensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: []byte("x")})
		},
		"extension's other value": func(r *gateway.Request, _ *gateway.Grant) {
			r.Extensions = append(r.Extensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: []byte("y")})
		},
		"requester": func(_ *gateway.Request, g *gateway.Grant) { g.Requester = "password:bert" },
		"attribute of the PKCS#10": func(r *gateway.Request, _ *gateway.Grant) {
			r.CSR = csrWithAttribute(t, asn1.ObjectIdentifier{1, 2, 3}, "x")
		},
		"value of it": func(r *gateway.Request, _ *gateway.Grant) {
			r.CSR = csrWithAttribute(t, asn1.ObjectIdentifier{1, 2, 3}, "y")
		},
		"new subjectAltName": func(r *gateway.Request, _ *gateway.Grant) { r.NewNames = &gateway.Names{SubjectAltName: []byte("x")} },
		"other new one":      func(r *gateway.Request, _ *gateway.Grant) { r.NewNames = &gateway.Names{SubjectAltName: []byte("y")} },
	} {
		decide(other)
		if last := len(d.keys) - 1; slices.Contains(d.keys[:last], d.keys[last]) {
			t.Errorf("another %s has the same key", name)
		}
	}
	// Attempts at one question have it, too.
	d.keys, d.status = nil, 500
	retries := 1
	s, err := NewWebhook(WebhookConfig{Config: webhook.Config{URL: d.URL, Retries: &retries}}, "", atNoon)
	if err != nil {
		t.Fatal(err)
	}
	r := enrolling(asked4)
	expect(t, s.Decide(context.Background(), r, known(r)), gateway.CannotAnswer, gateway.Unavailable, "asked 2 times")
	if len(d.keys) != 2 || d.keys[0] != d.keys[1] {
		t.Errorf("%q", d.keys)
	}
}
