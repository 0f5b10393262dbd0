package cmpmsg

import (
	"bytes"
	"crypto"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"testing"
)

const (
	oidSHA1       = "\x06\x05\x2b\x0e\x03\x02\x1a"
	oidSHA224     = "\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x04"
	oidSHA256     = "\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01"
	oidSHA512     = "\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x03"
	oidHMACSHA1   = "\x06\x08\x2b\x06\x01\x05\x05\x08\x01\x02"
	oidHMACSHA1p5 = "\x06\x08\x2a\x86\x48\x86\xf7\x0d\x02\x07"
	oidHMAC224    = "\x06\x08\x2a\x86\x48\x86\xf7\x0d\x02\x08"
	oidHMAC256    = "\x06\x08\x2a\x86\x48\x86\xf7\x0d\x02\x09"
	oidHMAC512    = "\x06\x08\x2a\x86\x48\x86\xf7\x0d\x02\x0b"
	oidPBKDF2     = "\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0c"
	oidPBES2Bytes = "\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0d"
	null          = "\x05\x00"
)

var testSalt = []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

// The expected values were made with openssl kdf, openssl dgst and openssl mac, one step at a time.
func TestMACVectors(t *testing.T) {
	pbmSHA1 := func(t *testing.T) (*MAC, error) {
		a := AlgorithmIdentifier{OID: OIDPasswordBasedMac, Parameters: []byte(seq(tlv(4, string(testSalt)), seq(oidSHA1), integer(100), seq(oidHMACSHA1)))}
		return ParseMAC(&a, MACPolicy{AllowSHA1: true})
	}
	pbmac1 := func(t *testing.T) (*MAC, error) {
		a := AlgorithmIdentifier{OID: OIDPBMAC1, Parameters: []byte(seq(
			seq(oidPBKDF2, seq(tlv(4, string(testSalt)), integer(2000), integer(20), seq(oidHMAC512, null))),
			seq("\x06\x08\x2a\x86\x48\x86\xf7\x0d\x02\x0a", null)))}
		return ParseMAC(&a, MACPolicy{})
	}
	for _, tt := range []struct {
		name string
		make func(*testing.T) (*MAC, error)
		want string
	}{
		{"PBM SHA-256, HMAC-SHA-1", func(*testing.T) (*MAC, error) { return NewPBM(crypto.SHA256, crypto.SHA1, 100, testSalt) }, "19dc4d2170ab26f73dc13a33888b498961a853d5"},
		{"PBM SHA-512, HMAC-SHA-384", func(*testing.T) (*MAC, error) { return NewPBM(crypto.SHA512, crypto.SHA384, 101, testSalt) }, "b99cf88d51288b6bf9f54f6ba6d6f955977eb3380b820f51c53d2919e32057bee0c12edb100739dac07425afc6477aed"},
		{"PBM SHA-1, HMAC-SHA-1", pbmSHA1, "35d0b0c466024a3f19f0e805f896cdd3fb35e610"},
		{"PBM SHA-256, HMAC-SHA-512", func(*testing.T) (*MAC, error) { return NewPBM(crypto.SHA256, crypto.SHA512, 100, testSalt) }, "8e125af5da95864045e998d96a6a10a45296ed86d69b47a5e94ccf827e68ef60d78868b7a8fe5074d999e2a30a723da73439d157b6f3994ca0440059720af64f"},
		{"PBMAC1 SHA-256", func(*testing.T) (*MAC, error) { return NewPBMAC1(crypto.SHA256, crypto.SHA256, 1000, testSalt) }, "338e7d4032d6a30668dbafc992a5dce8289aa69047670967540c09efb81d98cf"},
		{"PBMAC1 SHA-512, 20 octets of key, SHA-384", pbmac1, "93946302c53f161a6f963535208b67c40cd4724ca360cf92137b677e33bfc4361e7159715e02bf486dba15b080b0062e"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := tt.make(t)
			if err != nil {
				t.Fatal(err)
			}
			if got := hex.EncodeToString(m.Sum([]byte("secret"), []byte("protected part"))); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
			want, err := hex.DecodeString(tt.want)
			if err != nil {
				t.Fatal(err)
			}
			for _, bad := range [][]byte{nil, want[:len(want)-1], append([]byte{want[0] ^ 1}, want[1:]...)} {
				if m.Verify([]byte("secret"), []byte("protected part"), bad) {
					t.Errorf("%x verifies", bad)
				}
			}

			// Through its protectionAlg and back, and with another salt.
			a := m.Algorithm()
			back, err := ParseMAC(&a, MACPolicy{AllowSHA1: true})
			if err != nil || !back.Verify([]byte("secret"), []byte("protected part"), want) {
				t.Errorf("after encoding: %v", err)
			}
			other := m.Again([]byte("another salt"))
			if other.Verify([]byte("secret"), []byte("protected part"), want) {
				t.Error("the salt does not count")
			}
			b := other.Algorithm()
			back, err = ParseMAC(&b, MACPolicy{AllowSHA1: true})
			if err != nil || !back.Verify([]byte("secret"), []byte("x"), other.Sum([]byte("secret"), []byte("x"))) {
				t.Errorf("another salt after encoding: %v", err)
			}
			sameBytes(t, "salt", back.salt, []byte("another salt"))
			sameBytes(t, "with the first salt again", other.Again(testSalt).Sum([]byte("secret"), []byte("protected part")), want)
			for _, salt := range [][]byte{nil, make([]byte, maxSalt+1)} {
				if !m.Again(salt).Verify([]byte("secret"), []byte("protected part"), want) {
					t.Errorf("a salt of %d octets is taken", len(salt))
				}
			}
		})
	}
}

