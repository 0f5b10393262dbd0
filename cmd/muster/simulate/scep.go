package simulate

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cms"
)

var oidChallenge = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7}

// Message types (RFC 8894 section 3.2.1.2).
const (
	renewalReq = "17"
	pkcsReq    = "19"
	certPoll   = "20"
)

// digests are those of answers' signatures. micromdm's scepserver knows only SHA-1; what the devices get protects nothing.
var digests = []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512, crypto.SHA1}

var errRSAOnly = errors.New("over SCEP the keys are RSA-2048: answers are encrypted to them (RFC 8894 section 2.1.2)")

// SCEP is a client of RFC 8894: PKCSReq with a challenge, signed with a self-signed certificate of the device; RenewalReq signed with the
// certificate that it renews; CertPoll when told to wait. Answers are signed by one of the certificates of GetCACert, or are none.
type SCEP struct {
	link      *link
	challenge string
	ra        *x509.Certificate   // messages are encrypted to it
	all       []*x509.Certificate // of GetCACert
}

// NewSCEP makes one for the service at the target's URL (http://HOST/scep, with /NAME where there is one), and gets its RA certificate.
func NewSCEP(ctx context.Context, t Target, challenge string) (*SCEP, error) {
	l, err := newLink(t)
	if err != nil {
		return nil, err
	}
	res, err := l.do(ctx, call{method: http.MethodGet, query: "operation=GetCACert"})
	if err != nil {
		return nil, fmt.Errorf("GetCACert: %w", err)
	}
	if res.status != http.StatusOK {
		return nil, fmt.Errorf("GetCACert: HTTP %d: %s", res.status, firstLine(res.body))
	}
	s := &SCEP{link: l, challenge: challenge}
	if ca, err := x509.ParseCertificate(res.body); err == nil { // section 4.2.1.1
		s.ra, s.all = ca, []*x509.Certificate{ca}
	} else if err := s.read(res.body); err != nil {
		return nil, fmt.Errorf("GetCACert: %w", err)
	}
	if _, ok := s.ra.PublicKey.(*rsa.PublicKey); !ok {
		return nil, errors.New("GetCACert: there is no certificate with an RSA key, to which messages are encrypted")
	}
	return s, nil
}

// read takes the certificates of a list (section 4.2.1.2), in whatever order it has them.
func (s *SCEP) read(list []byte) error {
	certs, err := cms.ParseCertsOnly(list, cms.Limits{})
	if err == nil && len(certs) == 0 {
		err = errors.New("no certificate")
	}
	if err != nil {
		return err
	}
	for _, der := range certs {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		s.all = append(s.all, c)
	}
	s.ra = encipherer(s.all)
	return nil
}

// encipherer is the certificate that messages are encrypted to: with an RSA key, of an RA before a CA, and of those the first that says that it is for
// that. Some servers' RA certificates do not: a CA or an RA without keyEncipherment is used where there is no better one.
func encipherer(all []*x509.Certificate) *x509.Certificate {
	best, most := all[0], -1
	for _, c := range all {
		if _, ok := c.PublicKey.(*rsa.PublicKey); !ok {
			continue
		}
		points := 0
		if c.KeyUsage&x509.KeyUsageKeyEncipherment != 0 {
			points += 2
		}
		if !c.IsCA {
			points++
		}
		if points > most {
			best, most = c, points
		}
	}
	return best
}

// issuer is the CA's name, as far as the RA's certificate tells.
func (s *SCEP) issuer() []byte {
	if s.ra.IsCA {
		return s.ra.RawSubject
	}
	return s.ra.RawIssuer
}

// Fits says why devices with such keys cannot use SCEP.
func (*SCEP) Fits(keys string) error {
	if keys != RSA2048 {
		return errRSAOnly
	}
	return nil
}

// polls is what a device keeps of a request that is PENDING.
type polls struct {
	tid    string
	signer []byte // DER
}

// Ask makes one try.
func (s *SCEP) Ask(ctx context.Context, d Device) Answer {
	key, ok := d.Key.(*rsa.PrivateKey)
	if !ok {
		return Answer{Refused: errRSAOnly.Error()}
	}
	kind, tid := pkcsReq, hex.EncodeToString(random(16))
	open, again := d.Open.(*polls)
	var signer *x509.Certificate
	var err error
	switch {
	case again:
		kind, tid = certPoll, open.tid
		signer, err = x509.ParseCertificate(open.signer)
	case d.Cert != nil:
		kind = renewalReq
		signer, err = x509.ParseCertificate(d.Cert)
	default:
		signer, err = selfSigned(key, d.Subject)
	}
	if err != nil {
		return Answer{Refused: "making the request: " + err.Error()}
	}
	nonce := random(16)
	message, err := s.message(kind, tid, nonce, d.Subject, key, signer)
	if err != nil {
		return Answer{Refused: "making the request: " + err.Error()}
	}
	res, err := s.link.do(ctx, call{method: http.MethodPost, query: "operation=PKIOperation", contentType: "application/x-pki-message", body: message})
	if err != nil {
		return broken(err)
	}
	if res.status != http.StatusOK {
		a := res.failed()
		if again && a.Away != "" {
			a.Open = open
		}
		return a
	}
	a := s.take(res, tid, nonce, key, signer)
	if a.Away != "" {
		a.Open = &polls{tid, signer.Raw}
	}
	return a
}

