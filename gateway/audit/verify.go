package audit

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Trust is what a trail is verified against. The zero value finds broken chains only.
type Trust struct {
	Keys     []PublicKey
	Left     []Left  // how an instance left its streams: its head file
	Expect   []Head  // records that have to be there, kept elsewhere
	Restored []Place // records of KindBroken that somebody answers for
	// Partial is for copies of a part of the trail: streams begin anywhere, and a record may come again.
	Partial bool
}

// Place is one record's.
type Place struct {
	Stream string
	Seq    int64
}

// Fault is one thing that is wrong with a trail.
type Fault struct {
	Stream      string `json:"stream"`
	Seq         int64  `json:"seq,omitempty"`         // of the record at which it shows; 0 for the stream as a whole
	Transaction string `json:"transaction,omitempty"` // of that record
	What        string `json:"what"`
}

// Error makes it an error.
func (f *Fault) Error() string {
	at := ""
	if f.Seq > 0 {
		at = fmt.Sprintf(", record %d", f.Seq)
	}
	if f.Transaction != "" {
		at += ", transaction " + f.Transaction
	}
	return fmt.Sprintf("the audit trail, stream %q%s: %s", f.Stream, at, f.What)
}

// Standing is what can be said of a stream.
type Standing string

// The standings.
const (
	Verified  Standing = "verified"
	Faulty    Standing = "faulty"
	Unsigned  Standing = "not signed"  // the chain is whole, and anybody could have made it
	Unvouched Standing = "unknown key" // the chain is whole, and signed by keys that nobody vouched for
)

// Stream is what was found out about one stream.
type Stream struct {
	Stream   string    `json:"stream"`
	Standing Standing  `json:"standing"`
	Records  int64     `json:"records"`
	First    int64     `json:"first,omitempty"`
	Last     int64     `json:"last,omitempty"`
	Hash     string    `json:"hash,omitempty"` // of the last, hexadecimal
	From     time.Time `json:"from,omitzero"`
	To       time.Time `json:"to,omitzero"`
	Signed   int64     `json:"signed-through,omitempty"` // by a key that is vouched for
	Known    int64     `json:"head,omitempty"`           // the last record that a head file, or somebody, vouches for
	Signers  []Signer  `json:"signers,omitempty"`
	Faults   []Fault   `json:"faults,omitempty"` // the first of them
	More     int       `json:"more-faults,omitempty"`
	Note     string    `json:"note,omitempty"` // on what it lacks to be verified
}

// Signer is a key with its checkpoints of a stream.
type Signer struct {
	Key         string `json:"key"`
	Known       bool   `json:"known"`
	Checkpoints int64  `json:"checkpoints"`
}

// Report is what was found out about a trail.
type Report struct {
	Streams []*Stream `json:"streams"`
}

// Faults are those of all streams.
func (r *Report) Faults() (all []Fault) {
	for _, s := range r.Streams {
		all = append(all, s.Faults...)
	}
	return all
}

// maxFaults is how many faults of a stream are told; the rest is counted.
const maxFaults = 20

// recent is how far back a record that comes again is known.
const recent = 4096

// Verifier takes the records of a trail, each stream's in order, and says what is wrong. It is the only judge of a trail: the store's own check,
// `muster audit verify` and what removes old records all ask it.
type Verifier struct {
	trust   Trust
	keys    map[string]PublicKey
	expect  map[string][]Head
	streams map[string]*walk
	pruned  map[string][]pruned
}

// walk is a stream as far as it was read.
type walk struct {
	Stream
	hash        []byte
	first, last string           // bodies
	begin       []byte           // Prev of the first, where that is not record 1
	checkpoints map[int64][]byte // where it does not begin at record 1: Prev of each
	signers     map[string]int64
	gap         bool             // told of records that no checkpoint covers
	hashes      map[int64][]byte // of recent records, with Partial
}

type pruned struct {
	Head
	by Place
}

// NewVerifier begins.
func NewVerifier(t Trust) *Verifier {
	v := &Verifier{trust: t, keys: map[string]PublicKey{}, expect: map[string][]Head{}, streams: map[string]*walk{}, pruned: map[string][]pruned{}}
	for _, k := range t.Keys {
		v.keys[k.ID] = k
	}
	for _, h := range t.Expect {
		v.expect[h.Stream] = append(v.expect[h.Stream], h)
	}
	for _, l := range t.Left {
		if l.Seq > 0 {
			v.expect[l.Stream] = append(v.expect[l.Stream], l.Head)
		}
	}
	return v
}

