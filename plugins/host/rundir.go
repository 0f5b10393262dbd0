package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// runDir is the private place of one Plugin while it lives: RUN/lock, held as long as the host's process lives,
// RUN/plugin, the copy of a third party's executable, and RUN/plugin-dirN/pluginN, the sockets.
type runDir struct {
	path    string // for the copy
	sockets string // for the sockets: path, or a shorter one of the system's
	locks   []*os.File
}

const runPrefix = "muster-run."

// socketPathMax is what sockaddr_un holds with its final zero (unix(7)): sun_path[108].
const socketPathMax = 107

// socketSuffix is the longest that is appended to a directory to name a socket: go-plugin's directory, the
// socket's file, each with ten digits from os.MkdirTemp and os.CreateTemp.
const socketSuffix = "/plugin-dir4294967295/plugin4294967295"

// newRunDir makes a run directory in dir, after sweeping those of hosts that are gone.
func newRunDir(dir string) (*runDir, error) {
	if dir == "" {
		dir = os.TempDir()
	} else {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		if err := checkDir(dir); err != nil {
			return nil, err
		}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	r := &runDir{}
	if r.path, err = r.make(dir); err != nil {
		return nil, err
	}
	r.sockets = r.path
	if len(r.path)+len(socketSuffix) > socketPathMax {
		if r.sockets, err = r.make(os.TempDir()); err != nil {
			r.remove()
			return nil, err
		}
		if n := len(r.sockets) + len(socketSuffix); n > socketPathMax {
			r.remove()
			return nil, fmt.Errorf("%s and %s are too long for Unix sockets: a path of %d bytes, at most %d; choose a shorter directory or TMPDIR",
				dir, os.TempDir(), n, socketPathMax)
		}
	}
	return r, nil
}

// checkDir refuses a directory in which others could exchange what lies there.
func checkDir(dir string) error {
	fi, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if fi.Mode().Perm()&0o022 != 0 && fi.Mode()&os.ModeSticky == 0 {
		return fmt.Errorf("%s is writable by others (mode %o): chmod 700 it", dir, fi.Mode().Perm())
	}
	return nil
}

// make sweeps parent and makes a locked directory in it, alone with other hosts that do the same.
func (r *runDir) make(parent string) (string, error) {
	guard, err := os.OpenFile(filepath.Join(parent, fmt.Sprintf(".muster-run.%d.lock", os.Geteuid())), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return "", err
	}
	defer guard.Close() //nolint:errcheck // releases the lock
	if err := syscall.Flock(int(guard.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("locking %s: %w", guard.Name(), err)
	}
	sweep(parent)
	path, err := os.MkdirTemp(parent, runPrefix)
	if err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		r.locks = append(r.locks, lock)
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(path))
	}
	return path, nil
}

// sweep removes what a host left that was killed: directories of ours whose lock nobody holds.
func sweep(parent string) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return // only tidiness is lost
	}
	for _, e := range entries {
		path := filepath.Join(parent, e.Name())
		fi, err := os.Lstat(path)
		if err != nil || !fi.IsDir() || !strings.HasPrefix(e.Name(), runPrefix) || fi.Mode().Perm() != 0o700 {
			continue
		}
		if st, ok := fi.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() {
			continue
		}
		if lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR|syscall.O_NOFOLLOW, 0); err == nil {
			held := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil
			if !held {
				_ = os.RemoveAll(path)
			}
			_ = lock.Close()
		}
	}
}

// remove ends the run directory.
func (r *runDir) remove() {
	for _, p := range []string{r.path, r.sockets} {
		if p != "" {
			_ = os.RemoveAll(p)
		}
	}
	for _, l := range r.locks {
		_ = l.Close()
	}
}
