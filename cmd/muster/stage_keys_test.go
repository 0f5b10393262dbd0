package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/muster-pki/muster/authz"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/seal"
	"github.com/muster-pki/muster/gateway/serve"
	"github.com/muster-pki/muster/plugins/backend"
)

const oldNames = "- names: {}\n    renew:\n    - own-certificate: {}\n    cmp:"

// generating is goodBoth with a stage that has keys made.
func generating(keys string) string {
	return strings.Replace(goodBoth, oldNames, "- keys: "+keys+"\n    "+oldNames, 1)
}

// Keys are made where devices can ask for them, of kinds that the profile certifies.
func TestGenerateConfig(t *testing.T) {
	deps := testDeps(t)
	for text, want := range map[string]string{
		raConfig("    enroll: [approval: {}, names: {}, keys: {generate: [P-256, RSA-3072]}]\n"):                                            "",
		raConfig("    enroll: [approval: {}, names: {}, anyOf: [keys: {generate: [P-384]}, keys: {}]]\n"):                                   "",
		raConfig("    enroll: [approval: {}, names: {}, keys: {generate: [P-225]}]\n"):                                                      `:14: endpoints.ran.enroll[2]: keys: generate: "P-225" is no kind of key that the gateway makes (known: P-256,`,
		raConfig("    enroll: [approval: {}, names: {}, keys: {genrate: [P-256]}]\n"):                                                       `unknown key "genrate" in endpoints.ran.enroll[2].keys (did you mean "generate"?)`,
		raConfig("    enroll: [approval: {}, names: {}, keys: {allowed: [P-384], generate: [P-256]}]\n"):                                    "endpoints.ran.enroll[2]: keys: generate: P-256 is not among the keys that are allowed: P-384",
		raConfig("    profiles: [rsa]\n    enroll: [approval: {}, names: {}, keys: {generate: [P-256]}]\n"):                                 "endpoints.ran.enroll: the stage keys has the gateway make P-256 (generate), and profile rsa certifies none of these, but RSA>=3072: name one of those",
		raConfig("    profiles: [rsa]\n    enroll: [approval: {}, names: {}, keys: {generate: [P-256, RSA-2048]}]\n"):                       "profile rsa certifies none of these",
		raConfig("    profiles: [rsa]\n    enroll: [approval: {}, names: {}, keys: {generate: [P-256, RSA-4096]}]\n"):                       "",
		orderConfig("      - approval: {}\n      - names: {}\n      - keys: {generate: [P-256]}\n"):                                         "",
		orderConfig("      - approval: {}\n      - names: {}\n      - keys: {wrapping: {devices: true}}\n"):                                 "keys: wrapping: it is for keys that the gateway makes: say which by generate",
		orderConfig("      - approval: {}\n      - names: {}\n      - keys: {generate: [P-256], wraping: {}}\n"):                            `(did you mean "wrapping"?)`,
		orderConfig("      - approval: {}\n      - names: {}\n      - keys: {generate: [P-256], wrapping: {keys: {a: {file: missing}}}}\n"): "keys: wrapping: keys: identifier \"a\": file: stat ",
	} {
		text = strings.Replace(text, "  any: {backend: local}\n", "  any: {backend: local}\n  rsa: {backend: local, keys: [\"RSA>=3072\"]}\n", 1)
		c, err := parseConfig("muster.yaml", deps.Dir, []byte(text))
		if err == nil {
			_, err = makeEndpoints(c, deps)
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s%v\nwant %q", text, err, want)
		}
	}
}

// What a profile certifies has no key made, and no certificate decrypted for a proof, even where a stage `keys` stands.
func TestProfileKeysPermitNothing(t *testing.T) {
	c, err := parseConfig("muster.yaml", t.TempDir(), []byte(goodBoth))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	for _, judged := range []bool{false, true} {
		s, err := c.keyStage(c.Endpoints["ran"], judged)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range []*gateway.Request{{KeyGen: &gateway.KeyGen{}, POP: gateway.POPNone}, {PublicKey: spki, POP: gateway.POPConfirm}} {
			g := &gateway.Grant{Profile: "base-station", PublicKey: r.PublicKey}
			before := *g
			s.Decide(t.Context(), r, g)
			if !reflect.DeepEqual(*g, before) {
				t.Errorf("judged %v, %s: the grant has changed to %+v", judged, r.POP, g)
			}
		}
	}
}

