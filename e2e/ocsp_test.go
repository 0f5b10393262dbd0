package e2e

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const ocspConfig = `version: 1
listeners:
  http: {address: ADDRESS}
  https: {address: 127.0.0.1:0, tls: {}}
store: sqlite:muster.db
backends:
  local:
    plugin: local
    config:
      dir: ca
      issuers:
        ec: {ocsp: ["http://ADDRESS/ocsp/local/ec"]}
        rsa: {bits: 2048}
server-certificate: {backend: local}
distribution: {listeners: [http]}
profiles:
  device: {backend: local, validity: 30d}
endpoints:
  est:
    protocol: est
    listeners: [https]
    default: true
    profile: device
    enroll: [{password: {file: users}}, {names: {}}]
`

// A certificate says where its OCSP responder is; openssl asks there, by POST and as a cache does by GET, before and after it is
// revoked, and after the CA has a new key; a stranger gets no signature.
func TestOCSP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	config := strings.ReplaceAll(ocspConfig, "ADDRESS", l.Addr().String())
	l.Close()
	g := configured(t, config, "users", "factory:"+strings.TrimPrefix(heldSecret(t, rolloverSecret), "held:"))
	dir, roots := t.TempDir(), filepath.Join(g.dir, "ca", "roots.pem")
	const enroll = `curl -sS --fail --cacert roots.pem -u factory:` + rolloverSecret + ` -H 'Content-Type: application/pkcs10' --data-binary @device.b64 \
			"$MUSTER_HTTPS/.well-known/est/simpleenroll" | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs -out "$2"
		curl -sS --fail "$MUSTER_HTTP/ca/local/$3.crt" | openssl x509 -inform DER -out "$3.pem"`
	const ask = `openssl ocsp -issuer "$2.pem" -cert "$1" -url "$(openssl x509 -in "$1" -noout -ocsp_uri)" -CAfile roots.pem 2>&1`
	g.sh(dir, `cp `+roots+` roots.pem; set -- /CN=device-0001 one.crt ec.1; `+makeKey+`; `+makeCSR+`; `+enroll)
	if out := g.sh(dir, `set -- one.crt ec.1; `+ask); !strings.Contains(out, "Response verify OK") || !strings.Contains(out, "one.crt: good") {
		t.Error(out)
	}
	out := g.sh(dir, `openssl ocsp -issuer ec.1.pem -cert one.crt -no_nonce -reqout request
		url="$(openssl x509 -in one.crt -noout -ocsp_uri)/$(openssl base64 -A -in request | sed 's,/,%2F,g; s,+,%2B,g; s,=,%3D,g')"
		curl -sS --fail -D head -o answer "$url"; cat head
		curl -sS -o /dev/null -w '%{http_code} again\n' -H "If-None-Match: $(sed -n 's/^Etag: //Ip' head | tr -d '\r')" "$url"
		openssl ocsp -issuer ec.1.pem -cert one.crt -no_nonce -respin answer -CAfile roots.pem 2>&1
		openssl ocsp -respin answer -resp_text -noverify | grep -e 'OCSP Signing' -e 'OCSP No Check'`)
	for _, want := range []string{"Content-Type: application/ocsp-response", "Cache-Control: public, max-age=43", "304 again", "Response verify OK", "one.crt: good", "OCSP Signing", "OCSP No Check"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if out, _ := g.run(dir, "sh", "-c", `openssl ocsp -issuer ec.1.pem -serial 0x1234 -url "$MUSTER_HTTP/ocsp/local/ec" -CAfile roots.pem 2>&1`); !strings.Contains(out, "unauthorized (6)") {
		t.Error(out)
	}
	serial := strings.TrimSpace(g.sh(dir, `openssl x509 -in one.crt -noout -serial | cut -d= -f2`))
	g.muster("revoke", serial, "--reason", "keyCompromise")
	for range 250 { // the CA is told at once, by a worker where that fails
		if out = g.sh(dir, `set -- one.crt ec.1; `+ask); strings.Contains(out, "revoked") {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if !strings.Contains(out, "Response verify OK") || !strings.Contains(out, "one.crt: revoked") || !strings.Contains(out, "Reason: keyCompromise") {
		t.Error(out)
	}
	// The gateway's own certificate names the responder, too: its TLS listener sends an answer along.
	if out := g.sh(dir, `for n in 1 2 3 4 5 6 7 8 9 10; do
			openssl s_client -connect "${MUSTER_HTTPS#https://}" -servername localhost -status -CAfile roots.pem </dev/null >handshake 2>&1
			grep -q 'OCSP Response Status: successful' handshake && break; sleep 0.05
		done; cat handshake`); !strings.Contains(out, "Cert Status: good") {
		t.Error(out)
	}
	g.change("rekey", "local/ec")
	g.sh(dir, `set -- /CN=device-0002 two.crt ec; `+makeCSR+`; `+enroll)
	for _, tt := range []struct{ cert, ca, want string }{{"two.crt", "ec", "two.crt: good"}, {"one.crt", "ec.1", "one.crt: revoked"}} {
		if out := g.sh(dir, `set -- `+tt.cert+` `+tt.ca+`; `+ask); !strings.Contains(out, "Response verify OK") || !strings.Contains(out, tt.want) {
			t.Error(out)
		}
	}
}
