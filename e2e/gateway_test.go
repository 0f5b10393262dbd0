// Package e2e runs the real binary, with its CA plugin in a process of its own, against real clients.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// binary is cmd/muster built with the faults tag: it can be told to kill itself at a named point.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "muster-e2e-")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "muster")
	if flag.Parse(); flag.Lookup("test.bench").Value.String() == "" {
		os.Setenv("MUSTER_FAULT_RSA", "RSA-2048") //nolint:errcheck // it is a name
	}
	build := exec.Command("go", "build", "-tags", "faults", "-o", binary, "../cmd/muster")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building cmd/muster:", err)
		os.Exit(1)
	}
	code := m.Run()
	tabulate(os.Stdout)
	os.RemoveAll(dir)
	os.Exit(code)
}

// instance is one running gateway.
type instance struct {
	t      testing.TB
	dir    string // its --data
	http   string // its --http and --https
	https  string
	env    map[string]string
	cmd    *exec.Cmd
	exited chan struct{}
	stdout *capture
	stderr *capture
}

// capture keeps what a process prints.
type capture struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (c *capture) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.Write(p)
}

func (c *capture) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.String()
}

// startIn runs `muster serve` on the data directory, on free ports, and waits until it is ready.
// extra are environment settings, such as MUSTER_CRASH_AT.
func startIn(t testing.TB, dir string, extra ...string) *instance {
	t.Helper()
	g := launch(t, dir, extra...)
	if err := g.ready(); err != nil {
		t.Fatalf("%v\nstdout:\n%s\nstderr:\n%s", err, g.stdout, g.stderr)
	}
	return g
}

func launch(t testing.TB, dir string, extra ...string) *instance {
	t.Helper()
	g := &instance{t: t, dir: dir, http: "127.0.0.1:0", https: "127.0.0.1:0"}
	g.launch(extra...)
	t.Cleanup(g.stop)
	return g
}

// launch starts the process, for the first time or again.
func (g *instance) launch(extra ...string) {
	g.t.Helper()
	os.Remove(filepath.Join(g.dir, "quickstart.env"))
	cmd := exec.Command(binary, "serve", "--data", g.dir, "--http", g.http, "--https", g.https)
	cmd.Env = append(os.Environ(), extra...)
	g.start(cmd)
}

// start runs the command as this instance.
func (g *instance) start(cmd *exec.Cmd) {
	g.t.Helper()
	g.cmd, g.exited, g.stdout, g.stderr = cmd, make(chan struct{}), &capture{}, &capture{}
	g.cmd.Stdout, g.cmd.Stderr = g.stdout, g.stderr
	if err := g.cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	exited := g.exited
	go func() {
		cmd.Wait() //nolint:errcheck // how it ended is in ProcessState
		close(exited)
	}()
}

// ready waits for the env file and for /readyz.
func (g *instance) ready() error {
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		select {
		case <-g.exited:
			return fmt.Errorf("the gateway ended: %s", g.cmd.ProcessState)
		case <-time.After(10 * time.Millisecond):
		}
		env, err := readEnv(filepath.Join(g.dir, "quickstart.env"))
		if err != nil {
			continue
		}
		g.env = env
		res, err := http.Get(env["MUSTER_HTTP"] + "/readyz")
		if err != nil {
			continue
		}
		res.Body.Close()
		if res.StatusCode == http.StatusOK {
			return nil
		}
	}
	return fmt.Errorf("the gateway was not ready in time")
}

// readEnv lets a shell read quickstart.env, as an operator's would.
func readEnv(file string) (map[string]string, error) {
	if _, err := os.Stat(file); err != nil {
		return nil, err
	}
	out, err := exec.Command("env", "-i", "sh", "-c", `set -a; . "$1"; /usr/bin/env`, "sh", file).Output()
	if err != nil {
		return nil, err
	}
	env := map[string]string{}
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		if k, v, ok := strings.Cut(s.Text(), "="); ok && strings.HasPrefix(k, "MUSTER_") {
			env[k] = v
		}
	}
	return env, nil
}

// stop ends the gateway as Ctrl-C does, and kills it when that takes too long.
func (g *instance) stop() {
	select {
	case <-g.exited:
		return
	default:
	}
	g.cmd.Process.Signal(syscall.SIGINT) //nolint:errcheck // it may have just ended
	select {
	case <-g.exited:
	case <-time.After(20 * time.Second):
		g.cmd.Process.Kill() //nolint:errcheck // as above
		<-g.exited
		g.t.Errorf("the gateway did not stop on SIGINT\n%s", g.stderr)
	}
}

// run runs a command with the quickstart's environment and returns what it printed and its exit code.
func (g *instance) run(dir, name string, args ...string) (out string, code int) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = os.Environ()
	for k, v := range g.env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	b, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		g.t.Fatalf("%s: %v", name, err)
	}
	return string(b), cmd.ProcessState.ExitCode()
}

// sh runs a shell script that has to succeed.
func (g *instance) sh(dir, script string) string {
	g.t.Helper()
	out, code := g.run(dir, "sh", "-euc", script)
	if code != 0 {
		g.t.Fatalf("%s\nexit %d:\n%s", script, code, out)
	}
	return out
}

// muster runs the binary's own commands against this gateway.
func (g *instance) muster(args ...string) string {
	g.t.Helper()
	out, code := g.run(g.dir, binary, append(args, "--data", g.dir)...)
	if code != 0 {
		g.t.Fatalf("muster %s: exit %d:\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// listing is what `muster ls --json` prints.
func listing[T any](g *instance, args ...string) []T {
	g.t.Helper()
	out := g.muster(append([]string{"ls", "--json", "--limit", "1000"}, args...)...)
	var rows []T
	if err := json.Unmarshal([]byte(out), &rows); err != nil {
		g.t.Fatalf("muster ls: %v in\n%s", err, out)
	}
	return rows
}

// plugin is the process ID of the gateway's CA plugin, 0 while there is none.
func (g *instance) plugin() int {
	out, err := exec.Command("pgrep", "-P", strconv.Itoa(g.cmd.Process.Pid)).Output()
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(strings.SplitN(string(out), "\n", 2)[0]))
	if err != nil {
		return 0
	}
	return pid
}
