package e2e

import (
	"database/sql"
	"encoding/json"
	"path/filepath"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/audit"
	"github.com/muster-pki/muster/gateway/store"
)

// auditTrail checks the audit trail of a gateway that has ended, and counts its events by transaction and kind.
func (g *instance) auditTrail() map[string]map[string]int {
	g.t.Helper()
	g.wantAudited()
	told := map[string]map[string]int{}
	for _, e := range g.events("") {
		if told[e.Transaction] == nil {
			told[e.Transaction] = map[string]int{}
		}
		told[e.Transaction][e.Kind]++
	}
	return told
}

// wantAudited verifies the audit trail as `muster audit verify` does: chains, signatures and head file.
func (g *instance) wantAudited() {
	g.t.Helper()
	dsn := "sqlite:" + filepath.Join(g.dir, "muster.db")
	keys, err := audit.ReadPublicKeys(filepath.Join(g.dir, "audit.pub"))
	if err != nil {
		g.t.Fatal(err)
	}
	left, err := audit.ReadHeads(filepath.Join(g.dir, "audit.head"))
	if err != nil {
		g.t.Fatal(err)
	}
	trail, err := store.OpenTrail(g.t.Context(), dsn)
	if err != nil {
		g.t.Fatal(err)
	}
	defer trail.Close()
	v := audit.NewVerifier(audit.Trust{Keys: keys, Left: left})
	err = trail.Read(g.t.Context(), func(s *store.Snapshot) error {
		return s.Records(g.t.Context(), "", func(r audit.Record) error { v.Add(r); return nil })
	})
	if err != nil {
		g.t.Fatal(err)
	}
	for _, s := range v.Report().Streams {
		if s.Standing != audit.Verified {
			g.t.Errorf("the audit trail, stream %s: %s %v", s.Stream, s.Standing, s.Faults)
		}
	}
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
