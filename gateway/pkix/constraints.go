package pkix

import (
	"crypto/x509"
	"slices"
	"strings"
)

// RulesOut returns the first of the certificates whose name constraints rule a DNS name out (RFC 5280 section 4.2.1.10), nil for none.
func RulesOut(chain []*x509.Certificate, name string) *x509.Certificate {
	name = strings.ToLower(name)
	below := func(domain string) bool {
		domain, others := strings.CutPrefix(strings.ToLower(domain), ".") // a dot, which some CAs write, leaves the domain itself out
		return domain == "" || !others && name == domain || strings.HasSuffix(name, "."+domain)
	}
	i := slices.IndexFunc(chain, func(c *x509.Certificate) bool {
		return slices.ContainsFunc(c.ExcludedDNSDomains, below) || len(c.PermittedDNSDomains) > 0 && !slices.ContainsFunc(c.PermittedDNSDomains, below)
	})
	if i < 0 {
		return nil
	}
	return chain[i]
}
