package mdm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/micromdm/plist"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cms"
)

var testTime = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// The keys of testdata/scep.
var (
	caKey     = testKey("issuer")
	makerKey  = testKey("root")
	deviceKey = testKey("device")
	ownKey    = testKey("other")
	otherKey  = testKey("foreign")
)

func testKey(name string) func() *rsa.PrivateKey {
	return sync.OnceValue(func() *rsa.PrivateKey {
		block, _ := pem.Decode(must(os.ReadFile(filepath.Join("..", "..", "testdata", "scep", name+".key"))))
		return must(x509.ParsePKCS8PrivateKey(block.Bytes)).(*rsa.PrivateKey)
	})
}

var serial = big.NewInt(0)

// certify makes a certificate under the parent, nil for a self-signed one, that ended long ago.
func certify(name string, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer, change ...func(*x509.Certificate)) *x509.Certificate {
	serial = new(big.Int).Add(serial, big.NewInt(1))
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: testTime.AddDate(-9, 0, 0), NotAfter: testTime.AddDate(-8, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}
	for _, c := range change {
		c(tmpl)
	}
	if parent == nil {
		parent = tmpl
	}
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, tmpl, parent, pub, key))))
}

// signer is a key with its certificate.
type signer struct {
	key  crypto.Signer
	cert *x509.Certificate
}

func (s signer) signs(content []byte, digest crypto.Hash) []byte {
	return must(cms.Sign(cms.SignOptions{Content: content, Key: s.key, Certificate: s.cert, Certificates: []*x509.Certificate{s.cert}, Digest: digest}))
}

// detached is the same without eContent: the attributes have the content's digest.
func detached(der []byte) []byte {
	var outer struct {
		Type    asn1.ObjectIdentifier
		Content struct {
			Version                               int
			Digests, Encap, Certificates, Signers asn1.RawValue
		} `asn1:"explicit,tag:0"`
	}
	must(asn1.Unmarshal(der, &outer))
	outer.Content.Encap = asn1.RawValue{FullBytes: must(asn1.Marshal(struct{ Type asn1.ObjectIdentifier }{cms.OIDData}))}
	return must(asn1.Marshal(outer))
}

// world is a profile service with a fake gateway behind it: phone-7 asks, unless a test says otherwise.
type world struct {
	t       testing.TB
	maker   *x509.Certificate
	device  signer // the maker's certificate of the device
	own     signer // a certificate that the gateway issued
	gateway *fakeGateway
	router  *echo.Echo
	now     time.Time
	id      *gateway.Identity
}

type fakeGateway struct {
	who        *gateway.Recognised
	refuses    error
	asked      []*gateway.Request
	rejected   []*gateway.Error
	challenges []gateway.IssuedChallenge
	secrets    []string
	issueErr   error
	issued     map[string]bool
	issuedErr  error
	chain      []*x509.Certificate
	panics     bool
}

var _ Gateway = (*gateway.Gateway)(nil)

func (g *fakeGateway) Recognise(ctx context.Context, r *gateway.Request, answer func(context.Context, *gateway.Recognised) ([]byte, string, error)) (*gateway.Result, error) {
	if g.panics {
		panic("gateway")
	}
	g.asked = append(g.asked, r)
	if g.refuses != nil {
		return nil, g.refuses
	}
	told, _, err := answer(ctx, g.who)
	if err != nil {
		return nil, gateway.AsError(err)
	}
	return &gateway.Result{Kind: gateway.ResultAnswer, Answer: told}, nil
}

func (g *fakeGateway) IssueChallenge(_ context.Context, secret gateway.Secret, c gateway.IssuedChallenge) error {
	g.challenges, g.secrets = append(g.challenges, c), append(g.secrets, string(secret))
	return g.issueErr
}

func (g *fakeGateway) Reject(_ context.Context, _ *gateway.Request, e *gateway.Error) *gateway.Error {
	g.rejected = append(g.rejected, e)
	return e
}

func (g *fakeGateway) Authority(context.Context, string) (*gateway.Authority, error) {
	return &gateway.Authority{Chain: g.chain}, nil
}

func (g *fakeGateway) Issued(_ context.Context, cert *x509.Certificate) (bool, error) {
	return g.issued[string(cert.Raw)], g.issuedErr
}

