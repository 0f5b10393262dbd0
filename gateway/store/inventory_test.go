package store_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/store"
)

var imported = gateway.AuditEvent{Kind: "devices-imported"}

// wantRows counts what stands in the inventory's tables.
func (d *database) wantRows(t *testing.T, want map[string]int) {
	t.Helper()
	db := d.rawDB(t)
	for table, n := range want {
		var got int
		if err := db.QueryRowContext(t.Context(), `SELECT count(*) FROM `+table).Scan(&got); err != nil {
			t.Fatal(err)
		}
		if got != n {
			t.Errorf("%d rows of %s, want %d", got, table, n)
		}
	}
}

// TestImportSwept: an import that broke off is swept at the next start, by nobody's leave; one that replaced, at its end, or
// at the next start when it came to nothing more than its commit.
func TestImportSwept(t *testing.T) {
	const n = 2000
	each(t, func(t *testing.T, d *database) {
		s := d.Open(t, "one", nil)
		_, _, err := s.ImportDevices(t.Context(), fleet(1), false, imported, nil)
		if err != nil {
			t.Fatal(err)
		}
		seen := 0
		_, _, _ = s.ImportDevices(t.Context(), fleet(n), true, imported, func(done int) {
			if done > n/2 && seen == 0 {
				seen = done
				if d.shared { // its rows stay, as if the host had gone
					d.Exec(t, `CREATE TABLE kept AS SELECT * FROM devices WHERE batch = 2`)
					d.Exec(t, `CREATE TABLE kept_imports AS SELECT * FROM device_imports`)
				}
				d.Crash(t, s)
			}
		})
		if d.shared {
			if err := s.Close(); err != nil {
				t.Log(err)
			}
			d.Exec(t, `DELETE FROM devices WHERE batch = 2`)
			d.Exec(t, `INSERT INTO devices SELECT * FROM kept`)
			d.Exec(t, `DELETE FROM device_imports`)
			d.Exec(t, `INSERT INTO device_imports SELECT * FROM kept_imports`)
			d.Exec(t, `INSERT INTO device_identifiers SELECT name, 'name', name FROM devices WHERE batch = 2 ON CONFLICT DO NOTHING`)
		}
		var left int
		if err := d.rawDB(t).QueryRowContext(t.Context(), `SELECT count(*) FROM devices WHERE batch = 2`).Scan(&left); err != nil || left == 0 {
			t.Fatalf("the crash left %d rows, %v: the test tests nothing", left, err)
		}
		s = d.Open(t, "one", nil)
		if _, err := s.Device(t.Context(), "name", "device-0000000"); err != nil {
			t.Error(err)
		}
		if list, err := s.Devices(t.Context(), gateway.DeviceFilter{}); err != nil || len(list) != 1 {
			t.Errorf("%d are listed before the sweep, %v", len(list), err)
		}
		store.Swept(s.(*store.Store))
		d.wantRows(t, map[string]int{"devices": 1, "device_identifiers": 3, "device_imports": 0})

		// What was replaced goes, with the identifiers that nobody has any more.
		f := fleet(n)
		for range 2 {
			if _, _, err := s.ImportDevices(t.Context(), f, true, imported, nil); err != nil {
				t.Fatal(err)
			}
			d.wantRows(t, map[string]int{"devices": n, "device_identifiers": 3 * n, "device_imports": 0})
			for _, d := range f {
				d.Identifiers[0].Value = "new " + d.Identifiers[0].Value
			}
		}
		// The same where it broke off after its commit: the old rows of two are there still.
		d.Exec(t, `INSERT INTO devices SELECT name, 0, vendor, disabled, '{"identifiers":[{"kind":"imei","value":"old"}]}', sealed, created, updated
			FROM devices WHERE name < 'device-0000002'`)
		d.Exec(t, `INSERT INTO device_identifiers SELECT 'old', 'imei', name FROM devices WHERE batch = 0`)
		d.Exec(t, `INSERT INTO device_imports SELECT max(batch), 1, 0 FROM devices`)
		if _, err := s.Device(t.Context(), "imei", "old"); err != gateway.ErrNotFound {
			t.Errorf("found by what its entry had: %v", err)
		}
		if _, err := s.Device(t.Context(), "name", "device-0000001"); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = d.Open(t, "one", nil)
		store.Swept(s.(*store.Store))
		d.wantRows(t, map[string]int{"devices": n, "device_identifiers": 3 * n, "device_imports": 0})
		if err := s.DropDevice(t.Context(), "device-0000001", gateway.AuditEvent{Kind: "device-dropped"}); err != nil {
			t.Error(err)
		}
		d.wantRows(t, map[string]int{"devices": n - 1, "device_identifiers": 3*n - 3})
	})
}

// TestImportTakenAway: an import that somebody else has declared broken off, since its lock was lost, neither writes on nor
// becomes visible.
func TestImportTakenAway(t *testing.T) {
	const n = 2000
	each(t, func(t *testing.T, d *database) {
		s := d.Open(t, "one", nil)
		for name, when := range map[string]func(done int) bool{
			"between chunks":    func(int) bool { return true },
			"before its commit": func(done int) bool { return done == n-1 },
		} {
			taken := false
			_, _, err := s.ImportDevices(t.Context(), fleet(n), false, imported, func(done int) {
				if taken {
					t.Errorf("%s: it writes on", name)
				}
				if !taken && when(done) {
					taken = true
					d.Exec(t, `UPDATE device_imports SET state = 2`)
				}
			})
			if !taken || err == nil || !strings.Contains(err.Error(), "lock was lost") {
				t.Errorf("%s: %v", name, err)
			}
			d.wantRows(t, map[string]int{"devices": 0, "device_identifiers": 0, "device_imports": 0})
		}
	})
}

// TestDeviceIndex: a look-up for every enrollment must not read whole tables, however many devices there are.
func TestDeviceIndex(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		d.Open(t, "one", nil)
		for text, params := range map[string][]any{store.ReadDevice(): {"x", "x"}, store.ReadAnyDevice(): {"x"}} {
			plan := d.plan(t, text, params...)
			for _, line := range strings.Split(plan, "\n") {
				if strings.Contains(line, "SCAN ") && !strings.Contains(line, "SCALAR") || strings.Contains(line, "Seq Scan") && !strings.Contains(line, "device_imports") {
					t.Errorf("%s reads a table:\n%s", fmt.Sprint(params...), plan)
				}
			}
		}
	})
}
