package storetest

import (
	"errors"
	"fmt"
	"time"

	"github.com/muster-pki/muster/gateway"
)

func (e *env) freed(keys ...string) {
	e.Helper()
	e.must(e.s.FreeClaims(e.ctx(), keys, gateway.AuditEvent{Kind: "claims-freed", At: e.clock.Now(), Transaction: "x"}))
}

func (e *env) wantUses(want map[string]int64) {
	e.Helper()
	got, err := e.s.Uses(e.ctx(), []string{"a", "b", "c", "nobody's", "", "\xff"})
	e.must(err)
	e.equal("uses", got, want)
}

func testFreeClaims(e *env) {
	claim := func(key string, limit int64) gateway.Claim { return gateway.Claim{Key: key, Limit: limit} }
	e.wantUses(map[string]int64{})
	first, epoch := e.begun(claim("a", 3), claim("a", 3), claim("b", 1))
	second, secondEpoch := e.begun(claim("a", 3), claim("c", 1))
	e.wantUses(map[string]int64{"a": 3, "b": 1, "c": 1})
	e.wantAudited("claims-freed", "x", false)
	e.freed("a", "nobody's", "a")
	e.wantAudited("claims-freed", "x", true)
	e.wantUses(map[string]int64{"b": 1, "c": 1})
	e.begun(claim("a", 1))
	// Those that had used it give nothing of it back any more, and everything else.
	e.must(e.s.Settle(e.ctx(), e.failed(first, epoch)))
	e.must(e.s.Settle(e.ctx(), e.failed(second, secondEpoch)))
	e.wantUses(map[string]int64{"a": 1})
	e.wantClaim(claim("a", 1), false)
	// Nor does one that was held, or unconfirmed, and is ended by an operator: the use that stands is somebody else's.
	held := e.held(1, claim("a", 2))
	waits, s := e.waitsToBeConfirmed(time.Hour, claim("b", 1))
	e.freed("a", "b")
	e.begun(claim("a", 1), claim("b", 1))
	e.must(e.s.Deny(e.ctx(), e.denial(held, "anna")))
	e.ordered(e.order(s.Certificate))
	e.wantState(waits.ID, gateway.StateRejected)
	e.wantUses(map[string]int64{"a": 1, "b": 1})
	// Freed twice is not below none.
	e.freed("a", "b")
	e.freed("a", "b")
	e.wantUses(map[string]int64{})
	e.wantClaim(claim("a", 1), true)
	e.wantClaim(claim("a", 1), false)
	e.freed()
	for _, key := range []string{"", "\xff", "a\x00"} {
		if e.s.FreeClaims(e.ctx(), []string{key}, gateway.AuditEvent{Kind: "claims-freed"}) == nil {
			e.Errorf("the claim %q was freed", key)
		}
	}
	if e.s.FreeClaims(e.ctx(), []string{"a"}, gateway.AuditEvent{}) == nil {
		e.Error("freed without an audit event")
	}
	e.wantUses(map[string]int64{"a": 1})
	var many []string
	for i := range 1200 {
		many = append(many, fmt.Sprint("many ", i))
	}
	e.begun(claim(many[1199], 1))
	got, err := e.s.Uses(e.ctx(), many)
	e.must(err)
	e.equal("uses of many", got, map[string]int64{many[1199]: 1})
}

// testRaceOfFreed: while claims are used and given back all the time they are freed; none goes below zero, or stays used by nobody.
func testRaceOfFreed(e *env) {
	stores, txs := e.instances(), e.transactions(2*racers)
	keys := []string{"a", "b"}
	for _, err := range together(16, func(i int) error {
		for n := i; n < len(txs); n += 16 {
			s, tx := stores[n%2], txs[n]
			if n%8 == 7 {
				if err := s.FreeClaims(e.ctx(), keys, gateway.AuditEvent{Kind: "claims-freed", At: tx.Received}); err != nil {
					return err
				}
				continue
			}
			epoch, err := s.Begin(e.ctx(), &gateway.Beginning{Transaction: tx, Lease: lease,
				Claims: []gateway.Claim{{Key: "b", Limit: 1000}, {Key: "a", Limit: 1000}}})
			if err != nil {
				return fmt.Errorf("begin: %w", err)
			}
			err = s.Settle(e.ctx(), &gateway.Settlement{Transaction: tx.ID, Epoch: epoch, State: gateway.StateFailed, Release: true,
				Now: tx.Received, Audit: event("failed", tx)})
			if err != nil {
				return fmt.Errorf("settle: %w", err)
			}
		}
		return nil
	}) {
		e.must(err)
	}
	e.wantUses(map[string]int64{}) // all were given back, or freed
	for _, key := range keys {
		e.wantClaim(gateway.Claim{Key: key, Limit: 1}, true) // and not below none
		e.wantClaim(gateway.Claim{Key: key, Limit: 1}, false)
	}
}

