package authz

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// Devices is where stages look devices up; gateway.Store is one.
type Devices interface {
	// Device finds an entry of the inventory by one of its identifiers; kind "" for any, the name included.
	// gateway.ErrNotFound; *gateway.AmbiguousDeviceError when the value is two devices'.
	Device(ctx context.Context, kind, value string) (*gateway.Device, error)
}

// InventoryConfig configures the stage `inventory`: the device is one of those that the operator has entered, and may have
// a certificate here now.
type InventoryConfig struct {
	// By lists where the device's identifier is taken from; the first place that has a value counts: `device` (what an
	// earlier stage named), `certificate.subject.ATTRIBUTE`, `certificate.san.KIND`, `reference` (of the shared secret),
	// `user` (of the password), each only when an earlier stage accepted it; `identifier.KIND`, which the message states (an iPhone's
	// udid, serial, imei, meid), when an earlier stage accepted who signed it; `subject.ATTRIBUTE` and `san.KIND` of the
	// request, which are the requester's own words. Default: device.
	By []string `yaml:"by"`
	// Kind of identifier that it is: name, serial, imei, udid, mac, ... Default: any. A challenge that was made for the device, and its
	// own certificate, know it by its name: the entry has to have an identifier of this kind then.
	Kind string `yaml:"kind"`
	// Enrollments is how many first certificates a device may have whose entry does not say; a number, or unlimited.
	// Renewals do not count. Default: 1.
	Enrollments Uses `yaml:"enrollments"`
	// AttributesRequired are attributes that an entry has to have, since a template needs them, say.
	AttributesRequired []string `yaml:"attributes-required"`
}

// Inventory is the stage `inventory`. It denies with NotAuthorized a device that is not in the inventory, or that two
// entries could be; one that is disabled, whose entry is not valid now, or not for the endpoint, the vendor or the profile;
// one that has had its enrollments; and what an earlier stage named another device. It cannot answer when the inventory
// cannot be read.
type Inventory struct {
	by          []place
	kind        string
	enrollments Uses
	attributes  []string
	devices     Devices
	now         func() time.Time
}

// NewInventory makes the stage. now is the clock.
func NewInventory(c InventoryConfig, devices Devices, now func() time.Time) (*Inventory, error) {
	if devices == nil || now == nil {
		return nil, errors.New("inventory: no devices or clock given")
	}
	by, err := parsePlaces(c.By)
	if err != nil {
		return nil, fmt.Errorf("by: %w", err)
	}
	if err := checkKind(c.Kind); err != nil {
		return nil, err
	}
	for i, a := range c.AttributesRequired {
		if a == "" || slices.Contains(c.AttributesRequired[:i], a) {
			return nil, fmt.Errorf("attributes-required: %s is empty, or stands twice", shown(a))
		}
	}
	return &Inventory{by: by, kind: c.Kind, enrollments: c.Enrollments.or(1), attributes: c.AttributesRequired, devices: devices, now: now}, nil
}

// checkKind judges a kind of identifier in a configuration.
func checkKind(kind string) error {
	probe := gateway.Device{Name: "x", Identifiers: []gateway.DeviceID{{Kind: kind, Value: "x"}}}
	if kind == "" || kind == "name" {
		return nil
	}
	// The form of the value does not matter here.
	probe.Identifiers[0].Value = gateway.NormalIdentifier(kind, "x")
	if err := probe.Check(); err != nil {
		return fmt.Errorf("kind: %w", err)
	}
	return nil
}

// Name is "inventory".
func (s *Inventory) Name() string { return "inventory" }

// Claimed reports whether the stage may go by what the request says of itself, for which some other stage has to vouch.
func (c InventoryConfig) Claimed() bool {
	by, err := parsePlaces(c.By)
	return err == nil && claimed(by)
}

// What clients are told.
const (
	detailUnknown = "the device is not in the inventory"
	detailMayNot  = "the device may not have a certificate here"
)

// Identify says which device asks, for other stages to know it by all its names. It proves nothing. A disabled device gets
// no earlier answer again; the time of its entry, and what it has used up, do not matter.
func (s *Inventory) Identify(ctx context.Context, r *gateway.Request, g *gateway.Grant) (v gateway.Verdict, proves bool) {
	_, _, v = s.recognise(ctx, r, g)
	return v, false
}