func (w *walk) fault(seq int64, body, format string, args ...any) {
	if len(w.Faults) >= maxFaults {
		w.More++
		return
	}
	var said struct {
		Transaction string `json:"transaction"`
	}
	_ = json.Unmarshal([]byte(body), &said) // of a record that was changed, perhaps
	w.Faults = append(w.Faults, Fault{w.Stream.Stream, seq, said.Transaction, fmt.Sprintf(format, args...)})
}

func (v *Verifier) stream(name string) *walk {
	w := v.streams[name]
	if w == nil {
		w = &walk{Stream: Stream{Stream: name}, signers: map[string]int64{}}
		if v.trust.Partial {
			w.hashes = map[int64][]byte{}
		}
		v.streams[name] = w
	}
	return w
}

// Add takes the next record.
func (v *Verifier) Add(r Record) {
	w := v.stream(r.Stream)
	if v.follows(w, &r) {
		return
	}
	if !bytes.Equal(r.Hash, Link(r.Stream, r.Seq, r.Prev, r.Body)) {
		w.fault(r.Seq, r.Body, "it was changed: its hash is not that of what it says")
	}
	for _, h := range v.expect[r.Stream] {
		if h.Seq == r.Seq && !bytes.Equal(h.Hash, r.Hash) {
			w.fault(r.Seq, r.Body, "it is not the record that was there: its hash was %x, so that it, or one before, was rewritten", h.Hash)
		}
	}
	w.Records++
	w.Last, w.hash, w.last = r.Seq, r.Hash, r.Body
	if w.hashes != nil {
		w.hashes[r.Seq] = r.Hash
		delete(w.hashes, r.Seq-recent)
	}
	switch {
	case IsCheckpoint(r.Body):
		v.checkpoint(w, r)
	case w.Signed > 0 && !w.gap && r.Seq-w.Signed > Every+1:
		w.gap = true
		w.fault(r.Seq, r.Body, "no checkpoint of a known key stands between record %d and this one, and a gateway makes one every %d: they were rewritten without", w.Signed, Every)
	case strings.HasPrefix(r.Body, `{"kind":"`+KindPruned+`"`):
		if last, ok := ReadPruned(r.Body); ok {
			v.pruned[last.Stream] = append(v.pruned[last.Stream], pruned{last, Place{r.Stream, r.Seq}})
		}
	case strings.HasPrefix(r.Body, `{"kind":"`+KindBroken+`"`) && !slices.Contains(v.trust.Restored, Place{r.Stream, r.Seq}):
		var said struct{ Note string }
		_ = json.Unmarshal([]byte(r.Body), &said)
		w.fault(r.Seq, r.Body, "at its start the gateway found: %s. If a backup was restored, say so by --restored %s:%d", said.Note, r.Stream, r.Seq)
	}
}

// follows compares a record with the one before, and reports whether it is not to be looked at.
func (v *Verifier) follows(w *walk, r *Record) (skip bool) {
	switch {
	case len(r.Prev) != len(Genesis()):
		w.fault(r.Seq, r.Body, "it was changed: it names no record before")
	case w.Records == 0:
		w.First, w.first = r.Seq, r.Body
		if r.Seq != 1 {
			w.begin, w.checkpoints = r.Prev, map[int64][]byte{}
		} else if !bytes.Equal(r.Prev, Genesis()) {
			w.fault(r.Seq, r.Body, "the first record follows another one")
		}
	case r.Seq <= w.Last:
		if h, ok := w.hashes[r.Seq]; ok && bytes.Equal(h, r.Hash) && bytes.Equal(h, Link(r.Stream, r.Seq, r.Prev, r.Body)) {
			return true
		}
		w.fault(r.Seq, r.Body, "it stands after record %d: inserted, or put in another order", w.Last)
		return true
	case r.Seq == w.Last+2:
		w.fault(r.Seq, r.Body, "the record before it, %d, is gone", r.Seq-1)
	case r.Seq > w.Last+2:
		w.fault(r.Seq, r.Body, "the records before it, %d to %d, are gone", w.Last+1, r.Seq-1)
	case !bytes.Equal(r.Prev, w.hash):
		w.fault(r.Seq, r.Body, "it does not follow the record before: %d was rewritten, with its hash, or this one inserted", w.Last)
	}
	return false
}

