package e2e

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

const policySecret = "the policy service's and the gateway's"

// policyService is an operator's service that decides by the name that is asked for, or misbehaves.
type policyService struct {
	*httptest.Server
	t         *testing.T
	mu        sync.Mutex
	does      string // what it does instead of answering; "" for nothing
	asked     int
	elsewhere int               // how often one came to where it redirects
	open      map[net.Conn]bool // connections
	release   chan struct{}     // ends those that it lets wait
}

func newPolicyService(t *testing.T) *policyService {
	s := &policyService{t: t, open: map[net.Conn]bool{}, release: make(chan struct{})}
	s.Server = httptest.NewUnstartedServer(s)
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that are meant to fail
	s.Config.ConnState = func(c net.Conn, state http.ConnState) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.open[c] = true; state == http.StateClosed {
			delete(s.open, c)
		}
	}
	s.Start()
	t.Cleanup(func() { close(s.release); s.Close() })
	return s
}

func policySignature(secret string, parts ...string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	for _, p := range parts {
		mac.Write([]byte(p))
	}
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

func (s *policyService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	question := r.Header.Get("Muster-Signature")
	var in struct {
		Request struct {
			ID, Operation, Protocol string
			Subject                 struct{ CommonName string }
		}
		Requester string
		CSR       []byte
	}
	if err := json.Unmarshal(body, &in); err != nil || question != policySignature(policySecret, string(body)) || in.Requester == "" || in.Request.ID == "" {
		s.t.Errorf("asked %v %s: %v", r.Header, body, err)
	}
	if bytes.Contains(body, []byte(clientSecret)) || (in.Request.Protocol == "est") != (in.CSR != nil) { // a CSR of SCEP has the challenge in it
		s.t.Errorf("asked with a secret, or without the CSR: %s", body)
	}
	s.mu.Lock()
	does := s.does
	s.asked++
	if r.URL.Path == "/elsewhere" {
		s.elsewhere++
		does = ""
	}
	s.mu.Unlock()
	answer := map[string]any{"decision": "allow", "reason": "on the list", "attributes": map[string]string{"site": "muc"}, "notAfter": time.Now().Add(24 * time.Hour)}
	switch name := in.Request.Subject.CommonName; {
	case strings.HasPrefix(name, "denied"):
		answer = map[string]any{"decision": "deny", "reason": "reported stolen", "message": "call the service desk"}
	case strings.HasPrefix(name, "held"):
		answer["decision"], answer["reason"] = "hold", "the first of its kind"
	}
	said, err := json.Marshal(answer)
	if err != nil {
		s.t.Error(err)
	}
	secret, status := policySecret, http.StatusOK
	switch does {
	case "slow":
		select {
		case <-r.Context().Done():
		case <-s.release:
		}
		return
	case "status 500":
		status = http.StatusInternalServerError
	case "garbage":
		said = []byte("allow")
	case "redirect":
		w.Header().Set("Location", "/elsewhere")
		status = http.StatusTemporaryRedirect
	case "name twice":
		said = []byte(`{"decision":"deny","decision":"allow"}`)
	case "trailing data":
		said = append(said, "{}"...)
	case "wrong signature":
		secret = "of somebody else altogether"
	}
	w.Header().Set("Content-Type", "application/json")
	if does != "no signature" {
		w.Header().Set("Muster-Signature", policySignature(secret, question, ".", string(said)))
	}
	w.WriteHeader(status)
	_, _ = w.Write(said)
}

func (s *policyService) set(does string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.does = does
}

func (s *policyService) questions() (asked, elsewhere, open int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked, s.elsewhere, len(s.open)
}

const clientSecret = "a-secret-of-the-clients-4711"

func webhookConfig(webhook string) string {
	stages := func(authenticates string) string {
		return "    enroll:\n      - " + authenticates + "\n      - names: {san: {dns: {}}}\n      - webhook: {" + webhook + "}\n"
	}
	const subject = `subject: "CN={{request.subject.CN}},OU={{attributes.site}}"`
	return strings.Replace(onLocalCA, "dir: ca", "dir: ca, issuers: {rsa: {bits: 2048}}", 1) + `profiles:
  device: {backend: local, validity: 30d, ` + subject + `}
  phone: {backend: local, issuer: rsa, validity: 30d, ` + subject + `}
endpoints:
  est:
    protocol: est
    listeners: [https]
    default: true
    profile: device
` + stages("password: {file: users}") + `  cmp:
    protocol: cmp
    listeners: [http]
    default: true
    profile: device
` + stages("shared-secret: {secrets: {client: {file: cmp.secret}}}") + `    cmp: {retry-after: 1s}
  scep:
    protocol: scep
    listeners: [http]
    default: true
    profile: phone
` + stages("challenge: {file: users}")
}

// webhookClients ask a gateway that asks an operator's service.
type webhookClients struct {
	*instance
	t    *testing.T
	dir  string
	scep *scepDevice
}

const signedService = `secret-file: policy.secret, signed-answers: true, retries: 0, timeout: 30s`

func newWebhookClients(t *testing.T, webhook string) *webhookClients {
	t.Helper()
	sum := sha256.Sum256([]byte(clientSecret))
	g := configured(t, webhookConfig(webhook), "users", "client:{sha256}"+hex.EncodeToString(sum[:])+"\n", "cmp.secret", clientSecret, "policy.secret", policySecret+"\n")
	return &webhookClients{g, t, t.TempDir(), g.scepDevice()}
}

// reconfigured reloads with another webhook.
func (w *webhookClients) reconfigured(webhook string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.instance.dir, "gateway.yaml"), []byte(webhookConfig(webhook)), 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.reload()
}

