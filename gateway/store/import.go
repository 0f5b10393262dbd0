package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/muster-pki/muster/gateway"
)

const (
	directImport  = 200  // entries: so many are imported in one commit
	stagedRows    = 1500 // in one commit
	checkedRows   = 250  // in one query
	maxConflicts  = 100
	tidyUpTimeout = time.Minute
)

// errImportLost is an import whose rows somebody else took for those of one that broke off.
var errImportLost = errors.New("the connection that held the inventory's lock was lost, and the import with it")

// devicesImport is one call of ImportDevices.
type devicesImport struct {
	s       *Store
	devices []*gateway.Device
	replace bool
	now     int64
	batch   int64

	byName      []int32   // of devices
	identifiers []namedBy // all, in order of value and kind

	created   []int64   // of those that stand, by index; 0 for new ones
	missing   []namedBy // of identifiers: those that do not lead to their device yet
	replaced  int
	conflicts conflicts
}

// namedBy is an identifier of the list: number id of a device's, -1 for its name.
type namedBy struct{ device, id int32 }

// ImportDevices is gateway.Store. Created is now where it is not given, and Updated is now. A few entries are one commit. Of more,
// the rows are written in small commits that nobody sees; then one commit of a single row makes them visible.
func (s *Store) ImportDevices(ctx context.Context, devices []*gateway.Device, replace bool, e gateway.AuditEvent, progress func(done int)) (added, replaced int, err error) {
	body, err := eventBody(&e, required)
	if err != nil {
		return 0, 0, err
	}
	im := &devicesImport{s: s, devices: devices, replace: replace, now: micros(s.clock())}
	if err := im.prepare(); err != nil {
		return 0, 0, err
	}
	if progress == nil {
		progress = func(int) {}
	}
	if err := s.audible(); err != nil {
		return 0, 0, err
	}
	l, err := s.lockInventory(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer l.unlock()
	if len(devices) <= directImport {
		err = im.direct(ctx, body)
	} else {
		err = im.staged(ctx, l, body, progress)
	}
	if err != nil {
		return 0, 0, err
	}
	progress(len(devices))
	return len(devices) - im.replaced, im.replaced, nil
}

// prepare looks at the list by itself.
func (im *devicesImport) prepare() error {
	for i, d := range im.devices {
		if err := d.Check(); err != nil {
			return fmt.Errorf("device %d of the list (%q): %w", i+1, d.Name, err)
		}
		if text(d.Password) != d.Password {
			return fmt.Errorf("device %d of the list (%q): the password's hash is not valid UTF-8", i+1, d.Name)
		}
		im.byName = append(im.byName, int32(i))
		for id := -1; id < len(d.Identifiers); id++ {
			im.identifiers = append(im.identifiers, namedBy{int32(i), int32(id)})
		}
	}
	im.conflicts.seen = make([]bool, len(im.devices))
	slices.SortFunc(im.byName, func(a, b int32) int {
		return cmp.Or(cmp.Compare(im.devices[a].Name, im.devices[b].Name), cmp.Compare(a, b))
	})
	slices.SortFunc(im.identifiers, func(a, b namedBy) int {
		return cmp.Or(im.compare(a, im.identifier(b)), cmp.Compare(a.device, b.device))
	})
	for i := 1; i < len(im.byName); i++ {
		if name := im.devices[im.byName[i]].Name; name == im.devices[im.byName[i-1]].Name {
			im.conflicts.add(im.byName[i], func() string { return fmt.Sprintf("device %q stands twice in the list", name) })
		}
	}
	for i := 1; i < len(im.identifiers); i++ {
		of, again := im.identifiers[i-1], im.identifiers[i]
		if id := im.identifier(again); id == im.identifier(of) {
			im.conflicts.add(again.device, func() string {
				return fmt.Sprintf("%s %q is device %q's in the list, too", id.Kind, id.Value, im.devices[of.device].Name)
			})
		}
	}
	return im.conflicts.err()
}

func (im *devicesImport) identifier(n namedBy) gateway.DeviceID {
	d := im.devices[n.device]
	if n.id < 0 {
		return gateway.DeviceID{Kind: "name", Value: d.Name}
	}
	return d.Identifiers[n.id]
}

// compare is the order of identifiers: that of their index.
func (im *devicesImport) compare(n namedBy, with gateway.DeviceID) int {
	id := im.identifier(n)
	return cmp.Or(cmp.Compare(id.Value, with.Value), cmp.Compare(id.Kind, with.Kind))
}

// listed reports whether the list has an entry of the name.
func (im *devicesImport) listed(name string) bool {
	_, found := slices.BinarySearchFunc(im.byName, name, func(i int32, name string) int { return cmp.Compare(im.devices[i].Name, name) })
	return found
}

// conflicts are the first of them by index, one for each entry.
type conflicts struct {
	seen  []bool // by index
	first []gateway.DeviceConflict
	more  int
}

func (c *conflicts) add(index int32, why func() string) {
	if c.seen[index] {
		return
	}
	c.seen[index] = true
	if len(c.first) == maxConflicts {
		c.more++
		if c.first[maxConflicts-1].Index < int(index) {
			return
		}
		c.first = c.first[:maxConflicts-1]
	}
	at, _ := slices.BinarySearchFunc(c.first, int(index), func(d gateway.DeviceConflict, i int) int { return cmp.Compare(d.Index, i) })
	c.first = slices.Insert(c.first, at, gateway.DeviceConflict{Index: int(index), Why: why()})
}

func (c *conflicts) err() error {
	if len(c.first) == 0 {
		return nil
	}
	return &gateway.DeviceConflictError{Conflicts: c.first, More: c.more}
}

// check looks for what stands under the same identifiers. The inventory's lock has been taken, so no row of devices is hidden
// or replaced.
func (im *devicesImport) check(ctx context.Context, q querier) error {
	im.created, im.replaced, im.missing = make([]int64, len(im.devices)), 0, nil
	im.conflicts = conflicts{seen: make([]bool, len(im.devices))}
	for part := range slices.Chunk(im.identifiers, checkedRows) {
		if err := im.checkPart(ctx, q, part); err != nil {
			return err
		}
	}
	return im.conflicts.err()
}

// checkPart looks identifiers up by value, and then the entries that they lead to.
func (im *devicesImport) checkPart(ctx context.Context, q querier, part []namedBy) error {
	type found struct {
		n     namedBy
		owner string
	}
	var all []found
	stands := make([]bool, len(part))
	values := make([]string, len(part))
	for i, n := range part {
		values[i] = im.identifier(n).Value
	}
	err := queryIn(ctx, q, `SELECT value, kind, device FROM device_identifiers WHERE value IN `, slices.Compact(values), func(scan func(...any) error) error {
		var id gateway.DeviceID
		var owner string
		if err := scan(&id.Value, &id.Kind, &owner); err != nil {
			return err
		}
		at, asked := slices.BinarySearchFunc(part, id, im.compare)
		if !asked {
			return nil // its like of another kind
		}
		own := owner == im.devices[part[at].device].Name
		stands[at] = own
		if !own || id.Kind == "name" {
			all = append(all, found{part[at], owner})
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, n := range part {
		if !stands[i] {
			im.missing = append(im.missing, n)
		}
	}
	if len(all) == 0 {
		return nil
	}
	var owners []string
	for _, f := range all {
		owners = append(owners, f.owner)
	}
	slices.Sort(owners)
	type entry struct {
		created int64
		body    deviceBody
	}
	entries := map[string]entry{}
	err = queryIn(ctx, q, `SELECT name, created, body FROM devices WHERE name IN `, slices.Compact(owners), func(scan func(...any) error) error {
		var name string
		var text []byte
		var e entry
		if err := scan(&name, &e.created, &text); err != nil {
			return err
		}
		if !im.replace || !im.listed(name) { // else its identifiers do not matter
			if err := json.Unmarshal(text, &e.body); err != nil {
				return fmt.Errorf("device %s in the store: %w", name, err)
			}
		}
		entries[name] = e
		return nil
	})
	for _, f := range all {
		if e, ok := entries[f.owner]; ok {
			im.stands(f.n, f.owner, e.created, e.body.Identifiers)
		}
	}
	return err
}

// stands judges that an identifier of the list leads to an owner's entry. One that is in the list too, and replaced as a whole, does
// not matter but for its own name; nor does one that only had the identifier.
func (im *devicesImport) stands(n namedBy, owner string, created int64, has []gateway.DeviceID) {
	id := im.identifier(n)
	switch {
	case id.Kind == "name" && im.replace:
		im.created[n.device] = created
		im.replaced++
	case id.Kind == "name":
		im.conflicts.add(n.device, func() string { return fmt.Sprintf("device %q stands already", id.Value) })
	case im.replace && im.listed(owner):
	case slices.Contains(has, id):
		im.conflicts.add(n.device, func() string { return fmt.Sprintf("%s %q is device %q's", id.Kind, id.Value, owner) })
	}
}

// direct imports in one commit.
func (im *devicesImport) direct(ctx context.Context, audit string) error {
	return im.s.write(ctx, func(u unit) (err error) {
		if im.batch, err = u.nextBatch(); err != nil {
			return err
		}
		if err := im.check(u.ctx, u.tx); err != nil {
			return err
		}
		var names []string
		for i, d := range im.devices {
			if im.created[i] != 0 {
				names = append(names, d.Name)
			}
		}
		if _, err := u.dropRows(names, func(int64) bool { return true }); err != nil {
			return err
		}
		if err := im.insertDevices(u, im.byName); err != nil {
			return err
		}
		if err := im.insertIdentifiers(u, im.identifiers); err != nil {
			return err
		}
		return u.audit(audit)
	})
}

// staged imports in many commits, of which the last one counts.
func (im *devicesImport) staged(ctx context.Context, l *inventoryLock, audit string, progress func(done int)) error {
	if err := im.check(ctx, l.querier()); err != nil {
		return err
	}
	err := l.chunk(ctx, func(u unit) (err error) {
		if im.batch, err = u.nextBatch(); err != nil {
			return err
		}
		_, err = u.run(`INSERT INTO device_imports (batch, state, rows_written) VALUES ($1, 0, 0)`, im.batch)
		return err
	})
	if err == nil {
		err = im.stage(ctx, l, progress)
	}
	if err == nil {
		err = im.commitImport(ctx, audit)
	}
	if err == nil {
		l.analyze(ctx)
	}
	// What it replaced, or what it wrote in vain. Should that fail, whoever changes the inventory next does it.
	if err != nil || im.replaced > 0 {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyUpTimeout)
		defer cancel()
		if e := l.sweep(ctx); e != nil {
			im.s.log.Warn("what an import of devices left is not taken away; the next import tries again", "err", e)
		}
	}
	return err
}

// stage writes the rows, in the order of their indexes.
func (im *devicesImport) stage(ctx context.Context, l *inventoryLock, progress func(done int)) error {
	rows, all := 0, len(im.byName)+len(im.missing)
	chunk := func(n int, insert func(u unit) error) error {
		err := l.chunk(ctx, func(u unit) error {
			// A batch that was taken for one that broke off takes no more rows.
			had, err := u.run(`UPDATE device_imports SET rows_written = rows_written + $2 WHERE batch = $1 AND state = 0`, im.batch, int64(n))
			if err != nil {
				return err
			}
			if had == 0 {
				return errImportLost
			}
			return insert(u)
		})
		if err == nil {
			rows += n
			progress(int(int64(len(im.devices)) * int64(rows) / int64(all+1)))
		}
		return err
	}
	for part := range slices.Chunk(im.byName, stagedRows/2) { // they are long
		if err := chunk(len(part), func(u unit) error { return im.insertDevices(u, part) }); err != nil {
			return err
		}
	}
	for part := range slices.Chunk(im.missing, stagedRows) {
		if err := chunk(len(part), func(u unit) error { return im.insertIdentifiers(u, part) }); err != nil {
			return err
		}
	}
	return nil
}

// commitImport makes the batch visible.
func (im *devicesImport) commitImport(ctx context.Context, audit string) error {
	become := `DELETE FROM device_imports WHERE batch = $1 AND state = 0`
	if im.replaced > 0 {
		become = `UPDATE device_imports SET state = 1 WHERE batch = $1 AND state = 0`
	}
	return im.s.write(ctx, func(u unit) error {
		n, err := u.run(become, im.batch)
		if err != nil {
			return fmt.Errorf("import: %w", err)
		}
		if n == 0 {
			return errImportLost
		}
		return u.audit(audit)
	})
}

func (im *devicesImport) insertDevices(u unit, part []int32) error {
	const into = `INSERT INTO devices (name, batch, vendor, disabled, body, sealed, created, updated) VALUES `
	return u.eachMany(into, "", make([]string, 8), len(part), func(args []any, n int) ([]any, error) {
		d := im.devices[part[n]]
		body, err := bodyOf(d)
		if err != nil {
			return nil, fmt.Errorf("device %s: %w", d.Name, err)
		}
		created := cmp.Or(im.created[part[n]], micros(d.Created), im.now)
		return append(args, d.Name, im.batch, d.Vendor, bit(d.Disabled), body, nullable(d.Sealed), created, im.now), nil
	})
}

func (im *devicesImport) insertIdentifiers(u unit, part []namedBy) error {
	const into = `INSERT INTO device_identifiers (value, kind, device) VALUES `
	return u.eachMany(into, ` ON CONFLICT DO NOTHING`, make([]string, 3), len(part), func(args []any, n int) ([]any, error) {
		id := im.identifier(part[n])
		return append(args, id.Value, id.Kind, im.devices[part[n].device].Name), nil
	})
}