func (v *Verifier) checkpoint(w *walk, r Record) {
	c, err := readCheckpoint(r)
	if err != nil {
		w.fault(r.Seq, r.Body, "%v", err)
		return
	}
	if w.checkpoints != nil {
		w.checkpoints[r.Seq] = r.Prev
	}
	key, known := v.keys[c.Key]
	if known {
		if err := key.verify(c); err != nil {
			w.fault(r.Seq, r.Body, "%v: the records before it were rewritten, or it was", err)
			return
		}
		w.Signed = r.Seq
	}
	w.signers[c.Key]++
}

// Report ends the verification.
func (v *Verifier) Report() *Report {
	r := &Report{}
	for _, name := range slices.Sorted(maps.Keys(v.streams)) {
		v.beginning(v.streams[name])
	}
	for _, name := range slices.Sorted(maps.Keys(v.expect)) {
		v.expected(name)
	}
	for _, l := range v.trust.Left {
		if w := v.streams[l.Stream]; w != nil && l.Closed && w.Last > l.Seq && w.Signed <= l.Seq {
			w.fault(l.Seq+1, "", "it was written after the gateway had stopped, and no checkpoint of a known key covers it: inserted")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(v.streams)) {
		r.Streams = append(r.Streams, v.streams[name].conclude(v.keys))
	}
	return r
}

// beginning judges a stream that does not begin at record 1.
func (v *Verifier) beginning(w *walk) {
	if w.begin == nil || v.trust.Partial {
		return
	}
	why := "and the trail says nowhere that they were removed for their age"
	for _, p := range v.pruned[w.Stream.Stream] {
		prev, ok := w.checkpoints[p.Seq+1]
		if p.Seq < w.First-1 || !ok || !bytes.Equal(prev, p.Hash) {
			continue
		}
		if v.covers(p.by) {
			w.Note = ""
			return
		}
		if by := v.streams[p.by.Stream]; by.Signed == 0 && len(by.signers) > 0 {
			w.Note = fmt.Sprintf("records 1 to %d were removed for their age: so says record %d of stream %q, for whose key nobody vouches", w.First-1, p.by.Seq, p.by.Stream)
			continue
		}
		why = fmt.Sprintf("and stream %q, record %d, which says that they were removed for their age, is signed by no known key", p.by.Stream, p.by.Seq)
	}
	if w.Note != "" {
		return
	}
	w.fault(w.First, w.first, "the records before it, 1 to %d, are gone, %s", w.First-1, why)
}

// covers reports whether a record of this trail is covered by the signature of a known key, or stood there when somebody looked.
func (v *Verifier) covers(p Place) bool {
	w := v.streams[p.Stream]
	if w.Signed >= p.Seq {
		return true
	}
	return slices.ContainsFunc(v.expect[p.Stream], func(h Head) bool { return h.Seq >= p.Seq && h.Seq <= w.Last })
}

// expected looks for the records that have to be there. Those that are there were compared as they came.
func (v *Verifier) expected(name string) {
	w := v.streams[name]
	for _, h := range v.expect[name] {
		removed := slices.ContainsFunc(v.pruned[name], func(p pruned) bool { return p.Seq >= h.Seq && v.covers(p.by) })
		switch {
		case w == nil && removed:
		case w == nil:
			v.stream(name).fault(0, "", "the stream is gone: it had at least %d records", h.Seq)
			return
		case w.Records > 0 && h.Seq > w.Last && !removed:
			w.fault(w.Last, w.last, "the stream ends here, and had records through %d at least: %d of them were cut off", h.Seq, h.Seq-w.Last)
		case w.Records > 0 && h.Seq <= w.Last:
			w.Known = max(w.Known, h.Seq)
		}
	}
}

func (w *walk) conclude(keys map[string]PublicKey) *Stream {
	s := &w.Stream
	s.Hash = hex.EncodeToString(w.hash)
	s.From, s.To = TimeOf(w.first), TimeOf(w.last)
	for _, id := range slices.Sorted(maps.Keys(w.signers)) {
		_, known := keys[id]
		s.Signers = append(s.Signers, Signer{id, known, w.signers[id]})
	}
	switch {
	case len(s.Faults) > 0:
		s.Standing = Faulty
	case s.Signed > 0 && s.Note == "":
		s.Standing = Verified
	case len(s.Signers) > 0:
		s.Standing = Unvouched
	default:
		s.Standing = Unsigned
	}
	return s
}

// TimeOf is a body's time, zero where it has none.
func TimeOf(body string) time.Time {
	var said struct{ At time.Time }
	if json.Unmarshal([]byte(body), &said) != nil {
		return time.Time{}
	}
	return said.At
}
