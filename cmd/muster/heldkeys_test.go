package main

import (
	"log/slog"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/plugins/host"
)

// TestKeysInToken: a plugin with a token has time to make keys at its first start, and no second process gets at its CA's folder.
func TestKeysInToken(t *testing.T) {
	config := func(text string) *Config {
		var n yaml.Node
		if err := yaml.Unmarshal([]byte(text), &n); err != nil {
			t.Fatal(err)
		}
		return &Config{dir: "/etc/muster", Backends: map[string]*BackendConfig{"ca": {Plugin: "/usr/lib/muster/muster-pkcs11", SHA256: strings.Repeat("0", 64), Config: n.Content[0]}}}
	}
	c := config("{dir: /ca, pkcs11: {module: /m.so}}")
	if dirs := c.holds("ca"); !slices.Equal(dirs, []string{"/ca"}) {
		t.Errorf("it holds %v", dirs)
	}
	h, err := c.hostConfig("ca", t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil || h.StartTimeout <= host.StartTimeout {
		t.Errorf("%v, %v", h.StartTimeout, err)
	}
	other := config("{dir: /ca}")
	if h, err := other.hostConfig("ca", t.TempDir(), slog.New(slog.DiscardHandler)); err != nil || h.StartTimeout != 0 || other.holds("ca") != nil {
		t.Errorf("another plugin: %v, %v", h.StartTimeout, err)
	}
}
