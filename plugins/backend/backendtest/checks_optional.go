package backendtest

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
)

// revocation of what a was.
func revocation(a *backend.Issuance, x *trial) (*backend.RevokeRequest, error) {
	c, err := x509.ParseCertificate(a.Certificate)
	if err != nil {
		return nil, err
	}
	return &backend.RevokeRequest{Issuer: c.RawIssuer, Serial: c.SerialNumber.Bytes(), Reason: 4, At: x.subject.Now().UTC(), Certificate: a.Certificate}, nil // superseded
}

func checkRevoke(ctx context.Context, x *trial) error {
	if !x.issues() || !x.can(backend.CapRevoke) {
		return nil
	}
	r, a, err := x.issueNew(ctx)
	if err != nil {
		return err
	}
	revoke, err := revocation(a, x)
	if err != nil {
		return err
	}
	if err := x.listed(ctx, revoke.Serial, false); err != nil {
		return err
	}
	unknown := *revoke
	unknown.Serial = append([]byte{0x55}, revoke.Serial[1:]...)
	unknown.Serial[len(unknown.Serial)-1] ^= 1
	if err := x.b.Revoke(ctx, &unknown); status.Code(err) != codes.NotFound {
		return fmt.Errorf("Revoke of an unknown serial number: %v, not NOT_FOUND", err)
	}
	foreign := *revoke
	foreign.Issuer = r.Template.Subject
	if err := x.b.Revoke(ctx, &foreign); status.Code(err) != codes.NotFound {
		return fmt.Errorf("Revoke of another issuer's certificate: %v, not NOT_FOUND", err)
	}
	for _, when := range []string{"first", "second"} {
		if err := x.b.Revoke(ctx, revoke); err != nil {
			return fmt.Errorf("the %s Revoke: %w", when, err)
		}
	}
	return x.listed(ctx, revoke.Serial, true)
}

// listed fetches the CRL, where there is one, and looks for the serial number.
func (x *trial) listed(ctx context.Context, serial []byte, want bool) error {
	if !x.can(backend.CapCRL) {
		return nil
	}
	var der bytes.Buffer
	if err := x.b.CRL(ctx, "", &der); err != nil {
		return fmt.Errorf("CRL: %w", err)
	}
	l, err := x509.ParseRevocationList(der.Bytes())
	if err != nil {
		return fmt.Errorf("CRL: %w", err)
	}
	if err := l.CheckSignatureFrom(x.issuing); err != nil {
		return fmt.Errorf("the CRL is not signed by the issuing CA: %w", err)
	}
	n := new(big.Int).SetBytes(serial)
	if got := slices.ContainsFunc(l.RevokedCertificateEntries, func(e x509.RevocationListEntry) bool { return e.SerialNumber.Cmp(n) == 0 }); got != want {
		return fmt.Errorf("the CRL lists the certificate: %t, not %t", got, want)
	}
	return nil
}

func checkUnimplemented(ctx context.Context, x *trial) error {
	calls := map[backend.Capability]func() error{
		backend.CapPoll: func() error { _, err := x.b.Poll(ctx, &backend.IssueRequest{ID: "never-asked"}, "ticket"); return err },
		backend.CapRevoke: func() error {
			return x.b.Revoke(ctx, &backend.RevokeRequest{Issuer: x.issuing.RawSubject, Serial: []byte{1}, At: x.subject.Now()})
		},
		backend.CapCRL: func() error { return x.b.CRL(ctx, "", io.Discard) },
	}
	if s, ok := x.b.(backend.CMSSigner); ok {
		calls[backend.CapSignCMS] = func() error { _, err := s.SignCMS(ctx, "", []byte("content")); return err }
	} else if x.can(backend.CapSignCMS) {
		return errors.New("it describes sign-cms and has no SignCMS")
	}
	if e, ok := x.b.(backend.Exchanger); ok {
		calls[backend.CapExchange] = func() error { _, err := e.Exchange(ctx, "never-asked", []byte{0x30, 0}); return err }
	} else if x.can(backend.CapExchange) {
		return errors.New("it describes exchange and has no Exchange")
	}
	if r, ok := x.b.(backend.Roller); ok {
		// Of a CA that there is not: nothing is made.
		calls[backend.CapRollover] = func() error {
			_, err := r.Rollover(ctx, &backend.RolloverRequest{ID: "never-asked", Issuer: "no-such-ca", Kind: backend.RolloverRenew})
			return err
		}
	} else if x.can(backend.CapRollover) {
		return errors.New("it describes rollover and has no Rollover")
	}
	if o, ok := x.b.(backend.OCSPResponder); ok {
		calls[backend.CapOCSP] = func() error { _, err := o.OCSP(ctx, "", []byte("no request")); return err }
	} else if x.can(backend.CapOCSP) {
		return errors.New("it describes ocsp and has no OCSP")
	}
	if h, ok := x.b.(backend.KeyHolder); ok {
		calls[backend.CapKeys] = func() error { _, err := h.PublicKey(ctx, "no-such-key"); return err }
	} else if x.can(backend.CapKeys) {
		return errors.New("it describes keys and has no PublicKey")
	}
	for c, call := range calls {
		code := status.Code(call())
		if !x.can(c) && code != codes.Unimplemented {
			return fmt.Errorf("%q is not described, and answers %s, not UNIMPLEMENTED", c, code)
		}
		if x.can(c) && code == codes.Unimplemented {
			return fmt.Errorf("%q is described, and answers UNIMPLEMENTED", c)
		}
	}
	return nil
}

// processChecks are added where there is a process to kill.
var processChecks = []check{
	{"killed while issuing", checkKilled},
}

// checkKilled kills the process four times while eight callers issue, each time after so many answers. An ID
// whose outcome the kill left unknown is asked for again; in the end every ID stands for one certificate.
func checkKilled(ctx context.Context, x *trial) error {
	if !x.issues() || x.d.Idempotency == backend.IdempotencyNone {
		return nil
	}
	const callers, each, every = 8, 12, 24
	var answered atomic.Int64
	var all sync.WaitGroup
	errs := make([]error, callers)
	issued := make([]map[*backend.IssueRequest]*backend.Issuance, callers)
	for n := range callers {
		issued[n] = map[*backend.IssueRequest]*backend.Issuance{}
		all.Go(func() {
			for k := range each {
				r, err := x.requestFor(fmt.Sprintf("kill-%d-%d", n, k))
				if err != nil {
					errs[n] = err
					return
				}
				a, err := x.insist(ctx, r)
				if err != nil {
					errs[n] = err
					return
				}
				issued[n][r] = a
				if answered.Add(1)%every == 0 {
					if err := x.kill(); err != nil {
						errs[n] = fmt.Errorf("kill: %w", err)
						return
					}
				}
			}
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, answers := range issued {
		for r, a := range answers {
			again, err := x.insist(ctx, r)
			if err != nil {
				return err
			}
			if !bytes.Equal(a.Certificate, again.Certificate) {
				return fmt.Errorf("ID %s led to two certificates", r.ID)
			}
			if err := x.matches(r, again); err != nil {
				return err
			}
		}
	}
	return nil
}

// insist asks for what an ID leads to until the outcome is known: a kill costs a call one retry.
func (x *trial) insist(ctx context.Context, r *backend.IssueRequest) (a *backend.Issuance, err error) {
	for range 10 {
		if a, err = x.again(ctx, r); status.Code(err) != codes.Unavailable {
			return a, err
		}
	}
	return nil, err
}
