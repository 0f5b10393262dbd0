package storetest

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// model is what a store has to be like, in a few maps.
type model struct {
	txs     map[string]*modelTx
	holders map[gateway.RepeatKey]hold
	used    map[string]int64
	order   []string
}

// hold is who holds a key, and until when; zero for as long as it does not let go of it.
type hold struct {
	id      string
	expires time.Time
}

type modelTx struct {
	state    gateway.State
	repeat   gateway.RepeatKey
	resume   gateway.RepeatKey
	wireID   string
	claims   []string
	epoch    int64 // 0: no work
	leased   bool
	until    time.Time
	due      time.Time
	revoked  bool
	hasCert  bool
	cert     *gateway.Certificate
	original *gateway.Transaction

	approvals []string
}

// holder is who holds a key.
func (m *model) holder(key gateway.RepeatKey, now time.Time) string {
	h := m.holders[key]
	if !h.expires.IsZero() && !h.expires.After(now) {
		return ""
	}
	return h.id
}

// twin is who keeps a transaction from beginning.
func (m *model) twin(tx *gateway.Transaction, now time.Time) string {
	return cmp.Or(m.holder(tx.Repeat, now), m.holder(tx.Resume, now))
}

func (m *model) take(id string, keys ...gateway.RepeatKey) {
	for _, key := range keys {
		if key != "" {
			m.holders[key] = hold{id: id}
		}
	}
}

func (m *model) free(id string, keys ...gateway.RepeatKey) {
	for _, key := range keys {
		if m.holders[key].id == id {
			delete(m.holders, key)
		}
	}
}

func (m *model) keep(id string, until time.Time, keys ...gateway.RepeatKey) {
	for _, key := range keys {
		if m.holders[key].id == id {
			m.holders[key] = hold{id, until}
		}
	}
}

func (m *model) release(tx *modelTx) {
	for _, k := range tx.claims {
		m.used[k]--
	}
	tx.claims = nil
}

// testModel does random operations on store and model, one after the other, and compares what they answer.
func testModel(e *env) {
	seed := uint64(time.Now().UnixNano())
	e.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	m := &model{txs: map[string]*modelTx{}, holders: map[gateway.RepeatKey]hold{}, used: map[string]int64{}}
	for step := range 1100 {
		if e.Failed() {
			e.Fatalf("at step %d of seed %d", step, seed)
		}
		switch op := r.IntN(41); {
		case op < 6:
			m.begin(e, r)
		case op < 12:
			m.settle(e, r)
		case op < 14:
			m.work(e, r)
		case op < 15:
			m.revoke(e, r)
		case op < 16:
			e.clock.Advance(time.Duration(r.Int64N(int64(lease))))
		case op < 18:
			m.adopt(e, r)
		case op < 21:
			m.conclude(e, r)
		case op < 23:
			m.wire(e, r)
		case op < 24:
			key := randomKey(r)
			e.wantRepeat(key, m.holder(key, e.clock.Now()))
		case op < 27:
			m.approve(e, r)
		case op < 28:
			m.deny(e, r)
		case op < 29:
			m.orderRevocation(e, r)
		case op < 30:
			m.uses(e)
			if r.IntN(3) == 0 {
				m.freeClaim(e, r)
			}
		case op < 35:
			m.supersede(e, r)
		case op < 38:
			m.collect(e, r)
		default:
			m.look(e, r)
		}
	}
}

func randomKey(r *rand.Rand) gateway.RepeatKey {
	return gateway.RepeatKey(fmt.Sprintf("key-%d", r.IntN(20)))
}

func randomWire(r *rand.Rand) string { return fmt.Sprintf("wire-%d", r.IntN(6)) }

