// Package admin is the gateway's API for its operators: `/v1` over a Unix socket that only the gateway's own user can open,
// and, where it is configured, over TLS for those with a token or a client certificate. It lists and explains, keeps the
// inventory, takes secrets, approves, makes challenges, revokes, and changes CAs over. Server is run by `muster serve`;
// Client is what the commands use. The shapes of its JSON are the exported structs of wire*.go and secrets.go, so that the
// domain's types can change without the API; openapi.json describes them.
//
// It is no way into the gateway for devices. Whoever can open the socket is an administrator. Nobody is shown a secret that
// was put in; what the gateway made (a challenge, a password) is shown once.
package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
)

// Store is what the API reads and keeps; gateway.Store is one. Any error but those named there means that it cannot answer.
type Store interface {
	Transactions(ctx context.Context, f gateway.TransactionFilter) ([]*gateway.Transaction, error)
	Certificates(ctx context.Context, f gateway.CertificateFilter) ([]*gateway.Certificate, error)
	Certificate(ctx context.Context, issuer, serial []byte) (*gateway.Certificate, error)
	Messages(ctx context.Context, transaction string) ([]gateway.Message, error)
	// Tallies counts the requests of a time by protocol and state. Endings counts the certificates that end in each step.
	Tallies(ctx context.Context, from, until time.Time) ([]gateway.Tally, error)
	Endings(ctx context.Context, from time.Time, step time.Duration, n int) ([]int64, error)
	gateway.Inventory
	gateway.Challenges
	SecretStore
}

// Gateway is what the API asks beyond the store; *gateway.Gateway is one.
type Gateway interface {
	// Explain returns one transaction by its whole ID, strangers' refusals included; gateway.ErrNotFound.
	Explain(ctx context.Context, id string) (*gateway.Transaction, error)
	// Strangers lists refusals that are kept in memory only, newest first, at most limit.
	Strangers(limit int) []*gateway.Transaction
	// Ready says why the gateway cannot issue, nil when it can.
	Ready(ctx context.Context) error
	// What operators do. Errors are *gateway.Error.
	Approve(ctx context.Context, id, actor, reason string) (*gateway.Transaction, error)
	Deny(ctx context.Context, id, actor, reason string) (*gateway.Transaction, error)
	SettleStuck(ctx context.Context, id string, got *backend.Issuance, actor, note string) (*gateway.Transaction, error)
	RevokeCertificate(ctx context.Context, issuer, serial []byte, reason int, actor, note string) (c *gateway.Certificate, heard gateway.Told, err error)
	Rollover(ctx context.Context, name string, r *backend.RolloverRequest, actor string) (*backend.CA, error)
}

// Config is what a Server is made of. What belongs to a configuration is asked for anew each time.
type Config struct {
	Store    Store
	Gateway  Gateway
	Backends func(ctx context.Context) []Backend    // the backends of the running configuration
	CAs      func(ctx context.Context) []BackendCAs // and their CAs
	Sinks    func(ctx context.Context) []Sink       // of the audit trail; nil for none
	// CRL returns a CRL, DER, by one of its CA's names for it, "" for the default CA's. The error wraps gateway.ErrNotFound
	// when there is no such one, else it is a *gateway.Error.
	CRL    func(ctx context.Context, backend, name string) ([]byte, error)
	Sealer func() Sealer // of the running configuration
	// TakesSecrets says why an endpoint of the running configuration cannot have secrets of devices, nil when it can.
	TakesSecrets func(endpoint string) error
	// TakesChallenges says why an endpoint cannot have challenges, or not for the profile ("": its own), nil when it can.
	TakesChallenges func(endpoint, profile string) error
	// ProcessCMP has a CMP endpoint answer a message, DER; "" is the default endpoint. The error is a *gateway.Error: it wraps
	// gateway.ErrNotFound when there is no such endpoint, and its reason is Malformed when the message is none.
	ProcessCMP func(ctx context.Context, endpoint string, message []byte) ([]byte, error)
	// Pipelines draws the endpoints of the running configuration, by name; nil for none.
	Pipelines func() []PipelineDrawing
	// Configuration says which one runs.
	Configuration func() Configuration
	// Reload reads the configuration again and puts it into force, on the actor's order. The error is a *NotReloadedError when
	// it cannot be; any other means that nobody can tell now.
	Reload func(ctx context.Context, actor string) (*Reload, error)
	// Ready says what /readyz says, beyond Gateway's: whether a configuration runs, and CAs can issue. nil for none.
	Ready func(ctx context.Context) error
	// Started reports whether a configuration runs: before, nothing is changed.
	Started  func() bool
	Metrics  *prometheus.Registry
	Version  string
	Instance string
	Clock    func() time.Time
	Log      *slog.Logger
}

