package cmp

import (
	"bytes"
	"context"
	"crypto/x509"
	stdpkix "crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// tells is what the fake gateway says of the endpoint. The zero value has one profile, of the one CA, and no CRL.
type tells struct {
	profiles    []*gateway.Profile
	authorities map[string]*gateway.Authority // by the profile's name; nil: the world's CA
	crls        map[string]toldCRL            // by "backend/name"
	fails       error                         // of AuthorityOf and CRL
	asked       int                           // calls of CRL
}

type toldCRL struct {
	der  []byte
	info gateway.CRLInfo
}

func (g *fakeGateway) ProfilesOf(endpoint string) []*gateway.Profile {
	if endpoint == "" {
		return nil
	}
	if g.tells.profiles != nil {
		return g.tells.profiles
	}
	return []*gateway.Profile{{Name: "base-station", Backend: "local", KeyUsage: x509.KeyUsageDigitalSignature}}
}

func (g *fakeGateway) AuthorityOf(_ context.Context, p *gateway.Profile) (*gateway.Authority, error) {
	if g.tells.fails != nil {
		return nil, g.tells.fails
	}
	if a := g.tells.authorities[p.Name]; a != nil {
		return a, nil
	}
	return &gateway.Authority{Name: "ec", Chain: []*x509.Certificate{g.ca.issuer, g.ca.root}, CRLs: []string{"ec"}}, nil
}

func (g *fakeGateway) CRL(_ context.Context, backend, name string) ([]byte, gateway.CRLInfo, error) {
	g.tells.asked++
	if c, ok := g.tells.crls[backend+"/"+name]; ok {
		return c.der, c.info, g.tells.fails
	}
	return nil, gateway.CRLInfo{}, fmt.Errorf("%w: no CRL", gateway.ErrNotFound)
}

// genm makes the body; each element is an OID, or an InfoTypeAndValue.
func genm(elements ...any) *cmpmsg.General {
	g := &cmpmsg.General{Kind: cmpmsg.TypeGenM}
	for _, e := range elements {
		switch e := e.(type) {
		case asn1.ObjectIdentifier:
			g.Info = append(g.Info, cmpmsg.InfoTypeAndValue{Type: e})
		case cmpmsg.InfoTypeAndValue:
			g.Info = append(g.Info, e)
		}
	}
	return g
}

func itav(oid asn1.ObjectIdentifier, value []byte) cmpmsg.InfoTypeAndValue {
	return cmpmsg.InfoTypeAndValue{Type: oid, Value: value}
}

func texts(list ...string) []byte {
	der, err := cmpmsg.MarshalTexts(list...)
	if err != nil {
		panic(err)
	}
	return der
}

func oidValue(oid asn1.ObjectIdentifier) []byte {
	var b cryptobyte.Builder
	b.AddASN1ObjectIdentifier(oid)
	return b.BytesOrPanic()
}

// told are the elements of a genp.
func told(t testing.TB, m *cmpmsg.Message) []cmpmsg.InfoTypeAndValue {
	t.Helper()
	g, ok := m.Body.(*cmpmsg.General)
	if !ok || g.Kind != cmpmsg.TypeGenP {
		fail, text, _ := failure(m)
		t.Fatalf("the answer is %s: %b %s", m.Body.Type(), fail, text)
	}
	return g.Info
}

// one is the value of the only element, which has the type.
func one(t testing.TB, m *cmpmsg.Message, oid asn1.ObjectIdentifier) []byte {
	t.Helper()
	list := told(t, m)
	if len(list) != 1 || !list[0].Type.Equal(oid) {
		t.Fatalf("%d elements: %v", len(list), list)
	}
	return list[0].Value
}

// names writes algorithms for comparison.
func algorithmNames(list []cmpmsg.AlgorithmIdentifier) string {
	var names []string
	for _, a := range list {
		name := a.OID.String()
		for curve, oid := range curves {
			if bytes.Equal(a.Parameters, oidValue(oid)) {
				name = curve
			}
		}
		switch {
		case a.OID.Equal(oidRSA) && bytes.Equal(a.Parameters, asn1.NullBytes):
			name = "RSA"
		case a.OID.Equal(oidEd25519) && a.Parameters == nil:
			name = "Ed25519"
		}
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

func ecProfile() *gateway.Profile {
	return &gateway.Profile{Name: "base-station", Backend: "local", KeyUsage: x509.KeyUsageDigitalSignature, Keys: []string{"P-256", "P-384"},
		ExtKeyUsage: []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 2}}}
}

// Whoever can protect a message is answered, with protection of the same kind and the nonces of RFC 9810 section 5.1.1, which the
// client checks; nothing is stored.
func TestGeneralMessageProtection(t *testing.T) {
	w := newWorld(t, worldOptions{})
	for name, c := range map[string]*client{"MAC": w.macClient("ref-1"), "signature of whoever": w.vendorClient("nobody")} {
		m := c.ask(genm(cmpmsg.OIDCACerts))
		list, err := cmpmsg.ParseSequences(one(t, m, cmpmsg.OIDCACerts))
		if err != nil || len(list) != 2 || !bytes.Equal(list[0], w.ca.issuer.Raw) || !bytes.Equal(list[1], w.ca.root.Raw) {
			t.Errorf("%s: %d certificates, %v", name, len(list), err)
		}
		if m.Header.ProtectionAlg.IsMAC() != (c.key == nil) {
			t.Errorf("%s: protected by a MAC: %v", name, m.Header.ProtectionAlg.IsMAC())
		}
	}
	if len(w.gateway.enrolled)+len(w.gateway.order)+len(w.gateway.rejected)+len(w.gateway.heard) != 0 {
		t.Error("something was recorded")
	}
	if !strings.Contains(w.log.String(), "asked=caCerts") {
		t.Error("the log does not say what was asked for")
	}
	signs := newWorld(t, worldOptions{config: Config{Protection: ProtectSignature}})
	if m := signs.macClient("ref-1").ask(genm(cmpmsg.OIDCACerts)); m.Header.ProtectionAlg.IsMAC() {
		t.Error("the answer has a MAC where all are signed")
	}
}

// A genm says nothing of what is not for it: RFC 9810 section 5.1.1 (header), sections 5.3.19.x (values), 5.1.1.4 (certProfile).
func TestGeneralMessageRefused(t *testing.T) {
	var sources []cmpmsg.CRLStatus
	for range 17 {
		sources = append(sources, cmpmsg.CRLStatus{Issuer: element(0x30, cmpmsg.GeneralDirectoryName(cn("x")))})
	}
	null := []byte{5, 0}
	var many []any
	for range 17 {
		many = append(many, cmpmsg.OIDSignKeyPairTypes)
	}
	type row struct {
		name string
		body *cmpmsg.General
		prep func(*client)
		want cmpmsg.FailInfo
		text string
	}
	rows := []row{
		{name: "unprotected", body: genm(cmpmsg.OIDCACerts), prep: func(c *client) {
			c.change = func(o *cmpmsg.Outgoing) { o.Header.ProtectionAlg = nil }
		}, want: cmpmsg.BadMessageCheck, text: "not protected"},
		{name: "wrong MAC", body: genm(cmpmsg.OIDCACerts), prep: func(c *client) { c.secret = []byte("wrong") }, want: cmpmsg.BadMessageCheck},
		{name: "old", body: genm(cmpmsg.OIDCACerts), prep: func(c *client) {
			c.change = func(o *cmpmsg.Outgoing) { o.Header.MessageTime = testTime.Add(-time.Hour) }
		}, want: cmpmsg.BadTime},
		{name: "recipNonce", body: genm(cmpmsg.OIDCACerts), prep: func(c *client) { c.peer = random(16) }, want: cmpmsg.BadRecipientNonce},
		{name: "17 elements", body: genm(many...), want: cmpmsg.BadRequest, text: "16 at most"},
		{name: "more profiles than elements", body: genm(cmpmsg.OIDCACerts), prep: func(c *client) { c.info = profiles("", "") }, want: cmpmsg.BadRequest, text: "more profiles than there are elements"},
		{name: "a profile for the empty set", body: genm(), prep: func(c *client) { c.info = profiles("") }, want: cmpmsg.BadRequest, text: "more profiles"},
		{name: "unknown profile", body: genm(cmpmsg.OIDCACerts), prep: func(c *client) { c.info = profiles("gold") }, want: cmpmsg.BadCertTemplate, text: "no such profile"},
		{name: "unknown profile of an element that is not known", body: genm(asn1.ObjectIdentifier{1, 2, 3}), prep: func(c *client) { c.info = profiles("gold") }, want: cmpmsg.BadCertTemplate},
		{name: "a language of others", body: genm(itav(cmpmsg.OIDSuppLangTags, texts("de", "fr"))), want: cmpmsg.BadRequest, text: "English"},
		{name: "a tag that only begins so", body: genm(itav(cmpmsg.OIDSuppLangTags, texts("enm"))), want: cmpmsg.BadRequest},
		{name: "languages that do not parse", body: genm(itav(cmpmsg.OIDSuppLangTags, null)), want: cmpmsg.BadDataFormat, text: "suppLangTags does not parse"},
		{name: "root that does not parse", body: genm(itav(cmpmsg.OIDRootCACert, null)), want: cmpmsg.BadDataFormat, text: "rootCaCert does not parse"},
		{name: "CRL sources that do not parse", body: genm(itav(cmpmsg.OIDCRLStatusList, null)), want: cmpmsg.BadDataFormat, text: "crlStatusList does not parse"},
		{name: "17 CRL sources", body: genm(itav(cmpmsg.OIDCRLStatusList, crlSources(t, sources...))), want: cmpmsg.BadRequest, text: "16 sources"},
		{name: "key parameters of nothing", body: genm(itav(cmpmsg.OIDKeyPairParamReq, null)), want: cmpmsg.BadDataFormat, text: "keyPairParamReq"},
		{name: "the good one before the bad", body: genm(cmpmsg.OIDCACerts, itav(cmpmsg.OIDSignKeyPairTypes, null)), want: cmpmsg.BadRequest, text: "without a value"},
	}
	for _, oid := range []asn1.ObjectIdentifier{
		cmpmsg.OIDCAProtEncCert, cmpmsg.OIDSignKeyPairTypes, cmpmsg.OIDEncKeyPairTypes, cmpmsg.OIDPreferredSymmAlg, cmpmsg.OIDCurrentCRL,
		cmpmsg.OIDCACerts, cmpmsg.OIDCertReqTemplate,
	} {
		rows = append(rows, row{name: cmpmsg.InfoTypeName(oid) + " with a value", body: genm(itav(oid, null)), want: cmpmsg.BadRequest, text: "without a value"})
	}
	for _, oid := range []asn1.ObjectIdentifier{cmpmsg.OIDKeyPairParamReq, cmpmsg.OIDSuppLangTags, cmpmsg.OIDCRLStatusList} {
		rows = append(rows, row{name: cmpmsg.InfoTypeName(oid) + " without a value", body: genm(oid), want: cmpmsg.BadRequest, text: "with a value"})
	}
	for _, tt := range rows {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, worldOptions{})
			c := w.macClient("ref-1")
			if tt.prep != nil {
				tt.prep(c)
			}
			m := c.ask(tt.body)
			fail, text, _ := failure(m)
			if fail != tt.want || !strings.Contains(text, tt.text) || m.Body.Type() != cmpmsg.TypeError {
				t.Errorf("failInfo %b, want %b; %s %q", fail, tt.want, m.Body.Type(), text)
			}
			if len(w.gateway.rejected) != 1 {
				t.Errorf("%d refusals noted", len(w.gateway.rejected))
			}
			if shown := fail != cmpmsg.BadMessageCheck && fail != cmpmsg.BadRecipientNonce; shown != m.Header.ProtectionAlg.IsMAC() {
				t.Errorf("protected by a MAC: %v", m.Header.ProtectionAlg.IsMAC())
			}
		})
	}
}

