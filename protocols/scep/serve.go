package scep

import (
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cms"
)

// operation is a value of the query's operation (RFC 8894 section 4.1).
type operation struct {
	name    string
	methods []string // the first is the one that clients should use
	kind    gateway.Operation
	serve   func(*exchange) *refusal
}

// operationNamed finds what a query asks for, in any case.
func operationNamed(name string) (operation, bool) {
	get := []string{http.MethodGet, http.MethodHead}
	switch strings.ToLower(name) {
	case "getcacaps":
		return operation{"GetCACaps", get, gateway.Query, (*exchange).caCaps}, true
	case "getcacert":
		return operation{"GetCACert", get, gateway.Query, (*exchange).caCert}, true
	case "getnextcacert":
		return operation{"GetNextCACert", get, gateway.Query, (*exchange).nextCACert}, true
	case "pkioperation":
		return operation{"PKIOperation", []string{http.MethodPost, http.MethodGet}, gateway.Enroll, (*exchange).pkiOperation}, true
	default:
		return operation{}, false
	}
}

// exchange is one HTTP request and its answer.
type exchange struct {
	h        *Handler
	w        http.ResponseWriter
	r        *http.Request
	endpoint *Endpoint        // nil until the path is resolved
	request  *gateway.Request // as much of it as is known
	ra       ra               // set by identify
	message  *pkiMessage      // nil until it can be answered in CMS
	answered bool
}

// serve answers one HTTP request. A panic ends that request only.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, serves func(string) bool) {
	now := h.now()
	x := &exchange{h: h, w: w, r: r, request: &gateway.Request{
		ID: gateway.NewID(now), Protocol: gateway.SCEP, POP: gateway.POPNone, Source: source(r.RemoteAddr), Received: now,
	}}
	defer x.contain()
	if ref := x.dispatch(serves); ref != nil {
		x.refuse(ref)
	}
}

// refuse reports a refusal to the gateway and answers it.
func (x *exchange) refuse(ref *refusal) {
	e := ref.err
	if noted := x.h.gateway.Reject(x.r.Context(), x.request, e); noted != nil {
		e = noted
	}
	x.writeError(e, ref.status, ref.allow)
}

