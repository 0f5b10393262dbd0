package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// onLocalCA is how a configuration begins that asks for nothing special: two listeners, an own store, the local CA.
const onLocalCA = `version: 1
listeners:
  http: {address: 127.0.0.1:0}
  https: {address: 127.0.0.1:0, tls: {}}
store: sqlite:muster.db
backends:
  local: {plugin: local, config: {dir: ca}}
server-certificate: {backend: local}
`

// edited starts a quickstart in the folder, stops it, and changes what stands in its configuration.
func edited(t *testing.T, dir, from, to string) {
	t.Helper()
	startIn(t, dir).stop()
	config := filepath.Join(dir, "muster.yaml")
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), from, to, 1)
	if changed == string(text) {
		t.Fatalf("the quickstart's configuration has no %q", from)
	}
	if err := os.WriteFile(config, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
}

// configured runs `muster serve --config` in a folder of its own, on a configuration with the listeners http and https, on
// port 0 of 127.0.0.1 in this order. files are further ones of the folder: names and contents.
func configured(t testing.TB, config string, files ...string) *instance {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "gateway.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(files); i += 2 {
		if err := os.WriteFile(filepath.Join(dir, files[i]), []byte(files[i+1]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g := &instance{t: t, dir: dir}
	t.Cleanup(func() { g.stop() })
	g.again()
	return g
}

// again starts the gateway, after stopping the one that runs. It is reached where it was.
func (g *instance) again(extra ...string) {
	g.t.Helper()
	if g.cmd != nil {
		g.stop()
		file := filepath.Join(g.dir, "gateway.yaml")
		config, err := os.ReadFile(file)
		if err != nil {
			g.t.Fatal(err)
		}
		for _, address := range []string{g.listening("http"), g.listening("https")} {
			config = bytes.Replace(config, []byte("127.0.0.1:0"), []byte(address), 1)
		}
		if err := os.WriteFile(file, config, 0o600); err != nil {
			g.t.Fatal(err)
		}
	}
	cmd := exec.Command(binary, "serve", "--config", filepath.Join(g.dir, "gateway.yaml"), "--data", g.dir)
	cmd.Env = append(os.Environ(), extra...)
	g.start(cmd)
	g.env = map[string]string{
		"MUSTER_HTTP": "http://" + g.listening("http"), "MUSTER_HTTPS": "https://" + g.listening("https"),
		"MUSTER_CA": filepath.Join(g.dir, "ca", "roots.pem"), "MUSTER_DATA": g.dir, "MUSTER": binary,
	}
}
