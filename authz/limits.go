package authz

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// LimitsConfig configures the stage `limits`: how many certificates one device, one endpoint, and one address may have.
type LimitsConfig struct {
	// Device bounds those of one device, at all endpoints whose stages count devices. An earlier stage has to name it.
	Device *Limit `yaml:"device"`
	// Endpoint bounds those of the endpoint.
	Endpoint *Limit `yaml:"endpoint"`
	// Source bounds those that were asked for from one IPv4 address, or IPv6 /64, at all endpoints whose stages count sources.
	Source *Limit `yaml:"source"`
}

// Limit is how many certificates something may have.
type Limit struct {
	// Issued is how many may be issued within the time of `per`, which slides: first ones, renewals, rekeys.
	Issued Count `yaml:"issued"`
	// Per is the time of `issued`: 1s to 365d.
	Per *strictyaml.Duration `yaml:"per"`
	// Active is how many may be valid at a time, revoked ones not counted. A renewal counts in the place of what it renews.
	Active Count `yaml:"active"`
}

// Count is a number from 1 on; 0 is one that was left out.
type Count int64

// UnmarshalStrict reads a number.
func (c *Count) UnmarshalStrict(file string, n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!int" {
		if i, err := strconv.ParseInt(n.Value, 10, 64); err == nil && i > 0 && i <= maxLimit {
			*c = Count(i)
			return nil
		}
	}
	return strictyaml.Errorf(file, n, "wants a number from 1 to %d; without a limit, leave it out", maxLimit)
}

const (
	maxLimitPer = 365 * 24 * time.Hour
	maxLimit    = 1_000_000_000
)

// Limits is the stage `limits`. It allows, with a claim for each number; what has none left is refused when these are committed:
// with Busy for one per time, with NotAuthorized for one at a time. It denies with NotAuthorized what counts per device where no
// stage has named one.
type Limits struct {
	config LimitsConfig
	now    func() time.Time
}

// NewLimits makes the stage. now is the clock.
func NewLimits(c LimitsConfig, now func() time.Time) (*Limits, error) {
	if now == nil {
		return nil, errors.New("limits: no clock given")
	}
	if c == (LimitsConfig{}) {
		return nil, errors.New("nothing is limited: say device, endpoint or source")
	}
	var errs []error
	for _, l := range []struct {
		name string
		*Limit
	}{{"device", c.Device}, {"endpoint", c.Endpoint}, {"source", c.Source}} {
		if l.Limit == nil {
			continue
		}
		if err := l.check(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", l.name, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &Limits{c, now}, nil
}

func (l *Limit) check() error {
	switch {
	case l.Issued < 0 || l.Active < 0:
		return errors.New("issued and active: not negative")
	case l.Issued == 0 && l.Per != nil:
		return fmt.Errorf("issued: say how many per %s", *l.Per)
	case l.Issued > 0 && l.Per == nil:
		return fmt.Errorf("per: say in what time %d may be issued, such as 24h", l.Issued)
	case l.Per != nil && (time.Duration(*l.Per) < time.Second || time.Duration(*l.Per) > maxLimitPer):
		return errors.New("per: 1s to 365d")
	case l.Issued == 0 && l.Active == 0:
		return errors.New("nothing is limited: say issued and per, or active")
	}
	return nil
}

// Name is "limits".
func (s *Limits) Name() string { return "limits" }

// PerDevice reports whether the stage counts per device.
func (c LimitsConfig) PerDevice() bool { return c.Device != nil }

// Decide says what the certificate will count for.
func (s *Limits) Decide(ctx context.Context, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	if err := ctx.Err(); err != nil {
		return gateway.Unanswered(err)
	}
	var claims []gateway.Claim
	var notes []string
	count := func(l *Limit, key, who, detail string) {
		if l == nil {
			return
		}
		if l.Issued > 0 {
			what := fmt.Sprintf("%s: %d issued per %s", who, l.Issued, l.Per)
			notes = append(notes, what)
			claims = append(claims, gateway.Claim{
				Key: key + "issued:" + l.Per.String(), Limit: int64(l.Issued), Until: s.now().Add(time.Duration(*l.Per)),
				Lost: "the limit of " + what + ", is reached", Reason: gateway.Busy, Detail: "too many certificates were issued " + detail,
			})
		}
		if l.Active > 0 {
			what := fmt.Sprintf("%s: %d active", who, l.Active)
			notes = append(notes, what)
			claims = append(claims, gateway.Claim{
				Key: key + "active", Limit: int64(l.Active), Active: true,
				Lost: "the limit of " + what + ", is reached", Reason: gateway.NotAuthorized, Detail: "too many certificates are valid " + detail,
			})
		}
	}
	if s.config.Device != nil {
		if g.Device == "" {
			return gateway.Denied(gateway.NotAuthorized, detailMayNot, "the limit is per device, and no stage before this one has named the device")
		}
		count(s.config.Device, gateway.DeviceLimitsKey(g.Device), "device "+shown(g.Device), "to this device")
	}
	count(s.config.Endpoint, gateway.LimitsKey("endpoint", r.Endpoint), "endpoint "+shown(r.Endpoint), "here")
	if s.config.Source != nil {
		source := sourceOf(r.Source)
		name := "no address"
		if source.IsValid() {
			name = source.String()
		}
		count(s.config.Source, gateway.LimitsKey("source", name), "source "+name, "to your address")
	}
	return gateway.Allowed("counts for "+strings.Join(notes, "; "), claims...)
}
