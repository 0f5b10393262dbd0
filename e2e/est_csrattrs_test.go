package e2e

import (
	"strings"
	"testing"
)

const csrAttrsConfig = onLocalCA + `profiles:
  device: {backend: local, validity: 30d, keys: [P-384, P-256], subject: "CN={{request.subject.CN}}", san: {dns: ["{{request.san.dns}}"]}}
  fixed: {backend: local, validity: 30d}
endpoints:
  list:
    protocol: est
    listeners: [https]
    default: true
    profile: device
    enroll:
      - password: {file: users}
      - names: {san: {dns: {pattern: ".*"}}}
  template:
    protocol: est
    listeners: [https]
    profile: device
    est: {csrattrs: template}
    enroll:
      - password: {file: users}
      - names: {san: {dns: {pattern: ".*"}}}
  linked:
    protocol: est
    listeners: [https]
    profile: fixed
    est: {csrattrs: none}
    enroll:
      - password: {file: users}
      - names: {}
      - keys: {pop: [tls-binding]}
  silent:
    protocol: est
    listeners: [https]
    profile: fixed
    est: {csrattrs: none}
    enroll:
      - password: {file: users}
      - names: {}
`

// RFC 7030 section 4.5 by curl and openssl: what an endpoint asks for, without authentication, and a request that follows it
// is certified.
func TestCSRAttrs(t *testing.T) {
	g := configured(t, csrAttrsConfig, "users", heldSecret(t, "held-password"))
	dir := t.TempDir()
	ask := func(path string) string {
		t.Helper()
		return g.sh(dir, `curl -sS --cacert "$MUSTER_CA" -o csrattrs.b64 -w '%{http_code} %{content_type}' "$MUSTER_HTTPS/.well-known/est`+path+`"`)
	}
	parsed := func() string {
		t.Helper()
		return g.sh(dir, `openssl base64 -d -A -in csrattrs.b64 | openssl asn1parse -inform DER -i`)
	}
	inOrder := func(out string, want ...string) {
		t.Helper()
		rest := out
		for _, w := range want {
			_, after, found := strings.Cut(rest, w)
			if !found {
				t.Fatalf("no %s in its place\n%s", w, out)
			}
			rest = after
		}
	}
	if got := ask("/csrattrs"); got != "200 application/csrattrs" {
		t.Fatal(got)
	}
	inOrder(parsed(), "id-ecPublicKey", "SET", "secp384r1", "Extension Request", "SET", "Subject Alternative Name", "commonName", "ecdsa-with-SHA384")

	// A request as it is asked for, and one that is not.
	enrol := func(curve, digest, more string) string {
		t.Helper()
		return g.sh(dir, `openssl ecparam -name `+curve+` -genkey -noout -out device.key
			openssl req -config /dev/null -new -`+digest+` -key device.key -subj /CN=asked `+more+` -outform DER | openssl base64 -A > device.b64
			curl -sS --cacert "$MUSTER_CA" -H 'Content-Type: application/pkcs10' --data-binary @device.b64 -u held:held-password \
				-o answer -w '%{http_code}' "$MUSTER_HTTPS/.well-known/est/simpleenroll"`)
	}
	const san = `-addext subjectAltName=DNS:asked.example`
	if got := enrol("secp384r1", "sha384", san); got != "200" {
		t.Errorf("as asked for: %s\n%s", got, g.sh(dir, "cat answer"))
	}
	if got := enrol("prime256v1", "sha256", san); got != "200" { // a key that the profile has beside the first
		t.Errorf("another key: %s\n%s", got, g.sh(dir, "cat answer"))
	}
	if got := enrol("secp521r1", "sha512", san); got != "400" {
		t.Errorf("a key that is not the profile's: %s", got)
	}
	if got := enrol("secp384r1", "sha384", ""); got != "400" {
		t.Errorf("without the name: %s", got)
	}

	if got := ask("/template/csrattrs"); got != "200 application/csrattrs" {
		t.Fatal(got)
	}
	inOrder(parsed(), "id-ecPublicKey", "1.2.840.113549.1.9.16.2.61", "INTEGER", "commonName", "cont [ 0 ]", "secp384r1", "cont [ 1 ]",
		"1.2.840.113549.1.9.16.2.62", "Subject Alternative Name", "8200", "Key Usage", "BOOLEAN", "Extended Key Usage", "ecdsa-with-SHA384")
	if got := ask("/linked/csrattrs"); got != "200 application/csrattrs" {
		t.Fatal(got)
	}
	inOrder(parsed(), "challengePassword")
	if got := ask("/silent/csrattrs"); got != "204 " {
		t.Error(got)
	}
}
