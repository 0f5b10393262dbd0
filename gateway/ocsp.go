package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/ocsp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
)

// MaxOCSPRequest is how long an OCSP request may be, in bytes.
const MaxOCSPRequest = backend.MaxOCSPRequest

const (
	ocspCalls   = 32      // under way at one CA: a flood of questions waits here, and not in the CA before an issuance
	ocspChecked = 1 << 15 // answers of a CA whose signatures were verified and that are remembered by their hash, half of them at least
)

// OCSPInfo is what a signed OCSP answer says of itself.
type OCSPInfo struct {
	ThisUpdate time.Time // UTC
	NextUpdate time.Time // UTC
	Planned    time.Time // when the CA signs the next one unless the certificate is revoked before: half of the validity later
	Tag        string    // SHA-256 of the DER, in hexadecimal

	serial *big.Int
}

// ocspAnswers has a backend's OCSP answers checked before anybody gets them.
type ocspAnswers struct {
	responder backend.OCSPResponder // nil: the backend is none
	cas       *authorities
	now       func() time.Time
	places    chan struct{}

	mu              sync.Mutex
	checked, before map[[sha256.Size]byte]*OCSPInfo // before: when checked was full, it became this
}

func newOCSPAnswers(b backend.Backend, cas *authorities, able bool, now func() time.Time) *ocspAnswers {
	o := &ocspAnswers{cas: cas, now: now, places: make(chan struct{}, ocspCalls), checked: map[[sha256.Size]byte]*OCSPInfo{}}
	if able {
		o.responder, _ = b.(backend.OCSPResponder)
	}
	return o
}

// OCSP has a backend's CA answer an OCSP request, both DER. issuer is a CA's name, or one of its CRLs', "" for the default. Info is nil for an answer
// without a signature (RFC 6960 section 4.2.1: malformedRequest, unauthorized, tryLater). Another one is about the certificate that
// was asked about, current, and signed by a CA of the backend or in its name. The error wraps ErrNotFound when there is no such
// CA or it answers no OCSP, else it is an *Error.
func (g *Gateway) OCSP(ctx context.Context, backendName, issuer string, request []byte) (der []byte, info *OCSPInfo, err error) {
	o := g.runtime.Load().ocsp[backendName]
	if o == nil || o.responder == nil {
		return nil, nil, fmt.Errorf("%w: no backend %q that answers OCSP", ErrNotFound, cut(backendName, 64))
	}
	der, info, err = o.answer(ctx, issuer, request)
	if err != nil && !errors.Is(err, ErrNotFound) {
		err = unavailable("OCSP is not answered now", fmt.Errorf("backend %s, CA %s: %w", backendName, cut(issuer, 64), err))
	}
	return der, info, err
}

func (o *ocspAnswers) answer(ctx context.Context, issuer string, request []byte) ([]byte, *OCSPInfo, error) {
	if len(request) > MaxOCSPRequest {
		return nil, nil, fmt.Errorf("a request of %d bytes", len(request))
	}
	list, err := o.cas.current(ctx)
	if err != nil {
		return nil, nil, err
	}
	if issuer == "" {
		issuer = list.cas[0].Name
	}
	if !list.publishes(issuer) {
		return nil, nil, fmt.Errorf("%w: no CA %q", ErrNotFound, cut(issuer, 64))
	}
	select {
	case o.places <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	defer func() { <-o.places }()
	der, err := o.responder.OCSP(ctx, issuer, request)
	switch {
	case status.Code(err) == codes.NotFound:
		return nil, nil, fmt.Errorf("%w: %w", ErrNotFound, err)
	case err != nil:
		return nil, nil, err
	}
	if unsigned(der) {
		return der, nil, nil
	}
	tag := sha256.Sum256(der)
	info := o.known(tag)
	if info == nil {
		if info, err = checkOCSP(der, list.certificates()); err != nil {
			return nil, nil, fmt.Errorf("what the CA gave: %w", err)
		}
		info.Tag = hex.EncodeToString(tag[:])
		o.know(tag, info)
	}
	asked, err := ocsp.ParseRequest(request)
	now := o.now()
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("what the CA gave is signed, and the request was malformed: %w", err)
	case asked.SerialNumber.Cmp(info.serial) != 0:
		return nil, nil, errors.New("what the CA gave is about another certificate")
	case info.ThisUpdate.After(now.Add(crlAhead)):
		return nil, nil, fmt.Errorf("what the CA gave has a thisUpdate, %s, in the future", info.ThisUpdate.Format(time.RFC3339))
	case !now.Before(info.NextUpdate):
		return nil, nil, fmt.Errorf("what the CA gave ended on %s", info.NextUpdate.Format(time.RFC3339))
	}
	return der, info, nil
}

