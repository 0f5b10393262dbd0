package local

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
)

// importFiles reads what the operator gives, and returns the files of the generation with the number that it becomes.
// before is the generation before it, nil for the first.
func importFiles(keys keyring, name string, im *Import, number int, before *issuer, now time.Time) (map[string][]byte, error) {
	fail := func(key string, err error) (map[string][]byte, error) {
		return nil, fmt.Errorf("issuers.%s.import.%s: %w", name, key, err)
	}
	certs, err := readCertificates(im.Cert)
	if err != nil {
		return fail("cert", err)
	}
	if len(certs) > backend.MaxChain-1 {
		return fail("cert", fmt.Errorf("%s holds %d certificates, more than %d", im.Cert, len(certs), backend.MaxChain-1))
	}
	g := &generation{ca: name, number: number}
	if err := g.setChain(certs); err != nil {
		return fail("cert", fmt.Errorf("%s: %w", im.Cert, err))
	}
	for _, c := range certs {
		if now.Before(c.NotBefore) || now.After(c.NotAfter) {
			return fail("cert", fmt.Errorf("%s: %q is valid from %s to %s, which is not now", im.Cert, c.Subject,
				c.NotBefore.Format(time.RFC3339), c.NotAfter.Format(time.RFC3339)))
		}
	}
	key, err := keys.readImported(im.Key, g.cert.PublicKey)
	if err != nil {
		return fail("key", err)
	}
	files := map[string][]byte{issuingFile: certificatePEM(g.cert)}
	if above := certs[1:]; len(above) > 0 {
		files[chainFile] = certificatePEM(above...)
	}
	fresh := true
	if before != nil {
		fresh = !sameKeyIn(g.cert, before.cert)
		for _, g2 := range before.all {
			if fresh && sameKeyIn(g.cert, g2.cert) {
				return fail("cert", fmt.Errorf("%s has the key of generation %d, which was given up since", im.Cert, g2.number))
			}
		}
	}
	if fresh {
		if files[issuingKeyFile], err = keyPEM(key); err != nil {
			return fail("key", err)
		}
	}
	files[originFile], err = origin{Kind: originImported}.text()
	return files, err
}

// readImported reads a PEM private key that is not encrypted: PKCS#8, SEC 1 or PKCS#1. Or it finds the one in the token that is named.
func (k keyring) readImported(path string, pub crypto.PublicKey) (crypto.Signer, error) {
	if namesToken([]byte(path)) {
		return k.find("pkcs11", path, pub)
	}
	data, err := readPrivate(path)
	if err != nil {
		return nil, err
	}
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, fmt.Errorf("%s holds no private key in PEM", path)
		}
		var key any
		switch block.Type {
		case "EC PARAMETERS": // openssl ecparam writes them before the key
			continue
		case pemKey:
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "ENCRYPTED PRIVATE KEY":
			return nil, fmt.Errorf("%s is encrypted: umask 077; openssl pkey -in %s -out PLAIN", path, path)
		default:
			return nil, fmt.Errorf("%s holds a PEM block of another type than a private key", path)
		}
		if err != nil || block.Headers["DEK-Info"] != "" {
			// The parser's words may quote the key.
			return nil, fmt.Errorf("%s is not a private key in plain: if it is encrypted, umask 077; openssl pkey -in %s -out PLAIN", path, path)
		}
		return fitting(path, key, pub)
	}
}

// importNext compares the configured import of a CA that stands with what it was made of, and returns the files of its
// next generation when the configuration asks for one; nil when there is nothing to do.
func importNext(keys keyring, i *issuer, im *Import, now time.Time) (map[string][]byte, error) {
	at := "issuers." + i.name + ".import"
	stands := i.number
	if !i.imported() {
		return nil, fmt.Errorf("%s: the CA that stands was made here: import yours under another name", at)
	}
	switch im.Generation {
	case stands + 1:
		return importFiles(keys, i.name, im, stands+1, i, now)
	case stands:
	default:
		return nil, fmt.Errorf("%s.generation: %d, but the CA stands at generation %d: that, or %d to take the files as the next one", at, im.Generation, stands, stands+1)
	}
	certs, err := readCertificates(im.Cert)
	switch {
	case errors.Is(err, fs.ErrNotExist): // it was copied
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("%s.cert: %w", at, err)
	case !certs[0].Equal(i.cert):
		return nil, fmt.Errorf("%s.cert: %s is another certificate than generation %d of this CA: to roll over to it, add `generation: %d`", at, im.Cert, stands, stands+1)
	}
	return nil, nil
}

// missing returns the folders that the configuration asks for and that do not stand yet: first generations of further
// issuers, and next generations of imported ones. known fails when the ledger has heard of a CA.
func missing(dir string, c *Config, known func(ca string) error, now time.Time) (map[string]map[string][]byte, error) {
	names, err := issuersIn(dir)
	if err != nil {
		return nil, err
	}
	stands := map[string]bool{}
	for _, name := range names {
		stands[name] = true
	}
	folders := map[string]map[string][]byte{}
	for _, name := range c.issuerNames() {
		conf := c.Issuers[name]
		if !stands[name] {
			if err := known(name); err != nil && conf.Import == nil {
				return nil, err
			}
		}
		switch {
		case !stands[name] && (name == IssuerEC || name == IssuerRSA):
			return nil, fmt.Errorf("%s is gone: restore it", filepath.Join(dir, name+".crt"))
		case !stands[name]:
			files, err := makeIssuer(name, c, now)
			if err != nil {
				return nil, err
			}
			folder := map[string][]byte{}
			for path, data := range files {
				folder[filepath.Base(path)] = data
			}
			folders[generationDir(name, 1)] = folder
		case conf.Import != nil:
			i, err := readIssuer(c.keyring, dir, name)
			if err != nil {
				return nil, err
			}
			files, err := importNext(c.keyring, i, conf.Import, now)
			if err != nil {
				return nil, err
			}
			if files != nil {
				folders[generationDir(name, i.number+1)] = files
			}
		}
	}
	return folders, nil
}
