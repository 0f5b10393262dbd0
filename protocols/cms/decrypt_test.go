package cms

import (
	"bytes"
	"crypto"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestOAEP(t *testing.T) {
	p := rsaPair(t)
	tag := func(n byte, inside string) string { return tlv(0xa0+n, inside) }
	sha1, sha256OID, sha512 := algorithm(digests[4].oid, null), algorithm(digests[0].oid, null), algorithm(digests[2].oid, null)
	mgf := func(hash string) string { return tag(1, algorithm(oidMGF1, hash)) }
	for _, tt := range []struct {
		name, params string
		opts         rsa.OAEPOptions
		want         error
	}{
		{"defaults", tlv(0x30), rsa.OAEPOptions{Hash: crypto.SHA1}, nil},
		{"no parameters", "", rsa.OAEPOptions{Hash: crypto.SHA1}, nil},
		{"SHA-1 by name", tlv(0x30, tag(0, sha1), mgf(sha1)), rsa.OAEPOptions{Hash: crypto.SHA1}, nil},
		{"SHA-256", tlv(0x30, tag(0, sha256OID), mgf(sha256OID)), rsa.OAEPOptions{Hash: crypto.SHA256}, nil},
		{"SHA-256 and MGF1 with SHA-1", tlv(0x30, tag(0, sha256OID)), rsa.OAEPOptions{Hash: crypto.SHA256, MGFHash: crypto.SHA1}, nil},
		{"SHA-512", tlv(0x30, tag(0, sha512), mgf(sha512)), rsa.OAEPOptions{Hash: crypto.SHA512}, nil},
		{"label", tlv(0x30, tag(2, algorithm(oidLabel, tlv(4, "label")))), rsa.OAEPOptions{Hash: crypto.SHA1, Label: []byte("label")}, nil},
		{"another label", tlv(0x30, tag(2, algorithm(oidLabel, tlv(4, "label")))), rsa.OAEPOptions{Hash: crypto.SHA1}, ErrDecrypt},
		{"another hash", tlv(0x30), rsa.OAEPOptions{Hash: crypto.SHA256}, ErrDecrypt},
		{"MD5", tlv(0x30, tag(0, algorithm(digests[5].oid, null))), rsa.OAEPOptions{Hash: crypto.SHA1}, ErrDecrypt},
		{"another mask", tlv(0x30, tag(1, algorithm(oidData, sha1))), rsa.OAEPOptions{Hash: crypto.SHA1}, ErrDecrypt},
		{"more", tlv(0x30, null), rsa.OAEPOptions{Hash: crypto.SHA1}, ErrDecrypt},
		{"longer key", tlv(0x30), rsa.OAEPOptions{Hash: crypto.SHA1}, ErrDecrypt},
	} {
		key := []byte(strings.Repeat("k", 16))
		if tt.name == "longer key" {
			key = append(key, 'k')
		}
		mgfHash := tt.opts.MGFHash
		if mgfHash == 0 {
			mgfHash = tt.opts.Hash
		}
		encrypted, err := rsa.EncryptOAEPWithOptions(rand.Reader, p.cert.PublicKey.(*rsa.PublicKey), key,
			&rsa.OAEPOptions{Hash: tt.opts.Hash, MGFHash: mgfHash, Label: tt.opts.Label})
		if err != nil {
			t.Fatal(err)
		}
		e, err := ParseEnveloped(newEnveloped(recipientInfo(p.cert, algorithm(oidOAEP, tt.params), string(encrypted))).der(), Limits{})
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		got, err := e.Decrypt(p.rsa(), p.cert)
		if tt.want == nil && (err != nil || string(got) != "hello") {
			t.Errorf("%s: %q, %v", tt.name, got, err)
		}
		// A stand-in for the key gives sound padding once in 256 times; what it never gives is the content.
		if tt.want != nil && (string(got) == "hello" || got == nil) {
			t.Errorf("%s: %q, %v", tt.name, got, err)
		}
	}
}

// undecryptable are messages of which nothing may be told apart from outside. All have as many blocks as the sound
// one that comes first.
func undecryptable(t testing.TB) (names []string, messages []*Enveloped) {
	p := rsaPair(t)
	key := strings.Repeat("k", 16)
	plain := strings.Repeat("content ", 250)
	padded := string(pad([]byte(plain), 16))
	k := p.rsa().Size()
	random := func(prefix string) []byte {
		em := bytes.Repeat([]byte{0x55}, k)
		copy(em, prefix)
		return em
	}
	zeroAt := func(em []byte, i int) []byte { em[i] = 0; return em }
	add := func(name string, recipient, ciphertext string) {
		parts := newEnveloped(recipient)
		parts.content = tlv(0x80, ciphertext)
		if name == "unknown cipher" {
			parts.cipher = algorithm(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3029, 1, 2}, tlv(4, "8 octets"))
		}
		e, err := ParseEnveloped(parts.der(), Limits{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		names, messages = append(names, name), append(messages, e)
	}
	sound := encryptCBC(AES128, key, padded)
	withKey := func(encrypted string) string { return recipientInfo(p.cert, rsaTransport, encrypted) }
	tooLarge := p.rsa().N.FillBytes(make([]byte, k))

	add("valid", withKey(wrapped(p.cert, key)), sound)
	add("bad PKCS #1 padding", withKey(rawRSA(p.cert, random("\x00\x01"))), sound)
	add("no padding at all", withKey(rawRSA(p.cert, random("\x00\xff"))), sound)
	add("padding without end", withKey(rawRSA(p.cert, random("\x00\x02"))), sound)
	add("padding too short", withKey(rawRSA(p.cert, zeroAt(random("\x00\x02"), 9))), sound)
	add("wrong key length", withKey(wrapped(p.cert, key[1:])), sound)
	add("longer key", withKey(wrapped(p.cert, key+"k")), sound)
	add("empty key", withKey(wrapped(p.cert, "")), sound)
	add("another key", withKey(wrapped(p.cert, strings.Repeat("x", 16))), sound)
	add("bad CBC padding", withKey(wrapped(p.cert, key)), encryptCBC(AES128, key, padded[:len(padded)-1]+"\x00"))
	add("CBC padding of 17", withKey(wrapped(p.cert, key)), encryptCBC(AES128, key, padded[:len(padded)-16]+strings.Repeat("\x11", 16)))
	add("unequal CBC padding", withKey(wrapped(p.cert, key)), encryptCBC(AES128, key, padded[:len(padded)-2]+"\x01\x02"))
	add("unaligned", withKey(wrapped(p.cert, key)), sound+"12345")
	add("wrong recipient", recipientInfo(otherRSA().cert, rsaTransport, wrapped(p.cert, key)), sound)
	add("no key transport", tlv(0xa1, null), sound)
	add("unknown transport", recipientInfo(p.cert, algorithm(oidData, null), wrapped(p.cert, key)), sound)
	add("OAEP", recipientInfo(p.cert, algorithm(oidOAEP, ""), wrapped(p.cert, key)), sound)
	add("unknown cipher", withKey(wrapped(p.cert, key)), sound)
	add("encryptedKey empty", withKey(""), sound)
	add("encryptedKey short", withKey("short"), sound)
	add("encryptedKey long", withKey(wrapped(p.cert, key)+"x"), sound)
	add("encryptedKey after an octet", withKey("\x01"+wrapped(p.cert, key)), sound)
	add("encryptedKey is the modulus", withKey(string(tooLarge)), sound)
	add("encryptedKey is all ones", withKey(strings.Repeat("\xff", k)), sound)
	add("encryptedKey is zero", withKey(strings.Repeat("\x00", k)), sound)
	return names, messages
}

// counted counts what Decrypt does with a key.
type counted struct {
	recipientKey
	standIns, unwraps, ciphers, octets int
	n                                  *big.Int
	t                                  *testing.T
}

func (c *counted) standIn(encrypted []byte) [sha256.Size]byte {
	c.standIns++
	return c.recipientKey.standIn(encrypted)
}

func (c *counted) unwrap(tr transport, encrypted, key []byte) {
	c.unwraps++
	// Else crypto/rsa would return before the operation.
	if len(encrypted) != (c.n.BitLen()+7)/8 || new(big.Int).SetBytes(encrypted).Cmp(c.n) >= 0 {
		c.t.Errorf("%d octets, or not below the modulus", len(encrypted))
	}
	c.recipientKey.unwrap(tr, encrypted, key)
}

func (c *counted) newCBC(ci Cipher, key, iv []byte) cipher.BlockMode {
	c.ciphers++
	return countedMode{c.recipientKey.newCBC(ci, key, iv), c}
}

type countedMode struct {
	cipher.BlockMode
	c *counted
}

func (m countedMode) CryptBlocks(dst, src []byte) {
	m.c.octets += len(src)
	m.BlockMode.CryptBlocks(dst, src)
}

// Whatever is wrong, the same work is done: one operation with the key, one pass of a cipher over as many octets.
func TestDecryptDoesTheSame(t *testing.T) {
	p := rsaPair(t)
	names, messages := undecryptable(t)
	const octets = 2016 // of the content with padding
	for i, e := range messages {
		c := &counted{recipientKey: &rsaRecipient{p.rsa()}, n: p.rsa().N, t: t}
		got, err := e.decrypt(c, p.cert)
		if c.standIns != 1 || c.unwraps != 1 || c.ciphers != 1 || c.octets != octets {
			t.Errorf("%s: %d stand-ins, %d key operations, %d ciphers over %d octets", names[i], c.standIns, c.unwraps, c.ciphers, c.octets)
		}
		if len(got) < octets-16 || len(got) >= octets {
			t.Errorf("%s: %d octets are returned", names[i], len(got))
		}
		if names[i] == "valid" {
			if err != nil || !bytes.HasPrefix(got, []byte("content ")) {
				t.Errorf("%s: %q, %v", names[i], got, err)
			}
			continue
		}
		if err != nil && err.Error() != "cms: cannot be decrypted" || err != nil && !errors.Is(err, ErrDecrypt) {
			t.Errorf("%s: %v", names[i], err)
		}
		switch names[i] {
		case "bad CBC padding", "CBC padding of 17", "unequal CBC padding": // The right key: garbage at the end only.
		default:
			if bytes.HasPrefix(got, []byte("content ")) && err == nil {
				t.Errorf("%s: decrypted", names[i])
			}
		}
		// These do not depend on what a wrong key happens to give.
		switch names[i] {
		case "bad CBC padding", "CBC padding of 17", "unequal CBC padding", "unaligned", "wrong recipient", "no key transport", "unknown transport",
			"unknown cipher", "encryptedKey empty", "encryptedKey long", "encryptedKey after an octet", "encryptedKey is the modulus", "encryptedKey is all ones":
			if err == nil {
				t.Errorf("%s: no error", names[i])
			}
		}
		again, err2 := e.Decrypt(p.rsa(), p.cert)
		if !bytes.Equal(got, again) || (err == nil) != (err2 == nil) {
			t.Errorf("%s: decrypted twice, it differs", names[i])
		}
	}
}

// The stand-in depends on the key and on all of the ciphertext, and is used up to its length.
func TestStandIn(t *testing.T) {
	a, b := &rsaRecipient{rsaPair(t).rsa()}, &rsaRecipient{otherRSA().key.(*rsa.PrivateKey)}
	seen := map[[sha256.Size]byte]bool{}
	for _, s := range [][sha256.Size]byte{a.standIn([]byte("x")), a.standIn([]byte("y")), b.standIn([]byte("x")), a.standIn(nil)} {
		if seen[s] || s == ([sha256.Size]byte{}) {
			t.Errorf("%x", s)
		}
		seen[s] = true
	}
	if first, again := a.standIn([]byte("x")), a.standIn([]byte("x")); first != again {
		t.Error("differs by the call")
	}
}

func TestUnpad(t *testing.T) {
	for _, block := range []int{8, 16} {
		for n := range 3 * block {
			data := pad(bytes.Repeat([]byte{0xee}, n), block)
			if length, good := unpad(data, block); length != n || good != 1 || len(data)%block != 0 || len(data) <= n {
				t.Errorf("%d of %d: %d, %d", n, block, length, good)
			}
		}
		for last := range 256 {
			data := bytes.Repeat([]byte{byte(last)}, block)
			length, good := unpad(data, block)
			if want := last >= 1 && last <= block; (good == 1) != want || length < 0 || length >= block {
				t.Errorf("padding of %d in %d: %d, %d", last, block, length, good)
			}
			// Each octet of the padding counts, and none before it.
			for i := range block - 1 {
				data[i] ^= 0x80
				_, changed := unpad(data, block)
				if want := good == 1 && i < block-last; (changed == 1) != want {
					t.Errorf("padding of %d in %d, octet %d changed: %d", last, block, i, changed)
				}
				data[i] ^= 0x80
			}
		}
	}
}

// BenchmarkDecryptCases interleaves the cases and reports the median of each, in nanoseconds.
func BenchmarkDecryptCases(b *testing.B) {
	p := rsaPair(b)
	names, messages := undecryptable(b)
	picked := []string{"valid", "bad PKCS #1 padding", "wrong key length", "bad CBC padding", "unaligned", "encryptedKey is the modulus", "wrong recipient"}
	samples := make([][]time.Duration, len(picked))
	n := 0
	for b.Loop() {
		for j := range picked {
			i := (j + n) % len(picked) // no case is always after the same other one
			e := messages[slices.Index(names, picked[i])]
			begin := time.Now()
			_, _ = e.Decrypt(p.rsa(), p.cert)
			samples[i] = append(samples[i], time.Since(begin))
		}
		n++
	}
	for i, s := range samples {
		slices.Sort(s)
		b.ReportMetric(float64(s[len(s)/2]), strings.ReplaceAll(picked[i], " ", "-")+"-ns")
	}
}

func BenchmarkRSAOperation(b *testing.B) {
	p := rsaPair(b)
	encrypted := []byte(wrapped(p.cert, strings.Repeat("k", 16)))
	key := make([]byte, 16)
	for b.Loop() {
		(&rsaRecipient{p.rsa()}).unwrap(transport{kind: transportPKCS1}, encrypted, key)
	}
}
