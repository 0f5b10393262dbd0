package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	x509name "crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
)

// goodBoth is a configuration of CMP and SCEP without a fault; tests change one thing in it.
const goodBoth = `version: 1
listeners:
  plain: {address: 127.0.0.1:0}
store: sqlite:muster.db
seal: {file: seal}
backends:
  local: {plugin: local, config: {dir: ./ca}}
profiles:
  base-station: {backend: local}
  phone:
    backend: local
    issuer: rsa
    keys: ["RSA>=2048"]
endpoints:
  ran:
    protocol: cmp
    listeners: [plain]
    profile: base-station
    default: true
    enroll:
    - anyOf:
      - shared-secret: {secrets: {r: {file: secret}}, devices: true}
      - vendor-ca: {dir: vendors}
    - names: {}
    renew:
    - own-certificate: {}
    cmp: {confirm-wait: 1h}
  phones:
    protocol: scep
    listeners: [plain]
    profile: phone
    default: true
    enroll:
    - challenge: {secrets: {a: "{sha256}e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}}
    - names: {}
    renew:
    - own-certificate: {}
    scep: {chain: full}
    ra: {cert: ra.pem, key: ra.key}
`

// raPair writes an RA certificate, self-signed, and its key.
func raPair(t *testing.T, dir, name string, key any, change func(*x509.Certificate)) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: x509name.Name{CommonName: "RA"}, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}
	if change != nil {
		change(template)
	}
	var public any
	switch k := key.(type) {
	case *rsa.PrivateKey:
		public = &k.PublicKey
	case *ecdsa.PrivateKey:
		public = &k.PublicKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, name+".pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(t, dir, name+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
}

// bothIn writes goodBoth, changed, with what it needs.
func bothIn(t *testing.T, dir, config string) string {
	t.Helper()
	write(t, dir, "secret", "0123456789abcdef\n")
	write(t, dir, "seal", base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))+"\n")
	return write(t, dir, "muster.yaml", config)
}

