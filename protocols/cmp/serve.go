package cmp

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// typePKIXCMP is the type of messages in both directions (RFC 9811 section 3.2).
const typePKIXCMP = "application/pkixcmp"

// exchange is one HTTP request and its answer.
type exchange struct {
	h        *Handler
	w        http.ResponseWriter
	r        *http.Request
	endpoint *Endpoint         // nil until the path is resolved
	identity *gateway.Identity // that answers are signed with; nil until then
	request  *gateway.Request  // as much of it as is known

	message       *cmpmsg.Message // nil until it parses
	hash          []byte          // SHA-256 of the message as it came
	pvno          int             // of the answer
	transactionID []byte          // of the answer
	requester     *requester      // nil until the protection is verified
	goingOn       *record         // of the transaction that the requester began and goes on with; nil for none
	reqID         int64           // certReqId of the answer
	answered      bool
}

// serve answers one HTTP request. A panic ends that request only.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, serves func(string) bool) {
	now := h.now()
	x := &exchange{h: h, w: w, r: r, pvno: 2, request: &gateway.Request{
		ID: gateway.NewID(now), Protocol: gateway.CMP, Operation: gateway.Enroll, POP: gateway.POPNone,
		Source: source(r.RemoteAddr), Received: now,
	}}
	defer x.contain()
	if ref := x.dispatch(serves); ref != nil {
		x.refuse(ref)
	}
}

// dispatch finds the endpoint, reads the message and has it answered.
func (x *exchange) dispatch(serves func(string) bool) *refusal {
	name, known := splitPath(x.r.URL.Path)
	endpoint := x.h.fallback
	if name != "" {
		endpoint = x.h.endpoints[name]
	}
	if known && endpoint != nil && serves(endpoint.Name) {
		x.endpoint = endpoint
		x.request.Endpoint = endpoint.Name
	}
	plain := func(status int, reason gateway.Reason, detail string) *refusal {
		ref := refused(reason, detail, nil)
		ref.status = status
		return ref
	}
	switch {
	case !known:
		return plain(http.StatusNotFound, gateway.Unsupported, "no CMP server at this path: it is "+wellKnown+"/p/NAME or "+short+"/NAME")
	case x.endpoint == nil && name != "":
		return plain(http.StatusNotFound, gateway.NotAuthorized, "no CMP endpoint has this name here")
	case x.endpoint == nil:
		return plain(http.StatusNotFound, gateway.NotAuthorized, "no CMP endpoint is the default here: put a name into the path, "+wellKnown+"/p/NAME")
	case x.r.Method != http.MethodPost:
		ref := plain(http.StatusMethodNotAllowed, gateway.Malformed, "CMP takes POST (RFC 9811 section 3.1)")
		ref.allow = http.MethodPost
		return ref
	}
	der, ref := x.readBody()
	if ref != nil {
		return ref
	}
	if x.identity = x.h.identity(x.endpoint.Name); x.identity == nil || x.identity.Key == nil || x.identity.Certificate == nil {
		x.identity = nil
		ref := refused(gateway.Unavailable, "this server cannot sign its answers yet", errors.New("the endpoint has no identity to sign CMP answers with"))
		ref.status = http.StatusServiceUnavailable
		return ref
	}
	return x.handle(der)
}

// readBody checks the type and reads at most the endpoint's number of bytes, never buffering more.
func (x *exchange) readBody() ([]byte, *refusal) {
	plain := func(status int, detail string, cause error) *refusal {
		ref := refused(gateway.Malformed, detail, cause)
		ref.status = status
		return ref
	}
	types := x.r.Header.Values("Content-Type")
	if len(types) != 1 {
		return nil, plain(http.StatusUnsupportedMediaType, "the request needs one Content-Type header: "+typePKIXCMP, nil)
	}
	// Parameters do not matter, nor whether they parse.
	if t, _, _ := strings.Cut(types[0], ";"); !strings.EqualFold(strings.TrimSpace(t), typePKIXCMP) {
		return nil, plain(http.StatusUnsupportedMediaType, "the Content-Type of a PKIMessage is "+typePKIXCMP, nil)
	}
	for _, enc := range x.r.Header.Values("Content-Encoding") {
		if enc != "" && !strings.EqualFold(enc, "identity") {
			return nil, plain(http.StatusUnsupportedMediaType, "a Content-Encoding is not accepted", nil)
		}
	}
	limit := x.endpoint.Config.MaxBody
	large := fmt.Sprintf("the message is larger than %d bytes", limit)
	if x.r.ContentLength > limit {
		return nil, plain(http.StatusRequestEntityTooLarge, large, nil)
	}
	body, err := io.ReadAll(http.MaxBytesReader(x.w, x.r.Body, limit))
	if _, over := errors.AsType[*http.MaxBytesError](err); over {
		return nil, plain(http.StatusRequestEntityTooLarge, large, nil)
	}
	if err != nil {
		return nil, plain(http.StatusBadRequest, "the message did not arrive whole", err)
	}
	return body, nil
}

// refuse reports a refusal to the gateway and answers it.
func (x *exchange) refuse(ref *refusal) {
	e := ref.err
	if !ref.noted {
		if noted := x.h.gateway.Reject(x.r.Context(), x.request, e); noted != nil {
			e = noted
		}
	}
	if ref.status == 0 && x.identity != nil {
		der, err := x.failure(e, ref)
		if err == nil {
			x.write(http.StatusOK, typePKIXCMP, der)
			return
		}
		x.h.log.Error("a CMP failure could not be rendered", "id", x.request.ID, "err", err)
		e = &gateway.Error{Reason: gateway.Internal, Transaction: e.Transaction}
	}
	x.writeText(ref, e)
}

// writeText answers with plain text what is no PKIMessage's to answer.
func (x *exchange) writeText(ref *refusal, e *gateway.Error) {
	status := ref.status
	if status == 0 {
		status = http.StatusInternalServerError
	}
	switch status {
	case http.StatusMethodNotAllowed:
		x.w.Header().Set("Allow", ref.allow)
	case http.StatusRequestEntityTooLarge:
		x.w.Header().Set("Connection", "close") // the rest of the body is not read
	case http.StatusServiceUnavailable:
		x.w.Header().Set("Retry-After", strconv.FormatInt(int64(x.checkAfter()), 10))
	}
	detail := e.Detail
	if detail == "" {
		detail = strings.ToLower(http.StatusText(status))
	}
	x.write(status, "text/plain; charset=utf-8", []byte(line(detail, e.Transaction)+"\n"))
}

// contain ends a panic with systemFailure. What the panic says goes to the log only.
func (x *exchange) contain() {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler { // net/http's own way to drop a connection
		panic(p)
	}
	x.h.log.Error("CMP request panicked", "id", x.request.ID, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	if x.answered {
		return
	}
	defer func() {
		if p := recover(); p != nil { // Reject itself, or the rendering
			x.h.log.Error("CMP refusal panicked", "id", x.request.ID, "panic", fmt.Sprint(p))
			if !x.answered {
				x.write(http.StatusInternalServerError, "text/plain; charset=utf-8", []byte(line("internal server error", x.request.ID)+"\n"))
			}
		}
	}()
	x.refuse(refused(gateway.Internal, "", fmt.Errorf("panic: %v", p)))
}

// write sends an answer with its length.
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
		// The client is gone; it repeats its message, and gets the same answer.
		x.h.log.Debug("CMP answer not delivered", "id", x.request.ID, "err", err)
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
