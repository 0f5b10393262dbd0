package authz

import (
	"bytes"
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
)

// KeysConfig configures the stage `keys`: which public keys are certified, and what proves their possession.
type KeysConfig struct {
	// Allowed keys: P-256, P-384, P-521, Ed25519, an RSA size exactly (RSA-3072), or an RSA size and all above it
	// (RSA>=3072). Default: each that the gateway reads (those named, and RSA>=2048).
	Allowed []string `yaml:"allowed"`
	// POP lists the proofs of possession that suffice: signature (with the key itself; tls-binding is one too),
	// tls-binding, ra (an RA vouches, for which a stage `ra` has to stand before), pending-confirm (the device decrypts the certificate). Default: signature.
	POP []string `yaml:"pop"`
	// Blocklist is a file of keys that are refused whoever has them: the SHA-256 of a SubjectPublicKeyInfo in
	// hexadecimal on each line, # for comments.
	Blocklist string `yaml:"blocklist"`
}

// Keys is the stage `keys`. It denies with BadAlgorithm when no key of the kind is allowed, with BadTemplate when the
// key is missing, too short or long, weak or on the block list, with BadPOP when possession is not proven as demanded, with
// NotAuthorized when somebody else than an RA vouches for it.
type Keys struct {
	names     map[string]bool // exact ones, as pkix.KeyName has them
	rsaFrom   int             // bits from which on every RSA key is allowed; 0 for none
	allowed   string          // for the operator
	pop       []gateway.POP
	blocklist *pkix.Blocklist
}

const rsaFloor = "RSA>="

// NewKeys makes the stage and reads the block list.
func NewKeys(c KeysConfig, dir string) (*Keys, error) {
	s := &Keys{names: make(map[string]bool)}
	allowed := c.Allowed
	if len(allowed) == 0 {
		allowed = []string{"P-256", "P-384", "P-521", "Ed25519", rsaFloor + strconv.Itoa(pkix.MinRSABits)}
	}
	s.allowed = strings.Join(allowed, ", ")
	for _, name := range allowed {
		if err := s.allow(name); err != nil {
			return nil, fmt.Errorf("allowed: %w", err)
		}
	}
	for _, name := range c.POP {
		switch pop := gateway.POP(name); pop {
		case gateway.POPSignature, gateway.POPLinked, gateway.POPRA, gateway.POPConfirm:
			s.pop = append(s.pop, pop)
		case gateway.POPNone:
			return nil, errors.New("pop: none cannot be allowed: a certificate would name a key that its holder may not have (RFC 4211 section 4)")
		default:
			return nil, fmt.Errorf("pop: %q is not known (known: %s, %s, %s, %s)", name, gateway.POPSignature, gateway.POPLinked, gateway.POPRA, gateway.POPConfirm)
		}
	}
	if len(s.pop) == 0 {
		s.pop = []gateway.POP{gateway.POPSignature}
	}
	if c.Blocklist != "" {
		var err error
		if s.blocklist, err = readBlocklist(dir, c.Blocklist); err != nil {
			return nil, fmt.Errorf("blocklist: %w", err)
		}
	}
	return s, nil
}

func (s *Keys) allow(name string) error {
	size := func(digits string) (int, error) {
		bits, err := strconv.ParseUint(digits, 10, 16)
		if err != nil || bits < pkix.MinRSABits || bits > pkix.MaxRSABits {
			return 0, fmt.Errorf("%q: RSA keys of %d to %d bits are read", name, pkix.MinRSABits, pkix.MaxRSABits)
		}
		return int(bits), nil
	}
	if digits, ok := strings.CutPrefix(name, rsaFloor); ok {
		bits, err := size(digits)
		if err != nil {
			return err
		}
		if s.rsaFrom == 0 || bits < s.rsaFrom {
			s.rsaFrom = bits
		}
		return nil
	}
	if digits, ok := strings.CutPrefix(name, "RSA-"); ok {
		bits, err := size(digits)
		if err != nil {
			return err
		}
		s.names["RSA-"+strconv.Itoa(bits)] = true
		return nil
	}
	switch name {
	case "P-256", "P-384", "P-521", "Ed25519":
		s.names[name] = true
		return nil
	}
	return fmt.Errorf("%q is not known (known: P-256, P-384, P-521, Ed25519, RSA-<bits>, RSA>=<bits>)", name)
}

