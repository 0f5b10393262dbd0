package vault

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
)

// The engine knows no IDs of requests, and its serial numbers are random. But it keeps what it issues; so what became of a request is a
// question about certificates: is there one with its key, and with the end that was asked for it (order always says not_after)?
//
// A certificate that is there and is the request's says `issued`. That there is none says `never` when nothing can be on its way any more: when
// the list of serial numbers was asked for later than Config.Settle after the last call. All else is `unknown`, for the gateway to ask again, or for the
// operator:
//   - a certificate with the key and the end that has other names, or began before the request: another request of the device with a fixed end, or ours by a clock that is slow;
//   - two certificates that could be it;
//   - more certificates than Config.LookupLimit, or a role that does not store them or sets their end.

// Lookup says what became of a request.
func (c *CA) Lookup(ctx context.Context, r *backend.IssueRequest) (*backend.Outcome, error) {
	e, err := c.open.Get(ctx)
	if err != nil {
		return nil, err
	}
	if e.cfg.Lookup == lookupNone {
		return nil, backend.Refuse(codes.Unimplemented, "lookup: none")
	}
	unknown := func(format string, args ...any) (*backend.Outcome, error) { // an error says why, for the operator
		return nil, backend.Refuse(codes.Unavailable, "unknown: "+format, args...)
	}
	if why, err := e.unfindable(ctx); err != nil {
		return nil, err
	} else if why != "" {
		return unknown("%s", why)
	}
	settled := r.Asked.Add(time.Duration(e.cfg.Settle)) // nothing is on its way any more
	if r.Asked.IsZero() {
		settled = c.o.Clock()
	}
	listed, err := e.takeStock(ctx, settled)
	if err != nil {
		return nil, err
	}
	var ours *x509.Certificate
	for _, serial := range e.inventory.withKey(r.Template.PublicKey, r.ID) {
		cert, _, err := e.certificate(ctx, colons([]byte(serial)))
		if err != nil {
			return nil, err
		}
		switch why := e.is(cert, r); {
		case why == another:
		case why != "":
			return unknown("certificate %s %s", colons([]byte(serial)), why)
		case ours != nil:
			return unknown("certificates %s and %s could both be it", colons(ours.SerialNumber.Bytes()), colons([]byte(serial)))
		default:
			ours = cert
		}
	}
	switch {
	case ours != nil:
		issuance, err := e.issuance(ctx, r, ours)
		if err != nil {
			return nil, err
		}
		return &backend.Outcome{State: backend.OutcomeIssued, Issuance: issuance}, nil
	case !listed.Before(settled):
		return &backend.Outcome{State: backend.OutcomeNever}, nil
	}
	return &backend.Outcome{State: backend.OutcomeUnknown}, nil // a call may be under way
}

const (
	another = "another" // a certificate that is surely another request's
	// clocks is by how much two clocks may differ.
	clocks = 5 * time.Minute
)

// is says what a certificate with a request's key is to it: "" for its very certificate, another, or why that cannot be told.
func (e *engine) is(c *x509.Certificate, r *backend.IssueRequest) string {
	t := &r.Template
	if c == nil || !sameKey(c, t.PublicKey) { // it was tidied away a moment ago: it had expired
		return another
	}
	switch {
	case !c.NotAfter.Equal(t.NotAfter) && !(c.NotAfter.Before(t.NotAfter) && e.endsWithCA(c)):
		return another
	case !c.NotAfter.Equal(t.NotAfter):
		return "was cut to end with its CA, and may be it (leaf_not_after_behavior=truncate)"
	case e.cfg.Sign == signVerbatim && !sameNames(c, r):
		return "ends as the request's should, and has other names"
	case c.NotBefore.Add(e.backdate() + clocks).Before(t.NotBefore):
		return "ends as the request's should, and seems to be older than the request"
	}
	return ""
}

// sameNames reports whether a certificate has the names of a request that was certified as it stands.
func sameNames(c *x509.Certificate, r *backend.IssueRequest) bool {
	csr, err := x509.ParseCertificateRequest(r.CSR)
	return err == nil && c.Subject.String() == csr.Subject.String() && bytes.Equal(subjectAltName(c), r.Template.SubjectAltName)
}

// endsWithCA reports whether a certificate ends with one of the issuers.
func (e *engine) endsWithCA(c *x509.Certificate) bool {
	if chains := e.chains.Load(); chains != nil {
		for _, chain := range *chains {
			if chain[0].NotAfter.Equal(c.NotAfter) {
				return true
			}
		}
	}
	return false
}

// issuance is a certificate with its chain.
func (e *engine) issuance(ctx context.Context, r *backend.IssueRequest, c *x509.Certificate) (*backend.Issuance, error) {
	name, _ := e.issuerNamed(r.Issuer)
	chain, err := e.issuer(ctx, name)
	if err != nil {
		return nil, err
	}
	if c.CheckSignatureFrom(chain[0]) != nil { // its CA was changed since
		if chain, _ = e.chainOf(c, chain); len(chain) < 2 {
			return nil, fmt.Errorf("certificate %s is there, and not the CA certificate above it: name a PEM file with it as chain", colons(c.SerialNumber.Bytes()))
		}
		chain = chain[1:]
	}
	return &backend.Issuance{Certificate: c.Raw, Chain: raw(chain)}, nil
}

func subjectAltName(c *x509.Certificate) []byte {
	for _, ext := range c.Extensions {
		if ext.Id.Equal(oidSubjectAltName) {
			return ext.Value
		}
	}
	return nil
}

// role is what of a role of the engine matters here.
type role struct {
	NoStore           bool   `json:"no_store"`
	NotAfter          string `json:"not_after"`
	NotBeforeDuration int64  `json:"not_before_duration"` // seconds
}

// backdate is by how much the engine dates a certificate back (certutil.signCertificate).
func (e *engine) backdate() time.Duration {
	if known := e.role.Load(); known != nil && known.NotBeforeDuration > 0 {
		return time.Duration(known.NotBeforeDuration) * time.Second
	}
	return ownBackdate
}

// unfindable says why requests cannot be found again under the configured role, "" when they can.
func (e *engine) unfindable(ctx context.Context) (string, error) {
	if e.cfg.Role == "" {
		return "", nil
	}
	r := new(role)
	if err := e.api.ask(ctx, http.MethodGet, e.path("roles", e.cfg.Role), nil, maxAnswer, r); err != nil {
		return "", named(err, "role "+e.cfg.Role)
	}
	e.role.Store(r)
	switch {
	case r.NoStore:
		return fmt.Sprintf("role %s has no_store=true: what it issues nobody can find again", e.cfg.Role), nil
	case r.NotAfter != "" && e.cfg.Sign == signRole:
		return fmt.Sprintf("role %s has not_after: what it issues for one key cannot be told apart", e.cfg.Role), nil
	}
	return "", nil
}