// Server answers the API.
type Server struct {
	config   Config
	started  time.Time
	http     *http.Server
	denied   *denials
	changing chan struct{} // holds a value while devices change

	importing chan struct{} // and while a list of them is taken in
	entries   int           // that one import may have
	imported  int64         // bytes, of them together

	table  []route
	within http.Handler // for calls from inside
	counts overviews
}

// Bounds on what one request may take.
const (
	askTimeout    = 15 * time.Second
	longTimeout   = 6 * time.Minute  // that asks a CA
	importTimeout = 30 * time.Minute // with the upload
)

// New makes a Server; it listens nowhere yet.
func New(c Config) (*Server, error) {
	if c.Store == nil || c.Gateway == nil || c.Backends == nil || c.CAs == nil || c.CRL == nil || c.Sealer == nil || c.TakesSecrets == nil ||
		c.TakesChallenges == nil || c.ProcessCMP == nil || c.Configuration == nil || c.Reload == nil || c.Started == nil || c.Metrics == nil || c.Clock == nil || c.Log == nil {
		return nil, errors.New("admin: all of Config is required")
	}
	s := &Server{config: c, started: c.Clock(), denied: newDenials(&c), changing: make(chan struct{}, 1), importing: make(chan struct{}, 1), entries: maxEntries, imported: maxImport, counts: overviews{lock: make(chan struct{}, 1)}}
	if err := c.Metrics.Register(s.denied.total); err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	s.table = s.routes()
	s.within = s.handler(insider)
	s.http = &http.Server{
		Handler: s.handler(local), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 2 * askTimeout,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(c.Log.Handler(), slog.LevelWarn),
		ConnContext: withPeer,
	}
	return s, nil
}

// Serve answers on the Unix socket (see Listen) until Shutdown. It returns nil then, and the listener's error otherwise.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Shutdown closes the listener, removes its socket, and waits for answers under way.
func (s *Server) Shutdown(ctx context.Context) error { return s.http.Shutdown(ctx) }

// route is one call of the API.
type route struct {
	method, path string
	role         Role // that it takes at least
	timeout      time.Duration
	handle       echo.HandlerFunc
}

// routes are all of them; openapi.json describes each.
func (s *Server) routes() []route {
	metrics := promhttp.HandlerFor(s.config.Metrics, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(s.config.Log.Handler(), slog.LevelWarn)})
	return []route{
		{"GET", "/v1/transactions", Viewer, askTimeout, s.transactions},
		{"GET", "/v1/transactions/:id", Viewer, askTimeout, s.explain},
		{"POST", "/v1/transactions/:id/approve", Approver, longTimeout, s.approve},
		{"POST", "/v1/transactions/:id/deny", Approver, askTimeout, s.deny},
		{"POST", "/v1/transactions/:id/settle", Admin, longTimeout, s.settle},
		{"GET", "/v1/certificates", Viewer, askTimeout, s.certificates},
		{"POST", "/v1/certificates/revoke", Admin, longTimeout, s.revoke},
		{"GET", "/v1/devices", Viewer, askTimeout, s.devices},
		{"POST", "/v1/devices", Admin, askTimeout, s.addDevice},
		{"POST", "/v1/devices/import", Admin, importTimeout, s.importDevices},
		{"GET", "/v1/devices/:name", Viewer, askTimeout, s.device},
		{"DELETE", "/v1/devices/:name", Admin, askTimeout, s.dropDevice},
		{"POST", "/v1/devices/:name/state", Admin, askTimeout, s.setDeviceState},
		{"POST", "/v1/devices/:name/reset", Admin, askTimeout, s.resetDevice},
		{"GET", "/v1/challenges", Viewer, askTimeout, s.challenges},
		{"POST", "/v1/challenges", Approver, askTimeout, s.makeChallenge},
		{"DELETE", "/v1/challenges/:id", Approver, askTimeout, s.dropChallenge},
		{"GET", "/v1/secrets", Viewer, askTimeout, s.secrets},
		{"POST", "/v1/secrets", Admin, askTimeout, s.addSecret},
		{"DELETE", "/v1/secrets", Admin, askTimeout, s.dropSecret},
		{"GET", "/v1/cas", Viewer, askTimeout, s.cas},
		{"GET", "/v1/cas/:backend/crl", Viewer, askTimeout, s.crl},
		{"POST", "/v1/cas/:backend/rollover", Admin, longTimeout, s.rollover},
		{"POST", "/v1/cmp", Approver, longTimeout, s.processCMP},
		{"POST", "/v1/cmp/:endpoint", Approver, longTimeout, s.processCMP},
		{"GET", "/v1/overview", Viewer, askTimeout, s.overview},
		{"GET", "/v1/pipelines", Viewer, askTimeout, s.pipelines},
		{"POST", "/v1/reload", Admin, longTimeout, s.reload},
		{"GET", "/v1/status", Viewer, askTimeout, s.status},
		{"GET", "/v1/openapi.json", Viewer, askTimeout, s.openAPI},
		{"GET", "/metrics", Viewer, askTimeout, echo.WrapHandler(metrics)},
	}
}