func (m *model) begin(e *env, r *rand.Rand) {
	tx := e.transaction(gateway.StateIssuing)
	tx.Repeat, tx.Resume, tx.WireID = randomKey(r), randomKey(r), randomWire(r)
	if r.IntN(3) == 0 {
		tx.Resume = ""
	}
	b := &gateway.Beginning{Transaction: tx, Lease: lease}
	want := &modelTx{state: tx.State, repeat: tx.Repeat, resume: tx.Resume, wireID: tx.WireID, epoch: 1, leased: true, until: e.clock.Now().Add(lease),
		due: e.clock.Now().Add(lease), original: tx}
	if r.IntN(6) == 0 {
		tx.State, want.state, want.epoch, want.leased = gateway.StateHeld, gateway.StateHeld, 0, false
		if r.IntN(4) != 0 {
			tx.Hold = &gateway.HoldRecord{Approvers: r.IntN(3), Until: e.clock.Now().Add(time.Duration(r.Int64N(int64(4 * lease))))}
			want.due = tx.Hold.Until
		}
	}
	if r.IntN(2) == 0 {
		tx.Delivery = e.delivery()
	}
	lost := ""
	used := map[string]int64{}
	for range r.IntN(3) {
		c := gateway.Claim{Key: fmt.Sprintf("claim-%d", r.IntN(4)), Limit: r.Int64N(12)}
		b.Claims = append(b.Claims, c)
		want.claims = append(want.claims, c.Key)
		used[c.Key]++
		if m.used[c.Key]+used[c.Key] > c.Limit {
			lost = c.Key
		}
	}
	twin := m.twin(tx, e.clock.Now())
	epoch, err := e.s.Begin(e.ctx(), b)
	if twin != "" {
		if te, ok := errors.AsType[*gateway.TwinError](err); !ok || te.Transaction != twin {
			e.Errorf("Begin: %v, want the twin %s", err, twin)
		}
		return
	}
	if lost != "" {
		if _, ok := errors.AsType[*gateway.ClaimLostError](err); !ok {
			e.Errorf("Begin: %v, want %s lost", err, lost)
		}
		return
	}
	if err != nil || epoch != want.epoch {
		e.Errorf("Begin: epoch %d, %v", epoch, err)
	}
	if tx.Hold != nil {
		want.epoch = -1 // there is work, whose first epoch is not given yet
	}
	for k, n := range used {
		m.used[k] += n
	}
	m.txs[tx.ID] = want
	m.take(tx.ID, tx.Repeat, tx.Resume)
	m.order = append(m.order, tx.ID)
}

func (m *model) any(r *rand.Rand) (string, *modelTx) {
	if len(m.order) == 0 {
		return "", nil
	}
	id := m.order[r.IntN(len(m.order))]
	return id, m.txs[id]
}

func (m *model) settle(e *env, r *rand.Rand) {
	id, tx := m.any(r)
	if tx == nil {
		return
	}
	epoch := tx.epoch
	if r.IntN(5) == 0 {
		epoch += r.Int64N(3) - 1
	}
	now := e.clock.Now()
	s := m.outcome(e, r, tx, epoch)
	if c := s.Certificate; c != nil {
		c.Serial = []byte{1, byte(len(m.order) >> 8), byte(len(m.order)), e.serial, byte(r.IntN(256))}
	}
	needs := s.State == gateway.StateIssued || s.State == gateway.StateUnconfirmed || s.State == gateway.StateRejected
	fits := tx.state == s.State && !tx.state.Open()
	switch {
	case tx.state == gateway.StateUnconfirmed:
		fits = needs && s.Certificate == nil
	case tx.state.Open():
		fits = !needs || s.Certificate != nil
	}
	err := e.s.Settle(e.ctx(), s)
	lease := tx.leased && epoch == tx.epoch && epoch != 0
	unleased := epoch == 0 && tx.epoch == 0 && tx.state.Open()
	if !lease && !unleased {
		// Without certificate and lease it is nonsense whatever stands in the store.
		if !errors.Is(err, gateway.ErrStale) && (err == nil || epoch != 0 || !needs || s.Certificate != nil) {
			e.Errorf("Settle of %+v under epoch %d: %v, want stale", tx, epoch, err)
		}
		return
	}
	if !fits {
		if err == nil || errors.Is(err, gateway.ErrStale) {
			e.Errorf("%q became %q (certificate given: %t): %v", tx.state, s.State, s.Certificate != nil, err)
		}
		return
	}
	if err != nil {
		e.Errorf("Settle of %+v under epoch %d as %q: %v", tx, epoch, s.State, err)
		return
	}
	tx.state, tx.leased = s.State, false
	if s.Next == "" {
		tx.epoch = 0
	} else {
		tx.due, tx.until = now.Add(s.Delay), time.Time{}
	}
	if unleased && s.Next != "" {
		tx.epoch = -1 // there is work, whose first epoch is not given yet
	}
	if s.Certificate != nil {
		tx.hasCert, tx.cert = true, s.Certificate
	}
	switch {
	case tx.state == gateway.StateIssued && s.RepeatUntil.After(now):
		m.keep(id, s.RepeatUntil, tx.repeat, tx.resume)
	case !tx.state.Open():
		m.free(id, tx.repeat, tx.resume)
	}
	if s.Release {
		m.release(tx)
	}
	e.wantState(id, tx.state)
}

