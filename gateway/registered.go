package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/muster-pki/muster/gateway/pkix"
)

// Kinds of identifiers that oneM2M entities have (oneM2M TS-0001 clause 7.1), as the inventory names them.
const (
	KindCSEID  = "cse-id"  // of a CSE, in its public domain name form: cse1.in-cse.m2m.example.com
	KindAEID   = "ae-id"   // of an AE, in its absolute form: //m2m.example.com/S98821
	KindNodeID = "node-id" // of a node, as the operator writes it
)

// checkRegistered says what is wrong with a oneM2M identifier in an entry of the inventory: each stands there as certificates name
// it, since a form relative to a service provider or to a CSE (/cse1, C01) is another entity elsewhere.
func checkRegistered(kind, value string) error {
	switch kind {
	case KindCSEID:
		if !pkix.IsHostName(value) || strings.Count(value, ".") < 2 {
			return errors.New("a CSE-ID stands here as the CSE's public domain name, CSE.IN-CSE.PROVIDER: cse1.in-cse.m2m.example.com; not /cse1, nor //m2m.example.com/cse1, and without wildcard")
		}
	case KindAEID:
		if m := absoluteAEID.FindStringSubmatch(value); m == nil || !pkix.IsHostName(m[1]) {
			return errors.New("an AE-ID stands here in its absolute form, //PROVIDER/AE or //PROVIDER/CSE/AE: //m2m.example.com/S98821; not S98821, nor /cse1/C01, and without scheme")
		}
	case KindNodeID:
		if !nodeID.MatchString(value) {
			return errors.New("a Node-ID has letters, digits and the signs of a URI, neither space nor wildcard: 490154203237518, or urn:gsma:imei:49015420-323751-8")
		}
	}
	return nil
}

var (
	// oneM2M TS-0001 clause 7.2: AE-ID-Stems and CSE-IDs are of the unreserved characters of RFC 3986.
	absoluteAEID = regexp.MustCompile(`^//([A-Za-z0-9.-]+)(?:/[A-Za-z0-9._~-]+){1,2}$`)
	nodeID       = regexp.MustCompile(`^[A-Za-z0-9._~:/?#@!$&'()+,;=%-]+$`)
)

// Registration is the identifier that the inventory registers for a client, and that its certificate is to name, alone.
type Registration struct {
	Type  string // kind of the identifier: cse-id, ae-id or node-id
	Value string // as it stands in the subjectAltName

	Entered string // as it stands in the inventory
}

// String is type and value.
func (r *Registration) String() string { return r.Type + " " + r.Value }

// Tag is the identifier's in a GeneralName (RFC 5280 section 4.2.1.6): a CSE-ID is a dNSName, the others are URIs (oneM2M
// TS-0003 clauses 10.1.1.5, 10.1.1.7 and 10.1.1.8).
func (r *Registration) Tag() uint8 {
	if r.Type == KindCSEID {
		return 2
	}
	return 6
}

// SubjectAltName is the DER GeneralNames with the identifier and nothing else. It fails for text that no name can hold.
func (r *Registration) SubjectAltName() ([]byte, error) {
	names := pkix.GeneralNames{URI: []string{r.Value}}
	if r.Type == KindCSEID {
		names = pkix.GeneralNames{DNS: []string{r.Value}}
	}
	return names.Marshal()
}

// certifyRegistered makes the registered identifier the one alternative name of the certificate, whatever a profile made of the
// names: a template that spells it in another way names somebody else.
func (g *Grant) certifyRegistered() *Error {
	if g.Registration == nil {
		return nil
	}
	san, err := g.Registration.SubjectAltName()
	if err != nil {
		return Errorf(NotAuthorized, "the identifier registered for this client cannot stand in a certificate", "registered is %s: %w", cut(g.Registration.String(), maxShown), err)
	}
	g.SubjectAltName = san
	return nil
}