func TestParseMAC(t *testing.T) {
	salt := tlv(4, string(testSalt))
	pbm := func(salt, owf, iterations, mac string) string { return seq(salt, owf, iterations, mac) }
	kdf := func(parts ...string) string { return seq(oidPBKDF2, seq(parts...)) }
	for _, tt := range []struct {
		name   string
		oid    asn1.ObjectIdentifier
		params string
		ok     bool
		legacy bool // good with AllowSHA1
	}{
		{"PBM", OIDPasswordBasedMac, pbm(salt, seq(oidSHA256), integer(500), seq(oidHMAC256)), true, true},
		{"NULL parameters", OIDPasswordBasedMac, pbm(salt, seq(oidSHA256, null), integer(500), seq(oidHMAC256, null)), true, true},
		{"HMAC-SHA-1 is the default of openssl", OIDPasswordBasedMac, pbm(salt, seq(oidSHA256), integer(500), seq(oidHMACSHA1)), true, true},
		{"HMAC-SHA-1 by the other OID", OIDPasswordBasedMac, pbm(salt, seq(oidSHA256), integer(500), seq(oidHMACSHA1p5)), true, true},
		{"SHA-1", OIDPasswordBasedMac, pbm(salt, seq(oidSHA1), integer(500), seq(oidHMAC256)), false, true},
		{"SHA-224", OIDPasswordBasedMac, pbm(salt, seq(oidSHA224), integer(500), seq(oidHMAC256)), false, false},
		{"HMAC-SHA-224", OIDPasswordBasedMac, pbm(salt, seq(oidSHA256), integer(500), seq(oidHMAC224)), false, false},
		{"HMAC as owf", OIDPasswordBasedMac, pbm(salt, seq(oidHMAC256), integer(500), seq(oidHMAC256)), false, false},
		{"hash as mac", OIDPasswordBasedMac, pbm(salt, seq(oidSHA256), integer(500), seq(oidSHA256)), false, false},
		{"100 iterations", OIDPasswordBasedMac, pbm(salt, seq(oidSHA256), integer(100), seq(oidHMAC256)), true, true},
		{"99 iterations", OIDPasswordBasedMac, pbm(salt, seq(oidSHA256), integer(99), seq(oidHMAC256)), false, false},
		{"100,000 iterations", OIDPasswordBasedMac, pbm(salt, seq(oidSHA256), integer(100_000), seq(oidHMAC512)), true, true},
		{"100,001 iterations", OIDPasswordBasedMac, pbm(salt, seq(oidSHA256), integer(100_001), seq(oidHMAC512)), false, false},
		{"50,000 iterations of SHA-512", OIDPasswordBasedMac, pbm(salt, seq(oidSHA512), integer(50_000), seq(oidHMAC512)), true, true},
		{"50,001 iterations of SHA-512", OIDPasswordBasedMac, pbm(salt, seq(oidSHA512), integer(50_001), seq(oidHMAC512)), false, false},
		{"2^64 iterations", OIDPasswordBasedMac, pbm(salt, seq(oidSHA256), tlv(2, "\x01\x00\x00\x00\x00\x00\x00\x00\x00"), seq(oidHMAC256)), false, false},
		{"negative iterations", OIDPasswordBasedMac, pbm(salt, seq(oidSHA256), integer(-500), seq(oidHMAC256)), false, false},
		{"salt of 128", OIDPasswordBasedMac, pbm(tlv(4, string(make([]byte, 128))), seq(oidSHA256), integer(500), seq(oidHMAC256)), true, true},
		{"salt of 129", OIDPasswordBasedMac, pbm(tlv(4, string(make([]byte, 129))), seq(oidSHA256), integer(500), seq(oidHMAC256)), false, false},
		{"no salt", OIDPasswordBasedMac, pbm(tlv(4), seq(oidSHA256), integer(500), seq(oidHMAC256)), false, false},
		{"owf with parameters", OIDPasswordBasedMac, pbm(salt, seq(oidSHA256, integer(1)), integer(500), seq(oidHMAC256)), false, false},
		{"mac with parameters", OIDPasswordBasedMac, pbm(salt, seq(oidSHA256), integer(500), seq(oidHMAC256, integer(1))), false, false},
		{"element too many", OIDPasswordBasedMac, seq(salt, seq(oidSHA256), integer(500), seq(oidHMAC256), null), false, false},
		{"bytes after", OIDPasswordBasedMac, pbm(salt, seq(oidSHA256), integer(500), seq(oidHMAC256)) + null, false, false},
		{"BER", OIDPasswordBasedMac, "\x30\x80\x00\x00", false, false},
		{"no parameters", OIDPasswordBasedMac, "", false, false},

		{"PBMAC1", OIDPBMAC1, seq(kdf(salt, integer(1000), integer(32), seq(oidHMAC256, null)), seq(oidHMAC256, null)), true, true},
		{"PBMAC1 without keyLength", OIDPBMAC1, seq(kdf(salt, integer(1000), seq(oidHMAC256)), seq(oidHMAC512)), true, true},
		{"PBMAC1 with the PRF by default", OIDPBMAC1, seq(kdf(salt, integer(1000), integer(20)), seq(oidHMAC256)), false, true},
		{"PBMAC1 HMAC-SHA-1", OIDPBMAC1, seq(kdf(salt, integer(1000), integer(20), seq(oidHMAC256)), seq(oidHMACSHA1p5)), false, true},
		{"PBMAC1 50,000 iterations", OIDPBMAC1, seq(kdf(salt, integer(50_000), seq(oidHMAC256)), seq(oidHMAC256)), true, true},
		{"PBMAC1 50,001 iterations", OIDPBMAC1, seq(kdf(salt, integer(50_001), seq(oidHMAC256)), seq(oidHMAC256)), false, false},
		{"PBMAC1 25,000 iterations of SHA-512", OIDPBMAC1, seq(kdf(salt, integer(25_000), seq(oidHMAC512)), seq(oidHMAC512)), true, true},
		{"PBMAC1 25,001 iterations of SHA-512", OIDPBMAC1, seq(kdf(salt, integer(25_001), seq(oidHMAC512)), seq(oidHMAC512)), false, false},
		{"PBMAC1 25,001 iterations for a key of two outputs", OIDPBMAC1, seq(kdf(salt, integer(25_001), integer(33), seq(oidHMAC256)), seq(oidHMAC512)), false, false},
		{"PBMAC1 99 iterations", OIDPBMAC1, seq(kdf(salt, integer(99), seq(oidHMAC256)), seq(oidHMAC256)), false, false},
		{"PBMAC1 key of 33", OIDPBMAC1, seq(kdf(salt, integer(1000), integer(33), seq(oidHMAC256)), seq(oidHMAC256)), false, false},
		{"PBMAC1 key of 64", OIDPBMAC1, seq(kdf(salt, integer(1000), integer(64), seq(oidHMAC256)), seq(oidHMAC512)), true, true},
		{"PBMAC1 key of 15", OIDPBMAC1, seq(kdf(salt, integer(1000), integer(15), seq(oidHMAC256)), seq(oidHMAC256)), false, false},
		{"PBMAC1 key of 0", OIDPBMAC1, seq(kdf(salt, integer(1000), integer(0), seq(oidHMAC256)), seq(oidHMAC256)), false, false},
		{"PBMAC1 salt from elsewhere", OIDPBMAC1, seq(kdf(seq(oidSHA256), integer(1000), seq(oidHMAC256)), seq(oidHMAC256)), false, false},
		{"PBMAC1 salt of 129", OIDPBMAC1, seq(kdf(tlv(4, string(make([]byte, 129))), integer(1000), seq(oidHMAC256)), seq(oidHMAC256)), false, false},
		{"PBMAC1 with another KDF", OIDPBMAC1, seq(seq(oidSHA256, seq(salt, integer(1000))), seq(oidHMAC256)), false, false},
		{"PBMAC1 of BouncyCastle", OIDPBMAC1, seq(seq(oidPBES2Bytes, seq(salt, integer(1000), integer(32), seq(oidHMAC256, null))), seq(oidHMAC256, null)), true, true},
		{"PBMAC1 with PBES2-params", OIDPBMAC1, seq(seq(oidPBES2Bytes, seq(kdf(salt, integer(1000), seq(oidHMAC256)), seq(oidSHA256))), seq(oidHMAC256)), false, false},
		{"PBMAC1 with a hash as PRF", OIDPBMAC1, seq(kdf(salt, integer(1000), seq(oidSHA256)), seq(oidHMAC256)), false, false},

		{"DHBasedMac", OIDDHBasedMac, seq(seq(oidSHA256), seq(oidHMAC256)), false, false},
		{"KemBasedMac", OIDKemBasedMac, seq(seq(oidSHA256), integer(32), seq(oidHMAC256)), false, false},
		{"KMAC128", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 19}, "", false, false},
		{"AES-GMAC", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 9}, null, false, false},
		{"HMAC by itself", asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}, "", false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := AlgorithmIdentifier{OID: tt.oid}
			if tt.params != "" {
				a.Parameters = []byte(tt.params)
			}
			if !a.IsMAC() {
				t.Error("is no MAC")
			}
			for _, allow := range []bool{false, true} {
				m, err := ParseMAC(&a, MACPolicy{AllowSHA1: allow})
				want := tt.ok || tt.legacy && allow
				if (err == nil) != want || (m != nil) != want || err != nil && !errors.Is(err, ErrAlgorithm) {
					t.Errorf("AllowSHA1 %v: %v", allow, err)
				}
			}
		})
	}
	// An answer to BouncyCastle has the right name in it.
	a := AlgorithmIdentifier{OID: OIDPBMAC1, Parameters: []byte(seq(seq(oidPBES2Bytes, seq(salt, integer(1000), seq(oidHMAC256))), seq(oidHMAC256)))}
	if m, err := ParseMAC(&a, MACPolicy{}); err != nil || !bytes.Contains(m.Again(testSalt).Algorithm().Raw, []byte(oidPBKDF2)) {
		t.Errorf("%v, %v", m, err)
	}
	for _, a := range []AlgorithmIdentifier{anAlgorithm, {}} {
		if _, err := ParseMAC(&a, MACPolicy{}); a.IsMAC() || !errors.Is(err, ErrAlgorithm) {
			t.Errorf("%v: %v", a.OID, err)
		}
	}
}

