package scep

import (
	"context"
	"crypto/x509"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/upstream"
	"github.com/muster-pki/muster/protocols/cms"
)

// failInfo (RFC 8894 section 3.2.1.4).
const (
	badAlg          = "0"
	badMessageCheck = "1"
	badRequest      = "2"
	badTime         = "3"
	badCertID       = "4"
)

var failNames = map[string]string{
	badAlg: "badAlg", badMessageCheck: "badMessageCheck", badRequest: "badRequest", badTime: "badTime", badCertID: "badCertId",
}

// failed is a FAILURE in words.
func (a *answer) failed() string {
	text := "FAILURE"
	if name := failNames[a.failInfo]; name != "" {
		text += " " + name
	}
	if a.text != "" {
		text += ": " + a.text
	}
	return text
}

// Issue sends a PKCSReq (RFC 8894 section 3.3.1) with the device's PKCS#10. A FAILURE that the CA has signed refuses: nothing was
// issued for that message.
func (c *CA) Issue(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
	run, err := c.running.Get(ctx)
	if err != nil {
		return nil, err
	}
	if r.Issuer != "" && r.Issuer != Issuer {
		return nil, backend.Refuse(codes.InvalidArgument, "there is no CA %q here: a SCEP backend has one, %q", r.Issuer, Issuer)
	}
	if err := upstream.CheckCSR(r, run.config.decides); err != nil {
		return nil, err
	}
	s, ra, err := run.ready(ctx, c.o.Clock())
	if err != nil {
		if backend.Definite(err) {
			return nil, err
		}
		return nil, backend.Exhausted(defaultPoll, "not asked: "+status.Convert(err).Message())
	}
	a, err := run.exchange(ctx, s, ra, typePKCSReq, transactionID(r.ID), r.CSR)
	if err != nil {
		return nil, err
	}
	switch a.status {
	case statusFailure:
		if a.failInfo == badMessageCheck || a.failInfo == badTime { // about our message, not the device's request
			return nil, backend.Refuse(codes.FailedPrecondition, "%s", a.failed())
		}
		return nil, backend.Refuse(codes.InvalidArgument, "%s", a.failed())
	case statusSuccess, statusPending:
		return run.issuance(ctx, s, r, a)
	}
	return nil, backend.Refuse(codes.Internal, "the answer has no pkiStatus that RFC 8894 knows")
}

// Poll sends a CertPoll (RFC 8894 section 3.3.3). A FAILURE of it refuses only where it is about the request: badRequest. With
// badCertId the CA knows nothing of the transaction (any more), and what it did is not known.
func (c *CA) Poll(ctx context.Context, r *backend.IssueRequest, ticket string) (*backend.Issuance, error) {
	run, err := c.running.Get(ctx)
	if err != nil {
		return nil, err
	}
	if ticket != transactionID(r.ID) {
		return nil, backend.Refuse(codes.Internal, "the ticket is not that of the request")
	}
	a, s, err := run.poll(ctx, c.o.Clock(), r)
	switch {
	case err != nil:
		return nil, err
	case a.status == statusFailure && a.failInfo == badRequest:
		return nil, backend.Refuse(codes.InvalidArgument, "%s", a.failed())
	case a.status == statusFailure:
		return nil, backend.Refuse(codes.Unavailable, "CertPoll: %s", a.failed())
	}
	return run.issuance(ctx, s, r, a)
}

