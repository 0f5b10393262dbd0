package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/muster-pki/muster/authz"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/lint"
	"github.com/muster-pki/muster/gateway/profile"
	"github.com/muster-pki/muster/plugins/backend"
)

// offered lists the profiles of an endpoint, its own first.
func (e *EndpointConfig) offered() []string {
	list := []string{e.Profile}
	for _, name := range e.Profiles {
		if !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	return list
}

// shaper makes what shapes the profile's grants, nil when all is as asked for.
func (p *ProfileConfig) shaper() (*profile.Shaper, error) {
	if p.Config.IsZero() {
		return nil, nil
	}
	var l profile.Limits
	usage, err := parseKeyUsage(p.KeyUsage)
	if err == nil {
		l.KeyUsage = usage
	}
	if l.ExtKeyUsage, err = parseExtKeyUsage(p.ExtKeyUsage); err != nil {
		l.ExtKeyUsage = nil // told at its own key
	}
	var errs []error
	if more := p.Ask.Allowed.KeyUsage; len(more) > 0 {
		usage, err := parseKeyUsage(more)
		if err != nil {
			errs = append(errs, &profile.KeyError{Path: at("ask", "allowed", "key-usage"), Err: err})
		}
		l.KeyUsage |= usage
	}
	if more := p.Ask.Allowed.ExtKeyUsage; len(more) > 0 {
		oids, err := parseExtKeyUsage(more)
		if err != nil {
			errs = append(errs, &profile.KeyError{Path: at("ask", "allowed", "ext-key-usage"), Err: err})
		}
		l.ExtKeyUsage = append(l.ExtKeyUsage, oids...)
	}
	s, err := profile.New(p.Config, l)
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	return s, nil
}

// content reviews what a profile says about the content of its certificates.
func (f *review) content(name string) {
	_, err := f.c.Profiles[name].shaper()
	for _, e := range keyErrors(err) {
		f.fail(append(at("profiles", name), e.Path...), "%v", e.Err)
	}
}

func keyErrors(err error) []*profile.KeyError {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []*profile.KeyError
		for _, e := range joined.Unwrap() {
			all = append(all, keyErrors(e)...)
		}
		return all
	}
	switch e := err.(type) {
	case nil:
		return nil
	case *profile.KeyError:
		return []*profile.KeyError{e}
	}
	return []*profile.KeyError{{Err: err}}
}

// furnish gives a profile its shaper and linter.
func (p *ProfileConfig) furnish(made *gateway.Profile) error {
	s, err := p.shaper()
	if err != nil {
		return err
	}
	if s != nil {
		made.Shaper = s
	}
	if l := lint.New(p.Lint); l != nil {
		made.Linter = l
	}
	return nil
}

// checkOffered reviews the list of an endpoint's further profiles.
func (f *review) checkOffered(name string) {
	e := f.c.Endpoints[name]
	for i, p := range e.Profiles {
		path := at("endpoints", name, "profiles", fmt.Sprint(i))
		if known(f, path, "profile", p, f.c.Profiles) && slices.Contains(e.Profiles[:i], p) {
			f.fail(path, "%q stands twice", p)
		}
	}
}

// profilePath is where an endpoint names a profile.
func (e *EndpointConfig) profilePath(endpoint, profile string) []string {
	if i := slices.Index(e.Profiles, profile); i >= 0 && profile != e.Profile {
		return at("endpoints", endpoint, "profiles", fmt.Sprint(i))
	}
	return at("endpoints", endpoint, "profile")
}

// unjudged says which profile of the endpoint certifies names that a device asks for, so that a stage has to judge them;
// "" when none does.
func (c *Config) unjudged(e *EndpointConfig) string {
	for _, name := range e.offered() {
		if s, err := c.Profiles[name].shaper(); err != nil || s == nil || s.NamesFromRequest() {
			return name
		}
	}
	return ""
}

// unjudgedNames is the fault of an enrollment with a way on which no stage judges the names. some: on another way one does.
func (c *Config) unjudgedNames(path []string, e *EndpointConfig, profile string, some bool) error {
	who, add := "no stage judges the names asked for", "add"
	if some {
		who, add = "there is a way through these stages on which none judges the names asked for", "to each branch of anyOf, or behind it, add"
	}
	add += " `- names: {device: subject.CN}` (the name of the device that authenticated) or `- names: {}` (any subject, no subjectAltName), or say there what is allowed"
	if s, err := c.Profiles[profile].shaper(); err == nil && s != nil {
		return c.fault(path, "%s, and profile %s certifies some of them: %s; or have it replace them (ask: {subject: replace, san: replace}, and no template that reads request)", who, profile, add)
	}
	return c.fault(path, "%s, so that whoever may enrol could enrol as anybody: %s, or give profile %s a subject of its own", who, add, profile)
}

// profileKeys is the key stage at the end of a certifying pipeline: the keys of the profile that was chosen.
type profileKeys map[string]*authz.Keys

func (profileKeys) Name() string { return "keys" }

func (s profileKeys) Decide(ctx context.Context, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	keys := s[g.Profile]
	if keys == nil {
		return gateway.Unanswered(fmt.Errorf("the endpoint does not offer the profile %q", g.Profile))
	}
	return keys.Decide(ctx, r, g)
}

// keyStage makes the key stage of an endpoint. judged: another stage says what proof of possession suffices, or has keys made.
func (c *Config) keyStage(e *EndpointConfig, judged bool) (gateway.Stage, error) {
	stages := profileKeys{}
	for _, name := range e.offered() {
		s, err := authz.NewProfileKeys(c.Profiles[name].Keys, judged)
		if err != nil {
			return nil, c.fault(at("profiles", name, "keys"), "%v", err)
		}
		stages[name] = s
	}
	return stages, nil
}

// overrides are the fields of a PKCS#10 that the gateway sets for the profile, whatever the CSR says.
func (p *ProfileConfig) overrides() []backend.Field {
	fields := []backend.Field{backend.FieldValidity, backend.FieldKeyUsage, backend.FieldExtKeyUsage}
	s, err := p.shaper()
	if err != nil || s == nil {
		return fields
	}
	if s.SetsSubject() {
		fields = append(fields, backend.FieldSubject)
	}
	if s.SetsSAN() {
		fields = append(fields, backend.FieldSubjectAltName)
	}
	return fields
}

// withoutRSA reports whether the profile certifies no RSA keys, which are all that SCEP clients have.
func (p *ProfileConfig) withoutRSA() bool {
	return len(p.Keys) > 0 && !slices.ContainsFunc(p.Keys, func(k string) bool { return strings.HasPrefix(k, "RSA") })
}
