package e2e

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// rolloverConfig has an endpoint for each protocol; certificates say where the CRL of the key that signed them is, and the
// certificates of their issuer. The address of the plain listener stands in it twice.
const rolloverConfig = `version: 1
listeners:
  http: {address: ADDRESS}
  https: {address: TLS-ADDR, tls: {}}
store: sqlite:muster.db
backends:
  local:
    plugin: local
    config:
      dir: ca
      issuers:
        ec: {crl: ["http://ADDRESS/crl/local/{name}.crl"], ca-issuers: ["http://ADDRESS/ca/local/ec.p7c"]}
        rsa: {bits: 2048, crl: ["http://ADDRESS/crl/local/{name}.crl"], ca-issuers: ["http://ADDRESS/ca/local/rsa.p7c"]}
server-certificate: {backend: local}
distribution: {listeners: [http]}
profiles:
  device: {backend: local, validity: 30d}
  mobile: {backend: local, issuer: rsa, validity: 30d, key-usage: [digitalSignature, keyEncipherment]}
endpoints:
  est:
    protocol: est
    listeners: [https]
    default: true
    profile: device
    enroll: [{password: {file: users}}, {names: {}}]
    renew: [{own-certificate: {}}]
  cmp:
    protocol: cmp
    listeners: [http]
    default: true
    profile: device
    enroll: [{shared-secret: {secrets: {factory: {file: cmp-secret}}}}, {names: {}}]
    renew: [{own-certificate: {}}]
  scep:
    protocol: scep
    listeners: [http]
    default: true
    profile: mobile
    enroll: [{challenge: {file: users}}, {names: {}}]
    renew: [{own-certificate: {}}]
    scep: {legacy: [des, sha1]} # scepclient
`

const rolloverSecret = "a-secret-of-the-factory"

// onKnownAddresses is rolloverConfig on free addresses.
func onKnownAddresses(t *testing.T) string {
	t.Helper()
	config := rolloverConfig
	for _, address := range []string{"ADDRESS", "TLS-ADDR"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // so that they are two
		config = strings.ReplaceAll(config, address, l.Addr().String())
	}
	return config
}

// rolling runs rolloverConfig.
func rolling(t *testing.T) (g *instance, dir string) {
	t.Helper()
	g = configured(t, onKnownAddresses(t), rolloverFiles(t)...)
	g.listening("http")
	return g, t.TempDir()
}

// rolloverFiles are the configuration's other files.
func rolloverFiles(t *testing.T) []string {
	t.Helper()
	return []string{"users", "factory:" + strings.TrimPrefix(heldSecret(t, rolloverSecret), "held:"), "cmp-secret", rolloverSecret + "\n"}
}

// veteran is a device, and what it was given to trust when it was made.
type veteran struct {
	name     string // common name, and of its files: NAME.key, NAME.pem
	protocol string // of rolloverProtocols
	roots    string // file
	epoch    string // when it was made
}

