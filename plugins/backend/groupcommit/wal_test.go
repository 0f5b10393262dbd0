package groupcommit_test

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/muster-pki/muster/plugins/backend/groupcommit"
)

// Settle writes all of the log anew, and changes none of it. Which pages the disk lacks nobody can ask, so all count.
func TestSettle(t *testing.T) {
	database := filepath.Join(t.TempDir(), "some.db")
	if err := groupcommit.Settle(database); err != nil {
		t.Errorf("without a log: %v", err)
	}
	for _, size := range []int{0, 1, 1 << 20, 5<<20 + 17} {
		want := make([]byte, size)
		rand.Read(want) //nolint:errcheck // never fails
		if err := os.WriteFile(database+"-wal", want, 0o600); err != nil {
			t.Fatal(err)
		}
		past := time.Unix(1, 0)
		if err := os.Chtimes(database+"-wal", past, past); err != nil {
			t.Fatal(err)
		}
		if err := groupcommit.Settle(database); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(database + "-wal")
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: another content now, %v", size, err)
		}
		if info, err := os.Stat(database + "-wal"); err != nil || size > 0 && !info.ModTime().After(past) {
			t.Errorf("%d bytes: not written, %v", size, err)
		}
	}
	broken := filepath.Join(t.TempDir(), "broken.db")
	if err := os.Mkdir(broken+"-wal", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := groupcommit.Settle(broken); err == nil {
		t.Error("a log that cannot be read counts as settled")
	}
}
