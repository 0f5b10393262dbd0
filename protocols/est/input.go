package est

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/muster-pki/muster/gateway"
)

// authenticate takes down what the client authenticates with. It judges form only.
func (x *exchange) authenticate() *refusal {
	if chain := x.r.TLS.PeerCertificates; len(chain) > 0 {
		cred, ref := tlsCredential(chain)
		if ref != nil {
			return ref
		}
		x.request.Credentials = append(x.request.Credentials, cred)
	}
	headers := x.r.Header.Values("Authorization")
	if len(headers) > 1 {
		return refused(gateway.Malformed, "more than one Authorization header", nil)
	}
	if len(headers) == 0 {
		return nil
	}
	if scheme, _, _ := strings.Cut(headers[0], " "); !strings.EqualFold(scheme, "Basic") {
		return nil // another scheme says nothing to us; the client learns from the challenge which does
	}
	user, password, ok := x.r.BasicAuth()
	if !ok {
		return refused(gateway.Malformed, "the Authorization header is not that of HTTP Basic (RFC 7617 section 2)", nil)
	}
	cred, ref := passwordCredential(user, password)
	if ref != nil {
		return ref
	}
	x.request.Credentials = append(x.request.Credentials, cred)
	return nil
}

// typePKCS10 is the type of a request (RFC 7030 section 4.2.1, RFC 5967).
const typePKCS10 = "application/pkcs10"

// readBody checks the type and reads at most the endpoint's number of bytes, never buffering more.
func (x *exchange) readBody() ([]byte, *refusal) {
	unsupported := func(detail string) *refusal {
		return &refusal{status: http.StatusUnsupportedMediaType, err: &gateway.Error{Reason: gateway.Malformed, Detail: detail}}
	}
	types := x.r.Header.Values("Content-Type")
	if len(types) != 1 {
		return nil, unsupported("the request needs one Content-Type header: " + typePKCS10)
	}
	// Parameters do not matter, nor whether they parse.
	if t, _, _ := strings.Cut(types[0], ";"); !strings.EqualFold(strings.TrimSpace(t), typePKCS10) {
		return nil, unsupported("the Content-Type of a request is " + typePKCS10)
	}
	for _, enc := range x.r.Header.Values("Content-Encoding") {
		if enc != "" && !strings.EqualFold(enc, "identity") {
			return nil, unsupported("a Content-Encoding is not accepted")
		}
	}
	limit := x.endpoint.Config.MaxBody
	tooLarge := &refusal{status: http.StatusRequestEntityTooLarge, err: &gateway.Error{Reason: gateway.Malformed,
		Detail: fmt.Sprintf("the request is larger than %d bytes", limit)}}
	if x.r.ContentLength > limit {
		return nil, tooLarge
	}
	body, err := io.ReadAll(http.MaxBytesReader(x.w, x.r.Body, limit))
	if _, over := errors.AsType[*http.MaxBytesError](err); over {
		return nil, tooLarge
	}
	if err != nil {
		return nil, refused(gateway.Malformed, "the request's body did not arrive whole", err)
	}
	return body, nil
}
