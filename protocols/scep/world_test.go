package scep

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/muster-pki/muster/gateway"
)

var testTime = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// The keys of testdata/scep.
var (
	rootKey    = testKey("root")
	issuerKey  = testKey("issuer")
	raKey      = testKey("ra")
	deviceKey  = testKey("device")
	otherKey   = testKey("other")
	foreignKey = testKey("foreign")
)

func testKey(name string) func() *rsa.PrivateKey {
	return sync.OnceValue(func() *rsa.PrivateKey {
		block, _ := pem.Decode(must(os.ReadFile(filepath.Join("..", "..", "testdata", "scep", name+".key"))))
		return must(x509.ParsePKCS8PrivateKey(block.Bytes)).(*rsa.PrivateKey)
	})
}

// testCA is a root with an issuing CA and an RA below it. Certificates are valid at the real time, which clients look at, for years.
type testCA struct{ root, issuer, ra *x509.Certificate }

func newTestCA() *testCA {
	ca := &testCA{}
	ca.root = signCertificate(&x509.Certificate{
		Subject: pkix.Name{CommonName: "SCEP Test Root"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, nil, rootKey().Public(), rootKey())
	ca.issuer = signCertificate(&x509.Certificate{
		Subject: pkix.Name{CommonName: "SCEP Test Issuing CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, ca.root, issuerKey().Public(), rootKey())
	ca.ra = ca.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "SCEP Test RA"}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}, raKey().Public())
	return ca
}

var serials atomic.Int64

func signCertificate(tmpl, parent *x509.Certificate, pub crypto.PublicKey, signer crypto.Signer) *x509.Certificate {
	// Nothing in it is by chance, so that each process of a fuzz run has the same certificates.
	tmpl.SerialNumber = big.NewInt(serials.Add(1))
	tmpl.NotBefore, tmpl.NotAfter = testTime.AddDate(-1, 0, 0), testTime.AddDate(20, 0, 0)
	if parent == nil {
		parent = tmpl
	}
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, tmpl, parent, pub, signer))))
}

func (ca *testCA) issue(tmpl *x509.Certificate, pub crypto.PublicKey) *x509.Certificate {
	return signCertificate(tmpl, ca.issuer, pub, issuerKey())
}

// selfSigned is what a client without a certificate signs with. Its name is its own, as iOS has it.
func selfSigned(key crypto.Signer) *x509.Certificate {
	return signCertificate(&x509.Certificate{Subject: pkix.Name{CommonName: "0DBB0DBB-6B0A-4B0A-8B0A-0DBB0DBB0DBB"},
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment}, nil, key.Public(), key)
}

// foreign is a certificate of somebody else's CA.
func foreign(pub crypto.PublicKey) *x509.Certificate {
	ca := &x509.Certificate{Subject: pkix.Name{CommonName: "Somebody Else's CA"}}
	return signCertificate(&x509.Certificate{Subject: pkix.Name{CommonName: "device-0001"}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment},
		ca, pub, foreignKey())
}

var _ Gateway = (*gateway.Gateway)(nil)

// fakeGateway answers as told, and keeps what it was asked.
type fakeGateway struct {
	enroll    func(*gateway.Request) (*gateway.Result, error)
	poll      func(enrolled *gateway.Request) (*gateway.Result, error)
	rollover  []*x509.Certificate
	caCerts   func() ([]*x509.Certificate, error)
	next      []*x509.Certificate
	vouch     func(content []byte) ([]byte, error)
	query     func(*gateway.Request) (*gateway.Result, error)
	panics    bool // in Reject
	issuedErr error

	mu       sync.Mutex
	issued   map[string]bool // by DER
	enrolled []*gateway.Request
	polled   []*gateway.Request
	asked    []*gateway.Request // by QueryCertificate and QueryCRL
	rejected []rejection
}

type rejection struct {
	request *gateway.Request
	err     *gateway.Error
}

const testReference = "0123456789abcdefghjkmnpqrs"

func (g *fakeGateway) Enroll(_ context.Context, r *gateway.Request) (*gateway.Result, error) {
	g.mu.Lock()
	g.enrolled = append(g.enrolled, r)
	g.mu.Unlock()
	return g.enroll(r)
}

