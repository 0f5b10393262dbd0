package est

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/upstream"
	"github.com/muster-pki/muster/protocols/cms"
)

const (
	maxAnswer    = 1 << 20 // bytes of one, base64
	defaultRetry = 30 * time.Second
)

// Issue posts the device's PKCS#10 to simpleenroll (RFC 7030 section 4.2.1). What the CA answers with 4xx it has not issued; what was
// sent and has no answer, or another one, is not known.
func (c *CA) Issue(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
	run, err := c.running.Get(ctx)
	if err != nil {
		return nil, err
	}
	if r.Issuer != "" && r.Issuer != Issuer {
		return nil, backend.Refuse(codes.InvalidArgument, "there is no CA %q here: an EST backend has one, %q", r.Issuer, Issuer)
	}
	if err := upstream.CheckCSR(r, run.config.decides); err != nil {
		return nil, err
	}
	return run.enroll(ctx, c.o.Clock, r)
}

// Lookup asks again, where the CA has been declared to answer an equal request with the same certificate for a while: it posts the
// same PKCS#10. It can do so only while that while is not over, counted from the first moment at which the CA may have issued; then nobody
// can tell any more.
func (c *CA) Lookup(ctx context.Context, r *backend.IssueRequest) (*backend.Outcome, error) {
	run, err := c.running.Get(ctx)
	switch {
	case err != nil:
		return nil, err
	case run.config.Repeat == 0:
		return nil, backend.Refuse(codes.Unimplemented, "EST has no look-up (RFC 7030), and `repeat` does not say that an equal request gets the same certificate")
	case r.Asked.IsZero():
		return &backend.Outcome{State: backend.OutcomeNever}, nil
	case run.anotherRA(firstAsked(r)):
		c.o.Log.Warn("the CA may have issued to the RA's former certificate, and asking by this one could make a second certificate", "id", r.ID)
		return &backend.Outcome{State: backend.OutcomeUnknown}, nil
	case !c.repeats(run, firstAsked(r)):
		c.o.Log.Warn("the CA may have issued, and asking again could make a second certificate", "id", r.ID, "asked", firstAsked(r))
		return &backend.Outcome{State: backend.OutcomeUnknown}, nil
	}
	got, err := run.enroll(ctx, c.o.Clock, r)
	switch {
	case err != nil:
		return nil, again(err)
	case got.Certificate == nil:
		return &backend.Outcome{State: backend.OutcomePending, Issuance: got}, nil
	}
	return &backend.Outcome{State: backend.OutcomeIssued, Issuance: got}, nil
}

// firstAsked is no later than the first Issue of the request. Asked may be later, after a restart of the gateway; the template's dates
// were set before it.
func firstAsked(r *backend.IssueRequest) time.Time {
	if r.Template.NotBefore.Before(r.Asked) {
		return r.Template.NotBefore
	}
	return r.Asked
}

// repeats reports whether what the CA may have issued at the time, or later, it will answer an equal request with, which reaches it
// within the call's time-out.
func (c *CA) repeats(run *running, since time.Time) bool {
	return c.o.Clock().Add(2 * run.config.timeout()).Before(since.Add(time.Duration(run.config.Repeat)))
}

// anotherRA reports whether the RA's certificate is from after a time, so that a CA that tells its clients apart by it took the request
// for another's.
func (r *running) anotherRA(than time.Time) bool {
	if r.config.Cert == "" {
		return false
	}
	own, err := upstream.ReadBag(r.config.Cert)
	return err != nil || own[0].NotBefore.After(than)
}

// Poll posts the same PKCS#10 again, which is how EST fetches what was answered with 202 (RFC 7030 section 4.2.3).
//
// The ticket is when the CA last said so. What it has issued since it gives for `repeat`; when that may be over, it would take an
// equal request for a new one, so nothing is asked any more.
func (c *CA) Poll(ctx context.Context, r *backend.IssueRequest, ticket string) (*backend.Issuance, error) {
	run, err := c.running.Get(ctx)
	if err != nil {
		return nil, err
	}
	if run.config.Repeat == 0 {
		return nil, backend.Refuse(codes.Unimplemented, "`repeat` does not say that an equal request gets the same certificate")
	}
	at, err := strconv.ParseInt(ticket, 10, 64)
	if err != nil {
		return nil, backend.Refuse(codes.Internal, "the ticket is none of this backend's")
	}
	if last := time.Unix(at, 0); !c.repeats(run, last) {
		return nil, backend.Refuse(codes.Aborted, "the CA last held the request at %s, and gives what it has issued since for %s only (`repeat`): "+
			"asking again could make a second certificate; look at the CA", last.UTC().Format(time.RFC3339), time.Duration(run.config.Repeat))
	}
	got, err := run.enroll(ctx, c.o.Clock, r)
	switch status.Code(err) {
	case codes.PermissionDenied, codes.InvalidArgument:
		if errors.Is(err, errServer) {
			return nil, again(err)
		}
	case codes.FailedPrecondition, codes.ResourceExhausted:
		return nil, again(err)
	}
	return got, err
}

// again makes an error that refuses nothing: it is about us, or comes after another answer that may have been lost. A delay stays.
func again(err error) error {
	if status.Code(err) == codes.ResourceExhausted || !backend.Definite(err) {
		return err
	}
	return backend.Refuse(codes.Unavailable, "%s", status.Convert(err).Message())
}

