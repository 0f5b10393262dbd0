package scep

import (
	"cmp"
	"fmt"
	"net/http"

	smallscep "github.com/smallstep/scep"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/wire"
)

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

// Told says by which failInfo, or HTTP status, a client is told of a refusal, for `muster pipeline show`.
func Told(reason gateway.Reason) string {
	r, _ := render(reason)
	if r.failInfo == "" {
		return fmt.Sprintf("HTTP %d", r.status)
	}
	return failWords[r.failInfo]
}

// failWords are the names of failInfo (RFC 8894 section 3.2.1.4.1).
var failWords = map[smallscep.FailInfo]string{
	smallscep.BadAlg: "badAlg", smallscep.BadMessageCheck: "badMessageCheck", smallscep.BadRequest: "badRequest", smallscep.BadTime: "badTime", smallscep.BadCertID: "badCertId",
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
			text = wire.Line(text, e.Transaction)
		}
		err := x.writeFailure(r.failInfo, text)
		if err == nil {
			return
		}
		x.Log.Error("SCEP failure could not be signed", "id", x.Request.ID, "err", err)
		status = http.StatusInternalServerError
	}
	x.Error(cmp.Or(status, r.status), e, allow)
}
