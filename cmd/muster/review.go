package main

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway/serve"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// review collects what is wrong with a configuration, as far as that can be told without reading other files.
type review struct {
	c    *Config
	errs []error
}

func (f *review) fail(path []string, format string, args ...any) {
	f.errs = append(f.errs, f.c.fault(path, format, args...))
}

func at(path ...string) []string { return path }

// byName lists keys in order, so that errors are the same each time.
func byName[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func (f *review) listeners() {
	if len(f.c.Listeners) == 0 {
		f.fail(at("listeners"), "there is none: devices could not reach anything")
	}
	addresses := map[string]string{}
	for _, name := range byName(f.c.Listeners) {
		l := f.c.Listeners[name]
		if err := l.Check(); err != nil {
			key, _, _ := strings.Cut(err.Error(), " ")
			f.fail(append(at("listeners", name), strings.Split(strings.TrimSuffix(key, ":"), ".")...), "%v", err)
			f.errs[len(f.errs)-1].(*strictyaml.Error).Path = "listeners." + name
			continue
		}
		if other, taken := addresses[l.Address]; taken && !strings.HasSuffix(l.Address, ":0") {
			f.fail(at("listeners", name, "address"), "%s is listener %s's already", l.Address, other)
		}
		addresses[l.Address] = name
	}
	if m := f.c.Metrics; m != nil {
		for i, l := range m.Listeners {
			f.known(at("metrics", "listeners", fmt.Sprint(i)), "listener", l, f.c.Listeners)
		}
	}
	if d := f.c.Distribution; d != nil {
		for i, l := range d.Listeners {
			f.known(at("distribution", "listeners", fmt.Sprint(i)), "listener", l, f.c.Listeners)
		}
	}
}

// known checks that a name is a key of m, whose values are what is meant.
func known[V any](f *review, path []string, what, name string, m map[string]V) bool {
	if _, ok := m[name]; ok {
		return true
	}
	f.fail(path, "there is no %s %q%s", what, name, strictyaml.Suggest(name, byName(m)))
	return false
}

func (f *review) known(path []string, what, name string, m map[string]*serve.Listener) bool {
	return known(f, path, what, name, m)
}

func (f *review) store() {
	path, sqlite := strings.CutPrefix(f.c.Store, "sqlite:")
	postgres := f.c.storeIsShared()
	switch {
	case sqlite && path == "":
		f.fail(at("store"), "sqlite: needs a path, e.g. sqlite:muster.db")
	case !sqlite && !postgres:
		f.fail(at("store"), "want sqlite:PATH or postgres://USER@HOST/DATABASE")
	}
}

func (f *review) backends() {
	if len(f.c.Backends) == 0 {
		f.fail(at("backends"), "there is none: nothing could issue a certificate")
	}
	for _, name := range byName(f.c.Backends) {
		b, path := f.c.Backends[name], at("backends", name)
		if !strings.Contains(b.Plugin, "/") {
			shipped, ok := shippedBackends()[b.Plugin]
			if !ok {
				f.fail(append(path, "plugin"), "%q is not shipped with muster%s; a plugin of your own is given by its path",
					b.Plugin, strictyaml.Suggest(b.Plugin, byName(shippedBackends())))
				continue
			}
			if b.SHA256 != "" {
				f.fail(append(path, "sha256"), "%q is part of this program: leave the hash out", b.Plugin)
			}
			config, lines, err := f.c.backendConfig(name)
			if err != nil {
				f.errs = append(f.errs, err)
				continue
			}
			if err := shipped.validate(config); err != nil {
				f.errs = append(f.errs, lines.place(f.c, at("backends", name, "config"), err)...)
			}
			continue
		}
		if sum, err := hex.DecodeString(b.SHA256); err != nil || len(sum) != 32 {
			f.fail(append(path, "sha256"), "%s needs its hash, 64 hexadecimal digits: sha256sum %s", b.Plugin, f.c.path(b.Plugin))
		}
	}
}

func (f *review) profiles() {
	for _, name := range byName(f.c.Profiles) {
		p, path := f.c.Profiles[name], at("profiles", name)
		known(f, append(path, "backend"), "backend", p.Backend, f.c.Backends)
		f.standby(name)
		if p.Validity < 0 || time.Duration(p.Validity) > maxValidity || p.Validity != 0 && time.Duration(p.Validity) < time.Minute {
			f.fail(append(path, "validity"), "want 1m to %s", strictyaml.Duration(maxValidity))
		}
		if validity := p.validity(); p.Jitter.Of(validity) > validity/2 {
			f.fail(append(path, "jitter"), "%s is more than half of the validity of %s: certificates would be too short", p.Jitter, strictyaml.Duration(validity))
		}
		if time.Duration(p.Backdate) > maxBackdate {
			f.fail(append(path, "backdate"), "at most 1d")
		}
		if _, err := parseKeyUsage(p.KeyUsage); err != nil {
			f.fail(append(path, "key-usage"), "%v", err)
		}
		if _, err := parseExtKeyUsage(p.ExtKeyUsage); err != nil {
			f.fail(append(path, "ext-key-usage"), "%v", err)
		}
		f.content(name)
	}
}

// serverCertificate fills in the backend that certifies the gateway itself.
func (f *review) serverCertificate() {
	needed := ""
	for _, name := range byName(f.c.Listeners) {
		if f.c.Listeners[name].TLS.SelfManaged() {
			needed = name
			break
		}
	}
	remote := f.c.Admin != nil && f.c.Admin.TLS == nil
	s := f.c.ServerCertificate
	if s == nil {
		if needed == "" && !remote {
			return
		}
		s = &ServerCertificate{}
		f.c.ServerCertificate = s
	}
	if s.Backend == "" {
		var local []string
		for _, name := range byName(f.c.Backends) {
			if f.c.Backends[name].Plugin == "local" {
				local = append(local, name)
			}
		}
		if len(local) != 1 {
			path := at("server-certificate")
			if needed != "" {
				path = at("listeners", needed, "tls")
			} else if remote {
				path = at("admin")
			}
			f.fail(path, "the gateway needs a certificate of its own, and no backend is named that issues it: give the listener tls.cert and tls.key, or name one by server-certificate: {backend: NAME}")
			return
		}
		s.Backend = local[0]
	} else {
		known(f, at("server-certificate", "backend"), "backend", s.Backend, f.c.Backends)
	}
	if s.Validity == 0 {
		s.Validity = strictyaml.Duration(defaultServerValidity)
	}
	if v := time.Duration(s.Validity); v < time.Hour || v > maxValidity {
		f.fail(at("server-certificate", "validity"), "want 1h to %s", strictyaml.Duration(maxValidity))
	}
	for i, n := range s.Names {
		if got := serve.NamesOf("", nil, []string{n}); len(got.DNS)+len(got.IP) != 4 {
			f.fail(at("server-certificate", "names", fmt.Sprint(i)), "%q is neither a host name nor an address, or is in the certificate anyway", n)
		}
	}
}
