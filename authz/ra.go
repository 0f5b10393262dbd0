package authz

import (
	"context"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
)

// RAConfig configures the stage `ra`: a registration authority that the operator trusts asks in the device's place, or passes
// on what the device has protected itself.
type RAConfig struct {
	// Certificates are PEM or DER files of RAs' own certificates, each trusted as it stands, whatever its purposes, while it is
	// valid. Relative paths are below the configuration's folder.
	Certificates []string `yaml:"certificates"`
	// CAs are PEM or DER files of CAs under which a certificate with one of the purposes is an RA's. Each is an anchor of its
	// own.
	CAs []string `yaml:"cas"`
	// Intermediates are PEM or DER files of CA certificates that RAs may leave out; they are not trusted by themselves.
	Intermediates []string `yaml:"intermediates"`
	// Names are the subjects that an RA's certificate under CAs may have, as RFC 4514 writes them ("CN=RA 1,O=Operator").
	// Default: any.
	Names []string `yaml:"names"`
	// Purposes of which a certificate under CAs has to have one in its extended key usage, as in `client-certificate`; a
	// certificate without any is not an RA's. Others than cmcRA need Names: devices have them, too. Default: cmcRA (RFC 6402
	// section 2.10).
	Purposes []string `yaml:"purposes"`
	// Nested lets in what such an RA has passed on, in a message of its own around the device's (RFC 9810 section 5.1.3.5), and
	// nothing else. It says nothing about the device, for which another stage has to stand beside it. Default: the RA has
	// signed the request itself, or is the TLS client that sends it, in the device's place.
	Nested bool `yaml:"nested"`
	// CRLs are PEM or DER files of the CAs' complete revocation lists, read when the configuration is. When there are any, a
	// certificate whose issuer has none, or one past its nextUpdate, cannot be judged.
	CRLs []string `yaml:"crls"`
	// AllowUnknownRevocation accepts those certificates.
	AllowUnknownRevocation bool `yaml:"allow-unknown-revocation"`
	// Blocklist is a file of keys that are refused, as in `keys`.
	Blocklist string `yaml:"blocklist"`
}

// RA is the stage `ra`. It denies with Unauthenticated a request that no certificate has signed or (in EST) come with, with NotAuthorized one that
// reached us without an RA where Nested wants one, with Revoked, and with Untrusted when the certificate is not that of an RA
// or not valid now. It cannot answer when revocation cannot be told.
type RA struct {
	config RAConfig // as it was made with, for Describe
	nested bool
	kinds  []gateway.CredentialKind // the first that a request carries counts
	pinned *pkix.ChainPolicy        // by Certificates; nil for none
	under  *pkix.ChainPolicy        // by CAs; nil for none
	names  [][]byte                 // DER
	now    func() time.Time
}

// NewRA reads the files. now is the clock.
func NewRA(c RAConfig, dir string, now func() time.Time) (*RA, error) {
	if now == nil {
		return nil, errors.New("ra: no clock given")
	}
	if len(c.Certificates) == 0 && len(c.CAs) == 0 {
		return nil, errors.New("no RA is trusted: give certificates, or cas")
	}
	if len(c.CAs) == 0 && (len(c.Names) > 0 || len(c.Purposes) > 0 || len(c.Intermediates) > 0) {
		return nil, errors.New("names, purposes and intermediates are about certificates under cas, and there are none")
	}
	// A message that is signed says more than the connection it came by; EST's requests have the TLS client's certificate alone.
	s := &RA{nested: c.Nested, kinds: []gateway.CredentialKind{gateway.CredentialSigner, gateway.CredentialTLS}, now: now}
	if c.Nested {
		s.kinds = []gateway.CredentialKind{gateway.CredentialNested}
	}
	if len(c.Purposes) == 0 {
		c.Purposes = []string{"cmcRA"}
	}
	s.config = c
	for _, name := range c.Purposes {
		if oid, ok := purposeOID(name); ok && !oid.Equal(oidCMCRA) && len(c.Names) == 0 {
			return nil, fmt.Errorf("purposes: devices have certificates for %s, too: say by names which of them are RAs'", name)
		}
	}
	for _, name := range c.Names {
		der, err := pkix.ParseRFC4514(name)
		if err != nil {
			return nil, fmt.Errorf("names: %q: %w", name, err)
		}
		if isEmptyName(der) {
			return nil, errors.New("names: a name is empty")
		}
		s.names = append(s.names, der)
	}
	lists, err := readCRLs(dir, c.CRLs)
	if err != nil {
		return nil, fmt.Errorf("crls: %w", err)
	}
	var cas []*x509.Certificate
	if len(c.CAs) > 0 {
		if s.under, err = readPolicy(dir, policyFiles{c.CAs, c.Intermediates, c.Purposes, c.Blocklist}); err != nil {
			return nil, err
		}
		cas = slices.Concat(s.under.Roots, s.under.Intermediates)
	}
	signed, others := lists.signedBy(cas)
	if len(others) > 0 {
		return nil, fmt.Errorf("crls: %s: none of cas and intermediates signed the list of %s", others[0].file, formatSubject(others[0].RawIssuer))
	}
	if s.under != nil {
		s.under.AllowUnknownRevocation = c.AllowUnknownRevocation
		if len(signed) > 0 {
			s.under.Revoked = func(cert *x509.Certificate) (bool, error) { return signed.revoked(cert, now()) }
		}
	}
	return s, s.pin(c, dir)
}

// oidCMCRA is id-kp-cmcRA (RFC 6402 section 2.10).
var oidCMCRA = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 28}

