package local

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/muster-pki/muster/plugins/backend/groupcommit"
)

// What the ledger knows of generations: which there are, so that none gets lost, and when the last certificate of one
// that issues no more expires. The folders of authorityDir come first: what the ledger lacks, it is told.

// generationID names a generation.
type generationID struct {
	ca     string
	number int
}

func (g *generation) id() generationID { return generationID{g.ca, g.number} }

// generations lists what the ledger knows: the end of each generation, Unix seconds, without a value while it issues.
func (l *ledger) generations(ctx context.Context) (map[generationID]sql.NullInt64, error) {
	rows, err := l.read.QueryContext(ctx, `SELECT issuer, number, ends FROM generations`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	known := map[generationID]sql.NullInt64{}
	for rows.Next() {
		var id generationID
		var ends sql.NullInt64
		if err := rows.Scan(&id.ca, &id.number, &ends); err != nil {
			return nil, err
		}
		known[id] = ends
	}
	return known, rows.Err()
}

// adopt makes a new ledger that of the CA, tells it of generations that it does not know, and settles the ends of those
// that issue no more: call it when they do not. It returns those ends, and writes nothing when nothing is new. A
// generation that the ledger knows and the authority, in dir, has lost is an error.
func (l *ledger) adopt(ctx context.Context, a *authority, dir string) (map[generationID]time.Time, error) {
	known, err := l.generations(ctx)
	if err != nil {
		return nil, err
	}
	for id := range known {
		if a.generation(id.ca, id.number) == nil {
			return nil, fmt.Errorf("%s is gone: restore it", filepath.Join(dir, generationDir(id.ca, id.number)))
		}
	}
	bound, err := l.identity(ctx)
	if err != nil {
		return nil, err
	}
	ends := map[generationID]time.Time{}
	var unknown, unsettled []*generation
	for _, i := range a.issuers {
		for _, g := range i.all {
			end, ok := known[g.id()]
			if !ok {
				unknown = append(unknown, g)
			}
			switch {
			case g == i.generation:
			case end.Valid:
				ends[g.id()] = time.Unix(end.Int64, 0).UTC()
			default:
				unsettled = append(unsettled, g)
			}
		}
	}
	if bound != nil && len(unknown)+len(unsettled) == 0 {
		return ends, nil
	}
	err = l.writer.Do(ctx, func(ctx context.Context, tx *groupcommit.Tx) error {
		if bound == nil {
			if _, err := tx.ExecContext(ctx, `INSERT INTO authority (identity) VALUES (?)`, a.identity()); err != nil {
				return err
			}
		}
		for _, g := range unknown {
			if _, err := tx.ExecContext(ctx, `INSERT INTO generations (issuer, number) VALUES (?, ?)`, g.ca, g.number); err != nil {
				return err
			}
			// A new key's CRL lists what was revoked before: it is made, not believed to be current.
			if _, err := tx.ExecContext(ctx, `INSERT INTO keys (name, issuer) VALUES (?, ?) ON CONFLICT (name) DO NOTHING`, g.crlName(), g.ca); err != nil {
				return err
			}
		}
		for _, g := range unsettled {
			var end int64
			if err := tx.QueryRowContext(ctx, `SELECT coalesce(max(not_after), 0) FROM certificates WHERE issuer = ? AND generation = ?`, g.ca, g.number).Scan(&end); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `UPDATE generations SET ends = ? WHERE issuer = ? AND number = ?`, end, g.ca, g.number); err != nil {
				return err
			}
			ends[g.id()] = time.Unix(end, 0).UTC()
		}
		return nil
	})
	return ends, err
}

// live reports whether the generation counts: it issues, or its last certificate is valid or has expired less than a CRL's
// validity ago, so that a revoked one appears on a CRL after its end (RFC 5280 section 3.3), which can be verified.
func (r *running) live(g *generation, now time.Time) bool {
	end, over := r.ends[g.id()]
	return !over || !now.After(end.Add(r.crlValidity))
}

func (r *running) anyLive(all []*generation, now time.Time) bool {
	return slices.ContainsFunc(all, func(g *generation) bool { return r.live(g, now) })
}

// publishes reports whether the CRL of a key is made: of the one that issues, and as long as a generation of the key counts
// and its certificate, which the CRL is verified by, has not expired.
func (r *running) publishes(i *issuer, key *generation, now time.Time) bool {
	return key.keyFirst == i.keyFirst || slices.ContainsFunc(i.all, func(g *generation) bool {
		return g.keyFirst == key.keyFirst && r.live(g, now) && !now.After(g.cert.NotAfter)
	})
}
