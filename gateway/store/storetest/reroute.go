package storetest

import (
	"reflect"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
)

// rerouteTests are about requests that go to another CA.
var rerouteTests = []part{
	{"reroute", testReroute},
	{"reroute: by who has no lease", testRerouteStale},
	{"reroute: nonsense", testRerouteNonsense},
}

func (e *env) rerouting(t *gateway.Transaction, epoch int64) *gateway.Rerouting {
	intent := *t.Intent
	intent.Issuer = "other"
	return &gateway.Rerouting{Transaction: t.ID, Epoch: epoch, Backend: "standby", Intent: &intent, At: e.clock.Now().Add(time.Second),
		Verdicts: append(append([]gateway.Judged(nil), t.Verdicts...), gateway.Judged{Stage: "route", Decision: gateway.Allow, Note: "local is down"})}
}

// testReroute: intent, backend and verdicts change, with the work; claims, repeat key and lease stay.
func testReroute(e *env) {
	claim := gateway.Claim{Key: "device:1", Limit: 1}
	tx, epoch := e.begun(claim)
	r := e.rerouting(tx, epoch)
	e.must(e.s.Reroute(e.ctx(), r))
	got := e.get(tx.ID)
	if got.State != gateway.StateIssuing || got.Backend != "standby" || got.Intent.Issuer != "other" || !got.Updated.Equal(r.At) || !reflect.DeepEqual(got.Verdicts, r.Verdicts) {
		e.Errorf("%+v", got)
	}
	e.wantRepeat(tx.Repeat, tx.ID)
	if uses, err := e.s.Uses(e.ctx(), []string{claim.Key}); err != nil || uses[claim.Key] != 1 {
		e.Errorf("claims: %v, %v", uses, err)
	}
	if due := e.due(e.s); len(due) != 0 {
		e.Errorf("the lease is gone: %+v", due)
	}
	e.must(e.s.Settle(e.ctx(), e.unknown(tx, epoch)))
	e.clock.Advance(time.Second)
	w := e.theOnly(e.s)
	if w.Backend != "standby" {
		e.Errorf("the work asks %q", w.Backend)
	}
	back := e.rerouting(tx, w.Epoch)
	back.Backend = "local"
	e.must(e.s.Reroute(e.ctx(), back)) // what was unknown is so no more
	if got := e.get(tx.ID); got.State != gateway.StateIssuing || got.Backend != "local" {
		e.Errorf("%s at %s", got.State, got.Backend)
	}
	e.must(e.s.Settle(e.ctx(), e.issued(tx, w.Epoch)))
	e.wantState(tx.ID, gateway.StateIssued)
}

func testRerouteStale(e *env) {
	tx, epoch := e.begun()
	e.wantErr(e.s.Reroute(e.ctx(), e.rerouting(tx, epoch+1)), gateway.ErrStale)
	e.must(e.s.Settle(e.ctx(), e.unknown(tx, epoch)))
	e.wantErr(e.s.Reroute(e.ctx(), e.rerouting(tx, epoch)), gateway.ErrStale)
	e.clock.Advance(time.Second)
	w := e.theOnly(e.s)
	e.wantErr(e.s.Reroute(e.ctx(), e.rerouting(tx, epoch)), gateway.ErrStale)
	if got := e.get(tx.ID); got.Backend != tx.Backend || got.State != gateway.StateUnknown || len(got.Verdicts) != len(tx.Verdicts) {
		e.Errorf("%+v", got)
	}
	e.must(e.s.Settle(e.ctx(), e.issued(tx, w.Epoch)))
	e.wantErr(e.s.Reroute(e.ctx(), e.rerouting(tx, w.Epoch)), gateway.ErrStale)

	ticket, epoch := e.begun()
	waiting := e.unknown(ticket, epoch)
	waiting.State, waiting.Ticket, waiting.Next = gateway.StateWaiting, "ticket", gateway.WorkPoll
	e.must(e.s.Settle(e.ctx(), waiting))
	e.clock.Advance(time.Second)
	w = e.theOnly(e.s)
	e.wantErr(e.s.Reroute(e.ctx(), e.rerouting(ticket, w.Epoch)), gateway.ErrStale)
	if got := e.get(ticket.ID); got.Backend != ticket.Backend || got.State != gateway.StateWaiting {
		e.Errorf("%s at %s", got.State, got.Backend)
	}
}

func testRerouteNonsense(e *env) {
	tx, epoch := e.begun()
	for name, change := range map[string]func(*gateway.Rerouting){
		"no backend": func(r *gateway.Rerouting) { r.Backend = "" },
		"no intent":  func(r *gateway.Rerouting) { r.Intent = nil },
		"another ID": func(r *gateway.Rerouting) { r.Intent = &backend.IssueRequest{ID: "another"} },
	} {
		r := e.rerouting(tx, epoch)
		change(r)
		if err := e.s.Reroute(e.ctx(), r); err == nil {
			e.Errorf("%s: taken", name)
		}
	}
}
