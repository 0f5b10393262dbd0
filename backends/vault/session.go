package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/upstream"
)

// session is the token under which the server is asked, and how to come by another.
//
// A token is renewed when two thirds of its time are over, and given up for another login when that does not help. A file with a token
// belongs to somebody else: it is read for each call, and renewed as long as it is the same.
type session struct {
	api  *api
	auth *Auth
	now  func() time.Time
	log  *slog.Logger

	turn   chan struct{} // held by who changes what follows
	value  string        // "" before the first login
	until  time.Time     // when it ends; zero for never, or not known
	due    time.Time     // when it is to be renewed; zero for never
	forced time.Time     // when the last one was given up that the server did not take
	tried  time.Time     // when a login failed
	err    error         // with what
}

const (
	maxAuth    = 256 << 10        // bytes of an answer about a token
	maxJWT     = 64 << 10         // bytes of a service account's token
	pause      = 10 * time.Second // between two logins that failed, or that a 403 led to: a policy that forbids something is no reason for more
	retryLogin = 10 * time.Second // when one who was not asked for want of a login may come again
)

func newSession(a *api, auth *Auth, o Options) *session {
	return &session{api: a, auth: auth, now: o.Clock, log: o.Log, turn: make(chan struct{}, 1)}
}

// token is one under which to ask now. Its errors are definite refusals of Issue: nobody was asked.
func (s *session) token(ctx context.Context) (string, error) {
	if err := s.lock(ctx); err != nil {
		return "", err
	}
	defer s.unlock()
	return s.current(ctx)
}

// keep renews the token when it is time.
func (s *session) keep(ctx context.Context) error {
	_, err := s.token(ctx)
	return err
}

// instead is a token in the place of one that the server did not take: the same when there is no other.
func (s *session) instead(ctx context.Context, refused string) (string, error) {
	if err := s.lock(ctx); err != nil {
		return "", err
	}
	defer s.unlock()
	if s.auth.Token != "" {
		return s.current(ctx)
	}
	if now := s.now(); s.value == refused {
		if !s.forced.IsZero() && now.Before(s.forced.Add(pause)) {
			return refused, nil // it is good, and may not do what was asked of it
		}
		s.value, s.forced = "", now
	}
	return s.current(ctx)
}

func (s *session) lock(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ended(ctx)
	}
}

func (s *session) unlock() { <-s.turn }

func (s *session) current(ctx context.Context) (string, error) {
	now := s.now()
	if s.auth.Token != "" {
		text, err := upstream.Secret(s.auth.Token)
		switch {
		case err != nil:
			return "", notLoggedIn(fmt.Errorf("auth.token: %w", err))
		case !validToken(string(text)):
			return "", notLoggedIn(errors.New("auth.token: the file holds no token"))
		}
		if s.value != string(text) {
			s.learn(ctx, string(text), now)
		}
	}
	over := !s.until.IsZero() && !now.Before(s.until)
	if s.value != "" && !s.due.IsZero() && !now.Before(s.due) && !over {
		s.renew(ctx, now)
	}
	if s.auth.Token != "" || s.value != "" && !over && (s.until.IsZero() || s.due.IsZero() || now.Before(s.due)) {
		return s.value, nil
	}
	if s.err != nil && now.Before(s.tried.Add(pause)) {
		if s.value != "" && !over {
			return s.value, nil
		}
		return "", s.err
	}
	if err := s.login(ctx, now); err != nil {
		s.tried, s.err = now, err
		if s.value != "" && !over {
			s.log.Warn("the login at the CA's server failed; its token is good for a while", "err", err)
			return s.value, nil
		}
		return "", err
	}
	return s.value, nil
}

// lease is what the server says of a token: of a login, of a renewal.
type lease struct {
	Token     string `json:"client_token"`
	Duration  int64  `json:"lease_duration"` // seconds; 0 for a token that does not end
	Renewable bool   `json:"renewable"`
}

func (s *session) take(l lease, now time.Time) {
	s.value, s.err = l.Token, nil
	s.until, s.due = time.Time{}, time.Time{}
	if l.Duration > 0 {
		d := time.Duration(min(l.Duration, 1<<31)) * time.Second
		s.until, s.due = now.Add(d), now.Add(d*2/3)
	}
}

