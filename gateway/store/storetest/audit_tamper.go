package storetest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/audit"
)

func kindOf(r audit.Record) string {
	var said gateway.AuditEvent
	_ = json.Unmarshal([]byte(r.Body), &said)
	return said.Kind
}

// putAudit makes the table hold these records.
func (e *env) putAudit(t testing.TB, all []audit.Record) {
	t.Helper()
	blob := map[bool]string{false: `x'%x'`, true: `'\x%x'::bytea`}[e.db.Shared()]
	text := []string{`BEGIN`, `DELETE FROM audit`}
	for _, r := range all {
		text = append(text, fmt.Sprintf(`INSERT INTO audit (stream, seq, prev, hash, body) VALUES ('%s', %d, `+blob+`, `+blob+`, '%s')`,
			r.Stream, r.Seq, r.Prev, r.Hash, strings.ReplaceAll(r.Body, "'", "''")))
	}
	e.db.Exec(t, strings.Join(append(text, `COMMIT`), ";\n"))
}

// What somebody does who can write to the store, and has no key.

// set changes a body, and nothing else.
func set(all []audit.Record, i int, body string) []audit.Record {
	all = slices.Clone(all)
	all[i].Body = body
	return all
}

// rehash makes the numbers and hashes of the records from i on anew, and has checkpoints say what they have to, as far as that goes.
func rehash(all []audit.Record, i int) []audit.Record {
	all = slices.Clone(all)
	for ; i < len(all); i++ {
		r := &all[i]
		r.Seq, r.Prev = 1, audit.Genesis()
		if i > 0 && all[i-1].Stream == r.Stream {
			r.Seq, r.Prev = all[i-1].Seq+1, all[i-1].Hash
		}
		if audit.IsCheckpoint(r.Body) {
			var c audit.Checkpoint
			_ = json.Unmarshal([]byte(r.Body), &c)
			c.Stream, c.Seq, c.Prev = r.Stream, r.Seq, fmt.Sprintf("%x", r.Prev)
			b, _ := json.Marshal(c)
			r.Body = string(b)
		}
		r.Hash = audit.Link(r.Stream, r.Seq, r.Prev, r.Body)
	}
	return all
}

func without(all []audit.Record, drop func(audit.Record) bool) []audit.Record {
	return slices.DeleteFunc(slices.Clone(all), drop)
}

