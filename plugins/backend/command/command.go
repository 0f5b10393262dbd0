// Package command runs the programs that an operator configured for a backend: a CA's command line, a hook. There is no shell, no
// inherited environment, and no end without a limit: of time, for the whole process group, and of output.
//
// It judges nothing: what an exit code or an output means is the backend's to say.
package command

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Argv is a program and its arguments.
type Argv []string

// Check says what is wrong with a command without touching anything.
func (a Argv) Check() error {
	switch {
	case len(a) == 0 || a[0] == "":
		return errors.New("a list: the program's absolute path, then its arguments")
	case !filepath.IsAbs(a[0]):
		return fmt.Errorf("%q is not an absolute path: there is no shell, and no search", a[0])
	case len(a) > maxArgs:
		return fmt.Errorf("more than %d arguments", maxArgs)
	case slices.ContainsFunc(a, func(s string) bool { return strings.ContainsRune(s, 0) }):
		return errors.New("an argument with a zero byte")
	}
	return nil
}

const (
	maxArgs   = 256
	maxStderr = 64 << 10 // bytes that are logged of one run
	maxLine   = 2 << 10

	// Grace is how long after SIGTERM a program may go on, until SIGKILL.
	Grace = 2 * time.Second
)

// CheckEnv says what is wrong with an environment.
func CheckEnv(env map[string]string) error {
	for name, value := range env {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(value, 0) {
			return fmt.Errorf("%q is not the name of a variable, or its value has a zero byte", name)
		}
	}
	return nil
}

// Program is a command as it is run. It is safe for concurrent use.
type Program struct {
	Argv   Argv
	Dir    string            // "" for the root
	Env    map[string]string // all of it; PATH is /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin where it has none
	Limit  time.Duration     // until the process group is sent SIGTERM, and Grace later SIGKILL
	Output int               // bytes of stdout
	Log    *slog.Logger      // gets stderr, a record for each line

	grace time.Duration // Grace; tests wait for less
}

// ErrNotStarted is of a run that did not begin: the program did nothing.
var ErrNotStarted = errors.New("not started")

// Run gives stdin to the program and returns its stdout and exit code. Its error says that there is no result: ErrNotStarted, the
// context's or the time limit's end, a signal, too much output. After any but the first, what the program did is not known.
func (p *Program) Run(ctx context.Context, stdin []byte, more ...string) (stdout []byte, code int, err error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, p.Limit)
	defer cancel()
	out := &bounded{limit: p.Output}
	lines := &lines{log: p.Log, program: filepath.Base(p.Argv[0])}
	cmd := exec.Command(p.Argv[0], p.Argv[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = p.Dir, p.environment(more), bytes.NewReader(stdin), out, lines
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	cmd.SysProcAttr = attributes()
	grace := cmp.Or(p.grace, Grace)
	cmd.WaitDelay = grace // for those who inherited its pipes
	waited := make(chan error, 1)
	started := make(chan error, 1)
	go func() {
		// The program dies with the thread that started it: this one stays as long as the program does.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		waited <- cmd.Wait()
	}()
	if err := <-started; err != nil {
		return nil, 0, fmt.Errorf("%w: %v", ErrNotStarted, err)
	}
	group := -cmd.Process.Pid
	select {
	case err = <-waited:
	case <-ctx.Done():
		syscall.Kill(group, syscall.SIGTERM)                                           //nolint:errcheck // it may have ended
		kill := time.AfterFunc(grace, func() { syscall.Kill(group, syscall.SIGKILL) }) //nolint:errcheck // as above
		<-waited
		kill.Stop()
		syscall.Kill(group, syscall.SIGKILL) //nolint:errcheck // its children
		lines.end()
		return nil, 0, fmt.Errorf("ended after its time: %w", ctx.Err())
	}
	lines.end()
	exit, exited := errors.AsType[*exec.ExitError](err)
	switch {
	case errors.Is(err, exec.ErrWaitDelay):
		syscall.Kill(group, syscall.SIGKILL) //nolint:errcheck // whoever holds its pipes
		return nil, 0, errors.New("it ended, and a process that it left behind holds its output")
	case exited && exit.ExitCode() < 0:
		return nil, 0, fmt.Errorf("ended by a signal: %s", exit.ProcessState)
	case err != nil && !exited:
		return nil, 0, fmt.Errorf("its output: %w", err)
	case out.over:
		return nil, 0, fmt.Errorf("more than %d bytes of output", p.Output)
	}
	return out.buf.Bytes(), cmd.ProcessState.ExitCode(), nil
}

// defaultPath is PATH's value where none is configured.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func (p *Program) environment(more []string) []string {
	env := []string{}
	if _, ok := p.Env["PATH"]; !ok {
		env = append(env, "PATH="+defaultPath)
	}
	for name, value := range p.Env {
		env = append(env, name+"="+value)
	}
	return append(env, more...)
}

// bounded keeps the first bytes, and takes the others.
type bounded struct {
	buf   bytes.Buffer
	limit int
	over  bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if left := b.limit - b.buf.Len(); len(p) > left {
		b.over = true
		b.buf.Write(p[:left])
		return len(p), nil
	}
	return b.buf.Write(p)
}

// lines logs what is written, a record for each line.
type lines struct {
	log     *slog.Logger
	program string
	rest    []byte
	taken   int
}

var _ io.Writer = (*lines)(nil)

func (l *lines) Write(p []byte) (int, error) {
	n := len(p)
	if l.taken >= maxStderr {
		return n, nil
	}
	if left := maxStderr - l.taken; len(p) > left {
		p = append(slices.Clone(p[:left]), "\n(and more)\n"...)
	}
	l.taken += n
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 && len(l.rest)+len(p) < maxLine {
			l.rest = append(l.rest, p...)
			return n, nil
		}
		if i < 0 || len(l.rest)+i > maxLine {
			i = max(maxLine-len(l.rest), 0)
			l.rest, p = append(l.rest, p[:min(i, len(p))]...), p[min(i, len(p)):]
		} else {
			l.rest, p = append(l.rest, p[:i]...), p[i+1:]
		}
		l.end()
	}
}

// end logs what has no line's end.
func (l *lines) end() {
	if text := strings.TrimSpace(strings.ToValidUTF8(string(l.rest), "?")); text != "" {
		l.log.Warn("said on stderr", "program", l.program, "line", text)
	}
	l.rest = l.rest[:0]
}

// Executable says why a program cannot be run: that it is not there, or is none.
func Executable(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case info.IsDir() || info.Mode()&0o111 == 0:
		return fmt.Errorf("%s is no program: chmod +x", path)
	}
	return nil
}
