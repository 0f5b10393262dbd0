package storetest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// challengeTests are about challenges, and what requesters send later.
var challengeTests = []part{
	{"challenges", testChallenges},
	{"challenges: listed", testChallengesListed},
	{"challenges: nonsense", testChallengesNonsense},
	{"challenges: race to spend one", testRaceForChallenge},
	{"messages", testMessages},
	{"messages: race", testRaceOfMessages},
}

func (e *env) challenge(secret string) *gateway.IssuedChallenge {
	hash := sha256.Sum256([]byte(secret))
	return &gateway.IssuedChallenge{ID: hex.EncodeToString(hash[:8]), Hash: hash[:], Endpoint: "ran", Device: "Gerät 1", Subject: "CN=a",
		Profile: "base-station", Uses: 1, Created: e.clock.Now(), NotAfter: e.clock.Now().Add(time.Hour), By: "anna"}
}

func (e *env) putChallenge(c *gateway.IssuedChallenge) {
	e.Helper()
	e.must(e.s.PutChallenge(e.ctx(), c, gateway.AuditEvent{Kind: "challenge-made", At: e.clock.Now(), Transaction: c.ID}))
}

func testChallenges(e *env) {
	c := e.challenge("secret")
	_, err := e.s.Challenge(e.ctx(), c.Hash)
	e.wantErr(err, gateway.ErrNotFound)
	e.putChallenge(c)
	e.wantAudited("challenge-made", c.ID, true)
	e.clock.Advance(100 * time.Hour) // expired or not
	got, err := e.s.Challenge(e.ctx(), c.Hash)
	e.must(err)
	e.equal("challenge", got, c)
	plain := e.challenge("plain")
	plain.Device, plain.Subject, plain.Profile, plain.NotAfter, plain.By, plain.Uses = "", "", "", time.Time{}, "", 1000
	e.putChallenge(plain)
	got, err = e.s.Challenge(e.ctx(), plain.Hash)
	e.must(err)
	e.equal("challenge", got, plain)
	for _, hash := range [][]byte{nil, c.Hash[:31], append(slices.Clone(c.Hash), 0)} {
		_, err = e.s.Challenge(e.ctx(), hash)
		e.wantErr(err, gateway.ErrNotFound)
	}
	drop := gateway.AuditEvent{Kind: "challenge-dropped", At: e.clock.Now(), Transaction: c.ID}
	for _, id := range []string{"nobody", "", "\xff"} {
		e.wantErr(e.s.DropChallenge(e.ctx(), id, drop), gateway.ErrNotFound)
	}
	e.wantAudited("challenge-dropped", c.ID, false)
	if e.s.DropChallenge(e.ctx(), c.ID, gateway.AuditEvent{}) == nil {
		e.Error("dropped without an audit event")
	}
	e.begun(gateway.Claim{Key: c.Key(), Limit: c.Uses})
	e.must(e.s.DropChallenge(e.ctx(), c.ID, drop))
	e.wantAudited("challenge-dropped", c.ID, true)
	_, err = e.s.Challenge(e.ctx(), c.Hash)
	e.wantErr(err, gateway.ErrNotFound)
	e.wantErr(e.s.DropChallenge(e.ctx(), c.ID, drop), gateway.ErrNotFound)
	// Made again it is spent as it was.
	e.putChallenge(c)
	e.wantClaim(gateway.Claim{Key: c.Key(), Limit: c.Uses}, false)
}

