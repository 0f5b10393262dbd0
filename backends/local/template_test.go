package local

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"google.golang.org/grpc/codes"
)

// further is a further extension with the OID, holding a NULL.
func further(id ...int) []pkix.Extension {
	return []pkix.Extension{{Id: id, Value: []byte{5, 0}}}
}

func rsaKey(t testing.TB, n *big.Int, e int) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: n, E: e})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestRefusedTemplates(t *testing.T) {
	dir := standing(t)
	c := open(t, dir, Options{}, "issuers: {ec: {crl: [http://ca.test/ec.crl]}}")
	ec := c.open.Load().issuers[0]
	modulus := func(bits uint) *big.Int { return new(big.Int).SetBit(big.NewInt(1), int(bits)-1, 1) } // odd
	type change func(q *backend.IssueRequest)
	template := func(f func(*backend.Template)) change { return func(q *backend.IssueRequest) { f(&q.Template) } }
	subject := func(der string) change { return template(func(t *backend.Template) { t.Subject = []byte(der) }) }
	altName := func(der string) change { return template(func(t *backend.Template) { t.SubjectAltName = []byte(der) }) }
	key := func(der []byte) change { return template(func(t *backend.Template) { t.PublicKey = der }) }
	extensions := func(e ...pkix.Extension) change { return template(func(t *backend.Template) { t.Extensions = e }) }
	id := func(id string) change { return func(q *backend.IssueRequest) { q.ID = id } }
	p256 := deviceKeys()["P-256"]
	offCurve := bytes.Clone(p256)
	offCurve[len(offCurve)-1] ^= 1
	csr := func(k *ecdsa.PrivateKey) []byte {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, k)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	// By what the refusal says.
	for says, group := range map[string]map[string]change{
		"device: at most 256": {
			"long device":      func(q *backend.IssueRequest) { q.Device = strings.Repeat("x", 257) },
			"device not UTF-8": func(q *backend.IssueRequest) { q.Device = "\xff" },
		},
		"ID: 1 to 256": {
			"no ID":                id(""),
			"long ID":              id(strings.Repeat("x", 257)),
			"ID with a line break": id("a\nb"),
			"ID not UTF-8":         id("\xff"),
		},
		"no issuing CA \"dsa\"": {
			"unknown issuer": func(q *backend.IssueRequest) { q.Issuer = "dsa" },
		},
		"subject: not a DER Name": {
			"no subject":              subject(""),
			"subject not DER":         subject("CN=device"),
			"subject with a tail":     subject("\x30\x00\x00"),
			"empty RDN":               subject("\x30\x02\x31\x00"),
			"attribute without value": subject("\x30\x09\x31\x07\x30\x05\x06\x03\x55\x04\x03"),
			"attribute with a tail":   subject("\x30\x0e\x31\x0c\x30\x0a\x06\x03\x55\x04\x03\x0c\x01x\x05\x00"),
			"indefinite length":       subject("\x30\x80\x00\x00"),
		},
		"invalid UTF-8 string": {
			"not UTF-8 in UTF8String": subject("\x30\x0c\x31\x0a\x30\x08\x06\x03\x55\x04\x03\x0c\x01\xff"),
		},
		"subject: longer than": {
			"long subject": template(func(x *backend.Template) { x.Subject = name(t, pkix.Name{CommonName: strings.Repeat("x", 9000)}) }),
		},
		"neither a subject nor": {
			"nothing named": func(q *backend.IssueRequest) {
				q.Template.Subject, q.Template.SubjectAltName = []byte{0x30, 0}, nil
			},
		},
		"this CA's own certificates": {
			"subject of the CA":   template(func(t *backend.Template) { t.Subject = ec.cert.RawSubject }),
			"subject of the root": template(func(t *backend.Template) { t.Subject = ec.root.RawSubject }),
		},
		"not DER GeneralNames": {
			"altName not DER":       altName("device.test"),
			"altName without names": altName("\x30\x00"),
			"altName with a tail":   altName("\x30\x03\x82\x01a\x00"),
		},
		"malformed GeneralName": {
			"altName of another class": altName("\x30\x03\x0c\x01a"),
			"empty dNSName":            altName("\x30\x02\x82\x00"),
			"dNSName not ASCII":        altName("\x30\x04\x82\x02\xc3\xa4"),
			"five octets of address":   altName("\x30\x07\x87\x05\x01\x02\x03\x04\x05"),
			"malformed directoryName":  altName("\x30\x04\xa4\x02\x31\x00"),
			"malformed registeredID":   altName("\x30\x03\x88\x01\x80"),
			"otherName without value":  altName("\x30\x07\xa0\x05\x06\x03\x55\x04\x03"),
		},
		"cannot parse URI": {
			"URI that is none": altName("\x30\x06\x86\x04://:"),
		},
		"subjectAltName: longer than": {
			"long altName": template(func(t *backend.Template) { t.SubjectAltName = longAltName() }),
		},
		"public key: ": {
			"no key":                 key(nil),
			"key with a tail":        key(append(bytes.Clone(p256), 0)),
			"P-224":                  key(deviceKeys()["P-224"]),
			"point not on the curve": key(offCurve),
			"the CA's key":           key(ec.cert.RawSubjectPublicKeyInfo),
		},
		"an RSA modulus": {
			"RSA-2047":                 key(rsaKey(t, modulus(2047), 65537)),
			"RSA-8193":                 key(rsaKey(t, modulus(8193), 65537)),
			"RSA with an even modulus": key(rsaKey(t, new(big.Int).Lsh(big.NewInt(1), 2047), 65537)),
		},
		"an RSA exponent": {
			"RSA with exponent 1":       key(rsaKey(t, modulus(2048), 1)),
			"RSA with an even exponent": key(rsaKey(t, modulus(2048), 65536)),
			"RSA with a long exponent":  key(rsaKey(t, modulus(2048), 1<<32+1)),
		},
		"not in whole seconds": {
			"fraction of a second": template(func(t *backend.Template) { t.NotBefore = t.NotBefore.Add(time.Millisecond) }),
		},
		"it ends before it begins": {
			"ends at its begin": template(func(t *backend.Template) { t.NotAfter = t.NotBefore }),
			"no dates":          template(func(t *backend.Template) { t.NotBefore, t.NotAfter = time.Time{}, time.Time{} }),
		},
		"not within that of the issuing CA": {
			"before the CA": template(func(t *backend.Template) { t.NotBefore = ec.cert.NotBefore.Add(-time.Second) }),
			"after the CA":  template(func(t *backend.Template) { t.NotAfter = ec.cert.NotAfter.Add(time.Second) }),
		},
		"validity: it is over": {
			"over": template(func(t *backend.Template) {
				t.NotBefore, t.NotAfter = now.Add(-2*time.Hour), now
			}),
		},
		"not all of it is for an end entity": {
			"keyCertSign":             template(func(t *backend.Template) { t.KeyUsage |= x509.KeyUsageCertSign }),
			"cRLSign":                 template(func(t *backend.Template) { t.KeyUsage |= x509.KeyUsageCRLSign }),
			"key usage without a bit": template(func(t *backend.Template) { t.KeyUsage |= 1 << 9 }),
			"negative key usage":      template(func(t *backend.Template) { t.KeyUsage = -1 }),
		},
		"extension 2.5.29.37: cryptobyte: invalid OID": {
			"empty purpose":      template(func(t *backend.Template) { t.ExtKeyUsage = []asn1.ObjectIdentifier{{}} }),
			"impossible purpose": template(func(t *backend.Template) { t.ExtKeyUsage = []asn1.ObjectIdentifier{{3, 40}} }),
		},
		"more than 32": {
			"many purposes":   template(func(t *backend.Template) { t.ExtKeyUsage = make([]asn1.ObjectIdentifier, 33) }),
			"many extensions": extensions(make([]pkix.Extension, 33)...),
		},
		"it is always there": {
			"basicConstraints again": extensions(pkix.Extension{Id: oidBasicConstraints, Critical: true, Value: []byte("\x30\x03\x01\x01\xff")}),
			"SKI again":              extensions(further(oidSubjectKeyID...)...),
		},
		"it is a field of the template": {
			"keyUsage again":       extensions(pkix.Extension{Id: oidKeyUsage, Value: []byte{3, 2, 7, 0x80}}),
			"extKeyUsage again":    extensions(further(oidExtKeyUsage...)...),
			"subjectAltName again": extensions(further(oidSubjectAltName...)...),
		},
		"the issuer adds its own": {
			"AKI again": extensions(further(oidAuthorityKeyID...)...),
			"CRL again": extensions(further(oidCRLDistribution...)...),
		},
		"it is for CAs": {
			"nameConstraints": extensions(further(oidNameConstraints...)...),
		},
		"it comes twice": {
			"extension twice": extensions(append(further(1, 2, 3), further(1, 2, 3)...)...),
		},
		"not an object identifier": {
			"extension without OID": extensions(pkix.Extension{Value: []byte{5, 0}}),
		},
		"its value is not one DER element": {
			"extension without DER": extensions(pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}}),
			"extension with a tail": extensions(pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: []byte{5, 0, 0}}),
		},
		"invalid certificate policies": {
			"malformed known extension": extensions(pkix.Extension{
				Id: asn1.ObjectIdentifier{2, 5, 29, 32}, Value: []byte{5, 0}}),
		},
		"not a DER CertificationRequest": {
			"CSR that is none": func(q *backend.IssueRequest) { q.CSR = []byte("csr") },
			"CSR with a tail":  func(q *backend.IssueRequest) { q.CSR = append(csr(other), 0) },
		},
		"not that of the template": {
			"CSR for another key": func(q *backend.IssueRequest) { q.CSR = csr(other) },
		},
	} {
		for what, x := range group {
			t.Run(what, func(t *testing.T) {
				q := request(t, "tx-1")
				x(q)
				_, err := c.Issue(t.Context(), q)
				want(t, err, codes.InvalidArgument)
				if err != nil && !strings.Contains(err.Error(), says) {
					t.Errorf("%v, want it to say %q", err, says)
				}
			})
		}
	}
	if e := rows(t, dir); len(e) != 0 {
		t.Errorf("%d refused templates were recorded", len(e))
	}
	q := request(t, "tx-1")
	q.Template.PublicKey, err = x509.MarshalPKIXPublicKey(other.Public())
	if err != nil {
		t.Fatal(err)
	}
	q.CSR = csr(other)
	issue(t, c, q)
}

