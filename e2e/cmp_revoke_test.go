package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/admin"
)

// irrevocable is a CMP endpoint without a revoke pipeline, beside the quickstart's.
const irrevocable = `  irrevocable:
    protocol: cmp
    listeners: [http]
    profile: device
    enroll:
      - shared-secret: {secrets: {factory: {file: secrets/cmp-secret}}}
      - names: {}
    renew:
      - own-certificate: {}

  scep: `

// A device revokes its certificate with openssl's rr (RFC 9810 section 5.3.9); nobody else does; and then it is revoked
// everywhere.
func TestOpenSSLRevokes(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	startIn(t, data).stop()
	file := filepath.Join(data, "muster.yaml")
	config, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(config), "  scep: ", irrevocable, 1)
	if changed == string(config) {
		t.Fatal("the configuration has no place for another endpoint")
	}
	if err := os.WriteFile(file, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	g := startIn(t, data)
	dir := t.TempDir()
	vendorDevice(g, dir)
	g.sh(dir, cmpCommand+`
		for name in mine other; do `+ecKey+`$name.key; cmp -cmd ir`+cmpSecret+` -newkey $name.key -subject /CN=$name -certout $name.pem; done
		`+ecKey+`new.key; `+ecKey+`kept.key
		cmp -path .well-known/cmp/p/irrevocable -cmd ir`+cmpSecret+` -newkey kept.key -subject /CN=kept -certout kept.pem`)

	refused := func(name, script, failInfo, explain string) {
		t.Helper()
		out, code := g.run(dir, "sh", "-euc", "rm -f cmp.log\n"+cmpCommand+script)
		id := regexp.MustCompile(`reference ([0-9a-hjkmnp-tv-z]{26})`).FindStringSubmatch(out)
		if code == 0 || !strings.Contains(out, failInfo) || id == nil {
			t.Errorf("%s: %d\n%s", name, code, out)
			return
		}
		if told := g.muster("explain", id[1]); !strings.Contains(told, explain) {
			t.Errorf("%s: explain does not say %q:\n%s", name, explain, told)
		}
	}
	const mine = `cmp -cmd rr -cert mine.pem -key mine.key -oldcert mine.pem `
	refused("by another device", `cmp -cmd rr -cert other.pem -key other.key -oldcert mine.pem`, "notAuthorized", "asks to revoke")
	refused("by the vendor's certificate", `cmp -cmd rr -cert vendor.pem -key vendor.key -oldcert mine.pem`, "signerNotTrusted", "own-certificate")
	refused("with a MAC", `cmp -cmd rr -oldcert mine.pem`+cmpSecret, "wrongIntegrity", "signed")
	refused("an unknown certificate", `cmp -cmd rr -cert mine.pem -key mine.key -oldcert vendor.pem`, "badCertId", "not among those issued here")
	refused("hold", mine+`-revreason 6`, "notAuthorized", "certificateHold")
	refused("revive", mine+`-revreason 8`, "notAuthorized", "removeFromCRL")
	refused("no pipeline", `cmp -path .well-known/cmp/p/irrevocable -cmd rr -cert kept.pem -key kept.key -oldcert kept.pem`, "notAuthorized", "no pipeline for revoke")
	refused("at the other endpoint", `cmp -cmd rr -cert kept.pem -key kept.key -oldcert kept.pem`, "notAuthorized", "issued at endpoint")
	for _, name := range []string{"mine", "other", "kept"} {
		if entries := g.ledger(name); len(entries) != 1 || !entries[0].RevokedAt.IsZero() {
			t.Fatalf("%s is revoked: %+v", name, entries)
		}
	}

	// It is; the same message is answered in the same bytes; and another is told so.
	g.sh(dir, cmpCommand+mine+`-revreason 1 -reqout rr.der -rspout rp.der
		for i in 1 2; do curl -sS --fail -H 'Content-Type: application/pkixcmp' --data-binary @rr.der "$MUSTER_HTTP/.well-known/cmp" -o again.der; command cmp rp.der again.der; done`)
	refused("once more", mine+`-revreason 1`, "certRevoked", "was revoked at")
	refused("kur", `cmp -cmd kur -cert mine.pem -key mine.key -newkey new.key -certout new.pem`, "certRevoked", "was revoked at")
	if entries := g.ledger("mine"); len(entries) != 1 || entries[0].RevokedAt.IsZero() || entries[0].Reason != 1 {
		t.Errorf("the CA's ledger: %+v", entries)
	}
	const check = `curl -sS --fail "$MUSTER_HTTP/ca/local/ec.crt" | openssl x509 -inform DER -out issuing.crt
		curl -sS --fail "$MUSTER_HTTP/crl/local/ec.crl" | openssl crl -inform DER -out issuing.crl
		openssl verify -crl_check -CAfile "$MUSTER_CA" -untrusted issuing.crt -CRLfile issuing.crl `
	g.sh(dir, check+`other.pem`)
	if out, code := g.run(dir, "sh", "-c", check+`mine.pem`); code == 0 || !strings.Contains(out, "certificate revoked") {
		t.Errorf("openssl verify: %s", out)
	}

	// The operator finds who did it, and that of the certificate's own request.
	done := listing[admin.Transaction](g, "--state", "revoked")
	if len(done) != 1 || done[0].Operation != "revoke" || !strings.Contains(done[0].Subject, "CN=mine") || !strings.HasPrefix(done[0].Requester, "message-signer:") {
		t.Fatalf("%+v", done)
	}
	tells := func(id string, words ...string) {
		t.Helper()
		told := ""
		for range 250 { // what is sent later is noted within a second
			told = g.muster("explain", id)
			if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(told, w) }) {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Errorf("explain does not say %q:\n%s", words, told)
	}
	tells(done[0].ID, "keyCompromise", "own-certificate", "repeat (revoked), 2 times")
	for _, tx := range g.transactions("mine") {
		if tx.State == "issued" {
			tells(tx.ID, "revoked at", "keyCompromise", "revocation (by request "+done[0].ID)
		}
	}
	if out := g.muster("ls"); !strings.Contains(out, done[0].ID) || !strings.Contains(out, "revoke") {
		t.Errorf("ls:\n%s", out)
	}

	// The answer is the same after a restart.
	g.stop()
	g.launch()
	if err := g.ready(); err != nil {
		t.Fatal(err)
	}
	g.sh(dir, `curl -sS --fail -H 'Content-Type: application/pkixcmp' --data-binary @rr.der "$MUSTER_HTTP/.well-known/cmp" -o again.der; command cmp rp.der again.der`)
}

