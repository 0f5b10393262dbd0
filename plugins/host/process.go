package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-plugin/runner"

	"github.com/muster-pki/muster/plugins/backend"
)

// process is one plugin process: go-plugin's runner.Runner, so that stdin, descriptors, output, exit and kill are
// ours. It is started once.
type process struct {
	cmd     *exec.Cmd
	sockets string // the only directory in which the plugin may listen
	stdout  *io.PipeReader
	first   *firstLine
	stderr  *lines
	started time.Time

	launch   context.Context // its end kills the process until settled is called
	settled  func() bool
	lifeline *os.File // its end, by whatever way, ends the plugin
	killed   sync.Once
	exited   chan struct{}
	status   string // valid once exited

	mu       sync.Mutex
	address  string
	dialled  bool
	onBroken func() // called when the connection ends, before any call learns of it
}

var _ runner.Runner = (*process)(nil)

// inheritedEnv is what a plugin sees of the host's environment.
var inheritedEnv = []string{"PATH", "HOME", "TMPDIR", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "GODEBUG"}

func newProcess(launch context.Context, c *Config, x executable, env []string, sockets string, onBroken func()) *process {
	r, w := io.Pipe()
	p := &process{
		launch:  launch,
		cmd:     &exec.Cmd{Path: x.path, Args: x.args},
		sockets: sockets,
		stdout:  r,
		first:   &firstLine{to: w},
		stderr:  &lines{log: c.Log, budget: c.lines},
		exited:  make(chan struct{}), onBroken: onBroken,
	}
	for _, k := range inheritedEnv {
		if v, ok := os.LookupEnv(k); ok {
			p.cmd.Env = append(p.cmd.Env, k+"="+v)
		}
	}
	p.cmd.Env = append(p.cmd.Env, c.Env...)
	p.cmd.Env = append(p.cmd.Env, env...) // go-plugin's
	p.cmd.Env = append(p.cmd.Env,
		backend.LifelineEnv+"=3", // the first of ExtraFiles
		backend.LogLevelEnv+"="+strconv.Itoa(int(lowestLevel(c.Log))))
	// Stdin stays nil, the null device: go-plugin would have given the plugin ours.
	p.cmd.Stdout, p.cmd.Stderr = p.first, p.stderr
	// A grandchild that keeps the output open must not hide that the plugin is gone.
	p.cmd.WaitDelay = time.Second
	// A group of its own, so that a terminal's Ctrl-C reaches the host alone.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return p
}

// Start is runner.Runner's.
func (p *process) Start(context.Context) error {
	theirs, ours, err := os.Pipe()
	if err != nil {
		return err
	}
	p.cmd.ExtraFiles = []*os.File{theirs}
	err = p.cmd.Start()
	_ = theirs.Close()
	if err != nil {
		_ = ours.Close()
		p.first.close()
		p.status = err.Error()
		close(p.exited)
		return err
	}
	p.lifeline, p.started = ours, time.Now()
	// go-plugin's Start knows a time-out, but no context.
	p.settled = context.AfterFunc(p.launch, p.kill)
	go p.wait()
	return nil
}

func (p *process) wait() {
	err := p.cmd.Wait()
	p.stderr.flush()
	p.status = "unknown"
	if s := p.cmd.ProcessState; s != nil {
		p.status = s.String()
	} else if err != nil {
		p.status = err.Error()
	}
	p.letGo()
	p.first.close()
	close(p.exited)
	p.onBroken()
}

// letGo closes the lifeline: the plugin finishes and exits by itself.
func (p *process) letGo() { _ = p.lifeline.Close() }

// kill needs a process that was started.
func (p *process) kill() {
	p.killed.Do(func() {
		_ = p.cmd.Process.Kill() // fails only when the process is gone
	})
}

// stop ends the process: politely, then, after the given time, by SIGKILL. It returns when it is gone.
func (p *process) stop(within time.Duration) {
	if p.lifeline == nil {
		return // never started
	}
	p.letGo()
	t := time.NewTimer(within)
	defer t.Stop()
	select {
	case <-p.exited:
	case <-t.C:
		p.kill()
		<-p.exited
	}
}

// Wait is runner.Runner's.
func (p *process) Wait(context.Context) error {
	<-p.exited
	return nil
}

// Kill is runner.Runner's.
func (p *process) Kill(context.Context) error {
	if p.lifeline != nil {
		p.kill()
	}
	return nil
}

// Stdout is runner.Runner's: the handshake, one line.
func (p *process) Stdout() io.ReadCloser { return p.stdout }

// Stderr is runner.Runner's: nothing, lines reads it.
func (p *process) Stderr() io.ReadCloser { return io.NopCloser(bytes.NewReader(nil)) }

// Name is runner.Runner's.
func (p *process) Name() string { return p.cmd.Path }

// ID is runner.Runner's.
func (p *process) ID() string { return strconv.Itoa(p.pid()) }

func (p *process) pid() int {
	if p.cmd.Process == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Diagnose is runner.Runner's.
func (p *process) Diagnose(context.Context) string {
	t := time.NewTimer(time.Second)
	defer t.Stop()
	select {
	case <-p.exited:
		return "the process ended: " + p.status
	case <-t.C:
		return "the process lives, but did not shake hands on its stdout"
	}
}

// PluginToHost is runner.Runner's. A plugin is dialled in its own private directory and nowhere else.
func (p *process) PluginToHost(network, address string) (string, string, error) {
	if network != "unix" || filepath.Dir(address) != p.sockets || filepath.Clean(address) != address {
		return "", "", fmt.Errorf("the plugin listens on %s %q, outside its socket directory", network, address)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.address = address
	return network, address, nil
}

// HostToPlugin is runner.Runner's.
func (p *process) HostToPlugin(network, address string) (string, string, error) {
	return network, address, nil
}

// dial connects to the plugin, once: a process whose connection broke has lost its host.
func (p *process) dial(ctx context.Context, _ string) (net.Conn, error) {
	p.mu.Lock()
	address, again := p.address, p.dialled
	p.dialled = true
	p.mu.Unlock()
	if again {
		return nil, errors.New("the connection to the plugin is lost")
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", address)
	if err != nil {
		p.onBroken()
		return nil, err
	}
	return &watchedConn{Conn: conn, onBroken: p.onBroken}, nil
}

// watchedConn tells of its end before gRPC can tell a call, so that a call which failed and is repeated at once
// waits for the next process instead of failing again on this one.
type watchedConn struct {
	net.Conn
	onBroken func()
}

func (c *watchedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil && !isTimeout(err) {
		c.onBroken()
	}
	return n, err
}

func (c *watchedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if err != nil && !isTimeout(err) {
		c.onBroken()
	}
	return n, err
}

// isTimeout tells a deadline, which the TLS handshake sets, from an end.
func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// firstLine passes the first line on, the handshake, and drops what follows: a plugin's stdout is no log.
type firstLine struct {
	to   *io.PipeWriter
	n    int
	once sync.Once
}

// maxHandshake bounds the handshake, whose certificate is about 1 KiB.
const maxHandshake = 16 << 10

func (f *firstLine) Write(p []byte) (int, error) {
	if f.n < maxHandshake {
		line, _, ends := bytes.Cut(p, []byte("\n"))
		line = line[:min(len(line), maxHandshake-f.n)]
		f.n += len(line)
		_, _ = f.to.Write(line) // fails once closed
		if ends || f.n >= maxHandshake {
			f.n = maxHandshake
			f.close()
		}
	}
	return len(p), nil
}

func (f *firstLine) close() { f.once.Do(func() { _ = f.to.Close() }) }
