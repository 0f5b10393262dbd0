package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/muster-pki/muster/gateway/trace"
	"github.com/muster-pki/muster/plugins/backend/groupcommit"
)

// statement names a statement.
type statement int

const (
	// Begin and Refuse.
	takeRepeat statement = iota
	holderOfRepeat
	takeClaim
	noteUse
	noteLapsing
	takeOver
	sweepLapsed
	giveBack
	insertTransaction
	insertWork

	// Settle.
	endWork
	rescheduleWork
	settleTransaction
	resolveTransaction
	insertChain
	dropChain
	insertCertificate
	keepRepeat
	freeRepeat
	releaseClaims
	dropUses

	// Adopt and Conclude.
	adoptTransaction
	freeOldRepeat
	setRepeat
	concludeTransaction
	dropWork
	revokeInstead
	freeResume

	// Secrets.
	putSecret
	dropSecret

	// Work and revocation.
	claimDue
	leaseWork
	askAgain
	postponeWork
	eraseKeyOfCertificate
	markRevoked
	certificateExists
	freeRepeatOfCertificate
	endRevocation

	// Audit and instances.
	auditHead
	insertAudit
	beginSink
	readSink
	moveSink
	touchInstance

	// Messages.
	hear

	// Reads, by the read pool.
	readRepeat
	keyHeld
	readTransaction
	readByWireID
	readCertificate
	readSecret
	readDevice
	readAnyDevice
	readChallenge
	dueBackends
	readInstance

	statements
)

const firstRead = readRepeat

// open are the states of State.Open; a test compares them.
const open = `('held', 'approved', 'issuing', 'queued', 'unknown', 'waiting', 'stuck', 'unconfirmed', 'forwarded')`

// settleable is where a transaction stands that can become $2: an open one, by an outcome that brings its certificate or has
// none; an unconfirmed one, which has its certificate, by an outcome that takes it as given ($7); one that was passed on, which may
// have its certificate, by either; a closed one, not at all. Nothing else becomes forwarded.
const settleable = `CASE WHEN state = 'unconfirmed' THEN $7 AND $2 <> 'forwarded'
	WHEN state = 'forwarded' THEN NOT $7 OR EXISTS (SELECT 1 FROM certificates WHERE tx = $1)
	WHEN state IN ` + open + ` THEN NOT $7 AND $2 <> 'forwarded' ELSE state = $2 END`

// keepKey keeps a generated key for as long as somebody may ask for the answer again ($8), until its device has said that it has it.
const keepKey = `sealed_key = CASE WHEN $8 AND (state <> 'unconfirmed' OR $2 = 'unconfirmed') THEN sealed_key END`

// keysOf are both keys of a transaction. They are few and in an index: each database looks them up in their order.
const keysOf = `((SELECT repeat FROM transactions WHERE id = $1), (SELECT resume FROM transactions WHERE id = $1))`

// ofWireID has the conditions of the index transactions_wire, or it would not be used.
const ofWireID = `SELECT id FROM transactions WHERE wire_id = $2 AND endpoint = $1 AND wire_id <> '' AND length(wire_id) <= 500 AND `

// asking are the kinds of work that ask a CA; a test compares them.
const asking = `('settle', 'queue', 'poll', 'revoke')`

// theCA is the backend of the transaction $1: what work that asks a CA has in its column backend, and other work does not.
const theCA = `COALESCE((SELECT backend FROM transactions WHERE id = $1), '')`

