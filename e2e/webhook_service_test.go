package e2e

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
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
	entered   chan struct{}     // has one when such a one has come
	older     [2]string         // an answer that it gave, and its signature
}

func newPolicyService(t *testing.T) *policyService {
	s := &policyService{t: t, open: map[net.Conn]bool{}, release: make(chan struct{}), entered: make(chan struct{}, 9)}
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
	t.Cleanup(func() {
		select {
		case <-s.release:
		default:
			close(s.release)
		}
		s.Close()
	})
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
	case "slow", "trickles", "informs":
		s.dawdle(w, r, does)
		return
	case "waits":
		s.entered <- struct{}{}
		<-s.release
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
	signature := policySignature(secret, question, ".", string(said))
	s.mu.Lock()
	if does == "an older answer" {
		said, signature = []byte(s.older[0]), s.older[1]
	}
	s.older = [2]string{string(said), signature}
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if does != "no signature" {
		w.Header().Set("Muster-Signature", signature)
	}
	w.WriteHeader(status)
	_, _ = w.Write(said)
}

// dawdle answers too little until who asked has gone.
func (s *policyService) dawdle(w http.ResponseWriter, r *http.Request, how string) {
	w.Header().Set("Content-Type", "application/json")
	for {
		switch how {
		case "trickles":
			_, _ = io.WriteString(w, " ")
			w.(http.Flusher).Flush()
		case "informs":
			w.WriteHeader(http.StatusEarlyHints)
		}
		select {
		case <-r.Context().Done():
			return
		case <-s.release:
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
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
