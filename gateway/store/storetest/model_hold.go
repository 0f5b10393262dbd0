package storetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// anyHeld is rather a transaction that is held.
func (m *model) anyHeld(r *rand.Rand) (string, *modelTx) {
	return m.rather(r, func(tx *modelTx) bool { return tx.state == gateway.StateHeld })
}

func (m *model) approve(e *env, r *rand.Rand) {
	_, tx := m.anyHeld(r)
	if tx == nil {
		return
	}
	now := e.clock.Now()
	a := e.approval(tx.original, fmt.Sprintf("person %d", r.IntN(3)))
	if tx.original.Delivery != nil && r.IntN(3) != 0 {
		a.Until = now.Add(time.Duration(r.Int64N(int64(4 * lease))))
	}
	epoch, err := e.s.Approve(e.ctx(), a)
	h := tx.original.Hold
	switch {
	case tx.state != gateway.StateHeld, h != nil && !now.Before(h.Until):
		if !errors.Is(err, gateway.ErrStale) {
			e.Errorf("Approve of %+v: %v, want stale", tx, err)
		}
		return
	case slices.Contains(tx.approvals, a.Approval.By):
		if !errors.Is(err, gateway.ErrApproved) {
			e.Errorf("Approve by the same person: %v", err)
		}
		return
	case err != nil:
		e.Errorf("Approve of %+v: %v", tx, err)
		return
	}
	tx.approvals = append(tx.approvals, a.Approval.By)
	if h != nil && len(tx.approvals) < h.Approvers {
		if epoch != 0 {
			e.Errorf("epoch %d after %d approvals of %d", epoch, len(tx.approvals), h.Approvers)
		}
		return
	}
	if !a.Until.IsZero() {
		if epoch != 0 {
			e.Errorf("epoch %d of what waits for its requester", epoch)
		}
		tx.state, tx.leased, tx.until, tx.due = gateway.StateApproved, false, time.Time{}, a.Until
		if tx.epoch > 0 {
			tx.epoch++
		} else {
			tx.epoch = -1 // there is work, whose first epoch is not given yet
		}
		return
	}
	if epoch < 1 || tx.epoch > 0 && epoch != tx.epoch+1 {
		e.Errorf("epoch %d after %d", epoch, tx.epoch)
	}
	tx.state, tx.epoch, tx.leased, tx.until, tx.due = gateway.StateIssuing, epoch, true, now.Add(lease), now.Add(lease)
}

func (m *model) deny(e *env, r *rand.Rand) {
	id, tx := m.rather(r, func(tx *modelTx) bool { return tx.state == gateway.StateHeld || tx.state == gateway.StateApproved })
	if tx == nil {
		return
	}
	now := e.clock.Now()
	d := e.denial(tx.original, "somebody")
	d.RepeatUntil = now.Add(time.Duration(r.Int64N(int64(2*lease))) - 5*time.Second)
	held := tx.state == gateway.StateHeld || tx.state == gateway.StateApproved
	if tx.leased && r.IntN(2) == 0 {
		d.Work = &gateway.Work{Transaction: id, Epoch: tx.epoch - int64(r.IntN(2))}
		held = held && d.Work.Epoch == tx.epoch
	}
	err := e.s.Deny(e.ctx(), d)
	if !held {
		if !errors.Is(err, gateway.ErrStale) {
			e.Errorf("Deny of %+v: %v, want stale", tx, err)
		}
		return
	}
	if err != nil {
		e.Errorf("Deny of %+v: %v", tx, err)
		return
	}
	tx.state, tx.epoch, tx.leased = gateway.StateDenied, 0, false
	m.onlyRepeat(id, tx, d.RepeatUntil, now)
	m.release(tx)
}

// orderRevocation revokes a certificate for this gateway at once.
func (m *model) orderRevocation(e *env, r *rand.Rand) {
	id, tx := m.any(r)
	if tx == nil || !tx.hasCert {
		return
	}
	now := e.clock.Now()
	epoch, err := e.s.OrderRevocation(e.ctx(), e.order(tx.cert))
	if err != nil {
		e.Errorf("OrderRevocation of %+v: %v", tx, err)
		return
	}
	if tx.revoked != (epoch == 0) || tx.epoch > 0 && epoch != 0 && epoch != tx.epoch+1 {
		e.Errorf("OrderRevocation of %+v: epoch %d", tx, epoch)
	}
	if epoch == 0 {
		return
	}
	tx.revoked = true
	tx.epoch, tx.leased, tx.until, tx.due = epoch, true, now.Add(lease), now.Add(lease)
	m.free(id, tx.repeat, tx.resume)
	if tx.state == gateway.StateUnconfirmed {
		tx.state = gateway.StateRejected
		m.release(tx)
	}
}

// uses compares the counts of all claims.
func (m *model) uses(e *env) {
	want := map[string]int64{}
	keys := []string{}
	for k, n := range m.used {
		keys = append(keys, k)
		if n > 0 {
			want[k] = n
		}
	}
	got, err := e.s.Uses(e.ctx(), keys)
	e.must(err)
	e.equal("uses", got, want)
}

// freeClaim sets one back, and forgets who used it.
func (m *model) freeClaim(e *env, r *rand.Rand) {
	key := fmt.Sprintf("claim-%d", r.IntN(4))
	e.freed(key)
	m.used[key] = 0
	for _, tx := range m.txs {
		tx.claims = slices.DeleteFunc(tx.claims, func(k string) bool { return k == key })
	}
}
