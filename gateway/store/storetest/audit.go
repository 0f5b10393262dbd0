package storetest

import (
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
)

// events writes one event of each origin.
func (e *env) events(s Store) {
	e.Helper()
	e.must(s.Record(e.ctx(), gateway.AuditEvent{Kind: "started", At: e.clock.Now()}))
	tx := e.transaction(gateway.StateIssuing)
	epoch := e.mustBegin(s, tx)
	e.must(s.Settle(e.ctx(), e.issued(tx, epoch)))
	refused := e.transaction(gateway.StateRefused)
	e.must(s.Refuse(e.ctx(), refused, event("refused", refused)))
}

func testAudit(e *env) {
	e.must(e.s.VerifyAudit(e.ctx()))
	e.events(e.s)
	// Units that are rolled back leave no gap.
	for range 3 {
		tx := e.transaction(gateway.StateIssuing)
		s := e.issued(tx, 1)
		e.wantErr(e.s.Settle(e.ctx(), s), gateway.ErrStale)
		e.events(e.s)
	}
	if e.s.Record(e.ctx(), gateway.AuditEvent{}) == nil {
		e.Error("an event without a kind was recorded")
	}
	e.must(e.s.VerifyAudit(e.ctx()))
	// Another instance has a stream of its own, and one that comes back goes on with its own.
	e.events(e.other("two"))
	e.events(e.s)
	e.must(e.s.VerifyAudit(e.ctx()))
	e.must(e.s.Close())
	e.s = e.db.Open(e, "one", e.clock.Now)
	e.events(e.s)
}

func testAuditTampered(e *env) {
	e.tampered = true
	for range 3 {
		e.events(e.s)
	}
	e.must(e.s.VerifyAudit(e.ctx()))
	const n = "9"
	for _, c := range []struct{ name, tamper, undo string }{
		{"a body in the middle", `UPDATE audit SET body = body || ' ' WHERE seq = 4`, `UPDATE audit SET body = substr(body, 1, length(body) - 1) WHERE seq = 4`},
		{"the last body", `UPDATE audit SET body = body || ' ' WHERE seq = ` + n, `UPDATE audit SET body = substr(body, 1, length(body) - 1) WHERE seq = ` + n},
		{"the first hash", `UPDATE audit SET hash = prev WHERE seq = 1`, `UPDATE audit SET hash = (SELECT a.prev FROM audit a WHERE a.seq = 2) WHERE seq = 1`},
		{"a number", `UPDATE audit SET seq = 99 WHERE seq = ` + n, `UPDATE audit SET seq = ` + n + ` WHERE seq = 99`},
		{"a stream", `UPDATE audit SET stream = 'two' WHERE seq = ` + n, `UPDATE audit SET stream = 'one' WHERE stream = 'two'`},
		{"a record gone", `DELETE FROM audit WHERE seq = 5`, ``},
	} {
		e.Run(c.name, func(t *testing.T) {
			e.db.Exec(t, c.tamper)
			err := e.s.VerifyAudit(t.Context())
			if err == nil {
				t.Fatal("not noticed")
			}
			if !strings.Contains(err.Error(), "stream") || !strings.Contains(err.Error(), "record") {
				t.Errorf("the error does not say where: %v", err)
			}
			if c.undo == "" {
				return
			}
			e.db.Exec(t, c.undo)
			if err := e.s.VerifyAudit(t.Context()); err != nil {
				t.Errorf("set right again: %v", err)
			}
		})
	}
}
