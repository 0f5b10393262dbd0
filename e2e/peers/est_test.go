//go:build peers

package peers

import (
	"bufio"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const estConfig = `version: 1
listeners:
  http: {address: 127.0.0.1:0}
  https: {address: 127.0.0.1:0, tls: {}}
store: sqlite:muster.db
backends:
  local: {plugin: local, config: {dir: ca}}
server-certificate: {backend: local}
profiles:
  device: {backend: local, validity: 90d}
endpoints:
  factory:
    protocol: est
    listeners: [https]
    default: true
    profile: device
    enroll: [password: {file: users}, names: {}]
    renew: [own-certificate: {}]
  linked:
    protocol: est
    listeners: [https]
    profile: device
    enroll:
      - client-certificate: {cas: [vendor-ca/ca.pem]}
      - keys: {pop: [tls-binding]}
      - names: {}
    renew:
      - own-certificate: {}
      - keys: {pop: [tls-binding]}
  held:
    protocol: est
    listeners: [https]
    profile: device
    est: {retry-after: 1h}
    enroll:
      - client-certificate: {cas: [vendor-ca/ca.pem]}
      - names: {}
      - approval: {approvers: 1}
  digest:
    protocol: est
    listeners: [https]
    profile: device
    est: {http-auth: [digest]}
    enroll: [password: {file: digest-users}, names: {}]
  both:
    protocol: est
    listeners: [https]
    profile: device
    est: {http-auth: [basic, digest]}
    enroll: [password: {file: digest-users}, names: {}]
  made:
    protocol: est
    listeners: [https]
    profile: device
    enroll: [password: {file: users}, keys: {generate: [P-256]}, names: {}]
`

const users = `{ printf 'factory:'; echo 'pass word' | "$MUSTER" password; } >users
for realm in digest both; do printf 'factory:'; echo 'pass word' | "$MUSTER" password --data . --digest $realm --user factory; done >digest-users
{ printf 'basic:'; echo 'pass word' | "$MUSTER" password; } >>digest-users
`

// est starts a gateway on estConfig.
func est(t *testing.T) *gateway {
	t.Helper()
	return startWith(t, estConfig, vendor, users)
}

// tls is the port of the listener https.
func (g *gateway) tls() string {
	_, port, _ := strings.Cut(g.Listener("https"), ":")
	return port
}

// estArgs are those of java for BouncyCastle's EST client. label "" is the default endpoint.
func (g *gateway) estArgs(label, command string, args ...string) []string {
	all := []string{"-XX:TieredStopAtLevel=1", "-cp", classes + ":" + jars(), "Est", command, "-server", "localhost:" + g.tls(), "-root", filepath.Join("ca", "roots.pem")}
	if label != "" {
		all = append(all, "-label", label)
	}
	return append(all, args...)
}

// est runs a command of BouncyCastle's EST client.
func (g *gateway) est(t *testing.T, label, command string, args ...string) said {
	t.Helper()
	out, ok := g.Run("java", g.estArgs(label, command, args...)...)
	if !ok || !strings.Contains(out, "end: ok\n") {
		t.Fatalf("%s %s\n%s\n%s", command, args, out, g.Log)
	}
	return parseSaid(t, out)
}

// refused checks status and words of a refusal.
func (s said) refused(status, words string) {
	s.t.Helper()
	s.is("status", status)
	if got := s.values["refused"]; len(got) != 1 || !strings.Contains(got[0], words) {
		s.t.Errorf("refused with %q, want %q, in\n%s", got, words, s.text)
	}
}

var (
	byVendor = []string{"-cert", "P-256.pem", "-key", "P-256.key"}
	basic    = []string{"-user", "factory", "-password", "pass word"}
)

// RFC 7030 sections 4.1, 4.2 and 4.5 with BouncyCastle's ESTService.
func TestEST(t *testing.T) {
	g := est(t)
	g.est(t, "", "cacerts").is("ca", "O=Muster,CN=Muster Issuing CA", "O=Muster,CN=Muster Root CA")
	g.est(t, "", "csrattrs").is("attribute", "2.5.4.3") // those with values are not listed by its getRequirements
	g.est(t, "linked", "csrattrs").is("attribute", "1.2.840.113549.1.9.7", "2.5.4.3")

	s := g.est(t, "", "enroll", with(basic, "-subject", "CN=by password", "-certout", "bc.pem", "-keyout", "bc.key")...)
	s.is("completed", "true")
	s.is("subject", "CN=by password")
	g.est(t, "", "enroll", "-user", "factory", "-password", "wrong", "-subject", "CN=x").is("status", "401")
	g.est(t, "", "enroll", "-subject", "CN=x").is("status", "401")
	s = g.est(t, "", "reenroll", "-cert", "bc.pem", "-key", "bc.key", "-subject", "CN=by password")
	s.is("subject", "CN=by password")
	g.est(t, "", "reenroll", "-cert", "bc.pem", "-key", "bc.key", "-subject", "CN=another").refused("403", "")
	// On TLS 1.3, too.
	g.est(t, "", "enroll", with(basic, "-subject", "CN=1.3", "-tls", "TLSv1.3")...).is("subject", "CN=1.3")
}

// RFC 7030 section 3.5: tls-unique in challengePassword, as simpleEnrollPoP puts it there, where it is required.
func TestESTLinking(t *testing.T) {
	g := est(t)
	s := g.est(t, "linked", "enroll", with(byVendor, "-pop", "right", "-subject", "CN=linked", "-certout", "bc.pem", "-keyout", "bc.key")...)
	s.is("subject", "CN=linked")
	if trail := g.Muster("explain", g.Transactions("linked")[0].ID); !strings.Contains(trail, "possession shown by tls-binding") {
		t.Error(trail)
	}
	g.est(t, "linked", "reenroll", "-cert", "bc.pem", "-key", "bc.key", "-pop", "right", "-subject", "CN=linked").is("subject", "CN=linked")
	g.est(t, "linked", "enroll", with(byVendor, "-pop", "wrong", "-subject", "CN=x")...).refused("400", "on this one it has to be the base64 of tls-unique")
	g.est(t, "linked", "enroll", with(byVendor, "-subject", "CN=x")...).refused("400", "has to be bound to the TLS connection")
	// With a password: the request that comes before the challenge is for another connection than the one behind it. BouncyCastle
	// links each anew.
	g.est(t, "", "enroll", with(basic, "-pop", "right", "-subject", "CN=linked user")...).is("subject", "CN=linked user")
	// Where it is not required, a wrong value is refused as well.
	g.est(t, "", "enroll", with(basic, "-pop", "wrong", "-subject", "CN=x")...).refused("400", "tls-unique")
}

// RFC 7030 section 4.2.3: 202 with Retry-After; the same request, which BouncyCastle keeps, fetches the certificate later.
func TestESTHeld(t *testing.T) {
	g := est(t)
	cmd := exec.CommandContext(t.Context(), "java", g.estArgs("held", "enroll", with(byVendor, "-subject", "CN=held", "-polls", "2")...)...)
	cmd.Dir = g.Dir
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	lines, held := bufio.NewScanner(out), 0
	for lines.Scan() {
		text.WriteString(lines.Text() + "\n")
		if lines.Text() != "held: until later" {
			continue
		}
		if held++; held == 2 { // asked in between, it is held still
			g.Muster("approve", g.Transactions("held")[0].ID, "--reason", "it is on the list")
		}
		if _, err := io.WriteString(in, "\n"); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Wait(); err != nil || held != 2 {
		t.Fatalf("%v, held %d times\n%s\n%s", err, held, text.String(), g.Log)
	}
	s := parseSaid(t, text.String())
	s.is("completed", "true")
	s.is("subject", "CN=held")
	if all := g.Transactions("held"); len(all) != 1 || all[0].State != "issued" {
		t.Errorf("%v", all)
	}
}

// RFC 7616: BouncyCastle's Digest, of which RFC 7030 section 3.2.3 speaks. It answers the first challenge that it is given.
func TestESTDigest(t *testing.T) {
	g := est(t)
	g.est(t, "digest", "enroll", with(basic, "-subject", "CN=by digest")...).is("subject", "CN=by digest")
	g.est(t, "digest", "enroll", with(basic, "-pop", "right", "-subject", "CN=linked by digest")...).is("subject", "CN=linked by digest")
	g.est(t, "digest", "enroll", "-user", "factory", "-password", "wrong", "-subject", "CN=x").is("status", "401")
	g.est(t, "digest", "enroll", "-user", "nobody", "-password", "pass word", "-subject", "CN=x").is("status", "401")
	// Where both are offered Digest is the one that BouncyCastle takes: a user without a digest form is refused, who logs in by Basic.
	g.est(t, "both", "enroll", with(basic, "-subject", "CN=by either")...).is("subject", "CN=by either")
	g.est(t, "both", "enroll", "-user", "basic", "-password", "pass word", "-subject", "CN=x").is("status", "401")
	// Where it is not offered nobody is asked for it: BouncyCastle goes on with Basic, and what insists on Digest is refused.
	g.est(t, "", "enroll", with(basic, "-subject", "CN=by basic")...).is("subject", "CN=by basic")
	const curl = `openssl req -in P-256.csr -outform DER | openssl base64 | curl -sS -o /dev/null -w '%{http_code}' --cacert ca/roots.pem --user "factory:pass word" -H 'Content-Type: application/pkcs10' --data-binary @- `
	for _, url := range []string{"--digest https://localhost:" + g.tls() + "/.well-known/est/simpleenroll", "--basic https://localhost:" + g.tls() + "/.well-known/est/digest/simpleenroll"} {
		if out := g.Sh(curl + url); out != "401" {
			t.Errorf("curl %s: %s", url, out)
		}
	}
}

// RFC 7030 section 4.4: the key is made here and comes beside the certificate, without encryption of its own.
func TestESTServerKeyGen(t *testing.T) {
	g := est(t)
	g.est(t, "made", "enroll", with(basic, "-keygen", "yes", "-subject", "CN=made", "-certout", "made.pem", "-keyout", "made.key")...).is("subject", "CN=made")
	g.est(t, "", "enroll", with(basic, "-keygen", "yes", "-subject", "CN=x")...).refused("403", "")
}
