package storetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// inventoryTests are about devices and the counts of their claims.
var inventoryTests = []part{
	{"devices", testDevices},
	{"devices: listed", testDevicesListed},
	{"devices: conflicts", testDeviceConflicts},
	{"devices: replaced", testDevicesReplaced},
	{"devices: large import", testLargeImport},
	{"devices: import given up", testImportGivenUp},
	{"devices: race of imports", testRaceOfImports},
	{"devices: race of small and large", testRaceOfSmallAndLarge},
	{"devices: crash of an import", testCrashOfImport},
	{"claims: uses and freed", testFreeClaims},
	{"claims: race of freed", testRaceOfFreed},
}

// large is more than any implementation need take in one commit.
const large = 2000

// device is an entry with all fields set.
func (e *env) device(name string) *gateway.Device {
	return &gateway.Device{
		Name: name, Identifiers: []gateway.DeviceID{{Kind: "serial", Value: "S-" + name}, {Kind: "ae-id", Value: "C" + name}},
		Vendor: "Example Radio", Endpoints: []string{"ran", "core"}, Profiles: []string{"base-station"}, Enrollments: gateway.Unlimited,
		NotBefore: e.clock.Now().Add(-time.Hour), NotAfter: e.clock.Now().Add(time.Hour), Disabled: true, Password: "{sha256}00ff",
		Sealed: []byte{0, 1, 0xff}, Attributes: map[string]string{"site": "Zürich", "region": "'; --"}, Note: "in the corner",
		Created: e.clock.Now(), Updated: e.clock.Now(),
	}
}

func (e *env) devices(n int, prefix string) []*gateway.Device {
	var out []*gateway.Device
	for i := range n {
		out = append(out, e.device(fmt.Sprintf("%s-%05d", prefix, i)))
	}
	return out
}

func (e *env) imported(s Store, replace bool, devices ...*gateway.Device) (added, replaced int) {
	e.Helper()
	added, replaced, err := s.ImportDevices(e.ctx(), devices, replace, gateway.AuditEvent{Kind: "devices-imported", At: e.clock.Now()}, nil)
	e.must(err)
	return added, replaced
}

func (e *env) wantDevice(kind, value string, want *gateway.Device) {
	e.Helper()
	got, err := e.s.Device(e.ctx(), kind, value)
	switch {
	case want == nil && !errors.Is(err, gateway.ErrNotFound):
		e.Errorf("%s %q: %+v, %v; want not found", kind, value, got, err)
	case want != nil && err != nil:
		e.Errorf("%s %q: %v", kind, value, err)
	case want != nil:
		e.equal(kind+" "+value, got, want)
	}
}

func (e *env) dropDevice(name string) {
	e.Helper()
	e.must(e.s.DropDevice(e.ctx(), name, gateway.AuditEvent{Kind: "device-dropped", At: e.clock.Now(), Transaction: name}))
}

