package authz

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"slices"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
)

// ByPassword reports whether the stage renews by a password alone.
func (c OwnCertificateConfig) ByPassword() bool {
	return slices.Contains(c.Kinds, string(gateway.CredentialPassword))
}

// ownKinds reads the kinds of `own-certificate`: those of certificates, and password, which comes last: what is shown counts more.
func ownKinds(names []string) ([]gateway.CredentialKind, error) {
	const password = string(gateway.CredentialPassword)
	i := slices.Index(names, password)
	if i < 0 {
		return certificateKinds(names)
	}
	rest := slices.Delete(slices.Clone(names), i, i+1)
	if slices.Contains(rest, password) {
		return nil, fmt.Errorf("kinds: %q stands twice", password)
	}
	if len(rest) == 0 {
		return []gateway.CredentialKind{gateway.CredentialPassword}, nil
	}
	kinds, err := certificateKinds(rest)
	if err != nil {
		return nil, err
	}
	return append(kinds, gateway.CredentialPassword), nil
}

// shows returns the credential that counts: the first of the first kind that the request carries.
func (s *OwnCertificate) shows(r *gateway.Request) (gateway.Credential, bool) {
	for _, kind := range s.kinds {
		if kind != gateway.CredentialPassword {
			if c, ok := carried(r, []gateway.CredentialKind{kind}); ok {
				return c, true
			}
		} else if c, ok := r.Credential(kind); ok {
			return c, true
		}
	}
	return gateway.Credential{}, false
}

// HeldBy is gateway.Holders, for passwords: of what was issued under the subject, the newest with the same subjectAltName, or
// else the newest, so that the refusal can say what differs. It looks at the newest hundred. A certificate past its end is
// none, whatever Grace says: that is for those who show it.
func (s *OwnCertificate) HeldBy(ctx context.Context, endpoint string, c gateway.Credential, names gateway.Names) (*x509.Certificate, bool, error) {
	if c.Kind != gateway.CredentialPassword || !slices.Contains(s.kinds, c.Kind) {
		return nil, false, nil
	}
	if len(names.Subject) == 0 {
		return nil, true, nil // an empty filter would be everybody's
	}
	now := s.now()
	list, err := s.store.Certificates(ctx, gateway.CertificateFilter{Requester: c.String(), SubjectRaw: names.Subject, ValidAt: now})
	if err != nil {
		return nil, true, fmt.Errorf("the certificates of %s cannot be looked up: %w", shown(c.String()), err)
	}
	var newest *x509.Certificate
	for _, record := range list {
		if record.State != gateway.StateIssued || now.Before(record.NotBefore) || !slices.Contains(s.endpoints(endpoint), record.Endpoint) {
			continue
		}
		cert, err := x509.ParseCertificate(record.DER)
		if err != nil {
			return nil, true, fmt.Errorf("certificate %x in the store: %w", record.Serial, err)
		}
		if bytes.Equal(sanOf(cert), names.SubjectAltName) {
			return cert, true, nil
		}
		if newest == nil {
			newest = cert
		}
	}
	return newest, true, nil
}

// heldBy is the certificate that a password alone renews: the one that was found to be the user's, once an earlier stage has
// compared the password.
func (s *OwnCertificate) heldBy(r *gateway.Request, g *gateway.Grant, c gateway.Credential) (*x509.Certificate, gateway.Verdict, bool) {
	user := "user " + shown(c.ID)
	switch {
	case !g.Authenticated(c):
		return nil, gateway.Denied(gateway.Unauthenticated, "user name or password is wrong", "no stage before this one has compared the password of "+user), false
	case r.Operation != gateway.Renew && r.Operation != gateway.Rekey:
		return nil, gateway.Denied(gateway.NotAuthorized, "a password alone renews, and does nothing else", fmt.Sprintf("%s asks to %s", user, r.Operation)), false
	case r.OldCert == nil:
		return nil, gateway.Denied(gateway.NotAuthorized, "no valid certificate was issued to this user for this subject: enrol first, or show the certificate",
			fmt.Sprintf("%s holds no valid certificate with subject %s that was issued to him at endpoint %q", user, formatSubject(r.Subject), s.endpoints(r.Endpoint))), false
	}
	return r.OldCert, gateway.Verdict{}, true
}

// issuedTo judges whether a certificate that a password alone renews was issued to the same user.
func issuedTo(record *gateway.Certificate, leaf *x509.Certificate, c gateway.Credential) (gateway.Verdict, bool) {
	if c.Kind != gateway.CredentialPassword || record.Requester == c.String() {
		return gateway.Verdict{}, true
	}
	return gateway.Denied(gateway.NotAuthorized, "the certificate was not issued to this user", fmt.Sprintf("certificate %x of %s was issued to %s, and %s asks to renew it",
		record.Serial, pkix.FormatName(leaf.RawSubject), shown(record.Requester), shown(c.String()))), false
}
