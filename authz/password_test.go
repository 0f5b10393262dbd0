package authz

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/netip"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/passhash"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

const secret = "0f4a8d7c6b5e4f3a2b1c0d9e8f7a6b5c"

var anna = sync.OnceValue(func() string {
	hash, err := HashPassword([]byte("correct horse"))
	if err != nil {
		panic(err)
	}
	return hash
})

func newPassword(t *testing.T, c PasswordConfig, now func() time.Time) *Password {
	t.Helper()
	s, err := NewPassword(c, t.TempDir(), NewHashing(2), testSealer(t), now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func basic(user, password string) *gateway.Request {
	return &gateway.Request{
		Operation: gateway.Enroll, Source: netip.MustParseAddr("192.0.2.7"),
		Credentials: []gateway.Credential{{Kind: gateway.CredentialPassword, ID: user, Secret: gateway.Secret(password)}},
	}
}

func TestPassword(t *testing.T) {
	sum := sha256.Sum256([]byte(secret))
	users := map[string]string{
		"factory": HashSecret([]byte(secret)),
		"plant":   "{sha256}" + base64.StdEncoding.EncodeToString(sum[:]),
		"anna":    anna(),
	}
	for name, c := range map[string]struct {
		user, password string
		reason         gateway.Reason // "" when allowed
		note           string
	}{
		"secret, hexadecimal":          {"factory", secret, "", `user "factory"`},
		"secret, base64":               {"plant", secret, "", `user "plant"`},
		"argon2id":                     {"anna", "correct horse", "", `user "anna"`},
		"wrong secret":                 {"factory", secret + "0", gateway.Unauthenticated, "wrong password"},
		"wrong password":               {"anna", "correct horses", gateway.Unauthenticated, "wrong password"},
		"empty password":               {"anna", "", gateway.Unauthenticated, "wrong password"},
		"the hash for the password":    {"anna", anna(), gateway.Unauthenticated, "wrong password"},
		"unknown user":                 {"mallory", secret, gateway.Unauthenticated, `no user "mallory"`},
		"empty user":                   {"", secret, gateway.Unauthenticated, `no user ""`},
		"user in another case":         {"Anna", "correct horse", gateway.Unauthenticated, `no user "Anna"`},
		"another user's":               {"factory", "correct horse", gateway.Unauthenticated, "wrong password"},
		"oversize":                     {"anna", strings.Repeat("x", 5000), gateway.Unauthenticated, "wrong password"},
		"control characters are shown": {"a\x1b[2J", "x", gateway.Unauthenticated, `no user "a\x1b[2J"`},
	} {
		t.Run(name, func(t *testing.T) {
			s := newPassword(t, PasswordConfig{Users: users}, atNoon)
			g := &gateway.Grant{}
			v := s.Decide(context.Background(), basic(c.user, c.password), g)
			if c.reason == "" {
				expect(t, v, gateway.Allow, "", c.note)
				if g.Requester != "password:"+c.user || g.Device != "" {
					t.Errorf("grant %+v", g)
				}
				return
			}
			expect(t, v, gateway.Deny, c.reason, c.note)
			if g.Requester != "" || g.Device != "" {
				t.Errorf("grant %+v", g)
			}
			if v.Detail != "user name or password is wrong" {
				t.Errorf("the client is told %q", v.Detail)
			}
			if c.password != "" && len(c.password) > 3 && strings.Contains(v.Note, c.password) {
				t.Errorf("the note holds the password: %s", v.Note)
			}
		})
	}
}

func TestPasswordMissing(t *testing.T) {
	s := newPassword(t, PasswordConfig{Users: map[string]string{"factory": HashSecret([]byte(secret))}}, atNoon)
	r := &gateway.Request{Credentials: []gateway.Credential{{Kind: gateway.CredentialChallenge, ID: "factory", Secret: gateway.Secret(secret)}}}
	expect(t, s.Decide(context.Background(), r, &gateway.Grant{}), gateway.Deny, gateway.Unauthenticated, "no password")
	endedDenies(t, s, basic("factory", secret))
}

// What is cut for hashing is not taken for the whole, and an empty password is none, whatever the entry says.
func TestPasswordLength(t *testing.T) {
	whole := strings.Repeat("x", maxPassword)
	hash, err := HashPassword([]byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	s := newPassword(t, PasswordConfig{Users: map[string]string{"person": hash, "secret": HashSecret([]byte(whole)), "empty": HashSecret(nil)}}, atNoon)
	for _, user := range []string{"person", "secret"} {
		expect(t, s.Decide(context.Background(), basic(user, whole), &gateway.Grant{}), gateway.Allow, "")
		expect(t, s.Decide(context.Background(), basic(user, whole+"y"), &gateway.Grant{}), gateway.Deny, gateway.Unauthenticated)
	}
	expect(t, s.Decide(context.Background(), basic("empty", ""), &gateway.Grant{}), gateway.Deny, gateway.Unauthenticated)
}

func TestPasswordDevice(t *testing.T) {
	s := newPassword(t, PasswordConfig{Users: map[string]string{"device-1": HashSecret([]byte(secret))}, Device: "user"}, atNoon)
	g := &gateway.Grant{}
	expect(t, s.Decide(context.Background(), basic("device-1", secret), g), gateway.Allow, "", "is the device")
	if g.Device != "device-1" {
		t.Errorf("device %q", g.Device)
	}
	g = &gateway.Grant{Device: "device-2"}
	expect(t, s.Decide(context.Background(), basic("device-1", secret), g), gateway.Deny, gateway.NotAuthorized, `"device-1"`, `"device-2"`)
}

func TestPasswordLimit(t *testing.T) {
	now := noon
	s := newPassword(t, PasswordConfig{
		Users: map[string]string{"anna": anna(), "factory": HashSecret([]byte(secret))},
		Limit: PasswordLimit{Burst: 2, Every: strictyaml.Duration(10 * time.Second)},
	}, func() time.Time { return now })
	decide := func(r *gateway.Request) gateway.Verdict { return s.Decide(context.Background(), r, &gateway.Grant{}) }

	for range 5 { // a right password costs nothing
		expect(t, decide(basic("anna", "correct horse")), gateway.Allow, "")
	}
	expect(t, decide(basic("anna", "wrong")), gateway.Deny, gateway.Unauthenticated)
	expect(t, decide(basic("nobody", "wrong")), gateway.Deny, gateway.Unauthenticated)
	v := decide(basic("anna", "correct horse"))
	expect(t, v, gateway.Deny, gateway.Busy, "192.0.2.7/32", "10s")
	if !strings.Contains(v.Detail, "try again in 10s") {
		t.Errorf("the client is told %q", v.Detail)
	}
	expect(t, decide(basic("factory", "wrong")), gateway.Deny, gateway.Busy)
	expect(t, decide(basic("factory", secret)), gateway.Allow, "") // a generated secret is never locked out

	other := basic("anna", "correct horse")
	other.Source = netip.MustParseAddr("192.0.2.8")
	expect(t, decide(other), gateway.Allow, "")
	mapped := basic("anna", "correct horse")
	mapped.Source = netip.MustParseAddr("::ffff:192.0.2.7")
	expect(t, decide(mapped), gateway.Deny, gateway.Busy)

	now = now.Add(10 * time.Second)
	expect(t, decide(basic("anna", "correct horse")), gateway.Allow, "")
}

func TestLimiterTableIsBounded(t *testing.T) {
	now := noon
	l := newLimiter(1, time.Hour, 8)
	for i := range 1000 {
		l.take(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), now)
	}
	if len(l.table) != 8 || l.recent.Len() != 8 {
		t.Fatalf("table of %d, list of %d", len(l.table), l.recent.Len())
	}
	v6 := netip.MustParseAddr("2001:db8::1")
	if _, ok := l.take(v6, now); !ok {
		t.Fatal("a first token is refused")
	}
	if wait, ok := l.take(netip.MustParseAddr("2001:db8::ffff"), now); ok || wait != time.Hour {
		t.Errorf("an address of the same /64 has a bucket of its own (%v, %v)", wait, ok)
	}
	now = now.Add(-time.Minute) // a clock that goes back fills nothing
	if _, ok := l.take(v6, now); ok {
		t.Error("a clock that went back gave a token")
	}
	if _, ok := l.take(netip.Addr{}, now); !ok {
		t.Error("no bucket for requests without an address")
	}
}

// An unknown user, a wrong password of either kind, and an oversize one cost one argon2id computation each.
func TestPasswordWorkIsTheSame(t *testing.T) {
	s := newPassword(t, PasswordConfig{Users: map[string]string{"anna": anna(), "factory": HashSecret([]byte(secret))}}, atNoon)
	for _, r := range []*gateway.Request{basic("anna", "wrong"), basic("factory", "wrong"), basic("nobody", "wrong"), basic("anna", strings.Repeat("x", 2000))} {
		// Who computes needs a place first, and the ended context keeps it from one.
		if _, _, err := s.check(ended(t), r.Credentials[0], r.Source); err == nil {
			t.Errorf("%s: answered without computing", r.Credentials[0])
		}
	}
	dummy := s.dummy("nobody")
	if len(s.dummies) != 1 || dummy.cost != s.users["anna"].cost || len(dummy.hash) != len(s.users["anna"].hash) {
		t.Errorf("an unknown user costs %+v, anna %+v", dummy.cost, s.users["anna"].cost)
	}
}

func TestPasswordWaitsNoLongerThanItsContext(t *testing.T) {
	s := newPassword(t, PasswordConfig{Users: map[string]string{"anna": anna()}}, atNoon)
	s.hashing.slots <- struct{}{}
	s.hashing.slots <- struct{}{} // both places are taken, for ever
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan gateway.Verdict)
	g := &gateway.Grant{}
	go func() { done <- s.Decide(ctx, basic("anna", "correct horse"), g) }()
	cancel()
	expect(t, <-done, gateway.CannotAnswer, gateway.Unavailable, "canceled")
	if g.Requester != "" {
		t.Errorf("grant %+v", g)
	}
}

// What computations take is given back at once, and the collector goes by what it went by before.
func TestHashingLeavesNoMemory(t *testing.T) {
	before := debug.SetGCPercent(90)
	defer debug.SetGCPercent(before)
	h := NewHashing(2)
	e, err := parseEntry(anna())
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	for range 2 {
		done.Go(func() {
			if ok, err := h.matches(t.Context(), e, []byte("wrong")); ok || err != nil {
				t.Error(ok, err)
			}
		})
	}
	done.Wait()
	var memory runtime.MemStats
	if runtime.ReadMemStats(&memory); memory.HeapAlloc > 16<<20 {
		t.Errorf("%d bytes are left", memory.HeapAlloc)
	}
	if percent := debug.SetGCPercent(90); percent != 90 {
		t.Errorf("the collector goes by %d percent", percent)
	}
}

func TestHashingIsBounded(t *testing.T) {
	h := NewHashing(2)
	e, err := parseEntry(anna())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if ok, err := h.matches(context.Background(), e, []byte("correct horse")); !ok || err != nil {
				t.Errorf("%v, %v", ok, err)
			}
		})
	}
	wg.Wait()
	if cap(h.slots) != 2 || len(h.slots) != 0 {
		t.Errorf("%d of %d places are taken after all", len(h.slots), cap(h.slots))
	}
}

