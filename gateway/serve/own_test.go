package serve

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

type testCA struct {
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
	now     time.Time
	certify x509.KeyUsage // of what it certifies; 0: digitalSignature
}

func (ca *testCA) usage() x509.KeyUsage {
	if ca.certify == 0 {
		return x509.KeyUsageDigitalSignature
	}
	return ca.certify
}

func newTestCA(t testing.TB) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id := make([]byte, 8)
	rand.Read(id)
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA " + string(rune('a'+id[0]%26)) + new(big.Int).SetBytes(id).String()}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &testCA{cert: cert, key: key, now: now}
}

func (ca *testCA) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(ca.cert)
	return p
}

func (ca *testCA) sign(pub any, tmpl *x509.Certificate) ([]byte, error) {
	serial := make([]byte, 8)
	rand.Read(serial)
	tmpl.SerialNumber = new(big.Int).SetBytes(serial)
	tmpl.NotBefore, tmpl.NotAfter = ca.now.Add(-time.Minute), ca.now.Add(90*24*time.Hour)
	return x509.CreateCertificate(rand.Reader, tmpl, ca.cert, pub, ca.key)
}

func (ca *testCA) issue(t *testing.T, cn string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := ca.sign(key.Public(), &x509.Certificate{Subject: pkix.Name{CommonName: cn}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}})
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// issuing is an Issue that counts.
func (ca *testCA) issuing(calls *int) Issue {
	return func(_ context.Context, der []byte) ([][]byte, error) {
		*calls++
		csr, err := x509.ParseCertificateRequest(der)
		if err != nil {
			return nil, err
		}
		if err := csr.CheckSignature(); err != nil {
			return nil, err
		}
		cert, err := ca.sign(csr.PublicKey, &x509.Certificate{Subject: csr.Subject, DNSNames: csr.DNSNames, IPAddresses: csr.IPAddresses, KeyUsage: ca.usage()})
		return [][]byte{cert, ca.cert.Raw}, err
	}
}

