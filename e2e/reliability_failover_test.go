package e2e

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/admin"
	"github.com/muster-pki/muster/gateway/store"
	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
)

// readyz is the status of a gateway's /readyz; 0: none.
func (g *instance) readyz() int {
	c := http.Client{Timeout: 15 * time.Second}
	res, err := c.Get(g.env["MUSTER_HTTP"] + "/readyz")
	if err != nil {
		return 0
	}
	res.Body.Close()
	return res.StatusCode
}

// goesReady waits until a gateway is, and returns how long that took.
func (g *instance) goesReady() time.Duration {
	g.t.Helper()
	begun := time.Now()
	for g.readyz() != http.StatusOK {
		if time.Since(begun) > 30*time.Second {
			g.t.Fatalf("not ready after %s\n%s", time.Since(begun), g.stderr)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(begun)
}

// enrolsAgain enrols a device at a gateway whose sessions were cut, which may refuse the first requests for the time being.
func (g *instance) enrolsAgain(d *device) {
	g.t.Helper()
	c := g.client(nil)
	for begun := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		a, err := g.enroll(g.t.Context(), c, d)
		if err == nil && a.status == http.StatusOK {
			return
		}
		if err != nil || a.status != http.StatusServiceUnavailable && a.status != http.StatusAccepted || time.Since(begun) > 30*time.Second {
			g.t.Fatalf("enrolling: %v, %+v", err, a)
		}
	}
}

// persists asks until it has a certificate, and has ended what there is to end.
func persists(ctx context.Context, c insistent) (*x509.Certificate, error) {
	again := func(do func() error) (err error) {
		for range 1500 {
			if err = do(); !errors.Is(err, errNotYet) {
				return err
			}
			time.Sleep(20 * time.Millisecond)
		}
		return err
	}
	var cert *x509.Certificate
	err := again(func() (err error) {
		if cert, err = c.goOn(ctx); cert == nil && err == nil {
			err = errNotYet
		}
		return err
	})
	if err == nil {
		err = again(func() error { return c.took(ctx) })
	}
	return cert, err
}

// TestReliabilityFailOver ends the primary of a PostgreSQL pair while devices enrol over the three protocols at two replicas, and promotes the standby: whatever
// was acknowledged is there, nothing was issued twice, and both go on by themselves. Then the primary comes back as it was.
func TestReliabilityFailOver(t *testing.T) {
	if !long {
		t.Parallel()
	}
	devices, clients := scaled(24, 600), scaled(6, 18)
	primary := pgtest.Start(t, pgtest.Volatile)
	name := primary.NewDatabase(t)
	standby := primary.Standby(t, pgtest.Volatile)
	dsn := pgtest.DSNs(name, primary, standby)
	replicas, journals, rsaDir := countingReplicasAt(t, dsn, 1_000_000)
	a, b := replicas[0], replicas[1]
	challenged(t, replicas, devices)
	var inventory []admin.Device
	for i := range devices {
		inventory = append(inventory, admin.Device{Name: fmt.Sprintf("failing-%d", i)})
	}
	for i := range 3 {
		inventory = append(inventory, admin.Device{Name: fmt.Sprintf("after-%d", i)})
	}
	if _, err := a.admin().ImportDevices(t.Context(), inventory, false, func(int, int) {}); err != nil {
		t.Fatal(err)
	}

	got, done := &won{}, &atomic.Int64{}
	next := make(chan int)
	var wg sync.WaitGroup
	crowds := []*insistents{a.insistents(), b.insistents()}
	for client := range clients {
		crowd := crowds[client%2]
		wg.Go(func() {
			for i := range next {
				name := fmt.Sprintf("failing-%d", i)
				cert, err := persists(t.Context(), crowd.make(i, name))
				if err != nil {
					t.Errorf("%s: %v", name, err)
				} else {
					got.add(name, cert)
				}
				done.Add(1)
			}
		})
	}
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		for i := range devices {
			next <- i
		}
		close(next)
	}()
	for done.Load() < int64(devices/3) {
		time.Sleep(time.Millisecond)
	}
	primary.Crash(t)
	for _, g := range replicas {
		if status := g.readyz(); status != http.StatusServiceUnavailable {
			t.Errorf("readyz is %d without a database", status)
		}
	}
	// A reload meanwhile changes nothing, and is told.
	a.cmd.Process.Signal(syscall.SIGHUP) //nolint:errcheck // the log tells
	standby.Promote(t)
	promoted := time.Now()
	worst := max(a.goesReady(), b.goesReady())
	t.Logf("ready %s after the promotion", time.Since(promoted).Round(time.Millisecond))
	<-fed
	wg.Wait()
	if worst > 5*time.Second {
		t.Errorf("ready %s after the promotion", worst)
	}
	for _, g := range replicas {
		g.settled()
	}
	issued := inJournals(t, journals, "failing-")
	maps.Copy(issued, inFolder(t, rsaDir, "failing-"))
	got.judge(t, "fail-over of PostgreSQL's primary", "failing-", devices, b, issued, fmt.Sprintf("ready %s after the promotion", worst.Round(time.Millisecond)))

	// The former primary comes back as it was, alone and ready to write; all sessions are cut.
	primary.Launch(t, "synchronous_standby_names=")
	rows := `SELECT (SELECT count(*) FROM audit) + (SELECT count(*) FROM transactions)`
	was := primary.Count(t, name, rows)
	standby.CutAll(t, name)
	for i, g := range replicas {
		g.enrolsAgain(newDevice(t, fmt.Sprintf("after-%d", i)))
	}
	b.stop() // and one that starts now knows nothing of what was
	b.start(exec.Command(binary, "serve", "--config", filepath.Join(b.dir, "gateway.yaml"), "--data", b.dir, "--instance", "b"))
	b.env = countedEnv(t)(b)
	b.enrolsAgain(newDevice(t, "after-2"))
	twice := primary.Count(t, name, rows) - was
	if twice != 0 {
		t.Errorf("the former primary has %d rows more", twice)
	}
	found(finding{test: "the former primary comes back", n: 3, twice: twice})
	a.stop()
	b.stop()
	s, err := store.Open(t.Context(), dsn, store.Options{Instance: "check"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.VerifyAudit(t.Context()); err != nil {
		t.Error(err)
	}
	if log := a.stderr.String(); strings.Contains(log, "panic") {
		t.Error(log)
	}
	for _, line := range strings.Split(a.stderr.String(), "\n") {
		if strings.Contains(line, "reload") || strings.Contains(line, "configuration") {
			t.Log(line)
		}
	}
}
