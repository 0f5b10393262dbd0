package cmp

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/wire"
)

// passed is what a transaction whose messages are passed on has in its record beside what all have.
type passed struct {
	Key    []byte `json:"k,omitempty"` // SHA-256 of the SubjectPublicKeyInfo that is to be certified; none for rr
	Issuer []byte `json:"i,omitempty"` // rr: DER Name, as the request has it
	Serial []byte `json:"s,omitempty"` // rr
	Reason int    `json:"r,omitempty"` // rr: CRLReason

	Certified bool   `json:"c,omitempty"` // an answer had a certificate, which waits for certConf
	First     []byte `json:"f,omitempty"` // the answer to the message that began the transaction
	Later     []byte `json:"l,omitempty"` // SHA-256 of the last message after it that was answered
	Last      []byte `json:"a,omitempty"` // the answer to that
}

// passes makes the part of the record of a request that is passed on, nil for one that is not.
func (x *exchange) passes() *passed {
	r := x.Request
	if x.h.gateway.ForwardsTo(r.Endpoint, r.Operation) == "" {
		return nil
	}
	p := &passed{}
	if t := r.Target; t != nil {
		p.Issuer, p.Serial, p.Reason = t.Issuer, t.Serial.Bytes(), t.Reason
		return p
	}
	sum := sha256.Sum256(r.PublicKey)
	p.Key = sum[:]
	return p
}

// identified refuses a request to be passed on that has no transactionID: the one that is made of the message here is known to
// nobody else.
func (x *exchange) identified() *refusal {
	if x.message.Header.TransactionID != nil || x.h.gateway.ForwardsTo(x.Request.Endpoint, x.Request.Operation) == "" {
		return nil
	}
	return refused(gateway.Malformed, "the message is passed on from here and needs a transactionID of its own, 16 random bytes best", nil)
}

// relayed gives back an answer that came from elsewhere, byte for byte.
func (x *exchange) relayed(answer []byte) *refusal {
	x.Write(http.StatusOK, typePKIXCMP, answer)
	return nil
}

// passOn passes a later message of a transaction on: certConf, pollReq, error. Only who began it goes on with it. What its nonces
// have to be is known where the answers are made.
func (x *exchange) passOn(p *prior) *refusal {
	x.Request.Operation, x.reqID = p.Operation, p.record.ReqID
	if !p.record.begunBy(x.requester) {
		return refused(gateway.NotAuthorized, "the transaction was begun by another requester: protect the message with the same secret or certificate as the request", nil)
	}
	f := forwarding{x}
	if f.Answered(p.Exchange) == nil {
		if ref := x.checkTime(); ref != nil {
			return ref
		}
		switch {
		case p.State == gateway.StateForwarded:
		case p.State == gateway.StateIssued:
			return failing(cmpmsg.CertConfirmed, gateway.Unsupported, "the certificate is confirmed already, or waits for no confirmation")
		case p.State == gateway.StateRejected:
			return refused(gateway.Revoked, "the certificate was rejected, or not confirmed in time", nil)
		default:
			return refused(gateway.Unsupported, "the transaction is over", nil)
		}
	}
	x.Request.Forwarding = f
	result, err := x.h.gateway.Forward(x.R.Context(), p.ID, x.Request)
	switch {
	case err != nil:
		return &refusal{Refusal: wire.Refusal{Err: gateway.AsError(err)}, noted: true}
	case result == nil || result.Kind != gateway.ResultAnswer:
		return refused(gateway.Internal, "", fmt.Errorf("a message that was passed on was answered with %+v", result))
	}
	return x.relayed(result.Answer)
}

// forwarding is gateway.Forwarding for one message.
type forwarding struct{ x *exchange }

// Answered is gateway.Forwarding.
func (f forwarding) Answered(exchange []byte) []byte {
	rec, err := decodeRecord(exchange)
	switch {
	case err != nil || rec.Forward == nil:
		return nil
	case bytes.Equal(rec.Message, f.x.hash):
		return rec.Forward.First
	case bytes.Equal(rec.Forward.Later, f.x.hash):
		return rec.Forward.Last
	}
	return nil
}

