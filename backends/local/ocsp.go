package local

import (
	"container/list"
	"context"
	"crypto"
	"database/sql"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"google.golang.org/grpc/codes"
)

const (
	ocspFollow  = 2 * time.Second // how old the knowledge may be that nothing was revoked by another replica
	ocspLookers = readers / 2     // connections that OCSP takes of the ledger: the others are for issuing
)

// answers are the OCSP answers of a CA: each signed once for a certificate and half a validity, and kept.
type answers struct {
	validity time.Duration
	most     int // that are kept
	nonces   bool

	// changes is counted up by every revocation. An answer that was found right at an earlier count is looked into again before
	// it is given: that costs a look into the ledger, and a signature only where its certificate is the one.
	changes atomic.Uint64

	mu   sync.Mutex
	kept map[answerKey]*list.Element // of *answer
	used list.List                   // the last asked for first

	looking chan struct{} // a place each for who looks into the ledger
	signing chan struct{} // held by who signs: one at a time takes one processor at most, and signs nothing twice
	signers map[string]*responder
	signed  atomic.Int64 // how many there were

	following   sync.Mutex
	followed    atomic.Int64 // Unix milliseconds; 0 for never
	revocations int64

	stop func() // ends the signing in advance; nil where there is none
}

// answerKey is what an answer is about: ocspKey.id, how the question named the CA, the serial number.
type answerKey struct {
	key    string
	hash   crypto.Hash
	serial string
}

// answer is a signed one. It is never changed.
type answer struct {
	at         answerKey
	signed     []byte // what responder.sign returned
	by         *responder
	this, next time.Time
	status     ocspStatus
	changes    uint64 // up to which it is known to be right
}

// fresh reports whether the answer is given without another one being signed.
func (a *answer) fresh(now time.Time) bool {
	return !now.Before(a.this) && now.Before(a.this.Add(a.next.Sub(a.this)/2))
}

func newAnswers(c *OCSP) *answers {
	return &answers{
		validity: time.Duration(c.Validity), most: c.Keep, nonces: c.Nonce,
		kept: map[answerKey]*list.Element{}, signers: map[string]*responder{},
		looking: make(chan struct{}, ocspLookers), signing: make(chan struct{}, 1),
	}
}

// find returns what is kept, nil for nothing.
func (o *answers) find(at answerKey) *answer {
	o.mu.Lock()
	defer o.mu.Unlock()
	e := o.kept[at]
	if e == nil {
		return nil
	}
	o.used.MoveToFront(e)
	return e.Value.(*answer)
}

// keep puts an answer in the place of the one before, and drops what was not asked for the longest.
func (o *answers) keep(a *answer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if e := o.kept[a.at]; e != nil {
		e.Value = a
		o.used.MoveToFront(e)
		return
	}
	o.kept[a.at] = o.used.PushFront(a)
	for len(o.kept) > o.most {
		last := o.used.Back()
		delete(o.kept, last.Value.(*answer).at)
		o.used.Remove(last)
	}
}

