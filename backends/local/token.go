package local

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
)

// PKCS11 names a token that keeps the private keys, in place of files: an HSM, by its PKCS #11 module. A CA that stands keeps the
// keys that it has; those it makes from then on are made in the token.
type PKCS11 struct {
	Module string `yaml:"module,required"` // the vendor's shared library; an absolute path
	Token  string `yaml:"token,required"`  // the token's label
	// PIN is a file with the PIN of the token's user, which only its owner and group may read; an absolute path.
	PIN string `yaml:"pin,required"`
	// Keys are the labels of keys that the gateway may use itself, as its RA's (ra: {cert, token}). Default: none. The CA's own are
	// never among them.
	Keys []string `yaml:"keys"`
	// Environment is what the module finds in its environment, such as SOFTHSM2_CONF.
	Environment map[string]string `yaml:"environment"`
}

// Check returns what is wrong with it, an error for each.
func (p *PKCS11) Check() error {
	var errs []error
	for key, path := range map[string]string{"module": p.Module, "pin": p.PIN} {
		if !filepath.IsAbs(path) {
			errs = append(errs, fmt.Errorf("pkcs11.%s: %q is not an absolute path", key, path))
		}
	}
	if len(p.Token) > maxTokenLabel {
		errs = append(errs, fmt.Errorf("pkcs11.token: a label has %d octets at most", maxTokenLabel))
	}
	for _, label := range p.Keys {
		if label == "" || !plain(label) {
			errs = append(errs, fmt.Errorf("pkcs11.keys: 1 to %d octets of UTF-8 without control characters", maxName))
		}
		if strings.HasPrefix(label, labelPrefix) {
			errs = append(errs, fmt.Errorf("pkcs11.keys: %q is named as a key of a CA's own, which signs nothing for the gateway", label))
		}
	}
	for name := range p.Environment {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.HasPrefix(name, "PLUGIN_") || strings.HasPrefix(name, "MUSTER_") {
			errs = append(errs, fmt.Errorf("pkcs11.environment: there can be no %q", name))
		}
	}
	return errors.Join(errs...)
}

const (
	maxTokenLabel = 32 // CK_TOKEN_INFO.label, PKCS #11 section 3.2

	// labelPrefix begins the labels of keys that a CA here has made.
	labelPrefix = "muster-ca-"
	// keyURI begins what stands in a key's file whose key is in the token (RFC 7512).
	keyURI = "pkcs11:"
)

// Token keeps private keys that never leave it. Its signatures are those of crypto.Signer; of ECDSA no two are alike. Calls are
// concurrent.
type Token interface {
	// Generate makes a key of one of keyKinds under a label that no key there has.
	Generate(kind, label string) (crypto.Signer, error)
	// Key finds the private key with the label, which is the only one with it.
	Key(label string) (crypto.Signer, error)
	Close() error
}

// errNoToken is what a program without PKCS #11 says.
var errNoToken = errors.New("pkcs11: this program has no PKCS #11: name muster-pkcs11 as the backend's plugin, by its path and sha256")

// keyring makes private keys and finds them again: in files, or in a token where there is one.
type keyring struct{ token Token }

// tokenKey is a key in a token.
type tokenKey struct {
	crypto.Signer
	label string
}

// generate makes a key. role is the issuer's name and what it is the key of.
func (k keyring) generate(kind, role string) (crypto.Signer, error) {
	if k.token == nil {
		return keyKinds[kind]()
	}
	// Of a name of its own: one that a crash has left behind is in nobody's way, and is never taken for another.
	unique := make([]byte, 8)
	if _, err := rand.Read(unique); err != nil {
		return nil, err
	}
	label := labelPrefix + role + "-" + hex.EncodeToString(unique)
	key, err := k.token.Generate(kind, label)
	if err != nil {
		return nil, fmt.Errorf("making the key %s in the token: %w", label, err)
	}
	return tokenKey{key, label}, nil
}

// find finds the key that a file or the configuration names. The errors begin with where that is.
func (k keyring) find(at, uri string, pub crypto.PublicKey) (crypto.Signer, error) {
	label, err := labelIn(uri)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	if k.token == nil {
		return nil, fmt.Errorf("%s: the key %s is in a token: configure `pkcs11`", at, label)
	}
	key, err := k.token.Key(label)
	if err != nil {
		return nil, fmt.Errorf("%s: the key %s in the token: %w", at, label, err)
	}
	if _, err := fitting(at, key, pub); err != nil {
		return nil, err
	}
	return tokenKey{key, label}, nil
}

func (k tokenKey) uri() string { return keyURI + "object=" + url.PathEscape(k.label) + ";type=private" }

// labelIn returns the label of a URI that names a private key by that alone.
//
//	pkcs11:object=LABEL[;type=private]      RFC 7512 section 2.3
func labelIn(uri string) (label string, err error) {
	for attribute := range strings.SplitSeq(strings.TrimPrefix(strings.TrimSpace(uri), keyURI), ";") {
		name, value, _ := strings.Cut(attribute, "=")
		switch {
		case name == "object" && label == "":
			if label, err = url.PathUnescape(value); err != nil || label == "" || !plain(label) {
				return "", errors.New("the label in the PKCS #11 URI is none")
			}
		case name == "type" && value == "private":
		default:
			return "", errors.New("a PKCS #11 URI other than pkcs11:object=LABEL;type=private: the token is that of `pkcs11`")
		}
	}
	if label == "" {
		return "", errors.New("a PKCS #11 URI without object=LABEL")
	}
	return label, nil
}

func namesToken(text []byte) bool { return bytes.HasPrefix(text, []byte(keyURI)) }

// inToken reports whether the generation's key is in a token.
func (g *generation) inToken() bool {
	_, held := g.key.(tokenKey)
	return held
}

// repeats reports whether the key signs the same bytes always with the same signature. ECDSA in a token takes a random number.
func (g *generation) repeats() bool {
	_, ec := g.key.Public().(*ecdsa.PublicKey)
	return !g.inToken() || !ec
}

// serial is the serial number of the certificate that is about to be signed under the ID. Where a key signs the same bytes always
// alike it follows from the ID: what was signed and not recorded is signed again as it was. Where it does not, each attempt has a
// number of its own: else one that was lost between the signature and the ledger, or with a ledger that was restored from a
// backup, would leave two certificates with one number. What counts in both cases is the ledger's row.
func (r *running) serial(i *issuer, id string) ([]byte, error) {
	if i.repeats() {
		return r.serialNumber(i.name, id), nil
	}
	serial := make([]byte, serialSize)
	if _, err := rand.Read(serial); err != nil {
		return nil, err
	}
	return positive(serial), nil
}

// close ends the token's sessions.
func (k keyring) close() error {
	if k.token == nil {
		return nil
	}
	return k.token.Close()
}