// RFC 9810 section 5.1.1: no message takes part under the transactionID of a transaction that is open.
func TestGeneralMessageTransactionInUse(t *testing.T) {
	w := newWorld(t, worldOptions{})
	c := w.macClient("ref-1")
	c.ask(crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "x"}.body(t))
	c.peer = nil
	if fail, text, _ := failure(c.ask(genm(cmpmsg.OIDCACerts))); fail != cmpmsg.TransactionIDInUse {
		t.Errorf("%b %s", fail, text)
	}
}

// Several elements are answered in order; those not known here come in unsupportedOIDs, each once (RFC 9810 section 5.3.19.7).
func TestGeneralMessageOrder(t *testing.T) {
	w := newWorld(t, worldOptions{})
	unknown := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}
	list := told(t, w.macClient("ref-1").ask(genm(
		cmpmsg.OIDPreferredSymmAlg, itav(unknown, []byte{2, 1, 5}), cmpmsg.OIDCACerts, unknown, cmpmsg.OIDRootCACert,
		itav(cmpmsg.OIDSuppLangTags, texts("de", "EN-gb", "en")), itav(cmpmsg.OIDRevPassphrase, []byte{4, 0}), cmpmsg.OIDCurrentCRL, cmpmsg.OIDCAProtEncCert)))
	var got []string
	for _, v := range list {
		got = append(got, fmt.Sprintf("%s %v", cmpmsg.InfoTypeName(v.Type), v.Value != nil))
	}
	want := []string{"preferredSymmAlg true", "caCerts true", "rootCaKeyUpdate false", "suppLangTags true", "caProtEncCert false", "unsupportedOIDs true"}
	if !slices.Equal(got, want) {
		t.Fatal(got)
	}
	if tags, err := cmpmsg.ParseTexts(list[3].Value); err != nil || !slices.Equal(tags, []string{"EN-gb"}) {
		t.Errorf("languages %q, %v", tags, err)
	}
	oids, err := cmpmsg.ParseOIDs(list[5].Value)
	if err != nil || fmt.Sprint(oids) != fmt.Sprint([]asn1.ObjectIdentifier{unknown, cmpmsg.OIDRevPassphrase, cmpmsg.OIDCurrentCRL}) {
		t.Errorf("unsupported %v, %v", oids, err)
	}
	if a, err := cmpmsg.ParseAlgorithm(list[0].Value); err != nil || !a.OID.Equal(oidAES256) {
		t.Errorf("%v, %v", a, err)
	}
}

