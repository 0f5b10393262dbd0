// Package pkixtest makes the chains of certificates that no endpoint may accept, whatever protocol brings them. The tests
// of gateway/pkix judge the chains themselves; those of the protocols present them to real endpoints, with the keys.
package pkixtest

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	pkixrules "github.com/muster-pki/muster/gateway/pkix"
)

// Case is a chain and what a policy with its roots says of it.
type Case struct {
	Name  string
	Chain []*x509.Certificate // leaf first, as a device sends them
	Key   Key                 // the leaf's
	Roots []*x509.Certificate // trusted
	CRLs  [][]byte            // DER of the revocation lists at hand; nil: revocation is not checked
	// WantErr is what ChainPolicy.Verify answers: one of the errors of gateway/pkix, nil for the sound chain.
	WantErr error
	// Legacy is what it answers with AllowSHA1: nil where that lets the chain pass.
	Legacy error
	// Unreadable says that crypto/x509 does not take the leaf's Raw: nothing of Chain[0] but Raw and RawSubject counts, and no Verify
	// is ever asked.
	Unreadable bool

	now time.Time
}

// Policy is the policy by which the case is judged: purposes are those of the default, clientAuth.
func (c Case) Policy() *pkixrules.ChainPolicy {
	p := &pkixrules.ChainPolicy{Roots: c.Roots}
	if c.CRLs != nil {
		p.Revoked = c.revoked
	}
	return p
}

func (c Case) revoked(cert *x509.Certificate) (bool, error) {
	for _, der := range c.CRLs {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return false, err
		}
		if !bytes.Equal(list.RawIssuer, cert.RawIssuer) {
			continue
		}
		if list.NextUpdate.Before(c.now) {
			return false, errors.New("the list of the issuer is over")
		}
		for _, e := range list.RevokedCertificateEntries {
			if e.SerialNumber.Cmp(cert.SerialNumber) == 0 {
				return true, nil
			}
		}
		return false, nil
	}
	return false, errors.New("no list of the issuer")
}

// The issuers of all cases, unless a case needs its own.
type vendor struct {
	maker
	root, issuing *entity
}

// plan is a case before it is made: what differs from the sound chain, which is leaf, issuing CA, and root.
type plan struct {
	name    string
	want    error
	legacy  error                   // nil: as want
	leaf    func(*x509.Certificate) // changes the leaf's template
	key     func(*vendor) Key       // of the leaf; nil: P-256
	issuing func(*x509.Certificate) // changes the issuing CA's template
	caKey   func(*vendor) Key       // of the issuing CA; nil: P-256
	root    func(*x509.Certificate) // changes the root's template
	rootKey func(*vendor) Key       // of the root; nil: P-256
	chain   func(*vendor, *Case)    // changes the chain, or makes it anew
	crls    func(*vendor, *Case)    // adds lists
	algo    x509.SignatureAlgorithm // of the leaf, for an RSA issuing CA
	rewrite func(tbs []byte) []byte // changes the leaf's TBSCertificate before it is signed again
	above   func(tbs []byte) []byte // likewise the issuing CA's
	broken  bool                    // what rewrite makes is not to be read by crypto/x509
}

var (
	oidUnknown = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}
	critical   = []pkix.Extension{{Id: oidUnknown, Critical: true, Value: []byte{5, 0}}}
)

// BadChains makes the cases for a time, the sound chain first: a table in which everything is refused for another reason
// would show nothing. Keys are made once; certificates anew with each call.
func BadChains(t testing.TB, now time.Time) []Case {
	t.Helper()
	return BadChainsOf(t, now, nil)
}

