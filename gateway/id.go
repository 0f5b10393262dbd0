package gateway

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"strings"
	"time"
)

var idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// NewID returns a transaction ID: 26 characters of base32, 48 bits of time in milliseconds, then 80 random bits,
// so that IDs sort by the time they were made and cannot be guessed.
func NewID(now time.Time) string {
	var b [16]byte
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(now.UnixMilli()))
	copy(b[:6], ms[2:])
	rand.Read(b[6:]) //nolint:errcheck // crypto/rand.Read never fails (Go 1.24)
	return idEncoding.EncodeToString(b[:])
}

// FirstID is what sorts before all IDs that are made from a time on, and behind those that were made earlier, to the millisecond.
func FirstID(at time.Time) string {
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(max(at.UnixMilli(), 0)))
	return idEncoding.EncodeToString(append(ms[2:8:8], make([]byte, 10)...))
}

// IDTime is when an ID was made, zero for a text that is none.
func IDTime(id string) time.Time {
	b, err := idEncoding.DecodeString(id)
	if err != nil || len(b) != 16 {
		return time.Time{}
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(append([]byte{0, 0}, b[:6]...)))).UTC()
}

// ValidID reports whether s has the form of NewID's answer.
func ValidID(s string) bool {
	return len(s) == 26 && strings.Trim(s, "0123456789abcdefghjkmnpqrstvwxyz") == ""
}
