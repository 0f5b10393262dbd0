package est

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/muster-pki/muster/gateway"
)

var testSecret = bytes.Repeat([]byte{7}, 32)

var testTime = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// testCA is a root with an issuing CA below it. Certificates are valid at the real time, which clients look at.
type testCA struct {
	root, issuer *x509.Certificate
	issuerKey    crypto.Signer
}

func newTestCA(t testing.TB, newKey func() crypto.Signer) *testCA {
	t.Helper()
	rootKey, issuerKey := newKey(), newKey()
	root := signCertificate(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "EST Test Root"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, rootKey.Public(), rootKey)
	issuer := signCertificate(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "EST Test Issuing CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, root, issuerKey.Public(), rootKey)
	return &testCA{root, issuer, issuerKey}
}

func signCertificate(t testing.TB, tmpl, parent *x509.Certificate, pub crypto.PublicKey, signer crypto.Signer) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		t.Fatal(err)
	}
	tmpl.SerialNumber = serial
	tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
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
	return signCertificate(t, tmpl, ca.issuer, pub, ca.issuerKey)
}

func newP256() crypto.Signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

var _ Gateway = (*gateway.Gateway)(nil)

// fakeGateway answers as told, and keeps what it was asked.
type fakeGateway struct {
	enroll  func(*gateway.Request) (*gateway.Result, error)
	caCerts func() ([]*x509.Certificate, error)
	crls    func(endpoint string) ([]gateway.CurrentCRL, error)
	query   func(*gateway.Request) (*gateway.Result, error)
	profile *gateway.Profile // nil: the endpoint is not there
	linked  bool             // linking is required
	accepts bool             // passwords

	registered func([]gateway.Credential) (*gateway.Registration, *gateway.Error) // nil: nobody is known

	held   func(gateway.Credential, gateway.Names) (*x509.Certificate, bool, error)
	keks   map[string][]byte // key-encryption keys by their identifiers
	issued func(*x509.Certificate) (bool, error)
	renews func(authority []byte, serial *big.Int) (*x509.Certificate, error)
	panics bool                                                                    // in Reject
	ra     func(endpoint string, c gateway.Credential, speaks bool) *gateway.Error // nil: nobody is an RA

	mu       sync.Mutex
	enrolled []*gateway.Request
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

func (g *fakeGateway) Accepts(_ string, kind gateway.CredentialKind) bool {
	return g.accepts && kind == gateway.CredentialPassword
}

func (g *fakeGateway) Renewable(_ context.Context, _ string, authority []byte, serial *big.Int) (*x509.Certificate, error) {
	return g.renews(authority, serial)
}

func (g *fakeGateway) TrustedRA(_ context.Context, endpoint string, c gateway.Credential, speaks bool) *gateway.Error {
	if g.ra == nil {
		return gateway.Errorf(gateway.NotAuthorized, "", "no RA")
	}
	return g.ra(endpoint, c, speaks)
}

func (g *fakeGateway) HeldBy(_ context.Context, _ string, c gateway.Credential, names gateway.Names) (*x509.Certificate, bool, error) {
	if g.held == nil {
		return nil, false, nil
	}
	return g.held(c, names)
}

func (g *fakeGateway) CRLs(_ context.Context, endpoint string) ([]gateway.CurrentCRL, error) {
	return g.crls(endpoint)
}

func (g *fakeGateway) Query(_ context.Context, r *gateway.Request) (*gateway.Result, error) {
	return g.query(r)
}

func (g *fakeGateway) CACertificates(context.Context, string) ([]*x509.Certificate, error) {
	return g.caCerts()
}

func (g *fakeGateway) ProfilesOf(string) []*gateway.Profile {
	if g.profile == nil {
		return nil
	}
	return []*gateway.Profile{g.profile, {Name: "another", Keys: []string{"P-521"}}}
}

func (g *fakeGateway) Registered(_ context.Context, asks *gateway.Request) (*gateway.Registration, *gateway.Error) {
	if g.registered == nil {
		return nil, gateway.Errorf(gateway.NotAuthorized, "this client is not known here", "nobody is known")
	}
	return g.registered(asks.Credentials)
}

func (g *fakeGateway) RequiresLinking(string) bool { return g.linked }

func (g *fakeGateway) Issued(_ context.Context, cert *x509.Certificate) (bool, error) {
	if g.issued == nil {
		return false, nil
	}
	return g.issued(cert)
}

func (g *fakeGateway) WrappingKey(_ context.Context, _ string, _ gateway.Operation, id []byte) gateway.Secret {
	return g.keks[string(id)]
}

func (g *fakeGateway) allEnrolled() []*gateway.Request {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.enrolled)
}

func (g *fakeGateway) lastEnrolled(t testing.TB) *gateway.Request {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.enrolled) == 0 {
		t.Fatal("nothing was enrolled")
	}
	return g.enrolled[len(g.enrolled)-1]
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

