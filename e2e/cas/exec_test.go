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
	t.Parallel()
	prepare := &running.Gateway{T: t, Dir: t.TempDir()}
	script, err := filepath.Abs("../../configs/exec-openssl.py")
	if err != nil {
		t.Fatal(err)
	}
	ca := prepare.File("ca")
	prepare.Sh(raFiles + "\n'" + script + "' '" + ca + "' init\nmkdir shared; cp ops-ca.pem ra.pem ra.key shared/; cp ca/ca.pem shared/root.pem")
	var commands []string
	for _, op := range []string{"lookup", "revoke", "crl", "ca"} {
		commands = append(commands, fmt.Sprintf("%s: [%s, %s, %s]", op, script, ca, op))
	}
	// The answer is lost while the file `lose` is there, which it takes away.
	prepare.Write("issue", "#!/bin/sh\n'"+script+"' '"+ca+"' issue > '"+prepare.Dir+"'/answer.$$ || exit 1\nif rm '"+prepare.Dir+"'/lose 2>/dev/null; then exit 1; fi\ncat '"+prepare.Dir+"'/answer.$$\n")
	prepare.Sh("chmod 700 issue")
	commands = append(commands, "issue: ["+prepare.File("issue")+"]")
	backend := `exec, config: {` + strings.Join(commands, ", ") + `, timeout: 5s, forms: [pkcs10], overrides: [subjectAltName, validity, keyUsage, extKeyUsage], env: {PATH: "` + os.Getenv("PATH") + `", HOME: "` + os.Getenv("HOME") + `"}}`
	g := front(t, prepare.File("shared"), backend, backend)
	threeDevices(g)

	serial := strings.TrimPrefix(strings.TrimSpace(g.Sh("openssl x509 -noout -serial -in gw-1b.pem")), "serial=")
	g.Muster("revoke", "--yes", serial, "--reason", "keyCompromise")
	soon(g, `curl -sS --fail "$URL/crl/up/openssl.crl" | openssl crl -inform DER -noout -text > crl.txt; grep -q `+serial+` crl.txt`)
	if text := prepare.Sh("cat ca/index.txt"); !strings.Contains(text, "keyCompromise\t"+serial) {
		t.Errorf("index.txt:\n%s", text)
	}

	crmf, poll := refusesCRMF(g, "device"), atOnce(g, "gw-1")
	died := crashes(t, g, accidents{
		at: func(name string) (serials []string) {
			for line := range strings.Lines(prepare.Sh("cat ca/index.txt")) {
				if fields := strings.Split(strings.TrimSpace(line), "\t"); fields[5] == "/CN="+name {
					serials = append(serials, strings.TrimLeft(fields[3], "0"))
				}
			}
			return serials
		},
		lose: func() func() bool {
			prepare.Write("lose", "")
			return func() bool { _, err := os.Stat(prepare.File("lose")); return err != nil }
		},
	})
	row(t, backendRow{
		Backend: "exec (`openssl ca`, configs/exec-openssl.py)",
		PKCS10:  "yes: CMP p10cr, EST and SCEP by one configuration", CRMF: crmf,
		Renew: "yes: another request", Revoke: "yes: `-revoke`, on the CRL", Poll: poll, CRL: "yes: `-gencrl`", CAChain: "yes: command `ca`",
		Describe: describes(g, "up"), Crashes: died,
	})
}
