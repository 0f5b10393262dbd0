//go:build container

package container

import (
	"debug/elf"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// image is one that was built: its configuration, and where its root file system lies.
type image struct {
	User         string
	ExposedPorts map[string]struct{}
	Env          []string
	Entrypoint   []string
	Cmd          []string
	Volumes      map[string]struct{}
	Labels       map[string]string
	StopSignal   string
	Healthcheck  struct {
		Test                           []string
		Interval, Timeout, StartPeriod time.Duration
	}

	architecture string
	root         string
	uid, gid     int
	took         time.Duration
}

// buildah runs buildah on the storage of .ci/container: what it printed on standard output.
func buildah(t testing.TB, args ...string) string {
	t.Helper()
	cmd := exec.Command("buildah", append([]string{"--storage-driver", "vfs", "--root", filepath.Join(storage, "storage"), "--runroot", filepath.Join(storage, "run")}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+storage) // where caches of RUN --mount=type=cache are
	var printed strings.Builder
	cmd.Stderr = &printed
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("buildah %s: %v\n%s%s", strings.Join(args, " "), err, out, printed.String())
	}
	return strings.TrimSpace(string(out))
}

var built = struct {
	sync.Mutex
	images map[string]*image
}{images: map[string]*image{}}

// build builds the Dockerfile, once for a version and an architecture. Modules come from this machine's cache of them, which go.sum
// is held against: nothing is fetched.
func build(t testing.TB, version, architecture string) *image {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	tag := "localhost/muster:" + version + "-" + architecture
	if img := built.images[tag]; img != nil {
		return img
	}
	top, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	modules := goCommand(t, top, "env", "GOMODCACHE")
	goCommand(t, top, "mod", "download")
	began := time.Now()
	buildah(t, "bud", "--isolation", "chroot", "--format", "docker", "--platform", "linux/"+architecture, "--quiet",
		"--volume", filepath.Join(modules, "cache", "download")+":/modules:ro", "--build-arg", "GOPROXY=file:///modules",
		"--pull-never", "--build-arg", "BUILDPLATFORM=linux/"+runtime.GOARCH, // which this release of buildah does not know by itself
		"--build-arg", "BUILD_IMAGE=localhost/muster-build", "--build-arg", "VERSION="+version, "--tag", tag, top)
	img := inspect(t, tag)
	img.took = time.Since(began)
	built.images[tag] = img
	return img
}

func goCommand(t testing.TB, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out))
}

// inspect reads an image's configuration, and copies its root file system out of the storage.
func inspect(t testing.TB, tag string) *image {
	t.Helper()
	var all struct {
		Docker struct {
			Architecture string
			Config       *image
		}
	}
	if err := json.Unmarshal([]byte(buildah(t, "inspect", "--type", "image", tag)), &all); err != nil || all.Docker.Config == nil {
		t.Fatalf("%s: %v", tag, err)
	}
	img := all.Docker.Config
	img.architecture = all.Docker.Architecture
	user, group, _ := strings.Cut(img.User, ":")
	var err error
	if img.uid, err = strconv.Atoi(user); err != nil {
		t.Fatalf("user %q: an orchestrator that refuses root has to see a number", img.User)
	}
	if img.gid, err = strconv.Atoi(group); err != nil {
		t.Fatalf("user %q: want a numeric group", img.User)
	}
	// It outlives the test that built it.
	if img.root, err = os.MkdirTemp("", "muster-image-"); err != nil {
		t.Fatal(err)
	}
	roots.all = append(roots.all, img.root)
	c := buildah(t, "from", "--pull-never", tag)
	copyTree(t, buildah(t, "mount", c), img.root)
	buildah(t, "umount", c)
	buildah(t, "rm", c)
	return img
}

// roots are removed when all tests have run.
var roots struct{ all []string }

func (i *image) stopSignal() syscall.Signal {
	name := i.StopSignal
	if name == "" {
		name = "SIGTERM"
	}
	return unix.SignalNum(name)
}

// size is what the image's files take, in bytes.
func (i *image) size(t testing.TB) (total int64, files []string) {
	t.Helper()
	err := filepath.WalkDir(i.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().IsRegular() {
			total += info.Size()
			files = append(files, strings.TrimPrefix(path, i.root))
		}
		if err == nil && info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return total, files
}

// largest is what the image may take at most, in bytes, uncompressed: 45 MB as docker counts them.
const largest = 45_000_000

func TestImage(t *testing.T) {
	for _, architecture := range []string{"amd64", "arm64"} {
		img := build(t, "v0.0.1", architecture)
		size, files := img.size(t)
		t.Logf("%s: %.1f MB (%.1f MiB) in %d files, built in %.0f s", architecture, float64(size)/1e6, float64(size)/(1<<20), len(files), img.took.Seconds())
		if size > largest {
			t.Errorf("%s: %d bytes, more than %d", architecture, size, largest)
		}
		if want := []string{"/etc/group", "/etc/passwd", "/etc/ssl/certs/ca-certificates.crt", "/usr/bin/muster"}; !slices.Equal(files, want) {
			t.Errorf("%s: files %q, want %q", architecture, files, want)
		}
		if img.architecture != architecture {
			t.Errorf("the image says %s, want %s", img.architecture, architecture)
		}
		program, err := elf.Open(filepath.Join(img.root, "usr/bin/muster"))
		if err != nil {
			t.Fatal(err)
		}
		defer program.Close()
		if want := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[architecture]; program.Machine != want {
			t.Errorf("the binary is for %s, want %s", program.Machine, want)
		}
		if slices.ContainsFunc(program.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) || program.Section(".symtab") != nil {
			t.Errorf("%s: the binary is not static, or not stripped", architecture)
		}
		info, err := os.Stat(filepath.Join(img.root, "data"))
		if err != nil {
			t.Fatal(err)
		}
		if owner := info.Sys().(*syscall.Stat_t); int(owner.Uid) != img.uid || int(owner.Gid) != img.gid || info.Mode().Perm()&0o022 != 0 {
			t.Errorf("/data is %d's, mode %s", owner.Uid, info.Mode())
		}
		if img.uid == 0 || img.stopSignal() == 0 || img.Healthcheck.Interval == 0 {
			t.Errorf("user %d, stop signal %s, health check %+v", img.uid, img.StopSignal, img.Healthcheck)
		}
		if got := fmt.Sprint(img.Volumes, img.ExposedPorts); got != "map[/data:{}] map[8080/tcp:{} 8443/tcp:{}]" {
			t.Errorf("volumes and ports: %s", got)
		}
		for label, want := range map[string]string{"version": "v0.0.1", "licenses": "Apache-2.0", "title": "Muster"} {
			if got := img.Labels["org.opencontainers.image."+label]; got != want {
				t.Errorf("label %s: %q, want %q", label, got, want)
			}
		}
	}
}
