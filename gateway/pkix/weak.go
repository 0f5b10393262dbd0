package pkix

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/big"
	"strings"
	"sync/atomic"
)

// fermatSteps is how many candidates Fermat's method tries. Primes of a sound 2048-bit key are about 2^1000 apart;
// the keys of CVE-2022-26320 fall in the first step.
const fermatSteps = 16

// rocaPrimes are the primes up to 167 modulo which 65537 generates a small subgroup. A key of CVE-2017-15361 lies
// in the subgroup of every one of them; a sound key does so with a probability below 2^-27.
var rocaPrimes = [...]uint64{11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157}

// smallPrimes is the product of the primes up to 167.
var smallPrimes = func() *big.Int {
	product := big.NewInt(1)
	for p := int64(2); p <= 167; p++ {
		if b := big.NewInt(p); b.ProbablyPrime(0) {
			product.Mul(product, b)
		}
	}
	return product
}()

// sound are moduli that have passed, each where its low bits say: a request's key is judged up to three times, as that
// of its signer, in the request, and by the pipeline.
var sound [256]atomic.Pointer[big.Int]

// checkModulus refuses an RSA modulus that is known to be easy to factor. Its size has been checked. The caller does not
// change n afterwards.
func checkModulus(n *big.Int) error {
	if n.Bit(0) == 0 {
		return weak("RSA modulus is even")
	}
	known := &sound[n.Bits()[0]>>1&0xff]
	if k := known.Load(); k != nil && k.Cmp(n) == 0 {
		return nil
	}
	r := new(big.Int).Rem(n, smallPrimes)
	if new(big.Int).GCD(nil, nil, r, smallPrimes).Cmp(one) != 0 {
		return weak("RSA modulus has a small factor")
	}
	if roca(r) {
		return weak("RSA modulus has the ROCA fingerprint (CVE-2017-15361)")
	}
	if closePrimes(n) {
		return weak("RSA modulus is a product of two close primes (CVE-2022-26320)")
	}
	known.Store(n)
	return nil
}

var one = big.NewInt(1)

// roca reports whether r, the modulus modulo smallPrimes, is a power of 65537 modulo every one of rocaPrimes
// (Nemec et al., "The Return of Coppersmith's Attack", section 3.1).
func roca(r *big.Int) bool {
	p, m := new(big.Int), new(big.Int)
	for _, prime := range rocaPrimes {
		want := m.Rem(r, p.SetUint64(prime)).Uint64()
		power, found := uint64(1), false
		for range prime {
			if power == want {
				found = true
				break
			}
			power = power * 65537 % prime
		}
		if !found {
			return false
		}
	}
	return true
}

// closePrimes is Fermat's factorization, a few steps of it: n = a^2 - b^2 with a next to the square root of n.
func closePrimes(n *big.Int) bool {
	a := new(big.Int).Sqrt(n)
	b2 := new(big.Int).Mul(a, a)
	if b2.Cmp(n) == 0 {
		return true
	}
	a.Add(a, one)
	b2.Mul(a, a).Sub(b2, n)
	step := new(big.Int).Lsh(a, 1)
	step.Add(step, one)
	two := big.NewInt(2)
	root, square := new(big.Int), new(big.Int)
	for range fermatSteps {
		if maybeSquare(b2) {
			if root.Sqrt(b2); square.Mul(root, root).Cmp(b2) == 0 {
				return true
			}
		}
		b2.Add(b2, step) // (a+1)^2 - n
		step.Add(step, two)
	}
	return false
}

// squarePrimes are the odd primes below 64 whose product is below 2^64.
var squarePrimes = [...]uint64{3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53}

// squareMasks[i] has the bits of the squares modulo squarePrimes[i]; squareProduct is the product of them all.
var squareMasks, squareProduct = func() (masks [len(squarePrimes)]uint64, product *big.Int) {
	product = big.NewInt(1)
	for i, p := range squarePrimes {
		for r := range p {
			masks[i] |= 1 << (r * r % p)
		}
		product.Mul(product, new(big.Int).SetUint64(p))
	}
	return masks, product
}()

