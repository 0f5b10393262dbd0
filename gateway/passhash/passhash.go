// Package passhash is the form in which passwords and challenges are kept: "{sha256}" for generated ones, argon2id for those
// of people. The stages that compare them (authz) and the API that takes them (gateway/admin) both use it.
package passhash

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
)

// The cost of Password: one of OWASP's memories for argon2id, with fewer passes than it has beside that. More would have a stranger's
// guess cost the gateway more than 20 ms of CPU, the request around it included (docs/hostile.md).
const (
	argonMemory  = 12 * 1024 // KiB
	argonTime    = 1
	argonThreads = 1
	argonSalt    = 16 // bytes
	argonHash    = 32 // bytes
)

// Bounds on what an entry may ask of each log-in.
const (
	MaxMemory  = 64 * 1024 // KiB
	MaxTime    = 8
	MaxThreads = 4
)

// DearWork is the work, Memory by Time, beyond which a guess costs more than 20 ms of CPU, the request around it included.
const DearWork = 16 * 1024 // KiB

// Work is what a comparison costs, in KiB that are passed over; 0 for SHA-256.
func (h *Hash) Work() uint64 { return uint64(h.Memory) * uint64(h.Time) }

// MaxPassword bounds what is hashed of a password, in bytes; a longer one is wrong.
const MaxPassword = 1024

const sha256Prefix = "{sha256}"

// Secret returns the hash of a generated secret: "{sha256}" and the SHA-256 in hexadecimal. It is for secrets of 128 random
// bits or more, which nobody can search for; people's passwords take Password.
func Secret(secret []byte) string {
	sum := sha256.Sum256(secret)
	return sha256Prefix + hex.EncodeToString(sum[:])
}

// Password returns the hash of a person's password: an argon2id PHC string ("$argon2id$v=19$m=12288,t=1,p=1$salt$hash").
// The password has 1 to MaxPassword bytes.
func Password(password []byte) (string, error) {
	if len(password) == 0 || len(password) > MaxPassword {
		return "", fmt.Errorf("a password has 1 to %d bytes", MaxPassword)
	}
	salt := make([]byte, argonSalt)
	rand.Read(salt) //nolint:errcheck // crypto/rand.Read never fails (Go 1.24)
	hash := argon2.IDKey(password, salt, argonTime, argonMemory, argonThreads, argonHash)
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonTime, argonThreads,
		base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(hash)), nil
}

// Hash is a parsed one.
type Hash struct {
	Sum     []byte // SHA-256 of a generated secret; nil for argon2id, which has what follows
	Memory  uint32 // KiB
	Time    uint32
	Threads uint8
	Salt    []byte
	Hash    []byte
}

var errForm = errors.New(`want "{sha256}" and the SHA-256 of a generated secret in hexadecimal or base64, or an argon2id PHC string ($argon2id$v=19$m=...,t=...,p=...$salt$hash)`)

// Parse reads what Secret and Password make. Its errors hold nothing of the hash.
func Parse(s string) (*Hash, error) {
	if rest, ok := strings.CutPrefix(s, sha256Prefix); ok {
		sum, err := hex.DecodeString(rest)
		if err != nil || len(sum) != sha256.Size {
			sum, err = base64.RawStdEncoding.DecodeString(strings.TrimRight(rest, "="))
		}
		if err != nil || len(sum) != sha256.Size {
			return nil, fmt.Errorf("after {sha256} come 64 hexadecimal digits, or 43 or 44 characters of base64")
		}
		return &Hash{Sum: sum}, nil
	}
	// PHC string: $argon2id$v=19$m=M,t=T,p=P$salt$hash, base64 without padding.
	part := strings.Split(s, "$")
	if len(part) != 6 || part[0] != "" || part[1] != "argon2id" {
		return nil, errForm
	}
	if part[2] != "v="+strconv.Itoa(argon2.Version) {
		return nil, fmt.Errorf("argon2id of another version than %d", argon2.Version)
	}
	h := &Hash{}
	parameters := strings.Split(part[3], ",")
	if len(parameters) != 3 {
		return nil, errForm
	}
	for i, p := range []struct {
		key string
		max uint64
		set func(uint64)
	}{
		{"m=", MaxMemory, func(n uint64) { h.Memory = uint32(n) }},
		{"t=", MaxTime, func(n uint64) { h.Time = uint32(n) }},
		{"p=", MaxThreads, func(n uint64) { h.Threads = uint8(n) }},
	} {
		digits, ok := strings.CutPrefix(parameters[i], p.key)
		n, err := strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil {
			return nil, errForm
		}
		if n == 0 || n > p.max {
			return nil, fmt.Errorf("argon2id with %s%d: 1 to %d are taken", p.key, n, p.max)
		}
		p.set(n)
	}
	var err1, err2 error
	h.Salt, err1 = base64.RawStdEncoding.DecodeString(part[4])
	h.Hash, err2 = base64.RawStdEncoding.DecodeString(part[5])
	if err1 != nil || err2 != nil {
		return nil, errForm
	}
	if len(h.Salt) < 8 || len(h.Salt) > 64 || len(h.Hash) < 16 || len(h.Hash) > 64 {
		return nil, errors.New("argon2id with a salt outside 8 to 64 bytes or a hash outside 16 to 64 bytes")
	}
	return h, nil
}
