package backendtest

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
)

// checks are what every backend is held to, in process and as a process.
var checks = []check{
	{"describe", checkDescribe},
	{"configuration", checkConfiguration},
	{"CA certificates", checkCACertificates},
	{"issue equals the template", checkIssue},
	{"sparse template", checkSparse},
	{"every CA", checkEveryCA},
	{"same ID twice", checkSameID},
	{"same ID, other content", checkOtherContent},
	{"same ID at once", checkConcurrent},
	{"lookup", checkLookup},
	{"bad templates", checkBadTemplates},
	{"cancelled and late", checkContexts},
	{"revoke", checkRevoke},
	{"rollover", checkRollover},
	{"announcement", checkAnnounce},
	{"OCSP", checkOCSP},
	{"what is not described is unimplemented", checkUnimplemented},
}

func checkDescribe(ctx context.Context, x *trial) error {
	if x.d.Name == "" || x.d.Version == "" || len(x.d.Forms) == 0 {
		return fmt.Errorf("a description without name, version or form: %+v", *x.d)
	}
	switch x.d.Idempotency {
	case backend.IdempotencyNative, backend.IdempotencyLookup, backend.IdempotencyNone:
	default:
		return fmt.Errorf("no such idempotency: %q", x.d.Idempotency)
	}
	again, err := x.b.Describe(ctx)
	if err != nil {
		return err
	}
	if a, b := fmt.Sprintf("%+v", *x.d), fmt.Sprintf("%+v", *again); a != b {
		return fmt.Errorf("the description changed from %s to %s", a, b)
	}
	return nil
}

func checkConfiguration(ctx context.Context, x *trial) error {
	if x.subject.BadConfig == nil {
		return nil
	}
	if err := x.b.Validate(ctx, x.subject.BadConfig); status.Code(err) != codes.InvalidArgument {
		return fmt.Errorf("Validate of a bad configuration: %v, not INVALID_ARGUMENT", err)
	}
	return nil
}

func checkCACertificates(_ context.Context, x *trial) error {
	names := map[string]bool{}
	for _, ca := range x.cas {
		if ca.Name == "" || names[ca.Name] || len(ca.Chain) == 0 {
			return fmt.Errorf("CA %q: no name of its own or no certificate", ca.Name)
		}
		names[ca.Name] = true
		if err := verifyChain(ca.Chain, x.subject.Now()); err != nil {
			return fmt.Errorf("CA %s: %w", ca.Name, err)
		}
		c, err := x509.ParseCertificate(ca.Chain[0])
		if err != nil {
			return err
		}
		if !c.IsCA || c.KeyUsage&x509.KeyUsageCertSign == 0 {
			return fmt.Errorf("CA %s: its certificate is no CA's (RFC 5280 sections 4.2.1.3 and 4.2.1.9)", ca.Name)
		}
	}
	return nil
}

func checkIssue(ctx context.Context, x *trial) error {
	if !x.issues() {
		return nil
	}
	r, a, err := x.issueNew(ctx)
	if err != nil {
		return err
	}
	return x.matches(r, a)
}

// checkSparse: what a template leaves out is not filled in.
func checkSparse(ctx context.Context, x *trial) error {
	if !x.issues() || !x.sets(backend.FieldSubjectAltName) || !x.sets(backend.FieldKeyUsage) || !x.sets(backend.FieldExtKeyUsage) {
		return nil
	}
	r, err := x.request()
	if err != nil {
		return err
	}
	r.Template.SubjectAltName, r.Template.KeyUsage, r.Template.ExtKeyUsage = nil, 0, nil
	a, err := x.issue(ctx, r)
	if err != nil {
		return err
	}
	return x.matches(r, a)
}

