//go:build cas

package cas

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/muster-pki/muster/e2e/running"
)

// The CA certifies with its local CA, for RAs alone; at slow once somebody has approved.
const cmpCentral = `version: 1
listeners:
  http: {address: 127.0.0.1:0}
store: sqlite:muster.db
distribution: {listeners: [http]}
backends:
  local: {plugin: local, config: {dir: ca}}
profiles:
  device: {backend: local, validity: 90d, ask: {validity: allow}}
endpoints:
  ra:
    protocol: cmp
    listeners: [http]
    profile: device
    enroll: [ra: {cas: [ra-ca.pem]}, keys: {pop: [signature, ra]}, names: {}]
    revoke: [ra: {cas: [ra-ca.pem]}]
    cmp: {clock-skew: 1d}
  slow:
    protocol: cmp
    listeners: [http]
    profile: device
    enroll: [ra: {cas: [ra-ca.pem]}, keys: {pop: [signature, ra]}, names: {}, approval: {}]
    cmp: {retry-after: 1s}
`

// The RA takes what the LRA has passed on, and asks the CA for it.
const cmpRA = `version: 1
listeners:
  http: {address: 127.0.0.1:0}
  https: {address: 127.0.0.1:0, tls: {cert: ra.pem, key: ra.key}}
store: sqlite:muster.db
distribution: {listeners: [http]}
backends:
  ca:
    plugin: cmp
    config: {url: CA/.well-known/cmp/p/ra, sign: {cert: ra.pem, key: ra.key}, trust: roots.pem, repeats: true, confirm: explicit, crl: true}
  slow:
    plugin: cmp
    config: {url: CA/.well-known/cmp/p/slow, sign: {cert: ra.pem, key: ra.key}, trust: roots.pem, repeats: true}
profiles:
  device: {backend: ca, validity: 30d}
  slow: {backend: slow, validity: 30d}
endpoints:
  ran:
    protocol: cmp
    listeners: [http]
    profile: device
    ra: {cert: ra.pem, key: ra.key}
    enroll:
      - ra: {certificates: [lra.pem], nested: true}
      - shared-secret: {secrets: {factory: {file: factory.secret}}}
      - names: {}
    renew: [own-certificate: {}]
    revoke: [own-certificate: {}]
  slow:
    protocol: cmp
    listeners: [http]
    profile: slow
    ra: {cert: ra.pem, key: ra.key}
    enroll:
      - shared-secret: {secrets: {factory: {file: factory.secret}}}
      - names: {}
    cmp: {retry-after: 1s}
`

// The LRA decides who may ask, and passes messages on: nested at ran, as they are at slow.
const cmpLRA = `version: 1
listeners:
  http: {address: 127.0.0.1:0}
  https: {address: 127.0.0.1:0, tls: {cert: lra.pem, key: lra.key}}
store: sqlite:muster.db
backends:
  ra:
    plugin: cmp
    config: {url: RA/.well-known/cmp/p/ran, sign: {cert: lra.pem, key: lra.key}, trust: ra-ca.pem, exchange: nested}
  slow:
    plugin: cmp
    config: {url: RA/.well-known/cmp/p/slow, exchange: unchanged}
profiles:
  device: {backend: ra}
  slow: {backend: slow}
endpoints:
  ran:
    protocol: cmp
    listeners: [http]
    profile: device
    ra: {cert: lra.pem, key: lra.key}
    enroll: [shared-secret: {secrets: {factory: {file: factory.secret}}}, forward: {backend: ra}]
    renew: [own-certificate: {}, forward: {backend: ra}]
    revoke: [own-certificate: {}, forward: {backend: ra}]
  slow:
    protocol: cmp
    listeners: [http]
    profile: slow
    ra: {cert: lra.pem, key: lra.key}
    enroll: [shared-secret: {secrets: {factory: {file: factory.secret}}}, forward: {backend: slow}]
`

