package pkix

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"slices"
	"time"
)

const (
	// MaxChain is how many certificates a peer may present, the leaf among them.
	MaxChain = 16
	// maxSignatures is the default budget of signature checks of one Verify.
	maxSignatures = 10
	// maxSteps bounds the search for paths by name, which costs no signature check.
	maxSteps = 256
	// maxPath is the longest path, leaf and root included.
	maxPath = 8
)

var (
	oidKeyUsage          = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidNameConstraints   = asn1.ObjectIdentifier{2, 5, 29, 30}
	oidPolicyConstraints = asn1.ObjectIdentifier{2, 5, 29, 36}
	oidExtKeyUsage       = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidAnyExtKeyUsage    = asn1.ObjectIdentifier{2, 5, 29, 37, 0}
	// OIDClientAuth is id-kp-clientAuth (RFC 5280 section 4.2.1.12).
	OIDClientAuth = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 2}
)

// ChainPolicy says which device certificates are trusted. It is read only once in use and may be shared.
type ChainPolicy struct {
	Roots         []*x509.Certificate // trust anchors; none: nothing is trusted
	Intermediates []*x509.Certificate // CA certificates that peers may leave out
	// ExtKeyUsages are the purposes that a leaf may have: a leaf with an extended key usage needs one of them by its
	// OID (anyExtendedKeyUsage only where it is listed), a leaf without one passes. Empty: clientAuth.
	ExtKeyUsages []asn1.ObjectIdentifier
	AllowSHA1    bool // accept SHA-1 signatures in paths without name and policy constraints
	Blocklist    *Blocklist
	// Grace is for how long after its end a leaf is still accepted. CA certificates have none.
	Grace time.Duration
	// MaxSignatures is the budget of signature checks, 0 for 10.
	MaxSignatures int
	// Revoked tells whether a certificate of the path (the leaf always, the root above it never) is revoked. Its error refuses the path, unless
	// AllowUnknownRevocation. nil: revocation is not checked.
	Revoked                func(cert *x509.Certificate) (bool, error)
	AllowUnknownRevocation bool
	// Known spares signature checks of CA certificates that were verified before; nil spares none. Policies may share one.
	Known *KnownPaths
}

// Verify finds a path from chain[0] to a root and returns it, leaf first, root last. The rest of chain is taken in any
// order, and what does not belong to the path is ignored. The leaf is a version 3 end-entity certificate whose key
// usage, if there is one, has digitalSignature; keys are within the bounds of ParsePublicKey, those of CAs and roots as
// well; no signature uses MD5. Name constraints, path lengths, policies and critical extensions are x509.Verify's.
//
// Errors are ErrMalformed (no certificate, more than MaxChain), ErrUsage, ErrWeak, ErrAlgorithm, ErrExpired,
// ErrRevoked, ErrRevocationUnknown and ErrUntrusted. Only ErrRevoked and ErrRevocationUnknown are found after the signatures
// have been checked: any other error may be about a certificate that nobody vouches for.
func (p *ChainPolicy) Verify(chain []*x509.Certificate, now time.Time) ([]*x509.Certificate, error) {
	if len(chain) == 0 || len(chain) > MaxChain || slices.Contains(chain, nil) {
		return nil, malformed("chain of %d certificates, want 1 to %d", len(chain), MaxChain)
	}
	if now.IsZero() {
		// x509.Verify would take the machine's clock.
		return nil, because(ErrExpired, "no time to judge by")
	}
	leaf := chain[0]
	if err := p.checkLeaf(leaf); err != nil {
		return nil, err
	}
	s := search{policy: p, now: now, leafTime: now, signatures: p.MaxSignatures, steps: maxSteps}
	if s.signatures == 0 {
		s.signatures = maxSignatures
	}
	if now.After(leaf.NotAfter) && now.Sub(leaf.NotAfter) <= p.Grace {
		s.leafTime = leaf.NotAfter
	}
	for _, c := range slices.Concat(chain[1:], p.Intermediates) {
		if !c.Equal(leaf) && !slices.ContainsFunc(s.pool, c.Equal) && !slices.ContainsFunc(p.Roots, c.Equal) {
			s.pool = append(s.pool, c)
		}
	}
	if slices.ContainsFunc(p.Roots, leaf.Equal) {
		if path := s.try([]*x509.Certificate{leaf}); path != nil {
			return path, nil
		}
	} else if path := s.extend([]*x509.Certificate{leaf}); path != nil {
		return path, nil
	}
	if s.err == nil {
		s.err = because(ErrUntrusted, "the issuer %s is not trusted here, nor did a certificate of it come along that leads to one who is", FormatName(leaf.RawIssuer))
	}
	return nil, s.err
}

