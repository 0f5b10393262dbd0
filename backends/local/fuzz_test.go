package local

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/protocols/cms"
)

// FuzzTemplate: whatever the DER of a template is, it is refused as INVALID_ARGUMENT or becomes a certificate that
// crypto/x509 reads as it was asked for. Its parsers are checkName, checkGeneralNames, keyIdentifier and oneElement.
func FuzzTemplate(f *testing.F) {
	good := request(f, "fuzz").Template
	null := []byte{5, 0}
	f.Add(good.Subject, good.SubjectAltName, good.PublicKey, uint16(good.KeyUsage), null, true)
	f.Add([]byte{0x30, 0}, good.SubjectAltName, deviceKeys()["RSA-2048"], uint16(0), null, false)
	f.Add([]byte("\x30\x17\x31\x15\x30\x09\x06\x03\x55\x04\x03\x1e\x02\x00x\x30\x08\x06\x03\x55\x04\x05\x13\x011"), []byte{}, deviceKeys()["Ed25519"], uint16(0x1ff), []byte{}, false)
	f.Add([]byte("\x30\x00\x00"), []byte("\x30\x1b\xa0\x09\x06\x03\x55\x04\x05\xa0\x02\x05\x00\xa4\x0e\x30\x0c\x31\x0a\x30\x08\x06\x03\x55\x04\x03\x0c\x01x"), deviceKeys()["P-521"], uint16(1), null, false)
	f.Add([]byte("\x30\x80\x00\x00"), []byte("\x30\x08\x88\x01\x80\x87\x03\x01\x02\x03"), []byte("\x30\x00"), uint16(1<<8), []byte("\x30\x84\xff\xff\xff\xff"), false)
	c := open(f, standing(f), Options{})
	r := c.open.Load()
	serial := r.serialNumber(IssuerEC, "fuzz")
	f.Fuzz(func(t *testing.T, subject, altName, key []byte, usage uint16, further []byte, critical bool) {
		x := good
		x.Subject, x.SubjectAltName, x.PublicKey, x.KeyUsage = subject, altName, key, x509.KeyUsage(usage)
		x.Extensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: critical, Value: further}}
		checked, err := r.checkTemplate(&x, r.issuers[0])
		if err != nil {
			return
		}
		der, err := r.issuers[0].sign(checked, serial)
		if err != nil {
			return
		}
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(leaf.RawSubject, subject) || !bytes.Equal(leaf.RawSubjectPublicKeyInfo, key) || leaf.IsCA || leaf.KeyUsage != x.KeyUsage {
			t.Errorf("it reads otherwise than asked for: %x", der)
		}
		if err := leaf.CheckSignatureFrom(r.issuers[0].cert); err != nil {
			t.Error(err)
		}
	})
}

// FuzzCSR: a CSR is for the template's key, or refused.
func FuzzCSR(f *testing.F) {
	key := deviceKeys()["P-256"]
	f.Add([]byte{})
	f.Add([]byte("\x30\x00"))
	f.Add([]byte("\x30\x12\x30\x0a\x02\x01\x00\x30\x00\x30\x03\x06\x01\x2a\x30\x00\x03\x01\x00"))
	f.Fuzz(func(t *testing.T, csr []byte) {
		if checkCSR(csr, key) == nil && len(csr) > 0 && !bytes.Contains(csr, key) {
			t.Errorf("accepted: %x", csr)
		}
	})
}

// FuzzConfig: a configuration is refused as INVALID_ARGUMENT or accepted, and nothing else happens.
func FuzzConfig(f *testing.F) {
	f.Add([]byte("dir: /ca\norganization: O\nvalidity: {root: 10d, issuing: 5d}\ncrl-validity: 2d\n" +
		"issuers: {ec: {root-name: A, name: B, crl: [http://a/], ocsp: [http://a/], ca-issuers: [http://a/]}}"))
	f.Add([]byte("dir: [1]"))
	f.Fuzz(func(t *testing.T, config []byte) {
		if err := New(Options{}).Validate(t.Context(), config); err != nil && status.Code(err) != codes.InvalidArgument {
			t.Error(err)
		}
	})
}

// FuzzCertsOnly: what a CA's key signs is a degenerate SignedData of certificates alone, the same when it is written anew.
func FuzzCertsOnly(f *testing.F) {
	for _, certs := range [][][]byte{{{0x30, 0}}, {{0x30, 3, 2, 1, 5}, {0x30, 0}}} {
		f.Add(degenerate(f, certs...))
	}
	f.Add([]byte{0x30, 0x80, 0, 0})
	f.Fuzz(func(t *testing.T, der []byte) {
		certs, err := certsOnly(der)
		if err != nil {
			return
		}
		again, err := cms.CertsOnly(certs...)
		if err == nil && !bytes.Equal(again, der) {
			t.Fatalf("%x is %d certificates, and those are %x", der, len(certs), again)
		}
	})
}

// FuzzOCSP: no request is read beyond itself, and what is read about one certificate names it by a serial number in DER.
func FuzzOCSP(f *testing.F) {
	good := []byte("\x30\x44\x30\x42\x30\x40\x30\x3e\x30\x3c\x30\x09\x06\x05\x2b\x0e\x03\x02\x1a\x05\x00\x04\x14aaaaaaaaaaaaaaaaaaaa\x04\x14bbbbbbbbbbbbbbbbbbbb\x02\x03abc")
	f.Add(good)
	f.Add(good[:20])
	f.Fuzz(func(t *testing.T, der []byte) {
		q, err := parseOCSPRequest(der)
		if err != nil {
			return
		}
		if q.certs < 1 || q.certs > maxOCSPCerts || len(q.nonce) > maxNonce || len(q.cert.serial) > len(der) {
			t.Errorf("%+v", q)
		}
	})
}
