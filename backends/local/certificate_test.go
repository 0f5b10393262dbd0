package local

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/muster-pki/muster/plugins/backend"
)

// pemFile writes certificates or CRLs where openssl finds them.
func pemFile(t testing.TB, kind string, ders ...[]byte) string {
	t.Helper()
	var b bytes.Buffer
	for _, der := range ders {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	f, err := os.CreateTemp(t.TempDir(), "*.pem")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(b.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// TestCertificates: what is issued is what was asked for, to crypto/x509 and to openssl at its strictest.
func TestCertificates(t *testing.T) {
	dir := standing(t)
	c := open(t, dir, Options{},
		"issuers:",
		"  ec: {crl: [http://ca.test/ec.crl, ldap://ca.test/ec], ocsp: [http://ca.test/ocsp], ca-issuers: [http://ca.test/ec.crt]}")
	allUsages := x509.KeyUsage(leafUsages)
	for what, change := range map[string]func(x *backend.Template){
		"plain":    func(*backend.Template) {},
		"P-384":    func(x *backend.Template) { x.PublicKey = deviceKeys()["P-384"] },
		"P-521":    func(x *backend.Template) { x.PublicKey = deviceKeys()["P-521"] },
		"RSA":      func(x *backend.Template) { x.PublicKey = deviceKeys()["RSA-2048"] },
		"Ed25519":  func(x *backend.Template) { x.PublicKey = deviceKeys()["Ed25519"] },
		"no usage": func(x *backend.Template) { x.KeyUsage, x.ExtKeyUsage = 0, nil },
		"all usages": func(x *backend.Template) {
			x.KeyUsage = allUsages
			x.ExtKeyUsage = []asn1.ObjectIdentifier{oidClientAuth, {1, 3, 6, 1, 5, 5, 7, 3, 1}, {1, 2, 3, 4}}
		},
		"last usage":    func(x *backend.Template) { x.KeyUsage = x509.KeyUsageKeyAgreement | x509.KeyUsageDecipherOnly },
		"no altName":    func(x *backend.Template) { x.SubjectAltName = nil },
		"empty altName": func(x *backend.Template) { x.SubjectAltName = []byte{} }, // as none: gRPC tells them apart no better
		"empty subject": func(x *backend.Template) { x.Subject = []byte{0x30, 0} },
		"many altNames": func(x *backend.Template) {
			x.SubjectAltName = []byte("\x30\x00" + "\x81\x06a@b.de" + "\x82\x06a.test" + "\x86\x0a//m2m.x/S9" + "\x87\x04\x0a\x00\x00\x01" +
				"\x87\x10\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" + "\x88\x03\x55\x04\x03")
			x.SubjectAltName[1] = byte(len(x.SubjectAltName) - 2)
		},
		"otherName and directoryName": func(x *backend.Template) {
			x.SubjectAltName = []byte("\x30\x1b" + "\xa0\x09\x06\x03\x55\x04\x05\xa0\x02\x05\x00" + "\xa4\x0e\x30\x0c\x31\x0a\x30\x08\x06\x03\x55\x04\x03\x0c\x01x")
		},
		"odd but legal subject": func(x *backend.Template) {
			// serialNumber as PrintableString and CN as BMPString in one RDN, not sorted as DER's SET OF wants it: devices send it.
			x.Subject = []byte("\x30\x17\x31\x15\x30\x09\x06\x03\x55\x04\x03\x1e\x02\x00x\x30\x08\x06\x03\x55\x04\x05\x13\x011")
		},
		"to the end of the CA": func(x *backend.Template) { x.NotAfter = c.open.Load().issuers[0].cert.NotAfter },
		"further extensions": func(x *backend.Template) {
			x.Extensions = append(further(1, 3, 6, 1, 4, 1, 99999, 1), pkix.Extension{
				Id: asn1.ObjectIdentifier{2, 5, 29, 32}, Value: []byte("\x30\x06\x30\x04\x06\x02\x2a\x03")})
		},
	} {
		for _, issuer := range []string{IssuerEC, IssuerRSA} {
			t.Run(what+"/"+issuer, func(t *testing.T) {
				q := request(t, what+issuer)
				q.Issuer = issuer
				change(&q.Template)
				x := q.Template
				if what == "to the end of the CA" {
					x.NotAfter = c.open.Load().issuer(issuer).cert.NotAfter
					q.Template = x
				}
				got, err := c.Issue(t.Context(), q)
				if err != nil {
					t.Fatal(err)
				}
				leaf, err := x509.ParseCertificate(got.Certificate)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(leaf.RawSubject, x.Subject) || !bytes.Equal(leaf.RawSubjectPublicKeyInfo, x.PublicKey) ||
					!leaf.NotBefore.Equal(x.NotBefore) || !leaf.NotAfter.Equal(x.NotAfter) || leaf.KeyUsage != x.KeyUsage {
					t.Error("it is not what was asked for")
				}
				checkExtensions(t, leaf, &x, issuer == IssuerEC)
				ca := c.open.Load().issuer(issuer)
				if len(got.Chain) != 2 || !bytes.Equal(got.Chain[0], ca.cert.Raw) || !bytes.Equal(got.Chain[1], ca.root.Raw) {
					t.Error("another chain")
				}
				if !bytes.Equal(leaf.RawIssuer, ca.cert.RawSubject) || !bytes.Equal(leaf.AuthorityKeyId, ca.cert.SubjectKeyId) || leaf.CheckSignatureFrom(ca.cert) != nil {
					t.Error("not issued by its issuer")
				}
				if serial := leaf.SerialNumber.Bytes(); len(serial) != 20 || serial[0] >= 0x80 {
					t.Errorf("serial number %x", serial)
				}
				openssl(t, "verify", "-x509_strict", "-check_ss_sig", "-policy_check", "-attime", strconv.FormatInt(now.Unix(), 10),
					"-CAfile", filepath.Join(dir, rootsFile), "-untrusted", pemFile(t, "CERTIFICATE", got.Chain[0]), pemFile(t, "CERTIFICATE", leaf.Raw))
			})
		}
	}
}

// checkExtensions holds the extensions against RFC 5280 section 4.2.1 and the order that this CA always uses.
func checkExtensions(t *testing.T, leaf *x509.Certificate, x *backend.Template, urls bool) {
	t.Helper()
	type extension struct {
		id       string
		critical bool
	}
	wanted := []extension{{"2.5.29.19", true}}
	if x.KeyUsage != 0 {
		wanted = append(wanted, extension{"2.5.29.15", true})
	}
	if len(x.ExtKeyUsage) > 0 {
		wanted = append(wanted, extension{"2.5.29.37", false})
	}
	if len(x.SubjectAltName) > 0 {
		wanted = append(wanted, extension{"2.5.29.17", len(x.Subject) == 2})
	}
	wanted = append(wanted, extension{"2.5.29.14", false}, extension{"2.5.29.35", false})
	if urls {
		wanted = append(wanted, extension{"2.5.29.31", false}, extension{"1.3.6.1.5.5.7.1.1", false})
	}
	for _, e := range x.Extensions {
		wanted = append(wanted, extension{e.Id.String(), e.Critical})
	}
	var got []extension
	for _, e := range leaf.Extensions {
		got = append(got, extension{e.Id.String(), e.Critical})
		if e.Id.Equal(oidSubjectAltName) && !bytes.Equal(e.Value, x.SubjectAltName) {
			t.Error("another subjectAltName")
		}
		for _, f := range x.Extensions {
			if f.Id.Equal(e.Id) && !bytes.Equal(f.Value, e.Value) {
				t.Errorf("extension %s is another", f.Id)
			}
		}
	}
	if !slices.Equal(got, wanted) {
		t.Errorf("extensions %v, want %v", got, wanted)
	}
	if !leaf.BasicConstraintsValid || leaf.IsCA || len(leaf.SubjectKeyId) != 20 {
		t.Errorf("basicConstraints %t, CA %t, SKI %x", leaf.BasicConstraintsValid, leaf.IsCA, leaf.SubjectKeyId)
	}
	if n := len(leaf.ExtKeyUsage) + len(leaf.UnknownExtKeyUsage); n != len(x.ExtKeyUsage) {
		t.Errorf("%d purposes, want %d", n, len(x.ExtKeyUsage))
	}
	if urls && (!slices.Equal(leaf.CRLDistributionPoints, []string{"http://ca.test/ec.crl", "ldap://ca.test/ec"}) ||
		!slices.Equal(leaf.OCSPServer, []string{"http://ca.test/ocsp"}) || !slices.Equal(leaf.IssuingCertificateURL, []string{"http://ca.test/ec.crt"})) {
		t.Errorf("URLs %v %v %v", leaf.CRLDistributionPoints, leaf.OCSPServer, leaf.IssuingCertificateURL)
	}
}

// TestOpenSSLText: openssl reads in the files and certificates what is meant.
func TestOpenSSLText(t *testing.T) {
	dir := standing(t)
	c := open(t, dir, Options{})
	q := request(t, "tx-1")
	q.Template.Subject = []byte{0x30, 0}
	leaf := issue(t, c, q)
	text := openssl(t, "x509", "-noout", "-text", "-in", pemFile(t, "CERTIFICATE", leaf.Raw))
	for _, line := range []string{"Version: 3 (0x2)", "Signature Algorithm: ecdsa-with-SHA256", "Subject: \n", "CA:FALSE",
		"X509v3 Subject Alternative Name: critical", "X509v3 Key Usage: critical", "X509v3 Basic Constraints: critical", "DNS:device.test.a"} {
		if !strings.Contains(text, line) {
			t.Errorf("openssl does not print %q:\n%s", line, text)
		}
	}
	// RFC 7093 section 2, method 1. The point of a P-256 key is the last 65 octets of its SubjectPublicKeyInfo.
	spki := q.Template.PublicKey
	if sum := sha256.Sum256(spki[len(spki)-65:]); !bytes.Equal(leaf.SubjectKeyId, sum[:20]) {
		t.Errorf("key identifier %x", leaf.SubjectKeyId)
	}
	for _, ca := range []string{"ec", "rsa"} {
		cert := filepath.Join(dir, authorityDir, ca+".crt")
		openssl(t, "verify", "-x509_strict", "-attime", strconv.FormatInt(now.Unix(), 10), "-CAfile", filepath.Join(dir, authorityDir, ca+"-root.crt"), cert)
		// The key files are what other tools read as PKCS #8.
		key := openssl(t, "pkey", "-in", filepath.Join(dir, authorityDir, ca+".key"), "-pubout")
		if pub := openssl(t, "x509", "-in", cert, "-noout", "-pubkey"); pub != key {
			t.Errorf("%s: the key file holds another key", ca)
		}
	}
}
