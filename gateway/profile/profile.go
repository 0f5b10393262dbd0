// Package profile makes the content of a certificate what a profile says: subject and subjectAltName from templates over
// the device's inventory entry, the request, the certificate that authenticated it and what the operator's services said, and of what the request asks for
// beyond that only what may be asked for. cmd/muster makes a Shaper of a profile's configuration, the gateway calls it when
// the pipeline has allowed or held a request.
//
// It decides nothing about who may enrol. docs/profiles.md is its manual.
package profile

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
)

// Config is what a profile says about the content of its certificates. Without any key, subject and subjectAltName are as
// asked for, usages and dates the profile's.
type Config struct {
	// Subject is a name of RFC 4514 whose values are templates: "CN={{device.serial}},O=Operator". Default: as asked for.
	Subject *Subject `yaml:"subject"`
	// SAN are templates of the subjectAltName by kind: {dns: ["{{device.serial}}.ran.example"]}. Default: none where the
	// subject is a template, else as asked for.
	SAN *SAN `yaml:"san"`
	// RenewNames says what a renewal's names are: certificate (those of the certificate that is renewed, the default) or
	// template (made anew).
	RenewNames RenewNames `yaml:"renew-names"`
	// Ask says what may be asked for, part by part.
	Ask Ask `yaml:"ask"`
}

// IsZero reports whether nothing is said, so that everything is as asked for.
func (c Config) IsZero() bool { return reflect.ValueOf(c).IsZero() }

// RenewNames says where the names of a renewal come from.
type RenewNames string

const (
	RenewCertificate RenewNames = "certificate"
	RenewTemplate    RenewNames = "template"
)

// UnmarshalText reads one of the words.
func (r *RenewNames) UnmarshalText(text []byte) error {
	if *r = RenewNames(text); *r != RenewCertificate && *r != RenewTemplate {
		return fmt.Errorf("%q is not known (%s or %s)", text, RenewCertificate, RenewTemplate)
	}
	return nil
}

// Limits are the usages that may be asked for: those of the profile and Ask.Allowed together.
type Limits struct {
	KeyUsage    x509.KeyUsage
	ExtKeyUsage []asn1.ObjectIdentifier
}

// KeyError is a fault at a key of the configuration.
type KeyError struct {
	Path []string // below the profile
	Err  error
}

func (e *KeyError) Error() string { return strings.Join(e.Path, ".") + ": " + e.Err.Error() }
func (e *KeyError) Unwrap() error { return e.Err }

func keyError(err error, path ...string) error { return &KeyError{path, err} }

// Shaper is the gateway.Shaper of one profile. It never changes.
type Shaper struct {
	subject    *Subject // nil: as asked for, by the word
	san        []entry
	ask        Ask // with the words that stand for none
	renew      bool
	limits     Limits
	extensions []asn1.ObjectIdentifier // that may be asked for
}

// New makes a Shaper. The error joins *KeyError.
func New(c Config, l Limits) (*Shaper, error) {
	s := &Shaper{subject: c.Subject, ask: c.Ask, renew: c.RenewNames == RenewTemplate, limits: l}
	var errs []error
	if c.SAN != nil {
		var err error
		if s.san, err = c.SAN.entries(); err != nil {
			errs = append(errs, err)
		}
	}
	s.ask.Subject = c.Ask.Subject.or(s.subject != nil)
	s.ask.SAN = c.Ask.SAN.or(s.subject != nil || s.san != nil)
	for _, w := range []*Word{&s.ask.KeyUsage, &s.ask.ExtKeyUsage, &s.ask.Validity, &s.ask.Extensions} {
		*w = w.or(true)
	}
	errs = append(errs, s.checkNames(c), s.checkAsk())
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return s, nil
}

// checkNames refuses configurations in which no name, or no certificate to take one from, could ever stand.
func (s *Shaper) checkNames(c Config) error {
	var errs []error
	if s.renew && s.subject == nil && s.san == nil {
		errs = append(errs, keyError(errors.New("there is no template of subject or san to make names of"), "renew-names"))
	}
	if s.subject == nil && s.ask.Subject != Allow && s.ask.SAN != Allow && !s.sanSure() {
		errs = append(errs, keyError(fmt.Errorf("%s, and no name would remain: give the profile a subject, or san with a name that is not optional", s.ask.Subject), "ask", "subject"))
	}
	if s.subject != nil && !s.subject.sure() && !s.sanSure() {
		errs = append(errs, keyError(errors.New("all of it is optional, and so is san: no name might remain"), "subject"))
	}
	if !s.renew {
		for _, t := range s.templates() {
			if t.template.reads(originOld) {
				errs = append(errs, keyError(fmt.Errorf("%s reads the certificate that is renewed, and renewals keep its names: say `renew-names: template`", t.template), t.key))
			}
		}
	}
	return errors.Join(errs...)
}

type keyed struct {
	key      string
	template *Template
}

func (s *Shaper) templates() []keyed {
	var all []keyed
	if s.subject != nil {
		for _, t := range s.subject.templates() {
			all = append(all, keyed{"subject", t})
		}
	}
	for _, e := range s.san {
		all = append(all, keyed{"san", e.value})
	}
	return all
}

func (s *Shaper) sanSure() bool {
	return slices.ContainsFunc(s.san, func(e entry) bool { return e.value.sure() })
}

// DerivesSubject reports whether a request needs no subject.
func (s *Shaper) DerivesSubject() bool { return s.subject != nil || s.ask.Subject != Allow }

// NamesFromRequest reports whether names that the device asked for can come into the certificate, as they stand or by a
// template, so that a stage has to judge them.
func (s *Shaper) NamesFromRequest() bool {
	return s.ask.Subject == Allow || s.ask.SAN == Allow ||
		slices.ContainsFunc(s.templates(), func(t keyed) bool { return t.template.reads(originRequest) })
}