func checkEveryCA(ctx context.Context, x *trial) error {
	if !x.issues() {
		return nil
	}
	for _, ca := range x.cas {
		r, err := x.request()
		if err != nil {
			return err
		}
		r.Issuer = ca.Name
		a, err := x.issue(ctx, r)
		if err != nil {
			return err
		}
		if err := x.matches(r, a); err != nil {
			return fmt.Errorf("CA %s: %w", ca.Name, err)
		}
	}
	r, err := x.request()
	if err != nil {
		return err
	}
	r.Issuer = "no-such-ca"
	if _, err := x.issue(ctx, r); !backend.Definite(err) {
		return fmt.Errorf("a CA that does not exist: %v, not a definite refusal", err)
	}
	return nil
}

func checkSameID(ctx context.Context, x *trial) error {
	if !x.issues() || x.d.Idempotency == backend.IdempotencyNone {
		return nil
	}
	r, first, err := x.issueNew(ctx)
	if err != nil {
		return err
	}
	second, err := x.again(ctx, r)
	if err != nil {
		return err
	}
	if !bytes.Equal(first.Certificate, second.Certificate) {
		return errors.New("the same ID led to two certificates")
	}
	return nil
}

// again asks for what an ID led to, in the way that the idempotency allows.
func (x *trial) again(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
	if x.d.Idempotency == backend.IdempotencyNative {
		return x.issue(ctx, r)
	}
	if ticket, ok := x.tickets.Load(r.ID); ok {
		return x.certificate(ctx, r, &backend.Issuance{Ticket: ticket.(string)})
	}
	o, err := x.b.Lookup(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("Lookup %s: %w", r.ID, err)
	}
	switch o.State {
	case backend.OutcomeNever:
		return x.issue(ctx, r)
	case backend.OutcomeIssued, backend.OutcomePending:
		return x.certificate(ctx, r, o.Issuance)
	}
	return nil, fmt.Errorf("Lookup %s: %s", r.ID, o.State)
}

func checkOtherContent(ctx context.Context, x *trial) error {
	if !x.issues() || x.d.Idempotency != backend.IdempotencyNative {
		return nil
	}
	r, first, err := x.issueNew(ctx)
	if err != nil {
		return err
	}
	other, err := x.request()
	if err != nil {
		return err
	}
	key, subject, dates := *r, *r, *r
	key.Template.PublicKey, key.CSR = other.Template.PublicKey, other.CSR
	subject.Template.Subject, subject.CSR = other.Template.Subject, other.CSR
	dates.Template.NotAfter = r.Template.NotAfter.Add(-time.Hour)
	for what, changed := range map[string]*backend.IssueRequest{"key": &key, "subject": &subject, "validity": &dates} {
		if _, err := x.issue(ctx, changed); status.Code(err) != codes.AlreadyExists {
			return fmt.Errorf("the same ID with another %s: %v, not ALREADY_EXISTS", what, err)
		}
	}
	second, err := x.issue(ctx, r)
	if err != nil {
		return err
	}
	if !bytes.Equal(first.Certificate, second.Certificate) {
		return errors.New("after that, the first content led to another certificate")
	}
	return nil
}

func checkConcurrent(ctx context.Context, x *trial) error {
	if !x.issues() || x.d.Idempotency != backend.IdempotencyNative {
		return nil
	}
	r, err := x.request()
	if err != nil {
		return err
	}
	const callers = 16
	answers, errs := make([]*backend.Issuance, callers), make([]error, callers)
	var all sync.WaitGroup
	start := make(chan struct{})
	for i := range callers {
		all.Go(func() {
			<-start
			answers[i], errs[i] = x.issue(ctx, r)
		})
	}
	close(start)
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, a := range answers {
		if !bytes.Equal(a.Certificate, answers[0].Certificate) {
			return errors.New("the same ID, asked for at once, led to two certificates")
		}
	}
	return x.matches(r, answers[0])
}

