//go:build cas

package cas

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/backends/stepca"
	"github.com/muster-pki/muster/e2e/running"
	"github.com/muster-pki/muster/plugins/backend"
)

func newRSA() crypto.Signer {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
}

func newEC() crypto.Signer {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}

const stepcaChallenge = "a challenge of 128 bits and more"

// gateway starts Muster by configs/stepca.yaml, with this CA's address and files in the places of the example's. replace is pairs of further changes.
func (s *stepCA) gateway(replace ...string) *running.Gateway {
	s.t.Helper()
	g := running.Start(s.t, binary, nil, s.config(replace...), s.files())
	return g
}

func (s *stepCA) config(replace ...string) string {
	s.t.Helper()
	text, err := os.ReadFile("../../configs/stepca.yaml")
	s.ok(err)
	config := string(text)
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(config, replace[i]) {
			s.t.Fatalf("configs/stepca.yaml has no %q", replace[i])
		}
		config = strings.Replace(config, replace[i], replace[i+1], 1)
	}
	return strings.NewReplacer(
		"ca.example.com:9000", s.Address, "stepca-root.pem", s.file("root.pem"), "stepca-muster.jwk", s.file("muster.jwk"),
		"127.0.0.1:8080", "127.0.0.1:0", "127.0.0.1:8443", "127.0.0.1:0", "sqlite:data/muster.db", "sqlite:muster.db",
	).Replace(config) + scepclientKnows
}

// scepclientKnows is for the endpoint phones, the last of the configuration: scepclient has no better algorithms.
const scepclientKnows = "    scep: {legacy: [des, sha1]}\n"

func (s *stepCA) files() string {
	sum := sha256.Sum256([]byte(stepcaChallenge))
	return fmt.Sprintf(`printf 'phone:{sha256}%s\n' > scep.challenges; printf 'factory:%%s\n' "$(printf 'pass word\n' | "$MUSTER" password)" > factory.users; chmod 600 scep.challenges factory.users; cp %s root.pem`,
		hex.EncodeToString(sum[:]), s.file("root.pem"))
}

// listed reports whether the CA's own CRL has the certificate in the file.
func (s *stepCA) listed(g *running.Gateway, certificate string) bool {
	s.t.Helper()
	serial := strings.TrimPrefix(strings.TrimSpace(g.Sh("openssl x509 -noout -serial -in "+certificate)), "serial=")
	crl := g.Sh(`curl -sS --fail --cacert root.pem "https://` + s.Address + `/1.0/crl" | openssl crl -inform DER -noout -text`)
	return strings.Contains(crl, serial)
}

func (s *stepCA) has(text, want string) {
	s.t.Helper()
	if !strings.Contains(text, want) {
		s.t.Errorf("no %q in\n%s", want, text)
	}
}

