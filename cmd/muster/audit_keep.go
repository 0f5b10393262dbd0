package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/audit"
)

// Of the audit trail, in the data directory.
const (
	auditKey    = "audit.key"  // signs checkpoints
	auditPublic = "audit.pub"  // verifies them
	auditHead   = "audit.head" // names the last record
)

const (
	auditEvery = time.Minute    // how often it is looked at
	pruneEvery = 24 * time.Hour // how often old records are removed
	pruneAgain = time.Hour      // and when that failed
)

// auditKey loads the key that signs this instance's stream, and makes it at the first start.
func (p *process) auditKey() (*audit.Key, error) {
	head := holdsSomething(filepath.Join(p.data, auditHead))
	key, made, err := audit.LoadKey(filepath.Join(p.data, auditKey), filepath.Join(p.data, auditPublic))
	if err != nil {
		return nil, err
	}
	if made && head {
		p.log.Warn("the key that signs the audit trail is gone, and a new one is made: what the old one signed is verified by its public key, if "+auditPublic+" still has it",
			"file", filepath.Join(p.data, auditKey))
	}
	return key, nil
}

// recordStop ends the audit trail of this run. That it cannot be does not keep the gateway from stopping.
func (p *process) recordStop(ctx context.Context) {
	if !p.started {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if err := p.store.RecordSigned(ctx, gateway.AuditEvent{Kind: audit.KindStopped, At: p.clock(), Actor: p.instance}); err != nil {
		p.log.Error("the audit trail cannot take the stop", "err", err)
	}
}

// keepAudit has what was recorded signed in time, and removed when it is old.
func (p *process) keepAudit() {
	k := &auditKeeper{store: p.store, clock: p.clock, log: p.log, keep: func() time.Duration { return p.runtime.Load().cfg.auditKeep() }}
	tick := time.NewTicker(auditEvery)
	defer tick.Stop()
	for {
		select {
		case <-p.life.Done():
			return
		case <-tick.C:
			k.tend(p.life)
		}
	}
}

// auditKeeper is the clockwork of the audit trail.
type auditKeeper struct {
	store interface {
		Checkpoint(ctx context.Context) error
		PruneAudit(ctx context.Context, before time.Time) (removed int64, err error)
	}
	clock func() time.Time
	keep  func() time.Duration // 0 for ever
	log   *slog.Logger

	next time.Time // when old records are looked for again
}

// tend does what is due.
func (k *auditKeeper) tend(ctx context.Context) {
	if err := k.store.Checkpoint(ctx); err != nil && ctx.Err() == nil {
		k.log.Error("the audit trail cannot be signed", "err", err)
	}
	now, keep := k.clock(), k.keep()
	if keep == 0 || now.Before(k.next) && k.next.Sub(now) <= pruneEvery {
		return
	}
	removed, err := k.store.PruneAudit(ctx, now.Add(-keep))
	k.next = now.Add(pruneEvery)
	if removed > 0 {
		k.log.Info("old records of the audit trail are removed", "records", removed, "before", now.Add(-keep).UTC().Format(time.RFC3339))
	}
	if err != nil && ctx.Err() == nil {
		k.next = now.Add(pruneAgain)
		k.log.Error("old records of the audit trail are not removed", "err", fmt.Sprint(err))
	}
}
