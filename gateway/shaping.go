package gateway

import (
	"bytes"
	"context"
	"crypto/x509"
	x509pkix "crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/plugins/backend"
)

// shape makes the grant what its profile says, and lints it before anybody signs it. What it did is kept beside the
// verdicts of the stages.
func (g *Gateway) shape(ctx context.Context, rt *Runtime, d *decision) *Error {
	p := d.grant.profile
	if p.Shaper == nil && p.Linter == nil && d.grant.Registration == nil && p.Jitter == 0 {
		return nil
	}
	start := g.now()
	err := g.shapeBy(ctx, rt, p, d)
	j := Judged{Stage: "profile", Decision: Allow, Note: p.Name, Took: g.now().Sub(start)}
	if err != nil {
		j.Decision, j.Reason, j.Note = Deny, err.Reason, cut(cause(err, ""), maxNote)
		if err.Reason == Unavailable {
			j.Decision = CannotAnswer
		}
	}
	if err == nil {
		j.Note += d.grant.jitterNote()
	}
	d.trail = append(d.trail, j)
	return err
}

func (g *Gateway) shapeBy(ctx context.Context, rt *Runtime, p *Profile, d *decision) *Error {
	if p.Shaper != nil {
		if _, err := shielded(g, func() (struct{}, error) { return struct{}{}, p.Shaper.Shape(d.request, d.grant) }); err != nil {
			return AsError(err)
		}
	}
	if err := d.grant.certifyRegistered(); err != nil {
		return err
	}
	if err := g.provided(ctx, rt, d.grant); err != nil {
		return err
	}
	return g.lintBefore(ctx, rt, p, d.grant.Backend, d.grant.Issuer, templateOf(d.grant))
}

// lintBefore lints what a CA would be asked to certify.
func (g *Gateway) lintBefore(ctx context.Context, rt *Runtime, p *Profile, backendName, issuer string, tmpl *backend.Template) *Error {
	if p.Linter == nil {
		return nil
	}
	cas := rt.authorities[backendName]
	if cas == nil {
		return Errorf(Internal, "", "the grant names the backend %q, which is not configured", backendName)
	}
	certs, err := cas.certificates(ctx, issuer)
	if err != nil {
		return unavailable("the CA cannot be reached", err)
	}
	_, err = shielded(g, func() (struct{}, error) { return struct{}{}, p.Linter.Before(tmpl, certs[0]) })
	if err != nil {
		return Errorf(BadTemplate, cut("the certificate would break its rules: "+err.Error(), maxShown), "profile %s, lint before issuing: %w", p.Name, err)
	}
	return nil
}

// lintAfter lints what the CA made. It answers no more than compare does: what fails is revoked.
func (g *Gateway) lintAfter(t *Transaction, leaf *x509.Certificate) error {
	e := g.runtime.Load().Endpoints[t.Endpoint]
	if e == nil {
		return nil // no longer configured; the intent was linted when it was
	}
	p := e.offers(t.Profile)
	if p == nil || p.Linter == nil {
		return nil
	}
	if err := p.Linter.After(leaf); err != nil {
		return fmt.Errorf("lint after issuing: %w", err)
	}
	return nil
}

// templateOf is what the CA will be asked to certify.
func templateOf(gr *Grant) *backend.Template {
	return &backend.Template{
		Subject: gr.Subject, SubjectAltName: gr.SubjectAltName, PublicKey: gr.PublicKey,
		NotBefore: gr.NotBefore, NotAfter: gr.NotAfter, KeyUsage: gr.KeyUsage, ExtKeyUsage: gr.ExtKeyUsage,
		Extensions: gr.Extensions,
	}
}

// changesOf lists what is granted otherwise than it was asked for, a line each.
func changesOf(r *Request, gr *Grant) []string {
	var lines []string
	change := func(what, asked, granted string) {
		lines = append(lines, cut(fmt.Sprintf("%s: asked for %s, granted %s", what, asked, granted), maxShown))
	}
	if !bytes.Equal(r.Subject, gr.Subject) {
		change("subject", shownName(r.Subject), shownName(gr.Subject))
	}
	if san, _ := r.Extension(oidSubjectAltName); !bytes.Equal(san, gr.SubjectAltName) {
		change("subjectAltName", shownSAN(san), shownSAN(gr.SubjectAltName))
	}
	if at := r.Validity.NotBefore; !at.IsZero() && !at.Equal(gr.NotBefore) {
		change("notBefore", at.UTC().Format(time.RFC3339), gr.NotBefore.UTC().Format(time.RFC3339))
	}
	if at := r.Validity.NotAfter; !at.IsZero() && !at.Equal(gr.NotAfter) {
		change("notAfter", at.UTC().Format(time.RFC3339), gr.NotAfter.UTC().Format(time.RFC3339))
	}
	for _, e := range r.Extensions {
		switch {
		case e.Id.Equal(oidSubjectAltName):
		case e.Id.Equal(oidKeyUsage):
			if usage, ok := keyUsageOf(e.Value); !ok || usage != gr.KeyUsage {
				change("keyUsage", keyUsageNames(usage), keyUsageNames(gr.KeyUsage))
			}
		case e.Id.Equal(oidExtKeyUsage):
			if asked, err := parseOIDs(e.Value); err != nil || !sameOIDs(asked, gr.ExtKeyUsage) {
				change("extKeyUsage", oidList(asked), oidList(gr.ExtKeyUsage))
			}
		default:
			granted := slices.ContainsFunc(gr.Extensions, func(x x509pkix.Extension) bool { return x.Id.Equal(e.Id) && bytes.Equal(x.Value, e.Value) })
			if !granted {
				lines = append(lines, "extension "+e.Id.String()+": asked for, left out")
			}
		}
		if len(lines) >= maxChanges {
			return append(lines, "and more")
		}
	}
	return lines
}

// maxChanges bounds the lines: a stranger may ask for as many extensions as a message holds.
const maxChanges = 16

func shownName(der []byte) string {
	if der == nil {
		return "none"
	}
	return nameOf(der)
}

func shownSAN(der []byte) string {
	if der == nil {
		return "none"
	}
	names, err := pkix.ParseGeneralNames(der)
	if err != nil {
		return "(malformed)"
	}
	return strings.Join(names.List(), " ")
}

func oidList(ids []asn1.ObjectIdentifier) string {
	if len(ids) == 0 {
		return "none"
	}
	s := ""
	for i, id := range ids {
		if i > 0 {
			s += " "
		}
		s += purposeName(id)
	}
	return s
}

// holdOf is the record of a hold that begins.
func holdOf(out *ruling, gr *Grant, now time.Time) *HoldRecord {
	return &HoldRecord{
		Stage: out.stage, Approvers: max(out.Terms.Approvers, 1), Until: now.Add(orDefault(out.Terms.Expires, DefaultHold)), Basis: basisOf(gr),
	}
}
