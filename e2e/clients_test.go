package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// makeKey and makeCSR are what an operator types; the second takes a subject.
const (
	makeKey = `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out device.key 2>/dev/null`
	makeCSR = `openssl req -new -key device.key -subj "$1" -outform DER | openssl base64 -A > device.b64`
)

func TestCurl(t *testing.T) {
	g := startIn(t, filepath.Join(t.TempDir(), "data"))
	dir := t.TempDir()
	est := `curl -sS --cacert "$MUSTER_CA" -H 'Content-Type: application/pkcs10' --data-binary @device.b64 `
	toPEM := ` | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs -out `
	script := func(s, subject string) string { return g.sh(dir, `set -- "`+subject+`"; `+s) }

	t.Run("cacerts", func(t *testing.T) {
		g.sh(dir, `curl -sS --fail --cacert "$MUSTER_CA" "$MUSTER_HTTPS/.well-known/est/cacerts"`+toPEM+`cas.pem`)
		if out := g.sh(dir, `openssl crl2pkcs7 -nocrl -certfile cas.pem | openssl pkcs7 -print_certs -noout`); strings.Count(out, "subject=") != 2 {
			t.Errorf("cacerts holds\n%s", out)
		}
	})
	t.Run("enrol", func(t *testing.T) {
		script(makeKey+"\n"+makeCSR, "/CN=device-0001")
		g.sh(dir, est+`--fail -u "$MUSTER_EST_USER:$MUSTER_EST_PASSWORD" "$MUSTER_HTTPS/.well-known/est/simpleenroll"`+toPEM+`device.crt`)
		out := g.sh(dir, `openssl verify -x509_strict -CAfile "$MUSTER_CA" -untrusted cas.pem device.crt; openssl x509 -in device.crt -noout -subject`)
		if !strings.Contains(out, "device.crt: OK") || !strings.Contains(out, "CN = device-0001") {
			t.Error(out)
		}
	})
	t.Run("re-enrol", func(t *testing.T) {
		g.sh(dir, est+`--fail --cert device.crt --key device.key "$MUSTER_HTTPS/.well-known/est/simplereenroll"`+toPEM+`renewed.crt`)
		out := g.sh(dir, `openssl verify -x509_strict -CAfile "$MUSTER_CA" -untrusted cas.pem renewed.crt
			openssl x509 -in device.crt -noout -serial; openssl x509 -in renewed.crt -noout -serial`)
		serials := regexp.MustCompile(`serial=(\w+)`).FindAllStringSubmatch(out, -1)
		if len(serials) != 2 || serials[0][1] == serials[1][1] {
			t.Errorf("not renewed:\n%s", out)
		}
	})
	t.Run("the renewed certificate renews with a new key", func(t *testing.T) {
		g.sh(dir, `mv device.key old.key; mv renewed.crt old.crt`)
		script(makeKey+"\n"+makeCSR, "/CN=device-0001")
		g.sh(dir, est+`--fail --cert old.crt --key old.key "$MUSTER_HTTPS/.well-known/est/simplereenroll"`+toPEM+`rekeyed.crt`)
		g.sh(dir, `openssl verify -CAfile "$MUSTER_CA" -untrusted cas.pem rekeyed.crt`)
	})

	// Every way of being refused, what the client sees, and what the operator is told.
	for _, c := range []struct {
		name, subject, args, status string
		explain                     []string
	}{
		{"no credentials", "/CN=device-0002", `"$MUSTER_HTTPS/.well-known/est/simpleenroll"`, "401", []string{"unauthenticated", "password"}},
		{"wrong password", "/CN=device-0002", `-u "$MUSTER_EST_USER:wrong" "$MUSTER_HTTPS/.well-known/est/simpleenroll"`, "401", []string{"unauthenticated", "password"}},
		{"unknown user", "/CN=device-0002", `-u "nobody:wrong" "$MUSTER_HTTPS/.well-known/est/simpleenroll"`, "401", []string{"unauthenticated", "password"}},
		{"another subject at re-enrol", "/CN=victim", `--cert old.crt --key old.key "$MUSTER_HTTPS/.well-known/est/simplereenroll"`, "403", []string{"not-authorized", "own-certificate", "victim", "device-0001"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			script(makeKey+"\n"+makeCSR, c.subject)
			out := g.sh(dir, est+`-w '\n%{http_code} %header{www-authenticate}' `+c.args)
			if !strings.Contains(out, "\n"+c.status) {
				t.Fatalf("answered %s, want %s", out, c.status)
			}
			if challenged := strings.Contains(out, "Basic realm="); challenged != (c.status == "401") {
				t.Errorf("WWW-Authenticate: %s", out)
			}
			id := regexp.MustCompile(`[0-9a-hjkmnp-tv-z]{26}`).FindString(out)
			if id == "" {
				t.Fatalf("the answer names no transaction: %s", out)
			}
			told := g.muster("explain", id)
			for _, want := range c.explain {
				if !strings.Contains(told, want) {
					t.Errorf("explain does not say %q:\n%s", want, told)
				}
			}
			for _, secret := range []string{"wrong", g.env["MUSTER_EST_PASSWORD"]} {
				if strings.Contains(g.stderr.String(), ":"+secret) || strings.Contains(g.stderr.String(), g.env["MUSTER_EST_PASSWORD"]) {
					t.Error("a password is in the log")
				}
			}
		})
	}
}

func TestStrongSwan(t *testing.T) {
	g := startIn(t, filepath.Join(t.TempDir(), "data"))
	dir := t.TempDir()
	g.sh(dir, `pki --estca --url "$MUSTER_HTTPS" --cacert "$MUSTER_CA" --caout ca.pem --outform pem 2>estca.log || { cat estca.log; exit 1; }`)
	files, err := filepath.Glob(filepath.Join(dir, "ca*.pem"))
	if err != nil || len(files) < 2 {
		t.Fatalf("pki --estca left %v (%v)", files, err)
	}
	g.sh(dir, `
		pki --gen --type ecdsa --size 256 --outform pem > device.key 2>/dev/null
		pki --req --in device.key --type ecdsa --dn "CN=strongswan-0001" --digest sha256 > device.req 2>/dev/null
		# It trusts the TLS server by --cacert, and finds the issuer of what it gets among them.
		set --; for c in ca*.pem; do set -- "$@" --cacert "$c"; done
		pki --est --url "$MUSTER_HTTPS" --in device.req --userpass "$MUSTER_EST_USER:$MUSTER_EST_PASSWORD" "$@" --outform pem > device.crt 2>est.log || { cat est.log; exit 1; }
		openssl verify -CAfile "$MUSTER_CA" -untrusted ca-1.pem -untrusted ca.pem device.crt`)
	g.sh(dir, `
		set --; for c in ca*.pem; do set -- "$@" --cacert "$c"; done
		pki --est --url "$MUSTER_HTTPS" --in device.req --cert device.crt --key device.key "$@" --outform pem > renewed.crt 2>est.log || { cat est.log; exit 1; }
		openssl verify -CAfile "$MUSTER_CA" -untrusted ca-1.pem -untrusted ca.pem renewed.crt`)
	first, err := os.ReadFile(filepath.Join(dir, "device.crt"))
	if err != nil {
		t.Fatal(err)
	}
	second, err := os.ReadFile(filepath.Join(dir, "renewed.crt"))
	if err != nil || string(first) == string(second) {
		t.Errorf("strongSwan's renewal gave the same certificate (%v)", err)
	}
}
