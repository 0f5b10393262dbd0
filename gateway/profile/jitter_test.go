package profile

import (
	"fmt"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// Jitter is for those who leave the end open, or ask for a later one than they may have: who asks for one that the profile allows gets it.
func TestValidityAskedForAndJitter(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	p := &gateway.Profile{Name: "p", Validity: 100 * 24 * time.Hour, Jitter: 50 * 24 * time.Hour}
	for i := range 5 {
		r := &gateway.Request{ID: fmt.Sprint("request ", i)}
		e := &gateway.Endpoint{Profile: p}
		open := gateway.NewGrant(r, e, now).NotAfter
		full := now.Add(p.Validity - time.Second)
		if !open.Before(full) || open.Before(full.Add(-p.Jitter)) {
			t.Fatalf("ends %s", open)
		}
		for _, c := range []struct{ asked, by, want time.Time }{
			{want: open},
			{asked: full, want: full},
			{asked: full.Add(-time.Hour), want: full.Add(-time.Hour)},
			{asked: now.Add(time.Hour), want: now.Add(time.Hour)},
			{asked: full.Add(time.Second), want: open}, // not granted
			{asked: full, by: now.Add(10 * time.Hour), want: now.Add(10 * time.Hour)},
		} {
			g := gateway.NewGrant(r, e, now)
			if !c.by.IsZero() {
				g.EndBy(c.by)
			}
			r.Validity.NotAfter = c.asked
			if err := shaper(t, `{ask: {validity: allow}}`).shapeValidity(r, g); err != nil || !g.NotAfter.Equal(c.want) {
				t.Errorf("asked for %s: %s, %v; want %s", c.asked, g.NotAfter, err, c.want)
			}
		}
	}
}
