// Package admin is the gateway's API for its operator: `/v1` over a Unix socket that only the gateway's own user can
// open. It lists transactions and certificates, explains why a device was refused, says how the gateway fares, and takes
// the shared secrets of devices; else it changes nothing. Server is run by `muster serve`; Client is what `muster ls`,
// `muster explain` and `muster secret` use. The shapes of its JSON are the exported structs of wire.go and secrets.go, so
// that the domain's types can change without the API.
//
// It is no way into the gateway for devices, and whoever can open the socket is trusted with all that it shows:
// names, addresses and notes, never a secret.
package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/muster-pki/muster/gateway"
)

// Store is what the API lists; gateway.Store is one. Any error means that the store cannot answer.
type Store interface {
	Transactions(ctx context.Context, f gateway.TransactionFilter) ([]*gateway.Transaction, error)
	Certificates(ctx context.Context, f gateway.CertificateFilter) ([]*gateway.Certificate, error)
}

// Gateway is what the API asks beyond the store; *gateway.Gateway is one.
type Gateway interface {
	// Explain returns one transaction by its whole ID, strangers' refusals included; gateway.ErrNotFound.
	Explain(ctx context.Context, id string) (*gateway.Transaction, error)
	// Strangers lists refusals that are kept in memory only, newest first, at most limit.
	Strangers(limit int) []*gateway.Transaction
	// Ready says why the gateway cannot issue, nil when it can.
	Ready(ctx context.Context) error
}

// Config is what a Server is made of.
type Config struct {
	Store    Store
	Gateway  Gateway
	Backends func(ctx context.Context) []Backend // the backends of the running configuration
	Secrets  SecretStore
	Sealer   func() Sealer // of the running configuration
	// TakesSecrets says why an endpoint of the running configuration cannot have secrets of devices, nil when it can.
	TakesSecrets func(endpoint string) error
	Metrics      prometheus.Gatherer
	Version      string
	Instance     string
	Clock        func() time.Time
	Log          *slog.Logger
}

// Server answers the API.
type Server struct {
	config  Config
	started time.Time
	http    *http.Server
}

// askTimeout bounds what one request may take.
const askTimeout = 15 * time.Second

// New makes a Server; it listens nowhere yet.
func New(c Config) (*Server, error) {
	if c.Store == nil || c.Gateway == nil || c.Backends == nil || c.Secrets == nil || c.Sealer == nil || c.TakesSecrets == nil ||
		c.Metrics == nil || c.Clock == nil || c.Log == nil {
		return nil, errors.New("admin: store, gateway, backends, secrets with all that they need, metrics, clock and log are required")
	}
	s := &Server{config: c, started: c.Clock()}
	s.http = &http.Server{
		Handler: s.Handler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 2 * askTimeout,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(c.Log.Handler(), slog.LevelWarn),
	}
	return s, nil
}

// Serve answers on the listener (see Listen) until Shutdown. It returns nil then, and the listener's error otherwise.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Shutdown closes the listener, removes its socket, and waits for answers under way.
func (s *Server) Shutdown(ctx context.Context) error { return s.http.Shutdown(ctx) }

// Handler is the API without a listener.
func (s *Server) Handler() http.Handler {
	e := echo.New()
	e.HTTPErrorHandler = s.fail
	e.Use(func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			ctx, cancel := context.WithTimeout(c.Request().Context(), askTimeout)
			defer cancel()
			c.SetRequest(c.Request().WithContext(ctx))
			return next(c)
		}
	})
	e.GET("/v1/transactions", s.transactions)
	e.GET("/v1/transactions/:id", s.explain)
	e.GET("/v1/certificates", s.certificates)
	e.GET("/v1/status", s.status)
	e.GET("/v1/secrets", s.secrets)
	e.POST("/v1/secrets", s.addSecret)
	e.DELETE("/v1/secrets", s.dropSecret)
	metrics := promhttp.HandlerFor(s.config.Metrics, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(s.config.Log.Handler(), slog.LevelWarn)})
	e.GET("/metrics", echo.WrapHandler(metrics))
	return e
}

// refusal is an error with the answer that it is given.
type refusal struct {
	status     int
	message    string
	candidates []string
}

func (e *refusal) Error() string { return e.message }

func badRequest(format string, args ...any) error {
	return &refusal{status: http.StatusBadRequest, message: fmt.Sprintf(format, args...)}
}

// fail renders every error of the API.
func (s *Server) fail(err error, c echo.Context) {
	if c.Response().Committed {
		return
	}
	status, body := http.StatusServiceUnavailable, Failure{Error: "the gateway cannot answer: " + err.Error()}
	var own *refusal
	var routing *echo.HTTPError
	switch {
	case errors.As(err, &own):
		status, body = own.status, Failure{Error: own.message, Candidates: own.candidates}
	case errors.As(err, &routing):
		status, body = routing.Code, Failure{Error: strings.ToLower(http.StatusText(routing.Code))}
	default:
		s.config.Log.Error("admin request failed", "path", c.Request().URL.Path, "err", err)
	}
	if err := c.JSON(status, body); err != nil {
		s.config.Log.Warn("admin answer could not be written", "err", err)
	}
}

// known reads the query's parameters and refuses those that the call does not know, so that a misspelt filter does
// not list everything.
func known(c echo.Context, names ...string) (map[string]string, error) {
	got := make(map[string]string)
	for name, values := range c.QueryParams() {
		if !slices.Contains(names, name) {
			return nil, badRequest("unknown parameter %q (known: %s)", name, strings.Join(names, ", "))
		}
		if len(values) != 1 {
			return nil, badRequest("parameter %q stands %d times", name, len(values))
		}
		got[name] = values[0]
	}
	return got, nil
}

const (
	defaultLimit = 100
	maxLimit     = 1000
)

