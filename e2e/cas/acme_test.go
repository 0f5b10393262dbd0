//go:build cas

package cas

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/muster-pki/muster/e2e/running"
)

// acmeConfig is a gateway for devices that serve TLS; %s is the configuration of the backend.
const acmeConfig = `version: 1
listeners:
  http: {address: 127.0.0.1:0}
  tls: {address: "localhost:0", tls: {cert: ra.pem, key: ra.key}}
store: sqlite:muster.db
distribution: {listeners: [http]}
backends:
  web: {plugin: acme, config: {%s}}
profiles:
  server: {backend: web, validity: 90d, key-usage: [digitalSignature, keyEncipherment], ext-key-usage: [serverAuth, clientAuth]}
endpoints:
  servers:
    protocol: est
    listeners: [tls]
    default: true
    profile: server
    enroll: [password: {file: users}, names: {common-name: "[a-z0-9.-]+", san: {dns: {pattern: "[a-z0-9-]+[.]example[.]test"}}}]
    renew: [own-certificate: {}]
    est: {retry-after: 1s}
`

// pebble is the CA of Let's Encrypt's for tests: it validates names for real, binds accounts, and takes three nonces of ten for bad.
type pebble struct {
	directory, management string
	log                   *running.Output
	answers               string // the folder that the names' web server shows
	txt                   string // the folder of the TXT records: a folder for each name, a file for each value
	hides                 atomic.Bool
}

func startPebble(t *testing.T, files *running.Gateway) *pebble {
	t.Helper()
	p := &pebble{answers: files.File("answers"), txt: files.File("txt"), log: &running.Output{}}
	if err := os.Mkdir(p.answers, 0o755); err != nil {
		t.Fatal(err)
	}
	show := http.StripPrefix("/.well-known/acme-challenge/", http.FileServer(http.Dir(p.answers)))
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.hides.Load() {
			http.NotFound(w, r)
			return
		}
		show.ServeHTTP(w, r)
	}))
	t.Cleanup(web.Close)
	_, port, err := net.SplitHostPort(web.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	p.directory, p.management = running.Address(t), running.Address(t)
	files.Write("pebble.json", fmt.Sprintf(`{"pebble": {"listenAddress": %q, "managementListenAddress": %q, "certificate": %q, "privateKey": %q, "httpPort": %s, "tlsPort": 5001,
"externalAccountBindingRequired": true, "externalAccountMACKeys": {"kid-1": "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"},
"retryAfter": {"authz": 1, "order": 1}, "profiles": {"default": {"description": "The only one", "promoteCommonName": true, "validityPeriod": 5184000}}}}`, p.directory, p.management, files.File("ra.pem"), files.File("ra.key"), port))
	cmd := exec.Command(filepath.Join(tools, "bin", "pebble"), "-config", files.File("pebble.json"), "-strict", "-dnsserver", names(t, p.txt))
	cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_VA_ALWAYS_VALID=0", "PEBBLE_WFE_NONCEREJECT=30", "PEBBLE_AUTHZREUSE=0")
	serves(t, p.directory, cmd)
	p.log = cmd.Stdout.(*running.Output)
	files.Sh(`curl -sS --fail --retry 5 --retry-connrefused --cacert ops-ca.pem https://` + p.management + `/intermediates/0 > chain.pem
curl -sS --fail --cacert ops-ca.pem https://` + p.management + `/roots/0 > root.pem; cat root.pem >> chain.pem`)
	return p
}

// issued are the serial numbers of all certificates that pebble says it has issued.
func (p *pebble) issued(string) (serials []string) {
	for _, m := range regexp.MustCompile(`Issued certificate serial ([0-9a-f]+)`).FindAllStringSubmatch(p.log.String(), -1) {
		serials = append(serials, strings.ToUpper(strings.TrimLeft(m[1], "0")))
	}
	return serials
}

// enrolled wants a certificate for the name, and says what the CA said where the request failed.
func (p *pebble) enrolled(g *running.Gateway, name string) {
	g.T.Helper()
	waits(g.T, func() string { return fmt.Sprintf("%s has no certificate\n%s\n%s", name, g.Log, p.log) }, func() bool {
		_, ok := device(g, "", name)
		if !ok && g.State(name) == "failed" {
			g.T.Fatalf("%s failed\n%s\n%s", name, g.Log, p.log)
		}
		return ok
	})
}

