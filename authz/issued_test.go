package authz

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// desk is a store of issued challenges, or fails.
type desk struct {
	all   map[string]*gateway.IssuedChallenge // by hash
	err   error
	asked int
}

func (d *desk) Challenge(_ context.Context, hash []byte) (*gateway.IssuedChallenge, error) {
	d.asked++
	if d.err != nil {
		return nil, d.err
	}
	if c, ok := d.all[string(hash)]; ok {
		return c, nil
	}
	return nil, gateway.ErrNotFound
}

// issue puts a challenge there, good at ran until an hour after noon unless it says otherwise.
func (d *desk) issue(challenge string, c gateway.IssuedChallenge) {
	sum := sha256.Sum256([]byte(challenge))
	c.Hash, c.ID = sum[:], hex.EncodeToString(sum[:8])
	if c.Endpoint == "" {
		c.Endpoint = "ran"
	}
	if c.NotAfter.IsZero() {
		c.NotAfter = noon.Add(time.Hour)
	}
	if d.all == nil {
		d.all = map[string]*gateway.IssuedChallenge{}
	}
	d.all[string(sum[:])] = &c
}

func newDesk() *desk {
	d := &desk{}
	d.issue("plain", gateway.IssuedChallenge{Uses: 1, By: "anna"})
	d.issue("thrice", gateway.IssuedChallenge{Uses: 3})
	d.issue("careless", gateway.IssuedChallenge{}) // no uses said: one
	d.issue("elsewhere", gateway.IssuedChallenge{Endpoint: "lab", Uses: 1})
	d.issue("expired", gateway.IssuedChallenge{Uses: 1, NotAfter: noon.Add(-time.Second)})
	d.issue("just now", gateway.IssuedChallenge{Uses: 1, NotAfter: noon})
	d.issue("subject", gateway.IssuedChallenge{Uses: 1, Subject: "CN=printer-1, O=Example"})
	d.issue("bad subject", gateway.IssuedChallenge{Uses: 1, Subject: "printer-1"})
	d.issue("profile", gateway.IssuedChallenge{Uses: 1, Profile: "scanner"})
	d.issue("no profile", gateway.IssuedChallenge{Uses: 1, Profile: "absent"})
	d.issue("device", gateway.IssuedChallenge{Uses: 1, Device: "printer-1"})
	return d
}