func checkLookup(ctx context.Context, x *trial) error {
	if x.d.Idempotency == backend.IdempotencyNone {
		if _, err := x.b.Lookup(ctx, &backend.IssueRequest{ID: "never-asked"}); status.Code(err) != codes.Unimplemented {
			return fmt.Errorf("Lookup with idempotency none: %v, not UNIMPLEMENTED", err)
		}
		return nil
	}
	never, err := x.request()
	if err != nil {
		return err
	}
	o, err := x.b.Lookup(ctx, never)
	if err != nil {
		return err
	}
	if o.State != backend.OutcomeNever || o.Issuance != nil {
		return fmt.Errorf("Lookup of an ID never asked for: %+v, not %q", *o, backend.OutcomeNever)
	}
	if !x.issues() {
		return nil
	}
	r, a, err := x.issueNew(ctx)
	if err != nil {
		return err
	}
	if _, ok := x.tickets.Load(r.ID); ok && x.d.Idempotency == backend.IdempotencyLookup {
		return nil // the gateway polls with the ticket, and asks Lookup no more
	}
	if o, err = x.b.Lookup(ctx, r); err != nil {
		return err
	}
	if o.State != backend.OutcomeIssued || o.Issuance == nil || !bytes.Equal(o.Issuance.Certificate, a.Certificate) {
		return fmt.Errorf("Lookup after Issue: %q, not %q with that certificate", o.State, backend.OutcomeIssued)
	}
	return x.matches(r, o.Issuance)
}

func checkBadTemplates(ctx context.Context, x *trial) error {
	if !x.issues() {
		return nil
	}
	for _, bad := range []struct {
		what   string
		change func(t *backend.Template)
		field  backend.Field // that the backend has to set for it to see the change; "" for none
	}{
		{"no public key", func(t *backend.Template) { t.PublicKey = nil }, ""},
		{"a public key that is none", func(t *backend.Template) { t.PublicKey = []byte{0x30, 0x03, 0x02, 0x01, 0x00} }, ""},
		{"a subject that is none", func(t *backend.Template) { t.Subject = []byte{0x04, 0x01, 0x00} }, backend.FieldSubject},
		{"a subject cut short", func(t *backend.Template) { t.Subject = t.Subject[:len(t.Subject)-1] }, backend.FieldSubject},
		{"no dates", func(t *backend.Template) { t.NotBefore, t.NotAfter = time.Time{}, time.Time{} }, backend.FieldValidity},
		{"notAfter before notBefore", func(t *backend.Template) { t.NotBefore, t.NotAfter = t.NotAfter, t.NotBefore }, backend.FieldValidity},
		{"notAfter beyond the CA's", func(t *backend.Template) { t.NotAfter = x.issuing.NotAfter.Add(time.Second) }, backend.FieldValidity},
	} {
		if bad.field != "" && !x.sets(bad.field) {
			continue
		}
		r, err := x.request()
		if err != nil {
			return err
		}
		bad.change(&r.Template)
		if _, err := x.issue(ctx, r); status.Code(err) != codes.InvalidArgument {
			return fmt.Errorf("%s: %v, not INVALID_ARGUMENT", bad.what, err)
		}
		if x.d.Idempotency == backend.IdempotencyNone {
			continue
		}
		if o, err := x.b.Lookup(ctx, r); err != nil || o.State != backend.OutcomeNever {
			return fmt.Errorf("%s: Lookup after the refusal: %+v, %v, not %q", bad.what, o, err, backend.OutcomeNever)
		}
	}
	return nil
}

// checkContexts: a call whose context has ended ends, does not claim to have refused, and harms nothing.
func checkContexts(ctx context.Context, x *trial) error {
	if !x.issues() {
		return nil
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	late, cancelLate := context.WithDeadline(ctx, time.Unix(0, 0))
	defer cancelLate()
	for what, over := range map[string]context.Context{"cancelled": cancelled, "late": late} {
		r, err := x.request()
		if err != nil {
			return err
		}
		_, err = x.b.Issue(over, r)
		if err == nil || backend.Definite(err) {
			return fmt.Errorf("Issue with a context %s already: %v, not an unknown outcome", what, err)
		}
		if x.d.Idempotency == backend.IdempotencyNone {
			continue
		}
		a, err := x.again(ctx, r)
		if err != nil {
			return err
		}
		if err := x.matches(r, a); err != nil {
			return err
		}
	}
	return nil
}
