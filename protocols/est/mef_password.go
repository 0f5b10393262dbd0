package est

import (
	"errors"

	"golang.org/x/crypto/cryptobyte"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/wire"
)

// TypeMEFPassword is the M2M Enrolment Function for clients that log in by user name and password over TLS that authenticates the
// server alone, as the deck SEC#17.2 proposes; TS-0003 has no such clients. /cacerts is everybody's; /csrattrs names the identifier
// of the client, so that it has logged in, or shown its certificate: a client of Digest would never do so if it were not asked to. cmd/muster holds profiles and pipelines against it.
const TypeMEFPassword Type = "onem2m-mef-password"

// mefByPassword reports whether the endpoint is of the type.
func (x *exchange) mefByPassword() bool {
	return x.endpoint != nil && x.endpoint.Config.Type == TypeMEFPassword
}

// checkMEFPassword refuses settings that the type rules out.
func (c Config) checkMEFPassword() error {
	if c.Challenge != "" {
		return errors.New("challenge: it is for `type: onem2m-mef` alone: a supplied value is bound to the client's certificate, and here there is none")
	}
	return nil
}

// admitUser finds out which identifier is registered for a client that says who it is, and refuses one whose word is not good.
func (x *exchange) admitUser(segment string) *wire.Refusal {
	if segment != "csrattrs" {
		return nil
	}
	if ref := x.authenticate(); ref != nil {
		return ref
	}
	if len(x.Request.Credentials) == 0 {
		return wire.Refused(gateway.Unauthenticated, "/csrattrs names the identifier that is registered for the client: log in for it, or show the certificate", nil)
	}
	return x.register()
}

// announcedToUser are the CsrAttrs for the client: with the identifier registered for it, and challengePassword where
// requests have to be linked to the connection.
func (x *exchange) announcedToUser() ([]byte, error) {
	identity, err := x.announcedIdentity()
	if err != nil {
		return nil, err
	}
	return sequence(func(b *cryptobyte.Builder) {
		if x.h.gateway.RequiresLinking(x.endpoint.Name) {
			attrOrOID{oid: oidChallengePassword}.add(b)
		}
		b.AddBytes(identity)
	})
}