// enrolment is what each client types to enrol as $1, trusting the roots in $2, and renewal what it types later on.
var (
	enrolment = map[string]string{
		"est": ecKey + `"$1.key"; cp "$1.key" "$1.next.key"` + "\n" + estRequest(`-u factory:`+rolloverSecret, "simpleenroll"),
		"cmp": ecKey + `"$1.key"
			openssl cmp -config '' -batch -cmd ir -server "$MUSTER_HTTP" -path .well-known/cmp -trusted "$2" -out_trusted "$2" -ref factory -secret pass:` + rolloverSecret + ` \
				-newkey "$1.key" -subject "/CN=$1" -certout "$1.pem" 2>cmp.log || { cat cmp.log; exit 1; }`,
		"scepclient": `rm -f csr.pem self.pem; "$SCEPCLIENT" -server-url "$MUSTER_HTTP/scep" -challenge ` + rolloverSecret + ` -private-key "$1.key" -certificate "$1.pem" -cn "$1"`,
		"strongswan": `openssl genrsa -out "$1.key" 2048 2>/dev/null
			pki --scepca --url "$MUSTER_HTTP/scep" --caout "$1-ca.pem" --outform pem --force 2>log || { cat log; exit 1; }
			` + strongSwanSCEP(`--in "$name.key" --password `+rolloverSecret),
		// It reads one certificate of a file: the EC root is the first of the roots.
		"strongswan-est": `pki --estca --url "$MUSTER_HTTPS" --cacert "$2" --caout "$1-ca.pem" --outform pem --force 2>log || { cat log; exit 1; }
			` + strongSwanEST("--userpass factory:"+rolloverSecret),
	}
	renewal = map[string]string{
		"est": ecKey + `"$1.next.key"` + "\n" + estRequest(`--cert "$1.pem" --key "$1.key"`, "simplereenroll") + `mv "$1.next.key" "$1.key"`,
		"cmp": ecKey + `"$1.next.key"
			openssl cmp -config '' -batch -cmd kur -server "$MUSTER_HTTP" -path .well-known/cmp -trusted "$2" -out_trusted "$2" -cert "$1.pem" -key "$1.key" \
				-newkey "$1.next.key" -certout "$1.next.pem" 2>cmp.log || { cat cmp.log; exit 1; }
			mv "$1.next.key" "$1.key"; mv "$1.next.pem" "$1.pem"`,
		"scepclient": `rm -f csr.pem self.pem; "$SCEPCLIENT" -server-url "$MUSTER_HTTP/scep" -private-key "$1.key" -certificate "$1.pem" -cn "$1"`,
		// It goes on with the answer to GetCACert that it got when it was made.
		"strongswan": `openssl genrsa -out "$1.next.key" 2048 2>/dev/null
			` + strongSwanSCEP(`--in "$name.next.key" --cert "$name.pem" --key "$name.key"`) + `
			mv "$1.next.key" "$1.key"`,
		"strongswan-est": strongSwanEST(`--cert "$name.pem" --key "$name.key"`),
	}
)

// strongSwanEST goes on with the answer to cacerts that the device got when it was made.
func strongSwanEST(credentials string) string {
	return ecKey + `"$1.next.key"
		pki --req --in "$1.next.key" --type ecdsa --dn "CN=$1" --digest sha256 > "$1.req" 2>/dev/null
		name=$1; set --; for c in "$name"-ca*.pem; do set -- "$@" --cacert "$c"; done
		pki --est --url "$MUSTER_HTTPS" --in "$name.req" ` + credentials + ` "$@" --outform pem > "$name.next.pem" 2>log || { cat log; exit 1; }
		mv "$name.next.pem" "$name.pem"; mv "$name.next.key" "$name.key"`
}

func estRequest(credentials, operation string) string {
	return `openssl req -new -key "$1.next.key" -subj "/CN=$1" -outform DER | openssl base64 -A > "$1.b64"
		curl -sS --fail-with-body --cacert "$2" ` + credentials + ` -H 'Content-Type: application/pkcs10' --data-binary "@$1.b64" \
			"$MUSTER_HTTPS/.well-known/est/` + operation + `" -o "$1.p7" || { cat "$1.p7"; exit 1; }
		openssl base64 -d -A -in "$1.p7" | openssl pkcs7 -inform DER -print_certs -out "$1.pem"
		`
}

func strongSwanSCEP(args string) string {
	return `name=$1; set --; for c in "$name"-ca*.pem; do case $c in *ra*) ;; *) set -- "$@" --cacert "$c";; esac; done
		pki --scep --url "$MUSTER_HTTP/scep" --cacert-enc "$name-ca-ra.pem" --cacert-sig "$name-ca-ra.pem" "$@" ` + args + ` --dn "CN=$name" --outform pem > "$name.next.pem" 2>log || { cat log; exit 1; }
		set -- "$name"; mv "$1.next.pem" "$1.pem"`
}

var rolloverProtocols = []string{"est", "cmp", "scepclient", "strongswan", "strongswan-est"}

