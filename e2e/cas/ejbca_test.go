//go:build cas

package cas

import (
	"crypto/tls"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-pki/muster/e2e/running"
)

// An EST device behind EJBCA's stand-in: there is no EJBCA here, a Java EE server with a database. What the stand-in answers is from EJBCA's
// source (docs/backends/ejbca.md).
func TestEJBCAStandIn(t *testing.T) {
	t.Parallel()
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
	waits(t, func() string { return "the stand-in does not start" }, func() bool { _, err := os.Stat(config); return err == nil })
	// Its own addresses stand in its configuration; the gateway is given those of the proxy.
	said := map[string]string{}
	for line := range strings.Lines(prepare.Sh("cat ejbca/config.yaml")) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		said[key] = strings.Trim(value, `"`)
	}
	shown, client := pair(t, prepare.Dir, "ra.pem", "ra.key"), pair(t, "", said["cert"], said["key"])
	b := newBetween(t, said["url"], shown, post("/pkcs10enroll", 201))
	b.client.Certificates = []tls.Certificate{*client}
	prepare.Sh("cp ejbca/root.pem shared/; sed -e 's|^url: .*|url: " + b.URL + "|' -e 's|^ca: .*|ca: ops-ca.pem|' -e 's/^/      /' ejbca/config.yaml > indented; echo '      settle: 1m\n      timeout: 5s' >> indented")
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
	eventually(g, "", "gw-1")
	g.Sh(`openssl req -new -newkey rsa:2048 -nodes -keyout gw-1b.key -subj /CN=gw-1 -outform DER -out gw-1b.csr; openssl base64 -in gw-1b.csr | curl -sS --fail --cacert ops-ca.pem --cert gw-1.pem --key gw-1.key -H 'Content-Type: application/pkcs10' --data-binary @- https://` + g.Listener("tls") + `/.well-known/est/simplereenroll | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs -out gw-1b.pem
openssl verify -CAfile root.pem -untrusted untrusted.pem gw-1b.pem`)
	serial := strings.TrimPrefix(strings.TrimSpace(g.Sh("openssl x509 -noout -serial -in gw-1b.pem")), "serial=")
	g.Muster("revoke", "--yes", serial, "--reason", "keyCompromise")
	soon(g, `curl -sS --fail "$URL/crl/up/ejbca.crl" | openssl crl -inform DER -noout -text > crl.txt; grep -qi `+serial+` crl.txt`)
	crmf, poll := refusesCRMF(g, "device"), atOnce(g, "gw-1")
	died := crashes(t, g, accidents{
		at: func(name string) (serials []string) {
			for line := range strings.Lines(prepare.Sh("cat ejbca/ledger.txt")) {
				if fields := strings.Fields(line); fields[0] == "CN="+name {
					serials = append(serials, fields[1])
				}
			}
			return serials
		},
		lose: b.lose,
		ends: 2 * patience, // settle and a timeout are over a minute
	})
	row(t, backendRow{
		Backend: "ejbca (recorded exchanges and a stand-in from EJBCA's source; no EJBCA was run)",
		PKCS10:  "stand-in: EST device", CRMF: crmf, Renew: "stand-in: another request, with an end entity of its own or of the device",
		Revoke: "stand-in: reason, on the CRL", Poll: poll, CRL: "stand-in: getLatestCrl", CAChain: "stand-in: certificate/download",
		Describe: describes(g, "up"), Crashes: died,
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
