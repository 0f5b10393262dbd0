package admin

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
)

// What source does beyond listing: as gateway.Store and gateway.Gateway say.

func (s *source) Certificate(_ context.Context, issuer, serial []byte) (*gateway.Certificate, error) {
	for _, c := range s.certs {
		if bytes.Equal(c.Issuer, issuer) && bytes.Equal(c.Serial, serial) {
			return c, nil
		}
	}
	return nil, cmp.Or(s.err, gateway.ErrNotFound)
}

func (s *source) Messages(context.Context, string) ([]gateway.Message, error) {
	return s.messages, s.err
}

func (s *source) Tallies(_ context.Context, from, _ time.Time) ([]gateway.Tally, error) {
	s.tallied = append(s.tallied, from)
	return []gateway.Tally{{Protocol: gateway.EST, State: gateway.StateIssued, Count: int64(from.Hour())}}, s.err
}

func (s *source) Endings(_ context.Context, _ time.Time, _ time.Duration, n int) ([]int64, error) {
	return make([]int64, n), s.err
}

func (s *source) at(name string) int {
	return slices.IndexFunc(s.devices, func(d *gateway.Device) bool { return d.Name == name })
}

func (s *source) ImportDevices(_ context.Context, devices []*gateway.Device, replace bool, e gateway.AuditEvent, progress func(int)) (added, replaced int, err error) {
	if s.err != nil {
		return 0, 0, s.err
	}
	if s.late != nil {
		progress(1)
		<-s.late
		return 0, 0, &gateway.DeviceConflictError{Conflicts: []gateway.DeviceConflict{{Index: 1, Why: "late"}}, More: 7}
	}
	var wrong gateway.DeviceConflictError
	for i, d := range devices {
		if s.at(d.Name) >= 0 && !replace {
			wrong.Conflicts = append(wrong.Conflicts, gateway.DeviceConflict{Index: i, Why: "device " + d.Name + " stands already"})
		}
	}
	if len(wrong.Conflicts) > 0 {
		return 0, 0, &wrong
	}
	for i, d := range devices {
		kept := *d
		if at := s.at(d.Name); at >= 0 {
			kept.Created = s.devices[at].Created
			s.devices[at] = &kept
			replaced++
		} else {
			s.devices = append(s.devices, &kept)
			added++
		}
		if progress != nil {
			progress(i + 1)
		}
	}
	slices.SortFunc(s.devices, func(a, b *gateway.Device) int { return cmp.Compare(a.Name, b.Name) })
	s.audit = append(s.audit, e)
	return added, replaced, nil
}

func (s *source) DropDevice(_ context.Context, name string, e gateway.AuditEvent) error {
	i := s.at(name)
	if i < 0 {
		return gateway.ErrNotFound
	}
	s.devices, s.audit = slices.Delete(s.devices, i, i+1), append(s.audit, e)
	return nil
}

func (s *source) Device(_ context.Context, kind, value string) (*gateway.Device, error) {
	var found []*gateway.Device
	for _, d := range s.devices {
		if d.Name == value && (kind == "" || kind == "name") || slices.ContainsFunc(d.Identifiers, func(i gateway.DeviceID) bool { return i.Value == value && (kind == "" || kind == i.Kind) }) {
			found = append(found, d)
		}
	}
	switch {
	case s.err != nil:
		return nil, s.err
	case len(found) == 0:
		return nil, gateway.ErrNotFound
	case len(found) > 1:
		return nil, &gateway.AmbiguousDeviceError{Value: value, Devices: []string{found[0].Name, found[1].Name}}
	}
	d := *found[0]
	return &d, nil
}

func (s *source) Devices(_ context.Context, f gateway.DeviceFilter) ([]*gateway.Device, error) {
	var out []*gateway.Device
	for _, d := range s.devices {
		if (f.Vendor == "" || d.Vendor == f.Vendor) && strings.HasPrefix(d.Name, f.Prefix) && (f.Disabled == nil || d.Disabled == *f.Disabled) &&
			d.Name > f.After && len(out) < f.Limit {
			out = append(out, d)
		}
	}
	return out, s.err
}

func (s *source) Uses(_ context.Context, keys []string) (map[string]int64, error) {
	if len(keys) > usesAtOnce {
		return nil, fmt.Errorf("%d keys at once", len(keys))
	}
	out := map[string]int64{}
	for _, k := range keys {
		if n := s.claims[k]; n > 0 {
			out[k] = n
		}
	}
	return out, s.err
}

func (s *source) UsesUnder(_ context.Context, prefix string) (map[string]int64, error) {
	out := map[string]int64{}
	for k, n := range s.claims {
		if n > 0 && strings.HasPrefix(k, prefix) {
			out[k] = n
		}
	}
	return out, s.err
}

func (s *source) FreeClaims(_ context.Context, keys []string, e gateway.AuditEvent) error {
	for _, k := range keys {
		delete(s.claims, k)
	}
	s.audit = append(s.audit, e)
	return s.err
}

func (s *source) PutChallenge(_ context.Context, c *gateway.IssuedChallenge, e gateway.AuditEvent) error {
	s.given, s.audit = slices.Insert(s.given, 0, c), append(s.audit, e)
	return s.err
}

