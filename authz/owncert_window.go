package authz

import (
	"crypto/x509"
	"fmt"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// early denies the renewal of a certificate whose window has not come.
func (s *OwnCertificate) early(leaf *x509.Certificate) (gateway.Verdict, bool) {
	if s.config.Window.IsZero() {
		return gateway.Verdict{}, true
	}
	// RFC 5280 section 4.1.2.5: the period includes both ends.
	opens := leaf.NotAfter.Add(-s.config.Window.Of(leaf.NotAfter.Sub(leaf.NotBefore) + time.Second)).UTC()
	if opens = opens.Truncate(time.Second); !s.now().Before(opens) {
		return gateway.Verdict{}, true
	}
	from := opens.Format(time.RFC3339)
	return gateway.Denied(gateway.NotAuthorized, "too early to renew the certificate: not before "+from,
		fmt.Sprintf("certificate %x ends %s and is renewed in the last %s of its time, not before %s", leaf.SerialNumber, leaf.NotAfter.UTC().Format(time.RFC3339), s.config.Window, from)), false
}
