package main

import (
	"fmt"
	"testing"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

func TestMain(m *testing.M) {
	backendtest.Main(m, map[string]func() backend.Backend{"example": newCA})
}

// TestContract is all the test that a plugin needs for its contract: in process, and as a plugin process that is killed while it issues.
func TestContract(t *testing.T) {
	backendtest.Run(t, backendtest.Subject{
		New:       newCA,
		Plugin:    "example",
		Config:    func(t *testing.T) []byte { return fmt.Appendf(nil, "dir: %q", t.TempDir()) },
		BadConfig: []byte("dir: relative"),
	})
}
