package local

import (
	"cmp"
	"context"
	"crypto/x509"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5/stdlib"
)

// Entry is one certificate as the ledger has it.
type Entry struct {
	ID          string
	Issuer      string // "ec", "rsa" or another name that the configuration gives
	Generation  int    // of the issuer, from 1
	Serial      string // hexadecimal, lower case
	Subject     string // RFC 2253
	Device      string
	IssuedAt    time.Time // of the record
	NotAfter    time.Time
	RevokedAt   time.Time // zero: not revoked
	Reason      int       // CRLReason (RFC 5280 section 5.3.1), with RevokedAt
	Certificate []byte    // DER
}

// ReadLedger lists what the CA in dir has issued, oldest first, whether a process runs the CA or not. It takes no lock
// and changes nothing. It fails with an fs.ErrNotExist when there is no ledger.
func ReadLedger(ctx context.Context, dir string) ([]Entry, error) {
	path := filepath.Join(dir, ledgerFile)
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	// Not mode=ro: the first reader of a database in WAL mode has to make the shared-memory file.
	db, err := sql.Open("sqlite", dsn(path, "mode", "rw", "_pragma", "query_only(1)"))
	if err != nil {
		return nil, err
	}
	var version int
	var entries []Entry
	if err = db.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&version); err == nil {
		generation := "generation"
		if version == 1 { // a ledger that this release has not opened yet
			generation = "1"
		}
		entries, err = listEntries(ctx, db, version, len(ledgerSchema), generation)
	}
	return entries, errors.Join(err, db.Close())
}

// ReadPostgresLedger is ReadLedger for the ledger with a name (Config.LedgerName, "" for the default) in a PostgreSQL database.
func ReadPostgresLedger(ctx context.Context, url LedgerURL, name string) ([]Entry, error) {
	name = cmp.Or(name, defaultLedgerName)
	config, err := postgresConfig(url, name)
	if err != nil {
		return nil, err
	}
	db := stdlib.OpenDB(*config)
	var entries []Entry
	version, err := readPostgresVersion(ctx, db, postgresSchemaName(name))
	if err == nil {
		entries, err = listEntries(ctx, db, version, len(postgresSchema), "generation")
	}
	return entries, errors.Join(err, db.Close())
}

func listEntries(ctx context.Context, db *sql.DB, version, newest int, generation string) ([]Entry, error) {
	switch {
	case version > newest:
		return nil, errNewerLedger
	case version == 0: // made, but its first start has not come to the schema
		return nil, nil
	}
	rows, err := db.QueryContext(ctx, `SELECT id, issuer, `+generation+`, serial, device, certificate, issued_at, not_after, revoked_at, coalesce(reason, 0)
		FROM certificates WHERE certificate IS NOT NULL ORDER BY number`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var entries []Entry
	for rows.Next() {
		var e Entry
		var serial []byte
		var issued, notAfter int64
		var revoked sql.NullInt64
		if err := rows.Scan(&e.ID, &e.Issuer, &e.Generation, &serial, &e.Device, &e.Certificate, &issued, &notAfter, &revoked, &e.Reason); err != nil {
			return nil, err
		}
		c, err := x509.ParseCertificate(e.Certificate)
		if err != nil {
			return nil, fmt.Errorf("certificate of %s: %w", e.ID, err)
		}
		e.Subject, e.Serial = c.Subject.String(), hex.EncodeToString(serial)
		e.IssuedAt, e.NotAfter = time.Unix(issued, 0).UTC(), time.Unix(notAfter, 0).UTC()
		if revoked.Valid {
			e.RevokedAt = time.Unix(revoked.Int64, 0).UTC()
		}
		entries = append(entries, e)
	}
	return entries, rows.Err()
}
