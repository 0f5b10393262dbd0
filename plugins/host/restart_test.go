package host_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
	"github.com/muster-pki/muster/plugins/host"
)

// TestKillUnderLoad kills the plugin four times while eight callers make 200 calls. Each kill costs a caller at
// most the one call that it had under way, and no ID gets two certificates.
func TestKillUnderLoad(t *testing.T) {
	journal := filepath.Join(t.TempDir(), "journal")
	c, log := config(t, "journal: "+journal)
	var restarts atomic.Int32
	c.OnRestart = func(string) { restarts.Add(1) }
	p := start(t, c)
	const callers, calls, every = 8, 25, 40
	var answered, failed, kills atomic.Int32
	answers := make([]map[string][]byte, callers)
	var all sync.WaitGroup
	for n := range callers {
		answers[n] = map[string][]byte{}
		all.Go(func() {
			for k := range calls {
				id := fmt.Sprintf("load-%d-%d", n, k)
				a, err := p.Issue(t.Context(), request(id))
				for ; status.Code(err) == codes.Unavailable; a, err = p.Issue(t.Context(), request(id)) {
					failed.Add(1)
				}
				if err != nil {
					t.Errorf("%s: %v", id, err)
					return
				}
				answers[n][id] = a.Certificate
				if i := answered.Add(1); i%every == 0 && i < callers*calls {
					kill(t, p)
					kills.Add(1)
				}
			}
		})
	}
	all.Wait()
	if kills.Load() != 4 || failed.Load() > kills.Load()*callers {
		t.Errorf("%d kills failed %d calls, more than the %d callers had under way", kills.Load(), failed.Load(), callers)
	}
	issued, err := backendtest.Journal(journal)
	if err != nil {
		t.Fatal(err)
	}
	for _, own := range answers {
		for id, certificate := range own {
			if len(issued[id]) != 1 || !slices.Equal(issued[id][0], certificate) {
				t.Errorf("%s: %d certificates in the journal", id, len(issued[id]))
			}
		}
	}
	if len(issued) != callers*calls {
		t.Errorf("%d IDs in the journal", len(issued))
	}
	// The last call was answered after the last restart, whose hook follows at once.
	if _, err := p.Lookup(t.Context(), &backend.IssueRequest{ID: "x"}); err != nil || p.Restarts() != 4 {
		t.Errorf("%v; %d restarts", err, p.Restarts())
	}
	if !strings.Contains(log.String(), `msg="plugin exited" plugin=ca pid=`) || !strings.Contains(log.String(), `status="signal: killed"`) {
		t.Errorf("the log does not tell of the kills:\n%s", log)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if restarts.Load() != 4 {
		t.Errorf("OnRestart was called %d times", restarts.Load())
	}
}

// TestDiesAfterSigning: the call fails at once as unknown; the next, with the same ID, gets the certificate.
func TestDiesAfterSigning(t *testing.T) {
	dir := t.TempDir()
	journal, lives := filepath.Join(dir, "journal"), filepath.Join(dir, "lives")
	yaml := "journal: " + journal + "\nlives: " + lives
	c, _ := config(t, yaml)
	p := start(t, c)
	_, err := p.Issue(t.Context(), request("die-1"))
	if status.Code(err) != codes.Unavailable || backend.Definite(err) {
		t.Fatalf("the call under the kill: %v", err)
	}
	o, err := p.Lookup(t.Context(), &backend.IssueRequest{ID: "die-1"})
	if err != nil || o.State != backend.OutcomeIssued {
		t.Fatalf("Lookup: %v, %v", o, err)
	}
	configured, err := os.ReadFile(lives)
	if err != nil || string(configured) != yaml+"\n"+yaml+"\n" {
		t.Errorf("configured with %q, %v: not twice with the same", configured, err)
	}
}

// backoffTimer is a timer that the test lets go.
type backoffTimer struct {
	asked chan time.Duration
	goOn  chan time.Time
}

func (b backoffTimer) after(d time.Duration) <-chan time.Time {
	b.asked <- d
	return b.goOn
}

func TestBackoff(t *testing.T) {
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken")
	c, log := config(t, "broken: "+broken)
	timer := backoffTimer{make(chan time.Duration), make(chan time.Time)}
	c.After, c.BackoffMax = timer.after, 300*time.Millisecond
	p := start(t, c)
	if err := os.WriteFile(broken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	kill(t, p)
	for i, want := range []time.Duration{100, 200, 300, 300} { // the first restart, which followed at once, has failed
		if got := <-timer.asked; got != want*time.Millisecond {
			t.Errorf("wait %d is %s, not %s ms", i, got, want)
		}
		if i == 3 {
			break
		}
		timer.goOn <- time.Time{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Lookup(ctx, &backend.IssueRequest{ID: "a"}); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "does not run") {
		t.Errorf("a call that cannot wait: %v", err)
	}
	if p.PID() != 0 || p.Healthy() == nil {
		t.Error("it claims to run")
	}
	waited := make(chan error)
	go func() { _, err := p.Lookup(t.Context(), &backend.IssueRequest{ID: "a"}); waited <- err }()
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	timer.goOn <- time.Time{}
	if err := <-waited; err != nil {
		t.Errorf("a call that waits: %v", err)
	}
	if !strings.Contains(log.String(), "plugin does not restart") {
		t.Error("the log does not tell")
	}
	// A call was answered: the count begins anew. The timer, which nobody lets go now, is not asked.
	kill(t, p)
	for {
		_, err := p.Lookup(t.Context(), &backend.IssueRequest{ID: "a"})
		if err == nil {
			break
		}
		if status.Code(err) != codes.Unavailable {
			t.Fatal(err)
		}
	}
}

// A process that refuses a call has answered it: when it dies, the next is started at once.
func TestARefusalIsAnAnswer(t *testing.T) {
	c, _ := config(t, "")
	c.After = func(d time.Duration) <-chan time.Time {
		t.Errorf("a wait of %s before a restart", d)
		return time.After(0)
	}
	p := start(t, c)
	for range 3 {
		_, err := p.Issue(t.Context(), &backend.IssueRequest{ID: "no-key"})
		for status.Code(err) == codes.Unavailable { // with the process that was killed
			_, err = p.Issue(t.Context(), &backend.IssueRequest{ID: "no-key"})
		}
		if status.Code(err) != codes.InvalidArgument {
			t.Fatal(err)
		}
		kill(t, p)
	}
}

// A call that waits in vain for a restart was never made, and says so.
func TestNotAsked(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "broken")
	c, _ := config(t, "broken: "+broken)
	p := start(t, c)
	if err := os.WriteFile(broken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	kill(t, p)
	for p.Healthy() == nil {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Issue(ctx, request("waits")); !backend.IsNotAsked(err) || status.Code(err) != codes.Unavailable || backend.Definite(err) {
		t.Errorf("%v", err)
	}
}

func TestAnotherDescriptionIsRefused(t *testing.T) {
	version := filepath.Join(t.TempDir(), "version")
	c, log := config(t, "version: "+version)
	timer := backoffTimer{make(chan time.Duration), make(chan time.Time)}
	c.After = timer.after
	p := start(t, c)
	if err := os.WriteFile(version, []byte("2"), 0o600); err != nil {
		t.Fatal(err)
	}
	kill(t, p)
	<-timer.asked
	if p.PID() != 0 || p.Restarts() != 0 || !strings.Contains(log.String(), "describes itself otherwise") {
		t.Errorf("another description was taken:\n%s", log)
	}
	if err := os.Remove(version); err != nil {
		t.Fatal(err)
	}
	timer.goOn <- time.Time{}
	if _, err := p.Lookup(t.Context(), &backend.IssueRequest{ID: "a"}); err != nil || p.Description().Version != "1" {
		t.Error(err)
	}
}

// TestCloseWhileItIsDown ends a backoff.
func TestCloseWhileItIsDown(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "broken")
	c, _ := config(t, "broken: "+broken)
	timer := backoffTimer{make(chan time.Duration), make(chan time.Time)}
	c.After = timer.after
	p := start(t, c)
	if err := os.WriteFile(broken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	kill(t, p)
	<-timer.asked
	waits := make(chan error)
	go func() { _, err := p.Lookup(context.Background(), &backend.IssueRequest{ID: "a"}); waits <- err }()
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-waits; status.Code(err) != codes.Unavailable {
		t.Errorf("a call that waited: %v", err)
	}
}

func TestStartFails(t *testing.T) {
	c, _ := config(t, "unknown: key")
	if _, err := host.Start(t.Context(), c); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "field unknown not found") {
		t.Errorf("a bad configuration: %v", err)
	}
	if err := host.Validate(t.Context(), c); status.Code(err) != codes.InvalidArgument {
		t.Errorf("Validate of a bad configuration: %v", err)
	}
	c, _ = config(t, "hang: true")
	if err := host.Validate(t.Context(), c); err != nil {
		t.Errorf("Validate configures: %v", err)
	}
	c.StartTimeout, c.StopTimeout = 300*time.Millisecond, 10*time.Millisecond
	if _, err := host.Start(t.Context(), c); status.Code(err) != codes.DeadlineExceeded && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a plugin that hangs: %v", err)
	}
	if left, err := os.ReadDir(c.Dir); err != nil || len(left) != 1 {
		t.Errorf("a failed start leaves %v, %v beside the lock", left, err)
	}
}

// runHost is a host in a process of its own: it starts the plugin, tells its process ID and waits to be killed.
func runHost(dir string) {
	p, err := host.Start(context.Background(), host.Config{Name: "ca", Plugin: "scripted", Dir: dir})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(p.PID())
	select {}
}

// TestHostDies: a plugin whose host was killed exits by itself, and the next host sweeps what was left.
func TestHostDies(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command("/proc/self/exe", "host", dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var line string
	if _, err := fmt.Fscanln(out, &line); err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(line)
	if err != nil {
		t.Fatalf("the host says %s", line)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	if !gone(t, pid) {
		t.Fatal("the plugin outlives its host")
	}
	left, err := filepath.Glob(filepath.Join(dir, "muster-run.*"))
	if err != nil || len(left) != 1 {
		t.Fatalf("the killed host left %v, %v", left, err)
	}
	c, _ := config(t, "")
	c.Dir = dir
	start(t, c)
	if _, err := os.Stat(left[0]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s was not swept: %v", left[0], err)
	}
}
