// Package seal keeps what has to be recovered (shared secrets of MACs) unreadable in the store: AES-256-GCM under a key
// that lies beside it, in a file of mode 0600 or wherever the operator mounts it.
//
// Whoever has the store alone (a backup, a replica, a stolen disk of the database) reads no secret, and cannot give a
// device another one's. Whoever has the store and the key reads all of them. A key cannot be replaced: secrets are entered again
// under the new one.
package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// KeySize is the length of a key in bytes.
const KeySize = 32

// ErrOtherKey is wrapped by Open's error for what was sealed under another key.
var ErrOtherKey = errors.New("sealed under another key")

// ErrDamaged is wrapped by Open's error for what is not what Seal returned, or was sealed for something else. The two
// cannot be told apart.
var ErrDamaged = errors.New("the sealed bytes are damaged, or were moved from where they belong")

// The sealed form: version || first bytes of the key's SHA-256 || what crypto/cipher's GCM with random nonces makes:
// nonce (12 bytes) || ciphertext || tag (16 bytes).
const (
	version1  = 1
	idSize    = 4
	header    = 1 + idSize
	nonceSize = 12
	tagSize   = 16
)

// Sealer seals and opens under one key, that of New or Load. It is safe for concurrent use. Nonces are random: one key is good for
// some billions of seals.
type Sealer struct {
	aead   cipher.AEAD
	header [header]byte
	prk    []byte // of HKDF over the key (RFC 5869 section 2.2): what Derive expands
}

// New returns a Sealer for a key of KeySize random bytes.
func New(key []byte) (*Sealer, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("seal: a key has %d bytes, not %d", KeySize, len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	s := &Sealer{}
	if s.aead, err = cipher.NewGCMWithRandomNonce(block); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	sum := sha256.Sum256(key)
	if s.prk, err = hkdf.Extract(sha256.New, key, []byte("muster derived secret")); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	s.header[0] = version1
	copy(s.header[1:], sum[:])
	return s, nil
}

// ID names the key in logs: the first bytes of its SHA-256, in hexadecimal.
func (s *Sealer) ID() string { return fmt.Sprintf("%x", s.header[1:]) }

// String keeps the key out of what is printed.
func (s *Sealer) String() string { return "seal.Sealer(" + s.ID() + ")" }

// GoString is String, for %#v.
func (s *Sealer) GoString() string { return s.String() }

// Derive returns 32 secret bytes for what the label names: HKDF-SHA-256 (RFC 5869) over the key. They are the same for each
// Sealer of the key, here and in replicas, others for each label, and tell nothing of the key.
func (s *Sealer) Derive(label string) []byte {
	secret, err := hkdf.Expand(sha256.New, s.prk, label, KeySize)
	if err != nil {
		panic("seal: " + err.Error()) // for lengths beyond 255 hashes only
	}
	return secret
}

// Seal returns version || key ID || nonce || ciphertext, 33 bytes more than the secret. Open needs the same context: the parts
// that say what the secret is for, in the same order.
func (s *Sealer) Seal(secret []byte, context ...string) []byte {
	out := make([]byte, 0, header+nonceSize+len(secret)+tagSize)
	return s.aead.Seal(append(out, s.header[:]...), nil, secret, s.bound(context))
}

// Open is Seal's inverse. Its error says whether the key is another one (ErrOtherKey) or the sealed bytes are damaged or
// moved (ErrDamaged), as far as that can be told, and holds nothing of the secret.
func (s *Sealer) Open(sealed []byte, context ...string) ([]byte, error) {
	if len(sealed) < header+nonceSize+tagSize {
		return nil, fmt.Errorf("seal: %w: %d bytes are too few", ErrDamaged, len(sealed))
	}
	if v := sealed[0]; v != version1 {
		return nil, fmt.Errorf("seal: %w: version %d is not known here", ErrDamaged, v)
	}
	if !bytes.Equal(sealed[:header], s.header[:]) {
		return nil, fmt.Errorf("seal: %w: %x, not %s", ErrOtherKey, sealed[1:header], s.ID())
	}
	secret, err := s.aead.Open(nil, nil, sealed[header:], s.bound(context))
	if err != nil {
		return nil, fmt.Errorf("seal: %w", ErrDamaged)
	}
	return secret, nil
}

// bound is the additional data of GCM: the header, and each part of the context behind its length, so that no two
// contexts give the same bytes.
func (s *Sealer) bound(context []string) []byte {
	out := append([]byte(nil), s.header[:]...)
	for _, part := range context {
		out = binary.BigEndian.AppendUint64(out, uint64(len(part)))
		out = append(out, part...)
	}
	return out
}
