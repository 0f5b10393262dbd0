package cmp

import (
	"context"
	stdpkix "crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

var oidReasonCode = asn1.ObjectIdentifier{2, 5, 29, 21} // RFC 5280 section 5.3.1

// Revoke is backend.Backend: rr (RFC 9810 section 5.3.9).
func (ca *CA) Revoke(ctx context.Context, q *backend.RevokeRequest) error {
	r, err := ca.asks(ctx, "Revoke")
	if err != nil {
		return err
	}
	if !r.revokes() {
		return backend.Refuse(codes.Unimplemented, "the CA takes no rr from this RA (revoke: false, or mac)")
	}
	details := cmpmsg.RevDetails{Certificate: cmpmsg.CertTemplate{Issuer: q.Issuer, SerialNumber: new(big.Int).SetBytes(q.Serial)}}
	var b cryptobyte.Builder
	b.AddASN1Enum(int64(q.Reason))
	reason, err := b.Bytes()
	if err == nil {
		details.Extensions, err = asn1.Marshal([]stdpkix.Extension{{Id: oidReasonCode, Value: reason}})
	}
	if err != nil {
		return backend.Refuse(codes.Internal, "%v", err)
	}
	d, err := r.dialogue(random())
	if err != nil {
		return err
	}
	a, err := d.say(ctx, &cmpmsg.RevReq{Details: []cmpmsg.RevDetails{details}}, r.fresh())
	if err != nil {
		return err
	}
	switch body := a.Body.(type) {
	case *cmpmsg.ErrorMsg:
		return a.notRevoked(body.Status)
	case *cmpmsg.RevRep:
		if len(body.Statuses) != 1 {
			return backend.Refuse(codes.Internal, "rp has %d statuses for one certificate", len(body.Statuses))
		}
		switch s := body.Statuses[0]; s.Status {
		case cmpmsg.StatusAccepted, cmpmsg.StatusGrantedWithMods, cmpmsg.StatusRevocationNotification:
			return nil
		default:
			return a.notRevoked(s)
		}
	}
	return a.unexpected("rr")
}

// notRevoked is the error of an rr that was not accepted; nil where the certificate is revoked already.
func (r *reply) notRevoked(s cmpmsg.PKIStatusInfo) error {
	switch {
	case !r.proved:
		return backend.Refuse(codes.Unavailable, "an error without protection: %s", words(s))
	case s.FailInfo&cmpmsg.CertRevoked != 0:
		return nil
	case s.FailInfo&cmpmsg.BadCertID != 0:
		return backend.Refuse(codes.NotFound, "the CA: %s", words(s))
	}
	return backend.Refuse(codes.Unavailable, "not revoked: %s", words(s))
}

// general asks for one thing by genm (RFC 9810 section 5.3.19) and returns the value of that type in the answer, nil where the CA has none.
func (r *running) general(ctx context.Context, ask cmpmsg.InfoTypeAndValue, want asn1.ObjectIdentifier) ([]byte, error) {
	d, err := r.dialogue(random())
	if err != nil {
		return nil, err
	}
	a, err := d.say(ctx, &cmpmsg.General{Kind: cmpmsg.TypeGenM, Info: []cmpmsg.InfoTypeAndValue{ask}}, r.fresh())
	if err != nil {
		return nil, err
	}
	switch b := a.Body.(type) {
	case *cmpmsg.General:
		if at := slices.IndexFunc(b.Info, func(v cmpmsg.InfoTypeAndValue) bool { return v.Type.Equal(want) }); at >= 0 {
			return b.Info[at].Value, nil
		}
		return nil, nil
	case *cmpmsg.ErrorMsg:
		return nil, backend.Refuse(codes.Unavailable, "genm %s: %s", cmpmsg.InfoTypeName(ask.Type), words(b.Status))
	}
	return nil, a.unexpected("genm")
}

// currentCRL is the CA's CRL, DER. The CA that signed it is whom those trust who read it.
func (r *running) currentCRL(ctx context.Context) ([]byte, error) {
	der, err := r.general(ctx, cmpmsg.InfoTypeAndValue{Type: cmpmsg.OIDCurrentCRL}, cmpmsg.OIDCurrentCRL)
	if err != nil {
		return nil, err
	}
	if der == nil {
		return nil, backend.Refuse(codes.NotFound, "the CA has no CRL to tell")
	}
	return der, nil
}
