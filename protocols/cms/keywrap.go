package cms

import (
	"crypto"
	"crypto/aes"
	"encoding/asn1"
	"encoding/binary"
	"errors"
)

// kekSize is the length of the keys that keys are wrapped with, in octets, where nobody says otherwise: AES-256.
const kekSize = 32

// wraps names AES key wrap by the size of its key in octets (RFC 3565 section 2.3.2).
var wraps = map[int]asn1.ObjectIdentifier{
	16: {2, 16, 840, 1, 101, 3, 4, 1, 5},
	24: {2, 16, 840, 1, 101, 3, 4, 1, 25},
	32: {2, 16, 840, 1, 101, 3, 4, 1, 45},
}

// wrapOf is nil for a size that AES does not have.
func wrapOf(size int) asn1.ObjectIdentifier { return wraps[size] }

// wrapAES is the AES key wrap of RFC 3394 section 2.2.1. key has two or more whole blocks of 8 octets; the answer has one more.
func wrapAES(kek, key []byte) ([]byte, error) {
	const half = 8
	if len(key) < 2*half || len(key)%half != 0 {
		return nil, errors.New("AES key wrap: the key is not made of blocks of 64 bits")
	}
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, err
	}
	n := len(key) / half
	out := make([]byte, half+len(key)) // A, R[1] ... R[n]
	for i := range half {
		out[i] = 0xa6 // section 2.2.3.1
	}
	copy(out[half:], key)
	var b [aes.BlockSize]byte
	for j := range 6 {
		for i := 1; i <= n; i++ {
			copy(b[:half], out[:half])
			copy(b[half:], out[i*half:])
			block.Encrypt(b[:], b[:])
			t := uint64(n*j + i)
			binary.BigEndian.PutUint64(out, binary.BigEndian.Uint64(b[:half])^t)
			copy(out[i*half:(i+1)*half], b[half:])
		}
	}
	return out, nil
}

// deriveX963 is the key derivation of ANSI X9.63 as RFC 5753 section 7.2 uses it (SEC 1 section 3.6.1), for size octets, kekSize at
// most: the hash has as many, so that one round is enough.
func deriveX963(hash crypto.Hash, shared, info []byte, size int) []byte {
	h := hash.New()
	h.Write(shared)
	h.Write([]byte{0, 0, 0, 1})
	h.Write(info)
	return h.Sum(nil)[:size]
}

// formatPWRI is what id-alg-PWRI-KEK encrypts (RFC 3211 section 2.3.1): the length of the key, the complement of its first three
// octets, the key, and random octets up to a whole number of blocks, at least two.
func formatPWRI(key []byte, block int) ([]byte, error) {
	const before = 4
	if len(key) < before-1 || len(key) > 255 {
		return nil, errors.New("PWRI-KEK: length of the key")
	}
	size := max((before+len(key)+block-1)/block, 2) * block
	out, err := random(size)
	if err != nil {
		return nil, err
	}
	out[0] = byte(len(key))
	for i := range before - 1 {
		out[1+i] = ^key[i]
	}
	copy(out[before:], key)
	return out, nil
}
