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
	// codeSigning, ipsecIKE, cmcRA, any (anyExtendedKeyUsage), or an OID. Default: clientAuth.
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
	kinds  []gateway.CredentialKind
	policy *pkix.ChainPolicy
	device *field
	now    func() time.Time
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
	kinds, err := certificateKinds(c.Kinds)
	if err != nil {
		return nil, err
	}
	s := &ClientCertificate{kinds: kinds, now: now}
	p := &pkix.ChainPolicy{AllowSHA1: c.AllowSHA1, Grace: time.Duration(c.Grace), AllowUnknownRevocation: c.AllowUnknownRevocation}
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
	if p.Roots, err = readCAs(dir, files); err != nil {
		return nil, fmt.Errorf("cas: %w", err)
	}
	if p.Intermediates, err = readCAs(dir, c.Intermediates); err != nil {
		return nil, fmt.Errorf("intermediates: %w", err)
	}
	for _, name := range c.Purposes {
		oid, ok := purposeOID(name)
		if !ok {
			return nil, fmt.Errorf("purposes: %q is not known%s", name, strictyaml.Suggest(name, purposeNames()))
		}
		p.ExtKeyUsages = append(p.ExtKeyUsages, oid)
	}
	if c.Device != "" {
		f, err := parseField(c.Device)
		if err != nil {
			return nil, fmt.Errorf("device: %w", err)
		}
		s.device = &f
	}
	if c.Blocklist != "" {
		if p.Blocklist, err = readBlocklist(dir, c.Blocklist); err != nil {
			return nil, fmt.Errorf("blocklist: %w", err)
		}
	}
	if len(c.CRLs) > 0 {
		lists, err := readCRLs(dir, c.CRLs, append(append([]*x509.Certificate(nil), p.Roots...), p.Intermediates...))
		if err != nil {
			return nil, fmt.Errorf("crls: %w", err)
		}
		p.Revoked = func(cert *x509.Certificate) (bool, error) { return lists.revoked(cert, now()) }
	}
	s.policy = p
	return s, nil
}

// Name is "client-certificate".
func (s *ClientCertificate) Name() string { return "client-certificate" }

// Credentials is what the stage looks at.
func (s *ClientCertificate) Credentials() []gateway.CredentialKind { return s.kinds }

// Identifies marks the stage as one that depends only on who is asking.
func (s *ClientCertificate) Identifies() {}

// Decide verifies the certificate and takes the device's name from it.
func (s *ClientCertificate) Decide(ctx context.Context, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	if err := ctx.Err(); err != nil {
		return gateway.Unanswered(err)
	}
	c, ok := carried(r, s.kinds)
	if !ok {
		return gateway.Denied(gateway.Unauthenticated, "a client certificate is required", "the request carries no "+joinKinds(s.kinds))
	}
	leaf := c.Chain[0]
	seen := fmt.Sprintf("%s %s, issued by %s", c.Kind, formatSubject(leaf.RawSubject), formatSubject(leaf.RawIssuer))
	path, err := s.policy.Verify(c.Chain, s.now())
	if err != nil {
		return s.refused(seen, err)
	}
	g.Authenticate(c)
	note := fmt.Sprintf("%s, under %s", seen, formatSubject(path[len(path)-1].RawSubject))
	if s.device == nil {
		return gateway.Allowed(note)
	}
	device, err := s.device.of(leaf.RawSubject, sanOf(leaf))
	if err != nil {
		return gateway.Denied(gateway.NotAuthorized, "the certificate does not say which device it is", seen+": "+err.Error())
	}
	if denied, ok := nameDevice(g, device); !ok {
		return denied
	}
	return gateway.Allowed(note + ", device " + shown(device))
}

// refused gives an error of ChainPolicy.Verify its reason.
func (s *ClientCertificate) refused(seen string, err error) gateway.Verdict {
	note := seen + ": " + err.Error()
	switch {
	case errors.Is(err, pkix.ErrRevoked):
		return gateway.Denied(gateway.Revoked, "the certificate is revoked", note)
	case errors.Is(err, pkix.ErrRevocationUnknown):
		return gateway.Unanswered(errors.New(note))
	case errors.Is(err, pkix.ErrExpired):
		return gateway.Denied(gateway.Untrusted, "the certificate, or one above it, is not valid now", note)
	case errors.Is(err, pkix.ErrUsage):
		return gateway.Denied(gateway.Untrusted, "the certificate is not for this use", note)
	case errors.Is(err, pkix.ErrWeak), errors.Is(err, pkix.ErrAlgorithm):
		return gateway.Denied(gateway.Untrusted, "the certificate's key or algorithm is not accepted", note)
	}
	return gateway.Denied(gateway.Untrusted, "the certificate is not trusted here", note)
}

// purposes are the extended key usages (RFC 5280 section 4.2.1.12, RFC 4945, RFC 6402) that configurations may name.
var purposes = []struct {
	name string
	oid  asn1.ObjectIdentifier
}{
	{"clientAuth", pkix.OIDClientAuth},
	{"serverAuth", asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 1}},
	{"codeSigning", asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 3}},
	{"emailProtection", asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 4}},
	{"ipsecIKE", asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 17}},
	{"cmcRA", asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 28}},
	{"any", asn1.ObjectIdentifier{2, 5, 29, 37, 0}},
}

func purposeNames() []string {
	names := make([]string, len(purposes))
	for i, p := range purposes {
		names[i] = p.name
	}
	return names
}

func purposeOID(name string) (asn1.ObjectIdentifier, bool) {
	for _, p := range purposes {
		if strings.EqualFold(p.name, name) {
			return p.oid, true
		}
	}
	return dottedOID(name)
}
