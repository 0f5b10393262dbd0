//go:build cas

package cas

import (
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-pki/muster/e2e/running"
	"github.com/muster-pki/muster/protocols/cms"
)

// A gateway whose CA is another gateway, over EST: three devices, an approval upstream, and deaths at each crash point.
func TestESTMuster(t *testing.T) {
	t.Parallel()
	up := upstream(t)
	b := newBetween(t, "https://"+up.Listener("tls"), pair(t, up.Dir, "ra.pem", "ra.key"), post("/simpleenroll", 200))
	est := func(label, more string) string {
		return fmt.Sprintf(`est, config: {url: "%s", ca: ops-ca.pem, cert: ra.pem, key: ra.key, label: %s%s}`, b.URL, label, more)
	}
	g := front(t, up.File("shared"), est("at-once", ", repeat: 10m, crl: "+up.URL+"/crl/local/rsa.crl"), est("approved", ", repeat: 10m"))
	threeDevices(g)
	g.Sh(`curl -sS --fail "$URL/crl/up/est.crl" | openssl crl -inform DER -noout -issuer`)

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

	crmf, revoked := refusesCRMF(g, "device"), noRevocation(g, "gw-1b.pem")
	died := crashes(t, g, accidents{at: atMuster(up), lose: b.lose})
	row(t, backendRow{
		Backend: "est (Muster, `repeat: 10m`)",
		PKCS10:  "yes: CMP p10cr, EST and SCEP by one configuration", CRMF: crmf, Renew: "yes: a new simpleenroll by the RA",
		Revoke: revoked, Poll: "yes: 202, approved and denied upstream", CRL: "yes: by URL", CAChain: "yes: `cacerts`",
		Describe: describes(g, "up"), Crashes: died,
	})
}

// The same without `repeat`: what the death of the gateway leaves open is for the operator, and never asked again.
func TestESTNone(t *testing.T) {
	t.Parallel()
	up := upstream(t)
	b := newBetween(t, "https://"+up.Listener("tls"), pair(t, up.Dir, "ra.pem", "ra.key"), post("/simpleenroll", 200))
	est := fmt.Sprintf(`est, config: {url: "%s", ca: ops-ca.pem, cert: ra.pem, key: ra.key, label: at-once}`, b.URL)
	g := front(t, up.File("shared"), est, strings.Replace(est, "at-once", "approved", 1))
	chain(g)
	eventually(g, "", "gw-1")
	crmf, poll, crl, revoked := refusesCRMF(g, "device"), atOnce(g, "gw-1"), noCRL(g, "up/est.crl"), noRevocation(g, "gw-1.pem")
	out, _ := device(g, "waits/", "held-1")
	inState(g, "held-1", "stuck")
	died := crashes(t, g, accidents{at: atMuster(up), lose: b.lose})
	row(t, backendRow{
		Backend: "est (Muster, nothing declared)", PKCS10: "yes", CRMF: crmf, Renew: notTried, Revoke: revoked,
		Poll: poll + "; where the CA says 202 the device is told " + out[:3] + ", and the request is stuck", CRL: crl, CAChain: "yes: `cacerts`", Describe: describes(g, "up"), Crashes: died,
	})
}