func (p *ChainPolicy) checkLeaf(leaf *x509.Certificate) error {
	if leaf.Version != 3 {
		return because(ErrUsage, "certificate of version %d", leaf.Version)
	}
	if leaf.IsCA {
		return because(ErrUsage, "certificate of a CA")
	}
	if hasExtension(leaf, oidKeyUsage) && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return because(ErrUsage, "key usage without digitalSignature")
	}
	if len(p.purposes(leaf)) == 0 {
		return because(ErrUsage, "extended key usage")
	}
	if _, err := ParsePublicKey(leaf.RawSubjectPublicKeyInfo, WithBlocklist(p.Blocklist)); err != nil {
		return err
	}
	_, err := judgement{allowSHA1: p.AllowSHA1}.hash(leaf.SignatureAlgorithm)
	return err
}

// purposes returns those of the policy's purposes that the leaf may serve.
func (p *ChainPolicy) purposes(leaf *x509.Certificate) []asn1.ObjectIdentifier {
	allowed := p.ExtKeyUsages
	if len(allowed) == 0 {
		allowed = []asn1.ObjectIdentifier{OIDClientAuth}
	}
	if !hasExtension(leaf, oidExtKeyUsage) {
		return allowed
	}
	var list []asn1.ObjectIdentifier
	for _, oid := range allowed {
		if hasPurpose(leaf, oid) {
			list = append(list, oid)
		}
	}
	return list
}

// checkCA refuses a certificate that must not stand above another one in a path.
func (p *ChainPolicy) checkCA(c *x509.Certificate, root bool) error {
	// RFC 5280 section 6.1.4 (k), (n). An anchor, and only that, may be a bare version 1 certificate.
	if (c.Version != 3 && !root) || (c.Version == 3 && (!c.BasicConstraintsValid || !c.IsCA)) {
		return because(ErrUsage, "%s is not a CA", FormatName(c.RawSubject))
	}
	if hasExtension(c, oidKeyUsage) && c.KeyUsage&x509.KeyUsageCertSign == 0 {
		return because(ErrUsage, "%s has a key usage without keyCertSign", FormatName(c.RawSubject))
	}
	if !root {
		// A root's own signature proves nothing, so its algorithm does not matter.
		if _, err := (judgement{allowSHA1: p.AllowSHA1}).hash(c.SignatureAlgorithm); err != nil {
			return err
		}
	}
	_, err := ParsePublicKey(c.RawSubjectPublicKeyInfo, WithBlocklist(p.Blocklist))
	return err
}

// search looks for a path depth first: by names, then one x509.Verify over exactly the path found.
type search struct {
	policy     *ChainPolicy
	now        time.Time // for CA certificates
	leafTime   time.Time // for the leaf: now, or its end within the grace period
	pool       []*x509.Certificate
	signatures int // checks left
	steps      int // candidates left
	err        error
}

// note keeps the first error, unless a later one says more than ErrUntrusted.
func (s *search) note(err error) {
	if s.err == nil || (errors.Is(s.err, ErrUntrusted) && !errors.Is(err, ErrUntrusted)) {
		s.err = err
	}
}

