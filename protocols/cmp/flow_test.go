package cmp

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	stdpkix "crypto/x509/pkix"
	"testing"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

func csr(t testing.TB, key crypto.Signer, name string) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: stdpkix.Name{CommonName: name}, DNSNames: []string{name}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// Each way to a certificate, with each kind of protection and in both versions, from the request to pkiConf (RFC 9810 sections 5.3.1
// to 5.3.4, 7).
func TestEnroll(t *testing.T) {
	w := newWorld(t, worldOptions{})
	key := newP256()
	for name, c := range map[string]*client{"MAC": w.macClient("ref-1"), "signature": w.vendorClient("device-1")} {
		for kind, body := range map[cmpmsg.BodyType]cmpmsg.Body{
			cmpmsg.TypeIR:    crmf{kind: cmpmsg.TypeIR, key: key, subject: "device-1", dns: []string{"a.example"}}.body(t),
			cmpmsg.TypeCR:    crmf{kind: cmpmsg.TypeCR, key: key, subject: "device-1"}.body(t),
			cmpmsg.TypeP10CR: &cmpmsg.PKCS10{CSR: csr(t, key, "device-1")},
		} {
			for _, pvno := range []int{2, 3} {
				c.pvno, c.txid, c.peer = pvno, random(16), nil
				before := w.gateway.issued
				m := c.ask(body)
				if m.Header.ProtectionAlg.IsMAC() != (name == "MAC") {
					t.Errorf("%s, %d: the answer is protected in another way", name, kind)
				}
				if sent, err := cmpmsg.Parse(c.lastSent); err != nil || name == "MAC" && bytes.Equal(m.Header.ProtectionAlg.Raw, sent.Header.ProtectionAlg.Raw) {
					t.Errorf("%s, %d: the answer has the salt of the request: %v", name, kind, err)
				}
				cert := certificate(t, m, answerTo(kind))
				r := w.gateway.last(t)
				id := int64(0)
				if kind == cmpmsg.TypeP10CR {
					id = -1
				}
				if got := response(t, m, answerTo(kind)).ReqID.Int64(); got != id {
					t.Errorf("%s, %d: certReqId %d", name, kind, got)
				}
				if r.Operation != gateway.Enroll || r.POP != gateway.POPSignature || !r.Confirm || !bytes.Equal(r.Subject, cn("device-1")) ||
					!bytes.Equal(r.Content, r.Message) || len(r.Message) != 32 || !bytes.Equal(r.Raw, c.lastSent) || (r.CSR != nil) != (kind == cmpmsg.TypeP10CR) {
					t.Errorf("%s, %d: %+v", name, kind, r)
				}
				if tx := w.gateway.tx(t); tx.State != gateway.StateUnconfirmed {
					t.Errorf("%s, %d: %s", name, kind, tx.State)
				}
				m = c.ask(confirmation(certHash(cert), id))
				if _, ok := m.Body.(*cmpmsg.PKIConf); !ok {
					t.Fatalf("%s, %d: %+v", name, kind, m.Body)
				}
				if tx := w.gateway.tx(t); tx.State != gateway.StateIssued || w.gateway.issued != before+1 {
					t.Errorf("%s, %d: %s, %d issued", name, kind, tx.State, w.gateway.issued-before)
				}
			}
		}
	}
}

// extraCerts come in any order (RFC 9810 section 5.1).
func TestCredentials(t *testing.T) {
	w := newWorld(t, worldOptions{})
	q := crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1"}
	w.macClient("ref-1").ask(q.body(t))
	if got := w.gateway.last(t).Credentials; len(got) != 1 || got[0].Kind != gateway.CredentialMAC || got[0].ID != "ref-1" {
		t.Errorf("%+v", got)
	}
	c := w.vendorClient("device-1")
	c.extra = [][]byte{c.extra[1], c.extra[0]} // any order
	c.ask(q.body(t))
	got := w.gateway.last(t).Credentials
	if len(got) != 1 || got[0].Kind != gateway.CredentialSigner || got[0].ID != gateway.Fingerprint(c.cert) || len(got[0].Chain) != 2 || !got[0].Chain[0].Equal(c.cert) {
		t.Errorf("%+v", got)
	}
}

// kur (RFC 9810 section 5.3.5): signed by the certificate that it updates; names that are not asked for are those of the old certificate.
func TestUpdate(t *testing.T) {
	w := newWorld(t, worldOptions{})
	oldKey := newP256()
	old := w.ca.issue(t, &x509.Certificate{Subject: stdpkix.Name{CommonName: "device-1"}, DNSNames: []string{"a.example"}, KeyUsage: x509.KeyUsageDigitalSignature}, oldKey.Public())
	serial := cmpmsg.CertID{Issuer: cmpmsg.GeneralDirectoryName(old.RawIssuer), Serial: old.SerialNumber}
	id, err := serial.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		q   crmf
		op  gateway.Operation
		new *gateway.Names
	}{
		"new key":      {crmf{key: newP256(), subject: "device-1", dns: []string{"a.example"}}, gateway.Rekey, nil},
		"same key":     {crmf{key: oldKey, subject: "device-1", dns: []string{"a.example"}}, gateway.Renew, nil},
		"no names":     {crmf{key: newP256(), rawSubject: nullDN[:]}, gateway.Rekey, nil},
		"oldCertId":    {crmf{key: newP256(), subject: "device-1", controls: []cmpmsg.AttributeTypeAndValue{{Type: cmpmsg.OIDOldCertID, Value: id}}}, gateway.Rekey, nil},
		"another name": {crmf{key: newP256(), subject: "device-2"}, gateway.Rekey, &gateway.Names{Subject: cn("device-2"), SubjectAltName: sanOf(old.Extensions)}},
	} {
		tt.q.kind = cmpmsg.TypeKUR
		c := w.signer(old, oldKey)
		cert := certificate(t, c.ask(tt.q.body(t)), cmpmsg.TypeKUP)
		r := w.gateway.last(t)
		if r.Operation != tt.op || r.OldCert == nil || !r.OldCert.Equal(old) || !bytes.Equal(r.Subject, old.RawSubject) || !bytes.Equal(sanOf(r.Extensions), sanOf(old.Extensions)) {
			t.Errorf("%s: %+v", name, r)
		}
		switch {
		case (r.NewNames == nil) != (tt.new == nil):
			t.Errorf("%s: new names %+v", name, r.NewNames)
		case tt.new != nil && (!bytes.Equal(r.NewNames.Subject, tt.new.Subject) || !bytes.Equal(r.NewNames.SubjectAltName, tt.new.SubjectAltName)):
			t.Errorf("%s: new names %+v", name, r.NewNames)
		}
		if _, ok := c.ask(confirmation(certHash(cert), 0)).Body.(*cmpmsg.PKIConf); !ok {
			t.Errorf("%s: not confirmed", name)
		}
	}
}
