package e2e

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
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
