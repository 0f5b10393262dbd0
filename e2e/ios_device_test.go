package e2e

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	x509pkix "crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/micromdm/plist"

	"github.com/muster-pki/muster/cmd/muster/simulate"
	"github.com/muster-pki/muster/protocols/cms"
)

// deviceMaker stands for Apple: a device CA like its own, of RSA-1024, ended in 2014, signing with SHA-1.
type deviceMaker struct {
	key  *rsa.PrivateKey
	cert *x509.Certificate
}

func newDeviceMaker(t testing.TB) *deviceMaker {
	t.Helper()
	m := &deviceMaker{key: rsaKey(t, 1024)}
	m.cert = m.sign(t, &x509.Certificate{
		Subject: x509pkix.Name{CommonName: "Emulated Device CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Date(2007, 4, 16, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2014, 4, 16, 0, 0, 0, 0, time.UTC),
	}, m.key.Public())
	return m
}

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (m *deviceMaker) sign(t testing.TB, tmpl *x509.Certificate, pub crypto.PublicKey) *x509.Certificate {
	t.Helper()
	parent := m.cert
	if parent == nil {
		parent = tmpl
	}
	tmpl.SerialNumber, tmpl.SignatureAlgorithm = big.NewInt(time.Now().UnixNano()), x509.SHA1WithRSA
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, m.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func (m *deviceMaker) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.cert.Raw}))
}

// signer is a key with its certificate.
type signer struct {
	key   *rsa.PrivateKey
	cert  *x509.Certificate
	chain []*x509.Certificate // sent along
}

// signed makes a SignedData of content, or, detached, over it.
func (s signer) signed(t testing.TB, content []byte, detached bool) []byte {
	t.Helper()
	der, err := cms.Sign(cms.SignOptions{Content: content, Key: s.key, Certificate: s.cert, Certificates: append([]*x509.Certificate{s.cert}, s.chain...), Digest: crypto.SHA256})
	if err != nil {
		t.Fatal(err)
	}
	if !detached {
		return der
	}
	// The same without eContent: what is signed are attributes, and these have the content's digest.
	var outer struct {
		Type    asn1.ObjectIdentifier
		Content struct {
			Version      int
			Digests      asn1.RawValue
			Encap        asn1.RawValue
			Certificates asn1.RawValue
			Signers      asn1.RawValue
		} `asn1:"explicit,tag:0"`
	}
	if _, err := asn1.Unmarshal(der, &outer); err != nil {
		t.Fatal(err)
	}
	empty, err := asn1.Marshal(struct{ Type asn1.ObjectIdentifier }{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}})
	if err != nil {
		t.Fatal(err)
	}
	outer.Content.Encap = asn1.RawValue{FullBytes: empty}
	if der, err = asn1.Marshal(outer); err != nil {
		t.Fatal(err)
	}
	return der
}

// opensslSigned is a signature of openssl's: BER of indefinite length with content, as iOS makes it, or detached.
func (p *iPhone) opensslSigned(by signer, content []byte, detached bool) []byte {
	p.t.Helper()
	dir := p.t.TempDir()
	for name, b := range map[string][]byte{
		"content": content, "key.pem": pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(by.key)}),
		"cert.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: by.cert.Raw}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			p.t.Fatal(err)
		}
	}
	how := "-nodetach -stream"
	if detached {
		how = ""
	}
	p.g.sh(dir, "openssl cms -sign "+how+" -binary -md sha256 -in content -signer cert.pem -inkey key.pem -outform DER -out signed.der")
	return fileOf(p.t, dir, "signed.der")
}

// iPhone is an emulator of iOS: over-the-air enrollment, its SCEP client, and the signatures of its MDM messages.
type iPhone struct {
	t     testing.TB
	g     *instance
	http  *http.Client
	own   signer // its maker's certificate
	facts map[string]any
}

func (m *deviceMaker) iPhone(g *instance, udid, serial string) *iPhone {
	g.t.Helper()
	key := rsaKey(g.t, 1024)
	cert := m.sign(g.t, &x509.Certificate{
		Subject:   x509pkix.Name{CommonName: "7E4C5B8E-0000-4000-8000-" + fmt.Sprintf("%012X", len(serial))},
		NotBefore: time.Now().AddDate(-5, 0, 0), NotAfter: time.Now().AddDate(-2, 0, 0), // devices keep certificates that have ended
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}, key.Public())
	return &iPhone{
		t: g.t, g: g, http: &http.Client{Timeout: time.Minute}, own: signer{key, cert, []*x509.Certificate{m.cert}},
		facts: map[string]any{"UDID": udid, "SERIAL": serial, "PRODUCT": "iPhone14,5", "VERSION": "21A329"},
	}
}

// reach fetches what a URL of a profile means: the configuration's public host is this instance.
func (p *iPhone) reach(method, url string, body []byte, headers ...string) (int, http.Header, []byte) {
	p.t.Helper()
	path, ok := strings.CutPrefix(url, "https://pki.example.com/")
	if !ok {
		p.t.Fatalf("the URL %s", url)
	}
	r, err := http.NewRequest(method, p.g.env["MUSTER_HTTP"]+"/"+path, bytes.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := p.http.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		p.t.Fatal(err)
	}
	return res.StatusCode, res.Header, b
}

