package devicefile

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/admin"
)

func someDevices() []admin.Device {
	from := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	to := from.Add(1500 * time.Millisecond)
	return []admin.Device{
		{Name: "bts-1", Identifiers: []admin.Identifier{{Kind: "serial", Value: "SN1"}, {Kind: "serial", Value: `S"N;1b`}, {Kind: "tag", Value: "-7,"}}, Vendor: "acme", Endpoints: []string{"ran", "core"},
			Profiles: []string{"p"}, Enrollments: 2, NotBefore: &from, NotAfter: &to, HasSecret: true, Attributes: map[string]string{"site": "North, 7", "Rack_2": "x"}},
		{Name: "bts-2", Identifiers: []admin.Identifier{{Kind: "imei", Value: "490154203237518"}, {Kind: "mac", Value: "00:1a:2b:3c:4d:5e"}}, Enrollments: admin.Unlimited, Disabled: true, HasPassword: true, Note: `said "no"; twice`},
		{Name: "4.9E+14"},
		{Name: "ünï", Attributes: map[string]string{"site": "sep=;"}},
	}
}

// again writes devices, reads what came out, and expects the same.
func again(t *testing.T, form string, all []admin.Device, write func(io.Writer, []admin.Device) error) {
	t.Helper()
	var text bytes.Buffer
	if err := write(&text, all); err != nil {
		t.Fatal(err)
	}
	entries, err := Read("exported", bytes.NewReader(text.Bytes()))
	if err != nil {
		t.Fatalf("%s: %v\n%s", form, err, text.String())
	}
	var got []admin.Device
	for _, e := range entries {
		got = append(got, e.Wire())
	}
	// The order between kinds of identifiers says nothing.
	sorted := func(list []admin.Device) (out []string) {
		for _, d := range list {
			d.Identifiers = slices.Clone(d.Identifiers)
			slices.SortStableFunc(d.Identifiers, func(a, b admin.Identifier) int { return strings.Compare(a.Kind, b.Kind) })
			line, err := json.Marshal(d)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, string(line))
		}
		return out
	}
	if want := sorted(all); !reflect.DeepEqual(sorted(got), want) {
		t.Errorf("%s:\ngot  %s\nwant %s\nof\n%s", form, sorted(got), want, text.String())
	}
}

func TestWrittenIsRead(t *testing.T) {
	again(t, "CSV", someDevices(), WriteCSV)
	again(t, "JSON", someDevices(), WriteJSON)
	var none strings.Builder
	if err := errors.Join(WriteJSON(&none, nil), WriteCSV(&none, nil)); err != nil || none.String() != "[]\nname\n" {
		t.Errorf("%v %q", err, none.String())
	}
	if err := WriteCSV(io.Discard, []admin.Device{{Name: "a", Endpoints: []string{"x y"}}}); err == nil || err.Error() != `device a: "x y" has a separator in it, which CSV cannot carry: --json can` {
		t.Error(err)
	}
}
