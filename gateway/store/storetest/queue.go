package storetest

import (
	"github.com/muster-pki/muster/gateway"
)

// queueTests are about requests that wait until their CA can be asked.
var queueTests = []part{
	{"queue", testQueue},
	{"queue: none passes who is with the CA", testQueueOrder},
	{"queue: nonsense", testQueueNonsense},
}

func (e *env) queued(t *gateway.Transaction, epoch int64) *gateway.Settlement {
	s := e.unknown(t, epoch)
	s.State, s.Next, s.Delay = gateway.StateQueued, gateway.WorkQueue, lease*1000
	s.Queue = &gateway.QueueRecord{Basis: gateway.Basis{Since: e.clock.Now().UTC().Truncate(1e9), Entry: "station-1"}}
	return s
}

// testQueue: the oldest is leased, by one at a time, however often it comes back; and ClaimDue leaves it alone.
func testQueue(e *env) {
	first, epoch := e.begun()
	e.must(e.s.Settle(e.ctx(), e.queued(first, epoch)))
	e.clock.Advance(lease / 10)
	second, epoch := e.begun()
	e.must(e.s.Settle(e.ctx(), e.queued(second, epoch)))
	if got := e.get(first.ID); got.State != gateway.StateQueued || got.Queue == nil || got.Queue.Entry != "station-1" || !got.State.Open() {
		e.Errorf("%+v", got)
	}
	e.wantRepeat(first.Repeat, first.ID)
	q, err := e.s.Queue(e.ctx(), first.Backend)
	if err != nil || q.Length != 2 || q.First != min(first.ID, second.ID) {
		e.Errorf("%+v, %v", q, err)
	}
	if all, err := e.s.Queues(e.ctx()); err != nil || len(all) != 1 || all[0] != q {
		e.Errorf("%+v, %v", all, err)
	}
	if q, err := e.s.Queue(e.ctx(), "another"); err != nil || q.Length != 0 || q.First != "" {
		e.Errorf("%+v, %v", q, err)
	}
	e.clock.Advance(lease)
	if due := e.due(e.s); len(due) != 0 {
		e.Errorf("due: %+v", due)
	}
	_, err = e.s.ClaimQueued(e.ctx(), "another", lease)
	e.wantErr(err, gateway.ErrNotFound)
	head, other := first, second
	if q.First == second.ID {
		head, other = second, first
	}
	for i := range 3 {
		w, err := e.s.ClaimQueued(e.ctx(), head.Backend, lease)
		if err != nil || w.Transaction != head.ID || w.Kind != gateway.WorkQueue {
			e.Fatalf("%+v, %v", w, err)
		}
		_, err = e.s.ClaimQueued(e.ctx(), head.Backend, lease)
		e.wantErr(err, gateway.ErrNotFound)
		r := e.rerouting(head, w.Epoch)
		r.Backend = head.Backend
		r.Queue = &gateway.QueueRecord{Basis: gateway.Basis{Since: e.clock.Now().UTC().Truncate(1e9), Entry: "station-2"}}
		e.must(e.s.Reroute(e.ctx(), r))
		if got := e.get(head.ID); got.State != gateway.StateIssuing || got.Queue == nil || got.Queue.Entry != "station-2" {
			e.Errorf("%+v", got)
		}
		e.clock.Advance(lease) // whoever had it has ended
		w, err = e.s.ClaimQueued(e.ctx(), head.Backend, lease)
		if err != nil || w.Transaction != head.ID {
			e.Fatalf("after the lease: %+v, %v", w, err)
		}
		if i == 2 {
			e.must(e.s.Settle(e.ctx(), e.issued(head, w.Epoch)))
			break
		}
		back := e.queued(head, w.Epoch)
		back.Queue = nil
		e.must(e.s.Settle(e.ctx(), back))
		if got := e.get(head.ID); got.State != gateway.StateQueued || got.Queue == nil || got.Queue.Entry != "station-2" {
			e.Errorf("%+v", got)
		}
		again, err := e.s.ClaimQueued(e.ctx(), head.Backend, lease)
		e.must(err)
		e.must(e.s.Postpone(e.ctx(), *again, lease*1000, "the link is down"))
	}
	w, err := e.s.ClaimQueued(e.ctx(), other.Backend, lease)
	if err != nil || w.Transaction != other.ID {
		e.Fatalf("%+v, %v", w, err)
	}
	unknown := e.unknown(other, w.Epoch) // it lets the others pass
	e.must(e.s.Settle(e.ctx(), unknown))
	e.clock.Advance(lease)
	if w := e.theOnly(e.s); w.Transaction != other.ID || w.Kind != gateway.WorkSettle {
		e.Errorf("%+v", w)
	}
}

// testQueueOrder: what an instance has asked the CA for stands before what came later, until it has an end or stands in the queue too.
func testQueueOrder(e *env) {
	older, olderEpoch := e.begun()
	var queued *gateway.Transaction
	for queued == nil || queued.ID < older.ID {
		e.clock.Advance(lease / 100)
		t, epoch := e.begun()
		e.must(e.s.Settle(e.ctx(), e.queued(t, epoch)))
		if queued = t; t.ID < older.ID {
			w, err := e.s.ClaimQueued(e.ctx(), t.Backend, lease)
			e.must(err)
			e.must(e.s.Settle(e.ctx(), e.issued(t, w.Epoch)))
		}
	}
	_, err := e.s.ClaimQueued(e.ctx(), queued.Backend, lease)
	e.wantErr(err, gateway.ErrNotFound)
	e.must(e.s.Settle(e.ctx(), e.issued(older, olderEpoch)))
	w, err := e.s.ClaimQueued(e.ctx(), queued.Backend, lease)
	if err != nil || w.Transaction != queued.ID {
		e.Errorf("%+v, %v", w, err)
	}
}

func testQueueNonsense(e *env) {
	tx, epoch := e.begun()
	for name, change := range map[string]func(*gateway.Settlement){
		"in no queue":        func(s *gateway.Settlement) { s.Next = gateway.WorkSettle },
		"waits for nothing":  func(s *gateway.Settlement) { s.Next = "" },
		"with a certificate": func(s *gateway.Settlement) { s.Certificate = e.issued(tx, epoch).Certificate },
	} {
		s := e.queued(tx, epoch)
		change(s)
		if err := e.s.Settle(e.ctx(), s); err == nil {
			e.Errorf("%s: taken", name)
		}
	}
	if _, err := e.s.ClaimQueued(e.ctx(), tx.Backend, 0); err == nil {
		e.Error("no lease: no error")
	}
	e.wantState(tx.ID, gateway.StateIssuing)
}