func testChallengesListed(e *env) {
	var all []*gateway.IssuedChallenge
	for i := range 6 {
		c := e.challenge(fmt.Sprint(i))
		c.Endpoint = []string{"ran", "core"}[i%2]
		c.NotAfter = e.clock.Now().Add(time.Duration(i) * time.Minute)
		if i == 0 {
			c.NotAfter = time.Time{}
		}
		if i%3 == 2 { // two made at once
			c.Created = all[i-1].Created
		} else {
			e.clock.Advance(time.Second)
			c.Created = e.clock.Now()
		}
		e.putChallenge(c)
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b *gateway.IssuedChallenge) int {
		if d := b.Created.Compare(a.Created); d != 0 {
			return d
		}
		return strings.Compare(b.ID, a.ID)
	})
	list := func(endpoint string, validAt time.Time, before string, limit int, keep func(*gateway.IssuedChallenge) bool) {
		e.Helper()
		var want []*gateway.IssuedChallenge
		behind := before == ""
		for _, c := range all {
			if behind && keep(c) && (limit == 0 || len(want) < limit) {
				want = append(want, c)
			}
			behind = behind || c.ID == before
		}
		got, err := e.s.Challenges(e.ctx(), endpoint, validAt, before, limit)
		e.must(err)
		e.equal(fmt.Sprintf("list %q %v %q %d", endpoint, validAt, before, limit), got, want)
	}
	every := func(*gateway.IssuedChallenge) bool { return true }
	list("", time.Time{}, "", 0, every)
	list("", time.Time{}, "", 2, every)
	for _, c := range all {
		list("", time.Time{}, c.ID, 2, every)
	}
	list("ran", time.Time{}, all[1].ID, 0, func(c *gateway.IssuedChallenge) bool { return c.Endpoint == "ran" })
	list("nowhere", time.Time{}, "", 0, func(*gateway.IssuedChallenge) bool { return false })
	list("", time.Time{}, "nobody", 0, every)
	at := all[2].NotAfter
	valid := func(at time.Time) func(*gateway.IssuedChallenge) bool {
		return func(c *gateway.IssuedChallenge) bool { return c.NotAfter.IsZero() || !c.NotAfter.Before(at) }
	}
	list("", at, "", 0, valid(at))
	list("", at.Add(time.Microsecond), "", 0, valid(at.Add(time.Microsecond)))
	for i := range 100 {
		e.putChallenge(e.challenge(fmt.Sprint("many ", i)))
	}
	got, err := e.s.Challenges(e.ctx(), "", time.Time{}, "", 0)
	e.must(err)
	if len(got) != 100 {
		e.Errorf("%d without a limit, want 100", len(got))
	}
}

func testChallengesNonsense(e *env) {
	made := gateway.AuditEvent{Kind: "challenge-made", At: e.clock.Now()}
	for name, change := range map[string]func(*gateway.IssuedChallenge){
		"short hash":    func(c *gateway.IssuedChallenge) { c.Hash = c.Hash[:31] },
		"another's ID":  func(c *gateway.IssuedChallenge) { c.ID = "0123456789abcdef" },
		"no uses":       func(c *gateway.IssuedChallenge) { c.Uses = 0 },
		"no endpoint":   func(c *gateway.IssuedChallenge) { c.Endpoint = "" },
		"hostile":       func(c *gateway.IssuedChallenge) { c.Device = "a\x00" },
		"hostile name":  func(c *gateway.IssuedChallenge) { c.Subject = "CN=\xff" },
		"other profile": func(c *gateway.IssuedChallenge) { c.Profile = "\xff" },
	} {
		c := e.challenge(name)
		change(c)
		if e.s.PutChallenge(e.ctx(), c, made) == nil {
			e.Errorf("%s: no error", name)
		}
	}
	c := e.challenge("no audit")
	if e.s.PutChallenge(e.ctx(), c, gateway.AuditEvent{}) == nil {
		e.Error("made without an audit event")
	}
	e.putChallenge(c)
	again := *c
	again.Uses, again.Device = 1000, "somebody"
	if e.s.PutChallenge(e.ctx(), &again, made) == nil {
		e.Error("a challenge was made in the place of one that stands")
	}
	got, err := e.s.Challenge(e.ctx(), c.Hash)
	e.must(err)
	e.equal("challenge", got, c)
}

