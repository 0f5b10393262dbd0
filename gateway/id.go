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

// ValidID reports whether s has the form of NewID's answer.
func ValidID(s string) bool {
	return len(s) == 26 && strings.Trim(s, "0123456789abcdefghjkmnpqrstvwxyz") == ""
}