// An operator's RA certificate has to be one that devices take keys from.
func TestKGACertificate(t *testing.T) {
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cmcRA := asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 28}
	raPair(t, dir, "ra", key, func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{cmcRA} })
	raPair(t, dir, "kga", key, func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{cmcRA, oidCMKGA} })
	raPair(t, dir, "none", key, nil)
	const want = "muster.yaml:28: endpoints.ran.ra: cert: a stage keys has the gateway make keys (generate), and this certificate is not one of a key generation authority"
	for _, c := range []struct{ keys, ra, want string }{
		{"{generate: [P-256]}", "ra", want}, {"{generate: [P-256]}", "none", want}, {"{generate: [P-256]}", "kga", ""}, {"{}", "ra", ""},
	} {
		text := strings.Replace(generating(c.keys), "    cmp: {confirm-wait: 1h}\n", "    ra: {cert: "+c.ra+".pem, key: "+c.ra+".key}\n", 1)
		text, _, _ = strings.Cut(text, "  phones:\n")
		_, err := checkConfig(t.Context(), bothIn(t, dir, text))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// The gateway's own RA that signs keys is another than the one that devices know already.
func TestKGAIdentity(t *testing.T) {
	dir := t.TempDir()
	of := func(name string) *x509.Certificate {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(dir, "identities", name))
		if err != nil {
			t.Fatal(err)
		}
		_, rest := pem.Decode(data)
		block, _ := pem.Decode(rest)
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	purposes := func(c *x509.Certificate) (s []string) {
		for _, id := range c.UnknownExtKeyUsage {
			s = append(s, id.String())
		}
		return s
	}
	text := func(keys string) string {
		config, _, _ := strings.Cut(generating(keys), "  phones:\n")
		return config + "  plants: {protocol: cmp, listeners: [plain], profile: base-station, renew: [own-certificate: {}]}\n"
	}
	g := serveOn(t, dir, "--config", bothIn(t, dir, text("{}")))
	ra := of("cmp-local-ec.pem")
	if _, err := os.Stat(filepath.Join(dir, "identities", "cmp-local-ec-kga.pem")); err == nil {
		t.Error("there is a certificate for keys that nobody makes")
	}
	g.reload(t, dir, text("{generate: [P-256]}"), "in force")
	kga := of("cmp-local-ec-kga.pem")
	if !of("cmp-local-ec.pem").Equal(ra) || !slices.Equal(purposes(ra), []string{"1.3.6.1.5.5.7.3.28"}) {
		t.Errorf("the RA's certificate has changed: %v", purposes(ra))
	}
	if !slices.Equal(purposes(kga), []string{"1.3.6.1.5.5.7.3.28", "1.3.6.1.5.5.7.3.32"}) || kga.KeyUsage != x509.KeyUsageDigitalSignature || kga.Subject.CommonName != "Muster CMP RA and KGA" {
		t.Errorf("%v, %v, %s", purposes(kga), kga.KeyUsage, kga.Subject)
	}
	g.end(syscall.SIGTERM)
}

// A certificate that is kept whoever confirms it proves nothing by being decrypted.
func TestDecryptsConfig(t *testing.T) {
	deps := testDeps(t)
	for text, refused := range map[string]bool{
		raConfig("    enroll: [approval: {}, names: {}, keys: {pop: [signature, pending-confirm]}]\n    cmp: {unconfirmed: keep}\n"):         true,
		raConfig("    enroll: [approval: {}, names: {}, anyOf: [keys: {pop: [pending-confirm]}, keys: {}]]\n    cmp: {unconfirmed: keep}\n"): true,
		raConfig("    enroll: [approval: {}, names: {}, keys: {pop: [signature]}]\n    cmp: {unconfirmed: keep}\n"):                          false,
		raConfig("    enroll: [approval: {}, names: {}, keys: {pop: [signature, pending-confirm]}]\n"):                                       false,
	} {
		c, err := parseConfig("muster.yaml", deps.Dir, []byte(text))
		if err == nil {
			_, err = makeEndpoints(c, deps)
		}
		if (err != nil) != refused || refused && !strings.Contains(err.Error(), "keys: pop: pending-confirm: with `unconfirmed: keep`") {
			t.Errorf("%s%v", text, err)
		}
	}
}

// An EST endpoint has a certificate for keys that it makes, and none where it makes none. An operator's own takes its place.
func TestKGAOfEST(t *testing.T) {
	_, ec := caChain(t, false)
	keys, err := authz.NewKeys(authz.KeysConfig{Generate: []string{"P-256"}}, "")
	if err != nil {
		t.Fatal(err)
	}
	p := &process{data: t.TempDir(), clock: time.Now, log: slog.New(slog.DiscardHandler), owns: map[string]*serve.Own{}}
	c := &Config{Store: "sqlite:muster.db", Profiles: map[string]*ProfileConfig{"p": {Backend: "corp"}}, Endpoints: map[string]*EndpointConfig{
		"makes": {Protocol: gateway.EST, Profile: "p"}, "too": {Protocol: gateway.EST, Profile: "p"}, "bare": {Protocol: gateway.EST, Profile: "p"},
	}}
	making := &gateway.Endpoint{Pipelines: map[gateway.Operation]gateway.Pipeline{gateway.Rekey: {keys}}}
	rt := &Runtime{
		cfg: c, cas: map[string][]backend.CA{"corp": {{Name: "ec", Chain: ec}}}, identities: map[string]func() *gateway.Identity{},
		gateway: &gateway.Runtime{Endpoints: map[string]*gateway.Endpoint{"makes": making, "too": making, "bare": {}}},
	}
	if err := p.furnishRAs(rt, nil); err != nil {
		t.Fatal(err)
	}
	made := rt.gateway.Endpoints["self-est-corp-ec-kga"]
	if len(rt.owns) != 1 || made == nil || rt.identities["bare"] != nil || rt.identities["makes"] == nil || rt.identities["too"] == nil {
		t.Fatalf("%v: %d keys, %v", byName(rt.gateway.Endpoints), len(rt.owns), byName(rt.identities))
	}
	if p := made.Profile; len(p.ExtKeyUsage) != 1 || !p.ExtKeyUsage[0].Equal(oidCMKGA) || p.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("%+v", p)
	}
	sealer, err := seal.New(make([]byte, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	deps := p.adapterDeps(&Runtime{sealer: sealer, identities: rt.identities})
	if id := deps.identity("bare"); id != nil {
		t.Errorf("%+v", id)
	}

	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	raPair(t, dir, "ra", key, func(c *x509.Certificate) {
		c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 28}}
	})
	raPair(t, dir, "kga", key, func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{oidCMKGA} })
	for name, want := range map[string]string{"ra": "is not one of a key generation authority", "kga": ""} {
		cfg := &Config{dir: dir, Endpoints: map[string]*EndpointConfig{"makes": {Protocol: gateway.EST, RA: &RAConfig{Cert: name + ".pem", Key: name + ".key"}}}}
		ids, err := loadRAs(cfg, map[string]*gateway.Endpoint{"makes": making}, time.Now())
		if want == "" && (err != nil || ids["makes"] == nil) || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, %v", name, ids, err)
		}
	}
}

