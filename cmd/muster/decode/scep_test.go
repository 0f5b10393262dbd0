package decode

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/muster-pki/muster/protocols/cms"
)

// scepTestWorld is an RA and a client. The RA's key is the one in testdata/cms.
type scepTestWorld struct {
	raKey, clientKey *rsa.PrivateKey
	ra, client       *x509.Certificate
	raFile           string // key and certificate
}

func scepWorld(t testing.TB) *scepTestWorld {
	t.Helper()
	w := &scepTestWorld{raFile: filepath.Join("..", "..", "..", "testdata", "cms", "key.pem")}
	data, err := os.ReadFile(w.raFile)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	if w.raKey, err = parseRSAKey(block.Bytes); err != nil {
		t.Fatal(err)
	}
	if data, err = os.ReadFile(filepath.Join("..", "..", "..", "testdata", "cms", "cert.pem")); err != nil {
		t.Fatal(err)
	}
	block, _ = pem.Decode(data)
	if w.ra, err = x509.ParseCertificate(block.Bytes); err != nil {
		t.Fatal(err)
	}
	w.clientKey = w.raKey // an RSA signature by it is the same in every run
	template := &x509.Certificate{
		SerialNumber: big.NewInt(99), Subject: pkix.Name{CommonName: "client"}, NotBefore: w.ra.NotBefore, NotAfter: w.ra.NotAfter,
	}
	w.client = certify(t, template, template, w.clientKey.Public(), w.clientKey)
	return w
}

var scepAttr = func(last int) asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 16, 840, 1, 113733, 1, 9, last} }

// csr asks for a certificate, with a challenge and names.
func (w *scepTestWorld) csr(t testing.TB) []byte {
	t.Helper()
	template := &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "client"}, DNSNames: []string{"client.example"}, SignatureAlgorithm: x509.SHA256WithRSA,
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, w.clientKey)
	if err != nil {
		t.Fatal(err)
	}
	return withChallenge(t, der, w.clientKey, "open sesame")
}

// withChallenge adds a challengePassword to a request and signs it again: crypto/x509 makes none.
func withChallenge(t testing.TB, der []byte, key *rsa.PrivateKey, challenge string) []byte {
	t.Helper()
	var request struct {
		Info struct {
			Version    int
			Subject    asn1.RawValue
			Key        asn1.RawValue
			Attributes []asn1.RawValue `asn1:"tag:0,set"`
		}
		Algorithm asn1.RawValue
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &request); err != nil {
		t.Fatal(err)
	}
	attribute, err := asn1.Marshal(struct {
		Type   asn1.ObjectIdentifier
		Values []string `asn1:"set"`
	}{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7}, []string{challenge}})
	if err != nil {
		t.Fatal(err)
	}
	request.Info.Attributes = append([]asn1.RawValue{{FullBytes: attribute}}, request.Info.Attributes...)
	info, err := asn1.Marshal(request.Info)
	if err != nil {
		t.Fatal(err)
	}
	h := crypto.SHA256.New()
	h.Write(info)
	signature, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, h.Sum(nil))
	if err != nil {
		t.Fatal(err)
	}
	request.Signature = asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
	out, err := asn1.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// message is a pkiMessage of the client. content nil: without any.
