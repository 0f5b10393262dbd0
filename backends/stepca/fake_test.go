package stepca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// fake is a step-ca with one provisioner, after the source of v0.30.2. The order of its checks is what matters: provisioner, iat against
// its own start, the jti, and only then signature and expiry of the token (authority/authorize.go, authorizeToken; provisioner/jwk.go),
// request, template and dates (authority/tls.go, signX509), signature, record, answer.
type fake struct {
	t           testing.TB
	dir         string
	server      *httptest.Server
	key         crypto.Signer // of the intermediate
	chain       []*x509.Certificate
	provisioner jose.JSONWebKey // private
	x5cRoot     *x509.Certificate
	template    string // "" for its own
	max         time.Duration
	database    bool
	crl         bool
	forgetful   bool // it takes a token again and again

	mu      sync.Mutex
	last    *fakeClaims // of the last token that was taken
	started time.Time
	used    map[string]bool
	ledger  map[string][][]byte // certificates by serial number; those that differ
	revoked []x509.RevocationListEntry
	faults  []string // of the next signs: before, after, 500, deny, repeat
	closes  bool     // the connection of the last sign ends with it
	calls   map[string]int
	number  int64
}

func newFake(t testing.TB, key crypto.Signer, change ...func(*fake)) *fake {
	t.Helper()
	f := &fake{t: t, dir: t.TempDir(), key: key, max: 400 * 24 * time.Hour, database: true, crl: true, started: time.Now().Add(-time.Hour).Truncate(time.Second),
		used: map[string]bool{}, ledger: map[string][][]byte{}, calls: map[string]int{}}
	text, err := os.ReadFile("../../configs/stepca.tpl")
	f.ok(err)
	f.template = string(text)
	for _, c := range change {
		c(f)
	}
	rootKey := rsaKey(1)
	root := f.certificate(&x509.Certificate{Subject: pkix.Name{CommonName: "Fake Root"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}, nil, rootKey.Public(), rootKey)
	issuing := f.certificate(&x509.Certificate{Subject: pkix.Name{CommonName: "Fake Intermediate"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}, root, key.Public(), rootKey)
	f.chain = []*x509.Certificate{issuing, root}
	p, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	f.ok(err)
	f.provisioner = jose.JSONWebKey{Key: p, KeyID: "kid-1", Algorithm: "ES256", Use: "sig"}
	jwk, err := json.Marshal(f.provisioner)
	f.ok(err)
	f.write("muster.jwk", jwk)
	f.write("root.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}))

	mux := http.NewServeMux()
	mux.HandleFunc("GET /1.0/intermediates", func(w http.ResponseWriter, _ *http.Request) {
		f.json(w, 201, map[string]any{"crts": pems(f.chain[:1])})
	})
	mux.HandleFunc("GET /1.0/root/{sha}", func(w http.ResponseWriter, r *http.Request) {
		if sum := sha256.Sum256(root.Raw); r.PathValue("sha") != fmt.Sprintf("%x", sum) {
			f.fail(w, 404, "root not found")
			return
		}
		f.json(w, 200, map[string]any{"ca": pems(f.chain[1:])[0]})
	})
	mux.HandleFunc("GET /1.0/crl", f.serveCRL)
	mux.HandleFunc("POST /1.0/sign", f.sign)
	mux.HandleFunc("POST /1.0/revoke", f.revoke)
	f.server = httptest.NewUnstartedServer(mux)
	f.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	tlsKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	f.ok(err)
	leaf := f.certificate(&x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature}, issuing, tlsKey.Public(), key)
	f.server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw, issuing.Raw}, PrivateKey: tlsKey}}}
	f.server.StartTLS()
	t.Cleanup(f.server.Close)
	return f
}

var rsaKeys sync.Map

// rsaKey is one of the tests' RSA keys.
func rsaKey(n int) *rsa.PrivateKey {
	make, _ := rsaKeys.LoadOrStore(n, sync.OnceValue(func() *rsa.PrivateKey {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		return k
	}))
	return make.(func() *rsa.PrivateKey)()
}

func (f *fake) ok(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fake) write(name string, text []byte) string {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	f.ok(os.WriteFile(path, text, 0o600))
	return path
}

