package main

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/authz"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// failingStore is a store that cannot answer, and a key that opens everything.
type failingStore struct{}

func (failingStore) Certificate(context.Context, []byte, []byte) (*gateway.Certificate, error) {
	return nil, errors.New("the store cannot answer")
}

func (failingStore) Certificates(context.Context, gateway.CertificateFilter) ([]*gateway.Certificate, error) {
	return nil, errors.New("the store cannot answer")
}

func (failingStore) Secret(context.Context, string, string) (*gateway.StoredSecret, error) {
	return nil, errors.New("the store cannot answer")
}

func (failingStore) Device(context.Context, string, string) (*gateway.Device, error) {
	return nil, errors.New("the store cannot answer")
}

func (failingStore) Challenge(context.Context, []byte) (*gateway.IssuedChallenge, error) {
	return nil, errors.New("the store cannot answer")
}

func (failingStore) Open(sealed []byte, _ ...string) ([]byte, error) { return sealed, nil }

func testDeps(t *testing.T) stageDeps {
	t.Helper()
	return stageDeps{Dir: t.TempDir(), Certs: failingStore{}, Secrets: failingStore{}, Devices: failingStore{}, Challenges: failingStore{}, Opener: failingStore{}, Log: slog.New(slog.DiscardHandler), Clock: time.Now, Hashing: authz.NewHashing(1)}
}

