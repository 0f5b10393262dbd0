package scep

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
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
	backendtest.Main(m, map[string]func() backend.Backend{"scep": func() backend.Backend { return New(Options{Log: backend.Logger()}) }})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var (
	caKey    = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	serverRA = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	ourRA    = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
)

// fakeCA behaves as SCEP servers do. Of micromdm's scepserver v2.3.0 (server/service.go, depot/signer.go) it can have: the CA's own certificate as
// the answer to GetCACert, which decrypts and signs, SHA-1, and FAILURE badRequest for whatever the signer will not do; of this
// gateway (docs/scep.md): a certificate of its own for the messages, one certificate for a transactionID, signer and key, PENDING, and a CertPoll that
// finds these at any time and answers badCertId else.
type fakeCA struct {
	*httptest.Server
	t      testing.TB
	root   *x509.Certificate // certifies devices too
	client *x509.Certificate // of config, nil before
	ra     *x509.Certificate // of this server, nil for none

	mu         sync.Mutex
	ledger     []*issued // all that was ever signed
	held       map[string]string
	refused    map[string]bool
	caps       string
	capsStatus int
	closes     bool // the connection of the last PKIOperation ends with it
	digest     crypto.Hash
	cipher     cms.Cipher
	posts      int
	seen       []*cms.Signed

	fail    string                                 // failInfo of every PKCSReq, nothing is signed
	failing string                                 // failInfo of every CertPoll
	hold    bool                                   // PENDING
	after   func(w http.ResponseWriter) bool       // signed, not answered; true when it answered
	change  func(o *cms.SignOptions)               // of an answer
	before  func(w http.ResponseWriter) (did bool) // of a PKIOperation
}

type issued struct {
	id, signer, key string
	der             []byte
}

func newFakeCA(t testing.TB) *fakeCA {
	t.Helper()
	f := &fakeCA{t: t, held: map[string]string{}, refused: map[string]bool{}, caps: "AES\nPOSTPKIOperation\nSHA-256\nSCEPStandard\n", digest: crypto.SHA256, cipher: cms.AES256}
	f.root = certify(caKey(), nil, "Root", 1, true)
	f.ra = certify(serverRA(), f.root, "Server RA", 2, false)
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

// certify makes a certificate by the CA's key; by nil is self-signed.
func certify(key *rsa.PrivateKey, by *x509.Certificate, cn string, serial int64, ca bool) *x509.Certificate {
	c := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: cn}, NotBefore: time.Now().Add(-time.Hour).Truncate(time.Second), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: ca, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}
	if ca {
		c.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	if by == nil {
		by = c
	}
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, c, by, key.Public(), caKey()))))
}

func (f *fakeCA) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Query().Get("operation") {
	case "GetCACaps":
		if f.capsStatus != 0 {
			w.WriteHeader(f.capsStatus)
		}
		fmt.Fprint(w, f.caps)
	case "GetCACert":
		if f.ra == nil {
			w.Write(f.root.Raw) //nolint:errcheck // the client's loss
			return
		}
		w.Write(must(cms.CertsOnly(f.ra.Raw, f.root.Raw))) //nolint:errcheck // as above
	case "PKIOperation":
		body := must(io.ReadAll(r.Body))
		f.closes = r.Close
		if r.Method == http.MethodGet {
			body = must(base64.StdEncoding.DecodeString(r.URL.Query().Get("message")))
		}
		f.operation(w, body)
	default:
		w.WriteHeader(http.StatusBadRequest)
	}
}

func text(s *cms.Signed, oid []int) string {
	value, _ := s.Attribute(oid)
	out, _ := cms.StringValue(value)
	return out
}

func (f *fakeCA) operation(w http.ResponseWriter, body []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.posts++
	if f.before != nil && f.before(w) {
		return
	}
	m := must(cms.ParseSigned(body, cms.Limits{}))
	f.seen = append(f.seen, m)
	if err := m.Verify([]crypto.Hash{crypto.SHA1, crypto.SHA256}); err != nil {
		f.t.Errorf("a message that does not verify: %v", err)
	}
	content, err := must(cms.ParseEnveloped(m.Content, cms.Limits{})).Decrypt(f.own())
	if err != nil {
		f.t.Errorf("a message that does not decrypt: %v", err)
	}
	id, signer := text(m, cms.SCEPTransactionID), string(m.Signer.Raw)
	switch text(m, cms.SCEPMessageType) {
	case typePKCSReq:
		if f.fail != "" {
			f.answer(w, m, statusFailure, f.fail, nil)
			return
		}
		csr := must(x509.ParseCertificateRequest(content))
		der := f.enroll(id, signer, csr)
		if der == nil {
			f.answer(w, m, statusPending, "", nil)
			return
		}
		if f.after == nil || !f.after(w) {
			f.answer(w, m, statusSuccess, "", must(cms.CertsOnly(der)))
		}
	case typeCertPoll:
		if f.failing != "" {
			f.answer(w, m, statusFailure, f.failing, nil)
			return
		}
		for _, i := range f.ledger {
			if i.id == id && i.signer == signer {
				f.answer(w, m, statusSuccess, "", must(cms.CertsOnly(i.der)))
				return
			}
		}
		switch {
		case f.refused[id]:
			f.answer(w, m, statusFailure, badRequest, nil)
		case f.held[id] == signer:
			f.answer(w, m, statusPending, "", nil)
		default:
			f.answer(w, m, statusFailure, badCertID, nil)
		}
	case typeGetCRL:
		list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
		f.answer(w, m, statusSuccess, "", must(cms.CRLsOnly(must(x509.CreateRevocationList(rand.Reader, list, f.root, caKey())))))
	}
}