// provided holds an AE-ID against the name constraints of the CA: "The certificate used to sign the AE-ID certificate shall include
// nameConstraints satisfied by the hostname part of the full URI representation of the AE-ID" (oneM2M TS-0003 clause 10.1.1.5). Nobody else
// does: to CAs and relying parties constraints of DNS names say nothing of URIs.
func (g *Gateway) provided(ctx context.Context, rt *Runtime, gr *Grant) *Error {
	reg := gr.Registration
	if reg == nil || reg.Type != KindAEID {
		return nil
	}
	cas := rt.authorities[gr.Backend]
	if cas == nil {
		return Errorf(Internal, "", "the grant names the backend %q, which is not configured", gr.Backend)
	}
	chain, err := cas.certificates(ctx, gr.Issuer)
	if err != nil {
		return unavailable("the CA cannot be reached", err)
	}
	provider := ""
	if m := absoluteAEID.FindStringSubmatch(cmp.Or(reg.Entered, reg.Value)); m != nil {
		provider = m[1]
	}
	if c := pkix.RulesOut(chain, provider); c != nil {
		return Errorf(NotAuthorized, "the identifier registered for this client is outside of what the CA may certify",
			"registered is %s: the service provider %q is outside of the name constraints of %s (oneM2M TS-0003 clause 10.1.1.5), which permit the DNS names %q and exclude %q",
			cut(reg.String(), maxShown), provider, pkix.FormatName(c.RawSubject), c.PermittedDNSDomains, c.ExcludedDNSDomains)
	}
	return nil
}

// Registered says which identifier is registered for the client that shows the credentials of asks, before it asks for a
// certificate: what it has to ask for depends on it. Of asks the endpoint, the credentials and the source count, by
// which wrong passwords are limited. It is the one that the endpoint's stages find who identify a client, for a first
// certificate or for a renewal. The *Error is NotAuthorized for a client that no stage knows, or for which none is registered,
// Unauthenticated or Busy where its password is not taken, and Unavailable when that cannot be told.
func (g *Gateway) Registered(ctx context.Context, asks *Request) (*Registration, *Error) {
	e := g.runtime.Load().Endpoints[asks.Endpoint]
	if e == nil {
		return nil, Errorf(NotAuthorized, "no such endpoint", "endpoint %q is not configured", asks.Endpoint)
	}
	ctx, cancel := context.WithTimeout(ctx, g.opt.CheckTimeout)
	defer cancel()
	r := &Request{ID: asks.ID, Protocol: e.Protocol, Endpoint: asks.Endpoint, Credentials: asks.Credentials, Source: asks.Source, Proxy: asks.Proxy, Received: g.now()}
	for _, c := range r.Credentials {
		if c.Kind == CredentialTLS && len(c.Chain) > 0 {
			r.OldCert = c.Chain[0] // that it would renew
		}
	}
	detail := "this client is not known here"
	_, byPassword := r.Credential(CredentialPassword)
	var login *Error
	known := false // in some operation
	var notes []string
	var unanswered error
	for _, op := range Certifying {
		if len(e.Pipelines[op]) == 0 {
			continue
		}
		asked := *r
		asked.Operation = op
		grant := newGrant(&asked, e, e.Profile, g.now())
		proven, v := e.Pipelines[op].identify(ctx, &asked, grant, g.now)
		switch {
		case v.Decision == CannotAnswer:
			unanswered = errors.New(v.Note)
		case v.Decision != Allow:
			notes = append(notes, fmt.Sprintf("%s: %s", op, v.Note))
			known = known || grant.Requester != ""
			if grant.Requester != "" && v.Detail != "" {
				detail = v.Detail // it has proven who it is
			}
			if login == nil && byPassword && (v.Reason == Busy || v.Reason == Unauthenticated) {
				login = &Error{Reason: v.Reason, Detail: v.Detail, RetryAfter: v.RetryAfter}
			}
		case !proven:
			notes = append(notes, fmt.Sprintf("%s: no stage establishes who asks", op))
		case grant.Registration == nil:
			notes = append(notes, fmt.Sprintf("%s: no stage says which identifier is registered", op))
		default:
			return grant.Registration, nil
		}
	}
	if unanswered != nil {
		return nil, unavailable("the client cannot be judged now", unanswered)
	}
	if len(notes) == 0 {
		notes = append(notes, "endpoint "+asks.Endpoint+" enrolls and renews nobody")
	}
	if login != nil && !known {
		login.Err = errors.New(cut(strings.Join(notes, "; "), maxNote))
		return nil, login
	}
	return nil, Errorf(NotAuthorized, detail, "%s", cut(strings.Join(notes, "; "), maxNote))
}
