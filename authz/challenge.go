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

	"github.com/muster-pki/muster/authz/webhook"
	"github.com/muster-pki/muster/gateway"
)

// maxArgonChallenges bounds the entries that cost a computation each: a challenge comes without a name, so a wrong one
// is compared with all of them.
const maxArgonChallenges = 4

// ChallengeConfig configures the stage `challenge`: the requester knows a secret that stands for the endpoint, as SCEP's
// challengePassword (RFC 8894 section 2.4). Everybody who knows it may ask; it names no device. Issued ones are good for one
// enrollment, and may be one device's. At least one entry has to come from Secrets or File, or Issued or Webhook be set.
type ChallengeConfig struct {
	// Secrets maps names, which say in the records which one was used, to hashed challenges: "{sha256}..." for generated
	// ones of at least 128 random bits, "$argon2id$..." for those that people type, at most 4 of them.
	Secrets map[string]string `yaml:"secrets"`
	// File holds further ones, `name:hash` or a bare hash a line; empty lines and lines that begin with # are skipped. A
	// bare one goes by the first 8 hexadecimal digits of the SHA-256 of its line. Relative paths are below the
	// configuration's folder.
	File string `yaml:"file"`
	// Issued takes those as well that `muster challenge new`, or the admin API, makes: each good at its endpoint until it
	// expires, and spent with the certificate.
	Issued bool `yaml:"issued"`
	// Webhook has a service of the operator's decide about challenges that are none of the above.
	Webhook *webhook.Config `yaml:"webhook"`
	// Basic takes the password of HTTP Basic for the challenge, with any user name, where a request carries none.
	Basic bool `yaml:"basic"`
	// Limit bounds wrong challenges from one address (an IPv6 /64 counts as one), where there are argon2id entries or a webhook.
	Limit PasswordLimit `yaml:"limit"`
}

// Challenge is the stage `challenge`. It denies with Unauthenticated when the challenge is missing, wrong, expired or spent,
// with NotAuthorized when it is for another subject, profile or device, with Busy when the source tried too often; it
// cannot answer when the context ends while it waits to compute a hash, issued ones cannot be looked up, or the operator's
// service does not say.
type Challenge struct {
	config    ChallengeConfig // as it was made with, for Describe
	generated []namedEntry
	typed     []namedEntry     // argon2id
	issued    Challenges       // nil: none is looked up
	service   *webhook.Service // nil: nobody else is asked
	basic     bool
	limit     *limiter
	hashing   *Hashing
	now       func() time.Time
}

type namedEntry struct {
	name string
	*entry
}

