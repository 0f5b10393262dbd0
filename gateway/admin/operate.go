package admin

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/muster-pki/muster/gateway"
)

// approve approves a held request.
func (s *Server) approve(c echo.Context) error { return s.decide(c, s.config.Gateway.Approve) }

// deny ends one.
func (s *Server) deny(c echo.Context) error { return s.decide(c, s.config.Gateway.Deny) }

func (s *Server) decide(c echo.Context, do func(ctx context.Context, id, actor, reason string) (*gateway.Transaction, error)) error {
	if _, err := known(c); err != nil {
		return err
	}
	var in Decision
	if err := decode(c, &in); err != nil {
		return err
	}
	if err := line("the reason", in.Reason); err != nil {
		return err
	}
	ctx := c.Request().Context()
	t, err := s.find(ctx, param(c, "id"))
	if err != nil {
		return err
	}
	switch t, err = do(ctx, t.ID, actorOf(c), in.Reason); {
	case errors.Is(err, gateway.ErrApproved):
		return conflict("%s has approved this request already: somebody else has to", actorOf(c))
	case errors.Is(err, gateway.ErrStale):
		return conflict("the request is not held, or no longer")
	case err != nil:
		return err
	}
	return s.showTransaction(c, t)
}

const (
	challengeLength   = 26 // characters of 5 bits: 130 bits
	challengeAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"
	challengeTime     = 24 * time.Hour // unless another is asked for
	maxChallengeTime  = 366 * 24 * time.Hour
	maxUses           = 1_000_000
)

// random returns n characters of 5 random bits each, of those that are not mistaken for each other.
func random(n int) string {
	b := make([]byte, n)
	rand.Read(b) //nolint:errcheck // never fails
	for i := range b {
		b[i] = challengeAlphabet[b[i]&31]
	}
	return string(b)
}

// makeChallenge makes one and stores its hash.
func (s *Server) makeChallenge(c echo.Context) error {
	if _, err := known(c); err != nil {
		return err
	}
	var in NewChallenge
	if err := decode(c, &in); err != nil {
		return err
	}
	ctx, now := c.Request().Context(), s.config.Clock()
	until := now.Add(challengeTime)
	if in.NotAfter != nil {
		until = *in.NotAfter
	}
	uses := in.Uses
	if uses == 0 {
		uses = 1
	}
	switch {
	case !until.After(now):
		return badRequest("the challenge would be past its time already")
	case until.After(now.Add(maxChallengeTime)):
		return badRequest("a challenge is good for %d days at most", maxChallengeTime/(24*time.Hour))
	case uses < 1 || uses > maxUses:
		return badRequest("uses is 1 to %d", maxUses)
	case in.Endpoint == "":
		return badRequest("endpoint says where the challenge is good")
	}
	if err := s.config.TakesChallenges(in.Endpoint, in.Profile); err != nil {
		return badRequest("%v", err)
	}
	subject := ""
	if in.Subject != "" {
		var err error
		if subject, err = canonicalName(in.Subject); err != nil {
			return badRequest("subject: %v", err)
		}
	}
	device, err := s.named(ctx, in.Device)
	if err != nil {
		return err
	}
	clear := random(challengeLength)
	sum := sha256.Sum256([]byte(clear))
	made := &gateway.IssuedChallenge{
		ID: hex.EncodeToString(sum[:8]), Hash: sum[:], Endpoint: in.Endpoint, Device: device, Subject: subject, Profile: in.Profile,
		Uses: uses, Created: now, NotAfter: until, By: actorOf(c),
	}
	event := gateway.AuditEvent{
		Kind: "challenge-made", At: now, Actor: actorOf(c), Endpoint: in.Endpoint, Device: device, Subject: subject,
		Note: fmt.Sprintf("challenge %s, good for %d until %s", made.ID, uses, until.UTC().Format(time.RFC3339)),
	}
	if err := s.config.Store.PutChallenge(ctx, made, event); err != nil {
		return err
	}
	s.config.Log.Info("challenge made", "challenge", made.ID, "endpoint", made.Endpoint, "device", made.Device, "actor", actorOf(c))
	out := challengeOf(made, 0)
	out.Challenge = clear
	return c.JSON(http.StatusOK, out)
}

// named is the name of a device that is given by it or by an identifier. One that the inventory does not have stays as it is.
func (s *Server) named(ctx context.Context, given string) (string, error) {
	if given == "" {
		return "", nil
	}
	if len(given) > gateway.MaxDeviceName {
		return "", badRequest("a device's name has at most %d bytes", gateway.MaxDeviceName)
	}
	if err := line("the device's name", given); err != nil {
		return "", err
	}
	d, err := s.found(ctx, "", given)
	switch {
	case errors.Is(err, gateway.ErrNotFound):
		return given, nil
	case err != nil:
		return "", deviceError(given, err)
	}
	return d.Name, nil
}

func challengeOf(c *gateway.IssuedChallenge, used int64) Challenge {
	return Challenge{
		ID: c.ID, Endpoint: c.Endpoint, Device: c.Device, Subject: c.Subject, Profile: c.Profile, Uses: c.Uses, Used: used,
		Created: c.Created.UTC(), NotAfter: c.NotAfter.UTC(), By: c.By,
	}
}

// challenges lists them.
func (s *Server) challenges(c echo.Context) error {
	q, err := known(c, "endpoint", "expired", "before", "limit")
	if err != nil {
		return err
	}
	limit, err := limitOf(q["limit"])
	if err != nil {
		return err
	}
	expired, err := flagOf("expired", q["expired"])
	if err != nil {
		return err
	}
	if q["before"] != "" && !isChallengeID(q["before"]) {
		return badRequest("before is the ID of a challenge")
	}
	at := s.config.Clock()
	if expired != nil && *expired {
		at = time.Time{}
	}
	ctx := c.Request().Context()
	found, err := s.config.Store.Challenges(ctx, q["endpoint"], at, q["before"], limit)
	if err != nil {
		return err
	}
	keys := make([]string, len(found))
	for i, one := range found {
		keys[i] = one.Key()
	}
	used, err := s.uses(ctx, keys)
	if err != nil {
		return err
	}
	list := ChallengeList{Challenges: []Challenge{}}
	for _, one := range found {
		list.Challenges = append(list.Challenges, challengeOf(one, used[one.Key()]))
	}
	if len(found) == limit {
		list.Next = found[limit-1].ID
	}
	return c.JSON(http.StatusOK, list)
}

func isChallengeID(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 8 && hex.EncodeToString(b) == s
}

// dropChallenge takes one away.
func (s *Server) dropChallenge(c echo.Context) error {
	if _, err := known(c); err != nil {
		return err
	}
	id := param(c, "id")
	if !isChallengeID(id) {
		return badRequest("the ID of a challenge has 16 hexadecimal digits")
	}
	event := gateway.AuditEvent{Kind: "challenge-removed", At: s.config.Clock(), Actor: actorOf(c), Note: "challenge " + id}
	switch err := s.config.Store.DropChallenge(c.Request().Context(), id, event); {
	case errors.Is(err, gateway.ErrNotFound):
		return &refusal{status: http.StatusNotFound, message: "no challenge " + id}
	case err != nil:
		return err
	}
	s.config.Log.Info("challenge removed", "challenge", id, "actor", actorOf(c))
	return c.JSON(http.StatusOK, struct{}{})
}
