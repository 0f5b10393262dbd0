package local

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"log/slog"
	"math/big"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// hashedBy is a CA's name and key as a CertID has them: hashes of the DER Name, and of the subjectPublicKey without tag, length
// and unused bits (RFC 6960 section 4.1.1).
func hashedBy(hash crypto.Hash, ca *x509.Certificate) (name, key string, err error) {
	in := cryptobyte.String(ca.RawSubjectPublicKeyInfo)
	var body cryptobyte.String
	var bits []byte
	if !in.ReadASN1(&body, cbasn1.SEQUENCE) || !body.SkipASN1(cbasn1.SEQUENCE) || !body.ReadASN1BitStringAsBytes(&bits) {
		return "", "", errors.New("not a DER SubjectPublicKeyInfo")
	}
	sum := func(data []byte) string {
		h := hash.New()
		h.Write(data)
		return string(h.Sum(nil))
	}
	return sum(ca.RawSubject), sum(bits), nil
}

// ocspKey is a CA's certificate as those with OCSP questions name it: all generations of one name and key are one.
type ocspKey struct {
	id                string // tells it from every other one
	ca                *issuer
	by                *generation // the newest with the name and the key
	nameHash, keyHash map[crypto.Hash]string
}

// ocspKeys are all of them.
type ocspKeys []*ocspKey

// readOCSPKeys lists the keys of all generations.
func readOCSPKeys(a *authority) (ocspKeys, error) {
	var keys ocspKeys
	for _, i := range a.issuers {
		for _, g := range i.all {
			sum := sha256.Sum256(slices.Concat(g.cert.RawSubject, g.cert.RawSubjectPublicKeyInfo))
			id := string(sum[:])
			if n := slices.IndexFunc(keys, func(k *ocspKey) bool { return k.id == id }); n >= 0 {
				keys[n].by = g
				continue
			}
			k := &ocspKey{id: id, ca: i, by: g, nameHash: map[crypto.Hash]string{}, keyHash: map[crypto.Hash]string{}}
			for hash := range ocspHashes {
				var err error
				if k.nameHash[hash], k.keyHash[hash], err = hashedBy(hash, g.cert); err != nil {
					return nil, err
				}
			}
			keys = append(keys, k)
		}
	}
	return keys, nil
}

// named finds the key of a CA that a CertID names; nil when that is another one.
func (keys ocspKeys) named(ca *issuer, id *certID) *ocspKey {
	for _, k := range keys {
		if k.ca == ca && id.hash != 0 && k.nameHash[id.hash] == id.nameHash && k.keyHash[id.hash] == id.keyHash {
			return k
		}
	}
	return nil
}

// of finds the key that a generation of a CA signed with.
func (keys ocspKeys) of(g *generation) *ocspKey {
	for _, k := range keys {
		if k.by.ca == g.ca && k.by.keyFirst == g.keyFirst && bytes.Equal(k.by.cert.RawSubject, g.cert.RawSubject) {
			return k
		}
	}
	return nil
}

// responder signs OCSP answers for one key of a CA: a certificate of its own (RFC 6960 section 4.2.2.2), whose key is in this
// process's memory alone. It is never changed.
type responder struct {
	cert *x509.Certificate
	key  crypto.Signer
	by   *generation // whose key has signed cert
}

const (
	responderLife     = 7 * day   // at least; it cannot be revoked
	responderBackdate = time.Hour // clocks of relying parties
	responderName     = "OCSP Responder"
)

// makeResponder makes the next one, of a validity that answers of so long fit into. That of an RSA CA has an RSA key: who
// trusts such a CA may know no other.
func makeResponder(by *generation, validity time.Duration, now time.Time) (*responder, error) {
	r := &responder{by: by}
	var err error
	if _, ok := by.cert.PublicKey.(*rsa.PublicKey); ok {
		r.key, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		r.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(r.key.Public())
	if err != nil {
		return nil, err
	}
	ski, err := keyIdentifier(spki)
	if err != nil {
		return nil, err
	}
	serial := make([]byte, serialSize)
	if _, err := rand.Read(serial); err != nil {
		return nil, err
	}
	from, to := now.Add(-responderBackdate), now.Add(max(responderLife, 3*validity))
	if from.Before(by.cert.NotBefore) {
		from = by.cert.NotBefore
	}
	if to.After(by.cert.NotAfter) {
		to = by.cert.NotAfter
	}
	c := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(positive(serial)),
		Subject:      pkix.Name{Organization: by.cert.Subject.Organization, CommonName: responderName},
		NotBefore:    from, NotAfter: to,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning},
		SubjectKeyId:          ski,
		ExtraExtensions:       []pkix.Extension{{Id: oidOCSPNoCheck, Value: []byte{5, 0}}}, // NULL
	}
	der, err := x509.CreateCertificate(nil, c, by.cert, r.key.Public(), &signer{key: by.key})
	if err != nil {
		return nil, err
	}
	r.cert, err = x509.ParseCertificate(der)
	return r, err
}

// lasts reports whether answers of a validity can be signed by it for a while yet, or to the end of the CA itself.
func (r *responder) lasts(validity time.Duration, now time.Time) bool {
	return !now.Before(r.cert.NotBefore) && now.Before(r.cert.NotAfter) &&
		(!now.Add(validity+validity/2).After(r.cert.NotAfter) || r.cert.NotAfter.Equal(r.by.cert.NotAfter))
}

// keyHash is how a ResponderID names it: the SHA-1 of its key (RFC 6960 section 4.2.1).
func (r *responder) keyHash() ([]byte, error) {
	_, key, err := hashedBy(crypto.SHA1, r.cert)
	return []byte(key), err
}

// sign signs a ResponseData, and returns it with what follows on it in a BasicOCSPResponse: signatureAlgorithm and signature.
func (r *responder) sign(data []byte) ([]byte, error) {
	sum := sha256.Sum256(data)
	signature, err := r.key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, len(data)+len(signature)+32))
	b.AddBytes(data)
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		if _, ok := r.key.(*rsa.PrivateKey); ok {
			b.AddASN1ObjectIdentifier(oidSHA256WithRSA)
			b.AddASN1NULL()
		} else {
			b.AddASN1ObjectIdentifier(oidECDSAWithSHA256)
		}
	})
	b.AddASN1BitString(signature)
	return b.Bytes()
}

func (r *responder) log(ctx context.Context, log *slog.Logger) {
	log.InfoContext(ctx, "a new OCSP responder's certificate", "ca", r.by.crlName(), "serial", hex.EncodeToString(r.cert.SerialNumber.Bytes()), "not-after", r.cert.NotAfter)
}
