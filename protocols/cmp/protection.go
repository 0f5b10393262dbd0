package cmp

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/wire"
)

// requester is who protected a message: a MAC's reference or a signer.
type requester struct {
	mac       *cmpmsg.MAC // nil for a signature
	reference []byte      // MAC: senderKID
	secret    gateway.Secret
	signer    *x509.Certificate // nil for a MAC
}

// maxCandidates is how many certificates of the sender's name are tried.
const maxCandidates = 3

// authenticate verifies the protection (RFC 9810 section 5.1.3) over the bytes as they came, and takes down whose it is.
// Whether that requester is known or trusted is for the pipeline.
func (x *exchange) authenticate(p *prior) *refusal {
	isMAC := x.message.Header.ProtectionAlg.IsMAC()
	if ref := x.endpoint.Config.onlySigned(isMAC); ref != nil {
		return ref
	}
	if p != nil && p.record.MAC != isMAC {
		return mixed(isMAC)
	}
	var q *requester
	var ref *refusal
	if isMAC {
		q, ref = x.verifyMAC(p)
	} else {
		q, ref = x.verifySignature(p)
	}
	if ref == nil {
		x.requester = q
	}
	return ref
}

// mixed refuses another kind of protection than the transaction's (failInfo wrongIntegrity).
func mixed(isMAC bool) *refusal {
	if isMAC {
		return refused(gateway.WrongProtection, "the transaction was begun with a signature, this message has a MAC", nil)
	}
	return refused(gateway.WrongProtection, "the transaction was begun with a MAC, this message has a signature", nil)
}

// noSuchSecret stands in for the secret of an unknown reference, so that it costs what a wrong MAC costs.
var noSuchSecret = [16]byte{}

// verifyMAC verifies a MAC. A wrong one and an unknown reference cannot be told apart from outside: the same work, the
// same words.
func (x *exchange) verifyMAC(p *prior) (*requester, *refusal) {
	h := &x.message.Header
	mac, err := cmpmsg.ParseMAC(h.ProtectionAlg, x.macPolicy())
	if err != nil {
		return nil, refused(gateway.BadAlgorithm, "the MAC of the message is not accepted: "+err.Error(), err)
	}
	reference := h.SenderKID
	if reference == nil && p != nil {
		reference = p.record.Reference
	}
	var secret gateway.Secret
	if len(reference) > 0 && len(reference) <= maxReference {
		if secret, err = x.h.gateway.SharedSecret(x.R.Context(), x.endpoint.Name, reference); err != nil {
			return nil, &refusal{Refusal: wire.Refusal{Err: gateway.AsError(err)}}
		}
	}
	known := len(secret) > 0
	if !known {
		secret = noSuchSecret[:]
	}
	if !mac.Verify(secret, x.message.Protected(), x.message.Protection) || !known {
		cause := fmt.Errorf("the MAC of reference %s is wrong", gateway.ReferenceID(reference[:min(len(reference), maxReference)]))
		if !known {
			cause = fmt.Errorf("no secret has the reference %s", gateway.ReferenceID(reference[:min(len(reference), maxReference)]))
		}
		return nil, refused(gateway.BadIntegrity, "the reference (senderKID) is not known, or the MAC is not made with its secret", cause)
	}
	x.Request.Credentials = []gateway.Credential{{Kind: gateway.CredentialMAC, ID: gateway.ReferenceID(reference), Secret: secret}}
	return &requester{mac: mac, reference: reference, secret: secret}, nil
}

func (x *exchange) macPolicy() cmpmsg.MACPolicy {
	return cmpmsg.MACPolicy{AllowSHA1: x.endpoint.Config.allowSHA1()}
}

// maxReference is how many bytes a reference may have.
const maxReference = 255

// verifySignature finds the signer among the extraCerts, wherever it stands (RFC 9810 section 5.1 wants it first, and
// not everybody puts it there), or in the record of the transaction, and verifies the signature. The signer must be the
// named sender, and its key the one that senderKID names: a certificate that merely chains to an anchor is not enough.
func (x *exchange) verifySignature(p *prior) (*requester, *refusal) {
	h := &x.message.Header
	sender, ok := cmpmsg.DirectoryName(h.Sender)
	if !ok {
		return nil, refused(gateway.BadIntegrity, "the sender of a signed message is named by the subject of its certificate", nil)
	}
	// Who goes on with a transaction is most often the one who began it: what else came along need not be looked at for him.
	recorded := p.signer(sender, h.SenderKID)
	q, ref := x.signedBy(recorded, nil)
	if q != nil {
		return q, nil
	}
	certs := parseExtraCerts(x.message.ExtraCerts)
	candidates := signers(certs, sender, h.SenderKID)
	if len(recorded)+len(candidates) == 0 {
		return nil, refused(gateway.BadIntegrity, "no certificate in extraCerts is the sender's: its subject is the sender, its subjectKeyIdentifier the senderKID",
			fmt.Errorf("sender %s, senderKID %x, %s", pkix.FormatName(sender), h.SenderKID[:min(len(h.SenderKID), maxReference)], census(x.message.ExtraCerts)))
	}
	q, other := x.signedBy(candidates[:min(len(candidates), maxCandidates-len(recorded))], certs)
	switch {
	case q != nil:
		return q, nil
	case ref == nil:
		ref = other
	}
	return nil, ref
}

