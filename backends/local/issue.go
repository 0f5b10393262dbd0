package local

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/muster-pki/muster/plugins/backend"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxName bounds an ID, and the name of a device, in octets.
const maxName = 256

// Issue certifies the template: the ledger is asked for the ID, the template is checked, the certificate is signed and
// recorded, and then the answer is given. What the ledger has is not checked again: configuration and release may have
// changed since, and a refusal would say that nothing was issued. Serial number and signature follow from the ID (but see running.serial), so that a process which died in between
// has left nothing that the next one would not make again, or, after a rollover, make under the new generation: what was
// not recorded nobody has seen. What is recorded stays what it is, chain included.
//
// INVALID_ARGUMENT: the template or the CSR is not certified. ALREADY_EXISTS: the ID was used for another content.
// UNAVAILABLE: the ledger could not be read or written. CANCELED, DEADLINE_EXCEEDED: the caller left before it began.
func (c *CA) Issue(ctx context.Context, q *backend.IssueRequest) (*backend.Issuance, error) {
	r, err := c.running()
	if err != nil {
		return nil, err
	}
	if q.ID == "" || !plain(q.ID) {
		return nil, backend.Refuse(codes.InvalidArgument, "ID: 1 to %d octets of UTF-8 without control characters", maxName)
	}
	if !plain(q.Device) {
		return nil, backend.Refuse(codes.InvalidArgument, "device: at most %d octets of UTF-8 without control characters", maxName)
	}
	// From here on, Lookup does not answer "never" for the ID. A caller that gave up before it asked Lookup has ended
	// our context by then: so whoever comes here after such an answer ends here.
	leave, err := r.flights.enter(ctx, q.ID)
	if err != nil {
		return nil, status.FromContextError(err).Err()
	}
	defer leave()

	if err := c.catchUp(ctx); err != nil {
		return nil, backend.Refuse(codes.Unavailable, "%v", err)
	}
	for again := false; ; again = true {
		issuance, err := c.certify(q)
		missing, ok := errors.AsType[*missingError](err)
		if !ok {
			return issuance, err
		}
		if again {
			return nil, backend.Refuse(codes.Unavailable, "%v", missing)
		}
		if err := c.follow(ctx, r, missing); err != nil {
			return nil, backend.Refuse(codes.Unavailable, "%v", err)
		}
	}
}

// certify is Issue when the call has its turn. It fails with a missingError when the ledger is shared and another replica has
// made the next generation: by the one that is known here nothing is issued any more.
func (c *CA) certify(q *backend.IssueRequest) (*backend.Issuance, error) {
	// A rollover waits until nobody issues: whoever comes after it issues by the new generation.
	c.issuing.RLock()
	defer c.issuing.RUnlock()
	r, err := c.running()
	if err != nil {
		return nil, err
	}
	i := r.issuer(q.Issuer)
	if i == nil {
		return nil, backend.Refuse(codes.InvalidArgument, "there is no issuing CA %q", q.Issuer)
	}
	stands, asked, err := r.ledger.find(q.ID)
	if err != nil {
		return nil, backend.Unable("the ledger cannot be read: %v", err)
	}
	if stands == nil {
		if _, ended := c.ended.Load(i.id()); ended {
			return nil, r.successor(i)
		}
		t, err := r.checkTemplate(&q.Template, i)
		if err != nil {
			return nil, backend.Refuse(codes.InvalidArgument, "%v", err)
		}
		if stands, err = c.sign(r, i, t, q, asked); err != nil {
			return nil, err
		}
	}
	if !bytes.Equal(stands.template, digest(i.name, &q.Template)) {
		return nil, backend.Refuse(codes.AlreadyExists, "the ID was used for another content")
	}
	return r.issuance(stands)
}

