package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/serve"
	"github.com/muster-pki/muster/plugins/backend"
)

// withDevices serves secrets of devices at the endpoint ran, and takes none at other.
const withDevices = `version: 1
listeners:
  plain: {address: 127.0.0.1:0}
backends:
  local: {plugin: local, config: {dir: ./ca}}
profiles:
  device: {backend: local}
endpoints:
  ran:
    protocol: cmp
    listeners: [plain]
    profile: device
    enroll:
    - anyOf: [vendor-ca: {dir: vendors}, [shared-secret: {devices: true}]]
    - names: {}
  other:
    protocol: cmp
    listeners: [plain]
    profile: device
    enroll:
    - vendor-ca: {dir: vendors}
    - names: {}
`

// A device enrols with the secret that the command gave it, until it is taken away; the secret is never written down.
func TestSecretCommand(t *testing.T) {
	dir := t.TempDir()
	g := serveOn(t, dir, "--config", write(t, dir, "muster.yaml", withDevices))
	muster := func(args ...string) (stdout, stderr string, err error) {
		t.Helper()
		cmd := command(append(args, "--data", dir)...)
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr, cmd.Stdin = &out, &errs, strings.NewReader("from standard input\r\n")
		err = cmd.Run()
		return out.String(), errs.String(), err
	}
	out, told, err := muster("secret", "add", "--endpoint", "ran", "--reference", "SN0001", "--device", "bts-1", "--expires", "30d")
	if err != nil || !regexp.MustCompile(`^[0-9a-f]{32}\n$`).MatchString(out) || !strings.HasPrefix(told, "SN0001 at ran is good until 20") {
		t.Fatalf("%v %q %q", err, out, told)
	}
	secret := strings.TrimSpace(out)
	enrol := func(reference, secret string) (string, error) {
		t.Helper()
		cmd := exec.Command("sh", "-euc", `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out k.pem
			openssl cmp -config '' -cmd ir -server "$1" -path .well-known/cmp/p/ran -trusted "$2" -ref "$3" -secret "pass:$4" -newkey k.pem -subject /CN=bts-1 -certout c.pem`,
			"sh", g.where("plain"), filepath.Join(dir, "ca/roots.pem"), reference, secret)
		cmd.Dir = t.TempDir()
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := enrol("SN0001", secret); err != nil {
		t.Errorf("%v\n%s\n%s", err, out, g.stderr)
	}
	if out, _, err := muster("ls", "--device", "bts-1"); err != nil || !strings.Contains(out, "issued") {
		t.Errorf("no certificate for the device: %v\n%s", err, out)
	}
	if _, told, err := muster("secret", "add", "--endpoint", "ran", "--reference", "SN0001"); err == nil || !strings.Contains(told, "already: --replace puts this one into its place") {
		t.Errorf("once more: %v %s", err, told)
	}
	if out, _, err := muster("secret", "add", "--endpoint", "ran", "--reference", "hex:00ff", "--secret-file", "-", "--json"); err != nil || strings.Contains(out, "from standard input") || !strings.Contains(out, `"reference": "AP8="`) {
		t.Errorf("%v %s", err, out)
	}
	file := write(t, dir, "new", "brand new secret\n")
	if out, _, err := muster("secret", "add", "--endpoint", "ran", "--reference", "SN0001", "--secret-file", file, "--replace"); err != nil || out != "SN0001 at ran is good\n" {
		t.Errorf("%v %s", err, out)
	}
	if _, err := enrol("SN0001", secret); err == nil {
		t.Error("the old secret is still good")
	}
	if out, err := enrol("SN0001", "brand new secret"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	out, _, err = muster("secret", "ls")
	if err != nil || !regexp.MustCompile(`(?m)^ran +hex:00ff +20.*for ever$`).MatchString(out) || !regexp.MustCompile(`(?m)^ran +SN0001 +20.*for ever$`).MatchString(out) || strings.Contains(out, "new secret") {
		t.Errorf("%v\n%s", err, out)
	}
	var made struct{ Secret, Endpoint string }
	out, _, err = muster("secret", "add", "--endpoint", "ran", "--reference", "SN0002", "--json")
	if err != nil || json.Unmarshal([]byte(out), &made) != nil || len(made.Secret) != 32 || made.Endpoint != "ran" {
		t.Errorf("%v %s", err, out)
	}
	if out, _, err := muster("secret", "rm", "--endpoint", "ran", "--reference", "SN0001"); err != nil || out != "SN0001 at ran is removed\n" {
		t.Errorf("%v %s", err, out)
	}
	if _, err := enrol("SN0001", "brand new secret"); err == nil {
		t.Error("a secret that was removed is still good")
	}
	for want, args := range map[string][]string{
		`there is no endpoint "rna" (did you mean "ran"?)`: {"secret", "add", "--endpoint", "rna", "--reference", "x"},
		"endpoint other takes no secrets of devices":       {"secret", "add", "--endpoint", "other", "--reference", "x"},
		"8 to 1024 bytes":                      {"secret", "add", "--endpoint", "ran", "--reference", "x", "--secret-file", write(t, dir, "short", "1234567\n")},
		"want a period such as":                {"secret", "add", "--endpoint", "ran", "--reference", "x", "--expires", "30"},
		"want text, or hex:":                   {"secret", "add", "--endpoint", "ran", "--reference", "hex:0"},
		`required flag(s) "reference" not set`: {"secret", "add", "--endpoint", "ran"},
		`has no secret with the reference x`:   {"secret", "rm", "--endpoint", "ran", "--reference", "x"},
		"no such file":                         {"secret", "add", "--endpoint", "ran", "--reference", "x", "--secret-file", filepath.Join(dir, "absent")},
	} {
		if _, told, err := muster(args...); err == nil || !strings.Contains(told, want) {
			t.Errorf("%v: %v %s", args, err, told)
		}
	}
	g.end(syscall.SIGTERM)
	for _, name := range []string{"muster.db", "muster.db-wal", "seal.key"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil && name == "muster.db-wal" {
			continue
		}
		for _, s := range []string{secret, made.Secret, "brand new secret", "from standard input"} {
			if err != nil || bytes.Contains(data, []byte(s)) || strings.Contains(g.stderr.String(), s) {
				t.Errorf("%s holds a secret, or the log does (%v)", name, err)
			}
		}
	}

	// The key is lost: that is told.
	if err := os.Remove(filepath.Join(dir, "seal.key")); err != nil {
		t.Fatal(err)
	}
	g = serveOn(t, dir, "--config", filepath.Join(dir, "muster.yaml"))
	if !strings.Contains(g.stderr.String(), "the key that sealed the shared secrets of devices is gone") {
		t.Error(g.stderr)
	}
	g.end(syscall.SIGTERM)
	// From then on there is a key, and it is another one's: that is told too.
	g = serveOn(t, dir, "--config", filepath.Join(dir, "muster.yaml"))
	if !strings.Contains(g.stderr.String(), "sealed under another key") {
		t.Error(g.stderr)
	}
	g.end(syscall.SIGTERM)
}

func TestStoresSecrets(t *testing.T) {
	for text, want := range map[string]bool{
		"shared-secret: {devices: true}":                         true,
		"shared-secret: {devices: false}":                        false,
		"shared-secret: {secrets: {devices: {file: x}}}":         false,
		"anyOf: [[names: {}, {shared-secret: {devices: true}}]]": true,
		"names: {}": false,
		"allOf: [shared-secret: {secrets: {a: {}}}, {devices: true}]": false,
	} {
		var n yaml.Node
		if err := yaml.Unmarshal([]byte(text), &n); err != nil {
			t.Fatal(err)
		}
		if got := storesSecrets(&n); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

// The gateway's own requests are for what was prepared, and end with the CA at the latest.
func TestSelfStage(t *testing.T) {
	now := time.Now()
	want := serve.Want{Usage: x509.KeyUsageDigitalSignature, Fits: func([]*x509.Certificate) string { return "" }}
	want.Subject.CommonName = "Muster CMP RA"
	var csr []byte
	own := serve.NewOwn(filepath.Join(t.TempDir(), "x.pem"), "certificate", time.Now, slog.New(slog.DiscardHandler))
	own.Ensure(t.Context(), want, func(_ context.Context, der []byte) ([][]byte, error) { csr = der; return nil, os.ErrClosed }) //nolint:errcheck // for its request
	s := selfStage{endpoint: "self-cmp-local-ec", subject: want.Name(), instance: "a", until: now.Add(time.Hour)}
	r := gateway.Request{Protocol: gateway.Self, Endpoint: s.endpoint, CSR: csr, Received: now}
	g := &gateway.Grant{NotAfter: now.Add(1000 * time.Hour)}
	if v := s.Decide(t.Context(), &r, g); v.Decision != gateway.Allow || !g.NotAfter.Equal(s.until) {
		t.Errorf("%+v, until %s", v, g.NotAfter)
	}
	for what, change := range map[string]func(*gateway.Request, *selfStage){
		"another endpoint": func(r *gateway.Request, _ *selfStage) { r.Endpoint = "self-scep-local-rsa" },
		"a device's":       func(r *gateway.Request, _ *selfStage) { r.Protocol = gateway.CMP },
		"another subject":  func(_ *gateway.Request, s *selfStage) { s.subject.CommonName = "Muster SCEP RA" },
		"other names":      func(_ *gateway.Request, s *selfStage) { s.names.DNS = []string{"localhost"} },
		"no request":       func(r *gateway.Request, _ *selfStage) { r.CSR = nil },
	} {
		r, s := r, s
		change(&r, &s)
		if v := s.Decide(t.Context(), &r, &gateway.Grant{}); v.Decision == gateway.Allow {
			t.Errorf("%s: %+v", what, v)
		}
	}
}

// Replicas have to share the key that SCEP requests are encrypted to: a store that they can share says so.
func TestSharedStoreWarnsOfSCEPKeys(t *testing.T) {
	_, chain := caChain(t, true)
	_, ec := caChain(t, false)
	for text, want := range map[string]bool{"sqlite:muster.db": false, "postgres://u@h/d": true} {
		var log bytes.Buffer
		p := &process{data: t.TempDir(), clock: time.Now, log: slog.New(slog.NewTextHandler(&log, nil)), owns: map[string]*serve.Own{}}
		c := &Config{Store: text, Profiles: map[string]*ProfileConfig{"p": {Backend: "corp", Issuer: "rsa"}, "q": {Backend: "corp"}}, Endpoints: map[string]*EndpointConfig{
			"phones": {Protocol: gateway.SCEP, Profile: "p"}, "more": {Protocol: gateway.SCEP, Profile: "p"}, "ran": {Protocol: gateway.CMP, Profile: "q"},
		}}
		rt := &Runtime{
			cfg: c, cas: map[string][]backend.CA{"corp": {{Name: "ec", Chain: ec}, {Name: "rsa", Chain: chain}}},
			gateway: &gateway.Runtime{Endpoints: map[string]*gateway.Endpoint{}}, identities: map[string]func() *gateway.Identity{},
		}
		if err := p.furnishRAs(rt, nil); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(log.String(), "ra: {cert: FILE, key: FILE}"); got != want || strings.Contains(log.String(), "endpoint=ran") {
			t.Errorf("%s: %s", text, log.String())
		}
		// Endpoints of one protocol under one CA share a key.
		if names := strings.Join(byName(rt.gateway.Endpoints), " "); names != "self-cmp-corp-ec self-scep-corp-rsa" || len(rt.owns) != 2 {
			t.Errorf("%s", names)
		}
	}
}
