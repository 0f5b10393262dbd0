//go:build cas

package cas

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-pki/muster/e2e/running"
)

// `openssl ca` by configs/exec-openssl.py: three devices, revocation, a CRL, and deaths at each crash point.
func TestExecOpenSSL(t *testing.T) {
	prepare := &running.Gateway{T: t, Dir: t.TempDir()}
	script, err := filepath.Abs("../../configs/exec-openssl.py")
	if err != nil {
		t.Fatal(err)
	}
	ca := prepare.File("ca")
	prepare.Sh(raFiles + "\n'" + script + "' '" + ca + "' init\nmkdir shared; cp ops-ca.pem ra.pem ra.key shared/; cp ca/ca.pem shared/root.pem")
	var commands []string
	for _, op := range []string{"issue", "lookup", "revoke", "crl", "ca"} {
		commands = append(commands, fmt.Sprintf("%s: [%s, %s, %s]", op, script, ca, op))
	}
	backend := `exec, config: {` + strings.Join(commands, ", ") + `, timeout: 5s, forms: [pkcs10], overrides: [subjectAltName, validity, keyUsage, extKeyUsage], env: {PATH: "` + os.Getenv("PATH") + `", HOME: "` + os.Getenv("HOME") + `"}}`
	g := front(t, prepare.File("shared"), backend, backend)
	threeDevices(g)

	serial := strings.TrimPrefix(strings.TrimSpace(g.Sh("openssl x509 -noout -serial -in gw-1b.pem")), "serial=")
	g.Muster("revoke", "--yes", serial, "--reason", "keyCompromise")
	g.Sh(`for i in 1 2 3 4 5 6 7 8 9; do curl -sS --fail "$URL/crl/up/openssl.crl" | openssl crl -inform DER -noout -text > crl.txt; grep -q ` + serial + ` crl.txt && exit 0; sleep 1; done; cat crl.txt; exit 1`)
	if text := prepare.Sh("cat ca/index.txt"); !strings.Contains(text, "keyCompromise\t"+serial) {
		t.Errorf("index.txt:\n%s", text)
	}

	for _, point := range crashPoints {
		name := strings.ReplaceAll(strings.TrimPrefix(point, "gateway."), ".", "-")
		dies(g, point)
		if out, ok := device(g, "", name); ok {
			t.Errorf("%s: the gateway did not die: %s", point, out)
		}
		g.Again()
		eventually(g, "", name)
		if n := strings.Count(prepare.Sh("cat ca/index.txt"), "/CN="+name+"\n"); n != 1 {
			t.Errorf("%s: index.txt has %d certificates", point, n)
		}
	}
	row(t, backendRow{
		Backend: "exec (`openssl ca`, configs/exec-openssl.py)",
		PKCS10:  "yes: CMP p10cr, EST and SCEP by one configuration", CRMF: "no: `openssl ca` wants a PKCS#10, refused when loaded; a script that says `forms: [template]` can",
		Renew: "yes: another request", Revoke: "yes: `-revoke`, on the CRL", Poll: "no: it decides at once; a script can", CRL: "yes: `-gencrl`", CAChain: "yes: command `ca`",
		IdempotentRetry: "lookup: by the serial number, made of the ID, in index.txt; 4 crash points, one certificate each",
	})
}

// dies starts a gateway that kills itself at the point, once.
func dies(g *running.Gateway, point string) {
	g.T.Helper()
	os.Setenv("MUSTER_CRASH_AT", point) //nolint:errcheck // it cannot fail on these; t.Setenv would last too long
	os.Setenv("MUSTER_CRASH_ONCE", g.File(strings.ReplaceAll(point, ".", "-")+".once"))
	g.Again()
	os.Unsetenv("MUSTER_CRASH_AT")
	os.Unsetenv("MUSTER_CRASH_ONCE")
}
