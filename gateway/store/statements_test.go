package store

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
)

// TestOpenStates: the states of the SQL text are those of State.Open.
func TestOpenStates(t *testing.T) {
	var want []string
	for _, s := range []gateway.State{
		gateway.StateRefused, gateway.StateHeld, gateway.StateIssuing, gateway.StateQueued, gateway.StateUnknown, gateway.StateWaiting,
		gateway.StateStuck, gateway.StateUnconfirmed, gateway.StateIssued, gateway.StateRejected, gateway.StateFailed,
		gateway.StateDenied, gateway.StateRevoked, gateway.StateForwarded, gateway.StateApproved,
	} {
		if s.Open() {
			want = append(want, string(s))
		}
	}
	got := regexp.MustCompile(`[a-z]+`).FindAllString(open, -1)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestAskingKinds: the kinds of work of the SQL text are those of WorkKind.AsksCA.
func TestAskingKinds(t *testing.T) {
	for _, k := range []gateway.WorkKind{
		gateway.WorkSettle, gateway.WorkQueue, gateway.WorkPoll, gateway.WorkRevoke, gateway.WorkConfirm, gateway.WorkHold, gateway.WorkForward, gateway.WorkWipe,
	} {
		if got := strings.Contains(asking, "'"+string(k)+"'"); got != k.AsksCA() {
			t.Errorf("%s: %t in the SQL text, %t in AsksCA", k, got, k.AsksCA())
		}
	}
}

// TestDialects: nothing of a dialect's words is left in what it renders.
func TestDialects(t *testing.T) {
	for _, d := range []*dialect{&sqliteDialect, &postgresDialect} {
		for i, text := range texts {
			if text == "" {
				t.Errorf("statement %d has no text", i)
			}
			if sql := d.sql(text); strings.ContainsAny(sql, "{}") || nowCall.MatchString(sql) {
				t.Errorf("%s: %s", d.goose, sql)
			}
		}
	}
	const text = `due <= now($12) {skip locked}`
	if got := sqliteDialect.sql(text); got != `due <= $12 ` {
		t.Errorf("SQLite: %q", got)
	}
	if got := postgresDialect.sql(text); !strings.HasPrefix(got, `due <= COALESCE($12::bigint, `) || !strings.HasSuffix(got, `FOR UPDATE SKIP LOCKED`) {
		t.Errorf("PostgreSQL: %q", got)
	}
}
