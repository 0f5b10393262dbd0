package local

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"

	"github.com/muster-pki/muster/plugins/backend/groupcommit"
	_ "modernc.org/sqlite" // the database/sql driver "sqlite"
)

// ledgerSchema: entry n leads from version n to n+1 (SQLite's user_version).
var ledgerSchema = [...]string{`
CREATE TABLE authority (
	identity BLOB NOT NULL             -- of the CA whose ledger this is: authority.identity
) STRICT;
CREATE TABLE certificates (
	number      INTEGER PRIMARY KEY,   -- order of issuing
	id          TEXT    NOT NULL UNIQUE,
	issuer      TEXT    NOT NULL,      -- issuer.name
	serial      BLOB    NOT NULL,      -- big-endian magnitude
	device      TEXT    NOT NULL,
	template    BLOB    NOT NULL,      -- template.digest
	certificate BLOB    NOT NULL,      -- DER
	issued_at   INTEGER NOT NULL,      -- Unix seconds, as all times here
	not_after   INTEGER NOT NULL,
	revoked_at  INTEGER,
	reason      INTEGER,               -- CRLReason, RFC 5280 section 5.3.1
	delisted    INTEGER NOT NULL DEFAULT 0, -- 1: expired, and was on a CRL made after that (RFC 5280 section 3.3)
	UNIQUE (issuer, serial)
) STRICT;
CREATE INDEX listed ON certificates (issuer) WHERE revoked_at IS NOT NULL AND delisted = 0;
CREATE TABLE issuers (
	name        TEXT    NOT NULL PRIMARY KEY,
	revocations INTEGER NOT NULL DEFAULT 0, -- how many there were
	crl_number  INTEGER NOT NULL DEFAULT 0, -- of the newest CRL
	crl_covers  INTEGER NOT NULL DEFAULT 0, -- how many of the revocations it knows
	crl_made    INTEGER NOT NULL DEFAULT 0, -- thisUpdate
	crl_next    INTEGER NOT NULL DEFAULT 0, -- nextUpdate
	crl         BLOB                        -- DER
) STRICT;
`, `
ALTER TABLE certificates ADD COLUMN generation INTEGER NOT NULL DEFAULT 1; -- of the issuer: generation.number
CREATE TABLE generations (
	issuer TEXT    NOT NULL,           -- issuer.name
	number INTEGER NOT NULL,
	ends   INTEGER,                    -- when the last certificate of one that issues no more expires, 0 for none; NULL while it issues
	PRIMARY KEY (issuer, number)
) STRICT;
INSERT INTO generations (issuer, number) SELECT name, 1 FROM issuers;
-- A row is a key's from here on: a CA has as many CRLs as keys.
ALTER TABLE issuers RENAME TO keys;
ALTER TABLE keys ADD COLUMN issuer TEXT NOT NULL DEFAULT ''; -- issuer.name
UPDATE keys SET issuer = name, name = name || '.1';          -- name: generation.crlName
`, `
ALTER TABLE certificates ADD COLUMN shard INTEGER NOT NULL DEFAULT 0; -- keys.shard: the CRL that lists it beside the complete ones; 0: none
CREATE INDEX sharded ON certificates (issuer, shard, not_after) WHERE shard > 0;
DROP INDEX listed;
CREATE INDEX listed ON certificates (issuer, shard) WHERE revoked_at IS NOT NULL AND delisted = 0;
-- A row is a CRL's from here on: the complete one of each key, and those of shards.
ALTER TABLE keys ADD COLUMN shard INTEGER NOT NULL DEFAULT 0; -- counts from 1 for each issuer; 0: a complete CRL
ALTER TABLE keys ADD COLUMN uris  TEXT    NOT NULL DEFAULT ''; -- of a shard: in its certificates and its CRL, one a line
ALTER TABLE keys ADD COLUMN taken INTEGER NOT NULL DEFAULT 0; -- of a shard: how many places were given out
CREATE UNIQUE INDEX shards ON keys (issuer, shard) WHERE shard > 0;
`}

// dsn names the ledger's file for the driver, with pragmas that hold for each connection.
func dsn(path string, query ...string) string {
	q := url.Values{"_pragma": {"busy_timeout(10000)", "synchronous(FULL)"}}
	for i := 0; i+1 < len(query); i += 2 {
		q.Add(query[i], query[i+1])
	}
	return (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: q.Encode()}).String()
}

// openLedger opens the ledger in dir for writing, makes it when it is missing, and brings its schema up to date.
func openLedger(ctx context.Context, dir string, log *slog.Logger) (_ *ledger, err error) {
	path := filepath.Join(dir, ledgerFile)
	// SQLite gives its -wal and -shm files the mode of this one.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	if err := syncDir(dir); err != nil {
		return nil, err
	}
	if err := groupcommit.Settle(path); err != nil {
		return nil, err
	}
	l := &ledger{ledgerDialect: &inFile, name: path}
	defer func() {
		if err != nil {
			_ = l.close()
		}
	}()
	if l.write, err = sql.Open("sqlite", dsn(path, "_pragma", "journal_mode(WAL)", "_txlock", "immediate")); err != nil {
		return nil, err
	}
	l.write.SetMaxOpenConns(1)
	if err := migrate(ctx, l.write); err != nil {
		return nil, err
	}
	if l.read, err = sql.Open("sqlite", dsn(path, "_pragma", "query_only(1)")); err != nil {
		return nil, err
	}
	l.read.SetMaxIdleConns(readers)
	l.read.SetMaxOpenConns(readers)
	if l.prepare, err = l.read.PrepareContext(ctx, l.byID); err != nil {
		return nil, err
	}
	if l.prepareStatus, err = l.read.PrepareContext(ctx, selectStatus); err != nil {
		return nil, err
	}
	l.writer = groupcommit.New(l.write, groupcommit.Options{Log: log, Begin: "BEGIN IMMEDIATE"})
	return l, nil
}

var inFile = ledgerDialect{
	byID: `SELECT issuer, generation, template, certificate, 0 FROM certificates WHERE id = $1`,
	insert: `INSERT INTO certificates
		(id, issuer, generation, serial, device, template, certificate, issued_at, not_after, shard) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
		ON CONFLICT (id) DO NOTHING`,
	known: `SELECT issuer, number, ends, NULL FROM generations`,
}

// readers is the number of connections that read.
const readers = 4

// migrate brings the schema to this release's version. A newer one is refused: it may say what this release cannot read.
func migrate(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // after Commit it does nothing
	var version int
	if err := tx.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&version); err != nil {
		return err
	}
	if version > len(ledgerSchema) {
		return fmt.Errorf("%w (schema %d, this one knows %d)", errNewerLedger, version, len(ledgerSchema))
	}
	if version == len(ledgerSchema) {
		return nil
	}
	for ; version < len(ledgerSchema); version++ {
		if _, err := tx.ExecContext(ctx, ledgerSchema[version]); err != nil {
			return fmt.Errorf("schema %d: %w", version+1, err)
		}
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf(`PRAGMA user_version = %d`, version)); err != nil {
		return err
	}
	return tx.Commit()
}
