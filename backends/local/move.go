package local

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/muster-pki/muster/plugins/backend/groupcommit"
)

// movedSuffix ends the name of a ledger's file whose content is in PostgreSQL.
const movedSuffix = ".moved"

// move takes what stands in the ledger's file over into l, in one transaction, and renames the file after it. A crash between the
// two is seen by the numbers that the ledger keeps. A file that is not the ledger's is refused.
func (c *CA) move(ctx context.Context, l *ledger, dir string, hasAuthority bool) error {
	path := filepath.Join(dir, ledgerFile)
	from, err := openLedger(ctx, dir, c.o.Log)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	count, err := c.moveInto(ctx, l, from, dir, hasAuthority)
	if err := errors.Join(err, from.close()); err != nil { // closing it leaves one file
		return err
	}
	if err := os.Rename(path, path+movedSuffix); err != nil {
		return err
	}
	if err := syncDir(dir); err != nil {
		return err
	}
	c.o.Log.Info("the ledger has moved to PostgreSQL", "from", path, "ledger", l.name, "certificates", count)
	return nil
}

func (c *CA) moveInto(ctx context.Context, l, from *ledger, dir string, hasAuthority bool) (count int64, err error) {
	var revoked int64
	if err := from.read.QueryRowContext(ctx, `SELECT count(*), count(revoked_at) FROM certificates`).Scan(&count, &revoked); err != nil {
		return 0, err
	}
	whose, err := from.identity(ctx)
	if err != nil || whose == nil && count == 0 && !hasAuthority {
		return 0, err // a first start that did not come to its end
	}
	var bound []byte
	var moved, movedRevoked sql.NullInt64
	err = l.write.QueryRowContext(ctx, `SELECT identity, moved, moved_revoked FROM authority`).Scan(&bound, &moved, &movedRevoked)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return count, c.copyInto(ctx, l, from, whose, count, revoked)
	case err != nil:
		return 0, unreachable(err)
	case string(bound) == string(whose) && moved.Valid && moved.Int64 == count && movedRevoked.Int64 == revoked:
		// A crash before the rename, or a commit in doubt: one that comes after it is on the standby no sooner.
		return count, unreachable(l.writer.Do(ctx, func(ctx context.Context, tx *groupcommit.Tx) error {
			_, err := tx.ExecContext(ctx, `UPDATE authority SET moved = moved`)
			return err
		}))
	}
	return 0, fmt.Errorf("there are two ledgers: %s, and %s: which of them a certificate is in is not known. Keep the one that was in use last, and put the other one away",
		filepath.Join(dir, ledgerFile), l.name)
}

// moveRate, in octets a second, is a tenth of what two busy cores do, server included (1,000,000 certificates, 840 MB, in 23 s).
const moveRate = 4 << 20

// MoveTime bounds what a start with the configuration takes longer than others, since a ledger's file moves to PostgreSQL: 0 where
// there is none.
func MoveTime(config []byte) time.Duration {
	_, full, err := parseConfig(config)
	if err != nil || full.Ledger == "" {
		return 0
	}
	file, err := os.Stat(filepath.Join(full.Dir, ledgerFile))
	if err != nil {
		return 0
	}
	return time.Duration(file.Size()/moveRate+1) * time.Second
}

// moveStep is after how many certificates the log says how far it is.
const moveStep = 100_000

// movedTables are copied column by column.
var movedTables = []struct {
	name    string
	columns []string
}{
	{"certificates", []string{"number", "id", "issuer", "generation", "serial", "device", "template", "certificate", "issued_at", "not_after", "revoked_at", "reason", "delisted", "shard"}},
	{"generations", []string{"issuer", "number", "ends"}},
	{"keys", []string{"name", "issuer", "revocations", "crl_number", "crl_covers", "crl_made", "crl_next", "crl", "shard", "uris", "taken"}},
}

func (c *CA) copyInto(ctx context.Context, l, from *ledger, whose []byte, count, revoked int64) error {
	conn, err := l.write.Conn(ctx)
	if err != nil {
		return unreachable(err)
	}
	defer conn.Close()
	inDoubt := l.primary.Doubt()
	err = conn.Raw(func(driver any) error {
		return pgx.BeginFunc(ctx, driver.(*stdlib.Conn).Conn(), func(tx pgx.Tx) error {
			// A bound of the server's, for what users ask, is none for this.
			if _, err := tx.Exec(ctx, `SET LOCAL statement_timeout = 0`); err != nil {
				return err
			}
			// The row is first, so that of two replicas with a copy of one file the second one waits, and is refused.
			if _, err := tx.Exec(ctx, `INSERT INTO authority (identity, moved, moved_revoked) VALUES ($1, $2, $3)`, whose, count, revoked); err != nil {
				return err
			}
			for _, table := range movedTables {
				if err := copyTable(ctx, tx, from, table.name, table.columns, func(n int64) {
					if n%moveStep == 0 {
						c.o.Log.Info("moving the ledger to PostgreSQL", "rows", n, "of", count)
					}
				}); err != nil {
					return fmt.Errorf("moving %s: %w", table.name, err)
				}
			}
			_, err := tx.Exec(ctx, `SELECT setval(pg_get_serial_sequence('certificates', 'number'), (SELECT coalesce(max(number), 0) + 1 FROM certificates), false)`)
			return err
		})
	})
	return unreachable(errors.Join(err, inDoubt()))
}

func copyTable(ctx context.Context, tx pgx.Tx, from *ledger, table string, columns []string, read func(n int64)) error {
	list := ""
	for i, column := range columns {
		if i > 0 {
			list += ", "
		}
		list += column
	}
	rows, err := from.read.QueryContext(ctx, `SELECT `+list+` FROM `+table)
	if err != nil {
		return err
	}
	defer rows.Close()
	n := int64(0)
	_, err = tx.CopyFrom(ctx, pgx.Identifier{table}, columns, pgx.CopyFromFunc(func() ([]any, error) {
		if !rows.Next() {
			return nil, rows.Err()
		}
		n++
		read(n)
		values, into := make([]any, len(columns)), make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		return values, rows.Scan(into...)
	}))
	return err
}