// contain ends a panic with 500. What the panic says goes to the log only.
func (x *exchange) contain() {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler { // net/http's own way to drop a connection
		panic(p)
	}
	x.h.log.Error("SCEP request panicked", "id", x.request.ID, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	if x.answered {
		return
	}
	defer func() {
		if p := recover(); p != nil { // Reject itself
			x.h.log.Error("SCEP refusal panicked", "id", x.request.ID, "panic", fmt.Sprint(p))
			if !x.answered {
				x.write(http.StatusInternalServerError, "text/plain; charset=utf-8", []byte(line("internal server error", x.request.ID)+"\n"))
			}
		}
	}()
	x.refuse(refused(gateway.Internal, "", fmt.Errorf("panic: %v", p)))
}

// dispatch finds endpoint and operation and runs it.
func (x *exchange) dispatch(serves func(string) bool) *refusal {
	x.endpoint = x.h.endpointOf(x.r.URL.Path, serves)
	name, named := parameter(x.r.URL.RawQuery, "operation")
	if !named && x.r.Method == http.MethodPost {
		// RFC 8894 section 4.3: the only operation with POST, so that its absence goes unnoticed.
		name = "PKIOperation"
	}
	op, known := operationNamed(name)
	x.request.Operation = op.kind
	if !known {
		x.request.Operation = gateway.Query
	}
	if x.endpoint == nil {
		return &refusal{status: http.StatusNotFound, err: &gateway.Error{Reason: gateway.NotAuthorized,
			Detail: "no SCEP endpoint is served at this path: it is " + root + "/NAME, with the endpoint's name in the case of the configuration"}}
	}
	x.request.Endpoint = x.endpoint.Name
	if !known {
		return refused(gateway.Malformed, "the query needs an operation: GetCACaps, GetCACert or PKIOperation (RFC 8894 section 4.1)", nil)
	}
	for _, m := range op.methods {
		if x.r.Method == m {
			return op.serve(x)
		}
	}
	return &refusal{status: http.StatusMethodNotAllowed, allow: strings.Join(op.methods, ", "),
		err: &gateway.Error{Reason: gateway.Malformed, Detail: op.name + " takes " + op.methods[0]}}
}

// endpointOf finds the endpoint that a path below root means: the one that its first segment names, or the default where
// that segment is the beginning of what clients are built with (RFC 8894 section 4.1: SCEPPATH), such as /pkiclient.exe
// and /cgi-bin/pkiclient.exe. Any other segment is a name, and one that is not served here means nobody: a device that
// was given a misspelt URL must not be judged by another endpoint's rules.
func (h *Handler) endpointOf(path string, serves func(string) bool) *Endpoint {
	first, _, _ := strings.Cut(strings.TrimLeft(strings.TrimPrefix(path, root), "/"), "/")
	e := h.endpoints[first]
	if e == nil && (first == "" || strings.Contains(first, ".") || strings.EqualFold(first, "cgi-bin")) {
		e = h.fallback
	}
	if e == nil || !serves(e.Name) {
		return nil
	}
	return e
}

// caCaps answers RFC 8894 section 3.5.
func (x *exchange) caCaps() *refusal {
	x.write(http.StatusOK, "text/plain", []byte(x.endpoint.Config.capabilities()))
	return nil
}

// caCert answers RFC 8894 section 4.2: always a list, since the RA's certificate is in it. It stands first, for clients
// that encrypt to the first one.
func (x *exchange) caCert() *refusal {
	if ref := x.identify(); ref != nil {
		return ref
	}
	certs, err := x.h.gateway.CACertificates(x.r.Context(), x.endpoint.Name)
	if err != nil {
		return &refusal{err: gateway.AsError(err)}
	}
	if len(certs) == 0 {
		return refused(gateway.Internal, "", errors.New("the endpoint has no CA certificates"))
	}
	raw := [][]byte{x.ra.cert.Raw}
	for i, c := range certs {
		if _, ok := c.PublicKey.(*rsa.PublicKey); !ok {
			// Clients encrypt to every certificate of the list, and fail at this one.
			return refused(gateway.Internal, "", fmt.Errorf("the CA certificate %q has no RSA key: a SCEP endpoint needs an issuing CA with an RSA chain", c.Subject))
		}
		if i == 0 || x.endpoint.shows(c) {
			raw = append(raw, c.Raw)
		}
	}
	der, err := cms.CertsOnly(raw...)
	if err != nil {
		return refused(gateway.Internal, "", err)
	}
	x.write(http.StatusOK, "application/x-x509-ca-ra-cert", der)
	return nil
}

// shows reports whether a CA certificate above the issuing one is handed out: a root by configuration only.
func (e *Endpoint) shows(c *x509.Certificate) bool {
	return *e.Config.Root || string(c.RawSubject) != string(c.RawIssuer)
}

// nextCACert is RFC 8894 section 4.7, which GetCACaps does not announce.
func (x *exchange) nextCACert() *refusal {
	return refused(gateway.Unsupported, "GetNextCACert is not implemented", nil)
}

// write sends an answer with its length. None of them is for a cache: PKIOperation by GET is no safe method (RFC 8894
// section 4.1).
func (x *exchange) write(status int, contentType string, body []byte) {
	header := x.w.Header()
	header.Set("Content-Type", contentType)
	header.Set("Content-Length", strconv.Itoa(len(body)))
	header.Set("Cache-Control", "no-store")
	x.answered = true
	x.w.WriteHeader(status)
	if x.r.Method == http.MethodHead {
		return
	}
	if _, err := x.w.Write(body); err != nil {
		// The client is gone; it repeats its request, and gets the same certificate.
		x.h.log.Debug("SCEP answer not delivered", "id", x.request.ID, "err", err)
	}
}

// source is the peer's address; the zero Addr when there is none to read.
func source(remote string) netip.Addr {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}
