package e2e

import (
	"path/filepath"
	"strings"
	"testing"
)

// Compositions with curl: what a client is told of several branches, what is explained, and what the drawing shows of the same.
func TestComposition(t *testing.T) {
	users := "{alice: \"{sha256}" + sha256Hex("alice-secret") + "\", bob: \"{sha256}" + sha256Hex("bob-secret") + "\"}"
	g := configured(t, onLocalCA+`
profiles:
  any: {backend: local}
endpoints:
  plant:
    protocol: est
    listeners: [https]
    profile: any
    default: true
    enroll: &enroll
      - anyOf:
          - vendor-ca: {dir: vendor-ca, kinds: [tls-certificate]}
          - allOf: [password: {users: `+users+`}, names: {common-name: "device-.*"}]
      - not: [names: {common-name: "device-forbidden"}]
      - names: {}
  lab: {protocol: est, listeners: [https], profile: any, enroll: *enroll}
`)
	dir := t.TempDir()
	post := func(endpoint, user, name string) (status, body string) {
		t.Helper()
		out := g.sh(dir, `openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout device.key -subj "/CN=`+name+`" -outform DER 2>/dev/null | openssl base64 -A > device.b64
			curl -sS --cacert "$MUSTER_CA" -H 'Content-Type: application/pkcs10' --data-binary @device.b64 -w '\n%{http_code}' -u `+user+` "$MUSTER_HTTPS/.well-known/est/`+endpoint+`/simpleenroll"`)
		i := strings.LastIndexByte(out, '\n')
		return out[i+1:], strings.TrimSpace(out[:i])
	}
	explained := func(body string) string {
		t.Helper()
		return g.muster("explain", strings.TrimSuffix(body[strings.LastIndexByte(body, ' ')+1:], ")"))
	}
	for _, endpoint := range []string{"plant", "lab"} { // one pipeline, written once
		if status, body := post(endpoint, "alice:alice-secret", "device-1"); status != "200" {
			t.Fatalf("%s: %s %s", endpoint, status, body)
		}
	}
	// Told of the password that it showed, not of the certificate that it did not.
	status, body := post("plant", "alice:wrong", "device-1")
	if status != "401" || strings.Contains(body, "certificate") || !strings.Contains(body, "password") {
		t.Errorf("a wrong password: %s %s", status, body)
	}
	// The branch that came farther decides, and goes by its own name.
	status, body = post("plant", "bob:bob-secret", "printer-1")
	if told := explained(body); status != "403" || !strings.Contains(told, "allOf") || !strings.Contains(told, "User bob") {
		t.Errorf("another name: %s %s\n%s", status, body, told)
	}
	status, body = post("plant", "bob:bob-secret", "device-forbidden")
	if told := explained(body); status != "403" || !strings.Contains(told, "allowed, where it must not be") {
		t.Errorf("what must not be: %s %s\n%s", status, body, told)
	}
	shown := g.muster("pipeline", "show", "plant", "--config", filepath.Join(g.dir, "gateway.yaml"))
	for _, want := range []string{"anyOf: one of 2", "allOf: all of these", "not: denies", "commonName device-forbidden", "HTTP 401  unauthenticated", "2 users"} {
		if !strings.Contains(shown, want) {
			t.Errorf("no %q in\n%s", want, shown)
		}
	}
	if strings.Contains(shown, sha256Hex("alice-secret")) {
		t.Error("a hash is shown")
	}
}
