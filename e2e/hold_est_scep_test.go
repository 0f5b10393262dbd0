package e2e

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/admin"
)

const holdESTSCEPConfig = onLocalCA + `profiles:
  device: {backend: local, validity: 30d}
  mobile: {backend: local, issuer: rsa, validity: 30d, key-usage: [digitalSignature, keyEncipherment]}
endpoints:
  est:
    protocol: est
    listeners: [https]
    default: true
    profile: device
    enroll:
      - password: {file: users}
      - names: {}
      - approval: {approvers: 1}
  scep:
    protocol: scep
    listeners: [http]
    default: true
    profile: mobile
    enroll:
      - challenge: {file: challenges}
      - names: {}
      - approval: {approvers: 1}
`

// held waits until a request for the name is held, and returns its transaction's ID.
func (g *instance) held(name string) string {
	g.t.Helper()
	for range 1000 {
		for _, tx := range listing[admin.Transaction](g, "--state", "held") {
			if strings.Contains(tx.Subject, name) {
				return tx.ID
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	g.t.Fatalf("%s is not held\n%s", name, g.stderr)
	return ""
}

// strongSwan's pki polls (CertPoll) while the gateway is restarted; what it gets is what was held, once.
func TestHeldSCEP(t *testing.T) {
	t.Parallel()
	g := held(t)
	dir := t.TempDir()
	g.sh(dir, `pki --scepca --url "$MUSTER_HTTP/scep" --caout ca.pem --raout ra.pem --outform pem --force 2>log || { cat log; exit 1; }
		pki --gen --type rsa --size 2048 --outform pem > device.key 2>/dev/null`)
	ask := func(name string) (*exec.Cmd, *capture) {
		t.Helper()
		out := &capture{}
		cmd := exec.Command("sh", "-euc", `exec pki --scep --url "$1/scep" --in device.key --dn "CN=$2" --password held-challenge --interval 1 --maxpolltime 60 \
			--cacert-enc ra.pem --cacert-sig ra.pem --cacert ca.pem --cacert ca-1.pem --outform pem > "$2.pem"`, "sh", g.env["MUSTER_HTTP"], name)
		cmd.Dir, cmd.Stderr = dir, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, out
	}
	approved, out := ask("approved")
	id := g.held("approved")
	g.await(id, "poll")
	// It gives up where nobody listens, and the next poll comes after a second.
	if err := approved.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	g.again()
	if err := approved.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	g.muster("approve", id, "--reason", "it is on the list")
	if err := approved.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	g.sh(dir, `openssl verify -CAfile "$MUSTER_CA" -untrusted ca-1.pem approved.pem`)
	if rows := g.transactions("approved"); len(rows) != 1 || rows[0].ID != id || rows[0].State != "issued" || len(g.ledger("approved")) != 1 {
		t.Errorf("%+v, %d in the ledger", rows, len(g.ledger("approved")))
	}

	// Another key's request under another transactionID: denied, which a poll is told.
	g.sh(dir, `pki --gen --type rsa --size 2048 --outform pem > device.key 2>/dev/null`)
	denied, out := ask("denied")
	id = g.held("denied")
	g.await(id, "poll")
	g.muster("deny", id, "--reason", "nobody knows it")
	if err := denied.Wait(); err == nil || strings.Contains(out.String(), "nobody knows it") {
		t.Errorf("%v\n%s", err, out)
	}
	if n := len(g.ledger("denied")); n != 0 {
		t.Errorf("%d certificates for who was denied", n)
	}
}

// await waits until explain tells of a later message of the transaction.
func (g *instance) await(id, what string) {
	g.t.Helper()
	for range 500 {
		if strings.Contains(g.muster("explain", id), what) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	g.t.Fatalf("explain does not tell of a %s\n%s", what, g.muster("explain", id))
}

// heldSecret is a line of a file of hashed secrets: "held:" and the hash of the secret.
func heldSecret(t *testing.T, secret string) string {
	t.Helper()
	cmd := exec.Command(binary, "password")
	cmd.Stdin = strings.NewReader(secret + "\n")
	hash, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return "held:" + string(hash)
}

func held(t *testing.T) *instance {
	t.Helper()
	return configured(t, holdESTSCEPConfig, "users", heldSecret(t, "held-password"), "challenges", heldSecret(t, "held-challenge"))
}

// curl is told 202 with Retry-After, before a restart and after, and then gets the certificate of what was held, on a new
// connection, for a request that is signed anew. Another request is another one; who is denied is told.
func TestHeldEST(t *testing.T) {
	g := held(t)
	dir := t.TempDir()
	g.sh(dir, makeKey)
	ask := func(subject string) string {
		t.Helper()
		return g.sh(dir, `set -- "`+subject+`"; `+makeCSR+`
			curl -sS --cacert "$MUSTER_CA" -H 'Content-Type: application/pkcs10' --data-binary @device.b64 -u held:held-password \
				-o answer -w '%{http_code} %header{retry-after}' "$MUSTER_HTTPS/.well-known/est/simpleenroll"`)
	}
	waits := func(subject string) {
		t.Helper()
		if code, retry, _ := strings.Cut(ask(subject), " "); code != "202" || retry == "" || retry == "0" {
			t.Errorf("%s: %s, Retry-After %q", subject, code, retry)
		}
	}
	waits("/CN=approved")
	id := g.held("approved")
	waits("/CN=approved")
	waits("/CN=another")
	g.again()
	waits("/CN=approved")
	if rows := listing[admin.Transaction](g, "--state", "held"); len(rows) != 2 {
		t.Errorf("%d are held, want 2", len(rows))
	}
	g.muster("approve", id, "--reason", "it is on the list")
	if code := ask("/CN=approved"); code != "200 " {
		t.Fatalf("approved: %s\n%s", code, g.sh(dir, "cat answer"))
	}
	g.sh(dir, `openssl base64 -d -A -in answer | openssl pkcs7 -inform DER -print_certs -out device.crt; openssl x509 -in device.crt -noout -subject | grep approved
		test "$(openssl x509 -in device.crt -noout -pubkey)" = "$(openssl pkey -in device.key -pubout)"`)
	if len(g.ledger("approved")) != 1 || len(g.ledger("another")) != 0 {
		t.Errorf("%d and %d in the ledger", len(g.ledger("approved")), len(g.ledger("another")))
	}
	g.muster("deny", g.held("another"), "--reason", "nobody knows it")
	if code := ask("/CN=another"); code != "403 " || strings.Contains(g.sh(dir, "cat answer"), "nobody knows it") {
		t.Errorf("denied: %s\n%s", code, g.sh(dir, "cat answer"))
	}
	if n := len(g.ledger("another")); n != 0 {
		t.Errorf("%d certificates for who was denied", n)
	}
}