// Lookup sends a CertPoll, where the CA has been declared to answer it truly.
//
// badCertId says that nothing was issued only after a while, since the CA may know nothing yet of what is under way to it; and only to
// whom it would have given the certificate: the RA's certificate has to be older than the request.
func (c *CA) Lookup(ctx context.Context, r *backend.IssueRequest) (*backend.Outcome, error) {
	run, err := c.running.Get(ctx)
	switch {
	case err != nil:
		return nil, err
	case run.config.Lookup == "":
		return nil, backend.Refuse(codes.Unimplemented, "`lookup` does not say that this CA's CertPoll tells what became of a request")
	}
	a, s, err := run.poll(ctx, c.o.Clock(), r)
	if err != nil {
		return nil, err
	}
	switch {
	case a.status == statusSuccess:
		got, err := run.issuance(ctx, s, r, a)
		if err != nil {
			return nil, err
		}
		return &backend.Outcome{State: backend.OutcomeIssued, Issuance: got}, nil
	case a.status == statusPending, a.status == statusFailure && a.failInfo == badRequest: // refused: which is for Poll to say
		return &backend.Outcome{State: backend.OutcomePending, Issuance: &backend.Issuance{Ticket: transactionID(r.ID), RetryAfter: time.Second}}, nil
	case a.status == statusFailure && a.failInfo == badCertID && c.never(run, r):
		return &backend.Outcome{State: backend.OutcomeNever}, nil
	}
	return &backend.Outcome{State: backend.OutcomeUnknown}, nil
}

// calls are how many of an Issue each may take its time: GetCACaps and GetCACert, and the PKCSReq may be sent at the very end of its own.
const calls = 3

// never reports whether a CA that knows nothing of the request will not come to know of it.
func (c *CA) never(run *running, r *backend.IssueRequest) bool {
	if r.Asked.IsZero() {
		return true
	}
	ra, err := run.signer(c.o.Clock())
	if err != nil || ra.chain[0].NotBefore.After(r.Asked) || ra.chain[0].NotBefore.After(r.Template.NotBefore) {
		return false
	}
	return c.o.Clock().After(r.Asked.Add(time.Duration(run.config.Settle) + calls*run.config.timeout()))
}

// ready is what a message takes. An error of the RA's files refuses; the others do not.
func (r *running) ready(ctx context.Context, now time.Time) (*server, *signer, error) {
	ra, err := r.signer(now)
	if err != nil {
		return nil, nil, err
	}
	s, err := r.current(ctx, false)
	if err != nil {
		return nil, nil, err
	}
	return s, ra, nil
}

// poll sends a CertPoll. No error of it refuses.
//
//	IssuerAndSubject ::= SEQUENCE { issuer Name, subject Name }    -- RFC 8894 section 3.3.3
func (r *running) poll(ctx context.Context, now time.Time, q *backend.IssueRequest) (*answer, *server, error) {
	s, ra, err := r.ready(ctx, now)
	if err != nil {
		return nil, nil, unsure(err)
	}
	subject := q.Template.Subject
	if csr, err := x509.ParseCertificateRequest(q.CSR); err == nil {
		subject = csr.RawSubject
	}
	if len(subject) == 0 {
		subject = []byte{0x30, 0}
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(s.chain[0].RawSubject)
		b.AddBytes(subject)
	})
	content, err := b.Bytes()
	if err != nil {
		return nil, nil, backend.Refuse(codes.Internal, "CertPoll: %v", err)
	}
	a, err := r.exchange(ctx, s, ra, typeCertPoll, transactionID(q.ID), content)
	if err != nil {
		return nil, nil, unsure(err)
	}
	switch a.status {
	case statusSuccess, statusPending, statusFailure:
		return a, s, nil
	}
	return nil, nil, backend.Refuse(codes.Internal, "the answer has no pkiStatus that RFC 8894 knows")
}

// issuance is what SUCCESS or PENDING brings.
func (r *running) issuance(ctx context.Context, s *server, q *backend.IssueRequest, a *answer) (*backend.Issuance, error) {
	if a.status == statusPending {
		return &backend.Issuance{Ticket: transactionID(q.ID), RetryAfter: time.Duration(r.config.Poll)}, nil
	}
	ders, err := cms.ParseCertsOnly(a.content, cms.Limits{Size: maxAnswer})
	if err != nil {
		return nil, backend.Refuse(codes.Internal, "the answer's certificates: %v", err)
	}
	sent, err := upstream.ParseBag(ders)
	if err != nil {
		return nil, backend.Refuse(codes.Internal, "the answer's certificates: %v", err)
	}
	issued, err := s.bag.Issued(q.Template.PublicKey, sent)
	if err == nil {
		return issued, nil
	}
	if now, late := r.current(ctx, true); late == nil { // it has changed over
		return now.bag.Issued(q.Template.PublicKey, sent)
	}
	return nil, err
}
