package local

import (
	"bytes"
	"crypto"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// authority is a CA as it was made: read once, never changed.
type authority struct {
	issuers []*issuer // the default first
	secret  []byte    // serial numbers are made of it
}

// issuer is one issuing CA.
type issuer struct {
	name  string
	cert  *x509.Certificate
	root  *x509.Certificate
	key   crypto.Signer
	chain [][]byte         // DER: cert, root
	own   []pkix.Extension // what every certificate of it carries after what is its own: AKI, CRL, AIA
}

// rsa reports whether the issuer's key is an RSA key.
func (i *issuer) rsa() bool {
	_, ok := i.cert.PublicKey.(*rsa.PublicKey)
	return ok
}

// identity tells this CA from every other one without giving the secret away.
func (a *authority) identity() []byte {
	m := hmac.New(sha256.New, a.secret)
	m.Write([]byte("muster ledger identity"))
	return m.Sum(nil)
}

// roots returns the content of rootsFile.
func (a *authority) roots() []byte {
	var b bytes.Buffer
	for _, i := range a.issuers {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: i.root.Raw}))
	}
	return b.Bytes()
}

// readAuthority reads and checks authorityDir: every certificate and key must fit the others. The roots' keys are not
// needed any more and may have been taken away. given is the configuration without defaults, full with them.
func readAuthority(dir string, given, full *Config) (*authority, error) {
	text, err := readPrivate(filepath.Join(dir, secretFile))
	if err != nil {
		return nil, err
	}
	secret, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(secret) != secretSize {
		return nil, fmt.Errorf("%s does not hold %d octets in hexadecimal", filepath.Join(dir, secretFile), secretSize)
	}
	a := &authority{secret: secret}
	for _, c := range []struct {
		name        string
		given, full *Issuer
	}{{IssuerEC, &given.Issuers.EC, &full.Issuers.EC}, {IssuerRSA, &given.Issuers.RSA, &full.Issuers.RSA}} {
		i, err := readIssuer(dir, c.name)
		if err != nil {
			return nil, err
		}
		if c.name == IssuerRSA && (!i.rsa() || i.root.PublicKeyAlgorithm != x509.RSA) {
			return nil, fmt.Errorf("the chain of CA %s is not RSA throughout", i.name)
		}
		if err := errors.Join(
			sameName(i.root, given.Organization, c.given.RootName, "issuers."+c.name+".root-name"),
			sameName(i.cert, given.Organization, c.given.Name, "issuers."+c.name+".name"),
			sameBits(i.cert, c.given.Bits, "issuers."+c.name+".bits")); err != nil {
			return nil, err
		}
		if i.own, err = ownExtensions(i, c.full); err != nil {
			return nil, err
		}
		a.issuers = append(a.issuers, i)
	}
	return a, nil
}

func readIssuer(dir, name string) (i *issuer, err error) {
	i = &issuer{name: name}
	if i.root, err = readCACertificate(filepath.Join(dir, name+"-root.crt")); err != nil {
		return nil, err
	}
	if i.cert, err = readCACertificate(filepath.Join(dir, name+".crt")); err != nil {
		return nil, err
	}
	if err := i.root.CheckSignatureFrom(i.root); err != nil {
		return nil, fmt.Errorf("root of CA %s: %w", name, err)
	}
	if err := i.cert.CheckSignatureFrom(i.root); err != nil {
		return nil, fmt.Errorf("CA %s was not issued by its root: %w", name, err)
	}
	if i.key, err = readKey(filepath.Join(dir, name+".key"), i.cert.PublicKey); err != nil {
		return nil, err
	}
	// A root's key that is there must not lie open, though nothing here signs with it.
	if _, err := readPrivate(filepath.Join(dir, name+"-root.key")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	i.chain = [][]byte{i.cert.Raw, i.root.Raw}
	return i, nil
}

// readCACertificate reads a PEM file with one CA certificate.
func readCACertificate(path string) (*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != pemCertificate || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%s does not hold one PEM certificate", path)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if !c.BasicConstraintsValid || !c.IsCA || c.KeyUsage&x509.KeyUsageCertSign == 0 || c.KeyUsage&x509.KeyUsageCRLSign == 0 || len(c.SubjectKeyId) == 0 {
		return nil, fmt.Errorf("%s is not the certificate of a CA that signs certificates and CRLs and has a key identifier", path)
	}
	return c, nil
}

// readKey reads a PKCS#8 PEM file with the private key that belongs to pub.
func readKey(path string, pub crypto.PublicKey) (crypto.Signer, error) {
	data, err := readPrivate(path)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != pemKey || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%s does not hold one PEM private key (PKCS#8, not encrypted)", path)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s is not a PKCS#8 private key", path) // the parser's words may quote the key
	}
	key, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s: a key of type %T cannot sign", path, k)
	}
	own, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !own.Equal(pub) {
		return nil, fmt.Errorf("%s does not belong to the certificate beside it", path)
	}
	return key, nil
}

// sameName refuses a configured name that a CA which stands does not have.
func sameName(c *x509.Certificate, organization, name, key string) error {
	if organization != "" && !slices.Contains(c.Subject.Organization, organization) {
		return fmt.Errorf("organization: the CA %q stands and belongs to %q: a name cannot be changed after it was made", c.Subject.CommonName, c.Subject.Organization)
	}
	if name != "" && c.Subject.CommonName != name {
		return fmt.Errorf("%s: the CA that stands is named %q: a name cannot be changed after it was made", key, c.Subject.CommonName)
	}
	return nil
}

// sameBits refuses a configured key size that a CA which stands does not have.
func sameBits(c *x509.Certificate, bits int, key string) error {
	if pub, ok := c.PublicKey.(*rsa.PublicKey); ok && bits != 0 && bits != pub.N.BitLen() {
		return fmt.Errorf("%s: the CA that stands has a key of %d bits: a key cannot be changed after it was made", key, pub.N.BitLen())
	}
	return nil
}