// cmpFiles makes an RA CA, and an RA and an LRA under it.
const cmpFiles = `
key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null; chmod 600 "$1"; }
key ra-ca.key
openssl req -x509 -new -key ra-ca.key -subj "/CN=RA CA" -days 30 -out ra-ca.pem
printf 'basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nextendedKeyUsage=1.3.6.1.5.5.7.3.28\nsubjectKeyIdentifier=hash\nsubjectAltName=DNS:localhost\n' > ra.ext
for who in ra lra; do
  key $who.key
  openssl req -new -key $who.key -subj "/CN=The $who" | openssl x509 -req -CA ra-ca.pem -CAkey ra-ca.key -CAcreateserial -days 30 -extfile ra.ext -out $who.pem 2>/dev/null
done
printf 'the secret of the factory' > factory.secret; chmod 600 factory.secret
`

// lossy is what stands between RA and CA, and can be told what to do once an answer of the CA's has come.
type lossy struct {
	*httptest.Server
	mu     sync.Mutex
	target string
	then   func() // once; the answer is lost
}

func newLossy(t *testing.T) *lossy {
	b := new(lossy)
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q, err := http.NewRequest(r.Method, b.target+r.URL.Path, r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		q.Header = r.Header
		a, err := http.DefaultClient.Do(q)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer a.Body.Close()
		text, _ := io.ReadAll(a.Body)
		b.mu.Lock()
		then := b.then
		b.then = nil
		b.mu.Unlock()
		if then != nil {
			then()
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Content-Type", a.Header.Get("Content-Type"))
		w.WriteHeader(a.StatusCode)
		w.Write(text) //nolint:errcheck // the RA may be gone
	}))
	t.Cleanup(b.Close)
	return b
}

func (b *lossy) once(then func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.then = then
}

// copies writes files of one gateway's folder into another's.
func copies(t *testing.T, from string, names ...string) string {
	script := ""
	for _, n := range names {
		to := n[strings.LastIndex(n, "/")+1:]
		script += "cp '" + from + "/" + n + "' " + to + "; chmod 600 " + to + "\n"
	}
	return script
}