// asks has each protocol's client ask for a name. It returns what each was told, the certificate where it got one, by protocol.
func (w *webhookClients) asks(name string) (told map[string]string, certs map[string]*x509.Certificate) {
	w.t.Helper()
	told, certs = map[string]string{}, map[string]*x509.Certificate{}
	told["est"], _ = w.run(w.dir, "sh", "-euc", `[ -f device.key ] || { `+makeKey+`; }; set -- "/CN=`+name+`-est"; `+makeCSR+`; rm -f est.out
		curl -sS --cacert "$MUSTER_CA" -H 'Content-Type: application/pkcs10' --data-binary @device.b64 -u client:`+clientSecret+` \
			-o est.out -w '%{http_code} %header{retry-after} ' "$MUSTER_HTTPS/.well-known/est/simpleenroll"
		case "$(head -c 3 est.out)" in MII*) openssl base64 -d -A -in est.out | openssl pkcs7 -inform DER -print_certs -out est.pem ;; *) cat est.out ;; esac`)
	told["cmp"], _ = w.run(w.dir, "sh", "-uc", ecKey+`new.key; openssl cmp -config '' -batch -server "$MUSTER_HTTP" -path .well-known/cmp -trusted "$MUSTER_CA" -cmd ir \
		-ref client -secret pass:`+clientSecret+` -newkey new.key -subject "/CN=`+name+`-cmp" -total_timeout 60 -certout cmp.pem 2>&1`)
	for _, protocol := range []string{"est", "cmp"} {
		file := filepath.Join(w.dir, protocol+".pem")
		if data, err := os.ReadFile(file); err == nil {
			block, _ := pem.Decode(data)
			if block == nil {
				w.t.Fatalf("%s: %s", protocol, data)
			}
			if certs[protocol], err = x509.ParseCertificate(block.Bytes); err != nil {
				w.t.Fatal(err)
			}
			os.Remove(file)
		}
	}
	a := w.scep.ask(scepWish{name: name + "-scep", challenge: clientSecret})
	if told["scep"] = a.String(); a.cert != nil {
		certs["scep"] = a.cert
	}
	return told, certs
}

var loggedID = regexp.MustCompile(`\bid"?[=:]"?([0-9a-z]{26})`)

