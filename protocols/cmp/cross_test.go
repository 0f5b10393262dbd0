package cmp

import (
	"bytes"
	"crypto/x509"
	"testing"

	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// While a root changes over, what leads to the other generation's root is among the extraCerts, once, before the root.
func TestCrossCertificatesAreSent(t *testing.T) {
	w := newWorld(t, worldOptions{})
	// Any certificates: which ones these are is the gateway's to say.
	old := newTestCA(t, "old", newP256())
	w.gateway.crosses = []*x509.Certificate{old.root, old.issuer}
	c := w.macClient("ref-1")
	m := c.ask(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t))
	certificate(t, m, cmpmsg.TypeIP)
	seen := map[string]int{}
	for _, der := range m.ExtraCerts {
		seen[string(der)]++
	}
	for _, want := range []*x509.Certificate{w.ca.issuer, w.ca.root, old.root, old.issuer} {
		if seen[string(want.Raw)] != 1 {
			t.Errorf("%s stands there %d times", want.Subject, seen[string(want.Raw)])
		}
	}
	if n := len(m.ExtraCerts); !bytes.Equal(m.ExtraCerts[0], w.ca.issuer.Raw) || !bytes.Equal(m.ExtraCerts[n-1], w.ca.root.Raw) {
		t.Error("the chain does not come first, or the root not last")
	}
}
