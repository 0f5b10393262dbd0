package local

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/pem"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/muster-pki/muster/plugins/backend/groupcommit"
)

// What replicas agree upon in a ledger that they share: whose CA it is, which certificate a generation has, which of them still
// issues, and that nothing is recorded under an ID of which one of them said that nothing was.

var (
	errOtherAuthority = errors.New("the ledger is that of another CA")
	errMadeElsewhere  = errors.New("another replica has made it")
	errAskedMeanwhile = errors.New("another replica was told meanwhile that nothing was issued: ask again")
)

// missingError says that a generation was made by another replica, and is not here.
type missingError struct {
	dir    string // authorityDir's path
	ca     string
	number int
}

func (e *missingError) path() string { return filepath.Join(e.dir, generationDir(e.ca, e.number)) }

// Error is for the operator to act on.
func (e *missingError) Error() string {
	return fmt.Sprintf("another replica has made generation %d of CA %s: copy its folder %s from there to %s (0700, the keys in it 0600)",
		e.number, e.ca, generationDir(e.ca, e.number), e.path())
}

// otherAuthority is what a replica with another authority than the ledger's is told, or with none.
func otherAuthority(l *ledger, dir string) error {
	return fmt.Errorf("%w than that in %s (%s): another replica has made it. Stop this one, put a copy of that replica's folder %s in the place of %s "+
		"(0700, the files in it 0600), or mount it there read-only; a CA of its own needs a `ledger-name` of its own",
		errOtherAuthority, dir, l.name, authorityDir, filepath.Join(dir, authorityDir))
}

// recordShared is record. It fails with errEnded when e's generation issues no more, and with errAskedMeanwhile.
func (l *ledger) recordShared(e *entry) (*entry, error) {
	ctx, cancel := l.bound()
	defer cancel()
	inDoubt := l.primary.Doubt()
	result, err := l.write.ExecContext(ctx, l.insert, append(e.columns(), e.asked)...)
	err = errors.Join(err, inDoubt())
	// Of two at once, one may find the serial number of the other before its ID: unique_violation.
	taken, ok := errors.AsType[*pgconn.PgError](err)
	twin := ok && taken.Code == "23505"
	if err != nil && !twin {
		return nil, err
	}
	if !twin {
		if n, err := result.RowsAffected(); err != nil || n == 1 {
			return e, err
		}
	}
	switch stands, asked, err := l.find(e.id); {
	case err != nil || stands != nil:
		return stands, err
	case twin:
		return nil, errSerialTaken
	case asked != e.asked:
		return nil, errAskedMeanwhile
	}
	return nil, errEnded
}

var errEnded = errors.New("the generation issues no more")

// never makes sure that an ID has no certificate, and gets none by a call that has looked for it before, in whatever process. It
// reports false when there is a certificate.
func (l *ledger) never(id string) (bool, error) {
	ctx, cancel := l.bound()
	defer cancel()
	inDoubt := l.primary.Doubt() // a row that a fail-over loses would stop nobody
	result, err := l.write.ExecContext(ctx, `INSERT INTO certificates (id, asked) VALUES ($1, 1)
		ON CONFLICT (id) DO UPDATE SET asked = certificates.asked + 1 WHERE certificates.certificate IS NULL`, id)
	if err := errors.Join(err, inDoubt()); err != nil {
		return false, err
	}
	n, err := result.RowsAffected()
	return n == 1, err
}

// claim makes the ledger that of a CA, which no other one can be from then on. It fails with errOtherAuthority.
func (l *ledger) claim(ctx context.Context, identity []byte) error {
	return l.writer.Do(ctx, func(ctx context.Context, tx *groupcommit.Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO authority (identity) VALUES ($1) ON CONFLICT DO NOTHING`, identity); err != nil {
			return err
		}
		var stands []byte
		err := tx.QueryRowContext(ctx, `SELECT identity FROM authority`).Scan(&stands)
		if err == nil && !bytes.Equal(stands, identity) {
			err = errOtherAuthority
		}
		return err
	})
}

// claimGeneration makes hash that of the certificate of a generation, or of one that is announced. It fails with errMadeElsewhere
// when that is another one.
func (l *ledger) claimGeneration(ctx context.Context, id generationID, hash []byte, announced bool) error {
	return l.writer.Do(ctx, func(ctx context.Context, tx *groupcommit.Tx) error {
		return enterGeneration(ctx, tx, id, hash, announced)
	})
}

func enterGeneration(ctx context.Context, tx *groupcommit.Tx, id generationID, hash []byte, announced bool) error {
	// One at a time: a generation and an announcement are in two tables.
	if _, err := tx.ExecContext(ctx, `UPDATE authority SET identity = identity`); err != nil {
		return err
	}
	for _, table := range []string{"generations", "announced"} {
		if (table == "announced") == announced {
			if _, err := tx.ExecContext(ctx, `INSERT INTO `+table+` (issuer, number, hash) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`,
				id.ca, id.number, hash); err != nil {
				return err
			}
		}
		var stands []byte
		err := tx.QueryRowContext(ctx, `SELECT hash FROM `+table+` WHERE issuer = $1 AND number = $2`, id.ca, id.number).Scan(&stands)
		switch {
		case errors.Is(err, sql.ErrNoRows):
		case err != nil:
			return err
		case table == "generations" && stands == nil:
			if _, err := tx.ExecContext(ctx, `UPDATE generations SET hash = $3 WHERE issuer = $1 AND number = $2`, id.ca, id.number, hash); err != nil {
				return err
			}
		case !bytes.Equal(stands, hash):
			return errMadeElsewhere
		}
	}
	return nil
}

// hash names the issuing certificate of a generation.
func (g *generation) hash() []byte {
	sum := sha256.Sum256(g.cert.Raw)
	return sum[:]
}

// hashOf is that of a generation whose issuing certificate is in PEM.
func hashOf(text []byte) []byte {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil
	}
	sum := sha256.Sum256(block.Bytes)
	return sum[:]
}