// message makes a pkiMessage (section 3.2).
func (s *SCEP) message(kind, tid string, nonce, subject []byte, key *rsa.PrivateKey, signer *x509.Certificate) ([]byte, error) {
	var content []byte
	var err error
	if kind == certPoll { // IssuerAndSubject, section 3.3.3
		var b cryptobyte.Builder
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddBytes(s.issuer())
			b.AddBytes(subject)
		})
		content, err = b.Bytes()
	} else {
		challenge := s.challenge
		if kind == renewalReq {
			challenge = ""
		}
		content, err = ChallengeRequest(key, subject, challenge)
	}
	if err != nil {
		return nil, err
	}
	envelope, err := cms.Encrypt(content, s.ra, cms.AES128)
	if err != nil {
		return nil, err
	}
	return cms.Sign(cms.SignOptions{
		Content: envelope, Key: key, Certificate: signer, Certificates: []*x509.Certificate{signer}, Digest: crypto.SHA256,
		Attributes: []cms.Attribute{
			cms.AttributePrintable(cms.SCEPMessageType, kind), cms.AttributePrintable(cms.SCEPTransactionID, tid), cms.AttributeOctets(cms.SCEPSenderNonce, nonce),
		},
	})
}

// take reads the CertRep to a message.
func (s *SCEP) take(res *response, tid string, nonce []byte, key *rsa.PrivateKey, signer *x509.Certificate) Answer {
	m, err := cms.ParseSigned(res.body, cms.Limits{})
	if err != nil {
		return Answer{Refused: "the answer is no CertRep: " + err.Error()}
	}
	if m.Signer == nil || !slices.ContainsFunc(s.all, m.Signer.Equal) || m.Verify(digests) != nil {
		return Answer{Refused: "the answer is not signed by the RA certificate"}
	}
	text := func(oid asn1.ObjectIdentifier) string {
		value, _ := m.Attribute(oid)
		text, _ := cms.StringValue(value)
		return text
	}
	value, _ := m.Attribute(cms.SCEPRecipientNonce)
	if got, _ := cms.OctetsValue(value); !bytes.Equal(got, nonce) || text(cms.SCEPTransactionID) != tid {
		return Answer{Refused: errForeign.Error()}
	}
	switch status := text(cms.SCEPPKIStatus); status { // section 3.2.1.3
	case "0":
	case "3":
		return res.away("PENDING")
	default:
		return Answer{Refused: fmt.Sprintf("pkiStatus %s, failInfo %s: %s", status, text(cms.SCEPFailInfo), firstLine([]byte(text(cms.SCEPFailInfoText))))}
	}
	sealed, err := cms.ParseEnveloped(m.Content, cms.Limits{})
	if err != nil {
		return Answer{Refused: "the answer's envelope: " + err.Error()}
	}
	der, err := sealed.Decrypt(key, signer)
	if err != nil {
		return Answer{Refused: "the answer's envelope: " + err.Error()}
	}
	return onlyCertificate(der)
}

// selfSigned is the certificate that a device without one signs with (section 2.3): of its own name, so that devices which share a key
// are told apart.
func selfSigned(key *rsa.PrivateKey, subject []byte) (*x509.Certificate, error) {
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), RawSubject: subject, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// ChallengeRequest is a PKCS #10 request with a challengePassword (RFC 2985 section 5.4.1), which crypto/x509 does not make. "" leaves
// it out. The subject is a DER Name.
func ChallengeRequest(key *rsa.PrivateKey, subject []byte, challenge string) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	var info cryptobyte.Builder
	info.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(0)
		b.AddBytes(subject)
		b.AddBytes(spki)
		b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			if challenge == "" {
				return
			}
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(oidChallenge)
				b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
					b.AddASN1(cbasn1.PrintableString, func(b *cryptobyte.Builder) { b.AddBytes([]byte(challenge)) })
				})
			})
		})
	})
	tbs, err := info.Bytes()
	if err != nil {
		return nil, err
	}
	algorithm, signature, err := pkix.Sign(key, tbs)
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		b.AddBytes(algorithm)
		b.AddASN1BitString(signature)
	})
	return b.Bytes()
}