func testAuditTampered(e *env) {
	e.tampered = true
	for range 3 {
		e.events(e.s)
	}
	// Records 1 to 10, of which 2 is a checkpoint; 11 and its checkpoint 12; 13 and 14, which only the head file vouches for.
	e.must(e.s.RecordSigned(e.ctx(), gateway.AuditEvent{Kind: "stopped", At: e.clock.Now()}))
	for range 2 {
		e.must(e.s.Record(e.ctx(), gateway.AuditEvent{Kind: "strangers", At: e.clock.Now()}))
	}
	e.events(e.other("two")) // records 1 to 4
	kept, trust := e.db.Trail(e)
	if n := len(kept); n != 18 || kept[13].Seq != 14 || !audit.IsCheckpoint(kept[11].Body) || kept[14].Stream != "two" {
		e.Fatalf("%d records: %v", n, kept)
	}
	e.wantVerified(e)
	own, _ := audit.NewKey()
	forged := func(all []audit.Record) []audit.Record {
		for i := range all {
			if all[i].Stream == "one" && audit.IsCheckpoint(all[i].Body) {
				all = rehash(all, i)
				all[i].Body, _ = own.Checkpoint("one", all[i].Seq, all[i].Prev, time.Now())
				all[i].Hash = audit.Link("one", all[i].Seq, all[i].Prev, all[i].Body)
				all = relink(all, i+1)
			}
		}
		return all
	}
	type records = []audit.Record
	const body = `{"kind":"issued","transaction":"somebody's"}`
	one := func(all records) (records, records) { return all[:14], all[14:] }
	rejoin := func(all, rest records) records { return append(slices.Clone(all), rest...) }
	for _, c := range []struct {
		name   string
		stream string // and number of what is found first
		seq    int64
		tamper func(records) records
		blind  audit.Standing // where no head file is at hand; "": faulty as well
	}{
		{"a body", "one", 5, func(all records) records { return set(all, 4, body) }, ""},
		{"the last body", "one", 14, func(all records) records { return set(all, 13, body) }, ""},
		{"a space", "one", 14, func(all records) records { return set(all, 13, all[13].Body+" ") }, ""},
		{"a hash", "one", 1, func(all records) records { all = slices.Clone(all); all[0].Hash = all[0].Prev; return all }, ""},
		{"a body and its hash", "one", 6, func(all records) records {
			all = set(all, 4, body)
			all[4].Hash = audit.Link("one", 5, all[4].Prev, body)
			return all
		}, ""},
		{"bytes from the body to the hash before", "one", 5, func(all records) records {
			all = slices.Clone(all)
			all[4].Prev, all[4].Body = append(slices.Clone(all[4].Prev), all[4].Body[0]), all[4].Body[1:]
			return all
		}, ""},
		{"a number", "one", 99, func(all records) records { all = slices.Clone(all); all[13].Seq = 99; return all }, ""},
		{"the stream of a record", "two", 13, func(all records) records { all = slices.Clone(all); all[12].Stream = "two"; return all }, ""},
		{"a record gone", "one", 6, func(all records) records {
			return without(all, func(r audit.Record) bool { return r.Stream == "one" && r.Seq == 5 })
		}, ""},
		{"a checkpoint gone", "one", 13, func(all records) records {
			return without(all, func(r audit.Record) bool { return r.Stream == "one" && r.Seq == 12 })
		}, ""},
		{"a record gone, and the rest made anew", "one", 11, func(all records) records {
			a, rest := one(all)
			return rejoin(rehash(slices.Delete(slices.Clone(a), 4, 5), 4), rest)
		}, ""},
		{"a record put in", "one", 13, func(all records) records {
			a, rest := one(all)
			return rejoin(rehash(slices.Insert(slices.Clone(a), 5, audit.Record{Stream: "one", Body: body}), 5), rest)
		}, ""},
		{"two in another order", "one", 5, func(all records) records {
			all = slices.Clone(all)
			all[4].Body, all[5].Body, all[4].Hash, all[5].Hash = all[5].Body, all[4].Body, all[5].Hash, all[4].Hash
			return all
		}, ""},
		{"two in another order, and the rest made anew", "one", 12, func(all records) records {
			a, rest := one(all)
			a = slices.Clone(a)
			a[4].Body, a[5].Body = a[5].Body, a[4].Body
			return rejoin(rehash(a, 4), rest)
		}, ""},
		{"history made anew", "one", 12, func(all records) records { a, rest := one(all); return rejoin(rehash(set(a, 4, body), 4), rest) }, ""},
		{"history made anew, signed by another key", "one", 14, func(all records) records { a, rest := one(all); return rejoin(forged(set(a, 4, body)), rest) }, audit.Unvouched},
		{"history made anew, signed by nobody", "one", 12, func(all records) records {
			a, rest := one(all)
			return rejoin(rehash(without(set(a, 4, body), func(r audit.Record) bool { return audit.IsCheckpoint(r.Body) }), 0), rest)
		}, audit.Unsigned},
		{"the tail made anew", "one", 14, func(all records) records { a, rest := one(all); return rejoin(rehash(set(a, 12, body), 12), rest) }, audit.Verified},
		{"the newest cut off", "one", 13, func(all records) records { a, rest := one(all); return rejoin(a[:13], rest) }, audit.Verified},
		{"the newest cut off, with their checkpoint", "one", 10, func(all records) records { a, rest := one(all); return rejoin(a[:10], rest) }, audit.Verified},
		{"a stream gone", "two", 0, func(all records) records { a, _ := one(all); return a }, ""},
		{"a stream by another name", "three", 1, func(all records) records {
			all = slices.Clone(all)
			for i := 14; i < len(all); i++ {
				all[i].Stream = "three"
			}
			return all
		}, ""},
		{"a stream by another name, and made anew", "three", 2, func(all records) records {
			all = slices.Clone(all)
			for i := 14; i < len(all); i++ {
				all[i].Stream = "three"
			}
			return rehash(all, 14)
		}, ""},
		{"the oldest gone", "one", 12, func(all records) records { return all[11:] }, ""},
		{"the oldest gone, and a record that says so", "one", 12, func(all records) records {
			a, rest := all[11:14], all[14:]
			said, _ := audit.NewPruned(audit.Head{Stream: "one", Seq: 11, Hash: all[11].Prev}, time.Now())
			a = append(slices.Clone(a), audit.Record{Stream: "one", Body: said})
			return rejoin(rehash(a, 3), rest)
		}, ""},
	} {
		e.Run(c.name, func(t *testing.T) {
			e.putAudit(t, c.tamper(kept))
			r := e.judge(t)
			f := r.Faults()
			found := slices.ContainsFunc(f, func(f audit.Fault) bool { return f.Stream == c.stream && f.Seq == c.seq })
			if !found {
				t.Errorf("found %v, want stream %s, record %d", f, c.stream, c.seq)
			}
			// With an export and the keys, but no head file.
			all, _ := e.db.Trail(t)
			v := audit.NewVerifier(audit.Trust{Keys: trust.Keys})
			for _, r := range all {
				v.Add(r)
			}
			blind := v.Report()
			standing := audit.Verified
			for _, s := range blind.Streams {
				if s.Stream == c.stream {
					standing = s.Standing
				}
			}
			if want := c.blind; want == "" && standing != audit.Faulty && c.seq != 0 || want != "" && standing != want {
				t.Errorf("without the head file: %s %v, want %s", standing, blind.Faults(), want)
			}
		})
	}
	e.putAudit(e, kept)
	e.wantVerified(e)
}

