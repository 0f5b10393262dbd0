package est

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
	"github.com/muster-pki/muster/protocols/cms"
)

func TestMain(m *testing.M) {
	backendtest.Main(m, map[string]func() backend.Backend{"est": func() backend.Backend { return New(Options{Log: backend.Logger()}) }})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// fakeCA behaves as EST servers do. Of globalsign/est v1.0.6 (http.go, server.go, internal/mockca/ca.go) it has the 415 for a request without
// Content-Transfer-Encoding, text/plain for refusals, subject and subjectAltName copied; of this gateway's own (docs/est.md), that an
// equal request within `repeat` is answered with the same certificate, that a held one is 202 each time, and that a twin waits.
type fakeCA struct {
	*httptest.Server
	t      testing.TB
	key    *ecdsa.PrivateKey
	root   *x509.Certificate
	issuer *x509.Certificate

	mu     sync.Mutex
	ledger []issued          // all that was ever signed
	held   map[[32]byte]bool // false: approved
	now    func() time.Time
	repeat time.Duration // 0: an equal request is a new one
	hold   bool
	auth   string                                              // Authorization wanted
	label  string                                              // path wanted
	before func(w http.ResponseWriter, r *http.Request) bool   // of simpleenroll, nothing is signed yet; true when it answered
	after  func(w http.ResponseWriter, leaf []byte) (did bool) // signed, not answered
	posts  int
	bag    [][]byte // of cacerts; nil for root and issuer, in this order
	lists  []byte
}

type issued struct {
	request [32]byte
	at      time.Time
	der     []byte
}

func newFakeCA(t testing.TB) *fakeCA {
	t.Helper()
	f := &fakeCA{t: t, held: map[[32]byte]bool{}, now: time.Now, auth: "Basic " + base64.StdEncoding.EncodeToString([]byte("ra:secret-word"))}
	rootKey := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	f.key = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	f.root = certify(rootKey, nil, rootKey, "Root", 1)
	f.issuer = certify(rootKey, f.root, f.key, "Issuing", 2)
	f.bag = [][]byte{f.root.Raw, f.issuer.Raw}
	f.Server = httptest.NewTLSServer(f)
	t.Cleanup(f.Close)
	return f
}

// certify makes a CA's certificate; by nil is self-signed.
func certify(signer *ecdsa.PrivateKey, by *x509.Certificate, key *ecdsa.PrivateKey, cn string, serial int64) *x509.Certificate {
	c := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: cn}, NotBefore: time.Now().Add(-time.Hour).Truncate(time.Second), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if by == nil {
		by = c
	}
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, c, by, key.Public(), signer))))
}

func (f *fakeCA) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/.well-known/est/")
	if f.label != "" {
		path = strings.TrimPrefix(path, f.label+"/")
	}
	refuse := func(status int, text string) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(status)
		fmt.Fprintln(w, text)
	}
	certs := func(ders ...[]byte) {
		w.Header().Set("Content-Type", "application/pkcs7-mime; smime-type=certs-only")
		fmt.Fprint(w, base64.StdEncoding.EncodeToString(must(cms.CertsOnly(ders...))))
	}
	switch {
	case r.URL.Path == "/ca.crl":
		w.Write(f.lists) //nolint:errcheck // the client's loss
	case path == "cacerts":
		certs(f.bag...)
	case path != "simpleenroll":
		refuse(http.StatusNotFound, "404 page not found")
	case r.Header.Get("Authorization") != f.auth:
		refuse(http.StatusUnauthorized, "401 who is that")
	case r.Header.Get("Content-Type") != "application/pkcs10":
		refuse(http.StatusUnsupportedMediaType, "415 Content-Type must be application/pkcs10")
	case r.Header.Get("Content-Transfer-Encoding") != "base64":
		refuse(http.StatusUnsupportedMediaType, "415 missing Content-Transfer-Encoding header")
	default:
		body := must(io.ReadAll(r.Body))
		if f.before != nil && f.before(w, r) {
			return
		}
		csr, err := x509.ParseCertificateRequest(must(base64.StdEncoding.DecodeString(string(body))))
		if err != nil {
			refuse(http.StatusBadRequest, "400 no PKCS#10")
			return
		}
		leaf := f.enroll(csr)
		switch {
		case leaf == nil:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusAccepted)
		case f.after != nil && f.after(w, leaf):
		default:
			certs(leaf)
		}
	}
}

// enroll returns nil for what is held.
func (f *fakeCA) enroll(csr *x509.CertificateRequest) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.posts++
	id := sha256.Sum256(csr.RawTBSCertificateRequest)
	for _, i := range f.ledger {
		if i.request == id && f.now().Before(i.at.Add(f.repeat)) {
			return i.der
		}
	}
	if f.hold {
		held, known := f.held[id]
		if !known {
			f.held[id] = true
		}
		if !known || held {
			return nil
		}
	}
	c := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(must(io.ReadAll(io.LimitReader(rand.Reader, 16)))), RawSubject: csr.RawSubject, NotBefore: time.Now().Add(-5 * time.Minute).Truncate(time.Second),
		NotAfter: time.Now().Add(12 * time.Hour).Truncate(time.Second), ExtraExtensions: csr.Extensions,
	}
	der := must(x509.CreateCertificate(rand.Reader, c, f.issuer, csr.PublicKey, f.key))
	f.ledger = append(f.ledger, issued{id, f.now(), der})
	return der
}

func (f *fakeCA) approve() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id := range f.held {
		f.held[id] = false
	}
}

func (f *fakeCA) count() (certificates, posts int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.ledger), f.posts
}

// config for the CA, with lines added.
func (f *fakeCA) config(t testing.TB, lines ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ca := write("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw}))
	password := write("password", []byte("secret-word\n"))
	base := fmt.Sprintf("url: %s\nca: %q\nuser: ra\npassword: %q\n", f.URL, ca, password)
	return []byte(base + strings.Join(lines, "\n") + "\n")
}

// configured is a backend for the CA, on its clock.
func (f *fakeCA) configured(t testing.TB, lines ...string) *CA {
	t.Helper()
	c := New(Options{Clock: func() time.Time { return f.now() }})
	if err := c.Configure(t.Context(), f.config(t, lines...)); err != nil {
		t.Fatal(err)
	}
	return c
}

// request of a device of that name.
func request(name string, asked time.Time) *backend.IssueRequest {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	csr := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}, DNSNames: []string{name + ".example"}}, key))
	parsed := must(x509.ParseCertificateRequest(csr))
	return &backend.IssueRequest{ID: "id-" + name, CSR: csr, Asked: asked, Template: backend.Template{
		Subject: parsed.RawSubject, PublicKey: parsed.RawSubjectPublicKeyInfo, SubjectAltName: parsed.Extensions[0].Value,
		NotBefore: time.Now().UTC().Truncate(time.Second), NotAfter: time.Now().UTC().Add(24 * time.Hour).Truncate(time.Second),
	}}
}
