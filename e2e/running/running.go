// Package running starts the real gateway for tests against programs that are not ours: devices' (e2e/peers) and CAs (e2e/cas).
package running

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Gateway is one that runs, in a folder where its configuration and the peers' files are.
type Gateway struct {
	Dir string
	URL string // http://host:port
	Log *Output
	T   testing.TB

	binary string
	env    []string
	cmd    *exec.Cmd
	exited chan struct{}
}

// Output keeps what a process prints.
type Output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// patience is for how long anything here may take: a machine that runs other tests too is slow, and who waits looks again and again.
const patience = 3 * time.Minute

// The ports of Address lie below those that Linux gives by chance (net.ipv4.ip_local_port_range, 32768 to 60999): one of those, let go
// while its program is started anew, is soon another test's, or a connection's.
const firstPort, ports = 15000, 17000

var nextPort = func() *atomic.Int64 {
	n := new(atomic.Int64)
	n.Store(rand.Int64N(ports)) // test programs run beside each other
	return n
}()

// Address is 127.0.0.1:PORT at which nobody listens, and which nobody else in this process is given.
func Address(t testing.TB) string {
	t.Helper()
	for range ports {
		address := net.JoinHostPort("127.0.0.1", strconv.FormatInt(firstPort+nextPort.Add(1)%ports, 10))
		if l, err := net.Listen("tcp", address); err == nil {
			l.Close()
			return address
		}
	}
	t.Fatal("no port is free")
	return ""
}

// Start runs the binary of cmd/muster on a configuration, in a folder that the scripts prepare first. The first 127.0.0.1:0 in it, which
// is the listener `http`, becomes a fixed address. env is added to what commands see: with URL and MUSTER.
func Start(t testing.TB, binary string, env []string, config string, scripts ...string) *Gateway {
	t.Helper()
	g := &Gateway{T: t, Dir: t.TempDir(), binary: binary, env: env}
	t.Cleanup(g.Stop)
	g.Write("gateway.yaml", strings.Replace(config, "127.0.0.1:0", Address(t), 1))
	for _, s := range scripts {
		g.Sh(s)
	}
	g.Again()
	return g
}

// Write makes a file of mode 0600 in the gateway's folder.
func (g *Gateway) Write(name, text string) {
	g.T.Helper()
	if err := os.WriteFile(g.File(name), []byte(text), 0o600); err != nil {
		g.T.Fatal(err)
	}
}

// File is a path in the gateway's folder.
func (g *Gateway) File(name string) string { return filepath.Join(g.Dir, name) }

var listening = regexp.MustCompile(`msg=listening listener=http address=(\S+)`)

// Again starts the gateway, after stopping the one that runs, with more in its environment (NAME=VALUE). It is reached where it was.
func (g *Gateway) Again(env ...string) {
	g.T.Helper()
	g.Stop()
	g.cmd = exec.Command(g.binary, "serve", "--config", g.File("gateway.yaml"), "--data", g.Dir)
	g.cmd.Env = append(os.Environ(), env...)
	g.exited, g.Log = make(chan struct{}), &Output{}
	g.cmd.Stdout, g.cmd.Stderr = g.Log, g.Log
	if err := g.cmd.Start(); err != nil {
		g.T.Fatal(err)
	}
	cmd, exited := g.cmd, g.exited
	go func() {
		cmd.Wait() //nolint:errcheck // how it ended is in ProcessState
		close(exited)
	}()
	for began := time.Now(); time.Since(began) < patience; {
		if log := g.Log.String(); strings.Contains(log, "msg=ready") {
			g.URL = "http://" + listening.FindStringSubmatch(log)[1]
			return
		}
		select {
		case <-g.exited:
			g.T.Fatalf("the gateway ended\n%s", g.Log)
		case <-time.After(10 * time.Millisecond):
		}
	}
	g.T.Fatalf("not ready\n%s", g.Log)
}

// Stop stops it by SIGINT.
func (g *Gateway) Stop() {
	if g.cmd == nil || g.cmd.Process == nil {
		return
	}
	g.cmd.Process.Signal(syscall.SIGINT) //nolint:errcheck // it may have ended
	select {
	case <-g.exited:
	case <-time.After(time.Minute):
		g.cmd.Process.Kill() //nolint:errcheck // as above
		<-g.exited
		g.T.Errorf("the gateway did not stop on SIGINT\n%s", g.Log)
	}
	if g.T.Failed() && testing.Verbose() {
		g.T.Logf("the gateway's log:\n%s", g.Log)
	}
}

// Kill ends it as a power cut would.
func (g *Gateway) Kill() {
	if g.cmd == nil || g.cmd.Process == nil {
		return
	}
	g.cmd.Process.Kill() //nolint:errcheck // it may have ended
	<-g.exited
	g.cmd = nil
}

// Run runs a command in the gateway's folder: what it printed, and whether it succeeded.
func (g *Gateway) Run(name string, args ...string) (string, bool) {
	g.T.Helper()
	ctx, cancel := context.WithTimeout(g.T.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = g.Dir
	cmd.Env = append(append(os.Environ(), "URL="+g.URL, "MUSTER="+g.binary), g.env...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		g.T.Fatalf("%s: %v", name, err)
	}
	return string(out), err == nil
}

// Sh runs a script that has to succeed, in the gateway's folder.
func (g *Gateway) Sh(script string) string {
	g.T.Helper()
	out, ok := g.Run("sh", "-euc", script)
	if !ok {
		g.T.Fatalf("%s\n%s", script, out)
	}
	return out
}

// Muster runs a command of the gateway's own binary that has to succeed.
func (g *Gateway) Muster(args ...string) string {
	g.T.Helper()
	out, ok := g.Run(g.binary, append(args, "--data", g.Dir)...)
	if !ok {
		g.T.Fatalf("muster %s:\n%s", strings.Join(args, " "), out)
	}
	return out
}

// Transaction is what `muster ls --json` says of one.
type Transaction struct{ ID, State, Subject string }

// Transactions are those whose subject holds the name, newest first.
func (g *Gateway) Transactions(name string) []Transaction {
	g.T.Helper()
	var all, found []Transaction
	if err := json.Unmarshal([]byte(g.Muster("ls", "--json", "--limit", "1000")), &all); err != nil {
		g.T.Fatal(err)
	}
	for _, tx := range all {
		if strings.Contains(tx.Subject, name) {
			found = append(found, tx)
		}
	}
	return found
}

// State is that of the newest transaction of a name.
func (g *Gateway) State(name string) string {
	g.T.Helper()
	if all := g.Transactions(name); len(all) > 0 {
		return all[0].State
	}
	return ""
}

// Listener is the address, host:port, of one of the gateway's listeners.
func (g *Gateway) Listener(name string) string {
	g.T.Helper()
	m := regexp.MustCompile(`msg=listening listener=` + regexp.QuoteMeta(name) + ` address=(\S+)`).FindStringSubmatch(g.Log.String())
	if m == nil {
		g.T.Fatalf("there is no listener %s\n%s", name, g.Log)
	}
	return m[1]
}
