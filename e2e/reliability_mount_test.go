//go:build reliability

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// disk is an ext4 file system in a file, mounted by a loop device.
type disk struct {
	t     testing.TB
	image string
	dir   string // where it is mounted
	on    bool
}

// newDisk makes and mounts one, until the test ends. It needs root, loop devices, and e2fsprogs.
func newDisk(t testing.TB, mib string) *disk {
	t.Helper()
	d := &disk{t: t, image: filepath.Join(shortDir(t), "image")}
	d.sh("truncate -s " + mib + "M " + d.image + " && mkfs.ext4 -q -F " + d.image)
	d.mount()
	return d
}

// shortDir is a directory whose name leaves room for the sockets in it (108 bytes).
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "disk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (d *disk) sh(script string) {
	d.t.Helper()
	if out, err := exec.Command("sh", "-euc", script).CombinedOutput(); err != nil {
		d.t.Fatalf("%s\n%v: %s\nThis test needs root, loop devices, mount and e2fsprogs.", script, err, out)
	}
}

// mount mounts the image, which replays its journal. The loop device goes with the mount.
func (d *disk) mount() {
	d.t.Helper()
	if d.dir == "" {
		d.dir = filepath.Join(filepath.Dir(d.image), "m")
		if err := os.Mkdir(d.dir, 0o700); err != nil {
			d.t.Fatal(err)
		}
		d.t.Cleanup(d.unmount)
	}
	d.sh("mount -o loop " + d.image + " " + d.dir)
	d.on = true
}

// unmount waits for the last process that has a file open.
func (d *disk) unmount() {
	if !d.on {
		return
	}
	var out []byte
	var err error
	for range 100 {
		if out, err = exec.Command("umount", d.dir).CombinedOutput(); err == nil {
			d.on = false
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	exec.Command("umount", "-l", d.dir).Run() //nolint:errcheck // nothing is left to do
	d.t.Errorf("umount: %v: %s", err, out)
}

// cut takes a copy of what has reached the disk, as a power cut would leave it, and mounts that.
//
// The image is the device of the mounted file system: what a process wrote lies in the page cache of that file system's files
// until it is written back, by an fsync or by the kernel in its own time, and only then is in the image; a cut loses the rest, as here.
// The kernel goes on writing back while the processes stand still, so the copy counts only if the image was the same
// after it as in it: then the image was that at one moment. (That a real disk may lose or reorder what it was given after its last flush
// is not tried here: the loop device keeps all of it.)
func (d *disk) cut(pids func() []string) *disk {
	d.t.Helper()
	c := &disk{t: d.t, image: filepath.Join(shortDir(d.t), "image")}
	all := strings.Join(pids(), " ")
	d.sh("kill -STOP " + all)
	defer d.sh("kill -CONT " + all)
	d.sh("for i in 1 2 3 4 5 6 7 8 9 10; do cp --sparse=always " + d.image + " " + c.image + "; cmp -s " + d.image + " " + c.image + " && exit 0; sleep 0.1; done; echo the image does not come to rest; exit 1")
	return c
}

// check has e2fsck look at a disk that is not mounted.
func (d *disk) check() {
	d.t.Helper()
	d.sh("e2fsck -fn " + d.image)
}