// recognise finds the device and puts it into the grant. The verdict allows when it is known and not disabled.
func (s *Inventory) recognise(ctx context.Context, r *gateway.Request, g *gateway.Grant) (d *gateway.Device, note string, v gateway.Verdict) {
	if err := ctx.Err(); err != nil {
		return nil, "", gateway.Unanswered(err)
	}
	deny := func(detail, format string, args ...any) (*gateway.Device, string, gateway.Verdict) {
		return nil, "", gateway.Denied(gateway.NotAuthorized, detail, fmt.Sprintf(format, args...))
	}
	value, at, err := identifier(s.by, r, g)
	switch {
	case errors.Is(err, errNoPlace) && len(s.by) == 1 && s.by[0].from == placeDevice:
		return deny("the device is not known", "no stage before this one has named a device")
	case errors.Is(err, errNoPlace):
		return deny("the device is not known", "neither the request nor what authenticated it says which device this is: %s (a certificate, reference or user counts once an earlier stage has accepted it)", listPlaces(s.by))
	case err != nil:
		return deny("the device is not known", "%s: %v", at.name, err)
	}
	sought, kind := fmt.Sprintf("%s (%s)", shown(value), at.name), s.kind
	if kind != "" {
		sought = kind + " " + sought
	}
	if at.from == placeStated {
		kind = at.kind
	}
	d, err = find(ctx, s.devices, kind, value)
	if kind != "" && errors.Is(err, gateway.ErrNotFound) && at.from == placeDevice && g.Recorded() {
		// A challenge, or a certificate that is renewed, has the entry's name, by whatever identifier it was made or enrolled.
		if d, err = find(ctx, s.devices, "name", value); err == nil && !slices.ContainsFunc(d.Identifiers, func(i gateway.DeviceID) bool { return i.Kind == kind }) {
			return deny(detailUnknown, "device %s has no %s, which is what it is to be known by", shown(d.Name), kind)
		}
	}
	var ambiguous *gateway.AmbiguousDeviceError
	switch {
	case errors.Is(err, gateway.ErrNotFound):
		return deny(detailUnknown, "%s is no device's", sought)
	case errors.As(err, &ambiguous):
		return deny(detailUnknown, "%s is an identifier of %d devices: %s; say by `kind` which one is meant", sought, len(ambiguous.Devices), strings.Join(ambiguous.Devices, ", "))
	case err != nil:
		return nil, "", gateway.Unanswered(fmt.Errorf("%s cannot be looked up: %w", sought, err))
	}
	switch fault, err := contradicts(ctx, s.devices, r, d); {
	case err != nil:
		return nil, "", gateway.Unanswered(err)
	case fault != "":
		return deny("the identifiers are not those of one device", "%s", fault)
	}
	if denied, ok := recognise(g, d); !ok {
		return nil, "", denied
	}
	if d.Disabled {
		return deny(detailMayNot, "device %s is disabled", shown(d.Name))
	}
	note = "device " + shown(d.Name)
	if value != d.Name {
		note += ", found by " + sought
	}
	return d, note, gateway.Allowed(note)
}

// find looks a device up by an identifier as it came.
func find(ctx context.Context, devices Devices, kind, value string) (*gateway.Device, error) {
	value = gateway.NormalIdentifier(kind, value)
	if value == "" || len(value) > gateway.MaxDeviceName {
		return nil, gateway.ErrNotFound
	}
	d, err := devices.Device(ctx, kind, value)
	if err == nil && d == nil {
		return nil, errors.New("the look-up gave nothing")
	}
	return d, err
}

// recognise puts the entry into the grant, or gives the denial of a request that speaks for two.
func recognise(g *gateway.Grant, d *gateway.Device) (gateway.Verdict, bool) {
	if g.Recognise(d) {
		return gateway.Verdict{}, true
	}
	return gateway.Denied(gateway.NotAuthorized, "the credentials name two devices",
		fmt.Sprintf("this stage found device %s, an earlier one %s, which is none of its names", shown(d.Name), shown(g.Device))), false
}

// Decide finds the device and judges its entry.
func (s *Inventory) Decide(ctx context.Context, r *gateway.Request, g *gateway.Grant) gateway.Verdict {
	d, note, v := s.recognise(ctx, r, g)
	if v.Decision != gateway.Allow {
		return v
	}
	name := shown(d.Name)
	deny := func(format string, args ...any) gateway.Verdict {
		return gateway.Denied(gateway.NotAuthorized, detailMayNot, fmt.Sprintf(format, args...))
	}
	if fault := d.Fault(r.Endpoint, s.now()); fault != "" {
		return deny("device %s %s", name, fault)
	}
	if d.Vendor != "" && g.Vendor != "" && d.Vendor != g.Vendor {
		return deny("device %s is vendor %s's, and authenticated as one of vendor %s's", name, shown(d.Vendor), shown(g.Vendor))
	}
	for _, a := range s.attributes {
		if d.Attributes[a] == "" {
			return deny("the entry of device %s has no attribute %s, which attributes-required lists", name, a)
		}
	}
	chosen, denied, ok := chooseProfile(r, g, d)
	if !ok {
		return denied
	}
	note += chosen
	if r.Operation != gateway.Enroll {
		return gateway.Allowed(note)
	}
	limit := s.enrollments
	if d.Enrollments != 0 {
		limit = Uses(d.Enrollments)
	}
	return gateway.Allowed(note, limit.claims(gateway.Claim{
		Key:    gateway.EnrollmentsKey(d.Name),
		Lost:   fmt.Sprintf("device %s may enrol %s, and has", name, limit.times()),
		Reason: gateway.NotAuthorized, Detail: "the device has had its enrollments",
	})...)
}

// chooseProfile holds the profile against the entry's: one that was asked for, or that an earlier stage chose, has to be
// among them; else it is the first that the endpoint offers.
func chooseProfile(r *gateway.Request, g *gateway.Grant, d *gateway.Device) (note string, denied gateway.Verdict, ok bool) {
	if len(d.Profiles) == 0 {
		return "", gateway.Verdict{}, true
	}
	all := strings.Join(d.Profiles, ", ")
	refuse := func(format string, args ...any) (string, gateway.Verdict, bool) {
		return "", gateway.Denied(gateway.NotAuthorized, "the device may not have a certificate of this profile", fmt.Sprintf(format, args...)), false
	}
	if r.Profile != "" || g.ProfileChosen() {
		if !slices.Contains(d.Profiles, g.Profile) {
			return refuse("device %s may have the profiles %s, not %s", shown(d.Name), all, shown(g.Profile))
		}
		return "", gateway.Verdict{}, true
	}
	for _, name := range d.Profiles {
		if g.ChooseProfile(name) {
			return ", profile " + name, gateway.Verdict{}, true
		}
	}
	return refuse("endpoint %s offers none of the profiles that device %s may have: %s", r.Endpoint, shown(d.Name), all)
}
