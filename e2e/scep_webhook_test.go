package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/muster-pki/muster/gateway/pkix"
)

// intune stands in for Intune's ScepRequestValidationFEService, as Microsoft's own libraries ask it.
type intune struct {
	t     *testing.T
	mu    sync.Mutex
	good  map[string]bool // challenges that it made, until they are used
	down  bool
	moved string   // where it sends those who ask; "" for nowhere
	asked []string // transaction IDs
}

func (s *intune) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Request struct {
			TransactionID      string `json:"transactionId"`
			CertificateRequest []byte `json:"certificateRequest"`
			CallerInfo         string `json:"callerInfo"`
		} `json:"request"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		s.t.Error(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, in.Request.TransactionID)
	if r.URL.Path != "/svc/ScepActions/validateRequest" || r.Header.Get("Authorization") != "Bearer of-the-tenant" || r.Header.Get("Api-Version") != "2018-02-20" ||
		r.Header.Get("Client-Request-Id") == "" || in.Request.CallerInfo != "muster" {
		s.t.Errorf("asked %s %v %+v", r.URL, r.Header, in)
	}
	if s.moved != "" {
		http.Redirect(w, r, s.moved, http.StatusFound)
		return
	}
	if s.down {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	csr, err := pkix.ParseCSR(in.Request.CertificateRequest)
	if err != nil {
		s.t.Error(err)
		return
	}
	challenge, _, _ := csr.ChallengePassword()
	code := "ChallengeDecryptionError"
	if s.good[challenge] {
		delete(s.good, challenge) // stricter than Intune is: once
		code = "Success"
	}
	fmt.Fprintf(w, `{"code":%q,"errorDescription":""}`, code)
}

func (s *intune) questions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

// adapter runs configs/challenge-webhook.py and returns where it listens.
func adapter(t *testing.T, dir, intune string) string {
	t.Helper()
	return example(t, "challenge-webhook.py", "--listen", "127.0.0.1:0",
		"--secret", filepath.Join(dir, "webhook-secret"), "--intune", intune, "--token", filepath.Join(dir, "token"))
}

// example runs a service of configs and returns where it listens.
func example(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command("python3", append([]string{filepath.Join("..", "configs", name)}, args...)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	address, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if err != nil || !ok {
		t.Fatalf("%q, %v: %s", line, err, &said)
	}
	return address
}

const webhookSecret = "a secret of the gateway and the service\n"

// Challenges that an operator's service decides about, by the recipe of docs/scep.md, with Intune behind (RFC 8894 sections 2.3 and 2.4).
func TestSCEPChallengeWebhook(t *testing.T) {
	const right, second, wrong = "challenge-of-intune-0001", "challenge-of-intune-0002", "challenge-of-a-stranger"
	service := &intune{t: t, good: map[string]bool{right: true, second: true}}
	behind := httptest.NewServer(service)
	defer behind.Close()
	dir := t.TempDir()
	for name, text := range map[string]string{"webhook-secret": webhookSecret, "token": "of-the-tenant\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	address := adapter(t, dir, behind.URL+"/svc/")
	g := configured(t, strings.Replace(onLocalCA, "dir: ca", "dir: ca, issuers: {rsa: {bits: 2048}}", 1)+`profiles:
  phone: {backend: local, issuer: rsa, validity: 30d}
endpoints:
  phones:
    protocol: scep
    listeners: [http]
    default: true
    profile: phone
    enroll:
      - challenge: {webhook: {url: "`+address+`", secret-file: webhook-secret}}
      - names: {san: {dns: {}}}
    renew:
      - own-certificate: {}
