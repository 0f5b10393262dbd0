package ejbca

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"io"
	"net/http"
	"net/url"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/upstream"
)

// authority is the CA as EJBCA shows it.
type authority struct {
	dn    string // its subject in EJBCA's words: it names the CA in paths
	chain upstream.Bag
}

// CACertificates asks for the active chain of the CA (/v1/ca and /v1/ca/{subject_dn}/certificate/download). It fails while EJBCA does not know
// the profiles, or does not let this role search.
func (c *CA) CACertificates(ctx context.Context) ([]backend.CA, error) {
	run, err := c.running.Get(ctx)
	if err != nil {
		return nil, err
	}
	known, err := run.authority(ctx, true)
	if err != nil {
		return nil, err
	}
	if err := run.check(ctx); err != nil {
		return nil, err
	}
	return []backend.CA{known.chain.CA(Issuer, known.chain)}, nil
}

// authority is the CA, as it was last seen where that is enough. Its errors refuse nothing.
func (r *running) authority(ctx context.Context, fresh bool) (*authority, error) {
	if known := r.known.Load(); known != nil && !fresh {
		return known, nil
	}
	var list struct {
		CAs []struct {
			Name string `json:"name"`
			DN   string `json:"subject_dn"`
		} `json:"certificate_authorities"`
	}
	if err := r.get(ctx, "/v1/ca", nil, maxAnswer, &list); err != nil {
		return nil, err
	}
	found := new(authority)
	var names []string
	for _, ca := range list.CAs {
		if ca.Name == r.config.Authority {
			found.dn = ca.DN
		}
		names = append(names, ca.Name)
	}
	if found.dn == "" {
		return nil, backend.Refuse(codes.Unavailable, "authority: EJBCA shows this role no CA %q; it shows: %s", r.config.Authority, upstream.Line(strings.Join(names[:min(len(names), 20)], ", ")))
	}
	a, err := r.call(ctx, http.MethodGet, "/v1/ca/"+url.PathEscape(found.dn)+"/certificate/download", nil, nil, maxAnswer)
	switch {
	case err != nil:
		return nil, again(err)
	case a.Status != http.StatusOK:
		return nil, again(a.Refused(said(a)))
	}
	var ders [][]byte
	for block, rest := pem.Decode(a.Body); block != nil; block, rest = pem.Decode(rest) {
		ders = append(ders, block.Bytes)
	}
	bag, err := upstream.ParseBag(ders)
	if err != nil || len(bag) == 0 {
		return nil, backend.Refuse(codes.Unavailable, "the chain of %q has no certificate that can be read", r.config.Authority)
	}
	// The CA's own is the first (CertTools.getPemFromCertificateChain).
	up := bag.Above(bag[0])
	if up == nil {
		return nil, backend.Refuse(codes.Unavailable, "the chain of %q leads to no root", r.config.Authority)
	}
	found.chain = append(upstream.Bag{bag[0]}, up...)
	r.known.Store(found)
	return found, nil
}

// CRL is the latest complete one of partition 0 (/v1/ca/{issuer_dn}/getLatestCrl).
func (c *CA) CRL(ctx context.Context, issuer string, w io.Writer) error {
	run, err := c.running.Get(ctx)
	switch {
	case err != nil:
		return err
	case issuer != "" && issuer != Issuer:
		return backend.Refuse(codes.NotFound, "there is no CA %q here", issuer)
	}
	known, err := run.authority(ctx, false)
	if err != nil {
		return err
	}
	var answer struct {
		CRL string `json:"crl"`
	}
	query := url.Values{"deltaCrl": {"false"}, "crlPartitionIndex": {"0"}}
	if err := run.get(ctx, "/v1/ca/"+url.PathEscape(known.dn)+"/getLatestCrl", query, maxCRL, &answer); err != nil {
		return err
	}
	if answer.CRL == "" {
		return backend.Refuse(codes.NotFound, "the CA %q has no CRL yet", run.config.Authority)
	}
	der, err := base64.StdEncoding.DecodeString(answer.CRL)
	if err != nil {
		return backend.Refuse(codes.Unavailable, "a CRL that is not base64")
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return backend.Refuse(codes.Unavailable, "a CRL that is not DER")
	}
	if list.CheckSignatureFrom(known.chain[0]) != nil {
		if known, err = run.authority(ctx, true); err != nil { // it has changed over
			return err
		}
		if list.CheckSignatureFrom(known.chain[0]) != nil {
			return backend.Refuse(codes.Unavailable, "a CRL that is not signed by %s", upstream.Line(known.chain[0].Subject.String()))
		}
	}
	_, err = w.Write(der)
	return err
}
