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
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
)

// KeysConfig configures the stage `keys`: which public keys are certified, what proves their possession, and which keys the
// gateway makes for devices.
type KeysConfig struct {
	// Allowed keys: P-256, P-384, P-521, Ed25519, an RSA size exactly (RSA-3072), or an RSA size and all above it
	// (RSA>=3072). Default: each that the gateway reads (those named, and RSA>=2048).
	Allowed []string `yaml:"allowed"`
	// POP lists the proofs of possession that suffice: signature (with the key itself; tls-binding is one too),
	// tls-binding, ra (an RA vouches, for which a stage `ra` has to stand before), pending-confirm (the device decrypts the certificate). Default: signature.
	POP []string `yaml:"pop"`
	// Generate lists the kinds of keys that the gateway makes for a device that asks for one: P-256, P-384, P-521, Ed25519,
	// RSA-2048, RSA-3072, RSA-4096, each one that is allowed. The first is made where the device does not say. Default: none is made.
	Generate []string `yaml:"generate"`
	// Wrapping are the keys that devices share with the gateway, to have keys that are made for them encrypted with. It goes with Generate.
	Wrapping WrappingConfig `yaml:"wrapping"`
	// Blocklist is a file of keys that are refused whoever has them: the SHA-256 of a SubjectPublicKeyInfo in
	// hexadecimal on each line, # for comments.
	Blocklist string `yaml:"blocklist"`
}

// Keys is the stage `keys`. It denies with BadAlgorithm when no key of the kind is allowed, with BadTemplate when the
// key is missing, too short or long, weak or on the block list, with BadPOP when possession is not proven as demanded, with
// NotAuthorized when somebody else than an RA vouches for it. Of requests for a key it denies those for a kind that is not
// made with BadAlgorithm, all with NotAuthorized where none is made, those to be encrypted with a key that it does not know with
// BadTemplate, as those for a key that is not to be encrypted where it has to be, and with another device's with NotAuthorized.
type Keys struct {
	config    KeysConfig      // as it was made with, for Describe
	names     map[string]bool // exact ones, as pkix.KeyName has them
	rsaFrom   int             // bits from which on every RSA key is allowed; 0 for none
	allowed   string          // for the operator
	pop       []gateway.POP
	generate  []string // kinds of keys that the gateway makes
	wrapping  *wrapping
	bounds    bool // it only bounds what other stages allow: no key is made, and no certificate to be decrypted, on its word
	blocklist *pkix.Blocklist
}

const rsaFloor = "RSA>="

// NewKeys makes the stage and reads the block list. It has no store of secrets.
func NewKeys(c KeysConfig, dir string) (*Keys, error) { return NewKeysFrom(c, dir, nil, nil, nil) }

// NewKeysFrom is NewKeys with what Wrapping.Devices needs: the store's secrets, what opens them, and the clock.
func NewKeysFrom(c KeysConfig, dir string, secrets Secrets, opener Opener, now func() time.Time) (*Keys, error) {
	s := &Keys{config: c, names: make(map[string]bool)}
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
	for _, kind := range c.Generate {
		if err := s.generated(kind); err != nil {
			return nil, fmt.Errorf("generate: %w", err)
		}
	}
	var err error
	if s.wrapping, err = newWrapping(c.Wrapping, dir, secrets, opener, now); err != nil {
		return nil, fmt.Errorf("wrapping: %w", err)
	}
	if len(c.Generate) == 0 && (len(c.Wrapping.Keys) > 0 || c.Wrapping.Devices || c.Wrapping.Required) {
		return nil, errors.New("wrapping: it is for keys that the gateway makes: say which by generate")
	}
	if c.Blocklist != "" {
		if s.blocklist, err = readBlocklist(dir, c.Blocklist); err != nil {
			return nil, fmt.Errorf("blocklist: %w", err)
		}
	}
	return s, nil
}

// NewProfileKeys makes the stage that ends a pipeline: keys that a profile certifies, as KeysConfig.Allowed. On its word alone
// possession is proven by a signature, no key is made, and no certificate is decrypted for a proof. judged: a stage `keys`
// before it has said which proof suffices, or that a key is made.
func NewProfileKeys(allowed []string, judged bool) (*Keys, error) {
	s, err := NewKeys(KeysConfig{Allowed: allowed}, "")
	if err != nil {
		return nil, err
	}
	s.bounds = true
	if judged {
		s.pop = []gateway.POP{gateway.POPSignature, gateway.POPLinked, gateway.POPRA, gateway.POPConfirm}
	}
	return s, nil
}

// Proofs lists the proofs of possession that suffice. A signature that is linked to the connection is a signature as well.
func (s *Keys) Proofs() []gateway.POP { return slices.Clone(s.pop) }

// Generates lists the kinds of keys that the gateway makes on the stage's word.
func (s *Keys) Generates() []string { return slices.Clone(s.generate) }

