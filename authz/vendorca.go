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
	// Vendor is whose CAs these are, as entries of the inventory name their vendor. Default: nobody's in particular.
	Vendor string `yaml:"vendor"`
	// List is a file of the serial numbers that may enrol, as the vendor sends it: one a line, or the first column of a CSV,
	// whose first line may be a header. It counts within two seconds when it changes; one that cannot be read changes
	// nothing. It needs Serial. Relative paths are below the configuration's folder.
	List string `yaml:"list"`
	// Enrollments is how many first certificates each serial number may have; a number, or unlimited. Renewals do not count.
	// It needs Serial. Default: 1 with List, else unlimited.
	Enrollments Uses `yaml:"enrollments"`
}

// VendorCA is the stage `vendor-ca`. It denies as `client-certificate` does, and with NotAuthorized a serial number that
// is not on the vendor's list or has had its enrollments; it cannot answer when revocation cannot be told, or when the
// folder cannot be read. It has no Anchors: they change, so a TLS listener names no CAs to its clients.
type VendorCA struct {
	*certificateJudge
	config VendorCAConfig    // as it was made with, for Describe
	fixed  *pkix.ChainPolicy // with the CAs of the configuration only
	crls   crls
	folder *caFolder // nil for none
	built  atomic.Pointer[vendorPolicy]

	vendor      string
	list        *serialList // nil for none
	enrollments Uses
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
	s := &VendorCA{certificateJudge: judge, config: c, fixed: p, vendor: c.Vendor}
	if err := s.readList(c, dir, log); err != nil {
		return nil, err
	}
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

// readList reads the vendor's list, and what goes with it.
func (s *VendorCA) readList(c VendorCAConfig, dir string, log *slog.Logger) error {
	if len(c.Vendor) > gateway.MaxDeviceName || !printable(c.Vendor) {
		return fmt.Errorf("vendor: at most %d bytes, without control characters", gateway.MaxDeviceName)
	}
	s.enrollments = c.Enrollments.or(Unlimited)
	if s.device == nil && (c.List != "" || s.enrollments != Unlimited) {
		return errors.New("list and enrollments are about serial numbers: say by `serial` where that of a certificate stands, such as subject.serialNumber")
	}
	if c.List == "" {
		return nil
	}
	s.enrollments = c.Enrollments.or(1)
	s.list = newSerialList(resolve(dir, c.List), log, s.now)
	if _, err := s.list.look(context.Background()); err != nil {
		return fmt.Errorf("list: %w", err)
	}
	return nil
}

// Decide verifies the certificate, takes the device's name from it, and looks it up in the vendor's list.
func (s *VendorCA) Decide(ctx context.Context, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	found, v := s.judge(ctx, r, g, s.policy)
	if v.Decision != gateway.Allow {
		if b := s.built.Load(); s.folder != nil && b != nil && len(b.policy.Roots) == 0 && v.Reason == gateway.Untrusted {
			v.Note += "; no vendor's CA is trusted: there is none in " + s.folder.path
		}
		return v
	}
	if s.vendor != "" {
		if g.Vendor != "" && g.Vendor != s.vendor {
			return gateway.Denied(gateway.NotAuthorized, "the credentials name two vendors",
				fmt.Sprintf("this stage is vendor %s's, an earlier one vendor %s's", shown(s.vendor), shown(g.Vendor)))
		}
		g.Vendor = s.vendor
		v.Note += ", vendor " + shown(s.vendor)
	}
	if s.list != nil {
		listed, err := s.list.look(ctx)
		if err != nil {
			return gateway.Unanswered(err)
		}
		if _, ok := listed.serials[found.device]; !ok {
			return gateway.Denied(gateway.NotAuthorized, "the device is not on the vendor's list",
				fmt.Sprintf("%s; serial number %s is not among the %d in %s", v.Note, shown(found.device), len(listed.serials), s.list.path))
		}
		v.Note += ", on the vendor's list"
	}
	if r.Operation == gateway.Enroll {
		v.Claims = s.enrollments.claims(gateway.Claim{
			Key:    s.enrollmentsKey(found),
			Lost:   fmt.Sprintf("serial number %s may enrol %s, and has", shown(found.device), s.enrollments.times()),
			Reason: gateway.NotAuthorized, Detail: "the device has had its enrollments",
		})
	}
	return v
}

// enrollmentsKey is the claim that counts a serial number's first certificates. Serial numbers are a vendor's own, so two
// vendors may use one; a vendor without a name is its CA.
func (s *VendorCA) enrollmentsKey(found judged) string {
	if s.vendor != "" {
		return fmt.Sprintf("vendor-serial:%q:%s", s.vendor, found.device)
	}
	return "vendor-serial:" + gateway.Fingerprint(found.anchor) + ":" + found.device
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
