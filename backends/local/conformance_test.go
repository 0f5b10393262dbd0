package local

import (
	"strconv"
	"testing"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// newBackend is the backend as the plugin process of the tests serves it.
func newBackend() backend.Backend {
	return New(Options{Clock: func() time.Time { return now }, Log: backend.Logger()})
}

// TestConformance runs the suite of the contract, in process and through a plugin process, which is killed.
func TestConformance(t *testing.T) {
	backendtest.Run(t, backendtest.Subject{
		New:       newBackend,
		Config:    func(t *testing.T) []byte { return []byte("dir: " + strconv.Quote(standing(t))) },
		BadConfig: []byte("dirr: /nowhere"),
		Plugin:    "local",
		Now:       func() time.Time { return now },
	})
}
