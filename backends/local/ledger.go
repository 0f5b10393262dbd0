package local

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/muster-pki/muster/plugins/backend/groupcommit"
	"github.com/muster-pki/muster/plugins/backend/pgprimary"
)

// ledger is the record of what was issued and revoked: one row a certificate, durable before anyone is answered. It is a file
// that only the process writes which holds the directory's lock (ledger_file.go), or a schema of a PostgreSQL database, which
// the processes of all replicas write (ledger_postgres.go).
type ledger struct {
	read   *sql.DB
	write  *sql.DB
	writer *groupcommit.Writer // on write

	*ledgerDialect
	primary *pgprimary.Primary // of one in PostgreSQL
	name    string             // where it is, for people: never with a password
	prepare *sql.Stmt          // byID, on read

	prepareStatus *sql.Stmt // selectStatus, on read
}

// ledgerDialect is what differs between the two in SQL text. Both take $1 for a parameter.
type ledgerDialect struct {
	shared  bool          // other processes write it too
	timeout time.Duration // of one statement or transaction, 0 for none
	byID    string        // of $1: issuer, generation, template, certificate, asked
	insert  string        // of the columns of an entry
	known   string        // generations: issuer, number, ends, hash
}

var (
	errNewerLedger  = errors.New("the ledger was written by a newer version: run that one")
	errOtherLedger  = errors.New("the ledger belongs to another CA than the keys beside it")
	errSerialTaken  = errors.New("another ID has this serial number")
	errNoSuchSerial = errors.New("no certificate with this issuer and serial number")
)

// entry is one row of the ledger.
type entry struct {
	id, issuer, device string
	generation         int
	serial             []byte
	template           []byte
	certificate        []byte
	issuedAt, notAfter time.Time
	asked              int64 // find's, when the ID had no certificate
	shard              int64 // shard.number, 0 for none
}

// identity returns the identity of the CA that the ledger belongs to, nil for a new ledger's.
func (l *ledger) identity(ctx context.Context) ([]byte, error) {
	var identity []byte
	err := l.read.QueryRowContext(ctx, `SELECT identity FROM authority`).Scan(&identity)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return identity, err
}

// bound is the time that a statement has. For the file it has no end: the driver would start a goroutine for each statement
// to watch it.
func (l *ledger) bound() (context.Context, context.CancelFunc) {
	if l.timeout == 0 {
		return context.Background(), func() {}
	}
	return context.WithTimeout(context.Background(), l.timeout)
}

// find returns the row of an ID, nil when it has no certificate, and how often never said so in a ledger that is shared. Of the
// row, issuer, generation, template and certificate are filled.
func (l *ledger) find(id string) (stands *entry, asked int64, err error) {
	ctx, cancel := l.bound()
	defer cancel()
	return scanEntry(l.prepare.QueryRowContext(ctx, id), id)
}

func scanEntry(row *sql.Row, id string) (*entry, int64, error) {
	e := &entry{id: id}
	err := row.Scan(&e.issuer, &e.generation, &e.template, &e.certificate, &e.asked)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, 0, nil
	case err != nil:
		return nil, 0, err
	case e.certificate == nil:
		return nil, e.asked, nil
	}
	return e, e.asked, nil
}

// record makes e durable and returns it, or the row that its ID has already. Once it is called it runs to its end: its
// caller must not stop being "under way" while the row may still appear.
func (l *ledger) record(e *entry) (*entry, error) {
	if l.shared {
		return l.recordShared(e)
	}
	var stands *entry
	err := l.writer.Do(context.Background(), func(ctx context.Context, tx *groupcommit.Tx) error {
		stands = e
		result, err := tx.ExecContext(ctx, l.insert, e.columns()...)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 1 {
			return err
		}
		if stands, _, err = scanEntry(tx.QueryRowContext(ctx, l.byID, e.id), e.id); err == nil && stands == nil {
			err = errSerialTaken
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return stands, nil
}

func (e *entry) columns() []any {
	return []any{e.id, e.issuer, e.generation, e.serial, e.device, e.template, e.certificate, e.issuedAt.Unix(), e.notAfter.Unix(), e.shard}
}

// close waits for the writes under way and closes the ledger.
func (l *ledger) close() error {
	var errs []error
	if l.writer != nil {
		errs = append(errs, l.writer.Close())
	}
	if l.read != nil {
		errs = append(errs, l.read.Close())
	}
	if l.write != nil {
		errs = append(errs, l.write.Close())
	}
	return errors.Join(errs...)
}
