package storetest

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// rather picks a transaction, of a kind that is rare if one is found soon.
func (m *model) rather(r *rand.Rand, rare func(*modelTx) bool) (string, *modelTx) {
	id, tx := m.any(r)
	for range 12 {
		if tx != nil && !rare(tx) {
			id, tx = m.any(r)
		}
	}
	return id, tx
}

// supersede has a new transaction take the place of one whose key was not kept.
func (m *model) supersede(e *env, r *rand.Rand) {
	given := func(tx *modelTx) bool {
		return tx.state == gateway.StateIssued && tx.original.Delivery != nil && !tx.revoked && m.holders[tx.repeat].id == tx.original.ID
	}
	id, tx := m.rather(r, given)
	if tx == nil {
		return
	}
	now := e.clock.Now()
	p := e.supersession(tx.original)
	next := p.Transaction
	next.Repeat, next.Resume, next.WireID = tx.repeat, tx.resume, randomWire(r)
	if r.IntN(8) == 0 {
		next.Repeat = randomKey(r)
	}
	epoch, err := e.s.Supersede(e.ctx(), p)
	switch {
	case next.Repeat == "":
		if err == nil {
			e.Error("superseded without a repeat key")
		}
		return
	case !given(tx) || next.Repeat != tx.repeat || m.holder(tx.repeat, now) != id:
		if !errors.Is(err, gateway.ErrStale) {
			e.Errorf("Supersede of %+v by %s: %v, want stale", tx, next.Repeat, err)
		}
		return
	case err != nil || epoch != 1:
		e.Errorf("Supersede of %+v: epoch %d, %v", tx, epoch, err)
		return
	}
	for _, key := range []gateway.RepeatKey{tx.repeat, tx.resume} {
		if m.holder(key, now) == id {
			m.take(next.ID, key)
		}
	}
	m.txs[next.ID] = &modelTx{state: gateway.StateIssuing, repeat: tx.repeat, resume: tx.resume, wireID: next.WireID, claims: tx.claims, epoch: 1, leased: true,
		until: now.Add(lease), due: now.Add(lease), original: next}
	m.order = append(m.order, next.ID)
	tx.claims, tx.revoked = nil, true
	tx.epoch, tx.leased, tx.until, tx.due = -1, false, time.Time{}, now // there is work, whose first epoch is not given yet
}

// collect has the requester of an approved transaction come for its key.
func (m *model) collect(e *env, r *rand.Rand) {
	_, tx := m.rather(r, func(tx *modelTx) bool { return tx.state == gateway.StateApproved })
	if tx == nil {
		return
	}
	now := e.clock.Now()
	epoch, err := e.s.Collect(e.ctx(), e.collection(tx.original))
	if tx.state != gateway.StateApproved {
		if !errors.Is(err, gateway.ErrStale) {
			e.Errorf("Collect of %+v: %v, want stale", tx, err)
		}
		return
	}
	if err != nil || epoch < 1 || tx.epoch > 0 && epoch != tx.epoch+1 {
		e.Errorf("Collect of %+v: epoch %d, %v", tx, epoch, err)
		return
	}
	tx.state, tx.epoch, tx.leased, tx.until, tx.due = gateway.StateIssuing, epoch, true, now.Add(lease), now.Add(lease)
}
