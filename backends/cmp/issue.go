package cmp

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"math/big"
	"slices"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/upstream"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// Issue is backend.Backend: one transaction, the confirmation included.
func (ca *CA) Issue(ctx context.Context, i *backend.IssueRequest) (*backend.Issuance, error) {
	r, err := ca.asks(ctx, "Issue")
	if err != nil {
		return nil, err
	}
	q, err := r.request(i, r.knownChain())
	if err != nil {
		return nil, backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, backend.Refuse(codes.Canceled, "%v", err)
	}
	first := r.asked.begin(i.ID)
	a, err := r.issue(ctx, i, q)
	if first && backend.Definite(err) {
		r.asked.refused(i.ID)
	}
	return a, err
}

// Lookup is backend.Backend. A CA has no question for what became of a transaction whose answer was lost. One that repeats its answer
// is sent the very message again: it gives the certificate that there is, or issues what was to be issued anyway.
//
// A refusal says nothing of what came before it: the CA may have issued the first time, and refuse by now.
func (ca *CA) Lookup(ctx context.Context, i *backend.IssueRequest) (*backend.Outcome, error) {
	r, err := ca.asks(ctx, "Lookup")
	switch {
	case err != nil:
		return nil, err
	case !r.Repeats:
		return nil, backend.Refuse(codes.Unimplemented, "the configuration does not say that the CA repeats its answers (repeats: true)")
	case i.Asked.IsZero() && !r.asked.knows(i.ID):
		return &backend.Outcome{State: backend.OutcomeNever}, nil
	}
	q, err := r.request(i, nil)
	if err != nil {
		return nil, backend.Refuse(codes.Unavailable, "%v", err)
	}
	a, err := r.issue(ctx, i, q)
	switch {
	case backend.Definite(err):
		return nil, backend.Refuse(codes.Unavailable, "asked again: %v", err)
	case err != nil:
		return nil, err
	case a.Certificate == nil:
		return &backend.Outcome{State: backend.OutcomePending, Issuance: a}, nil
	}
	return &backend.Outcome{State: backend.OutcomeIssued, Issuance: a}, nil
}

func (r *running) issue(ctx context.Context, i *backend.IssueRequest, q *request) (*backend.Issuance, error) {
	d, err := r.dialogue(transactionID(i.ID))
	if err != nil {
		return nil, err
	}
	a, err := d.say(ctx, q.body, q.parts, q.info...)
	if err != nil {
		return nil, err
	}
	age := r.now().Sub(q.parts.at)
	switch b := a.Body.(type) {
	case *cmpmsg.ErrorMsg:
		if b.Status.Status == cmpmsg.StatusWaiting && a.proved { // delayed delivery (RFC 9810 section 5.3.22)
			return d.ticket(q, 0)
		}
		return nil, a.refusal(b.Status, age)
	case *cmpmsg.CertRepMessage:
		s, err := a.one(b, q)
		switch {
		case err != nil:
			return nil, err
		case s.Status.Status == cmpmsg.StatusWaiting:
			return d.ticket(q, 0)
		case s.Status.Status == cmpmsg.StatusRejection:
			return nil, a.refusal(s.Status, age)
		}
		return d.certified(ctx, i, a, b, s)
	}
	return nil, a.unexpected(r.Request)
}

// one is the response to the request.
func (r *reply) one(b *cmpmsg.CertRepMessage, q *request) (*cmpmsg.CertResponse, error) {
	if b.Kind != q.answer {
		return nil, r.unexpected("the request")
	}
	if len(b.Responses) != 1 {
		return nil, backend.Refuse(codes.Internal, "%s has %d responses to one request", b.Kind, len(b.Responses))
	}
	s := &b.Responses[0]
	// Some answer p10cr with 0 in the place of -1.
	if id := s.ReqID; id.Cmp(q.reqID) != 0 && !(q.reqID.Sign() < 0 && id.Sign() == 0) {
		return nil, backend.Refuse(codes.Internal, "%s answers certReqId %d, not %d", b.Kind, id, q.reqID)
	}
	switch st := s.Status.Status; {
	case (st == cmpmsg.StatusWaiting || st == cmpmsg.StatusRejection) && s.Certificate == nil:
	case st != cmpmsg.StatusAccepted && st != cmpmsg.StatusGrantedWithMods:
		return nil, backend.Refuse(codes.Internal, "%s: %s", b.Kind, words(s.Status))
	case s.Certificate == nil || s.EncrCert != nil || s.PrivateKey != nil:
		return nil, backend.Refuse(codes.Internal, "%s grants no certificate in the clear, or a key that nobody has asked for", b.Kind)
	}
	return s, nil
}

