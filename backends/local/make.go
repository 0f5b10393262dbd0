package local

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"time"
)

// Names of the issuing CAs, for IssueRequest.Issuer and CRL. The files of each begin with its name.
const (
	IssuerEC  = "ec"  // the default
	IssuerRSA = "rsa" // RSA from leaf to root, as long as the device's key is
)

const (
	secretSize = 32
	secretFile = "secret"

	// caBackdate is how far before its making a CA's validity begins: devices' clocks run late, and profiles backdate.
	caBackdate = day

	pemCertificate = "CERTIFICATE"
	pemKey         = "PRIVATE KEY" // PKCS#8, RFC 5958
)

// makeAuthority makes everything that a CA consists of: the files of authorityDir, by name. Nothing is written.
func makeAuthority(c *Config, now time.Time) (map[string][]byte, error) {
	makeRSA := func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, c.Issuers.RSA.Bits) }
	makers := []func() (crypto.Signer, error){makeEC, makeEC, makeRSA, makeRSA}
	keys := make([]crypto.Signer, len(makers))
	errs := make([]error, len(makers))
	// An RSA key costs some 100 to 500 ms, by luck: side by side, the first start stays short.
	var wg sync.WaitGroup
	for i, m := range makers {
		wg.Go(func() { keys[i], errs[i] = m() })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	secret := make([]byte, secretSize)
	if _, err := rand.Read(secret); err != nil {
		return nil, err
	}
	files := map[string][]byte{secretFile: []byte(hex.EncodeToString(secret) + "\n")}
	for i, is := range []struct {
		name string
		conf Issuer
	}{{IssuerEC, c.Issuers.EC}, {IssuerRSA, c.Issuers.RSA}} {
		if err := makeChain(files, is.name, &is.conf, c, keys[2*i], keys[2*i+1], now); err != nil {
			return nil, fmt.Errorf("make CA %s: %w", is.name, err)
		}
	}
	return files, nil
}

func makeEC() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// makeChain makes a root and the issuing CA under it.
func makeChain(files map[string][]byte, name string, is *Issuer, c *Config, rootKey, key crypto.Signer, now time.Time) error {
	root := caTemplate(c.Organization, is.RootName, time.Duration(c.Validity.Root), now)
	root.MaxPathLen = 1
	rootDER, err := certifyCA(root, root, rootKey.Public(), rootKey)
	if err != nil {
		return err
	}
	if root, err = x509.ParseCertificate(rootDER); err != nil {
		return err
	}
	issuing := caTemplate(c.Organization, is.Name, time.Duration(c.Validity.Issuing), now)
	issuing.MaxPathLenZero = true                     // devices only below it
	issuing.KeyUsage |= x509.KeyUsageDigitalSignature // it signs CMS and OCSP answers itself
	issuingDER, err := certifyCA(issuing, root, key.Public(), rootKey)
	if err != nil {
		return err
	}
	for file, k := range map[string]crypto.Signer{name + "-root.key": rootKey, name + ".key": key} {
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			return err
		}
		files[file] = pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der})
	}
	files[name+"-root.crt"] = pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: rootDER})
	files[name+".crt"] = pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: issuingDER})
	return nil
}

func caTemplate(organization, name string, validity time.Duration, now time.Time) *x509.Certificate {
	now = now.UTC().Truncate(time.Second)
	return &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{organization}, CommonName: name},
		NotBefore:             now.Add(-caBackdate),
		NotAfter:              now.Add(validity - time.Second), // RFC 5280 section 4.1.2.5: both ends belong to it
		BasicConstraintsValid: true,
		IsCA:                  true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

// certifyCA signs a CA certificate under a new random serial number of 20 octets (RFC 5280 section 4.1.2.2).
func certifyCA(c, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) ([]byte, error) {
	serial := make([]byte, serialSize)
	if _, err := rand.Read(serial); err != nil {
		return nil, err
	}
	c.SerialNumber = new(big.Int).SetBytes(positive(serial))
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, err
	}
	if c.SubjectKeyId, err = keyIdentifier(spki); err != nil {
		return nil, err
	}
	// A root names itself, an issuing CA its root: RFC 5280 section 4.2.1.1.
	c.AuthorityKeyId = parent.SubjectKeyId
	return x509.CreateCertificate(nil, c, parent, pub, &signer{key: key})
}
