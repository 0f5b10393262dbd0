package vault

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// fake is what the tests need of a server with a PKI secrets engine at pki/. Its behaviour is that of Vault 1.21.4: sign-verbatim as in
// pathSignVerbatim and certutil.signCertificate, storage and listing as in pathIssueSignCert and pathFetchCertList, revocation as in
// pathRevokeWrite; with paged, of OpenBao 2.6.2's ListPage.
type fake struct {
	*httptest.Server
	t testing.TB

	mu      sync.Mutex
	issuers map[string]*authority
	certs   map[string][]byte // DER, by serial number with hyphens: the ledger
	revoked map[string]bool
	signed  int // certificates that were ever made
	roles   map[string]map[string]any
	tokens  map[string]int // how often each may still be used; -1 for without end
	logins  int
	renewed int
	reads   int // of certificates
	lists   int
	secret  string // that a login wants
	sealed  bool
	paged   bool
	repeats bool   // a refused login says what was wrong
	denies  string // a path that no policy allows
	seen    []http.Header
	bodies  []map[string]any

	reading func() // called before a certificate is read; nil for nothing

	// fault is called in sign with what is left to do: it may do it, and answer in its place.
	fault func(w http.ResponseWriter, sign func() map[string]any) (answered bool)
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	root *x509.Certificate
}

// newFake has the issuers "devices" and "other", below a root each.
func newFake(t testing.TB) *fake {
	f := &fake{t: t, issuers: map[string]*authority{}, certs: map[string][]byte{}, revoked: map[string]bool{}, roles: map[string]map[string]any{}, tokens: map[string]int{"root": -1}, secret: "secret-1"}
	for _, name := range []string{"devices", "other"} {
		root, rootKey := makeCA(t, name+" root", nil, nil)
		issuing, key := makeCA(t, name, root, rootKey)
		f.issuers[name] = &authority{cert: issuing, key: key, root: root}
	}
	f.Server = httptest.NewServer(http.HandlerFunc(f.serve))
	t.Cleanup(f.Close)
	return f
}

func makeCA(t testing.TB, name string, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(240 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if parent == nil {
		parent, by = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c, key
}

func (f *fake) fail(w http.ResponseWriter, status int, texts ...string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if texts == nil {
		texts = []string{}
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": texts})
}

func (f *fake) answer(w http.ResponseWriter, data map[string]any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"request_id": "r", "data": data, "warnings": nil})
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	var body map[string]any
	_ = json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&body)
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	f.mu.Lock()
	f.seen, f.bodies = append(f.seen, r.Header.Clone()), append(f.bodies, body)
	sealed, denies := f.sealed, f.denies
	f.mu.Unlock()
	if sealed {
		f.fail(w, http.StatusServiceUnavailable, "Vault is sealed")
		return
	}
	if strings.HasSuffix(path, "/login") {
		f.login(w, path, body)
		return
	}
	if !f.allows(r.Header.Get("X-Vault-Token")) || denies != "" && strings.HasPrefix(path, denies) {
		f.fail(w, http.StatusForbidden, "permission denied")
		return
	}
	switch parts := strings.Split(path, "/"); {
	case path == "auth/token/lookup-self":
		f.answer(w, map[string]any{"ttl": 3600, "renewable": true})
	case path == "auth/token/renew-self":
		f.mu.Lock()
		f.renewed++
		f.mu.Unlock()
		f.auth(w, r.Header.Get("X-Vault-Token"))
	case parts[0] != "pki":
		f.fail(w, http.StatusNotFound, "no handler for route \""+path+"\". route entry not found.")
	case path == "pki/certs":
		f.list(w, r)
	case path == "pki/revoke":
		f.revoke(w, body)
	case parts[1] == "cert":
		f.cert(w, parts[2])
	case parts[1] == "roles":
		f.mu.Lock()
		role := f.roles[parts[2]]
		f.mu.Unlock()
		if role == nil {
			f.fail(w, http.StatusNotFound)
			return
		}
		f.answer(w, role)
	case parts[1] == "issuer" && f.issuers[parts[2]] == nil:
		f.fail(w, http.StatusBadRequest, "unable to find PKI issuer for reference: "+parts[2])
	case strings.HasSuffix(path, "/json"):
		ca := f.issuers[parts[2]]
		f.answer(w, map[string]any{"certificate": text(ca.cert.Raw), "ca_chain": []string{text(ca.cert.Raw), text(ca.root.Raw)}, "issuer_name": parts[2]})
	case strings.HasSuffix(path, "/crl/der"):
		f.crl(w, f.issuers[parts[2]])
	case parts[3] == "sign-verbatim" || parts[3] == "sign":
		f.sign(w, f.issuers[parts[2]], parts[3:], body)
	default:
		f.fail(w, http.StatusNotFound, "unsupported path")
	}
}

