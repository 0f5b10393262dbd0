package admin

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/muster-pki/muster/gateway"
)

// SecretStore keeps the shared secrets of devices, sealed; gateway.Store is one.
type SecretStore interface {
	PutSecret(ctx context.Context, s *gateway.StoredSecret, e gateway.AuditEvent) error
	DropSecret(ctx context.Context, endpoint, reference string, e gateway.AuditEvent) error
	Secret(ctx context.Context, endpoint, reference string) (*gateway.StoredSecret, error)
	Secrets(ctx context.Context, endpoint, afterEndpoint, afterReference string, limit int) ([]*gateway.StoredSecret, error)
}

// Sealer makes secrets unreadable before they reach the store; seal.Sealer is one.
type Sealer interface {
	Seal(secret []byte, context ...string) []byte
}

// sealedFor is what secrets are sealed for, followed by endpoint, reference and device: what the stage `shared-secret`
// opens them with.
const sealedFor = "secret"

const (
	minSecret    = 8 // bytes; whoever sees one message can search for a shorter one
	maxSecret    = 1024
	maxReference = 128
	maxDevice    = 256
)

// NewSecret is the body of POST /v1/secrets.
type NewSecret struct {
	Endpoint  string     `json:"endpoint"`
	Reference []byte     `json:"reference"` // by which requests name it (CMP senderKID); base64
	Secret    []byte     `json:"secret"`    // 8 to 1024 bytes, base64; never answered, stored or logged
	Device    string     `json:"device,omitempty"`
	NotAfter  *time.Time `json:"not_after,omitempty"` // absent: for ever
	Replace   bool       `json:"replace,omitempty"`   // of one that stands; 409 otherwise
}

// Secret is a shared secret of a device, without the secret.
type Secret struct {
	Endpoint  string     `json:"endpoint"`
	Reference []byte     `json:"reference"` // base64
	Device    string     `json:"device,omitempty"`
	Created   time.Time  `json:"created"`
	NotAfter  *time.Time `json:"not_after,omitempty"`
}

// SecretList is the answer to GET /v1/secrets.
type SecretList struct {
	Secrets []Secret `json:"secrets"`        // by endpoint and reference
	Next    string   `json:"next,omitempty"` // for `after`, when there may be more
}

func secretOf(s *gateway.StoredSecret) Secret {
	out := Secret{Endpoint: s.Endpoint, Reference: []byte(s.Reference), Device: s.Device, Created: s.Created.UTC()}
	if !s.NotAfter.IsZero() {
		until := s.NotAfter.UTC()
		out.NotAfter = &until
	}
	return out
}

// addSecret seals and stores a secret.
func (s *Server) addSecret(c echo.Context) error {
	if _, err := known(c); err != nil {
		return err
	}
	var in NewSecret
	if err := decode(c, &in); err != nil {
		return err
	}
	now := s.config.Clock()
	switch {
	case len(in.Reference) == 0 || len(in.Reference) > maxReference:
		return badRequest("a reference has 1 to %d bytes", maxReference)
	case len(in.Secret) < minSecret || len(in.Secret) > maxSecret:
		return badRequest("a shared secret has %d to %d bytes", minSecret, maxSecret)
	case len(in.Device) > maxDevice || strings.ContainsFunc(in.Device, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return badRequest("a device's name has at most %d bytes, without control characters", maxDevice)
	case in.NotAfter != nil && !in.NotAfter.After(now):
		return badRequest("the secret would be past its time already")
	}
	if err := s.config.TakesSecrets(in.Endpoint); err != nil {
		return badRequest("%v", err)
	}
	ctx, reference := c.Request().Context(), string(in.Reference)
	switch _, err := s.config.Store.Secret(ctx, in.Endpoint, reference); {
	case err == nil && !in.Replace:
		return &refusal{status: http.StatusConflict, message: fmt.Sprintf("endpoint %s has a secret with the reference %s already", in.Endpoint, gateway.ReferenceID(in.Reference))}
	case err != nil && !errors.Is(err, gateway.ErrNotFound):
		return err
	}
	kept := &gateway.StoredSecret{
		Endpoint: in.Endpoint, Reference: reference, Device: in.Device, Created: now,
		Sealed: s.config.Sealer().Seal(in.Secret, sealedFor, in.Endpoint, reference, in.Device),
	}
	if in.NotAfter != nil {
		kept.NotAfter = *in.NotAfter
	}
	if err := s.config.Store.PutSecret(ctx, kept, secretEvent(c, "secret-added", kept, now)); err != nil {
		return err
	}
	s.config.Log.Info("shared secret added", "endpoint", kept.Endpoint, "reference", gateway.ReferenceID([]byte(reference)), "device", kept.Device, "actor", actorOf(c))
	return c.JSON(http.StatusOK, secretOf(kept))
}

func secretEvent(c echo.Context, kind string, s *gateway.StoredSecret, now time.Time) gateway.AuditEvent {
	return gateway.AuditEvent{Kind: kind, At: now, Actor: actorOf(c), Endpoint: s.Endpoint, Device: s.Device, Note: "reference " + gateway.ReferenceID([]byte(s.Reference))}
}

// dropSecret takes one away.
func (s *Server) dropSecret(c echo.Context) error {
	q, err := known(c, "endpoint", "reference")
	if err != nil {
		return err
	}
	reference, err := base64.RawURLEncoding.DecodeString(q["reference"])
	if err != nil || len(reference) == 0 || q["endpoint"] == "" {
		return badRequest("endpoint and reference (base64url) say which secret is meant")
	}
	ctx, now := c.Request().Context(), s.config.Clock()
	none := &refusal{status: http.StatusNotFound, message: fmt.Sprintf("endpoint %s has no secret with the reference %s", q["endpoint"], gateway.ReferenceID(reference))}
	found, err := s.config.Store.Secret(ctx, q["endpoint"], string(reference))
	switch {
	case errors.Is(err, gateway.ErrNotFound):
		return none
	case err != nil:
		return err
	}
	switch err := s.config.Store.DropSecret(ctx, found.Endpoint, found.Reference, secretEvent(c, "secret-removed", found, now)); {
	case errors.Is(err, gateway.ErrNotFound):
		return none
	case err != nil:
		return err
	}
	s.config.Log.Info("shared secret removed", "endpoint", found.Endpoint, "reference", gateway.ReferenceID([]byte(reference)), "device", found.Device, "actor", actorOf(c))
	return c.JSON(http.StatusOK, secretOf(found))
}

// secrets lists them.
func (s *Server) secrets(c echo.Context) error {
	q, err := known(c, "endpoint", "limit", "after")
	if err != nil {
		return err
	}
	limit, err := limitOf(q["limit"])
	if err != nil {
		return err
	}
	place, err := base64.RawURLEncoding.DecodeString(q["after"])
	endpoint, reference, ok := strings.Cut(string(place), "\x00")
	if err != nil || !ok && len(place) > 0 {
		return badRequest("after is what an earlier list gave as next")
	}
	found, err := s.config.Store.Secrets(c.Request().Context(), q["endpoint"], endpoint, reference, limit)
	if err != nil {
		return err
	}
	list := SecretList{Secrets: []Secret{}}
	for _, one := range found {
		list.Secrets = append(list.Secrets, secretOf(one))
	}
	if len(found) == limit {
		last := found[limit-1]
		list.Next = base64.RawURLEncoding.EncodeToString([]byte(last.Endpoint + "\x00" + last.Reference))
	}
	return c.JSON(http.StatusOK, list)
}