// texts is the SQL of every statement. now($n) is the database's clock.
var texts = [statements]string{
	// Where the key's time is over, the newer transaction takes it; also from one that was closed by an older release, which knows
	// nothing of resume keys. Not where the holder is not seen: it may have been committed a moment ago.
	takeRepeat: `INSERT INTO repeats (key, tx, expires) VALUES ($1, $2, $3)
		ON CONFLICT (key) DO UPDATE SET tx = excluded.tx, expires = excluded.expires WHERE repeats.expires <= $4
		OR repeats.expires = $3 AND EXISTS (SELECT 1 FROM transactions WHERE id = repeats.tx AND state NOT IN ` + open + `)`,
	holderOfRepeat: `SELECT tx FROM repeats WHERE key = $1`,
	takeClaim: `INSERT INTO claims (key, used) VALUES ($1, 1)
		ON CONFLICT (key) DO UPDATE SET used = claims.used + 1 WHERE claims.used < $2`,
	noteUse: `INSERT INTO uses (tx, key, n) VALUES ($1, $2, 1) ON CONFLICT (tx, key) DO UPDATE SET n = uses.n + 1`,
	noteLapsing: `INSERT INTO uses (tx, key, n, until, active, took_over) VALUES ($1, $2, 1, $3, $4, $5)
		ON CONFLICT (tx, key) DO UPDATE SET n = uses.n + 1`,
	takeOver: `UPDATE uses SET n = n - 1 WHERE tx = $1 AND key = $2 AND active = 1 AND n > 0 AND until > $3`,
	sweepLapsed: `DELETE FROM uses WHERE key = $1 AND tx IN
		(SELECT tx FROM uses WHERE key = $1 AND until > 0 AND until <= $2 ORDER BY until LIMIT $3) RETURNING n`,
	giveBack: `UPDATE claims SET used = used - $2 WHERE key = $1`,
	insertTransaction: `INSERT INTO transactions (` + transactionColumns + `)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22,
			$23, $24, $25, $26, $27, $28, $29, $30, $31)`,
	insertWork: `INSERT INTO work (tx, kind, due, owner, lease_until, epoch, attempts, note, backend)
		VALUES ($1, $2, now($7) + $3, $4, now($7) + $5, $6, 0, '', CASE WHEN $2 IN ` + asking + ` THEN ` + theCA + ` ELSE '' END)`,

	endWork: `DELETE FROM work WHERE tx = $1 AND owner = $2 AND epoch = $3`,
	rescheduleWork: `UPDATE work SET attempts = CASE WHEN kind = $4 THEN attempts ELSE 0 END, kind = $4,
		due = now($7) + $5, owner = '', lease_until = 0, note = $6, backend = CASE WHEN $4 IN ` + asking + ` THEN ` + theCA + ` ELSE '' END
		WHERE tx = $1 AND owner = $2 AND epoch = $3`,
	settleTransaction: `UPDATE transactions SET state = $2, reason = $3, note = $4, ticket = $5, updated = $6, ` + keepKey + `
		WHERE id = $1 AND ` + settleable,
	resolveTransaction: `UPDATE transactions SET state = $2, reason = $3, note = $4, ticket = $5, updated = $6, ` + keepKey + `
		WHERE id = $1 AND state IN ` + open + ` AND ` + settleable + ` AND NOT EXISTS (SELECT 1 FROM work WHERE tx = $1)`,
	insertChain: `INSERT INTO chains (hash, body) VALUES ($1, $2) ON CONFLICT (hash) DO NOTHING`,
	dropChain:   `DELETE FROM chains WHERE hash = $1`,
	insertCertificate: `INSERT INTO certificates (` + certificateColumns + `)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18) ON CONFLICT DO NOTHING`,
	keepRepeat: `UPDATE repeats SET expires = $2 WHERE key IN ` + keysOf + ` AND tx = $1`,
	freeRepeat: `DELETE FROM repeats WHERE key IN ` + keysOf + ` AND tx = $1`,
	releaseClaims: `UPDATE claims SET used = used - (SELECT n FROM uses WHERE uses.tx = $1 AND uses.key = claims.key)
		WHERE key IN (SELECT key FROM uses WHERE tx = $1)`,
	dropUses: `DELETE FROM uses WHERE tx = $1`,

	// The time to confirm counts from when the certificate was there, and updated tells when that was.
	adoptTransaction: `UPDATE transactions SET wire_id = $2, exchange = $3,
		updated = CASE WHEN state = 'unconfirmed' THEN updated ELSE $4 END WHERE id = $1 AND state IN ` + open,
	freeOldRepeat: `DELETE FROM repeats
		WHERE key = (SELECT repeat FROM transactions WHERE id = $1 AND repeat <> resume) AND tx = $1`,
	setRepeat: `UPDATE transactions SET repeat = $2 WHERE id = $1`,
	concludeTransaction: `UPDATE transactions SET state = $2, note = $3, exchange = $4, updated = $5, sealed_key = NULL,
		confirmed = CASE WHEN $2 = 'issued' THEN CAST($5 AS BIGINT) ELSE 0 END
		WHERE id = $1 AND state = 'unconfirmed' AND ($6 = '' OR wire_id = $6)`,
	dropWork: `DELETE FROM work WHERE tx = $1`,
	revokeInstead: `UPDATE work SET kind = 'revoke', due = now($2), owner = '', lease_until = 0, epoch = epoch + 1,
		attempts = 0, note = '', backend = ` + theCA + ` WHERE tx = $1`,
	freeResume: `DELETE FROM repeats
		WHERE key = (SELECT resume FROM transactions WHERE id = $1 AND repeat <> resume) AND tx = $1`,

	putSecret: `INSERT INTO secrets (endpoint, reference, device, sealed, created, not_after) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (endpoint, reference) DO UPDATE SET device = excluded.device, sealed = excluded.sealed,
		created = excluded.created, not_after = excluded.not_after`,
	dropSecret: `DELETE FROM secrets WHERE endpoint = $1 AND reference = $2`,

	// The rows are found and locked once (MATERIALIZED): PostgreSQL may otherwise run the subquery again for each row.
	claimDue: `WITH due AS MATERIALIZED (SELECT tx FROM work WHERE backend = $5 AND due <= now($4) AND lease_until <= now($4)
			ORDER BY due LIMIT $3 {skip locked})
		UPDATE work SET owner = $1, lease_until = now($4) + $2, epoch = epoch + 1, attempts = attempts + 1
		WHERE tx IN (SELECT tx FROM due)
		RETURNING tx, kind, backend, due, attempts - 1, owner, epoch, note`,
	leaseWork: `UPDATE work SET owner = $2, lease_until = now($4) + $3, epoch = epoch + 1
		WHERE tx = $1 AND kind IN ('settle', 'queue', 'poll') AND lease_until <= now($4) RETURNING epoch`,
	askAgain: `UPDATE transactions SET updated = $4
		WHERE id = $1 AND EXISTS (SELECT 1 FROM work WHERE tx = $1 AND owner = $2 AND epoch = $3)`,
	postponeWork: `UPDATE work SET owner = '', lease_until = 0, due = now($6) + $4, note = $5
		WHERE tx = $1 AND owner = $2 AND epoch = $3`,
	eraseKeyOfCertificate: `UPDATE transactions SET sealed_key = NULL
		WHERE id = (SELECT tx FROM certificates WHERE issuer = $1 AND serial = $2) AND sealed_key IS NOT NULL`,
	markRevoked:       `UPDATE certificates SET revoked_at = $3, revocation = $4 WHERE issuer = $1 AND serial = $2 AND revoked_at = 0`,
	certificateExists: `SELECT 1 FROM certificates WHERE issuer = $1 AND serial = $2`,
	freeRepeatOfCertificate: `DELETE FROM repeats WHERE tx = (SELECT tx FROM certificates WHERE issuer = $1 AND serial = $2)
		AND key IN ((SELECT t.repeat FROM certificates c JOIN transactions t ON t.id = c.tx WHERE c.issuer = $1 AND c.serial = $2),
		(SELECT t.resume FROM certificates c JOIN transactions t ON t.id = c.tx WHERE c.issuer = $1 AND c.serial = $2))`,
	endRevocation: `DELETE FROM work WHERE kind = 'revoke'
		AND tx = (SELECT tx FROM certificates WHERE issuer = $1 AND serial = $2)`,

	auditHead:   `SELECT seq, hash FROM audit WHERE stream = $1 ORDER BY seq DESC LIMIT 1`,
	insertAudit: `INSERT INTO audit (stream, seq, prev, hash, body) VALUES ($1, $2, $3, $4, $5)`,
	touchInstance: `INSERT INTO instances (name, started, seen) VALUES ($1, $2, $3)
		ON CONFLICT (name) DO UPDATE SET started = excluded.started, seen = excluded.seen`,

	beginSink: `INSERT INTO audit_sinks (stream, sink, seq) VALUES ($1, $2, $3) ON CONFLICT (stream, sink) DO NOTHING`,
	readSink:  `SELECT seq FROM audit_sinks WHERE stream = $1 AND sink = $2`,
	moveSink:  `UPDATE audit_sinks SET seq = $3 WHERE stream = $1 AND sink = $2`,

	hear: hearText,

	readRepeat: selectTransaction + ` JOIN repeats r ON r.tx = t.id
		WHERE r.key = $1 AND r.expires > $2 AND (r.expires < $3 OR t.state IN ` + open + `)`,
	keyHeld:         `SELECT 1 FROM repeats WHERE key = $1 AND expires > $2`,
	readTransaction: selectTransaction + ` WHERE t.id = $1`,
	// Whoever is refused under another's wire ID, or begins with it at the same time, hides nothing from it.
	readByWireID: selectTransaction + ` WHERE t.id = COALESCE((` + ofWireID + `state IN ` + open + ` ORDER BY id DESC LIMIT 1),
		(` + ofWireID + `state <> 'refused' ORDER BY id DESC LIMIT 1))`,
	readCertificate: selectCertificate + ` WHERE c.issuer = $1 AND c.serial = $2`,
	readSecret:      selectSecret + ` WHERE endpoint = $1 AND reference = $2`,
	readDevice:      readDeviceText,
	readAnyDevice:   readAnyDeviceText,
	readChallenge:   selectChallenge + ` WHERE hash = $1`,
	// Each name is found by one look into the index, however many rows it has.
	dueBackends: `WITH RECURSIVE named(backend) AS (SELECT min(backend) FROM work UNION ALL
			SELECT (SELECT min(w.backend) FROM work w WHERE w.backend > named.backend) FROM named WHERE named.backend IS NOT NULL),
		waiting AS (SELECT backend, (SELECT w.due FROM work w WHERE w.backend = named.backend AND w.due <= now($1) AND w.lease_until <= now($1)
			ORDER BY w.due LIMIT 1) AS due FROM named)
		SELECT backend FROM waiting WHERE due IS NOT NULL ORDER BY due, backend`,
	readInstance: `SELECT 1 FROM instances WHERE name = $1`,
}

