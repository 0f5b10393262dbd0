package authz

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/muster-pki/muster/authz/webhook"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
)

// WebhookConfig configures the stage `webhook`: a service of the operator's decides about the request, or says more about it.
type WebhookConfig struct {
	webhook.Config `yaml:",inline"`
	// Hold lets the service have the request wait for people. Without it such an answer is none.
	Hold bool `yaml:"hold"`
}

// Webhook is the stage `webhook`. It denies with NotAuthorized what the service denies, or what is asked for against its answer; it
// holds where the service says so, and cannot answer where the service gives no definite answer. It authenticates nobody.
type Webhook struct {
	service *webhook.Service
	hold    bool
	now     func() time.Time
}

// NewWebhook reads the files that the configuration names, and connects to nobody. now is the clock.
func NewWebhook(c WebhookConfig, dir string, now func() time.Time) (*Webhook, error) {
	if now == nil {
		return nil, errors.New("webhook: no clock given")
	}
	service, err := webhook.New(c.Config, dir)
	if err != nil {
		return nil, err
	}
	return &Webhook{service: service, hold: c.Hold, now: now}, nil
}

// Name is "webhook".
func (s *Webhook) Name() string { return "webhook" }

// Close gives up the connections to the service: the stage will not be asked any more, but by requests under way.
func (s *Webhook) Close() { s.service.Close() }

// webhookQuestion is what the service is asked: docs/authz.md has it for people. It has no secrets, and names are only ever added.
type webhookQuestion struct {
	*gateway.Facts
	CSR []byte `json:"csr,omitempty"` // DER PKCS#10, in base64
}

// question is what a request is asked about with, and what it has in common with others that ask the same.
func (s *Webhook) question(r *gateway.Request, g *gateway.Grant) (q, same webhookQuestion) {
	q.Facts = gateway.FactsOf(r, g, s.now())
	q.Facts.Request.SHA256 = "" // each time another, and made of what may hold a secret
	if csr, err := pkix.ParseCSR(r.CSR); err == nil {
		// The challengePassword is a secret, or proof that another may not have, and the signature is over it: all or nothing.
		if _, secret, _ := csr.ChallengePassword(); !secret {
			q.CSR = r.CSR
		}
	}
	facts := *q.Facts
	facts.Now, facts.Request.ID, facts.Request.Received = time.Time{}, "", time.Time{}
	facts.Grant.NotBefore, facts.Grant.NotAfter = time.Time{}, time.Time{}
	same.Facts = &facts // and no CSR, which is signed anew each time
	return q, same
}

// Decide asks the service.
func (s *Webhook) Decide(ctx context.Context, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	if err := ctx.Err(); err != nil {
		return gateway.Unanswered(err)
	}
	q, same := s.question(r, g)
	key, err := questionKey(r, same)
	if err != nil {
		return gateway.Unanswered(err)
	}
	var a webhookAnswer
	if err := s.service.Ask(ctx, g.Device, key, q, &a, func() bool { return true }); err != nil {
		return gateway.Unanswered(err)
	}
	if err := a.check(r, s.hold, q.Now); err != nil {
		return gateway.Unanswered(fmt.Errorf("webhook %s: %w", s.service.Host(), err))
	}
	return a.verdict(s.service.Host(), r, g)
}
