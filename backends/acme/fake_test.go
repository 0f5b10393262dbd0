package acme

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
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
)

// fake is an ACME CA that does what pebble does (github.com/letsencrypt/pebble/v2 wfe/wfe.go: verifyPOST, NewAccount, NewOrder,
// FinalizeOrder, RevokeCert; va/va.go), but certifies the CSR as it stands, with its dates, so that the suite of the contract can compare.
// Challenges are looked at in the folder, when they are accepted.
type fake struct {
	t      testing.TB
	server *httptest.Server
	dir    string // of challenge answers
	root   *x509.Certificate
	key    *ecdsa.PrivateKey
	mac    []byte // of external accounts; nil where it wants none

	mu       sync.Mutex
	serial   int
	nonces   map[string]bool
	accounts map[string]*ecdsa.PublicKey // by URL
	orders   map[string]*fakeOrder
	revoked  map[string]bool
	finals   int // finalizations that led to a certificate

	answer func(w http.ResponseWriter, r *http.Request, path string) bool // takes an answer over, before anything was done; nil for never
	after  func(w http.ResponseWriter, path string) bool                  // likewise, when all was done
	kinds  []string                                                       // of challenges offered
}

type fakeOrder struct {
	Status         string              `json:"status"`
	Identifiers    []map[string]string `json:"identifiers"`
	Authorizations []string            `json:"authorizations"`
	Finalize       string              `json:"finalize"`
	Certificate    string              `json:"certificate,omitempty"`
	Error          map[string]any      `json:"error,omitempty"`

	account, token, authz string
	chain                 []byte
	leaf                  []byte
}

func newFake(t testing.TB) *fake {
	t.Helper()
	f := &fake{t: t, dir: t.TempDir(), nonces: map[string]bool{}, accounts: map[string]*ecdsa.PublicKey{}, orders: map[string]*fakeOrder{}, revoked: map[string]bool{}, kinds: []string{"tls-alpn-01", http01, dns01}}
	var err error
	if f.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	f.root = selfSign(t, f.key, "Fake Root")
	f.server = httptest.NewTLSServer(http.HandlerFunc(f.serve))
	t.Cleanup(f.server.Close)
	return f
}

func selfSign(t testing.TB, key *ecdsa.PrivateKey, cn string) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: cn}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func toPEM(ders ...[]byte) []byte {
	var out []byte
	for _, der := range ders {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}

// config writes the files that a backend of this CA needs, into a folder of their own.
func (f *fake) config(t testing.TB, more ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	c := fmt.Sprintf("url: %s/dir\nca: %q\nchain: %q\naccount-key: %q\nterms-agreed: true\nhttp-01: {dir: %q}\n", f.server.URL,
		write("server.pem", toPEM(f.server.Certificate().Raw)), write("chain.pem", toPEM(f.root.Raw)), filepath.Join(dir, "account.pem"), f.dir)
	if f.mac != nil {
		c += fmt.Sprintf("external-account: {kid: kid-1, key: %q}\n", write("mac", []byte(base64.RawURLEncoding.EncodeToString(f.mac)+"\n")))
	}
	return []byte(c + strings.Join(more, "\n"))
}

func (f *fake) url(path string) string { return f.server.URL + path }

func (f *fake) problem(w http.ResponseWriter, status int, kind, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"type": problems + kind, "detail": detail, "status": status}) //nolint:errcheck // the client is gone
}

func (f *fake) nonce(w http.ResponseWriter) {
	f.serial++
	n := fmt.Sprintf("nonce-%d", f.serial)
	f.nonces[n] = true
	w.Header().Set("Replay-Nonce", n)
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	answer := f.answer
	f.mu.Unlock()
	if answer != nil && answer(w, r, r.URL.Path) {
		return
	}
	rec := httptest.NewRecorder()
	f.mu.Lock()
	f.do(rec, r)
	after := f.after
	f.mu.Unlock()
	if after != nil && after(w, r.URL.Path) {
		return
	}
	for k, v := range rec.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(rec.Code)
	w.Write(rec.Body.Bytes()) //nolint:errcheck // the client is gone
}

