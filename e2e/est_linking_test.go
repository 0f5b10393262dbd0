package e2e

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	x509pkix "crypto/x509/pkix"
	encasn1 "encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// An endpoint where devices have to link their requests to the connection, and RAs pass on what devices have linked to theirs;
// one that knows no RA; and one that knows it for renewals only.
const linkingConfig = onLocalCA + `profiles:
  device: {backend: local, validity: 90d}
endpoints:
  ran:
    protocol: est
    listeners: [https]
    default: true
    profile: device
    enroll:
      - anyOf:
          - [ra: {cas: [ra-ca.pem]}, keys: {}]
          - [client-certificate: {cas: [ra-ca.pem]}, keys: {pop: [tls-binding]}]
      - names: {}
    renew:
      - own-certificate: {}
  other:
    protocol: est
    listeners: [https]
    profile: device
    enroll:
      - client-certificate: {cas: [ra-ca.pem], purposes: [clientAuth, cmcRA]}
      - names: {}
  half:
    protocol: est
    listeners: [https]
    profile: device
    enroll:
      - client-certificate: {cas: [ra-ca.pem], purposes: [clientAuth, cmcRA]}
      - names: {}
    renew:
      - ra: {cas: [ra-ca.pem]}
      - own-certificate: {}
`

// certifier is a CA of the test's own.
func certifier(t testing.TB, name string) (caPEM string, certify func(cn string, purposes ...encasn1.ObjectIdentifier) *device) {
	t.Helper()
	newKey := func() crypto.Signer {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	caKey := newKey()
	sign := func(tmpl, issuer *x509.Certificate, key crypto.Signer) *x509.Certificate {
		tmpl.SerialNumber, tmpl.NotBefore, tmpl.NotAfter = new(big.Int).SetBytes(random(8)), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		if issuer == nil {
			issuer = tmpl
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, issuer, key.Public(), caKey)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	ca := sign(&x509.Certificate{Subject: x509pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, caKey)
	return certificatePEM(ca), func(cn string, purposes ...encasn1.ObjectIdentifier) *device {
		d := &device{key: newKey()}
		d.cert = sign(&x509.Certificate{Subject: x509pkix.Name{CommonName: cn}, KeyUsage: x509.KeyUsageDigitalSignature, SubjectKeyId: random(20), UnknownExtKeyUsage: purposes}, ca, d.key)
		return d
	}
}

func certificatePEM(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

var oidEKUcmcRA = encasn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 28} // RFC 6402 section 2.10

// linkedRequest is a PKCS#10 request with a challengePassword (RFC 2985 section 5.4.1), or estIdentityLinking (RFC 7894 section
// 3.3); with neither where the value is empty.
func linkedRequest(t *testing.T, cn string, oid encasn1.ObjectIdentifier, value string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	p := parts{name: cn, spki: spki, algorithm: oidECDSASHA256, key: key}
	if value != "" {
		p.attrs = attribute(oid, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(value)) })
		})
	}
	return p.der()
}

var oidLinking = encasn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 58} // estIdentityLinking

// over is a client with one connection of a TLS version, and the connection's channel binding in base64.
func (g *instance) over(d *device, version uint16) (*http.Client, string) {
	g.t.Helper()
	c := g.client(d)
	transport := c.Transport.(*http.Transport)
	transport.TLSClientConfig.MinVersion, transport.TLSClientConfig.MaxVersion = version, version
	res, err := c.Get(g.env["MUSTER_HTTPS"] + "/.well-known/est/cacerts")
	if err != nil {
		g.t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil { // else the connection is not used again
		g.t.Fatal(err)
	}
	value := res.TLS.TLSUnique
	if version == tls.VersionTLS13 {
		if value, err = res.TLS.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32); err != nil {
			g.t.Fatal(err)
		}
	}
	return c, base64.StdEncoding.EncodeToString(value)
}

