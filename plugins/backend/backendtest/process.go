package backendtest

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/muster-pki/muster/plugins/backend"
)

// Main is the body of a TestMain whose test binary is a plugin too: started as `BINARY plugin NAME`, as the host
// starts the shipped backends, it serves plugins[NAME]; otherwise it runs the tests.
//
//	func TestMain(m *testing.M) {
//		backendtest.Main(m, map[string]func() backend.Backend{"local": local.New})
//	}
func Main(m *testing.M, plugins map[string]func() backend.Backend) {
	if i := slices.Index(os.Args, "plugin"); i == 1 && len(os.Args) == 3 {
		make, ok := plugins[os.Args[2]]
		if !ok {
			fmt.Fprintf(os.Stderr, "the test serves no plugin %q\n", os.Args[2])
			os.Exit(2)
		}
		backend.Serve(make())
		os.Exit(0)
	}
	os.Exit(m.Run())
}
