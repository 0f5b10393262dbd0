package ejbca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("MUSTER_EJBCA_STANDIN"); dir != "" {
		standIn{dir: dir}.serve()
		return
	}
	backendtest.Main(m, map[string]func() backend.Backend{"ejbca": func() backend.Backend { return New(Options{Log: backend.Logger()}) }})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

const (
	authorityName = "Devices CA"
	authorityDN   = "CN=Devices,O=Test/Lab,C=SE"
	eep, cp       = "Muster", "Device"
)

// fakeCA answers as the source of EJBCA Community does (github.com/Keyfactor/ejbca-ce), class by class:
// CertificateRestResource, CaRestResource (answers), EjbcaRestHelperSessionBean and CertificateRequestSessionBean.processCertReq (end entities),
// CertificateRestResourceUtil and RaMasterApiSessionBean.searchForCertificates (search), ExceptionHandler (errors).
type fakeCA struct {
	*httptest.Server
	t        testing.TB
	key      *ecdsa.PrivateKey
	root, ca *x509.Certificate
	ra       *x509.Certificate // the administrator's
	raKey    *ecdsa.PrivateKey
	chain    []*x509.Certificate

	mu       sync.Mutex
	ledger   []*issued       // CertificateData
	users    map[string]bool // end entities
	posts    int             // to pkcs10enroll
	searches int

	now       func() time.Time
	token     string                                                             // "" for the certificate
	override  bool                                                               // the certificate profile allows subject DN, key usage and extension override: the CSR's
	instant   bool                                                               // a CRL upon revocation
	unstored  bool                                                               // the CA does not store certificates
	unseen    bool                                                               // the role has no view_end_entity
	noBinding bool                                                               // account binding IDs are dropped
	slow      bool                                                               // the query's time is over
	approve   bool                                                               // revocations wait for an approval
	dead      bool                                                               // an RA node that reaches no CA: it revokes nothing, and says it did
	before    func(w http.ResponseWriter, r *http.Request) (done bool)           // of pkcs10enroll; nothing is issued yet
	after     func(w http.ResponseWriter, r *http.Request, i *issued) (did bool) // issued, and not answered
	crl       []byte
}

type issued struct {
	user, binding, password string
	der                     []byte
	serial                  *big.Int
	revoked                 bool
}

func newFakeCA(t testing.TB) *fakeCA {
	t.Helper()
	f := &fakeCA{t: t, users: map[string]bool{}, now: time.Now}
	newKey := func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) }
	rootKey := newKey()
	f.key, f.raKey = newKey(), newKey()
	f.root = certify(rootKey, nil, rootKey, pkix.Name{CommonName: "Root"}, 1)
	f.ca = certify(rootKey, f.root, f.key, pkix.Name{CommonName: "Devices", Organization: []string{"Test/Lab"}, Country: []string{"SE"}}, 2)
	f.ra = certify(rootKey, f.root, f.raKey, pkix.Name{CommonName: "muster"}, 3)
	f.chain = []*x509.Certificate{f.ca, f.root}
	f.Server = httptest.NewUnstartedServer(f)
	f.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	f.StartTLS()
	t.Cleanup(f.Close)
	return f
}

// certify makes a CA's certificate; by nil is self-signed.
func certify(signer *ecdsa.PrivateKey, by *x509.Certificate, key *ecdsa.PrivateKey, name pkix.Name, serial int64) *x509.Certificate {
	c := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: name, NotBefore: time.Now().Add(-time.Hour).Truncate(time.Second), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if by == nil {
		by = c
	}
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, c, by, key.Public(), signer))))
}

// refuse is ExceptionErrorRestResponse.
func refuse(w http.ResponseWriter, status int, text string) {
	answer(w, status, map[string]any{"error_code": status, "error_message": text})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body) //nolint:errcheck // the client's loss
}