// world is an EST server with a fake gateway behind it that signs what it is asked for.
type world struct {
	t       testing.TB
	ca      *testCA
	gateway *fakeGateway
	handler *Handler
	router  *echo.Echo
	server  *httptest.Server // TLS
	log     *lockedBuffer
}

type worldOptions struct {
	newKey    func() crypto.Signer
	endpoints []Endpoint
	http2     bool
	identity  func(endpoint string) *gateway.Identity
	enroll    func(*world, *gateway.Request) (*gateway.Result, error) // nil: w.sign
}

func newWorld(t testing.TB, o worldOptions) *world {
	t.Helper()
	if o.newKey == nil {
		o.newKey = newP256
	}
	if o.endpoints == nil {
		o.endpoints = []Endpoint{{Name: "ran", Default: true}, {Name: "plant"}, {Name: "elsewhere"}}
	}
	w := &world{t: t, ca: newTestCA(t, o.newKey), log: &lockedBuffer{}}
	w.gateway = &fakeGateway{accepts: true}
	w.gateway.enroll = w.sign
	if o.enroll != nil {
		w.gateway.enroll = func(r *gateway.Request) (*gateway.Result, error) { return o.enroll(w, r) }
	}
	w.gateway.caCerts = func() ([]*x509.Certificate, error) { return []*x509.Certificate{w.ca.issuer, w.ca.root}, nil }
	h, err := New(Options{
		Identity: o.identity, Gateway: w.gateway, Endpoints: o.endpoints, Secret: testSecret, Clock: func() time.Time { return testTime },
		Log: slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	w.handler, w.router = h, echo.New()
	h.Register(w.router, func(name string) bool { return name != "elsewhere" })

	w.server = httptest.NewUnstartedServer(w.router)
	w.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	serverKey := newP256()
	cert := w.ca.issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{{127, 0, 0, 1}},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, serverKey.Public())
	w.server.TLS = &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw, w.ca.issuer.Raw}, PrivateKey: serverKey}},
		ClientAuth:   tls.RequestClientCert,
		ClientCAs:    x509.NewCertPool(), // told to clients, not verified against
		// strongSwan 5.9.8 loses answers that come in more than one record.
		DynamicRecordSizingDisabled: true,
	}
	// The issuer too: clients that send no chain pick their certificate by its issuer.
	w.server.TLS.ClientCAs.AddCert(w.ca.issuer)
	w.server.TLS.ClientCAs.AddCert(w.ca.root)
	w.server.EnableHTTP2 = o.http2
	w.server.StartTLS()
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

// sign is a gateway that certifies everything.
func (w *world) sign(r *gateway.Request) (*gateway.Result, error) {
	pub, err := x509.ParsePKIXPublicKey(r.PublicKey)
	if err != nil {
		return nil, &gateway.Error{Reason: gateway.BadTemplate, Err: err}
	}
	tmpl := &x509.Certificate{RawSubject: r.Subject, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if san, ok := r.Extension(oidSubjectAltName); ok {
		tmpl.ExtraExtensions = []pkix.Extension{{Id: oidSubjectAltName, Value: san}}
	}
	cert := w.ca.issue(w.t, tmpl, pub)
	return &gateway.Result{Kind: gateway.ResultIssued, Transaction: r.ID, Certificate: cert, Chain: []*x509.Certificate{w.ca.issuer, w.ca.root}}, nil
}

// client is an HTTP client with a connection of its own, and with a certificate where key is not nil.
func (w *world) client(cert *x509.Certificate, key crypto.Signer, change func(*tls.Config)) *http.Client {
	pool := x509.NewCertPool()
	pool.AddCert(w.ca.root)
	cfg := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	if key != nil {
		cfg.Certificates = []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}
	}
	if change != nil {
		change(cfg)
	}
	tr := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: w.server.EnableHTTP2}
	w.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// device is a key with a certificate of the test CA.
func (w *world) device(cn string) (*x509.Certificate, crypto.Signer) {
	key := newP256()
	return w.ca.issue(w.t, &x509.Certificate{Subject: pkix.Name{CommonName: cn}, KeyUsage: x509.KeyUsageDigitalSignature}, key.Public()), key
}

// reply is an answer with its body read.
type reply struct {
	*http.Response
	body string
}

func send(t testing.TB, c *http.Client, r *http.Request) reply {
	t.Helper()
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{resp, string(body)}
}

func (w *world) request(method, path string, body io.Reader) *http.Request {
	w.t.Helper()
	r, err := http.NewRequest(method, w.server.URL+path, body)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// enrollment is a good request to path.
func (w *world) enrollment(path string, body []byte) *http.Request {
	r := w.request(http.MethodPost, path, bytes.NewReader(body))
	r.Header.Set("Content-Type", "application/pkcs10")
	return r
}
