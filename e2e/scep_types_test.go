package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/muster-pki/muster/gateway/admin"
)

// Message types by challenges by certificates that sign: what was issued, by the answer, the CA's ledger and `muster ls`.
// 18 is UpdateReq of old drafts, which elsewhere passed without the challenge's check.
func TestSCEPTypes(t *testing.T) {
	g := startIn(t, filepath.Join(t.TempDir(), "data"))
	d := g.scepDevice()
	right := g.env["MUSTER_SCEP_CHALLENGE"]
	ca, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	foreign := d.certify("types", ca)
	first := d.ask(scepWish{name: "types", challenge: right})
	if first.cert == nil {
		t.Fatal(first)
	}

	// What does not stand here is refused with badRequest.
	issued := map[string]string{
		"19 right no":      "enroll",
		"19 right foreign": "enroll",
		"19 no own":        "renew", "19 wrong own": "renew", "19 right own": "renew",
		"17 no own": "renew", "17 wrong own": "renew", "17 right own": "renew",
	}
	var table strings.Builder
	tw := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "type\tchallenge\tcertificate\tanswer\tledger\tmuster ls")
	count := func() (ledger int, granted []admin.Transaction) {
		for _, tr := range g.transactions("types") {
			if tr.State != "refused" {
				granted = append(granted, tr)
			}
		}
		return len(g.ledger("types")), granted
	}
	ledger, granted := count()
	serials := map[string]bool{first.cert.SerialNumber.String(): true}
	for _, kind := range []string{"17", "18", "19", "99"} {
		for _, challenge := range []struct{ name, text string }{{"no", ""}, {"wrong", "wrong-challenge"}, {"right", right}} {
			for _, certificate := range []struct {
				name string
				cert *x509.Certificate
			}{{"no", d.self}, {"foreign", foreign}, {"own", first.cert}} {
				cell := kind + " " + challenge.name + " " + certificate.name
				a := d.ask(scepWish{kind: kind, name: "types", challenge: challenge.text, signer: certificate.cert})
				nowLedger, nowGranted := count()
				more, shown := nowLedger-ledger, "nothing"
				if len(nowGranted) > len(granted) {
					shown = nowGranted[0].Operation + " " + nowGranted[0].State
				}
				fmt.Fprintf(tw, "%s\t%s\t%s\t%.70s\t+%d\t%s\n", kind, challenge.name, certificate.name, a, more, shown)

				operation, ok := issued[cell]
				if !ok {
					if a.status != "2" || a.failInfo != "2" || a.cert != nil || more != 0 || len(nowGranted) != len(granted) {
						t.Errorf("%s: %v, %d more in the ledger, muster ls: %s", cell, a, more, shown)
					}
				} else {
					if a.cert == nil || !d.key.PublicKey.Equal(a.cert.PublicKey) || more != 1 || len(nowGranted) != len(granted)+1 || shown != operation+" issued" {
						t.Errorf("%s: %v, %d more in the ledger, muster ls: %s; want %s", cell, a, more, shown, operation)
					} else if s := a.cert.SerialNumber.String(); serials[s] {
						t.Errorf("%s: an old certificate again", cell)
					} else {
						serials[s] = true
					}
				}
				// The operator is told of a challenge that did not count.
				if ok && operation == "renew" {
					said := strings.Contains(g.muster("explain", nowGranted[0].ID), "the challenge was not looked at")
					if said != (challenge.text != "") {
						t.Errorf("%s: explain says that the challenge was not looked at: %v", cell, said)
					}
				}
				ledger, granted = nowLedger, nowGranted
			}
		}
	}
	tw.Flush()
	t.Logf("\n%s", table.String())
	for _, secret := range []string{right, "wrong-challenge"} {
		if strings.Contains(g.stderr.String(), secret) {
			t.Error("a challenge is in the log")
		}
	}
}
