package e2e

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// curious is a device that asks the gateway about itself.
type curious struct {
	*cmpDevice
	g   *instance
	dir string
}

// asks sends a genm and returns the value that one infoType is answered with, and whether it is there. The answer as it came
// is in answer.der.
func (c *curious) asks(reply asn1.ObjectIdentifier, info ...cmpmsg.InfoTypeAndValue) ([]byte, bool) {
	c.t.Helper()
	c.tid, c.peer = random(16), nil
	der, err := c.post(c.message(&cmpmsg.General{Kind: cmpmsg.TypeGenM, Info: info}))
	if err != nil {
		c.t.Fatal(err)
	}
	m, err := c.take(der)
	if err != nil {
		c.t.Fatal(err)
	}
	body, ok := m.Body.(*cmpmsg.General)
	if !ok || body.Kind != cmpmsg.TypeGenP {
		c.t.Fatalf("answered %s: %s", m.Body.Type(), failure(m))
	}
	c.file("answer.der", der)
	for _, v := range body.Info {
		if v.Type.Equal(reply) {
			return v.Value, true
		}
	}
	return nil, false
}

func (c *curious) file(name string, data []byte) {
	c.t.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, name), data, 0o600); err != nil {
		c.t.Fatal(err)
	}
}

func (c *curious) pem(name string, certs ...[]byte) {
	c.t.Helper()
	var b bytes.Buffer
	for _, der := range certs {
		if err := pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
			c.t.Fatal(err)
		}
	}
	c.file(name, b.Bytes())
}

// What a device can ask before it enrols and afterwards, over a change of the root's key. openssl judges what comes back.
func TestGeneralMessages(t *testing.T) {
	g, dir := rolling(t)
	d := g.cmpDevice("curious")
	d.ref, d.secret = "factory", []byte(rolloverSecret)
	c := &curious{d, g, dir}
	g.sh(dir, `openssl x509 -in "$MUSTER_CA" -out old-root.pem`)
	old := certificates(t, filepath.Join(dir, "old-root.pem"))[0]

	// openssl itself, with a MAC and, once it has a certificate, with a signature.
	g.sh(dir, ecKey+`device.key
		openssl cmp -config '' -batch -cmd ir -server "$MUSTER_HTTP" -path .well-known/cmp -ref factory -secret pass:`+rolloverSecret+` \
			-newkey device.key -subject /CN=asker -certout device.pem 2>cmp.log || { cat cmp.log; exit 1; }`)
	for _, protection := range []string{`-ref factory -secret pass:` + rolloverSecret, `-cert device.pem -key device.key -trusted old-root.pem`} {
		for infoType, want := range map[string]string{
			"signKeyPairTypes": "id-it-signKeyPairTypes", "preferredSymmAlg": "id-it-preferredSymmAlg", "currentCRL": "id-it-currentCRL",
			"caCerts": "id-it-caCerts", "certReqTemplate": "id-it-certReqTemplate", "encKeyPairTypes": "id-it-unsupportedOIDs",
		} {
			out := g.sh(dir, `openssl cmp -config '' -cmd genm -infotype `+infoType+` -server "$MUSTER_HTTP" -path .well-known/cmp `+protection+` 2>&1`)
			if !strings.Contains(out, want) {
				t.Errorf("%s: %s", infoType, out)
			}
		}
	}

	// The CA's certificates.
	value, _ := c.asks(cmpmsg.OIDCACerts, cmpmsg.InfoTypeAndValue{Type: cmpmsg.OIDCACerts})
	certs, err := cmpmsg.ParseSequences(value)
	if err != nil || len(certs) != 2 {
		t.Fatalf("%d certificates, %v", len(certs), err)
	}
	c.pem("cacerts.pem", certs...)
	if out := g.sh(dir, `openssl verify -CAfile old-root.pem -untrusted cacerts.pem device.pem; openssl asn1parse -inform DER -in answer.der`); !strings.Contains(out, "device.pem: OK") || !strings.Contains(out, "id-it-caCerts") {
		t.Error(out)
	}

	// What the profile wants of a request.
	value, _ = c.asks(cmpmsg.OIDCertReqTemplate, cmpmsg.InfoTypeAndValue{Type: cmpmsg.OIDCertReqTemplate})
	if tmpl, err := cmpmsg.ParseCertReqTemplate(value); err != nil || tmpl.Template.PublicKey != nil || tmpl.Template.Subject == nil || len(tmpl.KeySpec) < 6 {
		t.Errorf("%+v, %v", tmpl, err)
	}
	if out := g.sh(dir, `"$MUSTER" cmp decode answer.der`); !strings.Contains(out, "certReqTemplate") || !strings.Contains(out, "rsaKeyLen") || !strings.Contains(out, "keyUsage") {
		t.Error(out)
	}

	// The CRL, and newer ones alone.
	value, _ = c.asks(cmpmsg.OIDCurrentCRL, cmpmsg.InfoTypeAndValue{Type: cmpmsg.OIDCurrentCRL})
	c.file("current.crl", value)
	if out := g.sh(dir, `openssl crl -inform DER -in current.crl -noout -CAfile cacerts.pem 2>&1`); !strings.Contains(out, "verify OK") {
		t.Error(out)
	}
	crl, err := pkix.ParseCRL(value)
	if err != nil {
		t.Fatal(err)
	}
	for known, want := range map[time.Time]int{{}: 1, crl.ThisUpdate.Add(-time.Second): 1, crl.ThisUpdate: 0} {
		names, err := asn1.Marshal([]asn1.RawValue{{FullBytes: cmpmsg.GeneralDirectoryName(crl.Issuer)}})
		if err != nil {
			t.Fatal(err)
		}
		status, err := cmpmsg.MarshalCRLStatusList(cmpmsg.CRLStatus{Issuer: names, ThisUpdate: known})
		if err != nil {
			t.Fatal(err)
		}
		value, answered := c.asks(cmpmsg.OIDCRLs, cmpmsg.InfoTypeAndValue{Type: cmpmsg.OIDCRLStatusList, Value: status})
		crls := 0
		if value != nil {
			list, err := cmpmsg.ParseSequences(value)
			if err != nil {
				t.Fatal(err)
			}
			crls = len(list)
		}
		if !answered || crls != want {
			t.Errorf("known of %s: %d CRLs, want %d", known, crls, want)
		}
	}

	// The root: nothing follows it, until its key is changed.
	mine := cmpmsg.InfoTypeAndValue{Type: cmpmsg.OIDRootCACert, Value: old.Raw}
	if value, answered := c.asks(cmpmsg.OIDRootCAKeyUpdate, mine); !answered || value != nil {
		t.Errorf("before any change: %d bytes", len(value))
	}
	g.change("rekey", "local/ec", "--root")
	for _, q := range []cmpmsg.InfoTypeAndValue{mine, {Type: cmpmsg.OIDRootCACert}} {
		c.followed(q, old)
	}
	// A second change: who has the first root is led on, step by step.
	g.change("rekey", "local/ec", "--root")
	current := certificates(t, filepath.Join(g.dir, "ca", "roots.pem"))[0]
	steps := 0
	for root := old; !root.Equal(current); steps++ {
		if steps == 2 {
			t.Fatal("two steps do not lead to the current root")
		}
		root = c.followed(cmpmsg.InfoTypeAndValue{Type: cmpmsg.OIDRootCACert, Value: root.Raw}, root)
	}
	if steps != 2 {
		t.Errorf("%d steps", steps)
	}
	if value, _ := c.asks(cmpmsg.OIDRootCAKeyUpdate, cmpmsg.InfoTypeAndValue{Type: cmpmsg.OIDRootCACert, Value: current.Raw}); value != nil {
		t.Error("something follows the current root")
	}
	// Nothing of this is a transaction: there is the one that openssl enrolled.
	if n := len(g.transactions("asker")); n != 1 {
		t.Errorf("%d transactions", n)
	}
}