// own is what the server decrypts and signs with.
func (f *fakeCA) own() (*rsa.PrivateKey, *x509.Certificate) {
	if f.ra == nil {
		return caKey(), f.root
	}
	return serverRA(), f.ra
}

func (f *fakeCA) enroll(id, signer string, csr *x509.CertificateRequest) []byte {
	key := string(csr.RawSubjectPublicKeyInfo)
	for _, i := range f.ledger {
		if i.id == id && i.signer == signer && i.key == key {
			return i.der
		}
	}
	if f.hold {
		f.held[id] = signer
		return nil
	}
	c := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(must(io.ReadAll(io.LimitReader(rand.Reader, 16)))), RawSubject: csr.RawSubject, NotBefore: time.Now().Add(-5 * time.Minute).Truncate(time.Second),
		NotAfter: time.Now().Add(12 * time.Hour).Truncate(time.Second), ExtraExtensions: csr.Extensions,
	}
	der := must(x509.CreateCertificate(rand.Reader, c, f.root, csr.PublicKey, caKey()))
	f.ledger = append(f.ledger, &issued{id, signer, key, der})
	return der
}

// approve issues what is held.
func (f *fakeCA) approve(r *backend.IssueRequest) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hold = false
	f.enroll(transactionID(r.ID), f.held[transactionID(r.ID)], must(x509.ParseCertificateRequest(r.CSR)))
}

// answer writes a CertRep to the signer of m.
func (f *fakeCA) answer(w http.ResponseWriter, m *cms.Signed, state, failInfo string, content []byte) {
	value, _ := m.Attribute(cms.SCEPSenderNonce)
	nonce, _ := cms.OctetsValue(value)
	key, cert := f.own()
	o := cms.SignOptions{
		Content: []byte{}, Key: key, Certificate: cert, Certificates: []*x509.Certificate{cert}, Digest: f.digest, PlainRSA: true,
		Attributes: []cms.Attribute{
			cms.AttributePrintable(cms.SCEPMessageType, typeCertRep), cms.AttributePrintable(cms.SCEPTransactionID, text(m, cms.SCEPTransactionID)),
			cms.AttributePrintable(cms.SCEPPKIStatus, state), cms.AttributeOctets(cms.SCEPRecipientNonce, nonce), cms.AttributeOctets(cms.SCEPSenderNonce, bytes.Repeat([]byte{7}, 16)),
		},
	}
	if failInfo != "" {
		o.Attributes = append(o.Attributes, cms.AttributePrintable(cms.SCEPFailInfo, failInfo), cms.AttributeUTF8(cms.SCEPFailInfoText, "the CA's own words\n"))
	}
	if content != nil {
		o.Content = must(cms.Encrypt(content, m.Signer, f.cipher))
	}
	if f.change != nil {
		f.change(&o)
	}
	w.Header().Set("Content-Type", "application/x-pki-message")
	w.Write(must(cms.Sign(o))) //nolint:errcheck // the client's loss
}

func (f *fakeCA) count() (certificates, posts int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.ledger), f.posts
}

// config for the CA, with lines added. The RA is certified by the CA.
func (f *fakeCA) config(t testing.TB, lines ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if f.client == nil { // the same for all processes: what is held is told to the very certificate that asked
		f.client = certify(ourRA(), f.root, "RA 1", 3, false)
	}
	cert := write("ra.pem", "CERTIFICATE", f.client.Raw)
	key := write("ra.key", "PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(ourRA())))
	roots := write("roots.pem", "CERTIFICATE", f.root.Raw)
	base := fmt.Sprintf("url: %s/scep\nra: {cert: %q, key: %q}\nroots: %q\n", f.URL, cert, key, roots)
	return []byte(base + strings.Join(lines, "\n") + "\n")
}

// configured is a backend for the CA.
func (f *fakeCA) configured(t testing.TB, lines ...string) *CA {
	t.Helper()
	c := New(Options{})
	if err := c.Configure(t.Context(), f.config(t, lines...)); err != nil {
		t.Fatal(err)
	}
	return c
}

// request of a device of that name.
func request(name string) *backend.IssueRequest {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	csr := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key))
	parsed := must(x509.ParseCertificateRequest(csr))
	return &backend.IssueRequest{ID: "id-" + name, CSR: csr, Template: backend.Template{
		Subject: parsed.RawSubject, PublicKey: parsed.RawSubjectPublicKeyInfo,
		NotBefore: time.Now().UTC().Truncate(time.Second), NotAfter: time.Now().UTC().Add(24 * time.Hour).Truncate(time.Second),
	}}
}
