package store

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/muster-pki/muster/gateway"
)

const (
	// hidden is of a batch b that is not visible, or not any more. The table is empty but for imports under way.
	hidden = `SELECT 1 FROM device_imports p WHERE p.state <> 1 AND p.batch = `
	// counts is of an entry's row d: visible, and of the latest batch.
	counts = `NOT EXISTS (` + hidden + `d.batch) AND NOT EXISTS (SELECT 1 FROM devices n
		WHERE n.name = d.name AND n.batch > d.batch AND NOT EXISTS (` + hidden + `n.batch))`

	deviceColumns = `d.name, d.vendor, d.disabled, d.body, d.sealed, d.created, d.updated`
	// identified has SQLite begin with the identifier (CROSS JOIN).
	identified        = ` FROM device_identifiers i CROSS JOIN devices d WHERE d.name = i.device AND ` + counts
	readDeviceText    = `SELECT ` + deviceColumns + identified + ` AND i.value = $1 AND i.kind = $2`
	readAnyDeviceText = `SELECT ` + deviceColumns + identified + ` AND i.value = $1`
)

// deviceBody is what of an entry nothing is searched by.
type deviceBody struct {
	Identifiers []gateway.DeviceID `json:"identifiers,omitempty"`
	Endpoints   []string           `json:"endpoints,omitempty"`
	Profiles    []string           `json:"profiles,omitempty"`
	Enrollments int                `json:"enrollments,omitempty"`
	NotBefore   int64              `json:"not_before,omitempty"` // Unix microseconds
	NotAfter    int64              `json:"not_after,omitempty"`
	Password    string             `json:"password,omitempty"`
	Attributes  map[string]string  `json:"attributes,omitempty"`
	Note        string             `json:"note,omitempty"`
}

func bodyOf(d *gateway.Device) (string, error) {
	return marshal(&deviceBody{Identifiers: d.Identifiers, Endpoints: d.Endpoints, Profiles: d.Profiles, Enrollments: d.Enrollments,
		NotBefore: micros(d.NotBefore), NotAfter: micros(d.NotAfter), Password: d.Password, Attributes: d.Attributes, Note: d.Note})
}

// deviceRow scans a row of deviceColumns.
func deviceRow(scan func(...any) error) (*gateway.Device, error) {
	var d gateway.Device
	var text []byte
	var disabled, created, updated int64
	if err := scan(&d.Name, &d.Vendor, &disabled, &text, &d.Sealed, &created, &updated); err != nil {
		return nil, notFound(err)
	}
	var b deviceBody
	if err := json.Unmarshal(text, &b); err != nil {
		return nil, fmt.Errorf("device %s in the store: %w", d.Name, err)
	}
	d.Identifiers, d.Endpoints, d.Profiles, d.Enrollments = b.Identifiers, b.Endpoints, b.Profiles, b.Enrollments
	d.NotBefore, d.NotAfter, d.Password, d.Attributes, d.Note = fromMicros(b.NotBefore), fromMicros(b.NotAfter), b.Password, b.Attributes, b.Note
	d.Disabled, d.Created, d.Updated = disabled != 0, fromMicros(created), fromMicros(updated)
	return &d, nil
}

// known reports whether the value is one of the device's identifiers, of the kind or ("") of any.
func known(d *gateway.Device, kind, value string) bool {
	if (kind == "" || kind == "name") && d.Name == value {
		return true
	}
	return slices.ContainsFunc(d.Identifiers, func(i gateway.DeviceID) bool { return i.Value == value && (kind == "" || i.Kind == kind) })
}

