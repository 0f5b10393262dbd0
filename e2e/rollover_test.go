package e2e

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRollover is the life of devices while their CAs change over: the issuing keys first, then the roots' too. Devices of
// every time go on renewing over their protocol with nothing but the roots that they were made with, new ones enrol, and all
// certificates are checked against the CRL that they name.
func TestRollover(t *testing.T) {
	t.Parallel()
	g, dir := rolling(t)
	now := filepath.Join(g.dir, "ca", "roots.pem")
	var devices []*veteran
	issued := map[string][]string{} // copies of the certificates of each time, by time
	kept := func(epoch string) {
		t.Helper()
		for _, v := range devices {
			file := fmt.Sprintf("%s.in-%s.pem", v.name, epoch)
			g.sh(dir, `cp "`+v.name+`.pem" "`+file+`"`)
			issued[epoch] = append(issued[epoch], file)
		}
	}
	allGood := func(epochs ...string) {
		t.Helper()
		for n, epoch := range epochs {
			for i, file := range issued[epoch] {
				if n < len(epochs)-1 && !long && i%3 != 0 { // of those that were all good at their time, some
					continue
				}
				g.good(dir, file, now)
				g.good(dir, file, filepath.Join(dir, "first-roots.pem")) // by the links, where there are
			}
		}
	}
	recruit := func(epoch string) {
		t.Helper()
		roots := filepath.Join(dir, epoch+"-roots.pem")
		g.sh(dir, `cp "$MUSTER_CA" "`+roots+`"`)
		devices = append(devices, g.recruits(dir, epoch, roots)...)
	}
	allRenew := func() {
		t.Helper()
		for _, v := range devices {
			g.renews(dir, v)
		}
	}

	recruit("first")
	kept("first")
	allGood("first")

	// New issuing keys under the same roots. The devices notice nothing, not even while the gateway follows.
	g.muster("ca", "rekey", "local/ec", "--yes")
	g.renews(dir, devices[0])
	g.followed(1)
	g.change("rekey", "local/rsa")
	allRenew()
	recruit("second")
	kept("second")
	allGood("first", "second")

	// New roots.
	g.change("rekey", "local/ec", "--root")
	g.change("rekey", "local/rsa", "--root")
	if n := len(certificates(t, now)); n != 4 {
		t.Errorf("%d roots, want two of two CAs", n)
	}
	allRenew()
	recruit("third")
	kept("third")
	// Under a MAC, CMP gives who trusts nothing yet the new root (caPubs).
	g.sh(dir, ecKey+`pubs.key; openssl cmp -config '' -batch -cmd ir -server "$MUSTER_HTTP" -path .well-known/cmp -ref factory -secret pass:`+rolloverSecret+` \
		-newkey pubs.key -subject /CN=pubs -certout pubs.pem -cacertsout pubs.ca.pem 2>cmp.log || { cat cmp.log; exit 1; }
		test "$(openssl x509 -in pubs.ca.pem -noout -fingerprint)" = "$(openssl x509 -in "$MUSTER_CA" -noout -fingerprint)"`)
	allGood("first", "second", "third")
	g.links(dir)

	// All of that stands after a restart.
	g.again()
	allRenew()
	kept("restarted")
	allGood("first", "second", "third", "restarted")
	g.links(dir)

	// One certificate of each time is revoked; its neighbours are not.
	for n, epoch := range []string{"first", "second", "third"} {
		g.muster("revoke", strings.TrimPrefix(serial(g, dir, issued[epoch][0]), "serial="), "--reason", "keyCompromise")
		g.revoked(dir, issued[epoch][0], now)
		g.muster("revoke", strings.TrimPrefix(serial(g, dir, issued[epoch][2]), "serial="), "--reason", "superseded")
		g.revoked(dir, issued[epoch][2], now)
		for _, later := range []string{"first", "second", "third"}[n+1:] {
			g.good(dir, issued[later][0], now)
			g.good(dir, issued[later][2], now)
		}
		g.good(dir, issued[epoch][1], now)
		g.good(dir, issued[epoch][3], now)
	}
	// A device does not renew by a certificate that is revoked, whatever key signed it; the others do.
	last := devices[len(devices)-len(rolloverProtocols)] // over EST
	g.muster("revoke", strings.TrimPrefix(serial(g, dir, last.name+".pem"), "serial="))
	if out, code := g.run(dir, "sh", "-euc", `set -- "`+last.name+`" "`+last.roots+`"; `+renewal["est"]); code == 0 || !strings.Contains(out, "403") {
		t.Errorf("a revoked certificate renews: exit %d\n%s", code, out)
	}
	g.renews(dir, devices[0])

	// To a verifier that takes any CRL of the name, every key's says the same.
	serials := ""
	for _, name := range []string{"ec.1", "ec.2", "ec.3"} {
		list := g.sh(dir, `curl -sS --fail "$MUSTER_HTTP/crl/local/`+name+`.crl" | openssl crl -inform DER -noout -text | grep 'Serial Number' | sort`)
		if serials == "" {
			serials = list
		}
		if strings.Count(list, "Serial") != 4 || list != serials {
			t.Errorf("CRL %s:\n%s", name, list)
		}
	}

	// Once more: TLS and CMP send two links, which lead to the first root.
	g.change("rekey", "local/ec", "--root")
	for _, v := range devices[:2] {
		g.renews(dir, v)
		g.good(dir, v.name+".pem", now)
	}

	// A renewal keeps the keys, and with them the names of the CRLs.
	g.change("renew", "local/ec")
	g.change("renew", "local/rsa", "--root")
	for _, v := range devices[:len(rolloverProtocols)] {
		g.renews(dir, v)
		g.good(dir, v.name+".pem", now)
	}
	if n := g.generations(); n != 4 {
		t.Errorf("%d keys of the CA ec have a CRL", n)
	}
}

