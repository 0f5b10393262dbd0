package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/muster-pki/muster/authz"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/serve"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
	"github.com/muster-pki/muster/protocols/scep"
)

// The configuration that is written is the one that runs: it loads to what it is meant to say.
func TestQuickstartConfigLoads(t *testing.T) {
	dir := t.TempDir()
	hash, challenge := authz.HashSecret([]byte("secret")), authz.HashSecret([]byte("challenge"))
	text := quickstartConfig(hash, challenge)
	if err := os.Mkdir(filepath.Join(dir, "secrets"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "secrets"), cmpSecretFile, "0123456789abcdef\n")
	c, err := checkConfig(t.Context(), write(t, dir, "muster.yaml", string(text)))
	if err != nil {
		t.Fatal(err)
	}
	e := c.Endpoints["devices"]
	if e == nil || len(e.Enroll) != 2 || len(e.Renew) != 1 || e.Rekey != nil || e.Revoke != nil || e.Query != nil {
		t.Fatalf("endpoints: %+v", c.Endpoints)
	}
	for _, has := range []string{`factory: "` + hash + `"`, `secrets: {factory: {file: secrets/cmp-secret}}`, `secrets: {factory: "` + challenge + `"}`} {
		if !strings.Contains(string(text), has) || quickstartUser != "factory" {
			t.Errorf("%s is not in the configuration", has)
		}
	}
	for _, name := range []string{"cmp", "scep"} {
		x := c.Endpoints[name]
		if x == nil || len(x.Enroll) != 2 || len(x.Renew) != 1 || x.Rekey != nil || len(x.Revoke) != map[string]int{"cmp": 1}[name] || x.Query != nil {
			t.Fatalf("endpoint %s: %+v", name, x)
		}
		x.Enroll, x.Renew, x.Revoke = nil, nil, nil
	}
	e.Enroll, e.Renew, c.root, c.file, c.dir, c.sha256, c.Backends["local"].Config = nil, nil, nil, "", "", "", nil
	day := strictyaml.Duration(24 * time.Hour)
	want := &Config{
		Version:           1,
		Listeners:         map[string]*serve.Listener{"http": {Address: "127.0.0.1:8080"}, "https": {Address: "127.0.0.1:8443", TLS: &serve.TLS{}}},
		Store:             "sqlite:muster.db",
		Backends:          map[string]*BackendConfig{"local": {Plugin: "local"}},
		ServerCertificate: &ServerCertificate{Backend: "local", Validity: 90 * day},
		Metrics:           &Metrics{Listeners: []string{"http"}},
		Distribution:      &Distribution{Listeners: []string{"http"}},
		Profiles: map[string]*ProfileConfig{"device": {
			Backend: "local", Keys: []string{"P-256", "P-384", "P-521", "Ed25519", "RSA>=2048"}, Validity: 397 * day, Backdate: strictyaml.Duration(5 * time.Minute),
			KeyUsage: []string{"digitalSignature"}, ExtKeyUsage: []string{"clientAuth"},
		}, "mobile": {
			Backend: "local", Issuer: "rsa", Keys: []string{"RSA>=2048"}, Validity: 397 * day, Backdate: strictyaml.Duration(5 * time.Minute),
			KeyUsage: []string{"digitalSignature", "keyEncipherment"}, ExtKeyUsage: []string{"clientAuth"},
		}},
		Endpoints: map[string]*EndpointConfig{"devices": {
			Protocol: gateway.EST, Listeners: []string{"https"}, Default: true, Profile: "device", Repeat: strictyaml.Duration(10 * time.Minute),
		}, "cmp": {
			Protocol: gateway.CMP, Listeners: []string{"http", "https"}, Default: true, Profile: "device",
		}, "scep": {
			Protocol: gateway.SCEP, Listeners: []string{"http", "https"}, Default: true, Profile: "mobile",
			SCEP: &scep.Config{Legacy: []scep.Legacy{scep.LegacyDES, scep.LegacySHA1}},
		}},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
	// What stands there commented out is right as well.
	lively := strings.NewReplacer("    # tls:\n    #   cert: server.pem", "    # tls:\n    #   cert: server.pem", "  # names:", "  names:", "        rsa: {", "        rsa: {bits: 2048, ",
		"              # devices: true ", "              devices: true ", "              # serial:", "              serial:", "    # cmp: {", "    cmp: {").Replace(string(text))
	more, err := checkConfig(t.Context(), write(t, dir, "lively.yaml", lively))
	if err != nil || more.Endpoints["cmp"].CMP == nil || !strings.Contains(lively, "\n              serial: ") || !strings.Contains(lively, "\n              devices: true") || !strings.Contains(lively, "\n        rsa: {bits: 2048") {
		t.Errorf("%v\n%s", err, lively)
	}
}

func TestEnvFileIsQuoted(t *testing.T) {
	values := []string{"plain", "with space", `it's`, `"$HOME" \ $(id) ` + "`id`", "a\nb", "", "'"}
	var settings []setting
	for _, v := range values {
		settings = append(settings, setting{"MUSTER_X", v})
	}
	for i, s := range settings {
		file := write(t, t.TempDir(), "quickstart.env", string(envFile(settings[i:i+1])))
		out, err := exec.Command("sh", "-c", `. "$1"; printf %s "$MUSTER_X"`, "sh", file).Output()
		if err != nil || string(out) != s.value {
			t.Errorf("%q became %q, %v", s.value, out, err)
		}
	}
}

func TestBaseURL(t *testing.T) {
	for in, want := range map[string]string{"127.0.0.1:80": "http://127.0.0.1:80", "0.0.0.0:80": "http://127.0.0.1:80", "[::]:80": "http://127.0.0.1:80", "[::1]:80": "http://[::1]:80"} {
		a, err := net.ResolveTCPAddr("tcp", in)
		if err != nil {
			t.Fatal(err)
		}
		if got := baseURL("http", a); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

// hashes of all files but those that every start uses: databases, locks, sockets.
func hashes(t *testing.T, dir string) map[string][32]byte {
	t.Helper()
	all := map[string][32]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.Contains(d.Name(), ".db") || strings.HasSuffix(d.Name(), "lock") || d.Name() == auditHead {
			return err
		}
		data, err := os.ReadFile(path)
		info, _ := d.Info()
		all[path] = sha256.Sum256(append(data, info.ModTime().String()...))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// freePorts returns flags for two addresses that are free now.
func freePorts(t *testing.T) []string {
	t.Helper()
	var flags []string
	for _, f := range []string{"--http", "--https"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		flags = append(flags, f, l.Addr().String())
	}
	return flags
}

// A first start makes everything, its screen's commands work as printed, and a second start changes nothing.
func TestQuickstart(t *testing.T) {
	data := filepath.Join(t.TempDir(), "it's data")
	flags := freePorts(t)
	g := serveOn(t, data, flags...)
	screen := g.stdout.String()
	if n := strings.Count(screen, "\n"); n > 60 {
		t.Errorf("the screen has %d lines", n)
	}
	t.Log(regexp.MustCompile(`ready in [0-9.]+ s`).FindString(screen) + ", first start")
	for _, name := range []string{"muster.yaml", "quickstart.env", "secrets/est-password", "secrets/cmp-secret", "secrets/scep-challenge", "tls/server.pem",
		"identities/cmp-local-ec.pem", "identities/scep-local-rsa.pem", "seal.key", "admin.sock"} {
		info, err := os.Stat(filepath.Join(data, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	config, err := os.ReadFile(filepath.Join(data, "muster.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{passwordFile, cmpSecretFile, challengeFile} {
		secret, err := quickstart{data}.secret(file)
		if err != nil || len(secret) != 32 {
			t.Fatalf("%s: %v", file, err)
		}
		for what, text := range map[string]string{"configuration": string(config), "log": g.stderr.String(), "screen": screen} {
			if strings.Contains(text, secret) {
				t.Errorf("%s stands in the %s", file, what)
			}
		}
	}
	if !strings.Contains(screen, "SCEP's legacy policy is on: DES and SHA-1 are let in") {
		t.Errorf("nothing is said of the legacy policy:\n%s", screen)
	}
	if strings.Contains(string(config), flags[1]) {
		t.Error("--http was written to the configuration")
	}

	// The commands, as an operator copies them.
	var script []string
	for line := range strings.SplitSeq(screen, "\n") {
		if strings.HasPrefix(line, "  ") && !regexp.MustCompile(`^  (CMP|EST|SCEP|HTTP|CA|config) `).MatchString(line) {
			script = append(script, strings.TrimPrefix(line, "  "))
		}
	}
	text := strings.Join(script, "\n")
	// ID is any that ls showed.
	text = strings.ReplaceAll(text, "explain ID", `explain "$(`+shellQuote(os.Args[0])+` ls --data `+shellQuote(data)+` | grep -o '[0-9a-hjkmnp-tv-z]\{26\}' | head -n 1)"`)
	text = strings.ReplaceAll(text, "go run ./cmd/muster", shellQuote(os.Args[0])) // as the test binary is called
	sh := exec.Command("sh", "-euc", text)
	sh.Dir = t.TempDir()
	sh.Env = append(os.Environ(), "MUSTER_TEST_AS_COMMAND=1")
	out, err := sh.CombinedOutput()
	if err != nil || strings.Count(string(out), "device-0001") < 3 || strings.Count(string(out), "device-0002") < 2 || strings.Count(string(out), "device-0003") < 2 {
		t.Fatalf("%v\n%s\nprinted\n%s\nlog:\n%s", err, text, out, g.stderr)
	}
	verify := exec.Command("openssl", "verify", "-partial_chain", "-x509_strict", "-CAfile", filepath.Join(data, "roots.pem"), "-untrusted", filepath.Join(data, "tls/server.pem"), "device.crt", "renewed.crt", "cmp.crt", "cmp-renewed.crt")
	verify.Dir = sh.Dir
	if out, err := verify.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}

	verify = exec.Command("openssl", "verify", "-partial_chain", "-x509_strict", "-CAfile", filepath.Join(data, "roots.pem"), "-untrusted", filepath.Join(data, "identities/scep-local-rsa.pem"), "scep.crt")
	verify.Dir = sh.Dir
	if out, err := verify.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}

	if code := g.end(syscall.SIGINT); code != 0 {
		t.Errorf("exit code %d\n%s", code, g.stderr)
	}
	for line := range strings.Lines(g.stderr.String()) {
		if strings.Contains(line, "level=ERROR") || strings.Contains(line, "level=WARN") {
			t.Error(line)
		}
	}
	if _, err := os.Stat(filepath.Join(data, "admin.sock")); err == nil {
		t.Error("the admin socket is left behind")
	}
	before := hashes(t, data)
	if len(before) < 11 {
		t.Fatalf("only %d files", len(before))
	}
	again := serveOn(t, data, flags...)
	t.Log(regexp.MustCompile(`ready in [0-9.]+ s`).FindString(again.stdout.String()) + ", second start")
	if after := hashes(t, data); !reflect.DeepEqual(after, before) {
		for name, h := range after {
			if h != before[name] {
				t.Errorf("%s changed", name)
			}
		}
		t.Errorf("%d files, then %d", len(before), len(after))
	}
	again.end(syscall.SIGTERM)
}

func TestRootsBeginWithTheDefaultCA(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	g := serveOn(t, data, "--http", "127.0.0.1:0", "--https", "127.0.0.1:0")
	defer g.end(syscall.SIGINT)
	rest, err := os.ReadFile(filepath.Join(data, "roots.pem"))
	if err != nil {
		t.Fatal(err)
	}
	var algorithms []string
	for {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil || !bytes.Equal(c.RawIssuer, c.RawSubject) {
			t.Fatalf("not a root: %v", err)
		}
		algorithms = append(algorithms, c.PublicKeyAlgorithm.String())
	}
	if !reflect.DeepEqual(algorithms, []string{"ECDSA", "RSA"}) {
		t.Errorf("roots: %v", algorithms)
	}
	// A second gateway keeps off the directory.
	second := launchOn(t, data, "--http", "127.0.0.1:0", "--https", "127.0.0.1:0")
	<-second.exited
	if code := second.cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(second.stderr.String(), "another gateway runs on "+data) {
		t.Errorf("exit code %d\n%s", code, second.stderr)
	}
}

// A configuration that is there is used as it is, and a crash between secret and configuration is made good.
func TestQuickstartKeepsWhatIsThere(t *testing.T) {
	q := quickstart{t.TempDir()}
	if err := os.MkdirAll(q.secrets(), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, q.secrets(), passwordFile, "left over\n")
	if err := q.prepare(quickstartConfig); err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile(q.config())
	if err != nil || !strings.Contains(string(config), authz.HashSecret([]byte("left over"))) {
		t.Errorf("the secret was not taken up: %v", err)
	}
	write(t, q.data, "muster.yaml", "mine")
	if err := q.prepare(quickstartConfig); err != nil {
		t.Fatal(err)
	}
	if config, _ := os.ReadFile(q.config()); string(config) != "mine" {
		t.Error("an existing configuration was overwritten")
	}
}

// A data directory of a version that had EST only starts as it did: nothing is added, nothing is promised.
func TestQuickstartOfThePreviousVersion(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	q := quickstart{data}
	if err := os.MkdirAll(q.secrets(), 0o700); err != nil {
		t.Fatal(err)
	}
	old, _, ok := strings.Cut(string(quickstartConfig(authz.HashSecret([]byte("secret")), "")), "\n  cmp: ")
	if !ok {
		t.Fatal("no endpoint cmp")
	}
	write(t, q.secrets(), passwordFile, "secret\n")
	write(t, data, "muster.yaml", old)
	g := serveOn(t, data, freePorts(t)...)
	env, err := os.ReadFile(q.env())
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`(?m)^[A-Z_]+`).FindAllString(string(env), -1)
	if got := strings.Join(names, " "); got != "MUSTER_HTTP MUSTER_HTTPS MUSTER_CA MUSTER_EST_USER MUSTER_EST_PASSWORD" {
		t.Errorf("env: %s", got)
	}
	if screen := g.stdout.String(); strings.Contains(screen, "CMP") || strings.Contains(screen, "SCEP") || !strings.Contains(screen, "simplereenroll") {
		t.Errorf("screen:\n%s", screen)
	}
	if code := g.end(syscall.SIGINT); code != 0 || strings.Contains(g.stderr.String(), "level=WARN") || strings.Contains(g.stderr.String(), "RA certificate") {
		t.Errorf("exit code %d\n%s", code, g.stderr)
	}
	for _, made := range []string{q.vendorCAs(), filepath.Join(q.secrets(), challengeFile), filepath.Join(q.secrets(), cmpSecretFile)} {
		if _, err := os.Stat(made); err == nil {
			t.Errorf("%s was made", made)
		}
	}
	if text, err := os.ReadFile(q.config()); err != nil || string(text) != old {
		t.Errorf("the configuration changed: %v", err)
	}
}
