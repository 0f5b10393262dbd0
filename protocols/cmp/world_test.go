package cmp

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/muster-pki/muster/gateway"
)

var _ Gateway = (*gateway.Gateway)(nil)

// testTime is close to the real time, which clients look at.
var testTime = time.Now().UTC().Truncate(time.Second)

// testCA is a root with an issuing CA below it.
type testCA struct {
	root, issuer *x509.Certificate
	key          crypto.Signer
}

func newTestCA(t testing.TB, name string, key crypto.Signer) *testCA {
	t.Helper()
	rootKey := newP256()
	root := signCertificate(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name + " Root"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, rootKey.Public(), rootKey)
	issuer := signCertificate(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name + " Issuing CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, root, key.Public(), rootKey)
	return &testCA{root, issuer, key}
}

func signCertificate(t testing.TB, tmpl, parent *x509.Certificate, pub crypto.PublicKey, signer crypto.Signer) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		t.Fatal(err)
	}
	tmpl.SerialNumber = serial
	if tmpl.NotBefore.IsZero() {
		tmpl.NotBefore, tmpl.NotAfter = testTime.Add(-time.Hour), testTime.Add(24*time.Hour)
	}
	if parent == nil {
		parent = tmpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func (ca *testCA) issue(t testing.TB, tmpl *x509.Certificate, pub crypto.PublicKey) *x509.Certificate {
	t.Helper()
	return signCertificate(t, tmpl, ca.issuer, pub, ca.key)
}

func newP256() crypto.Signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

func newEd25519() crypto.Signer {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

// fakeGateway certifies everything, or does as it is told, and keeps transactions as the real one does.
type fakeGateway struct {
	t       testing.TB
	ca      *testCA
	secrets map[string]gateway.Secret
	decide  func(*gateway.Request) (*gateway.Error, gateway.State) // nil: issue; a state that is open: leave it there
	grant   func(*gateway.Request, *x509.Certificate)              // changes what is granted
	confirm func(*gateway.Confirmation) error                      // before Confirm
	wait    time.Duration                                          // ConfirmWait of the endpoint
	fails   error                                                  // of every look-up
	looked  func()                                                 // at each look-up
	panics  string                                                 // method that panics
	keyID   []byte                                                 // subjectKeyIdentifier of certificates
	made    map[string]crypto.Signer                               // by transaction: the keys for devices
	// nameless are the profiles that give no subject.
	nameless map[string]bool
	crosses  []*x509.Certificate // of the root
	tells    tells               // to general messages
	ras      map[string]bool     // by fingerprint: those trusted, and whether they speak for devices
	upstream func([]byte) []byte // whom everything is passed on to; nil: nobody
	judged   []judgement         // of what came back from there

	mu         sync.Mutex
	byID       map[string]*gateway.Transaction
	order      []string
	repeats    map[string]string
	resumes    map[string]string
	enrolled   []*gateway.Request
	rejected   []*gateway.Error
	revoked    []*gateway.Request
	confirms   []*gateway.Confirmation
	issued     int
	heard      []string
	references [][]byte
}

const testReference = "0123456789abcdefghjkmnpqrs"

func keyOf(r *gateway.Request, parts ...[]byte) string {
	s := r.Endpoint + "|" + string(r.Operation)
	for _, c := range r.Credentials {
		if c.Kind != gateway.CredentialNested {
			s += "|" + c.String()
		}
	}
	for _, p := range parts {
		s += fmt.Sprintf("|%x", p)
	}
	return s
}

func (g *fakeGateway) Enroll(_ context.Context, r *gateway.Request) (*gateway.Result, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.panics == "Enroll" {
		panic("enroll failed")
	}
	if g.upstream != nil {
		return g.passOn(r)
	}
	repeat, resume := keyOf(r, []byte(r.WireID), r.Content), keyOf(r, r.Resume)
	if t := g.byID[g.repeats[repeat]]; t != nil && (t.State.Open() || t.State == gateway.StateIssued) {
		g.enrolled = append(g.enrolled, r)
		return g.result(t, true), nil
	}
	if r.OnlyRepeat != nil { // noted as a refusal
		g.rejected = append(g.rejected, r.OnlyRepeat)
		e := *r.OnlyRepeat
		e.Transaction = testReference
		return nil, &e
	}
	g.enrolled = append(g.enrolled, r)
	if t := g.byID[g.resumes[resume]]; t != nil && t.State.Open() {
		t.WireID, t.Exchange = r.WireID, r.Exchange
		g.repeats[repeat] = t.ID
		return g.result(t, true), nil
	}
	t := &gateway.Transaction{
		ID: r.ID, WireID: r.WireID, Protocol: gateway.CMP, Endpoint: r.Endpoint, Operation: r.Operation, Exchange: r.Exchange,
		State: gateway.StateIssued, Received: r.Received, Updated: r.Received,
	}
	if r.Confirm {
		t.ConfirmWait = cmp.Or(r.ConfirmWait, g.wait)
	}
	var fail *gateway.Error
	if g.decide != nil {
		var state gateway.State
		if fail, state = g.decide(r); state != "" {
			t.State = state
		}
	}
	if fail != nil {
		t.State, t.Reason = gateway.StateRefused, fail.Reason
		e := *fail
		e.Transaction = r.ID
		return nil, &e
	}
	g.byID[t.ID], g.repeats[repeat], g.resumes[resume] = t, t.ID, t.ID
	g.order = append(g.order, t.ID)
	t.Intent = nil
	if err := g.makeKey(t, r); err != nil {
		return nil, err
	}
	if t.State == gateway.StateIssued {
		g.settle(t, r)
	}
	return g.result(t, false), nil
}

// settle issues the certificate of a transaction.
func (g *fakeGateway) settle(t *gateway.Transaction, r *gateway.Request) {
	pub, err := g.publicKey(t, r)
	if err != nil {
		g.t.Fatal(err)
	}
	tmpl := &x509.Certificate{RawSubject: r.Subject, KeyUsage: x509.KeyUsageDigitalSignature, SubjectKeyId: g.keyID}
	if r.NewNames != nil {
		tmpl.RawSubject = r.NewNames.Subject
	}
	if san, ok := r.Extension(oidSubjectAltName); ok {
		tmpl.ExtraExtensions = []pkix.Extension{{Id: oidSubjectAltName, Value: san}}
	}
	if !r.Validity.NotAfter.IsZero() {
		tmpl.NotBefore, tmpl.NotAfter = r.Validity.NotBefore, r.Validity.NotAfter
	}
	if g.grant != nil {
		g.grant(r, tmpl)
	}
	cert := g.ca.issue(g.t, tmpl, pub)
	g.issued++
	t.Certificate = &gateway.Certificate{DER: cert.Raw, Chain: [][]byte{g.ca.issuer.Raw, g.ca.root.Raw}, NotAfter: cert.NotAfter}
	t.State = gateway.StateIssued
	if r.Confirm {
		t.State = gateway.StateUnconfirmed
	}
}

// Revoke revokes everything once.
func (g *fakeGateway) Revoke(_ context.Context, r *gateway.Request) (*gateway.Result, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	refuse := func(e *gateway.Error) (*gateway.Result, error) {
		out := *e
		out.Transaction = testReference
		return nil, &out
	}
	if g.upstream != nil {
		return g.passOn(r)
	}
	key := keyOf(r, []byte(r.WireID), r.Content)
	if t := g.byID[g.repeats[key]]; t != nil && t.State == gateway.StateRevoked {
		return &gateway.Result{Kind: gateway.ResultRevoked, Transaction: t.ID, Exchange: t.Exchange, Repeated: true}, nil
	}
	if r.OnlyRepeat != nil {
		g.rejected = append(g.rejected, r.OnlyRepeat)
		return refuse(r.OnlyRepeat)
	}
	g.revoked = append(g.revoked, r)
	if g.decide != nil {
		if e, _ := g.decide(r); e != nil {
			return refuse(e)
		}
	}
	t := &gateway.Transaction{ID: r.ID, WireID: r.WireID, Protocol: gateway.CMP, Endpoint: r.Endpoint, Operation: r.Operation,
		Exchange: r.Exchange, State: gateway.StateRevoked}
	g.byID[t.ID], g.repeats[key] = t, t.ID
	g.order = append(g.order, t.ID)
	return &gateway.Result{Kind: gateway.ResultRevoked, Transaction: t.ID, Exchange: t.Exchange}, nil
}

func (g *fakeGateway) result(t *gateway.Transaction, repeated bool) *gateway.Result {
	res := &gateway.Result{Kind: gateway.ResultPending, Transaction: t.ID, Repeated: repeated, Exchange: t.Exchange}
	if t.Certificate != nil {
		res.Key = t.SealedKey
		res.Kind, res.Unconfirmed = gateway.ResultIssued, t.State == gateway.StateUnconfirmed
		if res.Unconfirmed {
			res.ConfirmUntil = t.Updated.Add(t.ConfirmWait)
		}
		res.Certificate, _ = x509.ParseCertificate(t.Certificate.DER)
		res.Chain = []*x509.Certificate{g.ca.issuer, g.ca.root}
	}
	return res
}

func (g *fakeGateway) Reject(_ context.Context, _ *gateway.Request, e *gateway.Error) *gateway.Error {
	if g.panics == "Reject" {
		panic("reject failed")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rejected = append(g.rejected, e)
	noted := *e
	noted.Transaction = testReference
	return &noted
}

func (g *fakeGateway) Confirm(_ context.Context, c *gateway.Confirmation) (*gateway.Transaction, error) {
	if g.confirm != nil {
		if err := g.confirm(c); err != nil {
			return nil, err
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.confirms = append(g.confirms, c)
	t := g.byID[c.Transaction]
	if t == nil || t.State != gateway.StateUnconfirmed {
		return nil, &gateway.Error{Reason: gateway.Unavailable, Err: gateway.ErrStale}
	}
	t.State, t.Exchange, t.Updated = gateway.StateRejected, c.Exchange, c.Request.Received
	t.SealedKey = nil
	if c.Accepted {
		t.State = gateway.StateIssued
	} else {
		t.Certificate.RevokedAt = testTime
	}
	out := *t
	return &out, nil
}

func (g *fakeGateway) ByWireID(_ context.Context, endpoint, wireID string) (*gateway.Transaction, error) {
	if g.fails != nil {
		return nil, g.fails
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.looked != nil {
		g.looked()
	}
	for _, id := range slices.Backward(g.order) {
		if t := g.byID[id]; t.WireID == wireID && t.Endpoint == endpoint {
			out := *t
			return &out, nil
		}
	}
	return nil, nil
}

func (g *fakeGateway) SharedSecret(_ context.Context, endpoint string, reference []byte) (gateway.Secret, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.references = append(g.references, reference)
	return g.secrets[string(reference)], nil
}

func (g *fakeGateway) Heard(transaction, kind, note string, _ netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.heard = append(g.heard, transaction+" "+kind+" "+note)
}

func (g *fakeGateway) DerivesSubject(endpoint, profile string) bool {
	return endpoint != "" && !g.nameless[profile]
}

func (g *fakeGateway) CrossCertificates(_ context.Context, endpoint string, chain []*x509.Certificate) []*x509.Certificate {
	if endpoint == "" || !chain[len(chain)-1].Equal(g.ca.root) {
		return nil
	}
	return g.crosses
}

func (g *fakeGateway) last(t testing.TB) *gateway.Request {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.enrolled) == 0 {
		t.Fatal("nothing was enrolled")
	}
	return g.enrolled[len(g.enrolled)-1]
}

// tx is the newest transaction.
func (g *fakeGateway) tx(t testing.TB) *gateway.Transaction {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.order) == 0 {
		t.Fatal("there is no transaction")
	}
	return g.byID[g.order[len(g.order)-1]]
}

// world is a CMP server with a fake gateway behind it.
type world struct {
	t        testing.TB
	ca       *testCA
	gateway  *fakeGateway
	handler  *Handler
	server   *httptest.Server
	identity *gateway.Identity
	now      time.Time
	log      *lockedBuffer
	http     *http.Client
}

type worldOptions struct {
	caKey    crypto.Signer
	identity crypto.Signer
	config   Config // of the endpoint "ran"
}

func newWorld(t testing.TB, o worldOptions) *world {
	t.Helper()
	if o.caKey == nil {
		o.caKey = newP256()
	}
	if o.identity == nil {
		o.identity = newP256()
	}
	ca := newTestCA(t, "CMP Test", o.caKey)
	w := &world{t: t, ca: ca, now: testTime, log: &lockedBuffer{}, gateway: &fakeGateway{
		t: t, ca: ca, wait: time.Duration(o.config.WithDefaults().ConfirmWait), byID: map[string]*gateway.Transaction{}, repeats: map[string]string{}, resumes: map[string]string{},
		secrets: map[string]gateway.Secret{"ref-1": gateway.Secret("correct horse battery staple"), "ref-2": gateway.Secret("another secret")},
	}}
	w.identity = &gateway.Identity{Key: o.identity, Chain: []*x509.Certificate{ca.issuer, ca.root}, Certificate: ca.issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "Test RA"}, KeyUsage: x509.KeyUsageDigitalSignature, SubjectKeyId: []byte("the RA's key id"),
	}, o.identity.Public())}
	h, err := New(Options{
		Gateway: w.gateway, Endpoints: []Endpoint{{Name: "ran", Default: true, Config: o.config}, {Name: "plant"}, {Name: "elsewhere"}},
		Identity: func(string) *gateway.Identity { return w.identity }, Clock: func() time.Time { return w.now },
		Log: slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	w.handler = h
	router := echo.New()
	h.Register(router, func(name string) bool { return name != "elsewhere" })
	w.server = httptest.NewServer(router)
	t.Cleanup(w.server.Close)
	w.http = w.server.Client()
	return w
}

// again is another replica over the same store.
func (w *world) again() *world {
	w.t.Helper()
	h, err := New(Options{
		Gateway: w.gateway, Endpoints: []Endpoint{{Name: "ran", Default: true, Config: w.handler.endpoints["ran"].Config}},
		Identity: func(string) *gateway.Identity { return w.identity }, Clock: func() time.Time { return w.now }, Log: w.handler.log,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	v := *w
	v.handler = h
	router := echo.New()
	h.Register(router, func(string) bool { return true })
	v.server = httptest.NewServer(router)
	w.t.Cleanup(v.server.Close)
	v.http = v.server.Client()
	return &v
}

// post sends a message and returns the answer's body, which must be a PKIMessage under 200.
func (w *world) post(der []byte) []byte {
	w.t.Helper()
	return w.postTo("/.well-known/cmp", der)
}

func (w *world) postTo(path string, der []byte) []byte {
	w.t.Helper()
	resp, err := w.http.Post(w.server.URL+path, "application/pkixcmp", bytes.NewReader(der))
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/pkixcmp" || resp.ContentLength != int64(len(body)) {
		w.t.Fatalf("%s, %s, length %d of %d: %s", resp.Status, resp.Header.Get("Content-Type"), resp.ContentLength, len(body), body)
	}
	return body
}

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var errStore = &gateway.Error{Reason: gateway.Unavailable, Detail: "the store cannot be read", Err: errors.New("disk full")}
