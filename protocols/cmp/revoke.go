package cmp

import (
	"encoding/asn1"
	"fmt"
	"math/big"

	"golang.org/x/crypto/cryptobyte"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/wire"
)

// revoke answers rr (RFC 9810 section 5.3.9) with rp. Who may revoke which certificate is for the stages to say; that rr is
// signed is not: a secret that several devices may share is no proof of whose certificate it is.
func (x *exchange) revoke(b *cmpmsg.RevReq) *refusal {
	x.Request.Operation = gateway.Revoke
	if x.requester.signer == nil {
		return refused(gateway.WrongProtection, "an rr is signed, with the certificate to be revoked or by an RA; a MAC is no proof of it", nil)
	}
	if n := len(b.Details); n != 1 {
		return refused(gateway.Unsupported, fmt.Sprintf("the rr is about %d certificates: ask for one", n), nil)
	}
	late, ref := x.checkTransaction()
	if ref != nil {
		return ref
	}
	if late != nil {
		x.Request.OnlyRepeat = late.Err
	}
	if ref := x.readTarget(&b.Details[0]); ref != nil {
		return ref
	}
	if ref := x.identified(); ref != nil {
		return ref
	}
	rec, err := x.begin(cmpmsg.TypeRR, &wish{})
	if err != nil {
		return refused(gateway.Internal, "", err)
	}
	if x.Request.Exchange, err = rec.encode(); err != nil {
		return refused(gateway.Internal, "", err)
	}
	x.Request.Content, x.Request.Forwarding = x.Request.Raw, forwarding{x}
	x.Request.Notes = append(x.Request.Notes, x.revocationFacts())

	result, err := x.h.gateway.Revoke(x.R.Context(), x.Request)
	if err != nil {
		e := gateway.AsError(err)
		// The gateway has noted it.
		if late != nil && e.Reason == late.Err.Reason { // the message's fault, not the request's
			return &refusal{Refusal: wire.Refusal{Err: e}, fail: late.fail, noted: true}
		}
		return &refusal{Refusal: wire.Refusal{Err: e}, rejection: true, noted: true}
	}
	if result != nil && result.Kind == gateway.ResultAnswer {
		return x.relayed(result.Answer)
	}
	if result == nil || result.Kind != gateway.ResultRevoked {
		return refused(gateway.Internal, "", fmt.Errorf("the gateway answered a revocation with %+v", result))
	}
	if rec, err = decodeRecord(result.Exchange); err != nil {
		return refused(gateway.Internal, "", fmt.Errorf("transaction %s: %w", result.Transaction, err))
	}
	// The same message names the same certificate, so that a repetition of the answer is the same, byte for byte.
	return x.send(rec.Answer, &cmpmsg.RevRep{
		Statuses: []cmpmsg.PKIStatusInfo{{Status: cmpmsg.StatusAccepted}},
		CertIDs:  []cmpmsg.CertID{x.targetID()},
	}, nil, nil)
}

// readTarget writes into the request which certificate is to be revoked, and why. Issuer and serial number name it, and both
// are needed; what else stands in certDetails says nothing more.
func (x *exchange) readTarget(d *cmpmsg.RevDetails) *refusal {
	t := &d.Certificate
	if isNullDN(t.Issuer) || t.SerialNumber == nil {
		ref := rejected(gateway.UnknownCert, "certDetails names the certificate by issuer and serialNumber: both are needed", nil)
		ref.fail = cmpmsg.AddInfoNotAvailable
		return ref
	}
	if _, err := pkix.ParseName(t.Issuer); err != nil {
		return rejected(gateway.UnknownCert, "the issuer in certDetails does not parse: "+err.Error(), err)
	}
	issuer := t.Issuer
	if own := x.requester.signer; t.SerialNumber.Cmp(own.SerialNumber) == 0 && pkix.SameName(issuer, own.RawIssuer) {
		issuer = own.RawIssuer // in the encoding that it was issued under
	}
	reason, ref := x.readReason(d.Extensions)
	if ref != nil {
		return ref
	}
	x.Request.Target = &gateway.CertID{Issuer: issuer, Serial: t.SerialNumber, Reason: reason}
	return nil
}

var oidReasonCode = asn1.ObjectIdentifier{2, 5, 29, 21}

// readReason reads the CRLReason in crlEntryDetails (RFC 5280 section 5.3.1); without one it is unspecified. What else stands
// there does not get into the CRL: it is refused when it is critical, and else the operator is told.
//
//	CRLReason ::= ENUMERATED { unspecified (0), ..., aACompromise (10) }
func (x *exchange) readReason(der []byte) (int, *refusal) {
	if der == nil {
		return 0, nil
	}
	list, err := pkix.ParseExtensions(der)
	if err != nil {
		return 0, rejected(gateway.Unsupported, "crlEntryDetails does not parse, or says something twice: "+err.Error(), err)
	}
	reason := 0
	for _, e := range list {
		switch {
		case e.Id.Equal(oidReasonCode):
			in := cryptobyte.String(e.Value)
			if !in.ReadASN1Enum(&reason) || !in.Empty() || reason < 0 || reason >= len(gateway.CRLReasons) || reason == 7 {
				return 0, rejected(gateway.Unsupported, "the reasonCode in crlEntryDetails is none of RFC 5280 (0 to 6, 8 to 10)", fmt.Errorf("reasonCode %x", e.Value))
			}
		case e.Critical:
			return 0, rejected(gateway.Unsupported, fmt.Sprintf("crlEntryDetails has the critical extension %v: only a reasonCode is taken", e.Id), nil)
		default:
			x.Request.Notes = append(x.Request.Notes, fmt.Sprintf("the extension %v in crlEntryDetails is left out: the CA is told the reason alone", e.Id))
		}
	}
	return reason, nil
}

// revocationFacts is what the operator is shown of an rr.
func (x *exchange) revocationFacts() string {
	h, t := &x.message.Header, x.Request.Target
	return fmt.Sprintf("rr, pvno %d, %d bytes, signed with %s, %d extraCerts; certificate %x of %s, reason %s",
		h.PVNO, len(x.Request.Raw), pkix.SignatureName(h.ProtectionAlg.Raw), len(x.message.ExtraCerts),
		t.Serial.Bytes(), pkix.FormatName(t.Issuer), gateway.CRLReasons[t.Reason])
}

// targetID is the certificate that an rr names, as it names it.
func (x *exchange) targetID() cmpmsg.CertID {
	t := &x.message.Body.(*cmpmsg.RevReq).Details[0].Certificate
	return cmpmsg.CertID{Issuer: cmpmsg.GeneralDirectoryName(t.Issuer), Serial: new(big.Int).Set(t.SerialNumber)}
}

// revocationRefused is the rp that refuses an rr (RFC 9810 section 5.3.10).
func revocationRefused(status cmpmsg.PKIStatusInfo) *cmpmsg.RevRep {
	return &cmpmsg.RevRep{Statuses: []cmpmsg.PKIStatusInfo{status}}
}
