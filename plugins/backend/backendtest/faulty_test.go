package backendtest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"crypto/x509"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
)

var testDay = time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)

func testRequest(t *testing.T, id string) *backend.IssueRequest {
	t.Helper()
	r, err := newRequest(id, id, testDay, testDay.Add(48*time.Hour), false)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestFaulty(t *testing.T) {
	for _, c := range []struct {
		fault  Fault
		code   codes.Code // of the first answer
		issued int
		exits  int
		wrong  func(cert *x509.Certificate, r *backend.IssueRequest) bool
	}{
		{fault: FaultNone, issued: 1},
		{fault: FaultDrop, code: codes.Unavailable, issued: 1},
		{fault: FaultDie, code: codes.Unavailable, issued: 1, exits: 1},
		{fault: FaultDieBefore, code: codes.Unavailable, exits: 1},
		{fault: FaultUnavailable, code: codes.Unavailable},
		{fault: FaultRefuse, code: codes.InvalidArgument},
		{fault: FaultExhausted, code: codes.ResourceExhausted},
		{fault: FaultLate, code: codes.Canceled, issued: 1},
		{fault: "misspelt", code: codes.Internal},
		{fault: FaultGarbage, issued: 1, wrong: func(cert *x509.Certificate, _ *backend.IssueRequest) bool { return cert == nil }},
		{fault: FaultOtherKey, issued: 1, wrong: func(cert *x509.Certificate, r *backend.IssueRequest) bool {
			return !bytes.Equal(cert.RawSubjectPublicKeyInfo, r.Template.PublicKey)
		}},
		{fault: FaultWrongSubject, issued: 1, wrong: func(cert *x509.Certificate, r *backend.IssueRequest) bool {
			return !bytes.Equal(cert.RawSubject, r.Template.Subject)
		}},
		{fault: FaultWrongDates, issued: 1, wrong: func(cert *x509.Certificate, r *backend.IssueRequest) bool {
			return !cert.NotAfter.Equal(r.Template.NotAfter)
		}},
	} {
		t.Run(string(c.fault), func(t *testing.T) {
			exits := 0
			f := Faulty(NewMemory(MemoryOptions{}), FaultPlan{
				ByID: map[string][]Fault{"a": {c.fault}}, Exit: func() { exits++ }})
			ctx := t.Context()
			if c.fault == FaultLate {
				var cancel context.CancelFunc
				ctx, cancel = context.WithCancel(ctx)
				defer cancel()
				go func() { // the caller gives up once the certificate is signed
					for f.Issued("a") == 0 {
						time.Sleep(time.Millisecond)
					}
					cancel()
				}()
			}
			r := testRequest(t, "a")
			a, err := f.Issue(ctx, r)
			if status.Code(err) != c.code {
				t.Fatalf("answered %v, not %s", err, c.code)
			}
			if f.Issued("a") != c.issued || f.Total() != c.issued || exits != c.exits {
				t.Errorf("issued %d, exits %d, not %d and %d", f.Issued("a"), exits, c.issued, c.exits)
			}
			if c.wrong != nil {
				cert, _ := x509.ParseCertificate(a.Certificate)
				if !c.wrong(cert, r) {
					t.Error("the answer is not wrong as planned")
				}
				return
			}
			// The plan is used up: the same ID leads to the one certificate.
			if _, err := f.Issue(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			if f.Issued("a") != 1 || f.Calls("a") != 2 {
				t.Errorf("after the retry: issued %d in %d calls", f.Issued("a"), f.Calls("a"))
			}
		})
	}
}

func TestFaultyByCallAndRelease(t *testing.T) {
	release := make(chan struct{})
	f := Faulty(NewMemory(MemoryOptions{}), FaultPlan{
		ByCall: map[int]Fault{2: FaultDrop, 3: FaultSlowSigning}, Release: release,
		Lookup: func(n int, _ string) error {
			if n == 1 {
				return backend.Refuse(codes.Unavailable, "planned")
			}
			return nil
		}})
	if _, err := f.Issue(t.Context(), testRequest(t, "a")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Issue(t.Context(), testRequest(t, "b")); status.Code(err) != codes.Unavailable {
		t.Fatalf("the second call: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	answered := make(chan error)
	slow := testRequest(t, "c")
	go func() { _, err := f.Issue(gone, slow); answered <- err }()
	release <- struct{}{}
	if err := <-answered; err != nil || f.Issued("c") != 1 {
		t.Fatalf("slow signing for a caller that is gone: %v, issued %d", err, f.Issued("c"))
	}
	if _, err := f.Lookup(t.Context(), &backend.IssueRequest{ID: "a"}); status.Code(err) != codes.Unavailable {
		t.Errorf("the first Lookup: %v", err)
	}
	if o, err := f.Lookup(t.Context(), &backend.IssueRequest{ID: "b"}); err != nil || o.State != backend.OutcomeIssued {
		t.Errorf("the second Lookup: %v, %v", o, err)
	}
}

// TestMemoryIsDeterministic: two processes with one seed are one CA.
func TestMemoryIsDeterministic(t *testing.T) {
	r := testRequest(t, "a")
	var first []byte
	for range 2 {
		a, err := NewMemory(MemoryOptions{Seed: "s"}).Issue(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if first != nil && !bytes.Equal(first, a.Certificate) {
			t.Fatal("one seed, two certificates")
		}
		first = a.Certificate
	}
	if a, err := NewMemory(MemoryOptions{Seed: "other"}).Issue(t.Context(), r); err != nil || bytes.Equal(first, a.Certificate) {
		t.Fatalf("another seed, the same certificate (%v)", err)
	}
}

func TestJournal(t *testing.T) {
	file := filepath.Join(t.TempDir(), "journal")
	m := NewMemory(MemoryOptions{Journal: file})
	a, err := m.Issue(t.Context(), testRequest(t, "a"))
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(a.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Revoke(t.Context(), &backend.RevokeRequest{Issuer: leaf.RawIssuer, Serial: leaf.SerialNumber.Bytes(), Reason: 5}); err != nil || !m.Revoked("a") {
		t.Fatal("it is not revoked", err)
	}
	// What a kill in the middle of a line leaves.
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"id":"b","cont`); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	again := NewMemory(MemoryOptions{Journal: file})
	if again.Issued("a") != 1 || !again.Revoked("a") || again.Issued("b") != 0 || again.Total() != 1 {
		t.Error("the journal was not replayed")
	}
	if _, err := again.Issue(t.Context(), testRequest(t, "b")); err != nil {
		t.Fatal(err)
	}
	issued, err := Journal(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(issued) != 2 || len(issued["a"]) != 1 || !bytes.Equal(issued["a"][0], a.Certificate) {
		t.Errorf("the journal holds %d IDs", len(issued))
	}
	if _, err := Journal(file + ".missing"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
