package cmp

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/plugins/backend/strictyaml"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// What `type: 3gpp` says where the section says nothing, what may be said otherwise, and what may not.
func TestType3GPPConfig(t *testing.T) {
	type file struct {
		CMP Config `yaml:"cmp"`
	}
	decode := func(text string) (Config, error) {
		var f file
		err := strictyaml.Decode("muster.yaml", []byte("cmp: {"+text+"}\n"), &f)
		return f.CMP.WithDefaults(), err
	}
	for text, want := range map[string]struct {
		confirm Confirm
		skew    Skew
		caPubs  bool
	}{
		"type: 3gpp":                    {ConfirmExplicit, Skew{Any: true}, true},
		"type: 3gpp, confirm: explicit": {ConfirmExplicit, Skew{Any: true}, true},
		"type: 3gpp, clock-skew: 300s":  {ConfirmExplicit, Skew{Window: 300 * time.Second}, true},
		"type: 3gpp, ca-pubs: false":    {ConfirmExplicit, Skew{Any: true}, false},
		"ca-pubs: false, type: 3gpp":    {ConfirmExplicit, Skew{Any: true}, false},
		"confirm-wait: 5m":              {ConfirmOnRequest, Skew{Window: 300 * time.Second}, false},
	} {
		c, err := decode(text)
		if err != nil || c.Confirm != want.confirm || c.ClockSkew != want.skew || c.CAPubs != want.caPubs {
			t.Errorf("%s: %v, %+v", text, err, c)
		}
	}
	for text, want := range map[string]string{
		"type: 3gp":                       `did you mean "3gpp"`,
		"type: 3gpp, confirm: on-request": "has every certificate confirmed",
		"type: 3gpp, legacy: [sha1]":      "forbids SHA-1",
		"type: [3gpp]":                    "type",
	} {
		if _, err := decode(text); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "muster.yaml:1") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// 3GPP TS 33.310 clause 9: signed messages alone, no implicit confirmation, the root in extraCerts and caPubs, a clock or none.
func TestType3GPP(t *testing.T) {
	w := newWorld(t, worldOptions{config: Config{Type: Type3GPP, CAPubs: true}})
	body := func() cmpmsg.Body { return crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}.body(t) }

	c := w.vendorClient("device-1")
	c.change = func(o *cmpmsg.Outgoing) {
		o.Header.MessageTime = time.Time{}
		o.Header.GeneralInfo = []cmpmsg.InfoTypeAndValue{implicitConfirm()}
	}
	m := c.ask(body())
	cert := certificate(t, m, cmpmsg.TypeIP)
	pubs := m.Body.(*cmpmsg.CertRepMessage).CAPubs
	if n := len(m.ExtraCerts); len(pubs) != 1 || !bytes.Equal(pubs[0], w.ca.root.Raw) || !bytes.Equal(m.ExtraCerts[n-1], w.ca.root.Raw) {
		t.Errorf("%d caPubs, %d extraCerts", len(pubs), n)
	}
	if asks(&m.Header, cmpmsg.OIDImplicitConfirm) {
		t.Error("implicit confirmation was granted")
	}
	m = c.ask(confirmation(certHash(cert), 0))
	if _, ok := m.Body.(*cmpmsg.PKIConf); !ok || !bytes.Equal(m.ExtraCerts[len(m.ExtraCerts)-1], w.ca.root.Raw) {
		t.Errorf("%T, %d extraCerts", m.Body, len(m.ExtraCerts))
	}

	// A MAC, under a secret that is known or one that is not: no secret is looked for, and the answer is signed.
	for _, body := range []cmpmsg.Body{body(), &cmpmsg.General{Kind: cmpmsg.TypeGenM}} {
		for _, ref := range []string{"ref-1", "nobody"} {
			w.gateway.references = nil
			m := w.macClient(ref).ask(body)
			fail, text, rejection := failure(m)
			if fail != cmpmsg.WrongIntegrity || rejection || m.Header.ProtectionAlg.IsMAC() || !strings.Contains(text, "signed messages only") || len(w.gateway.references) != 0 {
				t.Errorf("%s: %v %s", ref, fail, text)
			}
		}
	}
}
