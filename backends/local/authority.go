package local

import (
	"bytes"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/muster-pki/muster/plugins/backend"
)

// authority is a CA as it stands on the disk: read whole, never changed. A rollover reads another one.
type authority struct {
	issuers []*issuer // the default first
	secret  []byte    // serial numbers are made of it
}

// issuer is an issuing CA: as it issues now, by its newest generation, and as it did before.
type issuer struct {
	name        string
	*generation                     // the newest
	all         []*generation       // the oldest first, the newest last; their numbers count from 1
	announced   *generation         // the one to follow, which does not issue yet; nil for none
	constraints *NameConstraints    // as configured; nil for nothing
	limited     []*x509.Certificate // what constrains names: see limits
	crlURLs     []string            // Issuer.CRL
}

// numbered finds a generation, nil when there is none with the number.
func (i *issuer) numbered(number int) *generation {
	if number < 1 || number > len(i.all) {
		return nil
	}
	return i.all[number-1]
}

// known are all generations, and the one that is announced after them.
func (i *issuer) known() []*generation {
	if i.announced == nil {
		return i.all
	}
	return append(slices.Clone(i.all), i.announced)
}

// keys lists the newest generation of each key that the issuer had, the oldest key first.
func (i *issuer) keys() []*generation {
	var keys []*generation
	for n, g := range i.all {
		if n == len(i.all)-1 || i.all[n+1].keyFirst != g.keyFirst {
			keys = append(keys, g)
		}
	}
	return keys
}

// imported reports whether the issuer's certificates come from elsewhere.
func (i *issuer) imported() bool { return i.origin.Kind == originImported }

// rsa reports whether the chain is RSA throughout.
func (g *generation) rsa() bool {
	return !slices.ContainsFunc(g.certs, func(c *x509.Certificate) bool {
		_, ok := c.PublicKey.(*rsa.PublicKey)
		return !ok
	})
}

// identity tells this CA from every other one without giving the secret away.
func (a *authority) identity() []byte { return identity(a.secret) }

func identity(secret []byte) []byte {
	m := hmac.New(sha256.New, secret)
	m.Write([]byte("muster ledger identity"))
	return m.Sum(nil)
}

func readSecret(dir string) ([]byte, error) {
	text, err := readPrivate(filepath.Join(dir, secretFile))
	if err != nil {
		return nil, err
	}
	secret, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(secret) != secretSize {
		return nil, fmt.Errorf("%s does not hold %d octets in hexadecimal", filepath.Join(dir, secretFile), secretSize)
	}
	return secret, nil
}

// issuersIn lists the issuers that have anything in authorityDir, in their order.
func issuersIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		name, rest, _ := strings.Cut(e.Name(), ".")
		_, err := strconv.ParseUint(rest, 10, 16)
		switch {
		case e.IsDir() && err == nil && issuerName.MatchString(name):
		case !e.IsDir() && (rest == "crt" || rest == "key"): // the first generation as the first release made it
			if name = strings.TrimSuffix(name, "-root"); name != IssuerEC && name != IssuerRSA {
				continue
			}
		default:
			continue
		}
		names = append(names, name)
	}
	slices.SortFunc(names, inOrder)
	return slices.Compact(names), nil
}

