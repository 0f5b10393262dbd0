package audit

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

func newKey(t testing.TB) *Key {
	t.Helper()
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// chain makes a stream of n records, of which those whose numbers every divides are checkpoints.
func chain(t testing.TB, k *Key, stream string, n, every int) (all []Record) {
	t.Helper()
	prev := Genesis()
	for seq := int64(1); seq <= int64(n); seq++ {
		body := fmt.Sprintf(`{"kind":"issued","at":"2026-07-01T12:00:00Z","transaction":"t%d"}`, seq)
		if every > 0 && seq%int64(every) == 0 {
			var err error
			if body, err = k.Checkpoint(stream, seq, prev, noon); err != nil {
				t.Fatal(err)
			}
		}
		all = append(all, Record{stream, seq, prev, Link(stream, seq, prev, body), body})
		prev = all[len(all)-1].Hash
	}
	return all
}

func verify(t Trust, all []Record) *Report {
	v := NewVerifier(t)
	for _, r := range all {
		v.Add(r)
	}
	return v.Report()
}

func TestStandings(t *testing.T) {
	k, other := newKey(t), newKey(t)
	all := chain(t, k, "one", 25, 10)
	mine := []PublicKey{k.Public()}
	for _, c := range []struct {
		name   string
		trust  Trust
		all    []Record
		want   Standing
		signed int64
	}{
		{"signed", Trust{Keys: mine}, all, Verified, 20},
		{"by two keys, one of which is known", Trust{Keys: append(mine, other.Public())}, all, Verified, 20},
		{"by nobody known", Trust{}, all, Unvouched, 0},
		{"by nobody known, though somebody is", Trust{Keys: []PublicKey{other.Public()}}, all, Unvouched, 0},
		{"by nobody", Trust{Keys: mine}, all[:9], Unsigned, 0},
		{"of another stream", Trust{Keys: mine}, chain(t, k, "one", 9, 0), Unsigned, 0},
	} {
		s := verify(c.trust, c.all).Streams[0]
		if s.Standing != c.want || s.Signed != c.signed {
			t.Errorf("%s: %s through %d %v", c.name, s.Standing, s.Signed, s.Faults)
		}
	}
	s := verify(Trust{Keys: mine}, all).Streams[0]
	if s.Records != 25 || s.First != 1 || s.Last != 25 || !s.From.Equal(noon) || len(s.Signers) != 1 || s.Signers[0] != (Signer{k.Public().ID, true, 2}) {
		t.Errorf("%+v", s)
	}
}

// TestCheckpointElsewhere: a checkpoint is good at its place alone, in its own form, with its own signature.
func TestCheckpointElsewhere(t *testing.T) {
	k := newKey(t)
	prev := Link("one", 1, Genesis(), "{}")
	body, err := k.Checkpoint("one", 2, prev, noon)
	if err != nil {
		t.Fatal(err)
	}
	good := Record{"one", 2, prev, nil, body}
	if at, err := k.Signed(good); err != nil || !at.Equal(noon) {
		t.Fatal(at, err)
	}
	edit := func(old, new string) Record {
		r := good
		if r.Body = strings.Replace(body, old, new, 1); r.Body == body {
			t.Fatalf("%s is not in %s", old, body)
		}
		return r
	}
	for name, r := range map[string]Record{
		"another stream":      {"two", 2, prev, nil, body},
		"another number":      {"one", 3, prev, nil, body},
		"another history":     {"one", 2, Genesis(), nil, body},
		"another time":        edit("12:00:00", "12:00:01"),
		"another signature":   edit(`"signature":"`, `"signature":"AA`),
		"no signature":        {"one", 2, prev, nil, strings.Split(body, `,"signature"`)[0] + `,"signature":null}`},
		"more than is signed": edit(`{"kind"`, `{"device":"x","kind"`),
		"a space":             edit(`{"kind"`, `{ "kind"`),
	} {
		if _, err := k.Signed(r); err == nil {
			t.Errorf("%s: good", name)
		}
	}
	if _, err := newKey(t).Signed(good); err == nil {
		t.Error("by another key: good")
	}
	if text := fmt.Sprintf("%v %+v %#v %s", k, k, k, k); strings.Contains(text, fmt.Sprintf("%v", []byte(k.private)[:8])) || !strings.Contains(text, k.Public().ID) {
		t.Errorf("a key is shown as %s", text)
	}
}

// TestNoCheckpointsAnyMore: who rewrites the end of a stream cannot sign it, and a gateway signs all Every records.
func TestNoCheckpointsAnyMore(t *testing.T) {
	k := newKey(t)
	all := chain(t, k, "one", 10, 10)
	more := func(n int) []Record {
		all := slices.Clone(all)
		for range n {
			last := all[len(all)-1]
			all = append(all, Record{"one", last.Seq + 1, last.Hash, Link("one", last.Seq+1, last.Hash, "{}"), "{}"})
		}
		return all
	}
	for n, want := range map[int]int{Every: 0, Every + 1: 0, Every + 2: 1, 3 * Every: 1} {
		if faults := verify(Trust{Keys: []PublicKey{k.Public()}}, more(n)).Faults(); len(faults) != want {
			t.Errorf("%d records after the checkpoint: %v", n, faults)
		}
	}
}

// TestManyFaults: not all of them are told.
func TestManyFaults(t *testing.T) {
	all := chain(t, nil, "one", 100, 0)
	for i := range all {
		all[i].Stream = "two"
	}
	s := verify(Trust{}, all).Streams[0]
	if s.Standing != Faulty || len(s.Faults) != maxFaults || s.More != 100-maxFaults || s.Faults[0].Transaction != "t1" {
		t.Errorf("%d faults and %d more: %v", len(s.Faults), s.More, s.Faults)
	}
}

// TestPartial: files of a sink begin anywhere, and hold some records twice.
func TestPartial(t *testing.T) {
	k := newKey(t)
	all := chain(t, k, "one", 30, 10)
	twice := slices.Concat(all[4:15], all[11:25], all[25:])
	trust := Trust{Keys: []PublicKey{k.Public()}, Partial: true}
	if s := verify(trust, twice).Streams[0]; s.Standing != Verified || s.Records != 26 {
		t.Errorf("%s, %d records: %v", s.Standing, s.Records, s.Faults)
	}
	if verify(Trust{Keys: trust.Keys}, twice).Faults() == nil {
		t.Error("the whole trail begins anywhere")
	}
	changed := slices.Clone(twice)
	changed[11].Body = "{}" // the second time
	if verify(trust, changed).Faults() == nil {
		t.Error("a record is another one the second time")
	}
	if verify(trust, slices.Concat(all[:10], all[12:])).Faults() == nil {
		t.Error("records are missing in between")
	}
}

// TestExpected: records that have to be there, of streams that are longer, shorter, gone and rewritten.
func TestExpected(t *testing.T) {
	all := chain(t, nil, "a:b", 10, 0)
	head := func(i int) Head { return Head{"a:b", all[i].Seq, all[i].Hash} }
	h, err := ParseHead(head(9).String())
	if err != nil || h.String() != head(9).String() || h.Stream != "a:b" {
		t.Fatal(h, err)
	}
	for _, bad := range []string{"", "x", "a:1", "a:0:" + strings.Repeat("0", 64), "a:1:00", ":1:" + strings.Repeat("0", 64), "a:x:" + strings.Repeat("0", 64)} {
		if _, err := ParseHead(bad); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
	for _, c := range []struct {
		name string
		all  []Record
		want string
	}{
		{"as it was", all, ""},
		{"longer", append(slices.Clone(all), chain(t, nil, "two", 3, 0)...), ""},
		{"shorter", all[:9], "record 9"},
		{"gone", nil, "is gone"},
	} {
		faults := verify(Trust{Expect: []Head{head(9), head(3)}}, c.all).Faults()
		if (c.want == "") != (faults == nil) || c.want != "" && !strings.Contains(faults[0].Error(), c.want) {
			t.Errorf("%s: %v", c.name, faults)
		}
	}
	other := head(4)
	other.Hash = Genesis()
	if f := verify(Trust{Expect: []Head{other}}, all).Faults(); len(f) != 1 || f[0].Seq != 5 {
		t.Errorf("another record: %v", f)
	}
	// Written when nobody ran.
	for closed, want := range map[bool]int{true: 1, false: 0} {
		if f := verify(Trust{Left: []Left{{head(7), closed}}}, all).Faults(); len(f) != want {
			t.Errorf("closed %t: %v", closed, f)
		}
	}
}

func TestLines(t *testing.T) {
	k := newKey(t)
	all := chain(t, k, "o\"ne", 12, 5)
	for _, body := range []string{`{"a": "<é>\u003c" }`, "{}\n", "no JSON", "\xff", ` {}`} {
		last := all[len(all)-1]
		all = append(all, Record{last.Stream, last.Seq + 1, last.Hash, Link(last.Stream, last.Seq+1, last.Hash, body), body})
	}
	text, err := AppendExport(nil, &Export{Version: 1, At: noon, Streams: []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		text = AppendLine(text, r)
	}
	if n := bytes.Count(text, []byte("\n")); n != len(all)+1 {
		t.Errorf("%d lines", n)
	}
	var got []Record
	var e *Export
	err = ReadLines(bytes.NewReader(text), "f", func(x *Export) error { e = x; return nil }, func(r Record) error { got = append(got, r); return nil })
	if err != nil || e == nil || e.Streams[0] != "x" || len(got) != len(all) {
		t.Fatal(err, e, len(got))
	}
	if f := verify(Trust{Keys: []PublicKey{k.Public()}}, got).Faults(); f != nil {
		t.Error(f)
	}
	for _, bad := range []string{"{", "[]", "{}", `{"stream":"a","seq":1,"prev":"0","hash":"00","body":{}}`, `{"stream":"a","seq":1,"prev":"00","hash":"00"}`,
		`{"export":{"version":2}}`, strings.Repeat("x", maxLine+1)} {
		none := func(*Export) error { return nil }
		err := ReadLines(strings.NewReader("\n"+bad), "f", none, func(Record) error { return nil })
		if err == nil || !strings.HasPrefix(err.Error(), "f, line 2: ") {
			t.Errorf("%.40s: %v", bad, err)
		}
	}
}

func TestFilter(t *testing.T) {
	const body = `{"kind":"issued","at":"2026-07-01T12:00:00Z","device":"d","transaction":"t"}`
	for want, list := range map[bool][]Filter{
		true:  {{}, {Since: noon}, {Until: noon.Add(1)}, {Device: "d"}, {Transaction: "t"}, {Kinds: []string{"denied", "issued"}}},
		false: {{Since: noon.Add(1)}, {Until: noon}, {Device: "e"}, {Transaction: "u"}, {Kinds: []string{"denied"}}},
	} {
		for _, f := range list {
			if f.Takes(body) != want || f.Whole() != (f.String() == "") {
				t.Errorf("%+v: %t, %q", f, !want, f.String())
			}
			if !f.Takes("no JSON") {
				t.Errorf("%+v leaves out what cannot be read", f)
			}
		}
	}
}

func FuzzReadLine(f *testing.F) {
	k := newKey(f)
	for _, r := range chain(f, k, "one", 3, 2) {
		f.Add(AppendLine(nil, r))
	}
	first, _ := AppendExport(nil, &Export{Version: 1})
	f.Add(first)
	f.Fuzz(func(t *testing.T, text []byte) {
		_ = readLine(text, func(*Export) error { return nil }, func(r Record) error {
			var again []Record
			line := AppendLine(nil, r)
			if err := readLine(line, nil, func(r Record) error { again = append(again, r); return nil }); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			if r.Body != again[0].Body || !bytes.Equal(r.Hash, again[0].Hash) || r.Seq != again[0].Seq {
				t.Errorf("%+v\n%+v", r, again[0])
			}
			verify(Trust{Keys: []PublicKey{k.Public()}}, []Record{r})
			return nil
		})
	})
}

func BenchmarkVerify(b *testing.B) {
	k := newKey(b)
	all := chain(b, k, "one", 100_000, Every)
	for b.Loop() {
		if verify(Trust{Keys: []PublicKey{k.Public()}}, all).Faults() != nil {
			b.Fatal("faults")
		}
	}
	b.ReportMetric(float64(len(all))*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

func BenchmarkCheckpoint(b *testing.B) {
	k := newKey(b)
	for b.Loop() {
		if _, err := k.Checkpoint("one", 1, Genesis(), noon); err != nil {
			b.Fatal(err)
		}
	}
}

// TestPrunedByAnother: that a beginning was removed counts as far as the key counts that signed the record of it.
func TestPrunedByAnother(t *testing.T) {
	k, b := newKey(t), newKey(t)
	one := chain(t, k, "one", 25, 10)
	said, err := NewPruned(Head{"one", 9, one[8].Hash}, noon)
	if err != nil {
		t.Fatal(err)
	}
	two := []Record{{"two", 1, Genesis(), Link("two", 1, Genesis(), said), said}}
	body, err := b.Checkpoint("two", 2, two[0].Hash, noon)
	if err != nil {
		t.Fatal(err)
	}
	two = append(two, Record{"two", 2, two[0].Hash, Link("two", 2, two[0].Hash, body), body})
	all := slices.Concat(one[9:], two)
	both := []PublicKey{k.Public(), b.Public()}
	for _, c := range []struct {
		name string
		keys []PublicKey
		all  []Record
		want Standing
	}{
		{"both known", both, all, Verified},
		{"the other's unknown", both[:1], all, Unvouched},
		{"its own unknown", both[1:], all, Unvouched},
		{"without the other's checkpoint", both, all[:len(all)-1], Faulty},
		{"without the other's record", both, one[9:], Faulty},
		{"one more gone", both, all[1:], Faulty},
		{"beginning before, as in a removal that broke off", both, append(slices.Clone(one[4:9]), all...), Verified},
		{"beginning before, and changed there", both, append([]Record{{"one", 9, one[8].Prev, one[9].Hash, "{}"}}, all...), Faulty},
	} {
		if s := verify(Trust{Keys: c.keys}, c.all).Streams[0]; s.Standing != c.want {
			t.Errorf("%s: %s %v %s", c.name, s.Standing, s.Faults, s.Note)
		}
	}
}
