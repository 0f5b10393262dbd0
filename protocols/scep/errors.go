package scep

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	smallscep "github.com/smallstep/scep"

	"github.com/muster-pki/muster/gateway"
)

// refusal is a request that ends in the adapter. status overrides what the reason renders as, for what only HTTP
// knows (404, 405, 413, 415); 0 leaves it to the reason.
type refusal struct {
	err    *gateway.Error
	status int
	allow  string // Allow header, with 405
}

// refused makes a refusal that is rendered by its reason.
func refused(reason gateway.Reason, detail string, cause error) *refusal {
	return &refusal{err: &gateway.Error{Reason: reason, Detail: detail, Err: cause}}
}

// rendering is what a Reason looks like to a client: a signed FAILURE with a failInfo (RFC 8894 section 3.2.1.4), or,
// where failInfo is "" or the message did not say enough to be answered in CMS, an HTTP status.
type rendering struct {
	failInfo smallscep.FailInfo
	status   int
}

// render is the one place where a Reason becomes an answer. known is false for a reason that the switch does not name.
func render(reason gateway.Reason) (r rendering, known bool) {
	switch reason {
	case gateway.BadAlgorithm:
		return rendering{smallscep.BadAlg, http.StatusBadRequest}, true
	case gateway.BadIntegrity:
		return rendering{smallscep.BadMessageCheck, http.StatusBadRequest}, true
	case gateway.BadTime:
		return rendering{smallscep.BadTime, http.StatusBadRequest}, true
	case gateway.UnknownCert:
		return rendering{smallscep.BadCertID, http.StatusBadRequest}, true
	case gateway.Malformed, gateway.Undecryptable, gateway.WrongProtection, gateway.BadPOP, gateway.BadTemplate,
		gateway.DuplicateCert:
		return rendering{smallscep.BadRequest, http.StatusBadRequest}, true
	case gateway.Untrusted, gateway.Unauthenticated, gateway.Revoked, gateway.NotAuthorized:
		return rendering{smallscep.BadRequest, http.StatusForbidden}, true
	case gateway.Unsupported:
		return rendering{smallscep.BadRequest, http.StatusNotImplemented}, true
	case gateway.Busy, gateway.Unavailable:
		return rendering{"", http.StatusServiceUnavailable}, true
	case gateway.Internal:
		return rendering{"", http.StatusInternalServerError}, true
	default:
		return rendering{"", http.StatusInternalServerError}, false
	}
}

// undecryptable is all that a client learns of whatever goes wrong between RecipientInfo and a certification request
// whose signature holds. A text that told these apart would be a decryption oracle; nor is there a reference in it, so
// that all such answers are the same.
const undecryptable = "the envelope does not hold a PKCS#10 request that is signed with its own RSA key of 2048 to 8192 bits" +
	" and encrypted to the RA certificate: look at the request and the key, and get the certificates again (GetCACert)"

// writeError answers with the rendering of e.
func (x *exchange) writeError(e *gateway.Error, status int, allow string) {
	r, _ := render(e.Reason)
	if status == 0 && r.failInfo != "" && x.message != nil {
		text := e.Detail
		switch {
		case e.Reason == gateway.Undecryptable:
			text = undecryptable
		case text == "":
			text = "the request is refused"
			fallthrough
		default:
			text = line(text, e.Transaction)
		}
		err := x.writeFailure(r.failInfo, text)
		if err == nil {
			return
		}
		x.h.log.Error("SCEP failure could not be signed", "id", x.request.ID, "err", err)
		status = http.StatusInternalServerError
	}
	x.writeText(e, orStatus(status, r.status), allow)
}

func orStatus(status, otherwise int) int {
	if status == 0 {
		return otherwise
	}
	return status
}

// writeText answers with one line of plain text, where no CMS answer can be.
func (x *exchange) writeText(e *gateway.Error, status int, allow string) {
	header := x.w.Header()
	switch status {
	case http.StatusMethodNotAllowed:
		header.Set("Allow", allow)
	case http.StatusRequestEntityTooLarge:
		header.Set("Connection", "close") // the rest of the body is not read
	case http.StatusServiceUnavailable:
		header.Set("Retry-After", x.retryAfter(e.RetryAfter))
	}
	detail := e.Detail
	if detail == "" {
		detail = strings.ToLower(http.StatusText(status))
	}
	x.write(status, "text/plain; charset=utf-8", []byte(line(detail, e.Transaction)+"\n"))
}

// maxDetail is how many bytes of a detail go out: it may quote a parser.
const maxDetail = 400

// line is one line of text, without its end, with the reference to a transaction.
func line(detail, transaction string) string {
	detail = strings.Map(func(r rune) rune { // makes valid UTF-8, too
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, detail)
	if len(detail) > maxDetail {
		detail = strings.ToValidUTF8(detail[:maxDetail], "") + "..."
	}
	if transaction != "" {
		detail += " (reference " + transaction + ")"
	}
	return detail
}

// retryAfter renders a delay in whole seconds, at least one (RFC 9110 section 10.2.3), the endpoint's where none is known.
func (x *exchange) retryAfter(d time.Duration) string {
	if d <= 0 {
		d = defaultRetryAfter
		if x.endpoint != nil {
			d = time.Duration(x.endpoint.Config.RetryAfter)
		}
	}
	return strconv.FormatInt(int64(math.Ceil(d.Seconds())), 10)
}
