package authz

import (
	"bytes"
	"context"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/passhash"
	"github.com/muster-pki/muster/gateway/seal"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// digest is a request of one who knows the password, by HTTP Digest.
func digest(user, realm, password string) *gateway.Request {
	r := basic(user, "")
	r.Credentials[0].Digest = &gateway.DigestProof{Realm: realm, Matches: func(ha1 []byte) bool {
		return bytes.Equal(ha1, passhash.HA1(user, realm, []byte(password)))
	}}
	return r
}

// testSealer is the key that these tests' forms are sealed with.
func testSealer(t testing.TB) *seal.Sealer {
	t.Helper()
	s, err := seal.New(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func form(t *testing.T, user, realm, password string) string {
	t.Helper()
	s, err := passhash.Digest(user, realm, []byte(password), testSealer(t).Seal)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPasswordDigest(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "users", []byte("anna:"+form(t, "anna", "plant", "correct horse")+"\nanna:"+form(t, "anna", "ran", "correct horse")+
		"\nanna:"+anna()+"\notto:"+form(t, "otto", "plant", "otto's")+"\nfactory:"+HashSecret([]byte(secret))+"\nfactory:"+form(t, "factory", "plant", secret)+"\nlong:"+form(t, "long", "plant", strings.Repeat("x", maxPassword))+"\n"))
	s, err := NewPassword(PasswordConfig{File: "users", Users: map[string]string{"basic": anna()}}, dir, NewHashing(2), testSealer(t), atNoon)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		r    *gateway.Request
		note string
		ok   bool
	}{
		"digest":                              {digest("anna", "plant", "correct horse"), `user "anna", by HTTP Digest`, true},
		"digest in another realm":             {digest("anna", "ran", "correct horse"), `user "anna"`, true},
		"a generated secret":                  {digest("factory", "plant", secret), `user "factory"`, true},
		"basic beside it":                     {basic("anna", "correct horse"), `user "anna"`, true},
		"basic with the digest form alone":    {basic("otto", "otto's"), `user "otto"`, true},
		"wrong password":                      {digest("anna", "plant", "correct horses"), `wrong password for user "anna"`, false},
		"basic, wrong, digest form alone":     {basic("otto", "ottos"), `wrong password for user "otto"`, false},
		"basic, empty, digest form alone":     {basic("otto", ""), `wrong password for user "otto"`, false},
		"unknown user":                        {digest("nobody", "plant", "correct horse"), `no user "nobody"`, false},
		"no form for the realm":               {digest("otto", "ran", "otto's"), `user "otto" has no digest form for the realm "ran"`, false},
		"no form at all":                      {digest("basic", "plant", "correct horse"), `user "basic" has no digest form for the realm "plant"`, false},
		"the stored form in place of a proof": {basic("otto", form(t, "otto", "plant", "otto's")), "wrong password", false},
		"as long as can be":                   {basic("long", strings.Repeat("x", maxPassword)), `user "long"`, true},
		"longer, beginning with the password": {basic("long", strings.Repeat("x", maxPassword+1)), `wrong password for user "long"`, false},
		"oversize":                            {basic("otto", "otto's"+strings.Repeat("x", 5000)), "wrong password", false},
	} {
		g := &gateway.Grant{}
		v := s.Decide(context.Background(), c.r, g)
		if c.ok {
			expect(t, v, gateway.Allow, "", c.note)
			if g.Requester != c.r.Credentials[0].String() {
				t.Errorf("%s: requester %q", name, g.Requester)
			}
			continue
		}
		expect(t, v, gateway.Deny, gateway.Unauthenticated, c.note)
		if g.Requester != "" || v.Detail != "user name or password is wrong" {
			t.Errorf("%s: %+v, the client is told %q", name, g, v.Detail)
		}
	}
	if !s.Digests("plant") || !s.Digests("ran") || s.Digests("elsewhere") {
		t.Error("Digests")
	}
}

// Where a user has a form that is no digest's, Basic is compared with that alone: an old password in a digest form is of no use there.
func TestPasswordDigestFormsOfTwoPasswords(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "users", []byte("anna:"+form(t, "anna", "plant", "old")+"\nanna:"+anna()+"\n"))
	s, err := NewPassword(PasswordConfig{File: "users"}, dir, NewHashing(2), testSealer(t), atNoon)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, s.Decide(context.Background(), basic("anna", "old"), &gateway.Grant{}), gateway.Deny, gateway.Unauthenticated)
	expect(t, s.Decide(context.Background(), basic("anna", "correct horse"), &gateway.Grant{}), gateway.Allow, "")
}

