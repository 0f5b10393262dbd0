package authz

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

func challenged(secret string) *gateway.Request {
	return &gateway.Request{
		Operation: gateway.Enroll, Source: netip.MustParseAddr("192.0.2.7"), Received: noon,
		Credentials: []gateway.Credential{{Kind: gateway.CredentialChallenge, Secret: gateway.Secret(secret)}},
	}
}

func newChallenge(t *testing.T, c ChallengeConfig, dir string) *Challenge {
	t.Helper()
	s, err := NewChallenge(c, dir, NewHashing(2), nil, atNoon)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// RFC 8894 section 2.4: challenges of the configuration, one for many; section 7.3: hashed where they are kept.
func TestChallenge(t *testing.T) {
	dir := t.TempDir()
	bare := HashSecret([]byte("another generated challenge"))
	write(t, dir, "challenges", []byte("# comment\n\nwindows:"+HashSecret([]byte("of the file"))+"\r\n  "+bare+"  \n"))
	config := ChallengeConfig{Secrets: map[string]string{"ios": HashSecret([]byte(secret)), "typed": anna()}, File: "challenges"}
	for name, c := range map[string]struct {
		secret, label string // label "" when denied
	}{
		"generated":             {secret, "ios"},
		"typed":                 {"correct horse", "typed"},
		"of the file":           {"of the file", "windows"},
		"of the file, nameless": {"another generated challenge", hexSum([]byte(bare))[:8]},
		"wrong":                 {secret + "0", ""},
		"empty":                 {"", ""},
		"the hash":              {HashSecret([]byte(secret)), ""},
		"the other hash":        {anna(), ""},
		"too long":              {strings.Repeat("x", 5000), ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newChallenge(t, config, dir)
			g := &gateway.Grant{}
			r := challenged(c.secret)
			v := s.Decide(context.Background(), r, g)
			if c.label != "" {
				expect(t, v, gateway.Allow, "", c.label)
				if g.Requester != "challenge:"+c.label || g.Device != "" {
					t.Errorf("grant %+v", g)
				}
			} else {
				expect(t, v, gateway.Deny, gateway.Unauthenticated, "wrong challenge")
				absent := s.Decide(context.Background(), basic("ios", secret), g)
				expect(t, absent, gateway.Deny, gateway.Unauthenticated, "no challenge")
				if absent.Detail != v.Detail || g.Requester != "" {
					t.Errorf("the client is told %q and %q; grant %+v", v.Detail, absent.Detail, g)
				}
			}
			if r.Credentials[0].ID != "" {
				t.Error("the request was changed")
			}
			if c.secret != "" && strings.Contains(v.Note, c.secret) {
				t.Errorf("the note tells the challenge: %s", v.Note)
			}
			endedDenies(t, s, r)
		})
	}
}

// An entry over an empty challenge, or over one that is too long, lets nobody in.
func TestChallengeLength(t *testing.T) {
	whole := strings.Repeat("x", maxPassword)
	s := newChallenge(t, ChallengeConfig{Secrets: map[string]string{"empty": HashSecret(nil), "long": HashSecret([]byte(whole)), "longer": HashSecret([]byte(whole + "y"))}}, "")
	expect(t, s.Decide(context.Background(), challenged(""), &gateway.Grant{}), gateway.Deny, gateway.Unauthenticated)
	expect(t, s.Decide(context.Background(), challenged(whole), &gateway.Grant{}), gateway.Allow, "")
	expect(t, s.Decide(context.Background(), challenged(whole+"y"), &gateway.Grant{}), gateway.Deny, gateway.Unauthenticated)
}