func (g *fakeGateway) Reject(_ context.Context, r *gateway.Request, e *gateway.Error) *gateway.Error {
	if g.panics {
		panic("reject failed")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rejected = append(g.rejected, rejection{r, e})
	noted := *e
	noted.Transaction = testReference
	return &noted
}

func (g *fakeGateway) Authority(context.Context, string) (*gateway.Authority, error) {
	chain, err := g.caCerts()
	return &gateway.Authority{Chain: chain, Rollover: g.rollover}, err
}

func (g *fakeGateway) Announced(context.Context, string) ([]*x509.Certificate, error) {
	_, err := g.caCerts()
	return g.next, err
}

func (g *fakeGateway) SignAnnounced(_ context.Context, _ string, content []byte) ([]byte, error) {
	return g.vouch(content)
}

func (g *fakeGateway) QueryCertificate(_ context.Context, r *gateway.Request) (*gateway.Result, error) {
	g.mu.Lock()
	g.asked = append(g.asked, r)
	g.mu.Unlock()
	if g.query == nil {
		return nil, &gateway.Error{Reason: gateway.NotAuthorized, Detail: "this endpoint does not allow the operation", Transaction: testReference}
	}
	return g.query(r)
}

func (g *fakeGateway) QueryCRL(ctx context.Context, r *gateway.Request) (*gateway.Result, error) {
	return g.QueryCertificate(ctx, r)
}

// Poll finds a transaction by its wire ID and a credential that both requests have, as the gateway does.
func (g *fakeGateway) Poll(_ context.Context, r *gateway.Request) (*gateway.Result, error) {
	g.mu.Lock()
	g.polled = append(g.polled, r)
	g.mu.Unlock()
	for _, e := range g.allEnrolled() {
		for _, c := range e.Credentials {
			if e.WireID == r.WireID && e.Endpoint == r.Endpoint && c.Proven() && slices.ContainsFunc(r.Credentials, func(o gateway.Credential) bool { return o.Kind == c.Kind && o.ID == c.ID }) {
				return g.poll(e)
			}
		}
	}
	return nil, &gateway.Error{Reason: gateway.UnknownCert, Detail: "no such request", Transaction: testReference}
}

func (g *fakeGateway) Issued(_ context.Context, cert *x509.Certificate) (bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.issued[string(cert.Raw)], g.issuedErr
}

func (g *fakeGateway) allEnrolled() []*gateway.Request {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.enrolled)
}

func (g *fakeGateway) lastEnrolled(t testing.TB) *gateway.Request {
	t.Helper()
	all := g.allEnrolled()
	if len(all) == 0 {
		t.Fatal("nothing was enrolled")
	}
	return all[len(all)-1]
}

func (g *fakeGateway) lastRejected(t testing.TB) rejection {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.rejected) == 0 {
		t.Fatal("nothing was rejected")
	}
	return g.rejected[len(g.rejected)-1]
}

func (g *fakeGateway) rejections() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.rejected)
}

// polls counts polls and queries.
func (g *fakeGateway) polls() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.polled) + len(g.asked)
}

// world is a SCEP server with a fake gateway behind it.
type world struct {
	t       testing.TB
	ca      *testCA
	gateway *fakeGateway
	handler *Handler
	router  *echo.Echo
	server  *httptest.Server // without TLS
	log     *lockedBuffer
	paused  func() []time.Duration // for how long the handler would have waited
}

type worldOptions struct {
	config   Config // of every endpoint
	identity func(*world) *gateway.Identity
	quiet    bool // no log, for measurements
}

const testChallenge = "s3cret challenge"

