package serve

import (
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The certificates before the current one stay, with their keys, for as long as they are valid; over a restart too.
func TestOwnKeepsThePrevious(t *testing.T) {
	ca := newTestCA(t)
	path := filepath.Join(t.TempDir(), "scep.pem")
	now := ca.now
	want := Want{Subject: pkix.Name{CommonName: "RA"}, Usage: x509.KeyUsageDigitalSignature, RSA: true, KeepsPrevious: true}
	why := ""
	want.Fits = func(chain []*x509.Certificate) string {
		if chain[1].Equal(ca.cert) {
			return ""
		}
		return why
	}
	calls := 0
	ensure := func() *Own {
		t.Helper()
		o := NewOwn(path, "SCEP RA certificate", func() time.Time { return now }, quiet())
		if err := o.Ensure(t.Context(), want, ca.issuing(&calls)); err != nil {
			t.Fatal(err)
		}
		return o
	}
	first := ensure().Identity()
	if first.Previous != nil {
		t.Error("the first has one before it")
	}
	now = now.Add(time.Minute)
	ca, why = newTestCA(t), "the CA is another one"
	ca.now = now
	for range 2 { // made, and read again
		second := ensure().Identity()
		if p := second.Previous; calls != 2 || p == nil || !p.Certificate.Equal(first.Certificate) || !p.Key.Public().(*rsa.PublicKey).Equal(first.Key.Public()) {
			t.Fatalf("%d issued, previous %+v", calls, p)
		}
	}
	kept := func() []string {
		t.Helper()
		files, err := filepath.Glob(strings.TrimSuffix(path, ".pem") + ".previous-*.pem")
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	if files := kept(); len(files) != 1 {
		t.Errorf("%v", files)
	} else if info, err := os.Stat(files[0]); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	// Those before that one stay too, up to a bound; a file that cannot be read is in nobody's way.
	if err := os.WriteFile(strings.TrimSuffix(path, ".pem")+".previous-0.pem", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for n := 2; n <= maxPrevious+2; n++ {
		now = now.Add(time.Minute)
		ca = newTestCA(t)
		ca.now = now
		got := 0
		for p := ensure().Identity().Previous; p != nil; p = p.Previous {
			if got++; p.Previous == nil && p.Certificate.Equal(first.Certificate) != (n <= maxPrevious) {
				t.Errorf("after %d changes the first of all is not where it should be", n)
			}
		}
		if files := kept(); got != min(n, maxPrevious) || len(files) != got+1 {
			t.Errorf("after %d changes %d are kept, files %v", n, got, files)
		}
	}
	last := ensure().Identity()
	now = last.Certificate.NotAfter.Add(time.Second)
	ca.now = now
	if p := ensure().Identity().Previous; p != nil || len(kept()) != 1 {
		t.Errorf("what has ended is kept: %v", kept())
	}
	// Where nobody asks for it, none is kept.
	want.KeepsPrevious = false
	if ensure().Identity().Previous != nil {
		t.Error("one that nobody wants")
	}
}
