package host_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/host"
)

func pidOf(p *host.Plugin) string { return strconv.Itoa(p.PID()) }

func TestConfigIsChecked(t *testing.T) {
	for want, change := range map[string]func(c *host.Config){
		"without a name":              func(c *host.Config) { c.Name = "" },
		"a configuration of":          func(c *host.Config) { c.Config = make([]byte, backend.MaxConfig+1) },
		`cannot hold "PLUGIN_X"`:      func(c *host.Config) { c.Env = []string{"PLUGIN_X=1"} },
		`cannot hold "MUSTER_PLUGIN"`: func(c *host.Config) { c.Env = []string{"MUSTER_PLUGIN=1"} },
		`cannot hold "X"`:             func(c *host.Config) { c.Env = []string{"X"} },
		"is writable by others": func(c *host.Config) {
			if err := os.Chmod(c.Dir, 0o777); err != nil {
				t.Fatal(err)
			}
		},
	} {
		c, _ := config(t, "")
		change(&c)
		for _, err := range []error{host.Validate(t.Context(), c), startError(t, c)} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v does not say %q", err, want)
			}
		}
	}
}

func startError(t *testing.T, c host.Config) error {
	t.Helper()
	p, err := host.Start(t.Context(), c)
	if err == nil {
		_ = p.Close(t.Context())
	}
	return err
}

// TestLongDirectory: where a socket's path would not fit, sockets go to the system's directory for temporary
// files; where that is too long as well, the start fails and says so.
func TestLongDirectory(t *testing.T) {
	c, _ := config(t, "")
	c.Dir = filepath.Join(c.Dir, strings.Repeat("long", 25))
	p := start(t, c)
	if _, err := p.Issue(t.Context(), request("a")); err != nil {
		t.Error(err)
	}
	t.Setenv("TMPDIR", c.Dir)
	if err := startError(t, c); err == nil || !strings.Contains(err.Error(), "too long for Unix sockets") {
		t.Errorf("a long TMPDIR: %v", err)
	}
	if p.Healthy() != nil || p.PID() == 0 {
		t.Error("another start disturbed the plugin")
	}
	if left, err := filepath.Glob(filepath.Join(c.Dir, "muster-run.*")); err != nil || len(left) != 1 {
		t.Errorf("%v, %v: not the one that lives", left, err)
	}
}

// TestTwoInOneDirectory: plugins share a directory, each in its own place.
func TestTwoInOneDirectory(t *testing.T) {
	c, _ := config(t, "")
	a, b := start(t, c), start(t, c)
	kill(t, a)
	if _, err := b.Issue(t.Context(), request("b")); err != nil {
		t.Error(err)
	}
	for {
		if _, err := a.Issue(t.Context(), request("a")); err == nil {
			break
		} else if backend.Definite(err) {
			t.Fatal(err)
		}
	}
}
