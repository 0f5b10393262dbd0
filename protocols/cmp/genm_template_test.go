package cmp

import (
	"bytes"
	"crypto/x509"
	stdpkix "crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// RFC 9810 sections 5.3.19.2, 5.3.19.3 and 5.3.19.8: keys that the profile certifies, a curve each, RSA once.
func TestGeneralMessageKeys(t *testing.T) {
	for _, tt := range []struct {
		keys    []string
		usage   x509.KeyUsage
		signing string // "" for unsupported
		enc     string
	}{
		{nil, x509.KeyUsageDigitalSignature, "P-256 P-384 P-521 Ed25519 RSA", ""},
		{[]string{"RSA>=3072", "RSA-2048", "P-384"}, x509.KeyUsageDigitalSignature, "RSA P-384", ""},
		{[]string{"P-256", "Ed25519", "RSA-3072"}, x509.KeyUsageKeyEncipherment, "", "RSA"},
		{[]string{"P-256", "Ed25519", "RSA-3072"}, x509.KeyUsageKeyAgreement, "", "P-256"},
		{[]string{"P-256", "Ed25519", "RSA-3072"}, x509.KeyUsageDigitalSignature | x509.KeyUsageKeyAgreement | x509.KeyUsageKeyEncipherment, "P-256 Ed25519 RSA", "P-256 RSA"},
		{[]string{"P-256", "Ed25519"}, 0, "P-256 Ed25519", "P-256"},
	} {
		w := newWorld(t, worldOptions{})
		w.gateway.tells.profiles = []*gateway.Profile{{Name: "p", Backend: "local", Keys: tt.keys, KeyUsage: tt.usage}}
		for oid, want := range map[*asn1.ObjectIdentifier]string{&cmpmsg.OIDSignKeyPairTypes: tt.signing, &cmpmsg.OIDEncKeyPairTypes: tt.enc} {
			m := w.macClient("ref-1").ask(genm(*oid))
			if want == "" {
				one(t, m, cmpmsg.OIDUnsupportedOIDs)
				continue
			}
			list, err := cmpmsg.ParseAlgorithms(one(t, m, *oid))
			if got := algorithmNames(list); err != nil || got != want {
				t.Errorf("%v, %v: %s %q, %v", tt.keys, tt.usage, cmpmsg.InfoTypeName(*oid), got, err)
			}
		}
	}
	w := newWorld(t, worldOptions{})
	w.gateway.tells.profiles = []*gateway.Profile{{Name: "p", Backend: "local", Keys: []string{"P-384", "P-256", "Ed25519"}}}
	for oid, want := range map[*asn1.ObjectIdentifier]string{&oidEC: "P-384", &oidEd25519: "Ed25519", &oidRSA: ""} {
		value := one(t, w.macClient("ref-1").ask(genm(itav(cmpmsg.OIDKeyPairParamReq, oidValue(*oid)))), cmpmsg.OIDKeyPairParamRep)
		if want == "" {
			if value != nil {
				t.Errorf("%v: %x", *oid, value)
			}
			continue
		}
		a, err := cmpmsg.ParseAlgorithm(value)
		if err != nil || algorithmNames([]cmpmsg.AlgorithmIdentifier{*a}) != want {
			t.Errorf("%v: %v, %v", *oid, a, err)
		}
	}
}

// wanting is a Shaper that wants names.
type wanting gateway.NamesWanted

func (wanting) Shape(*gateway.Request, *gateway.Grant) error { return nil }
func (w wanting) DerivesSubject() bool                       { return len(w.Subject) == 0 }
func (w wanting) NamesWanted() gateway.NamesWanted           { return gateway.NamesWanted(w) }

// RFC 9810 section 5.3.19.16: a template of the profile that certProfile names (section 5.1.1.4), without a public key; the
// keys are in keySpec, one control each.
func TestCertReqTemplate(t *testing.T) {
	w := newWorld(t, worldOptions{})
	derived, rsa := ecProfile(), ecProfile()
	derived.Name, derived.Shaper, derived.ExtKeyUsage, derived.KeyUsage = "derived", wanting{}, nil, 0
	rsa.Name, rsa.Keys = "rsa", []string{"RSA>=3072", "RSA-2048", "Ed25519"}
	rsa.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageDecipherOnly
	rsa.Shaper = wanting{Subject: []asn1.ObjectIdentifier{{2, 5, 4, 5}, {2, 5, 4, 3}}, SAN: []uint8{2, 7}}
	w.gateway.tells.profiles = []*gateway.Profile{ecProfile(), derived, rsa}
	c := w.macClient("ref-1")
	c.info = profiles("", "derived", "rsa") // the fourth element has none
	list := told(t, c.ask(genm(cmpmsg.OIDCertReqTemplate, cmpmsg.OIDCertReqTemplate, cmpmsg.OIDCertReqTemplate, cmpmsg.OIDCertReqTemplate)))
	if len(list) != 4 || !bytes.Equal(list[0].Value, list[3].Value) {
		t.Fatalf("%d templates", len(list))
	}
	type outline struct {
		subject string // OIDs
		san     string // tags
		usage   string // hexadecimal
		eku     bool
		keys    string
	}
	for i, want := range []outline{
		{"2.5.4.3 ", "", "03020780", true, "P-256 P-384 "},
		{"", "", "", false, "P-256 P-384 "},
		{"2.5.4.5 2.5.4.3 ", "2 7 ", "0303078080", true, "3072 4096 2048 Ed25519 "},
	} {
		tmpl, err := cmpmsg.ParseCertReqTemplate(list[i].Value)
		if err != nil {
			t.Fatal(err)
		}
		var got outline
		if tmpl.Template.Subject != nil {
			var rdns stdpkix.RDNSequence
			if rest, err := asn1.Unmarshal(tmpl.Template.Subject, &rdns); err != nil || len(rest) > 0 {
				t.Fatal(err)
			}
			for _, rdn := range rdns {
				if len(rdn) != 1 || rdn[0].Value != "" {
					t.Errorf("%d: %v", i, rdn)
				}
				got.subject += rdn[0].Type.String() + " "
			}
		}
		if tmpl.Template.Extensions != nil {
			extensions, err := pkix.ParseExtensions(tmpl.Template.Extensions)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range extensions {
				switch {
				case e.Id.Equal(oidSubjectAltName):
					in := cryptobyte.String(e.Value)
					var seq, name cryptobyte.String
					var tag cbasn1.Tag
					for in.ReadASN1(&seq, cbasn1.SEQUENCE); seq.ReadAnyASN1(&name, &tag) && name.Empty(); {
						got.san += fmt.Sprint(tag&0x1f) + " "
					}
				case e.Id.Equal(oidKeyUsage):
					got.usage = fmt.Sprintf("%x", e.Value)
				case e.Id.Equal(oidExtKeyUsage):
					got.eku = true
				}
			}
		}
		for _, k := range tmpl.KeySpec {
			if k.Type.Equal(cmpmsg.OIDRSAKeyLen) {
				got.keys += fmt.Sprint(new(big.Int).SetBytes(k.Value[2:])) + " "
				continue
			}
			a, err := cmpmsg.ParseAlgorithm(k.Value)
			if err != nil || !k.Type.Equal(cmpmsg.OIDAlgID) {
				t.Fatalf("%v, %v", k.Type, err)
			}
			got.keys += algorithmNames([]cmpmsg.AlgorithmIdentifier{*a}) + " "
		}
		if got != want {
			t.Errorf("%d: %+v, want %+v", i, got, want)
		}
		if tt := tmpl.Template; tt.PublicKey != nil || tt.Issuer != nil || !tt.NotAfter.IsZero() || tt.SerialNumber != nil {
			t.Errorf("%d: more than that: %+v", i, tt)
		}
	}
}
