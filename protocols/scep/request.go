package scep

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/wire"
)

var (
	oidData           = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidSHA256WithRSA  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
)

// maxChallenge is how many bytes a challengePassword may have. RFC 2985 section 5.4.1 has 255 characters.
const maxChallenge = 1024

// fill writes what the message asks for into the request. key is that which signed the message.
//
//	type | signer's certificate       | operation     | credentials                | key of the request
//	19   | self-signed                | Enroll        | message-key, challenge     | the signer's
//	19   | one that was issued here   | Renew, Rekey  | signer                     | any
//	19   | another                    | Enroll        | signer, challenge          | the signer's
//	19   | another                    | Enroll        | signer                     | any other
//	17   | any                        | Renew, Rekey  | signer                     | any
//
// A self-signed certificate says nothing that the message's signature does not: that the key is the sender's, so that he
// is known again when he polls or repeats himself, and nothing about who he is. A challenge
// counts only beside a signature by the key that is to be certified: somebody who took an envelope from the wire and
// signed it anew with a certificate of his own making would be the one who gets the answer. In a renewal it is left out:
// clients resend the one that they were enrolled with, spent long ago (RFC 8894 section 2.4), and it must not stand in
// for a certificate that is no longer good.
func (x *exchange) fill(csr *pkix.CSR, key *rsa.PublicKey) *wire.Refusal {
	r, signer := x.Request, x.message.signed.Signer
	r.CSR, r.Subject, r.PublicKey, r.Extensions = csr.Raw, csr.Subject, csr.PublicKey, csr.Extensions
	asked, ok := csr.Key.(*rsa.PublicKey)
	if !ok {
		return wire.Refused(gateway.BadAlgorithm, "the request is for a key of type "+pkix.KeyName(csr.Key)+": SCEP here certifies RSA keys only, since answers are encrypted to them", nil)
	}
	r.POP = gateway.POPSignature
	r.Notes = append(r.Notes, x.facts(csr))
	if ref := x.checkContents(csr); ref != nil {
		return ref
	}
	challenge, present, err := csr.ChallengePassword()
	if err != nil || len(challenge) > maxChallenge {
		return wire.Refused(gateway.Malformed, "the request's challengePassword is not a string of at most 1024 bytes (RFC 2985 section 5.4.1)", err)
	}
	present = present && challenge != ""

	same := key.Equal(asked)
	selfSigned := bytes.Equal(signer.RawIssuer, signer.RawSubject)
	renewal := x.message.kind == typeRenewalReq
	if !renewal && !selfSigned {
		if renewal, err = x.h.gateway.Issued(x.R.Context(), signer); err != nil {
			return &wire.Refusal{Err: gateway.AsError(err)}
		}
	}
	switch {
	case renewal:
		r.Operation, r.OldCert = gateway.Rekey, signer
		if same {
			r.Operation = gateway.Renew
		}
		r.Credentials = []gateway.Credential{signerCredential(x.message.signed.Certificates, signer)}
	case selfSigned:
		r.Operation = gateway.Enroll
		r.Credentials = []gateway.Credential{keyCredential(signer)}
		if !same {
			return wire.Refused(gateway.BadPOP, "the message is signed with another key than the request's: a self-signed certificate has to be that of the key to be certified (RFC 8894 section 2.3)", nil)
		}
	default:
		r.Operation = gateway.Enroll
		r.Credentials = []gateway.Credential{signerCredential(x.message.signed.Certificates, signer)}
	}
	switch {
	case present && same && !renewal:
		r.Credentials = append(r.Credentials, gateway.Credential{Kind: gateway.CredentialChallenge, Secret: gateway.Secret(challenge)})
	case present && renewal:
		r.Notes = append(r.Notes, "the challenge was not looked at, right or wrong: this is a renewal, for which the old certificate has to do")
	case present:
		r.Notes = append(r.Notes, "the challenge was not looked at, right or wrong: the message is signed with another key than the one to be certified")
	}
	r.Message = x.message.signed.SignedHash()
	if r.Content, err = repeatContent(x.message.kind, signer, csr.PublicKey); err != nil {
		return wire.Refused(gateway.Malformed, "the request cannot be encoded again", err)
	}
	return nil
}

// checkContents looks at what policy will read.
func (x *exchange) checkContents(csr *pkix.CSR) *wire.Refusal {
	for _, e := range csr.Extensions {
		if e.Id.Equal(oidSubjectAltName) {
			if _, err := pkix.ParseGeneralNames(e.Value); err != nil {
				return wire.Refused(gateway.Malformed, "the request's subjectAltName does not parse: "+err.Error(), err)
			}
		}
	}
	return nil
}

// keyCredential is the key that signed the message, whatever the certificate says that came with it.
func keyCredential(signer *x509.Certificate) gateway.Credential {
	return gateway.Credential{Kind: gateway.CredentialKey, ID: gateway.KeyFingerprint(signer)}
}

// signerCredential is the certificate that signed the message, with the others that came along.
func signerCredential(certs []*x509.Certificate, signer *x509.Certificate) gateway.Credential {
	chain := []*x509.Certificate{signer}
	for _, c := range certs {
		if !bytes.Equal(c.Raw, signer.Raw) {
			chain = append(chain, c)
		}
	}
	return gateway.Credential{Kind: gateway.CredentialSigner, ID: gateway.Fingerprint(signer), Chain: chain}
}

// repeatContent is what has to be equal, with the transactionID, for a repeat to be the same request. The nonce, the
// signatures, the envelope and the challenge are made anew each time. The signer is in it although a self-signed one is
// no credential: whoever has seen a transactionID finds nothing by it without that signer's key.
//
//	Content ::= SEQUENCE {
//	    version      INTEGER (1),
//	    messageType  UTF8String,
//	    signer       OCTET STRING,            -- SHA-256 of the certificate
//	    publicKey    SubjectPublicKeyInfo }
func repeatContent(kind string, signer *x509.Certificate, spki []byte) ([]byte, error) {
	sum := sha256.Sum256(signer.Raw)
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(1)
		b.AddASN1(cbasn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(kind)) })
		b.AddASN1OctetString(sum[:])
		b.AddBytes(spki)
	})
	return b.Bytes()
}

// standIn makes a certification request with the key whose signature, of the right size, nobody made.
func standIn(key *rsa.PublicKey, spki []byte) ([]byte, error) {
	signature := bytes.Repeat([]byte{0x5a}, key.Size())
	signature[0] = 0 // below the modulus
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { // CertificationRequest: see pkix.ParseCSR
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1Int64(0)
			b.AddASN1(cbasn1.SEQUENCE, func(*cryptobyte.Builder) {})
			b.AddBytes(spki)
			b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(*cryptobyte.Builder) {})
		})
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oidSHA256WithRSA)
			b.AddASN1NULL()
		})
		b.AddASN1BitString(signature)
	})
	return b.Bytes()
}
