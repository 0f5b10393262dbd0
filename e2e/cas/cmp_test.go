//go:build cas

package cas

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/muster-pki/muster/e2e/running"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
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
    config: {url: RA/.well-known/cmp/p/ran, sign: {cert: lra.pem, key: lra.key}, trust: trust.pem, exchange: nested}
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

// certified is issues for CMP: the certificate in an ip or cp (RFC 9810 section 5.3.4).
func certified(_ *http.Response, body []byte) ([]*x509.Certificate, bool) {
	m, err := cmpmsg.Parse(body)
	if err != nil {
		return nil, false
	}
	rep, ok := m.Body.(*cmpmsg.CertRepMessage)
	if !ok || len(rep.Responses) != 1 || rep.Responses[0].Certificate == nil {
		return nil, false
	}
	c, err := x509.ParseCertificate(rep.Responses[0].Certificate)
	if err != nil {
		return nil, true
	}
	return []*x509.Certificate{c}, true
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

// Muster behind Muster: an LRA passes on to an RA, which asks a CA, three gateways, with openssl as the device.
func TestCMPChain(t *testing.T) {
	t.Parallel()
	ca := running.Start(t, binary, nil, cmpCentral, cmpFiles)
	proxy := newBetween(t, ca.URL, nil, certified)
	shared := copies(t, ca.Dir, "ra-ca.pem", "ra.pem", "ra.key", "lra.pem", "lra.key", "factory.secret", "ca/roots.pem")
	ra := running.Start(t, binary, nil, strings.ReplaceAll(cmpRA, "CA/", proxy.URL+"/"), shared)
	lra := running.Start(t, binary, nil, strings.ReplaceAll(cmpLRA, "RA/", ra.URL+"/"), shared+"cat ra-ca.pem roots.pem > trust.pem\n")
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
		waits(t, func() string { return serial + " is on no CRL\n" + ra.Log.String() }, func() bool {
			out, _ := ca.Run("sh", "-euc", `curl -sf "$URL/crl/local/ec.crl" | openssl crl -inform DER -noout -text`)
			mine, _ := ra.Run("sh", "-euc", `curl -sf "$URL/crl/ca/cmp.crl" | openssl crl -inform DER -noout -text`)
			return strings.Contains(out, serial) && strings.Contains(mine, serial)
		})
	}
	listed(serial)

	// The device does not take its certificate: the CA hears of it as a revocation.
	if out, ok := lra.Run("sh", "-euc", device+`key r.key; secret -cmd ir -newkey r.key -subject /CN=romeo -certout r.pem -out_trusted ra-ca.pem`); ok {
		t.Errorf("a certificate that does not verify was taken\n%s", out)
	}
	inState(ra, "romeo", "rejected")

	// Approval at the CA: the device polls at the LRA, the RA at the CA.
	done := make(chan string, 1)
	go func() {
		out, ok := lra.Run("sh", "-euc", device+`AT=slow; key s.key; secret -cmd ir -newkey s.key -subject /CN=sierra -certout s.pem -total_timeout 150`)
		if ok {
			out = ""
		}
		done <- out
	}()
	ca.Muster("approve", inState(ca, "sierra", "held"))
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
	inState(ca, "kilo", "issued") // the RA has settled it, and confirmed
	lra.Sh(device + `secret -cmd ir -newkey k.key -subject /CN=kilo -certout k.pem; openssl verify -CAfile roots.pem -untrusted chain.pem k.pem`)
	issued("kilo", 1)

	// An answer is lost on its way: nobody notices.
	proxy.once(func() {})
	lra.Sh(device + `key l.key; secret -cmd ir -newkey l.key -subject /CN=lima -certout l.pem`)
	issued("lima", 1)

	// A gateway of EST devices asks the same CA.
	g := cmpFront(t, ca, proxy)
	died := crashes(t, g, accidents{at: atMuster(ca), lose: proxy.lose})
	row(t, backendRow{
		Backend: "cmp (Muster: LRA -> RA -> CA)", PKCS10: "yes: a device's p10cr, asked for as cr", CRMF: "yes: ir, raVerified, template equal",
		Renew: "yes: kur of the device, a new cr to the CA", Revoke: "yes: rr, by the device and for a certificate that it rejected",
		Poll: "yes: approved at the CA, pollReq of RA and device", CRL: "yes: genm currentCRL", CAChain: "yes: genm caCerts",
		Describe: describes(g, "up"), Crashes: died,
	})
}

// cmpFront is a gateway of EST devices that asks a CA which is a gateway with cmpCentral, by way of a proxy.
func cmpFront(t *testing.T, ca *running.Gateway, proxy *between) *running.Gateway {
	t.Helper()
	files := &running.Gateway{T: t, Dir: t.TempDir()}
	files.Sh(raFiles + "\nmkdir shared; cp ops-ca.pem ra.pem ra.key shared/; cp '" + ca.Dir + "/ca/roots.pem' shared/root.pem; cp '" + ca.Dir + "/ra.pem' shared/cmp-ra.pem; cp '" + ca.Dir + "/ra.key' shared/cmp-ra.key")
	up := "cmp, config: {url: '" + proxy.URL + "/.well-known/cmp/p/ra', sign: {cert: cmp-ra.pem, key: cmp-ra.key}, trust: root.pem, repeats: true, confirm: explicit, crl: true}"
	config, _, _ := strings.Cut(fmt.Sprintf(frontConfig, up, up), "  phones:\n")
	g := frontOf(t, files.File("shared"), strings.ReplaceAll(config, ", key-usage: [digitalSignature, keyEncipherment], ext-key-usage: [clientAuth, serverAuth]", ""))
	chain(g)
	return g
}