// prepare renders all statements, and prepares those of the read pool; the writer prepares its own.
func (s *Store) prepare(ctx context.Context) error {
	for i, text := range texts {
		s.texts[i] = s.dialect.sql(text)
		if statement(i) < firstRead {
			continue
		}
		p, err := s.readDB.PrepareContext(ctx, s.texts[i])
		if err != nil {
			return fmt.Errorf("prepare %q: %w", text, err)
		}
		s.prepared[i] = p
	}
	return nil
}

// unit runs statements in one unit of the writer.
type unit struct {
	s     *Store
	ctx   context.Context
	tx    *groupcommit.Tx
	event *int64 // the record that it appended to the audit trail; nil where it appends none
}

// write commits a unit. What it appended to the audit trail is with every sink when it returns nil; it is committed all the same when
// that is ErrUnaudited.
func (s *Store) write(ctx context.Context, fn func(u unit) error) error {
	ctx, span := trace.Start(ctx, "store commit")
	defer span.End()
	began := time.Now()
	var event int64
	err := s.writer.Do(ctx, func(ctx context.Context, tx *groupcommit.Tx) error {
		event = 0
		return fn(unit{s, ctx, tx, &event})
	})
	s.commits.Observe(time.Since(began).Seconds())
	if err != nil {
		span.Fail("")
	}
	if err != nil || event == 0 {
		return err
	}
	return s.shipped(ctx, event)
}

// exec runs a statement and returns how many rows it changed.
func (u unit) exec(st statement, args ...any) (int64, error) {
	res, err := u.tx.ExecContext(u.ctx, u.s.texts[st], args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func (u unit) query(st statement, args ...any) (*sql.Rows, error) {
	return u.tx.QueryContext(u.ctx, u.s.texts[st], args...)
}

func (u unit) queryRow(st statement, args ...any) *sql.Row {
	return u.tx.QueryRowContext(u.ctx, u.s.texts[st], args...)
}

// read runs a prepared read outside of any unit. Once begun, one of SQLite's runs to its end: a row is read in microseconds,
// and to watch a context meanwhile costs two goroutines, one of database/sql and one of the driver.
func (s *Store) read(ctx context.Context, st statement, args ...any) *sql.Row {
	if s.dialect == &sqliteDialect && ctx.Err() == nil {
		ctx = context.Background()
	}
	return s.prepared[st].QueryRowContext(ctx, args...)
}