func (s *source) Challenge(_ context.Context, hash []byte) (*gateway.IssuedChallenge, error) {
	for _, c := range s.given {
		if bytes.Equal(c.Hash, hash) {
			return c, nil
		}
	}
	return nil, gateway.ErrNotFound
}

func (s *source) Challenges(_ context.Context, endpoint string, validAt time.Time, before string, limit int) ([]*gateway.IssuedChallenge, error) {
	var out []*gateway.IssuedChallenge
	past := before == ""
	for _, c := range s.given {
		if past && (endpoint == "" || c.Endpoint == endpoint) && (validAt.IsZero() || c.NotAfter.After(validAt)) && len(out) < limit {
			out = append(out, c)
		}
		past = past || c.ID == before
	}
	return out, s.err
}

func (s *source) DropChallenge(_ context.Context, id string, e gateway.AuditEvent) error {
	i := slices.IndexFunc(s.given, func(c *gateway.IssuedChallenge) bool { return c.ID == id })
	if i < 0 {
		return gateway.ErrNotFound
	}
	s.given, s.audit = slices.Delete(s.given, i, i+1), append(s.audit, e)
	return nil
}

// decided is Approve and Deny: the gateway's refusals by what the reason says.
func (s *source) decided(what, id, actor, reason string, state gateway.State) (*gateway.Transaction, error) {
	s.approved = strings.Join([]string{what, id, actor, reason}, " ")
	switch reason {
	case "again":
		return nil, &gateway.Error{Reason: gateway.NotAuthorized, Err: gateway.ErrApproved}
	case "late":
		return nil, &gateway.Error{Reason: gateway.NotAuthorized, Err: gateway.ErrStale}
	case "fire":
		return nil, &gateway.Error{Reason: gateway.Unavailable, Detail: "the store cannot be written", Err: errors.New("disk on fire")}
	}
	for _, t := range s.stored {
		if t.ID == id {
			t.State = state
			return t, nil
		}
	}
	return nil, &gateway.Error{Reason: gateway.UnknownCert, Err: gateway.ErrNotFound}
}

func (s *source) Approve(_ context.Context, id, actor, reason string) (*gateway.Transaction, error) {
	return s.decided("approve", id, actor, reason, gateway.StateIssued)
}

func (s *source) Deny(_ context.Context, id, actor, reason string) (*gateway.Transaction, error) {
	return s.decided("deny", id, actor, reason, gateway.StateDenied)
}

func (s *source) SettleStuck(_ context.Context, id string, got *backend.Issuance, actor, note string) (*gateway.Transaction, error) {
	if got == nil {
		return s.decided("settle nothing", id, actor, note, gateway.StateFailed)
	}
	return s.decided(fmt.Sprintf("settle %d+%d", len(got.Certificate), len(got.Chain)), id, actor, note, gateway.StateIssued)
}

func (s *source) RevokeCertificate(_ context.Context, issuer, serial []byte, reason int, actor, note string) (*gateway.Certificate, gateway.Told, error) {
	for _, c := range s.certs {
		if bytes.Equal(c.Issuer, issuer) && bytes.Equal(c.Serial, serial) {
			if note == "unspecified: fire" && c.Serial[0] == 2 {
				return nil, gateway.ToldLater, &gateway.Error{Reason: gateway.Unavailable, Detail: "the store cannot be written"}
			}
			c.RevokedAt, c.Revocation = noon, reason
			s.audit = append(s.audit, gateway.AuditEvent{Kind: "revocation-ordered", Actor: actor, Note: note})
			heard := map[string]gateway.Told{"slow": gateway.ToldLater, "deaf": gateway.ToldNobody}[c.Backend]
			return c, heard, nil
		}
	}
	return nil, gateway.ToldLater, &gateway.Error{Reason: gateway.UnknownCert, Detail: "no such certificate was issued here", Err: gateway.ErrNotFound}
}

func (s *source) Rollover(_ context.Context, name string, r *backend.RolloverRequest, actor string) (*backend.CA, error) {
	s.rolled = *r
	if name != "local" {
		return nil, &gateway.Error{Reason: gateway.Unsupported, Detail: "this CA is not changed over through the gateway"}
	}
	s.audit = append(s.audit, gateway.AuditEvent{Kind: "ca-rollover", Actor: actor})
	return &s.authority[0], nil
}

func (s *source) cas(context.Context) []BackendCAs {
	return []BackendCAs{{Backend: "gone", Err: errors.New("no answer")}, {Backend: "local", CAs: s.authority, Rolls: true}}
}

func (s *source) crl(_ context.Context, backend, name string) ([]byte, error) {
	if backend != "local" || name == "none" {
		return nil, fmt.Errorf("%w: no such CRL", gateway.ErrNotFound)
	}
	return []byte("crl of " + name), nil
}

func takesChallenges(endpoint, profile string) error {
	if endpoint != "ran" || profile != "" && profile != "base" {
		return fmt.Errorf("no challenges at %q for %q", endpoint, profile)
	}
	return nil
}
