package main

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"
)

// keptTrail counts what it is asked.
type keptTrail struct {
	signed int
	pruned []time.Time // before
	err    error
}

func (k *keptTrail) Checkpoint(context.Context) error { k.signed++; return nil }

func (k *keptTrail) PruneAudit(_ context.Context, before time.Time) (int64, error) {
	k.pruned = append(k.pruned, before)
	return 1, k.err
}

// TestAuditKeeper: signatures are looked after each time, removals once a day, an hour after one that failed, and not at all without `keep`.
func TestAuditKeeper(t *testing.T) {
	now, keep, store := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC), time.Duration(0), &keptTrail{}
	k := &auditKeeper{store: store, clock: func() time.Time { return now }, keep: func() time.Duration { return keep }, log: slog.New(slog.DiscardHandler)}
	for i, step := range []struct {
		after, keep time.Duration
		err         error
		want        int // removals so far
	}{
		{0, 0, nil, 0},
		{time.Minute, 48 * time.Hour, nil, 1},
		{time.Minute, 48 * time.Hour, nil, 1},
		{23 * time.Hour, 48 * time.Hour, nil, 1},
		{time.Hour, 48 * time.Hour, errors.New("disk"), 2},
		{59 * time.Minute, 48 * time.Hour, nil, 2},
		{time.Minute, 48 * time.Hour, nil, 3},
		{-30 * 24 * time.Hour, 48 * time.Hour, nil, 4}, // the clock was set
	} {
		now, keep, store.err = now.Add(step.after), step.keep, step.err
		k.tend(t.Context())
		if len(store.pruned) != step.want || store.signed != i+1 {
			t.Fatalf("step %d: %d removals, want %d; %d times signed", i, len(store.pruned), step.want, store.signed)
		}
	}
	if got := store.pruned[3]; !got.Equal(now.Add(-48 * time.Hour)) {
		t.Errorf("removed before %v at %v", got, now)
	}
}

func TestPointInTime(t *testing.T) {
	now := time.Date(2026, 7, 8, 12, 0, 0, 0, time.UTC)
	for given, want := range map[string]time.Time{
		"2026-07-01": now.Add(-7*24*time.Hour - 12*time.Hour), "2026-07-01T14:00:00+02:00": now.Add(-7 * 24 * time.Hour), "7d": now.Add(-7 * 24 * time.Hour),
	} {
		if got, err := pointInTime(given, now); err != nil || !got.Equal(want) {
			t.Errorf("%s: %v %v", given, got, err)
		}
	}
	for _, bad := range []string{"yesterday", "-1h", "2026-13-01", "7"} {
		if got, err := pointInTime(bad, now); err == nil {
			t.Errorf("%s: %v", bad, got)
		}
	}
}
