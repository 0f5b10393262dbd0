//go:build cas

package cas

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/e2e/running"
)

// An EST device behind EJBCA's stand-in: there is no EJBCA here, a Java EE server with a database. What the stand-in answers is from EJBCA's
// source (docs/backends/ejbca.md).
func TestEJBCAStandIn(t *testing.T) {
	prepare := &running.Gateway{T: t, Dir: t.TempDir()}
	prepare.Sh(raFiles + "\nmkdir shared ejbca; cp ops-ca.pem ra.pem ra.key shared/")
	if out, err := exec.Command("go", "test", "-c", "-o", prepare.File("standin"), "../../backends/ejbca").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	ca := exec.Command(prepare.File("standin"))
	ca.Env = append(os.Environ(), "MUSTER_EJBCA_STANDIN="+prepare.File("ejbca"))
	ca.Stderr = os.Stderr
	stdin, err := ca.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		ca.Wait() //nolint:errcheck // it has nothing to say
	})
	config := filepath.Join(prepare.File("ejbca"), "config.yaml")
	for range 1000 {
		if _, err := os.Stat(config); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	prepare.Sh("cp ejbca/root.pem shared/; sed 's/^/      /' ejbca/config.yaml > indented")
	text, err := os.ReadFile(prepare.File("indented"))
	if err != nil {
		t.Fatal(err)
	}
	program, err := crashing()
	if err != nil {
		t.Fatal(err)
	}
	g := running.Start(t, program, nil, strings.Replace(ejbcaConfig, "CONFIG", strings.TrimSpace(string(text)), 1), "cp '"+prepare.File("shared")+`'/* .; chmod 600 ra.key
printf 'factory:%s\n' "$(printf 'pass word\n' | "$MUSTER" password)" > users; chmod 600 users`)
	chain(g)
	if out, ok := device(g, "", "gw-1"); !ok {
		t.Fatalf("%s\n%s", out, g.Log)
	}
	g.Sh(`openssl req -new -newkey rsa:2048 -nodes -keyout gw-1b.key -subj /CN=gw-1 -outform DER -out gw-1b.csr; openssl base64 -in gw-1b.csr | curl -sS --fail --cacert ops-ca.pem --cert gw-1.pem --key gw-1.key -H 'Content-Type: application/pkcs10' --data-binary @- https://` + g.Listener("tls") + `/.well-known/est/simplereenroll | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs -out gw-1b.pem
openssl verify -CAfile root.pem -untrusted untrusted.pem gw-1b.pem`)
	serial := strings.TrimPrefix(strings.TrimSpace(g.Sh("openssl x509 -noout -serial -in gw-1b.pem")), "serial=")
	g.Muster("revoke", "--yes", serial, "--reason", "keyCompromise")
	g.Sh(`for i in 1 2 3 4 5 6 7 8 9; do curl -sS --fail "$URL/crl/up/ejbca.crl" | openssl crl -inform DER -noout -text > crl.txt; grep -qi ` + serial + ` crl.txt && exit 0; sleep 1; done; cat crl.txt; exit 1`)
	// Not after-intent: whether that call was made, only time tells (`settle`).
	for _, point := range []string{"gateway.before-intent", "gateway.after-issue", "gateway.after-settle"} {
		name := strings.ReplaceAll(strings.TrimPrefix(point, "gateway."), ".", "-")
		dies(g, point)
		if out, ok := device(g, "", name); ok {
			t.Errorf("%s: the gateway did not die: %s", point, out)
		}
		g.Again()
		eventually(g, "", name)
		if n := strings.Count(prepare.Sh("cat ejbca/ledger.txt"), "CN="+name+" "); n != 1 {
			t.Errorf("%s: %d certificates\n%s", point, n, prepare.Sh("cat ejbca/ledger.txt"))
		}
	}
	row(t, backendRow{
		Backend: "ejbca (recorded exchanges and a stand-in from EJBCA's source; no EJBCA was run)",
		PKCS10:  "stand-in: EST device", CRMF: "no: pkcs10enroll takes PKCS#10, refused when loaded", Renew: "stand-in: another request, with an end entity of its own or of the device",
		Revoke: "stand-in: reason, 409 is success", Poll: "no: pkcs10enroll refuses where approvals are needed", CRL: "stand-in: getLatestCrl", CAChain: "stand-in: certificate/download",
		IdempotentRetry: "lookup: search by the end entity or account binding ID; 3 crash points with the stand-in, one certificate each",
	})
}

const ejbcaConfig = `version: 1
listeners:
  http: {address: 127.0.0.1:0}
  tls: {address: "localhost:0", tls: {cert: ra.pem, key: ra.key}}
store: sqlite:muster.db
distribution: {listeners: [http]}
backends:
  up:
    plugin: ejbca
    config:
      CONFIG
profiles:
  device: {backend: up, validity: 90d, key-usage: [digitalSignature, keyEncipherment], ext-key-usage: [clientAuth, serverAuth]}
endpoints:
  gateways:
    protocol: est
    listeners: [tls]
    default: true
    profile: device
    enroll: [password: {file: users}, names: {}]
    renew: [own-certificate: {}]
`
