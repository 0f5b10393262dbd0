package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
)

const mefConfig = `version: 1
listeners:
  mef: {address: 127.0.0.1:0, tls: {suites: [ECDHE_ECDSA_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256]}}
backends:
  local: {plugin: local, config: {dir: ca}}
profiles:
  m2m: {backend: local, keys: [P-256], subject: "CN={{device.name}}"}
endpoints:
  mef:
    protocol: est
    listeners: [mef]
    profile: m2m
    est: {type: onem2m-mef}
    enroll: [{vendor-ca: {cas: [ca.pem], serial: subject.serialNumber}}, {inventory: {}}, {registration: {}}]
    renew: [{own-certificate: {purposes: [clientAuth]}}, {registration: {}}]
`

// What `est: {type: onem2m-mef}` demands of listeners, profiles and pipelines, each with the line where it stands (oneM2M TS-0003
// clauses 8.3.6.2, 10.1 and 10.2). Without the type none of it is demanded.
func TestTypeMEF(t *testing.T) {
	deps := testDeps(t)
	pemFile(t, filepath.Join(deps.Dir, "ca.pem"))
	write(t, deps.Dir, "serials", "SN1\n")
	const (
		vendor = "{vendor-ca: {cas: [ca.pem], serial: subject.serialNumber}}"
		own    = "{own-certificate: {purposes: [clientAuth]}}"
		suites = "suites: [ECDHE_ECDSA_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256]"
		way    = "the stage registration has to be on every way"
		tls    = "a stage that judges the TLS client's certificate has to be on every way"
		alone  = "a certificate is renewed by itself alone"
	)
	for name, c := range map[string]struct {
		old, new string
		want     string // "" when it loads
		strict   bool   // it does not load without the type either
	}{
		"as it is":                            {},
		"TLS 1.3 beside 1.2":                  {old: "tls: {", new: `tls: {min: "1.2", max: "1.3", `},
		"the suite's short name":              {old: suites, new: "suites: [ECDHE_ECDSA_AES_128_CBC_SHA256]"},
		"TLS 1.3 alone":                       {old: "tls: {" + suites, new: `tls: {min: "1.3"`, want: "muster.yaml:3: listeners.mef.tls.min: endpoint mef is of `type: onem2m-mef`: its clients speak TLS 1.2"},
		"without the suite":                   {old: ", TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256", want: "muster.yaml:3: listeners.mef.tls.suites: endpoint mef is of `type: onem2m-mef`: oneM2M TS-0003 clause 10.2.3 has TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256 spoken"},
		"no suites":                           {old: suites, want: "listeners.mef.tls.suites"},
		"behind a proxy":                      {old: "tls: {" + suites + "}", new: "proxies: [{name: front, addresses: [127.0.0.1], client-certificate: nginx}]", want: "muster.yaml:3: listeners.mef: endpoint mef is of `type: onem2m-mef`: both sides authenticate"},
		"a proxy beside":                      {old: "tls: {", new: "proxies: [{name: front, addresses: [127.0.0.1], client-certificate: nginx}], tls: {", want: "TLS ends here, with `tls`, and at no proxy"},
		"other keys":                          {old: "keys: [P-256]", new: "keys: [P-256, P-384]", want: "muster.yaml:7: profiles.m2m.keys: endpoint mef is of `type: onem2m-mef`: oneM2M TS-0003 clause 10.1.1.1 has P-256 keys"},
		"all keys":                            {old: "keys: [P-256], ", want: "profiles.m2m.keys"},
		"another use":                         {old: "keys: [P-256]", new: "keys: [P-256], key-usage: [digitalSignature, keyAgreement]", want: "muster.yaml:7: profiles.m2m.key-usage"},
		"the use, said so":                    {old: "keys: [P-256]", new: "keys: [P-256], key-usage: [digitalSignature], ext-key-usage: [serverAuth, clientAuth]"},
		"another purpose":                     {old: "keys: [P-256]", new: "keys: [P-256], ext-key-usage: [serverAuth]", want: "profiles.m2m.ext-key-usage"},
		"the subject as asked for":            {old: `, subject: "CN={{device.name}}"`, want: "profiles.m2m.subject", strict: true},
		"a further profile":                   {old: "    est:", new: "    profiles: [any]\n    est:", want: "profiles.any.keys", strict: true},
		"enrolls around the registration":     {old: "{inventory: {}}, {registration: {}}]", new: "{inventory: {}}]", want: "muster.yaml:15: endpoints.mef.enroll: type: onem2m-mef: " + way},
		"enrolls in a branch around it":       {old: "{inventory: {}}, {registration: {}}]", new: "{inventory: {}}, {anyOf: [{registration: {}}, {keys: {}}]}]", want: way},
		"registration in each branch":         {old: "{inventory: {}}, {registration: {}}]", new: `{inventory: {}}, {anyOf: [{registration: {}}, {allOf: [{registration: {types: [ae-id]}}]}]}]`},
		"denies the registered":               {old: "{inventory: {}}, {registration: {}}]", new: "{inventory: {}}, {not: {registration: {}}}]", want: way},
		"renews around the registration":      {old: own + ", {registration: {}}]", new: own + "]", want: "muster.yaml:16: endpoints.mef.renew: type: onem2m-mef: " + way},
		"rekeys around the registration":      {old: "    renew:", new: "    rekey: [" + own + "]\n    renew:", want: "endpoints.mef.rekey: type: onem2m-mef: " + way},
		"enrolls by approval alone":           {old: vendor, new: "{approval: {}}", want: tls},
		"enrolls in a branch by approval":     {old: vendor, new: "{anyOf: [" + vendor + ", {approval: {}}]}", want: tls},
		"enrolls by a certificate of another": {old: vendor, new: "{client-certificate: {cas: [ca.pem], device: subject.CN}}"},
		"and by approval":                     {old: vendor, new: vendor + ", {approval: {}}"},
		"a password":                          {old: vendor, new: vendor + ", {device-password: {}}", want: "muster.yaml:15: endpoints.mef.enroll: type: onem2m-mef: device-password: clients authenticate with a certificate"},
		"a password in a branch":              {old: vendor, new: "{anyOf: [" + vendor + ", {device-password: {}}]}", want: "device-password: clients authenticate with a certificate"},
		"an RA":                               {old: vendor, new: vendor + ", {ra: {cas: [ca.pem]}}", want: "ra: the identifier is that of the client itself"},
		"a device of its own word":            {old: vendor + ", {inventory: {}}", new: "{vendor-ca: {cas: [ca.pem]}}, {inventory: {by: [subject.CN]}}", want: "muster.yaml:15: endpoints.mef.enroll: type: onem2m-mef: inventory: by: it goes by what the request says of itself"},
		"or, if it has no other":              {old: "{inventory: {}}", new: "{inventory: {by: [device, san.uri]}}", want: "inventory: by: it goes by what the request says of itself"},
		"a vendor's device, and no which":     {old: vendor, new: "{vendor-ca: {cas: [ca.pem]}}", want: "muster.yaml:15: endpoints.mef.enroll: type: onem2m-mef: the certificate has to say which device it is"},
		"an operator's device, and no which":  {old: vendor, new: "{client-certificate: {cas: [ca.pem]}}", want: "the certificate has to say which device it is"},
		"in a branch, and no which":           {old: vendor, new: "{anyOf: [" + vendor + ", {vendor-ca: {cas: [ca.pem]}}]}", want: "the certificate has to say which device it is"},
		"which, by the inventory":             {old: vendor + ", {inventory: {}}", new: "{vendor-ca: {cas: [ca.pem]}}, {inventory: {by: [certificate.subject.CN]}}"},
		"wildcards":                           {old: vendor, new: vendor + ", {names: {subject: optional, wildcards: true, san: {dns: {}}}}", want: "names: wildcards: its certificates have none"},
		"names":                               {old: vendor, new: vendor + ", {names: {subject: optional, san: {dns: {}, uri: {}}}}"},
		"renews by a vendor's certificate":    {old: own, new: vendor, want: alone},
		"renews in a branch by it":            {old: own, new: "{anyOf: [" + own + ", " + vendor + "]}", want: alone},
		"renews for any purpose":              {old: own, new: "{own-certificate: {}}", want: "muster.yaml:16: endpoints.mef.renew: type: onem2m-mef: own-certificate: the extended key usage"},
		"renews for other purposes too":       {old: own, new: "{own-certificate: {purposes: [clientAuth, any]}}", want: "purposes: [clientAuth]"},
		"asks for its own, for any purpose":   {old: "    renew:", new: "    query: [{own-certificate: {}}]\n    renew:", want: "endpoints.mef.query: type: onem2m-mef: own-certificate: the extended key usage"},
		"asks for its own":                    {old: "    renew:", new: "    query: [" + own + "]\n    renew:"},
	} {
		text := mefConfig
		if c.old != "" {
			if !strings.Contains(text, c.old) {
				t.Fatalf("%s: there is no %s", name, c.old)
			}
			text = strings.Replace(text, c.old, c.new, 1)
		}
		text = strings.Replace(text, "\nendpoints:\n", "\n  any: {backend: local}\nendpoints:\n", 1)
		for _, typed := range []bool{true, false} {
			if !typed {
				text = strings.Replace(text, "{type: onem2m-mef}", "{}", 1)
			}
			cfg, err := parseConfig("muster.yaml", deps.Dir, []byte(text))
			if err == nil {
				_, err = makeEndpoints(cfg, deps)
			}
			switch {
			case !typed && c.strict:
			case !typed && c.want != "" && err != nil && (strings.Contains(err.Error(), "nobody judges the names") || strings.Contains(err.Error(), "goes by the device")): // refused without a type, too
			case !typed || c.want == "":
				if err != nil {
					t.Errorf("%s, typed %t: %v", name, typed, err)
				}
			case err == nil || !strings.Contains(err.Error(), c.want):
				t.Errorf("%s: %v, want %s", name, err, c.want)
			}
		}
	}
}

