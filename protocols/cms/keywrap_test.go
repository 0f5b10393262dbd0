package cms

import (
	"bytes"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/hex"
	"testing"
)

// The vectors of RFC 3394 section 4: the key-encryption key is 00 01 02 ..., the key 00 11 ... FF 00 01 ...
func TestWrapAES(t *testing.T) {
	kek, key := make([]byte, 32), make([]byte, 32)
	for i := range kek {
		if kek[i], key[i] = byte(i), byte(0x11*i); i >= 16 {
			key[i] = byte(i - 16)
		}
	}
	for _, tt := range []struct {
		kek, key int // octets
		want     string
	}{
		{16, 16, "1fa68b0a8112b447aef34bd8fb5a7b829d3e862371d2cfe5"},                                 // 4.1
		{32, 16, "64e8c3f9ce0f5ba263e9777905818a2a93c8191e7d6e8ae7"},                                 // 4.3
		{32, 32, "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21"}, // 4.6
	} {
		if got, err := wrapAES(kek[:tt.kek], key[:tt.key]); err != nil || hex.EncodeToString(got) != tt.want {
			t.Errorf("%d octets under %d: %x, %v, want %s", tt.key, tt.kek, got, err, tt.want)
		}
	}
	for _, n := range []int{0, 8, 17} {
		if got, err := wrapAES(kek, make([]byte, n)); err == nil {
			t.Errorf("%d octets: %x", n, got)
		}
	}
}

// RFC 7914 section 11: PBKDF2 with HMAC-SHA-256.
func TestPBKDF2(t *testing.T) {
	got, err := pbkdf2.Key(sha256.New, "passwd", []byte("salt"), 1, 32)
	if want := "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc"; err != nil || hex.EncodeToString(got) != want {
		t.Errorf("%x, %v, want %s", got, err, want)
	}
}

// RFC 3211 section 2.3.1: length, check value, key, padding to two blocks at least.
func TestFormatPWRI(t *testing.T) {
	for n, size := range map[int]int{8: 32, 16: 32, 24: 32, 28: 32, 29: 48, 32: 48} {
		key := bytes.Repeat([]byte{0xc5}, n)
		got, err := formatPWRI(key, 16)
		if err != nil || len(got) != size || got[0] != byte(n) || !bytes.Equal(got[1:4], []byte{0x3a, 0x3a, 0x3a}) || !bytes.Equal(got[4:4+n], key) {
			t.Errorf("%d: %x, %v", n, got, err)
		}
	}
	for _, n := range []int{2, 256} {
		if got, err := formatPWRI(make([]byte, n), 16); err == nil {
			t.Errorf("%d: %x", n, got)
		}
	}
}
