package est

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net/http"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/upstream"
)

const maxCRL = 32 << 20

// CACertificates asks for cacerts (RFC 7030 section 4.1.3), or reads the file `chain`.
func (c *CA) CACertificates(ctx context.Context) ([]backend.CA, error) {
	run, err := c.running.Get(ctx)
	if err != nil {
		return nil, err
	}
	bag, err := run.authorities(ctx, true)
	if err != nil {
		return nil, err
	}
	chain, err := run.chain(bag)
	if err != nil {
		return nil, err
	}
	return []backend.CA{bag.CA(Issuer, chain)}, nil
}

// chain of the issuing CA.
func (r *running) chain(bag upstream.Bag) (upstream.Bag, error) {
	if r.config.Chain != "" {
		return bag, nil
	}
	chain, err := bag.Chain()
	if err != nil {
		return nil, backend.Refuse(codes.Unavailable, "cacerts: %v: say by `chain` which they are", err)
	}
	return chain, nil
}

// authorities are the CA's certificates, as they were last seen where that is enough.
func (r *running) authorities(ctx context.Context, fresh bool) (upstream.Bag, error) {
	if bag := r.bag.Load(); bag != nil && !fresh {
		return *bag, nil
	}
	bag, err := r.fetch(ctx)
	if err != nil {
		return nil, err
	}
	r.bag.Store(&bag)
	return bag, nil
}

func (r *running) fetch(ctx context.Context) (upstream.Bag, error) {
	if r.config.Chain != "" {
		bag, err := readChain(r.config.Chain)
		if err != nil {
			return nil, backend.Refuse(codes.Unavailable, "chain: %v", err)
		}
		return bag, nil
	}
	get, err := r.request(ctx, http.MethodGet, "cacerts", nil)
	if err != nil {
		return nil, err
	}
	got, err := r.client.Do(ctx, get, maxAnswer)
	if err != nil {
		return nil, again(err)
	}
	if got.Status != http.StatusOK {
		return nil, backend.Refuse(codes.Unavailable, "cacerts: HTTP %d %s", got.Status, said(got))
	}
	bag, err := parseCerts(got)
	if err != nil {
		return nil, backend.Refuse(codes.Unavailable, "cacerts: %v", err)
	}
	return bag, nil
}

// readChain reads the file `chain`, which has to be one.
func readChain(path string) (upstream.Bag, error) {
	chain, err := upstream.ReadBag(path)
	if err != nil {
		return nil, err
	}
	for i, c := range chain {
		by := chain[min(i+1, len(chain)-1)]
		if err := c.CheckSignatureFrom(by); err != nil {
			return nil, errors.New(path + ": wants the issuing certificate first, each signed by the next, and the root last: " + err.Error())
		}
	}
	return chain, nil
}

// CRL fetches the URL `crl`: one that the issuing CA has signed.
func (c *CA) CRL(ctx context.Context, issuer string, w io.Writer) error {
	run, err := c.running.Get(ctx)
	switch {
	case err != nil:
		return err
	case run.crl == nil:
		return c.Unimplemented.CRL(ctx, issuer, w)
	case issuer != "" && issuer != Issuer:
		return backend.Refuse(codes.NotFound, "there is no CA %q here", issuer)
	}
	bag, err := run.authorities(ctx, false)
	if err != nil {
		return err
	}
	chain, err := run.chain(bag)
	if err != nil {
		return err
	}
	get, err := http.NewRequestWithContext(ctx, http.MethodGet, run.config.CRL, nil)
	if err != nil {
		return backend.Refuse(codes.FailedPrecondition, "crl: it makes no request")
	}
	got, err := run.crl.Do(ctx, get, maxCRL)
	switch {
	case err != nil:
		return err
	case got.Status == http.StatusNotFound:
		return backend.Refuse(codes.NotFound, "crl: HTTP 404")
	case got.Status != http.StatusOK:
		return backend.Refuse(codes.Unavailable, "crl: HTTP %d", got.Status)
	}
	list, err := x509.ParseRevocationList(got.Body)
	if err != nil {
		return backend.Refuse(codes.Unavailable, "crl: not a DER CRL")
	}
	if err := list.CheckSignatureFrom(chain[0]); err != nil {
		return backend.Refuse(codes.Unavailable, "crl: not signed by the issuing CA, %s", chain[0].Subject)
	}
	_, err = w.Write(got.Body)
	return err
}