func TestProtocolConfigErrors(t *testing.T) {
	dir := t.TempDir()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	raPair(t, dir, "ra", rsaKey, nil)
	raPair(t, dir, "ec", ecKey, nil)
	raPair(t, dir, "signs", rsaKey, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature })
	raPair(t, dir, "encrypts", rsaKey, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment })
	raPair(t, dir, "over", rsaKey, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) })
	raPair(t, dir, "ca", rsaKey, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })
	twice, err := os.ReadFile(filepath.Join(dir, "ra.pem"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(filepath.Join(dir, "ec.pem"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "chain.pem", string(twice)+string(other))
	if _, err := checkConfig(t.Context(), bothIn(t, dir, goodBoth)); err != nil {
		t.Fatal(err)
	}
	ra := "ra: {cert: ra.pem, key: ra.key}"
	for _, tc := range []struct{ name, old, new, want string }{
		{"protocol", "protocol: cmp", "protocol: cpm", `:16: endpoints.ran.protocol: "cpm" is not spoken (did you mean "cmp"?)`},
		{"another's section", "cmp: {confirm-wait: 1h}", "scep: {}", ":27: endpoints.ran.scep: the endpoint speaks cmp: leave it out"},
		{"another's section, est", "scep: {chain: full}", "est: {}", ":38: endpoints.phones.est: the endpoint speaks scep: leave it out"},
		{"key of cmp", "{confirm-wait: 1h}", "{confirm-wiat: 1h}", `:27: unknown key "confirm-wiat" in endpoints.ran.cmp (did you mean "confirm-wait"?)`},
		{"value of cmp", "{confirm-wait: 1h}", "{confirm: never}", ":27: endpoints.ran.cmp: confirm: not one of on-request, explicit"},
		{"key of scep", "{chain: full}", "{chian: full}", `:38: unknown key "chian" in endpoints.phones.scep (did you mean "chain"?)`},
		{"value of scep", "{chain: full}", "{legacy: [md5]}", `:38: endpoints.phones.scep: legacy: "md5" is not one of`},
		{"name of an operation", "  ran:", "  initialization:", ":15: endpoints.initialization: "},
		{"reserved name", "  ran:", "  self-cmp-local-ec:", ":15: endpoints.self-cmp-local-ec: the gateway uses this name for itself"},
		{"default twice", "endpoints:\n", "endpoints:\n  other: {protocol: scep, listeners: [plain], profile: phone, default: true, renew: [own-certificate: {}]}\n", ":33: endpoints.phones.default: endpoint other is the default of listener plain already"},
		{"query over CMP", "    renew:\n    - own-certificate: {}\n    cmp:", "    query:\n    - own-certificate: {}\n    cmp:", ":25: endpoints.ran.query: requests to query are not served over CMP yet: leave it out"},
		{"query by a challenge", "    renew:\n    - own-certificate: {}\n    scep:", "    query:\n    - challenge: {issued: true}\n    scep:", "the stage challenge looks at challenge, which SCEP query requests do not carry: nobody could pass it"},
		{"revoke over SCEP", "    renew:\n    - own-certificate: {}\n    scep:", "    revoke:\n    - own-certificate: {}\n    scep:", ":36: endpoints.phones.revoke: SCEP has no such request: leave it out"},
		{"SCEP under the EC CA", "    issuer: rsa\n", "    issuer: ec\n", ":31: endpoints.phones.profile: SCEP's clients encrypt to RSA keys"},
		{"SCEP under the default CA", "    issuer: rsa\n", "", "is not RSA throughout: set `issuer: rsa` in a profile of its own"},
		{"SCEP without RSA keys", `["RSA>=2048"]`, "[P-256, Ed25519]", ":31: endpoints.phones.profile: profile phone certifies no RSA keys"},
		{"password over CMP", "- names: {}\n    renew:\n    - own-certificate: {}\n    cmp:", "- password: {users: {a: \"{sha256}e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"}}\n    - names: {}\n    cmp:", ":20: endpoints.ran.enroll: the stage password looks at password, which CMP requests do not carry"},
		{"shared secret over SCEP", "    - challenge: {secrets: {a: \"{sha256}e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"}}", "    - shared-secret: {devices: true}", ":33: endpoints.phones.enroll: the stage shared-secret looks at mac-key, which SCEP requests do not carry"},
		{"challenge over CMP", "- vendor-ca: {dir: vendors}", "- challenge: {secrets: {a: \"{sha256}e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"}}", "the stage challenge looks at challenge, which CMP requests do not carry"},
		{"secret is not there", "file: secret}", "file: scret}", ":22: endpoints.ran.enroll[0]: shared-secret: secrets: reference"},
		{"secret of a stage", "{file: secret}", "{fiel: secret}", `:22: unknown key "fiel" in endpoints.ran.enroll[0].shared-secret.secrets.r (did you mean "file"?)`},
		{"key of vendor-ca", "{dir: vendors}", "{dri: vendors}", `:23: unknown key "dri" in endpoints.ran.enroll[0].vendor-ca (did you mean "dir"?)`},
		{"no names over CMP", "    - names: {}\n    renew:\n    - own-certificate: {}\n    cmp:", "    renew:\n    - own-certificate: {}\n    cmp:", ":20: endpoints.ran.enroll: no stage judges the names"},
		{"seal", "seal: {file: seal}", "seal: {file: slea}", ":5: seal.file: seal: key file "},
		{"seal without a file", "seal: {file: seal}", "seal: {}", `:5: seal lacks "file"`},
		{"RA without a key", ra, "ra: {cert: ra.pem}", ":39: endpoints.phones.ra: key: required: a file; or token: {backend: NAME"},
		{"RA in a token of no backend", ra, "ra: {cert: ra.pem, token: {backend: lokal, label: ra}}", `:39: endpoints.phones.ra: token.backend: there is no backend "lokal" (did you mean`},
		{"RA in a file and a token", ra, "ra: {cert: ra.pem, key: ra.key, token: {backend: local, label: ra}}", ":39: endpoints.phones.ra: key and token: the key is in one of the two"},
		{"RA in a token that is EC", ra, "ra: {cert: ec.pem, token: {backend: local, label: ra}}", "the RA key is no RSA key"},
		{"RA in a token without a label", ra, "ra: {cert: ra.pem, token: {backend: local}}", `:39: endpoints.phones.ra.token lacks "label"`},
		{"RA that is not there", ra, "ra: {cert: ar.pem, key: ra.key}", ":39: endpoints.phones.ra: stat "},
		{"RA of another key", ra, "ra: {cert: ra.pem, key: ec.key}", ":39: endpoints.phones.ra: "},
		{"RA that is EC", ra, "ra: {cert: ec.pem, key: ec.key}", `:39: endpoints.phones.ra: scep: endpoint "phones": the RA key is no RSA key`},
		{"RA that does not encrypt", ra, "ra: {cert: signs.pem, key: signs.key}", ":39: endpoints.phones.ra: scep: endpoint \"phones\": the RA certificate's keyUsage lacks"},
		{"RA that does not sign", ra, "ra: {cert: encrypts.pem, key: encrypts.key}", ":39: endpoints.phones.ra: cert: its key usage lacks digitalSignature"},
		{"RA that has ended", ra, "ra: {cert: over.pem, key: over.key}", ":39: endpoints.phones.ra: cert: it ended on "},
		{"RA that is a CA", ra, "ra: {cert: ca.pem, key: ca.key}", ":39: endpoints.phones.ra: cert: it is a CA's certificate"},
		{"RA with another's chain", ra, "ra: {cert: chain.pem, key: ra.key}", ":39: endpoints.phones.ra: cert: certificate 2 did not issue the one before it"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if strings.Count(goodBoth, tc.old) != 1 {
				t.Fatalf("%q is in the configuration %d times", tc.old, strings.Count(goodBoth, tc.old))
			}
			file := bothIn(t, dir, strings.Replace(goodBoth, tc.old, tc.new, 1))
			wantFault(t, file, tc.want)
		})
	}
	withRA := strings.Replace(good, "    est: {wrap: auto}", "    "+ra, 1)
	if _, err := checkConfig(t.Context(), write(t, dir, "muster.yaml", withRA)); err == nil || !strings.Contains(err.Error(), ":27: endpoints.ran.ra: EST has no RA certificate but where the gateway makes keys (generate): leave it out") {
		t.Errorf("an RA for EST: %v", err)
	}
}

