package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
	"github.com/muster-pki/muster/protocols/cmp"
)

// inquire asks the backends what they can do and refuses what they cannot. One whose CA does not answer is known as it was last heard
// (Runtime.recalled), and silent.
func (rt *Runtime) inquire(ctx context.Context, now time.Time) error {
	var errs []error
	described := map[string]*backend.Description{}
	told := rt.ask(ctx, now)
	for _, name := range byName(rt.plugins) {
		if err := told[name].err; err != nil {
			errs = append(errs, rt.cfg.fault(at("backends", name), "%v", err))
			continue
		}
		described[name], rt.cas[name] = rt.plugins[name].plugin.Description(), told[name].cas
		if s := told[name].silent; s != nil {
			rt.silence.begins(name, s)
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	for _, name := range byName(rt.cfg.Profiles) {
		for i, p := range rt.cfg.Profiles[name].each() {
			path := atCA(name, i)
			if passesOnly(described[p.Backend]) && p.Issuer == "" { // what it has to certify is the endpoints' to say
				continue
			}
			if err := rt.issuer(append(path, "issuer"), p.Backend, p.Issuer); err != nil {
				errs = append(errs, err)
			}
			if err := certifies(described[p.Backend], p); err != nil {
				errs = append(errs, rt.cfg.fault(path, "%v", err))
			}
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	for _, name := range byName(rt.cfg.Endpoints) {
		if err := rt.passesOn(name, described); err != nil {
			errs = append(errs, err)
		}
		for _, profile := range rt.cfg.Endpoints[name].offered() {
			if err := errors.Join(rt.suits(name, profile, described), rt.suitsMEF(name, profile), rt.constrained(name, profile)); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(append(errs, rt.certifiesUs(described))...)
}

// certifiesUs reports why the backend of the gateway's own TLS certificate cannot issue it.
func (rt *Runtime) certifiesUs(described map[string]*backend.Description) error {
	s := rt.cfg.ServerCertificate
	if s == nil {
		return nil
	}
	err := rt.issuer(at("server-certificate", "issuer"), s.Backend, s.Issuer)
	if cannot := certifies(described[s.Backend], &ProfileConfig{Backend: s.Backend}); cannot != nil {
		err = errors.Join(err, rt.cfg.fault(at("server-certificate"), "%v", cannot))
	}
	return err
}

func (rt *Runtime) issuer(path []string, backendName, issuer string) error {
	var names []string
	for _, ca := range rt.cas[backendName] {
		names = append(names, ca.Name)
	}
	if issuer == "" && len(names) > 0 || slices.Contains(names, issuer) {
		return nil
	}
	return rt.cfg.fault(path, "backend %s has no CA %q%s", backendName, issuer, strictyaml.Suggest(issuer, names))
}

// certifies reports why the backend cannot issue what the profile says.
func certifies(d *backend.Description, p *ProfileConfig) error {
	if slices.Contains(d.Forms, backend.FormTemplate) {
		return nil
	}
	if !slices.Contains(d.Forms, backend.FormPKCS10) {
		return fmt.Errorf("backend %s (%s) certifies neither templates nor PKCS#10 requests: name another backend", p.Backend, d.Name)
	}
	var missing []string
	for _, f := range p.overrides() {
		bound := f == backend.FieldValidity || f == backend.FieldKeyUsage || f == backend.FieldExtKeyUsage // for which a profile's say is a limit
		if !slices.Contains(d.Overrides, f) && !(bound && slices.Contains(d.Decides, f)) {
			missing = append(missing, string(f))
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("backend %s (%s) certifies a PKCS#10 request as it stands and cannot set %s, which this profile decides: %s",
			p.Backend, d.Name, strings.Join(missing, ", "), wayOut(missing))
	}
	return nil
}

// wayOut says what can be done about fields that a profile decides and a CA does not set.
func wayOut(missing []string) string {
	way := "name a backend that takes templates, or one that overrides these"
	for _, f := range missing {
		if f == string(backend.FieldSubject) || f == string(backend.FieldSubjectAltName) {
			return "leave its subject and san to the request (names are what devices ask for then, and a stage `names` says which they may), " + way
		}
	}
	return way
}

// templatesHere lists the bodies without a PKCS#10 request, of those that a CMP endpoint takes, that are answered with a certificate of
// the profile's CA.
func (c *Config) templatesHere(e *EndpointConfig) (bodies []string) {
	for _, op := range gateway.Certifying {
		if _, given := e.stages(op); !given || c.forwardsTo(e, op) != "" {
			continue
		}
		for _, b := range section(e.CMP).TakesFor(op) {
			if b != cmp.BodyP10CR && !slices.Contains(bodies, string(b)) {
				bodies = append(bodies, string(b))
			}
		}
	}
	return bodies
}

// suits reports why an endpoint's protocol cannot be served with the CAs of a profile that it offers.
func (rt *Runtime) suits(name, profileName string, described map[string]*backend.Description) error {
	return rt.cfg.Profiles[profileName].forEach(func(one *ProfileConfig) error { return rt.suitsCA(name, profileName, one, described) })
}

// suitsCA reports it of one of them, which profile names (ProfileConfig.each).
func (rt *Runtime) suitsCA(name, profileName string, profile *ProfileConfig, described map[string]*backend.Description) error {
	e := rt.cfg.Endpoints[name]
	path := e.profilePath(name, profileName)
	d := described[profile.Backend]
	if rt.cfg.certifiesHere(e) && passesOnly(d) {
		return rt.cfg.fault(path, "backend %s (%s) passes messages on and certifies nothing itself: end each pipeline with the stage forward, or name another backend", profile.Backend, d.Name)
	}
	switch e.Protocol {
	case gateway.EST:
		return rt.supersedes(name, d)
	case gateway.CMP:
		here := rt.cfg.certifiesHere(e)
		if crmf := rt.cfg.templatesHere(e); len(crmf) > 0 && !slices.Contains(d.Forms, backend.FormTemplate) {
			return rt.cfg.fault(path, "backend %s (%s) certifies PKCS#10 requests only, and CMP's %s are none, nor can they be made into one: "+
				"say `cmp: {bodies: [p10cr]}` to take PKCS#10 requests alone, renewals too, or name a backend that takes templates", profile.Backend, d.Name, strings.Join(crmf, ", "))
		}
		if here && !slices.Contains(d.Capabilities, backend.CapRevoke) && section(e.CMP).Unconfirmed != cmp.UnconfirmedKeep {
			return rt.cfg.fault(at("endpoints", name), "backend %s (%s) cannot revoke, and a certificate that its device does not confirm has to be revoked: "+
				"say `cmp: {unconfirmed: keep}`, or name a backend that revokes", profile.Backend, d.Name)
		}
		if _, given := e.stages(gateway.Revoke); given && rt.cfg.forwardsTo(e, gateway.Revoke) == "" && !slices.Contains(d.Capabilities, backend.CapRevoke) {
			return rt.cfg.fault(at("endpoints", name, "revoke"), "backend %s (%s) cannot revoke: leave it out, or name a backend that revokes", profile.Backend, d.Name)
		}
	case gateway.SCEP:
		_, chain, err := issuerOf(rt.cas, profile.Backend, profile.Issuer)
		if err != nil {
			return rt.cfg.fault(path, "%v", err)
		}
		if rsaThroughout(chain) {
			return nil
		}
		var others []string
		for _, ca := range rt.cas[profile.Backend] {
			if _, chain, err := issuerOf(rt.cas, profile.Backend, ca.Name); err == nil && rsaThroughout(chain) {
				others = append(others, ca.Name)
			}
		}
		return rt.cfg.fault(path, "%s", notRSA(profileName, profile.Backend, others))
	}
	return nil
}
