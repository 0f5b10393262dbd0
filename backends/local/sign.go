package local

import (
	"bytes"
	"crypto"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// serialSize is the length of every serial number, in octets: as long as RFC 5280 section 4.1.2.2 allows.
const serialSize = 20

// positive makes the octets a positive integer, of this length exactly, in DER: 158 bits of them count.
func positive(serial []byte) []byte {
	serial[0] = serial[0]&0x7f | 0x40
	return serial
}

// serialNumber is the serial number of the certificate that is issued by issuer under the ID, where its key repeats: always the same one. The
// generation is no part of it: all generations have one name, and under that an ID and a serial number belong together.
func (a *authority) serialNumber(issuer, id string) []byte {
	m := hmac.New(sha256.New, a.secret)
	var length [8]byte
	for _, s := range []string{"muster serial number", issuer, id} {
		binary.BigEndian.PutUint64(length[:], uint64(len(s)))
		m.Write(length[:])
		io.WriteString(m, s)
	}
	return positive(m.Sum(nil)[:serialSize])
}

// signer signs the same bytes always with the same signature: ECDSA as in RFC 6979, Ed25519, RSA as PKCS #1 v1.5, none
// with a random source. So a certificate that was signed but not recorded, because the process died, is signed again as it was.
// A token's ECDSA is not like that: running.serial.
type signer struct {
	key   crypto.Signer
	check func(tbs []byte) error // sees what is to be signed, and can refuse; nil for none
}

func (s *signer) Public() crypto.PublicKey { return s.key.Public() }

// Sign ignores its random source: crypto/ecdsa is deterministic with a nil one.
func (s *signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.key.Sign(nil, digest, opts)
}

// SignMessage is crypto.MessageSigner: what crypto/x509 calls with the whole to-be-signed part.
func (s *signer) SignMessage(_ io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	if s.check != nil {
		if err := s.check(message); err != nil {
			return nil, err
		}
	}
	if opts.HashFunc() == 0 { // Ed25519 signs the message itself: RFC 8032 section 5.1.6
		return s.Sign(nil, message, opts)
	}
	h := opts.HashFunc().New()
	h.Write(message)
	return s.Sign(nil, h.Sum(nil), opts)
}

// errUnfit marks a certificate that was refused before it was signed.
var errUnfit = errors.New("the template does not make a sound certificate")

// sign makes the certificate of a checked template. It fails with errUnfit, and then nothing was signed.
// crypto/x509 verifies each signature that it makes: a fault in a computation (rowhammer, a bad core) would give an
// RSA-CRT or a deterministic ECDSA key away with one wrong signature.
func (g *generation) sign(t *template, serial []byte) ([]byte, error) {
	c := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		RawSubject:   t.Subject,
		NotBefore:    t.NotBefore.UTC(),
		NotAfter:     t.NotAfter.UTC(),
		// All of them, so that their order is ours and not that of a Go release.
		ExtraExtensions: t.extensions,
	}
	check := func(tbs []byte) error { return t.fits(tbs, c.SerialNumber) }
	return x509.CreateCertificate(nil, c, g.cert, t.key, &signer{key: g.key, check: check})
}

// fits reads what is to be signed as relying parties will, and compares it with the template. It is the last look
// before the signature: no certificate that crypto/x509 cannot parse, or understands in another way, is ever signed.
func (t *template) fits(tbs []byte, serial *big.Int) error {
	der, err := unsigned(tbs)
	if err != nil {
		return err
	}
	c, err := x509.ParseCertificate(der)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errUnfit, err)
	case c.Version != 3, c.SerialNumber.Cmp(serial) != 0, !bytes.Equal(c.RawSubject, t.Subject),
		!bytes.Equal(c.RawSubjectPublicKeyInfo, t.PublicKey), !c.NotBefore.Equal(t.NotBefore), !c.NotAfter.Equal(t.NotAfter),
		!c.BasicConstraintsValid, c.IsCA, c.KeyUsage != t.KeyUsage,
		len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) != len(t.ExtKeyUsage), len(c.Extensions) != len(t.extensions):
		return fmt.Errorf("%w: it reads otherwise than it was asked for", errUnfit)
	}
	return nil
}

// unsigned wraps a TBSCertificate as a Certificate with an empty signature.
//
//	Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm AlgorithmIdentifier, signature BIT STRING }
//	TBSCertificate ::= SEQUENCE { version [0], serialNumber INTEGER, signature AlgorithmIdentifier, ... }
func unsigned(tbs []byte) ([]byte, error) {
	var body, algorithm cryptobyte.String
	in := cryptobyte.String(tbs)
	if !in.ReadASN1(&body, cbasn1.SEQUENCE) || !body.SkipASN1(cbasn1.Tag(0).Constructed().ContextSpecific()) ||
		!body.SkipASN1(cbasn1.INTEGER) || !body.ReadASN1Element(&algorithm, cbasn1.SEQUENCE) {
		return nil, errors.New("crypto/x509 asked to sign what is not a TBSCertificate")
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		b.AddBytes(algorithm)
		b.AddASN1BitString(nil)
	})
	return b.Bytes()
}