func (f *fake) certificate(c, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	f.t.Helper()
	c.SerialNumber, c.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(300*24*time.Hour)
	if c.NotBefore.IsZero() {
		c.NotBefore = time.Now().Add(-24 * time.Hour)
	}
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, key)
	f.ok(err)
	made, err := x509.ParseCertificate(der)
	f.ok(err)
	return made
}

// config is the backend's.
func (f *fake) config(more ...string) []byte {
	return fmt.Appendf(nil, "url: %s\nroot: %q\nprovisioner: muster\njwk: {key: %q}\n%s\n", f.server.URL, filepath.Join(f.dir, "root.pem"), filepath.Join(f.dir, "muster.jwk"), strings.Join(more, "\n"))
}

// restart forgets what a process without a database forgets.
func (f *fake) restart(at time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.started = at.Truncate(time.Second)
	if !f.database {
		f.used = map[string]bool{}
	}
}

// certificates counts all that were ever signed and differ.
func (f *fake) certificates() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.ledger {
		n += len(c)
	}
	return n
}

func pems(certs []*x509.Certificate) (out []string) {
	for _, c := range certs {
		out = append(out, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})))
	}
	return out
}

func (f *fake) json(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) //nolint:errcheck // the test sees it
}

// fail is an errs.Error.
func (f *fake) fail(w http.ResponseWriter, status int, message string) {
	f.json(w, status, map[string]any{"status": status, "message": message})
}

type fakeClaims struct {
	claims
	Raw map[string]any `json:"-"`
}

// lacked is what errs.Unauthorized shows of whatever was wrong: only the log says.
const lacked = "The request lacked necessary authorization to be completed. Please see the certificate authority logs for more info."

