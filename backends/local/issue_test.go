package local

import (
	"bytes"
	"context"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"google.golang.org/grpc/codes"
)

// exitCrash is how a process ends that dies at a crash point.
const exitCrash = 41

// issueProcess is the test binary as a process that runs the CA in dir: it reads an IssueRequest, JSON, from stdin, and
// writes the certificate to stdout, or dies at the crash point that is named in its environment.
func issueProcess(dir string) {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	var q backend.IssueRequest
	fail(json.NewDecoder(os.Stdin).Decode(&q))
	c := New(Options{
		Clock: func() time.Time { return now },
		Crash: func(point string) {
			if point == os.Getenv("MUSTER_LOCAL_TEST_CRASH") {
				os.Exit(exitCrash)
			}
		},
	})
	fail(c.Configure(context.Background(), []byte("dir: "+dir)))
	got, err := c.Issue(context.Background(), &q)
	fail(err)
	_, err = os.Stdout.Write(got.Certificate)
	fail(err)
	os.Exit(0) // without Close: as a process that is killed leaves it
}

// inProcess issues in a process of its own, and returns what it wrote and how it ended.
func inProcess(t *testing.T, dir, crash string, q *backend.IssueRequest) ([]byte, int) {
	t.Helper()
	in, err := json.Marshal(q)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "MUSTER_LOCAL_TEST_ISSUE="+dir, "MUSTER_LOCAL_TEST_CRASH="+crash)
	cmd.Stdin = bytes.NewReader(in)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	if code := cmd.ProcessState.ExitCode(); code != 0 && code != exitCrash {
		t.Fatalf("the process ended with %d: %s", code, stderr.Bytes())
	}
	return stdout.Bytes(), cmd.ProcessState.ExitCode()
}

func TestSameIDSameCertificate(t *testing.T) {
	for _, issuer := range []string{IssuerEC, IssuerRSA} {
		t.Run(issuer, func(t *testing.T) {
			dir, other := standing(t), standing(t) // the same CA twice: copies
			q := request(t, "tx-1")
			q.Issuer = issuer
			c := open(t, dir, Options{})
			first := issue(t, c, q)
			if again := issue(t, c, q); !bytes.Equal(first.Raw, again.Raw) {
				t.Error("another certificate for a repeat")
			}
			shut(t, c)
			// The copy's ledger does not know the ID: what it signs is signed anew.
			if anew := issue(t, open(t, other, Options{}), q); !bytes.Equal(first.Raw, anew.Raw) {
				t.Error("another certificate when signed again")
			}
			if repeated, code := inProcess(t, dir, "", q); code != 0 || !bytes.Equal(first.Raw, repeated) {
				t.Errorf("another certificate from another process, which ended with %d", code)
			}
			if anew, code := inProcess(t, standing(t), "", q); code != 0 || !bytes.Equal(first.Raw, anew) {
				t.Errorf("another certificate signed by another process, which ended with %d", code)
			}
			if n := len(rows(t, dir)); n != 1 {
				t.Errorf("%d rows in the ledger", n)
			}
			q.ID = "tx-2"
			if next := issue(t, open(t, dir, Options{}), q); next.SerialNumber.Cmp(first.SerialNumber) == 0 {
				t.Error("the same serial number for another ID")
			}
		})
	}
}

func TestSerialNumbersDifferByIssuer(t *testing.T) {
	a := &authority{secret: make([]byte, secretSize)}
	seen := map[string]bool{}
	for _, s := range [][2]string{{"ec", "1"}, {"rsa", "1"}, {"ec", "2"}, {"e", "c1"}, {"ec1", ""}} {
		n := a.serialNumber(s[0], s[1])
		if seen[string(n)] || len(n) != 20 || n[0]&0xc0 != 0x40 {
			t.Errorf("%q: %x", s, n)
		}
		seen[string(n)] = true
	}
}

var crashPoints = []string{CrashBeforeSign, CrashAfterSign, CrashAfterLedger}

func TestCrashInProcess(t *testing.T) {
	for _, issuer := range []string{IssuerEC, IssuerRSA} {
		for _, point := range crashPoints {
			t.Run(issuer+"/"+point, func(t *testing.T) {
				dir := standing(t)
				q := request(t, "tx-1")
				q.Issuer = issuer
				undisturbed := issue(t, open(t, standing(t), Options{}), q)

				c := open(t, dir, Options{Crash: func(at string) {
					if at == point {
						panic(point)
					}
				}})
				func() {
					defer func() {
						if r := recover(); r != point {
							t.Errorf("the call ended with %v", r)
						}
					}()
					_, _ = c.Issue(t.Context(), q)
				}()
				shut(t, c)
				afterCrash(t, dir, point, q, undisturbed.Raw)
			})
		}
	}
}

