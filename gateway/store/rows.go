package store

import (
	"bytes"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/muster-pki/muster/gateway"
)

const (
	transactionColumns = `id, wire_id, protocol, endpoint, operation, state, source, credentials, requester, device, subject,
		verdicts, repeat, backend, profile, replaces, intent, reason, note, received, updated, ticket,
		resume, confirm_wait, exchange, hold, changes, sealed_key, delivery, facts, queue`
	certificateColumns = `issuer, serial, tx, backend, endpoint, profile, device, requester, subject, subject_raw, key_hash,
		not_before, not_after, der, chain, revoked_at, revocation, replaces`

	// c.issuer is NULL where a transaction has no certificate.
	readTransactionColumns = `t.id, t.wire_id, t.protocol, t.endpoint, t.operation, t.state, t.source, t.credentials,
		t.requester, t.device, t.subject, t.verdicts, t.repeat, t.backend, t.profile, t.replaces, t.intent, t.reason,
		t.note, t.received, t.updated, t.ticket, t.resume, t.confirm_wait, t.hold, t.changes, t.delivery, t.queue`
	readCertificateColumns = `c.issuer, c.serial, c.tx, c.backend, c.endpoint, c.profile, c.device, c.requester, c.subject,
		c.subject_raw, c.key_hash, c.not_before, c.not_after, c.revoked_at, c.revocation, c.replaces`

	selectTransaction = `SELECT ` + readTransactionColumns + `, ` + readCertificateColumns + `, c.der, h.body, t.exchange, t.sealed_key, t.facts
		FROM transactions t LEFT JOIN certificates c ON c.tx = t.id LEFT JOIN chains h ON h.hash = c.chain`
	listTransactions = `SELECT ` + readTransactionColumns + `, ` + readCertificateColumns + `, NULL, NULL, NULL, NULL, NULL
		FROM transactions t LEFT JOIN certificates c ON c.tx = t.id`
	selectCertificate = `SELECT ` + readCertificateColumns + `, c.der, h.body, t.state
		FROM certificates c LEFT JOIN chains h ON h.hash = c.chain LEFT JOIN transactions t ON t.id = c.tx`

	selectSecret = `SELECT endpoint, reference, device, sealed, created, not_after FROM secrets`
	listSecrets  = `SELECT endpoint, reference, device, NULL, created, not_after FROM secrets`
)

// transactionArgs are the parameters of insertTransaction.
func transactionArgs(t *gateway.Transaction) ([]any, error) {
	if err := validKey("transaction ID", t.ID); err != nil {
		return nil, err
	}
	for _, k := range []struct {
		what string
		key  gateway.RepeatKey
	}{{"repeat key", t.Repeat}, {"resume key", t.Resume}} {
		if k.key == "" {
			continue
		}
		if err := validKey(k.what, string(k.key)); err != nil {
			return nil, err
		}
	}
	if t.ConfirmWait < 0 {
		return nil, fmt.Errorf("a certificate does not wait %v to be confirmed", t.ConfirmWait)
	}
	if t.SealedKey != nil && !t.State.Open() {
		return nil, fmt.Errorf("a transaction that is %q keeps no key", t.State)
	}
	credentials, err := marshal(t.Credentials)
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	verdicts, err := marshal(t.Verdicts)
	if err != nil {
		return nil, fmt.Errorf("verdicts: %w", err)
	}
	intent := ""
	if t.Intent != nil {
		if intent, err = marshal(t.Intent); err != nil {
			return nil, fmt.Errorf("intent: %w", err)
		}
	}
	hold, changes, delivery, queue := "", "", "", ""
	if t.Hold != nil {
		if hold, err = marshal(t.Hold); err != nil {
			return nil, fmt.Errorf("hold: %w", err)
		}
	}
	if t.Delivery != nil {
		if t.SealedKey != nil {
			return nil, errors.New("a key that is not kept is not kept sealed")
		}
		if delivery, err = marshal(t.Delivery); err != nil {
			return nil, fmt.Errorf("delivery: %w", err)
		}
	}
	if t.Queue != nil {
		if queue, err = marshal(t.Queue); err != nil {
			return nil, fmt.Errorf("queue: %w", err)
		}
	}
	if len(t.Changes) > 0 {
		if changes, err = marshal(t.Changes); err != nil {
			return nil, fmt.Errorf("changes: %w", err)
		}
	}
	updated := t.Updated
	if updated.IsZero() {
		updated = t.Received
	}
	return []any{
		t.ID, text(t.WireID), text(string(t.Protocol)), text(t.Endpoint), text(string(t.Operation)), string(t.State),
		text(t.Source), credentials, text(t.Requester), text(t.Device), text(t.Subject), verdicts, string(t.Repeat),
		text(t.Backend), text(t.Profile), nullable(t.Replaces), intent, string(t.Reason), text(t.Note),
		micros(t.Received), micros(updated), text(t.Ticket), string(t.Resume), t.ConfirmWait.Microseconds(), nullable(t.Exchange),
		hold, changes, nullable(t.SealedKey), delivery, sql.NullString{String: text(string(t.Facts)), Valid: len(t.Facts) > 0}, queue,
	}, nil
}