func TestPasswordFile(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "users", []byte("# the plant\n\nfactory:"+HashSecret([]byte(secret))+"\r\nanna:"+anna()+"\n"))
	s, err := NewPassword(PasswordConfig{File: "users"}, dir, NewHashing(2), testSealer(t), atNoon)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, s.Decide(context.Background(), basic("factory", secret), &gateway.Grant{}), gateway.Allow, "")
	expect(t, s.Decide(context.Background(), basic("anna", "correct horse"), &gateway.Grant{}), gateway.Allow, "")
	expect(t, s.Decide(context.Background(), basic("# the plant", ""), &gateway.Grant{}), gateway.Deny, gateway.Unauthenticated)
}

func TestPasswordConfigErrors(t *testing.T) {
	good := HashSecret([]byte(secret))
	dir := t.TempDir()
	write(t, dir, "no-colon", []byte("\nfactory\n"))
	write(t, dir, "plain", []byte("factory:hunter22\n"))
	write(t, dir, "twice", []byte("factory:"+good+"\nfactory:"+good+"\n"))
	one := map[string]string{"factory": good}
	for want, c := range map[string]PasswordConfig{
		"no users":                       {},
		`user "x": want "{sha256}"`:      {Users: map[string]string{"x": "hunter22"}},
		"64 hexadecimal digits":          {Users: map[string]string{"x": "{sha256}abcd"}},
		"without colon":                  {Users: map[string]string{"x:y": good}},
		`user name ""`:                   {Users: map[string]string{"": good}},
		"another version":                {Users: map[string]string{"x": strings.Replace(anna(), "v=19", "v=16", 1)}},
		"m=1048576: 1 to 65536":          {Users: map[string]string{"x": strings.Replace(anna(), "m=12288", "m=1048576", 1)}},
		"t=0: 1 to 8":                    {Users: map[string]string{"x": strings.Replace(anna(), "t=1", "t=0", 1)}},
		"p=9: 1 to 4":                    {Users: map[string]string{"x": strings.Replace(anna(), "p=1", "p=9", 1)}},
		"a salt outside":                 {Users: map[string]string{"x": "$argon2id$v=19$m=12288,t=1,p=1$AAAA$" + strings.Repeat("A", 43)}},
		"no-colon:2: want name:hash":     {File: "no-colon"},
		`plain:1: user "factory": want`:  {File: "plain"},
		`twice:2: user "factory" stands`: {File: "twice"},
		"no such file":                   {File: "absent"},
		`device: "serial"`:               {Users: one, Device: "serial"},
		"limit:":                         {Users: one, Limit: PasswordLimit{Burst: -1}},
	} {
		_, err := NewPassword(c, dir, NewHashing(1), testSealer(t), atNoon)
		wantError(t, err, want)
		if err != nil && strings.Contains(err.Error(), "hunter22") {
			t.Errorf("the error holds the password: %v", err)
		}
	}
	if _, err := NewPassword(PasswordConfig{Users: one}, dir, nil, testSealer(t), atNoon); err == nil {
		t.Error("made without a bound on hashing")
	}
}