// authorize is authority.authorizeToken and the provisioner's. f.mu is held.
func (f *fake) authorize(ott, path string) (*fakeClaims, string) {
	js, err := jose.ParseSignedCompact(ott, []jose.SignatureAlgorithm{jose.ES256, jose.RS256})
	if err != nil {
		return nil, lacked
	}
	var c fakeClaims
	payload := js.UnsafePayloadWithoutVerification()
	if json.Unmarshal(payload, &c) != nil || json.Unmarshal(payload, &c.Raw) != nil {
		return nil, lacked
	}
	audience := f.server.URL + "/1.0/" + path
	header := js.Signatures[0].Header
	var key any = f.provisioner.Public()
	if f.x5cRoot != nil {
		audience += "#x5c/muster"
	} else if c.Issuer != "muster" || header.KeyID != f.provisioner.KeyID {
		return nil, lacked
	}
	if !slices.Contains(c.Audience, audience) {
		return nil, lacked
	}
	if time.Unix(c.IssuedAt, 0).Before(f.started) {
		return nil, lacked
	}
	if f.used[c.ID] {
		return nil, lacked
	}
	f.used[c.ID] = !f.forgetful
	if f.x5cRoot != nil {
		pool := x509.NewCertPool()
		pool.AddCert(f.x5cRoot)
		chains, err := header.Certificates(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		if err != nil {
			return nil, lacked
		}
		key = chains[0][0].PublicKey
	}
	if _, err := js.Verify(key); err != nil || time.Unix(c.Expires, 0).Add(time.Minute).Before(time.Now()) || c.Subject == "" || c.Issuer != "muster" {
		return nil, lacked
	}
	f.last = &c
	return &c, ""
}

const forbidden = "The request was forbidden by the certificate authority: "

func (f *fake) sign(w http.ResponseWriter, r *http.Request) {
	var body signRequest
	if json.NewDecoder(r.Body).Decode(&body) != nil {
		f.fail(w, 400, "error reading request body")
		return
	}
	block, _ := pem.Decode([]byte(body.CSR))
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || csr.CheckSignature() != nil || body.OTT == "" {
		f.fail(w, 400, "invalid csr")
		return
	}
	f.mu.Lock()
	fault := ""
	if !strings.Contains(body.OTT, ".") {
		f.fail(w, 401, lacked)
		f.mu.Unlock()
		return
	}
	f.calls["sign"]++
	if len(f.faults) > 0 {
		fault, f.faults = f.faults[0], f.faults[1:]
	}
	f.closes = r.Close
	if fault == "repeat" {
		f.fail(w, 400, "what is "+body.OTT+" \x1b ?")
		f.mu.Unlock()
		return
	}
	if fault == "before" { // the connection ends, nothing was read of it
		f.mu.Unlock()
		panic(http.ErrAbortHandler)
	}
	c, no := f.authorize(body.OTT, "sign")
	f.mu.Unlock()
	if no != "" {
		f.fail(w, 401, no)
		return
	}
	if fault == "deny" {
		f.fail(w, 403, forbidden+"dns name is not allowed.")
		return
	}
	if sum := sha256.Sum256(csr.Raw); c.Confirm != nil && c.Confirm.Fingerprint != base64.RawURLEncoding.EncodeToString(sum[:]) {
		f.fail(w, 403, forbidden+"certificate request fingerprint does not match.")
		return
	}
	names := append([]string{c.Subject}, c.SANs...)
	if cn := csr.Subject.CommonName; cn != "" && !slices.Contains(names, cn) {
		f.fail(w, 403, forbidden+"certificate request does not contain the valid common name.")
		return
	}
	for _, n := range csr.DNSNames {
		if !slices.Contains(c.SANs, n) {
			f.fail(w, 403, forbidden+"certificate request does not contain the valid DNS names.")
			return
		}
	}
	leaf, err := f.render(csr, c)
	if err != nil {
		f.fail(w, 400, err.Error())
		return
	}
	leaf.NotBefore, _ = time.Parse(time.RFC3339, body.NotBefore)
	leaf.NotAfter, _ = time.Parse(time.RFC3339, body.NotAfter)
	if leaf.NotAfter.Before(time.Now()) {
		f.fail(w, 400, "The request could not be completed: notAfter cannot be in the past.")
		return
	}
	if d := leaf.NotAfter.Sub(leaf.NotBefore); d > f.max {
		f.fail(w, 403, fmt.Sprintf("%srequested duration of %v is more than the authorized maximum certificate duration of %v.", forbidden, d, f.max))
		return
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, f.chain[0], csr.PublicKey, f.key)
	if err != nil {
		f.fail(w, 500, "error creating certificate")
		return
	}
	f.mu.Lock()
	serial := leaf.SerialNumber.String()
	if !slices.ContainsFunc(f.ledger[serial], func(c []byte) bool { return bytes.Equal(c, der) }) {
		f.ledger[serial] = append(f.ledger[serial], der)
	}
	f.mu.Unlock()
	switch fault {
	case "after":
		panic(http.ErrAbortHandler)
	case "500": // the database failed after the signature
		f.fail(w, 500, "The certificate authority encountered an Internal Server Error.")
		return
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		f.fail(w, 500, "error parsing certificate")
		return
	}
	f.json(w, 201, map[string]any{"crt": pems([]*x509.Certificate{made})[0], "ca": pems(f.chain[:1])[0], "certChain": pems([]*x509.Certificate{made, f.chain[0]})})
}

func (f *fake) revoke(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Serial, OTT string
		ReasonCode  int
		Passive     bool
	}
	if json.NewDecoder(r.Body).Decode(&body) != nil || !body.Passive {
		f.fail(w, 501, "non-passive revocation not implemented")
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c, no := f.authorize(body.OTT, "revoke")
	if no != "" {
		f.fail(w, 401, no)
		return
	}
	if c.Subject != body.Serial {
		f.fail(w, 403, forbidden+"request serial number and token subject do not match.")
		return
	}
	if !f.database {
		f.fail(w, 501, "The requested method is not implemented by the certificate authority.")
		return
	}
	serial, _ := new(big.Int).SetString(body.Serial, 10)
	for _, e := range f.revoked {
		if e.SerialNumber.Cmp(serial) == 0 {
			f.fail(w, 400, "The request could not be completed: certificate with serial number '"+body.Serial+"' is already revoked.")
			return
		}
	}
	f.revoked = append(f.revoked, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: time.Now(), ReasonCode: body.ReasonCode})
	f.json(w, 200, map[string]any{"status": "ok"})
}

func (f *fake) serveCRL(w http.ResponseWriter, _ *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.crl {
		f.fail(w, 404, "The requested resource could not be found.")
		return
	}
	f.number++
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(f.number), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour), RevokedCertificateEntries: f.revoked}, f.chain[0], f.key)
	if err != nil {
		f.fail(w, 500, "could not create CRL")
		return
	}
	w.Write(der) //nolint:errcheck // the test sees it
}
