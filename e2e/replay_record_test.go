package e2e

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"math/big"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/muster-pki/muster/backends/local"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/cms"
)

// issued are the serial numbers of the devices' certificates in the CA's ledger.
func (w *replays) issued() map[string]bool {
	w.t.Helper()
	entries, err := local.ReadLedger(w.t.Context(), filepath.Join(w.dir, "ca"))
	if err != nil {
		w.t.Fatal(err)
	}
	serials := map[string]bool{}
	for _, e := range entries {
		if strings.Contains(e.Subject, "replayed-") || strings.Contains(e.Subject, "bts") {
			serials[e.Serial] = true
		}
	}
	return serials
}

// certified says whose certificate came back.
func (w *replays) certified(r *recorded, cert *x509.Certificate) string {
	switch serial := fmt.Sprintf("%x", cert.SerialNumber); {
	case r.cert != nil && r.cert.Equal(cert):
		return "same"
	case w.told[serial]:
		return "told before"
	default:
		w.told[serial] = true
		return "another"
	}
}

// overEST sends a PKCS#10 request by EST; d shows its certificate if it has one.
func (w *replays) overEST(r *recorded, c *http.Client, operation, user string, csr []byte) string {
	w.t.Helper()
	defer c.CloseIdleConnections()
	a, err := w.post(w.t.Context(), c, operation, user, strings.Replace(user, "device-", "password ", 1), "application/pkcs10", []byte(toBase64(csr)))
	if err != nil {
		w.t.Fatal(err)
	}
	if a.cert != nil {
		return w.certified(r, a.cert)
	}
	return fmt.Sprint(a.status)
}

