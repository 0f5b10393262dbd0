package acme

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/crypto/acme"

	"github.com/muster-pki/muster/plugins/backend/command"
)

// The types of challenges.
const (
	http01 = "http-01"
	dns01  = "dns-01"
)

// challenge is one that the CA set, and its answer.
type challenge struct {
	kind       string
	identifier string
	token      string
	answer     string // the key authorization (RFC 8555 section 8.1)
}

// solver makes the answer to a challenge seen, and takes it away: each any number of times.
type solver interface {
	present(ctx context.Context, ch *challenge) error
	cleanup(ctx context.Context, ch *challenge) error
}

func (c *Config) solvers(log *slog.Logger) (map[string]solver, error) {
	out := map[string]solver{}
	if h := c.HTTP01; h != nil && h.Dir != "" {
		info, err := os.Stat(h.Dir)
		if err != nil {
			return nil, fmt.Errorf("http-01: %w", err)
		}
		if !info.IsDir() {
			return nil, fmt.Errorf("http-01: %s is no folder", h.Dir)
		}
		out[http01] = folder(h.Dir)
	}
	hook := func(kind string, h *Hook) error {
		for what, argv := range map[string]command.Argv{"present": h.Present, "cleanup": h.Cleanup} {
			if err := command.Executable(argv[0]); err != nil {
				return fmt.Errorf("%s: %s: %w", kind, what, err)
			}
		}
		out[kind] = &programs{h, c, log}
		return nil
	}
	if c.HTTP01 != nil && c.HTTP01.Dir == "" {
		if err := hook(http01, &c.HTTP01.Hook); err != nil {
			return nil, err
		}
	}
	if c.DNS01 != nil {
		if err := hook(dns01, c.DNS01); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// tokens are of the base64url alphabet (RFC 8555 section 8.3): one is a file's name here.
var tokens = regexp.MustCompile(`^[A-Za-z0-9_-]{1,200}$`)

// challengeOf takes a challenge that the CA set.
func (c *running) challengeOf(client *acme.Client, authz *acme.Authorization, ch *acme.Challenge) (*challenge, error) {
	if !tokens.MatchString(ch.Token) {
		return nil, errors.New("the CA's token is not of base64url (RFC 8555 section 8.3)")
	}
	answer, err := client.HTTP01ChallengeResponse(ch.Token) // the key authorization, for any type
	if err != nil {
		return nil, err
	}
	return &challenge{kind: ch.Type, identifier: authz.Identifier.Value, token: ch.Token, answer: answer}, nil
}

// folder is served as /.well-known/acme-challenge/.
type folder string

func (f folder) present(_ context.Context, ch *challenge) error {
	// By the token's name: one that a killed process left is written over by the next try.
	tmp := filepath.Join(string(f), ".new-"+ch.token)
	err := os.WriteFile(tmp, []byte(ch.answer), 0o644)
	if err == nil {
		err = os.Chmod(tmp, 0o644) // a web server reads it, whatever our umask
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(string(f), ch.token))
}

func (f folder) cleanup(_ context.Context, ch *challenge) error {
	if err := os.Remove(filepath.Join(string(f), ch.token)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// programs are a hook.
type programs struct {
	hook   *Hook
	config *Config
	log    *slog.Logger
}

func (p *programs) present(ctx context.Context, ch *challenge) error {
	return p.run(ctx, "present", p.hook.Present, ch)
}

func (p *programs) cleanup(ctx context.Context, ch *challenge) error {
	return p.run(ctx, "cleanup", p.hook.Cleanup, ch)
}

// maxSaid bounds what a hook prints, in bytes: nobody reads it.
const maxSaid = 64 << 10

// run has a program act on a challenge. What it needs is in its environment, not in its arguments: a token may begin with a hyphen.
func (p *programs) run(ctx context.Context, what string, argv command.Argv, ch *challenge) error {
	value := sha256.Sum256([]byte(ch.answer)) // RFC 8555 section 8.4
	run := command.Program{
		Argv: argv, Env: p.config.Env, Limit: time.Duration(p.config.HookTimeout), Output: maxSaid,
		Log: p.log.With("hook", ch.kind+" "+what, "identifier", ch.identifier),
	}
	env := []string{"ACME_HOOK=" + what, "ACME_CHALLENGE=" + ch.kind, "ACME_IDENTIFIER=" + ch.identifier, "ACME_TOKEN=" + ch.token, "ACME_KEY_AUTHORIZATION=" + ch.answer}
	if ch.kind == dns01 {
		env = append(env, "ACME_RECORD=_acme-challenge."+strings.TrimPrefix(ch.identifier, "*."), "ACME_VALUE="+base64.RawURLEncoding.EncodeToString(value[:]))
	}
	_, code, err := run.Run(ctx, nil, env...)
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code %d", code)
	}
	if err != nil {
		return fmt.Errorf("the hook %s of %s: %w", what, ch.kind, err)
	}
	return nil
}