func TestCrashOfTheProcess(t *testing.T) {
	for _, point := range crashPoints {
		t.Run(point, func(t *testing.T) {
			dir := standing(t)
			q := request(t, "tx-1")
			undisturbed := issue(t, open(t, standing(t), Options{}), q)
			if out, code := inProcess(t, dir, point, q); code != exitCrash || len(out) != 0 {
				t.Fatalf("ended with %d after %d octets", code, len(out))
			}
			afterCrash(t, dir, point, q, undisturbed.Raw)
		})
	}
}

// afterCrash checks what the next process finds, and that the same ID leads to the certificate that it always leads to.
func afterCrash(t *testing.T, dir, point string, q *backend.IssueRequest, certificate []byte) {
	t.Helper()
	recorded := 0
	state := backend.OutcomeNever
	if point == CrashAfterLedger {
		recorded, state = 1, backend.OutcomeIssued
	}
	if n := len(rows(t, dir)); n != recorded {
		t.Errorf("%d rows in the ledger after the crash, want %d", n, recorded)
	}
	c := open(t, dir, Options{})
	o, err := c.Lookup(t.Context(), &backend.IssueRequest{ID: q.ID})
	if err != nil {
		t.Fatal(err)
	}
	if o.State != state {
		t.Errorf("Lookup says %s, want %s", o.State, state)
	}
	if again := issue(t, c, q); !bytes.Equal(again.Raw, certificate) {
		t.Error("another certificate after the crash")
	}
	entries := rows(t, dir)
	if len(entries) != 1 || entries[0].ID != q.ID || !bytes.Equal(entries[0].Certificate, certificate) {
		t.Errorf("%d rows in the ledger after the retry", len(entries))
	}
}

// TestConcurrentSameID: sixteen at once are one signature, one row and one certificate.
func TestConcurrentSameID(t *testing.T) {
	dir := standing(t)
	var mu sync.Mutex
	signed := 0
	c := open(t, dir, Options{Crash: func(point string) {
		if point == CrashAfterSign {
			mu.Lock()
			defer mu.Unlock()
			signed++
		}
	}})
	q := request(t, "tx-1")
	var wg sync.WaitGroup
	got := make([][]byte, 16)
	for i := range got {
		wg.Go(func() {
			issuance, err := c.Issue(t.Context(), q)
			if err != nil {
				t.Error(err)
				return
			}
			got[i] = issuance.Certificate
		})
	}
	wg.Wait()
	for _, der := range got {
		if !bytes.Equal(der, got[0]) {
			t.Error("two certificates")
		}
	}
	if n := len(rows(t, dir)); n != 1 || signed != 1 {
		t.Errorf("%d rows, %d signatures", n, signed)
	}
	if n := len(c.open.Load().flights.m); n != 0 {
		t.Errorf("%d calls are still under way", n)
	}
}