// raw sends bytes by the other two protocols, whose answer is no certificate but an error of HTTP.
func (w *replays) raw(url, contentType string, body []byte) string {
	w.t.Helper()
	res, err := w.client(nil).Post(url, contentType, bytes.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	return fmt.Sprint(res.StatusCode)
}

func (w *replays) record(r *recorded) {
	w.t.Helper()
	if r.cert != nil {
		w.told[fmt.Sprintf("%x", r.cert.SerialNumber)] = true
	}
	w.list = append(w.list, r)
}

// copies are all that is made of a recorded request: the same again, and what is changed in it or around it.
func (w *replays) copies(r *recorded) map[string]func() string {
	all := map[string]func() string{
		"again":            func() string { return r.send(r.endpoint, r.der) },
		"another endpoint": func() string { return r.send(r.other, r.der) },
	}
	for what, do := range r.changes {
		all[what] = do
	}
	if !strings.HasPrefix(r.name, "EST") {
		all["as EST"] = func() string { return w.overEST(r, w.client(nil), "simpleenroll", "device-2", r.der) }
	}
	if !strings.HasPrefix(r.name, "CMP") {
		all["as CMP"] = func() string {
			// Answers of CMP that are errors have the status 200.
			d := w.cmpDevice("replayed-as-cmp")
			d.url += "/p/cmp"
			answer, err := d.post(r.der)
			if err == nil {
				m, err := cmpmsg.Parse(answer)
				if err != nil {
					w.t.Fatal(err)
				}
				return failure(m)
			}
			return strings.SplitAfterN(err.Error(), ":", 2)[0]
		}
	}
	if !strings.HasPrefix(r.name, "SCEP") {
		all["as SCEP"] = func() string {
			return w.raw(w.env["MUSTER_HTTP"]+"/scep/scep?operation=PKIOperation", "application/x-pki-message", r.der)
		}
	}
	if r.csr != nil {
		// Whoever has a password has his own certificates by it: one of another's key that he cannot use is one of his.
		all["its CSR by another device over EST"] = func() string { return w.overEST(r, w.client(nil), "simpleenroll", "device-2", r.csr) }
		all["its CSR over EST, renewing another's"] = func() string { return w.overEST(r, w.client(w.insider), "simplereenroll", "", r.csr) }
		all["its CSR over EST, by nobody"] = func() string { return w.overEST(r, w.client(nil), "simpleenroll", "", r.csr) }
		all["its CSR in a SCEP message of another"] = func() string {
			envelope, err := cms.Encrypt(r.csr, w.stranger.ra, cms.AES128)
			if err != nil {
				w.t.Fatal(err)
			}
			return w.scepAnswer(r, w.stranger, w.stranger.message(scepWish{envelope: envelope}))
		}
	}
	return all
}

// recordEST records an enrollment by password, a renewal by certificate, and an enrollment that is linked to its connection.
func (w *replays) recordEST(vendor *leaf) {
	w.t.Helper()
	d := newDevice(w.t, "replayed-est")
	a, err := w.post(w.t.Context(), w.client(nil), "simpleenroll", "device-1", "password 1", "application/pkcs10", []byte(toBase64(d.csr)))
	if err != nil || a.cert == nil {
		w.t.Fatal(a, err)
	}
	d.cert = a.cert
	r := &recorded{name: "EST simpleenroll by password", endpoint: "est", other: "est2", der: d.csr, csr: d.csr, cert: a.cert}
	r.send = func(endpoint string, der []byte) string {
		return w.overEST(r, w.client(nil), endpoint+"/simpleenroll", "device-1", der)
	}
	r.changes = map[string]func() string{
		"as simplereenroll": func() string { return w.overEST(r, w.client(nil), "simplereenroll", "device-1", r.der) },
		"a bit of it":       func() string { return r.send("est", flipped(r.der)) },
	}
	w.record(r)

	old := *d
	if a, err = w.post(w.t.Context(), w.client(&old), "simplereenroll", "", "", "application/pkcs10", []byte(toBase64(d.csr))); err != nil || a.cert == nil {
		w.t.Fatal(a, err)
	}
	renewal := &recorded{name: "EST simplereenroll by certificate", endpoint: "est", other: "est2", der: d.csr, cert: a.cert}
	renewal.send = func(endpoint string, der []byte) string {
		return w.overEST(renewal, w.client(&old), endpoint+"/simplereenroll", "", der)
	}
	renewal.changes = map[string]func() string{
		"without the certificate": func() string { return w.overEST(renewal, w.client(nil), "simplereenroll", "", renewal.der) },
		"with another's":          func() string { return w.overEST(renewal, w.client(w.insider), "simplereenroll", "", renewal.der) },
		"as simpleenroll":         func() string { return w.overEST(renewal, w.client(&old), "simpleenroll", "", renewal.der) },
	}
	w.record(renewal)

	bts := vendor.issue(w.t, "SN-3", ecTestKey(w.t))
	shown := &device{key: bts.key, cert: bts.cert}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		c, own := w.over(shown, version)
		csr := linkedRequest(w.t, fmt.Sprintf("replayed-linked-%x", version), oidChallenge, own)
		a, err := w.post(w.t.Context(), c, "linked/simpleenroll", "", "", "application/pkcs10", []byte(toBase64(csr)))
		if err != nil || a.cert == nil {
			w.t.Fatal(a, err)
		}
		c.CloseIdleConnections()
		linked := &recorded{name: "EST linked, " + tls.VersionName(version), endpoint: "linked", other: "linked", der: csr, cert: a.cert}
		linked.send = func(endpoint string, der []byte) string {
			again, _ := w.over(shown, version)
			return w.overEST(linked, again, endpoint+"/simpleenroll", "", der)
		}
		linked.changes = map[string]func() string{"in a resumed session": func() string {
			again := w.client(shown)
			conf := again.Transport.(*http.Transport).TLSClientConfig
			conf.MinVersion, conf.MaxVersion, conf.ClientSessionCache = version, version, tls.NewLRUClientSessionCache(1)
			resumed := w.resuming(again)
			if _, err := again.Get(w.env["MUSTER_HTTPS"] + "/.well-known/est/cacerts"); err != nil {
				w.t.Fatal(err)
			}
			again.CloseIdleConnections()
			outcome := w.overEST(linked, again, "linked/simpleenroll", "", csr)
			if !*resumed {
				w.t.Error("the session is not resumed")
			}
			return outcome
		}}
		w.record(linked)
	}
}

// flipped is a request with a bit of its signature changed.
func flipped(der []byte) []byte {
	der = bytes.Clone(der)
	der[len(der)-1] ^= 1
	return der
}

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