// certified takes a certificate, and confirms it where the CA waits for that. One for another key is rejected, and given to the gateway,
// which knows what to do with it.
func (d *dialogue) certified(ctx context.Context, i *backend.IssueRequest, a *reply, b *cmpmsg.CertRepMessage, s *cmpmsg.CertResponse) (*backend.Issuance, error) {
	leaf, err := x509.ParseCertificate(s.Certificate)
	if err != nil {
		return nil, backend.Refuse(codes.Internal, "its certificate does not parse: %v", err)
	}
	d.issued.note(leaf, d.now())
	out := &backend.Issuance{Certificate: bytes.Clone(s.Certificate), Chain: d.chainOf(ctx, leaf, slices.Concat(a.ExtraCerts, b.CAPubs))}
	if _, implicit := a.Header.Info(cmpmsg.OIDImplicitConfirm); implicit {
		return out, nil
	}
	takes := bytes.Equal(leaf.RawSubjectPublicKeyInfo, i.Template.PublicKey)
	return out, d.confirm(ctx, s.Certificate, s.ReqID, takes)
}

// confirms is how often a certConf is sent whose answer does not come.
const confirms = 3

// confirm sends certConf and waits for pkiConf (RFC 9810 section 5.3.18). Without an answer the CA may revoke the certificate: what
// became of it is unknown then.
func (d *dialogue) confirm(ctx context.Context, cert []byte, reqID *big.Int, takes bool) error {
	algorithm, err := cmpmsg.CertificateAlgorithm(cert)
	if err != nil {
		return backend.Refuse(codes.Internal, "%v", err)
	}
	hash, err := pkix.SignatureHash(algorithm)
	if err != nil {
		return backend.Refuse(codes.Internal, "the certificate cannot be confirmed: %v", err)
	}
	h := hash.New()
	h.Write(cert)
	status := cmpmsg.CertStatus{CertHash: h.Sum(nil), ReqID: reqID}
	if !takes {
		status.Status = &cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusRejection, FailInfo: cmpmsg.BadCertTemplate, Text: []string{"another public key than asked for"}}
	}
	p := d.fresh()
	var a *reply
	for range confirms {
		if a, err = d.say(ctx, &cmpmsg.CertConf{Statuses: []cmpmsg.CertStatus{status}}, p); err == nil {
			break
		}
	}
	switch {
	case err != nil:
		return backend.Refuse(codes.Unavailable, "the certificate was issued, and its confirmation not answered: %v", err)
	case a.Body.Type() == cmpmsg.TypePKIConf:
		return nil
	}
	if e, ok := a.Body.(*cmpmsg.ErrorMsg); ok {
		if a.proved && e.Status.FailInfo&cmpmsg.CertConfirmed != 0 { // another call, or an earlier one, was first
			return nil
		}
		return backend.Refuse(codes.Unavailable, "the certificate was issued, and its confirmation not taken: %s", words(e.Status))
	}
	return a.unexpected("certConf")
}

// ticket is what Poll has to know: the transaction, the nonces, the request. JSON, at most backend.MaxTicket.
type ticket struct {
	Transaction []byte          `json:"t"`
	First       []byte          `json:"f"` // senderNonce of the request
	Peer        []byte          `json:"p"` // the CA's last senderNonce
	ReqID       int64           `json:"i"`
	Answer      cmpmsg.BodyType `json:"a"`
}

// defaultCheck is when to poll where the CA has not said so yet; checks are kept within the bounds.
const (
	defaultCheck = 30 * time.Second
	minCheck     = time.Second
	maxCheck     = 24 * time.Hour
)

