package cms

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"go.mozilla.org/pkcs7"
)

// RFC 8295 section 4.2: a SignedData with CRLs and nothing else. Another library reads it.
func TestCRLsOnly(t *testing.T) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	issuer := &x509.Certificate{Subject: pkix.Name{CommonName: "CA"}, KeyUsage: x509.KeyUsageCRLSign, SubjectKeyId: []byte{1}}
	crl, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), NextUpdate: time.Now().Add(time.Hour)}, issuer, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := CRLsOnly(crl, crl)
	if err != nil {
		t.Fatal(err)
	}
	if err := Check(der, Limits{}); err != nil {
		t.Error(err)
	}
	if p7, err := pkcs7.Parse(der); err != nil || len(p7.Certificates) != 0 || len(p7.CRLs) != 2 {
		t.Errorf("another library: %+v, %v", p7, err)
	}
	if list, err := ParseCertsOnly(der, Limits{}); err != nil || len(list) != 0 {
		t.Errorf("certificates in it: %x, %v", list, err)
	}
	if der, err := CRLsOnly(); err == nil {
		t.Errorf("none: %x", der)
	}
	for name, bad := range map[string][]byte{"empty": nil, "truncated": crl[:len(crl)-1], "trailing": append(bytes.Clone(crl), 0), "no SEQUENCE": {4, 0}} {
		if der, err := CRLsOnly(crl, bad); err == nil {
			t.Errorf("%s: %x", name, der)
		}
	}
}
