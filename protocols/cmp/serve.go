package cmp

import (
	"cmp"
	"errors"
	"net/http"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/wire"
)

// typePKIXCMP is the type of messages in both directions (RFC 9811 section 3.2).
const typePKIXCMP = "application/pkixcmp"

// exchange is one HTTP request and its answer.
type exchange struct {
	wire.Exchange
	h        *Handler
	endpoint *Endpoint         // nil until the path is resolved
	identity *gateway.Identity // that answers are signed with; nil until then
	byFile   bool              // the message came in a file (process.go)
	failed   *gateway.Error    // what was answered by no PKIMessage
	relay    *relay            // the RA that passed the message on; nil for none

	message       *cmpmsg.Message // nil until it parses
	hash          []byte          // SHA-256 of the message as it came
	pvno          int             // of the answer
	transactionID []byte          // of the answer
	recalled      []byte          // senderNonce of a message that does not parse; nil for none
	requester     *requester      // nil until the protection is verified
	goingOn       *record         // of the transaction that the requester began and goes on with; nil for none
	reqID         int64           // certReqId of the answer
	written       []byte          // what write made of wrote
	wrote         *record         // nil for none
}

// serve answers one HTTP request. A panic ends that request only.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, serves func(string) bool) {
	x := &exchange{h: h, pvno: 2, Exchange: wire.New(w, r, gateway.CMP, h.now(), h.log)}
	x.Request.Operation = gateway.Enroll
	defer x.Contain(func(ref *wire.Refusal) { x.refuse(&refusal{Refusal: *ref}) })
	if ref := x.dispatch(serves); ref != nil {
		x.refuse(ref)
	}
}

// dispatch finds the endpoint, reads the message and has it answered.
func (x *exchange) dispatch(serves func(string) bool) *refusal {
	name, known := splitPath(x.R.URL.Path)
	endpoint := x.h.fallback
	if name != "" {
		endpoint = x.h.endpoints[name]
	}
	if known && endpoint != nil && serves(endpoint.Name) {
		x.endpoint = endpoint
		x.Request.Endpoint, x.Limits = endpoint.Name, endpoint.Config.Limits
	}
	plain := func(status int, reason gateway.Reason, detail string) *refusal {
		return &refusal{Refusal: *wire.RefusedAs(status, reason, detail)}
	}
	switch {
	case !known:
		return plain(http.StatusNotFound, gateway.Unsupported, "no CMP server at this path: it is "+wellKnown+"/p/NAME or "+short+"/NAME")
	case x.endpoint == nil && name != "":
		return plain(http.StatusNotFound, gateway.NotAuthorized, "no CMP endpoint has this name here")
	case x.endpoint == nil:
		return plain(http.StatusNotFound, gateway.NotAuthorized, "no CMP endpoint is the default here: put a name into the path, "+wellKnown+"/p/NAME")
	case x.R.Method != http.MethodPost:
		return &refusal{Refusal: *wire.NotAllowed("CMP takes POST (RFC 9811 section 3.1)", http.MethodPost)}
	}
	der, ref := x.ReadBody(typePKIXCMP)
	if ref != nil {
		return &refusal{Refusal: *ref}
	}
	return x.process(der)
}

// process answers a message for the endpoint, however it came.
func (x *exchange) process(der []byte) *refusal {
	if x.identity = x.h.identity(x.endpoint.Name); x.identity == nil || x.identity.Key == nil || x.identity.Certificate == nil {
		x.identity = nil
		ref := refused(gateway.Unavailable, "this server cannot sign its answers yet", errors.New("the endpoint has no identity to sign CMP answers with"))
		ref.Status = http.StatusServiceUnavailable
		return ref
	}
	return x.handle(der)
}

// refuse reports a refusal to the gateway and answers it.
func (x *exchange) refuse(ref *refusal) {
	e := ref.Err
	if !ref.noted {
		if noted := x.h.gateway.Reject(x.R.Context(), x.Request, e); noted != nil {
			e = noted
		}
	}
	// Who carries a file that holds no PKIMessage is told, and carries no answer back.
	if ref.Status == 0 && x.identity != nil && (x.message != nil || !x.byFile) {
		der, err := x.failure(e, ref)
		if err == nil {
			if e.RetryAfter > 0 {
				// No field of a PKIMessage says it but the text; RFC 9110 section 10.2.3 lets any answer.
				x.SetRetryAfter(e.RetryAfter)
			}
			x.Write(http.StatusOK, typePKIXCMP, der)
			return
		}
		x.Log.Error("a CMP failure could not be rendered", "id", x.Request.ID, "err", err)
		e = &gateway.Error{Reason: gateway.Internal, Transaction: e.Transaction}
	}
	x.failed = e
	x.Error(cmp.Or(ref.Status, http.StatusInternalServerError), e, ref.Allow) // what is no PKIMessage's to answer
}
