package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// StandbyConfig is a CA that is asked while the profile's own cannot be: docs/routing.md. It is a backend's name, or {backend, issuer}.
type StandbyConfig struct {
	// Backend that issues then.
	Backend string `yaml:"backend,required"`
	// Issuer of the backend, for one that has several. Default: the backend's default.
	Issuer string `yaml:"issuer"`
}

// UnmarshalStrict reads either.
func (s *StandbyConfig) UnmarshalStrict(file string, n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		if n.Tag != "!!str" || n.Value == "" {
			return strictyaml.Errorf(file, n, "wants a backend's name, or {backend: NAME, issuer: NAME}")
		}
		s.Backend = n.Value
		return nil
	}
	type plain StandbyConfig
	return strictyaml.DecodeNode(file, n, (*plain)(s))
}

// standbys are the routes behind a profile's own.
func (p *ProfileConfig) standbys() []gateway.Route {
	var all []gateway.Route
	for _, s := range p.Standby {
		all = append(all, gateway.Route{Backend: s.Backend, Issuer: s.Issuer})
	}
	return all
}

// each is the profile as if each of its CAs were its only one, its own first.
func (p *ProfileConfig) each() []*ProfileConfig {
	all := []*ProfileConfig{p}
	for _, s := range p.Standby {
		one := *p
		one.Backend, one.Issuer, one.Standby = s.Backend, s.Issuer, nil
		all = append(all, &one)
	}
	return all
}

// standby reviews the CAs behind a profile's own.
func (f *review) standby(name string) {
	p := f.c.Profiles[name]
	for i, s := range p.Standby {
		path := at("profiles", name, "standby", fmt.Sprint(i))
		if !known(f, path, "backend", s.Backend, f.c.Backends) {
			continue
		}
		if s.Backend == p.Backend || slices.ContainsFunc(p.Standby[:i], func(o *StandbyConfig) bool { return o.Backend == s.Backend }) {
			f.fail(path, "%q stands before it already: what keeps a backend from issuing keeps all of its issuers from it", s.Backend)
		}
	}
}

// atCA is where a profile names the i-th of its CAs.
func atCA(profile string, i int) []string {
	if i == 0 {
		return at("profiles", profile)
	}
	return at("profiles", profile, "standby", fmt.Sprint(i-1))
}

// unable says of each profile that none of its CAs can issue now why not, and of backends that no profile has.
func (p *process) unable(rt *Runtime) []error {
	var errs []error
	named, told := map[string]bool{}, map[string]bool{}
	fault := func(name string, breaker bool) error {
		r := rt.plugins[name]
		if r == nil {
			return nil
		}
		err := r.plugin.Healthy()
		if err == nil && breaker {
			err = p.gateway.Fault(name)
		}
		return err
	}
	tell := func(name string, err error) {
		if !told[name] {
			told[name] = true
			errs = append(errs, fmt.Errorf("backend %s: %w", name, err))
		}
	}
	for _, profile := range byName(rt.cfg.Profiles) {
		all := rt.cfg.Profiles[profile].each()
		faults := map[string]error{}
		for _, one := range all {
			named[one.Backend] = true
			if err := fault(one.Backend, len(all) > 1); err != nil {
				faults[one.Backend] = err
			}
		}
		if len(faults) < len(all) {
			continue
		}
		for _, name := range byName(faults) {
			tell(name, faults[name])
		}
	}
	for _, name := range byName(rt.plugins) {
		if !named[name] && rt.silence.of(name) == nil { // whatever it is for besides was there when the gateway started
			if err := fault(name, false); err != nil {
				tell(name, err)
			}
		}
	}
	return errs
}

// faultOf is why a backend does not issue now, as far as this process knows; nil when nothing says so.
func (p *process) faultOf(r *running, name string) error {
	if err := r.plugin.Healthy(); err != nil {
		return err
	}
	return p.gateway.Fault(name)
}

// forEach joins what is said of each of a profile's CAs, what is said of several once.
func (p *ProfileConfig) forEach(of func(*ProfileConfig) error) error {
	var errs []error
	for _, one := range p.each() {
		err := of(one)
		if err != nil && !slices.ContainsFunc(errs, func(e error) bool { return e.Error() == err.Error() }) {
			errs = append(errs, err)
		}
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

// shownStandbys lists the CAs behind a profile's own, as the screens do.
func (p *ProfileConfig) shownStandbys() string {
	var list []string
	for _, s := range p.Standby {
		name := s.Backend
		if s.Issuer != "" {
			name += "/" + s.Issuer
		}
		list = append(list, name)
	}
	return strings.Join(list, ", ")
}
