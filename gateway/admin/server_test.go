package admin

import (
	"bytes"
	"context"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// source is a store and a gateway that hold what was put in, or fail.
type source struct {
	stored    []*gateway.Transaction // newest first
	strangers []*gateway.Transaction // newest first
	certs     []*gateway.Certificate
	err       error
	notReady  error
	asked     gateway.CertificateFilter
	secrets   []*gateway.StoredSecret // by endpoint and reference
	audit     []gateway.AuditEvent
	log       bytes.Buffer
	devices   []*gateway.Device // by name
	claims    map[string]int64
	given     []*gateway.IssuedChallenge // newest first
	messages  []gateway.Message
	authority []backend.CA
	starting  bool
	tallied   []time.Time   // what it has counted
	late      chan struct{} // an import tells its first entry, then fails when it is closed
	approved  string        // what the gateway was asked
	rolled    backend.RolloverRequest
	reloaded  []string // by whom
	faulty    error    // what a reload ends with
}

func (s *source) Transactions(_ context.Context, f gateway.TransactionFilter) ([]*gateway.Transaction, error) {
	var out []*gateway.Transaction
	for _, t := range s.stored {
		if len(f.States) > 0 && !slices.Contains(f.States, t.State) || f.Endpoint != "" && f.Endpoint != t.Endpoint ||
			f.Device != "" && f.Device != t.Device || f.Before != "" && t.ID >= f.Before || len(out) == f.Limit {
			continue
		}
		out = append(out, t)
	}
	return out, s.err
}

func (s *source) Certificates(_ context.Context, f gateway.CertificateFilter) ([]*gateway.Certificate, error) {
	s.asked = f
	return s.certs[:min(len(s.certs), f.Limit)], s.err
}

func (s *source) Explain(_ context.Context, id string) (*gateway.Transaction, error) {
	for _, t := range slices.Concat(s.strangers, s.stored) {
		if t.ID == id {
			return t, nil
		}
	}
	if s.err != nil {
		return nil, s.err
	}
	return nil, gateway.ErrNotFound
}

func (s *source) Strangers(limit int) []*gateway.Transaction {
	return s.strangers[:min(len(s.strangers), limit)]
}
func (s *source) Ready(context.Context) error { return s.notReady }

// id makes the ID of the n-th transaction: later ones sort behind, and each ends differently.
func id(n int) string { return fmt.Sprintf("06gzsq%04dabcdefghjk%06d", n, n*7) }

func transaction(n int, state gateway.State, change func(*gateway.Transaction)) *gateway.Transaction {
	t := &gateway.Transaction{
		ID: id(n), Protocol: gateway.EST, Endpoint: "ran", Operation: gateway.Enroll, State: state, Source: "192.0.2.7",
		Credentials: []string{"password:factory"}, Requester: "password:factory", Subject: "CN=device-1",
		Received: noon.Add(time.Duration(n) * time.Second), Updated: noon.Add(time.Duration(n) * time.Second),
	}
	if change != nil {
		change(t)
	}
	return t
}

func name(t *testing.T, cn string) []byte {
	t.Helper()
	der, err := asn1.Marshal(pkix.Name{CommonName: cn}.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// serve runs the API over a Unix socket and returns a client of it.
func serve(t *testing.T, s *source) (*Client, string) {
	t.Helper()
	c := serveOn(t, newServer(t, s))
	return c, strings.TrimPrefix(c.where, "admin socket ")
}

// serveConfig runs another one.
func serveConfig(t *testing.T, config Config) *Client {
	t.Helper()
	server, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, server)
}

func serveOn(t *testing.T, server *Server) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "admin.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		if err := server.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is left behind: %v", err)
		}
	})
	return NewClient(path)
}

