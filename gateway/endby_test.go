package gateway_test

import (
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// What a stage has end by a time ends by it, however long it is held, whatever profile is chosen after it.
func TestEndBy(t *testing.T) {
	for _, tt := range []struct{ end, want time.Duration }{
		{48 * time.Hour, 48 * time.Hour}, {80 * time.Hour, 72*time.Hour - time.Second}, // the profile's is 72h
	} {
		var end time.Time
		w := newWorld(t, backendtest.FaultPlan{}, func(w *world) {
			w.enroll = gateway.Pipeline{password{"secret"}, stage(func(_ *gateway.Request, g *gateway.Grant) gateway.Verdict {
				g.EndBy(end)
				g.EndBy(end.Add(time.Hour)) // lengthens nothing
				if !g.EndsBy().Equal(end) {
					t.Errorf("it ends by %s", g.EndsBy())
				}
				return gateway.Held("somebody has to look")
			})}
		})
		start := w.clock.now()
		end = start.Add(tt.end)
		r := w.request("ends")
		w.mustEnroll(r)
		w.clock.add(30 * time.Hour)
		got, err := w.approve(r.ID, "alice")
		if err != nil {
			t.Fatal(err)
		}
		if c := got.Certificate; c == nil || !c.NotAfter.Equal(start.Add(tt.want)) {
			t.Errorf("%v: %+v", tt.end, c)
		}
	}
	short, long := &gateway.Profile{Name: "short", Validity: time.Hour}, &gateway.Profile{Name: "long", Validity: 9 * time.Hour}
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	g := gateway.NewGrant(&gateway.Request{}, &gateway.Endpoint{Profile: short, Profiles: map[string]*gateway.Profile{"short": short, "long": long}}, now)
	if !g.EndsBy().IsZero() {
		t.Errorf("it ends by %s", g.EndsBy())
	}
	g.EndBy(now.Add(2 * time.Hour))
	if !g.NotAfter.Equal(now.Add(time.Hour - time.Second)) {
		t.Errorf("it ends %s", g.NotAfter)
	}
	if g.ChooseProfile("long"); !g.NotAfter.Equal(now.Add(2 * time.Hour)) {
		t.Errorf("of the longer profile it ends %s", g.NotAfter)
	}
}
