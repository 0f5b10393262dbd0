package backend

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/muster-pki/muster/plugins/backend/backendpb/v1"
)

// double is a backend that keeps what it was asked and answers what a test wants.
type double struct {
	Unimplemented
	asked    any
	id       string // of the metadata
	err      error
	issuance *Issuance
	outcome  *Outcome
	d        *Description
	crl      []byte
	cas      []CA
	panics   bool
}

// rolling is a double that is a Roller too.
type rolling struct{ *double }

func (d rolling) Rollover(ctx context.Context, r *RolloverRequest) (*CA, error) {
	return &d.cas[0], d.take(ctx, *r)
}

func (d *double) take(ctx context.Context, asked any) error {
	if d.panics {
		panic("as asked")
	}
	d.asked, d.id = asked, RequestID(ctx)
	return d.err
}

func (d *double) Validate(ctx context.Context, c []byte) error  { return d.take(ctx, string(c)) }
func (d *double) Configure(ctx context.Context, c []byte) error { return d.take(ctx, string(c)) }
func (d *double) Describe(ctx context.Context) (*Description, error) {
	return d.d, d.take(ctx, nil)
}
func (d *double) CACertificates(ctx context.Context) ([]CA, error) { return d.cas, d.take(ctx, nil) }
func (d *double) Issue(ctx context.Context, r *IssueRequest) (*Issuance, error) {
	return d.issuance, d.take(ctx, *r)
}
func (d *double) Lookup(ctx context.Context, r *IssueRequest) (*Outcome, error) {
	return d.outcome, d.take(ctx, *r)
}

// poll is what Poll was asked.
type poll struct {
	r      IssueRequest
	ticket string
}

func (d *double) Poll(ctx context.Context, r *IssueRequest, ticket string) (*Issuance, error) {
	return d.issuance, d.take(ctx, poll{*r, ticket})
}
func (d *double) Revoke(ctx context.Context, r *RevokeRequest) error { return d.take(ctx, *r) }
func (d *double) CRL(ctx context.Context, issuer string, w io.Writer) error {
	if err := d.take(ctx, issuer); err != nil {
		return err
	}
	_, err := w.Write(d.crl)
	return err
}

// serving connects to d, configured.
func serving(t *testing.T, d *double) *Client {
	t.Helper()
	var b Backend = d
	if len(d.cas) > 0 {
		b = rolling{d}
	}
	c := connect(t, func(s *grpc.Server) { Register(s, b, quiet) })
	panics, fails := d.panics, d.err
	d.panics, d.err = false, nil
	if err := c.Configure(t.Context(), []byte("x: 1")); err != nil || d.asked != "x: 1" {
		t.Fatal(d.asked, err)
	}
	d.panics, d.err = panics, fails
	return c
}

