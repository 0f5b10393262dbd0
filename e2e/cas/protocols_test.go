//go:build cas

package cas

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/muster-pki/muster/e2e/running"
)

// raFiles makes, in a gateway's folder, an operator's CA and one certificate of it for all that a gateway shows: to devices over TLS,
// as RA in CMP and SCEP, and to the CA above it.
const raFiles = `
openssl req -x509 -newkey rsa:2048 -nodes -keyout ops-ca.key -subj '/CN=Operator CA' -days 30 -out ops-ca.pem -addext keyUsage=critical,keyCertSign,cRLSign
openssl req -new -newkey rsa:2048 -nodes -keyout ra.key -subj '/CN=RA 1/O=Operator' -out ra.csr
printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nkeyUsage=critical,digitalSignature,keyEncipherment\nextendedKeyUsage=serverAuth,clientAuth,1.3.6.1.5.5.7.3.28,1.3.6.1.5.5.7.3.27\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n' > ra.ext
openssl x509 -req -in ra.csr -CA ops-ca.pem -CAkey ops-ca.key -CAcreateserial -days 20 -extfile ra.ext -out ra.pem
chmod 600 ra.key`

// upstreamConfig is a gateway that is the CA: over EST and SCEP, for an RA alone, at once and with an approval.
const upstreamConfig = `version: 1
listeners:
  http: {address: 127.0.0.1:0}
  tls: {address: "localhost:0", tls: {cert: ra.pem, key: ra.key}}
store: sqlite:muster.db
backends:
  local: {plugin: local, config: {dir: ca, issuers: {rsa: {bits: 2048}}}}
distribution: {listeners: [http]}
profiles:
  device: {backend: local, issuer: rsa, validity: 30d, key-usage: [digitalSignature, keyEncipherment]}
endpoints:
  at-once:
    protocol: est
    listeners: [tls]
    profile: device
    enroll: [ra: {cas: [ops-ca.pem]}, names: {}]
  approved:
    protocol: est
    listeners: [tls]
    profile: device
    enroll: [ra: {cas: [ops-ca.pem]}, names: {}, approval: {approvers: 1}]
    est: {retry-after: 1s}
  scep-at-once:
    protocol: scep
    listeners: [http]
    profile: device
    enroll: [ra: {cas: [ops-ca.pem]}, names: {}]
  scep-approved:
    protocol: scep
    listeners: [http]
    profile: device
    enroll: [ra: {cas: [ops-ca.pem]}, names: {}, approval: {approvers: 1}]
`

// frontConfig is the gateway that devices reach: three protocols before one backend; %s is that backend's, and that of the second, `held`.
const frontConfig = `version: 1
listeners:
  http: {address: 127.0.0.1:0}
  tls: {address: "localhost:0", tls: {cert: ra.pem, key: ra.key}}
store: sqlite:muster.db
distribution: {listeners: [http]}
backends:
  up: {plugin: %s}
  held: {plugin: %s}
profiles:
  device: {backend: up, validity: 90d, key-usage: [digitalSignature, keyEncipherment], ext-key-usage: [clientAuth, serverAuth]}
  waiting: {backend: held, validity: 90d, key-usage: [digitalSignature, keyEncipherment], ext-key-usage: [clientAuth, serverAuth]}
endpoints:
  gateways:
    protocol: est
    listeners: [tls]
    default: true
    profile: device
    enroll: [password: {file: users}, names: {}]
    renew: [own-certificate: {}]
    est: {retry-after: 1s}
  waits:
    protocol: est
    listeners: [tls]
    profile: waiting
    enroll: [password: {file: users}, names: {}]
    est: {retry-after: 1s}
  stations:
    protocol: cmp
    listeners: [http]
    default: true
    profile: device
    enroll: [shared-secret: {secrets: {factory: {file: secret}}}, names: {}]
    ra: {cert: ra.pem, key: ra.key}
    cmp: {bodies: [p10cr], unconfirmed: keep}
  phones:
    protocol: scep
    listeners: [http]
    default: true
    profile: device
    enroll: [challenge: {file: challenges}, names: {}]
    ra: {cert: ra.pem, key: ra.key}
    scep: {legacy: [des, sha1]}
`

