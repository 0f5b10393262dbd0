package e2e

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// A certificate checked against the CRL before and after it is revoked; then the CA and its root get new keys, without a
// restart: who trusts the old root alone still verifies TLS and CMP, and each generation's certificates have a CRL.
func TestCRLAndBothGenerations(t *testing.T) {
	g := startIn(t, filepath.Join(t.TempDir(), "data"))
	dir := t.TempDir()
	const est = `-H 'Content-Type: application/pkcs10' --data-binary @device.b64 "$MUSTER_HTTPS/.well-known/est/simpleenroll" | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs -out `
	const check = `curl -sS --fail "$MUSTER_HTTP/ca/local/$1.crt" | openssl x509 -inform DER -out issuing.crt
		curl -sS --fail "$MUSTER_HTTP/crl/local/$1.crl" | openssl crl -inform DER -out issuing.crl
		openssl verify -crl_check -CAfile "$2" -untrusted issuing.crt -CRLfile issuing.crl "$3"`
	g.sh(dir, `cp "$MUSTER_CA" old.pem; set -- /CN=device-0001; `+makeKey+"; "+makeCSR+`
		for c in first second; do curl -sS --fail --cacert old.pem -u "$MUSTER_EST_USER:$MUSTER_EST_PASSWORD" `+est+`$c.crt
			set -- /CN=device-0002; `+makeCSR+`; done
		set -- ec old.pem first.crt; `+check)
	serial := strings.TrimSpace(g.sh(dir, `openssl x509 -in first.crt -noout -serial | cut -d= -f2`))
	g.muster("revoke", serial, "--reason", "keyCompromise")
	for range 250 { // the CA is told at once, by a worker where that fails
		if out, code := g.run(dir, "sh", "-c", `set -- ec old.pem first.crt; `+check); code != 0 && strings.Contains(out, "revoked") {
			serial = ""
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if serial != "" {
		t.Fatal("the CRL does not show the revocation")
	}
	g.sh(dir, `set -- ec.1 old.pem second.crt; `+check)

	g.change("rekey", "local/ec", "--root")
	bothRoots(g, dir)
	g.sh(dir, `set -- /CN=device-0003; `+makeCSR+`
		curl -sS --fail --cacert old.pem -u "$MUSTER_EST_USER:$MUSTER_EST_PASSWORD" `+est+`third.crt
		curl -sS --fail "$MUSTER_HTTPS/.well-known/est/cacerts" --cacert old.pem | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs -out cas.pem
		openssl verify -CAfile cas.pem third.crt; openssl verify -CAfile cas.pem second.crt
		set -- ec.1 old.pem second.crt; `+check+`
		curl -sS --fail "$MUSTER_HTTP/ca/local/ec.2.crt" | openssl x509 -inform DER -out new-issuing.crt
		openssl verify -partial_chain -CAfile new-issuing.crt third.crt
		curl -sS --fail "$MUSTER_HTTP/crl/local/ec.crl" | openssl crl -inform DER -CAfile new-issuing.crt -noout 2>&1 | grep "verify OK"
		test "$(curl -sS "$MUSTER_HTTP/ca/local/ec.p7c" | openssl pkcs7 -inform DER -print_certs -noout | grep -c '^subject')" = 4 # two issuing certificates, two links
		openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out cmp.key
		openssl cmp -config "" -cmd ir -server "$MUSTER_HTTP" -path .well-known/cmp -trusted old.pem -ref "$MUSTER_CMP_REF" -secret "pass:$MUSTER_CMP_SECRET" \
			-newkey cmp.key -subject /CN=device-0004 -certout cmp.crt -out_trusted old.pem
		openssl cmp -config "" -cmd kur -server "$MUSTER_HTTP" -path .well-known/cmp -trusted old.pem -cert cmp.crt -key cmp.key -newkey cmp.key -certout cmp2.crt`)
	// A certificate of the earlier key renews.
	g.sh(dir, `set -- /CN=device-0002; `+makeCSR+`
		curl -sS --fail --cacert old.pem --cert second.crt --key device.key -H 'Content-Type: application/pkcs10' --data-binary @device.b64 \
			"$MUSTER_HTTPS/.well-known/est/simplereenroll" | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs -out renewed.crt
		openssl verify -CAfile cas.pem renewed.crt`)
	g.stop()
	g.launch()
	if err := g.ready(); err != nil {
		t.Fatal(err)
	}
	bothRoots(g, dir)
}

// bothRoots looks at the file that the quickstart gives to clients: the new root comes first, since some read one only, and
// nothing that they trusted is gone.
func bothRoots(g *instance, dir string) {
	g.t.Helper()
	before, now := certificates(g.t, filepath.Join(dir, "old.pem")), certificates(g.t, g.env["MUSTER_CA"])
	if len(now) != len(before)+1 || slices.ContainsFunc(before, now[0].Equal) || !bytes.Equal(now[0].RawSubject, before[0].RawSubject) {
		g.t.Errorf("%d roots, before %d", len(now), len(before))
	}
	for _, c := range before {
		if !slices.ContainsFunc(now, c.Equal) {
			g.t.Errorf("the root %s of before is gone", c.Subject)
		}
	}
	if strings.Contains(g.stderr.String(), "the roots are not those of before") {
		g.t.Error("the log warns of another CA")
	}
}