// readAuthority reads and checks authorityDir: every certificate and key must fit the others. The roots' keys are not
// needed and may have been taken away. given is the configuration without defaults, full with them.
func readAuthority(dir string, given, full *Config) (*authority, error) {
	secret, err := readSecret(dir)
	if err != nil {
		return nil, err
	}
	names, err := issuersIn(dir)
	if err != nil {
		return nil, err
	}
	if len(names) > backend.MaxCAs {
		return nil, fmt.Errorf("%s holds %d issuing CAs, more than %d", dir, len(names), backend.MaxCAs)
	}
	a := &authority{secret: secret}
	for _, name := range names {
		i, err := readIssuer(full.keyring, dir, name)
		if err != nil {
			return nil, err
		}
		switch {
		case name == IssuerRSA && !i.rsa():
			return nil, fmt.Errorf("the chain of CA %s is not RSA throughout", name)
		case name == IssuerEC && isRSA(kindOf(i.cert.PublicKey)):
			return nil, fmt.Errorf("the key of CA %s is an RSA key: give a CA that has one a name of its own", name)
		}
		configured, conf := full.Issuers[name], given.Issuers[name]
		if err := errors.Join(
			sameName(i.root, given.Organization, conf.RootName, "issuers."+name+".root-name", i.imported()),
			sameName(i.cert, given.Organization, conf.Name, "issuers."+name+".name", i.imported()),
			sameKey(i.cert, &conf, "issuers."+name)); err != nil {
			return nil, err
		}
		i.constraints, i.limited = conf.NameConstraints, i.limits(conf.NameConstraints)
		i.crlURLs = configured.CRL
		if i.own, err = ownExtensions(i.generation, &configured); err != nil {
			return nil, err
		}
		a.issuers = append(a.issuers, i)
	}
	return a, a.ownNames()
}

// ownNames refuses two issuers with one name: by it Revoke and relying parties tell them apart.
func (a *authority) ownNames() error {
	seen := map[string]*issuer{}
	for _, i := range a.issuers {
		for _, g := range i.all {
			subject := string(g.cert.RawSubject)
			if other := seen[subject]; other != nil && other != i {
				return fmt.Errorf("the CAs %s and %s have one name, %s: their certificates could not be told apart", other.name, i.name, g.cert.Subject)
			}
			seen[subject] = i
		}
	}
	return nil
}

// sameName refuses a configured name that a CA which stands does not have.
func sameName(c *x509.Certificate, organization, name, key string, imported bool) error {
	if organization != "" && !imported && !slices.Contains(c.Subject.Organization, organization) {
		return fmt.Errorf("organization: the CA %q stands and belongs to %q: a name cannot be changed after it was made", c.Subject.CommonName, c.Subject.Organization)
	}
	if name != "" && c.Subject.CommonName != name {
		return fmt.Errorf("%s: the CA that stands is named %q: a name cannot be changed after it was made", key, c.Subject.CommonName)
	}
	return nil
}

// sameKey refuses a configured kind of key that a CA which stands does not have.
func sameKey(c *x509.Certificate, conf *Issuer, key string) error {
	stands := kindOf(c.PublicKey)
	if wanted := conf.keyKind(); wanted == "" || wanted == stands {
		return nil
	}
	if pub, ok := c.PublicKey.(*rsa.PublicKey); ok && conf.Bits != 0 {
		return fmt.Errorf("%s.bits: the CA that stands has a key of %d bits: a key cannot be changed after it was made", key, pub.N.BitLen())
	}
	return fmt.Errorf("%s.key: the CA that stands has a key of kind %s: a new key is of the same kind; for another one, make a CA of another name", key, stands)
}

// issuer finds an issuing CA by name, "" for the default.
func (a *authority) issuer(name string) *issuer {
	if name == "" {
		return a.issuers[0]
	}
	for _, i := range a.issuers {
		if i.name == name {
			return i
		}
	}
	return nil
}

// owns reports whether der, a Name or a SubjectPublicKeyInfo, is that of any certificate of the CA's own.
func (a *authority) owns(der []byte, of func(*x509.Certificate) []byte) bool {
	for _, i := range a.issuers {
		for _, g := range i.known() {
			for _, c := range g.certs {
				if bytes.Equal(der, of(c)) {
					return true
				}
			}
		}
	}
	return false
}

// generation finds a generation of an issuing CA; nil when there is none.
func (a *authority) generation(ca string, number int) *generation {
	if i := a.issuer(ca); ca != "" && i != nil {
		return i.numbered(number)
	}
	return nil
}
