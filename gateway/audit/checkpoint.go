package audit

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Kinds of the records that the trail writes about itself.
const (
	KindCheckpoint = "checkpoint"   // signs all records of its stream before it
	KindPruned     = "audit-pruned" // a stream's beginning was removed
	KindBroken     = "audit-broken" // at its start, an instance found its stream other than it had left it
	KindStopped    = "stopped"      // the last of a graceful stop, but for its checkpoint
)

// Every is how many records a signed stream has at most between two checkpoints.
const Every = 1000

// Interval is the time after which records that no checkpoint covers get one.
const Interval = 10 * time.Minute

// CheckpointPrefix is how the body of each checkpoint, and of no other record, begins.
const CheckpointPrefix = `{"kind":"` + KindCheckpoint + `"`

// signing is what a checkpoint's signature is for, so that it is none for anything else.
const signing = "muster audit checkpoint v1\x00"

// Checkpoint is the body of a record of kind "checkpoint". Its signature covers all records before it, since each hash covers the one before.
type Checkpoint struct {
	Kind      string    `json:"kind"`
	At        time.Time `json:"at"`
	Stream    string    `json:"stream"`
	Seq       int64     `json:"seq"`  // its own
	Prev      string    `json:"prev"` // hash of the record before, hexadecimal
	Key       string    `json:"key"`  // PublicKey.ID
	Signature []byte    `json:"signature"`
}

// Checkpoint makes the body of the record that follows the one with the hash prev.
func (k *Key) Checkpoint(stream string, seq int64, prev []byte, at time.Time) (string, error) {
	c := Checkpoint{Kind: KindCheckpoint, At: at.UTC(), Stream: stream, Seq: seq, Prev: hex.EncodeToString(prev), Key: k.public.ID}
	message, err := c.signed()
	if err != nil {
		return "", err
	}
	c.Signature = ed25519.Sign(k.private, message)
	body, err := json.Marshal(c)
	return string(body), err
}

// signed is what is signed: the context, then stream, time and key ID, each with its length (4 bytes, big-endian) before it, the number (8
// bytes) and the hash.
func (c *Checkpoint) signed() ([]byte, error) {
	prev, err := hex.DecodeString(c.Prev)
	if err != nil {
		return nil, err
	}
	at, err := c.At.MarshalText()
	if err != nil {
		return nil, err
	}
	b := []byte(signing)
	for _, part := range [][]byte{[]byte(c.Stream), at, []byte(c.Key)} {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(part))), part...)
	}
	return append(binary.BigEndian.AppendUint64(b, uint64(c.Seq)), prev...), nil
}

// IsCheckpoint reports whether a record says that it is one.
func IsCheckpoint(body string) bool { return strings.HasPrefix(body, CheckpointPrefix) }

// Signed is the time of a checkpoint that the key signed, at its place in its stream.
func (k *Key) Signed(r Record) (time.Time, error) {
	c, err := readCheckpoint(r)
	if err == nil && c.Key != k.public.ID {
		err = fmt.Errorf("another key signed it: %s", c.Key)
	}
	if err == nil {
		err = k.public.verify(c)
	}
	if err != nil {
		return time.Time{}, err
	}
	return c.At, nil
}

// CheckpointTime is the time of a checkpoint that stands where it says. Who signed it is not looked at.
func CheckpointTime(r Record) (time.Time, bool) {
	if !IsCheckpoint(r.Body) {
		return time.Time{}, false
	}
	c, err := readCheckpoint(r)
	if err != nil {
		return time.Time{}, false
	}
	return c.At, true
}

// readCheckpoint reads the body of a checkpoint, which has to be as Checkpoint writes it and made for this place in this stream. Its signature
// is not looked at.
func readCheckpoint(r Record) (*Checkpoint, error) {
	var c Checkpoint
	if err := json.Unmarshal([]byte(r.Body), &c); err != nil {
		return nil, fmt.Errorf("a checkpoint that cannot be read: %w", err)
	}
	if again, err := json.Marshal(&c); err != nil || !bytes.Equal(again, []byte(r.Body)) {
		return nil, errors.New("a checkpoint in a form that no gateway writes")
	}
	switch {
	case c.Stream != r.Stream:
		return nil, fmt.Errorf("a checkpoint of another stream, %q", c.Stream)
	case c.Seq != r.Seq:
		return nil, fmt.Errorf("a checkpoint of another place, record %d", c.Seq)
	case c.Prev != hex.EncodeToString(r.Prev):
		return nil, errors.New("the records before this checkpoint are not those that it was signed for: they were rewritten, and their hashes made anew")
	}
	return &c, nil
}

var errSignature = errors.New("the signature of this checkpoint is wrong")

func (p PublicKey) verify(c *Checkpoint) error {
	message, err := c.signed()
	if err != nil || !ed25519.Verify(p.key, message, c.Signature) {
		return errSignature
	}
	return nil
}

// Pruned is the body of a record of kind "audit-pruned": records of a stream were removed, from the oldest through the one named. It stands in
// the stream of the instance that removed them, before the first of them is gone.
type Pruned struct {
	Kind    string    `json:"kind"`
	At      time.Time `json:"at"`
	Stream  string    `json:"stream"`
	Through int64     `json:"through"`
	Hash    string    `json:"hash"` // of the last one removed, hexadecimal
	Note    string    `json:"note"`
}

// NewPruned is the body for a removal.
func NewPruned(last Head, at time.Time) (string, error) {
	p := Pruned{KindPruned, at.UTC(), last.Stream, last.Seq, hex.EncodeToString(last.Hash), fmt.Sprintf("records of stream %q through %d, older than the trail is kept", last.Stream, last.Seq)}
	body, err := json.Marshal(p)
	return string(body), err
}

// ReadPruned reads one, false for any other body.
func ReadPruned(body string) (last Head, ok bool) {
	if !strings.HasPrefix(body, `{"kind":"`+KindPruned+`"`) {
		return Head{}, false
	}
	var p Pruned
	if json.Unmarshal([]byte(body), &p) != nil {
		return Head{}, false
	}
	hash, err := hex.DecodeString(p.Hash)
	return Head{p.Stream, p.Through, hash}, err == nil && len(hash) == len(Genesis())
}