// RFC 9810 appendices D.5 and F: the empty set asks for all that there is to tell; what is absent or not there is left out.
func TestGeneralMessageEmpty(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.gateway.tells.profiles = []*gateway.Profile{ecProfile()}
	var got []string
	for _, v := range told(t, w.macClient("ref-1").ask(genm())) {
		got = append(got, cmpmsg.InfoTypeName(v.Type))
	}
	if want := []string{"caCerts", "signKeyPairTypes", "preferredSymmAlg", "certReqTemplate"}; !slices.Equal(got, want) {
		t.Error(got)
	}
}

// generalSeed asks for all that is known, with values where they are due.
func generalSeed(t testing.TB) *cmpmsg.General {
	t.Helper()
	return genm(cmpmsg.OIDCAProtEncCert, cmpmsg.OIDSignKeyPairTypes, cmpmsg.OIDEncKeyPairTypes, cmpmsg.OIDPreferredSymmAlg, cmpmsg.OIDCurrentCRL,
		itav(cmpmsg.OIDKeyPairParamReq, oidValue(oidEC)), itav(cmpmsg.OIDSuppLangTags, texts("en")), cmpmsg.OIDCACerts, cmpmsg.OIDCertReqTemplate,
		itav(cmpmsg.OIDRootCACert, newTestCA(t, "Seed", newP256()).root.Raw), itav(cmpmsg.OIDCRLStatusList, crlSources(t,
			cmpmsg.CRLStatus{Issuer: element(0x30, cmpmsg.GeneralDirectoryName(cn("x"))), ThisUpdate: testTime},
			cmpmsg.CRLStatus{DistributionPoint: element(0xa0, element(0x86, []byte("http://x/crl/local/ec.crl")))})), asn1.ObjectIdentifier{1, 2, 3})
}

