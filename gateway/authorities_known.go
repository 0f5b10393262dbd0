package gateway

import (
	"errors"
	"fmt"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
)

// Known is a backend that a Runtime begins with although its CA does not answer.
type Known struct {
	CAs   []backend.CA // as they were last heard: they are served until the CA tells them anew
	Heard time.Time    // when that was
	Why   error        // what it said, or what kept it from saying anything, when it was asked now
}

// seeded are the authorities of a backend that may be known already; k nil when it is not.
func seeded(a *authorities, name string, k *Known) (*authorities, error) {
	if k == nil {
		return a, nil
	}
	list, err := parseCAs(k.CAs)
	if err != nil {
		return nil, fmt.Errorf("backend %s: as it was last heard: %w", name, err)
	}
	a.value, a.asked, a.failure = list, a.now(), k.Why
	return a, nil
}

// startsOpen opens the breakers of backends that a Runtime begins with although their CAs do not answer: a standby is asked at once, not after
// the first five requests have found out.
func (g *Gateway) startsOpen(rt *Runtime) {
	for name, k := range rt.Known {
		b := g.breakers.of(name)
		b.mu.Lock()
		if b.state == breakerClosed {
			b.since, b.why = g.now(), errors.New(cut(k.Why.Error(), maxShown))
			g.opens(name, b)
		}
		b.mu.Unlock()
	}
}

// Answers has a CA that is left alone looked at by the next turn of the worker: whoever calls it has just heard of it.
func (g *Gateway) Answers(name string) {
	b := g.breakers.of(name)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == breakerOpen {
		b.until = g.now()
	}
}
