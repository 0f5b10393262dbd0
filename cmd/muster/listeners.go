package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/serve"
	"github.com/muster-pki/muster/protocols/cms"
)

// makeListeners makes what each listener serves.
func (p *process) makeListeners(rt *Runtime) (map[string]serve.Spec, error) {
	specs, own := map[string]serve.Spec{}, p.stapler(rt).Certificate
	for _, name := range byName(rt.cfg.Listeners) {
		l := rt.cfg.Listeners[name]
		spec := serve.Spec{Address: l.Address, Connections: l.Connections, PerAddress: l.PerAddress}
		clients, err := rt.cfg.clients(name, p.clock, p.log)
		if err != nil {
			return nil, err
		}
		spec.Proxies = clients.Networks()
		if l.TLS != nil {
			cas, err := rt.advertised(name)
			if err != nil {
				return nil, err
			}
			if len(cas) > 0 {
				cas = append(cas, clients.CAs()...)
			}
			if spec.TLS, err = l.TLS.Policy(rt.cfg.dir, own, cas, p.clock); err != nil {
				return nil, rt.cfg.fault(at("listeners", name, "tls"), "%v", err)
			}
		}
		router := echo.New()
		router.Logger.SetOutput(io.Discard)
		for _, protocol := range protocols {
			if err := p.register(rt, protocol, name, router); err != nil {
				return nil, err
			}
		}
		if m := rt.cfg.Metrics; m != nil && slices.Contains(m.Listeners, name) {
			router.GET("/metrics", echo.WrapHandler(promhttp.HandlerFor(p.registry, promhttp.HandlerOpts{})))
		}
		var handler http.Handler = router
		if d := rt.cfg.Distribution; d != nil && slices.Contains(d.Listeners, name) {
			handler = (&serve.Distribution{
				Publisher: rt.answers, CertsOnly: cms.CertsOnly, Clock: p.clock, Log: p.log.With("listener", name),
			}).Handler(router)
		}
		spec.Handler = rt.underway.counted(clients.Handler(serve.Health(p.ready, p.log.With("listener", name), rt.traced(name, handler))))
		specs[name] = spec
	}
	return specs, p.addAdmin(rt.cfg, specs)
}

// stapler sends OCSP answers with the gateway's own TLS certificate, where that names a responder.
func (p *process) stapler(rt *Runtime) *serve.Stapler {
	return &serve.Stapler{Own: p.own.Certificate, Clock: p.clock, Log: p.log, OCSP: func(ctx context.Context, request []byte) ([]byte, *gateway.OCSPInfo, error) {
		s := rt.cfg.ServerCertificate
		return rt.answers.OCSP(ctx, s.Backend, s.Issuer, request)
	}}
}

// unopened says where the configuration has the listener that cannot be opened.
func (c *Config) unopened(err error) error {
	e, ok := errors.AsType[*serve.ListenError](err)
	if !ok {
		return err
	}
	path := at("listeners", e.Listener, "address")
	if e.Listener == adminListener {
		path = at("admin", "address")
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return c.fault(path, "%v: another program listens there, or this gateway itself until the change is made (take another port in between); stop it, or choose another address here, or by --http and --https", e.Err)
	}
	return c.fault(path, "%v", e.Err)
}

// clients says who the clients of a listener are that come through its proxies.
func (c *Config) clients(listener string, clock func() time.Time, log *slog.Logger) (*serve.Clients, error) {
	made, err := c.Listeners[listener].Clients(c.dir, listener, clock, log)
	if err != nil {
		key, what, _ := strings.Cut(err.Error(), ": ")
		return nil, c.fault(append(at("listeners", listener), strings.Split(key, ".")...), "%s", what)
	}
	return made, nil
}

// warnOfEnds tells which certificates of the operator's own end soon, or have ended: the gateway renews none but those that it had issued
// for itself.
func (p *process) warnOfEnds(rt *Runtime) {
	for _, name := range byName(rt.specs) {
		policy := rt.specs[name].TLS
		if policy == nil || len(policy.Certificates) == 0 {
			continue
		}
		leaf := leafOf(&policy.Certificates[0])
		if left := leaf.NotAfter.Sub(p.clock()); left < endsSoon(leaf) {
			p.log.Warn("a listener's TLS certificate ends soon, or has ended: replace tls.cert and tls.key, then have the configuration read again (muster reload)", "listener", name,
				"not-after", leaf.NotAfter.UTC().Format(time.RFC3339), "subject", leaf.Subject.String())
		}
	}
}

