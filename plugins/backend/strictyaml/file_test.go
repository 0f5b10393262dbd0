package strictyaml

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "secret")
	if err := os.WriteFile(path, []byte("12345678"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"secret", path} {
		for what, read := range map[string]func(string, string, int64) ([]byte, error){"ReadFile": ReadFile, "ReadSecret": ReadSecret} {
			if data, err := read(dir, name, 8); err != nil || string(data) != "12345678" {
				t.Errorf("%s %s: %q %v", what, name, data, err)
			}
			if _, err := read(dir, name, 7); err == nil || !strings.Contains(err.Error(), path+" is larger than 7 bytes") {
				t.Errorf("%s %s: %v", what, name, err)
			}
			for bad, want := range map[string]string{"nothing": "no such file", ".": "is not a file", "pipe": "is not a file"} {
				if _, err := read(dir, bad, 8); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s %s: %v", what, bad, err)
				}
			}
		}
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFile(dir, "secret", 8); err != nil {
		t.Error(err)
	}
	if _, err := ReadSecret(dir, "secret", 8); err == nil || !strings.Contains(err.Error(), "secret has mode 0644: others may not have access to a secret (chmod 600)") {
		t.Error(err)
	}
}