// An RA revokes what its endpoint issued, and a device by its newer certificate the older one, where the endpoint says so.
func TestRevocationByAnRAAndByTheDevice(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	startIn(t, data).stop()
	work := t.TempDir()
	file := filepath.Join(data, "muster.yaml")
	config, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const before = "    revoke:                     # a device may revoke its own certificate\n      - own-certificate: {}\n"
	changed := strings.Replace(string(config), before, `    revoke:
      - anyOf:
          - own-certificate: {revoke: device}
          - ra: {cas: [ra-ca.pem]}
`, 1)
	changed = strings.Replace(changed, "# serial: subject.serialNumber", "serial: subject.serialNumber", 1)
	if strings.Count(changed, "\n") == strings.Count(string(config), "\n") {
		t.Fatal("the configuration has no such pipeline")
	}
	if err := os.WriteFile(file, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	g := &instance{t: t, dir: data, http: "127.0.0.1:0", https: "127.0.0.1:0", env: map[string]string{}}
	g.sh(work, ecKey+`ra-ca.key
		openssl req -x509 -new -key ra-ca.key -subj "/CN=RA CA" -days 365 -out ra-ca.pem
		`+ecKey+`ra.key; openssl req -new -key ra.key -subj "/CN=RA" -out ra.csr
		printf 'extendedKeyUsage=1.3.6.1.5.5.7.3.28\nkeyUsage=digitalSignature\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n' > ra.ext
		openssl x509 -req -in ra.csr -CA ra-ca.pem -CAkey ra-ca.key -CAcreateserial -days 365 -extfile ra.ext -out ra.pem 2>/dev/null
		cp ra-ca.pem "`+data+`"`)
	g.launch()
	t.Cleanup(g.stop)
	if err := g.ready(); err != nil {
		t.Fatalf("%v\n%s", err, g.stderr)
	}
	vendorDevice(g, work)
	g.sh(work, cmpCommand+`
		for name in first second; do `+ecKey+`$name.key; cmp -cmd ir -cert vendor.pem -key vendor.key -newkey $name.key -subject /CN=$name -certout $name.pem; done
		`+ecKey+`loose.key; cmp -cmd ir`+cmpSecret+` -newkey loose.key -subject /CN=loose -certout loose.pem`)
	if out, code := g.run(work, "sh", "-euc", "rm -f cmp.log\n"+cmpCommand+`cmp -cmd rr -cert second.pem -key second.key -oldcert loose.pem`); code == 0 || !strings.Contains(out, "notAuthorized") {
		t.Errorf("a device revoked what is not its own: %s", out)
	}
	g.sh(work, cmpCommand+`cmp -cmd rr -cert second.pem -key second.key -oldcert first.pem -revreason 4
		cmp -cmd rr -cert ra.pem -key ra.key -oldcert loose.pem -revreason 5`)
	for name, reason := range map[string]int{"first": 4, "loose": 5, "second": -1} {
		entries := g.ledger(name)
		for i := 0; i < 100 && reason >= 0 && len(entries) == 1 && entries[0].RevokedAt.IsZero(); i++ {
			time.Sleep(20 * time.Millisecond)
			entries = g.ledger(name)
		}
		if len(entries) != 1 || entries[0].RevokedAt.IsZero() == (reason >= 0) || reason >= 0 && entries[0].Reason != reason {
			t.Errorf("%s: %+v", name, entries)
		}
	}
}
