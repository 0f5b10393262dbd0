package authz

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// maxArgonChallenges bounds the entries that cost a computation each: a challenge comes without a name, so a wrong one
// is compared with all of them.
const maxArgonChallenges = 4

// ChallengeConfig configures the stage `challenge`: the requester knows a secret that stands for the endpoint, as SCEP's
// challengePassword (RFC 8894 section 2.4). Everybody who knows it may ask; it names no device. At least one entry has to
// come from Secrets or File.
type ChallengeConfig struct {
	// Secrets maps names, which say in the records which one was used, to hashed challenges: "{sha256}..." for generated
	// ones of at least 128 random bits, "$argon2id$..." for those that people type, at most 4 of them.
	Secrets map[string]string `yaml:"secrets"`
	// File holds further ones, `name:hash` or a bare hash a line; empty lines and lines that begin with # are skipped. A
	// bare one goes by the first 8 hexadecimal digits of the SHA-256 of its line. Relative paths are below the
	// configuration's folder.
	File string `yaml:"file"`
	// Limit bounds wrong challenges from one address (an IPv6 /64 counts as one), where there are argon2id entries.
	Limit PasswordLimit `yaml:"limit"`
}

// Challenge is the stage `challenge`. It denies with Unauthenticated when the challenge is missing or wrong, with Busy
// when the source tried too often; it cannot answer when the context ends while it waits to compute a hash.
type Challenge struct {
	generated []namedEntry
	typed     []namedEntry // argon2id
	limit     *limiter
	hashing   *Hashing
}

type namedEntry struct {
	name string
	*entry
}

// NewChallenge reads the entries. hashing is shared by all stages of the process that compare passwords.
func NewChallenge(c ChallengeConfig, dir string, hashing *Hashing) (*Challenge, error) {
	if hashing == nil {
		return nil, errors.New("challenge: no hashing given")
	}
	s := &Challenge{hashing: hashing}
	names := make([]string, 0, len(c.Secrets))
	for name := range c.Secrets {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := s.add(name, c.Secrets[name]); err != nil {
			return nil, fmt.Errorf("secrets: %w", err)
		}
	}
	if c.File != "" {
		if err := s.addFile(dir, c.File); err != nil {
			return nil, err
		}
	}
	if len(s.generated)+len(s.typed) == 0 {
		return nil, errors.New("no challenges: give secrets or file")
	}
	if len(s.typed) > maxArgonChallenges {
		return nil, fmt.Errorf("%d argon2id entries: %d are taken, since a wrong challenge costs a computation for each", len(s.typed), maxArgonChallenges)
	}
	var err error
	if s.limit, err = c.Limit.limiter(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Challenge) addFile(dir, path string) error {
	return eachEntry(dir, path, func(line string) error {
		name, hash, ok := strings.Cut(line, ":")
		if !ok {
			sum := sha256.Sum256([]byte(line))
			name, hash = hex.EncodeToString(sum[:4]), line
		}
		return s.add(name, hash)
	})
}

func (s *Challenge) add(name, hash string) error {
	if name == "" || len(name) > 64 || strings.Contains(name, ":") || !printable(name) {
		return fmt.Errorf("name %s: 1 to 64 bytes, without colon and control characters", shown(name))
	}
	if slices.ContainsFunc(slices.Concat(s.generated, s.typed), func(e namedEntry) bool { return e.name == name }) {
		return fmt.Errorf("name %s stands twice", shown(name))
	}
	e, err := parseEntry(hash)
	if err != nil {
		return fmt.Errorf("challenge %s: %w", shown(name), err)
	}
	if e.sum != nil {
		s.generated = append(s.generated, namedEntry{name, e})
	} else {
		s.typed = append(s.typed, namedEntry{name, e})
	}
	return nil
}

// Name is "challenge".
func (s *Challenge) Name() string { return "challenge" }

// Credentials is what the stage looks at.
func (s *Challenge) Credentials() []gateway.CredentialKind {
	return []gateway.CredentialKind{gateway.CredentialChallenge}
}

// Identifies marks the stage as one that depends only on who is asking.
func (s *Challenge) Identifies() {}

// Decide compares the challenge. The client is told the same whether it is missing or wrong.
func (s *Challenge) Decide(ctx context.Context, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	if err := ctx.Err(); err != nil {
		return gateway.Unanswered(err)
	}
	const detail = "a valid challenge is required"
	c, ok := r.Credential(gateway.CredentialChallenge)
	if !ok {
		return gateway.Denied(gateway.Unauthenticated, detail, "the request has no challenge")
	}
	name, limited, err := s.check(ctx, c.Secret, r)
	switch {
	case err != nil:
		return gateway.Unanswered(fmt.Errorf("no computation of a challenge was free in time: %w", err))
	case limited > 0:
		wait := time.Duration(math.Ceil(limited.Seconds())) * time.Second
		v := gateway.Denied(gateway.Busy, fmt.Sprintf("too many wrong challenges, try again in %v", wait),
			fmt.Sprintf("too many wrong challenges from %s: this one was not looked at; next try in %v", sourceOf(r.Source), wait))
		v.RetryAfter = wait
		return v
	case name == "":
		return gateway.Denied(gateway.Unauthenticated, detail, "wrong challenge")
	}
	// The adapter cannot name the challenge: which one it is, the entry says.
	g.Authenticate(gateway.Credential{Kind: gateway.CredentialChallenge, ID: name})
	return gateway.Allowed("challenge " + shown(name))
}

// check names the entry that the challenge is, "" for none. limited is how long the source has to wait when it tried too
// often. Generated challenges are compared first and without limit, as in `password`.
func (s *Challenge) check(ctx context.Context, secret []byte, r *gateway.Request) (name string, limited time.Duration, err error) {
	if len(secret) == 0 || len(secret) > maxPassword {
		return "", 0, nil
	}
	sum := sha256.Sum256(secret)
	for _, e := range s.generated {
		if subtle.ConstantTimeCompare(sum[:], e.sum) == 1 {
			name = e.name
		}
	}
	if name != "" || len(s.typed) == 0 {
		return name, 0, nil
	}
	if wait, ok := s.limit.take(r.Source, r.Received); !ok {
		return "", max(wait, 1), nil
	}
	for _, e := range s.typed {
		right, err := s.hashing.matches(ctx, e.entry, secret)
		if err != nil {
			return "", 0, err
		}
		if right {
			s.limit.giveBack(r.Source, r.Received)
			return e.name, 0, nil
		}
	}
	return "", 0, nil
}