func plain(s string) bool {
	return len(s) <= maxName && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// sign makes the certificate of an ID that the ledger does not know, and records it.
func (c *CA) sign(r *running, i *issuer, t *template, q *backend.IssueRequest, asked int64) (*entry, error) {
	now := c.o.Clock()
	if !now.Before(t.NotAfter) {
		return nil, backend.Refuse(codes.InvalidArgument, "validity: it is over")
	}
	if err := checkCSR(q.CSR, t.PublicKey); err != nil {
		return nil, backend.Refuse(codes.InvalidArgument, "CSR: %v", err)
	}
	serial, err := r.serial(i, q.ID)
	if err != nil {
		return nil, backend.Refuse(codes.Internal, "serial number: %v", err)
	}
	shard, err := r.place(i, now)
	if err != nil {
		return nil, backend.Unable("the ledger gives no place on a CRL: %v", err)
	}
	if err := t.listedBy(shard); err != nil {
		return nil, backend.Refuse(codes.Internal, "%v", err)
	}
	e := &entry{
		id: q.ID, issuer: i.name, generation: i.number, device: q.Device,
		serial: serial, template: t.digest,
		issuedAt: now, notAfter: t.NotAfter, asked: asked, shard: shard.number,
	}
	c.o.Crash(CrashBeforeSign)
	der, err := i.sign(t, e.serial)
	switch {
	case errors.Is(err, errUnfit):
		return nil, backend.Refuse(codes.InvalidArgument, "%v", err)
	case err != nil && i.inToken():
		return nil, backend.Unable("the token cannot sign: %v", err)
	case err != nil:
		return nil, backend.Refuse(codes.Internal, "sign: %v", err)
	}
	e.certificate = der
	c.o.Crash(CrashAfterSign)
	stands, err := r.ledger.record(e)
	if errors.Is(err, errEnded) {
		c.ended.Store(i.id(), true)
		return nil, r.successor(i)
	}
	if err != nil {
		return nil, backend.Unable("the ledger cannot be written: %v", err)
	}
	c.o.Crash(CrashAfterLedger)
	return stands, nil
}

// checkCSR refuses a PKCS #10 request for another key than the template's. Its signature is the gateway's to verify,
// and its names mean nothing here.
func checkCSR(csr, spki []byte) error {
	if len(csr) == 0 {
		return nil
	}
	key, err := csrKey(csr)
	if err == nil && !bytes.Equal(key, spki) {
		err = errors.New("its key is not that of the template")
	}
	return err
}

func (r *running) issuance(e *entry) (*backend.Issuance, error) {
	g := r.generation(e.issuer, e.generation)
	if g == nil && r.ledger.shared {
		return nil, &missingError{dir: r.authorityDir(), ca: e.issuer, number: e.generation}
	}
	if g == nil {
		return nil, backend.Refuse(codes.Internal, "the ledger names an issuing CA %q, generation %d", e.issuer, e.generation)
	}
	return &backend.Issuance{Certificate: e.certificate, Chain: g.chain}, nil
}

// Lookup says what became of an ID: issued, never, or, while an Issue for it is under way, unknown.
//
// In a ledger that is shared, "never" is recorded: an Issue of another process that has begun before it fails (ledger.never).
func (c *CA) Lookup(ctx context.Context, q *backend.IssueRequest) (*backend.Outcome, error) {
	r, err := c.running()
	if err != nil {
		return nil, err
	}
	// The order matters: what is not under way any more has left its record.
	underWay := r.flights.underWay(q.ID)
	e, _, err := r.ledger.find(q.ID)
	if err == nil && e == nil && !underWay && r.ledger.shared {
		var never bool
		if never, err = r.ledger.never(q.ID); err == nil && !never {
			e, _, err = r.ledger.find(q.ID)
		}
	}
	switch {
	case err != nil:
		return nil, backend.Refuse(codes.Unavailable, "ledger: %v", err)
	case e == nil && underWay:
		return &backend.Outcome{State: backend.OutcomeUnknown}, nil
	case e == nil:
		return &backend.Outcome{State: backend.OutcomeNever}, nil
	}
	issuance, err := r.issuance(e)
	if missing, ok := errors.AsType[*missingError](err); ok {
		if err = c.follow(ctx, r, missing); err == nil {
			if r, err = c.running(); err == nil {
				issuance, err = r.issuance(e)
			}
		}
	}
	if missing, ok := errors.AsType[*missingError](err); ok {
		return nil, backend.Refuse(codes.Unavailable, "%v", missing)
	}
	if err != nil {
		return nil, err
	}
	return &backend.Outcome{State: backend.OutcomeIssued, Issuance: issuance}, nil
}

// flights are the calls of Issue that are under way. Those with the same ID take turns: the first one signs, the others
// find its record.
type flights struct {
	mu sync.Mutex
	m  map[string]*flight
}

type flight struct {
	calls int           // under way
	turn  chan struct{} // holds the one token while a call has its turn
}

// enter registers a call and waits for its turn; leave ends both. It fails with ctx's error, and at once when ctx has
// ended before.
func (f *flights) enter(ctx context.Context, id string) (leave func(), err error) {
	f.mu.Lock()
	if f.m == nil {
		f.m = map[string]*flight{}
	}
	x := f.m[id]
	if x == nil {
		x = &flight{turn: make(chan struct{}, 1)}
		f.m[id] = x
	}
	x.calls++
	f.mu.Unlock()
	end := func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if x.calls--; x.calls == 0 {
			delete(f.m, id)
		}
	}
	if err := ctx.Err(); err != nil {
		end()
		return nil, err
	}
	select {
	case x.turn <- struct{}{}:
		return func() { <-x.turn; end() }, nil
	case <-ctx.Done():
		end()
		return nil, ctx.Err()
	}
}

// underWay reports whether a call for the ID is between enter and leave.
func (f *flights) underWay(id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.m[id] != nil
}
