//go:build container

package container

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/muster-pki/muster/e2e/running"
)

// container is a running one.
type container struct {
	h      *host
	image  *image
	spec   spec
	log    running.Output
	here   string   // the host's address towards it
	there  string   // its own
	net    *os.File // its network
	cmd    *exec.Cmd
	exited chan struct{}
}

var lastContainer atomic.Int64

// name is what docker names a container: twelve hexadecimal digits of its ID, which are its host name too.
func name() string { return fmt.Sprintf("c0ffee%06x", lastContainer.Add(1)) }

// prepare makes a container of an image, as its configuration says. Volumes are by their target; a folder that is empty becomes what the
// image has there, as a new named volume does.
func (h *host) prepare(img *image, volumes map[string]string) *container {
	h.t.Helper()
	c := &container{h: h, image: img, net: newNetwork(h.t), exited: make(chan struct{})}
	c.here, c.there = h.connect(c.net)
	c.spec = spec{Root: filepath.Join(h.t.TempDir(), "root"), Hostname: name(), Env: img.Env, UID: img.uid, GID: img.gid}
	c.spec.Args = append(append(c.spec.Args, img.Entrypoint...), img.Cmd...)
	copyTree(h.t, img.root, c.spec.Root)
	for target, dir := range volumes {
		entries, err := os.ReadDir(dir)
		if err != nil {
			h.t.Fatal(err)
		}
		if from := filepath.Join(img.root, target); len(entries) == 0 {
			if _, err := os.Stat(from); err == nil {
				copyTree(h.t, from, dir)
			}
		}
		c.spec.Mounts = append(c.spec.Mounts, mount{Source: dir, Target: target})
	}
	return c
}