func (f *fake) do(w http.ResponseWriter, r *http.Request) {
	f.nonce(w)
	if r.URL.Path == "/dir" {
		json.NewEncoder(w).Encode(map[string]any{ //nolint:errcheck // as above
			"newNonce": f.url("/nonce"), "newAccount": f.url("/account"), "newOrder": f.url("/order"), "revokeCert": f.url("/revoke"), "keyChange": f.url("/key"),
			"meta": map[string]any{"termsOfService": "https://terms.example", "externalAccountRequired": f.mac != nil},
		})
		return
	}
	if r.URL.Path == "/nonce" {
		return
	}
	account, key, payload, bad := f.jws(r)
	if bad != "" {
		f.problem(w, 400, bad, "the JWS")
		return
	}
	answer := func(status int, v any) {
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(v) //nolint:errcheck // as above
	}
	at, id, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if at == "account" {
		f.newAccount(w, key, payload)
		return
	}
	if account == "" {
		f.problem(w, 400, "accountDoesNotExist", "no account")
		return
	}
	var o *fakeOrder
	if id != "" {
		if o = f.orders[id]; o == nil {
			f.problem(w, 404, "malformed", "no such order")
			return
		}
		if o.account != account {
			f.problem(w, 403, "unauthorized", "another account's")
			return
		}
	}
	switch at {
	case "order":
		if o == nil {
			f.serial++
			id = fmt.Sprint(f.serial)
			o = &fakeOrder{Status: "pending", account: account, token: "token-" + id, authz: "pending", Authorizations: []string{f.url("/authz/" + id)}, Finalize: f.url("/finalize/" + id)}
			if err := json.Unmarshal(payload, o); err != nil {
				f.problem(w, 400, "malformed", err.Error())
				return
			}
			f.orders[id] = o
			w.Header().Set("Location", f.url("/order/"+id))
			answer(201, o)
			return
		}
		answer(200, o)
	case "authz":
		var challenges []map[string]any
		for _, kind := range f.kinds {
			challenges = append(challenges, map[string]any{"type": kind, "url": f.url("/challenge/" + id), "token": o.token, "status": o.authz, "error": o.Error})
		}
		answer(200, map[string]any{"status": o.authz, "identifier": o.Identifiers[0], "challenges": challenges})
	case "challenge":
		if o.authz != "pending" { // wfe.go: validateChallengeUpdate
			f.problem(w, 400, "malformed", "the authorization is "+o.authz)
			return
		}
		f.validate(o, key)
		answer(200, map[string]any{"type": http01, "url": f.url("/challenge/" + id), "token": o.token, "status": "processing"})
	case "finalize":
		f.finalize(w, r, o, id, payload)
	case "cert":
		w.Header().Set("Content-Type", "application/pem-certificate-chain")
		w.Write(o.chain) //nolint:errcheck // as above
	case "revoke":
		f.revoke(w, payload)
	default:
		f.problem(w, 404, "malformed", "no such thing")
	}
}

// jws takes a request apart and verifies it (RFC 8555 section 6.2). bad is the type of a problem.
func (f *fake) jws(r *http.Request) (account string, key *ecdsa.PublicKey, payload []byte, bad string) {
	var m struct{ Protected, Payload, Signature string }
	if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
		return "", nil, nil, "malformed"
	}
	var h struct {
		Alg, Nonce, URL, KID string
		JWK                  *struct{ X, Y string }
	}
	raw, _ := base64.RawURLEncoding.DecodeString(m.Protected)
	if json.Unmarshal(raw, &h) != nil || h.URL != f.server.URL+r.URL.Path || h.Alg != "ES256" {
		return "", nil, nil, "malformed"
	}
	if !f.nonces[h.Nonce] {
		return "", nil, nil, "badNonce"
	}
	delete(f.nonces, h.Nonce)
	if h.JWK != nil {
		x, _ := base64.RawURLEncoding.DecodeString(h.JWK.X)
		y, _ := base64.RawURLEncoding.DecodeString(h.JWK.Y)
		var err error
		if key, err = ecdsa.ParseUncompressedPublicKey(elliptic.P256(), bytes.Join([][]byte{{4}, x, y}, nil)); err != nil {
			return "", nil, nil, "badPublicKey"
		}
	} else if key = f.accounts[h.KID]; key == nil {
		return "", nil, nil, "accountDoesNotExist"
	}
	sum := sha256.Sum256([]byte(m.Protected + "." + m.Payload))
	sig, _ := base64.RawURLEncoding.DecodeString(m.Signature)
	if len(sig) != 64 || !ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
		return "", nil, nil, "malformed"
	}
	payload, _ = base64.RawURLEncoding.DecodeString(m.Payload)
	return h.KID, key, payload, ""
}

