package cms

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"go.mozilla.org/pkcs7"
)

const vectors = "../../testdata/cms"

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectors, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readPEM(t testing.TB, name string) []byte {
	t.Helper()
	block, rest := pem.Decode(read(t, name))
	if block == nil || len(rest) != 0 {
		t.Fatalf("%s is not one PEM block", name)
	}
	return block.Bytes
}

var content = bytes.Repeat([]byte("x"), 3000)

// converted normalizes a BER file and checks that the answer is DER.
func converted(t *testing.T, name string) []byte {
	t.Helper()
	ber := read(t, name)
	if err := Check(ber, Limits{}); !errors.Is(err, ErrNotDER) {
		t.Errorf("%s: Check: %v, want %v", name, err, ErrNotDER)
	}
	der, err := Normalize(ber, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if err := Check(der, Limits{}); err != nil {
		t.Errorf("%s: the answer: %v", name, err)
	}
	return der
}

func TestSignedBER(t *testing.T) {
	p7, err := pkcs7.Parse(converted(t, "signed-ber.der"))
	if err != nil {
		t.Fatal(err)
	}
	if err := p7.Verify(); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(p7.Content, content) {
		t.Errorf("content of %d bytes", len(p7.Content))
	}
}

func TestEnvelopedBER(t *testing.T) {
	key, err := x509.ParsePKCS8PrivateKey(readPEM(t, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(readPEM(t, "cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	plain := read(t, "enveloped.der")
	der, err := Normalize(plain, Limits{})
	if err != nil || &der[0] != &plain[0] || len(der) != len(plain) {
		t.Errorf("DER is not returned as it is: %v", err)
	}
	// Neither library is given a byte that the guard did not pass.
	for _, message := range [][]byte{der, converted(t, "enveloped-ber.der")} {
		p7, err := pkcs7.Parse(message)
		if err != nil {
			t.Fatal(err)
		}
		got, err := p7.Decrypt(cert, key)
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
}

func TestCertsOnly(t *testing.T) {
	cert := readPEM(t, "cert.pem")
	want := read(t, "certs-only-openssl.der")
	got, err := CertsOnly(cert)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%x, %v", got, err)
	}

	// Order is kept, though a SET OF sorts 30 03 02 01 02 before 30 03 02 01 09.
	a, b := []byte{0x30, 3, 2, 1, 9}, []byte{0x30, 3, 2, 1, 2}
	der, err := CertsOnly(a, b, cert)
	if err != nil {
		t.Fatal(err)
	}
	if err := Check(der, Limits{}); err != nil {
		t.Error(err)
	}
	list, err := ParseCertsOnly(der, Limits{})
	if err != nil || len(list) != 3 || !bytes.Equal(list[0], a) || !bytes.Equal(list[1], b) || !bytes.Equal(list[2], cert) {
		t.Errorf("%x, %v", list, err)
	}
	p7, err := pkcs7.Parse(want)
	if err != nil || len(p7.Certificates) != 1 || !bytes.Equal(p7.Certificates[0].Raw, cert) {
		t.Errorf("another library: %v", err)
	}

	for name, bad := range map[string][]byte{
		"empty": nil, "truncated": cert[:len(cert)-1], "trailing": append(bytes.Clone(cert), 0),
		"BER": {0x30, 0x80, 0, 0}, "no SEQUENCE": {4, 0}, "PEM": read(t, "cert.pem"),
	} {
		if der, err := CertsOnly(cert, bad); err == nil {
			t.Errorf("%s: %x", name, der)
		}
	}
	if der, err := CertsOnly(); !errors.Is(err, ErrSyntax) {
		t.Errorf("none: %x, %v", der, err)
	}
}

func TestParseCertsOnly(t *testing.T) {
	body := func(inside string) string {
		signed := tlv(0x30, inside)
		return tlv(0x30, "\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02", tlv(0xa0, signed))
	}
	const (
		version = "\x02\x01\x01"
		noSet   = "\x31\x00"
		encap   = "\x30\x0b\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01"
		cert    = "\x30\x03\x02\x01\x09"
	)
	certificates := tlv(0xa0, cert)
	for _, tt := range []struct {
		name string
		der  string
		n    int
		ok   bool
	}{
		{"one", body(version + noSet + encap + certificates + noSet), 1, true},
		{"none", body(version + noSet + encap + noSet), 0, true},
		{"empty set", body(version + noSet + encap + tlv(0xa0) + noSet), 0, true},
		{"version 3", body("\x02\x01\x03" + noSet + encap + certificates + noSet), 1, true},
		{"CRLs", body(version + noSet + encap + certificates + tlv(0xa1, "\x30\x00") + noSet), 1, true},
		{"digestAlgorithms", body(version + tlv(0x31, "\x30\x02\x06\x00") + encap + certificates + noSet), 1, true},
		{"BER", "\x30\x80\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02\xa0\x80\x30\x80" + version + noSet + encap + "\xa0\x80" + cert + "\x00\x00" + noSet + "\x00\x00\x00\x00\x00\x00", 1, true},
		{"version 0", body("\x02\x01\x00" + noSet + encap + certificates + noSet), 0, false},
		{"a signer", body(version + noSet + encap + certificates + tlv(0x31, "\x30\x00")), 0, false},
		{"content", body(version + noSet + tlv(0x30, encap[2:], tlv(0xa0, "\x04\x00")) + certificates + noSet), 0, false},
		{"attribute certificate", body(version + noSet + encap + tlv(0xa0, tlv(0xa2, cert)) + noSet), 0, false},
		{"no signerInfos", body(version + noSet + encap + certificates), 0, false},
		{"more after signerInfos", body(version + noSet + encap + certificates + noSet + noSet), 0, false},
		{"data, not SignedData", tlv(0x30, "\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01", tlv(0xa0, "\x30\x00")), 0, false},
		{"nothing", "", 0, false},
		{"trailing", body(version+noSet+encap+certificates+noSet) + "\x00", 0, false},
	} {
		list, err := ParseCertsOnly([]byte(tt.der), Limits{})
		if (err == nil) != tt.ok || len(list) != tt.n {
			t.Errorf("%s: %x, %v", tt.name, list, err)
		}
		if err != nil && !errors.Is(err, ErrSyntax) {
			t.Errorf("%s: %v is not ErrSyntax", tt.name, err)
		}
	}
}

// tlv is a DER element around the parts.
func tlv(tag byte, parts ...string) string {
	var inside []byte
	for _, p := range parts {
		inside = append(inside, p...)
	}
	return string(append(appendLength([]byte{tag}, len(inside)), inside...))
}