// Pebble: a device gets a certificate for its name, renews it and has it revoked; and deaths at each crash point.
func TestACMEPebble(t *testing.T) {
	t.Parallel()
	files := &running.Gateway{T: t, Dir: t.TempDir()}
	files.Sh(raFiles)
	p := startPebble(t, files)
	files.Sh("mkdir shared; cp ops-ca.pem ra.pem ra.key root.pem chain.pem shared/")
	program, err := crashing()
	if err != nil {
		t.Fatal(err)
	}
	b := newBetween(t, "https://"+p.directory, pair(t, files.Dir, "ra.pem", "ra.key"), func(res *http.Response, _ []byte) ([]*x509.Certificate, bool) {
		return nil, strings.HasPrefix(res.Request.URL.Path, "/finalize-order/") && res.StatusCode == http.StatusOK
	})
	config := fmt.Sprintf(`url: "%s/dir", ca: ops-ca.pem, chain: chain.pem, account-key: account.pem, terms-agreed: true, contact: ["mailto:pki@example.test"], `+
		`external-account: {kid: kid-1, key: eab.key}, http-01: {dir: %s}`, b.URL, p.answers)
	g := running.Start(t, program, nil, fmt.Sprintf(acmeConfig, config), `cp `+files.File("shared")+`/* .
printf 'factory:%s\n' "$(printf 'pass word\n' | "$MUSTER" password)" > users
printf 'zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W\n' > eab.key; chmod 600 users eab.key ra.key`)
	chain(g)
	request := func(name string) {
		g.Sh(fmt.Sprintf(`openssl req -new -newkey rsa:2048 -nodes -keyout %[1]s.key -subj /CN=%[1]s -addext 'subjectAltName=DNS:%[1]s' -outform DER -out %[1]s.csr`, name))
	}
	const first = "gw-1.example.test"
	request(first)
	if out, ok := device(g, "", first); ok || !strings.HasPrefix(out, "202") {
		t.Errorf("an order that is not proven yet: %s", out)
	}
	p.enrolled(g, first)
	g.Sh(`openssl x509 -in ` + first + `.pem -noout -ext subjectAltName | grep DNS:` + first)
	if mode := g.Sh("stat -c %a account.pem"); mode != "600\n" {
		t.Errorf("the account key's mode is %s", mode)
	}
	if left := g.Sh("ls " + p.answers); left != "" {
		t.Errorf("answers to challenges stay: %s", left)
	}

	// A renewal is another order.
	g.Sh(`for i in $(seq 170); do
	openssl base64 -in ` + first + `.csr | curl -sS --cacert ops-ca.pem --cert ` + first + `.pem --key ` + first + `.key -H 'Content-Type: application/pkcs10' --data-binary @- -w '%{http_code}' -o new.b64 https://` + g.Listener("tls") + `/.well-known/est/simplereenroll > new.status
	test "$(cat new.status)" = 202 || break; sleep 1; done; test "$(cat new.status)" = 200 || { cat new.status new.b64; exit 1; }
openssl base64 -d -A -in new.b64 | openssl pkcs7 -inform DER -print_certs -out new.pem; openssl verify -CAfile root.pem -untrusted untrusted.pem new.pem
test "$(openssl x509 -noout -serial -in new.pem)" != "$(openssl x509 -noout -serial -in ` + first + `.pem)"`)

	serial := strings.TrimPrefix(strings.TrimSpace(g.Sh("openssl x509 -noout -serial -in new.pem")), "serial=")
	g.Muster("revoke", "--yes", serial, "--reason", "keyCompromise")
	soon(g, `curl -sS --cacert ops-ca.pem https://`+p.management+`/cert-status-by-serial/`+strings.ToLower(serial)+` | grep Revoked`)

	// A name whose server does not show the answer.
	p.hides.Store(true)
	const hidden = "hidden.example.test"
	request(hidden)
	device(g, "", hidden)
	inState(g, hidden, "failed")
	p.hides.Store(false)

	if n := len(p.issued("")); n != 2 {
		t.Errorf("pebble issued %d certificates", n)
	}
	crmf, crl := refusesCRMF(g, "server"), noCRL(g, "web/acme.crl")
	died := crashes(t, g, accidents{backend: "web", at: p.issued, lose: b.lose, device: func(accident string) string {
		name := strings.NewReplacer("gateway.", "", " ", "-").Replace(accident) + ".example.test"
		request(name)
		return name
	}})
	row(t, backendRow{
		Backend: "acme (pebble 2.10.1, 30 % bad nonces)",
		PKCS10:  "yes: EST, http-01 validated, external account binding", CRMF: crmf, Renew: "yes: another order",
		Revoke: "yes: by the account; pebble says Revoked", Poll: "yes: 202, then the order's URL is the ticket", CRL: crl, CAChain: "yes: by file, checked against what is issued",
		Describe: describes(g, "web"), Crashes: died,
	})
}
