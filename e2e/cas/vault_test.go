//go:build cas

package cas

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/e2e/running"
)

// vault is a real server that keeps its storage over restarts: a root in the engine pki-root, an issuing CA in the engine pki below it, and Muster's AppRole
// with the policy of docs/backends/vault.md.
type vault struct {
	t       *testing.T
	dir     string
	Address string // host:port
	token   string // root
	unseal  string
	cmd     *exec.Cmd
	log     *running.Output
	exited  chan struct{}
}

func startVault(t *testing.T) *vault {
	t.Helper()
	v := &vault{t: t, dir: t.TempDir()}
	v.Address = running.Address(t)
	cluster := running.Address(t)
	v.ok(os.Mkdir(filepath.Join(v.dir, "storage"), 0o700))
	v.write("vault.hcl", fmt.Sprintf(`
storage "raft" {
  path    = %q
  node_id = "one"
}
listener "tcp" {
  address         = %q
  cluster_address = %q
  tls_disable     = true
}
api_addr      = "http://%s"
cluster_addr  = "https://%s"
disable_mlock = true
`, filepath.Join(v.dir, "storage"), v.Address, cluster, v.Address, cluster))
	v.start()
	t.Cleanup(v.kill)
	made := v.api("PUT", "sys/init", map[string]any{"secret_shares": 1, "secret_threshold": 1})
	v.unseal, v.token = made["keys"].([]any)[0].(string), made["root_token"].(string)
	v.open()

	long := map[string]any{"max_lease_ttl": "87600h"}
	v.api("POST", "sys/mounts/pki-root", map[string]any{"type": "pki", "config": long})
	v.api("POST", "sys/mounts/pki", map[string]any{"type": "pki", "config": long})
	root := v.data("POST", "pki-root/root/generate/internal", map[string]any{"common_name": "E2E Root CA", "ttl": "87600h"})["certificate"].(string)
	v.write("root.pem", root+"\n")
	csr := v.data("POST", "pki/intermediate/generate/internal", map[string]any{"common_name": "E2E Issuing CA"})["csr"]
	issuing := v.data("POST", "pki-root/root/sign-intermediate", map[string]any{"csr": csr, "common_name": "E2E Issuing CA", "ttl": "43800h"})["certificate"].(string)
	imported := v.data("POST", "pki/intermediate/set-signed", map[string]any{"certificate": issuing + "\n" + root})
	for id, key := range imported["mapping"].(map[string]any) {
		if key != "" {
			v.api("POST", "pki/issuer/"+id, map[string]any{"issuer_name": "devices"})
			v.api("POST", "pki/config/issuers", map[string]any{"default": id})
		}
	}
	v.api("PUT", "sys/policies/acl/muster", map[string]any{"policy": v.policy()})
	v.api("POST", "sys/auth/approle", map[string]any{"type": "approle"})
	v.api("POST", "auth/approle/role/muster", map[string]any{"token_policies": "muster", "token_ttl": "1h"})
	v.write("role-id", v.data("GET", "auth/approle/role/muster/role-id", nil)["role_id"].(string))
	v.write("secret-id", v.data("POST", "auth/approle/role/muster/secret-id", nil)["secret_id"].(string))
	return v
}

// policy is the one that the page tells people to write.
func (v *vault) policy() string {
	v.t.Helper()
	page, err := os.ReadFile("../../docs/backends/vault.md")
	v.ok(err)
	_, after, found := strings.Cut(string(page), "```hcl\n")
	policy, _, closed := strings.Cut(after, "```")
	if !found || !closed {
		v.t.Fatal("docs/backends/vault.md has no policy")
	}
	return policy
}

func (v *vault) ok(err error) {
	v.t.Helper()
	if err != nil {
		v.t.Fatal(err)
	}
}

func (v *vault) write(name, text string) {
	v.t.Helper()
	v.ok(os.WriteFile(filepath.Join(v.dir, name), []byte(text), 0o600))
}

func (v *vault) read(name string) string {
	v.t.Helper()
	text, err := os.ReadFile(filepath.Join(v.dir, name))
	v.ok(err)
	return string(text)
}

