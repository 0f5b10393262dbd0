//go:build cas

package cas

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/muster-pki/muster/e2e/running"
)

// pkcs11Config is a gateway whose CA, CMP RA and SCEP RA have their keys in one token: the CMP RA's by the plugin that is the CA, the SCEP
// RA's by one that only holds keys. %[1]s, %[2]s: path and hash of the plugin; %[3]s: the folder.
const pkcs11Config = `version: 1
listeners:
  http: {address: 127.0.0.1:0}
  tls: {address: "localhost:0", tls: {cert: ra.pem, key: ra.key}}
store: sqlite:muster.db
distribution: {listeners: [http]}
backends:
  ca:
    plugin: %[1]s
    sha256: %[2]s
    config:
      dir: %[3]s/ca
      pkcs11: {module: /usr/lib/softhsm/libsofthsm2.so, token: muster, pin: %[3]s/pin, keys: [cmp-ra], environment: {SOFTHSM2_CONF: %[3]s/softhsm2.conf}}
  keys:
    plugin: %[1]s
    sha256: %[2]s
    config:
      pkcs11: {module: /usr/lib/softhsm/libsofthsm2.so, token: muster, pin: %[3]s/pin, keys: [scep-ra], environment: {SOFTHSM2_CONF: %[3]s/softhsm2.conf}}
profiles:
  device: {backend: ca, validity: 90d, key-usage: [digitalSignature], ext-key-usage: [clientAuth, serverAuth]}
  phone: {backend: ca, issuer: rsa, validity: 90d, key-usage: [digitalSignature, keyEncipherment]}
endpoints:
  gateways:
    protocol: est
    listeners: [tls]
    default: true
    profile: device
    enroll: [password: {file: users}, names: {}]
    renew: [own-certificate: {}]
    est: {retry-after: 1s}
  stations:
    protocol: cmp
    listeners: [http]
    default: true
    profile: device
    enroll: [shared-secret: {secrets: {factory: {file: secret}}}, names: {}]
    ra: {cert: cmp-ra.pem, token: {backend: ca, label: cmp-ra}}
  phones:
    protocol: scep
    listeners: [http]
    default: true
    profile: phone
    enroll: [challenge: {file: challenges}, names: {}]
    ra: {cert: scep-ra.pem, token: {backend: keys, label: scep-ra}}
    scep: {legacy: [des, sha1]}
`

const pkcs11Files = raFiles + `
printf 'directories.tokendir = %s/tokens\nobjectstore.backend = file\n' "$PWD" > softhsm2.conf
mkdir -m 700 tokens; printf '4711-of-the-token\n' > pin; chmod 600 pin
export SOFTHSM2_CONF=$PWD/softhsm2.conf
softhsm2-util --init-token --free --label muster --so-pin 4712 --pin 4711-of-the-token
printf 'keyUsage=critical,digitalSignature,keyEncipherment\nextendedKeyUsage=1.3.6.1.5.5.7.3.28\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n' > token.ext
for ra in cmp-ra:P-256 scep-ra:RSA-2048; do
	"$PKCS11" request -module /usr/lib/softhsm/libsofthsm2.so -token muster -pin "$PWD/pin" -label ${ra%:*} -kind ${ra#*:} > ${ra%:*}.csr
	openssl x509 -req -in ${ra%:*}.csr -CA ops-ca.pem -CAkey ops-ca.key -CAcreateserial -days 20 -extfile token.ext -out ${ra%:*}.pem
done
printf 'factory:%s\n' "$(printf 'pass word\n' | "$MUSTER" password)" > users
for n in 1 2 3; do printf 'phone-%s:{sha256}%s\n' $n "$(printf 'challenge %s of 128 bits and more' $n | openssl dgst -sha256 -r | cut -d' ' -f1)"; done > challenges
printf "a secret of the factory" > secret
chmod 600 users challenges secret`

