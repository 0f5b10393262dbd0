package cmp

import (
	"bytes"
	"context"
	"crypto/x509"
	stdpkix "crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
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

// general asks for one thing by genm (RFC 9810 section 5.3.19) and returns its value, nil where the CA has none.
func (r *running) general(ctx context.Context, what asn1.ObjectIdentifier) ([]byte, error) {
	d, err := r.dialogue(random())
	if err != nil {
		return nil, err
	}
	a, err := d.say(ctx, &cmpmsg.General{Kind: cmpmsg.TypeGenM, Info: []cmpmsg.InfoTypeAndValue{{Type: what}}}, r.fresh())
	if err != nil {
		return nil, err
	}
	switch b := a.Body.(type) {
	case *cmpmsg.General:
		if at := slices.IndexFunc(b.Info, func(v cmpmsg.InfoTypeAndValue) bool { return v.Type.Equal(what) }); at >= 0 {
			return b.Info[at].Value, nil
		}
		return nil, nil
	case *cmpmsg.ErrorMsg:
		return nil, backend.Refuse(codes.Unavailable, "genm %s: %s", cmpmsg.InfoTypeName(what), words(b.Status))
	}
	return nil, a.unexpected("genm")
}

// currentCRL is the CA's CRL, DER. The CA that signed it is whom those trust who read it.
func (r *running) currentCRL(ctx context.Context) ([]byte, error) {
	der, err := r.general(ctx, cmpmsg.OIDCurrentCRL)
	if err != nil {
		return nil, err
	}
	if der == nil {
		return nil, backend.Refuse(codes.NotFound, "the CA has no CRL to tell")
	}
	return der, nil
}

// knownChain is the CA's chain as it was last found, nil while it never was.
func (r *running) knownChain() [][]byte {
	if p := r.chain.Load(); p != nil {
		return *p
	}
	return nil
}

// caChain finds the CA's chain: in the file, read again each time, or by asking.
func (r *running) caChain(ctx context.Context) ([][]byte, error) {
	var list []*x509.Certificate
	if r.Chain != "" {
		text, err := read("chain", r.Chain)
		if err == nil {
			list, err = certificates("chain", text)
		}
		if err != nil {
			return nil, err
		}
	} else {
		value, err := r.general(ctx, cmpmsg.OIDCACerts)
		if err != nil {
			return nil, err
		}
		if value == nil {
			return nil, backend.Refuse(codes.FailedPrecondition, "the CA tells no caCerts: name the files of its chain in chain")
		}
		certs, err := cmpmsg.ParseSequences(value)
		if err != nil {
			return nil, backend.Refuse(codes.Internal, "caCerts: %v", err)
		}
		id, err := r.identity()
		if err != nil {
			return nil, err
		}
		if list, err = ordered(parsed(certs), id.trust); err != nil {
			return nil, backend.Refuse(codes.FailedPrecondition, "caCerts: %v: name the files of its chain in chain", err)
		}
	}
	chain, err := linked(list)
	if err != nil {
		return nil, err
	}
	r.chain.Store(&chain)
	return chain, nil
}

// maxTold bounds the CA certificates that are held against each other.
const maxTold = 64

// ordered makes a chain of CA certificates that come in any order: the one that issued none of the others is the issuing CA's.
func ordered(told, trust []*x509.Certificate) ([]*x509.Certificate, error) {
	told = slices.DeleteFunc(slices.Clone(told), func(c *x509.Certificate) bool { return !c.IsCA })
	if len(told) > maxTold {
		return nil, fmt.Errorf("%d CA certificates, at most %d", len(told), maxTold)
	}
	var leaves []*x509.Certificate
	for _, c := range told {
		issues := slices.ContainsFunc(told, func(o *x509.Certificate) bool {
			return !o.Equal(c) && bytes.Equal(o.RawIssuer, c.RawSubject) && o.CheckSignatureFrom(c) == nil
		})
		if !issues {
			leaves = append(leaves, c)
		}
	}
	if len(leaves) != 1 {
		return nil, fmt.Errorf("which of its %d certificates is the issuing CA's is not clear", len(told))
	}
	return append(leaves, parsed(issuers(leaves[0], slices.Concat(told, trust)))...), nil
}

// linked checks a chain: the issuing CA first, the root last.
func linked(list []*x509.Certificate) ([][]byte, error) {
	if len(list) == 0 || len(list) > backend.MaxChain {
		return nil, fmt.Errorf("a chain of %d certificates: 1 to %d", len(list), backend.MaxChain)
	}
	var chain [][]byte
	for i, c := range list {
		if !c.IsCA {
			return nil, fmt.Errorf("chain: certificate %d is no CA's", i+1)
		}
		if i+1 < len(list) && c.CheckSignatureFrom(list[i+1]) != nil {
			return nil, fmt.Errorf("chain: certificate %d is not issued by the next: the issuing CA's comes first, the root last", i+1)
		}
		chain = append(chain, c.Raw)
	}
	if !selfSigned(list[len(list)-1]) {
		return nil, errors.New("chain: it does not end with a root")
	}
	return chain, nil
}
