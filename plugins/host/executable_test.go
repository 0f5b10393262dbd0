package host_test

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/muster-pki/muster/plugins/host"
)

// write makes an executable and returns its path and hash.
func write(t *testing.T, content []byte) (path, sum string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "ca-plugin")
	syscall.ForkLock.RLock() // see copyHashed
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, content, 0o700); err != nil {
		t.Fatal(err)
	}
	h := sha256.Sum256(content)
	return path, hex.EncodeToString(h[:])
}

// TestThirdParty: an executable runs by its path and hash, from a copy that the original's owner cannot touch.
func TestThirdParty(t *testing.T) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	path, sum := write(t, self)
	c, _ := config(t, "")
	c.Plugin, c.SHA256 = path, strings.ToUpper(sum)
	if err := host.Validate(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	p := start(t, c)
	exe, err := os.Readlink(filepath.Join("/proc", pidOf(p), "exe"))
	if err != nil || !strings.HasPrefix(exe, c.Dir) {
		t.Errorf("it runs %s, %v: not the private copy", exe, err)
	}
	if fi, err := os.Stat(exe); err != nil || fi.Mode().Perm() != 0o500 {
		t.Errorf("the copy: %v, %v", fi.Mode(), err)
	}
	if fi, err := os.Stat(filepath.Dir(exe)); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("the copy's directory: %v, %v", fi.Mode(), err)
	}
	// What happens to the original is nothing to a restart.
	if err := os.WriteFile(path, []byte("#!/bin/false\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	pid := kill(t, p)
	gone(t, pid)
	if _, err := p.Issue(t.Context(), request("a")); err != nil {
		if _, err := p.Issue(t.Context(), request("a")); err != nil {
			t.Error(err)
		}
	}
	c.Dir = t.TempDir()
	if _, err := host.Start(t.Context(), c); err == nil || !strings.Contains(err.Error(), "it is not run") {
		t.Errorf("the changed original: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(c.Dir, "muster-run.*")); len(left) != 0 {
		t.Errorf("the refusal leaves %v", left)
	}
}

// TestBadExecutables: what is no plugin is refused with the reason, and does not linger.
func TestBadExecutables(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o700); err != nil {
		t.Fatal(err)
	}
	zeros := strings.Repeat("0", 64)
	for _, c := range []struct{ name, script, path, sum, want string }{
		{name: "ends", script: "#!/bin/sh\nexit 7\n", want: "exit status 7"},
		{name: "speaks otherwise", script: "#!/bin/sh\necho hello\nexec sleep 60\n", want: "Unrecognized remote plugin message: hello"},
		{name: "says nothing", script: "#!/bin/sh\nexec sleep 60\n", want: "deadline exceeded"},
		{name: "floods", script: "#!/bin/sh\nexec yes -n\n", want: "Unrecognized remote plugin message"},
		{name: "listens on TCP", script: "#!/bin/sh\necho '1|1|tcp|127.0.0.1:9|grpc|'\nexec sleep 60\n", want: "outside its socket directory"},
		{name: "listens elsewhere", script: "#!/bin/sh\necho '1|1|unix|/run/plugin1|grpc|'\nexec sleep 60\n", want: "outside its socket directory"},
		{name: "climbs out", script: "#!/bin/sh\necho \"1|1|unix|$PLUGIN_UNIX_SOCKET_DIR/../x|grpc|\"\nexec sleep 60\n", want: "outside its socket directory"},
		{name: "speaks net/rpc", script: "#!/bin/sh\necho \"1|1|unix|$PLUGIN_UNIX_SOCKET_DIR/x|netrpc|\"\nexec sleep 60\n", want: `unsupported plugin protocol "netrpc"`},
		{name: "speaks version 2", script: "#!/bin/sh\necho \"1|2|unix|$PLUGIN_UNIX_SOCKET_DIR/x|grpc|\"\nexec sleep 60\n", want: "incompatible API version"},
		{name: "does not listen", script: "#!/bin/sh\necho \"1|1|unix|$PLUGIN_UNIX_SOCKET_DIR/x|grpc|\"\nexec sleep 60\n", want: "starting plugin ca"},
		{name: "is no program", script: "\x00\x01", want: "exec format error"},
		{name: "is missing", path: filepath.Join(dir, "missing"), sum: zeros, want: "no such file"},
		{name: "is a directory", path: dir, sum: zeros, want: "no regular file"},
		{name: "is a FIFO", path: fifo, sum: zeros, want: "no regular file"},
		{name: "has no hash", path: filepath.Join(dir, "x"), want: "needs its sha256"},
		{name: "has half a hash", path: filepath.Join(dir, "x"), sum: zeros[:32], want: "needs its sha256"},
		{name: "is relative", path: "./x", sum: zeros, want: "not absolute"},
		{name: "is shipped and hashed", path: "scripted", sum: zeros, want: "sha256 belongs to"},
		{name: "is an option", path: "-x", want: "neither a shipped"},
		{name: "is nothing", path: "", want: "no plugin is named"},
		{name: "is not shipped", path: "misspelt", want: "exit status 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, _ := config(t, "")
			cfg.Plugin, cfg.SHA256 = c.path, c.sum
			if c.script != "" {
				cfg.Plugin, cfg.SHA256 = write(t, []byte(c.script))
			}
			cfg.StartTimeout, cfg.StopTimeout = 20*time.Second, 10*time.Millisecond
			if strings.Contains(c.want, "deadline") {
				cfg.StartTimeout = 100 * time.Millisecond
			}
			p, err := host.Start(t.Context(), cfg)
			if err == nil {
				_ = p.Close(t.Context())
				t.Fatal("it was started")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v\ndoes not say %q", err, c.want)
			}
		})
	}
}
