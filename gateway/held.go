package gateway

import (
	"context"
	"crypto/x509"
)

// Holders is implemented by stages that let the holder of a certificate renew it without showing it. An adapter has to know
// which certificate that is before the pipeline runs.
type Holders interface {
	// HeldBy returns the newest valid certificate that was issued to the requester whom the credential names, under the names;
	// nil when there is none. The credential is not compared yet: what is found says nothing to the client.
	// looks is false when the stage does not go by credentials of the kind.
	HeldBy(ctx context.Context, endpoint string, c Credential, names Names) (cert *x509.Certificate, looks bool, err error)
}

// HeldBy returns the newest valid certificate that was issued to the requester whom the credential names, under the names, for
// a request that renews or rekeys it without showing it; nil when there is none: the pipeline then refuses, once it has
// compared the credential. renews is false when the endpoint renews nothing by credentials of the kind. The error is an *Error.
func (g *Gateway) HeldBy(ctx context.Context, endpoint string, c Credential, names Names) (cert *x509.Certificate, renews bool, err error) {
	e := g.runtime.Load().Endpoints[endpoint]
	if e == nil {
		return nil, false, nil
	}
	// Whether it will be a renewal or a rekey the certificate says: the pipelines of both have to judge it.
	for _, op := range []Operation{Renew, Rekey} {
		p := e.Pipelines[op]
		if len(p) == 0 {
			continue
		}
		looks := false
		p.demands(func(s Stage) {
			h, ok := s.(Holders)
			if !ok || err != nil {
				return
			}
			found, one, failed := h.HeldBy(ctx, endpoint, c, names)
			if err = failed; one && cert == nil {
				cert = found
			}
			looks = looks || one
		})
		if err != nil {
			return nil, false, unavailable("the store cannot be read", err)
		}
		if !looks {
			return nil, false, nil
		}
		renews = true
	}
	return cert, renews, nil
}
