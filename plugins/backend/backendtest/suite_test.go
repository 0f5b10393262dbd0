package backendtest

import (
	"path/filepath"
	"strconv"
	"testing"

	"github.com/muster-pki/muster/plugins/backend"
)

func TestMain(m *testing.M) {
	Main(m, map[string]func() backend.Backend{"memory": newMemory})
}

func newMemory() backend.Backend { return NewMemory(MemoryOptions{Seed: "suite"}) }

func TestMemory(t *testing.T) {
	Run(t, Subject{
		New: newMemory,
		Config: func(t *testing.T) []byte {
			return []byte("journal: " + strconv.Quote(filepath.Join(t.TempDir(), "journal")))
		},
		BadConfig: []byte("jurnal: /nowhere"),
		Plugin:    "memory",
	})
}
