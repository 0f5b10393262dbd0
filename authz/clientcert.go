package authz

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// ClientCertificateConfig configures the stage `client-certificate`: the requester holds a certificate that a CA of
// the operator's choice issued (a vendor's, say), and has shown that it has the key.
type ClientCertificateConfig struct {
	// Kinds of credential to look at, in this order; the first that the request carries counts, whatever it is worth.
	// Default: tls-certificate, message-signer.
	Kinds []string `yaml:"kinds"`
	// CAs are PEM or DER files of the certificates to trust. Each is an anchor of its own, so an issuing CA may
	// stand here without its root. Relative paths are below the configuration's folder.
	CAs []string `yaml:"cas"`
	// Dir is a folder of such files: all that end in .pem, .crt, .cer or .der.
	Dir string `yaml:"dir"`
	// Intermediates are PEM or DER files of CA certificates that requesters may leave out; they are not trusted
	// by themselves.
	Intermediates []string `yaml:"intermediates"`
	// Purposes of which a certificate with an extended key usage needs one: clientAuth, serverAuth, emailProtection,
	// codeSigning, ipsecIKE, cmcRA, cmKGA, any (anyExtendedKeyUsage), or an OID. Default: clientAuth.
	Purposes []string `yaml:"purposes"`
	// Device is the place in the certificate that names the device: subject.serialNumber, subject.commonName,
	// san.uri, ... Exactly one value has to stand there. Default: the certificate names no device.
	Device string `yaml:"device"`
	// CRLs are PEM or DER files of the CAs' complete revocation lists, read when the configuration is. When there are
	// any, a certificate whose issuer has none, or one past its nextUpdate, cannot be judged.
	CRLs []string `yaml:"crls"`
	// AllowUnknownRevocation accepts those certificates.
	AllowUnknownRevocation bool `yaml:"allow-unknown-revocation"`
	// Grace is for how long after its end a certificate is still accepted. Default: not at all.
	Grace strictyaml.Duration `yaml:"grace"`
	// AllowSHA1 accepts SHA-1 signatures in the chain, for devices of old.
	AllowSHA1 bool `yaml:"allow-sha1"`
	// Blocklist is a file of keys that are refused, as in `keys`.
	Blocklist string `yaml:"blocklist"`
}

// ClientCertificate is the stage `client-certificate`. It denies with Unauthenticated without a certificate; with
// Revoked; with Untrusted when there is no path to a CA, the certificate is not valid now (it proves nothing then, to
// anybody: BadTime is for the times of messages), is for another use, or too weak; with NotAuthorized when it does not
// say which device it is, or an earlier stage found another one. It cannot answer when revocation cannot be told.
type ClientCertificate struct {
	*certificateJudge
	config ClientCertificateConfig // as it was made with, for Describe
	policy *pkix.ChainPolicy
}

// Anchors are the CAs that a TLS listener names to its clients, so that they choose the right certificate (RFC 8446
// section 4.2.4): intermediates too, since a client that sends no chain goes by its certificate's issuer alone.
func (s *ClientCertificate) Anchors() []*x509.Certificate {
	return slices.Concat(s.policy.Roots, s.policy.Intermediates)
}

// NewClientCertificate reads the CAs. now is the clock.
func NewClientCertificate(c ClientCertificateConfig, dir string, now func() time.Time) (*ClientCertificate, error) {
	if now == nil {
		return nil, errors.New("client-certificate: no clock given")
	}
	judge, err := newCertificateJudge(c.Kinds, "device", c.Device, now)
	if err != nil {
		return nil, err
	}
	if c.Grace < 0 {
		return nil, errors.New("grace: not negative")
	}
	files := c.CAs
	if c.Dir != "" {
		below, err := certificateFiles(dir, c.Dir)
		if err != nil {
			return nil, fmt.Errorf("dir: %w", err)
		}
		files = append(append([]string(nil), files...), below...)
	}
	if len(files) == 0 {
		return nil, errors.New("no CA is trusted: give cas or dir")
	}
	p, err := readPolicy(dir, policyFiles{files, c.Intermediates, c.Purposes, c.Blocklist})
	if err != nil {
		return nil, err
	}
	p.AllowSHA1, p.Grace, p.AllowUnknownRevocation = c.AllowSHA1, time.Duration(c.Grace), c.AllowUnknownRevocation
	if len(c.CRLs) > 0 {
		lists, err := readCRLs(dir, c.CRLs)
		if err != nil {
			return nil, fmt.Errorf("crls: %w", err)
		}
		signed, others := lists.signedBy(slices.Concat(p.Roots, p.Intermediates))
		if len(others) > 0 {
			return nil, fmt.Errorf("crls: %s: none of cas and intermediates signed the list of %s", others[0].file, formatSubject(others[0].RawIssuer))
		}
		p.Revoked = func(cert *x509.Certificate) (bool, error) { return signed.revoked(cert, now()) }
	}
	return &ClientCertificate{judge, c, p}, nil
}

// Name is "client-certificate".
func (s *ClientCertificate) Name() string { return "client-certificate" }

// Decide verifies the certificate and takes the device's name from it.
func (s *ClientCertificate) Decide(ctx context.Context, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	return s.decide(ctx, r, g, func(context.Context) (*pkix.ChainPolicy, error) { return s.policy, nil })
}
