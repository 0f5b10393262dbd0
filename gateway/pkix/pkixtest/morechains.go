package pkixtest

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net"
	"net/url"
	"time"

	pkixrules "github.com/muster-pki/muster/gateway/pkix"
)

// constrained are chains below name constraints of every kind (RFC 5280 section 4.2.1.10), kept and broken.
func constrained() []plan {
	network := func(s string) []*net.IPNet {
		_, n, err := net.ParseCIDR(s)
		if err != nil {
			panic(err)
		}
		return []*net.IPNet{n}
	}
	plans := []plan{{
		// Of a kind that nobody here judges: a constraint on the directory name, which is critical.
		name: "name constraints on directory names", want: pkixrules.ErrUsage, issuing: func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 30}, Critical: true, Value: []byte(
				"\x30\x1c\xa0\x1a\x30\x18\xa4\x16\x30\x14\x31\x12\x30\x10\x06\x03\x55\x04\x0a\x0c\x09\x53\x6f\x6d\x65\x62\x6f\x64\x79\x20")}}
		},
	}}
	for _, c := range []struct {
		name          string
		by            func(*x509.Certificate)
		kept, violate func(*x509.Certificate)
	}{
		{
			"permitted DNS names", func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"vendor.example"} },
			func(c *x509.Certificate) { c.DNSNames = []string{"device.vendor.example"} }, nil, // badchains.go has it
		},
		{
			"excluded DNS names", func(c *x509.Certificate) { c.ExcludedDNSDomains = []string{"victim.example"} },
			func(c *x509.Certificate) { c.DNSNames = []string{"device.vendor.example"} }, func(c *x509.Certificate) { c.DNSNames = []string{"device.victim.example"} },
		},
		{
			"permitted URIs", func(c *x509.Certificate) { c.PermittedURIDomains = []string{"vendor.example"} },
			func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "https", Host: "vendor.example"}} },
			func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "https", Host: "victim.example"}} },
		},
		{
			"permitted addresses", func(c *x509.Certificate) { c.PermittedIPRanges = network("192.0.2.0/24") },
			func(c *x509.Certificate) { c.IPAddresses = []net.IP{{192, 0, 2, 1}} }, func(c *x509.Certificate) { c.IPAddresses = []net.IP{{198, 51, 100, 1}} },
		},
		{
			"excluded addresses", func(c *x509.Certificate) { c.ExcludedIPRanges = network("198.51.100.0/24") },
			func(c *x509.Certificate) { c.IPAddresses = []net.IP{{192, 0, 2, 1}} }, func(c *x509.Certificate) { c.IPAddresses = []net.IP{{198, 51, 100, 1}} },
		},
		{
			"permitted mailboxes", func(c *x509.Certificate) { c.PermittedEmailAddresses = []string{"vendor.example"} },
			func(c *x509.Certificate) { c.EmailAddresses = []string{"device@vendor.example"} }, func(c *x509.Certificate) { c.EmailAddresses = []string{"device@victim.example"} },
		},
	} {
		plans = append(plans, plan{name: "sound, within " + c.name, issuing: c.by, leaf: c.kept})
		if c.violate != nil {
			plans = append(plans, plan{name: "not within " + c.name, want: pkixrules.ErrUsage, issuing: c.by, leaf: c.violate})
		}
	}
	return plans
}

