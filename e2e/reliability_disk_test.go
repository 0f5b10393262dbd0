//go:build reliability

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/admin"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"golang.org/x/sys/unix"
)

// fault is a way in which a disk breaks. begin breaks it and returns what mends it.
type fault struct {
	name  string
	ca    bool // the ledger's disk, and not the store's
	begin func(g *instance, ca bool) (end func())
	words string // of /readyz
	// gone: what the disk took is lost to the process for good, and it has to be started again.
	gone bool
}

// inject has system calls fail on the database's files, by strace.
func inject(calls, errno string) func(*instance, bool) func() {
	return func(g *instance, ca bool) func() {
		g.t.Helper()
		pid, database := g.cmd.Process.Pid, filepath.Join(g.dir, "muster.db")
		if ca {
			pid, database = g.plugin(), filepath.Join(g.dir, "ca", "ledger.db")
		}
		log := filepath.Join(g.t.TempDir(), "strace")
		cmd := exec.Command("strace", "-f", "-qq", "-o", log, "-P", database, "-P", database+"-wal",
			"-e", "trace="+calls, "-e", "inject="+calls+":error="+errno, "-p", strconv.Itoa(pid))
		out := &capture{}
		cmd.Stderr = out
		if err := cmd.Start(); err != nil {
			g.t.Fatalf("strace (Debian's package of that name): %v", err)
		}
		attached := func() bool {
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			return err == nil && !strings.Contains(string(status), "TracerPid:\t0\n")
		}
		for i := 0; !attached(); i++ {
			if i == 500 {
				g.t.Fatalf("strace does not attach: %s", out)
			}
			time.Sleep(10 * time.Millisecond)
		}
		return func() {
			cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
			cmd.Wait()                          //nolint:errcheck // by a signal
			if b, err := os.ReadFile(log); err != nil || !bytes.Contains(b, []byte("(INJECTED)")) {
				g.t.Errorf("nothing was made to fail: %v", err)
			}
		}
	}
}

// fill leaves no room on the disk of the store, or of the CA.
func fill(g *instance, ca bool) func() {
	g.t.Helper()
	path := filepath.Join(g.dir, "filler")
	if ca {
		path = filepath.Join(g.dir, "ca", "filler")
	}
	f, err := os.Create(path)
	if err != nil {
		g.t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{1 << 20, 4096, 1} {
		for {
			if _, err = f.Write(make([]byte, size)); err != nil {
				break
			}
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		g.t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			g.t.Error(err)
		}
	}
}

// shutdown takes the file system away from under the gateway, as a disk that is pulled out: from then on all fails that is not in the page cache
// (EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH). A file system with open files cannot be remounted read-only; this is what the kernel
// itself does where it has to. Only a mount brings it back, which needs the gateway to end.
func shutdown(g *instance, _ bool) func() {
	g.t.Helper()
	dir, err := os.Open(g.dir)
	if err != nil {
		g.t.Fatal(err)
	}
	defer dir.Close()
	if err := unix.IoctlSetPointerInt(int(dir.Fd()), 0x8004587d, 2); err != nil {
		g.t.Fatal(err)
	}
	return func() {}
}

// TestReliabilityDisks breaks the disks of store and ledger in each way while devices ask over all three protocols: meanwhile nobody is told
// anything that is not durable, /readyz and one line of the log say what is wrong, and no process ends. Once the disk is well
// everybody gets, by asking again, what he asked for, once; all that was told before is there.
func TestReliabilityDisks(t *testing.T) {
	const store, ca = "requests cannot be recorded", "a CA cannot issue"
	fsync, write := "fsync,fdatasync", "pwrite64,write,ftruncate,fsync,fdatasync"
	var lost, twice int
	var slowest time.Duration
	faults := []fault{
		{name: "store, fsync fails", begin: inject(fsync, "EIO"), words: store},
		{name: "store, read-only", begin: inject(write, "EROFS"), words: store},
		{name: "store, full", begin: fill, words: store},
		{name: "ledger, fsync fails", ca: true, begin: inject(fsync, "EIO"), words: ca},
		{name: "ledger, read-only", ca: true, begin: inject(write, "EROFS"), words: ca},
		{name: "ledger, full", ca: true, begin: fill, words: ca},
		{name: "both, gone", begin: shutdown, words: store, gone: true},
	}
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			l, tw, took := broken(t, &f)
			lost, twice, slowest = lost+l, twice+tw, max(slowest, took)
		})
	}
	found(finding{test: "disks that fail, fill up, or go", n: len(faults), lost: lost, twice: twice, worst: fmt.Sprintf("recovered after %.1f s", slowest.Seconds())})
}