func (f *fakeCA) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, ok := strings.CutPrefix(r.URL.EscapedPath(), "/ejbca/ejbca-rest-api/v1/")
	switch {
	case !ok:
		w.WriteHeader(http.StatusNotFound) // WildFly's, in HTML
		return
	case f.token == "" && len(r.TLS.PeerCertificates) == 0, f.token != "" && r.Header.Get("Authorization") != "Bearer "+f.token:
		refuse(w, http.StatusForbidden, "Authorization failed. No certificates or OAuth token provided.")
		return
	case f.token == "" && !r.TLS.PeerCertificates[0].Equal(f.ra):
		refuse(w, http.StatusForbidden, "Not authorized to resource /administrator.")
		return
	}
	parts := strings.Split(path, "/")
	for i := range parts {
		parts[i] = must(url.PathUnescape(parts[i]))
	}
	switch op := r.Method + " " + path; {
	case op == "GET ca":
		answer(w, http.StatusOK, map[string]any{"certificate_authorities": []any{
			map[string]any{"id": 1, "name": "Root CA", "subject_dn": "CN=Root", "issuer_dn": "CN=Root", "expiration_date": "2038-01-19T03:14:07Z", "external": false},
			map[string]any{"id": 2, "name": authorityName, "subject_dn": authorityDN, "issuer_dn": "CN=Root", "expiration_date": "2038-01-19T03:14:07Z", "external": false},
		}})
	case op == "POST certificate/pkcs10enroll":
		f.enroll(w, r)
	case op == "POST certificate/search":
		f.search(w, r)
	case len(parts) == 4 && parts[0] == "ca" && parts[1] == authorityDN && parts[3] == "download":
		for _, c := range f.chain { // CertTools.getPemFromCertificateChain
			fmt.Fprintf(w, "Subject: %s\nIssuer: %s\n", c.Subject, c.Issuer)
			pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) //nolint:errcheck // the client's loss
		}
	case len(parts) == 3 && parts[0] == "ca" && parts[1] == authorityDN && parts[2] == "getLatestCrl" && r.URL.Query().Get("deltaCrl") == "false":
		answer(w, http.StatusOK, map[string]any{"crl": f.latestCRL(), "response_format": "DER"})
	case r.Method == "PUT" && len(parts) == 4 && parts[0] == "certificate" && parts[3] == "revoke":
		f.revoke(w, r, parts[1], parts[2])
	default:
		refuse(w, http.StatusNotFound, "HTTP 404 Not Found")
	}
}

// enrollKeys are those of EnrollCertificateRestRequest: EJBCA ignores others, and this fake does not.
var enrollKeys = map[string]bool{"certificate_request": true, "certificate_profile_name": true, "end_entity_profile_name": true, "certificate_authority_name": true, "username": true,
	"password": true, "account_binding_id": true, "include_chain": true, "email": true, "response_format": true, "subject_dn": true, "start_time": true, "end_time": true}

func (f *fakeCA) enroll(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.posts++
	f.mu.Unlock()
	var q map[string]any
	if json.NewDecoder(r.Body).Decode(&q) != nil {
		refuse(w, http.StatusBadRequest, "Malformed JSON")
		return
	}
	text := func(key string) string { s, _ := q[key].(string); return s }
	for key := range q {
		if !enrollKeys[key] {
			f.t.Errorf("EJBCA knows no %s", key)
		}
	}
	if f.before != nil && f.before(w, r) {
		return
	}
	csr, err := x509.ParseCertificateRequest(must(base64.StdEncoding.DecodeString(text("certificate_request"))))
	switch {
	case text("certificate_authority_name") != authorityName:
		refuse(w, http.StatusBadRequest, fmt.Sprintf("CA with name %q doesn't exist", text("certificate_authority_name")))
		return
	case text("certificate_profile_name") != cp:
		refuse(w, http.StatusBadRequest, fmt.Sprintf("Certificate profile with name %q doesn't exist", text("certificate_profile_name")))
		return
	case err != nil:
		refuse(w, http.StatusBadRequest, "Invalid certificate request")
		return
	case text("response_format") != "DER" || text("password") == "" || text("username") == "" || q["include_chain"] != false:
		refuse(w, http.StatusBadRequest, "Invalid input.")
		return
	}
	i := f.issue(csr, text("username"), text("account_binding_id"), text("password"), text("end_time"))
	if f.after != nil && f.after(w, r, i) {
		return
	}
	answer(w, http.StatusCreated, map[string]any{"certificate": i.der, "serial_number": strings.ToUpper(i.serial.Text(16)), "response_format": "DER"})
}

