package est

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A bag has no order, and the CA changes over by itself.
func TestCACertificates(t *testing.T) {
	f := newFakeCA(t)
	c := f.configured(t)
	one := must(c.CACertificates(t.Context()))[0]
	if len(one.Chain) != 2 || !bytes.Equal(one.Chain[0], f.issuer.Raw) || !bytes.Equal(one.Chain[1], f.root.Raw) {
		t.Fatalf("%d certificates, or in another order", len(one.Chain))
	}
	old := f.issuer
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	f.root, f.key = certify(key, nil, key, "Root 2", 3), key
	f.issuer = f.root // which certifies devices itself
	f.bag = [][]byte{f.root.Raw, old.Raw}
	got := must(c.Issue(t.Context(), request("one", time.Time{}))) // before anybody asked again
	if len(got.Chain) != 1 || !bytes.Equal(got.Chain[0], f.root.Raw) {
		t.Errorf("a chain of %d", len(got.Chain))
	}
	one = must(c.CACertificates(t.Context()))[0]
	if !bytes.Equal(one.Chain[0], f.root.Raw) || len(one.Rollover) != 1 || !bytes.Equal(one.Rollover[0], old.Raw) {
		t.Errorf("chain of %d, rollover of %d", len(one.Chain), len(one.Rollover))
	}
	f.bag = [][]byte{old.Raw}
	if _, err := c.CACertificates(t.Context()); err == nil || !strings.Contains(err.Error(), "chain") {
		t.Errorf("without a root: %v", err)
	}
}

func TestChainFile(t *testing.T) {
	f := newFakeCA(t)
	file := filepath.Join(t.TempDir(), "chain.pem")
	write := func(ders ...[]byte) {
		var text []byte
		for _, der := range ders {
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(f.root.Raw, f.issuer.Raw)
	if err := New(Options{}).Configure(t.Context(), f.config(t, "chain: "+file)); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("in the wrong order: %v", err)
	}
	write(f.issuer.Raw, f.root.Raw)
	f.bag = nil
	c := f.configured(t, "chain: "+file)
	if one := must(c.CACertificates(t.Context()))[0]; len(one.Chain) != 2 {
		t.Errorf("a chain of %d", len(one.Chain))
	}
	if got := must(c.Issue(t.Context(), request("one", time.Time{}))); len(got.Chain) != 2 {
		t.Errorf("a chain of %d", len(got.Chain))
	}
}

func TestCRL(t *testing.T) {
	f := newFakeCA(t)
	crls := &http.Server{Handler: f}
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	go crls.Serve(l) //nolint:errcheck // it is closed below
	t.Cleanup(func() { crls.Close() })
	c := f.configured(t, "crl: http://"+l.Addr().String()+"/ca.crl")
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
	f.lists = must(x509.CreateRevocationList(rand.Reader, list, f.issuer, f.key))
	var w bytes.Buffer
	if err := c.CRL(t.Context(), "", &w); err != nil || !bytes.Equal(w.Bytes(), f.lists) {
		t.Errorf("%v, %d bytes", err, w.Len())
	}
	if err := c.CRL(t.Context(), "other", &w); status.Code(err) != codes.NotFound {
		t.Errorf("another CA's: %v", err)
	}
	stranger := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	f.lists = must(x509.CreateRevocationList(rand.Reader, list, certify(stranger, nil, stranger, "Issuing", 2), stranger))
	if err := c.CRL(t.Context(), "", &w); err == nil || !strings.Contains(err.Error(), "not signed by the issuing CA") {
		t.Errorf("a stranger's: %v", err)
	}
}
