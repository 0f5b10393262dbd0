//go:build container

package container

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// host is the machine that containers run on, as far as the network goes: a namespace with an interface to each of them, in which nothing
// else listens. The commands that a screen prints run there.
type host struct {
	t      testing.TB
	net    *os.File
	last   int
	docker string // folder with the program docker, which stands for the client
}

func newHost(t testing.TB) *host {
	t.Helper()
	h := &host{t: t, net: newNetwork(t), docker: t.TempDir()}
	h.ip(h.net, "link set lo up")
	h.writeClient()
	return h
}

// newNetwork is a network namespace without anything in it.
func newNetwork(t testing.TB) (made *os.File) {
	t.Helper()
	if err := elsewhere(func() error { return unix.Unshare(unix.CLONE_NEWNET) }, func() (err error) { made, err = os.Open(ownNetwork); return err }); err != nil {
		t.Fatalf("a network namespace: %v", err)
	}
	t.Cleanup(func() { made.Close() })
	return made
}

// inside runs f in a network namespace: sockets that it makes and processes that it starts are of it.
func inside(ns *os.File, f func() error) error {
	return elsewhere(func() error { return unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET) }, f)
}

const ownNetwork = "/proc/thread-self/ns/net"

// elsewhere runs f on a thread that enter has brought into another network namespace, and brings it back: it must not end, since a server
// that it started before may be told to end with it (PR_SET_PDEATHSIG).
func elsewhere(enter, f func() error) error {
	runtime.LockOSThread()
	own, err := os.Open(ownNetwork)
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer own.Close()
	if err = enter(); err == nil {
		err = f()
	}
	if back := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, back) // locked: the thread is of use to nobody
	}
	runtime.UnlockOSThread()
	return err
}

// ip runs a command of iproute2.
func (h *host) ip(ns *os.File, args string) {
	h.t.Helper()
	var out []byte
	err := inside(ns, func() (err error) {
		out, err = exec.Command("ip", strings.Fields(args)...).CombinedOutput()
		return err
	})
	if err != nil {
		h.t.Fatalf("ip %s: %v\n%s", args, err, out)
	}
}

// connect gives a container's network an interface to the host; returned are the addresses of both ends, the host's first.
func (h *host) connect(ns *os.File) (here, there string) {
	h.t.Helper()
	h.last++
	here, there = fmt.Sprintf("10.77.%d.1", h.last), fmt.Sprintf("10.77.%d.2", h.last)
	near := fmt.Sprintf("container%d", h.last)
	h.ip(h.net, fmt.Sprintf("link add %s type veth peer name eth0 netns /proc/%d/fd/%d", near, os.Getpid(), ns.Fd()))
	h.ip(h.net, fmt.Sprintf("addr add %s/24 dev %s", here, near))
	h.ip(h.net, "link set "+near+" up")
	h.ip(ns, "link set lo up")
	h.ip(ns, fmt.Sprintf("addr add %s/24 dev eth0", there))
	h.ip(ns, "link set eth0 up")
	return here, there
}

// forward takes connections to an address in one namespace to an address in another one (nil: the test's own), as the publishing of a
// port does, until the test or the returned function ends it.
func (h *host) forward(from *os.File, listen string, to *os.File, target string) (end func()) {
	h.t.Helper()
	var l net.Listener
	if err := inside(from, func() (err error) { l, err = net.Listen("tcp", listen); return err }); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer a.Close()
				var b net.Conn
				dial := func() (err error) { b, err = net.Dial("tcp", target); return err }
				if to != nil {
					err = inside(to, dial)
				} else {
					err = dial()
				}
				if err != nil {
					fmt.Fprintf(os.Stderr, "%s leads to %s: %v\n", listen, target, err)
					return
				}
				defer b.Close()
				go func() {
					io.Copy(b, a) //nolint:errcheck // either end may go at any time
					b.(*net.TCPConn).CloseWrite()
				}()
				io.Copy(a, b) //nolint:errcheck // as above
			}()
		}
	}()
	return func() { l.Close() }
}