func newServer(t *testing.T, s *source) *Server {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "muster_test_total", Help: "A counter."}))
	var asks atomic.Int64
	server, err := New(Config{
		Store: s, Gateway: s, Metrics: registry, Version: "v1.2.3", Instance: "a", Log: slog.New(slog.NewTextHandler(&s.log, nil)),
		CAs: s.cas, CRL: s.crl, Ready: s.able, Started: func() bool { return !s.starting }, TakesChallenges: takesChallenges, ProcessCMP: s.processCMP,
		Configuration: s.configuration, Reload: s.reload,
		Sealer: func() Sealer { return reversing{} }, TakesSecrets: func(endpoint string) error {
			if endpoint != "ran" && endpoint != "core" {
				return fmt.Errorf("no endpoint %q", endpoint)
			}
			return nil
		},
		Clock: func() time.Time { return noon.Add(time.Duration(asks.Add(1)-1) * 90 * time.Second) },
		Backends: func(context.Context) []Backend {
			return []Backend{{Name: "z", Plugin: "/opt/z", Error: "gone"}, {Name: "local", Plugin: "local", PID: 7, Restarts: 2, Idempotency: "native"}}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return server
}

func ids(list []Transaction) []string {
	var out []string
	for _, t := range list {
		out = append(out, t.ID)
	}
	return out
}

func TestTransactions(t *testing.T) {
	s := &source{
		stored: []*gateway.Transaction{
			transaction(6, gateway.StateIssued, nil),
			transaction(4, gateway.StateRefused, func(x *gateway.Transaction) { x.Device = "device-4" }),
			transaction(2, gateway.StateIssued, func(x *gateway.Transaction) { x.Endpoint = "core" }),
			transaction(1, gateway.StateHeld, nil),
		},
		strangers: []*gateway.Transaction{
			transaction(5, gateway.StateRefused, func(x *gateway.Transaction) { x.Requester = "" }),
			transaction(3, gateway.StateRefused, func(x *gateway.Transaction) { x.Requester, x.Endpoint = "", "core" }),
		},
	}
	c, _ := serve(t, s)
	for name, q := range map[string]struct {
		query TransactionQuery
		want  []int
		next  int
	}{
		"all":                 {TransactionQuery{}, []int{6, 4, 2, 1}, 0},
		"with strangers":      {TransactionQuery{Strangers: true}, []int{6, 5, 4, 3, 2, 1}, 0},
		"states":              {TransactionQuery{States: []string{"issued", "held"}}, []int{6, 2, 1}, 0},
		"refused":             {TransactionQuery{States: []string{"refused"}, Strangers: true}, []int{5, 4, 3}, 0},
		"issued, no stranger": {TransactionQuery{States: []string{"issued"}, Strangers: true}, []int{6, 2}, 0},
		"endpoint":            {TransactionQuery{Endpoint: "core", Strangers: true}, []int{3, 2}, 0},
		"device":              {TransactionQuery{Device: "device-4", Strangers: true}, []int{4}, 0},
		"first page":          {TransactionQuery{Limit: 2}, []int{6, 4}, 4},
		"second page":         {TransactionQuery{Limit: 2, Before: id(4)}, []int{2, 1}, 1},
		"page with strangers": {TransactionQuery{Limit: 3, Strangers: true}, []int{6, 5, 4}, 4},
		"next page":           {TransactionQuery{Limit: 3, Strangers: true, Before: id(4)}, []int{3, 2, 1}, 0},
		"behind the last":     {TransactionQuery{Strangers: true, Before: id(1)}, nil, 0},
		"a page of strangers": {TransactionQuery{Limit: 1, States: []string{"refused"}, Strangers: true, Before: id(6)}, []int{5}, 5},
		"just all":            {TransactionQuery{Limit: 6, Strangers: true}, []int{6, 5, 4, 3, 2, 1}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			list, err := c.Transactions(context.Background(), q.query)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for _, n := range q.want {
				want = append(want, id(n))
			}
			if !slices.Equal(ids(list.Transactions), want) {
				t.Errorf("got %v, want %v", ids(list.Transactions), want)
			}
			next := ""
			if q.next != 0 {
				next = id(q.next)
			}
			if list.Next != next {
				t.Errorf("next %q, want %q", list.Next, next)
			}
			for _, x := range list.Transactions {
				if x.Remembered != (x.ID == id(5) || x.ID == id(3)) {
					t.Errorf("%s: remembered %v", x.ID, x.Remembered)
				}
			}
		})
	}
}

func TestExplain(t *testing.T) {
	issued := transaction(6, gateway.StateIssued, func(x *gateway.Transaction) {
		x.WireID, x.Device, x.Profile, x.Backend, x.Replaces, x.Note = "w1", "device-1", "base", "local", []byte{0x0a, 1}, "fine"
		x.Verdicts = []gateway.Judged{{Stage: "anyOf", Decision: gateway.Allow, Note: "branch 2", Took: 1500 * time.Microsecond, Parts: []gateway.Judged{
			{Stage: "password", Decision: gateway.Deny, Reason: gateway.Unauthenticated, Note: "wrong"},
		}}}
		x.Intent = &backend.IssueRequest{Template: backend.Template{
			Subject: name(t, "device-1"), SubjectAltName: []byte{0x30, 9, 0x82, 1, 'a', 0x87, 4, 10, 0, 0, 1}, PublicKey: []byte{1}, NotBefore: noon, NotAfter: noon.AddDate(1, 0, 0),
		}}
		x.Certificate = &gateway.Certificate{
			Issuer: name(t, "CA"), Serial: []byte{0x0b}, Transaction: x.ID, Backend: "local", Endpoint: "ran", Device: "device-1", Subject: "CN=device-1",
			NotBefore: noon, NotAfter: noon.AddDate(1, 0, 0), DER: []byte("der"), RevokedAt: noon, Revocation: 4,
		}
	})
	stranger := transaction(5, gateway.StateRefused, func(x *gateway.Transaction) { x.Requester = "" })
	c, _ := serve(t, &source{stored: []*gateway.Transaction{issued}, strangers: []*gateway.Transaction{stranger}})

	got, err := c.Explain(context.Background(), issued.ID)
	if err != nil {
		t.Fatal(err)
	}
	at := noon
	want := Transaction{
		ID: issued.ID, WireID: "w1", Protocol: "est", Endpoint: "ran", Operation: "enroll", State: "issued", Note: "fine", Source: "192.0.2.7",
		Credentials: []string{"password:factory"}, Requester: "password:factory", Device: "device-1", Subject: "CN=device-1", Profile: "base", Backend: "local",
		Replaces: "0a01", Received: noon.Add(6 * time.Second), Updated: noon.Add(6 * time.Second),
		Verdicts: []Verdict{{Stage: "anyOf", Decision: "allow", Note: "branch 2", Took: 1500, Parts: []Verdict{{Stage: "password", Decision: "deny", Reason: "unauthenticated", Note: "wrong"}}}},
		Granted:  &Granted{Subject: "CN=device-1", SubjectAltName: []string{"dns:a", "ip:10.0.0.1"}, NotBefore: noon, NotAfter: noon.AddDate(1, 0, 0)},
		Certificate: &Certificate{
			Serial: "0b", Issuer: "CN=CA", Subject: "CN=device-1", NotBefore: noon, NotAfter: noon.AddDate(1, 0, 0), Transaction: issued.ID, Endpoint: "ran",
			Backend: "local", Device: "device-1", RevokedAt: &at, Revocation: "superseded",
			Fingerprint: "5050d80d22ecd471ea55df7034042c1e041341ff4066e7f6ff38e20b720df8ea", PEM: "-----BEGIN CERTIFICATE-----\nZGVy\n-----END CERTIFICATE-----\n",
		},
	}
	a, _ := json.Marshal(got)
	b, _ := json.Marshal(want)
	if !bytes.Equal(a, b) {
		t.Errorf("got\n%s\nwant\n%s", a, b)
	}

	got, err = c.Explain(context.Background(), stranger.ID)
	if err != nil || !got.Remembered || got.ID != stranger.ID {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestExplainByPart(t *testing.T) {
	s := &source{strangers: []*gateway.Transaction{transaction(999, gateway.StateRefused, nil)}}
	for n := 900; n > 0; n-- {
		s.stored = append(s.stored, transaction(n, gateway.StateIssued, nil))
	}
	c, _ := serve(t, s)
	for part, want := range map[string]int{
		id(700):                             700,
		id(700)[:10]:                        700,
		id(3)[10:]:                          3, // on the second page from the newest
		strings.ToUpper(id(5)[18:]):         5, // as a person writes it
		"O6GZSQ-OO42":                       42,
		"06gzsqoo l7":                       17,
		id(999)[:10]:                        999,
		id(999)[18:]:                        999,
		" " + id(8) + "\t":                  8,
		strings.ToUpper(id(800)[:12]):       800,
		id(900)[:25]:                        900,
		strings.ReplaceAll(id(1), "1", "l"): 1,
	} {
		got, err := c.Explain(context.Background(), part)
		if err != nil || got.ID != id(want) {
			t.Errorf("%q: %v, %v", part, got.ID, err)
		}
	}
	for part, want := range map[string]struct {
		status     int
		message    string
		candidates int
	}{
		id(950):                  {404, "kept in memory only", 0},
		"zzzzzz":                 {404, "nor one of the newest 5000", 0},
		"06gzs":                  {400, "too short", 0},
		id(1) + "0":              {400, "26 characters", 0},
		"device-0001!":           {400, "without i, l, o and u", 0},
		"'; drop/50%":            {400, `"'; drop/50%" is no`, 0},
		"50%":                    {400, `"50%" is no`, 0},
		strings.Repeat("x", 300): {400, "26 characters", 0},
		"06gzsq":                 {409, "more than one", 5},
		"06gzsq00":               {409, "more than one", 5},
	} {
		_, err := c.Explain(context.Background(), part)
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Status != want.status || !strings.Contains(e.Message, want.message) || len(e.Candidates) != want.candidates {
			t.Errorf("%q: %v %+v", part, err, e)
		}
	}
}

func TestCertificates(t *testing.T) {
	s := &source{}
	for n := 3; n > 0; n-- {
		s.certs = append(s.certs, &gateway.Certificate{Issuer: name(t, "CA"), Serial: []byte{byte(n)}, Transaction: id(n), DER: []byte{1}})
	}
	c, _ := serve(t, s)
	list, err := c.Certificates(context.Background(), CertificateQuery{Device: "d", Requester: "password:x", Valid: true, Limit: 2, Before: id(9)})
	if err != nil || len(list.Certificates) != 2 || list.Next != id(2) || list.Certificates[0].Serial != "03" {
		t.Fatalf("%+v, %v", list, err)
	}
	if list.Certificates[0].PEM != "" || list.Certificates[0].Fingerprint == "" {
		t.Errorf("%+v", list.Certificates[0])
	}
	if f := s.asked; f.Device != "d" || f.Requester != "password:x" || f.ValidAt.IsZero() || f.Before != id(9) || f.Limit != 2 {
		t.Errorf("the store was asked for %+v", f)
	}
	if list, err = c.Certificates(context.Background(), CertificateQuery{}); err != nil || len(list.Certificates) != 3 || list.Next != "" || !s.asked.ValidAt.IsZero() {
		t.Errorf("%+v, %v, asked %+v", list, err, s.asked)
	}
}

func TestStatus(t *testing.T) {
	s := &source{}
	c, _ := serve(t, s)
	st, err := c.Status(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if !st.Ready || st.Version != "v1.2.3" || st.Instance != "a" || st.Uptime != 90 || !st.Started.Equal(noon) {
		t.Errorf("%+v", st)
	}
	if len(st.Backends) != 2 || st.Backends[0] != (Backend{Name: "local", Plugin: "local", PID: 7, Restarts: 2, Idempotency: "native"}) || st.Backends[1].Error != "gone" {
		t.Errorf("%+v", st.Backends)
	}
	s.notReady = errors.New("the disk is full")
	if st, err = c.Status(context.Background()); err != nil || st.Ready || st.NotReady != "the disk is full" {
		t.Errorf("%+v, %v", st, err)
	}
	s.notReady, s.starting = nil, true
	if st, err = c.Status(context.Background()); err != nil || st.Ready || st.NotReady != "it is starting" {
		t.Errorf("%+v, %v", st, err)
	}
}

// able is what /readyz says.
func (s *source) able(context.Context) error {
	if s.starting {
		return errors.New("it is starting")
	}
	return nil
}

// What a wrong request is answered, byte for byte as a script sees it.
func TestErrors(t *testing.T) {
	s := &source{stored: []*gateway.Transaction{transaction(1, gateway.StateIssued, nil)}}
	c, _ := serve(t, s)
	get := func(method, path string) (int, string) {
		t.Helper()
		req, err := http.NewRequest(method, "http://muster"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	if status, body := get(http.MethodGet, "/metrics"); status != 200 || !strings.Contains(body, "muster_test_total 0") {
		t.Errorf("metrics: %d %s", status, body)
	}
	for _, x := range []struct {
		method, path string
		status       int
		message      string
	}{
		{"GET", "/v1/transactions?state=isued", 400, `no state \"isued\" (known: refused, held`},
		{"GET", "/v1/transactions?stat=issued", 400, `unknown parameter \"stat\"`},
		{"GET", "/v1/transactions?state=held&state=issued", 400, "stands 2 times"},
		{"GET", "/v1/transactions?limit=0", 400, "limit is 1 to 1000"},
		{"GET", "/v1/transactions?limit=1001", 400, "limit is 1 to 1000"},
		{"GET", "/v1/transactions?limit=x", 400, "limit is 1 to 1000"},
		{"GET", "/v1/transactions?before=x", 400, "whole transaction ID"},
		{"GET", "/v1/transactions?refused=all", 400, `refused is`},
		{"GET", "/v1/transactions/abc", 400, "too short"},
		{"GET", "/v1/transactions/06gzsq0001?x=1", 400, "unknown parameter"},
		{"GET", "/v1/certificates?valid=yes", 400, `valid is`},
		{"GET", "/v1/certificates?before=x", 400, "whole transaction ID"},
		{"GET", "/v1/status?x=1", 400, "unknown parameter"},
		{"GET", "/v2/status", 404, "not found"},
		{"POST", "/v1/status", 405, "method not allowed"},
		{"DELETE", "/v1/transactions/" + id(1), 405, "method not allowed"},
	} {
		status, body := get(x.method, x.path)
		if status != x.status || !strings.HasPrefix(body, `{"error":"`) || !strings.Contains(body, x.message) {
			t.Errorf("%s %s: %d %s", x.method, x.path, status, body)
		}
	}
	s.err = errors.New("disk on fire")
	for _, path := range []string{"/v1/transactions", "/v1/certificates", "/v1/transactions/zzzzzz", "/v1/transactions/" + id(7)} {
		if status, body := get(http.MethodGet, path); status != 503 || !strings.Contains(body, "disk on fire") {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
}

func TestNewNeedsEverything(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("made of nothing")
	}
}
