//go:build reliability

package e2e

import (
	"testing"

	"github.com/muster-pki/muster/plugins/host"
)

// TestReliabilityLyingPlugin is TestLyingPlugin with every misdeed at every call.
func TestReliabilityLyingPlugin(t *testing.T) {
	h := newLyingHost(t)
	var starts, calls []string
	for _, misdeed := range []string{"hang", "crash", "panic", "shout"} {
		for _, call := range []string{"Validate", "Configure", "Describe"} {
			starts = append(starts, call+" "+misdeed)
		}
		for _, call := range []string{"CACertificates", "Issue", "Lookup", "Revoke", "CRL"} {
			calls = append(calls, call+" "+misdeed)
		}
	}
	h.start(h.config, func(honest *host.Plugin) {
		h.unharmed(func() {
			h.starts(append(starts, "process exit", "process stdout", "process endless", "process outside", "process silent")...)
			h.misbehaves(honest, append(calls, "CRL endless", "CRL unending", "CRL drip")...)
			h.answers("garbage", "trailing", "huge", "neither", "shout", "environ")
			h.floods()
		})
	})
}

// TestReliabilityLyingCA is TestLyingCA with every lie over every protocol.
func TestReliabilityLyingCA(t *testing.T) { startLying(t).lies(3, 1000) }
