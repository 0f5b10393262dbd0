package e2e

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway/passhash"
	"github.com/muster-pki/muster/gateway/seal"
)

// digestSealKey is the key file of a gateway with users for HTTP Digest.
var digestSealKey = base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32)) + "\n"

// digestForm is what `muster password --digest` makes with that key.
func digestForm(t *testing.T, user, realm, password string) string {
	t.Helper()
	sealer, err := seal.New(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	form, err := passhash.Digest(user, realm, []byte(password), sealer.Seal)
	if err != nil {
		t.Fatal(err)
	}
	return form
}

// CONFORMANCE, EST, Authentication: HTTP Digest (RFC 7616, SHA-256) where the endpoint offers it, with curl.
func TestDigest(t *testing.T) {
	form := func(user, realm, password string) string { return digestForm(t, user, realm, password) }
	g := configured(t, onLocalCA+`
profiles:
  any: {backend: local}
endpoints:
  plant:
    protocol: est
    listeners: [https]
    profile: any
    default: true
    est: {http-auth: [basic, digest]}
    enroll: [{password: {file: users}}, {names: {}}]
    renew:
      - anyOf:
          - own-certificate: {kinds: [tls-certificate]}
          - [{password: {file: users}}, {own-certificate: {kinds: [password]}}]
    query: [{own-certificate: {}}]
  strict:
    protocol: est
    listeners: [https]
    profile: any
    est: {http-auth: [digest]}
    enroll: [{password: {file: users}}, {names: {}}]
  basic:
    protocol: est
    listeners: [https]
    profile: any
    enroll: [{password: {file: users}}, {names: {}}]
`, "users", "alice:"+form("alice", "plant", "alice's")+"\nalice:"+form("alice", "strict", "alice's")+"\nbob:{sha256}"+sha256Hex("bob's")+"\n", "seal.key", digestSealKey)
	dir := t.TempDir()
	g.sh(dir, `for d in a b; do openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $d.key -subj /CN=device-$d -outform DER 2>/dev/null | openssl base64 -A > $d.b64; done`)
	// curl runs it as a device does, and returns status and body; what curl sent and read stands in trace.
	curl := func(arguments string) (status, body, trace string) {
		t.Helper()
		out := g.sh(dir, `curl -sSv --cacert "$MUSTER_CA" -H 'Content-Type: application/pkcs10' -w '\n%{http_code}' `+arguments+` 2> trace`)
		i := strings.LastIndexByte(out, '\n')
		return out[i+1:], strings.TrimSpace(out[:i]), g.sh(dir, "cat trace")
	}
	est := `"$MUSTER_HTTPS/.well-known/est`
	const with, digestSent = "--data-binary @a.b64 ", "> Authorization: Digest username=\"alice\""

	// curl answers the challenge; with --digest it asks for that with an empty body.
	for _, how := range []string{"--digest", "--anyauth"} {
		status, body, trace := curl(how + ` -u "alice:alice's" ` + with + est + `/simpleenroll"`)
		if status != "200" || strings.Contains(trace, "> Content-Length: 0") != (how == "--digest") || !strings.Contains(trace, digestSent) || strings.Contains(trace, "> Authorization: Basic") {
			t.Fatalf("%s: %s %s\n%s", how, status, body, trace)
		}
		if digest, basic := strings.Index(trace, `< WWW-Authenticate: Digest realm="plant"`), strings.Index(trace, `< WWW-Authenticate: Basic realm="plant"`); digest < 0 || basic < digest {
			t.Errorf("%s: the challenges\n%s", how, trace)
		}
	}
	for name, c := range map[string]struct{ arguments, status string }{
		"wrong password":                           {`--digest -u alice:wrong ` + with + est + `/simpleenroll"`, "401"},
		"unknown user":                             {`--digest -u mallory:wrong ` + with + est + `/simpleenroll"`, "401"},
		"a user without a digest form":             {`--digest -u "bob:bob's" ` + with + est + `/simpleenroll"`, "401"},
		"who logs in by Basic":                     {`-u "bob:bob's" ` + with + est + `/simpleenroll"`, "200"},
		"Basic with a digest form":                 {`-u "alice:alice's" ` + with + est + `/simpleenroll"`, "200"},
		"a labelled endpoint, Digest alone":        {`--anyauth -u "alice:alice's" ` + with + est + `/strict/simpleenroll"`, "200"},
		"Basic where Digest alone is offered":      {`-u "alice:alice's" ` + with + est + `/strict/simpleenroll"`, "401"},
		"Digest where Basic alone is":              {`--digest -u "alice:alice's" ` + with + est + `/basic/simpleenroll"`, "401"},
		"anything where Basic alone is":            {`--anyauth -u "alice:alice's" ` + with + est + `/basic/simpleenroll"`, "200"},
		"in clear":                                 {`--digest -u "alice:alice's" ` + with + `"$MUSTER_HTTP/.well-known/est/simpleenroll"`, "403"},
		"renewal by Digest alone":                  {`--digest -u "alice:alice's" ` + with + est + `/simplereenroll"`, "200"},
		"renewal of what the user has not":         {`--digest -u "alice:alice's" --data-binary @b.b64 ` + est + `/simplereenroll"`, "403"},
		"renewal by Digest alone, wrong password":  {`--digest -u alice:wrong ` + with + est + `/simplereenroll"`, "401"},
		"renewal by Digest alone, another's names": {`--digest -u alice:wrong --data-binary @b.b64 ` + est + `/simplereenroll"`, "401"},
	} {
		status, body, trace := curl(c.arguments)
		if status != c.status {
			t.Errorf("%s: %s %s, want %s\n%s", name, status, body, c.status, trace)
		}
		if strings.Contains(name, "where Basic alone") && strings.Contains(trace, "< WWW-Authenticate: Digest") || name == "in clear" && strings.Contains(trace, "< WWW-Authenticate") {
			t.Errorf("%s: what is offered\n%s", name, trace)
		}
	}
	status, body, trace := curl(`--digest -u "bob:bob's" ` + with + est + `/simpleenroll"`)
	if told := g.muster("explain", strings.TrimSuffix(body[strings.LastIndexByte(body, ' ')+1:], ")")); status != "401" || strings.Contains(trace, "stale") || !strings.Contains(told, `user "bob" has no digest form for the realm "plant"`) {
		t.Errorf("%s, explain:\n%s", status, told)
	}

	// An answer is good once, whatever is in between: a reload, and a restart, after which nobody knows whether a nonce was answered.
	answered := func() string {
		_, _, trace := curl(with + est + `/simpleenroll"`)
		found := regexp.MustCompile(`nonce="([^"]+)"`).FindStringSubmatch(trace)
		if found == nil {
			t.Fatalf("no nonce\n%s", trace)
		}
		return fmt.Sprintf(`-H 'Authorization: Digest username="alice", realm="plant", nonce="%s", uri="/.well-known/est/simpleenroll", cnonce="c", nc=00000001, qop=auth, algorithm=SHA-256, response="%s"' `,
			found[1], sha256Hex(sha256Hex("alice:plant:alice's")+":"+found[1]+":00000001:c:auth:"+sha256Hex("POST:/.well-known/est/simpleenroll")))
	}
	used, unused := answered(), answered()
	for _, c := range []struct {
		when, answer, status string
		before               func()
	}{
		{"at first", used, "200", func() {}},
		{"again", used, "401", func() {}},
		{"after a reload", used, "401", func() { g.muster("reload") }},
		{"after a restart", used, "401", func() { g.again() }},
		{"one from before a restart", unused, "401", func() {}},
		{"one from after it", "", "200", func() {}},
	} {
		c.before()
		if c.answer == "" {
			c.answer = answered()
		}
		status, body, trace := curl(c.answer + with + est + `/simpleenroll"`)
		if status != c.status || strings.Contains(trace, "stale=true") != (status == "401") {
			t.Errorf("%s: %s %s\n%s", c.when, status, body, trace)
		}
	}
	if strings.Contains(g.stderr.String(), "alice's") {
		t.Error("a password is in the log")
	}
}