const callerKey = "caller"

// callerOf is who the gate has let in.
func callerOf(c echo.Context) caller {
	who, _ := c.Get(callerKey).(caller)
	return who
}

// actorOf is who asks, for the audit trail.
func actorOf(c echo.Context) string { return callerOf(c).actor }

// handler is the API behind a gate, which every request passes first, whatever its path.
func (s *Server) handler(g gate) http.Handler {
	e := echo.New()
	e.HTTPErrorHandler = s.fail
	e.Use(func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			ctx, cancel := context.WithTimeout(c.Request().Context(), askTimeout)
			defer cancel()
			who, err := g(c.Request().WithContext(ctx))
			if err != nil {
				return err
			}
			c.Set(callerKey, who)
			c.Response().Header().Set("Cache-Control", "no-store")
			return next(c)
		}
	})
	for _, r := range s.table {
		e.Add(r.method, r.path, s.guarded(r))
	}
	return e
}

// allows refuses those whose role does not suffice.
func (r *route) allows(who caller) error {
	if who.role < r.role {
		return &refusal{status: http.StatusForbidden, message: fmt.Sprintf("this takes the role %s; %s has the role %s", r.role, who.actor, who.role)}
	}
	return nil
}

// guarded calls a route for those who have its role, in its time.
func (s *Server) guarded(r route) echo.HandlerFunc {
	return func(c echo.Context) error {
		if err := r.allows(callerOf(c)); err != nil {
			return err
		}
		if r.method != http.MethodGet && !s.config.Started() {
			return &refusal{status: http.StatusServiceUnavailable, message: "the gateway is starting: try again"}
		}
		if r.timeout > askTimeout {
			// The server's own deadlines are for short calls.
			conn := http.NewResponseController(c.Response())
			until := time.Now().Add(r.timeout + askTimeout)
			if err := errors.Join(conn.SetReadDeadline(until), conn.SetWriteDeadline(until)); err != nil {
				return err
			}
		}
		ctx, cancel := context.WithTimeout(c.Request().Context(), r.timeout)
		defer cancel()
		c.SetRequest(c.Request().WithContext(ctx))
		return r.handle(c)
	}
}

// refusal is an error with the answer that it is given.
type refusal struct {
	status     int
	message    string
	candidates []string
	failures   []ImportFailure
	more       int
}

func (e *refusal) Error() string { return e.message }

func badRequest(format string, args ...any) error {
	return &refusal{status: http.StatusBadRequest, message: fmt.Sprintf(format, args...)}
}

func conflict(format string, args ...any) error {
	return &refusal{status: http.StatusConflict, message: fmt.Sprintf(format, args...)}
}

// failureOf is the answer to an error of the API.
func (s *Server) failureOf(err error, path string) (status int, body Failure) {
	if own, ok := errors.AsType[*refusal](err); ok {
		return own.status, Failure{Error: own.message, Candidates: own.candidates, Failures: own.failures, More: own.more}
	}
	if routing, ok := errors.AsType[*echo.HTTPError](err); ok {
		return routing.Code, Failure{Error: strings.ToLower(http.StatusText(routing.Code))}
	}
	if e, ok := errors.AsType[*gateway.Error](err); ok {
		if status := statusOf(e); status != http.StatusServiceUnavailable {
			return status, Failure{Error: cmp.Or(e.Detail, string(e.Reason))}
		}
	}
	s.config.Log.Error("admin request failed", "path", path, "err", err)
	return http.StatusServiceUnavailable, Failure{Error: "the gateway cannot answer: " + err.Error()}
}

// statusOf is the status of what the gateway refused.
func statusOf(e *gateway.Error) int {
	switch {
	case errors.Is(e, gateway.ErrNotFound), e.Reason == gateway.UnknownCert:
		return http.StatusNotFound
	case errors.Is(e, gateway.ErrStale), errors.Is(e, gateway.ErrApproved):
		return http.StatusConflict
	case e.Reason == gateway.Unavailable, e.Reason == gateway.Busy, e.Reason == gateway.Internal:
		return http.StatusServiceUnavailable
	}
	return http.StatusConflict
}

// fail renders every error of the API.
func (s *Server) fail(err error, c echo.Context) {
	if c.Response().Committed {
		return
	}
	status, body := s.failureOf(err, c.Request().URL.Path)
	if status == http.StatusUnauthorized {
		c.Response().Header().Set("WWW-Authenticate", `Bearer realm="muster"`)
	}
	if err := c.JSON(status, body); err != nil {
		s.config.Log.Warn("admin answer could not be written", "err", err)
	}
}
