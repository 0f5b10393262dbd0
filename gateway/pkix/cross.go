package pkix

import (
	"bytes"
	"crypto/x509"
)

// maxGenerations is how many changes of a root's key are followed back.
const maxGenerations = 4

// Crosses returns the certificates among those given that lead from a CA certificate to one of another generation:
// each is for the key of the one before it, signed by another key (NewWithOld and OldWithNew of RFC 9810 section 5.3.13).
// A verifier that trusts the other generation alone finds its way by them. They are in the order of a chain.
func Crosses(ca *x509.Certificate, among []*x509.Certificate) []*x509.Certificate {
	var crosses []*x509.Certificate
	passed := [][]byte{ca.RawSubjectPublicKeyInfo}
	for range maxGenerations {
		cross, issuer := crossOf(ca, among, passed)
		if cross == nil {
			break
		}
		crosses, passed = append(crosses, cross), append(passed, issuer.RawSubjectPublicKeyInfo)
		ca = issuer
	}
	return crosses
}

// crossOf finds a certificate for the key of ca that another key has signed, and the certificate of that key, which is
// among the others.
func crossOf(ca *x509.Certificate, among []*x509.Certificate, passed [][]byte) (cross, issuer *x509.Certificate) {
	for _, c := range among {
		// Further on, ca may be found as the very link that leads on from it.
		if !bytes.Equal(c.RawSubjectPublicKeyInfo, ca.RawSubjectPublicKeyInfo) || len(passed) == 1 && c.Equal(ca) {
			continue
		}
	next:
		for _, by := range among {
			if !SameName(by.RawSubject, c.RawIssuer) {
				continue
			}
			for _, key := range passed {
				if bytes.Equal(key, by.RawSubjectPublicKeyInfo) {
					continue next
				}
			}
			if c.CheckSignatureFrom(by) == nil {
				return c, by
			}
		}
	}
	return nil, nil
}