// links looks at what EST, SCEP and TLS hand out between two roots of the EC CA.
func (g *instance) links(dir string) {
	g.t.Helper()
	t := g.t
	g.sh(dir, `curl -sS --fail --cacert first-roots.pem "$MUSTER_HTTPS/.well-known/est/cacerts" | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs -out cacerts.pem
		curl -sS --fail "$MUSTER_HTTP/scep?operation=GetCACert" | openssl pkcs7 -inform DER -print_certs -out getcacert.pem
		openssl s_client -connect "${MUSTER_HTTPS#https://}" -showcerts </dev/null 2>/dev/null | sed -n '/BEGIN/,/END/p' > tls.pem`)
	before, after := certificates(t, filepath.Join(dir, "first-roots.pem"))[0], certificates(t, filepath.Join(g.dir, "ca", "roots.pem"))[0]
	if before.Equal(after) {
		t.Fatal("the root is the one of before")
	}
	linking := func(all []*x509.Certificate, subject, by *x509.Certificate) bool {
		for _, c := range all {
			if bytes.Equal(c.RawSubjectPublicKeyInfo, subject.RawSubjectPublicKeyInfo) && by.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil {
				return true
			}
		}
		return false
	}
	cacerts, ra, tls := certificates(t, filepath.Join(dir, "cacerts.pem")), certificates(t, filepath.Join(dir, "getcacert.pem")), certificates(t, filepath.Join(dir, "tls.pem"))
	for what, pair := range map[string][2]*x509.Certificate{"OldWithOld": {before, before}, "OldWithNew": {before, after}, "NewWithOld": {after, before}, "NewWithNew": {after, after}} {
		if !linking(cacerts, pair[0], pair[1]) {
			t.Errorf("cacerts lacks %s", what)
		}
	}
	// What strongSwan, scepclient and certmonger take for one chain is one: the RA first, no earlier generation.
	if len(ra) != 3 || ra[0].IsCA || ra[0].CheckSignatureFrom(ra[1]) != nil || ra[1].CheckSignatureFrom(ra[2]) != nil || ra[2].CheckSignatureFrom(ra[2]) != nil {
		t.Errorf("GetCACert has %d certificates, not the RA and its chain", len(ra))
	}
	if !linking(tls, after, before) || linking(tls, after, after) {
		t.Error("TLS does not send NewWithOld in the root's place")
	}
	// The gateway's own certificates come from the current keys; CMP sends what leads to the old root, then the new one.
	g.sh(dir, ecKey+`extra.key; openssl cmp -config '' -batch -cmd ir -server "$MUSTER_HTTP" -path .well-known/cmp -trusted first-roots.pem -ref factory -secret pass:`+rolloverSecret+` \
		-newkey extra.key -subject "/CN=extra-$(date +%N)" -certout extra.pem 2>cmp.log || { cat cmp.log; exit 1; }
		openssl cmp -config '' -batch -cmd kur -server "$MUSTER_HTTP" -path .well-known/cmp -trusted first-roots.pem -cert extra.pem -key extra.key -newkey extra.key \
			-certout extra.pem -extracertsout extra.chain 2>cmp.log || { cat cmp.log; exit 1; }`)
	extra, signed := certificates(t, filepath.Join(dir, "extra.chain")), false
	for _, c := range extra {
		signed = signed || !c.IsCA && c.CheckSignatureFrom(cacerts[0]) == nil
	}
	if !signed || !linking(extra, after, before) || !linking(extra[len(extra)-1:], after, after) || linking(extra, before, before) {
		t.Errorf("extraCerts has %d certificates: the RA's under the new key: %t", len(extra), signed)
	}
	if rsa := certificates(t, filepath.Join(g.dir, "ca", "authority", "rsa.3", "issuing.crt")); !ra[1].Equal(rsa[0]) {
		t.Error("the SCEP RA is not under the current key")
	}
	// By what is not self-signed of cacerts, who trusts one root alone verifies certificates of all times.
	var between bytes.Buffer
	for _, c := range cacerts {
		if !linking([]*x509.Certificate{c}, c, c) {
			if err := pem.Encode(&between, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "between.pem"), between.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	g.sh(dir, `openssl x509 -in first-roots.pem -out only-old.pem; openssl x509 -in "$MUSTER_CA" -out only-new.pem
		for c in est-first.in-first.pem est-first.in-second.pem est-first.in-third.pem cmp-third.in-third.pem; do for r in only-old.pem only-new.pem; do
			openssl verify -x509_strict -CAfile $r -untrusted between.pem $c || { echo $c under $r; exit 1; }; done; done`)
}

// TestPublishedCRL: what caches of the CRL that a certificate names are told, before and after a revocation.
func TestPublishedCRL(t *testing.T) {
	g, dir := rolling(t)
	roots := g.env["MUSTER_CA"]
	v := &veteran{name: "cached", protocol: "est", roots: roots}
	g.as(dir, v, enrolment)
	g.sh(dir, `cp cached.pem first.pem`)
	ask := func(more string) (status string, headers map[string]string) {
		t.Helper()
		out := g.sh(dir, `curl -sS -o crl.der -D - `+more+` "$(openssl x509 -in first.pem -noout -ext crlDistributionPoints | sed -n 's/.*URI://p')"`)
		headers = map[string]string{}
		for n, line := range strings.Split(strings.TrimSpace(out), "\n") {
			if name, value, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
				headers[strings.ToLower(name)] = value
			} else if n == 0 {
				status = strings.Fields(line)[1]
			}
		}
		return status, headers
	}
	status, h := ask("")
	if status != "200" || h["content-type"] != "application/pkix-crl" || !strings.HasPrefix(h["cache-control"], "public, max-age=") || h["etag"] == "" || h["last-modified"] == "" || h["expires"] == "" {
		t.Errorf("%s %v", status, h)
	}
	for _, condition := range []string{`If-None-Match: ` + h["etag"], `If-Modified-Since: ` + h["last-modified"]} {
		if status, _ := ask(`-H '` + condition + `'`); status != "304" {
			t.Errorf("%s: %s", condition, status)
		}
	}
	if status, head := ask("--head"); status != "200" || head["etag"] != h["etag"] {
		t.Errorf("HEAD: %s %v", status, head)
	}
	g.change("rekey", "local/ec")
	if status, after := ask(""); status != "200" || after["etag"] == "" {
		t.Errorf("after a new key: %s %v", status, after)
	}
	g.muster("revoke", strings.TrimPrefix(serial(g, dir, "first.pem"), "serial="))
	g.revoked(dir, "first.pem", roots)
	status, after := ask(`-H 'If-None-Match: ` + h["etag"] + `'`)
	if status != "200" || after["etag"] == h["etag"] {
		t.Errorf("after a revocation: %s %v", status, after)
	}
	// What was published stays the same after a restart.
	was, err := os.ReadFile(filepath.Join(dir, "crl.der"))
	if err != nil {
		t.Fatal(err)
	}
	g.again()
	if status, again := ask(""); status != "200" || again["etag"] != after["etag"] {
		t.Errorf("after a restart: %s %v", status, again)
	}
	if is, err := os.ReadFile(filepath.Join(dir, "crl.der")); err != nil || !bytes.Equal(was, is) {
		t.Errorf("another CRL: %v", err)
	}
}