// relink is rehash of hashes alone: checkpoints stay as they are.
func relink(all []audit.Record, i int) []audit.Record {
	for ; i < len(all); i++ {
		all[i].Seq, all[i].Prev = all[i-1].Seq+1, all[i-1].Hash
		all[i].Hash = audit.Link(all[i].Stream, all[i].Seq, all[i].Prev, all[i].Body)
	}
	return all
}

// day is of the clock.
const day = 24 * time.Hour

// signedDay writes events and a checkpoint, a day after what came before.
func (e *env) signedDay(s Store) {
	e.Helper()
	e.clock.Advance(day)
	e.events(s)
	e.must(s.RecordSigned(e.ctx(), gateway.AuditEvent{Kind: "stopped", At: e.clock.Now()}))
}

// testPruned: a stream's beginning goes, through the record before a checkpoint, and what is left is verified; nothing goes that was tampered
// with, and nobody else's removal passes for one.
func testPruned(e *env) {
	for range 4 {
		e.signedDay(e.s)
	}
	_, was := e.kinds("one")
	prune := func(ago time.Duration) int64 {
		e.Helper()
		n, err := e.s.PruneAudit(e.ctx(), e.clock.Now().Add(-ago))
		e.must(err)
		e.wantVerified(e)
		e.must(e.s.VerifyAudit(e.ctx()))
		return n
	}
	if n := prune(10 * day); n != 0 {
		e.Fatalf("%d were removed, of a trail that is not so old", n)
	}
	n := prune(36 * time.Hour)
	first, kinds := e.kinds("one")
	if n == 0 || first != n+1 || kinds[0] != audit.KindCheckpoint || len(kinds) != len(was)-int(n)+2 {
		e.Fatalf("%d were removed; it begins at %d, a %s, and has %d of %d", n, first, kinds[0], len(kinds), len(was))
	}
	if again := prune(36 * time.Hour); again != 0 {
		e.Errorf("%d more were removed in the same moment", again)
	}
	e.signedDay(e.s)
	e.signedDay(e.s)
	if n := prune(36 * time.Hour); n == 0 {
		e.Error("nothing was removed two days later")
	}

	// A removal that broke off: what is left of it is no fault, and goes with the next.
	kept, _ := e.db.Trail(e)
	e.signedDay(e.s)
	e.signedDay(e.s)
	before, _ := e.db.Trail(e)
	if n := prune(36 * time.Hour); n == 0 {
		e.Fatal("nothing was removed")
	}
	after, _ := e.db.Trail(e)
	half := append(slices.Clone(before[(after[0].Seq-kept[0].Seq)/2:after[0].Seq-kept[0].Seq]), after...)
	e.putAudit(e, half)
	e.wantVerified(e)
	e.signedDay(e.s)
	e.signedDay(e.s)
	if prune(36*time.Hour) == 0 {
		e.Error("nothing was removed after a removal that broke off")
	}

	// Somebody removes more than was said.
	e.tampered = true
	all, _ := e.db.Trail(e)
	second := slices.IndexFunc(all[1:], func(r audit.Record) bool { return audit.IsCheckpoint(r.Body) }) + 1
	e.putAudit(e, all[second:])
	if f := e.judge(e).Faults(); len(f) != 1 || f[0].Seq != all[second].Seq {
		e.Errorf("a removal that nobody recorded: %v", f)
	}
	// And nothing of such a trail is removed, nor of one that was changed.
	e.signedDay(e.s)
	e.signedDay(e.s)
	if n, err := e.s.PruneAudit(e.ctx(), e.clock.Now().Add(-36*time.Hour)); err == nil || n != 0 {
		e.Errorf("%d removed of a trail without its beginning, %v", n, err)
	}
	now, _ := e.db.Trail(e)
	e.putAudit(e, set(append(slices.Clone(all[:second]), now...), 2, `{"kind":"issued"}`))
	if n, err := e.s.PruneAudit(e.ctx(), e.clock.Now().Add(-36*time.Hour)); err == nil || n != 0 {
		e.Errorf("%d removed of a trail that was changed, %v", n, err)
	}
}