// crashing is cmd/muster that kills itself at a named point.
var crashing = sync.OnceValues(func() (string, error) {
	path := filepath.Join(filepath.Dir(binary), "muster-crashing")
	out, err := exec.Command("go", "build", "-tags", "faults", "-o", path, "../../cmd/muster").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// front starts a gateway before a CA: up and held are what stands behind `plugin: `. from is a folder with the operator's files.
func front(t *testing.T, from, up, held string) *running.Gateway {
	t.Helper()
	return frontOf(t, from, fmt.Sprintf(frontConfig, up, held))
}

// estFront is one without SCEP, whose clients want a CA with an RSA key.
func estFront(t *testing.T, from, up string) *running.Gateway {
	t.Helper()
	config, _, _ := strings.Cut(fmt.Sprintf(frontConfig, up, up), "  phones:\n")
	return frontOf(t, from, config)
}

func frontOf(t *testing.T, from, config string) *running.Gateway {
	t.Helper()
	program, err := crashing()
	if err != nil {
		t.Fatal(err)
	}
	return running.Start(t, program, nil, config, `cp `+from+`/* . 2>/dev/null || true; rm -f muster.db*; chmod 600 ra.key
printf 'factory:%s\n' "$(printf 'pass word\n' | "$MUSTER" password)" > users
printf 'phone:{sha256}%s\n' "$(printf 'a challenge of 128 bits and more' | openssl dgst -sha256 -r | cut -d' ' -f1)" > challenges
printf "a secret of the factory" > secret
chmod 600 users challenges secret`)
}

// upstream starts the gateway that is the CA.
func upstream(t *testing.T) *running.Gateway {
	t.Helper()
	up := running.Start(t, binary, nil, upstreamConfig, raFiles)
	up.Sh(`mkdir -p shared; cp ops-ca.pem ra.pem ra.key shared/; curl -sS --fail "$URL/ca/local/rsa.crt" -o issuing.der
curl -sS --fail --cacert ops-ca.pem "https://` + up.Listener("tls") + `/.well-known/est/at-once/cacerts" | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs -out cas.pem
awk '/BEGIN/ {n++} {print > "ca" n ".pem"}' cas.pem
for f in ca[0-9]*.pem; do openssl x509 -in $f -noout -subject 2>/dev/null | grep -q Root && cp $f shared/root.pem; done; test -s shared/root.pem`)
	return up
}

// device asks the front's EST endpoint with one PKCS#10 per name: what was answered, and whether it was a certificate.
func device(g *running.Gateway, endpoint, name string) (string, bool) {
	g.T.Helper()
	return g.Run("sh", "-euc", fmt.Sprintf(`test -s %[2]s.csr || openssl req -new -newkey rsa:2048 -nodes -keyout %[2]s.key -subj /CN=%[2]s -outform DER -out %[2]s.csr 2>/dev/null
openssl base64 -in %[2]s.csr | curl -sS --max-time 60 --cacert ops-ca.pem --user 'factory:pass word' -H 'Content-Type: application/pkcs10' --data-binary @- -w '%%{http_code}' -o %[2]s.b64 https://%[3]s/.well-known/est/%[1]ssimpleenroll > %[2]s.status
cat %[2]s.status; test "$(cat %[2]s.status)" = 200 || { cat %[2]s.b64; exit 1; }
openssl base64 -d -A -in %[2]s.b64 | openssl pkcs7 -inform DER -print_certs -out %[2]s.pem; openssl verify -CAfile root.pem -untrusted untrusted.pem %[2]s.pem`, endpoint, name, g.Listener("tls")))
}

// chain gets the front's CA certificates into untrusted.pem.
func chain(g *running.Gateway) string {
	g.T.Helper()
	return g.Sh(`curl -sS --fail --cacert ops-ca.pem https://` + g.Listener("tls") + `/.well-known/est/cacerts | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs -out untrusted.pem; grep subject untrusted.pem`)
}

// eventually wants a certificate for the name.
func eventually(g *running.Gateway, endpoint, name string) {
	g.T.Helper()
	var out string
	waits(g.T, func() string { return fmt.Sprintf("%s has no certificate: %s\n%s", name, out, g.Log) }, func() (ok bool) {
		out, ok = device(g, endpoint, name)
		return ok
	})
}

// inState waits until a gateway has a request for the name in that state, and returns its ID.
func inState(g *running.Gateway, name, state string) (id string) {
	g.T.Helper()
	waits(g.T, func() string { return fmt.Sprintf("%s is %q, not %s\n%s", name, g.State(name), state, g.Log) }, func() bool {
		all := g.Transactions(name)
		if len(all) == 0 || all[0].State != state {
			return false
		}
		id = all[0].ID
		return true
	})
	return id
}

// issued counts the certificates that a gateway issued for the name.
func issued(g *running.Gateway, name string) (n int) {
	g.T.Helper()
	for _, tx := range g.Transactions(name) {
		if tx.State == "issued" {
			n++
		}
	}
	return n
}

// threeDevices enrolls an EST, a CMP and a SCEP device, and renews the first, which is another request to the CA.
func threeDevices(g *running.Gateway) {
	g.T.Helper()
	chain(g)
	eventually(g, "", "gw-1")
	g.Sh(`cat root.pem untrusted.pem ops-ca.pem > trusted.pem
openssl req -new -newkey rsa:2048 -nodes -keyout gw-1b.key -subj /CN=gw-1 -outform DER -out gw-1b.csr; openssl base64 -in gw-1b.csr | curl -sS --fail --cacert ops-ca.pem --cert gw-1.pem --key gw-1.key -H 'Content-Type: application/pkcs10' --data-binary @- https://` + g.Listener("tls") + `/.well-known/est/simplereenroll | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs -out gw-1b.pem
openssl verify -CAfile root.pem -untrusted untrusted.pem gw-1b.pem; test "$(openssl x509 -noout -serial -in gw-1.pem)" != "$(openssl x509 -noout -serial -in gw-1b.pem)"
openssl req -new -newkey rsa:2048 -nodes -keyout st-1.key -subj /CN=st-1 -out st-1.csr
openssl cmp -config '' -batch -cmd p10cr -server "${URL#http://}" -path .well-known/cmp -ref factory -secret 'pass:a secret of the factory' -trusted trusted.pem -csr st-1.csr -certout st-1.pem -total_timeout 150 2>cmp.log || { cat cmp.log; exit 1; }
openssl verify -CAfile root.pem -untrusted untrusted.pem st-1.pem
'` + filepath.Join(tools, "bin", "scepclient") + `' -server-url "$URL/scep" -challenge 'a challenge of 128 bits and more' -private-key ph-1.key -certificate ph-1.pem -cn ph-1
openssl verify -CAfile root.pem -untrusted untrusted.pem ph-1.pem`)
}