func broken(t *testing.T, f *fault) (lost, twice int, took time.Duration) {
	d := newDisk(t, "48")
	data := filepath.Join(d.dir, "data")
	if f.ca { // a disk of its own
		own := newDisk(t, "32")
		data = filepath.Join(shortDir(t), "data")
		if err := os.MkdirAll(data, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(own.dir, "ca"), filepath.Join(data, "ca")); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(own.dir, "ca"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	g := startIn(t, data)
	g.stop()
	configureReliable(t, g.dir)
	g.keepAddresses()
	g.launch()
	if err := g.ready(); err != nil {
		t.Fatalf("%v\n%s", err, g.stderr)
	}
	c := g.crowd(2)
	rest := c.approve()
	sleep := func() bool { time.Sleep(50 * time.Millisecond); return t.Context().Err() == nil }
	for i := range 12 { // all protocols, before it breaks
		if _, err := c.enrol(i, sleep); err != nil {
			t.Fatal(err)
		}
	}
	confirming := g.cmpDevice("reliable-confirming")
	if m, err := confirming.exchange(confirming.request(cmpmsg.TypeIR)); err != nil || confirming.cert == nil {
		t.Fatal(m, err)
	}
	c.given("reliable-confirming", confirming.cert.Raw)
	conf := confirming.message(confirming.certConf())
	before, gateway, plugin := len(c.heard()), g.cmd.Process.Pid, g.plugin()

	end := f.begin(g, f.ca)
	mended := sync.OnceFunc(end)
	defer mended()
	const first, devices = 12, 8
	var asked [devices]atomic.Int32
	var done sync.WaitGroup
	for i := range devices {
		done.Go(func() {
			if _, err := c.enrol(first+i, func() bool { asked[i].Add(1); return sleep() && asked[i].Load() < 2000 }); err != nil {
				t.Errorf("device %d: %v", first+i, err)
			}
		})
	}
	status, said := 0, ""
	until := time.Now().Add(20 * time.Second)
	refused := func() bool { // each of them, twice, and /readyz
		status, said = g.readiness()
		for i := range asked {
			if asked[i].Load() < 2 {
				return false
			}
		}
		return status == http.StatusServiceUnavailable
	}
	for !refused() && time.Now().Before(until) {
		time.Sleep(100 * time.Millisecond)
	}
	if status != http.StatusServiceUnavailable || !strings.Contains(said, f.words) {
		t.Errorf("/readyz meanwhile: %d %q, want %q", status, said, f.words)
	}
	if !f.ca {
		if answer, err := confirming.post(conf); err == nil {
			if m, err := confirming.take(answer); err != nil || failure(m) != "systemUnavail" {
				t.Errorf("a certConf that cannot be recorded is answered %v %v", m, err)
			}
		}
		if _, err := c.admin.NewChallenge(t.Context(), admin.NewChallenge{Endpoint: "one-time"}); err == nil {
			t.Error("a challenge was made that cannot be recorded")
		}
	}
	for _, told := range c.heard()[before:] {
		if !f.ca || told.what == toldCertificate || told.what == toldSpent {
			t.Errorf("%s was told %s while it could not be durable", told.name, told.what)
		}
	}
	log := g.stderr.String()
	if n := strings.Count(log, "transactions cannot be committed"); n != 1 {
		t.Errorf("%d lines of the log say that nothing can be committed, want 1:\n%s", n, log)
	}
	if strings.Contains(log, "panic") || g.cmd.Process.Pid != gateway || g.plugin() != plugin {
		t.Errorf("a process ended, or panicked\n%s", log)
	}

	begun := time.Now()
	mended()
	if f.gone {
		g.kill()
		d.unmount()
		d.mount()
		if _, err := g.relaunch(); err != nil {
			t.Fatalf("%v\n%s", err, g.stderr)
		}
	}
	for {
		if status, said = g.readiness(); status == http.StatusOK {
			break
		}
		if time.Since(begun) > time.Minute {
			t.Fatalf("/readyz a minute after it was mended: %d %q\n%s", status, said, g.stderr)
		}
		time.Sleep(20 * time.Millisecond)
	}
	took = time.Since(begun)
	done.Wait()
	answer, err := confirming.post(conf)
	if err == nil {
		var m *cmpmsg.Message
		if m, err = confirming.take(answer); err == nil && m.Body.Type() != cmpmsg.TypePKIConf {
			err = fmt.Errorf("%s", failure(m))
		}
	}
	if err != nil {
		t.Errorf("certConf, once the disk is well: %v", err)
	}
	rest()
	g.settled()
	lost, twice = g.compare(g.records(), c.heard())
	g.kill() // and all of it is on the disk
	if _, err := g.relaunch(); err != nil {
		t.Fatalf("%v\n%s", err, g.stderr)
	}
	l, _ := g.compare(g.records(), c.heard())
	g.stop()
	g.auditTrail()
	return lost + l, twice, took
}

// readiness is what /readyz says.
func (g *instance) readiness() (status int, body string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+g.http+"/readyz", nil)
	if err != nil {
		g.t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(b)
}
