//go:build cas

package cas

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/e2e/running"
)

// crashPoints are those of the gateway at which crashes kills it, in the order of an enrollment.
var crashPoints = []string{"gateway.before-intent", "gateway.after-intent", "gateway.after-issue", "gateway.after-settle"}

// answerLost is the other accident: the CA has issued, and its answer does not arrive.
const answerLost = "answer lost"

// What a device got in the end.
const (
	theSame = "the same" // the certificate that the CA has for it
	isStuck = "stuck"    // none: the operator has to look
)

// death is what came of one accident.
type death struct {
	certificates int // at the CA, counted there
	got          string
}

// deaths are those of a backend, by crash point and answerLost.
type deaths map[string]death

// accidents says how crashes does it with a CA.
type accidents struct {
	backend string // its name in the gateway's configuration; "" for up
	// at is the CA's own list: the serial numbers of all certificates that it has issued for a name, or at all.
	at func(name string) []string
	// lose has the next answer with a certificate not arrive; what it returns says whether one was lost. nil: not tried.
	lose func() (lost func() bool)
	// device is the name of the device at a point, whatever it needs being made. nil for one made of the point.
	device func(accident string) string
	// ends is when the outcome has to be known. 0 for three minutes.
	ends time.Duration
}

// crashes kills the gateway at each point of an enrollment, starts it again, and loses an answer: the device asks until it has its
// certificate, or the request waits for the operator. What the CA then has issued for it is counted, and held against what Describe
// promises. The accident after which the CA can only say so in its own time, after-intent, comes last.
func crashes(t *testing.T, g *running.Gateway, a accidents) deaths {
	t.Helper()
	if a.backend == "" {
		a.backend = "up"
	}
	if a.ends == 0 {
		a.ends = patience
	}
	promise, done := describes(g, a.backend), deaths{}
	for _, accident := range []string{crashPoints[0], crashPoints[2], crashPoints[3], answerLost, crashPoints[1]} {
		name := strings.NewReplacer("gateway.", "", ".", "-", " ", "-").Replace(accident)
		if accident == answerLost && a.lose == nil {
			continue
		}
		if a.device != nil {
			name = a.device(accident)
		}
		before := a.at(name)
		lost := func() bool { return true }
		if accident == answerLost {
			lost = a.lose()
		} else {
			dies(g, accident)
		}
		out, ok := device(g, "", name)
		if accident == answerLost {
			for began := time.Now(); !lost() && time.Since(began) < patience; { // it may come after the device was told to wait
				time.Sleep(100 * time.Millisecond)
			}
		} else {
			if ok {
				t.Errorf("%s: the gateway did not die: %s", accident, out)
			}
			if _, err := os.Stat(g.File(onceAt(accident))); err != nil {
				t.Errorf("%s: %v", accident, err)
			}
			g.Again()
		}
		if !lost() {
			t.Errorf("no answer was lost\n%s", g.Log)
		}
		end := ends(g, name, ok, a.ends)
		made := a.at(name)
		if len(made) >= len(before) && slices.Equal(made[:len(before)], before) { // lists are in the order of issuing, or only of the name
			made = made[len(before):]
		}
		d := death{len(made), end}
		if serial := serialOf(g, name+".pem"); end == theSame && !slices.Contains(made, serial) {
			d.got = "another"
		}
		done[accident] = d
		if want := promised(promise, accident); d != want {
			t.Errorf("%s, with %s: %d certificates %v / %s, and not %d / %s\n%s", accident, promise, d.certificates, made, d.got, want.certificates, want.got, g.Log)
		}
	}
	return done
}

// promised is what has to come of an accident with a CA that describes itself as native, lookup or none: nobody asks a CA for which
// nothing can be found out by ID a second time.
func promised(idempotency, accident string) death {
	if idempotency == "none" {
		switch accident {
		case crashPoints[1]:
			return death{0, isStuck}
		case crashPoints[2], answerLost:
			return death{1, isStuck}
		}
	}
	return death{1, theSame}
}

// ends asks for the device until its request has ended.
func ends(g *running.Gateway, name string, has bool, within time.Duration) string {
	g.T.Helper()
	var out string
	for began := time.Now(); time.Since(began) < within; time.Sleep(time.Second) {
		if !has {
			out, has = device(g, "", name)
		}
		if has {
			return theSame
		}
		if state := g.State(name); state == isStuck || state == "failed" {
			return state
		}
	}
	g.T.Logf("%s: %s", name, out)
	return "nothing"
}

func onceAt(point string) string { return strings.ReplaceAll(point, ".", "-") + ".once" }

// dies starts a gateway that kills itself at the point, once.
func dies(g *running.Gateway, point string) {
	g.T.Helper()
	g.Again("MUSTER_CRASH_AT="+point, "MUSTER_CRASH_ONCE="+g.File(onceAt(point)))
}

// serialOf is the serial number of the certificate in a file of the gateway's folder, as hexadecimal returns it; "" when there is none.
func serialOf(g *running.Gateway, file string) string {
	g.T.Helper()
	text, err := os.ReadFile(g.File(file))
	if err != nil {
		return ""
	}
	block, _ := pem.Decode(text)
	if block == nil {
		g.T.Fatalf("%s is no PEM file", file)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		g.T.Fatal(err)
	}
	return hexadecimal(c)
}

// hexadecimal is a serial number without leading zeros.
func hexadecimal(c *x509.Certificate) string { return fmt.Sprintf("%X", c.SerialNumber) }

// issuedFor are the serial numbers of the certificates among these whose common name it is.
func issuedFor(name string, certificates []*x509.Certificate) (serials []string) {
	for _, c := range certificates {
		if c.Subject.CommonName == name {
			serials = append(serials, hexadecimal(c))
		}
	}
	return serials
}

// atMuster is the list of a CA that is a gateway: by its local CA's ledger.
func atMuster(up *running.Gateway) func(string) []string {
	return func(name string) []string { return issuedFor(name, ledger(up, "ca")) }
}
