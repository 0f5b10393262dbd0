package simulate

import (
	"strings"
	"testing"
)

// FuzzReadState: a fleet that is read has a key for each of its devices.
func FuzzReadState(f *testing.F) {
	f.Add(`{"muster_simulate":1,"devices":1,"subject":"CN={{.Name}}"}` + "\n" + `{"key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=","cert":"MAA="}` + "\n")
	f.Add(`{"muster_simulate":1,"devices":1000000}`)
	f.Add(`{"muster_simulate":1,"devices":1,"pool":["AAEC"]}`)
	f.Fuzz(func(t *testing.T, text string) {
		fleet, err := readState(strings.NewReader(text))
		if err != nil {
			if fleet != nil {
				t.Fatalf("a fleet with the error %v", err)
			}
			return
		}
		if n := len(fleet.devices); n == 0 || n > MaxDevices || fleet.keys.pool == nil && len(fleet.keys.scalars) != n*scalarSize {
			t.Errorf("%d devices, %d bytes of keys", n, len(fleet.keys.scalars))
		}
	})
}