const finalText = `<?xml version="1.0" encoding="UTF-8"?>
<plist version="1.0"><dict>
<key>PayloadType</key><string>Configuration</string><key>PayloadVersion</key><integer>1</integer>
<key>PayloadIdentifier</key><string>com.example.final</string><key>PayloadUUID</key><string>F-1</string>
<key>PayloadContent</key><array>
<dict><key>PayloadType</key><string>com.apple.mdm</string><key>PayloadVersion</key><integer>1</integer><key>PayloadIdentifier</key><string>com.example.mdm</string><key>PayloadUUID</key><string>M-1</string><key>SignMessage</key><true/>
<key>AccessRights</key><integer>8191</integer><key>ServerURL</key><string>https://mdm/{{device.attributes.site}}/{{message.UDID}}</string></dict>
<dict><key>PayloadType</key><string>com.apple.wifi.managed</string><key>PayloadVersion</key><integer>1</integer><key>PayloadIdentifier</key><string>com.example.wifi</string><key>PayloadUUID</key><string>W-1</string>
<key>Password</key><string>{{ scep.challenge }}</string><key>PayloadCertificateUUID</key><string>{{scep.uuid}}</string><key>Raw</key><data>AAEC</data></dict>
</array></dict></plist>`

func newWorld(t testing.TB, change ...func(*Config)) *world {
	t.Helper()
	w := &world{t: t, now: testTime}
	ca := certify("CA", nil, caKey().Public(), caKey(), func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })
	w.maker = certify("Maker", nil, makerKey().Public(), makerKey(), func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })
	w.device = signer{deviceKey(), certify("device", w.maker, deviceKey().Public(), makerKey())}
	w.own = signer{ownKey(), certify("phone-7", ca, ownKey().Public(), caKey())}
	w.id = &gateway.Identity{Key: caKey(), Certificate: certify("signer", ca, caKey().Public(), caKey()), Chain: []*x509.Certificate{ca}}
	w.gateway = &fakeGateway{issued: map[string]bool{string(w.own.cert.Raw): true}, chain: []*x509.Certificate{ca}}
	w.gateway.who = &gateway.Recognised{
		Requester: "x", Device: "phone-7", Certificate: &gateway.Certificate{DER: w.own.cert.Raw},
		Inventory: &gateway.Device{Name: "phone-7", Identifiers: []gateway.DeviceID{{Kind: "serial", Value: "S7"}, {Kind: "udid", Value: "U7"}}, Attributes: map[string]string{"site": "no<r>th&"}},
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"final.mobileconfig": finalText, "maker.pem": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.maker.Raw})),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := Config{
		URL: "https://pki.example.com", Identifier: "com.example", FinalProfile: "final.mobileconfig", DeviceCA: []string{"maker.pem"},
		SCEP: SCEPConfig{Endpoint: "phones", Subject: "CN={{device.name}},O=A\\, B"}, dir: dir,
	}
	for _, f := range change {
		f(&c)
	}
	h, err := New(Options{
		Gateway: w.gateway, Endpoints: []Endpoint{{Name: "ota", Default: true, Config: c}, {Name: "else", Config: c}, {Name: "hidden", Config: c}},
		Identity: func(string) *gateway.Identity { return w.id }, Secret: bytes.Repeat([]byte{7}, 32),
		Clock: func() time.Time { return w.now }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	w.router = echo.New()
	h.Register(w.router, func(name string) bool { return name != "hidden" })
	return w
}

func (w *world) send(method, path string, body []byte, headers ...string) *httptest.ResponseRecorder {
	w.t.Helper()
	r := httptest.NewRequest(method, path, bytes.NewReader(body))
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	rec := httptest.NewRecorder()
	w.router.ServeHTTP(rec, r)
	return rec
}

// content is what is signed in an answer.
func (w *world) content(rec *httptest.ResponseRecorder) (made map[string]any) {
	w.t.Helper()
	if rec.Code != http.StatusOK || rec.Header().Get("Content-Type") != "application/x-apple-aspen-config" {
		w.t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	s := must(cms.ParseSigned(must(io.ReadAll(rec.Body)), cms.Limits{}))
	if err := s.Verify([]crypto.Hash{crypto.SHA256}); err != nil || !s.Signer.Equal(w.id.Certificate) {
		w.t.Fatal(err)
	}
	if err := plist.Unmarshal(s.Content, &made); err != nil {
		w.t.Fatal(err)
	}
	return made
}

// token is that of a first profile.
func (w *world) token() string {
	w.t.Helper()
	return w.content(w.send("GET", "/ota/ota/profile", nil))["PayloadContent"].(map[string]any)["Challenge"].(string)
}

// stating is a device's answer.
func stating(pairs ...string) []byte {
	var b strings.Builder
	b.WriteString(`<?xml version="1.0" encoding="UTF-8"?><!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd"><plist version="1.0"><dict>`)
	for i := 0; i+1 < len(pairs); i += 2 {
		fmt.Fprintf(&b, "<key>%s</key><string>%s</string>", pairs[i], pairs[i+1])
	}
	return []byte(b.String() + "</dict></plist>")
}

var ecKey = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
