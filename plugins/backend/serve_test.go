package backend

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// closing tells of its Close on stderr.
type closing struct{ double }

func (c *closing) Close() error {
	Logger().Warn("closed by the plugin")
	return errors.New("closing fails")
}

// TestServeNeedsItsHost: without cookie or lifeline a plugin says why it does not run, on stderr only.
func TestServeNeedsItsHost(t *testing.T) {
	for want, env := range map[string][]string{
		"started by muster":    {LifelineEnv + "=3"},
		"does not run without": {cookieKey + "=" + cookieValue},
		"no pipe":              {cookieKey + "=" + cookieValue, LifelineEnv + "=3"},
		"bad file descriptor":  {cookieKey + "=" + cookieValue, LifelineEnv + "=99"},
	} {
		null, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		var out, errs bytes.Buffer
		cmd := exec.Command("/proc/self/exe", "serve")
		cmd.Env, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = env, &out, &errs, []*os.File{null}
		var exit *exec.ExitError
		if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Errorf("%v: %v", env, err)
		}
		if out.Len() > 0 || !strings.Contains(errs.String(), want) {
			t.Errorf("%v: stdout %q, stderr %q, not %q", env, &out, &errs, want)
		}
		if err := null.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLifeline: at its end the backend is closed and the process exits by itself.
func TestLifeline(t *testing.T) {
	theirs, ours, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	cmd := exec.Command("/proc/self/exe", "serve")
	cmd.Env = []string{cookieKey + "=" + cookieValue, LifelineEnv + "=3", "PLUGIN_PROTOCOL_VERSIONS=1", "PLUGIN_UNIX_SOCKET_DIR=" + t.TempDir()}
	cmd.Stderr, cmd.ExtraFiles = &errs, []*os.File{theirs}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := theirs.Close(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 8)
	if _, err := io.ReadFull(out, line); err != nil || string(line) != "1|1|unix" {
		t.Errorf("the handshake begins with %q, %v", line, err)
	}
	if err := ours.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, out); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v", err)
	}
	for _, want := range []string{`"level":"WARN","msg":"closed by the plugin"`, `"error":"closing fails"`} {
		if !strings.Contains(errs.String(), want) {
			t.Errorf("stderr lacks %s:\n%s", want, &errs)
		}
	}
}