// Judge is gateway.Forwarding: it holds an answer against the message that was passed on, and says what it means for the
// transaction. Whether its sender is to be trusted is for the device, whose trust anchors nobody here knows; what can be verified
// here is.
func (f forwarding) Judge(exchange, answer []byte) (*gateway.Forwarded, error) {
	rec, err := decodeRecord(exchange)
	if err == nil && rec.Forward == nil {
		err = errors.New("the transaction began as one that is answered here")
	}
	if err != nil {
		return nil, err
	}
	m, err := cmpmsg.Parse(answer)
	if err != nil {
		return nil, fmt.Errorf("it does not parse: %w", err)
	}
	if err := errors.Join(f.header(rec, m), f.protection(m)); err != nil {
		return nil, err
	}
	next := *rec.Forward
	a := &judging{x: f.x, rec: rec, answer: m, next: &next}
	out, err := a.body()
	if err != nil {
		return out, err
	}
	if bytes.Equal(rec.Message, f.x.hash) {
		next.First = answer
	} else {
		next.Later, next.Last = f.x.hash, answer
	}
	kept := *rec
	kept.Forward = &next
	if out.Exchange, err = kept.encode(); err != nil {
		return nil, err
	}
	return out, nil
}

// header holds an answer's header against the message's (RFC 9810 section 5.1.1). What comes in the end of polling may have for its
// recipNonce the senderNonce of the message that began the transaction, whose answer it is: RAs and clients take either.
func (f forwarding) header(rec *record, answer *cmpmsg.Message) error {
	h, asked := &answer.Header, &f.x.message.Header
	_, polled := f.x.message.Body.(*cmpmsg.PollReq)
	_, waits := answer.Body.(*cmpmsg.PollRep)
	switch {
	case h.PVNO < minPVNO || h.PVNO > maxPVNO:
		return fmt.Errorf("its version is %d", h.PVNO)
	case !bytes.Equal(h.TransactionID, f.x.transactionID):
		return errors.New("its transactionID is another one")
	case !bytes.Equal(h.RecipNonce, asked.SenderNonce) && !(polled && !waits && bytes.Equal(h.RecipNonce, rec.ClientNonce)):
		return errors.New("its recipNonce is not the senderNonce of the message that was passed on")
	case len(h.SenderNonce) < nonceSize || len(h.SenderNonce) > maxNonce:
		return fmt.Errorf("its senderNonce has %d bytes", len(h.SenderNonce))
	}
	return nil
}

// protection verifies an answer's protection as far as that can be done here: a MAC under the secret that the requester has
// shown, a signature with the sender's certificate where the answer brings it.
func (f forwarding) protection(m *cmpmsg.Message) error {
	x, h := f.x, &m.Header
	if h.ProtectionAlg == nil || m.Protection == nil {
		return errors.New("it is not protected")
	}
	if h.ProtectionAlg.IsMAC() {
		mac, err := cmpmsg.ParseMAC(h.ProtectionAlg, x.macPolicy())
		if err != nil {
			return fmt.Errorf("its MAC: %w", err)
		}
		q := x.requester
		if q.mac == nil || h.SenderKID != nil && !bytes.Equal(h.SenderKID, q.reference) {
			return nil // under a secret that is not known here
		}
		if !mac.Verify(q.secret, m.Protected(), m.Protection) {
			return errors.New("its MAC is not made with the requester's secret")
		}
		return nil
	}
	sender, ok := cmpmsg.DirectoryName(h.Sender)
	if !ok {
		return errors.New("it is signed, and its sender is not a directoryName")
	}
	candidates := signers(parseExtraCerts(m.ExtraCerts), sender, h.SenderKID)
	var first error
	for _, c := range candidates[:min(len(candidates), maxCandidates)] {
		err := x.checkSignature(c.RawSubjectPublicKeyInfo, h.ProtectionAlg, m.Protected(), m.Protection)
		if err == nil {
			return nil
		}
		if first == nil {
			first = fmt.Errorf("its signature does not verify with the certificate of %s: %w", pkix.FormatName(c.RawSubject), err)
		}
	}
	return first
}

// judging is one answer, before its record is made.
type judging struct {
	x      *exchange
	rec    *record
	answer *cmpmsg.Message
	next   *passed
}