// endsSoon is how long before its end a certificate is worth a warning: a fifth of its life, 30 days at most. Who replaces it when a third is
// left hears nothing.
func endsSoon(c *x509.Certificate) time.Duration {
	return min(c.NotAfter.Sub(c.NotBefore)/5, 30*24*time.Hour)
}

// register serves a protocol's endpoints on one listener. A default belongs to its listener, so each has a handler.
// EST has one on every listener: who sends a password to one without TLS is told so.
func (p *process) register(rt *Runtime, protocol protocol, listener string, router *echo.Echo) error {
	var all []served
	for _, name := range byName(rt.cfg.Endpoints) {
		if e := rt.cfg.Endpoints[name]; e.Protocol == protocol.name && slices.Contains(e.Listeners, listener) {
			all = append(all, served{name, e})
		}
	}
	if len(all) == 0 && protocol.name != gateway.EST {
		return nil
	}
	h, err := protocol.make(p.adapterDeps(rt), all)
	if err != nil {
		return err
	}
	h.Register(router, func(endpoint string) bool { return slices.Contains(rt.cfg.Endpoints[endpoint].Listeners, listener) })
	return nil
}

func (p *process) adapterDeps(rt *Runtime) adapterDeps {
	return adapterDeps{
		gateway: rt.answers, answered: p.answered, secret: rt.sealer.Derive, clock: p.clock, log: p.log,
		identity: func(endpoint string) *gateway.Identity {
			if now := rt.identities[endpoint]; now != nil {
				return now()
			}
			return nil
		},
	}
}

// anchored is a stage that knows the CAs of the certificates it looks at.
type anchored interface{ Anchors() []*x509.Certificate }

// advertised are the CAs that a listener's TLS names to clients: those of our own certificates, and those that the
// stages trust. None, which means any (RFC 8446 section 4.2.4), when a stage reads certificates of CAs it does not tell.
func (rt *Runtime) advertised(listener string) ([]*x509.Certificate, error) {
	var cas []*x509.Certificate
	anyCA := false
	for _, name := range byName(rt.cfg.Endpoints) {
		e := rt.cfg.Endpoints[name]
		// The other protocols authenticate their messages, whoever's TLS they come through.
		if s, _ := spoken(e.Protocol); !slices.Contains(e.Listeners, listener) || !slices.Contains(s.carries, gateway.CredentialTLS) {
			continue
		}
		for _, p := range rt.gateway.Endpoints[name].Pipelines {
			p.Stages(func(s gateway.Stage) {
				r, ok := s.(interface {
					Credentials() []gateway.CredentialKind
				})
				if !ok || !slices.Contains(r.Credentials(), gateway.CredentialTLS) || s.Name() == "own-certificate" {
					return
				}
				if a, ok := s.(anchored); ok {
					cas = append(cas, a.Anchors()...)
				} else {
					anyCA = true
				}
			})
		}
		for _, profile := range e.offered() {
			for _, one := range rt.cfg.Profiles[profile].each() {
				for _, ca := range rt.cas[one.Backend] {
					for _, der := range append(slices.Clone(ca.Chain), ca.Rollover...) {
						c, err := x509.ParseCertificate(der)
						if err != nil {
							return nil, fmt.Errorf("CA %s: %w", ca.Name, err)
						}
						cas = append(cas, c)
					}
				}
			}
		}
	}
	if anyCA {
		return nil, nil
	}
	return cas, nil
}

// ready is /readyz: the gateway can record, and of each profile's CAs one can issue.
func (p *process) ready(ctx context.Context) error {
	if p.ending.Err() != nil {
		return &serve.NotReady{Words: "it is stopping", Err: serve.ErrStopping}
	}
	var errs []error
	if err := p.gateway.Ready(ctx); err != nil {
		errs = append(errs, &serve.NotReady{Words: "requests cannot be recorded", Err: err})
	}
	if rt := p.runtime.Load(); rt != nil {
		for _, err := range p.unable(rt) {
			errs = append(errs, &serve.NotReady{Words: "a CA cannot issue", Err: err})
		}
	} else {
		errs = append(errs, &serve.NotReady{Words: "it is starting", Err: errors.New("no configuration is in force yet")})
	}
	return errors.Join(errs...)
}
