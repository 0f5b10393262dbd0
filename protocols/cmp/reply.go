package cmp

import (
	"crypto/x509"
	"errors"
	"math/big"
	"net/http"
	"slices"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/wire"
)

// answerTo is the body that answers a request (RFC 9810 section 5.1.2).
func answerTo(t cmpmsg.BodyType) cmpmsg.BodyType {
	switch t {
	case cmpmsg.TypeIR:
		return cmpmsg.TypeIP
	case cmpmsg.TypeKUR:
		return cmpmsg.TypeKUP
	default: // cr, p10cr
		return cmpmsg.TypeCP
	}
}

// sendCertificate answers with the certificate. p holds the random parts: those of the record, or of a later poll.
// Nothing else in it depends on when it is made, so that a repetition is the same, byte for byte. until is when the time to
// confirm ends. key is the EnvelopedData of a key that was made for the requester.
func (x *exchange) sendCertificate(rec *record, p parts, cert *x509.Certificate, chain []*x509.Certificate, unconfirmed bool, until time.Time, key []byte) *refusal {
	status := cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusAccepted}
	if changes := rec.Wish.changes(cert); changes != nil {
		status = cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusGrantedWithMods, Text: []string{modified(changes)}}
	}
	response := cmpmsg.CertResponse{ReqID: big.NewInt(rec.ReqID), Status: status, Certificate: cert.Raw}
	if rec.Envelope != nil {
		var err error
		response.Certificate = nil
		if response.EncrCert, err = rec.encrypt(cert); err != nil {
			return refused(gateway.Internal, "", err)
		}
	}
	if rec.KeyGen {
		if key == nil { // the transaction is over; a certificate without its key is of no use
			return &refusal{Refusal: *wire.Refused(gateway.DuplicateCert, keyGiven, nil), rejection: true}
		}
		response.PrivateKey = encryptedKey(key)
	}
	body := &cmpmsg.CertRepMessage{Kind: answerTo(rec.Body), Responses: []cmpmsg.CertResponse{response}}
	if x.endpoint.Config.CAPubs || rec.Body == cmpmsg.TypeIR && x.answersWithMAC() {
		if root := rootOf(chain); root != nil {
			body.CAPubs = [][]byte{root.Raw}
		}
	}
	var info []cmpmsg.InfoTypeAndValue
	switch {
	case rec.Implicit && !unconfirmed:
		info = append(info, implicitConfirm())
	case !rec.Implicit && rec.TellWait && !until.IsZero():
		info = append(info, confirmWaitTime(until))
	}
	return x.send(p, body, info, chain)
}

// rootOf is the self-signed certificate at the end of a chain, nil when it has none.
func rootOf(chain []*x509.Certificate) *x509.Certificate {
	if len(chain) == 0 {
		return nil
	}
	last := chain[len(chain)-1]
	if !pkix.SameName(last.RawSubject, last.RawIssuer) {
		return nil
	}
	return last
}

// sendWaiting answers that the request is not decided yet (RFC 9810 section 5.3.22).
func (x *exchange) sendWaiting(rec *record, transaction string) *refusal {
	return x.send(rec.Answer, &cmpmsg.CertRepMessage{Kind: answerTo(rec.Body), Responses: []cmpmsg.CertResponse{{
		ReqID:  big.NewInt(rec.ReqID),
		Status: cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusWaiting, Text: []string{wire.Line("the request is not decided yet: send pollReq", transaction)}},
	}}}, nil, nil)
}

// send protects and sends an answer.
func (x *exchange) send(p parts, body cmpmsg.Body, info []cmpmsg.InfoTypeAndValue, chain []*x509.Certificate) *refusal {
	der, err := x.render(p, body, info, chain)
	if err != nil {
		return refused(gateway.Internal, "", err)
	}
	x.Write(http.StatusOK, typePKIXCMP, der)
	return nil
}

