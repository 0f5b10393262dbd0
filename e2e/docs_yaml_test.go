package e2e

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// TestDocsConfigurations: what the pages show of configurations is taken by `muster config check`: a whole one, which begins with its version, as it
// stands, beside files of the names that it has; a part of one in its place, where its keys have to be known.
func TestDocsConfigurations(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	out, err := exec.Command("sh", "-euc", `cd "$1"; umask 077
		openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=ra.example.com -addext subjectAltName=DNS:ra.example.com -keyout key -out ca 2>/dev/null
		openssl req -x509 -new -key key -days 30 -subj /CN=ra.example.com -addext subjectAltName=DNS:ra.example.com -addext basicConstraints=critical,CA:false -out cert`, "sh", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	whole, parts := 0, 0
	for _, page := range pages(t) {
		blocks, _ := blocksOf(page, string(fileOf(t, "..", page)))
		for _, b := range blocks {
			if b.kind != "yaml" || b.run != "" || b.not != "" {
				continue
			}
			said, good := checkedConfig(t, dir, b)
			if strings.HasPrefix(b.text, "version:") {
				whole++
				if !good {
					t.Errorf("%s:%d: this configuration does not load:\n%s", b.page, b.line, said)
				}
				continue
			}
			parts++
			for line := range strings.Lines(said) {
				if strings.Contains(line, "unknown ") || strings.Contains(line, "did not find") || strings.Contains(line, "cannot unmarshal") {
					t.Errorf("%s:%d: %s", b.page, b.line, line)
				}
			}
		}
	}
	for _, text := range []string{"watsh: true\n", "    enroll:\n      - own-certificate: {kind: [x]}\n", "issuers: {ec: {crll: [x]}}\n", "profiles: {x: {backend: local, validty: 3d}}\n", "  console: {oidcc: {}}\n", "    renew: [own-certficate: {}]\n"} {
		if said, _ := checkedConfig(t, dir, block{page: "docs/est.md", kind: "yaml", text: text}); !strings.Contains(said, "unknown ") {
			t.Errorf("%s is taken for good:\n%s", text, said)
		}
	}
	if whole < 4 || parts < 20 {
		t.Errorf("%d whole configurations, %d parts", whole, parts)
	}
}

// The keys by which a part is known: those of the configuration itself stand in the margin of any.
var (
	partsOfEndpoint = []string{"enroll", "renew", "rekey", "revoke", "query", "cmp", "est", "scep", "ra", "repeat"}
	partsOfLocal    = []string{"issuers", "crl-shard-size"}
)

// checkedConfig is what `muster config check` says of a block, made whole.
func checkedConfig(t *testing.T, dir string, b block) (said string, good bool) {
	t.Helper()
	text := b.text
	if indent := len(text) - len(strings.TrimLeft(text, " ")); indent > 0 {
		text = regexp.MustCompile(fmt.Sprintf(`(?m)^ {%d}`, indent)).ReplaceAllString(text, "")
	}
	inner := func(by int) string {
		return regexp.MustCompile(`(?m)^(.)`).ReplaceAllString(text, strings.Repeat(" ", by)+"$1")
	}
	if strings.HasPrefix(text, "- ") {
		text = "enroll:\n" + inner(2)
	}
	var keys map[string]yaml.Node
	if err := yaml.Unmarshal([]byte(text), &keys); err != nil {
		return "cannot unmarshal: " + err.Error(), false
	}
	has := func(names ...string) bool {
		for _, n := range names {
			if _, ok := keys[n]; ok {
				return true
			}
		}
		return false
	}
	protocol := "est"
	if m := regexp.MustCompile(`(cmp|scep|3gpp|rollover)`).FindString(b.page); m == "scep" || m == "cmp" || m == "3gpp" {
		protocol = strings.Replace(m, "3gpp", "cmp", 1)
	}
	switch {
	case has(partsOfEndpoint...):
		text = "endpoints:\n  part:\n    protocol: " + protocol + "\n    listeners: [https]\n    profile: device\n" + inner(4)
	case has(partsOfLocal...):
		text = "backends:\n  local:\n    plugin: local\n    config:\n      dir: ca\n" + inner(6)
	case has("console"):
		text = "admin:\n  address: 127.0.0.1:9443\n" + inner(2)
	case has("plant"):
		text = "endpoints:\n" + inner(2)
	}
	// What it refers to and does not show: a configuration is read as far as that is good.
	var refers struct {
		Endpoints map[string]struct {
			Listeners []string
			Profile   string
		}
		Profiles map[string]struct{ Backend string }
	}
	if err := yaml.Unmarshal([]byte(text), &refers); err != nil {
		return "cannot unmarshal: " + err.Error(), false
	}
	listeners, profiles, backends := map[string]bool{"http": true}, map[string]bool{"device": true}, map[string]bool{"local": true}
	for _, e := range refers.Endpoints {
		for _, l := range e.Listeners {
			listeners[l] = true
		}
		profiles[cmp.Or(e.Profile, "device")] = true
	}
	for _, p := range refers.Profiles {
		backends[cmp.Or(p.Backend, "local")] = true
	}
	all := func(names map[string]bool, each string) string {
		text, n := "", 0
		for _, name := range slices.Sorted(maps.Keys(names)) {
			text += "\n  " + name + ": " + strings.ReplaceAll(each, "#", strconv.Itoa(n))
			n++
		}
		return text
	}
	for key, rest := range map[string]string{
		"version": "1", "listeners": all(listeners, "{address: 127.0.0.1:800#, tls: {}}"), "backends": all(backends, "{plugin: local, config: {dir: ca#}}"), "profiles": all(profiles, "{backend: local}"),
	} {
		if !regexp.MustCompile(`(?m)^` + key + `:`).MatchString(text) {
			text += "\n" + key + ": " + rest + "\n"
		}
	}
	// The files that it names, of one key: what is wrong with them is not what is looked for in a part.
	hash := sha256.Sum256([]byte("secret"))
	for _, name := range regexp.MustCompile(`\b[\w./-]*\w`).FindAllString(text, -1) {
		content := []byte(nil)
		switch {
		case strings.HasPrefix(name, "/") || strings.Contains(name, ".."):
			continue
		case regexp.MustCompile(`(^|[-/])(ra|tls|server|edge|admin)\.pem$`).MatchString(name):
			content = fileOf(t, dir, "cert")
		case strings.HasSuffix(name, ".pem"):
			content = fileOf(t, dir, "ca")
		case strings.HasSuffix(name, ".key"):
			content = fileOf(t, dir, "key")
		case strings.HasSuffix(name, ".secret"):
			content = []byte("0123456789abcdef\n")
		case strings.HasSuffix(name, "users"), name == "challenges":
			content = []byte("factory:{sha256}" + hex.EncodeToString(hash[:]) + "\n")
		case name == "secret-id":
			content = []byte("0123456789abcdef\n")
		default:
			continue
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "page.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "config", "check", "page.yaml")
	cmd.Dir = dir
	var printed bytes.Buffer
	cmd.Stdout, cmd.Stderr = &printed, &printed
	err := cmd.Run()
	return printed.String(), err == nil
}