// recruits enrols a device over each protocol.
func (g *instance) recruits(dir, epoch, roots string) []*veteran {
	g.t.Helper()
	var all []*veteran
	for _, protocol := range rolloverProtocols {
		v := &veteran{name: protocol + "-" + epoch, protocol: protocol, roots: roots, epoch: epoch}
		g.as(dir, v, enrolment)
		all = append(all, v)
	}
	return all
}

// renews has a device renew its certificate.
func (g *instance) renews(dir string, v *veteran) {
	g.t.Helper()
	before := serial(g, dir, v.name+".pem")
	g.as(dir, v, renewal)
	if serial(g, dir, v.name+".pem") == before {
		g.t.Errorf("%s: not renewed", v.name)
	}
}

func (g *instance) as(dir string, v *veteran, scripts map[string]string) {
	g.t.Helper()
	client, err := scepclient()
	if err != nil {
		g.t.Fatalf("building scepclient: %v", err)
	}
	g.sh(dir, `SCEPCLIENT='`+client+`'; set -- `+v.name+` '`+v.roots+"'\n"+scripts[v.protocol])
}

// checkScript verifies the certificate in $1, trusting the roots in $2, by what its own URLs give: its issuer's certificates
// and the CRL of the key that signed it.
const checkScript = `uris=$(openssl x509 -in "$1" -noout -ext crlDistributionPoints,authorityInfoAccess | sed -n 's/.*URI://p')
	curl -sS --fail -o check.1 -o check.2 $uris
	case "$uris" in */crl/*/crl/*|*/ca/*/ca/*) echo "not a CRL and CA certificates: $uris"; exit 1;; */crl/*/ca/*) crl=check.1 ca=check.2;; *) crl=check.2 ca=check.1;; esac
	openssl pkcs7 -in $ca -inform DER -print_certs -out check.issuers
	openssl verify -x509_strict -crl_check -CAfile "$2" -untrusted check.issuers -CRLfile $crl "$1"`

// good verifies a device's certificate under the roots, by checkScript.
func (g *instance) good(dir, cert, roots string) {
	g.t.Helper()
	if out, code := g.run(dir, "sh", "-euc", `set -- '`+cert+`' '`+roots+"'\n"+checkScript); code != 0 || !strings.Contains(out, cert+": OK") {
		g.t.Errorf("%s under %s: exit %d\n%s", cert, filepath.Base(roots), code, out)
	}
}

// revoked waits until a certificate does not verify any more because it is on the CRL.
func (g *instance) revoked(dir, cert, roots string) {
	g.t.Helper()
	out := ""
	for range 250 { // the CA is told at once, by a worker where that fails
		code := 0
		if out, code = g.run(dir, "sh", "-euc", `set -- '`+cert+`' '`+roots+"'\n"+checkScript); code != 0 && strings.Contains(out, "certificate revoked") {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	g.t.Errorf("%s: not revoked\n%s", cert, out)
}

// change changes a CA over, and waits until the gateway's own certificates have followed.
func (g *instance) change(args ...string) string {
	g.t.Helper()
	before := strings.Count(g.stderr.String(), followedSaid)
	out := g.muster(append(append([]string{"ca"}, args...), "--yes")...)
	g.followed(before + 1)
	return out
}

// followedSaid is what the log says then.
const followedSaid = "own certificates have followed the CA"

// followed waits until they have so many times.
func (g *instance) followed(times int) {
	g.t.Helper()
	for range 1500 {
		if strings.Count(g.stderr.String(), followedSaid) >= times {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	g.t.Fatalf("the gateway has not followed\n%s", g.stderr)
}

// certificates reads a PEM file.
func certificates(t testing.TB, path string) []*x509.Certificate {
	t.Helper()
	rest, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []*x509.Certificate
	for {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			return all
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			t.Fatal(fmt.Errorf("%s: %w", path, err))
		}
		all = append(all, c)
	}
}
