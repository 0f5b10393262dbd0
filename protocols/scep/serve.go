package scep

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cms"
	"github.com/muster-pki/muster/protocols/wire"
)

// operation is a value of the query's operation (RFC 8894 section 4.1).
type operation struct {
	name    string
	methods []string // the first is the one that clients should use
	kind    gateway.Operation
	serve   func(*exchange) *wire.Refusal
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
	wire.Exchange
	h        *Handler
	endpoint *Endpoint   // nil until the path is resolved
	ra       ra          // set by identify
	previous []ra        // those before it, the last first
	message  *pkiMessage // nil until it can be answered in CMS
}

// serve answers one HTTP request. A panic ends that request only.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, serves func(string) bool) {
	x := &exchange{h: h, Exchange: wire.New(w, r, gateway.SCEP, h.now(), h.log)}
	defer x.Contain(x.refuse)
	if ref := x.dispatch(serves); ref != nil {
		x.refuse(ref)
	}
}

// refuse reports a refusal to the gateway and answers it.
func (x *exchange) refuse(ref *wire.Refusal) {
	e := ref.Err
	if noted := x.h.gateway.Reject(x.R.Context(), x.Request, e); noted != nil {
		e = noted
	}
	x.writeError(e, ref.Status, ref.Allow)
}

// dispatch finds endpoint and operation and runs it.
func (x *exchange) dispatch(serves func(string) bool) *wire.Refusal {
	x.endpoint = x.h.endpointOf(x.R.URL.Path, serves)
	name, named := parameter(x.R.URL.RawQuery, "operation")
	if !named && x.R.Method == http.MethodPost {
		// RFC 8894 section 4.3: the only operation with POST, so that its absence goes unnoticed.
		name = "PKIOperation"
	}
	op, known := operationNamed(name)
	x.Request.Operation = op.kind
	if !known {
		x.Request.Operation = gateway.Query
	}
	if x.endpoint == nil {
		return wire.RefusedAs(http.StatusNotFound, gateway.NotAuthorized,
			"no SCEP endpoint is served at this path: it is "+root+"/NAME, with the endpoint's name in the case of the configuration")
	}
	x.Request.Endpoint, x.Limits = x.endpoint.Name, x.endpoint.Config.Limits
	if !known {
		return wire.Refused(gateway.Malformed, "the query needs an operation: GetCACaps, GetCACert, GetNextCACert or PKIOperation (RFC 8894 section 4.1)", nil)
	}
	if !slices.Contains(op.methods, x.R.Method) {
		return wire.NotAllowed(op.name+" takes "+op.methods[0], op.methods...)
	}
	return op.serve(x)
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
func (x *exchange) caCaps() *wire.Refusal {
	x.Write(http.StatusOK, "text/plain", []byte(x.endpoint.Config.capabilities(x.announces())))
	return nil
}

// caCert answers RFC 8894 section 4.2: always a list, since the RA's certificate is in it. It stands first, for clients
// that encrypt to the first one. While the CA changes over there is the current chain in it, and nothing else: clients tell
// the certificates of the list apart by name and CA flag alone, and take the wrong one of two generations.
func (x *exchange) caCert() *wire.Refusal {
	if ref := x.identify(); ref != nil {
		return ref
	}
	ca, err := x.h.gateway.Authority(x.R.Context(), x.endpoint.Name)
	if err != nil {
		return &wire.Refusal{Err: gateway.AsError(err)}
	}
	if ca == nil || len(ca.Chain) == 0 {
		return wire.Refused(gateway.Internal, "", errors.New("the endpoint has no CA certificates"))
	}
	if c := notRSA(ca.Chain); c != nil { // clients encrypt to every certificate of the list, and fail at this one
		return wire.Refused(gateway.Internal, "", fmt.Errorf("the CA certificate %q has no RSA key: a SCEP endpoint needs an issuing CA with an RSA chain", c.Subject))
	}
	raw := [][]byte{x.ra.cert.Raw}
	for i, c := range ca.Chain {
		if i == 0 || x.endpoint.shows(c) {
			raw = append(raw, c.Raw)
		}
	}
	for _, c := range ca.Standby { // which may have issued what the client gets
		if x.endpoint.shows(c) {
			raw = append(raw, c.Raw)
		}
	}
	der, err := cms.CertsOnly(raw...)
	if err != nil {
		return wire.Refused(gateway.Internal, "", err)
	}
	x.Write(http.StatusOK, "application/x-x509-ca-ra-cert", der)
	return nil
}

// shows reports whether a CA certificate above the issuing one is handed out: a root by configuration only.
func (e *Endpoint) shows(c *x509.Certificate) bool {
	return *e.Config.Root || string(c.RawSubject) != string(c.RawIssuer)
}
