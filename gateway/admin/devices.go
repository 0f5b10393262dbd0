package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/passhash"
)

const (
	// sealedForDevice is what a device's secret is sealed for, followed by its name: what stages open it with.
	sealedForDevice = "device"
	generate        = "generate" // as a password: the gateway makes one
	generatedLength = 26         // characters of 5 bits: 130 bits
	longPassword    = 20         // characters; in an import, shorter ones would cost an argon2id computation each
	usesAtOnce      = 500        // claims in one look-up
)

// takes makes an entry of what was sent. bulk is for one of many: nothing that costs much is computed. password is the one
// that was generated, "" for none.
func (s *Server) takes(in *Device, bulk bool, now time.Time) (d *gateway.Device, password string, err error) {
	d = &gateway.Device{
		Name: in.Name, Vendor: in.Vendor, Endpoints: in.Endpoints, Profiles: in.Profiles, Enrollments: int(in.Enrollments),
		Disabled: in.Disabled, Attributes: in.Attributes, Note: in.Note, Created: now, Updated: now,
	}
	for _, i := range in.Identifiers {
		id := gateway.DeviceID{Kind: i.Kind, Value: gateway.NormalIdentifier(i.Kind, i.Value)}
		if err := gateway.CheckIdentifier(id.Kind, id.Value); err != nil {
			return nil, "", err
		}
		d.Identifiers = append(d.Identifiers, id)
	}
	for _, date := range []struct{ from, to *time.Time }{{in.NotBefore, &d.NotBefore}, {in.NotAfter, &d.NotAfter}} {
		if date.from == nil {
			continue
		}
		if *date.to = date.from.UTC(); date.to.IsZero() { // d.Check could not tell it from none
			return nil, "", gateway.ErrEarlyDate
		}
	}
	if err := d.Check(); err != nil {
		return nil, "", err
	}
	if password, err = s.takePassword(d, in, bulk); err != nil {
		return nil, "", err
	}
	if in.Secret != nil {
		if len(in.Secret) < minSecret || len(in.Secret) > maxSecret {
			return nil, "", fmt.Errorf("a shared secret has %d to %d bytes", minSecret, maxSecret)
		}
		d.Sealed = s.config.Sealer().Seal(in.Secret, sealedForDevice, d.Name)
	}
	return d, password, nil
}

// takePassword sets the hash of what was sent.
func (s *Server) takePassword(d *gateway.Device, in *Device, bulk bool) (generated string, err error) {
	switch {
	case in.Password != "" && in.PasswordHash != "":
		return "", errors.New("password and password_hash: give one of them")
	case in.PasswordHash != "":
		if _, err := passhash.Parse(in.PasswordHash); err != nil {
			return "", fmt.Errorf("password_hash: %w", err)
		}
		d.Password = in.PasswordHash
	case in.Password == "":
	case len(in.Password) > passhash.MaxPassword:
		return "", fmt.Errorf("a password has at most %d bytes", passhash.MaxPassword)
	case in.Password == generate && bulk:
		return "", errors.New("a password is generated for one device at a time: `muster device add`")
	case in.Password == generate:
		generated = random(generatedLength)
		d.Password = passhash.Secret([]byte(generated))
	case bulk && len(in.Password) < longPassword:
		return "", fmt.Errorf("the password is short: in an import it has to be a random one of %d characters or more, since each that people can remember takes long to hash; give password_hash (`muster password`), or add the device by itself", longPassword)
	case bulk:
		d.Password = passhash.Secret([]byte(in.Password))
	default:
		d.Password, err = passhash.Password([]byte(in.Password))
	}
	return generated, err
}

func deviceOf(d *gateway.Device, uses map[string]int64) Device {
	out := Device{
		Name: d.Name, Vendor: d.Vendor, Endpoints: d.Endpoints, Profiles: d.Profiles, Enrollments: Enrollments(d.Enrollments),
		Disabled: d.Disabled, Attributes: d.Attributes, Note: d.Note, HasPassword: d.Password != "", HasSecret: d.Sealed != nil,
		NotBefore: timeOf(d.NotBefore), NotAfter: timeOf(d.NotAfter), Created: timeOf(d.Created), Updated: timeOf(d.Updated),
		Enrolled: uses[gateway.EnrollmentsKey(d.Name)], PasswordUsed: d.Password != "" && uses[gateway.PasswordKey(d.Name, d.Password)] > 0,
	}
	for _, i := range d.Identifiers {
		out.Identifiers = append(out.Identifiers, Identifier{Kind: i.Kind, Value: i.Value})
	}
	return out
}

