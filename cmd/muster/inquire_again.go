package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/host"
)

// silentEvery is how often a CA that did not answer is asked again.
const silentEvery = 10 * time.Second

// soundOut asks the CAs that are silent. One that tells what it told before is used again, from the next request on. For one that tells
// something else, the configuration is put into force again, with all checks of a start, by a plugin process of its own; when that fails, it stays unused.
// It reports whether nothing failed: a CA that stays silent is no failure.
func (p *process) soundOut(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, followTimeout)
	defer cancel()
	defer context.AfterFunc(p.ending, cancel)()
	rt := p.runtime.Load()
	if rt == nil {
		return true
	}
	others := p.answering(ctx, rt)
	if len(others) == 0 {
		return true
	}
	_, err := p.rebuild(ctx, rt, "a CA that did not answer before answers again, and is another than it was: "+strings.Join(others, ", "))
	if err == nil {
		return true
	}
	for _, name := range others {
		s := rt.silence.of(name)
		if s == nil {
			continue
		}
		rt.plugins[name].plugin.Hold(fmt.Errorf("its CA answers again, and is another than it was when it was heard at %s; it is not used, since the configuration cannot be put into force with it: %w",
			s.heard.UTC().Format(time.RFC3339), err))
		p.log.Error("a CA that did not answer before answers again, and cannot be used as it is now: it is looked at again", "backend", name, "again_in", followEvery, "err", err)
	}
	return false
}

// answering asks the CAs of a Runtime that are silent, ends the silence of those that tell what they told before, and returns the others
// that answer.
func (p *process) answering(ctx context.Context, rt *Runtime) (others []string) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, name := range rt.silence.names() {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, heardCall)
			defer cancel()
			plugin := rt.plugins[name].plugin
			cas, err := plugin.Inquire(ctx)
			switch {
			case err != nil && !errors.Is(err, host.ErrOtherwise):
				p.log.Debug("a CA still does not answer", "backend", name, "err", err)
			case err == nil && sameCAs(map[string][]backend.CA{"": rt.cas[name]}, map[string][]backend.CA{"": cas}):
				rt.silence.ends(name)
				plugin.Unhold()
				p.gateway.Answers(name)
				p.log.Info("a CA that did not answer before answers again, and is as it was: it is used again", "backend", name)
				p.keepHeard(rt, name, cas)
			default:
				mu.Lock()
				defer mu.Unlock()
				others = append(others, name)
			}
		})
	}
	wg.Wait()
	slices.Sort(others)
	return others
}
