package est

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"

	"github.com/muster-pki/muster/gateway"
)

// operation is one path segment of RFC 7030 section 3.2.2.
type operation struct {
	methods []string // the first is the one that clients use
	kind    gateway.Operation
	serve   func(*exchange) *refusal
}

// operationNamed finds what a path segment asks for.
func operationNamed(segment string) (operation, bool) {
	get, post := []string{http.MethodGet, http.MethodHead}, []string{http.MethodPost}
	switch segment {
	case "cacerts":
		return operation{get, gateway.Query, (*exchange).caCerts}, true
	case "csrattrs":
		return operation{get, gateway.Query, (*exchange).csrAttrs}, true
	case "simpleenroll":
		return operation{post, gateway.Enroll, (*exchange).enroll}, true
	case "simplereenroll":
		return operation{post, gateway.Renew, (*exchange).enroll}, true
	case "serverkeygen":
		return operation{post, gateway.Enroll, (*exchange).serverKeyGen}, true
	case "fullcmc":
		return operation{post, gateway.Enroll, (*exchange).fullCMC}, true
	default:
		return operation{}, false
	}
}

// operationNames are the path segments that a label must not have: those of RFC 7030 section 3.2.2, RFC 8295 section 2
// and RFC 9148 section 4.1, served or not.
var operationNames = []string{
	"cacerts", "simpleenroll", "simplereenroll", "fullcmc", "serverkeygen", "csrattrs",
	"pal", "eecerts", "crls", "symmetrickeys", "firmware", "tamp",
	"crts", "sen", "sren", "skg", "skc", "att",
}

// exchange is one HTTP request and its answer.
type exchange struct {
	h        *Handler
	w        http.ResponseWriter
	r        *http.Request
	endpoint *Endpoint        // nil until the path is resolved
	request  *gateway.Request // as much of it as is known
	answered bool
}

