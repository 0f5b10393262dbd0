package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// inExample runs a go command in the example's module as a third party does: nothing but its own go.mod and go.sum says what it needs.
func inExample(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir = "exampleca"
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=readonly -buildvcs=false", "GOWORK=off")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("go %s: %v\n%s\n(after a change of go.mod above: `go mod tidy` in e2e/exampleca)", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// The example is a module of its own that passes the conformance suite, in process and as a plugin process.
func TestExampleConforms(t *testing.T) {
	inExample(t, "vet", "./...")
	out := inExample(t, "test", "-count=1", "-v", "./...")
	for _, want := range []string{"--- PASS: TestContract/in-process/", "--- PASS: TestContract/process/killed_while_issuing"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

// What a third party needs of ours is the package backend and what lies beside it for plugins, and nothing of anybody else.
func TestExampleImports(t *testing.T) {
	program := []string{module + "plugins/backend", module + "plugins/backend/strictyaml"}
	tests := append(slices.Clone(program), module+"plugins/backend/backendtest")
	for list, allowed := range map[string][]string{"Imports": program, "TestImports": tests, "XTestImports": tests} {
		for _, imp := range strings.Fields(inExample(t, "list", "-f", `{{join .`+list+` "\n"}}`, "./...")) {
			first, _, _ := strings.Cut(imp, "/")
			if strings.Contains(first, ".") && !slices.Contains(allowed, imp) {
				t.Errorf("it imports %s", imp)
			}
		}
	}
	direct := inExample(t, "list", "-m", "-f", "{{if not (or .Main .Indirect)}}{{.Path}}{{end}}", "all")
	if got := strings.Fields(direct); len(got) != 1 || got[0]+"/" != module {
		t.Errorf("it requires %q", got)
	}
}

const exampleConfig = `version: 1
listeners:
  http: {address: 127.0.0.1:0}
  https: {address: 127.0.0.1:0, tls: {}}
store: sqlite:muster.db
backends:
  corp:
    plugin: PLUGIN
    sha256: SHA256
    config: {dir: DIR}
server-certificate: {backend: corp}
distribution: {listeners: [http]}
profiles:
  device: {backend: corp, validity: 90d}
endpoints:
  devices:
    protocol: est
    listeners: [https]
    default: true
    profile: device
    enroll:
      - password: {users: {factory: "{sha256}HASH"}}
      - names: {san: {dns: {}}}
`

// A third party's program is run by path and hash: a device enrols, and a file that has become another is never run.
func TestExamplePlugin(t *testing.T) {
	dir := t.TempDir()
	plugin, ca := filepath.Join(dir, "ca-plugin"), filepath.Join(dir, "ca")
	inExample(t, "build", "-o", plugin, ".")
	if err := os.Mkdir(ca, 0o700); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(plugin)
	if err != nil {
		t.Fatal(err)
	}
	sumOf := func(b []byte) string { sum := sha256.Sum256(b); return hex.EncodeToString(sum[:]) }
	const password = "a password of the factory"
	config := strings.NewReplacer("PLUGIN", plugin, "SHA256", sumOf(program), "DIR", ca, "HASH", sha256Hex(password)).Replace(exampleConfig)
	g := configured(t, config)
	root, err := os.ReadFile(filepath.Join(ca, "root.crt"))
	if err != nil {
		t.Fatalf("%v\n%s", err, g.stderr)
	}
	trust := filepath.Join(dir, "root.pem")
	if err := os.WriteFile(trust, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root}), 0o600); err != nil {
		t.Fatal(err)
	}
	g.env["MUSTER_CA"], g.env["MUSTER_EST_USER"], g.env["MUSTER_EST_PASSWORD"] = trust, "factory", password
	first := newDevice(t, "sensor-1")
	g.mustEnroll(first)
	if first.cert.Issuer.CommonName != "Example CA" {
		t.Errorf("issued by %s", first.cert.Issuer)
	}
	tx := listing[struct{ ID string }](g, "--state", "issued")[0].ID
	g.becomes("the plugin's log line is missing", func() bool {
		return regexp.MustCompile(`msg=issued plugin=corp device=\S* id=` + tx).MatchString(g.stderr.String())
	})

	// It is replaced by another program under the gateway's hands, and dies: the pinned copy runs on.
	changed := append(slices.Clone(program), 0)
	install := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(plugin+".new", b, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(plugin+".new", plugin); err != nil {
			t.Fatal(err)
		}
	}
	install(changed)
	was := g.plugin()
	if err := syscall.Kill(was, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	g.becomes("the plugin was not started again", func() bool { return strings.Contains(g.stderr.String(), `msg="plugin restarted" plugin=corp`) })
	g.mustEnroll(newDevice(t, "sensor-2"))
	if ran, err := os.ReadFile("/proc/" + strconv.Itoa(g.plugin()) + "/exe"); err != nil || sumOf(ran) != sumOf(program) {
		t.Errorf("another program runs: %v", err)
	}

	// A reload that needs the file anew refuses it, and says what to do; the old one goes on.
	refused := regexp.QuoteMeta(plugin+" has the SHA-256 "+sumOf(changed)+", not "+sumOf(program)) + ".*it is not run"
	g.refuses(strings.Replace(config, "  corp:\n", "  again: {plugin: "+plugin+", sha256: "+sumOf(program)+", config: {dir: "+ca+"}}\n  corp:\n", 1), refused)
	g.mustEnroll(newDevice(t, "sensor-3"))

	// So does a start.
	g.put("gateway.yaml", config)
	g.stop()
	cmd := exec.Command(binary, "serve", "--config", filepath.Join(g.dir, "gateway.yaml"), "--data", g.dir)
	out, err := cmd.CombinedOutput()
	if err == nil || !regexp.MustCompile(refused).Match(out) {
		t.Errorf("%v\n%s", err, out)
	}

	// With the new hash it is the operator's word: the same CA goes on.
	g.put("gateway.yaml", strings.Replace(config, sumOf(program), sumOf(changed), 1))
	g.again()
	g.env["MUSTER_CA"], g.env["MUSTER_EST_USER"], g.env["MUSTER_EST_PASSWORD"] = trust, "factory", password
	g.mustEnroll(newDevice(t, "sensor-4"))

	// It revokes, and its CRL is published.
	g.muster("revoke", first.cert.SerialNumber.Text(16), "--reason", "keyCompromise")
	g.becomes("the CRL does not list the certificate", func() bool {
		return strings.Contains(g.sh(dir, `curl -sf "$MUSTER_HTTP/crl/corp/root.crl" | openssl crl -inform DER -noout -text`), strings.ToUpper(first.cert.SerialNumber.Text(16)))
	})
}
