//go:build cas

package cas

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/e2e/running"
)

// A gateway whose CA is another gateway, over EST: three devices, an approval upstream, and deaths at each crash point.
func TestESTMuster(t *testing.T) {
	up := upstream(t)
	est := func(label, more string) string {
		return fmt.Sprintf(`est, config: {url: "https://%s", ca: ops-ca.pem, cert: ra.pem, key: ra.key, label: %s%s}`, up.Listener("tls"), label, more)
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

	crashes(t, g, up, crashPoints)
	row(t, backendRow{
		Backend: "est (Muster, `repeat: 10m`)",
		PKCS10:  "yes: CMP p10cr, EST and SCEP by one configuration", CRMF: "no: `Describe` has pkcs10 alone (CMP by p10cr)", Renew: "yes: a new simpleenroll by the RA",
		Revoke: "no: EST has none", Poll: "yes: 202, approved and denied upstream", CRL: "yes: by URL", CAChain: "yes: `cacerts`",
		IdempotentRetry: "lookup: asked again within `repeat`; 4 crash points, one certificate each",
	})
}

// The same without `repeat`: what the death of the gateway leaves open is for the operator, and never asked again.
func TestESTNone(t *testing.T) {
	up := upstream(t)
	est := fmt.Sprintf(`est, config: {url: "https://%s", ca: ops-ca.pem, cert: ra.pem, key: ra.key, label: at-once}`, up.Listener("tls"))
	g := front(t, up.File("shared"), est, est)
	t.Setenv("MUSTER_CRASH_AT", "gateway.after-issue")
	t.Setenv("MUSTER_CRASH_ONCE", g.File("once"))
	g.Again()
	device(g, "", "lost-1")
	g.Again()
	inState(g, "lost-1", "stuck")
	if n := issued(up, "lost-1"); n != 1 {
		t.Errorf("the CA issued %d certificates", n)
	}
	row(t, backendRow{
		Backend: "est (Muster, nothing declared)", PKCS10: "yes", CRMF: "no: `Describe` has pkcs10 alone (CMP by p10cr)", Renew: "yes: a new simpleenroll by the RA", Revoke: "no: EST has none",
		Poll: "no: 202 is for the operator", CRL: "no URL given", CAChain: "yes: `cacerts`", IdempotentRetry: "none: killed after the CA had issued, it is stuck, with one certificate at the CA",
	})
}

// globalsign/est's own server, with its mock CA.
func TestESTGlobalSign(t *testing.T) {
	dir := t.TempDir()
	prepare := &running.Gateway{T: t, Dir: dir}
	prepare.Sh(raFiles + `
openssl req -x509 -newkey rsa:2048 -nodes -keyout root.key -subj '/CN=Mock Root CA' -days 30 -out root.pem -addext keyUsage=critical,keyCertSign,cRLSign
openssl req -new -newkey rsa:2048 -nodes -keyout issuing.key -subj '/CN=Mock Issuing CA' -out issuing.csr
printf 'basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n' > issuing.ext
openssl x509 -req -in issuing.csr -CA root.pem -CAkey root.key -CAcreateserial -days 20 -extfile issuing.ext -out issuing.pem
cat issuing.pem root.pem > bundle.pem; mkdir shared; cp ops-ca.pem ra.pem ra.key root.pem shared/`)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	prepare.Write("est.json", fmt.Sprintf(`{"mock_ca": {"certificates": %q, "private_key": %q}, "tls": {"listen_address": %q, "certificates": %q, "private_key": %q, "client_cas": [%q]},
"allowed_hosts": ["127.0.0.1", %q], "healthcheck_password": "xyzzy", "rate_limit": 150, "timeout": 30, "log_file": %q}`,
		prepare.File("bundle.pem"), prepare.File("issuing.key"), address, prepare.File("ra.pem"), prepare.File("ra.key"), prepare.File("ops-ca.pem"), address, prepare.File("est.log")))
	serves(t, address, exec.Command(filepath.Join(tools, "bin", "estserver"), "-config", prepare.File("est.json")))

	est := fmt.Sprintf(`est, config: {url: "https://%s", ca: ops-ca.pem, cert: ra.pem, key: ra.key}`, address)
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
	row(t, backendRow{
		Backend: "est (globalsign/est 1.0.6)", PKCS10: "yes: CMP p10cr, EST and SCEP by one configuration", CRMF: "no: `Describe` has pkcs10 alone (CMP by p10cr)", Renew: "yes: a new simpleenroll by the RA",
		Revoke: "no: EST has none", Poll: "no: nothing declared", CRL: "no: it has none", CAChain: "yes: `cacerts`, and by file", IdempotentRetry: "none: not tried with it",
	})
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
	for range 1000 {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("the CA does not listen\n%s", log)
}
