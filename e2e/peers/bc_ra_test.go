//go:build peers

package peers

import (
	"strings"
	"testing"
)

const raConfig = `profiles:
  device: {backend: local, validity: 90d}
endpoints:
  ran:
    protocol: cmp
    listeners: [http]
    default: true
    profile: device
    enroll:
      - anyOf:
          - [ra: {cas: [ra-ca.pem]}, keys: {pop: [signature, ra]}]
          - [shared-secret: {secrets: {factory: {file: factory.secret}}}, keys: {}]
      - names: {}
    renew: [ra: {cas: [ra-ca.pem]}, keys: {pop: [signature, ra]}, own-certificate: {}]
    revoke: [ra: {cas: [ra-ca.pem]}]
`

var ra = []string{"-cert", "ra.pem", "-key", "ra.key"}

// RA mode (RFC 9810 section 5.2.8.1): the RA signs in the device's place, vouches for its key, updates and revokes its certificate.
func TestRAMode(t *testing.T) {
	g := start(t, raConfig, authority)
	s := g.bc(t, "ran", "enroll", with(ra, "-newkey", "P-256", "-pop", "raverified", "-subject", "CN=vouched", "-certout", "first.pem")...)
	s.is("status", "0")
	s.is("confirmed", "true")
	s = g.bc(t, "ran", "enroll", with(ra, "-body", "kur", "-oldcert", "first.pem", "-newkey", "P-384", "-pop", "raverified", "-subject", "CN=vouched", "-certout", "second.pem")...)
	s.is("status", "0")
	s.is("confirmed", "true")
	s = g.bc(t, "ran", "rr", with(ra, "-oldcert", "second.pem", "-reason", "5")...)
	s.is("status", "0")
	s = g.bc(t, "ran", "rr", with(ra, "-oldcert", "second.pem", "-reason", "5")...)
	s.is("failInfo", "certRevoked")

	// A device's own word is none.
	s = g.bc(t, "ran", "enroll", with(mac, "-newkey", "P-256", "-pop", "raverified", "-subject", "CN=device")...)
	s.is("failInfo", "notAuthorized")
}

// An RA adds its signature to what a device has protected with a MAC; the answers are the device's (RFC 9810 section 5.1.3.5).
func TestNested(t *testing.T) {
	g := start(t, raConfig, authority)
	for _, kind := range []string{"pbm", "pbmac1"} {
		args := with(ra, mac...)
		s := g.bc(t, "ran", "nested", with(args, "-mac", kind, "-newkey", "P-256", "-subject", "CN=nested-"+kind)...)
		s.is("status", "0")
		s.is("protection", strings.ToUpper(kind), strings.ToUpper(kind))
		s.is("confirmed", "true")
		if got := g.State("nested-" + kind); got != "issued" {
			t.Errorf("the transaction is %s", got)
		}
	}
}

// Three devices in one message, and their confirmations in another; one of them with a wrong secret.
func TestBatch(t *testing.T) {
	g := start(t, raConfig, authority)
	args := with(ra, with(mac, "-newkey", "P-256")...)
	s := g.bc(t, "ran", "batch", with(args, "-subject", "CN=good")...)
	s.is("subject", "CN=good1", "CN=good2", "CN=good3")
	s.is("confirmed", "true", "true", "true")
	s.is("answers", "CN=Muster CMP RA", "CN=Muster CMP RA") // around both batches

	s = g.bc(t, "ran", "batch", with(args, "-subject", "CN=mixed", "-second", "wrong")...)
	s.is("subject", "CN=mixed1", "CN=mixed3")
	s.is("failInfo", "badMessageCheck")
	s.is("confirmed", "true", "true")
	if got := g.State("mixed2"); got != "" {
		t.Errorf("the transaction of who has a wrong secret is %s", got)
	}
}
