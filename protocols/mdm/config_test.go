package mdm

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"crypto/elliptic"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

func TestConfig(t *testing.T) {
	const good = "url: https://pki.example.com\nidentifier: com.example\nfinal-profile: f\nscep: {endpoint: phones}\n"
	for text, want := range map[string]string{
		good: "",
		strings.Replace(good, "https://pki.example.com", "https://pki.example.com/", 1): "",
		strings.Replace(good, "url: https://pki.example.com", "", 1):                    "url",
		strings.Replace(good, "https:", "ftp:", 1):                                      "no URL",
		strings.Replace(good, "https:", "http:", 1):                                     "no URL",
		strings.Replace(good, "phones}", "phones, url: 'http://x/scep'}", 1):            "scep.url",
		strings.Replace(good, ".com", ".com/x", 1):                                      "without a path",
		strings.Replace(good, "pki", "a:b@pki", 1):                                      "no URL",
		strings.Replace(good, "com.example\n", "com example\n", 1):                      "identifier",
		strings.Replace(good, "final-profile: f\n", "", 1):                              "final-profile",
		strings.Replace(good, "{endpoint: phones}", "{}", 1):                            "endpoint",
		strings.Replace(good, "phones}", "phones, url: x}", 1):                          "scep.url",
		strings.Replace(good, "phones}", "phones, key-size: 1024}", 1):                  "2048 or 4096",
		strings.Replace(good, "phones}", "phones, key-usage: 2}", 1):                    "key-usage",
		good + "challenge: maybe":                                                       "required, none",
		good + "challenge: none":                                                        "",
		good + "within: 59s":                                                            "within",
		good + "within: 25h":                                                            "within",
		good + "legacy: [md5]":                                                          "not sha1",
		good + "legacy: [sha1, sha1]":                                                   "twice",
		good + "organization: \"a\\nb\"":                                                "control characters",
		good + "max-body: 1":                                                            "max-body",
		good + "devise-ca: [x]":                                                         `did you mean "device-ca"`,
		good + "title: " + strings.Repeat("x", 257):                                     "at most 256",
	} {
		var f struct {
			MDM Config `yaml:"mdm"`
		}
		err := strictyaml.Decode("dir/muster.yaml", []byte("mdm:\n  "+strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  ")+"\n"), &f)
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "dir/muster.yaml:")) {
			t.Errorf("%s\n%v", text, err)
		}
		if err == nil && f.MDM.dir != "dir" {
			t.Errorf("relative paths start in %q", f.MDM.dir)
		}
	}
	d := Config{URL: "https://x/", SCEP: SCEPConfig{Endpoint: "phones"}}.withDefaults()
	if d.SCEP.URL != "https://x/scep/phones" || d.SCEP.Subject != "CN={{device.name}}" || time.Duration(d.Within) != time.Hour || !*d.Sign || d.Challenge != ChallengeRequired || d.SCEP.KeyUsage != 5 || len(d.digests()) != 3 {
		t.Errorf("%+v", d)
	}
}

