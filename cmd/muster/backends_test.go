package main

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/plugins/backend/upstream"
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

// TestUpstreamPaths: the files of a backend that is asked over HTTP are found from the file's folder; its URL stays as it is.
func TestUpstreamPaths(t *testing.T) {
	var n yaml.Node
	if err := yaml.Unmarshal([]byte("{url: https://ca.example/a, ca: roots.pem, cert: ra.pem, key: /keys/ra, timeout: 5s}"), &n); err != nil {
		t.Fatal(err)
	}
	c := &Config{dir: t.TempDir()}
	for _, path := range upstream.Paths {
		c.resolve(n.Content[0], strings.Split(path, "."))
	}
	var got struct{ URL, CA, Cert, Key, Timeout string }
	if err := n.Decode(&got); err != nil {
		t.Fatal(err)
	}
	if got.URL != "https://ca.example/a" || got.CA != filepath.Join(c.dir, "roots.pem") || got.Cert != filepath.Join(c.dir, "ra.pem") || got.Key != "/keys/ra" || got.Timeout != "5s" {
		t.Errorf("%+v", got)
	}
}

// TestIssuersKnownAtTheStart: what `config check` says of a shipped backend's CAs, it says of those that it knows alone.
func TestIssuersKnownAtTheStart(t *testing.T) {
	known := shipped{issuers: []string{"", "ec", "rsa"}, rsa: []string{"rsa"}}
	for issuer, want := range map[string]bool{"": true, "ec": true, "rsa": false, "another": false} {
		if got := known.notRSA(issuer); got != want {
			t.Errorf("%q: %t", issuer, got)
		}
		if (shipped{}).notRSA(issuer) {
			t.Errorf("%q of a backend that nobody has asked yet", issuer)
		}
	}
}

// TestHolds: a folder that a backend writes to is one process's; files that it reads are anybody's.
func TestHolds(t *testing.T) {
	var n yaml.Node
	if err := yaml.Unmarshal([]byte("{dir: ca, issuers: {a: {import: {cert: a.pem, key: a.key}}}}"), &n); err != nil {
		t.Fatal(err)
	}
	c := &Config{dir: t.TempDir(), Backends: map[string]*BackendConfig{"a": {Plugin: "local", Config: n.Content[0]}, "b": {Plugin: "./own", Config: n.Content[0]}, "c": {Plugin: "local"}}}
	if got := c.holds("a"); len(got) != 1 || got[0] != filepath.Join(c.dir, "ca") {
		t.Errorf("%v", got)
	}
	if got := append(c.holds("b"), c.holds("c")...); len(got) != 0 {
		t.Errorf("%v", got)
	}
	for name, s := range shippedBackends() {
		for _, key := range s.holds {
			if !slices.Contains(s.paths, key) {
				t.Errorf("%s: %s is no path", name, key)
			}
		}
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
