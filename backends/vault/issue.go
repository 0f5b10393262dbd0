package vault

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"net/http"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
)

// Issue asks the engine once. What it refuses (4xx) it has not stored, and so not issued: it stores a certificate as the last thing that can
// fail (pathIssueSignCert), and errors of that are 500. Those leave the outcome unknown.
func (c *CA) Issue(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	e, err := c.open.Get(ctx)
	if err != nil {
		return nil, err
	}
	name, ok := e.issuerNamed(r.Issuer)
	if !ok {
		return nil, backend.Refuse(codes.InvalidArgument, "there is no CA %q", r.Issuer)
	}
	body, err := e.order(r, name)
	if err != nil {
		return nil, err
	}
	answer, err := e.api.call(ctx, http.MethodPost, e.signPath(name), body, maxAnswer)
	if err != nil {
		return nil, err
	}
	if answer.Status != http.StatusOK {
		return nil, refused(answer)
	}
	var got struct {
		Certificate string   `json:"certificate"` // base64 of DER, as are the others
		Issuer      string   `json:"issuing_ca"`
		Chain       []string `json:"ca_chain"`
	}
	if err := dataOf(answer, &got); err != nil {
		return nil, err
	}
	certs, err := parseDER(append([]string{got.Certificate, got.Issuer}, got.Chain...))
	if err != nil {
		return nil, backend.Refuse(codes.Internal, "an answer that is not the engine's: %v", err)
	}
	e.inventory.issued(certs[0], r.ID, e.o.Clock(), e.cfg.LookupLimit)
	if text := warnings(answer); text != "" {
		c.o.Log.Warn("the CA's server has issued, and says", "id", r.ID, "warnings", text)
	}
	chain, _ := e.chainOf(certs[1], certs[2:]) // CACertificates says when it is not whole
	return &backend.Issuance{Certificate: certs[0].Raw, Chain: raw(chain)}, nil
}

func (e *engine) signPath(issuer string) string {
	switch {
	case e.cfg.Sign == signRole:
		return e.path("issuer", issuer, "sign", e.cfg.Role)
	case e.cfg.Role != "":
		return e.path("issuer", issuer, "sign-verbatim", e.cfg.Role)
	}
	return e.path("issuer", issuer, "sign-verbatim")
}

// Where the engine begins a certificate (certutil.signCertificate), and what the gateway takes of that (decidedSkew).
const (
	ownBackdate  = 30 * time.Second // before its clock, unless a role says otherwise
	latestBegin  = 59 * time.Minute // after the one granted
	earliestCall = 5 * time.Minute  // before the one granted: two clocks
)

// order is what the engine is told, and what is refused here since it would not be done.
func (e *engine) order(r *backend.IssueRequest, issuer string) (map[string]any, error) {
	csr, err := checked(r)
	if err != nil {
		return nil, err
	}
	t, now := &r.Template, e.o.Clock()
	refuse := func(format string, args ...any) (map[string]any, error) {
		return nil, backend.Refuse(codes.InvalidArgument, format, args...)
	}
	switch {
	case t.NotBefore.IsZero() || !t.NotAfter.After(t.NotBefore):
		return refuse("valid from %s to %s, which is never", t.NotBefore, t.NotAfter)
	case !t.NotAfter.After(now):
		return refuse("it would end at %s, and it is %s", t.NotAfter, now.UTC())
	case t.NotBefore.After(now.Add(earliestCall)):
		return refuse("the engine certifies from now on, and the certificate is to begin at %s", t.NotBefore)
	case t.NotBefore.Add(latestBegin).Before(now.Add(-e.backdate())):
		return refuse("the engine certifies from now on, and the certificate was to begin at %s: it was asked for too long ago, or its profile backdates by more than a role of the engine does", t.NotBefore)
	}
	if chains := e.chains.Load(); chains != nil {
		if chain := (*chains)[issuer]; len(chain) > 0 && t.NotAfter.After(chain[0].NotAfter) {
			return refuse("it would end at %s, and its CA ends at %s", t.NotAfter, chain[0].NotAfter)
		}
	}
	body := map[string]any{
		"csr":       string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: r.CSR})),
		"format":    "der",
		"not_after": t.NotAfter.UTC().Format(time.RFC3339),
	}
	if e.cfg.Sign == signRole {
		return body, byRole(body, t, csr)
	}
	return body, verbatim(body, t, csr)
}

// parseDER reads base64 of certificates.
func parseDER(texts []string) (out []*x509.Certificate, err error) {
	for _, text := range texts {
		der, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, err
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

func sameKey(c *x509.Certificate, spki []byte) bool {
	return bytes.Equal(c.RawSubjectPublicKeyInfo, spki)
}
