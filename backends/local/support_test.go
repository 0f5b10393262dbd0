package local

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// execLedger changes the ledger of a CA that is closed.
func execLedger(t testing.TB, dir, statements string) {
	t.Helper()
	db, err := sql.Open("sqlite", dsn(filepath.Join(dir, ledgerFile)))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(statements); err != nil {
		t.Fatal(err)
	}
}

// tell returns a logger that closes ch at the first message that contains what.
func tell(what string, ch chan struct{}) *slog.Logger {
	return slog.New(&teller{what: what, tell: sync.OnceFunc(func() { close(ch) })})
}

type teller struct {
	what string
	tell func()
}

func (*teller) Enabled(context.Context, slog.Level) bool { return true }
func (h *teller) WithAttrs([]slog.Attr) slog.Handler     { return h }
func (h *teller) WithGroup(string) slog.Handler          { return h }
func (h *teller) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, h.what) {
		h.tell()
	}
	return nil
}

// openssl runs the tool, whose absence fails the test, and returns what it printed.
func openssl(t testing.TB, args ...string) string {
	t.Helper()
	return opensslFails(t, false, args...)
}

// opensslFails is openssl for a command that is to fail, or not to.
func opensslFails(t testing.TB, fails bool, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "openssl", args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!fails || !errors.As(err, &exit)) || err == nil && fails {
		t.Errorf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}
