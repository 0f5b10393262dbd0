package cmp

import (
	"math/bits"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/wire"
)

// refusal is a message that is answered with a failure.
type refusal struct {
	// Refusal with a Status is answered with plain text: no PKIMessage came, or none can be protected.
	wire.Refusal
	// fail overrides what the reason renders as, for what only CMP knows (nonces, versions, transactionIdInUse); 0
	// leaves it to the reason.
	fail cmpmsg.FailInfo
	// rejection answers in the body that answers the request, with status rejection, instead of an error body.
	rejection bool
	// noted: the gateway knows of it already.
	noted bool
}

// refused makes a refusal that is rendered by its reason, in an error body.
func refused(reason gateway.Reason, detail string, cause error) *refusal {
	return &refusal{Refusal: *wire.Refused(reason, detail, cause)}
}

// failing makes a refusal with a failInfo of its own, in an error body.
func failing(fail cmpmsg.FailInfo, reason gateway.Reason, detail string) *refusal {
	ref := refused(reason, detail, nil)
	ref.fail = fail
	return ref
}

// rejected makes a refusal of the request itself: ip, cp or kup with status rejection (RFC 9810 section 5.3.4).
func rejected(reason gateway.Reason, detail string, cause error) *refusal {
	ref := refused(reason, detail, cause)
	ref.rejection = true
	return ref
}

// failInfoOf is the one place where a Reason becomes a PKIFailureInfo (RFC 9810 section 5.2.3). known is false for a
// reason that the switch does not name.
func failInfoOf(reason gateway.Reason) (fail cmpmsg.FailInfo, known bool) {
	switch reason {
	case gateway.Malformed:
		return cmpmsg.BadDataFormat, true
	case gateway.Undecryptable, gateway.BadIntegrity, gateway.Unauthenticated:
		return cmpmsg.BadMessageCheck, true
	case gateway.WrongProtection:
		return cmpmsg.WrongIntegrity, true
	case gateway.Untrusted:
		return cmpmsg.SignerNotTrusted, true
	case gateway.BadAlgorithm:
		return cmpmsg.BadAlg, true
	case gateway.BadTime:
		return cmpmsg.BadTime, true
	case gateway.BadPOP:
		return cmpmsg.BadPOP, true
	case gateway.BadTemplate:
		return cmpmsg.BadCertTemplate, true
	case gateway.UnknownCert:
		return cmpmsg.BadCertID, true
	case gateway.Revoked:
		return cmpmsg.CertRevoked, true
	case gateway.NotAuthorized:
		return cmpmsg.NotAuthorized, true
	case gateway.DuplicateCert:
		return cmpmsg.DuplicateCertReq, true
	case gateway.Unsupported:
		return cmpmsg.BadRequest, true
	case gateway.Busy, gateway.Unavailable:
		return cmpmsg.SystemUnavail, true
	case gateway.Internal:
		return cmpmsg.SystemFailure, true
	default:
		return cmpmsg.SystemFailure, false
	}
}

// Told says by which failInfo a client is told of a refusal, for `muster pipeline show`.
func Told(reason gateway.Reason) string {
	fail, _ := failInfoOf(reason)
	return fail.String()
}

// statusInfo renders a failure: what the client did wrong in plain words, and the reference under which the operator
// finds all the rest.
func statusInfo(e *gateway.Error, fail cmpmsg.FailInfo) cmpmsg.PKIStatusInfo {
	if fail == 0 {
		fail, _ = failInfoOf(e.Reason)
	}
	detail := e.Detail
	if detail == "" {
		detail = failWords(fail)
	}
	return cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusRejection, Text: []string{wire.Line(detail, e.Transaction)}, FailInfo: fail}
}

// failWords says a failInfo in words, for failures that come without any.
func failWords(fail cmpmsg.FailInfo) string {
	words := [...]string{
		"algorithm not accepted", "protection does not verify", "not permitted or supported", "message time not accepted",
		"no such certificate", "wrong data format", "wrong authority", "incorrect data", "time stamp missing",
		"proof of possession failed", "certificate revoked", "certificate confirmed already", "wrong kind of protection",
		"wrong recipient nonce", "time not available", "policy not accepted", "extension not accepted",
		"additional information not available", "wrong sender nonce", "certificate template not accepted",
		"signer not trusted", "transaction identifier in use", "version not supported", "not authorized",
		"system unavailable", "system failure", "duplicate request",
	}
	if i := bits.TrailingZeros32(uint32(fail)); i < len(words) {
		return words[i]
	}
	return "failed"
}