// What openssl makes of the answers: it prints their types, and goes on with a transaction of its own.
func TestOpenSSLGeneralMessages(t *testing.T) {
	w := newWorld(t, worldOptions{})
	o := newOpenSSL(t, w)
	w.publish("ec", w.ca, testTime, 1)
	key := newP256()
	o.key("device.key", key)
	o.write("device.pem", "CERTIFICATE", w.ca.issue(t, &x509.Certificate{Subject: stdpkix.Name{CommonName: "device-1"}, KeyUsage: x509.KeyUsageDigitalSignature}, key.Public()).Raw)
	for _, protection := range [][]string{
		{"-ref", "ref-1", "-secret", "pass:correct horse battery staple"},
		{"-cert", "device.pem", "-key", "device.key", "-trusted", "root.pem"},
	} {
		for infoType, want := range map[string]string{
			"": "id-it-caCerts", "signKeyPairTypes": "id-it-signKeyPairTypes", "preferredSymmAlg": "id-it-preferredSymmAlg", "currentCRL": "id-it-currentCRL",
			"caCerts": "id-it-caCerts", "certReqTemplate": "id-it-certReqTemplate", "encKeyPairTypes": "id-it-unsupportedOIDs",
		} {
			args := append([]string{"-cmd", "genm"}, protection...)
			if infoType != "" {
				args = append(args, "-infotype", infoType)
			}
			if out := o.must(args...); !strings.Contains(out, want) {
				t.Errorf("%s: %s", infoType, out)
			}
		}
	}
	if n := len(w.gateway.rejected); n != 0 {
		t.Errorf("%d refusals, the first: %v", n, w.gateway.rejected[0])
	}
}