// extend returns a path that begins with the given one, nil when there is none.
func (s *search) extend(path []*x509.Certificate) []*x509.Certificate {
	child := path[len(path)-1]
	for _, root := range issuers(child, s.policy.Roots) {
		if s.steps--; s.steps < 0 {
			s.note(because(ErrUntrusted, "too many ways to build a path"))
			return nil
		}
		if found := s.try(append(slices.Clone(path), root)); found != nil {
			return found
		}
	}
	if len(path) == maxPath-1 {
		return nil
	}
	for _, ca := range issuers(child, s.pool) {
		if s.steps--; s.steps < 0 {
			s.note(because(ErrUntrusted, "too many ways to build a path"))
			return nil
		}
		if slices.ContainsFunc(path, ca.Equal) {
			continue
		}
		if found := s.extend(append(slices.Clone(path), ca)); found != nil {
			return found
		}
	}
	return nil
}

// issuers returns the certificates whose subject is the child's issuer, those with another key identifier last.
func issuers(child *x509.Certificate, among []*x509.Certificate) []*x509.Certificate {
	var first, last []*x509.Certificate
	for _, c := range among {
		if !bytes.Equal(c.RawSubject, child.RawIssuer) {
			continue
		}
		if len(child.AuthorityKeyId) > 0 && len(c.SubjectKeyId) > 0 && !bytes.Equal(child.AuthorityKeyId, c.SubjectKeyId) {
			last = append(last, c)
		} else {
			first = append(first, c)
		}
	}
	return append(first, last...)
}

// try judges one path that ends at a root. It returns the verified path, or nil and notes why not.
func (s *search) try(path []*x509.Certificate) []*x509.Certificate {
	verified, err := s.verify(path)
	if err != nil {
		s.note(err)
		return nil
	}
	return verified
}

func (s *search) verify(path []*x509.Certificate) ([]*x509.Certificate, error) {
	// A CA may certify its own next key (RFC 4210 section 4.4), so a name may stand twice, once in a path. More of it
	// would give x509.Verify a choice at every step, and its own budget is large.
	repeats := 0
	for i, c := range path {
		for _, other := range path[:i] {
			if bytes.Equal(c.RawSubject, other.RawSubject) {
				repeats++
			}
		}
	}
	if repeats > 1 {
		return nil, because(ErrUntrusted, "names repeat in the path")
	}
	if s.signatures -= (len(path) - 1) * (1 + repeats); s.signatures < 0 {
		s.signatures = 0
		return nil, because(ErrUntrusted, "the budget of signature checks is spent")
	}
	for i, c := range path[1:] {
		if err := s.policy.checkCA(c, i == len(path)-2); err != nil {
			return nil, err
		}
	}
	verified, err := s.build(path)
	if err != nil {
		return nil, err
	}
	for i, c := range verified {
		at := s.now
		if i == 0 {
			at = s.leafTime
		}
		if at.Before(c.NotBefore) || at.After(c.NotAfter) {
			return nil, because(ErrExpired, "%s, valid %s to %s", FormatName(c.RawSubject),
				c.NotBefore.Format(time.RFC3339), c.NotAfter.Format(time.RFC3339))
		}
	}
	if err := s.nestedPurposes(verified); err != nil {
		return nil, err
	}
	return verified, s.revocation(verified)
}

// build has x509.Verify check the path. A path with a SHA-1 signature it refuses altogether: buildSHA1 takes that.
func (s *search) build(path []*x509.Certificate) ([]*x509.Certificate, error) {
	last := len(path) - 1
	for _, c := range path[:last] {
		if c.SignatureAlgorithm == x509.SHA1WithRSA || c.SignatureAlgorithm == x509.ECDSAWithSHA1 {
			return path, buildSHA1(path)
		}
	}
	// Above a leaf that is judged by another time than now, the CA certificates are too.
	remember := s.leafTime.Equal(s.now) && rememberable(path)
	anchor := last
	if remember && s.policy.Known.has(path[1:]) {
		anchor = 1
	}
	// nil pools would mean the system's.
	roots, middle := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(path[anchor])
	if anchor > 0 {
		for _, c := range path[1:anchor] {
			middle.AddCert(c)
		}
	}
	// EKU is judged here and not there, where an unknown purpose cannot be asked for.
	chains, err := verifiable(path).Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: middle, CurrentTime: s.leafTime, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return nil, classify(err)
	}
	if anchor < last {
		return path, nil
	}
	if remember && slices.EqualFunc(chains[0], path, (*x509.Certificate).Equal) {
		s.policy.Known.add(path[1:])
	}
	chains[0][0] = path[0]
	return chains[0], nil
}

