package e2e

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/smallstep/pkcs7"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/protocols/cms"
)

const scepQueryConfig = onLocalCA + `profiles:
  mobile: {backend: local, issuer: rsa, validity: 30d, key-usage: [digitalSignature, keyEncipherment]}
endpoints:
  scep:
    protocol: scep
    listeners: [http]
    default: true
    profile: mobile
    enroll:
      - challenge: {file: challenges}
      - names: {}
    renew:
      - own-certificate: {}
    query:
      - own-certificate: {}
  closed:
    protocol: scep
    listeners: [http]
    profile: mobile
    enroll:
      - challenge: {file: challenges}
      - names: {}
`

// issuerAndSerial is the content of GetCert's and GetCRL's envelopes, encrypted to the RA.
func (d *scepDevice) issuerAndSerial(issuer []byte, serial *big.Int) []byte {
	d.t.Helper()
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(issuer)
		b.AddASN1BigInt(serial)
	})
	envelope, err := cms.Encrypt(b.BytesOrPanic(), d.ra, cms.AES256)
	if err != nil {
		d.t.Fatal(err)
	}
	return envelope
}

func (g *instance) get(target string) (int, string, []byte) {
	g.t.Helper()
	res, err := http.Get(g.env["MUSTER_HTTP"] + target)
	if err != nil {
		g.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return res.StatusCode, res.Header.Get("Content-Type"), body
}

var referenceText = regexp.MustCompile(`\(reference [^)]*\)`)

// GetCert and GetCRL (RFC 8894 sections 4.5 and 4.6): a device gets its own certificate, and the CRL that has its revocation. The
// victim test: another's certificate is as unknown to it as one that there is not.
func TestSCEPQueries(t *testing.T) {
	g := configured(t, scepQueryConfig, "challenges", heldSecret(t, "held-challenge"))
	d, other := g.scepDevice(), g.scepDevice()
	mine := d.ask(scepWish{name: "asks", challenge: "held-challenge"}).cert
	theirs := other.ask(scepWish{name: "another", challenge: "held-challenge"}).cert
	if mine == nil || theirs == nil {
		t.Fatal("no certificates")
	}
	get := func(kind string, signer, wanted *x509.Certificate) *scepAnswer {
		t.Helper()
		return d.ask(scepWish{kind: kind, signer: signer, envelope: d.issuerAndSerial(wanted.RawIssuer, wanted.SerialNumber)})
	}
	if a := get("21", mine, mine); a.cert == nil || !a.cert.Equal(mine) {
		t.Errorf("its own: %v", a)
	}
	var texts []string
	for what, wanted := range map[string]*x509.Certificate{
		"another's": theirs, "one that there is not": {RawIssuer: mine.RawIssuer, SerialNumber: big.NewInt(7)},
		"another CA's": {RawIssuer: d.self.RawIssuer, SerialNumber: mine.SerialNumber}, "the CA's own": g.scepIssuer(),
	} {
		a := get("21", mine, wanted)
		if a.status != "2" || a.failInfo != "4" || a.cert != nil {
			t.Errorf("%s: %v", what, a)
		}
		texts = append(texts, referenceText.ReplaceAllString(a.text, ""))
	}
	// Encrypted to nobody that is here: the same words.
	elsewhere, err := cms.Encrypt([]byte("whatever"), other.self, cms.AES128)
	if err != nil {
		t.Fatal(err)
	}
	a := d.ask(scepWish{kind: "21", signer: mine, envelope: elsewhere})
	for _, text := range append(texts, "") {
		if text == "" {
			text = texts[0]
		}
		if a.failInfo != "4" || text != referenceText.ReplaceAllString(a.text, "") {
			t.Errorf("%q, and %v", text, a)
		}
	}
	for _, kind := range []string{"21", "22"} {
		if a := get(kind, d.self, mine); a.status != "2" || a.failInfo != "2" {
			t.Errorf("type %s without a certificate: %v", kind, a)
		}
		if a := get(kind, d.certify("asks", other.key), mine); a.status != "2" || a.failInfo != "2" {
			t.Errorf("type %s with another CA's certificate: %v", kind, a)
		}
		d.path = "/scep/closed"
		if a := get(kind, mine, mine); a.status != "2" || a.failInfo != "2" {
			t.Errorf("type %s where there is no query pipeline: %v", kind, a)
		}
		d.path = "/scep"
	}

	g.muster("revoke", theirs.SerialNumber.Text(16), "--reason", "keyCompromise", "--yes")
	for what, wanted := range map[string]*x509.Certificate{"its own": mine, "another's": theirs} {
		a := get("22", mine, wanted)
		p7, err := pkcs7.Parse(a.content)
		if err != nil || len(p7.CRLs) != 1 || len(p7.Certificates) != 0 || len(p7.Content) != 0 {
			t.Fatalf("the CRL by %s: %v, %v", what, a, err)
		}
		var serials []string
		for _, r := range p7.CRLs[0].TBSCertList.RevokedCertificates {
			serials = append(serials, r.SerialNumber.Text(16))
		}
		if strings.Join(serials, " ") != theirs.SerialNumber.Text(16) {
			t.Errorf("the CRL by %s lists %s", what, serials)
		}
	}
	if a := get("22", mine, &x509.Certificate{RawIssuer: d.self.RawIssuer, SerialNumber: big.NewInt(7)}); a.status != "2" || a.failInfo != "4" {
		t.Errorf("another CA's CRL: %v", a)
	}
	// The revoked one asks for nothing any more.
	if a := other.ask(scepWish{kind: "21", signer: theirs, envelope: other.issuerAndSerial(theirs.RawIssuer, theirs.SerialNumber)}); a.status != "2" || a.cert != nil {
		t.Errorf("a revoked certificate asks: %v", a)
	}
	if n := len(g.ledger("asks")); n != 1 {
		t.Errorf("%d certificates for who asked", n)
	}
}

// scepIssuer is the issuing CA's certificate, out of GetCACert.
func (g *instance) scepIssuer() *x509.Certificate {
	g.t.Helper()
	_, _, body := g.get("/scep?operation=GetCACert")
	certs, err := cms.ParseCertsOnly(body, cms.Limits{})
	if err != nil || len(certs) < 2 {
		g.t.Fatalf("%d certificates, %v", len(certs), err)
	}
	c, err := x509.ParseCertificate(certs[1])
	if err != nil {
		g.t.Fatal(err)
	}
	return c
}

// GetNextCACert (RFC 8894 sections 3.5.2, 4.7 and 4.7.1), as openssl sees it: there while `muster ca rekey --announce` has announced
// the next CA, over a restart too, signed by the present one; then that comes into force, and there is nothing more to tell. The RA has
// a new key then, and who kept the one before enrols with that (sections 2.1.2 and 4.2).
func TestSCEPNextCACert(t *testing.T) {
	g := configured(t, scepQueryConfig, "challenges", heldSecret(t, "held-challenge"))
	dir := t.TempDir()
	caps := func() bool {
		_, _, body := g.get("/scep?operation=GetCACaps")
		return strings.Contains(string(body), "GetNextCACert\n")
	}
	if status, _, _ := g.get("/scep?operation=GetNextCACert"); caps() || status != 501 {
		t.Errorf("announced before it is: %d", status)
	}
	before := g.scepIssuer()
	if said := g.change("rekey", "local/rsa", "--root", "--announce"); !strings.Contains(said, "has announced") || !strings.Contains(said, "muster ca rekey local/rsa --root") {
		t.Errorf("it said:\n%s", said)
	}
	if !caps() {
		t.Error("GetCACaps does not have it")
	}
	if !g.scepIssuer().Equal(before) {
		t.Error("an announcement changed GetCACert")
	}
	g.again()
	if !caps() {
		t.Error("GetCACaps does not have it after a restart")
	}
	status, kind, body := g.get("/scep?operation=GetNextCACert")
	if status != 200 || kind != "application/x-x509-next-ca-cert" {
		t.Fatalf("%d %s %s", status, kind, body)
	}
	if err := os.WriteFile(filepath.Join(dir, "next.p7"), body, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "issuer.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: before.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	g.sh(dir, `openssl cms -verify -binary -inform DER -in next.p7 -partial_chain -CAfile issuer.pem -certfile issuer.pem -signer by.pem -out content 2>log || { cat log; exit 1; }
		cmp by.pem issuer.pem
		openssl pkcs7 -inform DER -in content -print_certs -out next.pem`)
	next := certificates(t, filepath.Join(dir, "next.pem"))
	if len(next) != 2 || bytes.Equal(next[0].RawSubjectPublicKeyInfo, before.RawSubjectPublicKeyInfo) || next[0].CheckSignatureFrom(next[1]) != nil {
		t.Fatalf("%d certificates", len(next))
	}
	if ls := g.muster("ca", "ls"); !strings.Contains(ls, "next issuing") || !strings.Contains(ls, "next root") {
		t.Errorf("muster ca ls does not show it:\n%s", ls)
	}
	veteran := g.scepDevice()
	g.change("rekey", "local/rsa", "--root")
	if status, _, _ := g.get("/scep?operation=GetNextCACert"); caps() || status != 501 {
		t.Errorf("announced after it came into force: %d", status)
	}
	if !g.scepIssuer().Equal(next[0]) {
		t.Error("another CA came into force than the one that was announced")
	}
	recruit := g.scepDevice()
	if bytes.Equal(recruit.ra.RawSubjectPublicKeyInfo, veteran.ra.RawSubjectPublicKeyInfo) || recruit.ra.CheckSignatureFrom(next[0]) != nil {
		t.Error("the RA has the key before still")
	}
	for name, d := range map[string]*scepDevice{"veteran": veteran, "recruit": recruit} { // ask checks that the answer is signed by the RA that it knows
		a := d.ask(scepWish{name: name, challenge: "held-challenge"})
		if a.cert == nil || a.cert.CheckSignatureFrom(next[0]) != nil {
			t.Fatalf("%s: %v", name, a)
		}
		if got := d.ask(scepWish{kind: "21", signer: a.cert, envelope: d.issuerAndSerial(a.cert.RawIssuer, a.cert.SerialNumber)}); got.cert == nil || !got.cert.Equal(a.cert) {
			t.Errorf("GetCert of the %s: %v", name, got)
		}
	}
}
