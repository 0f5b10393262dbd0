package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A service decides about requests of every protocol, and what it says stands in certificates.
func TestWebhookDecides(t *testing.T) {
	t.Parallel()
	service := newPolicyService(t)
	w := newWebhookClients(t, `url: "`+service.URL+`", hold: true, `+signedService)

	told, certs := w.asks("allowed")
	for _, protocol := range []string{"est", "cmp", "scep"} {
		c := certs[protocol]
		if c == nil {
			t.Errorf("%s: %s\n%s", protocol, told[protocol], w.why("allowed-"+protocol))
			continue
		}
		if c.Subject.CommonName != "allowed-"+protocol || strings.Join(c.Subject.OrganizationalUnit, ",") != "muc" || time.Until(c.NotAfter) > 24*time.Hour {
			t.Errorf("%s: %s until %s", protocol, c.Subject, c.NotAfter)
		}
		if why := w.why("allowed-" + protocol); !strings.Contains(why, `the webhook 127.0.0.1 allows it: "on the list"`) || !strings.Contains(why, `attributes site="muc"`) {
			t.Errorf("%s: explain:\n%s", protocol, why)
		}
	}

	told, certs = w.asks("denied")
	for protocol, want := range map[string]string{"est": "403 ", "cmp": "notAuthorized", "scep": "FAILURE 2"} {
		if said := told[protocol]; certs[protocol] != nil || !strings.Contains(said, want) || !strings.Contains(said, "call the service desk") || strings.Contains(said, "stolen") {
			t.Errorf("%s: %s", protocol, said)
		}
		if why := w.why("denied-" + protocol); !strings.Contains(why, `the webhook 127.0.0.1 denies it: "reported stolen"`) {
			t.Errorf("%s: explain:\n%s", protocol, why)
		}
	}
	if n := len(w.ledger("denied")); n != 0 {
		t.Errorf("%d certificates for who was denied", n)
	}
}

// What the service holds is issued once somebody approves, as the service had it.
func TestWebhookHolds(t *testing.T) {
	t.Parallel()
	service := newPolicyService(t)
	w := newWebhookClients(t, `url: "`+service.URL+`", hold: true, `+signedService)
	cmp := exec.Command("sh", "-euc", ecKey+`held.key; exec openssl cmp -config '' -batch -server "$1" -path .well-known/cmp -trusted "$2" -cmd ir \
		-ref client -secret pass:`+clientSecret+` -newkey held.key -subject /CN=held-cmp -total_timeout 60 -certout held.pem`, "sh", w.env["MUSTER_HTTP"], w.env["MUSTER_CA"])
	out := &capture{}
	cmp.Dir, cmp.Stdout, cmp.Stderr = w.dir, out, out
	if err := cmp.Start(); err != nil {
		t.Fatal(err)
	}
	w.muster("approve", w.held("held-cmp"), "--reason", "looks good")
	if err := cmp.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	scep := w.scep.message(scepWish{name: "held-scep", challenge: clientSecret})
	if a := w.scep.must(scep); a.status != "3" {
		t.Errorf("scep: %v", a)
	}
	est := `curl -sS --cacert "$MUSTER_CA" -H 'Content-Type: application/pkcs10' --data-binary @device.b64 -u client:` + clientSecret + ` \
		-o est.out -w '%{http_code}' "$MUSTER_HTTPS/.well-known/est/simpleenroll"`
	if code := w.sh(w.dir, makeKey+`; set -- "/CN=held-est"; `+makeCSR+"; "+est); code != "202" {
		t.Errorf("est: %s", code)
	}
	before, _, _ := service.questions()
	for _, protocol := range []string{"scep", "est"} {
		id := w.held("held-" + protocol)
		if why := w.muster("explain", id); !strings.Contains(why, `the webhook 127.0.0.1 holds it: "the first of its kind"`) {
			t.Errorf("explain:\n%s", why)
		}
		w.muster("approve", id)
	}
	if a := w.scep.must(scep); a.cert == nil || strings.Join(a.cert.Subject.OrganizationalUnit, ",") != "muc" || time.Until(a.cert.NotAfter) > 24*time.Hour {
		t.Errorf("scep: %v", a)
	}
	if code := w.sh(w.dir, est); code != "200" {
		t.Errorf("est: %s", code)
	}
	if after, _, _ := service.questions(); after != before {
		t.Errorf("asked %d more times", after-before)
	}
	// Without leave such an answer is none.
	w.reconfigured(`url: "` + service.URL + `", ` + signedService)
	w.fails("held-again", "its answer is hold, and the stage has no `hold: true`")
}

