package est

import (
	"crypto/tls"
	"fmt"

	"github.com/muster-pki/muster/gateway/pkix"
)

// facts is what the operator is shown of a request that was understood: how it came, and what it is about.
func (x *exchange) facts(c *certification, size int) string {
	proof := string(x.Request.POP)
	if x.Request.Relayed {
		proof += ", bound to another connection, as an RA passes it on"
	}
	return fmt.Sprintf("%s %s, PKCS#10 of %d bytes; a key of type %s, possession shown by %s", x.R.URL.Path, x.over(), size, pkix.KeyName(c.Key), proof)
}

// over says what the request came over.
func (x *exchange) over() string {
	switch s := x.R.TLS; {
	case s == nil:
		return "without TLS"
	case s.Version == 0: // of the client's TLS a proxy tells no more than that
		return "over TLS up to the proxy"
	default:
		return "over " + tls.VersionName(s.Version)
	}
}