func newIssued(t *testing.T, c ChallengeConfig, d *desk) *Challenge {
	t.Helper()
	c.Issued = true
	s, err := NewChallenge(c, "", NewHashing(2), d, atNoon)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// RFC 8894 sections 2.4 and 7.3: one for a single certificate, until it expires, for whom it was made.
func TestIssuedChallenge(t *testing.T) {
	const wrong = "a valid challenge is required"
	type request = func(*gateway.Request)
	for name, c := range map[string]struct {
		challenge string
		request   request
		grant     func(*gateway.Grant)
		reason    gateway.Reason // "" when allowed
		detail    string
		note      string
		device    string
		profile   string // "" for printer
		limit     int64  // of the claim
		stranger  bool   // it says nothing about who asks
	}{
		"good":                  {challenge: "plain", limit: 1, note: `made by "anna"`},
		"three uses":            {challenge: "thrice", limit: 3},
		"no uses said":          {challenge: "careless", limit: 1},
		"unknown":               {challenge: "plane", reason: gateway.Unauthenticated, detail: wrong, note: "wrong challenge", stranger: true},
		"empty":                 {challenge: "", reason: gateway.Unauthenticated, detail: wrong, stranger: true},
		"too long":              {challenge: strings.Repeat("x", 2000), reason: gateway.Unauthenticated, detail: wrong, stranger: true},
		"another endpoint's":    {challenge: "elsewhere", reason: gateway.Unauthenticated, detail: wrong, note: "endpoint lab", stranger: true},
		"expired":               {challenge: "expired", reason: gateway.Unauthenticated, detail: wrong, note: "expired at 2026-03-01T11:59:59Z", stranger: true},
		"expires just now":      {challenge: "just now", limit: 1},
		"its subject":           {challenge: "subject", limit: 1, note: "CN=printer-1"},
		"another subject":       {challenge: "subject", request: func(r *gateway.Request) { r.Subject = subject(t, "O=Example", "CN=printer-2") }, reason: gateway.NotAuthorized, detail: "the challenge is for another subject", note: "CN=printer-2"},
		"the subject, reversed": {challenge: "subject", request: func(r *gateway.Request) { r.Subject = subject(t, "CN=printer-1", "O=Example") }, reason: gateway.NotAuthorized, detail: "the challenge is for another subject"},
		"more than the subject": {challenge: "subject", request: func(r *gateway.Request) { r.Subject = subject(t, "O=Example", "CN=printer-1", "CN=x") }, reason: gateway.NotAuthorized, detail: "the challenge is for another subject"},
		"no subject":            {challenge: "subject", request: func(r *gateway.Request) { r.Subject = nil }, reason: gateway.NotAuthorized, detail: "the challenge is for another subject"},
		"its profile":           {challenge: "profile", limit: 1, profile: "scanner"},
		"its profile asked for": {challenge: "profile", request: func(r *gateway.Request) { r.Profile = "scanner" }, grant: func(g *gateway.Grant) { g.ChooseProfile("scanner") }, limit: 1, profile: "scanner"},
		"another profile":       {challenge: "profile", request: func(r *gateway.Request) { r.Profile = "printer" }, reason: gateway.NotAuthorized, detail: "the challenge is for another profile", note: `not "printer"`},
		"a profile chosen":      {challenge: "profile", grant: func(g *gateway.Grant) { g.ChooseProfile("fax") }, reason: gateway.NotAuthorized, detail: "the challenge is for another profile", note: `not "fax"`},
		"a profile not offered": {challenge: "no profile", reason: gateway.NotAuthorized, detail: "the challenge is for another profile", note: "does not offer"},
		"its device":            {challenge: "device", limit: 1, device: "printer-1"},
		"another device":        {challenge: "device", grant: func(g *gateway.Grant) { g.Device = "printer-2" }, reason: gateway.NotAuthorized, detail: "the credentials name two devices"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newIssued(t, ChallengeConfig{}, newDesk())
			r := challenged(c.challenge)
			r.Endpoint, r.Subject = "ran", subject(t, "O=Example", "CN=printer-1")
			if c.request != nil {
				c.request(r)
			}
			g := gateway.NewGrant(r, ran(), noon)
			if c.grant != nil {
				c.grant(g)
			}
			v := s.Decide(context.Background(), r, g)
			if len(c.challenge) > 4 && strings.Contains(v.Note, "challenge "+c.challenge) {
				t.Errorf("the note tells the challenge: %s", v.Note)
			}
			if (g.Requester == "") != c.stranger {
				t.Errorf("requester %q", g.Requester)
			}
			if c.reason != "" {
				expect(t, v, gateway.Deny, c.reason, c.note)
				if v.Detail != c.detail || len(v.Claims) != 0 {
					t.Errorf("the client is told %q; claims %v", v.Detail, v.Claims)
				}
				return
			}
			expect(t, v, gateway.Allow, "", c.note)
			sum := sha256.Sum256([]byte(c.challenge))
			id := hex.EncodeToString(sum[:8])
			if len(v.Claims) != 1 || v.Claims[0].Key != "challenge:"+id || v.Claims[0].Limit != c.limit || v.Claims[0].Reason != gateway.Unauthenticated ||
				v.Claims[0].Detail != "the challenge has been used" || v.Claims[0].Lost == "" {
				t.Errorf("claims %+v", v.Claims)
			}
			if c.profile == "" {
				c.profile = "printer"
			}
			if g.Requester != "challenge:"+id || g.Device != c.device || g.Profile != c.profile {
				t.Errorf("requester %q, device %q, profile %q", g.Requester, g.Device, g.Profile)
			}
			endedDenies(t, s, r)
		})
	}
}

// What cannot be looked up, or read, is not allowed.
func TestIssuedChallengeCannotAnswer(t *testing.T) {
	broken := newDesk()
	broken.err = errors.New("no route to the database")
	r := challenged("plain")
	r.Endpoint = "ran"
	expect(t, newIssued(t, ChallengeConfig{}, broken).Decide(context.Background(), r, &gateway.Grant{}), gateway.CannotAnswer, gateway.Unavailable, "no route")

	mixed := newDesk()
	for _, c := range mixed.all {
		c.Hash = []byte("another")
	}
	expect(t, newIssued(t, ChallengeConfig{}, mixed).Decide(context.Background(), r, &gateway.Grant{}), gateway.CannotAnswer, gateway.Unavailable, "another challenge")

	r = challenged("bad subject")
	r.Endpoint, r.Subject = "ran", subject(t, "CN=printer-1")
	expect(t, newIssued(t, ChallengeConfig{}, newDesk()).Decide(context.Background(), r, &gateway.Grant{}), gateway.CannotAnswer, gateway.Unavailable, "cannot be read")
}

