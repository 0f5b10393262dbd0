package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain lets the test binary be muster: plugins/host runs it as `plugin NAME`, and tests run it as commands.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "plugin" || os.Getenv("MUSTER_TEST_AS_COMMAND") == "1" {
		main()
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// command is muster with arguments.
func command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "MUSTER_TEST_AS_COMMAND=1")
	return cmd
}

// gatewayProcess is a running `muster serve`.
type gatewayProcess struct {
	t      *testing.T
	data   string
	cmd    *exec.Cmd
	stdout *safeBuffer
	stderr *safeBuffer
	exited chan struct{}
}

type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// serveOn runs `muster serve` and waits until it says that it is ready.
func serveOn(t *testing.T, data string, args ...string) *gatewayProcess {
	t.Helper()
	g := launchOn(t, data, args...)
	g.waitFor("msg=ready")
	return g
}

func launchOn(t *testing.T, data string, args ...string) *gatewayProcess {
	t.Helper()
	g := &gatewayProcess{t: t, data: data, stdout: &safeBuffer{}, stderr: &safeBuffer{}, exited: make(chan struct{})}
	g.cmd = command(append([]string{"serve", "--data", data}, args...)...)
	g.cmd.Stdout, g.cmd.Stderr = g.stdout, g.stderr
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		g.cmd.Wait() //nolint:errcheck // tests look at ProcessState
		close(g.exited)
	}()
	t.Cleanup(func() {
		g.cmd.Process.Kill() //nolint:errcheck // it may have ended
		<-g.exited
	})
	return g
}

// waitFor waits until the log holds the text.
func (g *gatewayProcess) waitFor(text string) {
	g.t.Helper()
	deadline := time.After(30 * time.Second)
	for !strings.Contains(g.stderr.String(), text) {
		select {
		case <-g.exited:
			if !strings.Contains(g.stderr.String(), text) {
				g.t.Fatalf("the gateway ended (%s) before %q\n%s", g.cmd.ProcessState, text, g.stderr)
			}
		case <-deadline:
			g.t.Fatalf("no %q in\n%s", text, g.stderr)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (g *gatewayProcess) ended() bool {
	select {
	case <-g.exited:
		return true
	default:
		return false
	}
}

// end sends the signal and waits for the end; it returns the exit code.
func (g *gatewayProcess) end(sig syscall.Signal) int {
	g.t.Helper()
	if err := g.cmd.Process.Signal(sig); err != nil {
		g.t.Fatal(err)
	}
	select {
	case <-g.exited:
	case <-time.After(30 * time.Second):
		g.t.Fatalf("still running\n%s", g.stderr)
	}
	return g.cmd.ProcessState.ExitCode()
}

func write(t *testing.T, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// reload has the process read its configuration again, of which muster.yaml in dir becomes the given one, and expects
// the log to say what came of it.
func (g *gatewayProcess) reload(t *testing.T, dir, config, says string) {
	t.Helper()
	write(t, dir, "muster.yaml", config)
	before := len(g.stderr.String())
	if err := g.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for !strings.Contains(g.stderr.String()[before:], "msg=\"reload:") {
		if g.ended() || time.Now().After(deadline) {
			t.Fatalf("no reload\n%s", g.stderr)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if told := g.stderr.String()[before:]; !strings.Contains(told, says) {
		t.Fatalf("reload says\n%s\nwant %s", told, says)
	}
}

// What stands in a file drives no terminal by way of the error about it.
func TestComplaints(t *testing.T) {
	_, err := parseConfig("m.yaml", t.TempDir(), []byte("version: 1\n\"a\\u202e\\e[2J\": 1\n"))
	if err == nil {
		t.Fatal("it loads")
	}
	if got := complaint(err); !strings.HasPrefix(got, "muster: m.yaml:") || strings.ContainsAny(got, "\x1b\u202e") {
		t.Errorf("%q", got)
	}
	if got := (harmless{errors.New("a\n\tb")}).Error(); got != "a\n    b" { // as `muster reload` prints it
		t.Errorf("%q", got)
	}
	if got := complaint(errors.New("a\n\tb")); got != "muster: a\n            b" {
		t.Errorf("%q", got)
	}
}