func (w *scepTestWorld) message(t testing.TB, content []byte, attributes ...cms.Attribute) []byte {
	t.Helper()
	der, err := cms.Sign(cms.SignOptions{
		Content: content, Key: w.clientKey, Certificate: w.client, Certificates: []*x509.Certificate{w.client}, Digest: crypto.SHA256,
		Attributes: append([]cms.Attribute{
			cms.AttributePrintable(scepAttr(7), "4711"), cms.AttributeOctets(scepAttr(5), bytes.Repeat([]byte{0xcc}, 16)),
		}, attributes...),
	})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func (w *scepTestWorld) encrypted(t testing.TB, content []byte, c cms.Cipher) []byte {
	t.Helper()
	der, err := cms.Encrypt(content, w.ra, c)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func (w *scepTestWorld) request(t testing.TB) []byte {
	t.Helper()
	return w.message(t, w.encrypted(t, w.csr(t), cms.AES256), cms.AttributePrintable(scepAttr(2), "19"))
}

// randomLines are those that differ from run to run.
var randomLines = regexp.MustCompile(`(?m)^( *messageDigest +).*$`)

func TestDecodeSCEPViews(t *testing.T) {
	w := scepWorld(t)
	fixed := func(view string) string { return randomLines.ReplaceAllString(view, "$1(differs)") }
	golden(t, "pkcsreq", fixed(decoded(t, w.request(t), "scep", "-", "--key", w.raFile)))

	chain, err := cms.CertsOnly(w.client.Raw, w.ra.Raw)
	if err != nil {
		t.Fatal(err)
	}
	reply := w.message(t, w.encrypted(t, chain, cms.TripleDES), cms.AttributePrintable(scepAttr(2), "3"),
		cms.AttributePrintable(scepAttr(3), "0"), cms.AttributeOctets(scepAttr(6), bytes.Repeat([]byte{0xdd}, 16)))
	golden(t, "certrep", fixed(decoded(t, reply, "scep", "-", "--key", w.raFile)))

	failure := w.message(t, nil, cms.AttributePrintable(scepAttr(2), "3"), cms.AttributePrintable(scepAttr(3), "2"),
		cms.AttributePrintable(scepAttr(4), "2"), cms.AttributeUTF8(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 24, 1}, "no\x1b[2Jsuch"))
	view := decoded(t, failure, "scep", "-")
	has(t, view, "messageType CertRep (3)", "pkiStatus FAILURE (2)", "failInfo badRequest (2)", `failInfoText "no\x1b[2Jsuch"`,
		`transactionID "4711"`, "signature verifies, without content")
	assertPrintable(t, view)
}

func TestDecodeSCEPOtherAnswers(t *testing.T) {
	w := scepWorld(t)
	chain, err := cms.CertsOnly(w.client.Raw, w.ra.Raw)
	if err != nil {
		t.Fatal(err)
	}
	has(t, decoded(t, chain, "scep", "-"), fmt.Sprintf("SignedData certificates only, %d bytes", len(chain)), "certificates 2", "1 CN=client", "2 CN=cms test")
	has(t, decoded(t, w.ra.Raw, "scep", "-"), "certificate CN=cms test", "key RSA-2048")
	has(t, decoded(t, w.encrypted(t, w.csr(t), cms.DES), "scep", "-", "--key", w.raFile), "cipher DES-CBC", "CSR CN=client", "self-signed verifies")

	// BER, as some clients send it.
	for _, name := range []string{"signed-ber.der", "enveloped-ber.der"} {
		view := decoded(t, nil, "scep", filepath.Join("..", "..", "..", "testdata", "cms", name))
		if name == "signed-ber.der" {
			has(t, view, "signature verifies", "content 3000 bytes")
		} else {
			has(t, view, "cipher AES-256-CBC")
		}
	}
	ias, err := asn1.Marshal(struct {
		Issuer asn1.RawValue
		Serial *big.Int
	}{asn1.RawValue{FullBytes: w.ra.RawIssuer}, big.NewInt(0xbeef)})
	if err != nil {
		t.Fatal(err)
	}
	der := w.message(t, w.encrypted(t, ias, cms.AES128), cms.AttributePrintable(scepAttr(2), "21"))
	has(t, decoded(t, der, "scep", "-", "--key", w.raFile), "messageType GetCert (21)", "about serial beef of CN=cms test")
	names, err := asn1.Marshal([]asn1.RawValue{{FullBytes: w.ra.RawIssuer}, {FullBytes: w.client.RawSubject}})
	if err != nil {
		t.Fatal(err)
	}
	der = w.message(t, w.encrypted(t, names, cms.AES128), cms.AttributePrintable(scepAttr(2), "20"))
	has(t, decoded(t, der, "scep", "-", "--key", w.raFile), "messageType CertPoll (20)", "issuer CN=cms test", "subject CN=client")
	der = w.message(t, nil, cms.AttributePrintable(scepAttr(2), "18"), cms.AttributePrintable(scepAttr(3), "x\n"))
	has(t, decoded(t, der, "scep", "-"), "messageType UpdateReq (18)", `pkiStatus unknown (x\n)`, "content none")
}

func TestDecodeSCEPSignature(t *testing.T) {
	w := scepWorld(t)
	der := w.message(t, []byte("content"), cms.AttributePrintable(scepAttr(2), "19"))
	has(t, decoded(t, der, "scep", "-"), "signature verifies", "digest SHA-256", "content 7 bytes")
	changed := bytes.Replace(der, []byte("content"), []byte("CONTENT"), 1)
	if view := decoded(t, changed, "scep", "-"); !strings.Contains(view, "DOES NOT VERIFY") {
		t.Error(view)
	}
	bare, err := cms.Sign(cms.SignOptions{Content: []byte("x"), Key: w.clientKey, Certificate: w.client, Digest: crypto.SHA1})
	if err != nil {
		t.Fatal(err)
	}
	has(t, decoded(t, bare, "scep", "-"), "signature not checked: the signer's certificate is not in the message", "digest SHA-1")
}

func TestDecodeSCEPKeys(t *testing.T) {
	w := scepWorld(t)
	der := w.request(t)
	pkcs1 := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(w.raKey)})
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.ra.Raw})
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	wrong := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(other)})
	for name, file := range map[string][]byte{
		"PKCS #1": pkcs1, "with its certificate": append(bytes.Clone(cert), pkcs1...), "another key first": append(bytes.Clone(wrong), pkcs1...),
	} {
		view := decoded(t, der, "scep", "-", "--key", tempFile(t, file))
		has(t, view, "CSR CN=client", "challengePassword present (11 characters)")
		if strings.Contains(view, "sesame") {
			t.Errorf("%s: the challenge is shown", name)
		}
	}
	has(t, decoded(t, der, "scep", "-", "--key", w.raFile, "--show-secrets"), `challengePassword "open sesame"`)
	has(t, decoded(t, der, "scep", "-"), "decrypted no: --key names the file with the recipient's key",
		fmt.Sprintf("recipient serial %x of CN=cms test", w.ra.SerialNumber))

	// A wrong key gives sound padding once in 256 times; then it is an error, since what comes out is no message.
	view, err := runDecode(t, der, "scep", "-", "--key", tempFile(t, wrong))
	if err == nil && !strings.Contains(view, "NO: the key is none of the recipients'") || strings.Contains(view, "CN=client.example") {
		t.Errorf("wrong key: %v\n%s", err, view)
	}

	for name, file := range map[string]string{
		"no RSA private key in PEM": string(cert), "neither PKCS #1 nor PKCS #8": "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n",
		"the key is encrypted": "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n",
	} {
		if _, err := runDecode(t, der, "scep", "-", "--key", tempFile(t, []byte(file))); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDecodeSCEPBroken(t *testing.T) {
	w := scepWorld(t)
	der := w.request(t)
	for n := 1; n < len(der); n += 41 {
		view, err := runDecode(t, der[:n], "scep", "-", "--key", w.raFile)
		if err == nil || !strings.HasPrefix(err.Error(), "-: byte ") {
			t.Fatalf("cut to %d: %v", n, err)
		}
		if n > 30 && !strings.Contains(view, "OBJECT IDENTIFIER  signedData") {
			t.Fatalf("cut to %d: %s", n, view)
		}
	}
	// What was encrypted is no message: its offset counts in what was decrypted.
	odd := w.message(t, w.encrypted(t, []byte{0x30, 3, 2, 5, 1}, cms.AES128), cms.AttributePrintable(scepAttr(2), "19"))
	view, err := runDecode(t, odd, "scep", "-", "--key", w.raFile)
	if err == nil || !strings.Contains(err.Error(), "byte 3: decrypted content") {
		t.Errorf("%v\n%s", err, view)
	}
	has(t, view, "messageType PKCSReq (19)", "2: INTEGER 01 (cut short: 1 of 5 bytes)")

	m := decodeWorld(t).ir(t)
	if _, err := runDecode(t, m, "scep", "-"); err == nil || !strings.Contains(err.Error(), "muster cmp decode") {
		t.Errorf("a CMP message: %v", err)
	}
	if _, err := runDecode(t, []byte{0x30, 0}, "scep", "-"); err == nil || !strings.Contains(err.Error(), "neither a CMS message nor a certificate") {
		t.Errorf("nothing: %v", err)
	}
}

// A request that the gateway would refuse is shown all the same, its challenge hidden.
func TestDecodeOddCSR(t *testing.T) {
	w := scepWorld(t)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatalf("no weak key to be had: %v", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "weak"}}, weak)
	if err != nil {
		t.Fatal(err)
	}
	der = withChallenge(t, der, weak, "open sesame")
	view := decoded(t, w.encrypted(t, der, cms.AES128), "scep", "-", "--key", w.raFile)
	has(t, view, "subject CN=weak", "challengePassword present (11 characters)")
	if !strings.Contains(view, "RSA-1024 (refused by the gateway") || strings.Contains(view, "sesame") {
		t.Error(view)
	}
}