func longAltName() []byte {
	names := bytes.Repeat([]byte("\x82\x06a.test"), 4100)
	return append([]byte{0x30, 0x82, byte(len(names) >> 8), byte(len(names))}, names...)
}

// TestOverIsNotForRepeats: what was issued is answered as long as anyone asks.
func TestOverIsNotForRepeats(t *testing.T) {
	clock := now
	c := open(t, standing(t), Options{Clock: func() time.Time { return clock }})
	first := issue(t, c, request(t, "tx-1"))
	clock = first.NotAfter.Add(time.Hour)
	if again := issue(t, c, request(t, "tx-1")); !bytes.Equal(first.Raw, again.Raw) {
		t.Error("another certificate")
	}
	_, err := c.Issue(t.Context(), request(t, "tx-2"))
	want(t, err, codes.InvalidArgument)
}

// TestUnfitIsNotSigned: the last look refuses what reads otherwise than the template, before the key is used.
func TestUnfitIsNotSigned(t *testing.T) {
	c := open(t, standing(t), Options{})
	r := c.open.Load()
	good := func() *template {
		x, err := r.checkTemplate(&request(t, "tx-1").Template, r.issuers[0])
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	serial := r.serialNumber("ec", "tx-1")
	if _, err := r.issuers[0].sign(good(), serial); err != nil {
		t.Fatal(err)
	}
	for what, spoil := range map[string]func(x *template){
		"CA":                func(x *template) { x.extensions[0].Value = []byte("\x30\x03\x01\x01\xff") },
		"no constraints":    func(x *template) { x.extensions = x.extensions[1:] },
		"another key usage": func(x *template) { x.extensions[1].Value = []byte{3, 2, 1, 6} },
		"no purpose":        func(x *template) { x.extensions[2] = further(1, 2, 3)[0] },
		"another key":       func(x *template) { x.key = r.issuers[0].cert.PublicKey },
		"twice the same":    func(x *template) { x.extensions = append(x.extensions, x.extensions[0]) },
	} {
		t.Run(what, func(t *testing.T) {
			x := good()
			spoil(x)
			if der, err := r.issuers[0].sign(x, serial); err == nil || der != nil || !strings.Contains(err.Error(), errUnfit.Error()) {
				t.Errorf("signed, or %v", err)
			}
		})
	}
}