// serve answers one HTTP request. A panic ends that request only.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, serves func(string) bool) {
	now := h.now()
	x := &exchange{h: h, w: w, r: r, request: &gateway.Request{
		ID: gateway.NewID(now), Protocol: gateway.EST, POP: gateway.POPNone, Source: source(r.RemoteAddr), Received: now,
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
	x.h.log.Error("EST request panicked", "id", x.request.ID, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	if x.answered {
		return
	}
	defer func() {
		if p := recover(); p != nil { // Reject itself, or Accepts
			x.h.log.Error("EST refusal panicked", "id", x.request.ID, "panic", fmt.Sprint(p))
			if !x.answered {
				x.write(http.StatusInternalServerError, "text/plain; charset=utf-8", []byte(line("internal server error", x.request.ID)))
			}
		}
	}()
	x.refuse(refused(gateway.Internal, "", fmt.Errorf("panic: %v", p)))
}

// dispatch finds endpoint and operation and runs it.
func (x *exchange) dispatch(serves func(string) bool) *refusal {
	label, segment, labelled := splitPath(x.r.URL.Path)
	endpoint := x.h.fallback
	if labelled {
		endpoint = x.h.endpoints[label]
	}
	if endpoint != nil && serves(endpoint.Name) {
		x.endpoint = endpoint
		x.request.Endpoint = endpoint.Name
	}
	op, known := operationNamed(segment)
	x.request.Operation = op.kind

	if x.r.TLS == nil {
		// RFC 7030 sections 3.2.1 and 3.3: HTTPS throughout. Nothing that came in clear is looked at, no password
		// above all, and none is asked for.
		return refused(gateway.NotAuthorized, "EST is served over HTTPS only (RFC 7030 section 3.3); a password sent here has been sent in clear", nil)
	}
	switch {
	case !known:
		return &refusal{status: http.StatusNotFound, err: &gateway.Error{Reason: gateway.Unsupported,
			Detail: "no such EST operation: the path is " + root + "/[LABEL/]OPERATION, with cacerts, simpleenroll or simplereenroll"}}
	case x.endpoint == nil && labelled:
		return &refusal{status: http.StatusNotFound, err: &gateway.Error{Reason: gateway.NotAuthorized, Detail: "no EST endpoint has this label here"}}
	case x.endpoint == nil:
		return &refusal{status: http.StatusNotFound, err: &gateway.Error{Reason: gateway.NotAuthorized,
			Detail: "no EST endpoint is the default here: put a label into the path, " + root + "/LABEL/" + segment}}
	}
	for _, m := range op.methods {
		if x.r.Method == m {
			return op.serve(x)
		}
	}
	return &refusal{status: http.StatusMethodNotAllowed, allow: strings.Join(op.methods, ", "),
		err: &gateway.Error{Reason: gateway.Malformed, Detail: "/" + segment + " takes " + op.methods[0]}}
}

// splitPath takes a path below root apart: [/label]/operation.
func splitPath(path string) (label, operation string, labelled bool) {
	parts := strings.Split(strings.TrimPrefix(strings.TrimPrefix(path, root), "/"), "/")
	switch len(parts) {
	case 1:
		return "", parts[0], false
	case 2:
		return parts[0], parts[1], true
	default:
		return "", "", true
	}
}

// caCerts answers RFC 7030 section 4.1: the CA certificates, for everybody.
func (x *exchange) caCerts() *refusal {
	certs, err := x.h.gateway.CACertificates(x.r.Context(), x.endpoint.Name)
	if err != nil {
		return &refusal{err: gateway.AsError(err)}
	}
	if len(certs) == 0 {
		return refused(gateway.Internal, "", errors.New("the endpoint has no CA certificates"))
	}
	return x.writeCertificates(typeCACerts, certs)
}

// csrAttrs answers RFC 7030 section 4.5.2 (as in RFC 8951 section 4): 204 says that there is nothing to ask for.
func (x *exchange) csrAttrs() *refusal {
	x.answered = true
	x.w.WriteHeader(http.StatusNoContent)
	return nil
}

// serverKeyGen and fullCMC are OPTIONAL (RFC 7030 section 3.2.2); section 4.3.2: 501 says that they are not implemented.
func (x *exchange) serverKeyGen() *refusal {
	return refused(gateway.Unsupported, "server-side key generation is not implemented: make the key on the device and use /simpleenroll", nil)
}

func (x *exchange) fullCMC() *refusal {
	return refused(gateway.Unsupported, "Full CMC is not implemented: use /simpleenroll or /simplereenroll", nil)
}

// enroll answers RFC 7030 sections 4.2.1 and 4.2.2.
func (x *exchange) enroll() *refusal {
	if ref := x.authenticate(); ref != nil {
		return ref
	}
	body, ref := x.readBody()
	if ref != nil {
		return ref
	}
	der, err := decodeBody(body)
	if err != nil {
		if errors.Is(err, errEmpty) && len(x.request.Credentials) == 0 {
			// How curl --anyauth and others ask which authentication there is, before they send the request itself.
			return refused(gateway.Unauthenticated, "no credentials and no request were sent", nil)
		}
		return refused(gateway.Malformed, err.Error(), err)
	}
	c, ref := parseCertification(der)
	if c != nil {
		x.request.Subject = c.Subject
	}
	if ref != nil {
		return ref
	}
	x.request.Raw = body
	binding := ""
	if len(c.bindings) > 0 {
		binding = channelBinding(x.r.TLS)
	}
	if ref := c.fill(x.request, x.request.Operation, binding); ref != nil {
		return ref
	}
	return x.ask()
}

// ask passes the request to the gateway and answers with what comes of it.
func (x *exchange) ask() *refusal {
	result, err := x.h.gateway.Enroll(x.r.Context(), x.request)
	switch {
	case err != nil:
		x.writeError(gateway.AsError(err), 0, "") // the gateway has noted it
		return nil
	case result == nil:
		return refused(gateway.Internal, "", errors.New("the gateway answered an enrollment with nothing"))
	case result.Kind == gateway.ResultIssued && result.Certificate != nil:
		// RFC 7030 section 4.2.3: only the certificate that was issued.
		return x.writeCertificates(typeEnrolled, []*x509.Certificate{result.Certificate})
	case result.Kind == gateway.ResultPending:
		// RFC 7030 section 4.2.3: 202 MUST have Retry-After.
		x.w.Header().Set("Retry-After", x.retryAfter(result.RetryAfter))
		x.write(http.StatusAccepted, "text/plain; charset=utf-8",
			[]byte(line("the request is not decided yet: send it again after the time in Retry-After", result.Transaction)))
		return nil
	default:
		return refused(gateway.Internal, "", fmt.Errorf("the gateway answered an enrollment with %q", result.Kind))
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
