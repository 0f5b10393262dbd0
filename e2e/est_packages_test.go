package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var packagesConfig = onLocalCA + `
profiles:
  device: {backend: local}
endpoints:
  ran:
    protocol: est
    listeners: [https]
    profile: device
    default: true
    enroll:
      - anyOf:
          - device-password: {uses: unlimited}
          - password: {users: {factory: "{sha256}` + sha256Hex("a password of the factory") + `"}}
      - names: {}
    renew:
      - own-certificate: {}
    query:
      - own-certificate: {}
  plant:
    protocol: est
    listeners: [https]
    profile: device
    enroll:
      - device-password: {uses: unlimited}
      - names: {}
    renew:
      - own-certificate: {}
`

// RFC 8295 sections 3 and 4, by curl and openssl: the CRLs for everybody, and for who shows a certificate the certificates of the
// same device, never another's.
func TestESTPackages(t *testing.T) {
	g := configured(t, packagesConfig)
	dir := t.TempDir()
	hash := sha256Hex("the password of a device, long")
	csv := "name,password-hash\nalice,{sha256}" + hash + "\nbob,{sha256}" + hash + "\n"
	if err := os.WriteFile(filepath.Join(dir, "devices.csv"), []byte(csv), 0o600); err != nil {
		t.Fatal(err)
	}
	g.muster("device", "import", filepath.Join(dir, "devices.csv"))
	// One device enrols twice, another once; two more share the factory's password, which names no device. All at one key,
	// so that any of the certificates can be shown.
	g.sh(dir, makeKey+`
		enrol() { set -- "$@"; openssl req -new -key device.key -subj "/CN=$1-$3" -outform DER | openssl base64 -A > device.b64
			curl -sS --fail-with-body --cacert "$MUSTER_CA" -u "$1:$2" -H 'Content-Type: application/pkcs10' --data-binary @device.b64 \
				"$MUSTER_HTTPS/.well-known/est/$4simpleenroll" | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs -out "$1-$3.crt"; }
		p="the password of a device, long"
		enrol alice "$p" 1 ""; enrol alice "$p" 2 ""; enrol alice "$p" 3 plant/; enrol bob "$p" 1 ""
		enrol factory "a password of the factory" 1 ""; enrol factory "a password of the factory" 2 ""`)

	t.Run("eecerts", func(t *testing.T) {
		for shown, want := range map[string]string{"alice-1": "alice-2 alice-1", "alice-2": "alice-2 alice-1", "bob-1": "bob-1", "factory-1": "factory-1", "factory-2": "factory-2"} {
			out := g.sh(dir, `curl -sS --fail-with-body --cacert "$MUSTER_CA" --cert `+shown+`.crt --key device.key "$MUSTER_HTTPS/.well-known/est/ran/eecerts" -D headers |
				openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs -noout; grep -i '^content-type: application/pkcs7-mime.$' headers`)
			var got []string
			for line := range strings.Lines(out) {
				if name, ok := strings.CutPrefix(strings.TrimSpace(line), "subject=CN = "); ok {
					got = append(got, name)
				}
			}
			if strings.Join(got, " ") != want {
				t.Errorf("%s is told of %q, want %q\n%s", shown, got, want, out)
			}
		}
	})
	t.Run("refused", func(t *testing.T) {
		serial := strings.TrimSpace(g.sh(dir, `openssl x509 -in bob-1.crt -noout -serial | cut -d= -f2`))
		g.muster("revoke", serial)
		g.sh(dir, `openssl req -x509 -new -key device.key -subj /CN=alice-1 -out forged.crt 2>/dev/null`)
		const ask = `curl -sS -o answer -w '%{http_code}' --cacert "$MUSTER_CA" `
		for name, c := range map[string]struct{ args, path, status, text string }{
			"nobody":                {"", "eecerts", "401", "is required"},
			"a password":            {`-u "alice:the password of a device, long"`, "eecerts", "401", "is required"},
			"revoked":               {"--cert bob-1.crt --key device.key", "eecerts", "403", "revoked"},
			"forged":                {"--cert forged.crt --key device.key", "eecerts", "403", "not issued here"},
			"another endpoint's":    {"--cert alice-3.crt --key device.key", "eecerts", "403", "not one of this endpoint's"},
			"no query pipeline":     {"--cert alice-3.crt --key device.key", "plant/eecerts", "403", "does not allow the operation"},
			"no such endpoint":      {"", "nowhere/eecerts", "404", "no EST endpoint"},
			"POST":                  {"-d x", "eecerts", "405", "takes GET"},
			"POST for CRLs":         {"-d x", "crls", "405", "takes GET"},
			"HEAD":                  {"--head", "eecerts", "405", ""},
			"CRLs of no endpoint":   {"", "nowhere/crls", "404", "no EST endpoint"},
			"certificates of a URL": {"--cert alice-1.crt --key device.key", "eecerts/bob", "404", ""},
		} {
			status := strings.TrimSpace(g.sh(dir, ask+c.args+` "$MUSTER_HTTPS/.well-known/est/`+c.path+`"`))
			text, err := os.ReadFile(filepath.Join(dir, "answer"))
			if err != nil || status != c.status || !strings.Contains(string(text), c.text) {
				t.Errorf("%s: %s %s, %v", name, status, text, err)
			}
		}
		if out := g.muster("explain", "--last", "--device", "alice"); !strings.Contains(out, "/eecerts over TLS") || !strings.Contains(out, `issued at endpoint "plant"`) {
			t.Errorf("the operator is told\n%s", out)
		}
	})
	t.Run("crls", func(t *testing.T) {
		// Whose certificate is revoked above is on the list of its CA, by each way to it.
		for _, path := range []string{"crls", "ran/crls", "plant/crls"} {
			out := g.sh(dir, `n=0; until curl -sS --fail-with-body --cacert "$MUSTER_CA" "$MUSTER_HTTPS/.well-known/est/`+path+`" | openssl base64 -d -A |
					openssl pkcs7 -inform DER -print_certs | sed -n '/BEGIN X509 CRL/,/END X509 CRL/p' > est.crl &&
				curl -sS --fail --cacert "$MUSTER_CA" "$MUSTER_HTTPS/.well-known/est/cacerts" | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs -out cas.pem &&
				openssl crl -in est.crl -noout -CAfile cas.pem 2>&1 | grep -q "verify OK" &&
				! openssl verify -crl_check -CAfile cas.pem -CRLfile est.crl bob-1.crt > verified 2>&1; do
					n=$((n+1)); test $n -lt 250; sleep 0.02; done
				cat verified; openssl verify -crl_check -CAfile cas.pem -CRLfile est.crl alice-1.crt`)
			if !strings.Contains(out, "certificate revoked") || !strings.Contains(out, "alice-1.crt: OK") {
				t.Errorf("%s:\n%s", path, out)
			}
		}
	})
}
