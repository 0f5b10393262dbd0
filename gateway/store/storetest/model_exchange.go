package storetest

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/muster-pki/muster/gateway"
)

func (m *model) adopt(e *env, r *rand.Rand) {
	id, tx := m.any(r)
	if tx == nil {
		return
	}
	now := e.clock.Now()
	a := &gateway.Adoption{Transaction: id, WireID: randomWire(r), Repeat: randomKey(r), At: now,
		Audit: gateway.AuditEvent{Kind: "resumed", At: now, Transaction: id}}
	if r.IntN(8) == 0 {
		a.Repeat = ""
	}
	err := e.s.Adopt(e.ctx(), a)
	twin := m.holder(a.Repeat, now)
	switch {
	case !tx.state.Open():
		if !errors.Is(err, gateway.ErrStale) {
			e.Errorf("Adopt of %+v: %v, want stale", tx, err)
		}
	case twin != "" && twin != id:
		if te, ok := errors.AsType[*gateway.TwinError](err); !ok || te.Transaction != twin {
			e.Errorf("Adopt: %v, want the twin %s", err, twin)
		}
	case err != nil:
		e.Errorf("Adopt of %+v: %v", tx, err)
	default:
		if tx.repeat != tx.resume {
			m.free(id, tx.repeat)
		}
		m.take(id, a.Repeat)
		tx.repeat, tx.wireID = a.Repeat, a.WireID
	}
}

func (m *model) conclude(e *env, r *rand.Rand) {
	id, tx := m.any(r)
	for range 4 { // rather one that can be concluded
		if tx != nil && tx.state != gateway.StateUnconfirmed {
			id, tx = m.any(r)
		}
	}
	if tx == nil {
		return
	}
	now := e.clock.Now()
	c := e.rejected(tx.original)
	if r.IntN(2) == 0 {
		c = e.accepted(tx.original)
		c.RepeatUntil = now.Add(time.Duration(r.Int64N(int64(2*lease))) - 5*time.Second)
	}
	err := e.s.Conclude(e.ctx(), c)
	if tx.state != gateway.StateUnconfirmed {
		if !errors.Is(err, gateway.ErrStale) {
			e.Errorf("Conclude of %+v: %v, want stale", tx, err)
		}
		return
	}
	if err != nil {
		e.Errorf("Conclude of %+v: %v", tx, err)
	}
	tx.state, tx.leased = c.State, false
	if c.State == gateway.StateRejected {
		tx.due, tx.until = now, time.Time{}
		if tx.epoch > 0 {
			tx.epoch++
		}
		m.free(id, tx.repeat, tx.resume)
		m.release(tx)
		return
	}
	tx.epoch = 0
	m.onlyRepeat(id, tx, c.RepeatUntil, now)
}

// onlyRepeat keeps a transaction's repeat key until a time, and frees its resume key.
func (m *model) onlyRepeat(id string, tx *modelTx, until, now time.Time) {
	if tx.resume != tx.repeat {
		m.free(id, tx.resume)
	}
	if until.After(now) {
		m.keep(id, until, tx.repeat)
	} else {
		m.free(id, tx.repeat)
	}
}

// wire looks for the newest transaction with a wire ID that is open, else for the newest.
func (m *model) wire(e *env, r *rand.Rand) {
	wireID, want := randomWire(r), ""
	for _, id := range m.order {
		if tx := m.txs[id]; tx.wireID == wireID && tx.state != gateway.StateRefused && (want == "" || tx.state.Open() || !m.txs[want].state.Open()) {
			want = id
		}
	}
	got, err := e.s.ByWireID(e.ctx(), "ran", wireID)
	if want == "" && !errors.Is(err, gateway.ErrNotFound) || want != "" && (err != nil || got.ID != want) {
		e.Errorf("by wire ID %s: %+v, %v; want %q", wireID, got, err, want)
	}
}