// built are chains of other shapes than leaf, issuing CA, root: some sound, so that the table can fail in both directions.
func built(now time.Time) []plan {
	// below makes CAs below one another and the root, and the leaf below the last.
	below := func(root func(*x509.Certificate), names ...string) func(*vendor, *Case) {
		return func(v *vendor, c *Case) {
			tmpl := v.ca("Vendor Root")
			if root != nil {
				root(tmpl)
			}
			above := v.issue(tmpl, nil, v.newKey())
			c.Roots, c.Chain = []*x509.Certificate{above.cert}, nil
			for _, name := range names {
				above = v.issue(v.ca(name), above, v.newKey())
				c.Chain = append([]*x509.Certificate{above.cert}, c.Chain...)
			}
			c.Chain = append([]*x509.Certificate{v.issue(v.device(), above, c.Key).cert}, c.Chain...)
		}
	}
	lengthOf := func(n int) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = n, n == 0 }
	}
	return []plan{
		{name: "issuing CA not yet valid", want: pkixrules.ErrExpired, issuing: func(c *x509.Certificate) { c.NotBefore = now.Add(time.Hour) }},
		{name: "issuing CA with an unknown critical extension", want: pkixrules.ErrUsage, issuing: func(c *x509.Certificate) { c.ExtraExtensions = critical }},
		{name: "by the issuing CA's name and another key", want: pkixrules.ErrUntrusted, chain: func(v *vendor, c *Case) {
			c.Chain[0] = v.issue(v.device(), v.issue(v.ca("Vendor Issuing CA"), nil, v.newKey()), c.Key).cert
		}},
		{name: "below another device", want: pkixrules.ErrUsage, chain: func(v *vendor, c *Case) {
			tmpl := v.device()
			tmpl.Subject.CommonName = "device-0002"
			other := v.issue(tmpl, v.issuing, v.newKey())
			c.Chain = []*x509.Certificate{v.issue(v.device(), other, c.Key).cert, other.cert, v.issuing.cert}
		}},
		{name: "two CAs that certified each other", want: pkixrules.ErrUntrusted, chain: func(v *vendor, c *Case) {
			one, two := v.issue(v.ca("One"), nil, v.newKey()), v.issue(v.ca("Two"), nil, v.newKey())
			c.Chain = []*x509.Certificate{v.issue(v.device(), one, c.Key).cert, v.issue(v.ca("One"), two, one.key).cert, v.issue(v.ca("Two"), one, two.key).cert}
		}},
		{name: "path length of 1, and two CAs below", want: pkixrules.ErrUsage, chain: below(lengthOf(1), "One", "Two", "Three")},
		{name: "nine certificates in the path", want: pkixrules.ErrUntrusted, chain: below(nil, "1", "2", "3", "4", "5", "6", "7")},
		{name: "list of before", want: pkixrules.ErrRevocationUnknown, crls: func(v *vendor, c *Case) {
			c.CRLs = [][]byte{v.crl(v.root), maker{v.t, v.now.AddDate(0, -1, 0)}.crl(v.issuing)}
		}},

		{name: "sound, path length of 2, and two CAs below", chain: below(lengthOf(2), "One", "Two")},
		{name: "sound, eight certificates in the path", chain: below(nil, "1", "2", "3", "4", "5", "6")},
		{name: "sound, directly below the root", chain: below(nil)},
		{name: "sound, lists without it", crls: func(v *vendor, c *Case) { c.CRLs = [][]byte{v.crl(v.root), v.crl(v.issuing)} }},
		{name: "sound, without usages", leaf: func(c *x509.Certificate) { c.KeyUsage, c.ExtKeyUsage = 0, nil }},
		{name: "sound, an issuing CA of Ed25519", caKey: func(v *vendor) Key {
			_, key, err := ed25519.GenerateKey(rand.Reader)
			if err != nil {
				v.t.Fatal(err)
			}
			return key
		}},
		// The root's next key, certified by its present one (RFC 4210 section 4.4): a self-issued certificate counts for no path length.
		{name: "sound, self-issued", chain: func(v *vendor, c *Case) {
			next := v.issue(v.ca("Vendor Root"), v.root, v.newKey())
			c.Chain = []*x509.Certificate{v.issue(v.device(), next, c.Key).cert, next.cert}
		}},
		{name: "sound, cross-certified", chain: func(v *vendor, c *Case) {
			trusted := v.issue(v.ca("Trusted Root"), nil, v.newKey())
			c.Roots = []*x509.Certificate{trusted.cert}
			c.Chain = append(c.Chain, v.root.cert, v.issue(v.ca("Vendor Root"), trusted, v.root.key).cert)
		}},
		{name: "sound, serial number of 20 bytes", leaf: func(c *x509.Certificate) {
			c.SerialNumber = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 159), big.NewInt(1))
		}},
	}
}