func TestNewRefuses(t *testing.T) {
	options := func(dir string) Options {
		return Options{
			Gateway: &fakeGateway{}, Identity: func(string) *gateway.Identity { return nil }, Secret: make([]byte, 32), Clock: time.Now, Log: slog.New(slog.DiscardHandler),
			Endpoints: []Endpoint{{Name: "ota", Config: Config{URL: "https://x", Identifier: "a", FinalProfile: "final", SCEP: SCEPConfig{Endpoint: "phones"}, dir: dir}}},
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "final"), []byte(finalText), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(options(dir)); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Options){
		"a short secret":     func(o *Options) { o.Secret = make([]byte, 31) },
		"no gateway":         func(o *Options) { o.Gateway = nil },
		"a name twice":       func(o *Options) { o.Endpoints = append(o.Endpoints, o.Endpoints[0]) },
		"no profile":         func(o *Options) { o.Endpoints[0].Config.FinalProfile = "absent" },
		"no device CA":       func(o *Options) { o.Endpoints[0].Config.DeviceCA = []string{"final"} },
		"no certificate":     func(o *Options) { o.Endpoints[0].Config.Trust = []string{"final"} },
		"no such value":      func(o *Options) { o.Endpoints[0].Config.SCEP.Subject = "CN={{device.Name}}" },
		"a value of another": func(o *Options) { o.Endpoints[0].Config.SCEP.Subject = "CN={{scep.challenge}}" },
		"no configuration":   func(o *Options) { o.Endpoints[0].Config = Config{} },
		"an identity that does not sign": func(o *Options) {
			cert := certify("x", nil, caKey().Public(), caKey(), func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment })
			o.Identity = func(string) *gateway.Identity { return &gateway.Identity{Key: caKey(), Certificate: cert} }
		},
	} {
		o := options(dir)
		change(&o)
		if _, err := New(o); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// The key that Apple's description of the profile service prints, by the SHA-256 of its SubjectPublicKeyInfo.
func TestAppleDeviceCA(t *testing.T) {
	cas, err := readDeviceCAs(Config{})
	if err != nil || len(cas) != 1 {
		t.Fatal(cas, err)
	}
	sum := sha256.Sum256(must(x509.MarshalPKIXPublicKey(cas[0].key)))
	if got := hex.EncodeToString(sum[:]); got != "13686ec675f9fd26a123adb17b5533f593cf451edd6105ae39b748277a3922e5" {
		t.Error(got)
	}
	if bits := cas[0].key.(*rsa.PublicKey).N.BitLen(); bits != 1024 {
		t.Errorf("%d bits", bits)
	}
}

func TestDeviceCAs(t *testing.T) {
	ec := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	maker := certify("Maker", nil, makerKey().Public(), makerKey())
	ecMaker := certify("EC Maker", nil, ec.Public(), ec)
	name := func(c *x509.Certificate) *x509.Certificate { return c }
	for what, tt := range map[string]struct {
		cas  []deviceCA
		leaf *x509.Certificate
		want bool
	}{
		"SHA-1, ended":       {[]deviceCA{{makerKey().Public(), maker.RawSubject}}, certify("x", maker, deviceKey().Public(), makerKey(), func(c *x509.Certificate) { c.SignatureAlgorithm = x509.SHA1WithRSA }), true},
		"SHA-384":            {[]deviceCA{{makerKey().Public(), maker.RawSubject}}, certify("x", maker, deviceKey().Public(), makerKey(), func(c *x509.Certificate) { c.SignatureAlgorithm = x509.SHA384WithRSA }), true},
		"a bare key":         {[]deviceCA{{key: makerKey().Public()}}, certify("x", name(maker), deviceKey().Public(), makerKey()), true},
		"the second":         {[]deviceCA{{key: otherKey().Public()}, {key: ec.Public()}}, certify("x", ecMaker, deviceKey().Public(), ec), true},
		"another key":        {[]deviceCA{{otherKey().Public(), maker.RawSubject}}, certify("x", maker, deviceKey().Public(), makerKey()), false},
		"another name":       {[]deviceCA{{makerKey().Public(), ecMaker.RawSubject}}, certify("x", maker, deviceKey().Public(), makerKey()), false},
		"a CA below it":      {[]deviceCA{{key: makerKey().Public()}}, certify("x", maker, deviceKey().Public(), makerKey(), func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), false},
		"another kind":       {[]deviceCA{{key: ec.Public()}}, certify("x", maker, deviceKey().Public(), makerKey()), false},
		"PSS":                {[]deviceCA{{key: makerKey().Public()}}, certify("x", maker, deviceKey().Public(), makerKey(), func(c *x509.Certificate) { c.SignatureAlgorithm = x509.SHA256WithRSAPSS }), false},
		"a copied signature": {[]deviceCA{{key: makerKey().Public()}}, &x509.Certificate{RawTBSCertificate: []byte("x"), SignatureAlgorithm: x509.SHA256WithRSA, Signature: maker.Signature}, false},
	} {
		if got := issuedUnder(tt.cas, tt.leaf); got != tt.want {
			t.Errorf("%s: %v", what, got)
		}
	}
	for what, text := range map[string]string{
		"nothing": "", "another block": "-----BEGIN X-----\nAAAA\n-----END X-----\n", "no certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
		"no key": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
	} {
		if _, err := parseDeviceCAs([]byte(text)); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
	for bits, taken := range map[int]bool{1023: false, 1024: true, 8192: true, 8193: false} {
		key := &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), uint(bits-1)), E: 65537}
		if _, err := parseDeviceCAs(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(key))})); (err == nil) != taken {
			t.Errorf("an RSA key of %d bits: %v", bits, err)
		}
	}
	p384 := must(x509.MarshalPKIXPublicKey(ec.Public()))
	if cas, err := parseDeviceCAs(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: p384})); err != nil || len(cas) != 1 {
		t.Errorf("an EC key: %v", err)
	}
}

func TestRender(t *testing.T) {
	for _, r := range gateway.Reasons {
		if _, known := render(r); !known {
			t.Errorf("%s falls to the default", r)
		}
	}
	if status, known := render("x"); known || status != 500 {
		t.Error(status, known)
	}
}
