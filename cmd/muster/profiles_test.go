package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/authz"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

const (
	oldKeys     = "    keys: [P-256, P-384]\n    validity: 397d\n"
	oldEnroll   = "    - names: {}\n    renew:"
	oldProfiles = "    profile: base-station\n"
)

func TestProfileConfig(t *testing.T) {
	dir := t.TempDir()
	second := "  small-cell: {backend: local, keys: [P-384], subject: \"CN={{device.serial}}\"}\n"
	for _, tc := range []struct {
		name  string
		edits []string // old, new
		want  string   // "" is a good one
	}{
		{"templates", []string{oldKeys, oldKeys + "    subject: \"CN={{device.serial}},O=Operator\"\n    san: {dns: [\"{{device.name}}.ran.example\"]}\n"}, ""},
		{"templates without a stage for names", []string{oldKeys, oldKeys + "    subject: \"CN={{device.serial}}\"\n", oldEnroll, "    renew:"}, ""},
		{"bad template", []string{oldKeys, oldKeys + "    subject: \"CN={{device.seral}}\"\n"}, `:15: profiles.base-station.subject: CN: {{device.seral}}: device has no "seral" (did you mean "serial"?)`},
		{"bad template of a SAN", []string{oldKeys, oldKeys + "    san:\n      dns:\n      - \"{{devce.name}}\"\n"}, `:17: profiles.base-station.san.dns[0]: {{devce.name}}: there is no value "devce" (did you mean "device"?)`},
		{"bad fixed name", []string{oldKeys, oldKeys + "    san:\n      dns:\n      - a b\n"}, `:17: profiles.base-station.san.dns.0: dns "a b" is not a host name`},
		{"unknown word", []string{oldKeys, oldKeys + "    ask: {san: alow}\n"}, `:15: profiles.base-station.ask.san is wrong: "alow" is not known (did you mean "allow"?)`},
		{"unknown usage that may be asked for", []string{oldKeys, oldKeys + "    ask:\n      key-usage: allow\n      allowed: {key-usage: [keyAgrement]}\n"}, `:17: profiles.base-station.ask.allowed.key-usage: unknown usage "keyAgrement" (did you mean "keyAgreement"?)`},
		{"unknown purpose that may be asked for", []string{oldKeys, oldKeys + "    ask:\n      ext-key-usage: allow\n      allowed: {ext-key-usage: [serverAut]}\n"}, `:17: profiles.base-station.ask.allowed.ext-key-usage: unknown usage "serverAut" (did you mean "serverAuth"?)`},
		{"unknown lint", []string{oldKeys, oldKeys + "    lint: {ignore: [e_ext_san_uri_relativ]}\n"}, `:15: profiles.base-station.lint.ignore[0] is wrong: there is no lint "e_ext_san_uri_relativ" (did you mean "e_ext_san_uri_relative"?)`},
		{"names from the request, and nobody judges them", []string{oldKeys, oldKeys + "    subject: \"CN={{request.subject.CN}}\"\n", oldEnroll, "    renew:"}, "endpoints.ran.enroll: no stage judges the names asked for, and profile base-station certifies some of them"},
		{"a SAN as asked for, and nobody judges it", []string{oldKeys, oldKeys + "    subject: \"CN={{device.serial}}\"\n    ask: {san: allow}\n", oldEnroll, "    renew:"}, "profile base-station certifies some of them"},
		{"no templates, and nobody judges the names", []string{oldEnroll, "    renew:"}, "so that whoever may enrol could enrol as anybody"},
		{"a second profile", []string{oldKeys, oldKeys + second, oldProfiles, oldProfiles + "    profiles: [small-cell]\n"}, ""},
		{"a second profile that lets names through", []string{oldKeys, oldKeys + "    subject: \"CN={{device.serial}}\"\n  open: {backend: local}\n", oldProfiles, oldProfiles + "    profiles: [open]\n", oldEnroll, "    renew:"}, "or give profile open a subject of its own"},
		{"a second profile that is not there", []string{oldProfiles, oldProfiles + "    profiles: [base-stations]\n"}, `:20: endpoints.ran.profiles.0: there is no profile "base-stations" (did you mean "base-station"?)`},
		{"a second profile twice", []string{oldKeys, oldKeys + second, oldProfiles, oldProfiles + "    profiles: [small-cell, small-cell]\n"}, `endpoints.ran.profiles.1: "small-cell" stands twice`},
		{"keys of a second profile", []string{oldKeys, oldKeys + strings.Replace(second, "P-384", "P-385", 1), oldProfiles, oldProfiles + "    profiles: [small-cell]\n"}, `profiles.small-cell.keys: allowed: "P-385" is not known`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			text := good
			for i := 0; i < len(tc.edits); i += 2 {
				if strings.Count(text, tc.edits[i]) != 1 {
					t.Fatalf("%q is in the configuration %d times", tc.edits[i], strings.Count(text, tc.edits[i]))
				}
				text = strings.Replace(text, tc.edits[i], tc.edits[i+1], 1)
			}
			file := write(t, dir, "muster.yaml", text)
			if tc.want == "" {
				if _, err := checkConfig(t.Context(), file); err != nil {
					t.Error(err)
				}
				return
			}
			wantFault(t, file, tc.want)
		})
	}
}

