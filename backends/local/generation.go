package local

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/muster-pki/muster/plugins/backend"
)

// generation is one certificate of an issuing CA, its key, and the chain above it: what a rollover or an import makes
// the next of. It is never changed once it stands.
type generation struct {
	ca       string // issuer.name
	number   int    // from 1
	origin   origin
	key      crypto.Signer
	keyFirst int                 // the generation that the key came with
	certs    []*x509.Certificate // the issuing certificate first, the root last
	cert     *x509.Certificate   // the first of certs
	root     *x509.Certificate   // the last of certs
	chain    [][]byte            // certs, DER
	rootKey  string              // the file that the root's private key was written to; an operator may have taken it away
	// Made with a new root key (RFC 9810 section 4.4.1), nil otherwise: the root before under the new key, and the new one
	// under the root before.
	oldWithNew, newWithOld *x509.Certificate
	own                    []pkix.Extension // of the newest: what its certificates carry after what is their own: AKI, CRL, AIA
}

// origin says how a generation came about. It stands in originFile.
type origin struct {
	Kind string `json:"kind"`           // made, imported, renew, rekey
	ID   string `json:"id,omitempty"`   // RolloverRequest.ID; none while it is announced alone
	Root bool   `json:"root,omitempty"` // RolloverRequest.Root

	Announced string `json:"announced,omitempty"` // the ID of the request that announced it
}

const (
	originMade     = "made"
	originImported = "imported"

	maxGenerations = 999
)

// The files of a generation, in the folder NAME.NUMBER. The first generation of ec and rsa, as the first release made
// it, is NAME.crt, NAME.key, NAME-root.crt and NAME-root.key instead.
const (
	originFile     = "origin.json"
	issuingFile    = "issuing.crt"
	issuingKeyFile = "issuing.key" // if it came with a new key
	chainFile      = "chain.crt"   // above the issuing certificate, the root last; none when that is a root itself
	rootKeyFile    = "root.key"    // if it came with a new root key, and that was made here
	oldWithNewFile = "old-with-new.crt"
	newWithOldFile = "new-with-old.crt"
)

func generationDir(ca string, number int) string { return fmt.Sprintf("%s.%d", ca, number) }

// crlName names the CRL of the generation's key. It stays with the key: a renewal does not change it.
func (g *generation) crlName() string { return generationDir(g.ca, g.keyFirst) }

// readIssuer reads all generations of a CA.
func readIssuer(keys keyring, dir, name string) (*issuer, error) {
	i := &issuer{name: name}
	for n := 1; ; n++ {
		path := filepath.Join(dir, generationDir(name, n))
		there, err := exists(path)
		if err != nil {
			return nil, err
		}
		var g *generation
		switch {
		case there && n <= maxGenerations:
			g, err = readGeneration(keys, path, name, n, i.generation)
		case n == 1 && (name == IssuerEC || name == IssuerRSA):
			g, err = readFirst(keys, dir, name)
		case n == 1:
			err = fmt.Errorf("%s is gone: restore it", path)
		default:
			if last, err := lastGeneration(dir, name); err != nil || last >= n {
				return nil, errors.Join(err, fmt.Errorf("%s is gone: restore it", path))
			}
			return i, i.readAnnounced(keys, dir)
		}
		if err != nil {
			return nil, err
		}
		i.generation, i.all = g, append(i.all, g)
	}
}

// lastGeneration is the highest number of the folders of a CA's generations, 0 for none.
func lastGeneration(dir, name string) (last int, err error) {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if ca, rest, _ := strings.Cut(e.Name(), "."); ca == name && e.IsDir() {
			if n, err := strconv.Atoi(rest); err == nil {
				last = max(last, n)
			}
		}
	}
	return last, err
}

