package local

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"path/filepath"
	"sync"
	"time"
)

// Names of the issuing CAs that are always there, for IssueRequest.Issuer.
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

// The path lengths of roots and issuing CAs. A root's is one more than RFC 5280 needs: its verifiers do not count a CA
// that issued to itself, such as the certificates which link an old root and a new one, but others (Go's) do.
const (
	rootPathLen    = 2
	issuingPathLen = 0 // devices only below it
)

// makeAuthority makes everything that a CA consists of: the files of authorityDir, by name. Nothing is written.
func makeAuthority(c *Config, now time.Time) (map[string][]byte, error) {
	secret := make([]byte, secretSize)
	if _, err := rand.Read(secret); err != nil {
		return nil, err
	}
	files, err := makeIssuers(c, c.issuerNames(), now)
	if err != nil {
		return nil, err
	}
	files[secretFile] = []byte(hex.EncodeToString(secret) + "\n")
	return files, nil
}

// makeIssuers makes the first generation of issuers, or imports it.
func makeIssuers(c *Config, names []string, now time.Time) (map[string][]byte, error) {
	parts := make([]map[string][]byte, len(names))
	errs := make([]error, len(names))
	// An RSA key costs some 100 to 500 ms, by luck: side by side, the first start stays short.
	var wg sync.WaitGroup
	for n, name := range names {
		wg.Go(func() { parts[n], errs[n] = makeIssuer(name, c, now) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for _, part := range parts {
		maps.Copy(files, part)
	}
	return files, nil
}

func makeIssuer(name string, c *Config, now time.Time) (map[string][]byte, error) {
	conf := c.Issuers[name]
	if conf.Import != nil {
		files, err := importFiles(c.keyring, name, conf.Import, 1, nil, now)
		return under(generationDir(name, 1), files), err
	}
	keys, err := makeKeys(c.keyring, conf.Key, name+"-root", name)
	if err != nil {
		return nil, fmt.Errorf("make CA %s: %w", name, err)
	}
	files, err := makeChain(&conf, c, keys[0], keys[1], now)
	if err != nil {
		return nil, fmt.Errorf("make CA %s: %w", name, err)
	}
	if name == IssuerEC || name == IssuerRSA { // as the first release made them, and may open them again
		return map[string][]byte{
			name + ".crt": files[issuingFile], name + ".key": files[issuingKeyFile],
			name + "-root.crt": files[chainFile], name + "-root.key": files[rootKeyFile],
		}, nil
	}
	files[originFile], err = origin{Kind: originMade}.text()
	return under(generationDir(name, 1), files), err
}

// under puts files into a folder.
func under(folder string, files map[string][]byte) map[string][]byte {
	all := map[string][]byte{}
	for name, data := range files {
		all[filepath.Join(folder, name)] = data
	}
	return all
}

func (o origin) text() ([]byte, error) {
	text, err := json.Marshal(o)
	return append(text, '\n'), err
}

// makeKeys makes a key of a kind for each role, side by side.
func makeKeys(k keyring, kind string, roles ...string) ([]crypto.Signer, error) {
	keys, errs := make([]crypto.Signer, len(roles)), make([]error, len(roles))
	var wg sync.WaitGroup
	for i, role := range roles {
		wg.Go(func() { keys[i], errs[i] = k.generate(kind, role) })
	}
	wg.Wait()
	return keys, errors.Join(errs...)
}

// makeChain makes a root and the issuing CA under it.
func makeChain(is *Issuer, c *Config, rootKey, key crypto.Signer, now time.Time) (map[string][]byte, error) {
	from := now.UTC().Truncate(time.Second).Add(-caBackdate)
	subject := func(name string) pkix.Name {
		return pkix.Name{Organization: []string{c.Organization}, CommonName: name}
	}
	root := rootTemplate(from, end(now, c.Validity.Root))
	root.Subject = subject(is.RootName)
	is.NameConstraints.constrain(root)
	root, err := certifyCA(root, root, rootKey.Public(), rootKey)
	if err != nil {
		return nil, err
	}
	issuing := issuingTemplate(from, end(now, c.Validity.Issuing))
	issuing.Subject = subject(is.Name)
	is.NameConstraints.constrain(issuing)
	if issuing, err = certifyCA(issuing, root, key.Public(), rootKey); err != nil {
		return nil, err
	}
	files := map[string][]byte{issuingFile: certificatePEM(issuing), chainFile: certificatePEM(root)}
	if files[issuingKeyFile], err = keyPEM(key); err != nil {
		return nil, err
	}
	files[rootKeyFile], err = keyPEM(rootKey)
	return files, err
}

func certificatePEM(certs ...*x509.Certificate) []byte {
	var all []byte
	for _, c := range certs {
		all = append(all, pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: c.Raw})...)
	}
	return all
}

// keyPEM is the content of a key's file: the key, or where it is.
func keyPEM(key crypto.Signer) ([]byte, error) {
	if held, ok := key.(tokenKey); ok {
		return []byte(held.uri() + "\n"), nil
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}), nil
}

// end is the last second of a validity that begins now (RFC 5280 section 4.1.2.5: both ends belong to it).
func end[D ~int64](now time.Time, validity D) time.Time {
	return now.UTC().Truncate(time.Second).Add(time.Duration(validity) - time.Second)
}

func rootTemplate(from, to time.Time) *x509.Certificate {
	return &x509.Certificate{
		NotBefore:             from,
		NotAfter:              to,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            rootPathLen,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

func issuingTemplate(from, to time.Time) *x509.Certificate {
	c := rootTemplate(from, to)
	c.MaxPathLen, c.MaxPathLenZero = issuingPathLen, true
	c.KeyUsage |= x509.KeyUsageDigitalSignature // it signs CMS and OCSP answers itself
	return c
}

// certifyCA signs a CA certificate under a new random serial number of 20 octets (RFC 5280 section 4.1.2.2).
func certifyCA(c, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
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
	// A root names itself, every other one who signs it: RFC 5280 section 4.2.1.1.
	c.AuthorityKeyId = parent.SubjectKeyId
	der, err := x509.CreateCertificate(nil, c, parent, pub, &signer{key: key})
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}