// TestPKCS11: the local CA and both RAs with their keys in SoftHSM 2. Real clients of three protocols, a restart, kill -9 of plugin and gateway
// under load, a rollover, and a token that is away and comes back.
func TestPKCS11(t *testing.T) {
	t.Parallel()
	plugin := filepath.Join(filepath.Dir(binary), "muster-pkcs11")
	if out, err := exec.Command("go", "build", "-o", plugin, "../../cmd/muster-pkcs11").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	program, err := os.ReadFile(plugin)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "gateway") // Start's is not known before
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	front, err := crashing()
	if err != nil {
		t.Fatal(err)
	}
	g := running.Start(t, front, []string{"PKCS11=" + plugin}, fmt.Sprintf(pkcs11Config, plugin, fmt.Sprintf("%x", sha256.Sum256(program)), dir),
		`cd '`+dir+`'`+pkcs11Files+`
cp ra.pem ra.key ops-ca.pem ops-ca.key cmp-ra.pem scep-ra.pem users challenges secret "$OLDPWD"`)

	tokenDevices(g, "1")
	noKeys(g, dir)
	g.Sh(`curl -sS --fail "$URL/crl/ca/ec.crl" | openssl crl -inform DER -noout -issuer; curl -sS --fail "$URL/crl/ca/rsa.crl" | openssl crl -inform DER -noout -issuer`)
	g.Sh(`openssl req -new -newkey rsa:2048 -nodes -keyout gw-1b.key -subj /CN=gw-1 -outform DER -out gw-1b.csr; openssl base64 -in gw-1b.csr | curl -sS --fail --cacert ops-ca.pem --cert gw-1.pem --key gw-1.key -H 'Content-Type: application/pkcs10' --data-binary @- https://` + g.Listener("tls") + `/.well-known/est/simplereenroll | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs -out gw-1b.pem
openssl verify -CAfile root.pem -untrusted untrusted.pem gw-1b.pem`)
	serial := strings.TrimSpace(g.Sh(`openssl x509 -noout -serial -in gw-1.pem | cut -d= -f2`))
	g.Muster("revoke", strings.ToLower(serial), "--reason", "superseded", "--yes")
	soon(g, `curl -sS --fail "$URL/crl/ca/ec.crl" | openssl crl -inform DER -noout -text | grep -i `+serial)
	g.Again()
	tokenDevices(g, "2")

	// kill -9 of the plugin, then of the gateway, while devices ask.
	var wg sync.WaitGroup
	for n := range 6 {
		wg.Go(func() { device(g, "", "load-"+strconv.Itoa(n)) })
	}
	if err := syscall.Kill(pluginPID(g), syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	wg.Wait()
	for n := range 6 {
		wg.Go(func() { device(g, "", "load-"+strconv.Itoa(n+6)) })
	}
	g.Kill()
	wg.Wait()
	g.Again()
	for n := range 12 {
		name := "load-" + strconv.Itoa(n)
		eventually(g, "", name)
		if n := issued(g, name); n != 1 {
			t.Errorf("%s has %d certificates", name, n)
		}
	}

	before := g.Sh(`openssl x509 -noout -ext authorityKeyIdentifier -in load-1.pem`)
	g.Muster("ca", "rekey", "ca/ec", "--yes")
	chain(g)
	eventually(g, "", "rolled-1")
	if after := g.Sh(`openssl x509 -noout -ext authorityKeyIdentifier -in rolled-1.pem`); after == before {
		t.Error("the CA has its old key")
	}
	noKeys(g, dir)

	// Away: nothing is refused, and nothing issued; back: by itself.
	if err := os.Rename(filepath.Join(dir, "tokens"), filepath.Join(dir, "away")); err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ { // SoftHSM has read the keys, and looks again at some time
		if _, ok := device(g, "", "away-"+strconv.Itoa(i)); !ok {
			break
		}
		if i == 150 {
			t.Fatal("a token that is away signs")
		}
	}
	if out, ok := g.Run("sh", "-c", `curl -sS --fail "$URL/readyz"`); ok {
		t.Errorf("ready without its token: %s", out)
	}
	if err := os.Rename(filepath.Join(dir, "away"), filepath.Join(dir, "tokens")); err != nil {
		t.Fatal(err)
	}
	eventually(g, "", "back-1")
	tokenDevices(g, "3")
	if log := g.Log.String(); strings.Contains(log, "4711") {
		t.Error("the PIN is in the log")
	}
	poll := atOnce(g, "gw-1")
	died := crashes(t, g, accidents{backend: "ca", at: func(name string) []string { return issuedFor(name, ledger(g, filepath.Join(dir, "ca"))) }})
	row(t, backendRow{
		Backend: "local by muster-pkcs11 (SoftHSM 2.6.1)", PKCS10: "yes: CMP p10cr, EST and SCEP", CRMF: "yes: CMP ir", Renew: "yes", Revoke: "yes", Poll: poll,
		CRL: "yes: signed in the token", CAChain: "yes", Describe: describes(g, "ca"), Crashes: died,
	})
}