// readFirst reads a first generation whose files lie in authorityDir itself.
func readFirst(keys keyring, dir, name string) (*generation, error) {
	g := &generation{ca: name, number: 1, keyFirst: 1, origin: origin{Kind: originMade}, rootKey: filepath.Join(dir, name+"-root.key")}
	root, err := readCertificate(filepath.Join(dir, name+"-root.crt"))
	if err != nil {
		return nil, err
	}
	cert, err := readCertificate(filepath.Join(dir, name+".crt"))
	if err != nil {
		return nil, err
	}
	if err := g.setChain([]*x509.Certificate{cert, root}); err != nil {
		return nil, err
	}
	if g.key, err = keys.read(filepath.Join(dir, name+".key"), cert.PublicKey); err != nil {
		return nil, err
	}
	return g, g.checkRootKey()
}

// readGeneration reads the folder of a generation; before is the one before it, nil for the first.
func readGeneration(keys keyring, path, name string, number int, before *generation) (*generation, error) {
	g := &generation{ca: name, number: number, keyFirst: number, rootKey: filepath.Join(path, rootKeyFile)}
	text, err := os.ReadFile(filepath.Join(path, originFile))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &g.origin); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(path, originFile), err)
	}
	cert, err := readCertificate(filepath.Join(path, issuingFile))
	if err != nil {
		return nil, err
	}
	above, err := readCertificates(filepath.Join(path, chainFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := g.setChain(append([]*x509.Certificate{cert}, above...)); err != nil {
		return nil, err
	}
	if before != nil && sameKeyIn(cert, before.cert) {
		g.key, g.keyFirst = before.key, before.keyFirst
	} else if g.key, err = keys.read(filepath.Join(path, issuingKeyFile), cert.PublicKey); err != nil {
		return nil, err
	}
	if before != nil && sameKeyIn(g.root, before.root) {
		g.rootKey = before.rootKey
	} else if before != nil && g.origin.Kind == string(backend.RolloverRekey) {
		if err := g.readCross(path, before.root); err != nil {
			return nil, err
		}
	}
	return g, g.checkRootKey()
}

// readCross reads the two certificates by which the old root and the new one vouch for each other.
func (g *generation) readCross(path string, old *x509.Certificate) (err error) {
	for _, x := range []struct {
		file        string
		into        **x509.Certificate
		subject, by *x509.Certificate
	}{{oldWithNewFile, &g.oldWithNew, old, g.root}, {newWithOldFile, &g.newWithOld, g.root, old}} {
		c, err := readCertificate(filepath.Join(path, x.file))
		if err != nil {
			return err
		}
		if !sameKeyIn(c, x.subject) || !bytes.Equal(c.RawSubject, x.subject.RawSubject) || issuedBy(c, x.by) != nil {
			return fmt.Errorf("%s does not link the roots beside it", filepath.Join(path, x.file))
		}
		*x.into = c
	}
	return nil
}

func sameKeyIn(a, b *x509.Certificate) bool {
	return bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo)
}

// issuedBy checks the link from a certificate to the one above it: the name, the signature, and that a CA made it.
func issuedBy(c, by *x509.Certificate) error {
	if !bytes.Equal(c.RawIssuer, by.RawSubject) {
		return fmt.Errorf("its issuer is named %q, not %q", c.Issuer, by.Subject)
	}
	return c.CheckSignatureFrom(by)
}

