package ejbca

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/upstream"
)

const retryOffline = 30 * time.Second

// enrollment is EnrollCertificateRestRequest. The chain is left out: EJBCA would look for it after it has issued, and an error of that is 4xx.
type enrollment struct {
	Request            string `json:"certificate_request"` // base64 DER
	CertificateProfile string `json:"certificate_profile_name"`
	EndEntityProfile   string `json:"end_entity_profile_name"`
	Authority          string `json:"certificate_authority_name"`
	Username           string `json:"username"`
	Password           string `json:"password"`
	Binding            string `json:"account_binding_id,omitempty"`
	IncludeChain       bool   `json:"include_chain"`
	Format             string `json:"response_format"`
	EndTime            string `json:"end_time,omitempty"`
}

// Issue enrolls the PKCS#10 with an end entity (CertificateRequestSessionBean.processCertReq): it is made or, when there is one of that name,
// overwritten, and a certificate is issued each time. Whatever fails rolls both back.
//
// EJBCA answers 400 to nearly all that goes wrong, also to what went wrong in it (RaMasterApiSessionBean.createCertificateRest), so that a
// refusal is one when the search finds nothing, and its text does not speak of EJBCA itself.
func (c *CA) Issue(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
	run, err := c.running.Get(ctx)
	if err != nil {
		return nil, err
	}
	if r.Issuer != "" && r.Issuer != Issuer {
		return nil, backend.Refuse(codes.InvalidArgument, "there is no CA %q here: this backend has one, %q", r.Issuer, Issuer)
	}
	if err := upstream.CheckCSR(r, run.config.decides); err != nil {
		return nil, err
	}
	body, err := run.enrollment(r)
	if err != nil {
		return nil, err
	}
	if err := run.ready(); err != nil {
		return nil, err
	}
	// Before anything is issued: a chain is needed with it.
	if _, err := run.authority(ctx, false); err != nil {
		if ctx.Err() != nil {
			return nil, status.FromContextError(ctx.Err()).Err()
		}
		return nil, backend.Exhausted(retryOffline, "not asked: "+status.Convert(err).Message())
	}
	if !r.Asked.IsZero() { // Lookup has said never; a second certificate is worth this question
		if got, err := run.find(ctx, r); got != nil || err != nil {
			return got, again(err)
		}
	}
	a, err := run.call(ctx, http.MethodPost, "/v1/certificate/pkcs10enroll", nil, body, maxAnswer)
	switch {
	case err != nil:
		return nil, err
	case a.Status != http.StatusCreated:
		return run.refused(ctx, r, a)
	}
	var answer struct {
		Certificate string `json:"certificate"`
	}
	if json.Unmarshal(a.Body, &answer) != nil {
		return nil, backend.Refuse(codes.Internal, "the answer to an enrollment is no JSON")
	}
	leaf, err := certificate(answer.Certificate)
	if err != nil {
		return nil, backend.Refuse(codes.Internal, "the answer to an enrollment: %v", err)
	}
	issued, err := run.issued(ctx, r, leaf)
	if err == nil && !run.sighted.Load() {
		c.look(ctx, run, r)
	}
	return issued, err
}

const (
	lookAgain = time.Minute
	lookFor   = 3 * time.Second // beside the timeout of the call: the certificate is there
)

// look searches for what has just been issued, now and then until it is found.
func (c *CA) look(ctx context.Context, run *running, r *backend.IssueRequest) {
	now, last := run.clock().Unix(), run.looked.Load()
	if now-last < int64(lookAgain/time.Second) || !run.looked.CompareAndSwap(last, now) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lookFor)
	defer cancel()
	if found, err := run.find(ctx, r); err != nil || found == nil {
		c.o.Log.Warn("EJBCA does not show what it has just issued: a request whose answer is lost will wait for the operator", "id", r.ID, "error", err)
	}
}