// outcome is a settlement that may fit the transaction, or not.
func (m *model) outcome(e *env, r *rand.Rand, tx *modelTx, epoch int64) *gateway.Settlement {
	now := e.clock.Now()
	delay := time.Duration(r.Int64N(int64(2 * lease)))
	// What is closed can only end its work, in the state in which it is.
	if !tx.state.Open() {
		s := e.failed(tx.original, epoch)
		s.Release = false
		return s
	}
	s := e.issued(tx.original, epoch)
	s.RepeatUntil = now.Add(delay)
	switch r.IntN(6) {
	case 0:
	case 1:
		s = e.failed(tx.original, epoch)
		s.Release = r.IntN(2) == 0
		if r.IntN(3) == 0 {
			s.Certificate, s.Next, s.Release = e.certificate(tx.original), gateway.WorkRevoke, false
		}
	case 2:
		s = e.unknown(tx.original, epoch)
	case 3, 4:
		s = e.unconfirmed(tx.original, epoch, delay)
	case 5:
		s.State, s.Release, s.Certificate, s.Next = gateway.StateRejected, r.IntN(2) == 0, nil, gateway.WorkRevoke
	}
	// Most of what is unconfirmed is settled as it should be.
	if tx.state == gateway.StateUnconfirmed && s.State != gateway.StateFailed && r.IntN(6) != 0 {
		s.Certificate = nil
	} else if r.IntN(8) == 0 {
		s.Certificate = nil
	}
	return s
}

func (m *model) work(e *env, r *rand.Rand) {
	now := e.clock.Now()
	want := map[string]bool{}
	for id, tx := range m.txs {
		if tx.epoch != 0 && !tx.due.After(now) && !(tx.leased && tx.until.After(now)) {
			want[id] = true
		}
	}
	for _, w := range e.due(e.s) {
		tx := m.txs[w.Transaction]
		if !want[w.Transaction] {
			e.Errorf("leased %+v, which is not due: %+v", w, tx)
			return
		}
		delete(want, w.Transaction)
		if tx.epoch > 0 && w.Epoch != tx.epoch+1 {
			e.Errorf("epoch %d after %d", w.Epoch, tx.epoch)
		}
		tx.epoch, tx.leased, tx.until = w.Epoch, true, now.Add(lease)
		if r.IntN(3) == 0 {
			e.must(e.s.Postpone(e.ctx(), w, time.Second, "later"))
			tx.leased, tx.due = false, now.Add(time.Second)
		}
	}
	if len(want) != 0 {
		e.Errorf("due, but not leased: %v", want)
	}
}

func (m *model) revoke(e *env, r *rand.Rand) {
	id, tx := m.any(r)
	if tx == nil || !tx.hasCert {
		return
	}
	e.must(e.s.MarkRevoked(e.ctx(), &gateway.Revocation{Issuer: tx.cert.Issuer, Serial: tx.cert.Serial, Reason: 1,
		At: e.clock.Now(), Audit: event("revoked", tx.original)}))
	tx.revoked = true
	m.free(id, tx.repeat, tx.resume)
	if !tx.state.Open() {
		tx.epoch, tx.leased = 0, false // a closed transaction's only work is to revoke
	}
}

func (m *model) look(e *env, r *rand.Rand) {
	id, tx := m.any(r)
	if tx == nil {
		return
	}
	got := e.get(id)
	if got.State != tx.state || (got.Certificate != nil) != tx.hasCert {
		e.Errorf("%s: %q with certificate %v, want %q and %v", id, got.State, got.Certificate != nil, tx.state, tx.hasCert)
	}
	if tx.hasCert && !got.Certificate.RevokedAt.IsZero() != tx.revoked {
		e.Errorf("%s: revoked at %v, want revoked: %v", id, got.Certificate.RevokedAt, tx.revoked)
	}
}