// until waits for a state of the newest transaction of a name: what an outage leaves open the gateway ends by itself.
func until(g *running.Gateway, name, state string) {
	g.T.Helper()
	for range 600 {
		if g.State(name) == state {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	g.T.Fatalf("%s is %q, not %s\n%s", name, g.State(name), state, g.Log)
}

// Muster behind Muster: an LRA passes on to an RA, which asks a CA, three gateways, with openssl as the device.
func TestCMPChain(t *testing.T) {
	ca := running.Start(t, binary, nil, cmpCentral, cmpFiles)
	proxy := newLossy(t)
	proxy.target = ca.URL
	shared := copies(t, ca.Dir, "ra-ca.pem", "ra.pem", "ra.key", "lra.pem", "lra.key", "factory.secret", "ca/roots.pem")
	ra := running.Start(t, binary, nil, strings.ReplaceAll(cmpRA, "CA/", proxy.URL+"/"), shared)
	lra := running.Start(t, binary, nil, strings.ReplaceAll(cmpLRA, "RA/", ra.URL+"/"), shared)
	device := `
key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null; }
cmp() { openssl cmp -config '' -batch -server "${URL#http://}" -path .well-known/cmp/p/${AT:-ran} -trusted ra-ca.pem "$@" 2>cmp.log || { cat cmp.log; return 1; }; }
secret() { cmp -ref factory -secret "pass:the secret of the factory" "$@"; }
`
	all := []*running.Gateway{lra, ra, ca}
	issued := func(name string, want int) {
		t.Helper()
		for i, g := range all {
			n := 0
			for _, tx := range g.Transactions(name) {
				if tx.State == "issued" || tx.State == "revoked" {
					n++
				}
			}
			if n != want {
				t.Errorf("%s: %d certificates at gateway %d, want %d: %+v", name, n, i, want, g.Transactions(name))
			}
		}
	}

	lra.Sh(device + `key a.key; secret -cmd ir -newkey a.key -subject /CN=alpha -certout a.pem -extracertsout chain.pem
		openssl verify -x509_strict -CAfile roots.pem -untrusted chain.pem a.pem`)
	issued("alpha", 1)
	lra.Sh(device + `key p.key; openssl req -new -key p.key -subj /CN=papa -out p.csr; secret -cmd p10cr -csr p.csr -certout p.pem`)
	issued("papa", 1)
	lra.Sh(device + `key b.key; cmp -cmd kur -cert a.pem -key a.key -newkey b.key -certout b.pem`)
	issued("alpha", 2)
	lra.Sh(device + `cmp -cmd rr -cert b.pem -key b.key -oldcert b.pem -revreason 1`)
	serial := strings.TrimSpace(lra.Sh(`openssl x509 -in b.pem -noout -serial | cut -d= -f2`))
	listed := func(serial string) {
		t.Helper()
		for range 200 {
			out, _ := ca.Run("sh", "-euc", `curl -sf "$URL/crl/local/ec.crl" | openssl crl -inform DER -noout -text`)
			mine, _ := ra.Run("sh", "-euc", `curl -sf "$URL/crl/ca/cmp.crl" | openssl crl -inform DER -noout -text`)
			if strings.Contains(out, serial) && strings.Contains(mine, serial) {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Errorf("%s is on no CRL\n%s", serial, ra.Log)
	}
	listed(serial)

	// The device does not take its certificate: the CA hears of it as a revocation.
	if out, ok := lra.Run("sh", "-euc", device+`key r.key; secret -cmd ir -newkey r.key -subject /CN=romeo -certout r.pem -out_trusted ra-ca.pem`); ok {
		t.Errorf("a certificate that does not verify was taken\n%s", out)
	}
	until(ra, "romeo", "rejected")

	// Approval at the CA: the device polls at the LRA, the RA at the CA.
	done := make(chan string, 1)
	go func() {
		out, ok := lra.Run("sh", "-euc", device+`AT=slow; key s.key; secret -cmd ir -newkey s.key -subject /CN=sierra -certout s.pem -total_timeout 50`)
		if ok {
			out = ""
		}
		done <- out
	}()
	until(ca, "sierra", "held")
	ca.Muster("approve", ca.Transactions("sierra")[0].ID)
	if out := <-done; out != "" {
		t.Errorf("polling: %s\n%s", out, ra.Log)
	}
	issued("sierra", 1)

	// The RA is killed when the CA has issued and it has not heard of it yet.
	proxy.once(ra.Kill)
	if _, ok := lra.Run("sh", "-euc", device+`key k.key; secret -cmd ir -newkey k.key -subject /CN=kilo -certout k.pem`); ok {
		t.Error("a certificate from an RA that was killed")
	}
	ra.Again()
	until(ca, "kilo", "issued") // the RA has settled it, and confirmed
	lra.Sh(device + `secret -cmd ir -newkey k.key -subject /CN=kilo -certout k.pem; openssl verify -CAfile roots.pem -untrusted chain.pem k.pem`)
	issued("kilo", 1)

	// An answer is lost on its way: nobody notices.
	proxy.once(func() {})
	lra.Sh(device + `key l.key; secret -cmd ir -newkey l.key -subject /CN=lima -certout l.pem`)
	issued("lima", 1)
	row(t, backendRow{
		Backend: "cmp (Muster: LRA -> RA -> CA)", PKCS10: "yes: a device's p10cr, asked for as cr", CRMF: "yes: ir, raVerified, template equal",
		Renew: "yes: kur of the device, a new cr to the CA", Revoke: "yes: rr, by the device and for a certificate that it rejected",
		Poll: "yes: approved at the CA, pollReq of RA and device", CRL: "yes: genm currentCRL", CAChain: "yes: genm caCerts",
		IdempotentRetry: "native: RA killed after the CA issued, and an answer lost: one certificate",
	})
}

// openssl's mock server as the CA: it answers with a certificate that it was given.
func TestCMPOpenSSL(t *testing.T) {
	dir := t.TempDir()
	prepare := exec.Command("sh", "-euc", cmpFiles+`
key mock.key; openssl req -x509 -new -key mock.key -subj "/CN=Mock CA" -addext keyUsage=keyCertSign,digitalSignature -days 365 -out mock.pem
key device.key; openssl req -new -key device.key -subj /CN=mike -out device.csr
printf 'basicConstraints=CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=clientAuth\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n' > device.ext
openssl x509 -req -in device.csr -CA mock.pem -CAkey mock.key -CAcreateserial -days 10 -extfile device.ext -out rsp.pem 2>/dev/null`)
	prepare.Dir = dir
	if out, err := prepare.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, more := range map[string]struct {
		mock   []string
		config string
	}{
		"cr, confirmed":          {nil, "request: cr, decides: [validity]"},
		"p10cr, implicitly":      {[]string{"-grant_implicitconf"}, "request: p10cr, decides: [validity, keyUsage, extKeyUsage]"},
		"ir, polled for, by MAC": {[]string{"-poll_count", "2", "-check_after", "1"}, "request: ir, decides: [validity]"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			address := l.Addr().String()
			l.Close()
			protection := "sign: {cert: ra.pem, key: ra.key}, trust: mock.pem"
			args := []string{"cmp", "-config", "", "-port", address[strings.LastIndex(address, ":")+1:], "-srv_cert", "mock.pem", "-srv_key", "mock.key", "-srv_trusted", "ra-ca.pem",
				"-rsp_cert", "rsp.pem", "-rsp_extracerts", "mock.pem", "-accept_raverified"}
			if strings.HasSuffix(name, "MAC") {
				protection = "mac: {reference: ref, secret: factory.secret, algorithm: pbm}"
				args = []string{"cmp", "-config", "", "-port", address[strings.LastIndex(address, ":")+1:], "-srv_ref", "ref", "-srv_secret", "pass:the secret of the factory",
					"-rsp_cert", "rsp.pem", "-rsp_extracerts", "mock.pem", "-rsp_capubs", "mock.pem", "-accept_raverified"}
			}
			mock := exec.Command("openssl", append(args, more.mock...)...)
			mock.Dir = dir
			log := &running.Output{}
			mock.Stdout, mock.Stderr = log, log
			mock.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			if err := mock.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				mock.Process.Kill() //nolint:errcheck // it may have ended
				mock.Wait()         //nolint:errcheck // it was killed
			})
			for range 200 {
				if c, err := net.Dial("tcp", address); err == nil {
					c.Close()
					break
				}
				time.Sleep(50 * time.Millisecond)
			}
			bodies := ""
			if strings.HasPrefix(name, "p10cr") {
				bodies = ", bodies: [p10cr]"
			}
			g := running.Start(t, binary, nil, `version: 1
listeners:
  http: {address: 127.0.0.1:0}
  https: {address: 127.0.0.1:0, tls: {cert: ra.pem, key: ra.key}}
store: sqlite:muster.db
backends:
  ca: {plugin: cmp, config: {url: "http://`+address+`/pkix/", `+protection+`, chain: mock.pem, `+more.config+`}}
profiles:
  device: {backend: ca, validity: 30d, key-usage: [digitalSignature]}
endpoints:
  ran:
    protocol: cmp
    listeners: [http]
    profile: device
    ra: {cert: ra.pem, key: ra.key}
    enroll: [shared-secret: {secrets: {factory: {file: factory.secret}}}, names: {}]
    cmp: {retry-after: 1s, unconfirmed: keep`+bodies+`}
`, "cp '"+dir+"'/* .; chmod 600 *")
			out, ok := g.Run("sh", "-euc", `openssl cmp -config '' -batch -cmd p10cr -csr device.csr -server "${URL#http://}" -path .well-known/cmp/p/ran \
				-ref factory -secret "pass:the secret of the factory" -certout out.pem -total_timeout 40; cmp out.pem rsp.pem`)
			if !ok || g.State("mike") != "issued" {
				t.Errorf("%s\n%s\n%s", out, g.Log, log)
			}
		})
	}
	row(t, backendRow{
		Backend: "cmp (openssl cmp -port)", PKCS10: "yes: p10cr", CRMF: "yes: cr, ir; raVerified", Renew: "as an issuance", Revoke: "not tried: the mock revokes its one certificate alone",
		Poll: "yes: -poll_count 2", CRL: "no: it has none", CAChain: "from a file: it tells none", IdempotentRetry: "none: it keeps nothing",
	})
}
