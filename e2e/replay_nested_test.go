package e2e

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// relays are registration authorities that pass messages on, and somebody who is none, with a certificate of the same CA.
type relays struct{ one, two, nobody *cmpRA }

// relaysOf makes them; their certificates are the files that replayConfig names.
func relaysOf(certify func(name string) *device) relays {
	ra := func(name string) *cmpRA {
		d := certify(name)
		return &cmpRA{key: d.key, cert: d.cert}
	}
	return relays{one: ra("LRA 1"), two: ra("LRA 2"), nobody: ra("nobody")}
}

// recordNested records what an RA passes on (RFC 9810 section 5.1.3.5): an ir with its certConf, and a batch of two irs.
func (w *replays) recordNested(by relays) {
	w.t.Helper()
	by.one.g, by.two.g, by.nobody.g = w.instance, w.instance, w.instance
	device := func(name, ref, secret string) *cmpDevice {
		d := w.cmpDevice("replayed-" + name)
		d.url += "/p/relayed"
		d.ref, d.secret = ref, []byte(secret)
		return d
	}
	d := device("nested", "factory", "the secret of device 1")
	w.recordsNested("ir", by, d, d.request(cmpmsg.TypeIR))
	w.recordsNested("ir, certConf", by, d, d.certConf())
	w.recordsBatch(by, device("batch-1", "factory", "the secret of device 1"), device("batch-2", "other", "the secret of device 2"))
}

// recordsNested sends a device's body through the RA, and records the RA's message with the device's answer.
func (w *replays) recordsNested(name string, by relays, d *cmpDevice, body cmpmsg.Body) {
	w.t.Helper()
	inner := d.message(body)
	der := by.one.nested(inner)
	answer, err := d.post(der)
	if err != nil {
		w.t.Fatal(err)
	}
	m, err := d.take(answer)
	if err != nil || failure(m) != "" {
		w.t.Fatalf("%s: %v, %s", name, err, failure(m))
	}
	asked, err := cmpmsg.Parse(der)
	if err != nil {
		w.t.Fatal(err)
	}
	r := &recorded{name: "CMP nested " + name, endpoint: "relayed", other: "relayed2", der: der}
	if _, ok := m.Body.(*cmpmsg.CertRepMessage); ok {
		r.cert = d.cert
	}
	r.send = func(endpoint string, der []byte) string { return w.cmpOutcome(r, endpoint, der, answer) }
	r.changes = w.relayed(r, asked)
	r.changes["what is in it, by the device"] = func() string { return r.send("relayed", inner) }
	r.changes["what is in it, where no RA is asked for"] = func() string { return r.send("cmp", inner) }
	r.changes["what is in it, passed on by the RA anew"] = func() string { return r.send("relayed", by.one.nested(inner)) }
	r.changes["what is in it, passed on by another RA"] = func() string { return r.send("relayed", by.two.nested(inner)) }
	r.changes["what is in it, passed on by nobody"] = func() string { return r.send("relayed", by.nobody.nested(inner)) }
	r.changes["nested again"] = func() string { return r.send("relayed", by.two.nested(der)) }
	w.record(r)
}

// relayed are the changes that are made to any message of an RA.
func (w *replays) relayed(r *recorded, asked *cmpmsg.Message) map[string]func() string {
	return map[string]func() string{
		"extraCerts": func() string { return r.send(r.endpoint, moreCerts(w, r.der)) },
		"transactionID": func() string {
			return r.send(r.endpoint, bytes.Replace(r.der, asked.Header.TransactionID, random(16), 1))
		},
		"senderNonce": func() string {
			return r.send(r.endpoint, bytes.Replace(r.der, asked.Header.SenderNonce, random(16), 1))
		},
	}
}

// recordsBatch records a batch of two irs. Its outcome is that of each in turn, since the answer around them is made anew each time.
func (w *replays) recordsBatch(by relays, devices ...*cmpDevice) {
	w.t.Helper()
	var inner [][]byte
	for _, d := range devices {
		inner = append(inner, d.message(d.request(cmpmsg.TypeIR)))
	}
	der := by.one.nested(inner...)
	post := func(endpoint string, der []byte) *cmpmsg.Message {
		d := w.cmpDevice("")
		d.url += "/p/" + endpoint
		got, err := d.post(der)
		if err != nil {
			w.t.Fatal(err)
		}
		m, err := cmpmsg.Parse(got)
		if err != nil {
			w.t.Fatal(err)
		}
		return m
	}
	first, ok := post("relayed", der).Body.(*cmpmsg.Nested)
	if !ok || len(first.Messages) != len(devices) {
		w.t.Fatal("a batch is not answered by one")
	}
	for i, d := range devices {
		if _, err := d.take(first.Messages[i]); err != nil || d.cert == nil {
			w.t.Fatalf("%d: %v", i, err)
		}
		w.told[fmt.Sprintf("%x", d.cert.SerialNumber)] = true
	}
	asked, err := cmpmsg.Parse(der)
	if err != nil {
		w.t.Fatal(err)
	}
	r := &recorded{name: "CMP nested batch", endpoint: "relayed", other: "relayed2", der: der, cert: devices[0].cert}
	r.send = func(endpoint string, der []byte) string {
		m := post(endpoint, der)
		b, ok := m.Body.(*cmpmsg.Nested)
		if !ok {
			return toldBy(m)
		}
		var each []string
		for i, got := range b.Messages {
			if bytes.Equal(got, first.Messages[i]) {
				each = append(each, "same")
			} else {
				each = append(each, w.answered(r, got))
			}
		}
		return strings.Join(each, ", ")
	}
	alone := &recorded{name: r.name, cert: devices[0].cert}
	r.changes = w.relayed(r, asked)
	r.changes["by the RA anew"] = func() string { return r.send("relayed", by.one.nested(inner...)) }
	r.changes["by nobody"] = func() string { return r.send("relayed", by.nobody.nested(inner...)) }
	r.changes["one of it alone, passed on by the RA"] = func() string {
		return w.cmpOutcome(alone, "relayed", by.one.nested(inner[0]), first.Messages[0])
	}
	r.changes["one of it by the device"] = func() string { return w.cmpOutcome(alone, "relayed", inner[0], first.Messages[0]) }
	r.changes["the other first"] = func() string { return r.send("relayed", by.one.nested(inner[1], inner[0])) }
	w.record(r)
}