// testMessageClaims: a message that has had a certificate has no other one, whatever becomes of the first; one that had none may have
// one yet.
func testMessageClaims(e *env) {
	message := func(name string) gateway.Claim {
		return gateway.Claim{Key: gateway.MessageClaims + name, Limit: 1, Lost: "sent again"}
	}
	count := func(name string) gateway.Claim { return gateway.Claim{Key: "count " + name, Limit: 1} }

	failed, epoch := e.begun(message("failed"), count("failed"))
	e.must(e.s.Settle(e.ctx(), e.failed(failed, epoch)))
	e.wantUsed(message("failed").Key, 0)
	e.wantUsed(count("failed").Key, 0)

	rejected, _ := e.waitsToBeConfirmed(time.Hour, message("rejected"), count("rejected"))
	e.must(e.s.Conclude(e.ctx(), e.rejected(rejected)))
	e.wantUsed(message("rejected").Key, 1)
	e.wantUsed(count("rejected").Key, 0)
	e.wantClaim(message("rejected"), false)

	// What looks like such a claim is none.
	like := gateway.Claim{Key: "messages of another kind", Limit: 1}
	other, _ := e.waitsToBeConfirmed(time.Hour, like)
	e.must(e.s.Conclude(e.ctx(), e.rejected(other)))
	e.wantUsed(like.Key, 0)

	// A transaction that goes on in another exchange takes the claim of that one's message, once, beside its own.
	adoption := func(tx *gateway.Transaction, key string, c gateway.Claim) *gateway.Adoption {
		return &gateway.Adoption{Transaction: tx.ID, WireID: key, Repeat: gateway.RepeatKey(key), At: e.clock.Now(), Claim: &c, Audit: event("resumed", tx)}
	}
	tx, _ := e.waitsToBeConfirmed(time.Hour, message("first"))
	for range 2 {
		e.must(e.s.Adopt(e.ctx(), adoption(tx, "second of "+tx.ID, message("second"))))
		e.wantUsed(message("first").Key, 1)
		e.wantUsed(message("second").Key, 1)
	}
	// Another transaction's message changes nothing.
	before := e.get(tx.ID)
	err := e.s.Adopt(e.ctx(), adoption(tx, "third of "+tx.ID, message("rejected")))
	if lost, ok := errors.AsType[*gateway.ClaimLostError](err); !ok || lost.Claim.Key != message("rejected").Key || lost.Claim.Lost != "sent again" {
		e.Errorf("Adopt: %v, want a lost claim", err)
	}
	e.equal("transaction", e.get(tx.ID), before)
	e.wantRepeat(before.Repeat, tx.ID)
	e.wantRepeat("third of "+gateway.RepeatKey(tx.ID), "")
	// Nor does a claim that cannot be stored, or what is closed.
	if err := e.s.Adopt(e.ctx(), adoption(tx, "fourth of "+tx.ID, message("\xff"))); err == nil {
		e.Error("a claim that cannot be stored was taken")
	}
	e.wantErr(e.s.Adopt(e.ctx(), adoption(failed, "fifth of "+tx.ID, message("fifth"))), gateway.ErrStale)
	e.wantUsed(message("fifth").Key, 0)

	// Rejected, neither may have another certificate.
	e.must(e.s.Conclude(e.ctx(), e.rejected(tx)))
	e.wantClaim(message("first"), false)
	e.wantClaim(message("second"), false)

	// That of a transaction without a certificate yet comes to nothing with it.
	held := e.held(1, message("held"))
	e.must(e.s.Adopt(e.ctx(), adoption(held, "second of "+held.ID, message("held anew"))))
	e.must(e.s.Deny(e.ctx(), e.denial(held, "anna")))
	e.wantUsed(message("held").Key, 0)
	e.wantUsed(message("held anew").Key, 0)
}