// The CA gets a new root key, LRA -> RA -> CA: with the old root in trust alone, an RA that is started then has the new chain, and tells its
// devices and the LRA how the old root leads there; so does the LRA, by CMP and by EST. Nothing is changed at either.
func TestCMPRootRollover(t *testing.T) {
	t.Parallel()
	ca := running.Start(t, binary, nil, cmpCentral, cmpFiles)
	shared := copies(t, ca.Dir, "ra-ca.pem", "ra.pem", "ra.key", "lra.pem", "lra.key", "factory.secret", "ca/roots.pem")
	ra := running.Start(t, binary, nil, strings.ReplaceAll(cmpRA, "CA/", ca.URL+"/"), shared)
	files := &running.Gateway{T: t, Dir: t.TempDir()}
	files.Sh(raFiles + "\nmkdir shared; cp ops-ca.pem ra.pem ra.key shared/; cat '" + ca.Dir + "/ra-ca.pem' '" + ca.Dir + "/ca/roots.pem' > shared/trust.pem; cp '" +
		ca.Dir + "/ca/roots.pem' shared/root.pem; cp '" + ca.Dir + "/lra.pem' '" + ca.Dir + "/lra.key' shared/; chmod 600 shared/*.key")
	up := "cmp, config: {url: '" + ra.URL + "/.well-known/cmp/p/lra', sign: {cert: lra.pem, key: lra.key}, trust: trust.pem, repeats: true}"
	config, _, _ := strings.Cut(fmt.Sprintf(frontConfig, up, up), "  phones:\n")
	ra.Sh(`cat >> gateway.yaml <<'EOF'
  lra:
    protocol: cmp
    listeners: [http]
    profile: lra
    ra: {cert: ra.pem, key: ra.key}
    enroll: [ra: {certificates: [lra.pem]}, keys: {pop: [signature, ra]}, names: {}]
    cmp: {clock-skew: 1d}
EOF
sed -i 's/^profiles:/profiles:\n  lra: {backend: ca, validity: 90d, ask: {validity: allow}}/' gateway.yaml`)
	ra.Stop()
	ra.Again()
	lra := frontOf(t, files.File("shared"), strings.ReplaceAll(config, ", key-usage: [digitalSignature, keyEncipherment], ext-key-usage: [clientAuth, serverAuth]", ""))
	chain(lra)
	eventually(lra, "", "before")
	issuer := func(name string) string {
		return lra.Sh("openssl x509 -noout -ext authorityKeyIdentifier -in " + name + ".pem")
	}
	ca.Muster("ca", "rekey", "local/ec", "--root", "--yes")
	for _, g := range []*running.Gateway{ra, lra} { // root.pem and roots.pem have the old root alone
		g.Stop()
		g.Again()
	}
	if told := chain(lra); strings.Count(told, "subject") != 6 { // issuing CA and root of both, and the links
		t.Errorf("cacerts: %s", told)
	}
	// openssl takes the first certificate for a key, and so ends at the new root, before a link that would lead on: links.pem is without roots.
	lra.Sh(`awk '/BEGIN/ {n++} n {print > "new-" n ".pem"}' '` + ca.Dir + `/ca/roots.pem'; awk '/BEGIN/ {n++} n {print > "told-" n ".pem"}' untrusted.pem
for f in told-*.pem; do
  mine=$(openssl x509 -in $f -noout -fingerprint); test "$mine" = "$(openssl x509 -in new-1.pem -noout -fingerprint)" || test "$mine" = "$(openssl x509 -in new-2.pem -noout -fingerprint)" || cat $f >> links.pem
done; cp untrusted.pem all.pem; cp links.pem untrusted.pem; test "$(grep -c BEGIN links.pem)" = 4`)
	eventually(lra, "", "after") // which openssl verifies from the old root
	if issuer("after") == issuer("before") {
		t.Error("the old key certifies")
	}
	lra.Sh(`openssl verify -CAfile root.pem -untrusted links.pem before.pem; openssl verify -CAfile new-1.pem -untrusted links.pem after.pem
openssl verify -CAfile new-1.pem -untrusted links.pem before.pem; ! openssl verify -CAfile root.pem after.pem`)
	// Over CMP a device has the links with its certificate.
	lra.Sh(`openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout d.key -subj /CN=delta -out d.csr 2>/dev/null
openssl cmp -config '' -batch -server "${URL#http://}" -path .well-known/cmp -trusted ops-ca.pem -cmd p10cr -csr d.csr -certout d.pem -extracertsout extra.pem \
	-ref factory -secret "pass:a secret of the factory" 2>cmp.log || { cat cmp.log; exit 1; }
openssl verify -CAfile root.pem -untrusted extra.pem d.pem || { grep -c BEGIN extra.pem; exit 1; }`)
	for who, g := range map[string]*running.Gateway{"ra": ra, "lra": lra} {
		if log := g.Log.String(); strings.Contains(log, "does not tell its certificates") {
			t.Errorf("%s: %s", who, log)
		}
	}
}

