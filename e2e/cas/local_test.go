//go:build cas

package cas

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/muster-pki/muster/e2e/running"
)

// The CA that comes with Muster, beside the others: three devices, a CRMF, revocation, and deaths at each crash point and of the CA's own
// process when its ledger has the certificate and nobody was told.
func TestLocal(t *testing.T) {
	t.Parallel()
	files := &running.Gateway{T: t, Dir: t.TempDir()}
	files.Sh(raFiles + "\nmkdir shared; cp ops-ca.pem ra.pem ra.key shared/")
	const backend = "local, config: {dir: %s, issuers: {rsa: {bits: 2048}}}"
	config := fmt.Sprintf(frontConfig, fmt.Sprintf(backend, "ca"), fmt.Sprintf(backend, "held"))
	config = strings.ReplaceAll(strings.Replace(config, "bodies: [p10cr]", "bodies: [ir, p10cr]", 1), "validity: 90d", "issuer: rsa, validity: 90d")
	g := frontOf(t, files.File("shared"), config)
	g.Sh("cp ca/roots.pem root.pem")
	threeDevices(g)
	g.Sh(`openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out ir.key
openssl cmp -config '' -batch -cmd ir -server "${URL#http://}" -path .well-known/cmp -ref factory -secret 'pass:a secret of the factory' -trusted trusted.pem -newkey ir.key -subject /CN=st-2 -certout ir.pem -total_timeout 150 2>cmp.log || { cat cmp.log; exit 1; }
openssl verify -CAfile root.pem -untrusted untrusted.pem ir.pem`)
	serial := serialOf(g, "gw-1b.pem")
	g.Muster("revoke", "--yes", serial, "--reason", "keyCompromise")
	soon(g, `curl -sS --fail "$URL/crl/up/rsa.crl" | openssl crl -inform DER -noout -text | grep -i `+serial)
	poll := atOnce(g, "gw-1")
	died := crashes(t, g, accidents{
		at: func(name string) []string { return issuedFor(name, ledger(g, "ca")) },
		lose: func() func() bool {
			g.Again("MUSTER_CRASH_AT=ca.after-ledger", "MUSTER_CRASH_ONCE="+g.File("after-ledger.once"))
			return func() bool { _, err := os.Stat(g.File("after-ledger.once")); return err == nil }
		},
	})
	row(t, backendRow{
		Backend: "local", PKCS10: "yes: CMP p10cr, EST and SCEP by one configuration", CRMF: "yes: CMP ir", Renew: "yes", Revoke: "yes: on the CRL", Poll: poll,
		CRL: "yes", CAChain: "yes", Describe: describes(g, "up"), Crashes: died,
	})
}