// start runs the server until it listens, sealed.
func (v *vault) start() {
	v.t.Helper()
	v.cmd = exec.Command(filepath.Join(tools, "bin", "vault"), "server", "-config", filepath.Join(v.dir, "vault.hcl"))
	v.cmd.Env = append(os.Environ(), "HOME="+v.dir)
	v.log, v.exited = &running.Output{}, make(chan struct{})
	v.cmd.Stdout, v.cmd.Stderr = v.log, v.log
	v.ok(v.cmd.Start())
	cmd, exited := v.cmd, v.exited
	go func() {
		cmd.Wait() //nolint:errcheck // how it ended is in ProcessState
		close(exited)
	}()
	v.until("/v1/sys/seal-status", http.StatusOK)
}

// open unseals.
func (v *vault) open() {
	v.t.Helper()
	v.api("PUT", "sys/unseal", map[string]any{"key": v.unseal})
	v.until("/v1/sys/health", http.StatusOK)
}

func (v *vault) until(path string, status int) {
	v.t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	waits(v.t, func() string { return fmt.Sprintf("vault does not answer %s with %d\n%s", path, status, v.log) }, func() bool {
		select {
		case <-v.exited:
			v.t.Fatalf("vault ended\n%s", v.log)
		default:
		}
		res, err := client.Get("http://" + v.Address + path)
		if err != nil {
			return false
		}
		res.Body.Close()
		return res.StatusCode == status
	})
}

func (v *vault) kill() {
	v.cmd.Process.Kill() //nolint:errcheck // it may have ended
	<-v.exited
	if v.t.Failed() && testing.Verbose() {
		v.t.Logf("vault's log:\n%s", v.log)
	}
}

// api asks as root.
func (v *vault) api(method, path string, body any) map[string]any {
	v.t.Helper()
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		v.ok(err)
		content = bytes.NewReader(text)
	}
	r, err := http.NewRequest(method, "http://"+v.Address+"/v1/"+path, content)
	v.ok(err)
	r.Header.Set("X-Vault-Token", v.token)
	res, err := http.DefaultClient.Do(r)
	v.ok(err)
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	v.ok(err)
	if res.StatusCode >= 300 {
		v.t.Fatalf("%s %s: %s %s", method, path, res.Status, answer)
	}
	var out map[string]any
	if len(answer) > 0 {
		v.ok(json.Unmarshal(answer, &out))
	}
	return out
}

func (v *vault) data(method, path string, body any) map[string]any {
	v.t.Helper()
	data, _ := v.api(method, path, body)["data"].(map[string]any)
	return data
}

// certificates is how many the engine has: two are CAs.
func (v *vault) certificates() int {
	v.t.Helper()
	return len(v.data("LIST", "pki/certs", nil)["keys"].([]any))
}

const vaultConfig = `version: 1
listeners:
  http: {address: 127.0.0.1:0}
  tls:
    address: 127.0.0.1:0
    tls: {}
store: sqlite:muster.db
backends:
  vault:
    plugin: vault
    config:
      url: http://ADDRESS
      mount: pki
      issuers: [devices]
      auth:
        approle: {role-id: ROLE-ID, secret-id: secret-id}
server-certificate: {backend: vault}
distribution: {listeners: [http]}
profiles:
  device:
    backend: vault
    keys: [P-256]
    validity: 90d
    key-usage: [digitalSignature]
    ext-key-usage: [clientAuth]
endpoints:
  stations:
    protocol: cmp
    listeners: [http]
    default: true
    profile: device
    enroll:
      - shared-secret: {devices: true}
      - names: {common-name: "station-[0-9]{4}"}
    renew:
      - own-certificate: {}
    revoke:
      - own-certificate: {}
    cmp:
      bodies: [p10cr]
  gateways:
    protocol: est
    listeners: [tls]
    default: true
    profile: device
    enroll:
      - password: {file: factory.users}
      - names: {common-name: "gw-[0-9]{4}"}
    renew:
      - own-certificate: {}
`

func (v *vault) config(address string, replace ...string) string {
	return strings.NewReplacer(append(replace, "ADDRESS", address, "ROLE-ID", v.read("role-id"))...).Replace(vaultConfig)
}

func (v *vault) files() string {
	return fmt.Sprintf(`printf 'factory:%%s\n' "$(printf 'pass word\n' | "$MUSTER" password)" > factory.users; cp %s/secret-id %s/root.pem .; chmod 600 factory.users secret-id`, v.dir, v.dir)
}

