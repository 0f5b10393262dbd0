package pkix

import (
	"math/big"
	"math/rand/v2"
	"testing"
)

// TestMaybeSquare: no square is ruled out, and hardly anything else is let through.
func TestMaybeSquare(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	passed := 0
	for i := range 20000 {
		x := big.NewInt(int64(i))
		for range i % 20 {
			x.Lsh(x, 64).Add(x, new(big.Int).SetUint64(r.Uint64()))
		}
		square := new(big.Int).Mul(x, x)
		if !maybeSquare(square) {
			t.Fatalf("%d^2 is taken for no square", x)
		}
		if maybeSquare(square.Add(square, big.NewInt(1+int64(r.IntN(1000))))) {
			passed++
		}
	}
	if passed > 100 {
		t.Errorf("%d of 20000 others are let through", passed)
	}
}
