package authz

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// PasswordConfig configures the stage `password`: who may ask, by user name and password (HTTP Basic or Digest).
// At least one user has to come from Users or File.
type PasswordConfig struct {
	// Users maps user names to hashed passwords: "{sha256}..." for generated secrets of at least 128 random bits,
	// "$argon2id$..." for people's passwords, "{digest-sha-256}REALM:..." for those that HTTP Digest is to take: the realm is the
	// endpoint's name. A fast hash, by which one can log in, so that it is sealed.
	Users map[string]string `yaml:"users"`
	// File holds further users, one `name:hash` a line; empty lines and lines that begin with # are skipped. Relative
	// paths are below the configuration's folder. A user can have a digest form for each realm beside one other form; Basic is
	// compared with that, and with a digest form where there is no other.
	File string `yaml:"file"`
	// Device, when "user", takes the user name for the device's name.
	Device string `yaml:"device"`
	// Limit bounds wrong passwords from one address (an IPv6 /64 counts as one).
	Limit PasswordLimit `yaml:"limit"`
}

// PasswordLimit is a token bucket per source. It protects people's passwords, which can be guessed and are costly to
// check: it counts attempts that no generated secret answers, and gives the token back when the password is right.
type PasswordLimit struct {
	Burst   int                 `yaml:"burst"`   // wrong attempts at once; 0: 10
	Every   strictyaml.Duration `yaml:"every"`   // one more after each such period; 0: 6s
	Sources int                 `yaml:"sources"` // addresses remembered; 0: 4096
}

// limiter makes the table, with the defaults filled in.
func (l PasswordLimit) limiter() (*limiter, error) {
	if l.Burst < 0 || l.Burst > 1_000_000 || l.Every < 0 || l.Sources < 0 || l.Sources > 1_000_000 {
		return nil, errors.New("limit: burst and sources are 0 to 1000000")
	}
	if l.Burst == 0 {
		l.Burst = 10
	}
	if l.Every == 0 {
		l.Every = strictyaml.Duration(6 * time.Second)
	}
	if l.Sources == 0 {
		l.Sources = 4096
	}
	return newLimiter(l.Burst, time.Duration(l.Every), l.Sources), nil
}

// Password is the stage `password`. It denies with Unauthenticated when the password is missing or wrong, with Busy
// when the source tried too often, with NotAuthorized when another stage named another device; it cannot answer when
// the context ends while it waits to compute a hash.
type Password struct {
	config  PasswordConfig // as it was made with, for Describe
	users   map[string]*entry
	digests map[string]digestForms
	dummies []*entry // an argon2id entry of each cost that users have: what an unknown user is compared with
	device  bool
	limit   *limiter
	now     func() time.Time
	hashing *Hashing
	open    func(sealed []byte, context ...string) ([]byte, error)
	pick    [32]byte // keys the choice among dummies
}

