package e2e

import (
	"database/sql"
	"encoding/json"
	"path/filepath"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/store"
)

// auditTrail checks the audit trail of a gateway that has ended, and counts its events by transaction and kind.
func (g *instance) auditTrail() map[string]map[string]int {
	g.t.Helper()
	s, err := store.Open(g.t.Context(), "sqlite:"+filepath.Join(g.dir, "muster.db"), store.Options{Instance: "auditor"})
	if err != nil {
		g.t.Fatal(err)
	}
	defer s.Close()
	if err := s.VerifyAudit(g.t.Context()); err != nil {
		g.t.Error(err)
	}
	told := map[string]map[string]int{}
	for _, e := range g.events("") {
		if told[e.Transaction] == nil {
			told[e.Transaction] = map[string]int{}
		}
		told[e.Transaction][e.Kind]++
	}
	return told
}

// events reads the audit trail's, of a kind; "" for all. The gateway may be running.
func (g *instance) events(kind string) (all []gateway.AuditEvent) {
	g.t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(g.dir, "muster.db")+"?_pragma=busy_timeout(5000)")
	if err != nil {
		g.t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.QueryContext(g.t.Context(), `SELECT body FROM audit ORDER BY stream, seq`)
	if err != nil {
		g.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var body string
		var e gateway.AuditEvent
		if err := rows.Scan(&body); err != nil {
			g.t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(body), &e); err != nil {
			g.t.Fatal(err)
		}
		if kind == "" || e.Kind == kind {
			all = append(all, e)
		}
	}
	if err := rows.Err(); err != nil {
		g.t.Fatal(err)
	}
	return all
}