// learn takes a token of a file, and asks how long it is good.
func (s *session) learn(ctx context.Context, token string, now time.Time) {
	s.take(lease{Token: token}, now)
	answer, err := s.api.do(ctx, http.MethodGet, "auth/token/lookup-self", token, nil, maxAuth)
	if err != nil || answer.Status != http.StatusOK {
		return // its first use says more
	}
	var got struct {
		TTL       int64 `json:"ttl"`
		Renewable bool  `json:"renewable"`
	}
	if dataOf(answer, &got) == nil && got.Renewable {
		s.take(lease{Token: token, Duration: got.TTL, Renewable: true}, now)
	}
}

// renew asks for more time. When there is none to be had the next login is due.
func (s *session) renew(ctx context.Context, now time.Time) {
	left := s.until.Sub(now)
	answer, err := s.api.do(ctx, http.MethodPost, "auth/token/renew-self", s.value, struct{}{}, maxAuth)
	if err == nil && answer.Status == http.StatusOK {
		if l, ok := leaseOf(answer); ok && l.Renewable && time.Duration(min(l.Duration, 1<<31))*time.Second > left {
			l.Token = s.value
			s.take(l, now)
			return
		}
	}
	if s.auth.Token != "" {
		s.due = now.Add(pause)
		s.log.Warn("the token of the CA's server cannot be renewed: whoever wrote the file has to replace it", "ends", s.until, "err", err)
	}
}

func leaseOf(a *upstream.Answer) (lease, bool) {
	var got struct {
		Auth *lease `json:"auth"`
	}
	if json.Unmarshal(a.Body, &got) != nil || got.Auth == nil || !validToken(got.Auth.Token) {
		return lease{}, false
	}
	return *got.Auth, true
}

// login takes a new token. Its errors are refusals: nothing has been asked of the engine.
func (s *session) login(ctx context.Context, now time.Time) error {
	mount, body, err := s.auth.credentials()
	if err != nil {
		return notLoggedIn(err)
	}
	answer, err := s.api.do(ctx, http.MethodPost, pathOf("auth", mount, "login"), "", body, maxAuth)
	switch {
	case err != nil:
		return notLoggedIn(err)
	case answer.Status != http.StatusOK:
		answer.Hide(body["secret_id"], body["jwt"])
		return notLoggedIn(fmt.Errorf("HTTP %d: %s", answer.Status, answer.Said(strings.Join(said(answer), "; "))))
	}
	l, ok := leaseOf(answer)
	if !ok {
		return notLoggedIn(errors.New("an answer without a token"))
	}
	s.take(l, now)
	return nil
}

// credentials are a login's mount and body.
func (a *Auth) credentials() (mount string, body map[string]string, err error) {
	if k := a.Kubernetes; k != nil {
		jwt, err := readJWT(k.JWT)
		if err != nil {
			return "", nil, fmt.Errorf("auth.kubernetes.jwt: %w", err)
		}
		return k.Mount, map[string]string{"role": k.Role, "jwt": jwt}, nil
	}
	r := a.AppRole
	body = map[string]string{"role_id": r.RoleID}
	if r.SecretID != "" {
		secret, err := upstream.Secret(r.SecretID)
		if err != nil {
			return "", nil, fmt.Errorf("auth.approle.secret-id: %w", err)
		}
		body["secret_id"] = string(secret)
	}
	return r.Mount, body, nil
}

// readJWT reads a service account's token. Kubernetes makes that file, of whatever mode.
func readJWT(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxJWT+1))
	if err != nil {
		return "", err
	}
	if len(text) > maxJWT {
		return "", fmt.Errorf("%s is larger than %d bytes", path, maxJWT)
	}
	return strings.TrimSpace(string(text)), nil
}

// validToken reports whether a text can stand in a header as a token.
func validToken(s string) bool {
	return s != "" && len(s) <= 8<<10 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// notLoggedIn refuses for now: the server has not been asked for anything but a login.
func notLoggedIn(err error) error {
	return backend.Exhausted(retryLogin, "not asked: login: "+status.Convert(err).Message())
}
