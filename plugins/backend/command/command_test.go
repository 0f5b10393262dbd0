package command

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func shell(t *testing.T, script string) *Program {
	t.Helper()
	return &Program{Argv: Argv{"/bin/sh", "-c", script}, Limit: 20 * time.Second, Output: 1 << 10, Log: slog.New(slog.DiscardHandler), grace: 100 * time.Millisecond}
}

func TestRun(t *testing.T) {
	dir := t.TempDir()
	p := shell(t, `cat; echo "$PWD $A $B ${HOME-none}"; exit 3`)
	p.Dir, p.Env = dir, map[string]string{"A": "a b"}
	out, code, err := p.Run(t.Context(), []byte("in\n"), "B=more")
	if err != nil || code != 3 || string(out) != "in\n"+dir+" a b more none\n" {
		t.Errorf("%q, %d, %v", out, code, err)
	}
	// Stdin that nobody reads is no failure.
	if _, code, err := shell(t, "exit 0").Run(t.Context(), make([]byte, 1<<20)); code != 0 || err != nil {
		t.Errorf("%d, %v", code, err)
	}
}

func TestNoResult(t *testing.T) {
	for what, test := range map[string]struct{ script, want string }{
		"too much output": {"head -c 2000 /dev/zero", "more than 1024 bytes of output"},
		"a signal":        {"kill -9 $$", "ended by a signal"},
		"left behind":     {"sleep 100 & exit 0", "left behind"},
	} {
		if _, _, err := shell(t, test.script).Run(t.Context(), nil); err == nil || !strings.Contains(err.Error(), test.want) || errors.Is(err, ErrNotStarted) {
			t.Errorf("%s: %v", what, err)
		}
	}
	p := shell(t, "")
	p.Argv = Argv{"/no/such/program"}
	if _, _, err := p.Run(t.Context(), nil); !errors.Is(err, ErrNotStarted) {
		t.Errorf("no program: %v", err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := shell(t, "exit 0").Run(over, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
}

// TestGroupEnds: neither a program that ignores SIGTERM nor what it started goes on after its time.
func TestGroupEnds(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pids")
	p := shell(t, `trap "" TERM; sh -c 'trap "" TERM; echo $$ >>"$0"; while :; do sleep 100; done' `+pids+` & echo $$ >>`+pids+`; while :; do sleep 100; done`)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { // its time is over when both are there
		for ctx.Err() == nil {
			if text, _ := os.ReadFile(pids); strings.Count(string(text), "\n") == 2 {
				cancel()
			}
			time.Sleep(time.Millisecond)
		}
	}()
	if _, _, err := p.Run(ctx, nil); err == nil || !strings.Contains(err.Error(), "after its time") {
		t.Error(err)
	}
	text, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Fields(string(text)) {
		pid, err := strconv.Atoi(line)
		if err != nil {
			t.Fatal(err)
		}
		gone := false
		for range 2000 {
			stat, err := os.ReadFile("/proc/" + line + "/stat")
			if gone = err != nil || strings.Contains(string(stat), ") Z "); gone { // nobody need have waited for an orphan
				break
			}
			time.Sleep(time.Millisecond)
		}
		if !gone {
			t.Errorf("process %d goes on", pid)
			syscall.Kill(pid, syscall.SIGKILL) //nolint:errcheck // the test has failed
		}
	}
}

func TestLimitEnds(t *testing.T) {
	p := shell(t, "sleep 100")
	p.Limit = time.Millisecond
	if _, _, err := p.Run(t.Context(), nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestStderrIsLogged(t *testing.T) {
	var log bytes.Buffer
	p := shell(t, `printf 'one\n\ntwo' >&2; head -c 5000 /dev/zero | tr '\0' x >&2`)
	p.Log = slog.New(slog.NewTextHandler(&log, nil))
	if _, _, err := p.Run(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if got := log.String(); !strings.Contains(got, "line=one\n") || !strings.Contains(got, "line=two") || strings.Count(got, "\n") != 4 {
		t.Errorf("the log:\n%s", got)
	}
	log.Reset()
	p = shell(t, `head -c 1000000 /dev/zero | tr '\0' '\n' >&2; head -c 1000000 /dev/zero | tr '\0' x >&2`)
	p.Log = slog.New(slog.NewTextHandler(&log, nil))
	if _, _, err := p.Run(t.Context(), nil); err != nil || log.Len() > 2*maxStderr {
		t.Errorf("%v, %d bytes of log", err, log.Len())
	}
}

func TestCheck(t *testing.T) {
	for what, a := range map[string]Argv{"nothing": nil, "a name": {"openssl", "ca"}, "a zero byte": {"/bin/true", "a\x00b"}, "too many": append(Argv{"/bin/true"}, make([]string, 300)...)} {
		if a.Check() == nil {
			t.Errorf("%s: taken", what)
		}
	}
	if err := (Argv{"/bin/true", "-x"}).Check(); err != nil {
		t.Error(err)
	}
	if CheckEnv(map[string]string{"A=B": ""}) == nil || CheckEnv(map[string]string{"A": "\x00"}) == nil || CheckEnv(map[string]string{"A": "b"}) != nil {
		t.Error("environments")
	}
	if Executable("/etc/passwd") == nil || Executable("/bin") == nil || Executable("/no/such") == nil || Executable("/bin/sh") != nil {
		t.Error("Executable")
	}
}
