package authz

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// DevicePasswordConfig configures the stage `device-password`: the requester knows the password that stands in the
// device's entry in the inventory. A request brings it by HTTP Basic, with the device's name or identifier for the user, or
// as a challenge.
type DevicePasswordConfig struct {
	// By lists where the device's identifier is taken from when the password comes as a challenge, as in `inventory`.
	// Default: device.
	By []string `yaml:"by"`
	// Kind of identifier that it, or the user name, is. Default: any.
	Kind string `yaml:"kind"`
	// Uses is how often a password is good; a number, or unlimited. A new one starts anew. Default: 1.
	Uses Uses `yaml:"uses"`
	// Limit bounds wrong passwords from one address (an IPv6 /64 counts as one).
	Limit PasswordLimit `yaml:"limit"`
}

// DevicePassword is the stage `device-password`. It denies with Unauthenticated when the password is missing, wrong or
// spent, or the device is unknown, has none, is disabled, or its entry is not valid here and now; with Busy when the
// source tried too often; with NotAuthorized when an earlier stage named another device. It cannot answer when the
// inventory cannot be read, or the context ends while it waits to compute a hash.
type DevicePassword struct {
	config  DevicePasswordConfig // as it was made with, for Describe
	by      []place
	kind    string
	uses    Uses
	limit   *limiter
	devices Devices
	hashing *Hashing
	now     func() time.Time
	dummy   *entry // of the cost that HashPassword has: what is compared where there is no password
}

// NewDevicePassword makes the stage. hashing is shared by all stages of the process that compare passwords; now is the clock.
func NewDevicePassword(c DevicePasswordConfig, devices Devices, hashing *Hashing, now func() time.Time) (*DevicePassword, error) {
	if devices == nil || hashing == nil || now == nil {
		return nil, errors.New("device-password: no devices, hashing or clock given")
	}
	by, err := parsePlaces(c.By)
	if err != nil {
		return nil, fmt.Errorf("by: %w", err)
	}
	if err := checkKind(c.Kind); err != nil {
		return nil, err
	}
	s := &DevicePassword{config: c, by: by, kind: c.Kind, uses: c.Uses.or(1), devices: devices, hashing: hashing, now: now}
	if s.limit, err = c.Limit.limiter(); err != nil {
		return nil, err
	}
	hash, err := HashPassword([]byte("nobody's"))
	if err != nil {
		return nil, err
	}
	if s.dummy, err = parseEntry(hash); err != nil {
		return nil, err
	}
	return s, nil
}

// Name is "device-password".
func (s *DevicePassword) Name() string { return "device-password" }

// Credentials is what the stage looks at.
func (s *DevicePassword) Credentials() []gateway.CredentialKind {
	return []gateway.CredentialKind{gateway.CredentialPassword, gateway.CredentialChallenge}
}

// Identifies marks the stage as one that depends only on who is asking.
func (s *DevicePassword) Identifies() {}

