package est

import (
	"strings"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/wire"
)

// authenticate takes down what the client authenticates with. It judges form only.
func (x *exchange) authenticate() *wire.Refusal {
	if chain := x.R.TLS.PeerCertificates; len(chain) > 0 {
		cred, ref := tlsCredential(chain)
		if ref != nil {
			return ref
		}
		x.Request.Credentials = append(x.Request.Credentials, cred)
	}
	headers := x.R.Header.Values("Authorization")
	if x.mef() {
		if len(headers) > 0 { // never asked for: oneM2M TS-0003 clause 8.3.6.2.1
			x.Request.Notes = append(x.Request.Notes, "an Authorization header came with it, which an MEF does not look at")
		}
		return nil
	}
	if len(headers) > 1 {
		return wire.Refused(gateway.Malformed, "more than one Authorization header", nil)
	}
	if len(headers) == 0 {
		return nil
	}
	switch scheme, answer, _ := strings.Cut(headers[0], " "); {
	case strings.EqualFold(scheme, "Digest") && x.endpoint.Config.Offers(HTTPAuthDigest):
		return x.digest(answer)
	case !strings.EqualFold(scheme, "Basic") || !x.endpoint.Config.Offers(HTTPAuthBasic):
		// Another scheme says nothing to us; the client learns from the challenge which does. What stands there is not told: it may be
		// a password without a scheme.
		x.Request.Notes = append(x.Request.Notes, "an Authorization header came with it whose scheme the endpoint does not offer (http-auth)")
		return nil
	}
	user, password, ok := x.R.BasicAuth()
	if !ok {
		return wire.Refused(gateway.Malformed, "the Authorization header is not that of HTTP Basic (RFC 7617 section 2)", nil)
	}
	cred, ref := passwordCredential(user, password)
	if ref != nil {
		return ref
	}
	x.Request.Credentials = append(x.Request.Credentials, cred)
	return nil
}

// asksHow reports whether a request without a body asks which authentication there is: curl --anyauth, curl --digest and others do,
// before they send the request itself.
func (x *exchange) asksHow() bool {
	if len(x.Request.Credentials) == 0 {
		return true
	}
	_, shown := x.Request.Credential(gateway.CredentialPassword)
	return !shown && x.h.gateway.Accepts(x.endpoint.Name, gateway.CredentialPassword)
}

// typePKCS10 is the type of a request (RFC 7030 section 4.2.1, RFC 5967).
const typePKCS10 = "application/pkcs10"