// issue overwrites the end entity of that name, and issues each time.
func (f *fakeCA) issue(csr *x509.CertificateRequest, user, binding, password, end string) *issued {
	i := &issued{user: user, binding: binding, password: password, serial: new(big.Int).SetBytes(append([]byte{0x40}, []byte(rand.Text()[:15])...))}
	c := &x509.Certificate{
		SerialNumber: i.serial, RawSubject: rewritten(csr.RawSubject), NotBefore: f.now().Add(-10 * time.Minute).Truncate(time.Second), NotAfter: f.now().Add(12 * time.Hour).Truncate(time.Second),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, DNSNames: csr.DNSNames,
	}
	if end != "" { // ValidityDate.parseAsIso8601, kept to the minute
		c.NotAfter = must(time.Parse("2006-01-02 15:04:05-07:00", end)).Truncate(time.Minute)
	}
	if f.override {
		c.RawSubject, c.DNSNames, c.KeyUsage, c.ExtKeyUsage, c.ExtraExtensions = csr.RawSubject, nil, 0, nil, csr.Extensions
	}
	i.der = must(x509.CreateCertificate(rand.Reader, c, f.ca, csr.PublicKey, f.key))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.users[user] = true
	f.ledger = append(f.ledger, i)
	return i
}

// rewritten is a Name with its texts as UTF8String: EJBCA makes the subject anew from text.
func rewritten(der []byte) []byte {
	var name pkix.RDNSequence
	must(asn1.Unmarshal(der, &name))
	for _, rdn := range name {
		for i := range rdn {
			rdn[i].Value = asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(rdn[i].Value.(string))}
		}
	}
	return must(asn1.Marshal(name))
}

func (f *fakeCA) search(w http.ResponseWriter, r *http.Request) {
	var q struct {
		Max      int `json:"max_number_of_results"`
		Criteria []struct{ Property, Value, Operation string }
	}
	if json.NewDecoder(r.Body).Decode(&q) != nil || q.Max < 1 || q.Max > 400 || len(q.Criteria) == 0 { // as ValidSearchCertificateMaxNumberOfResults says
		refuse(w, http.StatusBadRequest, "Malformed request.")
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.searches++
	matches := func(*issued) bool { return true }
	named := map[string]bool{}
	texts := 0 // ValidSearchCertificateCriteriaRestRequestList: one of them, since 8.2.1
	for _, c := range q.Criteria {
		named[c.Property] = true
		switch c.Property {
		case "QUERY", "EXTERNAL_ACCOUNT_BINDING_ID":
			if texts++; texts > 1 {
				refuse(w, http.StatusBadRequest, "Invalid criteria value, multiple string criteria are not allowed.")
				return
			}
		}
		switch c.Property {
		case "QUERY": // UPPER(a.username) LIKE :username, among others
			matches = func(i *issued) bool { return strings.EqualFold(i.user, c.Value) }
		case "EXTERNAL_ACCOUNT_BINDING_ID":
			matches = func(i *issued) bool { return !f.noBinding && strings.EqualFold(i.binding, c.Value) }
		case "CA":
			if c.Value != authorityName {
				refuse(w, http.StatusBadRequest, "Invalid search criteria content, unknown CA.")
				return
			}
		case "END_ENTITY_PROFILE":
			if c.Value != eep || f.unseen {
				refuse(w, http.StatusBadRequest, "Invalid search criteria content, unknown end entity profile.")
				return
			}
		case "CERTIFICATE_PROFILE":
			if c.Value != cp {
				refuse(w, http.StatusBadRequest, "Invalid search criteria content, unknown certificate profile.")
				return
			}
		}
		if c.Operation != "EQUAL" {
			f.t.Errorf("%s %s", c.Property, c.Operation)
		}
	}
	list := []any{}
	for _, i := range f.ledger {
		if matches(i) && !f.slow && !f.unstored && !(f.unseen && !named["END_ENTITY_PROFILE"]) && len(list) < q.Max {
			// Base64.encode, and then the JSON writer's.
			list = append(list, map[string]any{"certificate": []byte(base64.StdEncoding.EncodeToString(i.der)), "serial_number": i.serial.Text(16), "response_format": "DER", "certificate_profile": cp, "end_entity_profile": eep})
		}
	}
	answer(w, http.StatusOK, map[string]any{"certificates": list, "more_results": f.slow || len(list) == q.Max})
}

func (f *fakeCA) revoke(w http.ResponseWriter, r *http.Request, dn, serial string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	number, ok := new(big.Int).SetString(serial, 16)
	switch reason := r.URL.Query().Get("reason"); {
	case dn != authorityDN:
		refuse(w, http.StatusNotFound, "CA with DN "+dn+" does not exist.")
		return
	case !ok || !strings.Contains(" UNSPECIFIED KEY_COMPROMISE SUPERSEDED CESSATION_OF_OPERATION ", " "+reason+" ") || r.URL.Query().Has("date"):
		refuse(w, http.StatusBadRequest, "Invalid revocation reason.")
		return
	}
	for _, i := range f.ledger {
		switch {
		case i.serial.Cmp(number) != 0:
			continue
		case i.revoked:
			refuse(w, http.StatusConflict, "Certificate with issuer: "+dn+" and serial number: "+serial+" has previously been revoked.")
			return
		case f.approve:
			answer(w, http.StatusAccepted, map[string]any{"status_code": 202, "info_message": "Revocation request added for approval.", "request_id": 7})
			return
		}
		i.revoked = !f.dead
		answer(w, http.StatusOK, map[string]any{"issuer_dn": dn, "serial_number": serial, "revocation_reason": "KEY_COMPROMISE", "revocation_date": "2026-01-01T00:00:00Z", "message": "Successfully revoked", "revoked": i.revoked})
		return
	}
	refuse(w, http.StatusNotFound, "Could not find end entity certificate with issuer "+dn)
}

// latestCRL is of a CA that generates one upon revocation, when no other was set.
func (f *fakeCA) latestCRL() []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.crl != nil || !f.instant {
		return f.crl
	}
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
	for _, i := range f.ledger {
		if i.revoked {
			list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: i.serial, RevocationTime: time.Now()})
		}
	}
	return must(x509.CreateRevocationList(rand.Reader, list, f.ca, f.key))
}

