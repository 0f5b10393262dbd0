package strictyaml_test

import (
	"testing"

	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// FuzzParseDuration: what is read is never negative, and is written so that it is read again.
func FuzzParseDuration(f *testing.F) {
	for _, s := range []string{"30s", "397d", "1d12h", "0", "1.5h", "106751d23h47m16.854775807s", "106752d", "4294967295d", "d", "-1s", "1d-1s", "1d1d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := strictyaml.ParseDuration(s)
		if err != nil {
			return
		}
		if again, err := strictyaml.ParseDuration(d.String()); d < 0 || err != nil || again != d {
			t.Errorf("%q: %d, written %q, then %d, %v", s, d, d, again, err)
		}
	})
}
