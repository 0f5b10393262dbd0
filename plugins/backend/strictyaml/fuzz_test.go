package strictyaml_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// FuzzDecode: no input makes it panic, and what it accepts it accepts again with the same result.
func FuzzDecode(f *testing.F) {
	seeds, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(seeds) == 0 {
		f.Fatalf("seeds: %d, %v", len(seeds), err)
	}
	for _, name := range seeds {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var a, b document
		err := strictyaml.Decode("f", data, &a)
		if err == nil {
			if a.Version == 0 && !strings.Contains(string(data), "version") {
				t.Error("the required key is missing")
			}
			if err := strictyaml.Decode("f", data, &b); err != nil {
				t.Errorf("refused the second time: %v", err)
			}
			return
		}
		for line := range strings.SplitSeq(err.Error(), "\n") {
			if line == "" {
				t.Errorf("an empty error in %q", err)
			}
		}
	})
}