// body says what an answer means (RFC 9810 section 5.1.2): which bodies answer which.
func (a *judging) body() (*gateway.Forwarded, error) {
	switch b := a.x.message.Body.(type) {
	case *cmpmsg.CertConf:
		return a.confirmed(rejects(b))
	case *cmpmsg.ErrorMsg:
		return a.confirmed(true)
	case *cmpmsg.PollReq:
		switch rep := a.answer.Body.(type) {
		case *cmpmsg.PollRep:
			if len(rep.Responses) != 1 || !a.asked(rep.Responses[0].ReqID) && rep.Responses[0].ReqID.Cmp(big.NewInt(-1)) != 0 {
				return nil, errors.New("its pollRep is not about the one request")
			}
			return open("waits: asked again after %d s", rep.Responses[0].CheckAfter), nil
		case *cmpmsg.ErrorMsg: // about the message: what is waited for may still come
			return open("pollReq was answered with an error: %s", words(rep.Status)), nil
		}
	}
	switch b := a.answer.Body.(type) {
	case *cmpmsg.ErrorMsg:
		if b.Status.Status == cmpmsg.StatusWaiting { // delayed delivery of other bodies (RFC 9810 section 5.3.22)
			return open("waits: %s", words(b.Status)), nil
		}
		return failed(b.Status), nil
	case *cmpmsg.CertRepMessage:
		if a.rec.Body != cmpmsg.TypeRR && b.Kind == answerTo(a.rec.Body) {
			return a.certified(b)
		}
	case *cmpmsg.RevRep:
		if a.rec.Body == cmpmsg.TypeRR {
			return a.revoked(b)
		}
	}
	return nil, fmt.Errorf("%s does not answer %s", a.answer.Body.Type(), a.x.message.Body.Type())
}

// certified judges ip, cp and kup. That a certificate has the key that was asked for is what counts: under another one the
// device's name would be somebody else's.
func (a *judging) certified(b *cmpmsg.CertRepMessage) (*gateway.Forwarded, error) {
	if len(b.Responses) != 1 || !a.asked(b.Responses[0].ReqID) {
		return nil, errors.New("it does not answer the one request, by its certReqId")
	}
	r := &b.Responses[0]
	if r.EncrCert != nil || r.PrivateKey != nil {
		return nil, errors.New("it has an encrypted certificate or a private key, which nobody has asked for")
	}
	switch r.Status.Status {
	case cmpmsg.StatusAccepted, cmpmsg.StatusGrantedWithMods:
	case cmpmsg.StatusWaiting, cmpmsg.StatusRejection:
		if r.Certificate != nil {
			return nil, errors.New("it has a certificate and does not grant it")
		}
		if r.Status.Status == cmpmsg.StatusWaiting {
			return open("waits: %s", words(r.Status)), nil
		}
		return failed(r.Status), nil
	default:
		return nil, fmt.Errorf("its status is %d", r.Status.Status)
	}
	if r.Certificate == nil {
		return nil, errors.New("it grants a certificate and has none")
	}
	cert, err := x509.ParseCertificate(r.Certificate)
	if err != nil {
		return nil, fmt.Errorf("its certificate does not parse: %w", err)
	}
	if cert.SerialNumber.Sign() <= 0 { // RFC 5280 section 4.1.2.2
		return nil, fmt.Errorf("its certificate has the serial number %d", cert.SerialNumber)
	}
	if a.x.Request.Received.After(cert.NotAfter) {
		return nil, fmt.Errorf("its certificate %x of %s expired at %s", cert.SerialNumber, pkix.FormatName(cert.RawIssuer), cert.NotAfter.UTC().Format(time.RFC3339))
	}
	chain := issuers(cert, slices.Concat(a.answer.ExtraCerts, b.CAPubs))
	out := &gateway.Forwarded{Certificate: cert, Chain: chain}
	if sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo); !bytes.Equal(sum[:], a.rec.Forward.Key) {
		return out, fmt.Errorf("its certificate %x of %s has another public key", cert.SerialNumber, pkix.FormatName(cert.RawIssuer))
	}
	if cert.IsCA {
		return out, fmt.Errorf("its certificate %x of %s is a CA's", cert.SerialNumber, pkix.FormatName(cert.RawIssuer))
	}
	a.next.Certified = true
	out.State, out.Note = gateway.StateForwarded, fmt.Sprintf("certificate %x, certConf to follow", cert.SerialNumber)
	if asks(&a.answer.Header, cmpmsg.OIDImplicitConfirm) {
		out.State, out.Note = gateway.StateIssued, fmt.Sprintf("certificate %x, implicitConfirm granted", cert.SerialNumber)
	}
	return out, nil
}

