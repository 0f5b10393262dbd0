package audit

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"
	"time"
)

// FuzzParseHead: what is read is written the same, but for the case of its hash.
func FuzzParseHead(f *testing.F) {
	f.Add(Head{"one:two", 7, Genesis()}.String())
	f.Add("one:0:" + strings.Repeat("00", 32))
	f.Add("::")
	f.Fuzz(func(t *testing.T, s string) {
		h, err := ParseHead(s)
		if err != nil {
			return
		}
		again, err := ParseHead(h.String())
		if err != nil || again.Stream != h.Stream || again.Seq != h.Seq || !bytes.Equal(again.Hash, h.Hash) || h.Stream == "" || h.Seq < 1 {
			t.Errorf("%q: %+v, then %+v, %v", s, h, again, err)
		}
	})
}

// FuzzSlot: whatever a slot of the head file holds, it is a head or nothing, with a checksum that is right too.
func FuzzSlot(f *testing.F) {
	f.Add("open 7 "+hex.EncodeToString(Genesis())+` "one two"`, true)
	f.Add("closed 0 "+hex.EncodeToString(Genesis())+` ""`, true)
	f.Add("open 7 x y", false)
	f.Add("", false)
	f.Add("", true)
	f.Fuzz(func(t *testing.T, text string, space bool) {
		line := slotMagic + text
		if space {
			line += " "
		}
		line += fmt.Sprintf("%08x", crc32.ChecksumIEEE([]byte(line)))
		slot := []byte(line + "\n")
		if len(slot) > slotSize {
			return
		}
		slot = append(slot, bytes.Repeat([]byte(" "), slotSize-len(slot))...)
		l := parseSlot(slot)
		if l == nil {
			return
		}
		name, err := json.Marshal(l.Stream)
		if err != nil || len(l.Hash) != len(Genesis()) || !space && !strings.HasSuffix(text, " ") {
			t.Fatalf("%q: %+v, %s, %v", text, l, name, err)
		}
		slot[len(slotMagic)] ^= 1
		if parseSlot(slot) != nil {
			t.Error("a slot with a wrong checksum")
		}
	})
}

// FuzzCheckpoint: what is taken for a checkpoint has the one form, names its place, and is only as good as its signature; the same body may be
// one of a removal, whose head is whole.
func FuzzCheckpoint(f *testing.F) {
	k := newKey(f)
	for _, r := range chain(f, k, "one", 3, 2) {
		f.Add(r.Body, r.Seq, r.Prev)
	}
	pruned, err := NewPruned(Head{"one", 7, Genesis()}, time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(pruned, int64(9), Genesis())
	f.Fuzz(func(t *testing.T, body string, seq int64, prev []byte) {
		r := Record{Stream: "one", Seq: seq, Prev: prev, Body: body}
		at, stands := CheckpointTime(r)
		if c, err := readCheckpoint(r); err == nil {
			if c.Stream != "one" || c.Seq != seq || c.Prev != hex.EncodeToString(prev) {
				t.Fatalf("%+v", c)
			}
			if stands && !at.Equal(c.At) {
				t.Errorf("%s is not %s", at, c.At)
			}
			if other := newKey(t).Public(); other.verify(c) == nil {
				t.Error("a key that has signed nothing verifies")
			}
		} else if stands {
			t.Errorf("it stands, and cannot be read: %v", err)
		}
		if last, ok := ReadPruned(body); ok && len(last.Hash) != len(Genesis()) {
			t.Errorf("%+v", last)
		}
	})
}