// pin reads the certificates that are trusted as they stand.
func (s *RA) pin(c RAConfig, dir string) error {
	if len(c.Certificates) == 0 {
		return nil
	}
	s.pinned = &pkix.ChainPolicy{}
	for _, file := range c.Certificates {
		data, err := readFile(dir, file)
		if err != nil {
			return fmt.Errorf("certificates: %w", err)
		}
		ders, err := blocks(file, data, "CERTIFICATE")
		if err != nil {
			return fmt.Errorf("certificates: %w", err)
		}
		for _, der := range ders {
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				return fmt.Errorf("certificates: %s: %w", file, err)
			}
			if cert.IsCA {
				return fmt.Errorf("certificates: %s: %s is a CA's certificate: put it under cas", file, formatSubject(cert.RawSubject))
			}
			s.pinned.Roots = append(s.pinned.Roots, cert)
			s.pinned.ExtKeyUsages = append(s.pinned.ExtKeyUsages, purposesOf(cert)...)
		}
	}
	if c.Blocklist != "" {
		var err error
		if s.pinned.Blocklist, err = readBlocklist(dir, c.Blocklist); err != nil {
			return fmt.Errorf("blocklist: %w", err)
		}
	}
	return nil
}

// Name is "ra".
func (s *RA) Name() string { return "ra" }

// Credentials is what the stage looks at.
func (s *RA) Credentials() []gateway.CredentialKind { return slices.Clone(s.kinds) }

// Decide judges the RA's certificate. One that has signed or sent the request is who asks, and vouches for the device; one that has
// passed it on is noted only.
func (s *RA) Decide(ctx context.Context, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	c, ok := carried(r, s.kinds)
	switch {
	case !ok && s.nested:
		return gateway.Denied(gateway.NotAuthorized, "requests are taken through a registration authority only", "no RA has passed the request on: it was not nested")
	case !ok:
		return gateway.Denied(gateway.Unauthenticated, "the certificate of a registration authority is required", "the request carries no "+joinKinds(s.kinds))
	}
	v := s.judge(ctx, c)
	if v.Decision == gateway.Allow && !s.nested {
		g.Authenticate(c)
		g.Vouch()
	}
	return v
}

// Identify says which RA asks. One that has passed the request on proves nothing of who asks: the same request by another way
// is the same.
func (s *RA) Identify(ctx context.Context, r *gateway.Request, g *gateway.Grant) (v gateway.Verdict, proves bool) {
	if s.nested {
		return gateway.Allowed("whoever has passed it on"), false
	}
	return s.Decide(ctx, r, g), true
}

// TrustsRA judges the certificate of a credential that was verified, as gateway.RegistrationAuthorities: who may ask in a
// device's place may pass on what devices ask, not the other way round.
func (s *RA) TrustsRA(ctx context.Context, c gateway.Credential, speaks bool) gateway.Verdict {
	if speaks && s.nested {
		return gateway.Denied(gateway.NotAuthorized, "", "this stage's RAs pass on only what devices have protected")
	}
	if len(c.Chain) == 0 || c.Chain[0] == nil {
		return gateway.Denied(gateway.Unauthenticated, "", "no certificate")
	}
	return s.judge(ctx, c)
}

func (s *RA) judge(ctx context.Context, c gateway.Credential) gateway.Verdict {
	if err := ctx.Err(); err != nil {
		return gateway.Unanswered(err)
	}
	leaf := c.Chain[0]
	seen := fmt.Sprintf("RA by %s %s, issued by %s", c.Kind, formatSubject(leaf.RawSubject), formatSubject(leaf.RawIssuer))
	if s.pinned != nil && slices.ContainsFunc(s.pinned.Roots, leaf.Equal) {
		if _, err := s.pinned.Verify([]*x509.Certificate{leaf}, s.now()); err != nil {
			return refusedChain(seen, err)
		}
		return gateway.Allowed(seen + ", one of those listed")
	}
	deny := func(why string) gateway.Verdict {
		return gateway.Denied(gateway.Untrusted, "the certificate is not that of a registration authority here", seen+": "+why)
	}
	if s.under == nil {
		return deny("not among the certificates listed")
	}
	path, err := s.under.Verify(c.Chain, s.now())
	if err != nil {
		return refusedChain(seen, err)
	}
	has := purposesOf(leaf)
	if !slices.ContainsFunc(s.under.ExtKeyUsages, func(want asn1.ObjectIdentifier) bool { return slices.ContainsFunc(has, want.Equal) }) {
		return deny(fmt.Sprintf("its extended key usage is %s; an RA has one of %s", oids(has), oids(s.under.ExtKeyUsages)))
	}
	if len(s.names) > 0 && !slices.ContainsFunc(s.names, func(name []byte) bool { return pkix.SameName(name, leaf.RawSubject) }) {
		return deny("names does not list its subject")
	}
	return gateway.Allowed(fmt.Sprintf("%s, under %s", seen, formatSubject(path[len(path)-1].RawSubject)))
}

var oidExtKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 37}

// purposesOf is the extended key usage of a certificate (RFC 5280 section 4.2.1.12), nil when it has none.
func purposesOf(cert *x509.Certificate) []asn1.ObjectIdentifier {
	for _, e := range cert.Extensions {
		if e.Id.Equal(oidExtKeyUsage) {
			var list []asn1.ObjectIdentifier
			if rest, err := asn1.Unmarshal(e.Value, &list); err == nil && len(rest) == 0 {
				return list
			}
		}
	}
	return nil
}

func oids(list []asn1.ObjectIdentifier) string {
	if len(list) == 0 {
		return "absent"
	}
	words := make([]string, len(list))
	for i, oid := range list {
		words[i] = oid.String()
		for _, p := range purposes {
			if p.oid.Equal(oid) {
				words[i] = p.name
			}
		}
	}
	return strings.Join(words, ", ")
}
