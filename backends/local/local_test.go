package local

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// now is the time of every test, until it moves it.
var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

var oidClientAuth = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 2}

// madeDir holds the CA of madeOnce. TestMain makes and removes it.
var madeDir string

// madeOnce makes a CA and closes it, with nothing issued: RSA keys take their time.
var madeOnce = sync.OnceValue(func() error {
	c := New(Options{Clock: func() time.Time { return now }})
	if err := c.Configure(context.Background(), []byte("dir: "+madeDir)); err != nil {
		return err
	}
	return c.Close()
})

// standing returns a directory of its own with a CA that nothing was issued by.
func standing(t testing.TB) string {
	t.Helper()
	err := madeOnce()
	if err != nil {
		t.Fatal(err)
	}
	return copied(t, madeDir)
}

// copied returns a copy of a CA's directory.
func copied(t testing.TB, from string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	// CopyFS makes files by the umask.
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		switch {
		case err != nil:
			return err
		case info.IsDir():
			return os.Chmod(path, 0o700)
		}
		return os.Chmod(path, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// open configures a CA in dir. It is closed at the test's end, or before.
func open(t testing.TB, dir string, o Options, more ...string) *CA {
	t.Helper()
	if o.Clock == nil {
		o.Clock = func() time.Time { return now }
	}
	c := New(o)
	if err := c.Configure(t.Context(), []byte(strings.Join(append([]string{"dir: " + dir}, more...), "\n"))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, c) })
	return c
}

func shut(t testing.TB, c *CA) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// deviceKeys are the public keys of devices, by gateway name.
var deviceKeys = sync.OnceValue(func() map[string][]byte {
	keys := map[string][]byte{}
	add := func(name string, k crypto.Signer, err error) {
		if err != nil {
			panic(err)
		}
		if keys[name], err = x509.MarshalPKIXPublicKey(k.Public()); err != nil {
			panic(err)
		}
	}
	for name, curve := range map[string]elliptic.Curve{"P-224": elliptic.P224(), "P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()} {
		k, err := ecdsa.GenerateKey(curve, rand.Reader)
		add(name, k, err)
	}
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	add("RSA-2048", k, err)
	_, e, err := ed25519.GenerateKey(rand.Reader)
	add("Ed25519", e, err)
	return keys
})

func name(t testing.TB, n pkix.Name) []byte {
	t.Helper()
	der, err := asn1.Marshal(n.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// request is a good request for a P-256 device.
func request(t testing.TB, id string) *backend.IssueRequest {
	t.Helper()
	return &backend.IssueRequest{ID: id, Device: "device-" + id, Template: backend.Template{
		Subject:        name(t, pkix.Name{CommonName: "device-" + id, Organization: []string{"Operator"}}),
		SubjectAltName: []byte("\x30\x0f\x82\x0ddevice.test.a"),
		PublicKey:      deviceKeys()["P-256"],
		NotBefore:      now.Add(-time.Hour),
		NotAfter:       now.Add(397*day - time.Second),
		KeyUsage:       x509.KeyUsageDigitalSignature,
		ExtKeyUsage:    []asn1.ObjectIdentifier{oidClientAuth},
	}}
}

func issue(t testing.TB, c *CA, q *backend.IssueRequest) *x509.Certificate {
	t.Helper()
	got, err := c.Issue(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(got.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

// want fails the test unless err has the code.
func want(t testing.TB, err error, code codes.Code) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("got %v, want %v", err, code)
	}
}

// rows reads the ledger as an operator does.
func rows(t testing.TB, dir string) []Entry {
	t.Helper()
	entries, err := ReadLedger(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// state is what a directory holds: name, mode and hash of each file.
func state(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %s", strings.TrimPrefix(path, dir), info.Mode())
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %x", sha256.Sum256(data))
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestMain(m *testing.M) {
	if dir := os.Getenv("MUSTER_LOCAL_TEST_ISSUE"); dir != "" {
		issueProcess(dir)
	}
	if len(os.Args) > 1 && os.Args[1] == "plugin" {
		backendtest.Main(m, map[string]func() backend.Backend{"local": newBackend})
	}
	dir, err := os.MkdirTemp("", "muster-local-ca-")
	if err != nil {
		panic(err)
	}
	madeDir = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}