// One configuration, a CMP device, an EST device and a SCEP device, all certified by one real step-ca: enrolled, renewed, revoked.
func TestStepCA(t *testing.T) {
	t.Parallel()
	s := startStepCA(t, newRSA)
	g := s.gateway()
	s.secret(g)
	verify := func(file, subject string) {
		t.Helper()
		out := g.Sh(`curl -sS --fail "$URL/ca/stepca/ca.crt" | openssl x509 -inform DER -out issuing.pem; openssl verify -x509_strict -CAfile root.pem -untrusted issuing.pem ` + file + `; openssl x509 -noout -subject -issuer -ext keyUsage,extendedKeyUsage -in ` + file)
		for _, want := range []string{": OK", subject, "E2E Intermediate CA", "Digital Signature"} {
			s.has(out, want)
		}
	}
	serial := func(file string) string { return g.Sh("openssl x509 -noout -serial -in " + file) }

	const cmp = `cmp() { openssl cmp -config '' -batch -server "${URL#http://}" -path .well-known/cmp -trusted root.pem "$@" 2>cmp.log || { cat cmp.log; return 1; }; }
`
	g.Sh(cmpDevice)
	verify("station.pem", "CN = station-0001")
	g.Sh(cmp + `cmp -cmd p10cr -cert station.pem -key station.key -csr station.csr -certout station2.pem`)
	verify("station2.pem", "CN = station-0001")
	if serial("station.pem") == serial("station2.pem") {
		t.Error("CMP: the renewed certificate is the old one")
	}
	g.Sh(cmp + `cmp -cmd rr -cert station2.pem -key station.key -oldcert station2.pem -revreason 4`)

	est := `est() { curl -sS --fail --cacert root.pem -H 'Content-Type: application/pkcs10' --data-binary @- "$@"; }
`
	estURL := "https://" + strings.Replace(g.Listener("tls"), "127.0.0.1", "localhost", 1) + "/.well-known/est"
	g.Sh(est + `openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout gw.key -subj /CN=gw-0001 -out gw.csr
		openssl req -in gw.csr -outform DER | openssl base64 | est --user 'factory:pass word' -w '%{stderr}%{http_code}' ` + estURL + `/simpleenroll 2>gw.status | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs -out gw.pem
		curl -sS --fail --cacert root.pem ` + estURL + `/cacerts | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs -out cacerts.pem`)
	verify("gw.pem", "CN = gw-0001")
	s.has(g.Sh("cat cacerts.pem"), "E2E Root CA")
	g.Sh(est + `openssl req -in gw.csr -outform DER | openssl base64 | est --cert gw.pem --key gw.key ` + estURL + `/simplereenroll | openssl base64 -d -A | openssl pkcs7 -inform DER -print_certs -out gw2.pem`)
	verify("gw2.pem", "CN = gw-0001")
	g.Muster("revoke", "--yes", strings.TrimPrefix(strings.TrimSpace(serial("gw2.pem")), "serial="), "--reason", "keyCompromise")

	scepclient := filepath.Join(tools, "bin", "scepclient")
	g.Sh(`"` + scepclient + `" -server-url "$URL/scep" -challenge '` + stepcaChallenge + `' -private-key phone.key -certificate phone.pem -cn phone-1`)
	verify("phone.pem", "CN = phone-1")
	g.Sh(`cp phone.pem phone1.pem; "` + scepclient + `" -server-url "$URL/scep" -private-key phone.key -certificate phone.pem -cn phone-1; test -s phone.pem`)
	verify("phone.pem", "CN = phone-1")
	g.Muster("revoke", "--yes", strings.TrimPrefix(strings.TrimSpace(serial("phone1.pem")), "serial="), "--reason", "superseded")

	for _, file := range []string{"station2.pem", "gw2.pem", "phone1.pem"} {
		if !s.listed(g, file) {
			t.Errorf("%s is not on step-ca's CRL", file)
		}
	}
	for _, file := range []string{"station.pem", "gw.pem"} {
		if s.listed(g, file) {
			t.Errorf("%s is on step-ca's CRL", file)
		}
	}
	// Muster's copy is the CA's own.
	s.has(g.Sh(`curl -sS --fail "$URL/crl/stepca/ca.crl" | openssl crl -inform DER -noout -issuer`), "E2E Intermediate CA")

	refused, died, promise := s.died("provisioner: muster, jwk: {key: '" + s.file("muster.jwk") + "'}")
	row(t, backendRow{
		Backend: "stepca (step-ca 0.30.2, RSA)",
		PKCS10:  "yes: CMP p10cr, EST and SCEP by one configuration", CRMF: refused, Renew: "yes: a new sign with a fresh token, over each protocol",
		Revoke: "yes: rr and `muster revoke`; on step-ca's CRL at once", Poll: atOnce(g, "gw"), CRL: "yes: `/1.0/crl`, passed on",
		CAChain: "yes: `/1.0/intermediates` to the pinned root", Describe: promise, Crashes: died,
	})
}

const cmpDevice = `cmp() { openssl cmp -config '' -batch -server "${URL#http://}" -path .well-known/cmp -trusted root.pem "$@" 2>cmp.log || { cat cmp.log; return 1; }; }
	openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout station.key -subj /CN=station-0001 -out station.csr
	cmp -cmd p10cr -ref SN0001 -secret "pass:$(cat cmp.secret)" -csr station.csr -certout station.pem `

func (s *stepCA) secret(g *running.Gateway) {
	s.t.Helper()
	g.Write("cmp.secret", "a secret of 24 bytes and more\n")
	g.Muster("secret", "add", "--endpoint", "stations", "--reference", "SN0001", "--device", "station-0001", "--secret-file", "cmp.secret")
}