func timeOf(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// claimsOf are the claims that an entry's enrollments use up.
func claimsOf(d *gateway.Device) []string {
	keys := []string{gateway.EnrollmentsKey(d.Name)}
	if d.Password != "" {
		keys = append(keys, gateway.PasswordKey(d.Name, d.Password))
	}
	return keys
}

// limitsOf is what limits per device have counted of one, by what their keys say after its name; nil for nothing.
func (s *Server) limitsOf(ctx context.Context, d *gateway.Device) (map[string]int64, error) {
	prefix := gateway.DeviceLimitsKey(d.Name)
	uses, err := s.config.Store.UsesUnder(ctx, prefix)
	if err != nil || len(uses) == 0 {
		return nil, err
	}
	limits := map[string]int64{}
	for key, n := range uses {
		limits[strings.TrimPrefix(key, prefix)] = n
	}
	return limits, nil
}

// uses asks for many claims.
func (s *Server) uses(ctx context.Context, keys []string) (map[string]int64, error) {
	all := map[string]int64{}
	for some := range slices.Chunk(keys, usesAtOnce) {
		found, err := s.config.Store.Uses(ctx, some)
		if err != nil {
			return nil, err
		}
		for key, n := range found {
			all[key] = n
		}
	}
	return all, nil
}

// show answers with an entry as it stands.
func (s *Server) show(c echo.Context, d *gateway.Device, password string) error {
	uses, err := s.uses(c.Request().Context(), claimsOf(d))
	if err != nil {
		return err
	}
	out := deviceOf(d, uses)
	out.Password = password
	if out.Limits, err = s.limitsOf(c.Request().Context(), d); err != nil {
		return err
	}
	return c.JSON(http.StatusOK, out)
}

func noDevice(name string) error {
	return &refusal{status: http.StatusNotFound, message: fmt.Sprintf("no device %q", name)}
}

// deviceError is the answer to an error of a look-up.
func deviceError(name string, err error) error {
	if errors.Is(err, gateway.ErrNotFound) {
		return noDevice(name)
	}
	if e, ok := errors.AsType[*gateway.AmbiguousDeviceError](err); ok {
		return &refusal{status: http.StatusConflict, message: fmt.Sprintf("%q is an identifier of %d devices", name, len(e.Devices)), candidates: e.Devices[:min(len(e.Devices), candidates)]}
	}
	return err
}

// lookUp finds the entry that the path names: kind "" by any identifier, "name" by its whole name.
func (s *Server) lookUp(c echo.Context, kind string) (*gateway.Device, error) {
	if _, err := known(c); err != nil {
		return nil, err
	}
	name := param(c, "name")
	if name == "" || len(name) > gateway.MaxDeviceName {
		return nil, badRequest("a device's name has 1 to %d bytes", gateway.MaxDeviceName)
	}
	d, err := s.found(c.Request().Context(), kind, name)
	if err != nil {
		return nil, deviceError(name, err)
	}
	return d, nil
}

// found is Store.Device for what people type: an identifier is found however it is spelled.
func (s *Server) found(ctx context.Context, kind, given string) (*gateway.Device, error) {
	d, err := s.config.Store.Device(ctx, kind, given)
	for _, spelled := range [...]string{"mac", "imei", "udid"} {
		if normal := gateway.NormalIdentifier(spelled, given); kind == "" && errors.Is(err, gateway.ErrNotFound) && normal != given {
			d, err = s.config.Store.Device(ctx, spelled, normal)
		}
	}
	return d, err
}

// device shows one.
func (s *Server) device(c echo.Context) error {
	d, err := s.lookUp(c, "")
	if err != nil {
		return err
	}
	return s.show(c, d, "")
}

// devices lists them.
func (s *Server) devices(c echo.Context) error {
	q, err := known(c, "vendor", "prefix", "disabled", "after", "limit")
	if err != nil {
		return err
	}
	f := gateway.DeviceFilter{Vendor: q["vendor"], Prefix: q["prefix"], After: q["after"]}
	if f.Limit, err = limitOf(q["limit"]); err != nil {
		return err
	}
	if f.Disabled, err = flagOf("disabled", q["disabled"]); err != nil {
		return err
	}
	ctx := c.Request().Context()
	found, err := s.config.Store.Devices(ctx, f)
	if err != nil {
		return err
	}
	var keys []string
	for _, d := range found {
		keys = append(keys, claimsOf(d)...)
	}
	uses, err := s.uses(ctx, keys)
	if err != nil {
		return err
	}
	list := DeviceList{Devices: []Device{}}
	for _, d := range found {
		list.Devices = append(list.Devices, deviceOf(d, uses))
	}
	if len(found) == f.Limit {
		list.Next = found[f.Limit-1].Name
	}
	return c.JSON(http.StatusOK, list)
}

// turn waits for one's turn: of s.changing, so that what is read still stands when it is written, and nobody waits for a client
// in it; of s.importing, so that one list at a time is in memory. The function ends it, and may be called again.
func turn(ctx context.Context, of chan struct{}) (end func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	select {
	case of <- struct{}{}:
		return sync.OnceFunc(func() { <-of }), nil
	case <-ctx.Done():
		return nil, conflict("devices are being imported by somebody else: try again later")
	}
}

// change runs a change of devices in its turn.
func (s *Server) change(ctx context.Context, do func() error) error {
	end, err := turn(ctx, s.changing)
	if err != nil {
		return err
	}
	defer end()
	return do()
}

// addDevice adds one, or puts it in the place of one.
func (s *Server) addDevice(c echo.Context) error {
	replace, err := replaceOf(c)
	if err != nil {
		return err
	}
	var in Device
	if err := decode(c, &in); err != nil {
		return err
	}
	ctx, now := c.Request().Context(), s.config.Clock()
	return s.change(ctx, func() error {
		d, password, err := s.takes(&in, false, now)
		if err == nil {
			if k, some := keepingOf(0, d, &in); some {
				err = s.keep(ctx, k, replace)
			}
		}
		if _, ours := errors.AsType[*storeError](err); ours {
			return err
		} else if err != nil {
			return badRequest("%v", err)
		}
		if err := s.put(c, d, replace, "device-added"); err != nil {
			return err
		}
		stored, err := s.config.Store.Device(ctx, "name", d.Name)
		if err != nil {
			return err
		}
		return s.show(c, stored, password)
	})
}

func replaceOf(c echo.Context) (bool, error) {
	q, err := known(c, "replace")
	if err != nil {
		return false, err
	}
	replace, err := flagOf("replace", q["replace"])
	return replace != nil && *replace, err
}

// put stores one entry with its audit event.
func (s *Server) put(c echo.Context, d *gateway.Device, replace bool, kind string) error {
	event := gateway.AuditEvent{Kind: kind, At: s.config.Clock(), Actor: actorOf(c), Device: d.Name}
	if kind == "device-added" && replace {
		event.Note = "in the place of one that stands"
	}
	_, _, err := s.config.Store.ImportDevices(c.Request().Context(), []*gateway.Device{d}, replace, event, nil)
	if e, ok := errors.AsType[*gateway.DeviceConflictError](err); ok {
		return conflict("%s", e.Error())
	}
	if err == nil {
		s.config.Log.Info(kind, "device", d.Name, "actor", actorOf(c))
	}
	return err
}

// dropDevice takes one away.
func (s *Server) dropDevice(c echo.Context) error {
	ctx := c.Request().Context()
	return s.change(ctx, func() error {
		d, err := s.lookUp(c, "name")
		if err != nil {
			return err
		}
		event := gateway.AuditEvent{Kind: "device-removed", At: s.config.Clock(), Actor: actorOf(c), Device: d.Name}
		if err := s.config.Store.DropDevice(ctx, d.Name, event); err != nil {
			return deviceError(d.Name, err)
		}
		s.config.Log.Info(event.Kind, "device", d.Name, "actor", actorOf(c))
		return s.show(c, d, "")
	})
}

// setDeviceState disables one, or takes that back.
func (s *Server) setDeviceState(c echo.Context) error {
	var in struct {
		Disabled *bool `json:"disabled"` // DeviceState, and nothing by omission
	}
	if err := decode(c, &in); err != nil {
		return err
	}
	if in.Disabled == nil {
		return badRequest("disabled is missing")
	}
	return s.change(c.Request().Context(), func() error {
		d, err := s.lookUp(c, "name")
		if err != nil {
			return err
		}
		if d.Disabled == *in.Disabled {
			return s.show(c, d, "")
		}
		changed := *d
		changed.Disabled, changed.Updated = *in.Disabled, s.config.Clock()
		kind := "device-enabled"
		if changed.Disabled {
			kind = "device-disabled"
		}
		if err := s.put(c, &changed, true, kind); err != nil {
			return err
		}
		return s.show(c, &changed, "")
	})
}

// resetDevice gives one its enrollments and its one-time password back.
func (s *Server) resetDevice(c echo.Context) error {
	ctx := c.Request().Context()
	return s.change(ctx, func() error {
		d, err := s.lookUp(c, "name")
		if err != nil {
			return err
		}
		event := gateway.AuditEvent{Kind: "device-reset", At: s.config.Clock(), Actor: actorOf(c), Device: d.Name}
		limits, err := s.limitsOf(ctx, d)
		if err != nil {
			return err
		}
		keys := claimsOf(d)
		for what := range limits {
			keys = append(keys, gateway.DeviceLimitsKey(d.Name)+what)
		}
		if err := s.config.Store.FreeClaims(ctx, keys, event); err != nil {
			return err
		}
		s.config.Log.Info(event.Kind, "device", d.Name, "actor", actorOf(c))
		return s.show(c, d, "")
	})
}
