package main

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
)

const (
	followEvery   = time.Minute // how often the CAs are asked whether another replica, or somebody else, changed them over
	followTimeout = 2 * time.Minute
)

// caChanged has followCAs look at once. It does not wait.
func (p *process) caChanged(string) {
	select {
	case p.rolled <- struct{}{}:
	default:
	}
}

// followCAs keeps what the Runtime was built from the CAs' certificates true when a CA changes over: the RA certificates,
// which come from the new issuing key, the CAs that TLS names to clients, our TLS certificate and its chain.
func (p *process) followCAs() {
	tick, sounding := time.NewTicker(followEvery), time.NewTicker(silentEvery)
	defer tick.Stop()
	defer sounding.Stop()
	var again time.Time // no CA that was silent is looked at before, once it was found to be no good
	for {
		select {
		case <-p.life.Done():
			return
		case <-sounding.C:
			if time.Now().After(again) && !p.soundOut(p.life) {
				again = time.Now().Add(followEvery)
			}
			continue
		case <-tick.C:
		case <-p.rolled:
		}
		p.followed(p.life)
	}
}

// followed builds the Runtime anew when a CA's certificates are others than it was built from: a reload of the
// configuration that runs, which leaves listeners, plugins and requests under way as they are. A failure is told, and
// tried again a minute later.
func (p *process) followed(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, followTimeout)
	defer cancel()
	defer context.AfterFunc(p.ending, cancel)()
	rt := p.runtime.Load()
	if rt == nil {
		return
	}
	now := p.currentCAs(ctx, rt)
	if sameCAs(rt.cas, now) {
		for name, cas := range now {
			p.keepHeard(rt, name, cas) // that they are still so
		}
		return
	}
	switch done, err := p.rebuild(ctx, rt, "a CA has other certificates than before: the configuration is put into force again"); {
	case err != nil:
		p.log.Error("a CA has changed over, and the gateway's own certificates have not: it is tried again", "err", err)
	case done:
		p.log.Info("the gateway's own certificates have followed the CA")
	}
}

// rebuild puts the configuration that runs into force again, since its CAs are others than rt was made from. It does nothing, and says so,
// when rt no longer runs, whose successor has asked them, or the gateway is stopping.
func (p *process) rebuild(ctx context.Context, rt *Runtime, why string) (done bool, err error) {
	if p.turn(ctx) != nil {
		return false, nil
	}
	defer p.reloading.give()
	if p.runtime.Load() != rt { // a reload came first
		return false, nil
	}
	p.log.Info(why)
	seen := p.seen.again()
	if err := p.enforce(ctx, rt.cfg, func(old, next *Runtime) error { return p.recordReread(ctx, old, next, seen) }); err != nil {
		if p.ending.Err() != nil {
			return false, nil
		}
		return false, err
	}
	seen[p.file] = p.seen[p.file] // it was not read
	p.seen = seen
	p.files.tell(rt.cfg.Watch, seen)
	return true, nil
}

// recordReread tells the audit trail of files that count from now on as they are now, though nobody has ordered a reload.
func (p *process) recordReread(ctx context.Context, old, next *Runtime, seen fileMarks) error {
	done := changesBetween(old, next)
	if done.Files = p.readAnew(seen); len(done.Files) == 0 {
		return nil
	}
	return p.recordReload(ctx, byRollover, next.cfg, done)
}

func sameCAs(a, b map[string][]backend.CA) bool {
	same := func(x, y [][]byte) bool { return slices.EqualFunc(x, y, bytes.Equal) }
	for name := range b {
		if !slices.EqualFunc(a[name], b[name], func(x, y backend.CA) bool {
			return x.Name == y.Name && same(x.Chain, y.Chain) && same(x.Rollover, y.Rollover) && same(x.Next, y.Next) && slices.Equal(x.CRLs, y.CRLs) && slices.EqualFunc(x.Shards, y.Shards, sameShard)
		}) {
			return false
		}
	}
	return len(a) == len(b)
}

func sameShard(x, y backend.CRLShard) bool { return x.Name == y.Name && slices.Equal(x.URIs, y.URIs) }
