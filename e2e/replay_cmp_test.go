package e2e

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"math/big"

	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// cmpOutcome posts a CMP message and says what its sender is told.
func (w *replays) cmpOutcome(r *recorded, endpoint string, der, answer []byte) string {
	w.t.Helper()
	d := w.cmpDevice("")
	d.url += "/p/" + endpoint
	got, err := d.post(der)
	if err != nil {
		w.t.Fatal(err)
	}
	if answer != nil && bytes.Equal(got, answer) {
		return "same"
	}
	m, err := cmpmsg.Parse(got)
	if err != nil {
		w.t.Fatal(err)
	}
	if rep, ok := m.Body.(*cmpmsg.CertRepMessage); ok && len(rep.Responses) == 1 && rep.Responses[0].Certificate != nil {
		cert, err := x509.ParseCertificate(rep.Responses[0].Certificate)
		if err != nil {
			w.t.Fatal(err)
		}
		return w.certified(r, cert)
	}
	return toldBy(m)
}

// toldBy is what an answer without a certificate says.
func toldBy(m *cmpmsg.Message) string {
	fail := failure(m)
	if rp, ok := m.Body.(*cmpmsg.RevRep); ok && len(rp.Statuses) == 1 && rp.Statuses[0].FailInfo != 0 {
		fail = fmt.Sprint(rp.Statuses[0].FailInfo)
	}
	if fail != "" {
		return fail
	}
	return m.Body.Type().String()
}

// recordsCMP sends a body and records the message with its answer; insider is another device of the same endpoint, which protects the same
// body by its own credential.
func (w *replays) recordsCMP(name, endpoint, other string, d *cmpDevice, body cmpmsg.Body, insider func() *cmpDevice) *recorded {
	w.t.Helper()
	der := d.message(body)
	answer, err := d.post(der)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := d.take(answer); err != nil {
		w.t.Fatal(err)
	}
	m, err := cmpmsg.Parse(der)
	if err != nil {
		w.t.Fatal(err)
	}
	sent, err := cmpmsg.Parse(answer)
	if err != nil || failure(sent) != "" {
		w.t.Fatalf("%s: %v, %s", name, err, failure(sent))
	}
	r := &recorded{name: "CMP " + name, endpoint: endpoint, other: other, der: der}
	if _, ok := sent.Body.(*cmpmsg.CertRepMessage); ok {
		r.cert = d.cert
	}
	if p10, ok := m.Body.(*cmpmsg.PKCS10); ok {
		r.csr = p10.CSR
	}
	r.send = func(endpoint string, der []byte) string { return w.cmpOutcome(r, endpoint, der, answer) }
	tid, nonce := m.Header.TransactionID, m.Header.SenderNonce
	r.changes = map[string]func() string{
		"extraCerts": func() string { return r.send(endpoint, moreCerts(w, der)) },
		"transactionID": func() string {
			return r.send(endpoint, bytes.Replace(der, tid, random(16), 1))
		},
		"senderNonce": func() string { return r.send(endpoint, bytes.Replace(der, nonce, random(16), 1)) },
		"protected by another device": func() string {
			i := insider()
			answer, err := i.post(i.message(body))
			if err != nil {
				w.t.Fatal(err)
			}
			return w.answered(r, answer)
		},
		"protected by another device, same transactionID": func() string {
			i := insider()
			i.tid = tid
			answer, err := i.post(i.message(body))
			if err != nil {
				w.t.Fatal(err)
			}
			return w.answered(r, answer)
		},
	}
	if _, ok := sent.Body.(*cmpmsg.RevRep); !ok && r.changes["extraCerts"]() != "same" || r.send(endpoint, der) != "same" {
		w.t.Errorf("%s: at once, another answer than before", r.name)
	}
	w.record(r)
	return r
}

func (w *replays) answered(r *recorded, answer []byte) string {
	w.t.Helper()
	m, err := cmpmsg.Parse(answer)
	if err != nil {
		w.t.Fatal(err)
	}
	if rep, ok := m.Body.(*cmpmsg.CertRepMessage); ok && len(rep.Responses) == 1 && rep.Responses[0].Certificate != nil {
		cert, err := x509.ParseCertificate(rep.Responses[0].Certificate)
		if err != nil {
			w.t.Fatal(err)
		}
		return w.certified(r, cert)
	}
	return toldBy(m)
}