`, "webhook-secret", webhookSecret)
	d := g.scepDevice()

	m := d.message(scepWish{name: "webhook-1", challenge: right, tid: "77"})
	first := d.must(m)
	if first.cert == nil || service.questions() != 1 || service.asked[0] != "77" {
		t.Fatalf("%v, asked %q", first, service.asked)
	}
	why := g.muster("explain", g.transactions("webhook-1")[0].ID)
	if !strings.Contains(why, `the webhook 127.0.0.1 allows it: "Intune knows it"`) || !strings.Contains(why, "challenge:webhook:127.0.0.1") {
		t.Errorf("explain: %s", why)
	}

	// The same again, since the answer got lost: the challenge is used up, and nobody is asked.
	if a := d.must(m); a.cert == nil || !bytes.Equal(a.cert.Raw, first.cert.Raw) || service.questions() != 1 {
		t.Errorf("a repeat: %v, asked %q", a, service.asked)
	}
	// A renewal by the certificate, with the challenge sent again: nobody is asked either, and explain says so.
	if a := d.ask(scepWish{name: "webhook-1", challenge: right, signer: first.cert}); a.cert == nil || service.questions() != 1 {
		t.Errorf("a renewal: %v, asked %q", a, service.asked)
	} else if why := g.muster("explain", g.transactions("webhook-1")[0].ID); !strings.Contains(why, "the challenge was not looked at") {
		t.Errorf("explain: %s", why)
	}

	// What the service does not allow, and a message that has no challenge.
	other := g.scepDevice()
	for challenge, more := range map[string]int{wrong: 1, right: 1, "": 0} {
		before := service.questions()
		if a := other.ask(scepWish{name: "webhook-2", challenge: challenge}); a.status != "2" || a.failInfo != "2" || strings.Contains(a.text, "Intune") || service.questions() != before+more {
			t.Errorf("challenge %q: %v, asked %d times", challenge, a, service.questions()-before)
		}
	}
	if log := g.stderr.String(); !strings.Contains(log, "the webhook 127.0.0.1 does not allow it") || !strings.Contains(log, "ChallengeDecryptionError") {
		t.Errorf("the log does not say why: %s", log)
	}
	// No answer is none: the client may come again, and does.
	set := func(down bool) {
		service.mu.Lock()
		defer service.mu.Unlock()
		service.down = down
	}
	set(true)
	if a := other.ask(scepWish{name: "webhook-2", challenge: second}); a.http != http.StatusServiceUnavailable {
		t.Errorf("without an answer: %v", a)
	}
	set(false)
	// Whoever says that it is elsewhere does not get the token there.
	elsewhere := 0
	stranger := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		service.mu.Lock()
		defer service.mu.Unlock()
		elsewhere++
		fmt.Fprint(w, `{"code":"Success"}`)
	}))
	defer stranger.Close()
	moved := func(to string) int {
		service.mu.Lock()
		defer service.mu.Unlock()
		service.moved = to
		return elsewhere
	}
	moved(stranger.URL)
	if a := other.ask(scepWish{name: "webhook-2", challenge: second}); a.http != http.StatusServiceUnavailable {
		t.Errorf("moved: %v", a)
	}
	if n := moved(""); n != 0 {
		t.Errorf("a stranger was asked %d times", n)
	}
	if a := other.ask(scepWish{name: "webhook-2", challenge: second}); a.cert == nil {
		t.Errorf("later: %v", a)
	}
	if n := len(g.ledger("webhook-1")) + len(g.ledger("webhook-2")); n != 3 {
		t.Errorf("%d certificates, want 3", n)
	}

	// The service takes no question that is not signed.
	before := service.questions()
	res, err := http.Post(address, "application/json", strings.NewReader(`{"transaction":"1","csr":"","id":"1"}`))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, res.Body)
	res.Body.Close()
	if res.StatusCode != http.StatusUnauthorized || service.questions() != before {
		t.Errorf("an unsigned question: %d", res.StatusCode)
	}

	// No challenge is in the log, and none in what is explained.
	for _, secret := range []string{right, second, wrong} {
		if strings.Contains(g.stderr.String(), secret) || strings.Contains(why, secret) {
			t.Errorf("%s is in the log", secret)
		}
	}
	g.stop()
	files, err := filepath.Glob(filepath.Join(g.dir, "muster.db*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{right, second, wrong} {
			if bytes.Contains(data, []byte(secret)) {
				t.Errorf("%s is in %s", secret, filepath.Base(name))
			}
		}
	}
}