// RFC 7030 section 3.5 where the endpoint requires it, and section 3.7: what an RA passes on is linked to another connection.
func TestESTLinking(t *testing.T) {
	caPEM, certify := certifier(t, "RA CA")
	_, forge := certifier(t, "RA CA")
	ra, vendor, stranger := certify("RA", oidEKUcmcRA), certify("vendor-0001"), forge("RA", oidEKUcmcRA)
	g := configured(t, linkingConfig, "ra-ca.pem", caPEM)
	// Clients learn from csrattrs that they have to link (RFC 7030 section 3.5).
	for endpoint, want := range map[string]bool{"ran": true, "other": false} {
		out := g.sh(g.dir, `curl -sS --cacert "$MUSTER_CA" "$MUSTER_HTTPS/.well-known/est/`+endpoint+`/csrattrs" | openssl base64 -d -A | openssl asn1parse -inform DER`)
		if strings.Contains(out, "challengePassword") != want {
			t.Errorf("%s: csrattrs asks for\n%s", endpoint, out)
		}
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		_, foreign := g.over(nil, version)
		for i, c := range []struct {
			name      string
			client    *device
			operation string
			attribute encasn1.ObjectIdentifier
			value     string // own: the connection's; "": none
			status    int
			says      string
		}{
			{"linked", vendor, "simpleenroll", oidChallenge, "own", 200, ""},
			{"linked by estIdentityLinking", vendor, "simpleenroll", oidLinking, "own", 200, ""},
			{"not linked", vendor, "simpleenroll", nil, "", 400, "put the base64 of the connection's channel binding (TLS 1.2: tls-unique; TLS 1.3: tls-exporter, RFC 9266) into the attribute challengePassword"},
			{"linked elsewhere", vendor, "simpleenroll", oidChallenge, foreign, 400, "the request's challengePassword is not the channel binding of this TLS connection"},
			{"linked elsewhere by estIdentityLinking", vendor, "simpleenroll", oidLinking, foreign, 400, "the request's estIdentityLinking is not the channel binding of this TLS connection"},
			{"an RA passes on", ra, "simpleenroll", oidChallenge, foreign, 200, ""},
			{"an RA passes on estIdentityLinking", ra, "simpleenroll", oidLinking, foreign, 200, ""},
			{"an RA passes on what is not linked", ra, "simpleenroll", nil, "", 200, ""},
			{"an RA of another CA", stranger, "simpleenroll", oidChallenge, foreign, 400, "is not the channel binding"},
			{"an RA where none is known", ra, "other/simpleenroll", oidChallenge, foreign, 400, "is not the channel binding"},
			{"an RA where none is known, not linked", ra, "other/simpleenroll", nil, "", 200, ""},
			{"an RA of the renewals alone", ra, "half/simpleenroll", oidChallenge, foreign, 400, "only a registration authority may pass it on"},
			{"an RA renews for a device", ra, "simplereenroll", oidChallenge, foreign, 403, "use /simpleenroll for the device"},
			{"an RA renews for a device, not linked", ra, "simplereenroll", nil, "", 403, "use /simpleenroll for the device"},
		} {
			client, own := g.over(c.client, version)
			if own == foreign {
				t.Fatal("two connections have one channel binding")
			}
			if c.value == "own" {
				c.value = own
			}
			cn := "linked-" + string(rune('a'+i))
			a, err := g.post(context.Background(), client, c.operation, "", "", "application/pkcs10", []byte(toBase64(linkedRequest(t, cn, c.attribute, c.value))))
			if err != nil {
				t.Fatalf("TLS %x, %s: %v", version, c.name, err)
			}
			if a.status != c.status || !strings.Contains(a.body, c.says) || a.cert != nil && a.cert.Subject.CommonName != cn {
				t.Errorf("TLS %x, %s: %d %q", version, c.name, a.status, a.body)
			}
			client.CloseIdleConnections()
		}
	}
	// linked-a is a device's own, linked-f what an RA has passed on.
	for cn, want := range map[string][]string{
		"linked-a": {"possession shown by tls-binding", "CN=vendor-0001"},
		"linked-f": {"possession shown by signature, bound to another connection, as an RA passes it on", "RA by tls-certificate CN=RA"},
	} {
		list := g.transactions(cn)
		if len(list) != 2 {
			t.Fatalf("%s: %d transactions", cn, len(list))
		}
		trail := g.muster("explain", list[0].ID)
		for _, words := range want {
			if !strings.Contains(trail, words) {
				t.Errorf("%s: explain does not say %q:\n%s", cn, words, trail)
			}
		}
	}
}