func text(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func (f *fake) allows(token string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	left, ok := f.tokens[token]
	if !ok || left == 0 {
		return false
	}
	f.tokens[token] = left - 1
	return true
}

func (f *fake) login(w http.ResponseWriter, path string, body map[string]any) {
	f.mu.Lock()
	f.logins++
	good := path == "auth/approle/login" && body["role_id"] == "muster" && body["secret_id"] == f.secret ||
		path == "auth/k8s/login" && body["role"] == "muster" && body["jwt"] == f.secret
	token := fmt.Sprintf("token-%d", f.logins)
	if good {
		f.tokens[token] = -1
	}
	f.mu.Unlock()
	if !good {
		text := "invalid role or secret ID"
		if f.repeats {
			text += fmt.Sprint(" ", body["secret_id"])
		}
		f.fail(w, http.StatusBadRequest, text)
		return
	}
	f.auth(w, token)
}

func (f *fake) auth(w http.ResponseWriter, token string) {
	_ = json.NewEncoder(w).Encode(map[string]any{"data": nil, "auth": map[string]any{"client_token": token, "lease_duration": 3600, "renewable": true}})
}

func (f *fake) list(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lists++
	keys := slices.Sorted(maps.Keys(f.certs))
	if f.paged {
		keys = slices.DeleteFunc(keys, func(k string) bool { return k <= r.URL.Query().Get("after") })
		if limit, _ := strconv.Atoi(r.URL.Query().Get("limit")); limit > 0 && len(keys) > limit {
			keys = keys[:limit]
		}
	}
	if len(keys) == 0 {
		f.fail(w, http.StatusNotFound)
		return
	}
	for i := range keys {
		keys[i] = strings.ReplaceAll(keys[i], "-", ":")
	}
	f.answer(w, map[string]any{"keys": keys})
}

func (f *fake) cert(w http.ResponseWriter, serial string) {
	if f.reading != nil {
		f.reading()
	}
	f.mu.Lock()
	f.reads++
	key := strings.ReplaceAll(serial, ":", "-")
	der, revoked := f.certs[key], f.revoked[key]
	f.mu.Unlock()
	if der == nil {
		f.fail(w, http.StatusNotFound)
		return
	}
	at := 0
	if revoked {
		at = 1
	}
	f.answer(w, map[string]any{"certificate": text(der), "revocation_time": at})
}

func (f *fake) revoke(w http.ResponseWriter, body map[string]any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	serial, _ := body["serial_number"].(string)
	if given, ok := body["certificate"].(string); ok {
		block, _ := pem.Decode([]byte(given))
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil || !slices.ContainsFunc(slices.Collect(maps.Values(f.issuers)), func(a *authority) bool { return c.CheckSignatureFrom(a.cert) == nil }) {
			f.fail(w, http.StatusInternalServerError, "unable to verify signature on presented cert from any present issuer in this mount; ...")
			return
		}
		serial = colons(c.SerialNumber.Bytes())
		f.certs[strings.ReplaceAll(serial, ":", "-")] = c.Raw
	}
	key := strings.ReplaceAll(serial, ":", "-")
	if f.certs[key] == nil {
		f.fail(w, http.StatusBadRequest, "certificate with serial "+serial+" not found.")
		return
	}
	f.revoked[key] = true
	f.answer(w, map[string]any{"revocation_time": time.Now().Unix(), "state": "revoked"})
}

func (f *fake) crl(w http.ResponseWriter, ca *authority) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(72 * time.Hour)}
	for key := range f.revoked {
		serial, _ := new(big.Int).SetString(strings.ReplaceAll(key, "-", ""), 16)
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, l, ca.cert, ca.key)
	if err != nil {
		f.t.Error(err)
	}
	w.Header().Set("Content-Type", "application/pkix-crl")
	_, _ = w.Write(der)
}