func decodeTestPipeline(t *testing.T, text string, deps stageDeps) (gateway.Pipeline, error) {
	t.Helper()
	n, err := strictyaml.Parse("m.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return decodePipeline("m.yaml", n, deps)
}

const testHash = `"{sha256}ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"` // of "abc"

func TestDecodePipeline(t *testing.T) {
	deps := testDeps(t)
	ca := pemFile(t, filepath.Join(deps.Dir, "ca.pem"))
	p, err := decodeTestPipeline(t, `
- anyOf:
    - [password: {users: {a: `+testHash+`}, device: user, limit: {burst: 5, every: 10s}}]
    - client-certificate: {cas: [ca.pem], kinds: [tls-certificate], device: subject.CN, grace: 1d}
    - allOf: [own-certificate: {endpoints: [ran, core]}, not: [keys: {allowed: [Ed25519]}]]
- keys: {allowed: [P-256, "RSA>=3072"], pop: [signature, ra]}
- names:
    common-name: device-\d+
    san: {dns: {pattern: '.*\.example', max: 2}, ip: {within: [10.0.0.0/8]}, uri: {}}
`, deps)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	p.Stages(func(s gateway.Stage) { names = append(names, s.Name()) })
	if got := strings.Join(names, " "); got != "anyOf password client-certificate allOf own-certificate not keys keys names" {
		t.Errorf("stages: %s", got)
	}

	// The stages are wired to what they need: a password is compared, a store asked.
	r := &gateway.Request{Operation: gateway.Enroll, Credentials: []gateway.Credential{{Kind: gateway.CredentialPassword, ID: "a", Secret: gateway.Secret("abc")}}}
	g := &gateway.Grant{}
	if v := p[0].Decide(t.Context(), r, g); v.Decision != gateway.Allow || g.Device != "a" {
		t.Errorf("%+v, %+v", v, g)
	}
	r.Credentials[0].Secret = gateway.Secret("abcd")
	if v := p[0].Decide(t.Context(), r, &gateway.Grant{}); v.Decision != gateway.Deny || v.Reason != gateway.Unauthenticated {
		t.Errorf("%+v", v)
	}
	own, err := decodeTestPipeline(t, "- own-certificate: {}", deps)
	if err != nil {
		t.Fatal(err)
	}
	r = &gateway.Request{Operation: gateway.Renew, OldCert: ca, Credentials: []gateway.Credential{{Kind: gateway.CredentialTLS, Chain: []*x509.Certificate{ca}}}}
	if v := own[0].Decide(t.Context(), r, &gateway.Grant{}); v.Decision != gateway.CannotAnswer || !strings.Contains(v.Note, "the store cannot answer") {
		t.Errorf("%+v", v)
	}
}

// A stage that has to deny is not made to allow by the way in which it stands.
func TestDecodeComposition(t *testing.T) {
	deps := testDeps(t)
	with := &gateway.Request{Credentials: []gateway.Credential{{Kind: gateway.CredentialPassword, ID: "a", Secret: gateway.Secret("abc")}}}
	without := &gateway.Request{}
	yes := "password: {users: {a: " + testHash + "}}"
	no := "client-certificate: {cas: [ca.pem]}"
	pemFile(t, filepath.Join(deps.Dir, "ca.pem"))
	for text, want := range map[string]bool{
		"- " + yes:                             true,
		"- " + no:                              false,
		"- anyOf: [" + no + ", " + yes + "]":   true,
		"- anyOf: [[" + no + ", " + yes + "]]": false,
		"- allOf: [" + yes + "]":               true,
		"- allOf: [" + yes + ", " + no + "]":   false,
		"- not: {" + no + "}":                  true,
		"- not: {" + yes + "}":                 false,
		"- not: [" + yes + ", " + no + "]":     true,
		"- not: {not: {" + yes + "}}":          true,
	} {
		p, err := decodeTestPipeline(t, text, deps)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if v := p[0].Decide(t.Context(), with, &gateway.Grant{}); (v.Decision == gateway.Allow) != want {
			t.Errorf("%s: %s (%s)", text, v.Decision, v.Note)
		}
		if v := p[0].Decide(t.Context(), without, &gateway.Grant{}); v.Decision == gateway.Allow && !strings.Contains(text, "not") {
			t.Errorf("%s: allows a stranger", text)
		}
	}
}

func TestDecodeStageErrors(t *testing.T) {
	for text, want := range map[string][]string{
		"- pasword: {}":                          {`m.yaml:1: unknown stage "pasword" (did you mean "password"?)`},
		"- frobnicate: {}":                       {`unknown stage "frobnicate" (known: password, client-certificate`},
		"- own-certificate":                      {"m.yaml:1: a stage is written `own-certificate: {}`"},
		"- own-certificate: {}\n  names: {}":     {`m.yaml:1: stages "own-certificate" and "names" stand in one item`},
		"- ":                                     {"m.yaml:1: want a stage"},
		"- [names: {}]":                          {"want a stage"},
		"{}":                                     {"want a list of stages"},
		"[]":                                     {"the list of stages is empty"},
		"- anyOf: []":                            {"anyOf wants a list of branches"},
		"- anyOf: {names: {}}":                   {"anyOf wants a list of branches"},
		"- anyOf: [[]]":                          {"the list of stages is empty"},
		"- not: []":                              {"the list of stages is empty"},
		"- allOf: []":                            {"the list of stages is empty"},
		"- not: {}":                              {"want a stage"},
		"- names:\n    wildcard: true":           {`m.yaml:2: unknown key "wildcard" in names (did you mean "wildcards"?)`},
		"- names:\n    san: {dns: {patern: x}}":  {`m.yaml:2: unknown key "patern" in names.san.dns (did you mean "pattern"?)`},
		"- names:\n    san: {ip: {within: [x]}}": {"m.yaml:2:", "within"},
		"- names: {common-name: '('}":            {"m.yaml:1: names: common-name: error parsing regexp"},
		"- keys: {allowed: [RSA-1024]}":          {"m.yaml:1: keys: allowed", "2048"},
		"- password: {}":                         {"m.yaml:1: password: no users"},
		"- password: {users: {a: hunter22}}":     {`password: users: user "a": want`},
		"- client-certificate: {}":               {"m.yaml:1: client-certificate: no CA is trusted"},
		"- client-certificate: {cas: [absent]}":  {"no such file"},
		"- own-certificate: {grace: 1x}":         {"m.yaml:1: own-certificate.grace wants a period"},
		"- inventry: {}":                         {`m.yaml:1: unknown stage "inventry" (did you mean "inventory"?)`},
		"- inventory:\n    enrolments: 2":        {`m.yaml:2: unknown key "enrolments" in inventory (did you mean "enrollments"?)`},
		"- inventory:\n    enrollments: 0":       {"m.yaml:2: inventory.enrollments: want a number from 1 to 1000000000, or unlimited"},
		"- inventory: {enrollments: [1]}":        {"m.yaml:1: inventory.enrollments: want a number"},
		"- inventory: {enrollments: 1000000001}": {"want a number"},
		"- inventory: {enrollments: ever}":       {"want a number"},
		"- inventory: {by: [sbject.CN]}":         {`m.yaml:1: inventory: by: "sbject.CN" is no place of an identifier (did you mean "subject"?)`},
		"- device-password: {uses: -1}":          {"m.yaml:1: device-password.uses: want a number"},
		"- device-password: {user: a}":           {`unknown key "user" in device-password (did you mean "uses"?)`},
		"- approval: {aprovers: 2}":              {`unknown key "aprovers" in approval (did you mean "approvers"?)`},
		"- approval: {expires: 1}":               {"m.yaml:1: approval.expires wants a period"},
		"- approval: {operations: [enrol]}":      {`approval: operations: "enrol" does not wait (did you mean "enroll"?)`},
		"- challenge: {webhook: {ur: x}}":        {`m.yaml:1`, `unknown key "ur" in challenge.webhook (did you mean "url"?)`},
		"- challenge: {webhook: {url: \"http://192.0.2.1/\"}}":        {"m.yaml:1: challenge: webhook: url: http is for loopback addresses only"},
		"- challenge: {isued: true}":                                  {`unknown key "isued" in challenge (did you mean "issued"?)`},
		"- challenge: {}":                                             {"m.yaml:1: challenge: no challenges: give secrets or file, issued: true, or webhook"},
		"- shared-secret: {inventry: true}":                           {`unknown key "inventry" in shared-secret (did you mean "inventory"?)`},
		"- vendor-ca: {dir: x, list: l.csv}":                          {"m.yaml:1: vendor-ca: list and enrollments are about serial numbers"},
		"- vendor-ca: {dir: x, serial: subject.CN, list: absent.csv}": {"m.yaml:1: vendor-ca: list: open", "absent.csv"},
		"- names: {}\n- pasword: {}\n- keys: {allowed: [DSA]}":        {"m.yaml:2: unknown stage", "m.yaml:3: keys"},
		"- anyOf:\n  - names: {}\n  - [names: {}, kyes: {}]":          {`m.yaml:3: unknown stage "kyes" (did you mean "keys"?)`},
	} {
		_, err := decodeTestPipeline(t, text, testDeps(t))
		if err == nil {
			t.Errorf("%q: no error", text)
			continue
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q: %v lacks %q", text, err, w)
			}
		}
		if strings.Contains(err.Error(), "hunter22") {
			t.Errorf("%q: the error holds the password", text)
		}
	}
	if _, err := decodeStage("m.yaml", nil, testDeps(t)); err == nil {
		t.Error("no node is a stage")
	}
}