func testDevices(e *env) {
	full, bare := e.device("Gerät 1"), &gateway.Device{Name: "bare"}
	if added, replaced := e.imported(e.s, false, full, bare); added != 2 || replaced != 0 {
		e.Errorf("%d added, %d replaced", added, replaced)
	}
	bare.Created, bare.Updated = e.clock.Now(), e.clock.Now()
	for kind, value := range map[string]string{"name": "Gerät 1", "serial": "S-Gerät 1", "ae-id": "CGerät 1"} {
		e.wantDevice(kind, value, full)
		e.wantDevice("", value, full)
		e.wantDevice("imei", value, nil)
		e.wantDevice(kind, strings.ToLower(value), nil)
		e.wantDevice(kind, value+"\x00", nil)
	}
	e.wantDevice("name", "bare", bare)
	for _, value := range []string{"", "nobody", "\xff", "a\x00"} {
		e.wantDevice("", value, nil)
		e.wantDevice("serial", value, nil)
	}
	// The same value under two kinds: one device's, then two devices'.
	both := &gateway.Device{Name: "both", Identifiers: []gateway.DeviceID{{Kind: "serial", Value: "both"}, {Kind: "mac", Value: "4711"}}}
	e.imported(e.s, false, both)
	both.Created, both.Updated = e.clock.Now(), e.clock.Now()
	e.wantDevice("", "both", both)
	other := &gateway.Device{Name: "4711"}
	e.imported(e.s, false, other)
	_, err := e.s.Device(e.ctx(), "", "4711")
	if a, ok := errors.AsType[*gateway.AmbiguousDeviceError](err); !ok || !slices.Equal(a.Devices, []string{"4711", "both"}) {
		e.Errorf("ambiguous: %v", err)
	}
	e.wantDevice("mac", "4711", both)

	e.dropDevice("both")
	e.wantAudited("device-dropped", "both", true)
	other.Created, other.Updated = e.clock.Now(), e.clock.Now()
	e.wantDevice("", "4711", other)
	for _, id := range append(both.Identifiers, gateway.DeviceID{Kind: "name", Value: "both"}) {
		e.wantDevice(id.Kind, id.Value, nil)
	}
	dropped := gateway.AuditEvent{Kind: "device-dropped", At: e.clock.Now(), Transaction: "nobody"}
	for _, name := range []string{"both", "nobody", "\xff", "S-Gerät 1"} {
		e.wantErr(e.s.DropDevice(e.ctx(), name, dropped), gateway.ErrNotFound)
	}
	e.wantAudited("device-dropped", "nobody", false)
	// What was dropped is free for others.
	e.imported(e.s, false, &gateway.Device{Name: "heir", Identifiers: both.Identifiers})
	for name, d := range map[string]*gateway.Device{"no name": {}, "hostile": {Name: "a\x00"}, "hostile value": {Name: "a",
		Identifiers: []gateway.DeviceID{{Kind: "serial", Value: "\xff"}}}, "hostile hash": {Name: "a", Password: "\xff"}} {
		if _, _, err := e.s.ImportDevices(e.ctx(), []*gateway.Device{e.device("fine"), d}, false, dropped, nil); err == nil {
			e.Errorf("%s: no error", name)
		}
	}
	if _, _, err := e.s.ImportDevices(e.ctx(), []*gateway.Device{e.device("fine")}, false, gateway.AuditEvent{}, nil); err == nil {
		e.Error("imported without an audit event")
	}
	e.wantDevice("name", "fine", nil)
	if added, replaced := e.imported(e.s, false); added+replaced != 0 {
		e.Errorf("nothing: %d added, %d replaced", added, replaced)
	}
}

func testDevicesListed(e *env) {
	var all []*gateway.Device
	for i, name := range []string{"A", "a-1", "a-2", "a-3", "b", "ä"} {
		d := e.device(name)
		d.Vendor, d.Disabled = []string{"x", "y"}[i%2], i%3 == 0
		all = append(all, d)
	}
	shuffled := slices.Clone(all)
	slices.Reverse(shuffled)
	e.imported(e.s, false, shuffled...)
	yes, no := true, false
	for name, c := range map[string]struct {
		filter gateway.DeviceFilter
		want   []int
	}{
		"all":              {gateway.DeviceFilter{}, []int{0, 1, 2, 3, 4, 5}},
		"vendor":           {gateway.DeviceFilter{Vendor: "y"}, []int{1, 3, 5}},
		"no such vendor":   {gateway.DeviceFilter{Vendor: "y\x00"}, nil},
		"prefix":           {gateway.DeviceFilter{Prefix: "a-"}, []int{1, 2, 3}},
		"prefix is a name": {gateway.DeviceFilter{Prefix: "ä"}, []int{5}},
		"no such prefix":   {gateway.DeviceFilter{Prefix: "a_"}, nil},
		"disabled":         {gateway.DeviceFilter{Disabled: &yes}, []int{0, 3}},
		"enabled":          {gateway.DeviceFilter{Disabled: &no}, []int{1, 2, 4, 5}},
		"page":             {gateway.DeviceFilter{After: "a-1", Limit: 2}, []int{2, 3}},
		"after nobody":     {gateway.DeviceFilter{After: "a-11"}, []int{2, 3, 4, 5}},
		"all at once":      {gateway.DeviceFilter{Vendor: "y", Prefix: "a", After: "a-1", Disabled: &yes}, []int{3}},
		"behind the end":   {gateway.DeviceFilter{After: "ä"}, nil},
	} {
		got, err := e.s.Devices(e.ctx(), c.filter)
		e.must(err)
		var want []*gateway.Device
		for _, n := range c.want {
			want = append(want, all[n])
		}
		e.equal(name, got, want)
	}
	e.imported(e.s, false, e.devices(100, "z")...)
	got, err := e.s.Devices(e.ctx(), gateway.DeviceFilter{})
	e.must(err)
	if len(got) != 100 {
		e.Errorf("%d without a limit, want 100", len(got))
	}
}

