//go:build cas

package cas

import (
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-pki/muster/e2e/running"
)

// A gateway whose CA is another gateway, over SCEP: three devices, an approval upstream, and deaths at each crash point.
func TestSCEPMuster(t *testing.T) {
	up := upstream(t)
	scep := func(endpoint string) string {
		return fmt.Sprintf(`scep, config: {url: "%s/scep/%s", ra: {cert: ra.pem, key: ra.key}, roots: root.pem, lookup: certpoll, settle: 3s, timeout: 3s, poll: 1s, crl: "%s/crl/local/rsa.crl"}`, up.URL, endpoint, up.URL)
	}
	g := front(t, up.File("shared"), scep("scep-at-once"), scep("scep-approved"))
	threeDevices(g)
	g.Sh(`curl -sS --fail "$URL/crl/up/scep.crl" | openssl crl -inform DER -noout -issuer`)

	if out, ok := device(g, "waits/", "held-1"); ok || !strings.HasPrefix(out, "202") {
		t.Errorf("a certificate that nobody approved: %s", out)
	}
	up.Muster("approve", inState(up, "held-1", "held"))
	eventually(g, "waits/", "held-1")
	if n := issued(up, "held-1"); n != 1 {
		t.Errorf("the CA issued %d certificates", n)
	}
	device(g, "waits/", "held-2")
	up.Muster("deny", inState(up, "held-2", "held"), "--reason", "not on the list")
	inState(g, "held-2", "failed")

	crashes(t, g, up, crashPoints)
	row(t, backendRow{
		Backend: "scep (Muster, `lookup: certpoll`)",
		PKCS10:  "yes: CMP p10cr, EST and SCEP by one configuration", CRMF: "no: `Describe` has pkcs10 alone (CMP by p10cr)", Renew: "yes: a new PKCSReq by the RA",
		Revoke: "no: SCEP has none", Poll: "yes: CertPoll, approved and denied upstream", CRL: "yes: by URL", CAChain: "yes: `GetCACert`, under a pinned root",
		IdempotentRetry: "lookup: CertPoll by the transactionID; 4 crash points, one certificate each",
	})
}

// micromdm's scepserver, whose CA takes PKCSReq alone.
func TestSCEPServer(t *testing.T) {
	program := filepath.Join(tools, "bin", "scepserver")
	prepare := &running.Gateway{T: t, Dir: t.TempDir()}
	prepare.Sh(raFiles + "\n'" + program + `' ca -init -depot depot -keySize 2048
mkdir shared; cp ops-ca.pem ra.pem ra.key shared/; cp depot/ca.pem shared/root.pem`)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	serves(t, address, exec.Command(program, "-depot", prepare.File("depot"), "-http-addr", address, "-allowrenew", "0", "-crtvalid", "30"))

	scep := fmt.Sprintf(`scep, config: {url: "http://%s/scep", ra: {cert: ra.pem, key: ra.key}, roots: root.pem, legacy: [sha1, des], decides: [validity, keyUsage, extKeyUsage, subject]}`, address)
	g := front(t, prepare.File("shared"), scep, scep)
	threeDevices(g)
	made := prepare.Sh("ls depot")
	t.Setenv("MUSTER_CRASH_AT", "gateway.after-issue")
	t.Setenv("MUSTER_CRASH_ONCE", g.File("once"))
	g.Again()
	device(g, "", "lost-1")
	g.Again()
	inState(g, "lost-1", "stuck")
	if after := prepare.Sh("ls depot"); strings.Count(after, "\n") != strings.Count(made, "\n")+1 || !strings.Contains(after, "lost-1") {
		t.Errorf("the CA has\n%sand had\n%s", after, made)
	}
	row(t, backendRow{
		Backend: "scep (micromdm scepserver 2.3.0)", PKCS10: "yes: CMP p10cr, EST and SCEP by one configuration", CRMF: "no: `Describe` has pkcs10 alone (CMP by p10cr)", Renew: "yes: a new PKCSReq by the RA",
		Revoke: "no: SCEP has none", Poll: "no: it decides at once, and knows no CertPoll", CRL: "no: it has none", CAChain: "yes: `GetCACert`, under a pinned root",
		IdempotentRetry: "none: killed after the CA had issued, it is stuck, with one certificate at the CA",
	})
}
