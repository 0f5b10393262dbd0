package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

func (f *review) endpoints() {
	defaults := map[string]string{} // protocol and listener -> endpoint
	for _, name := range byName(f.c.Endpoints) {
		e, path := f.c.Endpoints[name], at("endpoints", name)
		if name == selfEndpoint || strings.HasPrefix(name, selfPrefix) {
			f.fail(path, "the gateway uses this name for itself, and all that begin with %s: choose another", selfPrefix)
		}
		known(f, append(path, "profile"), "profile", e.Profile, f.c.Profiles)
		f.checkOffered(name)
		f.speaks(name, e)
		f.reach(name, e, defaults)
		f.mef(name, e)
		f.mefOthers(name, e)
		f.profileService(name, e)
		f.pipelines(name, e)
		if e.Repeat < 0 || time.Duration(e.Repeat) > maxRepeat {
			f.fail(append(path, "repeat"), "at most %s", strictyaml.Duration(maxRepeat))
		}
	}
}

// speaks checks the endpoint's protocol, and what stands there for one protocol only.
func (f *review) speaks(name string, e *EndpointConfig) {
	path := at("endpoints", name)
	p, ok := spoken(e.Protocol)
	if !ok {
		var all []string
		for _, p := range protocols {
			all = append(all, string(p.name))
		}
		f.fail(append(path, "protocol"), "%q is not spoken%s", e.Protocol, strictyaml.Suggest(string(e.Protocol), all))
		return
	}
	// The adapter judges name and section. It asks the gateway nothing before the first request.
	if err := p.check(name, e, nil); err != nil {
		f.fail(path, "%v", err)
	}
	for section, given := range map[gateway.Protocol]bool{gateway.CMP: e.CMP != nil, gateway.EST: e.EST != nil, gateway.SCEP: e.SCEP != nil, gateway.MDM: e.MDM != nil} {
		if given && section != e.Protocol {
			f.fail(append(path, string(section)), "the endpoint speaks %s: leave it out", e.Protocol)
		}
	}
	if e.RA != nil && !p.identity && !p.generates {
		f.fail(append(path, "ra"), "%s has no RA certificate: leave it out", p.title)
	}
	if e.Protocol != gateway.SCEP {
		return
	}
	for _, offered := range e.offered() {
		profile, path := f.c.Profiles[offered], e.profilePath(name, offered)
		if profile == nil {
			continue
		}
		if profile.withoutRSA() {
			f.fail(path, "profile %s certifies no RSA keys, and SCEP's clients have no others (answers are encrypted to them): add RSA>=2048 to its keys, or name another profile", offered)
		}
		// Other backends are asked when they run.
		for _, one := range profile.each() {
			if b := f.c.Backends[one.Backend]; b != nil {
				if s := shippedBackends()[b.Plugin]; s.notRSA(one.Issuer) {
					f.fail(path, "%s", notRSA(offered, one.Backend, s.rsa))
				}
			}
		}
	}
}

// notRSA says why an issuer is none for SCEP. rsa are the backend's that are.
func notRSA(profile, backend string, rsa []string) string {
	way := "name another backend"
	if len(rsa) > 0 {
		way = fmt.Sprintf("set `issuer: %s` in a profile of its own", rsa[0])
	}
	return fmt.Sprintf("SCEP's clients encrypt to RSA keys, and many fail where another kind stands in the CA's chain; that of profile %s, of backend %s, is not RSA throughout: %s",
		profile, backend, way)
}

// reach checks the endpoint's listeners.
func (f *review) reach(name string, e *EndpointConfig, defaults map[string]string) {
	path := at("endpoints", name)
	if len(e.Listeners) == 0 {
		f.fail(append(path, "listeners"), "there is none: devices could not reach it")
	}
	for i, l := range e.Listeners {
		here := append(slices.Clone(path), "listeners", fmt.Sprint(i))
		if !f.known(here, "listener", l, f.c.Listeners) {
			continue
		}
		if slices.Contains(e.Listeners[:i], l) {
			f.fail(here, "%q stands twice", l)
			continue
		}
		if e.Protocol == gateway.EST && !f.c.Listeners[l].Private() {
			f.fail(here, "listener %s has no TLS, and EST is served over HTTPS only (RFC 7030 section 3.3): give the listener `tls: {}`, or use another; where a proxy ends TLS in front of it, name that under `proxies`", l)
		}
		if e.Default {
			key := string(e.Protocol) + " " + l
			if other, taken := defaults[key]; taken {
				f.fail(append(slices.Clone(path), "default"), "endpoint %s is the default of listener %s already", other, l)
			}
			defaults[key] = name
		}
	}
}

// pipelines checks that something is allowed, and nothing that the protocol does not have.
func (f *review) pipelines(name string, e *EndpointConfig) {
	path := at("endpoints", name)
	stages := 0
	for _, op := range gateway.Operations {
		nodes, given := e.stages(op)
		if given && len(nodes) == 0 {
			f.fail(append(slices.Clone(path), string(op)), "the pipeline is empty: leave it out to deny the operation, or say who is allowed")
		}
		stages += len(nodes)
		if p, ok := spoken(e.Protocol); given && ok && !p.serves(op) {
			f.fail(append(slices.Clone(path), string(op)), "%s: leave it out", p.without(op))
		}
		if given && op.Certifies() && e.Protocol == gateway.CMP && len(section(e.CMP).TakesFor(op)) == 0 {
			f.fail(append(slices.Clone(path), string(op)), "none of the bodies that the endpoint takes (cmp: bodies) asks for that: leave it out, or add %s", bodiesFor(op))
		}
	}
	if stages == 0 {
		f.fail(path, "it allows nothing: give it a pipeline, e.g. enroll")
	}
}

// bodiesFor names the bodies of CMP by which the operation can be asked for.
func bodiesFor(op gateway.Operation) string {
	if op == gateway.Enroll {
		return "ir, cr or p10cr"
	}
	return "kur, or p10cr where kur is not taken"
}