// setChain checks a chain, the issuing certificate first and the root last, and takes it (RFC 5280 sections 4.2.1.3,
// 4.2.1.9). It looks at no clock: an expired CA opens, for its CRL.
func (g *generation) setChain(certs []*x509.Certificate) error {
	root := certs[len(certs)-1]
	if len(certs) > backend.MaxChain {
		return fmt.Errorf("CA %s: a chain of %d certificates, more than %d", g.ca, len(certs), backend.MaxChain)
	}
	for _, c := range certs {
		if err := checkCA(c); err != nil {
			return fmt.Errorf("CA %s: %w", g.ca, err)
		}
	}
	cert := certs[0]
	if cert.KeyUsage&x509.KeyUsageCRLSign == 0 || len(cert.SubjectKeyId) == 0 {
		return fmt.Errorf("CA %s: %q is not the certificate of a CA that signs certificates and CRLs and has a key identifier", g.ca, cert.Subject)
	}
	if err := issuedBy(root, root); err != nil {
		return fmt.Errorf("root of CA %s: %q is not self-signed: %w", g.ca, root.Subject, err)
	}
	below := 0 // CAs below this one that count: not those that issued to themselves
	for n, c := range certs {
		if n < len(certs)-1 {
			if err := issuedBy(c, certs[n+1]); err != nil {
				if n == len(certs)-2 && n == 0 {
					return fmt.Errorf("CA %s was not issued by its root: %w", g.ca, err)
				}
				return fmt.Errorf("CA %s: %q was not issued by the next of the chain, %q: %w", g.ca, c.Subject, certs[n+1].Subject, err)
			}
		}
		if c.MaxPathLen >= 0 && below > c.MaxPathLen {
			return fmt.Errorf("CA %s: the path length of %q is %d, and %d CAs are below it", g.ca, c.Subject, c.MaxPathLen, below)
		}
		if !bytes.Equal(c.RawSubject, c.RawIssuer) {
			below++
		}
	}
	g.certs, g.cert, g.root, g.chain = certs, cert, root, nil
	for _, c := range certs {
		g.chain = append(g.chain, c.Raw)
	}
	return nil
}

// checkCA wants a CA's certificate with a key that this package knows.
func checkCA(c *x509.Certificate) error {
	switch {
	case c.Version != 3 || !c.BasicConstraintsValid || !c.IsCA:
		return fmt.Errorf("%q is not a CA's certificate", c.Subject)
	case c.KeyUsage&x509.KeyUsageCertSign == 0:
		return fmt.Errorf("%q may not sign certificates: its key usage lacks keyCertSign", c.Subject)
	case len(c.UnhandledCriticalExtensions) > 0:
		return fmt.Errorf("%q has the critical extension %s, which is not known here", c.Subject, c.UnhandledCriticalExtensions[0])
	case kindOf(c.PublicKey) == "":
		return fmt.Errorf("%q has a key that is not supported: P-256, P-384, P-521, Ed25519, and RSA of %d to %d bits are", c.Subject, minRSA, maxRSA)
	}
	return nil
}

// checkRootKey: a root's key that is there must not lie open, though nothing here signs with it.
func (g *generation) checkRootKey() error {
	if _, err := readPrivate(g.rootKey); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// readCertificate reads a PEM file with one certificate.
func readCertificate(path string) (*x509.Certificate, error) {
	certs, err := readCertificates(path)
	if err != nil {
		return nil, err
	}
	if len(certs) != 1 {
		return nil, fmt.Errorf("%s does not hold one PEM certificate", path)
	}
	return certs[0], nil
}

// readCertificates reads a PEM file with 1 to backend.MaxChain certificates and nothing else.
func readCertificates(path string) ([]*x509.Certificate, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxChainFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxChainFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxChainFile)
	}
	var certs []*x509.Certificate
	for rest := bytes.TrimSpace(data); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != pemCertificate || len(certs) == backend.MaxChain {
			return nil, fmt.Errorf("%s does not hold one PEM certificate, or a chain of at most %d", path, backend.MaxChain)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("%s does not hold one PEM certificate", path)
	}
	return certs, nil
}

const maxChainFile = 1 << 20

// read reads a PKCS#8 PEM file with the private key that belongs to pub, or finds the key in the token that a file names.
func (k keyring) read(path string, pub crypto.PublicKey) (crypto.Signer, error) {
	data, err := readPrivate(path)
	if err != nil {
		return nil, err
	}
	if namesToken(data) {
		return k.find(path, string(data), pub)
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != pemKey || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%s does not hold one PEM private key (PKCS#8, not encrypted)", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s is not a PKCS#8 private key", path) // the parser's words may quote the key
	}
	return fitting(path, key, pub)
}

// fitting returns the key if it signs and belongs to pub.
func fitting(path string, k any, pub crypto.PublicKey) (crypto.Signer, error) {
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
