package e2e

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
)

// fails has a client ask, which gets no certificate and is told to come back; explain says why.
func (w *webhookClients) fails(name, why string) {
	w.t.Helper()
	a, err := w.post(w.t.Context(), w.client(nil), "simpleenroll", "client", clientSecret, "application/pkcs10", []byte(toBase64(newDevice(w.t, name).csr)))
	if err != nil || a.status != http.StatusServiceUnavailable || a.cert != nil || strings.Contains(a.body, "webhook") {
		w.t.Errorf("%s: %v, %+v", why, err, a)
	}
	w.explained(name, why)
}

// explained looks at what is known of a request that was refused since nothing could be found out about it.
func (w *webhookClients) explained(name, why string) {
	w.t.Helper()
	if got := w.why(name); !strings.Contains(got, why) || !strings.Contains(got, "webhook") || strings.Contains(got, "do not authenticate") {
		w.t.Errorf("want %q in\n%s", why, got)
	}
	if n := len(w.ledger(name)); n != 0 {
		w.t.Errorf("%s: %d certificates", why, n)
	}
}

// Every protocol's clients are told to come back, and nothing of why.
func TestWebhookUnavailable(t *testing.T) {
	t.Parallel()
	service := newPolicyService(t)
	service.set("status 500")
	w := newWebhookClients(t, `url: "`+service.URL+`", `+signedService)
	told, certs := w.asks("down")
	for protocol, want := range map[string]string{"est": "503 ", "cmp": "systemUnavail", "scep": "HTTP 503"} {
		if said := told[protocol]; certs[protocol] != nil || !strings.Contains(said, want) || strings.Contains(said, "webhook") {
			t.Errorf("%s: %s", protocol, said)
		}
		w.explained("down-"+protocol, "it answered 500, not 200")
	}
	// And then it is there again.
	service.set("")
	if told, certs := w.asks("allowed"); len(certs) != 3 {
		t.Errorf("%v", told)
	}
}

// Whatever goes wrong with the service, nothing is issued, and explain says what it was.
func TestWebhookFails(t *testing.T) {
	t.Parallel()
	service := newPolicyService(t)
	w := newWebhookClients(t, `url: "`+service.URL+`", `+signedService)
	for _, tt := range []struct{ does, why string }{
		{"garbage", "its answer is not one JSON object"}, {"redirect", "it answered 307: redirections are not followed"},
		{"wrong signature", "the signature of its answer is wrong"}, {"no signature", "its answer has no Muster-Signature"},
		{"an older answer", "the signature of its answer is wrong"}, {"name twice", "its answer has a name twice"}, {"trailing data", "its answer is not one JSON object"},
	} {
		service.set(tt.does)
		w.fails(strings.ReplaceAll(tt.does, " ", "-"), tt.why)
	}
	for _, does := range []string{"slow", "trickles", "informs"} {
		service.set(does)
		if does == "slow" {
			w.reconfigured(`url: "` + service.URL + `", ` + strings.Replace(signedService, "30s", "200ms", 1))
		}
		w.fails(does, "answer came within 200ms")
	}

	service.set("")
	secure := httptest.NewUnstartedServer(service)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	before, _, _ := service.questions()
	w.reconfigured(`url: "` + secure.URL + `", ` + signedService)
	w.fails("untrusted", "certificate")
	// A name below localhost is not exempt, and leads here on any machine (RFC 6761 section 6.3).
	port := netip.MustParseAddrPort(secure.Listener.Addr().String()).Port()
	w.reconfigured(fmt.Sprintf(`url: "https://policy.localhost:%d", %s`, port, signedService))
	w.fails("private", "a private one: say `private: true` if that is meant")
	gone := httptest.NewServer(service)
	gone.Close()
	w.reconfigured(`url: "` + gone.URL + `", ` + signedService)
	w.fails("gone", "connection refused")
	if after, elsewhere, _ := service.questions(); after != before || elsewhere != 0 {
		t.Errorf("asked %d more times, %d times elsewhere", after-before, elsewhere)
	}
}

// A reload while a request waits at the service fails neither.
func TestWebhookReloadedMeanwhile(t *testing.T) {
	t.Parallel()
	service := newPolicyService(t)
	service.set("waits")
	w := newWebhookClients(t, `url: "`+service.URL+`", `+signedService)
	answers := make(chan string)
	go func() {
		a, err := w.post(t.Context(), w.client(nil), "simpleenroll", "client", clientSecret, "application/pkcs10", []byte(toBase64(newDevice(t, "allowed-waiting").csr)))
		answers <- fmt.Sprint(err, a != nil && a.cert != nil)
	}()
	<-service.entered
	w.reconfigured(`url: "` + service.URL + `/other", ` + signedService)
	service.set("")
	close(service.release)
	if got := <-answers; got != "<nil> true" {
		t.Errorf("asked before the reload: %s", got)
	}
}
