package exec

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
)

// chainOf reads a chain, each element of which is one certificate or several in PEM.
func chainOf(texts []string) ([][]byte, error) {
	var chain [][]byte
	for _, text := range texts {
		some, err := ders(text, "CERTIFICATE")
		if err != nil {
			return nil, err
		}
		if chain = append(chain, some...); len(chain) > backend.MaxChain+backend.MaxRollover {
			return nil, errors.New("too many certificates")
		}
	}
	for _, c := range chain {
		if _, err := x509.ParseCertificate(c); err != nil {
			return nil, err
		}
	}
	return chain, nil
}

// CACertificates is backend.Backend.CACertificates.
func (c *CA) CACertificates(ctx context.Context) ([]backend.CA, error) {
	cas, err := c.authorities(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cas = cas
	return slices.Clone(cas), nil
}

func (c *CA) authorities(ctx context.Context) ([]backend.CA, error) {
	if c.config.CA == nil {
		text, err := os.ReadFile(c.config.Chain)
		if err != nil {
			return nil, backend.Refuse(codes.Unavailable, "chain: %v", err)
		}
		chain, err := chainOf([]string{string(text)})
		if err != nil || len(chain) > backend.MaxChain {
			return nil, backend.Refuse(codes.Unavailable, "chain: %s: %v", c.config.Chain, cmp.Or(err, errors.New("too many certificates")))
		}
		return []backend.CA{{Name: "ca", Chain: chain}}, nil
	}
	a, err := c.run(ctx, c.config.CA, &question{Version: 1, Operation: opCA})
	if err != nil {
		return nil, err
	}
	if len(a.CAs) == 0 || len(a.CAs) > backend.MaxCAs {
		return nil, backend.Refuse(codes.Internal, "the answer names %d CAs, not 1 to %d", len(a.CAs), backend.MaxCAs)
	}
	var cas []backend.CA
	for _, j := range a.CAs {
		ca := backend.CA{Name: j.Name, CRLs: j.CRLs}
		if ca.Chain, err = chainOf(j.Chain); err == nil && (len(ca.Chain) == 0 || ca.Name == "") {
			err = errors.New("no name or no chain")
		}
		if err == nil {
			ca.Rollover, err = chainOf(j.Rollover)
		}
		if err != nil {
			return nil, backend.Refuse(codes.Internal, "CA %.40q: %v", j.Name, err)
		}
		cas = append(cas, ca)
	}
	return cas, nil
}

// issuer is the CA of that name, "" for the default, as it was last when the gateway asked.
func (c *CA) issuer(ctx context.Context, name string) (*backend.CA, error) {
	c.mu.Lock()
	cas := c.cas
	c.mu.Unlock()
	if cas == nil {
		var err error
		if cas, err = c.CACertificates(ctx); err != nil {
			if ctx.Err() != nil {
				return nil, backend.Refuse(codes.Unavailable, "%v", ctx.Err())
			}
			return nil, backend.Exhausted(busyRetry, fmt.Sprintf("not asked: %v", err))
		}
	}
	for i := range cas {
		if name == "" || name == cas[i].Name {
			return &cas[i], nil
		}
	}
	return nil, backend.Refuse(codes.InvalidArgument, "there is no CA %.40q", name)
}
