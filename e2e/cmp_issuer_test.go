package e2e

import (
	"bytes"
	"math/big"
	"testing"

	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// An RA that writes the issuer's name anew, in UTF8Strings where the certificate has PrintableStrings, means the same CA: in
// oldCertId (RFC 9810 section 5.3.5) as in an rr (section 5.3.9). Another name is another CA's.
func TestCMPIssuerInOtherStringTypes(t *testing.T) {
	g, ra, _, _ := withRAs(t)
	d := ra.device("device-1", "ran")
	if err := d.enroll(); err != nil {
		t.Fatal(err)
	}
	// PrintableString is tag 19, UTF8String 12. None of the CA's attributes is 19 or 0x13 long, so that no length is taken for a tag.
	anew := bytes.ReplaceAll(d.cert.RawIssuer, []byte{0x04, 0x03, 0x13}, []byte{0x04, 0x03, 0x0c})
	anew = bytes.ReplaceAll(anew, []byte{0x04, 0x0a, 0x13}, []byte{0x04, 0x0a, 0x0c})
	other := bytes.Replace(anew, []byte("CA"), []byte("ca"), 1)
	if bytes.Equal(anew, d.cert.RawIssuer) || bytes.Equal(other, anew) {
		t.Fatalf("%x", d.cert.RawIssuer)
	}
	kur := func(issuer []byte) *cmpmsg.Message {
		t.Helper()
		by := ra.forDevice("device-1")
		id := cmpmsg.CertID{Issuer: cmpmsg.GeneralDirectoryName(issuer), Serial: d.cert.SerialNumber}
		der, err := id.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		b := by.request(cmpmsg.TypeKUR)
		one := &b.Messages[0]
		one.Template.Subject, one.Controls = nil, []cmpmsg.AttributeTypeAndValue{{Type: cmpmsg.OIDOldCertID, Value: der}}
		request, err := one.Request()
		if err != nil {
			t.Fatal(err)
		}
		alg, signature, err := pkix.Sign(by.key, request)
		if err != nil {
			t.Fatal(err)
		}
		one.POP.Signing = &cmpmsg.POPOSigningKey{Algorithm: cmpmsg.AlgorithmIdentifier{Raw: alg}, Signature: signature}
		m, err := by.exchange(b)
		if err != nil {
			t.Fatal(err)
		}
		if by.cert != nil {
			if conf, err := by.exchange(by.certConf()); err != nil || conf.Body.Type() != cmpmsg.TypePKIConf {
				t.Errorf("%v, %v", conf, err)
			}
		}
		return m
	}
	rr := func(issuer []byte) cmpmsg.PKIStatusInfo {
		t.Helper()
		m, err := ra.forDevice("device-1").exchange(&cmpmsg.RevReq{Details: []cmpmsg.RevDetails{{
			Certificate: cmpmsg.CertTemplate{Issuer: issuer, SerialNumber: new(big.Int).Set(d.cert.SerialNumber)},
		}}})
		if err != nil || m.Body.Type() != cmpmsg.TypeRP {
			t.Fatalf("%v, %v", m, err)
		}
		return m.Body.(*cmpmsg.RevRep).Statuses[0]
	}
	if m := kur(other); failure(m) != "badCertId" {
		t.Errorf("kur, another name: %s", failure(m))
	}
	if s := rr(other); s.FailInfo != cmpmsg.BadCertID {
		t.Errorf("rr, another name: %+v", s)
	}
	if m := kur(anew); m.Body.Type() != cmpmsg.TypeKUP || failure(m) != "" {
		t.Errorf("kur: %s %s", m.Body.Type(), failure(m))
	}
	if s := rr(anew); s.Status != cmpmsg.StatusAccepted {
		t.Errorf("rr: %+v", s)
	}
	revoked := 0
	for _, e := range g.ledger("device-1") {
		if !e.RevokedAt.IsZero() {
			revoked++
		}
	}
	if all := len(g.ledger("device-1")); revoked != 1 || all != 2 {
		t.Errorf("%d of %d revoked", revoked, all)
	}
}
