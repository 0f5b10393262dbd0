package est

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/wire"
)

// operation is one path segment of RFC 7030 section 3.2.2.
type operation struct {
	methods []string // the first is the one that clients use
	kind    gateway.Operation
	serve   func(*exchange) *wire.Refusal
}

// operationNamed finds what a path segment asks for.
func operationNamed(segment string) (operation, bool) {
	get, post := []string{http.MethodGet, http.MethodHead}, []string{http.MethodPost}
	switch segment {
	case "cacerts":
		return operation{get, gateway.Query, (*exchange).caCerts}, true
	case "csrattrs":
		return operation{get, gateway.Query, (*exchange).csrAttrs}, true
	case "crls":
		return operation{get[:1], gateway.Query, (*exchange).currentCRLs}, true
	case "eecerts":
		return operation{get[:1], gateway.Query, (*exchange).ownCertificates}, true
	case renewalInfo:
		return operation{get, gateway.Query, (*exchange).renewal}, true
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

// operationNames are the path segments that a label must not have: those of RFC 7030 section 3.2.2, RFC 8295 section 2,
// draft-ietf-lamps-est-renewal-info and RFC 9148 section 4.1, served or not.
var operationNames = []string{
	"cacerts", "simpleenroll", "simplereenroll", "fullcmc", "serverkeygen", "csrattrs",
	"pal", "eecerts", "crls", "symmetrickeys", "firmware", "tamp",
	renewalInfo,
	"crts", "sen", "sren", "skg", "skc", "att",
}

// exchange is one HTTP request and its answer.
type exchange struct {
	wire.Exchange
	h        *Handler
	endpoint *Endpoint // nil until the path is resolved

	certificate  string                // as /renewal-info names it
	registration *gateway.Registration // of an MEF's client
	stale        bool                  // the nonce that the client answered is no longer good
}

// serve answers one HTTP request. A panic ends that request only.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, serves func(string) bool) {
	x := &exchange{h: h, Exchange: wire.New(w, r, gateway.EST, h.now(), h.log)}
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
	path, id := cutRenewal(x.R.URL.Path)
	x.certificate = id
	label, segment, labelled := splitPath(path)
	endpoint := x.h.fallback
	if labelled {
		endpoint = x.h.endpoints[label]
	}
	if endpoint != nil && serves(endpoint.Name) {
		x.endpoint = endpoint
		x.Request.Endpoint, x.Limits = endpoint.Name, endpoint.Config.Limits
	}
	op, known := operationNamed(segment)
	x.Request.Operation = op.kind

	if x.R.TLS == nil {
		// RFC 7030 sections 3.2.1 and 3.3: HTTPS throughout. Nothing that came in clear is looked at, no password
		// above all, and none is asked for.
		return wire.Refused(gateway.NotAuthorized, "EST is served over HTTPS only (RFC 7030 section 3.3); a password sent here has been sent in clear", nil)
	}
	switch {
	case !known:
		return wire.RefusedAs(http.StatusNotFound, gateway.Unsupported,
			"no such EST operation: the path is "+root+"/[LABEL/]OPERATION, with cacerts, simpleenroll or simplereenroll")
	case x.endpoint == nil && labelled:
		return wire.RefusedAs(http.StatusNotFound, gateway.NotAuthorized, "no EST endpoint has this label here")
	case x.endpoint == nil:
		return wire.RefusedAs(http.StatusNotFound, gateway.NotAuthorized,
			"no EST endpoint is the default here: put a label into the path, "+root+"/LABEL/"+segment)
	}
	if !slices.Contains(op.methods, x.R.Method) {
		return wire.NotAllowed("/"+segment+" takes "+op.methods[0], op.methods...)
	}
	if ref := x.admit(segment); ref != nil {
		return ref
	}
	return op.serve(x)
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
func (x *exchange) caCerts() *wire.Refusal {
	certs, err := x.h.gateway.CACertificates(x.R.Context(), x.endpoint.Name)
	if err != nil {
		return &wire.Refusal{Err: gateway.AsError(err)}
	}
	if len(certs) == 0 {
		return wire.Refused(gateway.Internal, "", errors.New("the endpoint has no CA certificates"))
	}
	return x.writeCertificates(typeCACerts, certs)
}

// fullCMC is OPTIONAL (RFC 7030 section 3.2.2); section 4.3.2: 501 says that it is not implemented.
func (x *exchange) fullCMC() *wire.Refusal {
	return wire.Refused(gateway.Unsupported, "Full CMC is not implemented: use /simpleenroll or /simplereenroll", nil)
}

// enroll answers RFC 7030 sections 4.2.1 and 4.2.2.
func (x *exchange) enroll() *wire.Refusal {
	der, body, ref := x.readRequest()
	if ref != nil {
		return ref
	}
	c, ref := parseCertification(der)
	if c != nil {
		x.Request.Subject = c.Subject
	}
	if ref != nil {
		return ref
	}
	x.Request.Raw = body
	if ref := x.link(c); ref != nil {
		return ref
	}
	if ref := x.findHeld(c); ref != nil {
		return ref
	}
	if ref := c.fill(x.Request, x.Request.Operation); ref != nil {
		return ref
	}
	x.Request.Notes = append(x.Request.Notes, x.facts(c, len(der)))
	return x.ask()
}

// readRequest takes down what the client authenticates with, and reads the DER of its request; body is that in base64.
func (x *exchange) readRequest() (der, body []byte, ref *wire.Refusal) {
	if ref := x.authenticate(); ref != nil {
		return nil, nil, ref
	}
	if body, ref = x.ReadBody(typePKCS10); ref != nil {
		return nil, nil, ref
	}
	der, err := decodeBody(body)
	if err != nil {
		if errors.Is(err, errEmpty) && x.asksHow() {
			shown := "credentials"
			if len(x.Request.Credentials) > 0 {
				shown = "password" // but a certificate
			}
			return nil, nil, wire.Refused(gateway.Unauthenticated, "no "+shown+" and no request were sent", nil)
		}
		return nil, nil, wire.Refused(gateway.Malformed, err.Error(), err)
	}
	return der, body, nil
}

// ask passes the request to the gateway and answers with what comes of it.
func (x *exchange) ask() *wire.Refusal {
	result, err := x.h.gateway.Enroll(x.R.Context(), x.Request)
	switch {
	case err != nil:
		x.writeError(gateway.AsError(err), 0, "") // the gateway has noted it
		return nil
	case result == nil:
		return wire.Refused(gateway.Internal, "", errors.New("the gateway answered an enrollment with nothing"))
	case result.Kind == gateway.ResultIssued && result.Certificate != nil && x.Request.KeyGen != nil:
		return x.writeKey(result)
	case result.Kind == gateway.ResultIssued && result.Certificate != nil:
		// RFC 7030 section 4.2.3: only the certificate that was issued.
		return x.writeCertificates(typeEnrolled, []*x509.Certificate{result.Certificate})
	case result.Kind == gateway.ResultPending:
		// RFC 7030 section 4.2.3: 202 MUST have Retry-After.
		x.SetRetryAfter(result.RetryAfter)
		if !x.wordless(http.StatusAccepted) {
			x.Text(http.StatusAccepted, "the request is not decided yet: send it again after the time in Retry-After", result.Transaction)
		}
		return nil
	default:
		return wire.Refused(gateway.Internal, "", fmt.Errorf("the gateway answered an enrollment with %q", result.Kind))
	}
}