func (v *vault) gateway(address string, replace ...string) *running.Gateway {
	v.t.Helper()
	g := running.Start(v.t, binary, nil, v.config(address, replace...), v.files())
	g.Write("cmp.secret", "a secret of 24 bytes and more\n")
	g.Muster("secret", "add", "--endpoint", "stations", "--reference", "SN0001", "--device", "station-0001", "--secret-file", "cmp.secret")
	return g
}

// estDevice makes NAME.csr; est NAME PATH CREDENTIALS... posts it, and leaves NAME.pem and the status.
const estDevice = `est() {
		name=$1 path=$2; shift 2
		[ -e "$name.csr" ] || openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$name.key" -subj "/CN=$name" -out "$name.csr" 2>/dev/null
		status=$(openssl req -in "$name.csr" -outform DER | openssl base64 | curl -sS --cacert root.pem -H 'Content-Type: application/pkcs10' --data-binary @- -o answer -w '%{http_code}' "$@" "$EST/$path")
		[ "$status" != 200 ] || openssl base64 -d -A -in answer | openssl pkcs7 -inform DER -print_certs -out "$name.pem"
		echo "$status"
	}
`

func estAt(g *running.Gateway) string {
	return "EST=https://" + strings.Replace(g.Listener("tls"), "127.0.0.1", "localhost", 1) + "/.well-known/est\n" + estDevice
}

// listed reports whether the CA's own CRL has the certificate in the file.
func (v *vault) listed(g *running.Gateway, file string) bool {
	v.t.Helper()
	serial := strings.TrimPrefix(strings.TrimSpace(g.Sh("openssl x509 -noout -serial -in "+file)), "serial=")
	return strings.Contains(g.Sh(`curl -sS --fail http://`+v.Address+`/v1/pki/issuer/devices/crl/der | openssl crl -inform DER -noout -text`), serial)
}

