package e2e

import (
	"bytes"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/admin"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

const filesConfig = onLocalCA + `profiles:
  device: {backend: local, validity: 90d}
endpoints:
  trackside:
    protocol: cmp
    listeners: [http]
    default: true
    profile: device
    enroll:
      - shared-secret: {secrets: {trackside: {file: trackside.secret}}}
      - names: {}
    cmp: {files: {spool: spool}}
  held:
    protocol: cmp
    listeners: [http]
    profile: device
    enroll:
      - shared-secret: {secrets: {trackside: {file: trackside.secret}}}
      - names: {}
      - approval: {approvers: 1}
  est:
    protocol: est
    listeners: [https]
    profile: device
    enroll:
      - password: {users: {factory: "{sha256}e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}}
      - names: {}
`

const tracksideSecret = "trackside-secret-of-32-characters"

// offline runs openssl cmp without a server: it writes what it would send, and reads what it would receive. Where the answers
// end it fails, which is what cuts the exchange into files.
const offline = `offline() { openssl cmp -config '' -batch -cmd ir -ref trackside -secret pass:` + tracksideSecret + ` -trusted "$MUSTER_CA" -newkey device.key -subject /CN=device-0001 -certout device.pem "$@" >>offline.log 2>&1; }
`

// openssl on a machine without a network makes a request; a technician carries it to the gateway and the answer back, then the
// certConf and its answer.
func TestOpenSSLCMPByFile(t *testing.T) {
	g := configured(t, filesConfig, "trackside.secret", tracksideSecret)
	dir := t.TempDir()
	g.sh(dir, offline+ecKey+`device.key
		offline -reqout ir.pki -rspin none.pki || test -s ir.pki`)
	told := g.muster("cmp", "process", filepath.Join(dir, "ir.pki"), filepath.Join(dir, "ip.pki"))
	if !strings.HasPrefix(told, "ip: ") || !strings.Contains(told, ", transaction ") {
		t.Error(told)
	}
	if rows := g.transactions("device-0001"); len(rows) != 1 || rows[0].State != "unconfirmed" || rows[0].Source != "file" || time.Until(*rows[0].ConfirmBy) < 13*24*time.Hour {
		t.Fatalf("%+v", rows)
	}
	g.again() // days later
	g.sh(dir, offline+`offline -reqout again.pki,certConf.pki -rspin ip.pki,none.pki || test -s certConf.pki`)
	if told = g.muster("cmp", "process", "--endpoint", "trackside", filepath.Join(dir, "certConf.pki"), filepath.Join(dir, "pkiconf.pki")); !strings.HasPrefix(told, "pkiconf, transaction ") {
		t.Error(told)
	}
	out := g.sh(dir, offline+`offline -rspin ip.pki,pkiconf.pki -chainout chain.pem || { cat offline.log; exit 1; }
		openssl verify -x509_strict -CAfile "$MUSTER_CA" -untrusted chain.pem device.pem
		openssl x509 -in device.pem -noout -subject`)
	if !strings.Contains(out, "device.pem: OK") || !strings.Contains(out, "device-0001") || g.state("device-0001") != "issued" {
		t.Error(out, g.state("device-0001"))
	}
	// The same file again: the same bytes.
	g.muster("cmp", "process", filepath.Join(dir, "ir.pki"), filepath.Join(dir, "ip2.pki"))
	if first, second := read(t, dir, "ip.pki"), read(t, dir, "ip2.pki"); !bytes.Equal(first, second) {
		t.Error("another answer to the same file")
	}
	if told := g.muster("explain", g.transactions("device-0001")[0].ID); !strings.Contains(told, "file") {
		t.Error(told)
	}
	for name, tt := range map[string]struct{ endpoint, in, want string }{
		"EST endpoint":     {"est", "ir.pki", "endpoint est speaks est, not cmp: held, trackside"},
		"unknown endpoint": {"tracksied", "ir.pki", `there is no CMP endpoint "tracksied" (did you mean "trackside"?)`},
		"not CMP":          {"trackside", "device.pem", "the message does not parse"},
		"OUT is there":     {"trackside", "ir.pki", "ip.pki is there: --force writes over it"},
	} {
		target := "refused.pki"
		if name == "OUT is there" {
			target = "ip.pki"
		}
		out, code := g.run(dir, binary, "cmp", "process", "--data", g.dir, "--endpoint", tt.endpoint, tt.in, target)
		if _, err := os.Stat(filepath.Join(dir, "refused.pki")); code == 0 || !strings.Contains(out, tt.want) || err == nil {
			t.Errorf("%s: exit %d, %s", name, code, out)
		}
	}
}

func read(t testing.TB, dir, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// spooled moves a file into the spool and waits for the file that comes of it.
func (g *instance) spooled(spool, name string, data []byte, result string) []byte {
	g.t.Helper()
	dir := filepath.Join(g.dir, spool)
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		g.t.Fatal(err)
	}
	old := time.Now().Add(-time.Minute)
	if err := os.Chtimes(filepath.Join(dir, name), old, old); err != nil {
		g.t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, name), filepath.Join(dir, "in", name)); err != nil {
		g.t.Fatal(err)
	}
	return g.appears(filepath.Join(dir, result))
}