// moreCerts adds a certificate to a message's extraCerts, which no protection covers.
func moreCerts(w *replays, der []byte) []byte {
	w.t.Helper()
	var parts []asn1.RawValue
	rest, err := asn1.Unmarshal(der, &parts)
	if err != nil || len(rest) > 0 {
		w.t.Fatal(err)
	}
	certs := w.stranger.self.Raw
	if len(parts) == 4 {
		var have []asn1.RawValue
		if _, err := asn1.Unmarshal(parts[3].Bytes, &have); err != nil {
			w.t.Fatal(err)
		}
		var all []byte
		for _, c := range have {
			all = append(all, c.FullBytes...)
		}
		certs = append(all, certs...)
	}
	list, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: certs})
	if err != nil {
		w.t.Fatal(err)
	}
	parts = append(parts[:3], asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 1, IsCompound: true, Bytes: list})
	if der, err = asn1.Marshal(parts); err != nil {
		w.t.Fatal(err)
	}
	return der
}

// recordCMP records an ir by MAC, begun anew once as after a lost answer, with its certConf; a p10cr; an ir by a vendor's certificate, a kur, and an rr.
func (w *replays) recordCMP(vendor *leaf) {
	w.t.Helper()
	byOther := func() *cmpDevice {
		d := w.cmpDevice("replayed-other")
		d.url += "/p/cmp"
		d.ref, d.secret = "other", []byte("the secret of device 2")
		return d
	}
	device := func(name string) *cmpDevice {
		d := w.cmpDevice("replayed-" + name)
		d.url += "/p/cmp"
		d.ref, d.secret = "factory", []byte("the secret of device 1")
		return d
	}
	confirm := func(name string, d *cmpDevice, insider func() *cmpDevice) {
		w.recordsCMP(name+", certConf", "cmp", "cmp2", d, d.certConf(), insider)
	}
	d := device("ir")
	body := d.request(cmpmsg.TypeIR)
	w.recordsCMP("ir by MAC, its answer lost", "cmp", "cmp2", d, body, byOther)
	d.tid, d.peer = random(16), nil
	w.recordsCMP("ir by MAC", "cmp", "cmp2", d, body, byOther)
	confirm("ir by MAC", d, byOther)

	p := device("p10")
	csr := request(w.t, p.key, "replayed-p10")
	w.recordsCMP("p10cr by MAC", "cmp", "cmp2", p, &cmpmsg.PKCS10{CSR: csr}, byOther)
	conf := p.certConf()
	conf.Statuses[0].ReqID = big.NewInt(-1)
	w.recordsCMP("p10cr by MAC, certConf", "cmp", "cmp2", p, conf, byOther)

	signs := func(d *cmpDevice, by *leaf, endpoint string) *cmpDevice {
		d.signer, d.chain, d.tid, d.peer = by.key, [][]byte{by.cert.Raw}, random(16), nil
		d.url = w.env["MUSTER_HTTP"] + "/.well-known/cmp/p/" + endpoint
		return d
	}
	mine := &leaf{cert: d.cert, key: d.key}
	insider := device("insider")
	if err := insider.enroll(); err != nil {
		w.t.Fatal(err)
	}
	w.told[fmt.Sprintf("%x", insider.cert.SerialNumber)] = true
	other := &leaf{cert: insider.cert, key: insider.key}
	bySigner := func() *cmpDevice { return signs(device("other"), other, "cmp") }

	k := signs(device("ir"), mine, "cmp")
	w.recordsCMP("kur", "cmp", "cmp2", k, k.request(cmpmsg.TypeKUR), bySigner)
	confirm("kur", k, bySigner)
	old := device("gone")
	if err := old.enroll(); err != nil {
		w.t.Fatal(err)
	}
	w.told[fmt.Sprintf("%x", old.cert.SerialNumber)] = true
	rr := signs(device("gone"), &leaf{cert: old.cert, key: old.key}, "cmp")
	w.recordsCMP("rr", "cmp", "cmp2", rr, &cmpmsg.RevReq{Details: []cmpmsg.RevDetails{{
		Certificate: cmpmsg.CertTemplate{Issuer: old.cert.RawIssuer, SerialNumber: old.cert.SerialNumber},
	}}}, bySigner)

	bts, bts2 := vendor.issue(w.t, "SN-1", ecTestKey(w.t)), vendor.issue(w.t, "SN-2", ecTestKey(w.t))
	v := signs(device("bts-1"), bts, "vendor")
	byBTS2 := func() *cmpDevice { return signs(device("bts-2"), bts2, "vendor") }
	w.recordsCMP("ir by a vendor's certificate", "vendor", "vendor2", v, v.request(cmpmsg.TypeIR), byBTS2)
	w.recordsCMP("ir by a vendor's certificate, certConf", "vendor", "vendor2", v, v.certConf(), byBTS2)
}