func TestHashPassword(t *testing.T) {
	a, err := HashPassword([]byte("correct horse"))
	if err != nil || a == anna() || !strings.HasPrefix(a, "$argon2id$v=19$m=12288,t=1,p=1$") {
		t.Errorf("%q, %v", a, err)
	}
	for _, bad := range []string{"", strings.Repeat("x", maxPassword+1)} {
		if _, err := HashPassword([]byte(bad)); err == nil {
			t.Errorf("hashed a password of %d bytes", len(bad))
		}
	}
	if got := HashSecret([]byte("abc")); got != "{sha256}ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" {
		t.Error(got)
	}
}

func FuzzParseEntry(f *testing.F) {
	f.Add(HashSecret([]byte(secret)))
	f.Add(anna())
	f.Add("$argon2id$v=19$m=12288,t=1,p=1$$")
	f.Fuzz(func(t *testing.T, s string) {
		e, err := parseEntry(s)
		if err != nil {
			return
		}
		if e.sum == nil && (e.cost.memory == 0 || e.cost.memory > passhash.MaxMemory || e.cost.time == 0 || e.cost.time > passhash.MaxTime || e.cost.threads == 0 || e.cost.threads > passhash.MaxThreads || len(e.hash) < 16) {
			t.Errorf("%+v", e)
		}
	})
}

