package gateway_test

import (
	"bytes"
	"crypto/x509/pkix"
	"encoding/asn1"
	"testing"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// respelt is a Name with the texts of another in a string type of its own: the same name, in other bytes.
func respelt(t testing.TB, name []byte, tag int, change func(string) string) []byte {
	t.Helper()
	var rdns pkix.RDNSequence
	if _, err := asn1.Unmarshal(name, &rdns); err != nil {
		t.Fatal(err)
	}
	for _, rdn := range rdns {
		for i, a := range rdn {
			text := change(a.Value.(string))
			rdn[i].Value = asn1.RawValue{Tag: tag, Bytes: []byte(text)}
		}
	}
	der, err := asn1.Marshal(rdns)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(der, name) {
		t.Fatalf("%x is the name itself", der)
	}
	return der
}

func same(s string) string { return s }

// An RA that writes the issuer anew means the same CA (pkix.SameName), for IssuedAs and for a revocation; another name, be it
// by one letter's case, is another CA's.
func TestIssuerInOtherStringTypes(t *testing.T) {
	var seen *gateway.Request
	spy := stage(func(r *gateway.Request, g *gateway.Grant) gateway.Verdict {
		seen = r
		return gateway.Allowed("")
	})
	w := newWorld(t, backendtest.FaultPlan{}, revokers(signer{}, spy))
	first := w.request("device-1")
	cert := w.mustEnroll(first).Certificate
	utf8 := respelt(t, cert.RawIssuer, asn1.TagUTF8String, same)
	other := respelt(t, cert.RawIssuer, asn1.TagUTF8String, func(s string) string { return s + "x" })
	shouted := respelt(t, cert.RawIssuer, asn1.TagUTF8String, func(s string) string { return string(bytes.ToUpper([]byte(s))) })

	if got, err := w.gw.IssuedAs(t.Context(), utf8, cert.SerialNumber); err != nil || got == nil || !got.Equal(cert) {
		t.Errorf("in UTF8Strings: %v, %v", got, err)
	}
	for name, issuer := range map[string][]byte{"another name": other, "in capitals": shouted, "no name": {0x05, 0}, "none": nil} {
		if got, err := w.gw.IssuedAs(t.Context(), issuer, cert.SerialNumber); err != nil || got != nil {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		r := w.rr(cert, name)
		r.Target.Issuer = issuer
		if _, err := w.gw.Revoke(t.Context(), r); gateway.AsError(err).Reason != gateway.UnknownCert {
			t.Errorf("%s: %v", name, err)
		}
	}
	if w.revoked(first.ID) {
		t.Fatal("revoked by another name")
	}

	r := w.rr(cert, "anew")
	r.Target.Issuer = utf8
	if res, err := w.gw.Revoke(t.Context(), r); err != nil || res.Kind != gateway.ResultRevoked {
		t.Fatalf("%+v, %v", res, err)
	}
	if !w.revoked(first.ID) || !w.memory.Revoked(first.ID) {
		t.Errorf("here %t, at the CA %t", w.revoked(first.ID), w.memory.Revoked(first.ID))
	}
	// The stages see the name as it was issued; the adapter's request is its own.
	if !bytes.Equal(seen.Target.Issuer, cert.RawIssuer) || !bytes.Equal(r.Target.Issuer, utf8) || seen.Target.Reason != r.Target.Reason {
		t.Errorf("the stages saw %x, and the request has %x", seen.Target.Issuer, r.Target.Issuer)
	}
	// The same message again is that message, and another is about a certificate that is revoked.
	again := w.again(r)
	if res, err := w.gw.Revoke(t.Context(), again); err != nil || !res.Repeated {
		t.Errorf("%+v, %v", res, err)
	}
	more := w.rr(cert, "more")
	more.Target.Issuer = utf8
	if _, err := w.gw.Revoke(t.Context(), more); gateway.AsError(err).Reason != gateway.Revoked {
		t.Errorf("%v", err)
	}
}
