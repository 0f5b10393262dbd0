package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/muster-pki/muster/backends/local"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/admin"
)

// ledger lists the CA's own records of certificates for a common name.
func (g *instance) ledger(name string) []local.Entry {
	g.t.Helper()
	all, err := local.ReadLedger(g.t.Context(), filepath.Join(g.dir, "ca"))
	if err != nil {
		g.t.Fatal(err)
	}
	var of []local.Entry
	for _, e := range all {
		if strings.Contains(e.Subject, "CN="+name) {
			of = append(of, e)
		}
	}
	return of
}

// transactions lists the gateway's records of requests for a common name.
func (g *instance) transactions(name string) []admin.Transaction {
	g.t.Helper()
	var of []admin.Transaction
	for _, t := range listing[admin.Transaction](g) {
		if strings.Contains(t.Subject, "CN="+name) {
			of = append(of, t)
		}
	}
	return of
}

// settled waits until no transaction is open.
func (g *instance) settled() {
	g.t.Helper()
	for range 600 {
		open := listing[admin.Transaction](g, "--state", "issuing,unknown,waiting")
		if len(open) == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	g.t.Fatalf("transactions stay open:\n%s", g.muster("ls"))
}

func TestSameRequestTwice(t *testing.T) {
	g := startIn(t, filepath.Join(t.TempDir(), "data"))
	d := newDevice(t, "twice")
	first, err := g.enroll(t.Context(), g.client(nil), d)
	if err != nil {
		t.Fatal(err)
	}
	second, err := g.enroll(t.Context(), g.client(nil), d)
	if err != nil {
		t.Fatal(err)
	}
	if first.status != http.StatusOK || second.status != http.StatusOK || !bytes.Equal(first.cert.Raw, second.cert.Raw) {
		t.Errorf("answers %d and %d, not with the same certificate", first.status, second.status)
	}
	if n, m := len(g.ledger("twice")), len(g.transactions("twice")); n != 1 || m != 1 {
		t.Errorf("%d in the ledger, %d in muster ls; want 1 and 1", n, m)
	}
	// After a restart it is still the same request.
	g.stop()
	g = startIn(t, g.dir)
	third, err := g.enroll(t.Context(), g.client(nil), d)
	if err != nil || third.status != http.StatusOK || !bytes.Equal(first.cert.Raw, third.cert.Raw) {
		t.Errorf("after a restart: %v %v", third, err)
	}
	// A stranger who saw the request gets nothing by repeating it.
	stranger, err := g.post(t.Context(), g.client(nil), "simpleenroll", g.env["MUSTER_EST_USER"], "wrong", "application/pkcs10", []byte(toBase64(d.csr)))
	if err != nil || stranger.status != http.StatusUnauthorized {
		t.Errorf("a stranger's repeat: %v %v", stranger, err)
	}
}

func TestSameRequestSixteenTimesAtOnce(t *testing.T) {
	g := startIn(t, filepath.Join(t.TempDir(), "data"))
	d := newDevice(t, "sixteen")
	answers := make([]*answer, 16)
	var wg sync.WaitGroup
	for i := range answers {
		c := g.client(nil)
		wg.Go(func() {
			a, err := g.enroll(t.Context(), c, d)
			if err != nil {
				t.Error(err)
				return
			}
			answers[i] = a
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	for _, a := range answers {
		if a.status != http.StatusOK || !bytes.Equal(a.cert.Raw, answers[0].cert.Raw) {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	if n, m := len(g.ledger("sixteen")), len(g.transactions("sixteen")); n != 1 || m != 1 {
		t.Errorf("%d in the ledger, %d in muster ls; want 1 and 1", n, m)
	}
}

// TestCrashPoints kills the gateway or the CA's process at each named point of an issuance, and looks at what the client
// got, and what ledger, store and `muster ls` say afterwards: never two certificates, never an unknown that stays.
func TestCrashPoints(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	startIn(t, dir).stop() // the CA and the TLS certificate are made before anything crashes

	var table bytes.Buffer
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "point\tclient got\tafter restart: ledger\tmuster ls\tclient asks again")
	defer func() {
		w.Flush()
		t.Logf("\n%s", table.String())
	}()
	for i, point := range append(append([]string(nil), gateway.CrashPoints...), local.CrashPoints...) {
		t.Run(point, func(t *testing.T) {
			name := fmt.Sprintf("crash-%d", i)
			d := newDevice(t, name)
			once := filepath.Join(t.TempDir(), "once")
			g := startIn(t, dir, "MUSTER_CRASH_AT="+point, "MUSTER_CRASH_ONCE="+once)
			first, err := g.enroll(t.Context(), g.client(nil), d)
			got := "connection lost"
			if err == nil {
				got = fmt.Sprint(first.status)
			}
			if _, err := os.Stat(once); err != nil {
				t.Fatalf("the crash point was never passed: %v", err)
			}
			if strings.HasPrefix(point, "gateway.") {
				if err == nil {
					t.Errorf("a gateway that was killed at %s answered %s", point, got)
				}
				<-g.exited
				g = startIn(t, dir)
			} else if err != nil || (first.status != http.StatusOK && first.status != http.StatusAccepted) {
				t.Errorf("a CA process that was killed at %s cost the client its answer: %s", point, got)
			}
			g.settled()
			inLedger, listed := g.ledger(name), g.transactions(name)
			states := ""
			for _, l := range listed {
				states += l.State + " "
			}
			again, err := g.enroll(t.Context(), g.client(nil), d)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%d, certificate\n", point, got, len(inLedger), strings.TrimSpace(states), again.status)
			if again.status != http.StatusOK {
				t.Fatalf("asking again: %d %s", again.status, again.body)
			}
			if first != nil && first.cert != nil && !bytes.Equal(first.cert.Raw, again.cert.Raw) {
				t.Error("another certificate than the one first given")
			}
			inLedger, listed = g.ledger(name), g.transactions(name)
			if len(inLedger) != 1 || len(listed) != 1 || listed[0].State != "issued" {
				t.Fatalf("in the end: ledger %v, transactions %v", inLedger, listed)
			}
			if inLedger[0].ID != listed[0].ID || inLedger[0].Serial != fmt.Sprintf("%x", again.cert.SerialNumber) {
				t.Errorf("ledger has %s/%s, muster ls %s, the client %x", inLedger[0].ID, inLedger[0].Serial, listed[0].ID, again.cert.SerialNumber)
			}
			g.stop()
		})
	}
}
