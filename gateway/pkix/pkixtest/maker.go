package pkixtest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/md5" //nolint:gosec // for the chain that must be refused
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	pkixrules "github.com/muster-pki/muster/gateway/pkix"
)

// Key is a private key. It is one of the standard library's, except for RSA keys that cannot be: those sign with PKCS #1
// v1.5 and SHA-256 only, which is enough for messages and requests, and not for TLS 1.3.
type Key = crypto.Signer

// entity is a certificate with its key.
type entity struct {
	cert *x509.Certificate
	key  Key
}

// maker makes certificates that are valid around a time.
type maker struct {
	t   testing.TB
	now time.Time
}

func (m maker) template(name pkix.Name) *x509.Certificate {
	m.t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		m.t.Fatal(err)
	}
	return &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)), Subject: name,
		NotBefore: m.now.AddDate(-1, 0, 0), NotAfter: m.now.AddDate(1, 0, 0),
	}
}

func (m maker) ca(name string) *x509.Certificate {
	m.t.Helper()
	c := m.template(pkix.Name{Organization: []string{"Vendor"}, CommonName: name})
	c.BasicConstraintsValid, c.IsCA, c.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	return c
}

func (m maker) device() *x509.Certificate {
	m.t.Helper()
	c := m.template(pkix.Name{Organization: []string{"Vendor"}, CommonName: "device-0001", SerialNumber: "SN-0001"})
	c.KeyUsage, c.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return c
}

func (m maker) newKey() Key {
	m.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		m.t.Fatal(err)
	}
	return key
}

// issue signs a template. A nil issuer makes it self-signed.
func (m maker) issue(tmpl *x509.Certificate, issuer *entity, key Key) *entity {
	m.t.Helper()
	parent, signer := tmpl, key
	if issuer != nil {
		parent, signer = issuer.cert, issuer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
	if err != nil {
		m.t.Fatal(err)
	}
	return &entity{m.parse(der), key}
}

func (m maker) parse(der []byte) *x509.Certificate {
	m.t.Helper()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		m.t.Fatal(err)
	}
	return cert
}

func (m maker) crl(ca *entity, revoked ...*x509.Certificate) []byte {
	m.t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: m.now.Add(-time.Hour), NextUpdate: m.now.AddDate(0, 0, 7)}
	for _, c := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: m.now.Add(-time.Hour)})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, ca.cert, ca.key)
	if err != nil {
		m.t.Fatal(err)
	}
	return der
}

// The algorithm identifiers of sha256WithRSAEncryption and md5WithRSAEncryption, both with NULL.
var (
	sha256RSA = []byte("\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00")
	md5RSA    = []byte("\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x04\x05\x00")
)

// signAgain changes the TBSCertificate of a certificate and signs it, with MD5 when that is what it says.
func (m maker) signAgain(cert *x509.Certificate, change func([]byte) []byte, key Key) []byte {
	m.t.Helper()
	tbs := change(bytes.Clone(cert.RawTBSCertificate))
	alg, sig, err := pkixrules.Sign(key, tbs)
	if bytes.Contains(tbs, md5RSA) {
		sum := md5.Sum(tbs) //nolint:gosec // see above
		alg = md5RSA
		sig, err = key.Sign(rand.Reader, sum[:], crypto.MD5)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		b.AddBytes(alg)
		b.AddASN1BitString(sig)
	})
	return b.BytesOrPanic()
}

// md5WithRSA changes the signature field of a TBSCertificate.
func md5WithRSA(tbs []byte) []byte { return bytes.Replace(tbs, sha256RSA, md5RSA, 1) }

// versionOne takes version and extensions out of a TBSCertificate (RFC 5280 section 4.1).
func versionOne(tbs []byte) []byte {
	return eachField(tbs, func(b *cryptobyte.Builder, tag cbasn1.Tag, field []byte) {
		if tag != tagVersion && tag != tagExtensions {
			b.AddBytes(field)
		}
	})
}

var (
	tagVersion    = cbasn1.Tag(0).ContextSpecific().Constructed()
	tagExtensions = cbasn1.Tag(3).ContextSpecific().Constructed()
)