// TestRequestsArrive: what the gateway asks is what the backend is asked, to the last field.
func TestRequestsArrive(t *testing.T) {
	d := &double{issuance: &Issuance{Ticket: "t", RetryAfter: time.Minute}, outcome: &Outcome{State: OutcomeNever}}
	c := serving(t, d)
	day := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	full := IssueRequest{ID: "id-1", Issuer: "ec", Device: "d", CSR: []byte{1}, Asked: day.Add(time.Microsecond), Template: Template{
		Subject: []byte{0x30, 0}, SubjectAltName: []byte{0x30, 1, 0}, PublicKey: []byte{2}, NotBefore: day, NotAfter: day.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageDecipherOnly, ExtKeyUsage: []asn1.ObjectIdentifier{{1, 3, 6, 1}, {2, 999, 3}},
		Extensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 99}, Critical: true, Value: []byte{5, 0}}},
	}}
	for _, r := range []IssueRequest{full, {ID: "id-2"}} {
		a, err := c.Issue(t.Context(), &r)
		if err != nil || !reflect.DeepEqual(*a, *d.issuance) {
			t.Errorf("%+v, %v", a, err)
		}
		if !reflect.DeepEqual(d.asked, r) || d.id != r.ID {
			t.Errorf("asked\n%+v under %q, not\n%+v", d.asked, d.id, r)
		}
		if o, err := c.Lookup(t.Context(), &r); err != nil || o.State != OutcomeNever || !reflect.DeepEqual(d.asked, r) || d.id != r.ID {
			t.Errorf("Lookup asked\n%+v under %q, not\n%+v: %v", d.asked, d.id, r, err)
		}
		if a, err := c.Poll(t.Context(), &r, "t"); err != nil || a.Ticket != "t" || !reflect.DeepEqual(d.asked, poll{r, "t"}) || d.id != r.ID {
			t.Errorf("Poll asked\n%+v under %q, not\n%+v: %v", d.asked, d.id, r, err)
		}
	}
	revoke := RevokeRequest{Issuer: []byte{1}, Serial: []byte{2}, Reason: 4, At: day, Certificate: []byte{3}}
	if err := c.Revoke(WithRequestID(t.Context(), "id-3"), &revoke); err != nil || !reflect.DeepEqual(d.asked, revoke) || d.id != "id-3" {
		t.Errorf("asked %+v under %q, %v", d.asked, d.id, err)
	}
	if err := c.Revoke(WithRequestID(t.Context(), "two\nlines"), &revoke); err != nil || d.id != "" {
		t.Errorf("an ID that is none travels: %q, %v", d.id, err)
	}
	d.crl = append([]byte{0x30, 0x83, 0x20, 0, 0}, make([]byte, 0x200000)...)
	var crl bytes.Buffer
	if err := c.CRL(t.Context(), "ec", &crl); err != nil || !bytes.Equal(crl.Bytes(), d.crl) || d.asked != "ec" {
		t.Errorf("a CRL of two megabytes: %d bytes, %v", crl.Len(), err)
	}
	d.d = &Description{Name: "n", Version: "v", Forms: []Form{FormPKCS10, FormExchange, FormGeneratedKey, FormTemplate},
		Overrides:    []Field{FieldSubject, FieldSubjectAltName, FieldValidity, FieldKeyUsage, FieldExtKeyUsage},
		Decides:      []Field{FieldValidity, FieldKeyUsage},
		Idempotency:  IdempotencyLookup,
		Capabilities: []Capability{CapPoll, CapRevoke, CapCRL, CapSignCMS, CapExchange, CapRollover, CapAnnounce, CapOCSP}}
	got, err := c.Describe(t.Context())
	if err != nil || len(got.Forms) != 4 || len(got.Overrides) != 5 || len(got.Decides) != 2 || len(got.Capabilities) != 8 || got.Idempotency != IdempotencyLookup {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestOCSPArrives: what is asked of an OCSPResponder, and what it answers; a request beyond the bound never reaches it.
func TestOCSPArrives(t *testing.T) {
	d := &answering{}
	c := connect(t, func(s *grpc.Server) { Register(s, d, quiet) })
	if err := c.Configure(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	request := bytes.Repeat([]byte{0x30}, MaxOCSPRequest)
	if der, err := c.OCSP(t.Context(), "ec", request); err != nil || !bytes.Equal(der, []byte{0x30, 3, 0x0a, 1, 6}) || d.issuer != "ec" || !bytes.Equal(d.request, request) {
		t.Errorf("%x, %v, asked %q", der, err, d.issuer)
	}
	d.request = nil
	if _, err := c.OCSP(t.Context(), "ec", append(request, 0)); status.Code(err) != codes.InvalidArgument || d.request != nil {
		t.Errorf("a large request: %v", err)
	}
	if _, err := serving(t, &double{}).OCSP(t.Context(), "ec", request); status.Code(err) != codes.Unimplemented {
		t.Errorf("a backend that is none: %v", err)
	}
}

// answering is a double that answers OCSP.
type answering struct {
	double
	issuer  string
	request []byte
}

func (a *answering) OCSP(_ context.Context, issuer string, request []byte) ([]byte, error) {
	a.issuer, a.request = issuer, request
	return []byte{0x30, 3, 0x0a, 1, 6}, nil
}

// TestRolloverArrives: what is asked of a Roller, and what it answers, to the last field.
func TestRolloverArrives(t *testing.T) {
	good := certificate(t, 0)
	d := &double{cas: []CA{{Name: "ec", Chain: many(2, good), Rollover: many(MaxRollover, good), CRLs: []string{"ec", "ec.2", "ec.1"}, Next: many(2, good),
		Shards: []CRLShard{{Name: "ec.1.1", URIs: []string{"http://a/ec.1.1.crl", "http://b/ec.1.1.crl"}}, {Name: "ec.2.2", URIs: []string{"http://a/ec.2.2.crl"}}}}}}
	c := serving(t, d)
	for _, r := range []RolloverRequest{{ID: "id-1", Issuer: "ec", Kind: RolloverRekey, Root: true}, {ID: "id-2", Kind: RolloverRenew}, {ID: "id-3", Kind: RolloverRenew, Announce: true}} {
		ca, err := c.Rollover(t.Context(), &r)
		if err != nil || !reflect.DeepEqual(*ca, d.cas[0]) {
			t.Errorf("%+v, %v", ca, err)
		}
		if !reflect.DeepEqual(d.asked, r) || d.id != r.ID {
			t.Errorf("asked %+v under %q, not %+v", d.asked, d.id, r)
		}
	}
	if cas, err := c.CACertificates(t.Context()); err != nil || !reflect.DeepEqual(cas, d.cas) {
		t.Errorf("%+v, %v", cas, err)
	}
	d.asked = nil
	for name, r := range map[string]*pb.RolloverRequest{
		"no ID":            {Kind: pb.RolloverKind_ROLLOVER_KIND_REKEY},
		"an ID of control": {Id: "a\n", Kind: pb.RolloverKind_ROLLOVER_KIND_REKEY},
		"no kind":          {Id: "a"},
		"a kind to come":   {Id: "a", Kind: 9},
	} {
		if _, err := c.rpc.Rollover(t.Context(), r); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.Rollover(t.Context(), &RolloverRequest{ID: "a", Kind: "odd"}); status.Code(err) != codes.InvalidArgument || d.asked != nil {
		t.Errorf("an odd kind: %v, asked %v", err, d.asked)
	}
	if _, err := serving(t, &double{}).Rollover(t.Context(), &RolloverRequest{ID: "a", Kind: RolloverRenew}); status.Code(err) != codes.Unimplemented {
		t.Errorf("a backend that has none: %v", err)
	}
}

func TestServerRefuses(t *testing.T) {
	c := serving(t, &double{outcome: &Outcome{State: "odd"}, d: &Description{}, issuance: nil})
	for name, r := range map[string]*pb.IssueRequest{
		"no template":      {Id: "a"},
		"no ID":            {Template: &pb.Template{}},
		"an ID of control": {Id: "a\x00", Template: &pb.Template{}},
		"a bad OID":        {Id: "a", Template: &pb.Template{ExtKeyUsage: []string{"1.40.1"}}},
		"a bad extension":  {Id: "a", Template: &pb.Template{Extensions: []*pb.Extension{{Oid: "x"}}}},
		"a bad key usage":  {Id: "a", Template: &pb.Template{KeyUsage: 1 << 20}},
		"many usages":      {Id: "a", Template: &pb.Template{ExtKeyUsage: make([]string, maxExtensions+1)}},
	} {
		if _, err := c.rpc.Issue(t.Context(), r); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := c.Configure(t.Context(), nil); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a second Configure: %v", err)
	}
	if err := c.Validate(t.Context(), make([]byte, MaxConfig+1)); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a large configuration: %v", err)
	}
	if _, err := c.Lookup(t.Context(), &IssueRequest{ID: "a"}); status.Code(err) != codes.Internal {
		t.Errorf("an outcome that is none: %v", err)
	}
	if _, err := c.Describe(t.Context()); status.Code(err) != codes.Internal {
		t.Errorf("a description that is none: %v", err)
	}
	if _, err := c.Issue(t.Context(), &IssueRequest{ID: "a"}); status.Code(err) != codes.Internal {
		t.Errorf("an answer that is none: %v", err)
	}
	if _, err := c.SignCMS(t.Context(), "", nil); status.Code(err) != codes.Unimplemented {
		t.Errorf("SignCMS: %v", err)
	}
}

func TestNotConfigured(t *testing.T) {
	d := &double{err: errors.New("no such file")}
	c := connect(t, func(s *grpc.Server) { Register(s, d, quiet) })
	for range 2 {
		if _, err := c.Issue(t.Context(), &IssueRequest{ID: "a"}); status.Code(err) != codes.Unavailable {
			t.Errorf("before Configure: %v", err)
		}
		if err := c.Validate(t.Context(), nil); status.Code(err) != codes.Unknown {
			t.Errorf("Validate before Configure: %v", err)
		}
		if err := c.Configure(t.Context(), nil); err == nil { // and again after it failed
			t.Error("a failed Configure passes")
		}
	}
}

func TestPanics(t *testing.T) {
	d := &double{panics: true}
	c := serving(t, d)
	if _, err := c.Issue(t.Context(), &IssueRequest{ID: "a"}); status.Code(err) != codes.Internal || strings.Contains(err.Error(), "as asked") {
		t.Errorf("Issue: %v", err)
	}
	if err := c.CRL(t.Context(), "", io.Discard); status.Code(err) != codes.Internal {
		t.Errorf("CRL: %v", err)
	}
}

func TestErrorsBecomeStatus(t *testing.T) {
	for _, c := range []struct {
		err  error
		code codes.Code
	}{
		{errors.New("x"), codes.Unknown},
		{fmt.Errorf("x: %w", context.DeadlineExceeded), codes.DeadlineExceeded},
		{context.Canceled, codes.Canceled},
		{fmt.Errorf("x: %w", status.Error(codes.NotFound, "y")), codes.NotFound},
	} {
		if got := status.Code(asStatus(c.err)); got != c.code {
			t.Errorf("%v: %s, not %s", c.err, got, c.code)
		}
	}
	long := asStatus(Exhausted(time.Second, strings.Repeat("x", 1<<20)))
	if n := len(status.Convert(long).Message()); n > maxErrorText+3 {
		t.Errorf("a text of %d bytes", n)
	}
	if d, ok := RetryAfter(long); !ok || d != time.Second {
		t.Error("RetryInfo is lost with the text")
	}
}

func TestParseOID(t *testing.T) {
	for in, ok := range map[string]bool{
		"1.2": true, "0.39": true, "2.999.1": true, "1.3.6.1.4.1.311": true, "2.5.29.2147483647": true,
		"": false, "1": false, "3.1": false, "1.40": false, "1..2": false, "1.02": false, "1.-2": false, "1.2.": false,
		"1.2.2147483648": false, "1.2 ": false, strings.Repeat("1.", 40) + "1": false,
	} {
		oid, err := parseOID(in)
		if (err == nil) != ok || ok && oid.String() != in {
			t.Errorf("%q: %v, %v", in, oid, err)
		}
	}
}

func FuzzParseOID(f *testing.F) {
	for _, s := range []string{"1.2.840", "2.999.1", "1.40", "1..2", "0.0", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		oid, err := parseOID(s)
		if err != nil {
			return
		}
		if oid.String() != s {
			t.Errorf("%q became %s", s, oid)
		}
		if _, err := asn1.Marshal(oid); err != nil {
			t.Errorf("%q has no DER: %v", s, err)
		}
	})
}
