package pkix

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"sync"
)

// KnownPaths remembers which CA certificates were verified above each other, from the one that issues to devices up to a root: they
// are the same for all devices of a vendor, and their signatures need not be verified for each. What can change with time (dates,
// revocation, which roots are trusted) is not remembered, and neither is a path that is not sound. The zero value is empty.
type KnownPaths struct {
	mu   sync.Mutex
	seen map[[sha256.Size]byte]bool
}

// maxKnown bounds the paths that are remembered. Only holders of a trusted CA's key can make any.
const maxKnown = 64

// pathKey is the hash of the certificates. They cannot run into each other: each is one DER element.
func pathKey(cas []*x509.Certificate) [sha256.Size]byte {
	h := sha256.New()
	for _, c := range cas {
		h.Write(c.Raw)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func (k *KnownPaths) has(cas []*x509.Certificate) bool {
	if k == nil {
		return false
	}
	key := pathKey(cas)
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.seen[key]
}

func (k *KnownPaths) add(cas []*x509.Certificate) {
	if k == nil {
		return
	}
	key := pathKey(cas)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.seen == nil || len(k.seen) >= maxKnown {
		k.seen = map[[sha256.Size]byte]bool{}
	}
	k.seen[key] = true
}

// rememberable reports whether x509.Verify, asked about the leaf below the CA certificates of a path that it has accepted before,
// has anything to say about these that depends on the leaf: constraints on names and policies do, and of certificates with the
// same name it may take either. Where there is but one CA nothing is gained.
func rememberable(path []*x509.Certificate) bool {
	if len(path) < 3 || hasExtension(path[0], oidPolicyConstraints) {
		return false
	}
	for i, c := range path {
		if slices.ContainsFunc(path[:i], func(o *x509.Certificate) bool { return bytes.Equal(o.RawSubject, c.RawSubject) }) {
			return false
		}
		if i > 0 && slices.ContainsFunc(leafDependent, func(oid asn1.ObjectIdentifier) bool { return hasExtension(c, oid) }) {
			return false
		}
	}
	return true
}

// leafDependent are the extensions of CA certificates that judge what stands below.
var leafDependent = []asn1.ObjectIdentifier{
	oidNameConstraints, oidPolicyConstraints,
	{2, 5, 29, 33}, // policyMappings
	{2, 5, 29, 54}, // inhibitAnyPolicy
}