// sign certifies. Its data is that of signIssueApiResponse with format=der.
func (f *fake) sign(w http.ResponseWriter, ca *authority, what []string, body map[string]any) {
	template, key, err := f.template(what, body)
	if err == nil && ca.cert.NotAfter.Before(template.NotAfter) {
		err = fmt.Errorf("cannot satisfy request, as TTL would result in notAfter of %s that is beyond the expiration of the CA certificate at %s", template.NotAfter, ca.cert.NotAfter)
	}
	if err != nil {
		f.fail(w, http.StatusBadRequest, err.Error())
		return
	}
	sign := func() map[string]any {
		der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key, ca.key)
		if err != nil {
			f.t.Error(err)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.signed++
		if role := f.role(what); role["no_store"] != true {
			f.certs[strings.ReplaceAll(colons(template.SerialNumber.Bytes()), ":", "-")] = der
		}
		return map[string]any{"certificate": base64.StdEncoding.EncodeToString(der), "issuing_ca": base64.StdEncoding.EncodeToString(ca.cert.Raw),
			"ca_chain": []string{base64.StdEncoding.EncodeToString(ca.cert.Raw), base64.StdEncoding.EncodeToString(ca.root.Raw)}, "serial_number": colons(template.SerialNumber.Bytes())}
	}
	f.mu.Lock()
	fault := f.fault
	f.mu.Unlock()
	if fault != nil && fault(w, sign) {
		return
	}
	f.answer(w, sign())
}

func (f *fake) role(what []string) map[string]any {
	if len(what) < 2 {
		return nil
	}
	return f.roles[what[1]]
}

// template is certutil.signCertificate's: names from the request, ExtraExtensions before what the parameters say.
func (f *fake) template(what []string, body map[string]any) (*x509.Certificate, any, error) {
	given, _ := body["csr"].(string)
	block, _ := pem.Decode([]byte(given))
	if block == nil {
		return nil, nil, fmt.Errorf("csr contains no data")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || csr.CheckSignature() != nil {
		return nil, nil, fmt.Errorf("request signature invalid")
	}
	end, err := time.Parse(time.RFC3339, fmt.Sprint(body["not_after"]))
	if err != nil {
		return nil, nil, err
	}
	serial := make([]byte, 20)
	_, _ = rand.Read(serial)
	serial[0] = serial[0]&0x3f | 0x40
	c := &x509.Certificate{SerialNumber: new(big.Int).SetBytes(serial), NotBefore: time.Now().Add(-30 * time.Second), NotAfter: end}
	if what[0] == "sign" {
		role := f.roles[what[1]]
		if role == nil {
			return nil, nil, fmt.Errorf("unknown role: %s", what[1])
		}
		c.Subject = pkix.Name{CommonName: csr.Subject.CommonName}
		c.DNSNames, c.EmailAddresses, c.IPAddresses, c.URIs = csr.DNSNames, csr.EmailAddresses, csr.IPAddresses, csr.URIs
		c.KeyUsage, c.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		return c, csr.PublicKey, nil
	}
	c.Subject = csr.Subject
	c.Subject.ExtraNames = csr.Subject.Names
	c.ExtraExtensions = csr.Extensions
	usages, _ := body["key_usage"].([]any)
	for _, u := range usages {
		c.KeyUsage |= 1 << slices.Index(names, fmt.Sprint(u))
	}
	ids, _ := body["ext_key_usage_oids"].([]any)
	for _, id := range ids {
		var oid asn1.ObjectIdentifier
		for n := range strings.SplitSeq(fmt.Sprint(id), ".") {
			i, _ := strconv.Atoi(n)
			oid = append(oid, i)
		}
		c.UnknownExtKeyUsage = append(c.UnknownExtKeyUsage, oid)
	}
	return c, csr.PublicKey, nil
}