// Every name that messages offer is one that is decoded.
func TestStageNamesAreKnown(t *testing.T) {
	for _, name := range stageNames {
		_, err := decodeTestPipeline(t, "- "+name+": {}", testDeps(t))
		if err != nil && strings.Contains(err.Error(), "unknown stage") {
			t.Error(err)
		}
	}
}

// The pipelines that the documentation shows can be made.
func TestDecodeDocumentation(t *testing.T) {
	text, err := os.ReadFile("../../docs/authz.md")
	if err != nil {
		t.Fatal(err)
	}
	deps := testDeps(t)
	if err := os.Mkdir(filepath.Join(deps.Dir, "vendor-ca"), 0o700); err != nil {
		t.Fatal(err)
	}
	pemFile(t, filepath.Join(deps.Dir, "vendor-ca", "root.pem"))
	pemFile(t, filepath.Join(deps.Dir, "ra-ca.pem"))
	pemFile(t, filepath.Join(deps.Dir, "mdm-ca.pem"))
	if err := os.WriteFile(filepath.Join(deps.Dir, "users"), []byte("a:"+strings.Trim(testHash, `"`)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"challenges": "a:" + strings.Trim(testHash, `"`) + "\n", "acme.csv": "serial\nSN1\n", "webhook-secret": "0123456789abcdef\n"} {
		if err := os.WriteFile(filepath.Join(deps.Dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	secret(t, filepath.Join(deps.Dir, "secrets", "cmp-secret"))
	examples := 0
	for rest := string(text); ; examples++ {
		_, after, ok := strings.Cut(rest, "```yaml\n")
		if !ok {
			break
		}
		var example string
		example, rest, _ = strings.Cut(after, "```")
		root, err := strictyaml.Parse("authz.md", []byte(example))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(root.Content); i += 2 {
			if _, err := decodePipeline("authz.md", root.Content[i+1], deps); err != nil {
				t.Errorf("%s: %v", example, err)
			}
		}
	}
	if examples < 7 {
		t.Errorf("%d examples in docs/authz.md", examples)
	}
	for _, name := range stageNames {
		if !strings.Contains(string(text), "## "+name+"\n") && !strings.Contains(string(text), "| `"+name+":") {
			t.Errorf("docs/authz.md does not say what %s is", name)
		}
	}
}

// secret writes a shared secret into a folder of its own.
func secret(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("a shared secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// pemFile writes a CA certificate.
func pemFile(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	cert, text := selfSigned(t)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return cert
}