// NewPassword reads the users. hashing is shared by all password stages of the process, opener opens digest forms. now is the clock.
func NewPassword(c PasswordConfig, dir string, hashing *Hashing, opener Opener, now func() time.Time) (*Password, error) {
	if hashing == nil || opener == nil || now == nil {
		return nil, errors.New("password: no hashing, opener or clock given")
	}
	s := &Password{config: c, users: make(map[string]*entry), digests: make(map[string]digestForms), now: now, hashing: hashing, open: opener.Open}
	rand.Read(s.pick[:]) //nolint:errcheck // crypto/rand.Read never fails (Go 1.24)
	names := make([]string, 0, len(c.Users))
	for name := range c.Users {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := s.add(name, c.Users[name]); err != nil {
			return nil, fmt.Errorf("users: %w", err)
		}
	}
	if c.File != "" {
		if err := s.addFile(dir, c.File); err != nil {
			return nil, err
		}
	}
	if len(s.users)+len(s.digests) == 0 {
		return nil, errors.New("no users: give users or file")
	}
	switch c.Device {
	case "":
	case "user":
		s.device = true
	default:
		return nil, fmt.Errorf(`device: %q is not known (only "user" is)`, c.Device)
	}
	var err error
	if s.limit, err = c.Limit.limiter(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Password) addFile(dir, path string) error {
	return eachEntry(dir, path, func(line string) error {
		name, hash, ok := strings.Cut(line, ":")
		if !ok {
			return errors.New("want name:hash")
		}
		return s.add(name, hash)
	})
}

func (s *Password) add(name, hash string) error {
	// RFC 7617 section 2: a user-id has no colon and no control characters.
	if name == "" || len(name) > 256 || strings.Contains(name, ":") || !printable(name) {
		return fmt.Errorf("user name %q: 1 to 256 characters, without colon and control characters", name)
	}
	if taken, err := s.addDigest(name, hash); taken {
		return err
	}
	if s.users[name] != nil {
		return fmt.Errorf("user %q stands twice", name)
	}
	e, err := parseEntry(hash)
	if err != nil {
		return fmt.Errorf("user %q: %w", name, err)
	}
	s.users[name] = e
	if e.sum == nil && !slices.ContainsFunc(s.dummies, func(d *entry) bool { return d.cost == e.cost }) {
		d := &entry{cost: e.cost, salt: make([]byte, len(e.salt)), hash: make([]byte, len(e.hash))}
		rand.Read(d.salt) //nolint:errcheck // crypto/rand.Read never fails (Go 1.24)
		rand.Read(d.hash) //nolint:errcheck // crypto/rand.Read never fails (Go 1.24)
		s.dummies = append(s.dummies, d)
	}
	return nil
}

// Name is "password".
func (s *Password) Name() string { return "password" }

// Credentials is what the stage looks at.
func (s *Password) Credentials() []gateway.CredentialKind {
	return []gateway.CredentialKind{gateway.CredentialPassword}
}

// Identifies marks the stage as one that depends only on who is asking.
func (s *Password) Identifies() {}

// Decide compares the password. Whether the user is unknown or the password wrong shows neither in the answer nor in
// the work done.
func (s *Password) Decide(ctx context.Context, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	if err := ctx.Err(); err != nil {
		return gateway.Unanswered(err)
	}
	c, ok := r.Credential(gateway.CredentialPassword)
	if !ok {
		return gateway.Denied(gateway.Unauthenticated, "a user name and password are required", "the request has no password")
	}
	right, limited, err := s.check(ctx, c, r.Source)
	switch {
	case err != nil:
		return gateway.Unanswered(fmt.Errorf("user %s: no password computation was free in time: %w", shown(c.ID), err))
	case limited > 0:
		wait := time.Duration(math.Ceil(limited.Seconds())) * time.Second
		v := gateway.Denied(gateway.Busy, fmt.Sprintf("too many wrong passwords, try again in %v", wait),
			fmt.Sprintf("too many wrong passwords from %s: user %s was not looked at; next try in %v", sourceOf(r.Source), shown(c.ID), wait))
		v.RetryAfter = wait
		return v
	case !right:
		return gateway.Denied(gateway.Unauthenticated, "user name or password is wrong", s.wrong(c))
	}
	g.Authenticate(c)
	note := fmt.Sprintf("user %s", shown(c.ID))
	if c.Digest != nil {
		note += ", by HTTP Digest"
	}
	if s.device {
		if denied, ok := nameDevice(g, c.ID); !ok {
			return denied
		}
		note += ", who is the device"
	}
	return gateway.Allowed(note)
}

// check compares the credential with the user's entry. limited is how long the source has to wait when it tried too often.
func (s *Password) check(ctx context.Context, c gateway.Credential, source netip.Addr) (right bool, limited time.Duration, err error) {
	if c.Digest != nil {
		right, limited = s.checkProof(c, source)
		return right, limited, nil
	}
	password := []byte(c.Secret)
	possible := len(password) > 0 && len(password) <= maxPassword
	password = password[:min(len(password), maxPassword)]
	// A generated secret is compared first and without limit: it cannot be guessed, and one broken device must not
	// lock out all those behind the same address. Its failure goes on like everybody's.
	user := s.users[c.ID]
	want := make([]byte, sha256.Size)
	generated := user != nil && user.sum != nil
	if generated {
		want = user.sum
	}
	sum := sha256.Sum256(password)
	if subtle.ConstantTimeCompare(sum[:], want) == 1 && generated && possible {
		return true, 0, nil
	}
	if len(s.dummies)+len(s.digests) == 0 {
		return false, 0, nil
	}
	if wait, ok := s.limit.take(source, s.now()); !ok {
		return false, max(wait, 1), nil
	}
	if s.matchesForm(c.ID, password) && possible {
		s.limit.giveBack(source, s.now())
		return true, 0, nil
	}
	if len(s.dummies) == 0 {
		return false, 0, nil
	}
	known := user != nil && !generated
	compared := user
	if !known {
		compared = s.dummy(c.ID)
	}
	right, err = s.hashing.matches(ctx, compared, password)
	if right = right && known && possible; right {
		s.limit.giveBack(source, s.now())
	}
	return right, 0, err
}

// dummy is the entry that a name without argon2id hash is compared with: always the same for a name, of a cost that
// some user has.
func (s *Password) dummy(name string) *entry {
	mac := hmac.New(sha256.New, s.pick[:])
	mac.Write([]byte(name))
	return s.dummies[binary.BigEndian.Uint64(mac.Sum(nil))%uint64(len(s.dummies))]
}

// shown quotes what a stranger sent, cut to what an operator needs.
func shown(s string) string {
	const most = 64
	if len(s) > most {
		return fmt.Sprintf("%q...", bytes.ToValidUTF8([]byte(s[:most]), []byte("?")))
	}
	return fmt.Sprintf("%q", s)
}