// maybeSquare spares nearly all of the square roots: a square is one modulo every prime (and modulo 64, where it is 0, 1, 4, 9, 16,
// 17, 25, 33, 36, 41, 49 or 57), what is none passes with a probability of about 2^-16.
func maybeSquare(x *big.Int) bool {
	const squares = 1<<0 | 1<<1 | 1<<4 | 1<<9 | 1<<16 | 1<<17 | 1<<25 | 1<<33 | 1<<36 | 1<<41 | 1<<49 | 1<<57
	var low uint
	for i := range 6 {
		low |= x.Bit(i) << i
	}
	if squares>>low&1 == 0 {
		return false
	}
	r := new(big.Int).Rem(x, squareProduct).Uint64()
	for i, p := range squarePrimes {
		if squareMasks[i]>>(r%p)&1 == 0 {
			return false
		}
	}
	return true
}

// The field of Ed25519 and the constant d of its curve (RFC 8032 section 5.1).
var (
	edP = new(big.Int).Sub(new(big.Int).Lsh(one, 255), big.NewInt(19))
	edD = bigHex("52036cee2b6ffe738cc740797779e89800700a4d4141d8ab75eb4dca135978a3")
	// edSmall holds the y coordinates of the points whose order divides 8.
	edSmall = []*big.Int{
		big.NewInt(0), big.NewInt(1), new(big.Int).Sub(edP, one), edOrder8, new(big.Int).Sub(edP, edOrder8),
	}
	edOrder8 = bigHex("7a03ac9277fdc74ec6cc392cfa53202a0f67100d760b3cba4fd84d3d706a17c7")
)

func bigHex(s string) *big.Int {
	n, ok := new(big.Int).SetString(s, 16)
	if !ok {
		panic("bad constant " + s)
	}
	return n
}

// checkEdwards refuses a key that is no point of the curve, or one of small order, under which anybody can sign.
func checkEdwards(key []byte) error {
	// RFC 8032 section 5.1.2: y little-endian, its highest bit the sign of x.
	var be [32]byte
	for i, b := range key {
		be[31-i] = b
	}
	be[0] &= 0x7f
	y := new(big.Int).SetBytes(be[:])
	if y.Cmp(edP) >= 0 {
		return malformed("Ed25519 key is not canonical")
	}
	for _, small := range edSmall {
		if y.Cmp(small) == 0 {
			return weak("Ed25519 key of small order")
		}
	}
	// x^2 = u/v with u = y^2 - 1, v = d y^2 + 1; it is a square if and only if u v is.
	u := new(big.Int).Mul(y, y)
	v := new(big.Int).Mul(u, edD)
	u.Sub(u, one)
	v.Add(v, one)
	if u.Mul(u, v).Mod(u, edP); big.Jacobi(u, edP) != 1 {
		return malformed("Ed25519 key is not a point of the curve")
	}
	return nil
}

// Blocklist is an operator's list of keys that are refused whoever presents them: SHA-256 hashes of the DER
// SubjectPublicKeyInfo. A nil list is empty.
type Blocklist struct {
	hashes map[[sha256.Size]byte]struct{}
}

// ReadBlocklist reads a list: one hash in hexadecimal a line, the rest of the line and lines that begin with # ignored.
// Errors name the line.
func ReadBlocklist(r io.Reader) (*Blocklist, error) {
	b := &Blocklist{hashes: make(map[[sha256.Size]byte]struct{})}
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		raw, err := hex.DecodeString(fields[0])
		if err != nil || len(raw) != sha256.Size {
			return nil, fmt.Errorf("line %d: not a SHA-256 hash in hexadecimal", n)
		}
		b.hashes[[sha256.Size]byte(raw)] = struct{}{}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("blocklist: %w", err)
	}
	return b, nil
}

// Contains reports whether the DER SubjectPublicKeyInfo is on the list.
func (b *Blocklist) Contains(spki []byte) bool {
	if b == nil || len(b.hashes) == 0 {
		return false
	}
	_, found := b.hashes[sha256.Sum256(spki)]
	return found
}

// Len is the number of hashes on the list.
func (b *Blocklist) Len() int {
	if b == nil {
		return 0
	}
	return len(b.hashes)
}