// signer is the certificate, as a list, that signed the message which began the transaction, when it is that sender's; else
// nothing.
func (p *prior) signer(sender, kid []byte) []*x509.Certificate {
	if p == nil {
		return nil
	}
	c, err := x509.ParseCertificate(p.record.Signer)
	if err != nil {
		return nil
	}
	return signers([]*x509.Certificate{c}, sender, kid)
}

// signedBy verifies the signature with each of the candidates until one fits, and takes it down as the signer, certs with it.
// Without any there is neither a signer nor a refusal.
func (x *exchange) signedBy(candidates, certs []*x509.Certificate) (*requester, *refusal) {
	var ref *refusal
	protected := x.message.Protected()
	for _, c := range candidates {
		err := x.checkSignature(c.RawSubjectPublicKeyInfo, x.message.Header.ProtectionAlg, protected, x.message.Protection)
		if err == nil {
			x.Request.Credentials = []gateway.Credential{{
				Kind: gateway.CredentialSigner, ID: gateway.Fingerprint(c), Chain: chainFrom(c, certs),
			}}
			return &requester{signer: c}, nil
		}
		if ref == nil {
			ref = signatureRefusal(err)
		}
	}
	return nil, ref
}

// checkSignature verifies a signature with the key, whose bounds are checked before any arithmetic.
func (x *exchange) checkSignature(spki []byte, alg *cmpmsg.AlgorithmIdentifier, data, signature []byte) error {
	pub, err := pkix.ParsePublicKey(spki)
	if err != nil {
		return err
	}
	var opts []pkix.Option
	if x.endpoint.Config.allowSHA1() {
		opts = append(opts, pkix.AllowSHA1())
	}
	return pkix.VerifySignature(pub, alg.Raw, data, signature, opts...)
}

func signatureRefusal(err error) *refusal {
	if errors.Is(err, pkix.ErrAlgorithm) || errors.Is(err, pkix.ErrWeak) {
		return refused(gateway.BadAlgorithm, "the message's signature algorithm or key is not accepted: "+err.Error(), err)
	}
	return refused(gateway.BadIntegrity, "the message's signature does not verify with the sender's certificate", err)
}

// parseExtraCerts parses what parses of the extraCerts: what does not may be meant for somebody else.
func parseExtraCerts(ders [][]byte) []*x509.Certificate {
	var certs []*x509.Certificate
	for _, der := range ders {
		if c, err := x509.ParseCertificate(der); err == nil {
			certs = append(certs, c)
		}
	}
	return certs
}

// census says what there is among the extraCerts, and why the first of those that do not parse does not, for the operator: a
// device's own certificate may have a key of a kind that nothing here knows.
func census(ders [][]byte) string {
	var first error
	good := 0
	for _, der := range ders {
		_, err := x509.ParseCertificate(der)
		switch {
		case err == nil:
			good++
		case first == nil:
			first = err
		}
	}
	text := fmt.Sprintf("%d extraCerts, of which %d parse", len(ders), good)
	if first != nil {
		text += ": " + first.Error()
	}
	return text
}

// signers returns those of the certificates that are the sender's, by name, and by key identifier where both sides
// have one. A sender that is a NULL-DN names nobody: the senderKID has to, and the certificate has no subject either (RFC 9810
// section 5.1.1).
func signers(certs []*x509.Certificate, sender, kid []byte) []*x509.Certificate {
	var list []*x509.Certificate
	for _, c := range certs {
		same := bytes.Equal(c.SubjectKeyId, kid)
		if pkix.SameName(c.RawSubject, sender) && (same && len(kid) > 0 || !isNullDN(sender) && (len(kid) == 0 || len(c.SubjectKeyId) == 0)) {
			list = append(list, c)
		}
	}
	return list
}

// chainFrom puts the signer before the other certificates.
func chainFrom(signer *x509.Certificate, certs []*x509.Certificate) []*x509.Certificate {
	chain := []*x509.Certificate{signer}
	for _, c := range certs {
		if !c.Equal(signer) {
			chain = append(chain, c)
		}
	}
	return chain
}