// NewChallenge reads the entries. hashing is shared by all stages of the process that compare passwords; issued is needed
// for Issued; now is the clock.
func NewChallenge(c ChallengeConfig, dir string, hashing *Hashing, issued Challenges, now func() time.Time) (*Challenge, error) {
	if hashing == nil || now == nil {
		return nil, errors.New("challenge: no hashing or clock given")
	}
	s := &Challenge{config: c, hashing: hashing, now: now, basic: c.Basic}
	if c.Issued {
		if issued == nil {
			return nil, errors.New("issued: there is no store of challenges")
		}
		s.issued = issued
	}
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
	if c.Webhook != nil {
		var err error
		if s.service, err = webhook.New(*c.Webhook, dir); err != nil {
			return nil, fmt.Errorf("webhook: %w", err)
		}
		if len(s.typed) > 0 {
			return nil, errors.New("webhook does not go with argon2id entries: each challenge that the service is asked about would count as a wrong one of theirs, and cost what that costs")
		}
	}
	if len(s.generated)+len(s.typed) == 0 && !c.Issued && c.Webhook == nil {
		return nil, errors.New("no challenges: give secrets or file, issued: true, or webhook")
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

// Close gives up the connections to the operator's service, where there is one.
func (s *Challenge) Close() {
	if s.service != nil {
		s.service.Close()
	}
}

// Credentials is what the stage looks at.
func (s *Challenge) Credentials() []gateway.CredentialKind {
	if s.basic {
		return []gateway.CredentialKind{gateway.CredentialChallenge, gateway.CredentialPassword}
	}
	return []gateway.CredentialKind{gateway.CredentialChallenge}
}

// Identify compares the challenge, and no more: an issued one says who asks even after it has been spent or has expired. The
// operator's service is not asked again: a repeat is known by the key that signed it.
func (s *Challenge) Identify(ctx context.Context, r *gateway.Request, g *gateway.Grant) (v gateway.Verdict, proves bool) {
	proves = true
	_, v = s.compare(ctx, r, g, func(*gateway.IssuedChallenge) error { return nil }, func(gateway.Secret) gateway.Verdict {
		proves = signs(r)
		return gateway.Allowed("the webhook is not asked again")
	})
	return v, proves
}

// Decide compares the challenge, and judges what an issued one is good for. The client is told the same whether it is
// missing, wrong or expired.
func (s *Challenge) Decide(ctx context.Context, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	one, v := s.compare(ctx, r, g, func(c *gateway.IssuedChallenge) error { return over(c, s.now()) }, func(secret gateway.Secret) gateway.Verdict {
		return s.ask(ctx, secret, r, g)
	})
	if v.Decision != gateway.Allow || one == nil {
		return v
	}
	return use(one, r, g)
}

// detailChallenge is all that clients are told of a challenge that is none.
const detailChallenge = "a valid challenge is required"

// compare finds out which challenge the request has. good says why an issued one is as good as none; other judges one that is none
// of the gateway's own, where there is a webhook.
func (s *Challenge) compare(ctx context.Context, r *gateway.Request, g *gateway.Grant, good func(*gateway.IssuedChallenge) error, other func(gateway.Secret) gateway.Verdict) (*gateway.IssuedChallenge, gateway.Verdict) {
	if err := ctx.Err(); err != nil {
		return nil, gateway.Unanswered(err)
	}
	c, ok := r.Credential(gateway.CredentialChallenge)
	if !ok && s.basic {
		c, ok = r.Credential(gateway.CredentialPassword)
		ok = ok && c.Digest == nil // which tells no password
	}
	if !ok {
		return nil, gateway.Denied(gateway.Unauthenticated, detailChallenge, "the request has no challenge")
	}
	found, limited, err := s.check(ctx, c.Secret, r, good)
	switch {
	case err == errRefused && s.service != nil && len(c.Secret) > 0 && len(c.Secret) <= maxPassword: // wrapped, it would be one of ours that is good no more
		return nil, other(c.Secret)
	case errors.Is(err, errRefused):
		return nil, gateway.Denied(gateway.Unauthenticated, detailChallenge, err.Error())
	case err != nil:
		return nil, gateway.Unanswered(err)
	case limited > 0:
		return nil, tooMany(r, limited)
	}
	// The adapter cannot name the challenge: which one it is, the entry says.
	g.Authenticate(gateway.Credential{Kind: gateway.CredentialChallenge, ID: found.name})
	if one := found.issued; one != nil && one.Device != "" {
		if denied, ok := nameRecorded(g, one.Device); !ok {
			return nil, denied
		}
	}
	return found.issued, gateway.Allowed("challenge " + shown(found.name))
}

// tooMany is the verdict about a source that has to wait.
func tooMany(r *gateway.Request, limited time.Duration) gateway.Verdict {
	wait := time.Duration(math.Ceil(limited.Seconds())) * time.Second
	v := gateway.Denied(gateway.Busy, fmt.Sprintf("too many wrong challenges, try again in %v", wait),
		fmt.Sprintf("too many wrong challenges from %s: this one was not looked at; next try in %v", sourceOf(r.Source), wait))
	v.RetryAfter = wait
	return v
}

// matched is the challenge that a request has.
type matched struct {
	name   string                   // of the entry, or the issued one's ID
	issued *gateway.IssuedChallenge // nil for one of the configuration
}

// check finds the challenge; the error wraps errRefused when it is none. limited is how long the source has to wait when it
// tried too often. Generated challenges and issued ones are compared first and without limit, as in `password`; an issued
// one that is refused costs what a wrong one does.
func (s *Challenge) check(ctx context.Context, secret []byte, r *gateway.Request, good func(*gateway.IssuedChallenge) error) (found matched, limited time.Duration, err error) {
	if len(secret) == 0 || len(secret) > maxPassword {
		return matched{}, 0, errRefused
	}
	sum := sha256.Sum256(secret)
	for _, e := range s.generated {
		if subtle.ConstantTimeCompare(sum[:], e.sum) == 1 {
			found.name = e.name
		}
	}
	if found.name != "" {
		return found, 0, nil
	}
	refused := errRefused
	if s.issued != nil {
		one, err := s.find(ctx, sum[:], r.Endpoint)
		if err == nil {
			err = good(one)
		}
		switch {
		case err == nil:
			return matched{one.ID, one}, 0, nil
		case !errors.Is(err, errRefused):
			return matched{}, 0, err
		}
		refused = err
	}
	if len(s.typed) == 0 {
		return matched{}, 0, refused
	}
	if wait, ok := s.limit.take(r.Source, r.Received); !ok {
		return matched{}, max(wait, 1), nil
	}
	for _, e := range s.typed {
		right, err := s.hashing.matches(ctx, e.entry, secret)
		if err != nil {
			return matched{}, 0, fmt.Errorf("no computation of a challenge was free in time: %w", err)
		}
		if right {
			s.limit.giveBack(r.Source, r.Received)
			return matched{name: e.name}, 0, nil
		}
	}
	return matched{}, 0, refused
}