// eachField writes a TBSCertificate anew: write is given each field, with its tag and length.
func eachField(tbs []byte, write func(b *cryptobyte.Builder, tag cbasn1.Tag, field []byte)) []byte {
	in := cryptobyte.String(tbs)
	var fields cryptobyte.String
	if !in.ReadASN1(&fields, cbasn1.SEQUENCE) {
		return nil
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for !fields.Empty() {
			var field cryptobyte.String
			var tag cbasn1.Tag
			if !fields.ReadAnyASN1Element(&field, &tag) {
				return
			}
			write(b, tag, field)
		}
	})
	return b.BytesOrPanic()
}

// keySet holds the keys that take long to make.
type keySet struct{ rsa1024, rsa2048, roca, close, p224 Key }

var keys = sync.OnceValue(func() keySet {
	must := func(key Key, err error) Key {
		if err != nil {
			panic(err)
		}
		return key
	}
	first, second := rocaPrime(), rocaPrime()
	p := prime(1024)
	return keySet{
		rsa1024: must(rsa.GenerateKey(rand.Reader, 1024)),
		rsa2048: must(rsa.GenerateKey(rand.Reader, 2048)),
		roca:    rsaOf(first, second),
		close:   rsaOf(p, nextPrime(p)),
		p224:    must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader)),
	}
})

func prime(bits int) *big.Int {
	p, err := rand.Prime(rand.Reader, bits)
	if err != nil {
		panic(err)
	}
	return p
}

func nextPrime(n *big.Int) *big.Int {
	p := new(big.Int).Add(n, big.NewInt(2))
	for !p.ProbablyPrime(20) {
		p.Add(p, big.NewInt(2))
	}
	return p
}

// rocaPrime makes a prime of 1024 bits as the generator of CVE-2017-15361 did: k M + (65537^a mod M), M the product of
// the first 126 primes.
func rocaPrime() *big.Int {
	m, found := big.NewInt(1), 0
	for n := int64(2); found < 126; n++ {
		if b := big.NewInt(n); b.ProbablyPrime(0) {
			m.Mul(m, b)
			found++
		}
	}
	limit := new(big.Int).Lsh(big.NewInt(1), 1024)
	limit.Div(limit, m)
	for {
		a, err := rand.Int(rand.Reader, m)
		if err != nil {
			panic(err)
		}
		k, err := rand.Int(rand.Reader, limit)
		if err != nil {
			panic(err)
		}
		p := new(big.Int).Exp(big.NewInt(65537), a, m)
		p.Add(p, k.Mul(k, m))
		if p.BitLen() == 1024 && p.Bit(1022) == 1 && new(big.Int).GCD(nil, nil, big.NewInt(65537), new(big.Int).Sub(p, big.NewInt(1))).Cmp(big.NewInt(1)) == 0 && p.ProbablyPrime(20) {
			return p
		}
	}
}

// rsaKey signs with PKCS #1 v1.5 by hand: crypto/rsa signs with no key whose primes are close.
type rsaKey struct {
	public *rsa.PublicKey
	d      *big.Int
}

func rsaOf(p, q *big.Int) rsaKey {
	one := big.NewInt(1)
	phi := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
	const e = 65537
	return rsaKey{&rsa.PublicKey{N: new(big.Int).Mul(p, q), E: e}, new(big.Int).ModInverse(big.NewInt(e), phi)}
}

func (k rsaKey) Public() crypto.PublicKey { return k.public }

// Sign makes an RSASSA-PKCS1-v1_5 signature with SHA-256 (RFC 8017 section 8.2.1), and no other.
func (k rsaKey) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if _, pss := opts.(*rsa.PSSOptions); pss || opts.HashFunc() != crypto.SHA256 {
		return nil, errors.New("this key signs with PKCS #1 v1.5 and SHA-256 only")
	}
	info := append([]byte("\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20"), digest...)
	message := bytes.Repeat([]byte{0xff}, k.public.Size())
	message[0], message[1], message[len(message)-len(info)-1] = 0, 1, 0
	copy(message[len(message)-len(info):], info)
	s := new(big.Int).SetBytes(message)
	return s.Exp(s, k.d, k.public.N).FillBytes(message), nil
}