func TestOwnCertificate(t *testing.T) {
	ca := newTestCA(t)
	dir := t.TempDir()
	now := ca.now
	clock := func() time.Time { return now }
	names := NamesOf("gw-1", []string{"127.0.0.1:0", "10.0.0.5:8443", ":8443"}, nil)
	roots := []*x509.Certificate{ca.cert}
	calls := 0
	ensure := func(want int, names Names, roots []*x509.Certificate) *Own {
		t.Helper()
		o := NewOwn(filepath.Join(dir, "server.pem"), "TLS certificate", clock, quiet()) // a new process
		if err := o.Ensure(t.Context(), Server(names, roots), ca.issuing(&calls)); err != nil {
			t.Fatal(err)
		}
		if calls != want {
			t.Fatalf("%d certificates issued, want %d", calls, want)
		}
		leaf := o.Certificate().Leaf
		if !names.Equal(leaf) || len(o.Certificate().Certificate) != 2 {
			t.Fatalf("names %v %v, chain of %d", leaf.DNSNames, leaf.IPAddresses, len(o.Certificate().Certificate))
		}
		return o
	}
	first := ensure(1, names, roots)
	info, err := os.Stat(filepath.Join(dir, "server.pem"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("server.pem: %v, %v", info, err)
	}
	again := ensure(1, names, roots)
	if !bytes.Equal(again.Certificate().Certificate[0], first.Certificate().Certificate[0]) {
		t.Error("another certificate after a restart")
	}
	now = now.Add(59 * 24 * time.Hour)
	ensure(1, names, roots)
	now = now.Add(2 * 24 * time.Hour) // less than a third of 90 days is left
	ca.now = now
	ensure(2, names, roots)
	names = NamesOf("gw-2", nil, nil)
	ensure(3, names, roots)
	if err := os.WriteFile(filepath.Join(dir, "server.pem"), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	ensure(4, names, roots)
	other := newTestCA(t)
	other.now = now
	ca = other
	roots = []*x509.Certificate{other.cert}
	ensure(5, names, roots)

	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestOwnCertificateWhenTheCAFails(t *testing.T) {
	ca := newTestCA(t)
	now := ca.now
	o := NewOwn(filepath.Join(t.TempDir(), "server.pem"), "TLS certificate", func() time.Time { return now }, quiet())
	names, roots := NamesOf("gw", nil, nil), []*x509.Certificate{ca.cert}
	broken := func(context.Context, []byte) ([][]byte, error) { return nil, errors.New("no CA") }
	if err := o.Ensure(t.Context(), Server(names, roots), broken); err == nil || !strings.Contains(err.Error(), "no CA") {
		t.Fatalf("without a certificate: %v", err)
	}
	calls := 0
	if err := o.Ensure(t.Context(), Server(names, roots), ca.issuing(&calls)); err != nil {
		t.Fatal(err)
	}
	old := o.Certificate().Certificate[0]
	now = now.Add(80 * 24 * time.Hour)
	if err := o.Ensure(t.Context(), Server(names, roots), broken); err != nil {
		t.Errorf("with one that is still valid: %v", err)
	}
	if !bytes.Equal(o.Certificate().Certificate[0], old) {
		t.Error("the old certificate was dropped")
	}
	now = now.Add(20 * 24 * time.Hour)
	if err := o.Ensure(t.Context(), Server(names, roots), broken); err == nil {
		t.Error("with one that has expired: no error")
	}
	// What the CA answers is checked before it is used.
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca.now = now
	wrongKey, err := ca.sign(key.Public(), &x509.Certificate{DNSNames: names.DNS})
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Ensure(t.Context(), Server(names, roots), func(context.Context, []byte) ([][]byte, error) { return [][]byte{wrongKey}, nil }); err == nil || !strings.Contains(err.Error(), "not for the key") {
		t.Errorf("another key: %v", err)
	}
	if err := o.Ensure(t.Context(), Server(names, roots), func(_ context.Context, der []byte) ([][]byte, error) {
		csr, err := x509.ParseCertificateRequest(der)
		if err != nil {
			return nil, err
		}
		cert, err := ca.sign(csr.PublicKey, &x509.Certificate{DNSNames: []string{"victim"}})
		return [][]byte{cert}, err
	}); err == nil || !strings.Contains(err.Error(), "not what was asked for: its names") {
		t.Errorf("other names: %v", err)
	}
}

// What cannot be told from names: each makes another certificate, and one that the CA gets wrong is not used.
func TestOwnIdentity(t *testing.T) {
	ca := newTestCA(t)
	path := filepath.Join(t.TempDir(), "scep.pem")
	under := func(ca *testCA) func([]*x509.Certificate) string {
		return func(chain []*x509.Certificate) string {
			if !chain[1].Equal(ca.cert) {
				return "the CA is another one"
			}
			return ""
		}
	}
	both := x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	want := Want{Subject: pkix.Name{CommonName: "RA"}, Usage: both, RSA: true, Fits: under(ca)}
	calls := 0
	now := ca.now
	ensure := func(says string, issued int) *Own {
		t.Helper()
		o := NewOwn(path, "SCEP RA certificate", func() time.Time { return now }, quiet())
		if o.Identity() != nil || o.Certificate() != nil {
			t.Error("there is one before the first Ensure")
		}
		ca.certify = want.Usage
		if err := o.Ensure(t.Context(), want, ca.issuing(&calls)); err != nil {
			t.Fatalf("%s: %v", says, err)
		}
		if calls != issued {
			t.Fatalf("%s: %d issued, want %d", says, calls, issued)
		}
		id := o.Identity()
		if id.Certificate.Subject.String() != want.Name().String() || len(id.Chain) != 1 || !id.Chain[0].Equal(ca.cert) {
			t.Fatalf("%s: %s, chain of %d", says, id.Certificate.Subject, len(id.Chain))
		}
		return o
	}
	first := ensure("the first", 1)
	if k, ok := first.Identity().Key.(*rsa.PrivateKey); !ok || k.N.BitLen() != 2048 {
		t.Errorf("a key of type %T", first.Identity().Key)
	}
	ensure("again", 1)
	want.Subject.CommonName = "RA 2"
	ensure("another subject", 2)
	want.Usage = x509.KeyUsageDigitalSignature
	ensure("another usage", 3)
	want.RSA = false
	ensure("another kind of key", 4)
	now = now.Add(61 * 24 * time.Hour)
	ca.now = now
	ensure("a third is left", 5)
	ca = newTestCA(t)
	ca.now = now
	want.Fits = under(ca)
	last := ensure("another CA", 6)

	// What is prepared is not in force before it is used.
	want.Subject.CommonName = "RA 3"
	use, err := last.Prepare(t.Context(), want, ca.issuing(&calls))
	if err != nil || last.Identity().Certificate.Subject.CommonName != "RA 2" {
		t.Fatalf("%s is in force, %v", last.Identity().Certificate.Subject, err)
	}
	use()
	if last.Identity().Certificate.Subject.CommonName != "RA 3" || last.Certificate().Leaf.Subject.CommonName != "RA 3" {
		t.Error("what was prepared is not used")
	}

	ca.certify = both
	want.Subject.CommonName = "RA 4"
	if err := last.Ensure(t.Context(), want, ca.issuing(&calls)); err == nil || !strings.Contains(err.Error(), "SCEP RA certificate") || !strings.Contains(err.Error(), "its usage") {
		t.Errorf("another usage than asked for: %v", err)
	}
}

func TestNamesOf(t *testing.T) {
	n := NamesOf("GW-1.example.com.", []string{"0.0.0.0:443", "[::]:443", "[fe80::1%eth0]:1", "ra.example.com:8443", "bad"}, []string{"192.0.2.1", "under_score", "localhost"})
	wantDNS := []string{"localhost", "gw-1.example.com", "ra.example.com"}
	wantIP := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1"), netip.MustParseAddr("fe80::1"), netip.MustParseAddr("192.0.2.1")}
	if !slices.Equal(n.DNS, wantDNS) || !slices.Equal(n.IP, wantIP) {
		t.Errorf("%v %v", n.DNS, n.IP)
	}
}

func TestPolicyFromFiles(t *testing.T) {
	ca := newTestCA(t)
	dir := t.TempDir()
	pair := ca.issue(t, "server")
	pkcs8, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]*pem.Block{"c.pem": {Type: "CERTIFICATE", Bytes: pair.Certificate[0]}, "k.pem": {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		t    TLS
		want string
	}{
		{TLS{Cert: "c.pem", Key: "k.pem"}, ""},
		{TLS{Cert: filepath.Join(dir, "c.pem"), Key: "k.pem"}, ""},
		{TLS{Cert: "none.pem", Key: "k.pem"}, "tls.cert, tls.key"},
		{TLS{Cert: "k.pem", Key: "c.pem"}, "tls.cert, tls.key"},
		{TLS{Cert: "c.pem", Key: "k.pem", Max: "1.2", Suites: []string{"ECDHE_RSA_AES_128_GCM_SHA256"}}, "kind of key"},
		{TLS{Cert: "c.pem", Key: "k.pem", Suites: []string{"ECDHE_RSA_AES_128_GCM_SHA256"}}, ""},
	} {
		_, err := tc.t.Policy(dir, nil, nil, time.Now)
		if (tc.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v, want %q", tc.t, err, tc.want)
		}
	}
	cfg, err := (&TLS{}).Policy(dir, func() *tls.Certificate { return nil }, nil, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cfg.GetCertificate(nil); err == nil {
		t.Error("a certificate came from nowhere")
	}
}

// TLS sends what leads to the other generation in the root's place.
func TestOwnSendsCrosses(t *testing.T) {
	ca, cross := newTestCA(t), newTestCA(t)
	want := Server(Names{DNS: []string{"localhost"}}, []*x509.Certificate{ca.cert})
	want.Crosses = func(root *x509.Certificate) []*x509.Certificate {
		if !root.Equal(ca.cert) {
			t.Error("another root")
		}
		return []*x509.Certificate{cross.cert}
	}
	calls := 0
	path := filepath.Join(t.TempDir(), "server.pem")
	for range 2 {
		o := NewOwn(path, "TLS certificate", func() time.Time { return ca.now }, quiet())
		if err := o.Ensure(t.Context(), want, ca.issuing(&calls)); err != nil {
			t.Fatal(err)
		}
		sent := o.Certificate().Certificate
		if len(sent) != 2 || !bytes.Equal(sent[1], cross.cert.Raw) || calls != 1 {
			t.Errorf("%d certificates are sent, %d issued", len(sent), calls)
		}
		if chain := o.Identity().Chain; len(chain) != 1 || !chain[0].Equal(ca.cert) {
			t.Error("the identity's chain has changed")
		}
	}
}