// Wraps reports whether no key leaves the gateway on the stage's word but encrypted.
func (s *Keys) Wraps() bool { return len(s.generate) == 0 || s.wrapping.required }

// Shares reports whether the stage has keys that devices share with the gateway, to encrypt others with.
func (s *Keys) Shares() bool { return len(s.wrapping.fixed) > 0 || s.wrapping.secrets != nil }

// Permits reports whether keys of a kind, as pkix.KeyName has it, are allowed.
func (s *Keys) Permits(kind string) bool {
	_, ok := s.permits(kind, rsaBits(kind))
	return ok
}

// generated adds a kind of key that the gateway makes.
func (s *Keys) generated(kind string) error {
	switch {
	case !slices.Contains(pkix.GeneratedKinds(), kind):
		return fmt.Errorf("%q is no kind of key that the gateway makes (known: %s)", kind, strings.Join(pkix.GeneratedKinds(), ", "))
	case !s.Permits(kind):
		return fmt.Errorf("%s is not among the keys that are allowed: %s", kind, s.allowed)
	case slices.Contains(s.generate, kind):
		return fmt.Errorf("%s stands twice", kind)
	}
	s.generate = append(s.generate, kind)
	return nil
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
		return s.toBeMade(ctx, r, g)
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
		return gateway.Denied(gateway.BadPOP, s.required(g),
			fmt.Sprintf("proof of possession is %q; allowed are %q", r.POP, s.pop))
	}
	// RFC 9810 section 5.2.8.1: "An end entity MUST NOT use raVerified."
	if r.POP == gateway.POPRA && !g.Vouched() {
		return gateway.Denied(gateway.NotAuthorized, "only a registration authority can vouch for the possession of a key", "raVerified, and no stage ra before this one has found an RA to ask")
	}
	if !s.bounds && (r.POP == gateway.POPRA || r.POP == gateway.POPConfirm) {
		g.AllowPOP(r.POP)
	}
	if r.POP == gateway.POPConfirm {
		return gateway.Allowed(name + ", possession to be proven by decrypting the certificate")
	}
	return gateway.Allowed(fmt.Sprintf("%s, possession proven by %s", name, r.POP))
}

// required says what proof is missing. Where the request has to be bound to its TLS connection, which clients do only when they
// are told to, it says how.
func (s *Keys) required(g *gateway.Grant) string {
	switch {
	case !slices.Contains(s.pop, gateway.POPLinked) || slices.Contains(s.pop, gateway.POPSignature):
		return "possession of the key is not proven as required"
	case g.Vouched():
		return "requests have to be bound to the TLS connection by the device itself (RFC 7030 section 3.5): none is taken from a registration authority"
	}
	return "the request has to be bound to the TLS connection that it comes by (RFC 7030 section 3.5): put the base64 of the connection's channel binding " +
		"(TLS 1.2: tls-unique; TLS 1.3: tls-exporter, RFC 9266) into the attribute challengePassword or estIdentityLinking, then sign it"
}

// toBeMade judges a request for a key that is still to be made.
func (s *Keys) toBeMade(ctx context.Context, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	if r.KeyGen == nil {
		return gateway.Denied(gateway.BadTemplate, "the request has no public key", "the request has no public key and asks for none to be made")
	}
	kind := r.KeyGen.Algorithm
	switch {
	case s.bounds && (kind == "" || kind == gateway.AnyRSA || s.Permits(kind)): // the gateway makes one that fits, or none
		return gateway.Allowed("a key that is to be made")
	case s.bounds:
		return gateway.Denied(gateway.BadAlgorithm, "keys of this kind are not certified here", fmt.Sprintf("the key to be made is %s; allowed are %s", shown(kind), s.allowed))
	case len(s.generate) == 0:
		return gateway.Denied(gateway.NotAuthorized, "no keys are made here", "a key is asked for, and this stage lets the gateway make none (generate)")
	case !slices.ContainsFunc(s.generate, r.KeyGen.Fits):
		made := strings.Join(s.generate, ", ")
		return gateway.Denied(gateway.BadAlgorithm, "keys of this kind are not made here, but "+made, fmt.Sprintf("a key %s is asked for; made are %s", shown(kind), made))
	}
	if denied, ok := s.wraps(ctx, r, g); !ok {
		return denied
	}
	g.AllowKeyGen(s.Generates())
	if kind == "" {
		return gateway.Allowed("a key, to be made: the device leaves the kind open")
	}
	return gateway.Allowed(kind + ", to be made")
}

// rsaBits is the size in the name of an RSA key, 0 for any other.
func rsaBits(name string) int {
	bits := 0
	if digits, ok := strings.CutPrefix(name, "RSA-"); ok {
		bits, _ = strconv.Atoi(digits)
	}
	return bits
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