func (g *instance) appears(path string) []byte {
	g.t.Helper()
	for range 1500 {
		if data, err := os.ReadFile(path); err == nil {
			return data
		}
		time.Sleep(20 * time.Millisecond)
	}
	g.t.Fatalf("%s does not appear\n%s", path, g.stderr)
	return nil
}

// carrier is a device of the endpoint's whose messages are carried.
func (g *instance) carrier(name string) *cmpDevice {
	d := g.cmpDevice(name)
	d.ref, d.secret = "trackside", []byte(tracksideSecret)
	return d
}

// The spool folder: a whole enrollment, a file that is no message, one that lay there when the gateway started, and a reload that
// gives a second endpoint a spool of its own, where a held request is polled for.
func TestCMPSpool(t *testing.T) {
	t.Parallel()
	g := configured(t, filesConfig, "trackside.secret", tracksideSecret)
	d := g.carrier("spooled-1")
	take := func(der []byte, want cmpmsg.BodyType) *cmpmsg.Message {
		t.Helper()
		m, err := d.take(der)
		if err != nil || m.Body.Type() != want || failure(m) != "" {
			t.Fatalf("%v, %+v", err, m)
		}
		return m
	}
	take(g.spooled("spool", "1-ir.pki", d.message(d.request(cmpmsg.TypeIR)), "out/1-ir.pki"), cmpmsg.TypeIP)
	take(g.spooled("spool", "2-certConf.pki", d.message(d.certConf()), "out/2-certConf.pki"), cmpmsg.TypePKIConf)
	if g.state("spooled-1") != "issued" {
		t.Error(g.state("spooled-1"))
	}
	if got := read(t, g.dir, "spool/done/1-ir.pki"); len(got) == 0 {
		t.Error("the request is not in done")
	}
	if why := g.spooled("spool", "text.pki", []byte("text"), "failed/text.pki.txt"); !strings.Contains(string(why), "does not parse") {
		t.Errorf("%s", why)
	}
	if why := g.spooled("spool", "large.pki", make([]byte, 256<<10+1), "failed/large.pki.txt"); !strings.Contains(string(why), "larger than 262144 bytes") {
		t.Errorf("%s", why)
	}

	// While the gateway is down, somebody brings a request.
	d = g.carrier("spooled-2")
	g.stop()
	request := d.message(d.request(cmpmsg.TypeIR))
	if err := os.WriteFile(filepath.Join(g.dir, "spool/in/3-ir.pki"), request, 0o600); err != nil {
		t.Fatal(err)
	}
	g.again()
	answer := g.appears(filepath.Join(g.dir, "spool/out/3-ir.pki"))
	take(answer, cmpmsg.TypeIP)
	// As if the gateway had ended before the request was moved: it is asked again, and answers the same.
	g.stop()
	if err := os.Rename(filepath.Join(g.dir, "spool/done/3-ir.pki"), filepath.Join(g.dir, "spool/in/3-ir.pki")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(g.dir, "spool/out/3-ir.pki")); err != nil {
		t.Fatal(err)
	}
	g.again()
	if again := g.appears(filepath.Join(g.dir, "spool/out/3-ir.pki")); !bytes.Equal(again, answer) || len(g.transactions("spooled-2")) != 1 {
		t.Error("the same request has another answer after a restart")
	}

	// Reload: the endpoint `held` gets a spool.
	file := filepath.Join(g.dir, "gateway.yaml")
	config := read(t, g.dir, "gateway.yaml")
	config = bytes.Replace(config, []byte("      - approval: {approvers: 1}\n"), []byte("      - approval: {approvers: 1}\n    cmp: {files: {spool: held-spool}}\n"), 1)
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := g.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for range 1500 {
		if _, err := os.Stat(filepath.Join(g.dir, "held-spool/failed")); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	d = g.carrier("spooled-3")
	m, err := d.take(g.spooled("held-spool", "1-ir.pki", d.message(d.request(cmpmsg.TypeIR)), "out/1-ir.pki"))
	if err != nil || m.Body.Type() != cmpmsg.TypeIP || m.Body.(*cmpmsg.CertRepMessage).Responses[0].Status.Status != cmpmsg.StatusWaiting {
		t.Fatalf("%v, %+v", err, m)
	}
	poll := &cmpmsg.PollReq{ReqIDs: []*big.Int{new(big.Int)}}
	take(g.spooled("held-spool", "2-poll.pki", d.message(poll), "out/2-poll.pki"), cmpmsg.TypePollRep)
	held := listing[admin.Transaction](g, "--state", "held")
	if len(held) != 1 {
		t.Fatalf("%+v", held)
	}
	g.muster("approve", held[0].ID)
	take(g.spooled("held-spool", "3-poll.pki", d.message(poll), "out/3-poll.pki"), cmpmsg.TypeIP)
	take(g.spooled("held-spool", "4-certConf.pki", d.message(d.certConf()), "out/4-certConf.pki"), cmpmsg.TypePKIConf)
	if g.state("spooled-3") != "issued" {
		t.Error(g.state("spooled-3"))
	}
}