// openssl's mock server as the CA: it answers with a certificate that it was given.
func TestCMPOpenSSL(t *testing.T) {
	t.Parallel()
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
			address := running.Address(t)
			protection := "sign: {cert: ra.pem, key: ra.key}, trust: mock.pem"
			args := []string{"cmp", "-config", "", "-port", address[strings.LastIndex(address, ":")+1:], "-srv_cert", "mock.pem", "-srv_key", "mock.key", "-srv_trusted", "ra-ca.pem",
				"-rsp_cert", "rsp.pem", "-rsp_extracerts", "mock.pem", "-accept_raverified"}
			if strings.HasSuffix(name, "MAC") {
				protection = "mac: {reference: ref, secret: factory.secret, algorithm: pbm}"
				args = []string{"cmp", "-config", "", "-port", address[strings.LastIndex(address, ":")+1:], "-srv_ref", "ref", "-srv_secret", "pass:the secret of the factory",
					"-rsp_cert", "rsp.pem", "-rsp_extracerts", "mock.pem", "-rsp_capubs", "mock.pem", "-accept_raverified"}
			}
			log := mock(t, dir, address, append(args, more.mock...)...)
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
				-ref factory -secret "pass:the secret of the factory" -certout out.pem -total_timeout 150; cmp out.pem rsp.pem`)
			if !ok || g.State("mike") != "issued" {
				t.Errorf("%s\n%s\n%s", out, g.Log, log)
			}
		})
	}
	files := &running.Gateway{T: t, Dir: t.TempDir()}
	files.Sh(raFiles + "\nmkdir shared; cp ops-ca.pem ra.pem ra.key shared/; cd '" + dir + "'; cp mock.pem '" + files.File("shared") + "/root.pem'; cp ra.pem '" + files.File("shared") + "/cmp-ra.pem'; cp ra.key '" + files.File("shared") + "/cmp-ra.key'")
	address := running.Address(t)
	mock(t, dir, address, "cmp", "-config", "", "-port", address[strings.LastIndex(address, ":")+1:], "-srv_cert", "mock.pem", "-srv_key", "mock.key", "-srv_trusted", "ra-ca.pem",
		"-rsp_cert", "rsp.pem", "-rsp_extracerts", "mock.pem", "-accept_raverified", "-grant_implicitconf")
	b := newBetween(t, "http://"+address, nil, certified)
	up := "cmp, config: {url: '" + b.URL + "/pkix/', sign: {cert: cmp-ra.pem, key: cmp-ra.key}, trust: root.pem, chain: root.pem, request: p10cr, decides: [validity, keyUsage, extKeyUsage]}"
	front, _, _ := strings.Cut(fmt.Sprintf(frontConfig, up, up), "  phones:\n")
	g := frontOf(t, files.File("shared"), strings.ReplaceAll(front, ", keyEncipherment", "")) // its one certificate has an EC key
	chain(g)
	// It has one certificate, whoever asks: each accident is a gateway's that has not asked for it before, and each answer with it counts.
	fresh := func(string) string {
		g.Stop()
		g.Sh("rm -f muster.db* mike.pem; openssl req -in '" + dir + "/device.csr' -outform DER -out mike.csr")
		g.Again()
		return "mike"
	}
	fresh("")
	eventually(g, "", "mike")
	crmf, poll, crl := refusesCRMF(g, "device"), atOnce(g, "mike"), noCRL(g, "up/cmp.crl")
	serial := serialOf(g, "mike.pem")
	revoked := g.Muster("revoke", "--yes", serial, "--reason", "keyCompromise")
	if !strings.Contains(revoked, "keyCompromise") || strings.Contains(revoked, "has not answered") {
		t.Errorf("muster revoke: %s", revoked)
	}
	died := crashes(t, g, accidents{lose: b.lose, device: fresh, at: func(string) []string {
		b.mu.Lock()
		defer b.mu.Unlock()
		return slices.Repeat([]string{serial}, b.asked)
	}})
	row(t, backendRow{
		Backend: "cmp (openssl cmp -port)", PKCS10: "yes: p10cr", CRMF: "yes: cr, ir; raVerified. With `request: p10cr` " + crmf, Renew: notTried, Revoke: "yes: rr, of its one certificate",
		Poll: "yes: -poll_count 2; else " + poll, CRL: crl, CAChain: "from a file: it tells none", Describe: describes(g, "up"), Crashes: died,
	})
}

// mock runs openssl's server in a folder, and waits until it listens.
func mock(t *testing.T, dir, address string, args ...string) *running.Output {
	t.Helper()
	cmd := exec.Command("openssl", args...)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	serves(t, address, cmd)
	return cmd.Stdout.(*running.Output)
}
