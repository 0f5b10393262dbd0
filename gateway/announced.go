package gateway

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
)

// Announced returns the chain that is to follow that of the CA which certifies for an endpoint, the issuing certificate first
// (RFC 8894 section 4.7): while the CA has announced one, and its key can vouch for it; otherwise nil. The error is an *Error.
func (g *Gateway) Announced(ctx context.Context, endpoint string) ([]*x509.Certificate, error) {
	ca, err := g.Authority(ctx, endpoint)
	if err != nil {
		return nil, err
	}
	rt := g.runtime.Load()
	if e := rt.Endpoints[endpoint]; len(ca.Next) == 0 || e == nil || rt.signer(e.Profile.Backend) == nil {
		return nil, nil
	}
	return ca.Next, nil
}

// signer is a backend that signs CMS, nil when it does not.
func (rt *Runtime) signer(name string) backend.CMSSigner {
	if d := rt.descriptions[name]; d == nil || !slices.Contains(d.Capabilities, backend.CapSignCMS) {
		return nil
	}
	s, _ := rt.Backends[name].(backend.CMSSigner)
	return s
}

// SignAnnounced has the current key of the endpoint's CA sign content, a degenerate SignedData of certificates that Announced
// returned (backend.CMSSigner). The CA is asked once an hour for each content: anybody may ask for the answer. The error is an
// *Error.
func (g *Gateway) SignAnnounced(ctx context.Context, endpoint string, content []byte) ([]byte, error) {
	ca, err := g.Authority(ctx, endpoint)
	if err != nil {
		return nil, err
	}
	rt := g.runtime.Load()
	e := rt.Endpoints[endpoint]
	if e == nil || rt.signer(e.Profile.Backend) == nil {
		return nil, Errorf(Unsupported, "this CA signs no announcement", "endpoint %s", endpoint)
	}
	key := vouchedFor{e.Profile.Backend, e.Profile.Issuer, sha256.Sum256(ca.Chain[0].Raw), sha256.Sum256(content)}
	der, err := g.vouched.of(key, g.now, func(ctx context.Context) (*[]byte, error) {
		signer := g.runtime.Load().signer(key.backend) // a reload may have put another in its place since
		if signer == nil {
			return nil, errors.New("the backend does not sign any more")
		}
		der, err := signer.SignCMS(ctx, key.issuer, content)
		return &der, err
	}).current(ctx)
	switch {
	case err == nil:
		return *der, nil
	case backend.Definite(err):
		return nil, &Error{Reason: Internal, Err: errors.Join(errors.New("the CA does not sign its own announcement"), err)}
	}
	return nil, unavailable("the CA cannot be reached", err)
}

// vouchedFor is what a signature of a CA's announcement is kept by.
type vouchedFor struct {
	backend, issuer string
	by, content     [sha256.Size]byte // SHA-256 of the CA's certificate and of the content
}

// vouched keeps what CAs have signed.
type vouched struct {
	mu   sync.Mutex
	kept map[vouchedFor]*kept[[]byte]
}

const (
	vouchedTTL  = time.Hour
	maxVouched  = 64 // more than there are CAs and endpoints with another choice of certificates
	vouchedWait = 5 * time.Second
)

// of finds what is kept, or the place for it.
func (v *vouched) of(key vouchedFor, now func() time.Time, fetch func(context.Context) (*[]byte, error)) *kept[[]byte] {
	v.mu.Lock()
	defer v.mu.Unlock()
	if k := v.kept[key]; k != nil {
		return k
	}
	if v.kept == nil || len(v.kept) >= maxVouched {
		v.kept = map[vouchedFor]*kept[[]byte]{}
	}
	k := &kept[[]byte]{
		fetch: fetch, now: now, timeout: authoritiesTimeout, pause: vouchedWait,
		due: func(_ *[]byte, asked time.Time) bool { return now().Sub(asked) > vouchedTTL },
	}
	v.kept[key] = k
	return k
}
