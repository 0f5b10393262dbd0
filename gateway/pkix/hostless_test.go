package pkix

import (
	"crypto/x509"
	"errors"
	"net/url"
	"testing"
)

// A URI without a host, such as a oneM2M Node-ID, is not subject to constraints on other names than URIs (RFC 5280 section
// 4.2.1.10), though x509.Verify refuses it under any. What else the certificate names is.
func TestHostlessURIs(t *testing.T) {
	imei, aeID := &url.URL{Scheme: "urn", Opaque: "gsma:imei:90420156-025763-0"}, &url.URL{Host: "m2m.example.com", Path: "/S98821"}
	dns := func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"m2m.example.com"} }
	for _, tt := range []struct {
		name  string
		inter func(c *x509.Certificate)
		leaf  func(c *x509.Certificate)
		want  error
	}{
		{name: "unconstrained", inter: func(*x509.Certificate) {}, leaf: func(c *x509.Certificate) { c.URIs = []*url.URL{imei} }},
		{name: "constraints on DNS names", inter: dns, leaf: func(c *x509.Certificate) { c.URIs = []*url.URL{imei, aeID} }},
		{name: "with a DNS name inside", inter: dns, leaf: func(c *x509.Certificate) {
			c.URIs, c.DNSNames = []*url.URL{imei}, []string{"cse1.m2m.example.com"}
		}},
		{name: "with a DNS name outside", inter: dns, want: ErrUsage, leaf: func(c *x509.Certificate) {
			c.URIs, c.DNSNames = []*url.URL{imei}, []string{"cse1.example.org"}
		}},
		{name: "constraints on URIs", want: ErrUsage, inter: func(c *x509.Certificate) { c.PermittedURIDomains = []string{"m2m.example.com"} },
			leaf: func(c *x509.Certificate) { c.URIs = []*url.URL{imei} }},
		{name: "excluded URIs", want: ErrUsage, inter: func(c *x509.Certificate) { c.ExcludedURIDomains = []string{"example.org"} },
			leaf: func(c *x509.Certificate) { c.URIs = []*url.URL{imei} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := issue(t, ca("Root"), nil)
			tmpl := ca("Intermediate")
			tt.inter(tmpl)
			inter := issue(t, tmpl, root)
			leaf := device("device")
			tt.leaf(leaf)
			end := issue(t, leaf, inter)
			path, err := (&ChainPolicy{Roots: certs(root)}).Verify(certs(end, inter), noon)
			if !errors.Is(err, tt.want) || tt.want != nil && err == nil {
				t.Fatalf("%v, want %v", err, tt.want)
			}
			if err == nil && path[0] != end.Certificate {
				t.Error("the path does not begin with the certificate that was shown")
			}
		})
	}
}