// testRaceForChallenge: 64 clients with one challenge, at two replicas: one certificate.
func testRaceForChallenge(e *env) {
	c := e.challenge("secret")
	e.putChallenge(c)
	stores, txs := e.instances(), e.transactions(racers)
	errs := together(racers, func(i int) error {
		got, err := stores[i%2].Challenge(e.ctx(), c.Hash)
		if err != nil {
			return err
		}
		_, err = stores[i%2].Begin(e.ctx(), &gateway.Beginning{Transaction: txs[i], Lease: lease,
			Claims: []gateway.Claim{{Key: got.Key(), Limit: got.Uses}}})
		return err
	})
	won := 0
	for i, err := range errs {
		if err == nil {
			won++
		} else if _, lost := errors.AsType[*gateway.ClaimLostError](err); !lost {
			e.Errorf("racer %d: %v", i, err)
		}
	}
	if won != 1 {
		e.Errorf("%d spent it", won)
	}
}

func testMessages(e *env) {
	a, _ := e.begun()
	b, _ := e.begun()
	at := func(s int) time.Time { return e.clock.Now().Add(time.Duration(s) * time.Second) }
	heard := func(m ...gateway.Message) {
		e.Helper()
		e.must(e.s.Heard(e.ctx(), m))
	}
	want := func(id string, want ...gateway.Message) {
		e.Helper()
		got, err := e.s.Messages(e.ctx(), id)
		e.must(err)
		e.equal("messages", got, want)
	}
	want(a.ID)
	heard()
	poll := gateway.Message{Transaction: a.ID, Kind: "poll", Note: "pending", Source: "192.0.2.1", Count: 3, First: at(10), Last: at(12)}
	repeat := gateway.Message{Transaction: a.ID, Kind: "repeat", Note: "pending", Source: "192.0.2.2", Count: 1, First: at(5), Last: at(5)}
	of := gateway.Message{Transaction: b.ID, Kind: "poll", Note: "pending", Source: "192.0.2.3", Count: 1, First: at(5), Last: at(5)}
	nobody := repeat
	nobody.Transaction = "nobody"
	hostile := repeat
	hostile.Transaction = "\xff"
	heard(poll, nobody, of, hostile, repeat)
	want(a.ID, repeat, poll)
	want(b.ID, of)
	want("nobody")
	want("\xff")
	// Equal ones are counted together, within one call and over several, in any order.
	more := poll
	more.Count, more.First, more.Last, more.Source = 2, at(20), at(30), "192.0.2.9"
	late := poll
	late.Count, late.First, late.Last, late.Source = 1, at(1), at(1), "192.0.2.8"
	heard(more, late)
	poll.Count, poll.First, poll.Last, poll.Source = 6, at(1), at(30), "192.0.2.9"
	want(a.ID, poll, repeat)
	answered := poll
	answered.Note, answered.Count, answered.First, answered.Last = "issued", 1, at(40), at(40)
	heard(answered)
	want(a.ID, poll, repeat, answered)
	// What is too long, or cannot be stored as it is, is cut; without a count it is one.
	heard(gateway.Message{Transaction: b.ID, Kind: strings.Repeat("k", 100), Note: "\x00" + strings.Repeat("ä", 4000), Source: "\xff", First: at(9), Last: at(9)})
	got, err := e.s.Messages(e.ctx(), b.ID)
	e.must(err)
	if len(got) != 2 || len(got[1].Kind) != 32 || len(got[1].Note) > 256 || !strings.HasPrefix(got[1].Note, "\uFFFDäää") || got[1].Count != 1 {
		e.Errorf("%+v", got)
	}
}

func testRaceOfMessages(e *env) {
	stores, txs := e.instances(), e.transactions(8)
	for _, tx := range txs {
		e.mustBegin(e.s, tx)
	}
	for _, err := range together(16, func(i int) error {
		var m []gateway.Message
		for n := range txs {
			tx := txs[(i*3+n)%len(txs)]
			m = append(m, gateway.Message{Transaction: tx.ID, Kind: "poll", Note: "pending", Count: 1, First: tx.Received, Last: tx.Received})
		}
		return stores[i%2].Heard(e.ctx(), m)
	}) {
		e.must(err)
	}
	for _, tx := range txs {
		got, err := e.s.Messages(e.ctx(), tx.ID)
		e.must(err)
		if len(got) != 1 || got[0].Count != 16 {
			e.Errorf("%+v", got)
		}
	}
}
