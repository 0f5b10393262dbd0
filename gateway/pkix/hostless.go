package pkix

import (
	"crypto/x509"
	"net/url"
	"slices"
)

// verifiable is the path's first certificate as x509.Verify can read it. Under name constraints of any kind that (Go 1.26) refuses a
// certificate with a URI that has no host, such as urn:gsma:imei:..., a oneM2M Node-ID; RFC 5280 section 4.2.1.10 has such a
// URI be refused under constraints of URIs alone, and other names not be looked at. So they are left out where no certificate
// of the path constrains URIs; all others are checked as ever, and signatures are over Raw.
func verifiable(path []*x509.Certificate) *x509.Certificate {
	hostless := func(u *url.URL) bool { return u.Host == "" }
	leaf := path[0]
	if !slices.ContainsFunc(leaf.URIs, hostless) || slices.ContainsFunc(path, func(c *x509.Certificate) bool {
		return len(c.PermittedURIDomains)+len(c.ExcludedURIDomains) > 0
	}) {
		return leaf
	}
	without := *leaf
	without.URIs = slices.DeleteFunc(slices.Clone(leaf.URIs), hostless)
	return &without
}