// profile reads a signed profile, whose signer has to be under the gateway's root.
func (p *iPhone) profile(status int, header http.Header, body []byte) map[string]any {
	p.t.Helper()
	if status != http.StatusOK || header.Get("Content-Type") != "application/x-apple-aspen-config" {
		p.t.Fatalf("HTTP %d %s: %s", status, header.Get("Content-Type"), body)
	}
	s, err := cms.ParseSigned(body, cms.Limits{})
	if err != nil {
		p.t.Fatal(err)
	}
	if err := s.Verify([]crypto.Hash{crypto.SHA256}); err != nil {
		p.t.Fatal(err)
	}
	roots, others := x509.NewCertPool(), x509.NewCertPool()
	pemRoot, err := os.ReadFile(p.g.env["MUSTER_CA"])
	if err != nil || !roots.AppendCertsFromPEM(pemRoot) {
		p.t.Fatal("no root", err)
	}
	for _, c := range s.Certificates {
		others.AddCert(c)
	}
	if _, err := s.Signer.Verify(x509.VerifyOptions{Roots: roots, Intermediates: others, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		p.t.Fatalf("the profile's signer: %v", err)
	}
	var made map[string]any
	if err := plist.Unmarshal(s.Content, &made); err != nil {
		p.t.Fatal(err)
	}
	return made
}

// begin is phase 1: it returns where to answer, and the challenge to answer with.
func (p *iPhone) begin() (url, challenge string) {
	p.t.Helper()
	made := p.profile(p.reach("GET", "https://pki.example.com/ota/ota/profile", nil))
	content, _ := made["PayloadContent"].(map[string]any)
	if made["PayloadType"] != "Profile Service" || content == nil {
		p.t.Fatalf("%v", made)
	}
	for _, want := range []string{"UDID", "VERSION", "PRODUCT", "SERIAL", "MEID", "IMEI"} {
		if asked, _ := content["DeviceAttributes"].([]any); !slices.Contains(asked, any(want)) {
			p.t.Errorf("the device is not asked for its %s", want)
		}
	}
	url, _ = content["URL"].(string)
	challenge, _ = content["Challenge"].(string)
	return url, challenge
}

// answer is a device's answer, signed: that of phase 2 with its maker's certificate, of phase 3 with one of SCEP's.
func (p *iPhone) answer(by signer, challenge string) []byte {
	p.t.Helper()
	facts := map[string]any{}
	for k, v := range p.facts {
		facts[k] = v
	}
	if challenge != "" {
		facts["CHALLENGE"] = challenge
	}
	body, err := plist.Marshal(facts)
	if err != nil {
		p.t.Fatal(err)
	}
	return by.signed(p.t, body, false)
}

func (p *iPhone) post(url string, message []byte) (int, http.Header, []byte) {
	p.t.Helper()
	return p.reach("POST", url, message, "Content-Type", "application/pkcs7-signature")
}

// enrol does what a SCEP payload says, as iOS does: it refuses a CA without a SHA keyword in GetCACaps, and an RA certificate without the
// usages; the signer is self-signed under a random UUID; the transactionID is the SHA-1 of the key, in hexadecimal.
func (p *iPhone) enrol(payload map[string]any) signer {
	p.t.Helper()
	a, made := p.ask(payload)
	if a.status != "0" {
		p.t.Fatal(a)
	}
	return made
}

func (p *iPhone) ask(payload map[string]any) (*scepAnswer, signer) {
	p.t.Helper()
	content := payload["PayloadContent"].(map[string]any)
	if content["Key Type"] != "RSA" || fmt.Sprint(content["Keysize"]) != "2048" || fmt.Sprint(content["Key Usage"]) != "5" {
		p.t.Fatalf("%v", content)
	}
	d := p.scep(content["URL"].(string))
	csr, err := simulate.ChallengeRequest(d.key, subjectOf(p.t, content["Subject"]), content["Challenge"].(string))
	if err != nil {
		p.t.Fatal(err)
	}
	d.self = d.certify("0DBB0DBB-6B0A-4B0A-8B0A-0DBB0DBB0DBB", nil)
	return p.pkcsReq(d, csr, d.self, d.key)
}

// renew is a type 19 that the identity signs which is replaced, without a challenge.
func (p *iPhone) renew(by signer, url string) (*scepAnswer, signer) {
	p.t.Helper()
	d := p.scep(url)
	csr, err := simulate.ChallengeRequest(d.key, by.cert.RawSubject, "")
	if err != nil {
		p.t.Fatal(err)
	}
	return p.pkcsReq(d, csr, by.cert, by.key)
}

func (p *iPhone) scep(url string) *scepDevice {
	p.t.Helper()
	_, _, caps := p.reach("GET", url+"?operation=GetCACaps", nil)
	if !slices.ContainsFunc(strings.Split(string(caps), "\n"), func(line string) bool { return line == "SHA-1" || line == "SHA-256" || line == "SHA-512" }) {
		p.t.Fatalf("iOS refuses a CA without a SHA keyword: %q", caps)
	}
	_, header, list := p.reach("GET", url+"?operation=GetCACert", nil)
	certs, err := cms.ParseCertsOnly(list, cms.Limits{})
	if err != nil || header.Get("Content-Type") != "application/x-x509-ca-ra-cert" {
		p.t.Fatal(header, err)
	}
	ra, err := x509.ParseCertificate(certs[0])
	if err != nil || ra.IsCA || ra.KeyUsage&(x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment) != x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment {
		p.t.Fatal("iOS wants an RA certificate for signatures and encryption", err)
	}
	return &scepDevice{t: p.t, g: p.g, http: p.http, path: strings.TrimPrefix(url, "https://pki.example.com"), ra: ra, key: rsaKey(p.t, 2048)}
}

func (p *iPhone) pkcsReq(d *scepDevice, csr []byte, cert *x509.Certificate, key *rsa.PrivateKey) (*scepAnswer, signer) {
	p.t.Helper()
	envelope, err := cms.Encrypt(csr, d.ra, cms.AES256)
	if err != nil {
		p.t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(d.key.Public())
	if err != nil {
		p.t.Fatal(err)
	}
	a := d.ask(scepWish{kind: "19", tid: fmt.Sprintf("%X", sha1.Sum(spki)), envelope: envelope, signer: cert, signerKey: key})
	return a, signer{key: d.key, cert: a.cert}
}

// subjectOf is the Name that a payload's Subject means: for each RDN a list of pairs.
func subjectOf(t testing.TB, payload any) []byte {
	t.Helper()
	types := map[string]asn1.ObjectIdentifier{"CN": {2, 5, 4, 3}, "O": {2, 5, 4, 10}}
	var name x509pkix.RDNSequence
	for _, rdn := range payload.([]any) {
		var set x509pkix.RelativeDistinguishedNameSET
		for _, pair := range rdn.([]any) {
			set = append(set, x509pkix.AttributeTypeAndValue{Type: types[pair.([]any)[0].(string)], Value: pair.([]any)[1]})
		}
		name = append(name, set)
	}
	der, err := asn1.Marshal(name)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// identity is the certificate of the second phase, with which the device fetches the final profile.
func (p *iPhone) identity(url, challenge string) signer {
	p.t.Helper()
	made := p.profile(p.post(url, p.answer(p.own, challenge)))
	payloads, _ := made["PayloadContent"].([]any)
	if made["PayloadType"] != "Configuration" || len(payloads) != 1 {
		p.t.Fatalf("%v", made)
	}
	scep := payloads[0].(map[string]any)
	if scep["PayloadType"] != "com.apple.security.scep" {
		p.t.Fatalf("%v", scep)
	}
	return p.enrol(scep)
}

// final opens a final profile with the key that it is encrypted to, and with openssl as well.
func (p *iPhone) final(made map[string]any, by signer) (payloads []any) {
	p.t.Helper()
	sealed, _ := made["EncryptedPayloadContent"].([]byte)
	if sealed == nil || made["PayloadContent"] != nil {
		p.t.Fatalf("the final profile is not encrypted: %v", made)
	}
	env, err := cms.ParseEnveloped(sealed, cms.Limits{})
	if err != nil {
		p.t.Fatal(err)
	}
	content, err := env.Decrypt(by.key, by.cert)
	if err != nil {
		p.t.Fatal(err)
	}
	dir := p.t.TempDir()
	for name, b := range map[string][]byte{
		"sealed.der": sealed, "key.pem": pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(by.key)}),
		"cert.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: by.cert.Raw}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			p.t.Fatal(err)
		}
	}
	p.g.sh(dir, "openssl cms -decrypt -inform DER -in sealed.der -inkey key.pem -recip cert.pem -binary -out plain.plist")
	if plain := fileOf(p.t, dir, "plain.plist"); !bytes.Equal(plain, content) {
		p.t.Errorf("openssl decrypts something else: %s", plain)
	}
	if err := plist.Unmarshal(content, &payloads); err != nil {
		p.t.Fatal(err)
	}
	return payloads
}

// check asks as a proxy does about an MDM message of a device.
func (p *iPhone) check(by signer, udid string, change ...func(body []byte) []byte) (int, http.Header, []byte) {
	p.t.Helper()
	body, err := plist.Marshal(map[string]any{"MessageType": "TokenUpdate", "UDID": udid, "Topic": "com.apple.mgmt.External.x"})
	if err != nil {
		p.t.Fatal(err)
	}
	signature := base64.StdEncoding.EncodeToString(by.signed(p.t, body, true))
	for _, c := range change {
		body = c(body)
	}
	return p.reach("PUT", "https://pki.example.com/ota/ota/check", body, "Mdm-Signature", signature)
}
