package scep

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	smallscep "github.com/smallstep/scep"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cms"
	"github.com/muster-pki/muster/protocols/wire"
)

// Message types (RFC 8894 section 3.2.1.2), as plain strings: the library's own type panics when an unknown one is formatted.
const (
	typeRenewalReq = string(smallscep.RenewalReq)
	typePKCSReq    = string(smallscep.PKCSReq)
	typeCertPoll   = string(smallscep.CertPoll)
	typeGetCert    = string(smallscep.GetCert)
	typeGetCRL     = string(smallscep.GetCRL)
	typeCertRep    = string(smallscep.CertRep)
)

// pkiOperation answers RFC 8894 section 4.3. One private key operation opens the request, one signs the answer.
func (x *exchange) pkiOperation() *wire.Refusal {
	body, ref := x.readMessage()
	if ref != nil {
		return ref
	}
	if ref := x.identify(); ref != nil {
		return ref
	}
	signed, err := cms.ParseSigned(body, cms.Limits{Size: len(body)}) // the size is bounded by max-body
	if err != nil {
		return wire.Refused(gateway.Malformed, "the message is not a CMS SignedData (RFC 8894 section 3.2): "+err.Error(), err)
	}
	m, err := newPKIMessage(signed)
	if err != nil {
		return wire.Refused(gateway.Malformed, err.Error(), err)
	}
	x.message, x.Request.WireID = m, m.wireID
	key, ref := x.verify()
	if ref != nil {
		return ref
	}
	if ref := x.allow(); ref != nil {
		return ref
	}
	if x.message.kind == typeCertPoll {
		return x.poll()
	}
	if x.message.queries() {
		return x.query()
	}
	csr, ref := x.open(key)
	if ref != nil {
		return ref
	}
	if ref := x.fill(csr, key); ref != nil {
		return ref
	}
	x.Request.Raw = body
	return x.ask()
}

// verify checks that the message is signed by the holder of the key in the certificate that it carries, with accepted
// algorithms. Whose certificate that is, is not asked here.
func (x *exchange) verify() (*rsa.PublicKey, *wire.Refusal) {
	s, config := x.message.signed, x.endpoint.Config
	if !slices.Contains(config.digests(), s.Digest) {
		name := s.DigestOID.String()
		if s.Digest != 0 {
			name = s.Digest.String()
		}
		return nil, wire.Refused(gateway.BadAlgorithm, "the message is signed with the digest "+name+", which is not accepted here: use SHA-256, SHA-384 or SHA-512", nil)
	}
	x.message.digest = s.Digest
	if s.Content == nil || !s.ContentType.Equal(oidData) {
		return nil, wire.Refused(gateway.Malformed, "the message has no pkcsPKIEnvelope as its content, of type data (RFC 8894 section 3.2)", nil)
	}
	if s.Signer == nil {
		return nil, wire.Refused(gateway.BadIntegrity, "the message does not carry the certificate that it is signed with (RFC 8894 section 2.3)", nil)
	}
	// The bounds of the key come before any arithmetic with it.
	pub, err := pkix.ParsePublicKey(s.Signer.RawSubjectPublicKeyInfo)
	if err != nil {
		return nil, wire.Refused(gateway.BadAlgorithm, "the key that the message is signed with is not accepted: "+err.Error(), err)
	}
	key, ok := pub.(*rsa.PublicKey)
	if !ok {
		return nil, wire.Refused(gateway.BadAlgorithm, "the message is signed with a key of type "+pkix.KeyName(pub)+": an RSA key is needed, since the answer is encrypted to it", nil)
	}
	switch err := s.Verify([]crypto.Hash{s.Digest}); {
	case err == nil:
		return key, nil
	case errors.Is(err, cms.ErrAlgorithm):
		return nil, wire.Refused(gateway.BadAlgorithm, "the message's signature algorithm is not accepted", err)
	default:
		return nil, wire.Refused(gateway.BadIntegrity, "the message's signature does not verify", err)
	}
}

// allow is the allow-list of message types: what does not stand here is refused, whoever signed it.
func (x *exchange) allow() *wire.Refusal {
	switch x.message.kind {
	case typePKCSReq, typeRenewalReq, typeCertPoll, typeGetCert, typeGetCRL:
		return nil
	case "":
		return wire.Refused(gateway.Malformed, "the message has no messageType that can be read (RFC 8894 section 3.2.1.2)", nil)
	default:
		return wire.Refused(gateway.Unsupported, fmt.Sprintf("messageType %q is no request (RFC 8894 section 3.2.1.2)", x.message.kind), nil)
	}
}

// envelope reads what the pkcsPKIEnvelope says in clear: the cipher, which is the answer's too, and the RA that it is
// encrypted to. Where that is one before the current, the answer is that one's: the client knows no other.
func (x *exchange) envelope() (*cms.Enveloped, *wire.Refusal) {
	s, config := x.message.signed, x.endpoint.Config
	envelope, err := cms.ParseEnveloped(s.Content, cms.Limits{Size: len(s.Content)})
	if err != nil {
		return nil, wire.Refused(gateway.Malformed, "the pkcsPKIEnvelope is not a CMS EnvelopedData (RFC 8894 section 3.2.2): "+err.Error(), err)
	}
	if !config.encrypts(envelope.Cipher) {
		name := envelope.CipherOID.String()
		if envelope.Cipher != cms.CipherUnknown {
			name = envelope.Cipher.String()
		}
		return nil, wire.Refused(gateway.BadAlgorithm, "the envelope is encrypted with "+name+", which is not accepted here: use AES in CBC mode", nil)
	}
	x.message.cipher = envelope.Cipher
	if !envelope.For(x.ra.cert) {
		for _, p := range x.previous {
			if envelope.For(p.cert) && !x.h.now().After(p.cert.NotAfter) {
				x.ra = p
				break
			}
		}
	}
	return envelope, nil
}

