package e2e

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/admin"
)

const holdConfig = onLocalCA + `profiles:
  device: {backend: local, validity: 30d}
endpoints:
  held:
    protocol: cmp
    listeners: [http]
    default: true
    profile: device
    enroll:
      - shared-secret: {secrets: {held: {file: held.secret}}}
      - names: {}
      - approval: {approvers: 1}
    cmp: {retry-after: 10s} # time for a restart between two polls
`

// openssl waits for approval, polling, while the gateway is restarted; what it gets is what was held.
func TestHeldCMP(t *testing.T) {
	t.Parallel()
	g := configured(t, holdConfig, "held.secret", "held-secret-held-secret")
	dir := t.TempDir()
	ask := func(name string) (*exec.Cmd, *capture) {
		t.Helper()
		g.sh(dir, ecKey+name+`.key`)
		out := &capture{}
		cmd := exec.Command("openssl", "cmp", "-config", "", "-batch", "-cmd", "ir", "-server", g.env["MUSTER_HTTP"], "-path", ".well-known/cmp",
			"-trusted", g.env["MUSTER_CA"], "-ref", "held", "-secret", "pass:held-secret-held-secret", "-newkey", name+".key", "-subject", "/CN="+name,
			"-total_timeout", "60", "-keep_alive", "0", "-certout", name+".pem")
		cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, out
	}
	pending := func(name string) string {
		t.Helper()
		for range 1000 {
			for _, tx := range listing[admin.Transaction](g, "--state", "held") {
				if strings.Contains(tx.Subject, name) {
					return tx.ID
				}
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Fatalf("%s is not held", name)
		return ""
	}
	approved, out := ask("approved")
	id := pending("approved")
	if listed := g.muster("pending"); !strings.Contains(listed, id[:6]) || !strings.Contains(listed, "approved") {
		t.Errorf("pending:\n%s", listed)
	}
	g.again()
	told := g.muster("approve", id, "--reason", "it is on the list")
	if !strings.Contains(told, "issued") && !strings.Contains(told, "unconfirmed") {
		t.Errorf("approve:\n%s", told)
	}
	if err := approved.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	g.sh(dir, `openssl verify -CAfile "$MUSTER_CA" approved.pem || openssl x509 -in approved.pem -noout -issuer`)
	if rows := g.transactions("approved"); len(rows) != 1 || rows[0].State != "issued" || rows[0].ID != id || len(g.ledger("approved")) != 1 {
		t.Errorf("%+v, %d in the ledger", rows, len(g.ledger("approved")))
	}
	if told := g.muster("explain", id); !strings.Contains(told, "it is on the list") || !strings.Contains(told, "poll") || !strings.Contains(told, "Approval") {
		t.Errorf("explain:\n%s", told)
	}

	denied, out := ask("denied")
	g.muster("deny", pending("denied"), "--reason", "nobody knows it")
	if err := denied.Wait(); err == nil || !strings.Contains(out.String(), "denied") || strings.Contains(out.String(), "nobody knows it") {
		t.Errorf("%v\n%s", err, out)
	}
	if n := len(g.ledger("denied")); n != 0 {
		t.Errorf("%d certificates for who was denied", n)
	}
}