// BadChainsOf is BadChains with a key for the leaf of each case that is not about the leaf's key: SCEP takes RSA alone. nil
// is a P-256 key of each case's own.
func BadChainsOf(t testing.TB, now time.Time, leaf Key) []Case {
	t.Helper()
	now = now.UTC().Truncate(time.Second)
	plans := []plan{
		{name: "sound"},

		// The leaf.
		{name: "leaf is a CA", want: pkixrules.ErrUsage, leaf: func(c *x509.Certificate) {
			c.BasicConstraintsValid, c.IsCA, c.KeyUsage = true, true, x509.KeyUsageDigitalSignature|x509.KeyUsageCertSign
		}},
		{name: "leaf of version 1", want: pkixrules.ErrUsage, rewrite: versionOne},
		{name: "key usage without digitalSignature", want: pkixrules.ErrUsage, leaf: func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }},
		{name: "wrong extended key usage", want: pkixrules.ErrUsage, leaf: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }},
		{name: "unknown critical extension", want: pkixrules.ErrUsage, leaf: func(c *x509.Certificate) { c.ExtraExtensions = critical }},
		{name: "expired", want: pkixrules.ErrExpired, leaf: func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Hour) }},
		{name: "not yet valid", want: pkixrules.ErrExpired, leaf: func(c *x509.Certificate) { c.NotBefore = now.Add(time.Hour) }},

		// Keys.
		{name: "RSA-1024", want: pkixrules.ErrWeak, key: func(*vendor) Key { return keys().rsa1024 }},
		{name: "P-224", want: pkixrules.ErrAlgorithm, key: func(*vendor) Key { return keys().p224 }},
		{name: "ROCA", want: pkixrules.ErrWeak, key: func(*vendor) Key { return keys().roca }},
		{name: "close primes", want: pkixrules.ErrWeak, key: func(*vendor) Key { return keys().close }},
		{name: "issuing CA of RSA-1024", want: pkixrules.ErrWeak, caKey: func(*vendor) Key { return keys().rsa1024 }},

		// Signatures.
		{name: "SHA-1", want: pkixrules.ErrWeak, legacy: errNone, caKey: func(*vendor) Key { return keys().rsa2048 }, algo: x509.SHA1WithRSA},
		{name: "MD5", want: pkixrules.ErrWeak, caKey: func(*vendor) Key { return keys().rsa2048 }, algo: x509.SHA256WithRSA, rewrite: md5WithRSA},
		{name: "forged", want: pkixrules.ErrUntrusted, chain: func(v *vendor, c *Case) {
			der := bytes.Clone(c.Chain[0].Raw)
			der[len(der)-1] ^= 1
			c.Chain[0] = v.parse(der)
		}},

		// Revocation.
		{name: "revoked", want: pkixrules.ErrRevoked, crls: func(v *vendor, c *Case) { c.CRLs = [][]byte{v.crl(v.root), v.crl(v.issuing, c.Chain[0])} }},
		{name: "issuing CA revoked", want: pkixrules.ErrRevoked, crls: func(v *vendor, c *Case) { c.CRLs = [][]byte{v.crl(v.root, v.issuing.cert), v.crl(v.issuing)} }},
		{name: "revocation unknown", want: pkixrules.ErrRevocationUnknown, crls: func(v *vendor, c *Case) { c.CRLs = [][]byte{v.crl(v.root)} }},

		// CAs above the leaf.
		{name: "issuing CA is none", want: pkixrules.ErrUsage, issuing: func(c *x509.Certificate) { c.IsCA = false }},
		{name: "issuing CA without keyCertSign", want: pkixrules.ErrUsage, issuing: func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }},
		{name: "issuing CA expired", want: pkixrules.ErrExpired, issuing: func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Hour) }},
		{name: "issuing CA for servers only", want: pkixrules.ErrUsage, issuing: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }},
		{name: "root expired", want: pkixrules.ErrExpired, root: func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Hour) }},
		{
			name: "name constraints", want: pkixrules.ErrUsage, issuing: func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"vendor.example"} },
			leaf: func(c *x509.Certificate) { c.DNSNames = []string{"device.victim.example"} },
		},
		{name: "path length", want: pkixrules.ErrUsage, root: func(c *x509.Certificate) { c.MaxPathLenZero = true }},

		// Trust.
		{name: "foreign root", want: pkixrules.ErrUntrusted, chain: func(v *vendor, c *Case) {
			c.Roots = []*x509.Certificate{v.issue(v.ca("Another Root"), nil, v.newKey()).cert}
		}},
		{name: "foreign root of the same name", want: pkixrules.ErrUntrusted, chain: func(v *vendor, c *Case) {
			c.Roots = []*x509.Certificate{v.issue(v.ca("Vendor Root"), nil, v.newKey()).cert}
		}},
		{name: "self-signed", want: pkixrules.ErrUntrusted, chain: func(v *vendor, c *Case) {
			c.Chain = []*x509.Certificate{v.issue(v.device(), nil, c.Key).cert}
		}},
		{name: "without the issuing CA", want: pkixrules.ErrUntrusted, chain: func(_ *vendor, c *Case) { c.Chain = c.Chain[:1] }},
		{name: "no root at all", want: pkixrules.ErrUntrusted, chain: func(_ *vendor, c *Case) { c.Roots = nil }},

		// Size and cost.
		{name: "17 certificates", want: pkixrules.ErrMalformed, chain: func(v *vendor, c *Case) {
			for n := len(c.Chain); n < pkixrules.MaxChain+1; n++ {
				c.Chain = append(c.Chain, v.issue(v.ca(fmt.Sprint("Bystander ", n)), nil, v.newKey()).cert)
			}
		}},
		{name: "all names alike", want: pkixrules.ErrUntrusted, chain: alike},
		{name: "every CA certified by every other", want: pkixrules.ErrUntrusted, chain: mesh},
	}
	plans = slices.Concat(plans, constrained(), built(now), algorithms())
	cases := make([]Case, 0, len(plans))
	for _, p := range plans {
		cases = append(cases, p.make(t, now, leaf))
	}
	return cases
}

