package local

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLogIsSettledFirst: before SQLite recovers from the ledger's log, what is in it has to be on the disk (groupcommit.Settle).
func TestLogIsSettledFirst(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, ledgerFile+"-wal"), 0o700); err != nil {
		t.Fatal(err)
	}
	err := New(Options{}).Configure(t.Context(), []byte("dir: "+dir))
	if err == nil || !strings.Contains(err.Error(), "write-ahead log") {
		t.Error(err)
	}
}