// What has a digest form can be guessed: each wrong try counts, by Digest and by Basic, of users that there are and of others.
func TestPasswordDigestLimit(t *testing.T) {
	for name, wrong := range map[string]*gateway.Request{
		"digest": digest("anna", "plant", "wrong"), "digest, nobody": digest("nobody", "plant", "wrong"), "basic": basic("anna", "wrong"), "basic, nobody": basic("nobody", "wrong"),
	} {
		now := noon
		s := newPassword(t, PasswordConfig{
			Users: map[string]string{"anna": form(t, "anna", "plant", "correct horse"), "factory": HashSecret([]byte(secret))},
			Limit: PasswordLimit{Burst: 2, Every: strictyaml.Duration(10 * time.Second)},
		}, func() time.Time { return now })
		decide := func(r *gateway.Request) gateway.Verdict { return s.Decide(context.Background(), r, &gateway.Grant{}) }
		for range 3 { // a right password costs nothing
			expect(t, decide(digest("anna", "plant", "correct horse")), gateway.Allow, "")
			expect(t, decide(basic("anna", "correct horse")), gateway.Allow, "")
		}
		expect(t, decide(wrong), gateway.Deny, gateway.Unauthenticated)
		expect(t, decide(wrong), gateway.Deny, gateway.Unauthenticated)
		for _, right := range []*gateway.Request{digest("anna", "plant", "correct horse"), basic("anna", "correct horse")} {
			if v := decide(right); v.Reason != gateway.Busy || v.RetryAfter != 10*time.Second {
				t.Errorf("%s: %+v", name, v)
			}
		}
		expect(t, decide(basic("factory", secret)), gateway.Allow, "")
		now = now.Add(10 * time.Second)
		expect(t, decide(digest("anna", "plant", "correct horse")), gateway.Allow, "")
	}
}

// An unknown user's answer is compared as everybody's is, and never with a form that somebody could have.
func TestPasswordDigestWorkIsTheSame(t *testing.T) {
	s := newPassword(t, PasswordConfig{Users: map[string]string{"anna": form(t, "anna", "plant", "correct horse")}}, atNoon)
	for _, user := range []string{"anna", "nobody"} {
		compared := 0
		r := basic(user, "")
		r.Credentials[0].Digest = &gateway.DigestProof{Realm: "plant", Matches: func(ha1 []byte) bool {
			compared++
			if len(ha1) != 32 {
				t.Errorf("compared with %d bytes", len(ha1))
			}
			return user == "nobody" // even so
		}}
		expect(t, s.Decide(context.Background(), r, &gateway.Grant{}), gateway.Deny, gateway.Unauthenticated)
		if compared != 1 {
			t.Errorf("%s: compared %d times", user, compared)
		}
	}
}

func TestPasswordDigestConfigErrors(t *testing.T) {
	good := form(t, "anna", "plant", "correct horse")
	another, err := seal.New(bytes.Repeat([]byte{8}, 32))
	if err != nil {
		t.Fatal(err)
	}
	otherKey, err := passhash.Digest("anna", "plant", []byte("correct horse"), another.Seal)
	if err != nil {
		t.Fatal(err)
	}
	empty := "{digest-sha-256}plant:" + base64.StdEncoding.EncodeToString(testSealer(t).Seal(passhash.HA1("anna", "plant", nil), "digest", "anna", "plant"))
	dir := t.TempDir()
	write(t, dir, "twice", []byte("anna:"+good+"\nanna:"+good+"\n"))
	for want, c := range map[string]PasswordConfig{
		`twice:2: user "anna" stands twice with a digest form for the realm "plant"`:                   {File: "twice"},
		`user "anna": after {digest-sha-256}`:                                                          {Users: map[string]string{"anna": good[:len(good)-3] + "!"}},
		`user "anna": a realm`:                                                                         {Users: map[string]string{"anna": strings.Replace(good, "plant", "", 1)}},
		`user "otto": the digest form for the realm "plant"`:                                           {Users: map[string]string{"otto": good}},
		`user "anna": the digest form for the realm "ran"`:                                             {Users: map[string]string{"anna": strings.Replace(good, "plant", "ran", 1)}},
		"make it anew by `muster password --digest plant --user anna`: seal: sealed under another key": {Users: map[string]string{"anna": otherKey}},
		`user "anna" has a digest form of an empty password`:                                           {Users: map[string]string{"anna": empty}},
	} {
		_, err := NewPassword(c, dir, NewHashing(1), testSealer(t), atNoon)
		wantError(t, err, want)
	}
}

// Where nobody could log in by Digest, who is another stage's user uses up nobody's limit.
func TestPasswordDigestOfOthers(t *testing.T) {
	s := newPassword(t, PasswordConfig{Users: map[string]string{"anna": anna(), "otto": form(t, "otto", "ran", "otto's")}, Limit: PasswordLimit{Burst: 1}}, atNoon)
	for range 3 {
		expect(t, s.Decide(context.Background(), digest("dora", "plant", "dora's"), &gateway.Grant{}), gateway.Deny, gateway.Unauthenticated)
	}
	expect(t, s.Decide(context.Background(), basic("anna", "correct horse"), &gateway.Grant{}), gateway.Allow, "")
}

// Stages that have another form of the password take none by Digest, though its Secret is empty.
func TestDigestElsewhere(t *testing.T) {
	ch, err := NewChallenge(ChallengeConfig{Secrets: map[string]string{"x": HashSecret(nil)}, Basic: true}, "", NewHashing(1), nil, atNoon)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, ch.Decide(context.Background(), digest("anna", "plant", "x"), &gateway.Grant{}), gateway.Deny, gateway.Unauthenticated, "no challenge")
	dp, err := NewDevicePassword(DevicePasswordConfig{}, unread{}, NewHashing(1), atNoon)
	if err != nil {
		t.Fatal(err)
	}
	v := dp.Decide(context.Background(), digest("anna", "plant", "x"), &gateway.Grant{})
	expect(t, v, gateway.Deny, gateway.Unauthenticated, "HTTP Digest")
	if v.Detail != "user name or password is wrong" {
		t.Errorf("the client is told %q", v.Detail)
	}
}

// unread is an inventory that nobody may ask.
type unread struct{}

func (unread) Device(context.Context, string, string) (*gateway.Device, error) { panic("asked") }