// What an MEF renews has been issued for the identifier that was registered (oneM2M TS-0003 clause 8.3.6.2.3).
func TestTypeMEFRenewsItsOwn(t *testing.T) {
	deps := testDeps(t)
	pemFile(t, filepath.Join(deps.Dir, "ca.pem"))
	for endpoints, want := range map[string]string{
		"[mef, login]": "",
		"[mef, plain]": "muster.yaml:15: endpoints.mef.renew: type: onem2m-mef: own-certificate: endpoints: plain has no stage registration on every way",
	} {
		text := strings.Replace(mefConfig, "purposes: [clientAuth]", "purposes: [clientAuth], endpoints: "+endpoints, 1) +
			"  plain: {protocol: est, listeners: [mef], profile: m2m, enroll: [{vendor-ca: {cas: [ca.pem]}}]}\n" +
			"  login: {protocol: est, listeners: [mef], profile: m2m, est: {type: onem2m-mef-password}, enroll: [{device-password: {}}, {registration: {}}]}\n"
		cfg, err := parseConfig("muster.yaml", deps.Dir, []byte(text))
		if err == nil {
			_, err = makeEndpoints(cfg, deps)
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %s", endpoints, err, want)
		}
	}
}

// certificate is self-signed, of the key, and lies below dir with it.
func certificate(t *testing.T, dir, name string, key crypto.Signer, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if change != nil {
		change(tmpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, name+".pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(t, dir, name+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func testKeys(t *testing.T) (p256, p384, rsaKey crypto.Signer) {
	t.Helper()
	var keys []crypto.Signer
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return keys[0], keys[1], key
}

// The mandated suite needs a server certificate of its kind of key.
func TestTypeMEFServerCertificate(t *testing.T) {
	deps := testDeps(t)
	pemFile(t, filepath.Join(deps.Dir, "ca.pem"))
	p256, p384, rsaKey := testKeys(t)
	for name, c := range map[string]struct {
		key  crypto.Signer
		want bool
	}{"p256": {p256, true}, "p384": {p384, false}, "rsa": {rsaKey, false}} {
		certificate(t, deps.Dir, name, c.key, nil)
		text := strings.Replace(mefConfig, "tls: {", "tls: {cert: "+name+".pem, key: "+name+".key, ", 1)
		cfg, err := parseConfig("muster.yaml", deps.Dir, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		_, err = makeEndpoints(cfg, deps)
		if (err == nil) != c.want || err != nil && !strings.Contains(err.Error(), "muster.yaml:3: listeners.mef.tls.cert: type: onem2m-mef: TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256 needs a P-256 key") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// oneM2M TS-0003 clause 10.1.1.3: certificates, those of CAs too, are P-256, signed with ecdsa-with-SHA256.
func TestTypeMEFChain(t *testing.T) {
	deps := testDeps(t)
	p256, p384, rsaKey := testKeys(t)
	good := certificate(t, deps.Dir, "good", p256, nil).Raw
	longer := certificate(t, deps.Dir, "longer", p256, func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA384 }).Raw
	cfg, err := parseConfig("muster.yaml", deps.Dir, []byte(mefConfig))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		chain [][]byte
		want  string
	}{
		"P-256 throughout": {chain: [][]byte{good, good}},
		"a P-384 root":     {chain: [][]byte{good, certificate(t, deps.Dir, "p384", p384, nil).Raw}, want: "the CA certificate CN=p384 is not of a P-256 key"},
		"RSA":              {chain: [][]byte{certificate(t, deps.Dir, "rsa", rsaKey, nil).Raw}, want: "the CA certificate CN=rsa is not"},
		"SHA-384":          {chain: [][]byte{longer}, want: "the CA certificate CN=longer is not"},
		"none":             {want: "it has no certificate"},
	} {
		rt := &Runtime{cfg: cfg, cas: map[string][]backend.CA{"local": {{Name: "ec", Chain: c.chain}}}}
		err := rt.suitsMEF("mef", "m2m")
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "muster.yaml:12: endpoints.mef.profile: ")) {
			t.Errorf("%s: %v", name, err)
		}
	}
	cfg.Endpoints["mef"].EST.Type = ""
	rt := &Runtime{cfg: cfg, cas: map[string][]backend.CA{"local": {{Name: "ec", Chain: [][]byte{longer}}}}}
	if err := rt.suitsMEF("mef", "m2m"); err != nil {
		t.Error(err)
	}
	if got := cfg.unconstrained(); len(got) != 0 {
		t.Error(got)
	}
	cfg.Endpoints["mef"].EST.Allow = append(cfg.Endpoints["mef"].EST.Allow, "unconstrained-ca")
	if got := cfg.unconstrained(); len(got) != 1 || got[0] != "mef" {
		t.Error(got)
	}
}
