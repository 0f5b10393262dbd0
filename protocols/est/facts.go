package est

import (
	"crypto/tls"
	"fmt"

	"github.com/muster-pki/muster/gateway/pkix"
)

// facts is what the operator is shown of a request that was understood: how it came, and what it is about.
func (x *exchange) facts(c *certification, size int) string {
	over := "without TLS"
	if s := x.R.TLS; s != nil {
		over = "over " + tls.VersionName(s.Version)
	}
	proof := string(x.Request.POP)
	if x.Request.Relayed {
		proof += ", bound to another connection, as an RA passes it on"
	}
	return fmt.Sprintf("%s %s, PKCS#10 of %d bytes; a key of type %s, possession shown by %s", x.R.URL.Path, over, size, pkix.KeyName(c.Key), proof)
}
