package admin

import (
	"context"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/muster-pki/muster/gateway"
)

// span is a time that an overview looks back on, in steps.
type span struct {
	step  time.Duration
	steps int
}

var spans = map[string]span{"day": {time.Hour, 24}, "week": {6 * time.Hour, 28}, "month": {24 * time.Hour, 30}}

// What was counted is good for a while, the newest steps for a short one: 200,000 requests took 0.6 to 0.8 s to count on two busy
// cores (BenchmarkTallies). No step is begun after countTime: what is not counted by then is counted when somebody asks again.
const (
	goodNew   = 20 * time.Second
	goodOld   = 15 * time.Minute
	countTime = 2 * time.Second
	countStep = 8 * time.Second // for a single step
)

const (
	endingStep  = 7 * 24 * time.Hour
	endingSteps = 26
)

// Overview is the answer to GET /v1/overview.
type Overview struct {
	At       time.Time       `json:"at"`                // when it was counted
	From     time.Time       `json:"from"`              // of the first step
	Step     int64           `json:"step_s"`            // seconds
	Steps    int             `json:"steps"`             // the last one is not over
	Requests []OverviewCount `json:"requests"`          // none of 0
	Missing  int             `json:"missing,omitempty"` // steps, the oldest for the most part, that are not counted yet: ask again
	Ends     time.Time       `json:"ends"`              // the start of the first of Ending
	EndStep  int64           `json:"end_step_s"`        // seconds
	Ending   []int64         `json:"ending"`            // certificates that end in each step, and are not revoked
}

// OverviewCount is how many requests came in a step.
type OverviewCount struct {
	From     time.Time `json:"from"`
	Protocol string    `json:"protocol"`
	State    string    `json:"state"` // in which they are now
	Count    int64     `json:"count"`
	// Remembered ones are refusals of those who did not authenticate, which are kept in memory only, and not for long.
	Remembered bool `json:"remembered,omitempty"`
}

// overviews keeps what was counted last: one count at a time is under way, whoever asks.
type overviews struct {
	lock  chan struct{} // holds one element while somebody counts; who has left does not wait for it
	steps map[countedStep]counted
	ends  []int64
	at    time.Time // of ends
}

type countedStep struct {
	step time.Duration
	from time.Time
}

type counted struct {
	at      time.Time
	tallies []gateway.Tally
}

// overview counts what came, and what ends.
func (s *Server) overview(c echo.Context) error {
	q, err := known(c, "span")
	if err != nil {
		return err
	}
	name := q["span"]
	if name == "" {
		name = "day"
	}
	of, ok := spans[name]
	if !ok {
		return badRequest(`span is "day", "week" or "month"`)
	}
	ctx := c.Request().Context()
	select {
	case s.counts.lock <- struct{}{}:
		defer func() { <-s.counts.lock }()
	case <-ctx.Done():
		return ctx.Err()
	}
	out, err := s.count(ctx, of, s.config.Clock().UTC())
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, out)
}

// count needs the lock of s.counts.
func (s *Server) count(ctx context.Context, of span, now time.Time) (*Overview, error) {
	first := now.Truncate(of.step).Add(-time.Duration(of.steps-1) * of.step)
	out := &Overview{At: now, From: first, Step: int64(of.step / time.Second), Steps: of.steps, Requests: []OverviewCount{}, Ends: now, EndStep: int64(endingStep / time.Second)}
	o := &s.counts
	for key := range o.steps {
		if key.from.Before(now.AddDate(0, 0, -31)) {
			delete(o.steps, key)
		}
	}
	began := time.Now()
	for i := of.steps - 1; i >= 0; i-- { // the newest first
		key := countedStep{of.step, first.Add(time.Duration(i) * of.step)}
		good := goodOld
		if i >= of.steps-2 {
			good = goodNew
		}
		got, ok := o.steps[key]
		if stale := !ok || now.Sub(got.at) >= good || now.Before(got.at); stale && time.Since(began) < countTime {
			tallies, err := s.countStep(ctx, key)
			if err != nil {
				return nil, err
			}
			got, ok = counted{now, tallies}, true
			if o.steps == nil {
				o.steps = map[countedStep]counted{}
			}
			o.steps[key] = got
		}
		if !ok {
			out.Missing++
		}
		for _, t := range got.tallies {
			out.Requests = append(out.Requests, OverviewCount{From: key.from, Protocol: string(t.Protocol), State: string(t.State), Count: t.Count})
		}
	}
	s.countStrangers(out, of)
	if o.ends == nil || now.Sub(o.at) >= goodNew || now.Before(o.at) {
		ctx, cancel := context.WithTimeout(ctx, countStep)
		defer cancel()
		ends, err := s.config.Store.Endings(ctx, now, endingStep, endingSteps)
		if err != nil {
			return nil, err
		}
		o.ends, o.at = ends, now
	}
	out.Ends, out.Ending = o.at, o.ends
	return out, nil
}

func (s *Server) countStep(ctx context.Context, key countedStep) ([]gateway.Tally, error) {
	ctx, cancel := context.WithTimeout(ctx, countStep)
	defer cancel()
	return s.config.Store.Tallies(ctx, key.from, key.from.Add(key.step))
}

// countStrangers adds the refusals that are remembered.
func (s *Server) countStrangers(out *Overview, of span) {
	at := map[countedStep]map[gateway.Protocol]int{} // places in out.Requests
	for _, t := range s.config.Gateway.Strangers(maxStrangers) {
		key := countedStep{of.step, t.Received.UTC().Truncate(of.step)}
		if key.from.Before(out.From) {
			continue
		}
		if at[key] == nil {
			at[key] = map[gateway.Protocol]int{}
		}
		i, ok := at[key][t.Protocol]
		if !ok {
			i = len(out.Requests)
			at[key][t.Protocol] = i
			out.Requests = append(out.Requests, OverviewCount{From: key.from, Protocol: string(t.Protocol), State: string(gateway.StateRefused), Remembered: true})
		}
		out.Requests[i].Count++
	}
}

// Overview counts the requests of the last "day" (""), "week" or "month", and the certificates that end. Errors as Transactions.
func (c *Client) Overview(ctx context.Context, span string) (*Overview, error) {
	out := &Overview{}
	return out, c.get(ctx, "/v1/overview", values("span", span), out)
}