// failure renders a refusal: in the body that answers the request when it is about that request alone, else in an error.
func (x *exchange) failure(e *gateway.Error, ref *refusal) ([]byte, error) {
	p, err := x.h.parts()
	if err != nil {
		return nil, err
	}
	if x.goingOn != nil {
		// The client's next message has the nonce of this failure as its recipNonce, and the transaction may well go on.
		p.Nonce = x.goingOn.mark(p.Nonce)
	}
	status := statusInfo(e, ref.fail)
	if ref.rejection && x.message != nil && x.message.Body != nil {
		if x.message.Body.Type() == cmpmsg.TypeRR {
			return x.render(p, revocationRefused(status), nil, nil)
		}
		return x.render(p, &cmpmsg.CertRepMessage{Kind: answerTo(x.message.Body.Type()), Responses: []cmpmsg.CertResponse{{
			ReqID: big.NewInt(x.reqID), Status: status,
		}}}, nil, nil)
	}
	return x.render(p, &cmpmsg.ErrorMsg{Status: status}, nil, nil)
}

// answersWithMAC reports whether the answer is protected by a MAC: as the request was, when it is known that it was.
func (x *exchange) answersWithMAC() bool {
	return x.requester != nil && x.requester.mac != nil && x.endpoint.Config.Protection != ProtectSignature
}

// render makes the DER of a protected answer. The same arguments give the same bytes: signatures are deterministic, and
// the MAC's salt is one of them.
func (x *exchange) render(p parts, body cmpmsg.Body, info []cmpmsg.InfoTypeAndValue, chain []*x509.Certificate) ([]byte, error) {
	out := &cmpmsg.Outgoing{
		Header: cmpmsg.Header{
			PVNO: x.pvno, Sender: cmpmsg.GeneralDirectoryName(x.identity.Certificate.RawSubject), Recipient: cmpmsg.GeneralDirectoryName(nullDN[:]),
			MessageTime: p.time(), TransactionID: x.transactionID, SenderNonce: p.Nonce, GeneralInfo: info,
		},
		Body: body,
	}
	out.Header.RecipNonce = x.recalled
	if m := x.message; m != nil {
		out.Header.Recipient = m.Header.Sender
		out.Header.RecipNonce = m.Header.SenderNonce
	}
	var extra []*x509.Certificate
	var protect func([]byte) ([]byte, error)
	if x.answersWithMAC() {
		// RFC 9810 section 5.1.3.1 recommends the parameters of the request. senderKID names the secret.
		mac := x.requester.mac.Again(p.Salt)
		alg := mac.Algorithm()
		out.Header.ProtectionAlg, out.Header.SenderKID = &alg, x.requester.reference
		protect = func(part []byte) ([]byte, error) { return mac.Sum(x.requester.secret, part), nil }
	} else {
		der, err := pkix.SignatureAlgorithm(x.identity.Key)
		if err != nil {
			return nil, err
		}
		out.Header.ProtectionAlg = &cmpmsg.AlgorithmIdentifier{Raw: der}
		out.Header.SenderKID = x.identity.Certificate.SubjectKeyId
		extra = append(append(extra, x.identity.Certificate), x.identity.Chain...)
		protect = func(part []byte) ([]byte, error) {
			alg, signature, err := pkix.Sign(x.identity.Key, part)
			if err == nil && string(alg) != string(der) {
				err = errors.New("the key signs with another algorithm than it says")
			}
			return signature, err
		}
	}
	out.ExtraCerts = distinct(x.crossed(extra, chain))
	return out.Protect(protect)
}

// crossed puts before each chain's root what leads from it to the roots of other generations, where there are any
// (NewWithOld, RFC 9810 section 5.3.13): a device may trust one of these alone. The root goes last, since OpenSSL takes the
// first issuer that it comes across, and ends its path at a root; it has to be there for who is given his root so (3GPP TS
// 33.310 clause 9).
func (x *exchange) crossed(chains ...[]*x509.Certificate) []*x509.Certificate {
	var certs []*x509.Certificate
	for _, chain := range chains {
		if n := len(chain); n > 0 {
			if crosses := x.h.gateway.CrossCertificates(x.R.Context(), x.Request.Endpoint, chain); len(crosses) > 0 {
				chain = slices.Concat(chain[:n-1], crosses, chain[n-1:])
			}
		}
		certs = append(certs, chain...)
	}
	return certs
}

// distinct is the DER of each certificate once, in order: the signer first (RFC 9810 section 5.1).
func distinct(certs []*x509.Certificate) [][]byte {
	var list [][]byte
	seen := map[string]bool{}
	for _, c := range certs {
		if !seen[string(c.Raw)] {
			seen[string(c.Raw)] = true
			list = append(list, c.Raw)
		}
	}
	return list
}
