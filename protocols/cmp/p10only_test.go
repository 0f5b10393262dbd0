package cmp

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"math/big"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// `bodies` names what asks for a certificate, each once.
func TestBodiesConfig(t *testing.T) {
	for text, want := range map[string]string{
		"bodies: [p10cr]":              "",
		"bodies: [ir, cr, kur, p10cr]": "",
		"bodies: []":                   "none would ask for a certificate",
		"bodies: [p10rc]":              `did you mean "p10cr"`,
		"bodies: [rr]":                 `"rr" does not ask for a certificate`,
		"bodies: [certConf]":           "does not ask for a certificate",
		"bodies: [ir, ir]":             "ir stands twice",
		"bodies: p10cr":                "list",
	} {
		var f struct {
			CMP Config `yaml:"cmp"`
		}
		err := strictyaml.Decode("muster.yaml", []byte("cmp: {"+text+"}\n"), &f)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "muster.yaml:1")) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	for _, tc := range []struct {
		bodies []BodyName
		op     gateway.Operation
		want   string
	}{
		{nil, gateway.Enroll, "ir cr p10cr"}, {nil, gateway.Renew, "kur"}, {nil, gateway.Rekey, "kur"}, {nil, gateway.Revoke, ""},
		{[]BodyName{BodyP10CR}, gateway.Enroll, "p10cr"}, {[]BodyName{BodyP10CR}, gateway.Renew, "p10cr"},
		{[]BodyName{BodyIR}, gateway.Rekey, ""}, {[]BodyName{BodyKUR}, gateway.Enroll, ""}, {[]BodyName{BodyKUR, BodyP10CR}, gateway.Rekey, "kur"},
	} {
		if got := strings.Join(namesOf(Config{Bodies: tc.bodies}.TakesFor(tc.op)), " "); got != tc.want {
			t.Errorf("%v, %s: %s, want %s", tc.bodies, tc.op, got, tc.want)
		}
	}
}

// A request for a certificate that the endpoint does not take is badRequest, protected as it was, and nobody is asked; what asks for
// none is answered all the same.
func TestBodiesNotTaken(t *testing.T) {
	key := newP256()
	all := map[BodyName]cmpmsg.Body{
		BodyIR:    crmf{kind: cmpmsg.TypeIR, key: key, subject: "device-1"}.body(t),
		BodyCR:    crmf{kind: cmpmsg.TypeCR, key: key, subject: "device-1"}.body(t),
		BodyKUR:   crmf{kind: cmpmsg.TypeKUR, key: key, subject: "device-1"}.body(t),
		BodyP10CR: &cmpmsg.PKCS10{CSR: csr(t, key, "device-1")},
	}
	for only := range all {
		w := newWorld(t, worldOptions{config: Config{Bodies: []BodyName{only}}})
		for name, body := range all {
			for how, c := range map[string]*client{"MAC": w.macClient("ref-1"), "signature": w.vendorClient("device-1")} {
				asked := len(w.gateway.enrolled)
				m := c.ask(body)
				if name == only {
					if len(w.gateway.enrolled) == asked && !(only == BodyKUR && how == "MAC") {
						t.Errorf("%s alone: %s is not taken: %+v", only, name, m.Body)
					}
					continue
				}
				fail, text, _ := failure(m)
				if _, ok := m.Body.(*cmpmsg.ErrorMsg); !ok || fail != cmpmsg.BadRequest || !strings.Contains(text, "does not take "+string(name)+": send "+string(only)) ||
					m.Header.ProtectionAlg.IsMAC() != (how == "MAC") {
					t.Errorf("%s alone, %s, %s: %s, %v %q", only, name, how, m.Body.Type(), fail, text)
				}
				if len(w.gateway.enrolled) != asked {
					t.Errorf("%s alone: %s is asked for", only, name)
				}
			}
		}
	}
	w := newWorld(t, worldOptions{config: Config{Bodies: []BodyName{BodyP10CR}}})
	c := w.macClient("ref-1")
	cert := certificate(t, c.ask(all[BodyP10CR]), cmpmsg.TypeCP)
	if m := c.ask(confirmation(certHash(cert), -1)); m.Body.Type() != cmpmsg.TypePKIConf {
		t.Errorf("certConf: %+v", m.Body)
	}
	if m := w.macClient("ref-1").ask(&cmpmsg.General{Kind: cmpmsg.TypeGenM}); m.Body.Type() != cmpmsg.TypeGenP {
		t.Errorf("genm: %+v", m.Body)
	}
}

