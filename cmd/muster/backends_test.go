package main

import (
	"path/filepath"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// TestShippedPaths: every path in a shipped backend's configuration starts from the file's folder, and nothing else changes.
func TestShippedPaths(t *testing.T) {
	var n yaml.Node
	if err := yaml.Unmarshal([]byte("dir: ca\nissuers:\n  a: {import: {cert: a.pem, key: /keys/a}, crl: [cert]}\n  b: {name: dir, key: P-256}\n"), &n); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := &Config{dir: dir, Backends: map[string]*BackendConfig{"local": {Plugin: "local", Config: n.Content[0]}}}
	text, _, err := c.backendConfig("local")
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Dir     string
		Issuers map[string]struct {
			Name, Key string
			CRL       []string
			Import    struct{ Cert, Key string }
		}
	}
	if err := yaml.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	a, b := got.Issuers["a"], got.Issuers["b"]
	if got.Dir != filepath.Join(dir, "ca") || a.Import.Cert != filepath.Join(dir, "a.pem") || a.Import.Key != "/keys/a" || a.CRL[0] != "cert" || b.Name != "dir" || b.Key != "P-256" {
		t.Errorf("%s", text)
	}
	if strings.Contains(n.Content[0].Content[1].Value, dir) {
		t.Error("the file's own tree has changed")
	}
}
