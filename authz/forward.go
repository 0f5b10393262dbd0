package authz

import (
	"context"
	"errors"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// ForwardConfig configures the stage `forward`: what all stages before it have allowed is not certified here, but passed on
// unchanged, to an authority that decides for itself.
type ForwardConfig struct {
	// Backend that passes the messages on: one that describes the capability exchange.
	Backend string `yaml:"backend,required"`
}

// Forward is the stage `forward`. It allows, and says where to.
type Forward struct{ backend string }

// NewForward makes the stage.
func NewForward(c ForwardConfig) (*Forward, error) {
	if c.Backend == "" {
		return nil, errors.New("backend: name one")
	}
	return &Forward{backend: c.Backend}, nil
}

// Name is gateway.Stage.
func (s *Forward) Name() string { return "forward" }

// ForwardsTo is gateway.Forwarder.
func (s *Forward) ForwardsTo() string { return s.backend }

// Decide is gateway.Stage.
func (s *Forward) Decide(_ context.Context, _ *gateway.Request, g *gateway.Grant) gateway.Verdict {
	if end := g.EndsBy(); !end.IsZero() {
		return gateway.Denied(gateway.NotAuthorized, "the request cannot be passed on", "an earlier stage has what is certified end by "+end.Format(time.RFC3339)+", which cannot be said of a message that is passed on unchanged")
	}
	g.Forward = s.backend
	return gateway.Allowed("to be passed on to " + s.backend)
}