// open takes the certification request out of the envelope. signer is the key that signed the message.
//
// From RecipientInfo to a request whose signature holds there is one refusal, and the same work whatever is wrong:
// decrypting does its own share of that (cms.Enveloped.Decrypt), what comes of it is parsed in any case, and where no
// request comes of that, one with the signer's key and a signature that does not hold takes its place. The sender chooses
// the keys, though, and so how long a verification takes: RSA-8192 costs milliseconds more than RSA-2048. So the refusal
// goes out when the clock says, not when the work is done.
func (x *exchange) open(signer *rsa.PublicKey) (*pkix.CSR, *wire.Refusal) {
	s, config := x.message.signed, x.endpoint.Config
	envelope, ref := x.envelope()
	if ref != nil {
		return nil, ref
	}
	started := time.Now()
	content, sealed := envelope.Decrypt(x.ra.key, x.ra.cert)
	if errors.Is(sealed, cms.ErrKey) {
		return nil, wire.Refused(gateway.Unavailable, "the RA's key cannot be used now", sealed)
	}
	csr, err := x.h.readCSR(content, config.judges())
	if csr == nil {
		stand, failed := standIn(signer, s.Signer.RawSubjectPublicKeyInfo)
		if failed == nil {
			_, failed = x.h.readCSR(stand, config.judges())
		}
		if failed == nil { // cannot be: nobody made that signature
			return nil, wire.Refused(gateway.Internal, "", errors.New("a request that stands in for none verifies"))
		}
	}
	switch {
	case sealed != nil && !envelope.For(x.ra.cert):
		err = fmt.Errorf("the envelope names another recipient than the RA certificate: %w", sealed)
	case sealed != nil:
		err = sealed
	}
	if err != nil {
		x.h.pause(x.R.Context(), untilNext(time.Since(started)))
		return nil, wire.Refused(gateway.Undecryptable, undecryptable, err)
	}
	return csr, nil
}

// undecryptableAfter is when a refusal of an envelope is answered, counted from the decryption: well after the work is
// done on any machine, with an RA key of any size that is of use. Where it is not, it is the next multiple.
const undecryptableAfter = 50 * time.Millisecond

func untilNext(took time.Duration) time.Duration {
	return undecryptableAfter - max(took, 0)%undecryptableAfter
}

// pause waits, or returns when the client is gone.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// readCSR reads the DER of a PKCS#10 request (RFC 2986) within the bounds of protocols/cms and gateway/pkix, and verifies
// its signature. With an error, csr is set if the key of the request had its say, so that nothing is left to do.
func readCSR(der []byte, judges []pkix.Option) (csr *pkix.CSR, err error) {
	if err := cms.Check(der, cms.Limits{Size: len(der)}); err != nil {
		return nil, fmt.Errorf("the envelope's content: %w", err)
	}
	if csr, err = pkix.ParseCSR(der, judges...); err != nil {
		return nil, fmt.Errorf("the request in the envelope: %w", err)
	}
	if err = csr.CheckSignature(judges...); err == nil {
		return csr, nil
	}
	if !errors.Is(err, pkix.ErrSignature) {
		csr = nil
	}
	return csr, fmt.Errorf("the request in the envelope: %w", err)
}

// ask passes the request to the gateway and answers with what comes of it.
func (x *exchange) ask() *wire.Refusal {
	result, err := x.h.gateway.Enroll(x.R.Context(), x.Request)
	return x.answer(result, err)
}

// answer renders what the gateway said.
func (x *exchange) answer(result *gateway.Result, err error) *wire.Refusal {
	switch {
	case err != nil:
		x.writeError(gateway.AsError(err), 0, "") // the gateway has noted it
		return nil
	case result == nil:
		return wire.Refused(gateway.Internal, "", errors.New("the gateway answered with nothing"))
	case result.Kind == gateway.ResultIssued && result.Certificate != nil:
		return x.failed(x.writeSuccess(x.issued(result)))
	case result.Kind == gateway.ResultPending:
		return x.failed(x.writePending())
	default:
		return wire.Refused(gateway.Internal, "", fmt.Errorf("the gateway answered with %q", result.Kind))
	}
}

// failed turns what went wrong with an answer into a refusal.
func (x *exchange) failed(err error) *wire.Refusal {
	if err == nil {
		return nil
	}
	return wire.Refused(gateway.Internal, "", err)
}

// issued is what a SUCCESS holds: the certificate as the leaf (RFC 8894 section 3.3.2.1), and its CA certificates by
// configuration.
func (x *exchange) issued(result *gateway.Result) []*x509.Certificate {
	certs := []*x509.Certificate{result.Certificate}
	if x.endpoint.Config.Chain != ChainFull {
		return certs
	}
	for i, c := range result.Chain {
		if i == 0 || x.endpoint.shows(c) {
			certs = append(certs, c)
		}
	}
	return certs
}
