package store_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway/store"
)

// TestLogIsSettledFirst: before SQLite recovers from its log, what is in it has to be on the disk (groupcommit.Settle).
func TestLogIsSettledFirst(t *testing.T) {
	path := filepath.Join(t.TempDir(), "muster.db")
	if err := os.Mkdir(path+"-wal", 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), "sqlite:"+path, store.Options{Instance: "one"})
	if err == nil {
		t.Fatal(s.Close())
	}
	if !strings.Contains(err.Error(), "write-ahead log") {
		t.Error(err)
	}
}
