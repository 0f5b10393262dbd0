package est

import (
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/wire"
)

// findHeld finds, for a re-enrollment by a password alone, the certificate that is meant: RFC 7030 section 4.2.2 has it named
// by the request's subject and subjectAltName. That there is none the pipeline says, behind the stage that compares the
// password: a stranger learns nothing of who has which certificate.
func (x *exchange) findHeld(c *certification) *wire.Refusal {
	r := x.Request
	if r.Operation != gateway.Renew {
		return nil
	}
	if _, ok := r.Credential(gateway.CredentialTLS); ok {
		return nil
	}
	password, ok := r.Credential(gateway.CredentialPassword)
	if !ok {
		return nil
	}
	names := gateway.Names{Subject: c.Subject, SubjectAltName: subjectAltName(c.Extensions)}
	held, renews, err := x.h.gateway.HeldBy(x.R.Context(), x.endpoint.Name, password, names)
	switch {
	case err != nil:
		return &wire.Refusal{Err: gateway.AsError(err)}
	case !renews:
		return wire.Refused(gateway.NotAuthorized, "re-enrolling needs TLS client authentication with the certificate to be renewed; a password alone does not suffice here", nil)
	}
	r.OldCert = held
	return nil
}
