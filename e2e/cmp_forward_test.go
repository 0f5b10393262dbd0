package e2e

import (
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway/admin"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// The central gateway certifies; it trusts the vendor and the factory's secret as the edge does, and holds what is asked for at
// one of its endpoints.
const centralConfig = onLocalCA + `profiles:
  device: {backend: local, validity: 90d}
endpoints:
  ran:
    protocol: cmp
    listeners: [http]
    default: true
    profile: device
    enroll:
      - anyOf:
          - vendor-ca: {cas: [vendor-ca.pem], serial: subject.serialNumber}
          - shared-secret: {secrets: {factory: {file: factory.secret}}}
      - names: {}
    renew: [own-certificate: {}]
    revoke: [own-certificate: {}]
  slow:
    protocol: cmp
    listeners: [http]
    profile: device
    enroll:
      - shared-secret: {secrets: {factory: {file: factory.secret}}}
      - names: {}
      - approval: {}
    cmp: {retry-after: 1s}
`

// The edge decides who may ask, and certifies nothing.
const edgeConfig = `version: 1
listeners:
  http: {address: 127.0.0.1:0}
  https: {address: 127.0.0.1:0, tls: {cert: ra.pem, key: ra.key}}
store: sqlite:muster.db
backends:
  central: {plugin: %[1]s, sha256: %[2]s, config: {url: "%[3]s/.well-known/cmp/p/ran"}}
  slow: {plugin: %[1]s, sha256: %[2]s, config: {url: "%[3]s/.well-known/cmp/p/slow"}}
profiles:
  device: {backend: central}
endpoints:
  ran:
    protocol: cmp
    listeners: [http]
    default: true
    profile: device
    ra: {cert: ra.pem, key: ra.key}
    enroll:
      - anyOf:
          - vendor-ca: {cas: [vendor-ca.pem], serial: subject.serialNumber, list: serials.csv}
          - shared-secret: {secrets: {factory: {file: factory.secret}, another: {file: another.secret}}}
      - forward: {backend: central}
    renew: [own-certificate: {}, forward: {backend: central}]
    revoke: [own-certificate: {}, forward: {backend: central}]
  slow:
    protocol: cmp
    listeners: [http]
    profile: device
    ra: {cert: ra.pem, key: ra.key}
    enroll:
      - shared-secret: {secrets: {factory: {file: factory.secret}}}
      - forward: {backend: slow}
`

// startEdge starts a central gateway and an edge before it. What vendor devices need is in dir.
func startEdge(t *testing.T) (edge, central *instance, dir string) {
	t.Helper()
	dir = t.TempDir()
	script := ecKey + `vendor-ca.key
		openssl req -x509 -new -key vendor-ca.key -subj "/O=Vendor/CN=Vendor Root" -days 3650 -out vendor-ca.pem
		printf 'basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n' > vendor.ext
		for sn in SN0001 SN0002; do
		` + ecKey + `$sn.key
		openssl req -new -key $sn.key -subj "/O=Vendor/CN=bts/serialNumber=$sn" -out vendor.csr
		openssl x509 -req -in vendor.csr -CA vendor-ca.pem -CAkey vendor-ca.key -CAcreateserial -days 3650 -extfile vendor.ext -out $sn.pem 2>/dev/null
		done
		` + ecKey + `ra.key; openssl req -x509 -new -key ra.key -subj "/CN=Edge RA" -addext keyUsage=digitalSignature -addext basicConstraints=critical,CA:FALSE -days 30 -out ra.pem`
	cmd := exec.Command("sh", "-euc", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	plugin := filepath.Join(dir, "forwarder")
	sum := buildPlugin(t, "forwarder", plugin)
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	vendor, secret := read("vendor-ca.pem"), "the factory's, at both"
	central = configured(t, centralConfig, "vendor-ca.pem", vendor, "factory.secret", secret)
	edge = configured(t, fmt.Sprintf(edgeConfig, plugin, sum, central.env["MUSTER_HTTP"]),
		"vendor-ca.pem", vendor, "factory.secret", secret, "another.secret", "of another of the edge's clients", "serials.csv", "SN0001\n", "ra.pem", read("ra.pem"), "ra.key", read("ra.key"))
	return edge, central, dir
}

// edgeCMP is openssl against the edge, which trusts the central root and nothing else.
func edgeCMP(central *instance) string {
	return `CENTRAL=` + central.env["MUSTER_CA"] + `
	cmp() { openssl cmp -config '' -batch -server "$MUSTER_HTTP" -path .well-known/cmp -trusted "$CENTRAL" "$@" 2>cmp.log || { cat cmp.log; return 1; }; }
	SECRET="-ref factory -secret pass:the_factory's"
`
}

// wanted finds the one transaction for a name, in the state.
func (g *instance) wanted(name, state string) admin.Transaction {
	g.t.Helper()
	rows := g.transactions(name)
	if len(rows) != 1 || rows[0].State != state {
		g.t.Fatalf("%s: %+v, want one that is %s\n%s", name, rows, state, g.stderr)
	}
	return rows[0]
}

// viaEdge is a device of the factory that asks at an endpoint of the edge. Whom the answers are from it does not look at.
func viaEdge(edge *instance, name, endpoint string) *cmpDevice {
	d := edge.cmpDevice(name)
	d.url, d.ref, d.secret = edge.env["MUSTER_HTTP"]+"/.well-known/cmp/p/"+endpoint, "factory", []byte("the factory's, at both")
	return d
}

// Devices ask at the edge, the central gateway certifies, and openssl verifies what it is answered with the central root alone.
func TestForwardCMP(t *testing.T) {
	edge, central, dir := startEdge(t)
	cmp := edgeCMP(central)
	out := edge.sh(dir, cmp+ecKey+`new.key
		cmp -cmd ir -cert SN0001.pem -key SN0001.key -newkey new.key -subject /CN=signed -certout new.pem -extracertsout extra.pem
		openssl verify -x509_strict -CAfile "$CENTRAL" -untrusted extra.pem new.pem`)
	if !strings.Contains(out, "new.pem: OK") {
		t.Error(out)
	}
	tx := edge.wanted("signed", "issued")
	if tx.Backend != "central" || tx.Certificate == nil || central.wanted("signed", "issued").Certificate.Serial != tx.Certificate.Serial {
		t.Errorf("%+v", tx)
	}
	if told := edge.muster("explain", tx.ID); !strings.Contains(told, "central") || !strings.Contains(told, "forward") {
		t.Errorf("explain:\n%s", told)
	}

	edge.sh(dir, cmp+ecKey+`mac.key; openssl req -new -key mac.key -subj /CN=mac -out mac.csr
		cmp -cmd p10cr -ref factory -secret "pass:the factory's, at both" -csr mac.csr -certout mac.pem
		`+ecKey+`implicit.key; cmp -cmd ir -implicit_confirm -ref factory -secret "pass:the factory's, at both" -newkey implicit.key -subject /CN=implicit -certout implicit.pem`)
	for _, name := range []string{"mac", "implicit"} {
		edge.wanted(name, "issued")
		central.wanted(name, "issued")
	}

	// kur and rr with what the central gateway issued: the edge knows it.
	edge.sh(dir, cmp+ecKey+`second.key
		cmp -cmd kur -cert new.pem -key new.key -newkey second.key -certout second.pem
		cmp -cmd rr -cert second.pem -key second.key -oldcert second.pem -revreason 1`)
	if out, code := edge.run(dir, "sh", "-euc", cmp+ecKey+`third.key; cmp -cmd kur -cert second.pem -key second.key -newkey third.key -certout third.pem`); code == 0 {
		t.Errorf("a revoked certificate is renewed:\n%s", out)
	}
	for _, g := range []*instance{edge, central} {
		revoked := 0
		for _, tx := range g.transactions("signed") {
			if tx.Certificate != nil && tx.Certificate.RevokedAt != nil {
				revoked++
			}
		}
		if revoked != 1 {
			t.Errorf("%d of the certificates are revoked", revoked)
		}
	}
	if rows := listing[admin.Transaction](edge, "--state", "revoked"); len(rows) != 1 {
		t.Errorf("%+v", rows)
	}

	// Support messages are answered at the edge.
	edge.sh(dir, cmp+`cmp -cmd genm -infotype signKeyPairTypes -ref factory -secret "pass:the factory's, at both"`)
	out, code := edge.run(dir, "sh", "-euc", cmp+`cmp -cmd genm -infotype caCerts -ref factory -secret "pass:the factory's, at both"`)
	if code == 0 || !strings.Contains(out, "badRequest") || !strings.Contains(out, "passed on from here") {
		t.Errorf("caCerts: exit %d\n%s", code, out)
	}

	// What the edge refuses the central gateway never hears of.
	before := len(listing[admin.Transaction](central))
	out, code = edge.run(dir, "sh", "-euc", cmp+ecKey+`no.key; cmp -cmd ir -trusted ra.pem -cert SN0002.pem -key SN0002.key -newkey no.key -subject /CN=refused -certout no.pem`)
	if code == 0 || len(listing[admin.Transaction](central)) != before || strings.Contains(central.stderr.String(), "refused") {
		t.Errorf("exit %d, %d transactions, %d before:\n%s", code, len(listing[admin.Transaction](central)), before, out)
	}
	edge.wanted("refused", "refused")
}

// While the central gateway is down devices are told so; the same message then succeeds once. The edge may be killed between two
// messages, and others cannot go on with what a device began.
func TestForwardCMPLost(t *testing.T) {
	edge, central, _ := startEdge(t)
	d := viaEdge(edge, "lost", "ran")
	central.stop()
	ir := d.message(d.request(cmpmsg.TypeIR))
	post := func(der []byte) []byte {
		t.Helper()
		answer, err := d.post(der)
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	m, err := d.take(post(ir))
	if err != nil || failure(m) != fmt.Sprint(cmpmsg.SystemUnavail) {
		t.Fatalf("while it is down: %v, %s", err, failure(m))
	}
	edge.wanted("lost", "forwarded")
	central.again()
	first, second := post(ir), post(ir)
	if string(first) != string(second) {
		t.Error("the same message gets another answer")
	}
	if _, err := d.take(first); err != nil || d.cert == nil {
		t.Fatal(err)
	}
	if n := len(central.ledger("lost")); n != 1 {
		t.Fatalf("%d certificates", n)
	}

	if err := edge.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-edge.exited
	edge.again()
	d.url = edge.env["MUSTER_HTTP"] + "/.well-known/cmp/p/ran"
	// Another one who may ask at the edge, and did not begin this.
	stranger := *d
	stranger.secret, stranger.ref = []byte("of another of the edge's clients"), "another"
	for _, body := range []cmpmsg.Body{d.certConf(), &cmpmsg.PollReq{ReqIDs: []*big.Int{big.NewInt(0)}}, &cmpmsg.ErrorMsg{Status: cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusRejection}}} {
		if m, err := stranger.exchange(body); err != nil || failure(m) != fmt.Sprint(cmpmsg.NotAuthorized) {
			t.Errorf("a stranger's %s: %v, %s", body.Type(), err, failure(m))
		}
	}
	edge.wanted("lost", "forwarded")
	last := d.message(d.certConf())
	for range 2 {
		if m, err := d.take(post(last)); err != nil || m.Body.Type() != cmpmsg.TypePKIConf {
			t.Fatalf("certConf: %v, %s", err, failure(m))
		}
		edge.wanted("lost", "issued")
		central.wanted("lost", "issued")
	}
}

// What the central gateway holds is polled for through the edge, over a restart of it.
func TestForwardCMPDelayed(t *testing.T) {
	edge, central, _ := startEdge(t)
	d := viaEdge(edge, "slow", "slow")
	must := func(body cmpmsg.Body, want cmpmsg.BodyType) *cmpmsg.Message {
		t.Helper()
		m, err := d.exchange(body)
		if err != nil || m.Body.Type() != want {
			t.Fatalf("%v, %+v", err, m.Body)
		}
		return m
	}
	m := must(d.request(cmpmsg.TypeIR), cmpmsg.TypeIP)
	if m.Body.(*cmpmsg.CertRepMessage).Responses[0].Status.Status != cmpmsg.StatusWaiting {
		t.Fatalf("%+v", m.Body)
	}
	edge.wanted("slow", "forwarded")
	poll := &cmpmsg.PollReq{ReqIDs: []*big.Int{big.NewInt(0)}}
	must(poll, cmpmsg.TypePollRep)
	edge.again()
	d.url = edge.env["MUSTER_HTTP"] + "/.well-known/cmp/p/slow"
	central.muster("approve", central.wanted("slow", "held").ID)
	must(poll, cmpmsg.TypeIP)
	if d.cert == nil {
		t.Fatal("no certificate")
	}
	must(d.certConf(), cmpmsg.TypePKIConf)
	edge.wanted("slow", "issued")
	central.wanted("slow", "issued")
}

// A message that is carried in a file goes the same way.
func TestForwardCMPFile(t *testing.T) {
	edge, central, dir := startEdge(t)
	d := viaEdge(edge, "carried", "ran")
	in, out := filepath.Join(dir, "ir.pki"), filepath.Join(dir, "ip.pki")
	if err := os.WriteFile(in, d.message(d.request(cmpmsg.TypeIR)), 0o600); err != nil {
		t.Fatal(err)
	}
	edge.muster("cmp", "process", "--endpoint", "ran", in, out)
	answer, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.take(answer); err != nil || d.cert == nil {
		t.Fatal(err)
	}
	edge.wanted("carried", "forwarded")
	central.wanted("carried", "unconfirmed")
}
