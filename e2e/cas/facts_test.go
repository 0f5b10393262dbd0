//go:build cas

package cas

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/e2e/running"
)

// Cells that are the same question to every CA. Each asks the gateway that runs, with its CA behind it, and says what it saw.

// patience is how long what has to come may take: three times and more of what it takes on a machine that does nothing else. Who waits
// looks again and again.
const patience = 3 * time.Minute

// waits looks until it is so, and fails with what why says.
func waits(t testing.TB, why func() string, so func() bool) {
	t.Helper()
	for began := time.Now(); time.Since(began) < patience; time.Sleep(100 * time.Millisecond) {
		if so() {
			return
		}
	}
	t.Fatal(why())
}

// soon runs a script of the gateway's until it succeeds.
func soon(g *running.Gateway, script string) {
	g.T.Helper()
	var out string
	waits(g.T, func() string { return script + "\n" + out + "\n" + g.Log.String() }, func() (ok bool) {
		out, ok = g.Run("sh", "-euc", script)
		return ok
	})
}

// crmf is a CMP endpoint that takes ir.
const crmf = `  takes-crmf:
    protocol: cmp
    listeners: [http]
    profile: %s
    enroll: [shared-secret: {secrets: {factory: {file: crmf.secret}}}, names: {}]
    ra: {cert: ra.pem, key: ra.key}
    cmp: {bodies: [ir], unconfirmed: keep}
`

// refusesCRMF serves the gateway's configuration, whose last section is endpoints, with an endpoint that takes CRMF beside the others, in a
// copy of its folder, before the same CA: it does not start, and says why.
func refusesCRMF(g *running.Gateway, profile string) string {
	g.T.Helper()
	g.Sh(`rm -rf crmf; mkdir crmf; find . -maxdepth 1 -type f ! -name 'muster.db*' -exec cp -p {} crmf/ \;
printf 'a secret of the factory' > crmf/crmf.secret; chmod 600 crmf/crmf.secret
cat >> crmf/gateway.yaml <<'ENDPOINT'
` + fmt.Sprintf(crmf, profile) + `ENDPOINT`)
	const want = "certifies PKCS#10 requests only, and CMP's ir are none"
	ctx, cancel := context.WithTimeout(g.T.Context(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "serve", "--config", g.File("crmf/gateway.yaml"), "--data", g.File("crmf")).CombinedOutput()
	at := strings.Index(string(out), want)
	if err == nil || at < 0 || !strings.Contains(string(out), "takes-crmf") {
		g.T.Fatalf("a CRMF body: %v\n%s", err, out)
	}
	return "refused when loaded: `" + string(out[at:at+len(want)]) + "`"
}

// atOnce is the column Poll of a CA that decides at once: the first answer to a device, whose status the gateway's folder has, was 200.
func atOnce(g *running.Gateway, name string) string {
	g.T.Helper()
	status := strings.TrimSpace(g.Sh("cat " + name + ".status"))
	if status != "200" {
		g.T.Errorf("%s was answered with %s at first", name, status)
	}
	return "not needed: the first answer was " + status
}

// noCRL asks for a CRL of a backend that has none.
func noCRL(g *running.Gateway, path string) string {
	g.T.Helper()
	status := g.Sh(`curl -sS -o /dev/null -w '%{http_code}' "$URL/crl/` + path + `"`)
	if status != "404" {
		g.T.Errorf("/crl/%s is %s", path, status)
	}
	return "no: HTTP " + status + " at /crl/" + path
}

// noRevocation revokes a certificate of a CA that takes no revocation: the gateway does, and the CA does not hear of it.
func noRevocation(g *running.Gateway, file string) string {
	g.T.Helper()
	const want = "here alone: its CA takes no revocations from Muster"
	out := g.Muster("revoke", "--yes", serialOf(g, file))
	if !strings.Contains(out, want) {
		g.T.Errorf("muster revoke: %s", out)
	}
	return "at Muster alone: `muster revoke` says `" + want + "`"
}
