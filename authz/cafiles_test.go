package authz

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"

	"github.com/muster-pki/muster/gateway"
)

func (ca *authority) crlWith(extensions ...pkix.Extension) []byte {
	ca.t.Helper()
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(2), ThisUpdate: noon, NextUpdate: noon.AddDate(0, 0, 7), ExtraExtensions: extensions,
	}, ca.cert, ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	return der
}

func TestCRLsThatAreNotRead(t *testing.T) {
	v := newVendor(t)
	imposter := newCA(t, "Vendor Root", nil)
	for name, c := range map[string]struct {
		crl  []byte
		want string
	}{
		"signed by another CA of the name": {imposter.crl(noon, noon.AddDate(0, 0, 1)), "none of cas and intermediates signed"},
		"a delta":                          {v.root.crlWith(pkix.Extension{Id: oidDeltaCRLIndicator, Critical: true, Value: []byte{2, 1, 1}}), "not complete"},
		"of one distribution point":        {v.root.crlWith(pkix.Extension{Id: oidIssuingDistributionPoint, Value: []byte{0x30, 0}}), "not complete"},
		"an extension that nobody knows":   {v.root.crlWith(pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}), "1.2.3.4"},
		"no list at all":                   {v.root.cert.Raw, "x509"},
	} {
		t.Run(name, func(t *testing.T) {
			write(t, v.dir, "x.crl", c.crl)
			_, err := NewClientCertificate(ClientCertificateConfig{CAs: []string{"root.pem"}, CRLs: []string{"x.crl"}}, v.dir, atNoon)
			wantError(t, err, c.want)
		})
	}
}

// Two CAs share a name, as they do while keys change over: each list speaks for its own certificates.
func TestCRLsOfTwoKeys(t *testing.T) {
	v := newVendor(t)
	second := newCA(t, "Vendor Root", nil)
	write(t, v.dir, "second.pem", pemOf(second.cert))
	write(t, v.dir, "first.crl", v.root.crl(noon, noon.AddDate(0, 0, 1), 66))
	write(t, v.dir, "second.crl", second.crl(noon, noon.AddDate(0, 0, 1)))
	c := ClientCertificateConfig{CAs: []string{"root.pem", "second.pem"}, CRLs: []string{"first.crl", "second.crl"}}
	decide := func(c ClientCertificateConfig, ca *authority) gateway.Verdict {
		r := &gateway.Request{Credentials: []gateway.Credential{credential(gateway.CredentialTLS, ca.issue(66, "d", nil))}}
		return v.stage(t, c, noon).Decide(context.Background(), r, &gateway.Grant{})
	}
	expect(t, decide(c, v.root), gateway.Deny, gateway.Revoked)
	expect(t, decide(c, second), gateway.Allow, "")
	c.CRLs = []string{"first.crl"}
	expect(t, decide(c, second), gateway.CannotAnswer, gateway.Unavailable, "no revocation list")
}