// ReadsAttributes lists the attributes that the templates read and cannot do without, each once: some service has to say them.
func (s *Shaper) ReadsAttributes() []string {
	var names []string
	for _, t := range s.templates() {
		for _, p := range t.template.parts {
			if p.action != nil && p.action.needs(originAttributes) && !slices.Contains(names, p.action.fields[0]) {
				names = append(names, p.action.fields[0])
			}
		}
	}
	return names
}

// SetsSubject reports whether a certificate's subject can be another than the one asked for.
func (s *Shaper) SetsSubject() bool { return s.DerivesSubject() }

// SetsSAN reports whether a certificate's subjectAltName can be another than the one asked for.
func (s *Shaper) SetsSAN() bool { return s.san != nil || s.ask.SAN == Replace }

// Shape makes the grant what the profile says. See gateway.Shaper.
func (s *Shaper) Shape(r *gateway.Request, g *gateway.Grant) error {
	if r.Operation == gateway.Enroll || s.renew {
		if err := s.shapeSubject(r, g); err != nil {
			return err
		}
		if err := s.shapeSAN(r, g); err != nil {
			return err
		}
		if isEmptyName(g.Subject) && len(g.SubjectAltName) == 0 {
			return gateway.Errorf(gateway.BadTemplate, "a subject or a subjectAltName is required", "profile %s: neither subject nor subjectAltName has a name", g.Profile)
		}
	}
	for _, shape := range []func(*gateway.Request, *gateway.Grant) error{s.shapeKeyUsage, s.shapeExtKeyUsage, s.shapeValidity, s.shapeExtensions} {
		if err := shape(r, g); err != nil {
			return err
		}
	}
	return nil
}

// A renewal asks for the old certificate's names, since its protocol says so: a template that makes others is no refusal.
func (s *Shaper) shapeSubject(r *gateway.Request, g *gateway.Grant) error {
	renewal := r.Operation != gateway.Enroll
	if renewal && s.subject == nil || s.ask.Subject == Allow && !renewal && (s.subject == nil || !isEmptyName(g.Subject)) {
		return nil
	}
	made := []byte{0x30, 0}
	if s.subject != nil {
		var err error
		if made, err = s.subject.make(&facts{r, g}); err != nil {
			return unnamed(g, "subject", err)
		}
	}
	if s.ask.Subject == Refuse && !renewal && !isEmptyName(r.Subject) && !pkix.SameName(r.Subject, made) {
		return gateway.Errorf(gateway.BadTemplate, "the subject is not the device's to choose: ask for "+subjectText(made),
			"profile %s refuses the subject %s: the profile says %s", g.Profile, subjectText(r.Subject), subjectText(made))
	}
	g.Subject = made
	return nil
}

func (s *Shaper) shapeSAN(r *gateway.Request, g *gateway.Grant) error {
	renewal := r.Operation != gateway.Enroll
	if renewal && s.san == nil && s.subject == nil || s.ask.SAN == Allow && (s.san == nil || !renewal && len(g.SubjectAltName) > 0) {
		return nil
	}
	made, err := makeSAN(s.san, &facts{r, g})
	if err != nil {
		return unnamed(g, "subjectAltName", err)
	}
	asked, has := r.Extension(oidSubjectAlt)
	if s.ask.SAN == Refuse && !renewal && has && !sameSAN(asked, made) {
		return gateway.Errorf(gateway.BadTemplate, "the subjectAltName is not the device's to choose: ask for "+sanText(made),
			"profile %s refuses the subjectAltName %s: the profile says %s", g.Profile, sanText(asked), sanText(made))
	}
	g.SubjectAltName = made
	return nil
}

// unnamed is the refusal of a request whose names cannot be made. What a device has sent itself, it is told.
func unnamed(g *gateway.Grant, what string, err error) error {
	detail, reason := "the names of this device cannot be made: ask its operator", gateway.NotAuthorized
	var v *valueError
	var t *textError
	if errors.As(err, &v) && v.action.origin == originRequest {
		detail, reason = "the request lacks what the certificate's "+what+" is made of: "+v.err.Error(), gateway.BadTemplate
	} else if errors.As(err, &t) && t.template.reads(originRequest) {
		detail, reason = "the request has what cannot stand in the certificate's "+what+": "+t.err.Error(), gateway.BadTemplate
	}
	return &gateway.Error{Reason: reason, Detail: detail, Err: fmt.Errorf("profile %s, %s: %w", g.Profile, what, err)}
}

// maxShown bounds names in messages, in bytes.
const maxShown = 256

func cut(s string) string {
	if len(s) <= maxShown {
		return s
	}
	return strings.ToValidUTF8(s[:maxShown], "") + "..."
}

// subjectText writes a subject for messages.
func subjectText(der []byte) string {
	if isEmptyName(der) {
		return "no subject"
	}
	return cut(pkix.FormatName(der))
}

// sanText writes a subjectAltName for messages.
func sanText(der []byte) string {
	if len(der) == 0 {
		return "no subjectAltName"
	}
	names, err := pkix.ParseGeneralNames(der)
	if err != nil {
		return "(malformed)"
	}
	return cut(strings.Join(names.List(), ", "))
}

// sameSAN reports whether two subjectAltNames have the same names, in any order.
func sameSAN(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	x, err := pkix.ParseGeneralNames(a)
	if err != nil || len(b) == 0 {
		return false
	}
	y, err := pkix.ParseGeneralNames(b)
	if err != nil || x.Other+y.Other > 0 {
		return false
	}
	one, other := x.List(), y.List()
	slices.Sort(one)
	slices.Sort(other)
	return slices.Equal(one, other)
}
