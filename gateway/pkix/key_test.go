package pkix

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"math/big"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// rsaSPKI is a SubjectPublicKeyInfo with the two integers, whatever they are.
func rsaSPKI(n, e *big.Int) []byte {
	return spki(oidRSA, []byte{5, 0}, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1BigInt(n)
			b.AddASN1BigInt(e)
		})
	})
}

func spki(oid asn1.ObjectIdentifier, params []byte, key func(b *cryptobyte.Builder)) []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oid)
			b.AddBytes(params)
		})
		b.AddASN1(cbasn1.BIT_STRING, func(b *cryptobyte.Builder) {
			b.AddUint8(0)
			key(b)
		})
	})
	return b.BytesOrPanic()
}

func raw(content []byte) func(b *cryptobyte.Builder) {
	return func(b *cryptobyte.Builder) { b.AddBytes(content) }
}

func prime(t testing.TB, bits int) *big.Int {
	t.Helper()
	p, err := rand.Prime(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func nextPrime(n *big.Int) *big.Int {
	p := new(big.Int).Add(n, one)
	for !p.ProbablyPrime(10) {
		p.Add(p, one)
	}
	return p
}

// rocaPrime makes a prime as the flawed generator did: k M + (65537^a mod M), M the product of the first 126 primes.
func rocaPrime(t testing.TB) *big.Int {
	t.Helper()
	m, count := big.NewInt(1), 0
	for p := int64(2); count < 126; p++ {
		if b := big.NewInt(p); b.ProbablyPrime(0) {
			m.Mul(m, b)
			count++
		}
	}
	for {
		a, err := rand.Int(rand.Reader, m)
		if err != nil {
			t.Fatal(err)
		}
		// The highest bits are set, so that a product of two has 2048 bits.
		k := new(big.Int).Sub(new(big.Int).Lsh(one, 1024), one)
		k.Div(k, m).Sub(k, new(big.Int).Rsh(a, uint(m.BitLen()-24)))
		p := new(big.Int).Exp(big.NewInt(65537), a, m)
		p.Add(p, k.Mul(k, m))
		if p.BitLen() == 1024 && p.ProbablyPrime(10) {
			return p
		}
	}
}

func TestRSABounds(t *testing.T) {
	p, q := prime(t, 1024), prime(t, 1024)
	n := new(big.Int).Mul(p, q)
	f4 := big.NewInt(65537)
	two := func(exp uint, plus int64) *big.Int {
		return new(big.Int).Add(new(big.Int).Lsh(one, exp), big.NewInt(plus))
	}
	small := new(big.Int).Mul(prime(t, 1023), prime(t, 1024))
	// Primes of 4096 bits take seconds to find; a number without small factors is as good to the code.
	large := new(big.Int).SetBit(prime(t, 2048), 8191, 1)
	for new(big.Int).GCD(nil, nil, large, smallPrimes).Cmp(one) != 0 {
		large.Add(large, big.NewInt(2))
	}
	odd := func(n *big.Int) *big.Int { return new(big.Int).SetBit(n, 0, 1) }
	huge := odd(two(131071, 12345))
	roca := new(big.Int).Mul(rocaPrime(t), rocaPrime(t))
	for _, tt := range []struct {
		name string
		n, e *big.Int
		want error
	}{
		{"2048 bits", n, f4, nil},
		{"8192 bits", large, f4, nil},
		{"2047 bits", small, f4, ErrWeak},
		{"8193 bits", odd(two(8192, 12345)), f4, ErrWeak},
		{"131072 bits", huge, f4, ErrWeak},
		{"zero modulus", new(big.Int), f4, ErrMalformed},
		{"negative modulus", new(big.Int).Neg(n), f4, ErrMalformed},
		{"even modulus", new(big.Int).Lsh(n, 1), f4, ErrWeak},
		{"small factor", new(big.Int).Mul(prime(t, 2048), big.NewInt(101)), f4, ErrWeak},
		{"square", new(big.Int).Mul(p, p), f4, ErrWeak},
		{"close primes", new(big.Int).Mul(p, nextPrime(p)), f4, ErrWeak},
		{"close primes, 1000 apart", new(big.Int).Mul(p, nextPrime(new(big.Int).Add(p, big.NewInt(1000)))), f4, ErrWeak},
		{"ROCA", roca, f4, ErrWeak},
		{"exponent 1", n, one, ErrWeak},
		{"exponent 0", n, new(big.Int), ErrMalformed},
		{"exponent -3", n, big.NewInt(-3), ErrMalformed},
		{"exponent 2", n, big.NewInt(2), ErrWeak},
		{"exponent 3", n, big.NewInt(3), nil},
		{"exponent 65536", n, big.NewInt(65536), ErrWeak},
		{"exponent 2^32-1", n, two(32, -1), nil},
		{"exponent 2^32+1", n, two(32, 1), ErrWeak},
		{"exponent of 40 bits", n, two(40, -1), ErrWeak},
		{"exponent of 2048 bits", n, odd(new(big.Int).Rsh(n, 1)), ErrWeak},
	} {
		t.Run(tt.name, func(t *testing.T) {
			der := rsaSPKI(tt.n, tt.e)
			key, err := ParsePublicKey(der)
			if !errors.Is(err, tt.want) {
				t.Fatalf("%v, want %v", err, tt.want)
			}
			if err == nil {
				if k := key.(*rsa.PublicKey); k.N.Cmp(tt.n) != 0 || int64(k.E) != tt.e.Int64() {
					t.Errorf("%v", k)
				}
			}
			// The same in a request: refused while parsing.
			if _, err := ParseCSR(request{spki: der}.der(t)); !errors.Is(err, tt.want) {
				t.Errorf("ParseCSR: %v, want %v", err, tt.want)
			}
		})
	}
	for name, want := range map[string]string{"ROCA": "ROCA", "close": "close primes"} {
		m := map[string]*big.Int{"ROCA": roca, "close": new(big.Int).Mul(p, nextPrime(p))}[name]
		if _, err := ParsePublicKey(rsaSPKI(m, f4)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v does not say why", name, err)
		}
	}
}

// An oversized modulus is refused by its length alone: nothing of its size is allocated.
func TestHugeModulusCostsNothing(t *testing.T) {
	huge := rsaSPKI(new(big.Int).SetBit(big.NewInt(1), 131071, 1), big.NewInt(65537))
	const runs = 100
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		if _, err := ParsePublicKey(huge); !errors.Is(err, ErrWeak) {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	// A copy alone would be 16 KiB each.
	if per := (after.TotalAlloc - before.TotalAlloc) / runs; per > 8192 {
		t.Errorf("%d bytes allocated for a modulus of %d bytes", per, len(huge))
	}
}

func TestRSAEncoding(t *testing.T) {
	n := new(big.Int).Mul(prime(t, 1024), prime(t, 1024))
	good := rsaSPKI(n, big.NewInt(65537))
	for name, der := range map[string][]byte{
		"empty":           nil,
		"trailing":        append(slices.Clone(good), 0),
		"no parameters":   spki(oidRSA, nil, raw(nil)),
		"more parameters": spki(oidRSA, []byte{5, 0, 5, 0}, raw(nil)),
		"no key":          spki(oidRSA, []byte{5, 0}, raw(nil)),
		"padded modulus": spki(oidRSA, []byte{5, 0}, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.INTEGER, raw(append([]byte{0, 0}, n.Bytes()...)))
				b.AddASN1Int64(65537)
			})
		}),
	} {
		if _, err := ParsePublicKey(der); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ParsePublicKey(spki(asn1.ObjectIdentifier{1, 2, 840, 10040, 4, 1}, nil, raw(nil))); !errors.Is(err, ErrAlgorithm) {
		t.Errorf("DSA: %v", err)
	}
}

