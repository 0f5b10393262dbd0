package cmp

import (
	"time"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// What a failInfo proves about a request for a certificate (RFC 9810 section 5.2.3).
const (
	// unsettled prove nothing. systemUnavail and systemFailure are what an RA on the way says whose own CA did not answer, when the
	// certificate may be there; the others say that the request, or its certificate, is known already.
	unsettled = cmpmsg.SystemUnavail | cmpmsg.SystemFailure | cmpmsg.DuplicateCertReq | cmpmsg.CertConfirmed | cmpmsg.CertRevoked
	// ours are about the RA and its messages, not about what is asked for.
	ours = cmpmsg.BadMessageCheck | cmpmsg.WrongIntegrity | cmpmsg.SignerNotTrusted | cmpmsg.NotAuthorized | cmpmsg.UnsupportedVersion |
		cmpmsg.BadSenderNonce | cmpmsg.BadRecipientNonce | cmpmsg.BadTime
)

// freshFor is how old a message may be for badTime to prove that the CA has not seen it before: a CA that knows a message answers it
// whatever its time, for a while.
const freshFor = time.Minute

// refusal makes the error of Issue out of a status that refuses, of a message that was made at a time.
func (r *reply) refusal(s cmpmsg.PKIStatusInfo, age time.Duration) error {
	switch f := s.FailInfo; {
	case !r.proved:
		return backend.Refuse(codes.Unavailable, "an error without protection, which proves nothing over http: %s", words(s))
	case f&cmpmsg.TransactionIDInUse != 0:
		return backend.Refuse(codes.AlreadyExists, "the CA had another message under this ID, or this one too long ago: %s", words(s))
	case f&unsettled != 0:
		return backend.Refuse(codes.Unavailable, "the CA: %s", words(s))
	case f&cmpmsg.BadTime != 0 && age > freshFor:
		return backend.Refuse(codes.Unavailable, "the CA does not take a message that is %s old, and may have answered it before: %s", age.Round(time.Second), words(s))
	case f&ours != 0:
		return backend.Refuse(codes.PermissionDenied, "the CA refuses this RA's message: %s", words(s))
	}
	return backend.Refuse(codes.InvalidArgument, "the CA refuses: %s", words(s))
}

// refusedLater is the error of Poll: the CA has refused what it had taken down.
func (r *reply) refusedLater(s cmpmsg.PKIStatusInfo) error {
	if f := s.FailInfo; !r.proved || f&(cmpmsg.SystemUnavail|cmpmsg.SystemFailure) != 0 {
		return backend.Refuse(codes.Unavailable, "the CA: %s", words(s))
	}
	return backend.Refuse(codes.FailedPrecondition, "the CA refuses: %s", words(s))
}

// unexpected is the error of an answer of another kind.
func (r *reply) unexpected(to string) error {
	return backend.Refuse(codes.Internal, "%s does not answer %s", r.Body.Type(), to)
}
