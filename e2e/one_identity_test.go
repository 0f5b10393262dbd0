package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway/admin"
)

// A device that enrolled over one protocol renews over each of the others, as one device with one history. Its names and its
// entry go with it, and its enrollments are counted once.
func TestOneIdentity(t *testing.T) {
	t.Parallel()
	w := newStageTable(t)
	for _, from := range strings.Fields(allThree) {
		for _, to := range strings.Fields(allThree) {
			t.Run(from+" to "+to, func(t *testing.T) {
				name := fmt.Sprintf("%s-then-%s", from, to)
				w.muster("device", "add", name, "--serial", "SN-"+name, "--replace")
				a := &attempt{protocol: from, endpoint: "one-" + from, cn: name, rsa: true, leaf: w.vendor.issue(t, "SN-"+name, rsaTestKey(t))}
				if got, issued := w.ask(a); got != "certificate" || !issued {
					t.Fatalf("enrolling over %s: %s\n%s", from, got, w.muster("explain", "--last"))
				}
				// Twice is once too often, wherever it tries.
				again := &attempt{protocol: to, endpoint: "one-" + to, cn: name, rsa: true, leaf: w.vendor.issue(t, "SN-"+name, rsaTestKey(t))}
				if got, issued := w.ask(again); issued || !isOutcome(to, "deny", got) {
					t.Errorf("enrolling again over %s: %s, issued %t", to, got, issued)
				}
				a.protocol, a.endpoint, a.renew = to, "one-"+to, true
				before := a.leaf.cert
				if got, issued := w.ask(a); got != "certificate" || !issued {
					t.Fatalf("renewing over %s: %s\n%s", to, got, w.muster("explain", "--last"))
				}
				if string(a.leaf.cert.RawSubject) != string(before.RawSubject) || a.leaf.cert.SerialNumber.Cmp(before.SerialNumber) == 0 {
					t.Errorf("%s after %s", a.leaf.cert.Subject, before.Subject)
				}
				certs := listing[admin.Certificate](w.instance, "certificates", "--device", name)
				if len(certs) != 2 || certs[0].Endpoint != "one-"+to || certs[1].Endpoint != "one-"+from || certs[0].Replaces != certs[1].Serial {
					t.Errorf("%+v", certs)
				}
				shown := w.muster("device", "show", "SN-"+name)
				for _, want := range []string{"one-" + from + " (" + from + ")", "one-" + to + " (" + to + ")", certs[0].Serial, certs[1].Serial} {
					if !strings.Contains(shown, want) {
						t.Errorf("no %q in\n%s", want, shown)
					}
				}
				// Disabled, it renews nowhere.
				w.muster("device", "disable", name)
				if got, issued := w.ask(a); issued || !isOutcome(to, "deny", got) {
					t.Errorf("renewing while disabled: %s, issued %t", got, issued)
				}
			})
		}
	}
}
