package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// programs are those of this package's folders, each built once: the go command links a program anew whenever it is asked for.
var programs = struct {
	sync.Mutex
	built map[string]func() error
}{built: map[string]func() error{}}

// built is the path of the program of a folder of this package. Nobody changes the file; who wants to takes a copy (buildPlugin).
func built(t testing.TB, folder string) string {
	t.Helper()
	path := filepath.Join(filepath.Dir(binary), folder)
	programs.Lock()
	build := programs.built[folder]
	if build == nil {
		build = sync.OnceValue(func() error {
			if out, err := exec.Command("go", "build", "-o", path, "./"+folder).CombinedOutput(); err != nil {
				return fmt.Errorf("%w\n%s", err, out)
			}
			return nil
		})
		programs.built[folder] = build
	}
	programs.Unlock()
	if err := build(); err != nil {
		t.Fatal(err)
	}
	return path
}

// buildPlugin copies the program of a folder of this package to a path and returns its SHA-256.
func buildPlugin(t testing.TB, folder, path string) (sum string) {
	t.Helper()
	program, err := os.ReadFile(built(t, folder))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, program, 0o700); err != nil {
		t.Fatal(err)
	}
	h := sha256.Sum256(program)
	return hex.EncodeToString(h[:])
}