// tokenDevices enrolls an EST, a CMP and a SCEP device.
func tokenDevices(g *running.Gateway, n string) {
	g.T.Helper()
	g.Sh(`curl -sS --fail --cacert ops-ca.pem https://` + g.Listener("tls") + `/.well-known/est/cacerts | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs -out untrusted.pem
curl -sS --fail "$URL/ca/ca/rsa.crt" | openssl x509 -inform DER >> untrusted.pem
cp "$(sed -n 's/^ *dir: //p' gateway.yaml)/roots.pem" root.pem; cat root.pem untrusted.pem ops-ca.pem > trusted.pem`)
	eventually(g, "", "gw-"+n)
	g.Sh(strings.ReplaceAll(`openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out st-%d.key
openssl cmp -config '' -batch -cmd ir -server "${URL#http://}" -path .well-known/cmp -ref factory -secret 'pass:a secret of the factory' -trusted trusted.pem -newkey st-%d.key -subject /CN=st-%d -certout st-%d.pem -total_timeout 150 -implicit_confirm 2>cmp.log || { cat cmp.log; exit 1; }
openssl verify -CAfile root.pem -untrusted untrusted.pem st-%d.pem
mkdir ph-%d; '`+filepath.Join(tools, "bin", "scepclient")+`' -server-url "$URL/scep" -challenge 'challenge %d of 128 bits and more' -private-key ph-%d/key.pem -certificate ph-%d/cert.pem -cn ph-%d
openssl verify -CAfile root.pem -untrusted untrusted.pem ph-%d/cert.pem`, "%d", n))
}

// noKeys looks for private keys in files: those of the CA are references to the token, which has them.
func noKeys(g *running.Gateway, dir string) {
	g.T.Helper()
	g.Sh(`cd '` + dir + `'; ! grep -rlE 'PRIVATE KEY' ca; grep -q '^pkcs11:object=muster-ca-ec-' ca/authority/ec.key
SOFTHSM2_CONF=$PWD/softhsm2.conf pkcs11-tool --module /usr/lib/softhsm/libsofthsm2.so --token-label muster --login --pin 4711-of-the-token --list-objects --type privkey > listed
cat listed; for label in muster-ca-ec- muster-ca-ec-root- muster-ca-rsa- muster-ca-rsa-root- cmp-ra scep-ra; do grep -q "label: *$label" listed; done
test "$(grep -c '^Private Key' listed)" = "$(grep -c 'Access: *sensitive, always sensitive, never extractable' listed)"`)
}

func pluginPID(g *running.Gateway) int {
	g.T.Helper()
	all := regexp.MustCompile(`msg="plugin (?:re)?started" plugin=ca pid=(\d+)`).FindAllStringSubmatch(g.Log.String(), -1)
	if len(all) == 0 {
		g.T.Fatalf("no plugin has started\n%s", g.Log)
	}
	pid, err := strconv.Atoi(all[len(all)-1][1])
	if err != nil {
		g.T.Fatal(err)
	}
	return pid
}
