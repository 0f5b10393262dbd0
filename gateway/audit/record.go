// Package audit is the audit trail as it is outside of a store: records and how they are chained, signed checkpoints, what
// verifies a trail, and the sinks that get a copy of it. It knows no events: a record's body is JSON that somebody else wrote.
//
// gateway/store keeps the trail and appends to it; cmd/muster verifies, exports and configures.
package audit

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
)

// Record is one record of a stream. Each instance writes a stream of its own, numbered from 1 without gaps.
type Record struct {
	Stream string
	Seq    int64
	Prev   []byte // Hash of the record before; Genesis of the first
	Hash   []byte // Link of the rest
	Body   string // JSON
}

// Genesis is Prev of a stream's first record: 32 zero bytes.
func Genesis() []byte { return make([]byte, sha256.Size) }

// Link is the hash of a record: SHA-256 over the length (4 bytes, big-endian) and bytes of the stream's name, the sequence number (8
// bytes, big-endian), the hash of the record before, and the body.
func Link(stream string, seq int64, prev []byte, body string) []byte {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(stream))))
	h.Write([]byte(stream))
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(seq)))
	h.Write(prev)
	h.Write([]byte(body))
	return h.Sum(nil)
}

// Sink gets a copy of the trail, in order, each record at least once. Its methods are called by one goroutine at a time.
type Sink interface {
	// Name is what the configuration and the log call it.
	Name() string
	// Write returns nil when the sink has all of them: on the disk for a file, handed over for a network. Whatever it returns else, all
	// of them come again.
	Write(ctx context.Context, records []Record) error
	Close() error
}