// ready refuses, before anything is asked, with what would be refused for us.
func (r *running) ready() error {
	if r.config.Cert == "" {
		return nil
	}
	own, err := upstream.ReadBag(r.config.Cert)
	switch {
	case err != nil:
		return backend.Refuse(codes.FailedPrecondition, "cert: %v", err)
	case r.clock().After(own[0].NotAfter):
		return backend.Refuse(codes.FailedPrecondition, "cert: the RA's certificate has expired at %s", own[0].NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// enrollment is what is posted.
func (r *running) enrollment(q *backend.IssueRequest) (*enrollment, error) {
	user, err := r.username(q)
	if err != nil {
		return nil, err
	}
	body := &enrollment{
		Request: base64.StdEncoding.EncodeToString(q.CSR), CertificateProfile: r.config.CertificateProfile, EndEntityProfile: r.config.EndEntityProfile,
		Authority: r.config.Authority, Username: user, Password: rand.Text(), Format: "DER", // the password opens nothing afterwards, and nobody has it
	}
	if r.config.byBinding() {
		body.Binding = safe(q.ID)
	}
	if r.config.EndTime {
		body.EndTime = q.Template.NotAfter.UTC().Truncate(time.Minute).Format("2006-01-02 15:04:05-07:00") // ValidityDate keeps minutes
	}
	return body, nil
}

// username is the end entity's.
func (r *running) username(q *backend.IssueRequest) (string, error) {
	if q.Device == "" && r.config.byBinding() {
		return "", backend.Refuse(codes.InvalidArgument, "username: %s, and the request names no device", r.config.Username)
	}
	return strings.NewReplacer(placeID, safe(q.ID), placeDevice, safe(q.Device)).Replace(r.config.Username), nil
}

var safeName = regexp.MustCompile(`^[A-Za-z0-9._@-]{0,64}$`)

// safe is a text for a user name: as it is, or with "-" for what EJBCA may change, and a hash so that no two become one.
func safe(text string) string {
	if safeName.MatchString(text) {
		return text
	}
	sum := sha256.Sum256([]byte(text))
	return strings.Map(func(c rune) rune {
		if safeName.MatchString(string(c)) {
			return c
		}
		return '-'
	}, text[:min(len(text), 31)]) + "-" + hex.EncodeToString(sum[:16])
}

// What EJBCA says of itself, in the text of a 400, in small letters.
var (
	approvals = "approvals are enabled"                       // CertificateRequestSessionBean.addOrEditUser
	offline   = []string{"offline", "off-line", "not active"} // CAOfflineException, CryptoTokenOfflineException
	internal  = []string{"ca with name", "transaction", "rollback", "rolled back", "jdbc", "sql", "ejbexception", "nullpointer", "timeout", "timed out", "time-out", "connection", "unavailable",
		// A RuntimeException's own text is the answer (RaMasterApiSessionBean.createCertificateRest, INTERNAL_ERROR): Hibernate's, MariaDB's, PostgreSQL's.
		"hibernate", "persistence", "could not execute", "could not extract", "could not commit", "deadlock", "lock wait"}
)

// refused is what an answer means that is not 201.
func (r *running) refused(ctx context.Context, q *backend.IssueRequest, a *upstream.Answer) (*backend.Issuance, error) {
	refusal := a.Refused(said(a))
	if !backend.Definite(refusal) || a.Status == http.StatusUnauthorized || a.Status == http.StatusForbidden || a.Status == http.StatusTooManyRequests {
		return nil, refusal
	}
	text := status.Convert(refusal).Message()
	if found, err := r.find(ctx, q); found != nil {
		return found, nil
	} else if err != nil {
		return nil, backend.Refuse(codes.Unavailable, "%s; and whether it has issued it does not say: %s", text, status.Convert(err).Message())
	}
	small := strings.ToLower(said(a)) // all of it: what is looked for may stand behind what is repeated
	has := func(words []string) bool {
		for _, w := range words {
			if strings.Contains(small, w) {
				return true
			}
		}
		return false
	}
	switch {
	case strings.Contains(small, approvals):
		return nil, backend.Refuse(codes.FailedPrecondition, "%s: pkcs10enroll has no approvals; take them out of the CA and the certificate profile", text)
	case has(offline):
		return nil, backend.Exhausted(retryOffline, text)
	case small == "" || has(internal):
		return nil, backend.Refuse(codes.Unavailable, "%s", text)
	}
	return nil, refusal
}