func (f *fakeCA) count() (certificates, posts int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.ledger), f.posts
}

func write(t testing.TB, name string, data []byte) string {
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// config for the CA, with lines added.
func (f *fakeCA) config(t testing.TB, lines ...string) []byte {
	t.Helper()
	ca := write(t, "ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw}))
	text := fmt.Sprintf("url: %s\nca: %q\nauthority: %s\nend-entity-profile: %s\ncertificate-profile: %s\n", f.URL, ca, authorityName, eep, cp)
	if f.token != "" {
		text += fmt.Sprintf("token: %q\n", write(t, "token", []byte(f.token+"\n")))
	} else {
		text += fmt.Sprintf("cert: %q\nkey: %q\n", write(t, "ra.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.ra.Raw})),
			write(t, "ra.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(f.raKey))})))
	}
	return []byte(text + strings.Join(lines, "\n") + "\n")
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
func request(name string) *backend.IssueRequest {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	csr := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}, DNSNames: []string{name + ".example"}}, key))
	parsed := must(x509.ParseCertificateRequest(csr))
	return &backend.IssueRequest{ID: "id-" + name, Device: name, CSR: csr, Template: backend.Template{
		Subject: parsed.RawSubject, PublicKey: parsed.RawSubjectPublicKeyInfo, SubjectAltName: parsed.Extensions[0].Value,
		NotBefore: time.Now().UTC().Truncate(time.Second), NotAfter: time.Now().UTC().Add(24 * time.Hour).Truncate(time.Second),
	}}
}

func parsedCSR(r *backend.IssueRequest) *x509.CertificateRequest {
	return must(x509.ParseCertificateRequest(r.CSR))
}

// leaf is the one certificate in the ledger.
func (f *fakeCA) leaf(t *testing.T, got *backend.Issuance) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.ledger) != 1 || got == nil || !bytes.Equal(got.Certificate, f.ledger[0].der) || len(got.Chain) != 2 {
		t.Errorf("%d certificates, or another one, or without its chain", len(f.ledger))
	}
}
