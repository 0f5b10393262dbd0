package store_test

import (
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway/store"
)

// TestSweepByIndex: where nothing can be swept, nothing is looked through to find that out.
func TestSweepByIndex(t *testing.T) {
	d := newSQLite(t)
	if err := d.Open(t, "one", nil).Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		statement string
		params    []any
		index     []string
	}{
		{store.SweptRefused(), []any{1, 1, "refused", "0", 1}, []string{"transactions_state (state=? AND id<?)"}},
		{store.SweptEnded(), []any{1, 1, 1}, []string{"certificates_not_after (not_after<?)", "transactions_replaces (replaces=?)"}},
		{store.LapsedKeys(), []any{1, 1}, []string{"uses_lapsed (until>? AND until<?)"}},
	} {
		plan := d.plan(t, c.statement, c.params...)
		for _, index := range c.index {
			if !strings.Contains(plan, index) {
				t.Errorf("%s\nis not found by %s:\n%s", c.statement, index, plan)
			}
		}
	}
}