// unsigned reports whether an OCSPResponse is one of the errors of RFC 6960 section 4.2.1 that a client may be told by a CA.
func unsigned(der []byte) bool {
	return len(der) == 5 && bytes.Equal(der[:4], []byte{0x30, 0x03, 0x0a, 0x01}) &&
		slices.Contains([]ocsp.ResponseStatus{ocsp.Malformed, ocsp.InternalError, ocsp.TryLater, ocsp.Unauthorized}, ocsp.ResponseStatus(der[4]))
}

// known returns what was found about an answer with the hash.
func (o *ocspAnswers) known(tag [sha256.Size]byte) *OCSPInfo {
	o.mu.Lock()
	defer o.mu.Unlock()
	info := o.checked[tag]
	if info == nil {
		if info = o.before[tag]; info != nil {
			o.checked[tag] = info
		}
	}
	return info
}

func (o *ocspAnswers) know(tag [sha256.Size]byte, info *OCSPInfo) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.checked) >= ocspChecked {
		o.before, o.checked = o.checked, make(map[[sha256.Size]byte]*OCSPInfo, ocspChecked)
	}
	o.checked[tag] = info
}

// checkOCSP judges a signed answer: it is whole, about one certificate, and signed by one of the CA certificates, or by a
// certificate that such a one has issued for that (RFC 6960 section 4.2.2.2).
func checkOCSP(der []byte, cas []*x509.Certificate) (*OCSPInfo, error) {
	a, err := ocsp.ParseResponse(der, nil) // verifies the signature where there is a certificate
	if err != nil {
		return nil, err
	}
	by := a.Certificate
	fits := func(ca *x509.Certificate) bool {
		switch {
		case !ca.IsCA:
			return false
		case by == nil:
			return a.CheckSignatureFrom(ca) == nil
		}
		return by.Equal(ca) || bytes.Equal(by.RawIssuer, ca.RawSubject) && ca.CheckSignature(by.SignatureAlgorithm, by.RawTBSCertificate, by.Signature) == nil
	}
	switch {
	case !slices.ContainsFunc(cas, fits):
		return nil, errors.New("it is signed by none of the CA certificates, nor in the name of one")
	case by != nil && !slices.ContainsFunc(cas, by.Equal) && !slices.Contains(by.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning):
		return nil, fmt.Errorf("its signer, %s, may not answer for the CA", by.Subject)
	case by != nil && (a.ThisUpdate.Before(by.NotBefore) || a.NextUpdate.After(by.NotAfter)):
		return nil, fmt.Errorf("it is current from %s to %s, its signer's certificate from %s to %s", a.ThisUpdate.Format(time.RFC3339), a.NextUpdate.Format(time.RFC3339),
			by.NotBefore.Format(time.RFC3339), by.NotAfter.Format(time.RFC3339))
	case !a.ThisUpdate.Before(a.NextUpdate):
		return nil, errors.New("it has no nextUpdate, or one that is not after thisUpdate")
	case a.Status != ocsp.Good && a.Status != ocsp.Revoked:
		return nil, errors.New("it is signed about a certificate that the CA does not know")
	}
	return &OCSPInfo{ThisUpdate: a.ThisUpdate, NextUpdate: a.NextUpdate, Planned: a.ThisUpdate.Add(a.NextUpdate.Sub(a.ThisUpdate) / 2), serial: a.SerialNumber}, nil
}
