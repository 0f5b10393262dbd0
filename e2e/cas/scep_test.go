//go:build cas

package cas

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-pki/muster/e2e/running"
)

// A gateway whose CA is another gateway, over SCEP: three devices, an approval upstream, and deaths at each crash point.
func TestSCEPMuster(t *testing.T) {
	t.Parallel()
	up := upstream(t)
	// What a CA answers is encrypted: the first that it says while one is to be lost is the one.
	b := newBetween(t, up.URL, nil, func(res *http.Response, _ []byte) ([]*x509.Certificate, bool) {
		return nil, res.Request.Method == http.MethodPost && res.StatusCode == http.StatusOK
	})
	scep := func(endpoint string) string {
		return fmt.Sprintf(`scep, config: {url: "%s/scep/%s", ra: {cert: ra.pem, key: ra.key}, roots: root.pem, lookup: certpoll, settle: 3s, timeout: 3s, poll: 1s, crl: "%s/crl/local/rsa.crl"}`, b.URL, endpoint, up.URL)
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

	crmf := refusesCRMF(g, "device")
	died := crashes(t, g, accidents{at: atMuster(up), lose: b.lose})
	row(t, backendRow{
		Backend: "scep (Muster, `lookup: certpoll`)",
		PKCS10:  "yes: CMP p10cr, EST and SCEP by one configuration", CRMF: crmf, Renew: "yes: a new PKCSReq by the RA",
		Revoke: noRevocation(g, "gw-1b.pem"), Poll: "yes: CertPoll, approved and denied upstream", CRL: "yes: by URL", CAChain: "yes: `GetCACert`, under a pinned root",
		Describe: describes(g, "up"), Crashes: died,
	})
}

// micromdm's scepserver, whose CA takes PKCSReq alone.
func TestSCEPServer(t *testing.T) {
	t.Parallel()
	program := filepath.Join(tools, "bin", "scepserver")
	prepare := &running.Gateway{T: t, Dir: t.TempDir()}
	prepare.Sh(raFiles + "\n'" + program + `' ca -init -depot depot -keySize 2048
mkdir shared; cp ops-ca.pem ra.pem ra.key shared/; cp depot/ca.pem shared/root.pem`)
	address := running.Address(t)
	serves(t, address, exec.Command(program, "-depot", prepare.File("depot"), "-http-addr", address, "-allowrenew", "0", "-crtvalid", "30"))

	b := newBetween(t, "http://"+address, nil, func(res *http.Response, _ []byte) ([]*x509.Certificate, bool) {
		return nil, res.Request.URL.Query().Get("operation") == "PKIOperation" && res.StatusCode == http.StatusOK
	})
	scep := fmt.Sprintf(`scep, config: {url: "%s/scep", ra: {cert: ra.pem, key: ra.key}, roots: root.pem, legacy: [sha1, des], decides: [validity, keyUsage, extKeyUsage, subject]}`, b.URL)
	g := front(t, prepare.File("shared"), scep, scep)
	threeDevices(g)
	crmf, poll, crl, revoked := refusesCRMF(g, "device"), atOnce(g, "gw-1"), noCRL(g, "up/scep.crl"), noRevocation(g, "gw-1b.pem")
	died := crashes(t, g, accidents{
		at: func(name string) []string {
			return strings.Fields(prepare.Sh(`for f in depot/` + name + `.*.pem; do test ! -e "$f" || openssl x509 -noout -serial -in "$f" | sed 's/serial=0*//'; done`))
		},
		lose: b.lose,
	})
	row(t, backendRow{
		Backend: "scep (micromdm scepserver 2.3.0)", PKCS10: "yes: CMP p10cr, EST and SCEP by one configuration", CRMF: crmf, Renew: "yes: a new PKCSReq by the RA",
		Revoke: revoked, Poll: poll, CRL: crl, CAChain: "yes: `GetCACert`, under a pinned root",
		Describe: describes(g, "up"), Crashes: died,
	})
}
