package authz

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
)

// The cost of HashPassword: OWASP's memory for argon2id with the fewest passes that a gateway's load allows.
const (
	argonMemory  = 19 * 1024 // KiB
	argonTime    = 1
	argonThreads = 1
	argonSalt    = 16 // bytes
	argonHash    = 32 // bytes
)

// Bounds on what a configuration may ask of each log-in.
const (
	maxArgonMemory  = 64 * 1024 // KiB
	maxArgonTime    = 8
	maxArgonThreads = 4
)

// maxPassword bounds what is hashed of a password; a longer one is wrong.
const maxPassword = 1024

const sha256Prefix = "{sha256}"

// HashSecret returns the entry of a generated secret for PasswordConfig.Users: "{sha256}" and the SHA-256 in
// hexadecimal. It is for secrets of 128 random bits or more, which nobody can search for; people's passwords take
// HashPassword.
func HashSecret(secret []byte) string {
	sum := sha256.Sum256(secret)
	return sha256Prefix + hex.EncodeToString(sum[:])
}

// HashPassword returns the entry of a person's password for PasswordConfig.Users: an argon2id PHC string
// ("$argon2id$v=19$m=19456,t=1,p=1$salt$hash"). The password has 1 to 1024 bytes.
func HashPassword(password []byte) (string, error) {
	if len(password) == 0 || len(password) > maxPassword {
		return "", fmt.Errorf("a password has 1 to %d bytes", maxPassword)
	}
	salt := make([]byte, argonSalt)
	rand.Read(salt) //nolint:errcheck // crypto/rand.Read never fails (Go 1.24)
	hash := argon2.IDKey(password, salt, argonTime, argonMemory, argonThreads, argonHash)
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonTime, argonThreads,
		base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(hash)), nil
}

// argonCost is what one argon2id computation takes.
type argonCost struct {
	memory, time uint32
	threads      uint8
}

// entry is the stored form of one user's password.
type entry struct {
	sum  []byte // SHA-256 of a generated secret; nil for an argon2id entry
	cost argonCost
	salt []byte
	hash []byte
}

var errEntry = errors.New(`want "{sha256}" and the SHA-256 of a generated secret in hexadecimal or base64, or an argon2id PHC string ($argon2id$v=19$m=...,t=...,p=...$salt$hash)`)

// parseEntry reads what HashSecret and HashPassword make. Its errors hold nothing of the entry.
func parseEntry(s string) (*entry, error) {
	if rest, ok := strings.CutPrefix(s, sha256Prefix); ok {
		sum, err := hex.DecodeString(rest)
		if err != nil || len(sum) != sha256.Size {
			sum, err = base64.RawStdEncoding.DecodeString(strings.TrimRight(rest, "="))
		}
		if err != nil || len(sum) != sha256.Size {
			return nil, fmt.Errorf("after {sha256} come 64 hexadecimal digits, or 43 or 44 characters of base64")
		}
		return &entry{sum: sum}, nil
	}
	// PHC string: $argon2id$v=19$m=M,t=T,p=P$salt$hash, base64 without padding.
	part := strings.Split(s, "$")
	if len(part) != 6 || part[0] != "" || part[1] != "argon2id" {
		return nil, errEntry
	}
	if part[2] != "v="+strconv.Itoa(argon2.Version) {
		return nil, fmt.Errorf("argon2id of another version than %d", argon2.Version)
	}
	e := &entry{}
	parameters := strings.Split(part[3], ",")
	if len(parameters) != 3 {
		return nil, errEntry
	}
	for i, p := range []struct {
		key string
		max uint64
		set func(uint64)
	}{
		{"m=", maxArgonMemory, func(n uint64) { e.cost.memory = uint32(n) }},
		{"t=", maxArgonTime, func(n uint64) { e.cost.time = uint32(n) }},
		{"p=", maxArgonThreads, func(n uint64) { e.cost.threads = uint8(n) }},
	} {
		digits, ok := strings.CutPrefix(parameters[i], p.key)
		n, err := strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil {
			return nil, errEntry
		}
		if n == 0 || n > p.max {
			return nil, fmt.Errorf("argon2id with %s%d: 1 to %d are taken", p.key, n, p.max)
		}
		p.set(n)
	}
	var err1, err2 error
	e.salt, err1 = base64.RawStdEncoding.DecodeString(part[4])
	e.hash, err2 = base64.RawStdEncoding.DecodeString(part[5])
	if err1 != nil || err2 != nil {
		return nil, errEntry
	}
	if len(e.salt) < 8 || len(e.salt) > 64 || len(e.hash) < 16 || len(e.hash) > 64 {
		return nil, errors.New("argon2id with a salt outside 8 to 64 bytes or a hash outside 16 to 64 bytes")
	}
	return e, nil
}

// Hashing bounds how many argon2id computations run at once. One stands for all password stages of a process, so
// that log-ins cannot take its memory.
type Hashing struct{ slots chan struct{} }

// NewHashing allows n computations at once; at least one.
func NewHashing(n int) *Hashing { return &Hashing{slots: make(chan struct{}, max(n, 1))} }

// matches computes argon2id over the password and compares. The error is the context's, when it ended first.
func (h *Hashing) matches(ctx context.Context, e *entry, password []byte) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	got := argon2.IDKey(password, e.salt, e.cost.time, e.cost.memory, e.cost.threads, uint32(len(e.hash)))
	return subtle.ConstantTimeCompare(got, e.hash) == 1, nil
}

// eachEntry reads a file of entries, one a line; empty lines and those that begin with # are left out. Errors name the
// file, and the line that add refused.
func eachEntry(dir, path string, add func(line string) error) error {
	data, err := readFile(dir, path)
	if err != nil {
		return fmt.Errorf("file: %w", err)
	}
	for i, line := range strings.Split(string(data), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := add(line); err != nil {
			return fmt.Errorf("%s:%d: %w", path, i+1, err)
		}
	}
	return nil
}