// Where no kur is taken, a p10cr that is signed with a certificate of ours and asks for its subject renews it: by the same pipelines.
func TestRenewalByPKCS10(t *testing.T) {
	none := func(*world, *client) {}
	for name, tt := range map[string]struct {
		bodies   []BodyName
		renews   bool
		asks     string // subject
		same     bool   // the old key
		stranger bool   // signed by a vendor's certificate
		change   func(*world, *client)
		want     gateway.Operation
	}{
		"new key":              {[]BodyName{BodyP10CR}, true, "device-1", false, false, none, gateway.Rekey},
		"same key":             {[]BodyName{BodyP10CR}, true, "device-1", true, false, none, gateway.Renew},
		"beside ir":            {[]BodyName{BodyIR, BodyP10CR}, true, "device-1", false, false, none, gateway.Rekey},
		"another subject":      {[]BodyName{BodyP10CR}, true, "device-2", false, false, none, gateway.Enroll},
		"no renewals there":    {[]BodyName{BodyP10CR}, false, "device-1", false, false, none, gateway.Enroll},
		"kur is there":         {nil, true, "device-1", false, false, none, gateway.Enroll},
		"a vendor's":           {[]BodyName{BodyP10CR}, true, "device-1", false, true, none, gateway.Enroll},
		"same name and serial": {[]BodyName{BodyP10CR}, true, "device-1", false, false, twin, gateway.Enroll},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, worldOptions{config: Config{Bodies: tt.bodies}})
			w.handler.endpoints["ran"].Renews = tt.renews
			oldKey := newP256()
			first := w.macClient("ref-1")
			old := certificate(t, first.ask(&cmpmsg.PKCS10{CSR: csr(t, oldKey, "device-1")}), cmpmsg.TypeCP)
			if got := w.gateway.last(t).Operation; got != gateway.Enroll {
				t.Errorf("the first is %s", got)
			}
			first.ask(confirmation(certHash(old), -1))
			c := w.signer(old, oldKey)
			if tt.stranger {
				c = w.vendorClient("device-1")
			}
			tt.change(w, c)
			var key crypto.Signer = newP256()
			if tt.same {
				key = oldKey
			}
			request := csr(t, key, tt.asks)
			certificate(t, c.ask(&cmpmsg.PKCS10{CSR: request}), cmpmsg.TypeCP)
			r := w.gateway.last(t)
			if r.Operation != tt.want || !bytes.Equal(r.CSR, request) || (r.OldCert != nil) != (tt.want != gateway.Enroll) {
				t.Errorf("%s, old %v", r.Operation, r.OldCert != nil)
			}
			if r.OldCert != nil && (!r.OldCert.Equal(old) || r.NewNames != nil || !bytes.Equal(r.Subject, old.RawSubject)) {
				t.Errorf("%+v", r)
			}
		})
	}
	t.Run("the store fails", func(t *testing.T) {
		w := newWorld(t, worldOptions{config: Config{Bodies: []BodyName{BodyP10CR}}})
		w.handler.endpoints["ran"].Renews = true
		c := w.vendorClient("device-1")
		w.gateway.fails = &gateway.Error{Reason: gateway.Unavailable, Err: errors.New("down")}
		fail, _, _ := failure(c.ask(&cmpmsg.PKCS10{CSR: csr(t, newP256(), "device-1")}))
		if fail != cmpmsg.SystemUnavail || len(w.gateway.enrolled) != 0 {
			t.Errorf("%v, %d asked for", fail, len(w.gateway.enrolled))
		}
	})
}

// twin has the client sign with a certificate of its own making that has issuer and serial number of the one that was issued.
func twin(w *world, c *client) {
	key := newP256()
	tmpl := &x509.Certificate{
		RawSubject: c.cert.RawSubject, SerialNumber: new(big.Int).Set(c.cert.SerialNumber), NotBefore: c.cert.NotBefore, NotAfter: c.cert.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, SubjectKeyId: []byte("twin"),
	}
	der, err := x509.CreateCertificate(nil, tmpl, w.ca.issuer, key.Public(), w.ca.key)
	if err == nil {
		c.cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	c.key, c.extra = key, [][]byte{der}
}
