package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/muster-pki/muster/gateway"
)

func testLargeImport(e *env) {
	devices := e.devices(large, "d")
	last := -1
	added, replaced, err := e.s.ImportDevices(e.ctx(), devices, false, gateway.AuditEvent{Kind: "devices-imported", At: e.clock.Now(), Transaction: "x"}, func(done int) {
		if done < last || done > large {
			e.Errorf("%d are done after %d", done, last)
		}
		if done < large {
			// Nothing of it is seen, and others go on.
			if _, err := e.s.Device(e.ctx(), "name", devices[0].Name); !errors.Is(err, gateway.ErrNotFound) {
				e.Errorf("seen after %d: %v", done, err)
			}
			if list, err := e.s.Devices(e.ctx(), gateway.DeviceFilter{}); err != nil || len(list) != 0 {
				e.Errorf("listed after %d: %d, %v", done, len(list), err)
			}
			e.begun()
		}
		last = done
	})
	e.must(err)
	if added != large || replaced != 0 || last != large {
		e.Errorf("%d added, %d replaced, %d done", added, replaced, last)
	}
	e.wantAudited("devices-imported", "x", true)
	for _, d := range devices[:10] {
		e.wantDevice("serial", "S-"+d.Name, d)
	}
	list, err := e.s.Devices(e.ctx(), gateway.DeviceFilter{Limit: 2 * large})
	e.must(err)
	e.equal("all", list, devices)
}

// testImportGivenUp: whoever gives up leaves nothing.
func testImportGivenUp(e *env) {
	devices := e.devices(large, "d")
	e.imported(e.s, false, devices[0])
	e.clock.Advance(time.Second)
	ctx, cancel := context.WithCancel(e.ctx())
	_, _, err := e.s.ImportDevices(ctx, devices, true, gateway.AuditEvent{Kind: "given-up", At: e.clock.Now(), Transaction: "x"}, func(int) { cancel() })
	e.wantErr(err, context.Canceled)
	e.wantAudited("given-up", "x", false)
	e.wantDevice("serial", devices[0].Identifiers[0].Value, devices[0])
	list, err := e.s.Devices(e.ctx(), gateway.DeviceFilter{})
	e.must(err)
	e.equal("all", list, devices[:1])
	if added, replaced := e.imported(e.s, true, devices...); added != large-1 || replaced != 1 {
		e.Errorf("%d added, %d replaced", added, replaced)
	}
}

// testRaceOfImports: large lists of the same names, at two replicas: one counts, as a whole.
func testRaceOfImports(e *env) {
	stores := e.instances()
	errs := together(4, func(i int) error {
		devices := e.devices(large, "d")
		for _, d := range devices {
			d.Vendor = fmt.Sprint(i)
		}
		_, _, err := stores[i%2].ImportDevices(e.ctx(), devices, false, gateway.AuditEvent{Kind: "devices-imported", At: e.clock.Now()}, nil)
		return err
	})
	winner := -1
	for i, err := range errs {
		if err == nil {
			if winner >= 0 {
				e.Errorf("%d and %d were both imported", winner, i)
			}
			winner = i
		} else if c, ok := errors.AsType[*gateway.DeviceConflictError](err); !ok || c.More != large-100 {
			e.Errorf("import %d: %v", i, err)
		}
	}
	list, err := e.s.Devices(e.ctx(), gateway.DeviceFilter{Vendor: fmt.Sprint(winner), Limit: 10 * large})
	e.must(err)
	if winner < 0 || len(list) != large {
		e.Errorf("of import %d %d are listed", winner, len(list))
	}
}

// testRaceOfSmallAndLarge: many want the same identifier, in lists of any size, at two replicas. It is one device's.
func testRaceOfSmallAndLarge(e *env) {
	stores := e.instances()
	for round := range 3 {
		serial := gateway.DeviceID{Kind: "serial", Value: fmt.Sprint("wanted ", round)}
		var mu sync.Mutex
		var won []string
		for _, err := range together(12, func(i int) error {
			name := fmt.Sprintf("round %d number %d", round, i)
			devices := []*gateway.Device{{Name: name, Identifiers: []gateway.DeviceID{serial}}}
			if i%4 == 0 {
				devices = append(devices, e.devices(large/4, name)...)
			}
			_, _, err := stores[i%2].ImportDevices(e.ctx(), devices, i%3 == 0, gateway.AuditEvent{Kind: "devices-imported", At: e.clock.Now()}, nil)
			if _, conflict := errors.AsType[*gateway.DeviceConflictError](err); conflict {
				if _, err := stores[i%2].Device(e.ctx(), "name", name); !errors.Is(err, gateway.ErrNotFound) {
					return fmt.Errorf("%s stands in spite of its conflict: %w", name, err)
				}
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			won = append(won, name)
			return err
		}) {
			e.must(err)
		}
		if len(won) != 1 {
			e.Fatalf("%q have the same serial number", won)
		}
		d, err := e.s.Device(e.ctx(), "serial", serial.Value)
		if err != nil || d.Name != won[0] {
			e.Errorf("%+v, %v; want %s", d, err, won[0])
		}
	}
}

// testCrashOfImport: of an import that broke off nothing is seen, nor in the way.
func testCrashOfImport(e *env) {
	devices := e.devices(large, "d")
	e.imported(e.s, false, devices[0])
	e.clock.Advance(time.Second)
	crashed := false
	_, _, err := e.s.ImportDevices(e.ctx(), devices, true, gateway.AuditEvent{Kind: "devices-imported", At: e.clock.Now(), Transaction: "x"}, func(done int) {
		if done > large/2 && !crashed {
			crashed = true
			e.db.Crash(e, e.s)
		}
	})
	if e.db.Shared() {
		// Only its sessions are gone: what it cannot go on with it gives up.
		if err == nil {
			e.Error("an import went on without its lock")
		}
		e.must(e.s.Close())
	}
	if !crashed {
		e.Fatal("there was no time to crash")
	}
	e.s = e.db.Open(e, "one", e.clock.Now)
	e.wantDevice("name", devices[1].Name, nil)
	e.wantDevice("serial", devices[0].Identifiers[0].Value, devices[0])
	list, err := e.s.Devices(e.ctx(), gateway.DeviceFilter{})
	e.must(err)
	e.equal("all", list, devices[:1])
	// A small one under the same identifiers, and then the same again.
	small := &gateway.Device{Name: "small", Identifiers: devices[1].Identifiers}
	e.imported(e.s, false, small)
	e.dropDevice("small")
	if added, replaced := e.imported(e.s, true, devices...); added != large-1 || replaced != 1 {
		e.Errorf("%d added, %d replaced", added, replaced)
	}
}