// certificateArgs are the parameters of insertCertificate; body is that of the chain, under its hash.
func certificateArgs(c *gateway.Certificate) (args []any, hash []byte, body string, err error) {
	if len(c.Chain) > 0 {
		if body, err = marshal(c.Chain); err != nil {
			return nil, nil, "", err
		}
		sum := sha256.Sum256([]byte(body))
		hash = sum[:]
	}
	return []any{
		blob(c.Issuer), magnitude(c.Serial), c.Transaction, text(c.Backend), text(c.Endpoint), text(c.Profile),
		text(c.Device), text(c.Requester), text(c.Subject), blob(c.SubjectRaw), blob(c.KeyHash),
		micros(c.NotBefore), micros(c.NotAfter), blob(c.DER), nullable(hash), micros(c.RevokedAt), int64(c.Revocation),
		nullable(c.Replaces),
	}, hash, body, nil
}

// transactionRow scans a row of selectTransaction or listTransactions.
func transactionRow(scan func(...any) error) (*gateway.Transaction, error) {
	var t gateway.Transaction
	var credentials, verdicts, intent, hold, changes, delivery, queue string
	var received, updated, confirmWait int64
	var facts sql.NullString
	var c certificateRow
	dest := append([]any{
		&t.ID, &t.WireID, &t.Protocol, &t.Endpoint, &t.Operation, &t.State, &t.Source, &credentials,
		&t.Requester, &t.Device, &t.Subject, &verdicts, &t.Repeat, &t.Backend, &t.Profile, &t.Replaces, &intent, &t.Reason,
		&t.Note, &received, &updated, &t.Ticket, &t.Resume, &confirmWait, &hold, &changes, &delivery, &queue,
	}, c.dest()...)
	if err := scan(append(dest, &t.Exchange, &t.SealedKey, &facts)...); err != nil {
		return nil, notFound(err)
	}
	t.Received, t.Updated = fromMicros(received), fromMicros(updated)
	t.ConfirmWait = time.Duration(confirmWait) * time.Microsecond
	if facts.Valid {
		t.Facts = json.RawMessage(facts.String)
	}
	err := errors.Join(json.Unmarshal([]byte(credentials), &t.Credentials), json.Unmarshal([]byte(verdicts), &t.Verdicts))
	if intent != "" {
		err = errors.Join(err, json.Unmarshal([]byte(intent), &t.Intent))
	}
	if hold != "" {
		err = errors.Join(err, json.Unmarshal([]byte(hold), &t.Hold))
	}
	if changes != "" {
		err = errors.Join(err, json.Unmarshal([]byte(changes), &t.Changes))
	}
	if delivery != "" {
		err = errors.Join(err, json.Unmarshal([]byte(delivery), &t.Delivery))
	}
	if queue != "" {
		err = errors.Join(err, json.Unmarshal([]byte(queue), &t.Queue))
	}
	if err != nil {
		return nil, fmt.Errorf("transaction %s in the store: %w", t.ID, err)
	}
	if c.issuer != nil {
		t.Certificate, err = c.certificate()
	}
	return &t, err
}

// certificateRow takes the columns of a certificate, which are NULL where a LEFT JOIN found none. With a transaction, state
// is left to that.
type certificateRow struct {
	issuer, serial, subjectRaw, keyHash, der, replaces         []byte
	tx, backend, endpoint, profile, device, requester, subject sql.NullString
	notBefore, notAfter, revokedAt, revocation                 sql.NullInt64
	chain, state                                               sql.NullString
}

func (r *certificateRow) dest() []any {
	return []any{
		&r.issuer, &r.serial, &r.tx, &r.backend, &r.endpoint, &r.profile, &r.device, &r.requester, &r.subject,
		&r.subjectRaw, &r.keyHash, &r.notBefore, &r.notAfter, &r.revokedAt, &r.revocation, &r.replaces, &r.der, &r.chain,
	}
}

func (r *certificateRow) certificate() (*gateway.Certificate, error) {
	c := &gateway.Certificate{
		Issuer: r.issuer, Serial: r.serial, Transaction: r.tx.String, Backend: r.backend.String, Endpoint: r.endpoint.String,
		Profile: r.profile.String, Device: r.device.String, Requester: r.requester.String, Subject: r.subject.String,
		SubjectRaw: r.subjectRaw, KeyHash: r.keyHash, NotBefore: fromMicros(r.notBefore.Int64),
		NotAfter: fromMicros(r.notAfter.Int64), DER: r.der, RevokedAt: fromMicros(r.revokedAt.Int64),
		Revocation: int(r.revocation.Int64), Replaces: r.replaces, State: gateway.State(r.state.String),
	}
	if r.chain.Valid {
		if err := json.Unmarshal([]byte(r.chain.String), &c.Chain); err != nil {
			return nil, fmt.Errorf("chain of certificate %x in the store: %w", r.serial, err)
		}
	}
	return c, nil
}

func notFound(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return gateway.ErrNotFound
	}
	return err
}

func marshal(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}

// micros is how times are stored: Unix microseconds, 0 for the zero time. Finer parts are cut off.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

// text makes what came from the network storable: PostgreSQL refuses NUL and invalid UTF-8 in TEXT, and a request
// must not be able to keep its own refusal out of the store.
func text(s string) string {
	if utf8.ValidString(s) && !strings.Contains(s, "\x00") {
		return s
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// validKey refuses what text would change: two keys must not become one.
func validKey(what, key string) error {
	if key == "" || text(key) != key {
		return fmt.Errorf("the %s %q is empty or not valid UTF-8", what, key)
	}
	return nil
}

// blob is never NULL.
func blob(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// nullable is NULL for nil.
func nullable(b []byte) any {
	if b == nil {
		return nil
	}
	return b
}

// magnitude is a serial number in the one form in which it is stored and looked up: without leading zeros.
func magnitude(serial []byte) []byte { return blob(bytes.TrimLeft(serial, "\x00")) }