func (f *fake) newAccount(w http.ResponseWriter, key *ecdsa.PublicKey, payload []byte) {
	for url, have := range f.accounts {
		if have.Equal(key) {
			w.Header().Set("Location", url)
			io.WriteString(w, `{"status":"valid"}`) //nolint:errcheck // as above
			return
		}
	}
	var q struct {
		OnlyReturnExisting     bool
		TermsOfServiceAgreed   bool
		ExternalAccountBinding *struct{ Protected, Payload, Signature string }
	}
	if err := json.Unmarshal(payload, &q); err != nil {
		f.problem(w, 400, "malformed", err.Error())
		return
	}
	if q.OnlyReturnExisting {
		f.problem(w, 400, "accountDoesNotExist", "no account")
		return
	}
	if !q.TermsOfServiceAgreed {
		f.problem(w, 403, "userActionRequired", "the terms")
		return
	}
	if f.mac != nil {
		if q.ExternalAccountBinding == nil {
			f.problem(w, 403, "externalAccountRequired", "no binding")
			return
		}
		mac := hmac.New(sha256.New, f.mac)
		io.WriteString(mac, q.ExternalAccountBinding.Protected+"."+q.ExternalAccountBinding.Payload) //nolint:errcheck // a hash
		if got, _ := base64.RawURLEncoding.DecodeString(q.ExternalAccountBinding.Signature); !hmac.Equal(got, mac.Sum(nil)) {
			f.problem(w, 403, "unauthorized", "the binding")
			return
		}
	}
	url := f.url(fmt.Sprintf("/acct-%d", len(f.accounts)+1))
	f.accounts[url] = key
	w.Header().Set("Location", url)
	w.WriteHeader(201)
	io.WriteString(w, `{"status":"valid"}`) //nolint:errcheck // as above
}

// validate looks for the answer where the web server of the name would (RFC 8555 section 8.3).
func (f *fake) validate(o *fakeOrder, key *ecdsa.PublicKey) {
	point, err := key.Bytes()
	if err != nil {
		f.t.Error(err)
		return
	}
	b64 := base64.RawURLEncoding.EncodeToString
	thumb := sha256.Sum256(fmt.Appendf(nil, `{"crv":"P-256","kty":"EC","x":"%s","y":"%s"}`, b64(point[1:33]), b64(point[33:])))
	got, err := os.ReadFile(filepath.Join(f.dir, o.token))
	if err != nil || string(got) != o.token+"."+b64(thumb[:]) {
		o.Status, o.authz, o.Error = "invalid", "invalid", map[string]any{"type": problems + "unauthorized", "detail": "nothing at the token's place"}
		return
	}
	o.Status, o.authz = "ready", "valid"
}

func (f *fake) finalize(w http.ResponseWriter, _ *http.Request, o *fakeOrder, id string, payload []byte) {
	if o.Status != "ready" {
		f.problem(w, 403, "orderNotReady", "the order is "+o.Status)
		return
	}
	var q struct{ CSR string }
	json.Unmarshal(payload, &q) //nolint:errcheck // the CSR will not parse
	der, _ := base64.RawURLEncoding.DecodeString(q.CSR)
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil || len(csr.DNSNames) != len(o.Identifiers) || csr.DNSNames[0] != o.Identifiers[0]["value"] || strings.HasPrefix(csr.DNSNames[0], "bad-csr.") {
		f.problem(w, 400, "badCSR", "the CSR is not for the order")
		return
	}
	f.serial++
	serial := append([]byte{0x40}, make([]byte, 15)...)
	rand.Read(serial[1:]) //nolint:errcheck // it never fails
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), RawSubject: csr.RawSubject, ExtraExtensions: csr.Extensions,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(20 * time.Hour),
	}
	if o.leaf, err = x509.CreateCertificate(rand.Reader, template, f.root, csr.PublicKey, crypto.Signer(f.key)); err != nil {
		f.t.Error(err)
	}
	f.finals++
	o.Status, o.Certificate, o.chain = "valid", f.url("/cert/"+id), toPEM(o.leaf)
	json.NewEncoder(w).Encode(o) //nolint:errcheck // as above
}

func (f *fake) revoke(w http.ResponseWriter, payload []byte) {
	var q struct {
		Certificate string
		Reason      int
	}
	json.Unmarshal(payload, &q) //nolint:errcheck // it will be unknown
	der, _ := base64.RawURLEncoding.DecodeString(q.Certificate)
	if f.revoked[string(der)] {
		f.problem(w, 400, "alreadyRevoked", "it is")
		return
	}
	for _, o := range f.orders {
		if bytes.Equal(o.leaf, der) {
			f.revoked[string(der)] = true
			return
		}
	}
	f.problem(w, 404, "malformed", "no such certificate")
}
