package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/muster-pki/muster/gateway/admin"
)

// The parts of an `openssl cmp` command line. cmp is what all of them share; "-config ”" keeps a machine's own settings out.
const (
	cmpCommand = `cmp() { openssl cmp -config '' -batch -server "$MUSTER_HTTP" -path .well-known/cmp -trusted "$MUSTER_CA" "$@" 2>>cmp.log || { cat cmp.log; return 1; }; }
`
	cmpSecret = ` -ref "$MUSTER_CMP_REF" -secret "pass:$MUSTER_CMP_SECRET" `
	ecKey     = `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out `
)

// vendorDevice makes a vendor's CA and a device certificate under it, and has the gateway trust that CA.
func vendorDevice(g *instance, dir string) {
	g.sh(dir, ecKey+`vendor-ca.key
		openssl req -x509 -new -key vendor-ca.key -subj "/O=Vendor/CN=Vendor Root" -days 3650 -out vendor-ca.pem
		`+ecKey+`vendor.key
		openssl req -new -key vendor.key -subj "/O=Vendor/CN=bts/serialNumber=SN0001" -out vendor.csr
		printf 'basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n' > vendor.ext
		openssl x509 -req -in vendor.csr -CA vendor-ca.pem -CAkey vendor-ca.key -CAcreateserial -days 3650 -extfile vendor.ext -out vendor.pem 2>/dev/null
		cp vendor-ca.pem "$MUSTER_VENDOR_CA_DIR/vendor.pem"`)
	time.Sleep(2 * time.Second) // what the quickstart promises
}

func serial(g *instance, dir, file string) string {
	return strings.TrimSpace(g.sh(dir, `openssl x509 -noout -serial -in `+file))
}

// state is that of the newest transaction for a common name.
func (g *instance) state(name string) string {
	g.t.Helper()
	for _, t := range g.transactions(name) {
		return t.State
	}
	return ""
}