// errNone stands for a chain that passes where SHA-1 is allowed.
var errNone = errors.New("none")

func (p plan) make(t testing.TB, now time.Time, key Key) Case {
	t.Helper()
	v := &vendor{maker: maker{t: t, now: now}}
	root, issuing, leaf := v.ca("Vendor Root"), v.ca("Vendor Issuing CA"), v.device()
	for _, change := range []struct {
		by func(*x509.Certificate)
		to *x509.Certificate
	}{{p.root, root}, {p.issuing, issuing}, {p.leaf, leaf}} {
		if change.by != nil {
			change.by(change.to)
		}
	}
	caKey := v.newKey()
	if p.caKey != nil {
		caKey = p.caKey(v)
	}
	rootKey := v.newKey()
	if p.rootKey != nil {
		rootKey = p.rootKey(v)
	}
	v.root = v.issue(root, nil, rootKey)
	v.issuing = v.issue(issuing, v.root, caKey)
	if p.above != nil {
		v.issuing.cert = v.parse(v.signAgain(v.issuing.cert, p.above, v.root.key))
	}
	if key == nil {
		key = v.newKey()
	}
	c := Case{Name: p.name, Key: key, Roots: []*x509.Certificate{v.root.cert}, WantErr: p.want, Legacy: p.want, now: now}
	if p.legacy != nil {
		c.Legacy = nil
	}
	if p.key != nil {
		c.Key = p.key(v)
	}
	leaf.SignatureAlgorithm = p.algo
	device := v.issue(leaf, v.issuing, c.Key).cert
	if p.rewrite != nil {
		der := v.signAgain(device, p.rewrite, v.issuing.key)
		if c.Unreadable = p.broken; c.Unreadable {
			device.Raw = der
		} else {
			device = v.parse(der)
		}
	}
	c.Chain = []*x509.Certificate{device, v.issuing.cert}
	if p.chain != nil {
		p.chain(v, &c)
	}
	if p.crls != nil {
		p.crls(v, &c)
	}
	return c
}

// alike makes a chain in which every CA has the root's name, and one key: each may have issued each.
func alike(v *vendor, c *Case) {
	imposter := v.issue(v.ca("Vendor Root"), nil, v.newKey())
	c.Chain = []*x509.Certificate{v.issue(v.device(), imposter, c.Key).cert}
	for n := range pkixrules.MaxChain - 1 {
		tmpl := v.ca("Vendor Root")
		tmpl.DNSNames = []string{fmt.Sprint(n)}
		c.Chain = append(c.Chain, v.issue(tmpl, imposter, imposter.key).cert)
	}
}

// mesh makes a chain of CAs that have certified each other, none of them certified by the root: the ways through it grow
// as the factorial of their number.
func mesh(v *vendor, c *Case) {
	const size = 4
	names := make([]*entity, size)
	for i := range names {
		names[i] = v.issue(v.ca(fmt.Sprint("Mesh ", i)), nil, v.newKey())
	}
	c.Chain = []*x509.Certificate{v.issue(v.device(), names[0], c.Key).cert}
	for i, issuer := range names {
		for j, subject := range names {
			if i != j {
				c.Chain = append(c.Chain, v.issue(v.ca(fmt.Sprint("Mesh ", j)), issuer, subject.key).cert)
			}
		}
	}
	// One way ends at a root of the right name and another key, so signatures are checked as well.
	imposter := v.issue(v.ca("Vendor Root"), nil, v.newKey())
	c.Chain = append(c.Chain, v.issue(v.ca(fmt.Sprint("Mesh ", size-1)), imposter, names[size-1].key).cert)
}
