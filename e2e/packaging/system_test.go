//go:build packaging

package packaging

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// begin makes a root file system the one of the namespaces that it runs in, as a container's engine does, and becomes their first process. It is not
// chroot: the kernel has no user namespaces for who is in one, and the unit asks for them.
const begin = `
root=$1 cgroup=$2; shift 2
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
[ -z "$cgroup" ] || mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for d in null zero full random urandom tty; do : >"$root/dev/$d"; mount --bind "/dev/$d" "$root/dev/$d"; done
mkdir "$root/dev/pts" "$root/dev/shm" "$root/run/lock"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ip link set lo up
hostname box
cd "$root"
pivot_root . mnt
umount -l /mnt
exec env -i container=muster-test PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
`

// system is one of Debian's that runs in namespaces of its own.
type system struct {
	t    testing.TB
	root string
	pid  string // its first process
	log  output
}

type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// start starts with.tar by systemd, or without.tar, in which nothing runs.
func start(t testing.TB, name string) *system {
	t.Helper()
	s := &system{t: t, root: t.TempDir()}
	command(t, "", "tar", "-C", s.root, "-xf", filepath.Join(prepared, name+".tar"))
	first, cgroup := []string{"sleep", "infinity"}, ""
	if name == "with" {
		first, cgroup = []string{"/lib/systemd/systemd", "--system", "--unit=multi-user.target"}, newCgroup(t)
	}
	args := append([]string{"-euc", `[ -z "$2" ] || echo $$ >"$2/cgroup.procs"; exec unshare --mount --pid --net --uts --ipc --cgroup --fork --kill-child sh -euc "$0" sh "$@"`, begin, s.root, cgroup}, first...)
	cmd := exec.Command("sh", args...)
	cmd.Stdout, cmd.Stderr = &s.log, &s.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait() //nolint:errcheck // it is killed
		close(ended)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill() //nolint:errcheck // it may have ended
		<-ended
		s.gone()
		if t.Failed() {
			t.Logf("the system's console:\n%s", &s.log)
		}
	})
	s.until("the first process", func() bool {
		select {
		case <-ended:
			t.Fatalf("the system ended: %s", &s.log)
		default:
		}
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
		s.pid = strings.TrimSpace(string(b))
		comm, _ := os.ReadFile("/proc/" + s.pid + "/comm")
		return s.pid != "" && strings.TrimSpace(string(comm)) == strings.TrimSpace(filepath.Base(first[0]))
	})
	if name == "with" {
		s.until("systemd", func() bool {
			out, _ := s.try("systemctl", "is-system-running")
			return strings.TrimSpace(out) == "running"
		})
	}
	return s
}

// gone waits until no process of the system is left: its files could not be removed before.
func (s *system) gone() {
	if s.pid != "" {
		s.until("the end of the system", func() bool { _, err := os.Stat("/proc/" + s.pid); return err != nil })
	}
}

// newCgroup is an empty group of the unified hierarchy.
func newCgroup(t testing.TB) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); f[2] == "cgroup2" {
			dir, err := os.MkdirTemp(f[1], "muster-packaging-")
			if err != nil {
				t.Fatalf("systemd needs a cgroup of its own: %v", err)
			}
			t.Cleanup(func() { exec.Command("find", dir, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";").Run() }) //nolint:errcheck // empty groups harm nobody
			return dir
		}
	}
	t.Fatal("systemd needs cgroup2, which is not mounted here")
	return ""
}

const patience = 60 * time.Second

// until waits for what a machine with other work may take long for.
func (s *system) until(what string, is func() bool) {
	s.t.Helper()
	for began := time.Now(); time.Since(began) < patience; time.Sleep(20 * time.Millisecond) {
		if is() {
			return
		}
	}
	s.t.Fatalf("%s: not within %v\n%s", what, patience, &s.log)
}

// command is one in the system.
func (s *system) command(name string, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--target", s.pid, "--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup", "--root", "--wd",
		"env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TERM=dumb", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive", name}, args...)...)
}

func (s *system) try(name string, args ...string) (string, error) {
	s.t.Helper()
	out, err := s.command(name, args...).CombinedOutput()
	return string(out), err
}

// do runs a command that has to succeed.
func (s *system) do(name string, args ...string) string {
	s.t.Helper()
	out, err := s.try(name, args...)
	if err != nil {
		s.t.Fatalf("%s %s: %v\n%s\n%s", name, strings.Join(args, " "), err, out, s.journal())
	}
	return out
}

// sh runs a script that has to succeed, in /root.
func (s *system) sh(script string) string {
	s.t.Helper()
	return s.do("sh", "-euc", "cd /root\n"+script)
}

func (s *system) journal() string {
	out, _ := s.try("journalctl", "--no-pager", "-u", "muster", "-n", "40")
	return out
}

// install is dpkg's, of a package: what it said.
func (s *system) install(path string, flags ...string) string {
	s.t.Helper()
	name := filepath.Base(path)
	b, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(filepath.Join(s.root, "root", name), b, 0o644)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return s.do("dpkg", append(flags, "-i", "/root/"+name)...)
}

func (s *system) read(path string) string {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.root, path))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

func (s *system) has(path string) bool {
	_, err := os.Lstat(filepath.Join(s.root, path))
	return err == nil
}
