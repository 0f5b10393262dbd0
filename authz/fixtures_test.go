package authz

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func atNoon() time.Time { return noon }

// authority is a CA of a test.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newCA(t testing.TB, name string, parent *authority) *authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: noon.AddDate(-1, 0, 0), NotAfter: noon.AddDate(10, 0, 0), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	ca := &authority{t: t, key: key}
	issuer, signer := template, key
	if parent != nil {
		issuer, signer = parent.cert, parent.key
	}
	ca.cert = create(t, template, issuer, key.Public(), signer)
	return ca
}

func create(t testing.TB, template, issuer *x509.Certificate, pub crypto.PublicKey, signer crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, pub, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// issue certifies a device; change, when given, alters the template first.
func (ca *authority) issue(serial int64, cn string, change func(*x509.Certificate)) *x509.Certificate {
	ca.t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: cn, SerialNumber: "SN-" + cn},
		NotBefore: noon.Add(-time.Hour), NotAfter: noon.AddDate(1, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(template)
	}
	return create(ca.t, template, ca.cert, newKey(ca.t).Public(), ca.key)
}

func (ca *authority) crl(thisUpdate, nextUpdate time.Time, serials ...int64) []byte {
	ca.t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: thisUpdate, NextUpdate: nextUpdate}
	for _, n := range serials {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(n), RevocationTime: thisUpdate})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, ca.cert, ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	return der
}

func write(t testing.TB, dir, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func pemOf(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

func credential(kind gateway.CredentialKind, chain ...*x509.Certificate) gateway.Credential {
	return gateway.Credential{Kind: kind, ID: gateway.Fingerprint(chain[0]), Chain: chain}
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	der, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// subject is the DER Name of "type=value" pairs, each an RDN of its own.
func subject(t testing.TB, pairs ...string) []byte {
	t.Helper()
	var rdns pkix.RDNSequence
	for _, p := range pairs {
		name, value, _ := strings.Cut(p, "=")
		oid, ok := attributeOID(name)
		dotted, ok2 := dottedOID(oid)
		if !ok || !ok2 {
			t.Fatalf("no attribute %q", name)
		}
		rdns = append(rdns, []pkix.AttributeTypeAndValue{{Type: dotted, Value: value}})
	}
	return marshal(t, rdns)
}

// sans is the DER GeneralNames of (tag, content) pairs.
func sans(t testing.TB, names ...any) []byte {
	t.Helper()
	var list []asn1.RawValue
	for i := 0; i < len(names); i += 2 {
		var content []byte
		switch v := names[i+1].(type) {
		case string:
			content = []byte(v)
		case []byte:
			content = v
		}
		tag := names[i].(int)
		list = append(list, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, IsCompound: tag == 0 || tag == 4, Bytes: content})
	}
	return marshal(t, list)
}

func sanExtension(der []byte) []pkix.Extension {
	if der == nil {
		return nil
	}
	return []pkix.Extension{{Id: oidSubjectAltName, Value: der}}
}

// expect fails unless the verdict is the decision for the reason, says something to the client when it denies, and
// the operator's note holds every one of the words.
func expect(t testing.TB, v gateway.Verdict, decision gateway.Decision, reason gateway.Reason, words ...string) {
	t.Helper()
	if v.Decision != decision || v.Reason != reason {
		t.Fatalf("got %s %s (%s), want %s %s", v.Decision, v.Reason, v.Note, decision, reason)
	}
	if decision == gateway.Deny && v.Detail == "" {
		t.Errorf("nothing for the client in %+v", v)
	}
	if v.Note == "" {
		t.Errorf("nothing for the operator in %+v", v)
	}
	for _, w := range words {
		if !strings.Contains(v.Note, w) {
			t.Errorf("note %q lacks %q", v.Note, w)
		}
	}
}

func ended(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// endedDenies fails unless a stage cannot answer when the context has ended, and grants nothing.
func endedDenies(t testing.TB, s gateway.Stage, r *gateway.Request) {
	t.Helper()
	g := &gateway.Grant{}
	expect(t, s.Decide(ended(t), r, g), gateway.CannotAnswer, gateway.Unavailable, "canceled")
	if g.Requester != "" || g.Device != "" {
		t.Errorf("granted %+v", g)
	}
}

// wantError fails unless there is an error that holds the word.
func wantError(t testing.TB, err error, word string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), word) {
		t.Errorf("error %v, want one with %q", err, word)
	}
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
