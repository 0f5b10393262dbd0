package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"
)

// countActive has the claims of a certificate that is valid lapse when it does, and those of a renewal take over what the renewed
// certificate uses.
func (b *Beginning) countActive(gr *Grant, until time.Time) {
	for i := range b.Claims {
		if b.Claims[i].Active {
			b.Claims[i].Until, b.Renews = until, gr.Replaces
		}
	}
}

// lapses reports whether a use of the claim ends by itself. A request that people have to approve, and of which no stage knows who
// sent it, takes none of those: a stranger could use up a device's by its name, or an endpoint's, for as long as it waits.
func (c Claim) lapses() bool { return c.Active || !c.Until.IsZero() }

// hopeless reports whether nothing is left of what a request claims, where the CA has a rate: it takes no turn then, or one device that
// has used up its own limits could take everybody's. Begin refuses it, unless it is the same request as another one that has its turn.
func (g *Gateway) hopeless(ctx context.Context, rt *Runtime, d *decision, backend string, claims []Claim) bool {
	if len(claims) == 0 || rt.Rates[backend].Every == 0 {
		return false
	}
	spent, err := g.store.Spent(ctx, &Beginning{Claims: claims, Renews: d.grant.Replaces})
	return err == nil && spent
}

// endsLatest is when at the latest the certificate ends that a transaction begins with: the dates of one that is held count from when
// it is approved, or when its requester comes for the key, for which there is so much time once more.
func (t *Transaction) endsLatest(gr *Grant, repeat time.Duration) time.Time {
	if t.Hold == nil || t.Hold.Fixed {
		return gr.NotAfter
	}
	ends := gr.NotAfter.Add(t.Hold.Until.Sub(t.Updated))
	if t.Delivery != nil {
		ends = ends.Add(repeat)
	}
	return ends
}

// Bounds of when to come back for a use that has to lapse first.
const (
	soonestFree    = time.Second
	latestFree     = 24 * time.Hour
	freeSpread     = 10 // one part in so many later, at random: not all come back at once
	maxFreeSpread  = time.Minute
	unknownFreeing = time.Hour // where it is not known
)

// freed says when somebody may come back who lost a claim that lapses.
func (e *ClaimLostError) freed(id string, now time.Time) time.Duration {
	wait := min(e.Claim.Until.Sub(now), unknownFreeing)
	if !e.Free.IsZero() {
		wait = e.Free.Sub(now)
	}
	wait = min(max(wait, soonestFree), latestFree)
	wait += spread("retry", id, min(wait/freeSpread, maxFreeSpread))
	return (wait + time.Second - 1).Truncate(time.Second)
}

// counts says how many uses stand of a claim that lapses, for the operator; "" of one that does not.
func (e *ClaimLostError) counts() string {
	if e.Claim.Until.IsZero() {
		return ""
	}
	s := fmt.Sprintf(": %d of %d", e.Used, e.Claim.Limit)
	if !e.Free.IsZero() {
		s += ", until " + e.Free.UTC().Format(time.RFC3339)
	}
	return s
}

// spread is a part of a period that only the ID decides, in whole seconds: 0 to all of it.
func spread(what, id string, over time.Duration) time.Duration {
	if over < time.Second {
		return 0
	}
	sum := sha256.Sum256([]byte(what + ":" + id))
	seconds := uint64(over/time.Second) + 1
	return time.Duration(binary.BigEndian.Uint64(sum[:8])%seconds) * time.Second
}

// jitterNote says how much earlier than its profile's validity a certificate ends, "" where it does not.
func (g *Grant) jitterNote() string {
	p := g.profile
	if g.jitter == 0 || !g.NotAfter.Equal(g.NotBefore.Add(p.Backdate+p.Validity-time.Second-g.jitter)) {
		return ""
	}
	return fmt.Sprintf("; ends %v before its validity does, by jitter", g.jitter)
}

// Latest is the end that a certificate may have whose end is asked for: jitter is for those that leave it open. It is the stages'
// to ask, before NotAfter is what was asked for.
func (g *Grant) Latest() time.Time {
	if end := g.NotAfter.Add(g.jitter); g.until.IsZero() || end.Before(g.until) {
		return end
	}
	return g.until
}