// ticket is the answer of a transaction that waits. after is checkAfter, 0 where the CA has not said.
func (d *dialogue) ticket(q *request, after time.Duration) (*backend.Issuance, error) {
	if after == 0 {
		after = minCheck // the pollRep says when
	}
	der, err := json.Marshal(ticket{d.tid, d.first, d.peer, q.reqID.Int64(), q.answer})
	if err != nil {
		return nil, backend.Refuse(codes.Internal, "%v", err)
	}
	return &backend.Issuance{Ticket: string(der), RetryAfter: min(max(after, minCheck), maxCheck)}, nil
}

// Poll is backend.Backend.
func (ca *CA) Poll(ctx context.Context, i *backend.IssueRequest, text string) (*backend.Issuance, error) {
	r, err := ca.asks(ctx, "Poll")
	if err != nil {
		return nil, err
	}
	var t ticket
	if err := json.Unmarshal([]byte(text), &t); err != nil || !bytes.Equal(t.Transaction, transactionID(i.ID)) {
		return nil, backend.Refuse(codes.Internal, "the ticket is none of this request's")
	}
	d, err := r.dialogue(t.Transaction)
	if err != nil {
		return nil, err
	}
	d.first, d.peer = t.First, t.Peer
	q := &request{reqID: big.NewInt(t.ReqID), answer: t.Answer}
	a, err := d.say(ctx, &cmpmsg.PollReq{ReqIDs: []*big.Int{q.reqID}}, r.fresh())
	if err != nil {
		return nil, backend.Refuse(codes.Unavailable, "%v", err) // no error of a message is the CA's refusal of the request
	}
	switch b := a.Body.(type) {
	case *cmpmsg.PollRep:
		if len(b.Responses) != 1 {
			return nil, backend.Refuse(codes.Internal, "pollRep has %d responses to one request", len(b.Responses))
		}
		after := time.Duration(b.Responses[0].CheckAfter) * time.Second
		return d.ticket(q, max(after, minCheck))
	case *cmpmsg.ErrorMsg: // about the message: what is waited for may still come
		if b.Status.Status == cmpmsg.StatusWaiting && a.proved {
			return d.ticket(q, defaultCheck)
		}
		return nil, backend.Refuse(codes.Unavailable, "pollReq was answered with an error: %s", words(b.Status))
	case *cmpmsg.CertRepMessage:
		s, err := a.one(b, q)
		switch {
		case err != nil:
			return nil, err
		case s.Status.Status == cmpmsg.StatusWaiting:
			return d.ticket(q, defaultCheck)
		case s.Status.Status == cmpmsg.StatusRejection:
			return nil, a.refusedLater(s.Status)
		}
		return d.certified(ctx, i, a, b, s)
	}
	return nil, a.unexpected("pollReq")
}

// chainOf is the chain of a certificate: the CA's own where that issued it, else as far as the answer's certificates, those of the CA's other
// generations and trust lead. Whether it is one of the CA's is for the gateway to say.
func (d *dialogue) chainOf(ctx context.Context, leaf *x509.Certificate, others [][]byte) [][]byte {
	ca := d.found.Load()
	if ca == nil {
		if ca, _ = d.authority(ctx); ca == nil {
			ca = new(authority)
		}
	}
	if len(ca.chain) > 0 {
		if c, err := x509.ParseCertificate(ca.chain[0]); err == nil && leaf.CheckSignatureFrom(c) == nil {
			return ca.chain
		}
	}
	pool := slices.Concat(parsed(others), parsed(ca.chain), parsed(ca.rollover), d.id.trust)
	if up := upstream.Bag(pool).Above(leaf); up != nil { // generations lead to each other in circles
		return up.DER()
	}
	return issuers(leaf, pool)
}

// issuers is the way from a certificate up to a root, among others: its issuer first.
func issuers(leaf *x509.Certificate, pool []*x509.Certificate) (chain [][]byte) {
	for last := leaf; !selfSigned(last) && len(chain) < backend.MaxChain; {
		at := slices.IndexFunc(pool, func(c *x509.Certificate) bool {
			return bytes.Equal(c.RawSubject, last.RawIssuer) && last.CheckSignatureFrom(c) == nil
		})
		if at < 0 {
			break
		}
		last = pool[at]
		chain = append(chain, last.Raw)
	}
	return chain
}

func selfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(c) == nil
}

var _ backend.Exchanger = (*CA)(nil)
