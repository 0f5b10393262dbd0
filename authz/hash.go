package authz

import (
	"context"
	"crypto/subtle"
	"fmt"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"sync"

	"golang.org/x/crypto/argon2"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/passhash"
)

// maxPassword bounds what is hashed of a password; a longer one is wrong.
const maxPassword = passhash.MaxPassword

// HashSecret returns the entry of a generated secret for PasswordConfig.Users: "{sha256}" and the SHA-256 in
// hexadecimal. It is for secrets of 128 random bits or more, which nobody can search for; people's passwords take
// HashPassword.
func HashSecret(secret []byte) string { return passhash.Secret(secret) }

// HashPassword returns the entry of a person's password for PasswordConfig.Users: an argon2id PHC string
// ("$argon2id$v=19$m=12288,t=1,p=1$salt$hash"). The password has 1 to 1024 bytes.
func HashPassword(password []byte) (string, error) { return passhash.Password(password) }

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

// parseEntry reads what HashSecret and HashPassword make. Its errors hold nothing of the entry.
func parseEntry(s string) (*entry, error) {
	h, err := passhash.Parse(s)
	if err != nil {
		return nil, err
	}
	return &entry{sum: h.Sum, cost: argonCost{memory: h.Memory, time: h.Time, threads: h.Threads}, salt: h.Salt, hash: h.Hash}, nil
}

// work is what a comparison costs, as passhash.Hash.Work.
func (c argonCost) work() uint64 { return uint64(c.memory) * uint64(c.time) }

// DearGuesses says what an operator should know of a stage that costs whoever guesses less than the gateway: at which a wrong guess
// takes more than 20 ms of CPU, which is what a stranger's request may cost (docs/hostile.md). "" for any other stage.
func DearGuesses(s gateway.Stage) string {
	var work uint64
	switch s := s.(type) {
	case *Password: // compared with one
		for _, d := range s.dummies {
			work = max(work, d.cost.work())
		}
	case *Challenge: // compared with each
		for _, e := range s.typed {
			work += e.entry.cost.work()
		}
	}
	if work <= passhash.DearWork {
		return ""
	}
	return fmt.Sprintf("a wrong guess costs more than 20 ms of CPU: argon2id passes over %d MiB for it, and %d are within that; make the entries anew (`muster password`), "+
		"take fewer, or generated secrets, which cost nothing of the kind", work>>10, passhash.DearWork>>10)
}

// Hashing bounds how many argon2id computations run at once. One stands for all password stages of a process, so
// that log-ins cannot take its memory.
type Hashing struct {
	slots chan struct{}

	mu      sync.Mutex
	frugal  int // computations for which the collector is held off
	percent int // what it goes by without them
}

// NewHashing allows n computations at once; at least one.
func NewHashing(n int) *Hashing { return &Hashing{slots: make(chan struct{}, max(n, 1))} }

// The collector by itself waits for as much again as is in use: some computations in a row leave the memory of three, and it runs in the
// midst of them. Instead it is held off while one computes, and called at its end, which costs no more. Where more than smallHeap bytes
// are in use it would cost more, and the memory of a few is little beside them.
const (
	smallHeap = 64 << 20
	heldOff   = 400 // percent (GOGC); others may allocate meanwhile
)

// inUse is what the collector found in use when it last ran, in bytes.
func inUse() uint64 {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	return live[0].Value.Uint64()
}

// frugally has a computation's memory collected at its end.
func (h *Hashing) frugally() (end func()) {
	if inUse() >= smallHeap {
		return func() {}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.frugal++; h.frugal == 1 {
		h.percent = debug.SetGCPercent(heldOff)
	}
	return func() {
		h.mu.Lock()
		if h.frugal--; h.frugal == 0 {
			debug.SetGCPercent(h.percent)
		}
		h.mu.Unlock()
		runtime.GC()
	}
}

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
	defer h.frugally()()
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
