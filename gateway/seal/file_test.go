package seal

import (
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestCreate(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for _, path := range []string{filepath.Join(dir, "seal.key"), "relative.key"} {
		if _, err := Load(path, false); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
			t.Fatalf("%s: %v", path, err)
		}
		first, err := Load(path, true)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != 0o600 {
			t.Errorf("mode %v", info.Mode())
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		line, ended := strings.CutSuffix(string(text), "\n")
		if key, err := base64.StdEncoding.DecodeString(line); err != nil || !ended || len(key) != KeySize {
			t.Errorf("%q: %v", text, err)
		}
		sealed := first.Seal([]byte("geheim"), "ran")
		for _, create := range []bool{true, false} {
			again, err := Load(path, create)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := again.Open(sealed, "ran"); err != nil || string(got) != "geheim" {
				t.Errorf("%q, %v", got, err)
			}
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 2 {
		t.Errorf("left behind: %v, %v", files, err)
	}
	if _, err := Load(filepath.Join(dir, "none", "seal.key"), true); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in a folder that does not exist: %v", err)
	}
}

// TestUmask: the file's mode is its own.
func TestUmask(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	path := filepath.Join(t.TempDir(), "seal.key")
	if _, err := Load(path, true); err != nil {
		t.Fatal(err)
	}
}

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	good := base64.StdEncoding.EncodeToString(make([]byte, KeySize))
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
		want string // "" when it is taken
	}{
		"good":                {good + "\n", 0o600, ""},
		"no line's end":       {good, 0o600, ""},
		"CR LF":               {good + "\r\n", 0o600, ""},
		"read only":           {good + "\n", 0o400, ""},
		"group reads":         {good, 0o640, "mode is 0640: group or others may use it"},
		"others read":         {good, 0o604, "chmod 600"},
		"others write":        {good, 0o602, "chmod 600"},
		"empty":               {"", 0o600, "32 bytes in base64"},
		"31 bytes":            {base64.StdEncoding.EncodeToString(make([]byte, 31)), 0o600, "32 bytes in base64"},
		"33 bytes":            {base64.StdEncoding.EncodeToString(make([]byte, 33)), 0o600, "32 bytes in base64"},
		"no padding":          {strings.TrimRight(good, "="), 0o600, "32 bytes in base64"},
		"cut bits not 0":      {good[:42] + "B=", 0o600, "32 bytes in base64"},
		"two keys":            {good + "\n" + good + "\n", 0o600, "32 bytes in base64"},
		"something secret":    {"geheim-geheim", 0o600, "32 bytes in base64"},
		"hexadecimal":         {strings.Repeat("00", KeySize), 0o600, "32 bytes in base64"},
		"raw":                 {string(make([]byte, KeySize)), 0o600, "32 bytes in base64"},
		"long":                {strings.Repeat("A", 1<<20), 0o600, "too long"},
		"long behind the key": {good + strings.Repeat("\n", 1<<20), 0o600, "too long"},
	} {
		path := filepath.Join(dir, name)
		write(t, path, c.text, c.mode)
		_, err := Load(path, true)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: the error tells what is in the file: %v", name, err)
		}
		if after, err := os.ReadFile(path); err != nil || string(after) != c.text {
			t.Errorf("%s: the file was changed (%v)", name, err)
		}
	}
	if _, err := Load(dir, true); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a folder: %v", err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(fifo, true); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a FIFO: %v", err)
	}
	// The mode that counts is that of the file behind a link.
	for to, ok := range map[string]bool{"good": true, "group reads": false, "nobody": false} {
		link := filepath.Join(dir, "link to "+to)
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(link, true); (err == nil) != ok {
			t.Errorf("a link to %q: %v", to, err)
		}
	}
}

func TestRaceInProcess(t *testing.T) {
	for range 20 {
		path := filepath.Join(t.TempDir(), "seal.key")
		ids := make([]string, 16)
		start := make(chan struct{})
		var wg sync.WaitGroup
		for i := range ids {
			wg.Go(func() {
				<-start
				s, err := Load(path, true)
				if err != nil {
					t.Error(err)
					return
				}
				ids[i] = s.ID()
			})
		}
		close(start)
		wg.Wait()
		for _, id := range ids {
			if id != ids[0] {
				t.Fatalf("more than one key: %v", ids)
			}
		}
	}
}

// childPath names the key file that a test process loads when it is told to.
const childPath = "SEAL_TEST_CHILD_PATH"

func TestMain(m *testing.M) {
	path := os.Getenv(childPath)
	if path == "" {
		os.Exit(m.Run())
	}
	_, _ = os.Stdin.Read(make([]byte, 1)) // until all are there
	s, err := Load(path, true)
	if err != nil {
		os.Stderr.WriteString(err.Error())
		os.Exit(1)
	}
	os.Stdout.WriteString(s.ID())
	os.Exit(0)
}

func TestRaceOfProcesses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seal.key")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var children []*exec.Cmd
	outs := make([]strings.Builder, 8)
	for i := range outs {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childPath+"="+path)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = r, &outs[i], os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		children = append(children, cmd)
	}
	if err := w.Close(); err != nil { // the pipe's end starts them all
		t.Fatal(err)
	}
	for _, cmd := range children {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	s, err := Load(path, false)
	if err != nil {
		t.Fatal(err)
	}
	for i := range outs {
		if outs[i].String() != s.ID() {
			t.Errorf("process %d has the key %q, the file %q", i, &outs[i], s.ID())
		}
	}
}
