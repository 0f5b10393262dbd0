package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strings"

	"github.com/muster-pki/muster/cmd/muster/spool"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
	"github.com/muster-pki/muster/protocols/cmp"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// processCMP answers a message that came in a file: the admin API's, `muster cmp process` behind it, and the spools'. "" is the
// default endpoint. Errors are as cmp.Handler.Process says.
func (p *process) processCMP(ctx context.Context, endpoint string, message []byte) ([]byte, error) {
	rt := p.runtime.Load()
	if rt == nil {
		return nil, gateway.Errorf(gateway.Unavailable, "the gateway is starting: try again", "starting")
	}
	rt.underway.enter()
	defer rt.underway.leave()
	name, err := rt.cfg.cmpEndpoint(endpoint)
	if err != nil {
		return nil, err
	}
	// It keeps nothing between messages, and no listener's has all endpoints.
	h, err := makeCMP(p.adapterDeps(rt), []served{{name, rt.cfg.Endpoints[name]}})
	if err != nil {
		return nil, err
	}
	return h.(*cmp.Handler).Process(ctx, name, message)
}

// cmpEndpoint finds the CMP endpoint that is meant.
func (c *Config) cmpEndpoint(given string) (string, error) {
	var all, defaults []string
	for _, name := range byName(c.Endpoints) {
		if c.Endpoints[name].Protocol != gateway.CMP {
			continue
		}
		all = append(all, name)
		if c.Endpoints[name].Default {
			defaults = append(defaults, name)
		}
	}
	e := c.Endpoints[given]
	switch {
	case e != nil && e.Protocol == gateway.CMP:
		return given, nil
	case e != nil:
		return "", &gateway.Error{Reason: gateway.Unsupported, Detail: fmt.Sprintf("endpoint %s speaks %s, not cmp%s", given, e.Protocol, listed(all))}
	case given != "":
		return "", &gateway.Error{Reason: gateway.NotAuthorized, Detail: fmt.Sprintf("there is no CMP endpoint %q%s", given, strictyaml.Suggest(given, all)), Err: gateway.ErrNotFound}
	case len(defaults) == 1:
		return defaults[0], nil
	case len(all) == 1:
		return all[0], nil
	case len(all) == 0:
		return "", &gateway.Error{Reason: gateway.NotAuthorized, Detail: "there is no CMP endpoint", Err: gateway.ErrNotFound}
	}
	return "", &gateway.Error{Reason: gateway.Malformed, Detail: "no CMP endpoint is the default, or several are: say which is meant" + listed(all)}
}

// listed are the names that could be meant.
func listed(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return ": " + strings.Join(names, ", ")
}

// spools checks that the endpoints' spool folders are apart: what one puts into out/ is no other's request.
func (f *review) spools() {
	dirs := map[string]string{}
	for _, name := range byName(f.c.Endpoints) {
		dir := f.c.spool(name)
		if dir == "" {
			continue
		}
		for _, other := range byName(dirs) {
			if within(dir, dirs[other]) || within(dirs[other], dir) {
				f.fail(at("endpoints", name, "cmp", "files", "spool"), "%s is the spool of endpoint %s, or one lies within the other: give each a folder of its own", dirs[other], other)
				break
			}
		}
		dirs[name] = dir
	}
}

// within reports whether a path is dir or lies below it.
func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// spool is an endpoint's spool folder, absolute; "" for none.
func (c *Config) spool(endpoint string) string {
	e := c.Endpoints[endpoint]
	if e.Protocol != gateway.CMP || e.CMP == nil || e.CMP.Files.Spool == "" {
		return ""
	}
	return filepath.Clean(c.path(e.CMP.Files.Spool))
}

// watched is a spool that runs, or is going to.
type watched struct {
	spool    *spool.Spool
	endpoint string
	stop     context.CancelFunc // nil until it runs
}

// spoolChange is what a configuration makes of the spools.
type spoolChange struct {
	next   map[string]*watched // by path
	opened []*watched
}

// abort gives free what was opened.
func (c *spoolChange) abort() {
	for _, w := range c.opened {
		w.spool.Close()
	}
}

// openSpools opens those that do not run yet.
func (p *process) openSpools(rt *Runtime) (*spoolChange, error) {
	c := &spoolChange{next: map[string]*watched{}}
	for _, name := range byName(rt.cfg.Endpoints) {
		dir := rt.cfg.spool(name)
		if dir == "" {
			continue
		}
		if running := p.spools[dir]; running != nil && running.endpoint == name {
			c.next[dir] = running
			continue
		}
		s, err := spool.Open(spool.Config{
			Dir: dir, Limit: maxCMPMessage, Clock: p.clock, Log: p.log.With("endpoint", name),
			Process: func(ctx context.Context, request []byte) ([]byte, error) { return p.processSpooled(ctx, name, request) },
		})
		if err != nil {
			c.abort()
			return nil, rt.cfg.fault(at("endpoints", name, "cmp", "files", "spool"), "%v", err)
		}
		w := &watched{spool: s, endpoint: name}
		c.next[dir], c.opened = w, append(c.opened, w)
	}
	return c, nil
}

// watchSpools runs what was opened, and ends what is not wanted any more.
func (p *process) watchSpools(c *spoolChange) {
	for dir, w := range p.spools {
		if c.next[dir] != w {
			w.stop()
		}
	}
	for _, w := range c.opened {
		ctx, stop := context.WithCancel(p.life)
		w.stop = stop
		p.work.Go(func() {
			defer w.spool.Close()
			w.spool.Run(ctx)
		})
	}
	p.spools = maps.Clone(c.next)
}

// processSpooled answers a file of a spool.
func (p *process) processSpooled(ctx context.Context, endpoint string, request []byte) ([]byte, error) {
	return fitToCarry(p.processCMP(ctx, endpoint, request))
}

// fitToCarry has a "not now" tried again, by an error that wraps spool.ErrLater: it is nothing that somebody should carry away.
// Other errors are in words for who put the file there.
func fitToCarry(answer []byte, err error) ([]byte, error) {
	if e, ok := errors.AsType[*gateway.Error](err); ok {
		if e.Reason == gateway.Unavailable || e.Reason == gateway.Busy || errors.Is(e, gateway.ErrNotFound) { // a reload may just have taken the endpoint away
			return nil, fmt.Errorf("%w: %w", spool.ErrLater, err)
		}
		if e.Detail != "" {
			return nil, errors.New(e.Detail)
		}
	}
	if err != nil {
		return nil, err
	}
	m, err := cmpmsg.Parse(answer)
	if err != nil {
		return nil, err
	}
	if why, later := notNow(m); later {
		return nil, fmt.Errorf("%w: %s", spool.ErrLater, why)
	}
	return answer, nil
}

// notNow reports whether an answer says systemUnavail, and in which words; that of a batch, whether one in it does: all of it is
// tried again then, and what was answered before gets the same answer.
func notNow(m *cmpmsg.Message) (why string, later bool) {
	if b, ok := m.Body.(*cmpmsg.Nested); ok {
		for i, der := range b.Messages {
			if one, _ := cmpmsg.Parse(der); one != nil {
				if why, later := notNow(one); later {
					return fmt.Sprintf("number %d of the batch: %s", i+1, why), true
				}
			}
		}
	}
	if s := answerStatus(m); s != nil && s.FailInfo&cmpmsg.SystemUnavail != 0 {
		return strings.Join(s.Text, ": "), true
	}
	return "", false
}
