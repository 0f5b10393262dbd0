package authz

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
)

// VendorCAConfig configures the stage `vendor-ca`: the requester holds a certificate that its vendor put into it in the
// factory, and has shown that it has the key (3GPP TS 33.310 section 9).
type VendorCAConfig struct {
	// Dir is a folder of PEM or DER files of vendors' CA certificates: all that end in .pem, .crt, .cer or .der, each
	// an anchor of its own. Files may come and go while the gateway runs, and count, or do not, within two seconds. The
	// folder may be empty, or not exist: nobody is let in by it then. Relative paths are below the configuration's folder.
	Dir string `yaml:"dir"`
	// CAs are further such files, read when the configuration is.
	CAs []string `yaml:"cas"`
	// Intermediates are PEM or DER files of CA certificates that devices may leave out; they are not trusted by themselves.
	Intermediates []string `yaml:"intermediates"`
	// Serial is the place in the certificate that names the device: subject.serialNumber, subject.commonName, san.uri,
	// ... Exactly one value has to stand there. Default: the certificate names no device.
	Serial string `yaml:"serial"`
	// Kinds of credential to look at, in this order; the first that the request carries counts, whatever it is worth.
	// Default: message-signer, tls-certificate.
	Kinds []string `yaml:"kinds"`
	// Purposes of which a certificate with an extended key usage needs one, as in `client-certificate`.
	// Default: clientAuth, ipsecIKE, any.
	Purposes []string `yaml:"purposes"`
	// CRLs are PEM or DER files of the CAs' complete revocation lists, read when the configuration is. When there are
	// any, a certificate whose issuer has none, or one past its nextUpdate, cannot be judged. A list that no CA at hand
	// signed says nothing; it is an error when there is no Dir that its CA could yet come to.
	CRLs []string `yaml:"crls"`
	// AllowUnknownRevocation accepts those certificates.
	AllowUnknownRevocation bool `yaml:"allow-unknown-revocation"`
	// AllowSHA1 accepts SHA-1 signatures in the chain, for devices of old.
	AllowSHA1 bool `yaml:"allow-sha1"`
	// Blocklist is a file of keys that are refused, as in `keys`.
	Blocklist string `yaml:"blocklist"`
}

// VendorCA is the stage `vendor-ca`. It denies as `client-certificate` does; it cannot answer when revocation cannot be
// told, or when the folder cannot be read. It has no Anchors: they change, so a TLS listener names no CAs to its clients.
type VendorCA struct {
	*certificateJudge
	fixed  *pkix.ChainPolicy // with the CAs of the configuration only
	crls   crls
	folder *caFolder // nil for none
	built  atomic.Pointer[vendorPolicy]
}

// vendorPolicy is the policy with what the folder held.
type vendorPolicy struct {
	certs  []*x509.Certificate
	policy *pkix.ChainPolicy
}

// NewVendorCA reads the files and looks at the folder. log is told which files of the folder do not count; now is the
// clock.
func NewVendorCA(c VendorCAConfig, dir string, log *slog.Logger, now func() time.Time) (*VendorCA, error) {
	if log == nil || now == nil {
		return nil, errors.New("vendor-ca: no log or clock given")
	}
	if len(c.Kinds) == 0 {
		c.Kinds = []string{string(gateway.CredentialSigner), string(gateway.CredentialTLS)}
	}
	judge, err := newCertificateJudge(c.Kinds, "serial", c.Serial, now)
	if err != nil {
		return nil, err
	}
	if c.Dir == "" && len(c.CAs) == 0 {
		return nil, errors.New("no CA is trusted: give dir or cas")
	}
	if len(c.Purposes) == 0 {
		c.Purposes = []string{"clientAuth", "ipsecIKE", "any"}
	}
	p, err := readPolicy(dir, policyFiles{c.CAs, c.Intermediates, c.Purposes, c.Blocklist})
	if err != nil {
		return nil, err
	}
	p.AllowSHA1, p.AllowUnknownRevocation = c.AllowSHA1, c.AllowUnknownRevocation
	s := &VendorCA{certificateJudge: judge, fixed: p}
	if s.crls, err = readCRLs(dir, c.CRLs); err != nil {
		return nil, fmt.Errorf("crls: %w", err)
	}
	if c.Dir == "" {
		if _, others := s.crls.signedBy(slices.Concat(p.Roots, p.Intermediates)); len(others) > 0 {
			return nil, fmt.Errorf("crls: %s: none of cas and intermediates signed the list of %s", others[0].file, formatSubject(others[0].RawIssuer))
		}
		s.built.Store(s.with(nil))
		return s, nil
	}
	s.folder = newCAFolder(resolve(dir, c.Dir), log, now)
	look, err := s.folder.look(context.Background())
	if err != nil {
		return nil, fmt.Errorf("dir: %w", err)
	}
	built := s.with(look.certs)
	s.built.Store(built)
	if len(built.policy.Roots) == 0 {
		log.Info("no vendor's CA is trusted yet", "folder", s.folder.path)
	}
	return s, nil
}

// Name is "vendor-ca".
func (s *VendorCA) Name() string { return "vendor-ca" }

// Decide verifies the certificate and takes the device's name from it.
func (s *VendorCA) Decide(ctx context.Context, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	return s.decide(ctx, r, g, s.policy)
}

// policy is the chain policy with what the folder holds now.
func (s *VendorCA) policy(ctx context.Context) (*pkix.ChainPolicy, error) {
	built := s.built.Load()
	if s.folder == nil {
		return built.policy, nil
	}
	look, err := s.folder.look(ctx)
	if err != nil {
		return nil, err
	}
	if !slices.EqualFunc(built.certs, look.certs, (*x509.Certificate).Equal) {
		built = s.with(look.certs)
		s.built.Store(built)
	}
	return built.policy, nil
}

// with makes the policy that trusts the CAs of the configuration and these.
func (s *VendorCA) with(certs []*x509.Certificate) *vendorPolicy {
	p := *s.fixed
	p.Roots = addNew(slices.Clone(p.Roots), certs)
	if len(s.crls) > 0 {
		lists, _ := s.crls.signedBy(slices.Concat(p.Roots, p.Intermediates))
		p.Revoked = func(cert *x509.Certificate) (bool, error) { return lists.revoked(cert, s.now()) }
	}
	return &vendorPolicy{certs, &p}
}