// Keys that are given under TLS alone take a CA that revokes, and those that are not, something to encrypt them with: told before
// a device asks, with the way out.
func TestKeysUnderTLSAlone(t *testing.T) {
	deps := testDeps(t)
	dir := deps.Dir
	if err := os.WriteFile(filepath.Join(dir, "kek"), bytes.Repeat([]byte{0xfe}, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	const (
		norevoke = ":21: endpoints.ran.%s: backend corp cannot revoke, and a key that is given under TLS alone is kept nowhere"
		nothing  = "endpoints.ran.%s: the stage keys has keys given encrypted alone (wrapping: {required: true}), and there is nothing to encrypt them with"
	)
	password := `{password: {users: {factory: "{sha256}e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}}}`
	for name, tc := range map[string]struct {
		enroll, renew string
		revokes       bool
		want          string
	}{
		"no keys":                {"keys: {}", "own-certificate: {}", false, ""},
		"in the clear":           {"keys: {generate: [P-256]}", "own-certificate: {}", false, fmt.Sprintf(norevoke, "enroll")},
		"revoked":                {"keys: {generate: [P-256]}", "own-certificate: {}", true, ""},
		"in one way of two":      {"anyOf: [{keys: {generate: [P-256]}}, {keys: {generate: [P-256], wrapping: {required: true}}}]", "own-certificate: {}", false, fmt.Sprintf(norevoke, "enroll")},
		"for one that renews":    {"keys: {}", "own-certificate: {}}, {keys: {generate: [P-256]}", false, "endpoints.ran.renew: backend corp cannot revoke"},
		"encrypted":              {"keys: {generate: [P-256], wrapping: {required: true, keys: {k: {file: kek}}}}", "own-certificate: {}", false, ""},
		"encrypted with nothing": {"keys: {generate: [P-256], wrapping: {required: true}}", "own-certificate: {}", true, fmt.Sprintf(nothing, "enroll")},
		"for the certificate":    {"keys: {}", "own-certificate: {}}, {keys: {generate: [P-256], wrapping: {required: true}}", false, ""},
	} {
		text := strings.Replace(good, `    - password: {users: {factory: "{sha256}e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}}
    - names: {}
    renew:
    - own-certificate: {}
`, "    enroll: ["+password+", {names: {}}, {"+tc.enroll+"}]\n    renew: [{"+tc.renew+"}]\n", 1)
		text = strings.Replace(text, "    enroll:\n", "", 1)
		c, err := parseConfig("muster.yaml", dir, []byte(text))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		endpoints, err := makeEndpoints(c, deps)
		if err == nil {
			d := &backend.Description{Name: "corp", Forms: []backend.Form{backend.FormTemplate}}
			if tc.revokes {
				d.Capabilities = []backend.Capability{backend.CapRevoke}
			}
			rt := &Runtime{cfg: c, gateway: &gateway.Runtime{Endpoints: endpoints}}
			err = rt.suits("ran", c.Endpoints["ran"].Profile, map[string]*backend.Description{"local": d})
		}
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s:\ngot  %v\nwant %s", name, err, tc.want)
		}
	}
}
