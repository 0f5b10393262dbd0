package scep

import (
	"context"
	"crypto/x509"
	"encoding/asn1"
	"io"
	"net/http"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/protocols/cms"
)

const maxCRL = 32 << 20

// CACertificates asks for GetCACert, and for GetCACaps with it.
func (c *CA) CACertificates(ctx context.Context) ([]backend.CA, error) {
	run, err := c.running.Get(ctx)
	if err != nil {
		return nil, err
	}
	s, err := run.current(ctx, true)
	if err != nil {
		return nil, err
	}
	return []backend.CA{s.bag.CA(Issuer, s.chain)}, nil
}

// CRL asks by GetCRL (RFC 8894 section 3.3.4) or fetches the URL: what comes has to be signed by the issuing CA.
func (c *CA) CRL(ctx context.Context, issuer string, w io.Writer) error {
	run, err := c.running.Get(ctx)
	switch {
	case err != nil:
		return err
	case run.config.CRL == "":
		return c.Unimplemented.CRL(ctx, issuer, w)
	case issuer != "" && issuer != Issuer:
		return backend.Refuse(codes.NotFound, "there is no CA %q here", issuer)
	}
	s, ra, err := run.ready(ctx, c.o.Clock())
	if err != nil {
		return unsure(err)
	}
	var der []byte
	if run.crl == nil {
		der, err = run.getCRL(ctx, s, ra)
	} else {
		der, err = run.fetchCRL(ctx)
	}
	if err != nil {
		return err
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return backend.Refuse(codes.Unavailable, "crl: not a DER CRL")
	}
	if err := list.CheckSignatureFrom(s.chain[0]); err != nil {
		return backend.Refuse(codes.Unavailable, "crl: not signed by the issuing CA, %s", s.chain[0].Subject)
	}
	_, err = w.Write(der)
	return err
}

func (r *running) fetchCRL(ctx context.Context) ([]byte, error) {
	get, err := http.NewRequestWithContext(ctx, http.MethodGet, r.config.CRL, nil)
	if err != nil {
		return nil, backend.Refuse(codes.Internal, "crl: it makes no request")
	}
	got, err := r.crl.Do(ctx, get, maxCRL)
	switch {
	case err != nil:
		return nil, unsure(err)
	case got.Status == http.StatusNotFound:
		return nil, backend.Refuse(codes.NotFound, "crl: HTTP 404")
	case got.Status != http.StatusOK:
		return nil, backend.Refuse(codes.Unavailable, "crl: HTTP %d", got.Status)
	}
	return got.Body, nil
}

// getCRL names the RA's certificate where the issuing CA issued it, else the CA's own: a CA has the list under its name.
//
//	IssuerAndSerialNumber ::= SEQUENCE { issuer Name, serialNumber INTEGER }    -- RFC 5652 section 10.2.4
func (r *running) getCRL(ctx context.Context, s *server, ra *signer) ([]byte, error) {
	issuing := s.chain[0]
	serial := issuing.SerialNumber
	if own := ra.chain[0]; own.CheckSignatureFrom(issuing) == nil {
		serial = own.SerialNumber
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(issuing.RawSubject)
		b.AddASN1BigInt(serial)
	})
	content, err := b.Bytes()
	if err != nil {
		return nil, backend.Refuse(codes.Internal, "GetCRL: %v", err)
	}
	a, err := r.exchange(ctx, s, ra, typeGetCRL, transactionID("crl"), content)
	switch {
	case err != nil:
		return nil, unsure(err)
	case a.status == statusFailure && a.failInfo == badCertID:
		return nil, backend.Refuse(codes.NotFound, "GetCRL: %s", a.failed())
	case a.status != statusSuccess:
		return nil, backend.Refuse(codes.Unavailable, "GetCRL: %s", a.failed())
	}
	return parseCRL(a.content)
}

// parseCRL takes the one CRL out of a degenerate SignedData (RFC 8894 section 3.4).
func parseCRL(content []byte) ([]byte, error) {
	der, err := cms.Normalize(content, cms.Limits{Size: maxAnswer, Elements: maxAnswer / 4})
	if err != nil {
		return nil, backend.Refuse(codes.Unavailable, "GetCRL: %v", err)
	}
	var info struct {
		Type    asn1.ObjectIdentifier
		Content struct {
			Version      int
			Digests      asn1.RawValue `asn1:"set"`
			Content      asn1.RawValue
			Certificates asn1.RawValue `asn1:"optional,tag:0"`
			CRLs         asn1.RawValue `asn1:"optional,tag:1"`
			Signers      asn1.RawValue `asn1:"set"`
		} `asn1:"explicit,tag:0"`
	}
	if rest, err := asn1.Unmarshal(der, &info); err != nil || len(rest) > 0 {
		return nil, backend.Refuse(codes.Unavailable, "GetCRL: not a SignedData")
	}
	lists := cryptobyte.String(info.Content.CRLs.Bytes)
	var list cryptobyte.String
	if !lists.ReadASN1Element(&list, cbasn1.SEQUENCE) || !lists.Empty() {
		return nil, backend.Refuse(codes.Unavailable, "GetCRL: the answer does not hold one CRL")
	}
	return list, nil
}