// Sound keys are not taken for broken ones.
func TestSoundModuli(t *testing.T) {
	product := new(big.Int)
	for range 3000 {
		random := make([]byte, 256)
		rand.Read(random)
		product.SetBytes(random)
		if roca(new(big.Int).Rem(product, smallPrimes)) || closePrimes(product) {
			t.Fatalf("random number %x is taken for a broken modulus", random)
		}
	}
}

func TestECPoints(t *testing.T) {
	for _, curve := range []struct {
		elliptic.Curve
		oid asn1.ObjectIdentifier
	}{{elliptic.P256(), oidP256}, {elliptic.P384(), oidP384}, {elliptic.P521(), oidP521}} {
		key, err := ecdsa.GenerateKey(curve.Curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		point, err := key.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		params, err := asn1.Marshal(curve.oid)
		if err != nil {
			t.Fatal(err)
		}
		off := slices.Clone(point)
		off[len(off)-1] ^= 1
		hybrid := slices.Clone(point)
		hybrid[0] = 6 | point[len(point)-1]&1
		for _, tt := range []struct {
			name   string
			params []byte
			point  []byte
			want   error
		}{
			{"good", params, point, nil},
			{"not on the curve", params, off, ErrMalformed},
			{"zero point", params, make([]byte, len(point)), ErrMalformed},
			{"infinity", params, []byte{0}, ErrMalformed},
			{"empty", params, nil, ErrMalformed},
			{"short", params, point[:len(point)-1], ErrMalformed},
			{"long", params, append(slices.Clone(point), 0), ErrMalformed},
			{"hybrid", params, hybrid, ErrMalformed},
			{"compressed", params, append([]byte{2}, point[1:1+len(point)/2]...), ErrAlgorithm},
			{"no curve", nil, point, ErrAlgorithm},
			{"NULL for a curve", []byte{5, 0}, point, ErrAlgorithm},
			{"P-224", []byte{6, 5, 0x2b, 0x81, 4, 0, 0x21}, point, ErrAlgorithm},
		} {
			got, err := ParsePublicKey(spki(oidEC, tt.params, raw(tt.point)))
			if !errors.Is(err, tt.want) {
				t.Errorf("%s, %s: %v, want %v", curve.Params().Name, tt.name, err, tt.want)
			}
			if err == nil && !key.PublicKey.Equal(got) {
				t.Errorf("%s: another key", curve.Params().Name)
			}
		}
	}
}

func TestEd25519Keys(t *testing.T) {
	for range 50 {
		pub, _, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParsePublicKey(spki(oidEd25519, nil, raw(pub)))
		if err != nil || !pub.Equal(got) {
			t.Fatalf("%x: %v", pub, err)
		}
	}
	for _, tt := range []struct {
		name, key string
		want      error
	}{
		{"zero", strings.Repeat("00", 32), ErrWeak},
		{"zero, negative", strings.Repeat("00", 31) + "80", ErrWeak},
		{"identity", "01" + strings.Repeat("00", 31), ErrWeak},
		{"order 2", "ec" + strings.Repeat("ff", 30) + "7f", ErrWeak},
		{"order 8", "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", ErrWeak},
		{"order 8, other sign", "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85", ErrWeak},
		{"order 8, second", "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", ErrWeak},
		{"not canonical", "ed" + strings.Repeat("ff", 30) + "7f", ErrMalformed},
		{"not on the curve", "02" + strings.Repeat("00", 31), ErrMalformed},
		{"short", strings.Repeat("11", 31), ErrMalformed},
		{"long", strings.Repeat("11", 33), ErrMalformed},
	} {
		key, err := hex.DecodeString(tt.key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParsePublicKey(spki(oidEd25519, nil, raw(key))); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	pub, _, _ := ed25519.GenerateKey(rand.Reader)
	if _, err := ParsePublicKey(spki(oidEd25519, []byte{5, 0}, raw(pub))); !errors.Is(err, ErrMalformed) {
		t.Errorf("with parameters: %v", err)
	}
}

func TestBlocklist(t *testing.T) {
	c := mustCSR(t, "p256.der")
	sum := sha256.Sum256(c.PublicKey)
	list, err := ReadBlocklist(strings.NewReader("# leaked\n\n" + strings.ToUpper(hex.EncodeToString(sum[:])) + "  test key\n"))
	if err != nil || list.Len() != 1 {
		t.Fatal(list.Len(), err)
	}
	if _, err := ParsePublicKey(c.PublicKey, WithBlocklist(list)); !errors.Is(err, ErrWeak) {
		t.Errorf("listed key: %v", err)
	}
	if _, err := ParseCSR(c.Raw, WithBlocklist(list)); !errors.Is(err, ErrWeak) {
		t.Errorf("request with a listed key: %v", err)
	}
	if _, err := ParseCSR(read(t, "p384.der"), WithBlocklist(list)); err != nil {
		t.Errorf("another key: %v", err)
	}
	var none *Blocklist
	if _, err := ParsePublicKey(c.PublicKey, WithBlocklist(none)); err != nil || none.Len() != 0 {
		t.Errorf("no list: %v", err)
	}
	for _, bad := range []string{"xyz", "00ff", hex.EncodeToString(sum[:]) + "00"} {
		if _, err := ReadBlocklist(strings.NewReader("#\n" + bad)); err == nil || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := ReadBlocklist(bytes.NewReader(bytes.Repeat([]byte("a"), 1<<20))); err == nil {
		t.Error("a line without end is taken")
	}
}

func TestKeyName(t *testing.T) {
	if got := KeyName("text"); got != "unknown" {
		t.Error(got)
	}
	if got := KeyName(x509.PublicKeyAlgorithm(0)); got != "unknown" {
		t.Error(got)
	}
}