// Decide finds the device and compares the password. What is wrong of the two shows neither in the answer nor in the work.
func (s *DevicePassword) Decide(ctx context.Context, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	if err := ctx.Err(); err != nil {
		return gateway.Unanswered(err)
	}
	c, ok := r.Credential(gateway.CredentialPassword)
	if !ok {
		c, ok = r.Credential(gateway.CredentialChallenge)
	}
	detail := "the device's password is required"
	if !ok {
		return gateway.Denied(gateway.Unauthenticated, detail, "the request has no password")
	}
	if c.Kind == gateway.CredentialPassword {
		detail = "user name or password is wrong"
	}
	if c.Digest != nil {
		return gateway.Denied(gateway.Unauthenticated, detail, "the request has a password by HTTP Digest, for which the inventory has no form")
	}
	d, fault, err := s.find(ctx, c, r, g)
	if err != nil {
		return gateway.Unanswered(err)
	}
	right, limited, err := s.check(ctx, d, c.Secret, r)
	switch {
	case err != nil:
		return gateway.Unanswered(err)
	case limited > 0:
		wait := time.Duration(math.Ceil(limited.Seconds())) * time.Second
		v := gateway.Denied(gateway.Busy, fmt.Sprintf("too many wrong passwords, try again in %v", wait),
			fmt.Sprintf("too many wrong passwords from %s: this one was not looked at; next try in %v", sourceOf(r.Source), wait))
		v.RetryAfter = wait
		return v
	case d == nil:
		return gateway.Denied(gateway.Unauthenticated, detail, fault)
	case !right:
		return gateway.Denied(gateway.Unauthenticated, detail, fmt.Sprintf("wrong password for device %s", shown(d.Name)))
	}
	if c.Kind == gateway.CredentialChallenge {
		c.ID = d.Name // the adapter cannot name a challenge
	}
	g.Authenticate(c)
	if denied, ok := recognise(g, d); !ok {
		return denied
	}
	return gateway.Allowed("password of device "+shown(d.Name), s.uses.claims(gateway.Claim{
		Key:    gateway.PasswordKey(d.Name, d.Password),
		Lost:   fmt.Sprintf("the password of device %s is good %s, and has been used", shown(d.Name), s.uses.times()),
		Reason: gateway.Unauthenticated, Detail: "the password has been used",
	})...)
}

// find returns the device whose password it has to be, or why there is none.
func (s *DevicePassword) find(ctx context.Context, c gateway.Credential, r *gateway.Request, g *gateway.Grant) (d *gateway.Device, fault string, err error) {
	value := c.ID
	if c.Kind == gateway.CredentialChallenge {
		var at place
		switch value, at, err = identifier(s.by, r, g); {
		case errors.Is(err, errNoPlace):
			return nil, "nothing says which device this is: " + listPlaces(s.by), nil
		case err != nil:
			return nil, at.name + ": " + err.Error(), nil
		}
	}
	d, err = find(ctx, s.devices, s.kind, value)
	var ambiguous *gateway.AmbiguousDeviceError
	switch {
	case errors.Is(err, gateway.ErrNotFound):
		return nil, shown(value) + " is no device's", nil
	case errors.As(err, &ambiguous):
		return nil, ambiguous.Error() + "; say by `kind` which one is meant", nil
	case err != nil:
		return nil, "", fmt.Errorf("device %s cannot be looked up: %w", shown(value), err)
	case d.Password == "":
		return nil, "device " + shown(d.Name) + " has no password", nil
	}
	if fault := d.Fault(r.Endpoint, s.now()); fault != "" {
		return nil, "device " + shown(d.Name) + " " + fault, nil
	}
	return d, "", nil
}

// check compares the password with the device's; d is nil for none. A generated password is compared first and without
// limit, as in `password`; every other attempt costs one computation.
func (s *DevicePassword) check(ctx context.Context, d *gateway.Device, password []byte, r *gateway.Request) (right bool, limited time.Duration, err error) {
	possible := len(password) > 0 && len(password) <= maxPassword
	password = password[:min(len(password), maxPassword)]
	want := s.dummy
	if d != nil {
		if want, err = parseEntry(d.Password); err != nil {
			return false, 0, fmt.Errorf("the password of device %s: %w", shown(d.Name), err)
		}
	}
	sum, generated := sha256.Sum256(password), make([]byte, sha256.Size)
	if want.sum != nil {
		generated = want.sum
	}
	if subtle.ConstantTimeCompare(sum[:], generated) == 1 && want.sum != nil && possible {
		return true, 0, nil
	}
	if wait, ok := s.limit.take(r.Source, s.now()); !ok {
		return false, max(wait, 1), nil
	}
	known := d != nil && want.sum == nil
	if !known {
		want = s.dummy
	}
	right, err = s.hashing.matches(ctx, want, password)
	if err != nil {
		return false, 0, fmt.Errorf("no computation of a password was free in time: %w", err)
	}
	if right = right && known && possible; right {
		s.limit.giveBack(r.Source, s.now())
	}
	return right, 0, nil
}