// copyTree copies a folder's contents, and its owner and mode.
func copyTree(t testing.TB, from, to string) {
	t.Helper()
	if out, err := exec.Command("sh", "-euc", `mkdir -p "$2"; cp -a "$1/." "$2"`, "sh", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// start runs it.
func (c *container) start() {
	t := c.h.t
	t.Helper()
	text, err := json.Marshal(c.spec)
	if err != nil {
		t.Fatal(err)
	}
	c.cmd = exec.Command("/proc/self/exe")
	c.cmd.Env = []string{specVariable + "=" + string(text)}
	c.cmd.Stdout, c.cmd.Stderr = &c.log, &c.log
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC, Setpgid: true}
	if err := inside(c.net, c.cmd.Start); err != nil {
		t.Fatal(err)
	}
	go func() {
		c.cmd.Wait() //nolint:errcheck // how it ended is in ProcessState
		close(c.exited)
	}()
	t.Cleanup(func() {
		c.cmd.Process.Kill() //nolint:errcheck // it may have ended; what else runs in it ends with it
		<-c.exited
	})
	for file, text := range map[string]string{"pid": fmt.Sprint(c.cmd.Process.Pid), "user": fmt.Sprintf("%d %d", c.spec.UID, c.spec.GID), "env": strings.Join(c.spec.Env, "\n") + "\n"} {
		if err := os.WriteFile(filepath.Join(c.h.docker, c.spec.Hostname+"."+file), []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// healthy waits until the image's health check succeeds.
func (c *container) healthy() (took time.Duration) {
	c.h.t.Helper()
	began := time.Now()
	for time.Since(began) < time.Minute {
		if code, _ := c.health(); code == 0 {
			return time.Since(began)
		}
		select {
		case <-c.exited:
			c.h.t.Fatalf("the container ended: %s\n%s", c.cmd.ProcessState, c.log.String())
		case <-time.After(50 * time.Millisecond): // another program: there is nothing to wait on but its health
		}
	}
	_, out := c.health()
	c.h.t.Fatalf("not healthy\n%s\n%s", out, c.log.String())
	return 0
}

// prints waits until the container has printed a text.
func (c *container) prints(text string) {
	c.h.t.Helper()
	for range 600 {
		if strings.Contains(c.log.String(), text) {
			return
		}
		time.Sleep(50 * time.Millisecond) // as above
	}
	c.h.t.Fatalf("it does not print %q\n%s", text, c.log.String())
}

// health runs the image's health check: its exit code and what it printed.
func (c *container) health() (int, string) {
	c.h.t.Helper()
	test := c.image.Healthcheck.Test
	if len(test) < 2 || test[0] != "CMD" {
		c.h.t.Fatalf("health check %q: there is no shell", test)
	}
	return c.exec(test[1:]...)
}

// exec runs a program in the container, by `docker exec`.
func (c *container) exec(args ...string) (int, string) {
	c.h.t.Helper()
	cmd := exec.Command(filepath.Join(c.h.docker, "docker"), append([]string{"exec", c.spec.Hostname}, args...)...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		c.h.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// muster runs a command in the container that has to succeed.
func (c *container) muster(args ...string) string {
	c.h.t.Helper()
	code, out := c.exec(append([]string{"muster"}, args...)...)
	if code != 0 {
		c.h.t.Fatalf("muster %s: exit code %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// stop stops it as `docker stop` does: by the image's signal, and kills after ten seconds, which is a failure.
func (c *container) stop() (took time.Duration) {
	c.h.t.Helper()
	began := time.Now()
	if err := c.cmd.Process.Signal(c.image.stopSignal()); err != nil {
		c.h.t.Fatal(err)
	}
	select {
	case <-c.exited:
	case <-time.After(10 * time.Second):
		c.h.t.Fatalf("it did not stop within 10 s\n%s", c.log.String())
	}
	if code := c.cmd.ProcessState.ExitCode(); code != 0 {
		c.h.t.Errorf("exit code %d\n%s", code, c.log.String())
	}
	return time.Since(began)
}

// publish opens a port on the host's 127.0.0.1 that leads to one of the container's, at the address that others reach it by.
func (c *container) publish(port, to int) (end func()) {
	c.h.t.Helper()
	return c.h.forward(c.h.net, fmt.Sprintf("127.0.0.1:%d", port), c.h.net, fmt.Sprintf("%s:%d", c.there, to))
}

// sh runs a script on the host, in a folder.
func (h *host) sh(dir, script string, env ...string) string {
	h.t.Helper()
	var out bytes.Buffer
	cmd := exec.Command("sh", "-euc", script)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &out
	cmd.Env = append([]string{"PATH=" + h.docker + ":/usr/bin:/bin", "HOME=" + dir}, env...) // no Go, no Muster
	if err := inside(h.net, cmd.Run); err != nil {
		h.t.Fatalf("%v\n%s\nprinted\n%s", err, script, out.String())
	}
	return out.String()
}

// writeClient writes a program that does what docker's client does of what the screen needs: cp out of a container, with the file's mode,
// and exec in it, as its user with its environment.
func (h *host) writeClient() {
	h.t.Helper()
	text := `#!/bin/sh
set -eu
at=` + h.docker + `
case $1 in
cp)
	id=${2%%:*}
	read -r pid <"$at/$id.pid"
	exec cp --preserve=mode "/proc/$pid/root${2#*:}" "$3" ;;
exec)
	id=$2
	shift 2
	read -r pid <"$at/$id.pid"
	read -r uid gid <"$at/$id.user"
	# shellcheck disable=SC2046 # one word a variable
	exec env -i $(cat "$at/$id.env") /usr/bin/nsenter --target "$pid" --mount --uts --ipc --net --pid --root --wd=/ --setuid "$uid" --setgid "$gid" -- "$@" ;;
esac
echo "docker $1: not here" >&2
exit 1
`
	if err := os.WriteFile(filepath.Join(h.docker, "docker"), []byte(text), 0o755); err != nil {
		h.t.Fatal(err)
	}
}

// pid is the container's first process, as the host numbers it.
func pid(c *container) string { return fmt.Sprint(c.cmd.Process.Pid) }