// why is what `muster explain` tells of the last request for a name.
func (w *webhookClients) why(name string) string {
	w.t.Helper()
	for range 500 {
		id := ""
		for line := range strings.Lines(w.stderr.String()) {
			if m := loggedID.FindStringSubmatch(line); m != nil && strings.Contains(line, `"CN=`+name+`"`) {
				id = m[1]
			}
		}
		if id != "" {
			return w.muster("explain", id)
		}
		time.Sleep(10 * time.Millisecond) // the log comes by a pipe
	}
	w.t.Fatalf("no request for %s in the log\n%s", name, w.stderr)
	return ""
}

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

// fails has all clients ask, of whom none gets a certificate, and each is told to come back; explain says why.
func (w *webhookClients) fails(name, why string) {
	w.t.Helper()
	told, certs := w.asks(name)
	for protocol, want := range map[string]string{"est": "503 ", "cmp": "systemUnavail", "scep": "HTTP 503"} {
		if said := told[protocol]; certs[protocol] != nil || !strings.Contains(said, want) || strings.Contains(said, "webhook") {
			w.t.Errorf("%s, %s: %s", why, protocol, said)
		}
		if got := w.why(name + "-" + protocol); !strings.Contains(got, why) || !strings.Contains(got, "webhook") {
			w.t.Errorf("%s: want %q in\n%s", protocol, why, got)
		}
	}
	if n := len(w.ledger(name)); n != 0 {
		w.t.Errorf("%s: %d certificates", why, n)
	}
}

// privateName is a name of this machine, other than localhost, that leads to a private address.
func privateName(t *testing.T) string {
	t.Helper()
	own, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{own, "ip6-localhost", "localhost.localdomain"} {
		if ips, err := net.DefaultResolver.LookupNetIP(t.Context(), "ip", name); err == nil && len(ips) > 0 && !strings.EqualFold(name, "localhost") {
			if ip := ips[0].Unmap(); ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast() {
				return name
			}
		}
	}
	t.Fatal("no name of this machine, such as its host name, leads to a private address")
	return ""
}

// Whatever goes wrong with the service, nothing is issued, and explain says what it was.
func TestWebhookFails(t *testing.T) {
	t.Parallel()
	service := newPolicyService(t)
	w := newWebhookClients(t, `url: "`+service.URL+`", `+signedService)
	for _, tt := range []struct{ does, why string }{
		{"status 500", "it answered 500, not 200"}, {"garbage", "its answer is not one JSON object"}, {"redirect", "it answered 307: redirections are not followed"},
		{"wrong signature", "the signature of its answer is wrong"}, {"no signature", "its answer has no Muster-Signature"},
		{"name twice", "its answer has a name twice"}, {"trailing data", "its answer is not one JSON object"},
	} {
		service.set(tt.does)
		w.fails(strings.ReplaceAll(tt.does, " ", "-"), tt.why)
	}
	service.set("slow")
	w.reconfigured(`url: "` + service.URL + `", ` + strings.Replace(signedService, "30s", "100ms", 1))
	w.fails("slow", "no answer came within 100ms")

	service.set("")
	secure := httptest.NewUnstartedServer(service)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	before, _, _ := service.questions()
	w.reconfigured(`url: "` + secure.URL + `", ` + signedService)
	w.fails("untrusted", "certificate")
	port := netip.MustParseAddrPort(secure.Listener.Addr().String()).Port()
	w.reconfigured(fmt.Sprintf(`url: "https://%s:%d", %s`, privateName(t), port, signedService))
	w.fails("private", "a private one: say `private: true` if that is meant")
	gone := httptest.NewServer(service)
	gone.Close()
	w.reconfigured(`url: "` + gone.URL + `", ` + signedService)
	w.fails("gone", "connection refused")
	if after, elsewhere, _ := service.questions(); after != before || elsewhere != 0 {
		t.Errorf("asked %d more times, %d times elsewhere", after-before, elsewhere)
	}

	// And then it is there again.
	w.reconfigured(`url: "` + service.URL + `", ` + signedService)
	if told, certs := w.asks("allowed"); len(certs) != 3 {
		t.Errorf("%v", told)
	}
}

// Reloads leave no connections behind.
func TestWebhookReloads(t *testing.T) {
	t.Parallel()
	service := newPolicyService(t)
	w := newWebhookClients(t, `url: "`+service.URL+`", `+signedService)
	const times = 100
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