func TestChallengeLimit(t *testing.T) {
	s := newChallenge(t, ChallengeConfig{
		Secrets: map[string]string{"typed": anna(), "generated": HashSecret([]byte(secret))},
		Limit:   PasswordLimit{Burst: 2, Every: strictyaml.Duration(10 * time.Second)},
	}, "")
	decide := func(r *gateway.Request) gateway.Verdict { return s.Decide(context.Background(), r, &gateway.Grant{}) }
	for range 5 { // a right challenge costs nothing
		expect(t, decide(challenged("correct horse")), gateway.Allow, "")
	}
	for range 2 {
		expect(t, decide(challenged("wrong")), gateway.Deny, gateway.Unauthenticated)
	}
	v := decide(challenged("correct horse"))
	expect(t, v, gateway.Deny, gateway.Busy, "192.0.2.7/32", "10s")
	if v.RetryAfter != 10*time.Second || !strings.Contains(v.Detail, "10s") {
		t.Errorf("the client is told %q, %v", v.Detail, v.RetryAfter)
	}
	expect(t, decide(challenged(secret)), gateway.Allow, "") // a generated challenge is never locked out
	other := challenged("correct horse")
	other.Source = netip.MustParseAddr("192.0.2.8")
	expect(t, decide(other), gateway.Allow, "")
	later := challenged("correct horse")
	later.Received = noon.Add(10 * time.Second)
	expect(t, decide(later), gateway.Allow, "")

	// Without entries that cost anything there is no limit.
	s = newChallenge(t, ChallengeConfig{Secrets: map[string]string{"generated": HashSecret([]byte(secret))}, Limit: PasswordLimit{Burst: 1}}, "")
	for range 3 {
		expect(t, decide(challenged("wrong")), gateway.Deny, gateway.Unauthenticated)
	}
}

func TestChallengeWaitsNoLongerThanItsContext(t *testing.T) {
	s := newChallenge(t, ChallengeConfig{Secrets: map[string]string{"typed": anna()}}, "")
	s.hashing.slots <- struct{}{}
	s.hashing.slots <- struct{}{}
	ctx, cancel := context.WithCancel(context.Background())
	verdict := make(chan gateway.Verdict)
	go func() { verdict <- s.Decide(ctx, challenged("correct horse"), &gateway.Grant{}) }()
	cancel()
	expect(t, <-verdict, gateway.CannotAnswer, gateway.Unavailable)
}

func TestChallengeConfigErrors(t *testing.T) {
	dir := t.TempDir()
	hash := HashSecret([]byte(secret))
	for name, content := range map[string]string{
		"twice": "a:" + hash + "\na:" + hash + "\n", "bare-twice": hash + "\n" + hash + "\n",
		"plain": "a:" + secret + "\n", "bare-plain": secret + "\n", "noname": ":" + hash + "\n",
	} {
		write(t, dir, name, []byte(content))
	}
	for want, c := range map[string]ChallengeConfig{
		"no challenges":             {},
		`name ""`:                   {Secrets: map[string]string{"": hash}},
		`name "a:b"`:                {Secrets: map[string]string{"a:b": hash}},
		`challenge "a": want`:       {Secrets: map[string]string{"a": secret}},
		"64 hexadecimal digits":     {Secrets: map[string]string{"a": "{sha256}00"}},
		"twice:2: name":             {File: "twice"},
		"bare-twice:2: name":        {File: "bare-twice"},
		"plain:1: challenge":        {File: "plain"},
		"bare-plain:1: challenge":   {File: "bare-plain"},
		"noname:1":                  {File: "noname"},
		"file: ":                    {File: "absent"},
		"5 argon2id entries":        {Secrets: map[string]string{"a": anna(), "b": anna(), "c": anna(), "d": anna(), "e": anna()}},
		"limit: burst and sources ": {Secrets: map[string]string{"a": hash}, Limit: PasswordLimit{Burst: -1}},
	} {
		s, err := NewChallenge(c, dir, NewHashing(1), nil, atNoon)
		wantError(t, err, want)
		if s != nil || err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%v, %v", s, err)
		}
	}
	if _, err := NewChallenge(ChallengeConfig{Secrets: map[string]string{"a": hash}}, dir, nil, nil, atNoon); err == nil {
		t.Error("made without hashing")
	}
}
