package e2e

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/muster-pki/muster/protocols/cms"
)

// scepAnswer sends a SCEP message as a device and says what it is told.
func (w *replays) scepAnswer(r *recorded, d *scepDevice, m *scepMessage) string {
	w.t.Helper()
	a, err := d.send(m)
	if err != nil {
		w.t.Fatal(err)
	}
	switch {
	case a.http != http.StatusOK:
		return fmt.Sprint("HTTP ", a.http)
	case a.cert != nil:
		return w.certified(r, a.cert)
	}
	return "failInfo " + a.failInfo
}

// scepAt is a device at the endpoint scep.
func (w *replays) scepAt() *scepDevice {
	d := w.scepDevice()
	d.path = "/scep/scep"
	return d
}

// recordSCEP records a PKCSReq with a challenge and a RenewalReq.
func (w *replays) recordSCEP() {
	w.t.Helper()
	d := w.scepAt()
	record := func(name string, wish scepWish) *recorded {
		m := d.message(wish)
		a := d.must(m)
		if a.cert == nil {
			w.t.Fatal(a)
		}
		r := &recorded{name: "SCEP " + name, endpoint: "scep", other: "scep2", der: m.der, cert: a.cert}
		key := wish.key
		if key == nil {
			key = d.key
		}
		csr, err := scepCSR(key, wish.name, wish.challenge)
		if err != nil {
			w.t.Fatal(err)
		}
		r.csr = csr
		r.send = func(endpoint string, der []byte) string {
			to := *d
			to.path = "/scep/" + endpoint
			again := *m
			again.der = der
			return w.scepAnswer(r, &to, &again)
		}
		signed, err := cms.ParseSigned(m.der, cms.Limits{})
		if err != nil {
			w.t.Fatal(err)
		}
		changed := func(from, to []byte) string {
			der := bytes.Replace(m.der, from, to, 1)
			if bytes.Equal(der, m.der) {
				w.t.Fatalf("%s: nothing is changed", name)
			}
			return w.httpOutcome(r, der)
		}
		r.changes = map[string]func() string{
			"transactionID": func() string { return changed([]byte(m.tid), []byte(fmt.Sprintf("%x", random(16)))) },
			"senderNonce":   func() string { return changed(m.nonce, random(16)) },
			"messageType": func() string {
				return changed([]byte("\x13\x02"+map[string]string{"": "19", "17": "17"}[wish.kind]), []byte("\x13\x02"+map[string]string{"": "17", "17": "19"}[wish.kind]))
			},
			"its envelope in another's message": func() string {
				return w.scepAnswer(r, w.stranger, w.stranger.message(scepWish{envelope: signed.Content}))
			},
			"its envelope in another's renewal": func() string {
				return w.scepAnswer(r, w.stranger, w.stranger.message(scepWish{envelope: signed.Content, kind: "17", signer: w.strangers}))
			},
		}
		w.record(r)
		return r
	}
	first := record("PKCSReq", scepWish{name: "replayed-scep", challenge: "the challenge"})
	m := first.der
	twin := w.sameLength(d)
	first.changes["another certificate of its key"] = func() string {
		der := bytes.Replace(m, d.self.Raw, twin.Raw, 1)
		if bytes.Equal(der, m) {
			w.t.Fatal("nothing is changed")
		}
		return w.httpOutcome(first, der)
	}
	key := rsaKey(w.t, 2048)
	record("RenewalReq", scepWish{kind: "17", name: "replayed-scep", key: key, signer: first.cert, signerKey: d.key})
}

// sameLength is another self-signed certificate of the device's key, with the same names and serial number, that fits into the place of its first.
func (w *replays) sameLength(d *scepDevice) *x509.Certificate {
	tmpl := *d.self
	tmpl.NotAfter = tmpl.NotAfter.Add(time.Hour)
	return selfMade(w.t, &tmpl, &tmpl, d.key.Public(), d.key)
}

// httpOutcome posts a SCEP message whose answer may be for somebody else, and says what it is.
func (w *replays) httpOutcome(r *recorded, der []byte) string {
	w.t.Helper()
	res, err := http.Post(w.env["MUSTER_HTTP"]+"/scep/scep?operation=PKIOperation", "application/x-pki-message", bytes.NewReader(der))
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Sprint("HTTP ", res.StatusCode)
	}
	s, err := cms.ParseSigned(body, cms.Limits{})
	if err != nil {
		w.t.Fatal(err)
	}
	value, _ := s.Attribute(cms.SCEPPKIStatus)
	status, _ := cms.StringValue(value)
	value, _ = s.Attribute(cms.SCEPFailInfo)
	fail, _ := cms.StringValue(value)
	if status == "2" {
		return "failInfo " + fail
	}
	return "status " + status
}