// Reloads leave no connections behind.
func TestWebhookReloads(t *testing.T) {
	t.Parallel()
	service := newPolicyService(t)
	w := newWebhookClients(t, `url: "`+service.URL+`", `+signedService)
	const times = 20
	for i := range times {
		a, err := w.post(t.Context(), w.client(nil), "simpleenroll", "client", clientSecret, "application/pkcs10", []byte(toBase64(newDevice(t, fmt.Sprintf("allowed-%d", i)).csr)))
		if err != nil || a.cert == nil {
			t.Fatalf("%d: %v, %+v", i, err, a)
		}
		w.reload()
	}
	asked, _, open := service.questions()
	for range 100 {
		if open <= 2 {
			break
		}
		time.Sleep(10 * time.Millisecond) // a connection that is given up closes a moment later
		_, _, open = service.questions()
	}
	if asked != times || open > 2 {
		t.Errorf("asked %d times, %d connections are open", asked, open)
	}
}

// The example of docs/authz.md decides by its table.
func TestWebhookExample(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "policy.secret"), []byte(policySecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	address := example(t, "policy-webhook.py", "--listen", "127.0.0.1:0", "--secret", filepath.Join(dir, "policy.secret"),
		"--devices", filepath.Join("..", "configs", "policy-devices.csv"))
	w := newWebhookClients(t, `url: "`+address+`", hold: true, `+signedService)
	for name, want := range map[string]struct {
		code int
		told string // the client
		why  string // the operator
	}{
		"device-1": {200, "", `allows it: "on the list of site Munich", attributes site="muc"`},
		"device-2": {403, "this device is blocked: call the service desk", `denies it: "reported stolen"`},
		"device-3": {202, "", `holds it: "first of its kind at site Berlin", attributes site="ber"`},
		"device-9": {403, "the request is not allowed", "'device-9' is not in the table"},
	} {
		a, err := w.post(t.Context(), w.client(nil), "simpleenroll", "client", clientSecret, "application/pkcs10", []byte(toBase64(newDevice(t, name).csr)))
		if err != nil || a.status != want.code || !strings.Contains(a.body, want.told) {
			t.Errorf("%s: %v, %+v", name, err, a)
		}
		if why := w.why(name); !strings.Contains(why, want.why) {
			t.Errorf("%s: explain:\n%s", name, why)
		}
	}
	// It takes no question that is not signed, nor one of long ago.
	question := func(now time.Time) string {
		return `{"request":{"id":"1","operation":"enroll","subject":{"commonName":"device-1"}},"now":"` + now.UTC().Format(time.RFC3339Nano) + `"}`
	}
	for name, tt := range map[string]struct {
		now    time.Time
		secret string
		want   int
	}{
		"good": {time.Now(), policySecret, 200}, "another secret": {time.Now(), "of somebody else altogether", 401},
		"a recording": {time.Now().Add(-10 * time.Minute), policySecret, 401}, "of tomorrow": {time.Now().Add(24 * time.Hour), policySecret, 401},
	} {
		body := question(tt.now)
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Muster-Signature", policySignature(tt.secret, body))
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != tt.want || tt.want == 200 && res.Header.Get("Muster-Signature") != policySignature(policySecret, policySignature(policySecret, body), ".", string(answer)) {
			t.Errorf("%s: %d %s", name, res.StatusCode, answer)
		}
	}
}

// Who connects to the example and never shakes hands keeps nobody waiting.
func TestWebhookExampleTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{"policy.secret": policySecret + "\n", "tls.pem": serverPEM(t, "policy", -time.Hour, 24*time.Hour)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pair := filepath.Join(dir, "tls.pem")
	address := example(t, "policy-webhook.py", "--listen", "127.0.0.1:0", "--secret", filepath.Join(dir, "policy.secret"),
		"--devices", filepath.Join("..", "configs", "policy-devices.csv"), "--cert", pair, "--key", pair)
	stalled, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(address, "https://"), "/"))
	if err != nil {
		t.Fatal(err)
	}
	defer stalled.Close()
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	res, err := client.Post(address, "application/json", strings.NewReader("{}")) // which is not signed
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusUnauthorized {
		t.Errorf("answered %d", res.StatusCode)
	}
}
