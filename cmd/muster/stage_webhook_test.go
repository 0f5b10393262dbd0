package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
)

const (
	authFirst   = "      - challenge: {issued: true, basic: true}\n"
	webhookOnly = "      - webhook: {url: \"https://pki.example/x\"}\n"
	webhookHold = "      - webhook: {url: \"https://pki.example/x\", hold: true}\n"
)

// The stage webhook lets nobody in, and waits only where it may.
func TestWebhookStands(t *testing.T) {
	for stages, want := range map[string]string{
		authFirst + webhookOnly + "      - names: {}\n": "",
		authFirst + webhookHold + "      - names: {}\n": "",
		webhookOnly + authFirst + "      - names: {}\n": "",
		webhookOnly + "      - names: {}\n":             "on which nobody is authenticated",
		webhookHold + "      - names: {}\n":             "on which nobody is authenticated",
		webhookHold + authFirst + "      - names: {}\n": "muster.yaml:15: endpoints.ran.enroll[1]: the stage challenge needs a secret, and stands behind an approval",
		"      - anyOf: [[webhook: {url: \"https://pki.example/x\", hold: true}, challenge: {issued: true, basic: true}]]\n      - names: {}\n":                                    "the stage challenge needs a secret, and stands behind an approval",
		authFirst + "      - names: {}\n      - webhook: {url: \"https://pki.example/x\", hodl: true}\n":                                                                           `unknown key "hodl" in endpoints.ran.enroll[2].webhook (did you mean "hold"?)`,
		authFirst + "      - names: {}\n      - webhook: {url: \"ftp://pki.example/x\"}\n":                                                                                         "muster.yaml:16: endpoints.ran.enroll[2]: webhook: url: want https://HOST/PATH",
		authFirst + "      - names: {}\n      - webhook: {url: \"http://pki.example/x\"}\n":                                                                                        "http is for loopback addresses only",
		authFirst + webhookOnly + "      - names: {}\n    revoke:\n      - own-certificate: {}\n" + webhookOnly:                                                                    "",
		authFirst + webhookOnly + "      - names: {}\n    revoke:\n      - own-certificate: {}\n" + webhookHold:                                                                    "the stage webhook holds requests, and a revocation does not wait",
		authFirst + webhookOnly + "      - names: {}\n    query:\n      - own-certificate: {}\n" + webhookOnly:                                                                     "",
		authFirst + webhookOnly + "      - names: {}\n    query:\n      - own-certificate: {}\n      - anyOf: [webhook: {url: \"https://pki.example/x\", hold: true}, keys: {}]\n": "the stage webhook holds requests, and a query does not wait",
	} {
		config := orderConfig(stages)
		if strings.Contains(stages, "revoke:") { // which EST has not
			config = strings.NewReplacer("protocol: est", "protocol: cmp", "challenge: {issued: true, basic: true}", "shared-secret: {devices: true}").Replace(config)
		}
		c, err := parseConfig("muster.yaml", t.TempDir(), []byte(config))
		if err != nil {
			t.Fatal(err)
		}
		if _, err = makeEndpoints(c, testDeps(t)); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s%v, want %q", stages, err, want)
		}
	}
}

// A profile that makes names of attributes stands where a service says them.
func TestAttributesNeedAWebhook(t *testing.T) {
	const reads = "any: {backend: local, subject: \"CN={{device.name}},OU={{attributes.site}}\"}"
	again := strings.Replace(reads, "}\"}", "}\", renew-names: template}", 1)
	const refused = "profile any makes names of {{attributes.site}}, and no stage webhook stands here"
	const renew = "    renew:\n      - own-certificate: {}\n"
	for _, tt := range []struct{ profile, stages, want string }{
		{reads, authFirst, refused}, {reads, authFirst + webhookOnly, ""}, {reads, authFirst + webhookOnly + renew, ""},
		{reads, authFirst + "      - not: [webhook: {url: \"https://pki.example/x\"}]\n", refused},
		{strings.Replace(reads, "site}}", "site | optional}}", 1), authFirst, ""},
		{again, authFirst + webhookOnly + renew, "endpoints.ran.renew: " + refused}, {again, authFirst + webhookOnly + renew + webhookOnly, ""},
	} {
		c, err := parseConfig("muster.yaml", t.TempDir(), []byte(strings.Replace(orderConfig(tt.stages), "any: {backend: local}", tt.profile, 1)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err = makeEndpoints(c, testDeps(t)); tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s\n%s%v, want %q", tt.profile, tt.stages, err, tt.want)
		}
	}
}

// The connections of stages that are asked no more are given up, wherever the stage stands.
func TestHangUp(t *testing.T) {
	closed := make(chan struct{}, 9)
	service := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if strings.HasPrefix(r.URL.Path, "/challenge") {
			_, _ = w.Write([]byte(`{"allow":true}`))
			return
		}
		_, _ = w.Write([]byte(`{"decision":"allow"}`))
	}))
	service.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			closed <- struct{}{}
		}
	}
	service.Start()
	defer service.Close()
	c, err := parseConfig("muster.yaml", t.TempDir(), []byte(orderConfig("      - challenge: {basic: true, webhook: {url: \""+service.URL+"/challenge\"}}\n"+
		"      - anyOf: [webhook: {url: \""+service.URL+"/a\"}]\n      - allOf: [webhook: {url: \""+service.URL+"/b\"}]\n      - not: [not: [webhook: {url: \""+service.URL+"/c\"}]]\n      - names: {}\n")))
	if err != nil {
		t.Fatal(err)
	}
	endpoints, err := makeEndpoints(c, testDeps(t))
	if err != nil {
		t.Fatal(err)
	}
	r := &gateway.Request{Operation: gateway.Enroll, Received: time.Now(), Credentials: []gateway.Credential{{Kind: gateway.CredentialChallenge, Secret: gateway.Secret("x")}}}
	g := gateway.NewGrant(r, endpoints["ran"], time.Now())
	for _, s := range endpoints["ran"].Pipelines[gateway.Enroll][:4] {
		if v := s.Decide(t.Context(), r, g); v.Decision != gateway.Allow {
			t.Fatalf("%s: %+v", s.Name(), v)
		}
	}
	rt := &Runtime{gateway: &gateway.Runtime{Endpoints: endpoints}}
	rt.hangUp()
	for range 4 {
		select {
		case <-closed:
		case <-time.After(10 * time.Second): // what is idle is given up after 30
			t.Fatal("a connection is open")
		}
	}
}