func TestConcurrentIDs(t *testing.T) {
	dir := standing(t)
	c := open(t, dir, Options{})
	var wg sync.WaitGroup
	for i := range 64 {
		q := request(t, fmt.Sprintf("tx-%d", i))
		wg.Go(func() {
			if _, err := c.Issue(t.Context(), q); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	serials := map[string]bool{}
	for _, e := range rows(t, dir) {
		serials[e.Serial] = true
	}
	if len(serials) != 64 {
		t.Errorf("%d serial numbers", len(serials))
	}
}

func TestSameIDOtherContent(t *testing.T) {
	dir := standing(t)
	c := open(t, dir, Options{})
	first := issue(t, c, request(t, "tx-1"))
	for what, change := range map[string]func(q *backend.IssueRequest){
		"issuer":         func(q *backend.IssueRequest) { q.Issuer = IssuerRSA },
		"subject":        func(q *backend.IssueRequest) { q.Template.Subject = request(t, "tx-2").Template.Subject },
		"subjectAltName": func(q *backend.IssueRequest) { q.Template.SubjectAltName = nil },
		"key":            func(q *backend.IssueRequest) { q.Template.PublicKey = deviceKeys()["P-384"] },
		"begin":          func(q *backend.IssueRequest) { q.Template.NotBefore = q.Template.NotBefore.Add(time.Second) },
		"end":            func(q *backend.IssueRequest) { q.Template.NotAfter = q.Template.NotAfter.Add(time.Second) },
		"key usage":      func(q *backend.IssueRequest) { q.Template.KeyUsage = 0 },
		"purposes":       func(q *backend.IssueRequest) { q.Template.ExtKeyUsage = nil },
		"extension": func(q *backend.IssueRequest) {
			q.Template.Extensions = further(1, 3, 6, 1, 4, 1, 99999, 1)
		},
	} {
		t.Run(what, func(t *testing.T) {
			q := request(t, "tx-1")
			change(q)
			_, err := c.Issue(t.Context(), q)
			want(t, err, codes.AlreadyExists)
		})
	}
	// What does not decide about the certificate: the CA's own records, and the default issuer by its name.
	q := request(t, "tx-1")
	q.Device, q.Issuer = "renamed", IssuerEC
	if again := issue(t, c, q); !bytes.Equal(first.Raw, again.Raw) {
		t.Error("another certificate")
	}
	if e := rows(t, dir); len(e) != 1 || e[0].Device != "device-tx-1" {
		t.Errorf("rows: %+v", e)
	}
}

// TestLookupWhileUnderWay: never is not said of an ID whose Issue may still record it.
func TestLookupWhileUnderWay(t *testing.T) {
	reached, release := make(chan struct{}), make(chan struct{})
	c := open(t, standing(t), Options{Crash: func(point string) {
		if point == CrashAfterSign {
			reached <- struct{}{}
			<-release
		}
	}})
	lookup := func(id string) backend.OutcomeState {
		t.Helper()
		o, err := c.Lookup(t.Context(), &backend.IssueRequest{ID: id})
		if err != nil {
			t.Fatal(err)
		}
		return o.State
	}
	if s := lookup("tx-1"); s != backend.OutcomeNever {
		t.Errorf("before: %s", s)
	}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	wg.Go(func() {
		if _, err := c.Issue(ctx, request(t, "tx-1")); err != nil {
			t.Error(err)
		}
	})
	<-reached
	cancel() // what has begun runs to its end
	if s := lookup("tx-1"); s != backend.OutcomeUnknown {
		t.Errorf("under way: %s", s)
	}
	if s := lookup("tx-2"); s != backend.OutcomeNever {
		t.Errorf("another one: %s", s)
	}
	// A twin waits for its turn no longer than its caller does.
	gone, leave := context.WithCancel(t.Context())
	twin := make(chan error)
	go func() {
		_, err := c.Issue(gone, request(t, "tx-1"))
		twin <- err
	}()
	leave()
	want(t, <-twin, codes.Canceled)
	close(release)
	wg.Wait()
	o, err := c.Lookup(t.Context(), &backend.IssueRequest{ID: "tx-1"})
	if err != nil || o.State != backend.OutcomeIssued || len(o.Issuance.Certificate) == 0 || len(o.Issuance.Chain) != 2 {
		t.Errorf("after: %+v, %v", o, err)
	}
	// A caller that has left before leaves nothing: Lookup may have said never by then.
	_, err = c.Issue(gone, request(t, "tx-3"))
	want(t, err, codes.Canceled)
	if s := lookup("tx-3"); s != backend.OutcomeNever {
		t.Errorf("not begun: %s", s)
	}
}

func TestLedgerFails(t *testing.T) {
	dir := standing(t)
	c := open(t, dir, Options{})
	c.open.Load().ledger.writer.Close()
	_, err := c.Issue(t.Context(), request(t, "tx-1"))
	want(t, err, codes.Unavailable)
	if backend.Definite(err) {
		t.Error("a failed record is said to be a definite refusal")
	}
	want(t, c.CRL(t.Context(), "", &bytes.Buffer{}), codes.Unavailable)
	c.open.Load().ledger.read.Close()
	_, err = c.Lookup(t.Context(), &backend.IssueRequest{ID: "tx-1"})
	want(t, err, codes.Unavailable)
	_, err = c.Issue(t.Context(), request(t, "tx-1"))
	want(t, err, codes.Unavailable)
}

// An ID that was issued is never refused for good: neither by a CA that was closed, nor under a configuration or a release
// that would not certify the template any more.
func TestIssuedIsNotRefused(t *testing.T) {
	dir := standing(t)
	c := open(t, dir, Options{})
	q := request(t, "x")
	points := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 31}, Value: []byte{0x30, 0}}
	q.Template.Extensions = append(q.Template.Extensions, points)
	first, err := c.Issue(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	shut(t, c)
	if _, err := c.Issue(t.Context(), q); err == nil || backend.Definite(err) {
		t.Errorf("a closed CA: %v", err)
	}
	c = open(t, dir, Options{}, "issuers: {ec: {crl: [\"http://crl.example/ec\"]}}")
	again, err := c.Issue(t.Context(), q)
	if err != nil || !bytes.Equal(first.Certificate, again.Certificate) {
		t.Errorf("another certificate, or none: %v", err)
	}
	q.ID = "y"
	_, err = c.Issue(t.Context(), q)
	want(t, err, codes.InvalidArgument)
}