// BenchmarkPassword is what a log-in costs.
func BenchmarkPassword(b *testing.B) {
	s, err := NewPassword(PasswordConfig{Users: map[string]string{"anna": anna(), "factory": HashSecret([]byte(secret))}}, "", NewHashing(2), testSealer(b), time.Now)
	if err != nil {
		b.Fatal(err)
	}
	for name, r := range map[string]*gateway.Request{"sha256": basic("factory", secret), "argon2id": basic("anna", "correct horse")} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if v := s.Decide(context.Background(), r, &gateway.Grant{}); v.Decision != gateway.Allow {
					b.Fatal(fmt.Sprint(v))
				}
			}
		})
	}
}

// What a stranger's guess costs is said where it is more than a request may cost: the dearest entry of users, and all of challenges.
func TestDearGuesses(t *testing.T) {
	old := strings.Replace(anna(), "m=12288", "m=19456", 1)
	for name, c := range map[string]struct {
		users, challenges map[string]string
		dear              bool
	}{
		"users":                    {users: map[string]string{"anna": anna(), "otto": anna(), "factory": HashSecret([]byte(secret))}},
		"an entry of before":       {users: map[string]string{"anna": anna(), "otto": old}, dear: true},
		"an entry of two passes":   {users: map[string]string{"anna": strings.Replace(anna(), "t=1", "t=2", 1)}, dear: true},
		"one challenge":            {challenges: map[string]string{"anna": anna(), "factory": HashSecret([]byte(secret))}},
		"two challenges":           {challenges: map[string]string{"anna": anna(), "otto": anna()}, dear: true},
		"generated challenges":     {challenges: map[string]string{"factory": HashSecret([]byte(secret))}},
		"a challenge as of before": {challenges: map[string]string{"otto": old}, dear: true},
	} {
		var s gateway.Stage
		var err error
		if c.users != nil {
			s, err = NewPassword(PasswordConfig{Users: c.users}, "", NewHashing(1), testSealer(t), atNoon)
		} else {
			s, err = NewChallenge(ChallengeConfig{Secrets: c.challenges}, "", NewHashing(1), nil, atNoon)
		}
		if err != nil {
			t.Fatal(name, err)
		}
		if got := DearGuesses(s); (got != "") != c.dear {
			t.Errorf("%s: %q", name, got)
		}
	}
}