// For a repeat it is enough that the challenge is known: it may be spent or over, and what it is good for has been judged.
func TestIssuedChallengeIdentifies(t *testing.T) {
	s := newIssued(t, ChallengeConfig{Secrets: map[string]string{"static": HashSecret([]byte(secret))}}, newDesk())
	for challenge, want := range map[string]bool{
		"plain": true, "expired": true, "subject": true, "no profile": true, "device": true, secret: true, "elsewhere": false, "plane": false, "": false,
	} {
		r := challenged(challenge)
		r.Endpoint = "ran"
		v, proves := s.Identify(context.Background(), r, &gateway.Grant{})
		if (v.Decision == gateway.Allow) != want || !proves || len(v.Claims) != 0 {
			t.Errorf("%q: %+v, %v", challenge, v, proves)
		}
	}
}

// One that is refused costs what a wrong one does; one that is good is never limited, and goes before those that people type.
func TestIssuedChallengeWork(t *testing.T) {
	d := newDesk()
	s := newIssued(t, ChallengeConfig{Secrets: map[string]string{"typed": anna(), "static": HashSecret([]byte(secret))}, Limit: PasswordLimit{Burst: 3}}, d)
	decide := func(challenge string) gateway.Verdict {
		r := challenged(challenge)
		r.Endpoint = "ran"
		return s.Decide(context.Background(), r, gateway.NewGrant(r, ran(), noon))
	}
	for _, challenge := range []string{"expired", "elsewhere", "plane"} { // a token each
		before := d.asked
		expect(t, decide(challenge), gateway.Deny, gateway.Unauthenticated)
		if d.asked != before+1 {
			t.Errorf("%s: asked %d times", challenge, d.asked-before)
		}
	}
	for _, challenge := range []string{"expired", "elsewhere", "plane", "correct horse"} {
		expect(t, decide(challenge), gateway.Deny, gateway.Busy)
	}
	expect(t, decide("plain"), gateway.Allow, "")
	expect(t, decide(secret), gateway.Allow, "", "static")
}

func TestChallengeByBasic(t *testing.T) {
	r := basic("anybody", "plain")
	r.Endpoint = "ran"
	s := newIssued(t, ChallengeConfig{Basic: true}, newDesk())
	g := gateway.NewGrant(r, ran(), noon)
	expect(t, s.Decide(context.Background(), r, g), gateway.Allow, "")
	if !strings.HasPrefix(g.Requester, "challenge:") || g.Authenticated(r.Credentials[0]) {
		t.Errorf("requester %q: the user name is nobody's", g.Requester)
	}
	r.Credentials = append(r.Credentials, challenged("plane").Credentials...)
	expect(t, s.Decide(context.Background(), r, g), gateway.Deny, gateway.Unauthenticated) // the challenge goes first

	r = basic("anybody", "plain")
	r.Endpoint = "ran"
	s = newIssued(t, ChallengeConfig{}, newDesk())
	expect(t, s.Decide(context.Background(), r, g), gateway.Deny, gateway.Unauthenticated, "no challenge")
	for _, c := range []struct {
		basic bool
		want  int
	}{{false, 1}, {true, 2}} {
		if got := newIssued(t, ChallengeConfig{Basic: c.basic}, newDesk()).Credentials(); len(got) != c.want {
			t.Errorf("looks at %v", got)
		}
	}
}

func TestIssuedChallengeConfigErrors(t *testing.T) {
	_, err := NewChallenge(ChallengeConfig{Issued: true}, "", NewHashing(1), nil, atNoon)
	wantError(t, err, "issued: there is no store")
	_, err = NewChallenge(ChallengeConfig{Issued: true}, "", NewHashing(1), newDesk(), nil)
	wantError(t, err, "clock")
	_, err = NewChallenge(ChallengeConfig{Basic: true}, "", NewHashing(1), newDesk(), atNoon)
	wantError(t, err, "no challenges")
}
