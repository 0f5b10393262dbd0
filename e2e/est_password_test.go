package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// CONFORMANCE, EST, Authentication: Basic alone renews the newest valid certificate issued to that user and subject; none: 403.
// A user who asks for another's names gets nothing, and whose password is wrong does not learn who has what.
func TestReenrollByPasswordAlone(t *testing.T) {
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
    enroll: [{password: {users: `+users+`}}, {names: {}}]
    renew:
      - anyOf:
          - own-certificate: {kinds: [tls-certificate]}
          - [{password: {users: `+users+`}}, {own-certificate: {kinds: [password]}}]
`)
	dir := t.TempDir()
	post := func(operation, user, subject, key string) (status, body string) {
		t.Helper()
		out := g.sh(dir, fmt.Sprintf(`set -- "%s" "%s"
			test -f "$2" || openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$2" 2>/dev/null
			openssl req -new -key "$2" -subj "$1" -outform DER | openssl base64 -A > device.b64
			curl -sS --cacert "$MUSTER_CA" -H 'Content-Type: application/pkcs10' --data-binary @device.b64 -w '\n%%{http_code}' -u %s "$MUSTER_HTTPS/.well-known/est/%s"`,
			subject, key, user, operation))
		i := strings.LastIndexByte(out, '\n')
		return out[i+1:], strings.TrimSpace(out[:i])
	}
	serial := func(body string) string {
		t.Helper()
		return g.sh(dir, `printf %s "`+body+`" | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs | openssl x509 -noout -serial`)
	}
	want := func(what, status, wanted, body string) string {
		t.Helper()
		if status != wanted {
			t.Fatalf("%s: %s %s, want %s", what, status, body, wanted)
		}
		return body
	}

	status, body := post("simplereenroll", "alice:alice-secret", "/CN=device-a", "a.key")
	if want("before anything was issued", status, "403", body); !strings.Contains(body, "enrol first") {
		t.Errorf("told %q", body)
	}
	for _, user := range []string{"alice", "bob"} {
		status, body = post("simpleenroll", user+":"+user+"-secret", "/CN=device-"+user[:1], user[:1]+".key")
		want("enrol "+user, status, "200", body)
	}
	first := serial(body)

	status, body = post("simplereenroll", "bob:bob-secret", "/CN=device-b", "b.key")
	second := serial(want("renew", status, "200", body))
	status, body = post("simplereenroll", "bob:bob-secret", "/CN=device-b", "b2.key")
	third := serial(want("rekey", status, "200", body))
	if first == second || second == third {
		t.Errorf("not renewed: %s %s %s", first, second, third)
	}
	// The answer was lost: the same request again gets the same certificate, though that is the newest by now.
	status, body = post("simplereenroll", "bob:bob-secret", "/CN=device-b", "b2.key")
	if again := serial(want("again", status, "200", body)); again != third {
		t.Errorf("a repeat made %s beside %s", again, third)
	}

	// The victim test.
	status, body = post("simplereenroll", "alice:alice-secret", "/CN=device-b", "a.key")
	want("another user's subject", status, "403", body)
	told := g.muster("explain", strings.TrimSuffix(body[strings.LastIndexByte(body, ' ')+1:], ")"))
	if !strings.Contains(told, "own-certificate") || !strings.Contains(told, `user "alice" holds no valid certificate with subject CN=device-b`) {
		t.Errorf("explain:\n%s", told)
	}
	for _, subject := range []string{"/CN=device-b", "/CN=nobody"} {
		status, body = post("simplereenroll", "bob:wrong", subject, "b.key")
		if want("wrong password", status, "401", body); strings.Contains(body, "certificate was issued") {
			t.Errorf("a stranger is told %q", body)
		}
	}

	// SubjectAltName as well: the same subject with a name that the certificate does not have.
	status, body = post("simplereenroll", "alice:alice-secret", "/CN=device-a", "a.key")
	want("own", status, "200", body)
	g.sh(dir, `openssl req -new -key a.key -subj /CN=device-a -addext subjectAltName=DNS:victim.example -outform DER | openssl base64 -A > device.b64`)
	if out := g.sh(dir, `curl -sS --cacert "$MUSTER_CA" -H 'Content-Type: application/pkcs10' --data-binary @device.b64 -w '\n%{http_code}' -u alice:alice-secret "$MUSTER_HTTPS/.well-known/est/simplereenroll"`); !strings.HasSuffix(out, "\n403") {
		t.Errorf("another subjectAltName: %s", out)
	}

	// The newest that is not revoked renews; when all are, none does.
	for _, s := range []string{third, second} {
		g.muster("revoke", strings.TrimPrefix(strings.TrimSpace(s), "serial="), "--reason", "keyCompromise")
	}
	status, body = post("simplereenroll", "bob:bob-secret", "/CN=device-b", "b3.key")
	fourth := serial(want("by an older one", status, "200", body))
	for _, s := range []string{fourth, first} {
		g.muster("revoke", strings.TrimPrefix(strings.TrimSpace(s), "serial="), "--reason", "keyCompromise")
	}
	status, body = post("simplereenroll", "bob:bob-secret", "/CN=device-b", "b4.key")
	want("all revoked", status, "403", body)
}