func limitOf(s string) (int, error) {
	if s == "" {
		return defaultLimit, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > maxLimit {
		return 0, badRequest("limit is 1 to %d", maxLimit)
	}
	return n, nil
}

// states lists all of them, for the message about one that is none.
var states = []gateway.State{
	gateway.StateRefused, gateway.StateHeld, gateway.StateIssuing, gateway.StateUnknown, gateway.StateWaiting,
	gateway.StateStuck, gateway.StateUnconfirmed, gateway.StateIssued, gateway.StateRejected, gateway.StateFailed,
}

func (s *Server) transactions(c echo.Context) error {
	q, err := known(c, "state", "endpoint", "device", "limit", "before", "refused")
	if err != nil {
		return err
	}
	f := gateway.TransactionFilter{Endpoint: q["endpoint"], Device: q["device"], Before: q["before"]}
	if f.Limit, err = limitOf(q["limit"]); err != nil {
		return err
	}
	if f.Before != "" && !gateway.ValidID(f.Before) {
		return badRequest("before is a whole transaction ID")
	}
	if q["state"] != "" {
		for word := range strings.SplitSeq(q["state"], ",") {
			if !slices.Contains(states, gateway.State(word)) {
				return badRequest("no state %q (known: %s)", word, joinStates())
			}
			f.States = append(f.States, gateway.State(word))
		}
	}
	if q["refused"] != "" && q["refused"] != "recent" {
		return badRequest(`refused is "recent" or absent`)
	}
	found, err := s.config.Store.Transactions(c.Request().Context(), f)
	if err != nil {
		return err
	}
	list := TransactionList{Transactions: []Transaction{}}
	for _, t := range found {
		list.Transactions = append(list.Transactions, transactionOf(t, false, false))
	}
	if q["refused"] == "recent" {
		list.Transactions = mergeStrangers(list.Transactions, s.config.Gateway.Strangers(maxStrangers), f)
	}
	// The store may have had more, or we have cut.
	if len(found) == f.Limit || len(list.Transactions) > f.Limit {
		list.Transactions = list.Transactions[:f.Limit]
		list.Next = list.Transactions[f.Limit-1].ID
	}
	return c.JSON(http.StatusOK, list)
}

// maxStrangers is more than a gateway remembers.
const maxStrangers = 1 << 16

// mergeStrangers adds the remembered refusals that the filter selects, the newest first. IDs sort by time.
func mergeStrangers(list []Transaction, strangers []*gateway.Transaction, f gateway.TransactionFilter) []Transaction {
	for _, t := range strangers {
		switch {
		case len(f.States) > 0 && !slices.Contains(f.States, t.State), f.Endpoint != "" && f.Endpoint != t.Endpoint,
			f.Device != "" && f.Device != t.Device, f.Before != "" && t.ID >= f.Before:
			continue
		}
		list = append(list, transactionOf(t, true, false))
	}
	slices.SortStableFunc(list, func(a, b Transaction) int { return cmp.Compare(b.ID, a.ID) })
	return slices.CompactFunc(list, func(a, b Transaction) bool { return a.ID == b.ID })
}

func joinStates() string {
	words := make([]string, len(states))
	for i, s := range states {
		words[i] = string(s)
	}
	return strings.Join(words, ", ")
}

func (s *Server) explain(c echo.Context) error {
	if _, err := known(c); err != nil {
		return err
	}
	given := c.Param("id")
	if c.Request().URL.RawPath != "" { // then the router took the path as it came
		if plain, err := url.PathUnescape(given); err == nil {
			given = plain
		}
	}
	t, err := s.find(c.Request().Context(), given)
	if err != nil {
		return err
	}
	remembered := slices.ContainsFunc(s.config.Gateway.Strangers(maxStrangers), func(x *gateway.Transaction) bool { return x.ID == t.ID })
	return c.JSON(http.StatusOK, transactionOf(t, remembered, true))
}

func (s *Server) certificates(c echo.Context) error {
	q, err := known(c, "device", "requester", "valid", "limit", "before")
	if err != nil {
		return err
	}
	f := gateway.CertificateFilter{Device: q["device"], Requester: q["requester"], Before: q["before"]}
	if f.Limit, err = limitOf(q["limit"]); err != nil {
		return err
	}
	if f.Before != "" && !gateway.ValidID(f.Before) {
		return badRequest("before is a whole transaction ID")
	}
	switch q["valid"] {
	case "":
	case "now":
		f.ValidAt = s.config.Clock()
	default:
		return badRequest(`valid is "now" or absent`)
	}
	found, err := s.config.Store.Certificates(c.Request().Context(), f)
	if err != nil {
		return err
	}
	list := CertificateList{Certificates: []Certificate{}}
	for _, cert := range found {
		list.Certificates = append(list.Certificates, certificateOf(cert, false))
	}
	if len(found) == f.Limit {
		list.Next = found[len(found)-1].Transaction
	}
	return c.JSON(http.StatusOK, list)
}

func (s *Server) status(c echo.Context) error {
	if _, err := known(c); err != nil {
		return err
	}
	ctx := c.Request().Context()
	now := s.config.Clock()
	out := Status{
		Version: s.config.Version, Instance: s.config.Instance, Started: s.started.UTC(),
		Uptime: int64(now.Sub(s.started) / time.Second), Ready: true, Backends: []Backend{},
	}
	if err := s.config.Gateway.Ready(ctx); err != nil {
		out.Ready, out.NotReady = false, err.Error()
	}
	out.Backends = append(out.Backends, s.config.Backends(ctx)...)
	slices.SortFunc(out.Backends, func(a, b Backend) int { return cmp.Compare(a.Name, b.Name) })
	return c.JSON(http.StatusOK, out)
}
