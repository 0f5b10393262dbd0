package gateway

import (
	"context"
	"errors"
	"testing"
)

// Few RSA keys are made at once, and nobody waits longer than his request may take.
func TestKeysAreMadeInTurn(t *testing.T) {
	g := &Gateway{core: &core{making: make(chan struct{}, maxMaking)}}
	for range maxMaking {
		g.making <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	key, _, err := g.makeKey(ctx, "RSA-2048")
	if key != nil || err == nil || err.Reason != Busy || err.RetryAfter == 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	// Others take no time.
	if key, spki, err := g.makeKey(ctx, "P-256"); err != nil || key == nil || spki == nil {
		t.Error(err)
	}
	<-g.making
	if _, _, err := g.makeKey(t.Context(), "RSA-2048"); err != nil || len(g.making) != maxMaking-1 {
		t.Errorf("%v; %d turns are taken", err, len(g.making))
	}
}

// Whoever asks for many RSA keys at once takes no request's place that asks for something else.
func TestFewWaitForTheirTurn(t *testing.T) {
	g := &Gateway{core: &core{making: make(chan struct{}, maxMaking)}}
	for range maxMaking {
		g.making <- struct{}{}
	}
	g.turns.Store(maxTurns)
	if key, _, err := g.makeKey(t.Context(), "RSA-2048"); key != nil || err == nil || err.Reason != Busy || err.RetryAfter == 0 || !errors.Is(err, errTurns) {
		t.Errorf("%v", err)
	}
	if _, _, err := g.makeKey(t.Context(), "P-256"); err != nil {
		t.Error(err)
	}
	if n := g.turns.Load(); n != maxTurns {
		t.Errorf("%d turns are taken", n)
	}
	// One less, and it waits, here until its time is over.
	g.turns.Add(-1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := g.makeKey(ctx, "RSA-2048"); !errors.Is(err, context.Canceled) || g.turns.Load() != maxTurns-1 {
		t.Errorf("%v; %d turns are taken", err, g.turns.Load())
	}
}

func TestGrantOfKinds(t *testing.T) {
	kinds := []string{"P-256", "P-384"}
	g := &Grant{}
	g.AllowKeyGen(kinds)
	g.AllowKeyGen([]string{"P-384"})
	if len(g.generates) != 1 || g.generates[0] != "P-384" || kinds[0] != "P-256" || kinds[1] != "P-384" {
		t.Errorf("%v of %v", g.generates, kinds)
	}
	g.AllowKeyGen(nil)
	g.AllowKeyGen(kinds)
	if len(g.generates) != 0 {
		t.Errorf("%v, where one stage allows none", g.generates)
	}
}