// classify gives an error of x509.Verify its kind.
func classify(err error) error {
	if _, ok := errors.AsType[x509.UnhandledCriticalExtension](err); ok {
		return because(ErrUsage, "%w", err)
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		switch invalid.Reason {
		case x509.Expired:
			return because(ErrExpired, "%w", err)
		case x509.NameMismatch:
			return because(ErrUntrusted, "%w", err)
		}
		return because(ErrUsage, "%w", err)
	}
	return because(ErrUntrusted, "%w", err)
}

// buildSHA1 checks what x509.Verify does for a path that has a SHA-1 signature in it, except for constraints on names and
// policies: a path that has any is refused.
func buildSHA1(path []*x509.Certificate) error {
	for i, c := range path {
		if len(c.UnhandledCriticalExtensions) > 0 {
			return because(ErrUsage, "%w", x509.UnhandledCriticalExtension{})
		}
		if i == 0 {
			continue
		}
		if hasExtension(c, oidNameConstraints) || hasExtension(c, oidPolicyConstraints) {
			return because(ErrUsage, "%s has constraints, which a path with SHA-1 cannot have", FormatName(c.RawSubject))
		}
		if c.BasicConstraintsValid && c.MaxPathLen >= 0 && i-1 > c.MaxPathLen {
			return because(ErrUsage, "path is longer than %s allows", FormatName(c.RawSubject))
		}
		// Unlike CheckSignatureFrom, CheckSignature takes SHA-1; MD5 neither does.
		child := path[i-1]
		if err := c.CheckSignature(child.SignatureAlgorithm, child.RawTBSCertificate, child.Signature); err != nil {
			return because(ErrUntrusted, "%w", err)
		}
	}
	return nil
}

// nestedPurposes demands that every CA below the root that lists purposes lists one that the leaf is accepted for, as
// x509.Verify does for the purposes that it knows.
func (s *search) nestedPurposes(path []*x509.Certificate) error {
	left := s.policy.purposes(path[0])
	for _, c := range path[1:] {
		if c == path[len(path)-1] || !hasExtension(c, oidExtKeyUsage) || hasPurpose(c, oidAnyExtKeyUsage) {
			continue
		}
		left = slices.DeleteFunc(slices.Clone(left), func(oid asn1.ObjectIdentifier) bool { return !hasPurpose(c, oid) })
		if len(left) == 0 {
			return because(ErrUsage, "extended key usage of %s", FormatName(c.RawSubject))
		}
	}
	return nil
}

func (s *search) revocation(path []*x509.Certificate) error {
	if s.policy.Revoked == nil {
		return nil
	}
	for i, c := range path {
		if i > 0 && i == len(path)-1 {
			break // the root
		}
		revoked, err := s.policy.Revoked(c)
		switch {
		case revoked:
			return because(ErrRevoked, "%s, serial number %x", FormatName(c.RawSubject), c.SerialNumber)
		case err != nil && !s.policy.AllowUnknownRevocation:
			return because(ErrRevocationUnknown, "%s: %w", FormatName(c.RawSubject), err)
		}
	}
	return nil
}

func hasExtension(c *x509.Certificate, oid asn1.ObjectIdentifier) bool {
	for _, e := range c.Extensions {
		if e.Id.Equal(oid) {
			return true
		}
	}
	return false
}
