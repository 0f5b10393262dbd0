package scep

import (
	"crypto"
	"fmt"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cms"
	"github.com/muster-pki/muster/protocols/wire"
)

// Config is the `scep:` section of an endpoint. The zero value works.
type Config struct {
	// Type is onem2m-mef for the SCEP of a oneM2M M2M Enrolment Function (TS-0003 clause 8.3.6.3): no legacy algorithms, and rules for
	// the pipelines and the CA, which are checked when the configuration is loaded. Default: none in particular.
	Type Type `yaml:"type"`
	// Legacy lets in algorithms beside AES-CBC and SHA-256, SHA-384, SHA-512, each by its name: des, 3des, sha1. An
	// in-path attacker can make a client use them (RFC 8894 section 7.5), so that they are for networks and devices that
	// know nothing else. RFC 8894 section 2.9 forbids des; old clients send nothing else. The answer to a request uses the
	// request's algorithms.
	Legacy []Legacy `yaml:"legacy"`
	// Root says whether GetCACert, and answers with `chain: full`, hold the root CA certificate too; left out, they do.
	Root *bool `yaml:"root"`
	// Chain says what goes with an issued certificate: leaf (the default) nothing, full its CA certificates. Some Cisco
	// devices want the CA certificate there, Juniper's do not take it.
	Chain Chain `yaml:"chain"`
	// Limits: max-body counts a message before base64 when it comes by GET, up to 16777216; retry-after goes with 503.
	wire.Limits `yaml:",inline"`
}

// Type is onem2m-mef; "" for none in particular.
type Type string

// TypeOneM2MMEF is a value of Config.Type.
const TypeOneM2MMEF Type = "onem2m-mef"

// Legacy names an algorithm that has to be let in.
type Legacy string

// The values of Config.Legacy.
const (
	LegacyDES       Legacy = "des"
	LegacyTripleDES Legacy = "3des"
	LegacySHA1      Legacy = "sha1"
)

// Chain is leaf or full; "" means leaf.
type Chain string

// The values of Config.Chain.
const (
	ChainLeaf Chain = "leaf"
	ChainFull Chain = "full"
)

const maxMaxBody = 16 << 20

// UnmarshalStrict decodes and checks the section.
func (c *Config) UnmarshalStrict(file string, n *yaml.Node) error {
	type section Config // without this method
	return wire.DecodeSection(file, n, (*section)(c), func() error { return c.check() })
}

func (c Config) check() error {
	switch {
	case c.Type != "" && c.Type != TypeOneM2MMEF:
		return fmt.Errorf("type: not one of onem2m-mef")
	case c.Type == TypeOneM2MMEF && len(c.Legacy) > 0:
		return fmt.Errorf("legacy: type onem2m-mef has no place for old algorithms: leave one of the two out")
	}
	for i, l := range c.Legacy {
		switch l {
		case LegacyDES, LegacyTripleDES, LegacySHA1:
		default:
			return fmt.Errorf("legacy: %q is not one of des, 3des, sha1", string(l))
		}
		if slices.Contains(c.Legacy[:i], l) {
			return fmt.Errorf("legacy: %q stands twice", string(l))
		}
	}
	switch c.Chain {
	case "", ChainLeaf, ChainFull:
	default:
		return fmt.Errorf("chain: not one of leaf, full")
	}
	return c.Limits.Check(maxMaxBody)
}

func (c Config) withDefaults() Config {
	if c.Root == nil {
		root := true
		c.Root = &root
	}
	if c.Chain == "" {
		c.Chain = ChainLeaf
	}
	c.Limits = c.Limits.WithDefaults()
	return c
}

func (c Config) allows(l Legacy) bool { return slices.Contains(c.Legacy, l) }

// digests are those that a message may be signed with.
func (c Config) digests() []crypto.Hash {
	list := []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512}
	if c.allows(LegacySHA1) {
		list = append(list, crypto.SHA1)
	}
	return list
}

// encrypts reports whether a message may be encrypted with the cipher.
func (c Config) encrypts(cipher cms.Cipher) bool {
	switch cipher {
	case cms.AES128, cms.AES192, cms.AES256:
		return true
	case cms.TripleDES:
		return c.allows(LegacyTripleDES)
	case cms.DES:
		return c.allows(LegacyDES)
	}
	return false
}

// judges are the options by which certification requests are judged.
func (c Config) judges() []pkix.Option {
	if c.allows(LegacySHA1) {
		return []pkix.Option{pkix.AllowSHA1()}
	}
	return nil
}

// capabilities is the answer to GetCACaps (RFC 8894 section 3.5.2): LF, since some clients split at nothing else. What
// an endpoint does not accept is not announced. SHA-384 is no keyword of the RFC: strongSwan 5.9.8 encrypts with AES
// only where it stands. next: the CA has announced its next certificate (section 4.7). SCEPStandard implies some of the others, which older clients look for.
func (c Config) capabilities(next bool) string {
	list := []string{"AES"}
	if c.allows(LegacyTripleDES) {
		list = append(list, "DES3")
	}
	if next {
		list = append(list, "GetNextCACert")
	}
	list = append(list, "POSTPKIOperation", "Renewal")
	if c.allows(LegacySHA1) {
		list = append(list, "SHA-1")
	}
	list = append(list, "SHA-256", "SHA-384", "SHA-512", "SCEPStandard")
	return strings.Join(list, "\n") + "\n"
}
