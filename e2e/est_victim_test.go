package e2e

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	encasn1 "encoding/asn1"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

const victimConfig = onLocalCA + `
profiles:
  any: {backend: local}
endpoints:
  plant:
    protocol: est
    listeners: [https]
    profile: any
    default: true
    enroll:
      - vendor-ca: {dir: vendor, serial: subject.CN}
      - names: {device: [subject.CN, san.dns], san: {dns: {}}}
    renew:
      - own-certificate: {change-names: true}
      - names: {device: [subject.CN, san.dns], san: {dns: {}}}
`

// The victim test: device A, by its certificate, asks for device B's names, in subject, in subjectAltName and in
// ChangeSubjectName. RFC 7030 sections 4.2.1 and 4.2.2: a client that is known and may not is told 403; nothing is certified.
func TestESTVictim(t *testing.T) {
	caPEM, certify := certifier(t, "Vendor CA")
	vendor := t.TempDir()
	if err := os.WriteFile(filepath.Join(vendor, "ca.pem"), []byte(caPEM), 0o600); err != nil {
		t.Fatal(err)
	}
	g := configured(t, strings.Replace(victimConfig, "dir: vendor", "dir: "+vendor, 1))
	dir := t.TempDir()
	for _, name := range []string{"device-a", "device-b"} {
		d := certify(name)
		key, err := x509.MarshalPKCS8PrivateKey(d.key)
		if err != nil {
			t.Fatal(err)
		}
		text := certificatePEM(d.cert) + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
		if err := os.WriteFile(filepath.Join(dir, name+"-idevid.pem"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// ask has a device send a request for a subject and a DNS name, with a new key, and keeps what it gets as NAME.pem.
	ask := func(operation, credential, subject, dns, out string) string {
		t.Helper()
		san := ""
		if dns != "" {
			san = "-addext subjectAltName=DNS:" + dns
		}
		return g.sh(dir, fmt.Sprintf(`
			openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout new.key -subj %s %s -outform DER 2>/dev/null | openssl base64 -A > new.b64
			curl -sS --cacert "$MUSTER_CA" --cert %s -H 'Content-Type: application/pkcs10' --data-binary @new.b64 -o body -w '%%{http_code} ' "$MUSTER_HTTPS/.well-known/est/%s"
			if openssl base64 -d -A -in body | openssl pkcs7 -inform DER -print_certs -out %s.crt 2>/dev/null; then cat %s.crt new.key > %s.pem; else cat body; fi`,
			subject, san, credential, operation, out, out, out))
	}
	must := func(what, got, status, says string) {
		t.Helper()
		if !strings.HasPrefix(got, status) || !strings.Contains(got, says) {
			t.Errorf("%s: %s, want %s %q", what, got, status, says)
		}
	}
	for _, name := range []string{"device-a", "device-b"} {
		must(name+" enrols", ask("simpleenroll", name+"-idevid.pem", "/CN="+name, name, name), "200", "")
	}
	must("device-a has a certificate without a DNS name", ask("simpleenroll", "device-a-idevid.pem", "/CN=device-a", "", "plain"), "200", "")
	issued := len(g.ledger("device-"))

	for _, operation := range []string{"simpleenroll", "simplereenroll"} {
		credential := "device-a-idevid.pem"
		if operation == "simplereenroll" {
			credential = "device-a.pem"
		}
		for what, names := range map[string][2]string{
			"another's subject":                  {"/CN=device-b", ""},
			"another's subject and name":         {"/CN=device-b", "device-b"},
			"its own subject, and another's SAN": {"/CN=device-a", "device-b"},
			"another's subject, and its own SAN": {"/CN=device-b", "device-a"},
		} {
			got := ask(operation, credential, names[0], names[1], "stolen")
			must(operation+", "+what, got, "403", "")
			told := g.muster("explain", "--last")
			if !strings.Contains(told, "device-b") {
				t.Errorf("%s, %s: explain does not name the other device:\n%s", operation, what, told)
			}
		}
	}
	// A vendor's certificate, one's own or another's, renews nothing.
	must("renewed by the vendor's certificate", ask("simplereenroll", "device-a-idevid.pem", "/CN=device-a", "device-a", "stolen"), "403", "")
	// RFC 6402 section 2.8: ChangeSubjectName, beside the names that the certificate has.
	changed := g.asksToBe("plain", dir, "device-b")
	if changed.status != 403 || !strings.Contains(g.muster("explain", "--last"), "device-b") {
		t.Errorf("ChangeSubjectName: %d %q", changed.status, changed.body)
	}
	if n := len(g.ledger("device-")); n != issued {
		t.Errorf("%d certificates were made", n-issued)
	}
	must("device-a renews its own", ask("simplereenroll", "device-a.pem", "/CN=device-a", "device-a", "renewed"), "200", "")
}

// asksToBe re-enrolls by the certificate in NAME.pem, for another common name by ChangeSubjectName.
func (g *instance) asksToBe(name, dir, other string) *answer {
	g.t.Helper()
	file := filepath.Join(dir, name+".pem")
	pair, err := tls.LoadX509KeyPair(file, file)
	if err != nil {
		g.t.Fatal(err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		g.t.Fatalf("a key of type %T", pair.PrivateKey)
	}
	subject, err := encasn1.Marshal(pkix.Name{CommonName: other}.ToRDNSequence())
	if err != nil {
		g.t.Fatal(err)
	}
	csr := parts{
		name: pair.Leaf.Subject.CommonName, spki: pair.Leaf.RawSubjectPublicKeyInfo, algorithm: oidECDSASHA256, key: key,
		attrs: attribute(encasn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 7, 36}, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(subject) })
		}),
	}
	client, _ := g.over(&device{key: key, cert: pair.Leaf}, tls.VersionTLS13)
	a, err := g.post(g.t.Context(), client, "simplereenroll", "", "", "application/pkcs10", []byte(toBase64(csr.der())))
	if err != nil {
		g.t.Fatal(err)
	}
	return a
}
