package ejbca

import (
	"bytes"
	"context"
	"crypto/x509"
	"net/http"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/upstream"
)

// search is SearchCertificatesRestRequest. Version 1 of the search says when it was cut short, by its limit or its time; version 2 did not
// before it learned to answer 500 (RaMasterApiSessionBean.searchForCertificates, searchForCertificatesV2).
type search struct {
	Max      int         `json:"max_number_of_results"`
	Criteria []criterion `json:"criteria"`
}

type criterion struct {
	Property  string `json:"property"`
	Value     string `json:"value"`
	Operation string `json:"operation"`
}

const maxFound = 10

// Lookup searches for what the request's end entity, or account binding ID, was issued. Where there is nothing, it is `never` when two things are
// sure: no call is under way any more (Config.Settle since the last), and EJBCA shows what it issues, which it may not store, or not show
// to this role. Seeing one certificate proves that.
func (c *CA) Lookup(ctx context.Context, r *backend.IssueRequest) (*backend.Outcome, error) {
	run, err := c.running.Get(ctx)
	if err != nil {
		return nil, err
	}
	began := c.o.Clock()
	got, err := run.find(ctx, r)
	switch {
	case err != nil:
		return nil, again(err)
	case got != nil:
		return &backend.Outcome{State: backend.OutcomeIssued, Issuance: got}, nil
	case r.Asked.IsZero():
		return &backend.Outcome{State: backend.OutcomeNever}, nil
	case began.Before(r.Asked.Add(time.Duration(run.config.Settle) + run.config.timeout())):
		return &backend.Outcome{State: backend.OutcomeUnknown}, nil // a call may be under way
	}
	if err := run.sight(ctx); err != nil {
		return nil, again(err)
	}
	return &backend.Outcome{State: backend.OutcomeNever}, nil
}

// find searches for the certificate of a request; nil when there is none. Of its errors none says that there is none.
func (r *running) find(ctx context.Context, q *backend.IssueRequest) (*backend.Issuance, error) {
	criterion := criterion{Property: "EXTERNAL_ACCOUNT_BINDING_ID", Value: safe(q.ID), Operation: "EQUAL"}
	if !r.config.byBinding() {
		user, err := r.username(q)
		if err != nil {
			return nil, err
		}
		criterion.Property, criterion.Value = "QUERY", user
	}
	found, cut, err := r.search(ctx, maxFound, criterion)
	if err != nil {
		return nil, err
	}
	var ours *x509.Certificate
	for _, leaf := range found {
		switch {
		case !bytes.Equal(leaf.RawSubjectPublicKeyInfo, q.Template.PublicKey):
			return nil, backend.Refuse(codes.Unavailable, "certificate %s has the request's end entity, %s, and another key", leaf.SerialNumber.Text(16), criterion.Value)
		case ours != nil && !ours.Equal(leaf):
			return nil, backend.Refuse(codes.Unavailable, "certificates %s and %s could both be it", ours.SerialNumber.Text(16), leaf.SerialNumber.Text(16))
		}
		ours = leaf
	}
	switch {
	case cut:
		return nil, backend.Refuse(codes.Unavailable, "EJBCA has not searched to the end: its time for a query is over, or a CA it asks does not answer")
	case ours == nil:
		return nil, nil
	}
	r.sighted.Store(true)
	return r.issued(ctx, q, ours)
}

// search asks for certificates of the CA and the profiles. They are named so that EJBCA refuses when it shows this role nothing of them
// (CertificateRestResourceUtil): without, it finds nothing, and does not say why. cut: there may be more.
func (r *running) search(ctx context.Context, limit int, more ...criterion) (found upstream.Bag, cut bool, err error) {
	body := &search{Max: limit, Criteria: append(more,
		criterion{"CA", r.config.Authority, "EQUAL"}, criterion{"END_ENTITY_PROFILE", r.config.EndEntityProfile, "EQUAL"},
		criterion{"CERTIFICATE_PROFILE", r.config.CertificateProfile, "EQUAL"})}
	a, err := r.call(ctx, http.MethodPost, "/v1/certificate/search", nil, body, maxAnswer)
	if err != nil {
		return nil, false, again(err)
	}
	var answer struct {
		Certificates *[]struct {
			Certificate string `json:"certificate"`
		} `json:"certificates"`
		More *bool `json:"more_results"`
	}
	if err := read(a, http.StatusOK, &answer); err != nil {
		return nil, false, backend.Refuse(codes.Unavailable, "search: %s", status.Convert(err).Message())
	}
	if answer.Certificates == nil || answer.More == nil {
		return nil, false, backend.Refuse(codes.Unavailable, "search: an answer without certificates or more_results is none of EJBCA's")
	}
	for _, entry := range *answer.Certificates {
		leaf, err := certificate(entry.Certificate)
		if err != nil {
			return nil, false, backend.Refuse(codes.Unavailable, "search: %v", err)
		}
		found = append(found, leaf)
	}
	return found, *answer.More, nil
}

// check makes sure, once, that EJBCA knows the profiles and shows what was issued with them to this role.
func (r *running) check(ctx context.Context) error {
	if r.checked.Load() {
		return nil
	}
	found, _, err := r.search(ctx, 1)
	if err != nil {
		return err
	}
	r.checked.Store(true)
	if len(found) > 0 && !r.config.byBinding() {
		r.sighted.Store(true)
	}
	return nil
}

// sight makes sure that EJBCA shows what it issues. An account binding ID proves itself only when what was issued with one is found by it.
func (r *running) sight(ctx context.Context) error {
	if r.sighted.Load() {
		return nil
	}
	if r.config.byBinding() {
		return backend.Refuse(codes.Unavailable, "unknown: there is no certificate, and nothing has been found by its account binding ID since the start yet, so that EJBCA may not keep them: issue another certificate, and ask again")
	}
	found, _, err := r.search(ctx, 1)
	switch {
	case err != nil:
		return err
	case len(found) == 0:
		return backend.Refuse(codes.Unavailable, "unknown: EJBCA shows no certificate of this CA and these profiles at all, and may not store them: issue another one, and ask again")
	}
	r.sighted.Store(true)
	return nil
}

// issued is a certificate with its chain.
func (r *running) issued(ctx context.Context, q *backend.IssueRequest, leaf *x509.Certificate) (*backend.Issuance, error) {
	known, err := r.authority(ctx, false)
	if err != nil {
		return nil, err
	}
	got, err := known.chain.Issued(q.Template.PublicKey, upstream.Bag{leaf})
	if err == nil {
		return got, nil
	}
	if known, late := r.authority(ctx, true); late == nil { // it has changed over
		return known.chain.Issued(q.Template.PublicKey, upstream.Bag{leaf})
	}
	return nil, err
}
