package storetest

import (
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/audit"
)

// events writes one event of each origin.
func (e *env) events(s Store) {
	e.Helper()
	e.must(s.Record(e.ctx(), gateway.AuditEvent{Kind: "started", At: e.clock.Now()}))
	tx := e.transaction(gateway.StateIssuing)
	epoch := e.mustBegin(s, tx)
	e.must(s.Settle(e.ctx(), e.issued(tx, epoch)))
	refused := e.transaction(gateway.StateRefused)
	e.must(s.Refuse(e.ctx(), refused, event("refused", refused)))
}

func testAudit(e *env) {
	e.must(e.s.VerifyAudit(e.ctx()))
	e.events(e.s)
	// Units that are rolled back leave no gap.
	for range 3 {
		tx := e.transaction(gateway.StateIssuing)
		s := e.issued(tx, 1)
		e.wantErr(e.s.Settle(e.ctx(), s), gateway.ErrStale)
		e.events(e.s)
	}
	if e.s.Record(e.ctx(), gateway.AuditEvent{}) == nil {
		e.Error("an event without a kind was recorded")
	}
	// What the trail says of itself, nobody else says.
	for _, kind := range []string{audit.KindCheckpoint, audit.KindPruned} {
		if e.s.Record(e.ctx(), gateway.AuditEvent{Kind: kind}) == nil {
			e.Errorf("an event of the kind %q was recorded", kind)
		}
	}
	e.must(e.s.VerifyAudit(e.ctx()))
	// Another instance has a stream of its own, and one that comes back goes on with its own.
	e.events(e.other("two"))
	e.events(e.s)
	e.must(e.s.VerifyAudit(e.ctx()))
	e.must(e.s.Close())
	e.s = e.db.Open(e, "one", e.clock.Now)
	e.events(e.s)
}

// judge verifies the trail as somebody does who has all keys and head files.
func (e *env) judge(t testing.TB) *audit.Report {
	t.Helper()
	all, trust := e.db.Trail(t)
	v := audit.NewVerifier(trust)
	for _, r := range all {
		v.Add(r)
	}
	return v.Report()
}

// wantVerified wants all streams to be whole and signed.
func (e *env) wantVerified(t testing.TB) {
	t.Helper()
	for _, s := range e.judge(t).Streams {
		if s.Standing != audit.Verified {
			t.Errorf("stream %s is %s: %v", s.Stream, s.Standing, s.Faults)
		}
	}
}

// kinds lists the records of a stream, by number from the first.
func (e *env) kinds(stream string) (first int64, kinds []string) {
	e.Helper()
	all, _ := e.db.Trail(e)
	for _, r := range all {
		if r.Stream != stream {
			continue
		}
		if first == 0 {
			first = r.Seq
		}
		kinds = append(kinds, kindOf(r))
	}
	return first, kinds
}

// testCheckpoints: the first record of a process is signed at once, then each by number or time.
func testCheckpoints(e *env) {
	last := func() (kind string, n int) {
		e.Helper()
		_, kinds := e.kinds("one")
		return kinds[len(kinds)-1], len(kinds)
	}
	record := func() { e.must(e.s.Record(e.ctx(), gateway.AuditEvent{Kind: "strangers", At: e.clock.Now()})) }
	e.must(e.s.Checkpoint(e.ctx())) // of nothing
	record()
	if kind, n := last(); kind != audit.KindCheckpoint || n != 2 {
		e.Fatalf("after the first record: %d, the last is %s", n, kind)
	}
	e.clock.Advance(audit.Interval)
	e.must(e.s.Checkpoint(e.ctx()))
	if _, n := last(); n != 2 {
		e.Error("a checkpoint of a checkpoint")
	}
	record() // which is the first for a while
	if kind, n := last(); kind != audit.KindCheckpoint || n != 4 {
		e.Fatalf("after the interval: %d, the last is %s", n, kind)
	}
	record()
	e.clock.Advance(audit.Interval - time.Second)
	e.must(e.s.Checkpoint(e.ctx()))
	if kind, _ := last(); kind != "strangers" {
		e.Errorf("before the interval is over there is a %s", kind)
	}
	e.clock.Advance(time.Second)
	e.must(e.s.Checkpoint(e.ctx()))
	if kind, n := last(); kind != audit.KindCheckpoint || n != 6 {
		e.Fatalf("after the interval, by nobody's event: %d, the last is %s", n, kind)
	}
	many := func(n int) {
		e.Helper()
		for _, err := range together(n, func(int) error {
			return e.s.Record(e.ctx(), gateway.AuditEvent{Kind: "strangers", At: e.clock.Now()})
		}) {
			e.must(err)
		}
	}
	many(audit.Every)
	if kind, n := last(); kind != audit.KindCheckpoint || n != 6+audit.Every+1 {
		e.Fatalf("after %d records: %d, the last is %s", audit.Every, n, kind)
	}
	e.must(e.s.RecordSigned(e.ctx(), gateway.AuditEvent{Kind: "stopped", At: e.clock.Now()}))
	if kind, n := last(); kind != audit.KindCheckpoint || n != 6+audit.Every+3 {
		e.Fatalf("after a record that is signed: %d, the last is %s", n, kind)
	}
	// A checkpoint that is rolled back is made again.
	many(audit.Every - 1)
	e.db.Exec(e, `ALTER TABLE audit RENAME TO audit_away`)
	if e.s.Record(e.ctx(), gateway.AuditEvent{Kind: "strangers"}) == nil {
		e.Fatal("recorded without a table")
	}
	e.db.Exec(e, `ALTER TABLE audit_away RENAME TO audit`)
	record()
	if kind, n := last(); kind != audit.KindCheckpoint || n != 6+audit.Every+3+audit.Every+1 {
		e.Fatalf("after a roll-back: %d, the last is %s", n, kind)
	}
	e.wantVerified(e)
}

// testAuditAtStart: what was done to the table while nobody ran is found at the next start, and stays on record.
func testAuditAtStart(e *env) {
	e.tampered = true
	for range 2 {
		e.events(e.s)
	}
	for i, c := range []struct {
		name   string
		tamper func([]audit.Record) []audit.Record
		good   bool
	}{
		{name: "nothing", tamper: func(all []audit.Record) []audit.Record { return all }, good: true},
		{name: "the newest record cut off", tamper: func(all []audit.Record) []audit.Record { return all[:len(all)-1] }},
		{name: "the newest record rewritten", tamper: func(all []audit.Record) []audit.Record {
			return rehash(set(all, len(all)-1, `{"kind":"issued"}`), len(all)-1)
		}},
		{name: "a record more", tamper: func(all []audit.Record) []audit.Record {
			return rehash(append(all, audit.Record{Stream: "one", Body: `{"kind":"issued"}`}), len(all))
		}},
		{name: "all gone", tamper: func([]audit.Record) []audit.Record { return nil }},
	} {
		e.events(e.s)
		e.must(e.s.Close())
		all, _ := e.db.Trail(e)
		e.putAudit(e, c.tamper(all))
		e.s = e.db.Open(e, "one", e.clock.Now)
		e.events(e.s)
		_, kinds := e.kinds("one")
		found := 0
		for _, k := range kinds {
			if k == audit.KindBroken {
				found++
			}
		}
		if want := i; c.name == "all gone" && found != 1 || c.name != "all gone" && found != want {
			e.Errorf("%s: %d records say so, want %d", c.name, found, want)
		}
		if got := e.judge(e).Streams[0].Standing; (got == audit.Verified) != c.good {
			e.Errorf("%s: %s", c.name, got)
		}
	}
}
