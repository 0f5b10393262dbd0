package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/muster-pki/muster/gateway/trace/tracetest"
)

// tracedConfig is good, with traces of all requests. The password is "in-the-factory".
func tracedConfig(collector string) string {
	c := strings.Replace(good, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "08ed384b4a326ec9cee132583489cddff389cbc32e8a582a9306cf2d24b27cc4", 1)
	return c + "metrics: {listeners: [plain]}\ntracing: {otlp: " + collector + ", sample: 1, headers: headers}\n"
}

// enrolled asks for a certificate at path with a password.
func (g *gatewayProcess) enrolled(t *testing.T, user, password string) int {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "hidden-device"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+g.where("tls")+"/.well-known/est/ran/simpleenroll", strings.NewReader(base64.StdEncoding.EncodeToString(csr)))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/pkcs10")
	r.Header.Set("Traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	r.SetBasicAuth(user, password)
	res, err := g.client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	io.Copy(io.Discard, res.Body) //nolint:errcheck // the status counts
	return res.StatusCode
}

// A request leaves one trace, through stages, commits and the CA's plugin, with what the log has or less; the log and explain name it.
func TestTraces(t *testing.T) {
	c := tracetest.New(t)
	dir := t.TempDir()
	write(t, dir, "headers", "# of the collector\nAuthorization: Bearer collectors-token\n")
	if err := os.Chmod(filepath.Join(dir, "headers"), 0o600); err != nil {
		t.Fatal(err)
	}
	g := serveOn(t, dir, "--config", write(t, dir, "muster.yaml", tracedConfig(c.URL)))
	if code := g.enrolled(t, "factory", "in-the-factory"); code != http.StatusOK {
		t.Fatalf("%d\n%s", code, g.stderr)
	}
	if code := g.enrolled(t, "factory", "wrong-password"); code != http.StatusUnauthorized {
		t.Errorf("a wrong password: %d", code)
	}
	_, before := fetch(t, http.DefaultClient, "http://"+g.where("plain")+"/metrics")
	flood(t, g)
	_, after := fetch(t, http.DefaultClient, "http://"+g.where("plain")+"/metrics")
	if a, b := len(series(before)), len(series(after)); b > a+60 {
		t.Errorf("%d series before strange requests, %d after", a, b)
	}
	for _, s := range series(after) {
		if strings.Contains(s, "strange") {
			t.Errorf("a client chose a label: %s", s)
		}
	}
	said := regexp.MustCompile(`msg=transaction id=(\S+) .*decision=issued .*subject="?CN=hidden-device.* trace=([0-9a-f]{32})`).FindStringSubmatch(g.stderr.String())
	if said == nil {
		t.Fatalf("no trace in the log\n%s", g.stderr)
	}
	out, err := command("explain", said[1], "--data", dir).CombinedOutput()
	if err != nil || !strings.Contains(string(out), said[2]) {
		t.Errorf("explain: %v\n%s", err, out)
	}
	g.end(syscall.SIGTERM) // sends what waits

	names := map[string]int{}
	spans := c.Spans()
	root := ""
	for _, s := range spans {
		if s.Trace != said[2] {
			continue
		}
		names[strings.TrimSpace(s.Name+" "+s.Attributes["muster.stage"]+s.Attributes["rpc.method"])]++
		if s.Parent == "" {
			root = s.ID
		}
		if s.Name == "request" && (s.Attributes["muster.transaction"] != said[1] || s.Attributes["muster.decision"] != "issued" || s.Attributes["muster.endpoint"] != "ran") {
			t.Errorf("%v", s.Attributes)
		}
	}
	if names["store commit"] < 2 {
		t.Errorf("%d commits in the trace", names["store commit"])
	}
	delete(names, "store commit")
	delete(names, "CA call CACertificates") // where the CA was not asked before
	if want := []string{"CA call Issue", "HTTP POST", "pipeline", "request", "stage keys", "stage names", "stage password"}; !slices.Equal(slices.Sorted(maps.Keys(names)), want) || root == "" {
		t.Errorf("the trace has %v, want %v", names, want)
	}
	if h := c.Header().Get("Authorization"); h != "Bearer collectors-token" {
		t.Errorf("the collector was shown %q", h)
	}
	for _, secret := range []string{"hidden-device", "in-the-factory", "wrong-password", "4bf92f3577b34da6", "collectors-token", "strange"} {
		if strings.Contains(c.Body(), secret) {
			t.Errorf("%q is in what was exported", secret)
		}
	}
	if strings.Contains(g.stderr.String(), "collectors-token") {
		t.Error("the token is in the log")
	}
}

// flood sends requests of many kinds that nobody sends.
func flood(t *testing.T, g *gatewayProcess) {
	t.Helper()
	client := g.client()
	for i := range 40 {
		method := []string{"POST", "GET", fmt.Sprintf("STRANGE%d", i)}[i%3]
		path := []string{"/.well-known/est/strange%d/simpleenroll", "/.well-known/cmp/p/strange%d", "/scep/strange%d?operation=strange", "/strange%d", "/.well-known/est/ran/strange%d"}[i%5]
		r, err := http.NewRequestWithContext(t.Context(), method, "https://"+g.where("tls")+fmt.Sprintf(path, i), strings.NewReader("strange"))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", fmt.Sprintf("application/strange%d", i))
		r.SetBasicAuth(fmt.Sprintf("strange%d", i), "x")
		res, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
	}
}

// series are the gateway's own, without their values.
func series(page string) (all []string) {
	for line := range strings.Lines(page) {
		if name, _, ok := strings.Cut(line, " "); ok && strings.HasPrefix(name, "muster_") && !strings.Contains(name, "_bucket{") {
			all = append(all, name)
		}
	}
	return all
}

func TestTracingErrors(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "open", "A: b\n")
	if err := os.Chmod(filepath.Join(dir, "open"), 0o644); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "broken", "A: b\nhidden\n")
	if err := os.Chmod(filepath.Join(dir, "broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		"{sample: 0.5}":                       "otlp",
		"{otlp: 127.0.0.1}":                   "tracing.otlp: want http://HOST:PORT",
		"{otlp: http://u:hidden@h}":           "tracing.otlp: credentials do not stand in a URL",
		"{otlp: http://h, sample: 2}":         "tracing.sample: want a share",
		"{otlp: http://h, sample: .nan}":      "tracing.sample",
		"{otlp: http://h, continue: [plian]}": `there is no listener "plian" (did you mean "plain"?)`,
		"{otlp: http://h, ca: ca.pem}":        "tracing.ca: only an https address",
		"{otlp: https://h, ca: open}":         "tracing.ca: open holds no certificate",
		"{otlp: http://h, headers: open}":     "accessible to others",
		"{otlp: http://h, headers: broken}":   "line 2: want NAME: VALUE",
		"{otlp: http://h, headers: none}":     "no such file",
		"{otlp: http://h, smaple: 1}":         `did you mean "sample"?`,
	} {
		_, err := loadConfig(write(t, dir, "muster.yaml", good+"tracing: "+in+"\n"))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: %v, want %s", in, err, want)
		}
	}
}