func (e *env) wantConflicts(replace bool, devices []*gateway.Device, more int, want map[int]string) {
	e.Helper()
	_, _, err := e.s.ImportDevices(e.ctx(), devices, replace, gateway.AuditEvent{Kind: "devices-in-conflict", At: e.clock.Now(), Transaction: "x"}, nil)
	conflict, ok := errors.AsType[*gateway.DeviceConflictError](err)
	if !ok {
		e.Fatalf("got %v, want conflicts", err)
	}
	got := map[int]string{}
	last := -1
	for _, c := range conflict.Conflicts {
		if c.Index <= last {
			e.Errorf("conflict of %d after that of %d", c.Index, last)
		}
		last = c.Index
		got[c.Index] = c.Why
	}
	if want != nil {
		e.equal("conflicts", got, want)
	}
	if conflict.More != more {
		e.Errorf("%d more, want %d", conflict.More, more)
	}
	e.wantAudited("devices-in-conflict", "x", false)
}

// testDeviceConflicts: in lists small and large.
func testDeviceConflicts(e *env) {
	stands := []*gateway.Device{e.device("a"), e.device("b")}
	e.imported(e.s, false, stands...)
	for _, size := range []int{0, large} {
		fill := func(devices ...*gateway.Device) []*gateway.Device { return append(devices, e.devices(size, "fill")...) }
		serial := func(name, serial string) *gateway.Device {
			return &gateway.Device{Name: name, Identifiers: []gateway.DeviceID{{Kind: "serial", Value: serial}}}
		}
		e.wantConflicts(false, fill(e.device("new"), e.device("a"), serial("c", "S-b")), 0, map[int]string{
			1: `device "a" stands already`, 2: `serial "S-b" is device "b"'s`})
		e.wantConflicts(true, fill(serial("c", "S-b"), e.device("a")), 0, map[int]string{0: `serial "S-b" is device "b"'s`})
		e.wantConflicts(true, fill(e.device("new"), e.device("new"), serial("c", "1"), serial("d", "1")), 0, map[int]string{
			1: `device "new" stands twice in the list`, 3: `serial "1" is device "c"'s in the list, too`})
		e.wantDevice("name", "new", nil)
		e.wantDevice("name", "fill-00000", nil)
		e.wantDevice("name", "c", nil)
		for _, d := range stands {
			e.wantDevice("serial", "S-"+d.Name, d)
		}
	}
	many := e.devices(large, "many")
	e.imported(e.s, false, many...)
	slices.Reverse(many)
	e.wantConflicts(false, many, large-100, nil)
	e.wantConflicts(false, append(many, many...), large-100, nil)
}

func testDevicesReplaced(e *env) {
	for _, size := range []int{1, large} {
		devices := e.devices(size, fmt.Sprint("of ", size))
		e.imported(e.s, false, devices...)
		e.clock.Advance(time.Hour)
		var next []*gateway.Device
		for i, d := range devices {
			n := *d
			// Every serial moves on to the next device; one identifier goes, one stays.
			n.Identifiers = []gateway.DeviceID{{Kind: "serial", Value: "S-" + devices[(i+1)%size].Name}, d.Identifiers[1]}
			n.Note, n.Created = "replaced", e.clock.Now()
			next = append(next, &n)
		}
		fresh := e.device(fmt.Sprint("fresh of ", size))
		if added, replaced := e.imported(e.s, true, append(next, fresh)...); added != 1 || replaced != size {
			e.Errorf("%d added, %d replaced", added, replaced)
		}
		e.wantDevice("name", fresh.Name, fresh)
		for i, n := range next {
			if i > 20 {
				break
			}
			n.Created, n.Updated = devices[i].Created, e.clock.Now()
			e.wantDevice("name", n.Name, n)
			e.wantDevice("serial", n.Identifiers[0].Value, n)
			e.wantDevice("", n.Identifiers[1].Value, n)
		}
		// And once more, with less.
		last := &gateway.Device{Name: next[0].Name}
		e.imported(e.s, true, last)
		last.Created, last.Updated = devices[0].Created, e.clock.Now()
		e.wantDevice("name", last.Name, last)
		for _, id := range next[0].Identifiers {
			e.wantDevice(id.Kind, id.Value, nil)
		}
		e.imported(e.s, false, &gateway.Device{Name: fmt.Sprint("heir of ", size), Identifiers: next[0].Identifiers})
		list, err := e.s.Devices(e.ctx(), gateway.DeviceFilter{Prefix: "of ", Limit: 10 * large})
		e.must(err)
		if len(list) != size+map[int]int{1: 0, large: 1}[size] {
			e.Errorf("%d are listed", len(list))
		}
		e.dropDevice(last.Name)
		e.wantDevice("name", last.Name, nil)
		e.imported(e.s, false, &gateway.Device{Name: last.Name})
	}
}
