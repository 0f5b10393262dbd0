package scep

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"time"

	smallscep "github.com/smallstep/scep"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cms"
	"github.com/muster-pki/muster/protocols/wire"
)

// queries reports whether the message asks for what there is: GetCert, GetCRL (RFC 8894 section 3.3.4).
func (m *pkiMessage) queries() bool { return m.kind == typeGetCert || m.kind == typeGetCRL }

// noSuch is all that is said of a certificate or CRL that is not told of, whatever the reason.
const noSuch = "there is no such certificate or CRL for this client; or the envelope does not hold its IssuerAndSerialNumber, encrypted to the RA certificate"

// query answers GetCert and GetCRL (RFC 8894 sections 4.5 and 4.6). Who asks has shown the key of the certificate that signed
// the message; whether that may ask is the query pipeline's to say, before anything that was encrypted has a say.
//
// What the envelope holds is not authenticated by anything in it, as in CertPoll: nobody must learn from an answer what
// somebody else's envelope holds. So a name that is not one, one that is nobody's and one that is another's are one FAILURE, at the
// times of the clock (see open), as all refusals here are. SUCCESS takes a plaintext that its sender knows to the last byte.
func (x *exchange) query() *wire.Refusal {
	r, signer := x.Request, x.message.signed.Signer
	r.Operation = gateway.Query
	envelope, ref := x.envelope()
	if ref != nil {
		return ref
	}
	if bytes.Equal(signer.RawIssuer, signer.RawSubject) {
		r.Credentials = []gateway.Credential{keyCredential(signer)}
	} else {
		r.Credentials = []gateway.Credential{signerCredential(x.message.signed.Certificates, signer)}
	}
	started := time.Now()
	content, err := envelope.Decrypt(x.ra.key, x.ra.cert)
	if errors.Is(err, cms.ErrKey) {
		return wire.Refused(gateway.Unavailable, "the RA's key cannot be used now", err)
	}
	target, unread := readIssuerAndSerial(content)
	if err = errors.Join(err, unread); err == nil {
		r.Target = target
	} else {
		r.Notes = append(r.Notes, fmt.Sprintf("the envelope: %v", err))
	}
	ask := x.h.gateway.QueryCertificate
	if x.message.kind == typeGetCRL {
		ask = x.h.gateway.QueryCRL
	}
	result, err := ask(x.R.Context(), r)
	if err != nil { // whichever: it comes after the decryption
		x.h.pause(x.R.Context(), untilNext(time.Since(started)))
	}
	switch e := gateway.AsError(err); {
	case err != nil && e.Reason == gateway.UnknownCert:
		return x.failed(x.writeFailure(smallscep.BadCertID, wire.Line(noSuch, e.Transaction)))
	case err != nil:
		x.writeError(e, 0, "") // the gateway has noted it
		return nil
	case result == nil || result.Kind != gateway.ResultAnswer:
		return wire.Refused(gateway.Internal, "", errors.New("the gateway did not answer the query"))
	}
	if len(result.Answer) > maxCRLAnswer {
		return wire.Refused(gateway.Unsupported, fmt.Sprintf("the CRL is larger than the %d MiB that GetCRL gives out: get it over HTTP (RFC 8894 section 7.8)", maxCRLAnswer>>20), nil)
	}
	return x.failed(x.writeFound(result))
}

// maxCRLAnswer is how many bytes a CRL may have that is encrypted and signed for one client: each answer has copies of its own in memory,
// where CRLs over HTTP share one.
const maxCRLAnswer = 8 << 20

// writeFound answers with a CertRep SUCCESS: a degenerate SignedData with the certificate alone (sections 4.5.1 and 3.3.2.1), or with the
// CRL alone (section 4.6.1), in the envelope.
func (x *exchange) writeFound(result *gateway.Result) error {
	if x.message.kind == typeGetCert {
		if len(result.Certificates) != 1 {
			return fmt.Errorf("%d certificates for one", len(result.Certificates))
		}
		return x.writeSuccess([]*x509.Certificate{result.Certificates[0]})
	}
	content, err := cms.CRLsOnly(result.Answer)
	if err != nil {
		return err
	}
	return x.writeEnveloped(content)
}

// readIssuerAndSerial reads the messageData of GetCert and GetCRL, within the bounds of protocols/cms.
//
//	IssuerAndSerialNumber ::= SEQUENCE {            -- RFC 5652 section 10.2.4
//	    issuer        Name,
//	    serialNumber  INTEGER }
func readIssuerAndSerial(der []byte) (*gateway.CertID, error) {
	if err := cms.Check(der, cms.Limits{Size: len(der)}); err != nil {
		return nil, err
	}
	in := cryptobyte.String(der)
	var sequence, issuer cryptobyte.String
	serial := new(big.Int)
	if !in.ReadASN1(&sequence, cbasn1.SEQUENCE) || !in.Empty() || !sequence.ReadASN1Element(&issuer, cbasn1.SEQUENCE) ||
		!sequence.ReadASN1Integer(serial) || !sequence.Empty() {
		return nil, errors.New("no IssuerAndSerialNumber (RFC 5652 section 10.2.4)")
	}
	if serial.Sign() <= 0 || serial.BitLen() > maxSerial {
		return nil, errors.New("the serial number is not a positive one of at most 20 octets (RFC 5280 section 4.1.2.2)")
	}
	return &gateway.CertID{Issuer: issuer, Serial: serial}, nil
}

const maxSerial = 20 * 8 // bits
