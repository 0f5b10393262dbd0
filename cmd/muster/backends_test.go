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

// TestSharedLedger: with a store in PostgreSQL the ledger of a local CA is there, under the backend's name, unless another place is named.
func TestSharedLedger(t *testing.T) {
	t.Setenv("PGPASSWORD", "hidden")
	for _, tc := range []struct{ store, config, ledger, name string }{
		{"sqlite:muster.db", "{dir: ca}", "", ""},
		{"postgres://u@h/d?sslmode=disable", "{dir: ca}", "postgres://u:hidden@h/d?sslmode=disable", "plant"},
		{"postgresql://u:own@a:1,b:2/d?target_session_attrs=read-write", "{dir: ca}", "postgresql://u:own@a:1,b:2/d?target_session_attrs=read-write", "plant"},
		{"postgres://u@h/d", "{dir: ca, ledger: 'postgres://v@h/e'}", "postgres://v@h/e", "plant"},
		{"sqlite:muster.db", "{dir: ca, ledger: 'postgres://v@h/e', ledger-name: mine}", "postgres://v@h/e", "mine"},
		{"postgres://u:own@h/d", "{dir: ca, ledger-name: mine}", "postgres://u:own@h/d", "mine"},
	} {
		var n yaml.Node
		if err := yaml.Unmarshal([]byte(tc.config), &n); err != nil {
			t.Fatal(err)
		}
		c := &Config{dir: t.TempDir(), Store: tc.store, Backends: map[string]*BackendConfig{"plant": {Plugin: "local", Config: n.Content[0]}}}
		text, _, err := c.backendConfig("plant")
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Ledger string
			Name   string `yaml:"ledger-name"`
		}
		if err := yaml.Unmarshal(text, &got); err != nil {
			t.Fatal(err)
		}
		if got.Ledger != tc.ledger || got.Name != tc.name {
			t.Errorf("%s, %s: %+v", tc.store, tc.config, got)
		}
		if err := shippedBackends()["local"].validate(text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	two := strings.Replace(good, "sqlite:muster.db", "postgres://u:hidden@h/d", 1)
	if _, err := checkConfig(t.Context(), write(t, t.TempDir(), "muster.yaml", two)); err != nil {
		t.Error(err)
	}
	two = strings.Replace(two, "{dir: ./ca}", "{dir: ./ca, ogranization: x}", 1)
	if _, err := checkConfig(t.Context(), write(t, t.TempDir(), "muster.yaml", two)); err == nil || strings.Contains(err.Error(), "hidden") {
		t.Errorf("%v", err)
	}
}
