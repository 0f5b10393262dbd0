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
	if len(headers) > 1 {
		return wire.Refused(gateway.Malformed, "more than one Authorization header", nil)
	}
	if len(headers) == 0 {
		return nil
	}
	if scheme, _, _ := strings.Cut(headers[0], " "); !strings.EqualFold(scheme, "Basic") {
		return nil // another scheme says nothing to us; the client learns from the challenge which does
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

// typePKCS10 is the type of a request (RFC 7030 section 4.2.1, RFC 5967).
const typePKCS10 = "application/pkcs10"