// errServer is a refusal of ofServer's. It refuses an Issue, which was not asked of the CA then; of a request that the CA holds it
// says nothing.
var errServer = errors.New("server")

// serverError is a status that is errServer.
type serverError struct{ error }

func (serverError) Is(target error) bool         { return target == errServer }
func (e serverError) GRPCStatus() *status.Status { return status.Convert(e.error) }

// enroll posts the PKCS#10.
func (r *running) enroll(ctx context.Context, clock func() time.Time, q *backend.IssueRequest) (*backend.Issuance, error) {
	if err := r.ready(clock()); err != nil {
		return nil, err
	}
	// Before anything is issued: a chain is needed with it.
	bag, err := r.authorities(ctx, false)
	if err != nil {
		return nil, backend.Exhausted(defaultRetry, "not asked: "+status.Convert(err).Message())
	}
	post, err := r.request(ctx, http.MethodPost, "simpleenroll", []byte(base64.StdEncoding.EncodeToString(q.CSR)))
	if err != nil {
		return nil, err
	}
	post.Header.Set("Content-Type", "application/pkcs10")
	post.Header.Set("Content-Transfer-Encoding", "base64") // RFC 8951 section 3.1 does without, globalsign/est does not
	asked := clock()
	got, err := r.client.Do(ctx, post, maxAnswer)
	switch {
	case err != nil:
		if ctx.Err() != nil && backend.Definite(err) {
			return nil, status.FromContextError(ctx.Err()).Err()
		}
		return nil, err
	case got.Status == http.StatusAccepted && r.config.Repeat == 0:
		return nil, backend.Refuse(codes.Unavailable, "the CA holds the request (202), and `repeat` does not say for how long it gives what it has issued: look at the CA")
	case got.Status == http.StatusAccepted:
		// Asked no later than the half of repeat, whatever the CA says: a certificate that nobody fetched is lost.
		return &backend.Issuance{Ticket: strconv.FormatInt(asked.Unix(), 10), RetryAfter: min(got.RetryAfter(defaultRetry, clock()), time.Duration(r.config.Repeat)/2)}, nil
	case got.Status != http.StatusOK && ofServer(got):
		return nil, serverError{got.Refused(said(got))}
	case got.Status != http.StatusOK:
		return nil, got.Refused(said(got))
	}
	sent, err := parseCerts(got)
	if err != nil {
		return nil, backend.Refuse(codes.Internal, "the CA's answer: %v", err)
	}
	issued, err := bag.Issued(q.Template.PublicKey, sent)
	if err == nil {
		return issued, nil
	}
	if bag, late := r.authorities(ctx, true); late == nil { // it has changed over
		return bag.Issued(q.Template.PublicKey, sent)
	}
	return nil, err
}

// ready refuses, before anything is asked, with what would be refused for us.
func (r *running) ready(now time.Time) error {
	if r.config.Cert == "" {
		return nil
	}
	own, err := upstream.ReadBag(r.config.Cert)
	switch {
	case err != nil:
		return backend.Refuse(codes.FailedPrecondition, "cert: %v", err)
	case now.After(own[0].NotAfter):
		return backend.Refuse(codes.FailedPrecondition, "cert: the RA's certificate has expired at %s", own[0].NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// request makes a request for an operation.
func (r *running) request(ctx context.Context, method, operation string, body []byte) (*http.Request, error) {
	path := "/.well-known/est/"
	if r.config.Label != "" {
		path += r.config.Label + "/"
	}
	q, err := http.NewRequestWithContext(ctx, method, r.client.URL(path+operation), bytes.NewReader(body))
	if err != nil {
		return nil, backend.Refuse(codes.FailedPrecondition, "not asked: url: it makes no request")
	}
	if r.config.User != "" {
		password, err := upstream.Secret(r.config.Password)
		if err != nil {
			return nil, backend.Refuse(codes.FailedPrecondition, "not asked: password: %v", err)
		}
		q.SetBasicAuth(r.config.User, string(password))
	}
	return q, nil
}

// said is the text of a refusal; nothing of another type.
func said(a *upstream.Answer) string {
	if mediaType(a) != "text/plain" {
		return ""
	}
	return a.Said(string(a.Body))
}

// mediaType of an answer, "" for none.
func mediaType(a *upstream.Answer) string {
	media, _, err := mime.ParseMediaType(a.Header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return media
}

// ofServer reports whether an answer is about us, or of who stands before the CA, and not about the request: what nginx says of a client
// certificate is a 400 in HTML. A CA refuses a request in plain text or by a PKI response (RFC 7030 section 4.2.3).
func ofServer(a *upstream.Answer) bool {
	switch a.Status {
	case http.StatusUnauthorized, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusGone, http.StatusMisdirectedRequest:
		return true
	}
	media := mediaType(a)
	return media != "text/plain" && media != "application/pkcs7-mime"
}

// parseCerts reads a certs-only message in base64 (RFC 7030 sections 4.1.3 and 4.2.3), with or without line breaks.
func parseCerts(a *upstream.Answer) (upstream.Bag, error) {
	text := strings.Map(func(c rune) rune {
		if c == ' ' || c == '\t' || c == '\r' || c == '\n' {
			return -1
		}
		return c
	}, string(a.Body))
	der, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, errors.New("not base64")
	}
	ders, err := cms.ParseCertsOnly(der, cms.Limits{Size: maxAnswer})
	if err != nil {
		return nil, err
	}
	return upstream.ParseBag(ders)
}