// Name is "keys".
func (s *Keys) Name() string { return "keys" }

// Decide judges the key to certify and how its possession was proven.
func (s *Keys) Decide(ctx context.Context, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	if err := ctx.Err(); err != nil {
		return gateway.Unanswered(err)
	}
	if g.PublicKey == nil && r.PublicKey == nil {
		return s.generated(r)
	}
	if !bytes.Equal(g.PublicKey, r.PublicKey) {
		return gateway.Denied(gateway.BadPOP, "possession of the key is not proven", "the key to certify is not the one that the request proves possession of")
	}
	key, err := pkix.ParsePublicKey(g.PublicKey, pkix.WithBlocklist(s.blocklist))
	switch {
	case errors.Is(err, pkix.ErrAlgorithm):
		return gateway.Denied(gateway.BadAlgorithm, "keys of this kind are not certified here", err.Error())
	case err != nil:
		return gateway.Denied(gateway.BadTemplate, "the public key is malformed or known to be weak", err.Error())
	}
	name := pkix.KeyName(key)
	bits := 0
	if k, ok := key.(*rsa.PublicKey); ok {
		bits = k.N.BitLen()
	}
	if denied, ok := s.permits(name, bits); !ok {
		return denied
	}
	if !slices.Contains(s.pop, r.POP) && !(r.POP == gateway.POPLinked && slices.Contains(s.pop, gateway.POPSignature)) {
		return gateway.Denied(gateway.BadPOP, "possession of the key is not proven as required",
			fmt.Sprintf("proof of possession is %q; allowed are %q", r.POP, s.pop))
	}
	// RFC 9810 section 5.2.8.1: "An end entity MUST NOT use raVerified."
	if r.POP == gateway.POPRA && !g.Vouched() {
		return gateway.Denied(gateway.NotAuthorized, "only a registration authority can vouch for the possession of a key", "raVerified, and no stage ra before this one has found an RA to ask")
	}
	return gateway.Allowed(fmt.Sprintf("%s, possession proven by %s", name, r.POP))
}

// generated judges a request for a key that is still to be made.
func (s *Keys) generated(r *gateway.Request) gateway.Verdict {
	if r.KeyGen == nil {
		return gateway.Denied(gateway.BadTemplate, "the request has no public key", "the request has no public key and asks for none to be made")
	}
	name := r.KeyGen.Algorithm
	if name == "" {
		return gateway.Allowed("the key is to be made as the profile says")
	}
	bits := 0
	if digits, ok := strings.CutPrefix(name, "RSA-"); ok {
		bits, _ = strconv.Atoi(digits)
	}
	if denied, ok := s.permits(name, bits); !ok {
		return denied
	}
	return gateway.Allowed(name + ", to be made")
}

// permits judges a key by its name; bits is the size of an RSA key, else 0.
func (s *Keys) permits(name string, bits int) (gateway.Verdict, bool) {
	if s.names[name] || bits > 0 && bits <= pkix.MaxRSABits && s.rsaFrom > 0 && bits >= s.rsaFrom {
		return gateway.Verdict{}, true
	}
	note := fmt.Sprintf("the key is %s; allowed are %s", shown(name), s.allowed)
	if s.family(name) {
		return gateway.Denied(gateway.BadTemplate, "a key of this size is not certified here", note), false
	}
	return gateway.Denied(gateway.BadAlgorithm, "keys of this kind are not certified here", note), false
}

// family reports whether some other key of the same algorithm is allowed: then the size is wrong, not the algorithm.
func (s *Keys) family(name string) bool {
	kind := func(n string) string { head, _, _ := strings.Cut(n, "-"); return head }
	if kind(name) == "RSA" && s.rsaFrom > 0 {
		return true
	}
	for allowed := range s.names {
		if kind(allowed) == kind(name) {
			return true
		}
	}
	return false
}