// What SCEP asks of the endpoint's profile it asks of each that is offered.
func TestFurtherProfilesOfSCEP(t *testing.T) {
	dir := t.TempDir()
	const phones = "    profile: phone\n"
	if strings.Count(goodBoth, phones) != 1 || strings.Count(goodBoth, "profiles:\n") != 1 {
		t.Fatal("the configuration has changed")
	}
	text := strings.Replace(goodBoth, phones, phones+"    profiles: [tablet]\n", 1)
	for profile, want := range map[string]string{
		"{backend: local, keys: [P-256]}":                     "endpoints.phones.profiles.0: profile tablet certifies no RSA keys",
		"{backend: local, keys: [\"RSA>=2048\"], issuer: ec}": "endpoints.phones.profiles.0: SCEP's clients encrypt to RSA keys",
	} {
		file := bothIn(t, dir, strings.Replace(text, "profiles:\n", "profiles:\n  tablet: "+profile+"\n", 1))
		if _, err := checkConfig(t.Context(), file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", profile, err)
		}
	}
}

// The keys of the profile that was chosen count, not those of the endpoint's own.
func TestKeysOfTheChosenProfile(t *testing.T) {
	text := strings.Replace(good, oldKeys, "    keys: [P-256]\n  small-cell: {backend: local, keys: [P-384]}\n", 1)
	text = strings.Replace(text, oldProfiles, oldProfiles+"    profiles: [small-cell]\n", 1)
	c, err := parseConfig("muster.yaml", t.TempDir(), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.keyStage(c.Endpoints["ran"], false)
	if err != nil {
		t.Fatal(err)
	}
	if s.Name() != "keys" {
		t.Error(s.Name())
	}
	spki := func(curve elliptic.Curve) []byte {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	p256, p384 := spki(elliptic.P256()), spki(elliptic.P384())
	for _, tt := range []struct {
		profile string
		key     []byte
		want    gateway.Decision
	}{
		{"base-station", p256, gateway.Allow}, {"base-station", p384, gateway.Deny},
		{"small-cell", p256, gateway.Deny}, {"small-cell", p384, gateway.Allow},
		{"other", p256, gateway.CannotAnswer},
	} {
		r := &gateway.Request{PublicKey: tt.key, POP: gateway.POPSignature}
		if v := s.Decide(t.Context(), r, &gateway.Grant{Profile: tt.profile, PublicKey: tt.key}); v.Decision != tt.want {
			t.Errorf("%s: %v %s, want %v", tt.profile, v.Decision, v.Note, tt.want)
		}
	}
}

// A CA that certifies a CSR's own names takes no profile that makes others.
func TestOverrides(t *testing.T) {
	d := &backend.Description{Name: "csr-only", Forms: []backend.Form{backend.FormPKCS10},
		Overrides: []backend.Field{backend.FieldValidity, backend.FieldKeyUsage, backend.FieldExtKeyUsage}}
	for content, want := range map[string]string{
		"": "",
		"    subject: \"CN={{device.serial}}\"\n": "cannot set subject, subjectAltName",
		"    san: {dns: [\"{{device.name}}\"]}\n": "cannot set subjectAltName",
	} {
		c, err := parseConfig("muster.yaml", t.TempDir(), []byte(strings.Replace(good, oldKeys, oldKeys+content, 1)))
		if err != nil {
			t.Fatal(err)
		}
		if err := certifies(d, c.Profiles["base-station"]); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", content, err, want)
		}
	}
}

// A CA that decides validity or usages by its own rules is bounded by what the profile says of them; names that a profile makes, it has
// to take.
func TestDecidingCAs(t *testing.T) {
	const (
		subject, san = backend.FieldSubject, backend.FieldSubjectAltName
		validity     = backend.FieldValidity
		ku, eku      = backend.FieldKeyUsage, backend.FieldExtKeyUsage
	)
	names := "    subject: \"CN={{device.serial}}\"\n    san: {dns: [\"{{device.name}}\"]}\n"
	for name, tc := range map[string]struct {
		content            string
		forms              []backend.Form
		overrides, decides []backend.Field
		want               string
	}{
		"it decides all":                     {"", []backend.Form{backend.FormPKCS10}, nil, []backend.Field{validity, ku, eku, subject, san}, ""},
		"it decides some, and obeys in some": {"", []backend.Form{backend.FormPKCS10}, []backend.Field{validity}, []backend.Field{ku, eku}, ""},
		"it says nothing":                    {"", []backend.Form{backend.FormPKCS10}, nil, nil, "cannot set validity, keyUsage, extKeyUsage, which this profile decides: name a backend that takes templates, or one that overrides these"},
		"it decides no validity":             {"", []backend.Form{backend.FormPKCS10}, nil, []backend.Field{ku, eku}, "cannot set validity, which"},
		"it decides no usage":                {"", []backend.Form{backend.FormPKCS10}, nil, []backend.Field{validity, eku}, "cannot set keyUsage, which"},
		"it decides no purposes":             {"", []backend.Form{backend.FormPKCS10}, nil, []backend.Field{validity, ku}, "cannot set extKeyUsage, which"},
		"names that the profile makes": {names, []backend.Form{backend.FormPKCS10}, nil, []backend.Field{validity, ku, eku, subject, san},
			"cannot set subject, subjectAltName, which this profile decides: leave its subject and san to the request"},
		"names that it obeys": {names, []backend.Form{backend.FormPKCS10}, []backend.Field{subject, san}, []backend.Field{validity, ku, eku}, ""},
		"templates":           {names, []backend.Form{backend.FormTemplate}, nil, nil, ""},
		"neither":             {"", nil, nil, []backend.Field{validity, ku, eku}, "certifies neither templates nor PKCS#10 requests"},
	} {
		c, err := parseConfig("muster.yaml", t.TempDir(), []byte(strings.Replace(good, oldKeys, oldKeys+tc.content, 1)))
		if err != nil {
			t.Fatal(err)
		}
		d := &backend.Description{Name: "deciding", Forms: tc.forms, Overrides: tc.overrides, Decides: tc.decides}
		err = certifies(d, c.Profiles["base-station"])
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

// The gateway's own certificate is one of a CA that can make it.
func TestServerCertificateOfDecidingCA(t *testing.T) {
	c, err := parseConfig("muster.yaml", t.TempDir(), []byte(good+"server-certificate: {backend: local}\n"))
	if err != nil {
		t.Fatal(err)
	}
	rt := &Runtime{cfg: c, cas: map[string][]backend.CA{"local": {{Name: "ec"}}}}
	for want, d := range map[string]*backend.Description{
		"": {Forms: []backend.Form{backend.FormPKCS10}, Decides: []backend.Field{backend.FieldValidity, backend.FieldKeyUsage, backend.FieldExtKeyUsage}},
		"server-certificate: backend local (corp) certifies a PKCS#10 request as it stands and cannot set validity": {Name: "corp", Forms: []backend.Form{backend.FormPKCS10}},
		"certifies neither templates nor PKCS#10": {Forms: []backend.Form{backend.FormExchange}, Capabilities: []backend.Capability{backend.CapExchange}},
	} {
		if err := rt.certifiesUs(map[string]*backend.Description{"local": d}); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// What a profile says reaches the gateway: shaper, linter, all that is offered.
func TestProfilesAreFurnished(t *testing.T) {
	text := strings.Replace(good, oldKeys, oldKeys+"    subject: \"CN={{device.serial}}\"\n  plain: {backend: local, lint: {set: none}}\n  linted: {backend: local}\n", 1)
	text = strings.Replace(text, oldProfiles, oldProfiles+"    profiles: [plain, linted]\n", 1)
	c, err := parseConfig("muster.yaml", t.TempDir(), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	made, err := makeEndpoints(c, stageDeps{Dir: c.dir, Certs: nothing{}, Opener: nothing{}, Clock: time.Now, Log: slog.New(slog.DiscardHandler), Hashing: authz.NewHashing(1)})
	if err != nil {
		t.Fatal(err)
	}
	e := made["ran"]
	if len(e.Profiles) != 3 || e.Profiles["base-station"] != e.Profile {
		t.Fatalf("%+v", e.Profiles)
	}
	for name, want := range map[string][2]bool{"base-station": {true, true}, "plain": {false, false}, "linted": {false, true}} {
		p := e.Profiles[name]
		if got := [2]bool{p.Shaper != nil, p.Linter != nil}; got != want {
			t.Errorf("%s: shaper and linter %v, want %v", name, got, want)
		}
	}
	if !e.Profile.Shaper.DerivesSubject() {
		t.Error("the subject is not derived")
	}
}

// The examples of docs/profiles.md are ones that load.
func TestDocumentedProfiles(t *testing.T) {
	page, err := os.ReadFile("../../docs/profiles.md")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, block := range strings.Split(string(page), "```yaml\n")[1:] {
		text, _, _ := strings.Cut(block, "```")
		c := &ProfileConfig{}
		if strings.HasPrefix(text, "profiles:") {
			var file struct {
				Profiles  map[string]*ProfileConfig `yaml:"profiles"`
				Endpoints yaml.Node                 `yaml:"endpoints"`
			}
			err = strictyaml.Decode("profiles.md", []byte(text), &file)
			c = file.Profiles["base-station"]
		} else {
			err = strictyaml.Decode("profiles.md", []byte("backend: local\n"+text), c)
		}
		if err != nil {
			t.Errorf("%s%v", text, err)
			continue
		}
		if s, err := c.shaper(); err != nil || s == nil {
			t.Errorf("%s%v", text, err)
		}
		count++
	}
	if count != 6 {
		t.Errorf("%d examples", count)
	}
}

// The gateway tells devices which keys a profile certifies (CMP's certReqTemplate).
func TestKeysOfProfile(t *testing.T) {
	p, err := (&ProfileConfig{Backend: "local", Keys: []string{"P-256", "RSA>=3072"}}).profile("device")
	if err != nil || strings.Join(p.Keys, " ") != "P-256 RSA>=3072" {
		t.Errorf("%v, %v", p, err)
	}
}