// openssl links to TLS 1.3 by its exporter, and curl is the RA that passes on what another has linked.
func TestESTLinkingByTools(t *testing.T) {
	caPEM, certify := certifier(t, "RA CA")
	g := configured(t, linkingConfig, "ra-ca.pem", caPEM)
	dir := t.TempDir()
	for name, d := range map[string]*device{"ra": certify("RA", oidEKUcmcRA), "vendor": certify("vendor-0001")} {
		der, err := x509.MarshalPKCS8PrivateKey(d.key)
		if err != nil {
			t.Fatal(err)
		}
		for file, block := range map[string]*pem.Block{name + ".key": {Type: "PRIVATE KEY", Bytes: der}, name + ".pem": {Type: "CERTIFICATE", Bytes: d.cert.Raw}} {
			if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	// The connection stands while the request is made: s_client reads what goes through it from a pipe.
	out := g.sh(dir, `mkfifo pipe
		openssl ecparam -name prime256v1 -genkey -noout -out device.key
		address=${MUSTER_HTTPS#https://}
		timeout 60 openssl s_client -connect "$address" -tls1_3 -CAfile "$MUSTER_CA" -cert vendor.pem -key vendor.key -ign_eof \
			-keymatexport EXPORTER-Channel-Binding -keymatexportlen 32 < pipe > session.txt 2> errors.txt &
		client=$!
		exec 3> pipe
		until grep -q 'Keying material: ' session.txt; do kill -0 $client; done
		hex=$(sed -n 's/ *Keying material: //p' session.txt)
		openssl asn1parse -genstr "FORMAT:HEX,OCTETSTRING:$hex" -noout -out binding.der
		binding=$(tail -c 32 binding.der | openssl base64 -A)
		openssl req -new -key device.key -outform DER -out device.der -config /dev/stdin <<END
[req]
distinguished_name = name
attributes = attributes
prompt = no
[name]
CN = linked-by-openssl
[attributes]
challengePassword = $binding
END
		openssl base64 -in device.der -out device.b64
		{ printf 'POST /.well-known/est/simpleenroll HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Type: application/pkcs10\r\nContent-Length: %s\r\n\r\n' "$address" $(wc -c < device.b64)
		  cat device.b64; } >&3
		wait $client
		exec 3>&-
		cat session.txt`)
	if !strings.Contains(out, "HTTP/1.1 200 OK") {
		t.Errorf("openssl:\n%s", out)
	}
	curl := func(client string) string {
		return g.sh(dir, `curl -sS --cacert "$MUSTER_CA" --cert `+client+`.pem --key `+client+`.key -H 'Content-Type: application/pkcs10' --data-binary @device.b64 \
			-w '\n%{http_code}' "$MUSTER_HTTPS/.well-known/est/simpleenroll"`)
	}
	if got := curl("vendor"); !strings.HasSuffix(got, "\n400") || !strings.Contains(got, "it has to be the base64 of tls-exporter (RFC 9266)") {
		t.Errorf("curl, linked to another connection: %s", got)
	}
	if got := curl("ra"); !strings.HasSuffix(got, "\n200") {
		t.Errorf("curl as an RA: %s", got)
	}
}