// globalsign/est's own server, with its mock CA.
func TestESTGlobalSign(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	prepare := &running.Gateway{T: t, Dir: dir}
	prepare.Sh(raFiles + `
openssl req -x509 -newkey rsa:2048 -nodes -keyout root.key -subj '/CN=Mock Root CA' -days 30 -out root.pem -addext keyUsage=critical,keyCertSign,cRLSign
openssl req -new -newkey rsa:2048 -nodes -keyout issuing.key -subj '/CN=Mock Issuing CA' -out issuing.csr
printf 'basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n' > issuing.ext
openssl x509 -req -in issuing.csr -CA root.pem -CAkey root.key -CAcreateserial -days 20 -extfile issuing.ext -out issuing.pem
cat issuing.pem root.pem > bundle.pem; mkdir shared; cp ops-ca.pem ra.pem ra.key root.pem shared/`)
	address := running.Address(t)
	prepare.Write("est.json", fmt.Sprintf(`{"mock_ca": {"certificates": %q, "private_key": %q}, "tls": {"listen_address": %q, "certificates": %q, "private_key": %q, "client_cas": [%q]},
"allowed_hosts": ["127.0.0.1", %q], "healthcheck_password": "xyzzy", "rate_limit": 150, "timeout": 30, "log_file": %q}`,
		prepare.File("bundle.pem"), prepare.File("issuing.key"), address, prepare.File("ra.pem"), prepare.File("ra.key"), prepare.File("ops-ca.pem"), address, prepare.File("est.log")))
	serves(t, address, exec.Command(filepath.Join(tools, "bin", "estserver"), "-config", prepare.File("est.json")))

	// It keeps no list of what it has issued: that is read off its answers.
	b := newBetween(t, "https://"+address, pair(t, dir, "ra.pem", "ra.key"), enrolled)
	est := fmt.Sprintf(`est, config: {url: "%s", ca: ops-ca.pem, cert: ra.pem, key: ra.key}`, b.URL)
	held := strings.Replace(est, "key: ra.key", "key: ra.key, label: triggererrors, chain: chain.pem", 1)
	prepare.Sh("cp bundle.pem shared/chain.pem")
	g := front(t, prepare.File("shared"), est, held)
	threeDevices(g)
	// Its refusal is one: 403 for this name at that label.
	g.Sh(`openssl req -new -newkey rsa:2048 -nodes -keyout no.key -subj '/CN=Trigger Error Forbidden' -outform DER -out no.csr`)
	if out, ok := device(g, "waits/", "no"); ok || !strings.HasPrefix(out, "403") {
		t.Errorf("refused by the CA: %s", out)
	}
	log, err := os.ReadFile(prepare.File("est.log"))
	if err != nil || !strings.Contains(string(log), "simpleenroll") {
		t.Errorf("estserver's log: %v\n%s", err, log)
	}
	crmf, poll, crl, revoked := refusesCRMF(g, "device"), atOnce(g, "gw-1"), noCRL(g, "up/est.crl"), noRevocation(g, "gw-1b.pem")
	died := crashes(t, g, accidents{at: b.at, lose: b.lose})
	row(t, backendRow{
		Backend: "est (globalsign/est 1.0.6)", PKCS10: "yes: CMP p10cr, EST and SCEP by one configuration", CRMF: crmf, Renew: "yes: a new simpleenroll by the RA",
		Revoke: revoked, Poll: poll, CRL: crl, CAChain: "yes: `cacerts`, and by file", Describe: describes(g, "up"), Crashes: died,
	})
}

// enrolled is issues for EST: the certificate in an answer to simpleenroll (RFC 7030 section 4.2.3).
func enrolled(res *http.Response, body []byte) ([]*x509.Certificate, bool) {
	if !strings.HasSuffix(res.Request.URL.Path, "/simpleenroll") || res.StatusCode != http.StatusOK {
		return nil, false
	}
	der, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(string(body)), ""))
	if err != nil {
		return nil, true
	}
	all, err := cms.ParseCertsOnly(der, cms.Limits{})
	if err != nil || len(all) == 0 {
		return nil, true
	}
	leaf, err := x509.ParseCertificate(all[0])
	if err != nil {
		return nil, true
	}
	return []*x509.Certificate{leaf}, true
}

// serves starts a CA's program, and waits until it listens.
func serves(t *testing.T, address string, cmd *exec.Cmd) {
	t.Helper()
	log := &running.Output{}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill() //nolint:errcheck // it may have ended
		cmd.Wait()         //nolint:errcheck // it was killed
		if t.Failed() && testing.Verbose() {
			t.Logf("the CA's log:\n%s", log)
		}
	})
	waits(t, func() string { return "the CA does not listen\n" + log.String() }, func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}
