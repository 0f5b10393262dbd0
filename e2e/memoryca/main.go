// Command memoryca is a third party's CA plugin for the end-to-end tests: a program of its own, run by path and hash.
// Its CA is the same wherever it runs, so that replicas have one.
package main

import (
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

func main() { backend.Serve(backendtest.NewMemory(backendtest.MemoryOptions{Seed: "e2e"})) }