// followed asks what follows a root, has openssl verify the links, and returns the new one.
func (c *curious) followed(q cmpmsg.InfoTypeAndValue, old *x509.Certificate) *x509.Certificate {
	c.t.Helper()
	value, _ := c.asks(cmpmsg.OIDRootCAKeyUpdate, q)
	u, err := cmpmsg.ParseRootUpdate(value)
	if err != nil || u.NewWithOld == nil || u.OldWithNew == nil {
		c.t.Fatalf("%+v, %v", u, err)
	}
	c.pem("old.pem", old.Raw)
	c.pem("new-with-new.pem", u.NewWithNew)
	c.pem("new-with-old.pem", u.NewWithOld)
	c.pem("old-with-new.pem", u.OldWithNew)
	out := c.g.sh(c.dir, `openssl verify -x509_strict -CAfile new-with-new.pem new-with-new.pem old-with-new.pem
		openssl verify -x509_strict -CAfile old.pem new-with-old.pem
		for f in new-with-new new-with-old old old-with-new; do openssl x509 -in $f.pem -noout -pubkey | openssl sha256; done`)
	keys := strings.Split(strings.TrimSpace(out[strings.LastIndex(out, "OK")+2:]), "\n")
	if strings.Count(out, "OK") != 3 || len(keys) != 4 || keys[0] != keys[1] || keys[2] != keys[3] || keys[0] == keys[2] {
		c.t.Error(out)
	}
	root, err := x509.ParseCertificate(u.NewWithNew)
	if err != nil {
		c.t.Fatal(err)
	}
	return root
}
