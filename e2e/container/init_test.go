//go:build container

package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// specVariable has this program become the first process of a container: a spec, in JSON.
const specVariable = "MUSTER_CONTAINER_SPEC"

// spec is what a container's first process sees.
type spec struct {
	Root     string   // its file system, read-only but for the mounts
	Hostname string   // and the container's name
	Hosts    []string // lines of /etc/hosts
	Mounts   []mount
	Args     []string // the first is looked up in PATH of Env
	Env      []string
	UID, GID int
}

// mount is a bind mount.
type mount struct {
	Source, Target string
	ReadOnly       bool
}

// become turns this process, which has namespaces of its own, into a container's first one: its user without capabilities, and without a way to
// new ones. It returns only an error.
func become() error {
	var s spec
	if err := json.Unmarshal([]byte(os.Getenv(specVariable)), &s); err != nil {
		return err
	}
	runtime.LockOSThread()
	for _, step := range []struct {
		what string
		do   func(spec) error
	}{{"file system", s.files}, {"mounts", s.mounts}, {"root", s.pivot}, {"user", s.user}} {
		if err := step.do(s); err != nil {
			return fmt.Errorf("container %s: %s: %w", s.Hostname, step.what, err)
		}
	}
	path, err := s.lookup()
	if err != nil {
		return err
	}
	return fmt.Errorf("container %s: %s: %w", s.Hostname, path, syscall.Exec(path, s.Args, s.Env))
}

// files are what every engine puts there.
func (s spec) files(spec) error {
	if err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount(s.Root, s.Root, "", unix.MS_BIND, "")); err != nil {
		return err
	}
	for _, dir := range []string{"proc", "dev", "etc"} {
		if err := os.MkdirAll(filepath.Join(s.Root, dir), 0o755); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"hostname": s.Hostname + "\n", "hosts": "127.0.0.1 localhost\n" + strings.Join(s.Hosts, "\n") + "\n", "resolv.conf": "",
	} {
		if err := os.WriteFile(filepath.Join(s.Root, "etc", name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	const hard = unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV
	err := errors.Join(
		unix.Mount("proc", filepath.Join(s.Root, "proc"), "proc", hard, ""),
		unix.Mount("tmpfs", filepath.Join(s.Root, "dev"), "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=755"),
	)
	for _, device := range []string{"null", "zero", "full", "random", "urandom"} {
		err = errors.Join(err, bind(mount{Source: "/dev/" + device, Target: "/dev/" + device}, s.Root))
	}
	return err
}

func (s spec) mounts(spec) error {
	for _, m := range s.Mounts {
		if err := bind(m, s.Root); err != nil {
			return fmt.Errorf("%s at %s: %w", m.Source, m.Target, err)
		}
	}
	return nil
}

// bind makes the place that a mount needs, as engines do, and mounts.
func bind(m mount, root string) error {
	info, err := os.Stat(m.Source)
	if err != nil {
		return err
	}
	target := filepath.Join(root, m.Target)
	if info.IsDir() {
		err = os.MkdirAll(target, 0o755)
	} else if err = os.MkdirAll(filepath.Dir(target), 0o755); err == nil {
		var f *os.File
		if f, err = os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o644); err == nil {
			err = f.Close()
		}
	}
	if err == nil {
		err = unix.Mount(m.Source, target, "", unix.MS_BIND, "")
	}
	if err == nil && m.ReadOnly {
		err = unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID, "")
	}
	return err
}

// pivot makes Root the root, and read-only.
func (s spec) pivot(spec) error {
	if err := unix.Chdir(s.Root); err != nil {
		return err
	}
	return errors.Join(unix.PivotRoot(".", "."), unix.Unmount(".", unix.MNT_DETACH), unix.Chdir("/"),
		unix.Mount("", "/", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOSUID, ""), unix.Sethostname([]byte(s.Hostname)))
}

// user is what `cap_drop: [ALL]` and `no-new-privileges` are, and the user.
func (s spec) user(spec) error {
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	return errors.Join(unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), syscall.Setgroups(nil), syscall.Setgid(s.GID), syscall.Setuid(s.UID))
}

func (s spec) lookup() (string, error) {
	if strings.Contains(s.Args[0], "/") {
		return s.Args[0], nil
	}
	for _, e := range s.Env {
		if path, ok := strings.CutPrefix(e, "PATH="); ok {
			for _, dir := range filepath.SplitList(path) {
				if file := filepath.Join(dir, s.Args[0]); unix.Access(file, unix.X_OK) == nil {
					return file, nil
				}
			}
		}
	}
	return "", fmt.Errorf("container %s: no %s in PATH", s.Hostname, s.Args[0])
}
