package lint

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
)

// FuzzAfter: whatever a CA returned that Go's parser takes, it is linted to its end, and what is found is told within its bounds.
func FuzzAfter(f *testing.F) {
	for _, name := range []string{"ca.der", "ra.der"} {
		der, err := os.ReadFile(filepath.Join("..", "..", "testdata", "cmp", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
	}
	for kind, ca := range issuers(f) {
		if kind == "P-384" {
			f.Add(ca.Raw)
		}
	}
	l := New(nil)
	f.Fuzz(func(t *testing.T, der []byte) {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		if err := l.After(cert); err != nil && len(err.Error()) > (maxFindings+1)*4*maxDetails {
			t.Errorf("%d bytes", len(err.Error()))
		}
	})
}