func newWorld(t testing.TB, o worldOptions) *world {
	t.Helper()
	w := &world{t: t, ca: newTestCA(), log: &lockedBuffer{}}
	w.gateway = &fakeGateway{issued: map[string]bool{}}
	w.gateway.enroll, w.gateway.poll = w.decide, w.sign
	w.gateway.caCerts = func() ([]*x509.Certificate, error) { return []*x509.Certificate{w.ca.issuer, w.ca.root}, nil }
	identity := &gateway.Identity{Key: raKey(), Certificate: w.ca.ra, Chain: []*x509.Certificate{w.ca.issuer, w.ca.root}}
	log := slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if o.quiet {
		log = slog.New(slog.DiscardHandler)
	}
	h, err := New(Options{
		Gateway:   w.gateway,
		Endpoints: []Endpoint{{Name: "phones", Default: true, Config: o.config}, {Name: "plant", Config: o.config}, {Name: "elsewhere", Config: o.config}, {Name: "else.where", Config: o.config}},
		Identity: func(string) *gateway.Identity {
			if o.identity != nil {
				return o.identity(w)
			}
			return identity
		},
		Clock: func() time.Time { return testTime },
		Log:   log,
	})
	if err != nil {
		t.Fatal(err)
	}
	w.handler, w.router = h, echo.New()
	var mu sync.Mutex
	var pauses []time.Duration
	h.pause = func(_ context.Context, d time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		pauses = append(pauses, d)
	}
	w.paused = func() []time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(pauses)
	}
	h.Register(w.router, func(name string) bool { return name != "elsewhere" && name != "else.where" })
	w.server = httptest.NewServer(w.router)
	t.Cleanup(w.server.Close)
	return w
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
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

// decide is a gateway with the usual policy: a challenge for a first certificate, a certificate of ours for another.
func (w *world) decide(r *gateway.Request) (*gateway.Result, error) {
	switch r.Operation {
	case gateway.Enroll:
		c, _ := r.Credential(gateway.CredentialChallenge)
		if string(c.Secret) != testChallenge {
			return nil, &gateway.Error{Reason: gateway.Unauthenticated, Detail: "the challenge is missing or wrong", Transaction: testReference}
		}
	case gateway.Renew, gateway.Rekey:
		c, ok := r.Credential(gateway.CredentialSigner)
		if !ok || !w.gateway.issued[string(c.Chain[0].Raw)] || !bytes.Equal(r.OldCert.Raw, c.Chain[0].Raw) {
			return nil, &gateway.Error{Reason: gateway.Untrusted, Detail: "the certificate was not issued here", Transaction: testReference}
		}
	default:
		return nil, &gateway.Error{Reason: gateway.NotAuthorized, Transaction: testReference}
	}
	return w.sign(r)
}

// sign certifies what is asked for.
func (w *world) sign(r *gateway.Request) (*gateway.Result, error) {
	tmpl := &x509.Certificate{RawSubject: r.Subject, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if san, ok := r.Extension(oidSubjectAltName); ok {
		tmpl.ExtraExtensions = []pkix.Extension{{Id: oidSubjectAltName, Value: san}}
	}
	cert := w.own(tmpl, must(x509.ParsePKIXPublicKey(r.PublicKey)))
	return &gateway.Result{Kind: gateway.ResultIssued, Transaction: r.ID, Certificate: cert, Chain: []*x509.Certificate{w.ca.issuer, w.ca.root}}, nil
}

// own issues a certificate that the gateway knows.
func (w *world) own(tmpl *x509.Certificate, pub crypto.PublicKey) *x509.Certificate {
	cert := w.ca.issue(tmpl, pub)
	w.gateway.mu.Lock()
	defer w.gateway.mu.Unlock()
	w.gateway.issued[string(cert.Raw)] = true
	return cert
}

// device is a certificate of a device's, as this gateway issued it.
func (w *world) device(key crypto.Signer) *x509.Certificate {
	return w.own(&x509.Certificate{Subject: pkix.Name{CommonName: "device-0001"}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment}, key.Public())
}

// reply is an answer with its body read.
type reply struct {
	*http.Response
	body []byte
}

func (w *world) send(r *http.Request) reply {
	w.t.Helper()
	rec := httptest.NewRecorder()
	w.router.ServeHTTP(rec, r)
	resp := rec.Result()
	return reply{resp, must(io.ReadAll(resp.Body))}
}

func (w *world) get(target string) reply {
	w.t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/scep", nil)
	r.URL.Path, r.URL.RawQuery, _ = cutQuery(target)
	return w.send(r)
}

func cutQuery(target string) (path, query string, ok bool) {
	i := bytes.IndexByte([]byte(target), '?')
	if i < 0 {
		return target, "", false
	}
	return target[:i], target[i+1:], true
}

func (w *world) post(path string, body []byte) reply {
	w.t.Helper()
	r := httptest.NewRequest(http.MethodPost, path+"?operation=PKIOperation", bytes.NewReader(body))
	r.Header.Set("Content-Type", "application/x-pki-message")
	return w.send(r)
}
