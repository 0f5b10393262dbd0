package pkix

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
)

// seed adds every request of testdata/pkix, or the part of each that is taken out of those that parse. With
// MUSTER_HOSTILE set to a folder, the files in its subfolders are added as they are.
func seed(f *testing.F, part func(*CSR) []byte) {
	f.Helper()
	for _, v := range files {
		der := read(f, v.name)
		if part == nil {
			f.Add(der)
		} else if c, err := ParseCSR(der); err == nil {
			f.Add(part(c))
		}
	}
	dir := os.Getenv("MUSTER_HOSTILE")
	if dir == "" {
		return
	}
	more, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil || len(more) == 0 {
		f.Fatalf("nothing in %s: %v", dir, err)
	}
	for _, path := range more {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
}

func FuzzParseCSR(f *testing.F) {
	seed(f, nil)
	f.Fuzz(func(t *testing.T, der []byte) {
		keyless, refused := ParseCSR(der, IgnoreKey())
		c, err := ParseCSR(der)
		if refused != nil && err == nil {
			t.Fatalf("without its key: %v", refused)
		}
		if refused == nil {
			if kind := keyless.WishedKind(); err == nil && kind != KeyName(c.Key) {
				t.Errorf("kind %q of a key %s", kind, KeyName(c.Key))
			}
		}
		if err != nil {
			return
		}
		if !bytes.Contains(der, c.RawInfo) || !bytes.Contains(c.RawInfo, c.PublicKey) || c.Key == nil {
			t.Error("parts that are not of the request")
		}
		printable(t, FormatName(c.Subject))
		if password, present, err := c.ChallengePassword(); password != "" && (!present || err != nil) {
			t.Error("a challengePassword that is absent or malformed")
		}
		if c.CheckSignature(AllowSHA1()) == nil && (c.SignatureAlgorithm == x509.MD5WithRSA || c.SignatureAlgorithm == 0) {
			t.Errorf("%v verifies", c.SignatureAlgorithm)
		}
	})
}

func FuzzParsePublicKey(f *testing.F) {
	seed(f, func(c *CSR) []byte { return c.PublicKey })
	f.Fuzz(func(t *testing.T, der []byte) {
		key, err := ParsePublicKey(der)
		if err != nil {
			return
		}
		// What is accepted here, crypto/x509 reads as the same key: the certificate will have it.
		std, err := x509.ParsePKIXPublicKey(der)
		if err != nil {
			t.Fatalf("crypto/x509: %v", err)
		}
		if k, ok := std.(interface{ Equal(crypto.PublicKey) bool }); !ok || !k.Equal(key) {
			t.Error("another key than crypto/x509's")
		}
		switch k := key.(type) {
		case *rsa.PublicKey:
			if k.N.BitLen() < MinRSABits || k.N.BitLen() > MaxRSABits || k.E%2 == 0 || k.E < 3 {
				t.Errorf("RSA key out of bounds: %v", k)
			}
		case *ecdsa.PublicKey:
			if _, err := k.ECDH(); err != nil {
				t.Error(err)
			}
		case ed25519.PublicKey:
		default:
			t.Errorf("%T", key)
		}
	})
}

func FuzzParseGeneralNames(f *testing.F) {
	seed(f, func(c *CSR) []byte {
		for _, e := range c.Extensions {
			if _, err := ParseGeneralNames(e.Value); err == nil {
				return e.Value
			}
		}
		return c.Subject
	})
	f.Fuzz(func(t *testing.T, der []byte) {
		names, err := ParseGeneralNames(der)
		if err != nil || names.Other > 0 {
			return
		}
		built, err := names.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		// The order may be another one, the names may not.
		if len(built) != len(der) {
			t.Errorf("%x is built as %x", der, built)
		}
	})
}

func FuzzFormatName(f *testing.F) {
	seed(f, func(c *CSR) []byte { return c.Subject })
	f.Fuzz(func(t *testing.T, der []byte) {
		s := FormatName(der)
		printable(t, s)
		if _, err := ParseName(der); (err != nil) != (s == malformedName) {
			t.Errorf("%s: %v", s, err)
		}
		if !SameName(der, bytes.Clone(der)) {
			t.Error("a name is not itself")
		}
	})
}

func FuzzVerifySignature(f *testing.F) {
	for _, v := range files {
		if v.parse == nil {
			_, alg, _, sig := parts(f, v.name)
			f.Add(alg, sig)
		}
	}
	type vector struct {
		key                  crypto.PublicKey
		alg, data, signature []byte
	}
	var vectors []vector
	for _, name := range []string{"rsa2048.der", "rsa2048-pss.der", "p256.der", "ed25519.der"} {
		key, alg, data, sig := parts(f, name)
		vectors = append(vectors, vector{key, alg, data, sig})
	}
	f.Fuzz(func(t *testing.T, alg, sig []byte) {
		hash, err := SignatureHash(alg)
		if (err == nil) != (hash != 0) {
			t.Errorf("hash %v with error %v", hash, err)
		}
		for _, v := range vectors {
			switch err := VerifySignature(v.key, alg, v.data, sig, AllowSHA1()); {
			case err == nil && !bytes.Equal(sig, v.signature):
				t.Errorf("another signature verifies with %x", alg)
			case err == nil && hash == 0:
				t.Errorf("%x verifies and has no hash", alg)
			}
		}
	})
}

func BenchmarkParseCSR(b *testing.B) {
	for _, name := range []string{"p256-san.der", "p384.der", "ed25519.der", "rsa2048.der", "rsa3072.der"} {
		der := read(b, name)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ParseCSR(der); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCheckSignature(b *testing.B) {
	for _, name := range []string{"p256-san.der", "p384.der", "p521.der", "ed25519.der", "rsa2048.der", "rsa2048-pss.der", "rsa2048-wide-exponent.der"} {
		c := mustCSR(b, name)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := c.CheckSignature(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