// revoked judges rp.
func (a *judging) revoked(b *cmpmsg.RevRep) (*gateway.Forwarded, error) {
	f := a.rec.Forward
	if len(b.Statuses) != 1 || len(b.CertIDs) > 1 || len(b.CertIDs) == 1 && !f.names(&b.CertIDs[0]) {
		return nil, errors.New("it is not about the one certificate")
	}
	switch s := b.Statuses[0]; s.Status {
	case cmpmsg.StatusAccepted, cmpmsg.StatusGrantedWithMods, cmpmsg.StatusRevocationNotification:
		return &gateway.Forwarded{State: gateway.StateRevoked, Note: fmt.Sprintf("certificate %x revoked", f.Serial),
			Revokes: &gateway.CertID{Issuer: f.Issuer, Serial: new(big.Int).SetBytes(f.Serial), Reason: f.Reason}}, nil
	case cmpmsg.StatusWaiting, cmpmsg.StatusRevocationWarning:
		return open("waits: %s", words(s)), nil
	case cmpmsg.StatusRejection:
		return failed(s), nil
	default:
		return nil, fmt.Errorf("its status is %d", s.Status)
	}
}

// names reports whether a CertId is that of the certificate to be revoked.
func (p *passed) names(id *cmpmsg.CertID) bool {
	issuer, ok := cmpmsg.DirectoryName(id.Issuer)
	return ok && pkix.SameName(issuer, p.Issuer) && id.Serial.Cmp(new(big.Int).SetBytes(p.Serial)) == 0
}

// confirmed judges the answer to certConf, or to an error of the client's; gives says that it gives the certificate up. An error
// is about the message, and leaves the transaction as it was, unless it says how that has ended.
func (a *judging) confirmed(gives bool) (*gateway.Forwarded, error) {
	rejected := &gateway.Forwarded{State: gateway.StateRejected, Note: "the client did not take the certificate"}
	if !a.rec.Forward.Certified {
		rejected = &gateway.Forwarded{State: gateway.StateFailed, Reason: gateway.NotAuthorized, Note: "the client ended the transaction"}
	}
	switch b := a.answer.Body.(type) {
	case *cmpmsg.PKIConf:
		if gives {
			return rejected, nil
		}
		if !a.rec.Forward.Certified {
			return nil, errors.New("it confirms a certificate that there is not")
		}
		return &gateway.Forwarded{State: gateway.StateIssued, Note: "confirmed by the client"}, nil
	case *cmpmsg.ErrorMsg:
		switch {
		case b.Status.FailInfo&cmpmsg.CertConfirmed != 0 && a.rec.Forward.Certified:
			return &gateway.Forwarded{State: gateway.StateIssued, Note: "confirmed before: " + words(b.Status)}, nil
		case b.Status.FailInfo&(cmpmsg.CertRevoked|cmpmsg.BadCertID) != 0:
			rejected.Note = "the certificate was given up: " + words(b.Status)
			return rejected, nil
		}
		return open("%s was answered with an error: %s", a.x.message.Body.Type(), words(b.Status)), nil
	}
	return nil, fmt.Errorf("%s does not answer %s", a.answer.Body.Type(), a.x.message.Body.Type())
}

// asked reports whether a certReqId is the request's. Some answer p10cr with 0 in the place of -1.
func (a *judging) asked(id *big.Int) bool {
	return id.IsInt64() && (id.Int64() == a.rec.ReqID || a.rec.Body == cmpmsg.TypeP10CR && id.Sign() == 0)
}

// rejects reports whether a certConf gives the certificate up (RFC 9810 section 5.3.18).
func rejects(b *cmpmsg.CertConf) bool {
	return !slices.ContainsFunc(b.Statuses, func(s cmpmsg.CertStatus) bool {
		return s.Status == nil || s.Status.Status != cmpmsg.StatusRejection
	})
}

func open(format string, args ...any) *gateway.Forwarded {
	return &gateway.Forwarded{State: gateway.StateForwarded, Note: fmt.Sprintf(format, args...)}
}

func failed(s cmpmsg.PKIStatusInfo) *gateway.Forwarded {
	return &gateway.Forwarded{State: gateway.StateFailed, Reason: gateway.NotAuthorized, Note: "refused there: " + words(s)}
}

// issuers finds the chain of a certificate among others, its issuer first, as far as it is there.
func issuers(cert *x509.Certificate, others [][]byte) []*x509.Certificate {
	pool := parseExtraCerts(others)
	var chain []*x509.Certificate
	for last := cert; !bytes.Equal(last.RawIssuer, last.RawSubject) && len(chain) < maxExtraCerts; last = chain[len(chain)-1] {
		i := slices.IndexFunc(pool, func(c *x509.Certificate) bool {
			return bytes.Equal(c.RawSubject, last.RawIssuer) && last.CheckSignatureFrom(c) == nil
		})
		if i < 0 {
			break
		}
		chain = append(chain, pool[i])
	}
	return chain
}