// A CMP device (p10cr) and an EST device before a real server: enrolled, renewed, revoked; its tokens end, it is sealed, killed, and answers are lost.
func TestVault(t *testing.T) {
	t.Parallel()
	v := startVault(t)
	g := v.gateway(v.Address)
	has := func(text, want string) {
		t.Helper()
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	verify := func(file, subject string) {
		t.Helper()
		out := g.Sh(`curl -sS --fail "$URL/ca/vault/devices.crt" | openssl x509 -inform DER -out issuing.pem; openssl verify -x509_strict -CAfile root.pem -untrusted issuing.pem ` + file + `; openssl x509 -noout -subject -issuer -ext keyUsage,extendedKeyUsage -in ` + file)
		for _, want := range []string{": OK", subject, "E2E Issuing CA", "Digital Signature\n", "TLS Web Client Authentication\n"} {
			has(out, want)
		}
	}
	serial := func(file string) string {
		return strings.TrimPrefix(strings.TrimSpace(g.Sh("openssl x509 -noout -serial -in "+file)), "serial=")
	}
	est := estAt(g)
	const password = ` --user 'factory:pass word'`

	const cmp = `cmp() { openssl cmp -config '' -batch -server "${URL#http://}" -path .well-known/cmp -trusted root.pem "$@" 2>cmp.log || { cat cmp.log; return 1; }; }
`
	g.Sh(cmpDevice)
	verify("station.pem", "CN = station-0001")
	g.Sh(cmp + `cmp -cmd p10cr -cert station.pem -key station.key -csr station.csr -certout station2.pem`)
	verify("station2.pem", "CN = station-0001")
	if serial("station.pem") == serial("station2.pem") {
		t.Error("CMP: the renewed certificate is the old one")
	}
	g.Sh(cmp + `cmp -cmd rr -cert station2.pem -key station.key -oldcert station2.pem -revreason 4`)

	has(g.Sh(est+`est gw-0001 simpleenroll`+password+` > gw-0001.status; cp gw-0001.pem gw-0001.first.pem; curl -sS --fail --cacert root.pem "$EST/cacerts" | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs`), "E2E Root CA")
	verify("gw-0001.pem", "CN = gw-0001")
	poll := atOnce(g, "gw-0001")
	g.Sh(est + `est gw-0001 simplereenroll --cert gw-0001.first.pem --key gw-0001.key`)
	verify("gw-0001.pem", "CN = gw-0001")
	if serial("gw-0001.pem") == serial("gw-0001.first.pem") {
		t.Error("EST: the renewed certificate is the old one")
	}
	g.Muster("revoke", "--yes", serial("gw-0001.pem"), "--reason", "keyCompromise")
	g.Muster("revoke", "--yes", serial("gw-0001.first.pem"), "--reason", "superseded")
	for _, file := range []string{"station2.pem", "gw-0001.pem", "gw-0001.first.pem"} {
		if !v.listed(g, file) {
			t.Errorf("%s is not on the CA's CRL", file)
		}
	}
	if v.listed(g, "station.pem") {
		t.Error("station.pem is on the CA's CRL")
	}
	has(g.Sh(`curl -sS --fail "$URL/crl/vault/devices.crl" | openssl crl -inform DER -noout -issuer`), "E2E Issuing CA")

	// What the request asks for itself and was not granted is refused before the engine hears of it.
	before := v.certificates()
	has(g.Sh(est+`openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout gw-0009.key -subj /CN=gw-0009 -addext keyUsage=keyCertSign -out gw-0009.csr 2>/dev/null; est gw-0009 simpleenroll`+password), "40")
	if n := v.certificates(); n != before {
		t.Errorf("%d certificates of it", n-before)
	}

	// All tokens end: there is another login.
	v.api("PUT", "sys/leases/revoke-prefix/auth/approle", nil)
	has(g.Sh(est+`est gw-0002 simpleenroll`+password), "200")
	// Sealed: nothing is issued, and the device may come again.
	v.api("PUT", "sys/seal", nil)
	sealed := g.Sh(est + `est gw-0003 simpleenroll` + password + `; cat answer`)
	has(sealed, "503")
	// Killed, and started again.
	v.kill()
	v.start()
	v.open()
	has(g.Sh(est+`est gw-0003 simpleenroll`+password), "200")
	verify("gw-0003.pem", "CN = gw-0003")
	if n := v.certificates(); n != before+2 {
		t.Errorf("%d certificates, not 2", n-before)
	}

	refused, died, promise := v.died()
	row(t, backendRow{
		Backend: "vault (Vault 1.21.4, sign-verbatim)",
		PKCS10:  "yes: CMP p10cr and EST", CRMF: refused, Renew: "yes: another sign-verbatim, over both protocols",
		Revoke: "yes: rr and `muster revoke`; on the engine's CRL at once", Poll: poll, CRL: "yes: `issuer/devices/crl/der`, passed on",
		CAChain: "yes: `issuer/devices/json`, to the root", Describe: promise, Crashes: died,
	})
}

// died has another gateway before this server killed, and its answers lost. Whether a call is still under way only time tells: settle.
func (v *vault) died() (refused string, died deaths, promise string) {
	v.t.Helper()
	files := &running.Gateway{T: v.t, Dir: v.t.TempDir()}
	files.Sh(raFiles + "\nmkdir shared; cp ops-ca.pem ra.pem ra.key shared/; cp '" + v.dir + "/root.pem' '" + v.dir + "/secret-id' shared/; chmod 600 shared/secret-id")
	b := newBetween(v.t, "http://"+v.Address, nil, func(res *http.Response, _ []byte) ([]*x509.Certificate, bool) {
		return nil, strings.Contains(res.Request.URL.Path, "/sign-verbatim") && res.StatusCode == http.StatusOK
	})
	g := front(v.t, files.File("shared"), "vault, config: {url: '"+b.URL+"', mount: pki, issuers: [devices], settle: 2m, auth: {approle: {role-id: "+v.read("role-id")+", secret-id: secret-id}}}", "local, config: {dir: ca, issuers: {rsa: {bits: 2048}}}")
	chain(g)
	eventually(g, "", "gw-1")
	died = crashes(v.t, g, accidents{at: v.issuedFor, lose: b.lose, ends: 3 * patience})
	return refusesCRMF(g, "device"), died, describes(g, "up")
}

// issuedFor is accidents.at: of all that the engine has.
func (v *vault) issuedFor(name string) []string {
	v.t.Helper()
	var all []*x509.Certificate
	for _, serial := range v.data("LIST", "pki/certs", nil)["keys"].([]any) {
		block, _ := pem.Decode([]byte(v.data("GET", "pki/cert/"+serial.(string), nil)["certificate"].(string)))
		if block == nil {
			v.t.Fatalf("%s is no PEM", serial)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		v.ok(err)
		all = append(all, c)
	}
	return issuedFor(name, all)
}
