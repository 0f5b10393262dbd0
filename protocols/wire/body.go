package wire

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/muster-pki/muster/gateway"
)

// ReadBody reads at most as many bytes as the endpoint takes, never buffering more. contentType is what the request has
// to announce, "" for anything or nothing.
func (x *Exchange) ReadBody(contentType string) ([]byte, *Refusal) {
	unsupported := func(detail string) *Refusal {
		return RefusedAs(http.StatusUnsupportedMediaType, gateway.Malformed, detail)
	}
	if contentType != "" {
		types := x.R.Header.Values("Content-Type")
		if len(types) != 1 {
			return nil, unsupported("the request needs one Content-Type header: " + contentType)
		}
		// Parameters do not matter, nor whether they parse.
		if t, _, _ := strings.Cut(types[0], ";"); !strings.EqualFold(strings.TrimSpace(t), contentType) {
			return nil, unsupported("the Content-Type of a request is " + contentType)
		}
	}
	for _, enc := range x.R.Header.Values("Content-Encoding") {
		if enc != "" && !strings.EqualFold(enc, "identity") {
			return nil, unsupported("a Content-Encoding is not accepted")
		}
	}
	limit := x.Limits.WithDefaults().MaxBody
	tooLarge := RefusedAs(http.StatusRequestEntityTooLarge, gateway.Malformed, fmt.Sprintf("the request is larger than %d bytes", limit))
	if x.R.ContentLength > limit {
		return nil, tooLarge
	}
	body, err := io.ReadAll(http.MaxBytesReader(x.W, x.R.Body, limit))
	if _, over := errors.AsType[*http.MaxBytesError](err); over {
		return nil, tooLarge
	}
	if err != nil {
		ref := RefusedAs(http.StatusBadRequest, gateway.Malformed, "the request's body did not arrive whole")
		ref.Err.Err = err
		return nil, ref
	}
	return body, nil
}
