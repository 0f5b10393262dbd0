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
	file := filepath.Join(g.dir, "muster.db")
	s, err := store.Open(g.t.Context(), "sqlite:"+file, store.Options{Instance: "auditor"})
	if err != nil {
		g.t.Fatal(err)
	}
	defer s.Close()
	if err := s.VerifyAudit(g.t.Context()); err != nil {
		g.t.Error(err)
	}
	db, err := sql.Open("sqlite", file)
	if err != nil {
		g.t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.QueryContext(g.t.Context(), `SELECT body FROM audit`)
	if err != nil {
		g.t.Fatal(err)
	}
	defer rows.Close()
	told := map[string]map[string]int{}
	for rows.Next() {
		var body string
		var e gateway.AuditEvent
		if err := rows.Scan(&body); err != nil {
			g.t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(body), &e); err != nil {
			g.t.Fatal(err)
		}
		if told[e.Transaction] == nil {
			told[e.Transaction] = map[string]int{}
		}
		told[e.Transaction][e.Kind]++
	}
	if err := rows.Err(); err != nil {
		g.t.Fatal(err)
	}
	return told
}
