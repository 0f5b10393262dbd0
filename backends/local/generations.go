package local

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/muster-pki/muster/plugins/backend/groupcommit"
)

// What the ledger knows of generations: which there are, so that none gets lost, and when the last certificate of one
// that issues no more expires. The folders of authorityDir come first: what the ledger lacks, it is told.
// In one that replicas share, a generation is claimed before its folder gets its name: putGeneration.

// generationID names a generation.
type generationID struct {
	ca     string
	number int
}

func (a generationID) compare(b generationID) int {
	return cmp.Or(inOrder(a.ca, b.ca), cmp.Compare(a.number, b.number))
}

func (g *generation) id() generationID { return generationID{g.ca, g.number} }

// knownGeneration is what the ledger has of one: its end, Unix seconds, without a value while it issues, and, in one that is
// shared, generation.hash.
type knownGeneration struct {
	sql.NullInt64
	hash []byte
}

// generations lists what the ledger knows.
func (l *ledger) generations(ctx context.Context) (map[generationID]knownGeneration, error) {
	rows, err := l.read.QueryContext(ctx, l.known)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	known := map[generationID]knownGeneration{}
	for rows.Next() {
		var id generationID
		var g knownGeneration
		if err := rows.Scan(&id.ca, &id.number, &g.NullInt64, &g.hash); err != nil {
			return nil, err
		}
		known[id] = g
	}
	return known, rows.Err()
}

// crlNames lists the keys that the ledger keeps CRLs of.
func (l *ledger) crlNames(ctx context.Context) (map[string]bool, error) {
	rows, err := l.read.QueryContext(ctx, `SELECT name FROM keys`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	names := map[string]bool{}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		names[name] = true
	}
	return names, rows.Err()
}

// adopt makes a new ledger that of the CA, tells it of generations that it does not know, and settles the ends of those
// that issue no more: call it when they do not, in this process; others are refused from then on (recordShared). It returns those
// ends, and writes nothing when nothing is new. A generation that the ledger knows and the authority, in dir, has lost is an
// error: a missingError where the ledger is shared.
func (l *ledger) adopt(ctx context.Context, a *authority, dir string) (map[generationID]time.Time, error) {
	known, err := l.generations(ctx)
	if err != nil {
		return nil, err
	}
	for _, id := range slices.SortedFunc(maps.Keys(known), generationID.compare) {
		g := a.generation(id.ca, id.number)
		switch {
		case g == nil && l.shared:
			return nil, &missingError{dir: dir, ca: id.ca, number: id.number}
		case g == nil:
			return nil, fmt.Errorf("%s is gone: restore it", filepath.Join(dir, generationDir(id.ca, id.number)))
		case known[id].hash != nil && !bytes.Equal(known[id].hash, g.hash()):
			return nil, fmt.Errorf("%w: the certificate of generation %d of CA %s is another one here", otherAuthority(l, filepath.Dir(dir)), id.number, id.ca)
		}
	}
	names, err := l.crlNames(ctx)
	if err != nil {
		return nil, err
	}
	bound, err := l.identity(ctx)
	if err != nil {
		return nil, err
	}
	ends := map[generationID]time.Time{}
	var unknown, keyless, unsettled []*generation
	for _, i := range a.issuers {
		for _, g := range i.all {
			end, ok := known[g.id()]
			if !ok || l.shared && end.hash == nil {
				unknown = append(unknown, g)
			}
			if !names[g.crlName()] {
				keyless = append(keyless, g)
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
	if bound != nil && len(unknown)+len(keyless)+len(unsettled) == 0 {
		return ends, nil
	}
	err = l.writer.Do(ctx, func(ctx context.Context, tx *groupcommit.Tx) error {
		if bound == nil {
			if _, err := tx.ExecContext(ctx, `INSERT INTO authority (identity) VALUES ($1)`, a.identity()); err != nil {
				return err
			}
		}
		for _, g := range unknown {
			if l.shared {
				if err := enterGeneration(ctx, tx, g.id(), g.hash(), false); err != nil {
					return err
				}
			} else if _, err := tx.ExecContext(ctx, `INSERT INTO generations (issuer, number) VALUES ($1, $2)`, g.ca, g.number); err != nil {
				return err
			}
		}
		for _, g := range keyless {
			// A new key's CRL lists what was revoked before: it is made, not believed to be current.
			if _, err := tx.ExecContext(ctx, `INSERT INTO keys (name, issuer) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING`, g.crlName(), g.ca); err != nil {
				return err
			}
		}
		for _, g := range unsettled {
			end, err := settle(ctx, tx, g)
			if err != nil {
				return err
			}
			ends[g.id()] = time.Unix(end, 0).UTC()
		}
		return nil
	})
	return ends, err
}

// settle ends a generation, and returns when its last certificate expires. The row is changed before the certificates are looked
// at: that waits for other processes which are recording one, and has those which come later find that it has ended.
func settle(ctx context.Context, tx *groupcommit.Tx, g *generation) (end int64, err error) {
	if _, err := tx.ExecContext(ctx, `UPDATE generations SET ends = 0 WHERE issuer = $1 AND number = $2 AND ends IS NULL`, g.ca, g.number); err != nil {
		return 0, err
	}
	if err := tx.QueryRowContext(ctx, `SELECT coalesce(max(not_after), 0) FROM certificates WHERE issuer = $1 AND generation = $2`, g.ca, g.number).Scan(&end); err != nil {
		return 0, err
	}
	_, err = tx.ExecContext(ctx, `UPDATE generations SET ends = $1 WHERE issuer = $2 AND number = $3`, end, g.ca, g.number)
	return end, err
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