func TestOpenSSLCMP(t *testing.T) {
	t.Parallel()
	g := startIn(t, filepath.Join(t.TempDir(), "data"))
	dir := t.TempDir()
	vendorDevice(g, dir)
	for _, c := range []struct{ name, key, script string }{
		{"ir, PBM", ecKey, `cmp -cmd ir ` + cmpSecret + ` -newkey new.key -subject "$1"`},
		{"ir, PBM, implicit confirmation", ecKey, `cmp -cmd ir -implicit_confirm ` + cmpSecret + ` -newkey new.key -subject "$1"`},
		{"ir, PBM with SHA-512", ecKey, `cmp -cmd ir -digest sha512 -mac hmacWithSHA512 ` + cmpSecret + ` -newkey new.key -subject "$1"`},
		{"cr, PBM", ecKey, `cmp -cmd cr ` + cmpSecret + ` -newkey new.key -subject "$1"`},
		{"cr, PBM, implicit confirmation", ecKey, `cmp -cmd cr -implicit_confirm ` + cmpSecret + ` -newkey new.key -subject "$1"`},
		{"p10cr, PBM", ecKey, `openssl req -new -key new.key -subj "$1" -out new.csr; cmp -cmd p10cr ` + cmpSecret + ` -csr new.csr`},
		{"p10cr, PBM, implicit confirmation", ecKey, `openssl req -new -key new.key -subj "$1" -out new.csr; cmp -cmd p10cr -implicit_confirm ` + cmpSecret + ` -csr new.csr`},
		{"ir, vendor certificate", ecKey, `cmp -cmd ir -cert vendor.pem -key vendor.key -newkey new.key -subject "$1"`},
		{"ir, vendor certificate, implicit confirmation", ecKey, `cmp -cmd ir -implicit_confirm -cert vendor.pem -key vendor.key -newkey new.key -subject "$1"`},
		{"cr, vendor certificate, SHA-384", ecKey, `cmp -cmd cr -digest sha384 -cert vendor.pem -key vendor.key -newkey new.key -subject "$1"`},
		{"p10cr, vendor certificate", ecKey, `openssl req -new -key new.key -subj "$1" -out new.csr; cmp -cmd p10cr -cert vendor.pem -key vendor.key -csr new.csr`},
		{"ir, RSA key", `openssl genrsa 2>/dev/null >`, `cmp -cmd ir ` + cmpSecret + ` -newkey new.key -subject "$1"`},
		{"ir, Ed25519 key", `openssl genpkey -algorithm ED25519 -out `, `cmp -cmd ir ` + cmpSecret + ` -newkey new.key -subject "$1"`},
		{"ir, SAN", ecKey, `cmp -cmd ir -sans "bts.example.com 192.0.2.1" ` + cmpSecret + ` -newkey new.key -subject "$1"`},
		{"ir over TLS", ecKey, `cmp -cmd ir -server "${MUSTER_HTTPS#https://}" -tls_used -tls_trusted "$MUSTER_CA" ` + cmpSecret + ` -newkey new.key -subject "$1"`},
		{"ir at /cmp", ecKey, `cmp -cmd ir -path cmp ` + cmpSecret + ` -newkey new.key -subject "$1"`},
		{"ir at /.well-known/cmp/p/cmp", ecKey, `cmp -cmd ir -path .well-known/cmp/p/cmp ` + cmpSecret + ` -newkey new.key -subject "$1"`},
		{"ir at /.well-known/cmp/p/cmp/initialization", ecKey, `cmp -cmd ir -path .well-known/cmp/p/cmp/initialization ` + cmpSecret + ` -newkey new.key -subject "$1"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			cn := "cmp-" + regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(c.name), "-")
			out := g.sh(dir, `rm -f new.pem extra.pem; `+c.key+`new.key; set -- /CN=`+cn+`
				`+cmpCommand+c.script+` -certout new.pem -extracertsout extra.pem
				openssl verify -x509_strict -CAfile "$MUSTER_CA" -untrusted extra.pem new.pem
				openssl x509 -in new.pem -noout -subject`)
			if !strings.Contains(out, "new.pem: OK") || !strings.Contains(out, cn) {
				t.Error(out)
			}
			if got := g.state(cn); got != "issued" {
				t.Errorf("the transaction is %s", got)
			}
		})
	}

	// Updates: signed by the certificate that is updated.
	g.sh(dir, cmpCommand+ecKey+`first.key; cmp -cmd ir -cert vendor.pem -key vendor.key -newkey first.key -subject /CN=updated -certout first.pem`)
	for i, c := range []struct{ name, script string }{
		{"kur, new key", ecKey + `second.key; cmp -cmd kur -cert first.pem -key first.key -newkey second.key -certout second.pem`},
		{"kur, implicit confirmation", ecKey + `second.key; cmp -cmd kur -implicit_confirm -cert first.pem -key first.key -newkey second.key -certout second.pem`},
		{"kur, same key", `cp first.key second.key; cmp -cmd kur -cert first.pem -key first.key -newkey first.key -certout second.pem`},
		{"kur, old certificate named", ecKey + `second.key; cmp -cmd kur -oldcert first.pem -cert first.pem -key first.key -newkey second.key -certout second.pem`},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := serial(g, dir, "first.pem")
			g.sh(dir, cmpCommand+c.script)
			out := g.sh(dir, `openssl verify -x509_strict -CAfile "$MUSTER_CA" -untrusted extra.pem second.pem; openssl x509 -noout -subject -in second.pem`)
			if !strings.Contains(out, "second.pem: OK") || !strings.Contains(out, "CN = updated") || serial(g, dir, "second.pem") == before {
				t.Error(i, out)
			}
			g.sh(dir, `mv second.pem first.pem; mv second.key first.key`)
		})
	}
}

// Each way in which openssl can be refused: what it is told, and that nothing was issued.
func TestOpenSSLCMPRefused(t *testing.T) {
	t.Parallel()
	g := startIn(t, filepath.Join(t.TempDir(), "data"))
	dir := t.TempDir()
	vendorDevice(g, dir)
	g.sh(dir, ecKey+`foreign-ca.key
		openssl req -x509 -new -key foreign-ca.key -subj "/O=Vendor/CN=Vendor Root" -days 3650 -out foreign-ca.pem
		openssl x509 -req -in vendor.csr -CA foreign-ca.pem -CAkey foreign-ca.key -CAcreateserial -days 3650 -extfile vendor.ext -out foreign.pem 2>/dev/null
		`+ecKey+`self.key; openssl req -x509 -new -key self.key -subj "/CN=self" -days 365 -out self.pem
		`+ecKey+`new.key; openssl genrsa 1024 > weak.key 2>/dev/null
		`+cmpCommand+`cmp -cmd ir`+cmpSecret+` -newkey new.key -subject /CN=holder -certout holder.pem
		cp new.key holder.key; `+ecKey+`new.key`)
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "request\tfailInfo\texplain")
	for i, c := range []struct{ name, script, failInfo, explain string }{
		{"wrong secret", `cmp -cmd ir -ref "$MUSTER_CMP_REF" -secret pass:wrong -newkey new.key -subject "$1"`, "badMessageCheck", "MAC"},
		{"unknown reference", `cmp -cmd ir -ref nobody -secret pass:wrong -newkey new.key -subject "$1"`, "badMessageCheck", "reference"},
		{"foreign vendor CA", `cmp -cmd ir -cert foreign.pem -key vendor.key -newkey new.key -subject "$1"`, "signerNotTrusted", "vendor-ca"},
		{"self-signed", `cmp -cmd ir -cert self.pem -key self.key -newkey new.key -subject "$1"`, "badMessageCheck", "extraCerts"},
		{"no protection", `cmp -cmd ir -unprotected_requests -newkey new.key -subject "$1"`, "badMessageCheck", "protect"},
		{"no proof of possession", `cmp -cmd ir -popo -1` + cmpSecret + ` -newkey new.key -subject "$1"`, "badPOP", "possession"},
		{"raVerified", `cmp -cmd ir -popo 0` + cmpSecret + ` -newkey new.key -subject "$1"`, "notAuthorized", "an RA signs its messages"},
		{"keyEncipherment POP", `openssl genrsa 2048 > rsa.key 2>/dev/null; cmp -cmd ir -popo 2` + cmpSecret + ` -newkey rsa.key -subject "$1"`, "badPOP", "possession"},
		{"weak key", `cmp -cmd ir` + cmpSecret + ` -newkey weak.key -subject "$1"`, "badCertTemplate", "1024"},
		{"no subject", `cmp -cmd ir` + cmpSecret + ` -newkey new.key -subject / -sans "$1.example"`, "badCertTemplate", "names"},
		{"SHA-1", `cmp -cmd ir -digest sha1` + cmpSecret + ` -newkey new.key -subject "$1"`, "badAlg", "SHA-1"},
		{"kur by vendor certificate", `cmp -cmd kur -cert vendor.pem -key vendor.key -newkey new.key -subject "$1"`, "signerNotTrusted", "own-certificate"},
		{"kur of another subject", `cmp -cmd kur -cert holder.pem -key holder.key -newkey new.key -subject "$1"`, "notAuthorized", "own-certificate"},
		{"kur with a MAC", `cmp -cmd kur -oldcert holder.pem` + cmpSecret + ` -newkey new.key -subject "$1"`, "wrongIntegrity", "MAC"},
		{"revocation for a time", `cmp -cmd rr -oldcert holder.pem -cert holder.pem -key holder.key -revreason 6; echo "$1"`, "notAuthorized", "certificateHold"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cn := fmt.Sprintf("refused-%d", i)
			before := len(listing[admin.Transaction](g, "--state", "issued,unconfirmed"))
			out, code := g.run(dir, "sh", "-euc", `set -- /CN=`+cn+`; rm -f cmp.log new.pem
				`+cmpCommand+c.script+` -certout new.pem`)
			if code == 0 {
				t.Fatalf("it was let in: %s", out)
			}
			if _, err := os.Stat(filepath.Join(dir, "new.pem")); err == nil {
				t.Error("a certificate was left")
			}
			if !strings.Contains(out, c.failInfo) {
				t.Errorf("openssl was told\n%s\nwant %s", out, c.failInfo)
			}
			id := regexp.MustCompile(`[0-9a-hjkmnp-tv-z]{26}`).FindString(out)
			told := ""
			if id == "" {
				t.Errorf("the answer names no transaction: %s", out)
			} else if told = g.muster("explain", id); !strings.Contains(told, c.explain) {
				t.Errorf("explain does not say %q:\n%s", c.explain, told)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\n", c.name, c.failInfo, c.explain)
			if n := len(g.ledger(cn)); n != 0 {
				t.Errorf("%d certificates in the CA's ledger", n)
			}
			if after := len(listing[admin.Transaction](g, "--state", "issued,unconfirmed")); after != before {
				t.Errorf("%d transactions that issued, before %d", after, before)
			}
		})
	}
	w.Flush()
	t.Logf("\n%s", table.String())
	if log := g.stderr.String(); strings.Contains(log, g.env["MUSTER_CMP_SECRET"]) {
		t.Error("the shared secret is in the log")
	}
}

// A certificate that the device does not want is revoked, at once when it says so.
func TestOpenSSLRejects(t *testing.T) {
	g := startIn(t, filepath.Join(t.TempDir(), "data"))
	dir := t.TempDir()
	g.sh(dir, ecKey+`new.key; `+ecKey+`other.key; openssl req -x509 -new -key other.key -subj "/CN=Another Root" -days 365 -out other.pem`)
	out, code := g.run(dir, "sh", "-euc", cmpCommand+`cmp -cmd ir`+cmpSecret+` -newkey new.key -subject /CN=rejected -out_trusted other.pem -certout new.pem`)
	if code == 0 {
		t.Fatalf("openssl took a certificate of another CA: %s", out)
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		entries := g.ledger("rejected")
		if len(entries) == 1 && !entries[0].RevokedAt.IsZero() {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after 5 s the ledger has %+v", entries)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if s := g.state("rejected"); s != "rejected" {
		t.Errorf("the transaction is %s", s)
	}
}

// An answer that was lost: openssl begins anew, with another transactionID, and gets the same certificate.
func TestOpenSSLAfterALostAnswer(t *testing.T) {
	g := startIn(t, filepath.Join(t.TempDir(), "data"))
	dir := t.TempDir()
	g.sh(dir, ecKey+`new.key; `+cmpCommand+`
		cmp -cmd ir -disable_confirm`+cmpSecret+` -newkey new.key -subject /CN=lost -certout first.pem
		cmp -cmd ir`+cmpSecret+` -newkey new.key -subject /CN=lost -certout second.pem`)
	if first, second := serial(g, dir, "first.pem"), serial(g, dir, "second.pem"); first != second {
		t.Errorf("two certificates: %s, %s", first, second)
	}
	if n := len(g.ledger("lost")); n != 1 || g.state("lost") != "issued" {
		t.Errorf("%d in the ledger, %s", n, g.state("lost"))
	}
	// Once confirmed, the same wish is another one.
	g.sh(dir, cmpCommand+`cmp -cmd ir`+cmpSecret+` -newkey new.key -subject /CN=lost -certout third.pem`)
	if serial(g, dir, "third.pem") == serial(g, dir, "second.pem") {
		t.Error("a confirmed certificate was given again")
	}
}

// What openssl sent, sent again byte for byte: the same answers while it is open; nothing more is issued.
func TestOpenSSLReplayed(t *testing.T) {
	g := startIn(t, filepath.Join(t.TempDir(), "data"))
	dir := t.TempDir()
	g.sh(dir, ecKey+`new.key; `+cmpCommand+`
		cmp -cmd ir -disable_confirm`+cmpSecret+` -newkey new.key -subject /CN=replayed -certout first.pem -reqout ir.der -rspout ip.der
		for i in 1 2; do curl -sS --fail -H 'Content-Type: application/pkixcmp' --data-binary @ir.der "$MUSTER_HTTP/.well-known/cmp" -o again.der; cmp_bytes() { command cmp "$@"; }; cmp_bytes ip.der again.der; done`)
	if n := len(g.ledger("replayed")); n != 1 {
		t.Errorf("%d in the ledger", n)
	}
}