// With an ECDSA chain, the X5C provisioner and the root by its fingerprint. SCEP is refused when the configuration is loaded, and
// a request whose answer was lost waits for the operator: there is no second certificate.
func TestStepCAECDSA(t *testing.T) {
	t.Parallel()
	s := startStepCA(t, newEC)
	b := s.between()
	sum := sha256.Sum256(s.root.Raw)
	x5c := []string{"root: stepca-root.pem ", "fingerprint: " + hex.EncodeToString(sum[:]) + " ", "provisioner: muster ", "provisioner: x5c ",
		"jwk: {key: stepca-muster.jwk} ", "x5c: {cert: " + s.file("x5c.pem") + ", key: " + s.file("x5c.key") + "} ", "ca.example.com:9000", strings.TrimPrefix(b.URL, "https://")}
	dir := t.TempDir()
	g := &running.Gateway{T: t, Dir: dir}
	g.Write("gateway.yaml", s.config(x5c...))
	if out, ok := g.Run("sh", "-euc", `MUSTER='`+binary+`'; `+s.files()); !ok {
		t.Fatal(out)
	}
	out, ok := g.Run(binary, "serve", "--config", g.File("gateway.yaml"), "--data", dir)
	if ok {
		t.Error("SCEP before an ECDSA chain was loaded")
	}
	s.has(out, "SCEP's clients encrypt to RSA keys")

	config := s.config(x5c...)
	config = config[:strings.Index(config, "  phones:")]
	g = running.Start(t, binary, nil, config, s.files())
	s.secret(g)
	g.Sh(cmpDevice)
	s.has(g.Sh(`openssl x509 -noout -subject -issuer -ext extendedKeyUsage -in station.pem`), "TLS Web Client Authentication")
	g.Sh(`openssl cmp -config '' -batch -server "${URL#http://}" -path .well-known/cmp -trusted root.pem -cmd p10cr -cert station.pem -key station.key -csr station.csr -certout station2.pem 2>cmp.log || { cat cmp.log; exit 1; }`)
	s.has(g.Sh(`curl -sS --fail "$URL/crl/stepca/ca.crl" | openssl crl -inform DER -noout -issuer`), "E2E Intermediate CA")
	g.Sh(`serial=$(openssl x509 -noout -serial -in station.pem); "$MUSTER" revoke --data . --yes "${serial#serial=}"`)
	if !s.listed(g, "station.pem") {
		t.Error("it is not on step-ca's CRL")
	}

	refused, died, promise := s.died("provisioner: x5c, x5c: {cert: '" + s.file("x5c.pem") + "', key: '" + s.file("x5c.key") + "'}")
	row(t, backendRow{
		Backend: "stepca (step-ca 0.30.2, ECDSA, X5C)", PKCS10: "yes: CMP p10cr; SCEP refused when loaded", CRMF: refused, Renew: "yes: a p10cr signed with the certificate",
		Revoke: "yes; on step-ca's CRL at once", Poll: notTried, CRL: "yes", CAChain: "yes, to the root by its fingerprint",
		Describe: promise, Crashes: died,
	})
}

// What the backend relies on, of a real step-ca: a jti that was not used is used up by Lookup; a provisioner without Muster's template is
// noticed, and its certificate revoked; with `template: default` the certificate is what the backend says it will be.
func TestStepCATemplates(t *testing.T) {
	t.Parallel()
	s := startStepCA(t, newRSA)
	configured := func(provisioner, more string) *stepca.CA {
		t.Helper()
		c := stepca.New(stepca.Options{})
		s.ok(c.Configure(t.Context(), fmt.Appendf(nil, "url: https://%s\nroot: %q\nprovisioner: %s\njwk: {key: %q}\n%s\n", s.Address, s.file("root.pem"), provisioner, s.file(provisioner+".jwk"), more)))
		return c
	}
	ask := func(id string) *backend.IssueRequest {
		t.Helper()
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "device"}, DNSNames: []string{"device.example"}}, s.ec())
		s.ok(err)
		csr, err := x509.ParseCertificateRequest(der)
		s.ok(err)
		now := time.Now().UTC().Truncate(time.Second)
		return &backend.IssueRequest{ID: id, CSR: der, Template: backend.Template{Subject: csr.RawSubject, SubjectAltName: csr.Extensions[0].Value, PublicKey: csr.RawSubjectPublicKeyInfo, NotBefore: now, NotAfter: now.Add(time.Hour)}}
	}
	c, r := configured("muster", ""), ask("never-asked")
	if o, err := c.Lookup(t.Context(), r); err != nil || o.State != backend.OutcomeNever {
		t.Fatalf("%+v, %v", o, err)
	}
	first, err := c.Issue(t.Context(), r)
	s.ok(err)
	o, err := c.Lookup(t.Context(), r)
	if err != nil || o.State != backend.OutcomeIssued || !bytes.Equal(o.Issuance.Certificate, first.Certificate) {
		t.Errorf("%+v, %v", o, err)
	}
	leaf, err := x509.ParseCertificate(first.Certificate)
	s.ok(err)
	for range 2 { // the second is `already revoked`
		s.ok(c.Revoke(t.Context(), &backend.RevokeRequest{Issuer: leaf.RawIssuer, Serial: leaf.SerialNumber.Bytes(), Reason: 1}))
	}
	if a, err := configured("plain", "template: default").Issue(t.Context(), ask("by-default")); err != nil {
		t.Error(err)
	} else if leaf, err := x509.ParseCertificate(a.Certificate); err != nil || leaf.Subject.String() != "CN=device" || len(leaf.ExtKeyUsage) != 2 || leaf.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("%v %v", leaf.Subject, err)
	}
	foreign := configured("plain", "")
	if _, err := foreign.Issue(t.Context(), ask("without-template")); err == nil || !strings.Contains(err.Error(), "Muster's template") {
		t.Errorf("%v", err)
	}
	if _, err := foreign.Issue(t.Context(), ask("and-another")); !backend.Definite(err) {
		t.Errorf("%v", err)
	}
	var crl bytes.Buffer
	s.ok(c.CRL(t.Context(), "", &crl))
	if l, err := x509.ParseRevocationList(crl.Bytes()); err != nil || len(l.RevokedCertificateEntries) != 2 {
		t.Errorf("%d revoked, %v", len(l.RevokedCertificateEntries), err)
	}
}