// take waits for a place.
func take(ctx context.Context, places chan struct{}) error {
	select {
	case places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// OCSP is backend.OCSPResponder: RFC 6960 in the profile of RFC 5019. The answer about a certificate of an earlier key is
// signed in that key's name: the question says which (issuerKeyHash). What was never issued, has expired, or is asked
// about beside others is `unauthorized`, which costs a look into an index. NOT_FOUND: no such CA. UNAVAILABLE: the ledger
// does not answer, and no answer that is known to be right is at hand.
func (c *CA) OCSP(ctx context.Context, name string, request []byte) ([]byte, error) {
	r, err := c.running()
	if err != nil {
		return nil, err
	}
	ca, _ := r.crlNamed(name)
	if ca == nil {
		return nil, backend.Refuse(codes.NotFound, "no CA is named %q", name)
	}
	q, err := parseOCSPRequest(request)
	if err != nil {
		return ocspError(ocspMalformed), nil
	}
	now := c.o.Clock().UTC().Truncate(time.Second)
	key := r.ocspKeys.named(ca, &q.cert)
	if key == nil || q.certs > 1 || q.critical || !now.Before(key.by.cert.NotAfter) {
		return ocspError(ocspUnauthorized), nil
	}
	r.follow(c)
	var nonce []byte
	if r.ocsp.nonces {
		nonce = q.nonce
	}
	der, err := r.answer(ctx, c, key, &q.cert, nonce, now)
	if err != nil {
		return nil, backend.Refuse(codes.Unavailable, "OCSP: %v", err)
	}
	return der, nil
}

// answer gives the kept answer, or makes one.
func (r *running) answer(ctx context.Context, c *CA, key *ocspKey, id *certID, nonce []byte, now time.Time) ([]byte, error) {
	o := r.ocsp
	at := answerKey{key.id, id.hash, id.serial}
	changes := o.changes.Load() // before the ledger is read
	stands := o.find(at)
	if nonce == nil && stands != nil && stands.changes == changes && stands.fresh(now) {
		return ocspAnswer(stands.signed, stands.by.cert)
	}
	status, err := r.statusOf(ctx, key, id.serial)
	switch {
	case err != nil && nonce == nil && stands != nil && stands.changes == changes && now.Before(stands.next):
		c.o.Log.Warn("an OCSP answer of before is given again: the ledger does not answer", "err", err)
		return ocspAnswer(stands.signed, stands.by.cert)
	case err != nil:
		return nil, err
	case status == nil || status.notAfter.Before(now):
		return ocspError(ocspUnauthorized), nil
	case nonce == nil && stands != nil && stands.status == *status && stands.fresh(now):
		still := *stands
		still.changes = changes
		o.keep(&still)
		return ocspAnswer(still.signed, still.by.cert)
	}
	a, err := r.sign(ctx, c, key, id, nonce, &answer{at: at, status: *status, changes: changes}, now)
	if err != nil {
		return nil, err
	}
	return ocspAnswer(a.signed, a.by.cert)
}

// sign completes an answer and keeps it, but for one with a nonce; or it returns one that another call has signed meanwhile.
func (r *running) sign(ctx context.Context, c *CA, key *ocspKey, id *certID, nonce []byte, a *answer, now time.Time) (*answer, error) {
	o := r.ocsp
	if err := take(ctx, o.signing); err != nil {
		return nil, err
	}
	defer func() { <-o.signing }()
	if nonce == nil {
		if other := o.find(a.at); other != nil && other.changes >= a.changes && other.status == a.status && other.fresh(now) {
			return other, nil
		}
	}
	by := o.signers[key.id]
	if by == nil || !by.lasts(o.validity, now) {
		made, err := makeResponder(key.by, o.validity, now)
		if err != nil {
			return nil, err
		}
		made.log(ctx, c.o.Log)
		by, o.signers[key.id] = made, made
	}
	a.by, a.this, a.next = by, now, now.Add(o.validity)
	if a.next.After(by.cert.NotAfter) {
		a.next = by.cert.NotAfter
	}
	name, err := by.keyHash()
	if err != nil {
		return nil, err
	}
	data, err := ocspData(name, id, &a.status, a.this, a.next, nonce)
	if err != nil {
		return nil, err
	}
	if a.signed, err = by.sign(data); err != nil {
		return nil, err
	}
	o.signed.Add(1)
	if nonce == nil {
		o.keep(a)
	}
	return a, nil
}

// statusOf looks a certificate of a key up; nil when the key has signed none with the serial number.
func (r *running) statusOf(ctx context.Context, key *ocspKey, serial string) (*ocspStatus, error) {
	if err := take(ctx, r.ocsp.looking); err != nil {
		return nil, err
	}
	defer func() { <-r.ocsp.looking }()
	s, err := r.ledger.status(key.ca.name, []byte(serial))
	if s == nil || err != nil {
		return nil, err
	}
	by := key.ca.numbered(s.generation)
	if by == nil {
		return nil, &missingError{dir: r.authorityDir(), ca: key.ca.name, number: s.generation}
	}
	if r.ocspKeys.of(by) != key {
		return nil, nil
	}
	return s, nil
}

// selectStatus is ledger.status's, of $1 and $2: it goes by the index of (issuer, serial).
const selectStatus = `SELECT generation, not_after, revoked_at, reason FROM certificates WHERE issuer = $1 AND serial = $2`

// status is what the ledger knows of a certificate; nil when there is none.
func (l *ledger) status(issuer string, serial []byte) (*ocspStatus, error) {
	ctx, cancel := l.bound()
	defer cancel()
	s, err := scanStatus(l.prepareStatus.QueryRowContext(ctx, issuer, serial))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return s, err
}

func scanStatus(row interface{ Scan(...any) error }, more ...any) (*ocspStatus, error) {
	var s ocspStatus
	var notAfter int64
	var revoked, reason sql.NullInt64
	if err := row.Scan(append(more, &s.generation, &notAfter, &revoked, &reason)...); err != nil {
		return nil, err
	}
	s.notAfter = time.Unix(notAfter, 0).UTC()
	if revoked.Valid {
		s.revoked, s.reason = time.Unix(revoked.Int64, 0).UTC(), int(reason.Int64)
	}
	return &s, nil
}

// follow asks the ledger, every ocspFollow at most and one call at a time, whether anything was revoked, by whatever process.
// While it does not answer, what was known before counts: answers stand for their validity.
func (r *running) follow(c *CA) {
	o, now := r.ocsp, c.o.Clock().UnixMilli()
	due := func() bool {
		since := now - o.followed.Load()
		return since < 0 || since >= ocspFollow.Milliseconds()
	}
	if !due() {
		return
	}
	o.following.Lock()
	defer o.following.Unlock()
	if !due() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), ocspFollow)
	defer cancel()
	var revocations int64
	err := r.ledger.read.QueryRowContext(ctx, `SELECT CAST(coalesce(sum(revocations), 0) AS BIGINT) FROM keys`).Scan(&revocations)
	switch {
	case err != nil:
		c.o.Log.Warn("OCSP answers may lack what another replica revokes meanwhile: the ledger does not answer", "err", err)
	case revocations != o.revocations:
		o.revocations = revocations
		o.changes.Add(1)
	}
	o.followed.Store(now)
}