// testPrunedOfOthers: streams of instances that are gone are pruned by whoever runs, which says so in its own stream for as long as it matters.
func testPrunedOfOthers(e *env) {
	one := e.s
	for range 3 {
		e.signedDay(one)
	}
	two := e.other("two")
	prune := func(ago time.Duration) {
		e.Helper()
		_, err := two.PruneAudit(e.ctx(), e.clock.Now().Add(-ago))
		e.must(err)
		e.wantVerified(e)
	}
	e.signedDay(two)
	if e.db.Shared() {
		prune(36 * time.Hour)
		if first, _ := e.kinds("one"); first != 1 {
			e.Fatalf("the stream of an instance that runs begins at %d", first)
		}
		e.must(one.Close())
		e.s = two
	}
	prune(36 * time.Hour)
	first, _ := e.kinds("one")
	if first == 1 {
		e.Fatal("nothing was removed of an instance that is gone")
	}
	// The other's own stream goes, through the record of that removal, which is said again.
	e.signedDay(two)
	e.must(two.RecordSigned(e.ctx(), gateway.AuditEvent{Kind: "strangers", At: e.clock.Now()}))
	if n, err := two.PruneAudit(e.ctx(), e.clock.Now().Add(-12*time.Hour)); err != nil || n == 0 {
		e.Fatal(n, err)
	}
	e.wantVerified(e)
	// All of one is old in the end.
	e.signedDay(two)
	prune(36 * time.Hour)
	if _, kinds := e.kinds("one"); len(kinds) != 0 {
		e.Errorf("%d records are left of a stream that is older", len(kinds))
	}
	// It may come back, and goes on where it ended.
	back := e.other("one")
	e.events(back)
	e.wantVerified(e)
	e.tampered = true // back has no key of two's
	first, kinds := e.kinds("one")
	if first == 1 || kinds[0] != audit.KindCheckpoint {
		e.Errorf("it begins at %d, with %s", first, kinds[0])
	}
	// So that nobody gets rid of a history by a removal that he writes himself, for as long as it takes to start over it.
	all, _ := e.db.Trail(e)
	e.putAudit(e, without(all, func(r audit.Record) bool { return r.Stream == "two" }))
	if s := e.judge(e).Streams[0]; s.Standing == audit.Verified {
		e.Error("a stream is good without its beginning, whose removal is on record nowhere")
	}
}