// Device is gateway.Store.
func (s *Store) Device(ctx context.Context, kind, value string) (*gateway.Device, error) {
	if text(kind) != kind || text(value) != value {
		return nil, gateway.ErrNotFound
	}
	statement, args := readDevice, []any{value, kind}
	if kind == "" {
		statement, args = readAnyDevice, args[:1]
	}
	rows, err := s.prepared[statement].QueryContext(ctx, args...)
	if err != nil {
		return nil, err
	}
	var found []*gateway.Device
	err = each(rows, func(scan func(...any) error) error {
		d, err := deviceRow(scan)
		// One device may have the value under several kinds, and one may have had it.
		if err == nil && known(d, kind, value) && !slices.ContainsFunc(found, func(f *gateway.Device) bool { return f.Name == d.Name }) {
			found = append(found, d)
		}
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case len(found) == 0:
		return nil, gateway.ErrNotFound
	case len(found) > 1:
		slices.SortFunc(found, func(a, b *gateway.Device) int { return cmp.Compare(a.Name, b.Name) })
		ambiguous := &gateway.AmbiguousDeviceError{Value: value}
		for _, d := range found {
			ambiguous.Devices = append(ambiguous.Devices, d.Name)
		}
		return nil, ambiguous
	}
	return found[0], nil
}

// Devices is gateway.Store. The order is of bytes.
func (s *Store) Devices(ctx context.Context, f gateway.DeviceFilter) ([]*gateway.Device, error) {
	var q filter
	q.where(counts)
	q.equal("d.vendor", f.Vendor)
	if f.Prefix != "" {
		// No name has this last of all characters, which cannot be printed.
		q.where("d.name >= " + q.param(text(f.Prefix)) + " AND d.name < " + q.param(text(f.Prefix)+"\U0010FFFF"))
	}
	if f.Disabled != nil {
		q.where("d.disabled = " + q.param(bit(*f.Disabled)))
	}
	if f.After != "" {
		q.where("d.name > " + q.param(text(f.After)))
	}
	var out []*gateway.Device
	err := s.list(ctx, `SELECT `+deviceColumns+` FROM devices d`, &q, "d.name", f.Limit, func(scan func(...any) error) error {
		d, err := deviceRow(scan)
		out = append(out, d)
		return err
	})
	return out, err
}

func bit(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// DropDevice is gateway.Store.
func (s *Store) DropDevice(ctx context.Context, name string, e gateway.AuditEvent) error {
	body, err := eventBody(&e, required)
	if err != nil {
		return err
	}
	if text(name) != name {
		return gateway.ErrNotFound
	}
	l, err := s.lockInventory(ctx)
	if err != nil {
		return err
	}
	defer l.unlock()
	return s.begin(ctx, func(u unit) error {
		if _, err := u.nextBatch(); err != nil {
			return err
		}
		n, err := u.dropRows([]string{name}, func(int64) bool { return true })
		if err != nil {
			return err
		}
		if n == 0 {
			return gateway.ErrNotFound
		}
		return u.audit(body)
	})
}

// nextBatch gives the number of a new batch. Until its commit nobody else changes what is visible of the inventory in one step.
func (u unit) nextBatch() (batch int64, err error) {
	if err := u.row(`UPDATE inventory SET batch = batch + 1 WHERE id = 1 RETURNING batch`).Scan(&batch); err != nil {
		return 0, fmt.Errorf("inventory: %w", err)
	}
	return batch, nil
}

// dropRows takes entries' rows away, of the batches that are gone, with the identifiers that no other row of the entry has.
func (u unit) dropRows(names []string, gone func(batch int64) bool) (n int, err error) {
	type row struct {
		name  string
		batch int64
	}
	var rows []row
	was, stay := map[namedID]bool{}, map[namedID]bool{}
	for part := range slices.Chunk(names, insertRows) {
		found, err := u.tx.QueryContext(u.ctx, `SELECT name, batch, body FROM devices WHERE name IN `+places(1, make([]string, len(part))...), anys(part)...)
		if err != nil {
			return 0, fmt.Errorf("devices: %w", err)
		}
		err = each(found, func(scan func(...any) error) error {
			var r row
			var text []byte
			var b deviceBody
			if err := scan(&r.name, &r.batch, &text); err != nil {
				return err
			}
			if err := json.Unmarshal(text, &b); err != nil {
				return fmt.Errorf("device %s in the store: %w", r.name, err)
			}
			ids := stay
			if gone(r.batch) {
				ids = was
				rows = append(rows, r)
			}
			for _, i := range append(b.Identifiers, gateway.DeviceID{Kind: "name", Value: r.name}) {
				ids[namedID{i, r.name}] = true
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	var lost []namedID
	for i := range was {
		if !stay[i] {
			lost = append(lost, i)
		}
	}
	slices.SortFunc(lost, func(a, b namedID) int { return cmp.Or(cmp.Compare(a.Value, b.Value), cmp.Compare(a.Kind, b.Kind)) })
	err = u.eachMany(`DELETE FROM device_identifiers WHERE (value, kind, device) IN (VALUES `, `)`, make([]string, 3), len(lost), func(args []any, n int) ([]any, error) {
		return append(args, lost[n].Value, lost[n].Kind, lost[n].device), nil
	})
	if err != nil {
		return 0, fmt.Errorf("identifiers: %w", err)
	}
	err = u.eachMany(`DELETE FROM devices WHERE (name, batch) IN (VALUES `, `)`, []string{"", "BIGINT"}, len(rows), func(args []any, n int) ([]any, error) {
		return append(args, rows[n].name, rows[n].batch), nil
	})
	if err != nil {
		return 0, fmt.Errorf("devices: %w", err)
	}
	return len(rows), nil
}

// namedID is an identifier of a device.
type namedID struct {
	gateway.DeviceID
	device string
}