func TestNewMACRefuses(t *testing.T) {
	for name, err := range map[string]error{
		"SHA-1":         second(NewPBM(crypto.SHA1, crypto.SHA256, 500, testSalt)),
		"MD5":           second(NewPBM(crypto.SHA256, crypto.MD5, 500, testSalt)),
		"99":            second(NewPBM(crypto.SHA256, crypto.SHA256, 99, testSalt)),
		"no salt":       second(NewPBM(crypto.SHA256, crypto.SHA256, 500, nil)),
		"PBMAC1 SHA-1":  second(NewPBMAC1(crypto.SHA256, crypto.SHA1, 500, testSalt)),
		"PBMAC1 MD5":    second(NewPBMAC1(crypto.SHA256, crypto.MD5, 500, testSalt)),
		"PBMAC1 none":   second(NewPBMAC1(crypto.SHA256, 0, 500, testSalt)),
		"PBMAC1 50,001": second(NewPBMAC1(crypto.SHA256, crypto.SHA256, 50_001, testSalt)),
	} {
		if !errors.Is(err, ErrAlgorithm) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Without a key nothing verifies, least of all what anybody can compute.
func TestNoKeyVerifiesNothing(t *testing.T) {
	m, err := NewPBMAC1(crypto.SHA256, crypto.SHA256, 500, testSalt)
	if err != nil {
		t.Fatal(err)
	}
	m.keyLength = 0
	open := hmac.New(sha256.New, nil)
	for _, mac := range [][]byte{nil, {}, open.Sum(nil)} {
		if m.Verify([]byte("secret"), nil, mac) {
			t.Errorf("%x verifies", mac)
		}
	}
	if sum := m.Sum([]byte("secret"), nil); sum != nil {
		t.Errorf("%x", sum)
	}
}

func second[T any](_ T, err error) error { return err }

func BenchmarkMAC(b *testing.B) {
	data := make([]byte, 500)
	for _, bm := range []struct {
		name string
		make func() (*MAC, error)
	}{
		{"PBM 500", func() (*MAC, error) { return NewPBM(crypto.SHA256, crypto.SHA1, 500, testSalt) }},
		{"PBM SHA-512 50000", func() (*MAC, error) { return NewPBM(crypto.SHA512, crypto.SHA512, 50_000, testSalt) }},
		{"PBMAC1 SHA-512 25000", func() (*MAC, error) { return NewPBMAC1(crypto.SHA512, crypto.SHA512, 25_000, testSalt) }},
	} {
		m, err := bm.make()
		if err != nil {
			b.Fatal(err)
		}
		b.Run(bm.name, func(b *testing.B) {
			for b.Loop() {
				m.Sum(secret, data)
			}
		})
	}
}
