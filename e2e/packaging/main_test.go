//go:build packaging

// Package packaging proves what Muster is installed by: the Debian package in systems of Debian's own, with systemd as the first process of
// namespaces of its own and without, and the Helm chart by Kubernetes' schemas. `make packaging` gets what that needs and runs this. One that is
// missing is a failure.
package packaging

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// prepared is what .ci/packaging made: bin/, crds/, and the systems with.tar and without.tar.
var prepared string

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	if prepared = os.Getenv("MUSTER_PACKAGING"); prepared == "" {
		return 1, errors.New("MUSTER_PACKAGING does not say where .ci/packaging put what it made: run `make packaging`")
	}
	if os.Geteuid() != 0 {
		return 1, errors.New("packages are installed into systems of their own here, and systemd is run in namespaces: run this as root")
	}
	var err error
	if built.dir, err = os.MkdirTemp("", "muster-packaging"); err != nil {
		return 1, err
	}
	defer os.RemoveAll(built.dir) //nolint:errcheck // scratch
	return m.Run(), nil
}

const (
	root  = "../.."
	epoch = "1700000000" // SOURCE_DATE_EPOCH of the packages
	older = "v0.0.1"
	newer = "v0.0.2" // brings another muster.yaml
)

// built are the packages: each is made once.
var built struct {
	sync.Mutex
	dir  string
	made map[string]string
	next string // a copy of the sources, as they are in the newer version
}

// deb is the package of a version for an architecture.
func deb(t testing.TB, version, arch string) string {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	if path := built.made[version+arch]; path != "" {
		return path
	}
	from := root
	if version == newer {
		from = nextSources(t)
	}
	path := build(t, from, version, arch, filepath.Join(built.dir, "debs"))
	if built.made == nil {
		built.made = map[string]string{}
	}
	built.made[version+arch] = path
	return path
}

// nextSources are the sources in another folder, with another muster.yaml. It needs the lock.
func nextSources(t testing.TB) string {
	t.Helper()
	if built.next == "" {
		built.next = filepath.Join(built.dir, "next")
		copySources(t, built.next)
		appendTo(t, filepath.Join(built.next, "configs/deploy/debian/muster.yaml"), "# What the newer release says.\n")
	}
	return built.next
}

func copySources(t testing.TB, to string) {
	t.Helper()
	if err := os.MkdirAll(to, 0o755); err != nil {
		t.Fatal(err)
	}
	command(t, "", "sh", "-euc", `cd "$1" && tar -c go.mod go.sum CHANGELOG.md .ci/build authz backends cmd configs gateway plugins protocols | tar -x -C "$2"`, "sh", root, to)
}

func appendTo(t testing.TB, path, text string) {
	t.Helper()
	before, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, append(before, text...), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// build runs configs/deploy/debian/build.
func build(t testing.TB, from, version, arch, out string) string {
	t.Helper()
	cmd := exec.Command("configs/deploy/debian/build", version, arch, out)
	cmd.Dir, cmd.Stderr = from, os.Stderr
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH="+epoch)
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("building %s for %s: %v", version, arch, err)
	}
	return strings.TrimSpace(string(text))
}

// muster is the program of the older package, on this machine.
func muster(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(built.dir, "here")
	if _, err := os.Stat(dir); err != nil {
		command(t, "", "dpkg-deb", "-x", deb(t, older, runtime.GOARCH), dir)
	}
	return filepath.Join(dir, "usr/bin/muster")
}

// command runs one that has to succeed, in a folder: all that it printed.
func command(t testing.TB, dir, name string, args ...string) string {
	t.Helper()
	out, err := tried(t, dir, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return out
}

func tried(t testing.TB, dir, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}