// What a backend cannot do for a protocol is told when it is asked, with the way out.
func TestProtocolsSuitBackends(t *testing.T) {
	_, ec := caChain(t, false)
	_, rsaChain := caChain(t, true)
	mixed := [][]byte{rsaChain[0], ec[0]}
	whole := backend.Description{Name: "corp", Forms: []backend.Form{backend.FormTemplate}, Capabilities: []backend.Capability{backend.CapRevoke}}
	for name, tc := range map[string]struct {
		endpoint string
		change   func(d *backend.Description)
		keep     bool
		revoke   bool
		cmp      string // further settings
		cas      []backend.CA
		want     string
	}{
		"CMP":                         {endpoint: "ran"},
		"CMP, p10cr alone":            {endpoint: "ran", cmp: "bodies: [p10cr]", change: func(d *backend.Description) { d.Forms = []backend.Form{backend.FormPKCS10} }},
		"CMP, p10cr and kur":          {endpoint: "ran", cmp: "bodies: [p10cr, kur]", change: func(d *backend.Description) { d.Forms = []backend.Form{backend.FormPKCS10} }, want: "certifies PKCS#10 requests only, and CMP's kur are none"},
		"CMP, PKCS#10, the way out":   {endpoint: "ran", change: func(d *backend.Description) { d.Forms = []backend.Form{backend.FormPKCS10} }, want: "CMP's ir, cr, kur are none, nor can they be made into one: say `cmp: {bodies: [p10cr]}` to take PKCS#10 requests alone, renewals too, or name a backend that takes templates"},
		"CMP, PKCS#10 only":           {endpoint: "ran", change: func(d *backend.Description) { d.Forms = []backend.Form{backend.FormPKCS10} }, want: ":18: endpoints.ran.profile: backend local (corp) certifies PKCS#10 requests only"},
		"CMP, no revocation":          {endpoint: "ran", change: func(d *backend.Description) { d.Capabilities = nil }, want: "say `cmp: {unconfirmed: keep}`, or name a backend that revokes"},
		"CMP, no revocation, kept":    {endpoint: "ran", change: func(d *backend.Description) { d.Capabilities = nil }, keep: true},
		"CMP, no revocation, asked":   {endpoint: "ran", change: func(d *backend.Description) { d.Capabilities = nil }, keep: true, revoke: true, want: "endpoints.ran.revoke: backend local (corp) cannot revoke: leave it out"},
		"CMP, revocation":             {endpoint: "ran", revoke: true},
		"SCEP":                        {endpoint: "phones", cas: []backend.CA{{Name: "ec", Chain: ec}, {Name: "rsa", Chain: rsaChain}}},
		"SCEP, an EC CA":              {endpoint: "phones", cas: []backend.CA{{Name: "rsa", Chain: ec}, {Name: "old", Chain: rsaChain}}, want: ":31: endpoints.phones.profile: SCEP's clients encrypt to RSA keys, and many fail where another kind stands in the CA's chain; that of profile phone, of backend local, is not RSA throughout: set `issuer: old`"},
		"SCEP, an EC root":            {endpoint: "phones", cas: []backend.CA{{Name: "rsa", Chain: mixed}}, want: "is not RSA throughout: name another backend"},
		"SCEP, PKCS#10 and no revoke": {endpoint: "phones", change: func(d *backend.Description) { d.Forms, d.Capabilities = []backend.Form{backend.FormPKCS10}, nil }, cas: []backend.CA{{Name: "rsa", Chain: rsaChain}}},
	} {
		t.Run(name, func(t *testing.T) {
			text := goodBoth
			if tc.keep {
				text = strings.Replace(text, "{confirm-wait: 1h}", "{unconfirmed: keep}", 1)
			}
			if tc.cmp != "" {
				text = strings.Replace(text, "{confirm-wait: 1h}", "{"+tc.cmp+"}", 1)
			}
			if tc.revoke {
				text = strings.Replace(text, "    cmp: {", "    revoke: [own-certificate: {}]\n    cmp: {", 1)
			}
			c, err := parseConfig("muster.yaml", t.TempDir(), []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			d := whole
			if tc.change != nil {
				tc.change(&d)
			}
			rt := &Runtime{cfg: c, cas: map[string][]backend.CA{"local": tc.cas}}
			err = rt.suits(tc.endpoint, c.Endpoints[tc.endpoint].Profile, map[string]*backend.Description{"local": &d})
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
}

// Of the bodies that an endpoint takes some ask for what its pipelines decide on; a message that is passed on is nobody's to certify here.
func TestBodiesReachPipelines(t *testing.T) {
	for name, tc := range map[string]struct{ old, new, want string }{
		"p10cr, which renews":   {"{confirm-wait: 1h}", "{bodies: [p10cr]}", ""},
		"ir and kur":            {"{confirm-wait: 1h}", "{bodies: [ir, kur]}", ""},
		"ir alone":              {"{confirm-wait: 1h}", "{bodies: [ir]}", "endpoints.ran.renew: none of the bodies that the endpoint takes (cmp: bodies) asks for that: leave it out, or add kur, or p10cr where kur is not taken"},
		"kur alone":             {"{confirm-wait: 1h}", "{bodies: [kur]}", "endpoints.ran.enroll: none of the bodies that the endpoint takes (cmp: bodies) asks for that: leave it out, or add ir, cr or p10cr"},
		"a body that is none":   {"{confirm-wait: 1h}", "{bodies: [csr]}", "bodies"},
		"none":                  {"{confirm-wait: 1h}", "{bodies: []}", "none would ask for a certificate"},
		"keys that nobody asks": {"    - names: {}\n    renew:\n    - own-certificate: {}\n    cmp: {confirm-wait: 1h}", "    - keys: {generate: [P-256]}\n    - names: {}\n    renew:\n    - own-certificate: {}\n    cmp: {bodies: [p10cr]}", "a p10cr, which is all that the endpoint takes"},
		"keys by ir":            {"    - names: {}\n    renew:\n    - own-certificate: {}\n    cmp: {confirm-wait: 1h}", "    - keys: {generate: [P-256]}\n    - names: {}\n    renew:\n    - own-certificate: {}\n    cmp: {bodies: [ir, kur]}", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			text := strings.Replace(goodBoth, "    ra: {cert: ra.pem, key: ra.key}\n", "", 1)
			_, err := checkConfig(t.Context(), bothIn(t, dir, strings.Replace(text, tc.old, tc.new, 1)))
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
	text := strings.Replace(goodBoth, "    - own-certificate: {}\n    cmp: {confirm-wait: 1h}", "    - own-certificate: {}\n    - forward: {backend: local}\n    cmp: {bodies: [p10cr, kur]}", 1)
	c, err := parseConfig("muster.yaml", t.TempDir(), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if got := c.templatesHere(c.Endpoints["ran"]); len(got) != 0 {
		t.Errorf("%v are certified here", got)
	}
}

// caChain is a CA of one certificate.
func caChain(t *testing.T, isRSA bool) (*x509.Certificate, [][]byte) {
	t.Helper()
	if !isRSA {
		cert, _ := selfSigned(t)
		return cert, [][]byte{cert.Raw}
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: x509name.Name{CommonName: "RSA CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, [][]byte{der}
}

// The gateway's confirmation policy is the endpoint's section.
func TestConfirmationIsWired(t *testing.T) {
	for text, want := range map[string]struct {
		wait time.Duration
		keep bool
	}{
		"{confirm-wait: 1h}":  {time.Hour, false},
		"{unconfirmed: keep}": {5 * time.Minute, true},
		"{}":                  {5 * time.Minute, false},
	} {
		dir := t.TempDir()
		bothIn(t, dir, "")
		c, err := parseConfig("muster.yaml", dir, []byte(strings.Replace(goodBoth, "{confirm-wait: 1h}", text, 1)))
		if err != nil {
			t.Fatal(err)
		}
		all, err := makeEndpoints(c, stageDeps{
			Dir: dir, Certs: failingStore{}, Secrets: failingStore{}, Opener: failingStore{}, Clock: time.Now, Log: testDeps(t).Log, Hashing: testDeps(t).Hashing,
		})
		if err != nil {
			t.Fatal(err)
		}
		if e := all["ran"]; e.ConfirmWait != want.wait || e.KeepUnconfirmed != want.keep {
			t.Errorf("%s: %v, %v", text, e.ConfirmWait, e.KeepUnconfirmed)
		}
		if e := all["phones"]; e.ConfirmWait != 0 || e.KeepUnconfirmed {
			t.Errorf("%s: SCEP: %+v", text, e)
		}
	}
}

func TestRANames(t *testing.T) {
	seen := map[string]bool{}
	for _, parts := range [][]string{{"cmp", "a-b", "c"}, {"cmp", "a", "b-c"}, {"cmp", "a%2Db", "c"}, {"cmp", "", "x"}, {"cmp", "../../x", "ec"}, {"cmp", strings.Repeat("ü/", 99), "ec"}, {"cmp", strings.Repeat("ü/", 98), "ec"}} {
		name := raName(parts...)
		if seen[name] || len(name) > 100 || strings.ContainsAny(name, "/\\\x00") || strings.Contains(name, "..") {
			t.Errorf("%q: %q", parts, name)
		}
		seen[name] = true
	}
	if raName("scep", "local", "rsa") != "scep-local-rsa" {
		t.Error(raName("scep", "local", "rsa"))
	}
}

// raOf is the RA certificate that the SCEP endpoint shows.
func (g *gatewayProcess) raOf(path string) *x509.Certificate {
	g.t.Helper()
	res, err := http.Get("http://" + g.where("plain") + path + "?operation=GetCACert")
	if err != nil {
		g.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		g.t.Fatalf("%s: %d, %v", path, res.StatusCode, err)
	}
	for _, id := range []string{"identities/scep-local-rsa.pem", "ra.pem"} {
		data, err := os.ReadFile(filepath.Join(g.data, id))
		if err != nil {
			continue
		}
		b, rest := pem.Decode(data)
		if b.Type != "CERTIFICATE" { // the key comes first
			b, _ = pem.Decode(rest)
		}
		if !bytes.Contains(body, b.Bytes) {
			continue
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			g.t.Fatal(err)
		}
		return c
	}
	g.t.Fatalf("%s shows no RA certificate that is known", path)
	return nil
}

// RA certificates are made, kept over restarts and reloads, and given way to the operator's own; a reload that fails
// changes none.
func TestRAIdentities(t *testing.T) {
	dir := t.TempDir()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	raPair(t, dir, "ra", key, nil)
	own := strings.Replace(goodBoth, "    ra: {cert: ra.pem, key: ra.key}\n", "", 1)
	file := bothIn(t, dir, own)
	g := serveOn(t, dir, "--config", file)
	first := g.raOf("/scep")
	if _, ok := first.PublicKey.(*rsa.PublicKey); !ok || first.KeyUsage != x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment || len(first.ExtKeyUsage)+len(first.UnknownExtKeyUsage) != 0 {
		t.Errorf("the RA's key is a %T, its usage %v %v", first.PublicKey, first.KeyUsage, first.ExtKeyUsage)
	}
	data, err := os.ReadFile(filepath.Join(dir, "identities", "cmp-local-ec.pem"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest := pem.Decode(data)
	block, _ := pem.Decode(rest)
	cmp, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := cmp.PublicKey.(*ecdsa.PublicKey); !ok || cmp.KeyUsage != x509.KeyUsageDigitalSignature || len(cmp.UnknownExtKeyUsage) != 1 || cmp.UnknownExtKeyUsage[0].String() != "1.3.6.1.5.5.7.3.28" {
		t.Errorf("CMP: %T, %v %v", cmp.PublicKey, cmp.KeyUsage, cmp.UnknownExtKeyUsage)
	}
	for _, name := range []string{"cmp-local-ec.pem", "scep-local-rsa.pem"} {
		if info, err := os.Stat(filepath.Join(dir, "identities", name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	reload := func(config, says string) { t.Helper(); g.reload(t, dir, config, says) }
	reload(own, "in force")
	if !g.raOf("/scep").Equal(first) {
		t.Error("another RA certificate after a reload")
	}
	reload(strings.Replace(goodBoth, "key: ra.key", "key: ar.key", 1), "nothing has changed")
	if !g.raOf("/scep").Equal(first) {
		t.Error("another RA certificate after a reload that failed")
	}
	reload(goodBoth, "in force")
	if c := g.raOf("/scep"); c.Subject.CommonName != "RA" {
		t.Errorf("the operator's RA certificate is not used: %s", c.Subject)
	}
	reload(strings.Replace(own, "  phones:", "  handsets:", 1), "in force")
	if !g.raOf("/scep/handsets").Equal(first) {
		t.Error("the RA certificate was not taken up again")
	}
	g.end(syscall.SIGTERM)
	write(t, dir, "muster.yaml", own)
	g = serveOn(t, dir, "--config", file)
	if !g.raOf("/scep").Equal(first) {
		t.Error("another RA certificate after a restart")
	}
	g.end(syscall.SIGTERM)
}

// A protocol is served where it has endpoints, and nowhere else.
func TestProtocolsAreServedWhereTheyStand(t *testing.T) {
	dir := t.TempDir()
	g := serveOn(t, dir, "--config", write(t, dir, "muster.yaml", good))
	for _, path := range []string{"/scep", "/.well-known/cmp", "/cmp/x"} {
		if code, body := fetch(t, http.DefaultClient, "http://"+g.where("plain")+path); code != http.StatusNotFound || strings.Contains(body, "SCEP") || strings.Contains(body, "CMP") {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "identities", "cmp-local-ec.pem")); err == nil {
		t.Error("an RA certificate that nobody needs")
	}
	g.end(syscall.SIGINT)
}
