package serve

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/muster-pki/muster/gateway"
)

// OCSPResponses without a signature (RFC 6960 section 4.2.1).
var (
	ocspMalformed = []byte{0x30, 0x03, 0x0a, 0x01, 1}
	ocspTryLater  = []byte{0x30, 0x03, 0x0a, 0x01, 3}
)

const ocspType = "application/ocsp-response"

// ocsp answers an OCSP request (RFC 6960 appendix A.1, RFC 5019 section 5). rest is what follows on /ocsp/, as it came: the base64 of
// a request may have slashes, escaped or not. What a responder has to say comes with status 200, errors of OCSP's own too: clients
// read no other.
func (d *Distribution) ocsp(w http.ResponseWriter, r *http.Request, rest string) {
	parts := strings.SplitN(rest, "/", 3)
	var request []byte
	var ok bool
	switch r.Method {
	case http.MethodPost:
		if len(parts) == 3 && parts[2] != "" {
			refuse(w, http.StatusNotFound, "a request is sent to /ocsp/BACKEND/NAME by POST, or to /ocsp/BACKEND/NAME/BASE64 by GET")
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, gateway.MaxOCSPRequest))
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			refuse(w, http.StatusRequestEntityTooLarge, "an OCSP request has at most "+strconv.Itoa(gateway.MaxOCSPRequest)+" bytes")
			return
		}
		if err != nil {
			refuse(w, http.StatusBadRequest, "the request is not whole")
			return
		}
		request, ok = body, true
	case http.MethodGet, http.MethodHead:
		if len(parts) == 3 {
			request, ok = fromPath(parts[2])
		}
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		refuse(w, http.StatusMethodNotAllowed, "OCSP is asked by GET or POST")
		return
	}
	if len(parts) < 2 || parts[1] == "" {
		refuse(w, http.StatusNotFound, "there is no such responder: /ocsp/BACKEND/NAME, by the names of the backend and its CA")
		return
	}
	if !ok {
		unsigned(w, ocspMalformed)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), distributionTimeout)
	defer cancel()
	der, info, err := d.Publisher.OCSP(ctx, parts[0], parts[1], request)
	switch {
	case errors.Is(err, gateway.ErrNotFound):
		refuse(w, http.StatusNotFound, "there is no such responder: /ocsp/BACKEND/NAME, by the names of the backend and its CA")
	case err != nil:
		d.Log.Warn("OCSP not answered", "backend", parts[0], "ca", parts[1], "err", err)
		retry := overdueFor
		if e, ok := errors.AsType[*gateway.Error](err); ok && e.RetryAfter > 0 {
			retry = e.RetryAfter
		}
		w.Header().Set("Retry-After", strconv.FormatInt(int64(retry.Seconds()+0.999), 10))
		unsigned(w, ocspTryLater)
	case info == nil:
		unsigned(w, der)
	default:
		p := &published{der, ocspType, info.Tag, info.ThisUpdate, d.until(info.Planned, info.NextUpdate)}
		if r.Method != http.MethodPost {
			p.write(w, r, d.Clock())
			return
		}
		p.tell(w.Header(), d.Clock())
		w.Header().Set("Last-Modified", p.modified.UTC().Format(http.TimeFormat))
		w.Header().Set("Content-Length", strconv.Itoa(len(der)))
		_, _ = w.Write(der)
	}
}

// unsigned answers what caches must not keep (RFC 5019 section 6.2).
func unsigned(w http.ResponseWriter, der []byte) {
	w.Header().Set("Content-Type", ocspType)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Length", strconv.Itoa(len(der)))
	_, _ = w.Write(der)
}

// fromPath decodes the base64 of a request, escaped for a URL or not, with its padding or without.
func fromPath(s string) ([]byte, bool) {
	if len(s) > 3*base64.StdEncoding.EncodedLen(gateway.MaxOCSPRequest) {
		return nil, false
	}
	s, err := url.PathUnescape(s)
	if err != nil {
		return nil, false
	}
	request, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
	return request, err == nil && len(request) > 0 && len(request) <= gateway.MaxOCSPRequest
}
