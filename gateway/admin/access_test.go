package admin

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// authority is a CA of operators' certificates.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{key: newKey(t)}
	a.cert = a.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "Operators"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: noon.AddDate(-10, 0, 0), NotAfter: noon.AddDate(10, 0, 0),
	}, a.key)
	return a
}

func (a *authority) sign(t *testing.T, c *x509.Certificate, key crypto.Signer) *x509.Certificate {
	t.Helper()
	parent := a.cert
	if parent == nil {
		parent = c
	}
	c.SerialNumber, _ = rand.Int(rand.Reader, big.NewInt(1<<62))
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// pair writes a certificate and its key into a folder.
func (a *authority) pair(t *testing.T, dir, name string, c *x509.Certificate) (certFile, keyFile string, cert *x509.Certificate) {
	t.Helper()
	key := newKey(t)
	cert = a.sign(t, c, key)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	put(t, certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	put(t, keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	return certFile, keyFile, cert
}

func put(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// person is the template of a client certificate.
func person(cn string) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: cn, Organization: []string{"Ops"}}, NotBefore: noon.AddDate(-1, 0, 0), NotAfter: noon.AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

func tokenOf(role string) string { return role + "-0123456789abcdef0123456789" }

func tokenLine(name, role, value string) string {
	sum := sha256.Sum256([]byte(value))
	return name + ":" + role + ":{sha256}" + hex.EncodeToString(sum[:]) + "\n"
}

// network is the API over TLS.
type network struct {
	dir, url, ca string
	operators    *authority
	source       *source
	server       *Server
}

func serveTLS(t *testing.T, s *source) *network {
	t.Helper()
	n := &network{dir: t.TempDir(), operators: newAuthority(t), source: s, server: newServer(t, s)}
	put(t, filepath.Join(n.dir, "operators.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: n.operators.cert.Raw}))
	var lines string
	for _, role := range []string{"viewer", "approver", "admin"} {
		lines += tokenLine("the-"+role, role, tokenOf(role))
	}
	put(t, filepath.Join(n.dir, "tokens"), []byte("# who\n\n"+lines))
	serving := newAuthority(t)
	n.ca = filepath.Join(n.dir, "ca.pem")
	put(t, n.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: serving.cert.Raw}))
	certFile, keyFile, leaf := serving.pair(t, n.dir, "server", &x509.Certificate{
		Subject: pkix.Name{CommonName: "gateway"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	})
	a, err := NewAccess(&RemoteConfig{
		Address: "127.0.0.1:0", ClientCA: "operators.pem", Tokens: "tokens",
		Certificates: map[string]string{"CN=alice, O=Ops": "approver", "cn=root,O=Ops": "admin"},
	}, n.dir, func() *x509.Certificate { return leaf })
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(n.server.Remote(a))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	n.url = srv.URL
	return n
}

func (n *network) client(t *testing.T, o RemoteOptions) *Client {
	t.Helper()
	o.CA = n.ca
	c, err := NewRemoteClient(n.url, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// roles says what each route takes, beside the table that the server has.
var roles = map[string]string{
	"GET /v1/transactions": "viewer", "GET /v1/transactions/:id": "viewer", "GET /v1/certificates": "viewer", "GET /v1/devices": "viewer",
	"GET /v1/devices/:name": "viewer", "GET /v1/challenges": "viewer", "GET /v1/secrets": "viewer", "GET /v1/cas": "viewer",
	"GET /v1/cas/:backend/crl": "viewer", "GET /v1/status": "viewer", "GET /v1/overview": "viewer", "GET /v1/pipelines": "viewer", "GET /v1/openapi.json": "viewer", "GET /metrics": "viewer",
	"POST /v1/transactions/:id/approve": "approver", "POST /v1/transactions/:id/deny": "approver",
	"POST /v1/challenges": "approver", "DELETE /v1/challenges/:id": "approver",
	"POST /v1/cmp": "approver", "POST /v1/cmp/:endpoint": "approver",
	"POST /v1/certificates/revoke": "admin", "POST /v1/transactions/:id/settle": "admin", "POST /v1/devices": "admin", "POST /v1/devices/import": "admin", "DELETE /v1/devices/:name": "admin",
	"POST /v1/devices/:name/state": "admin", "POST /v1/devices/:name/reset": "admin", "POST /v1/secrets": "admin", "DELETE /v1/secrets": "admin",
	"POST /v1/cas/:backend/rollover": "admin", "POST /v1/reload": "admin",
}

func TestRoles(t *testing.T) {
	n := serveTLS(t, &source{})
	rank := map[string]int{"": 0, "viewer": 1, "approver": 2, "admin": 3}
	routes := n.server.routes()
	if len(routes) != len(roles) {
		t.Errorf("%d routes, the table has %d", len(routes), len(roles))
	}
	for _, r := range routes {
		needed, ok := roles[r.method+" "+r.path]
		if !ok {
			t.Errorf("the table has no %s %s", r.method, r.path)
		}
		for _, role := range []string{"", "viewer", "approver", "admin"} {
			c := n.client(t, RemoteOptions{Token: tokenOf(role)})
			resp, body := ask(t, c, r.method, pathParameter.ReplaceAllString(r.path, "x"), nil)
			switch {
			case role == "":
				if resp.StatusCode != 401 || body != `{"error":"`+errUnknown.message+"\"}\n" || resp.Header.Get("WWW-Authenticate") == "" {
					t.Errorf("%s %s, nobody: %d %s", r.method, r.path, resp.StatusCode, body)
				}
			case rank[role] < rank[needed]:
				if resp.StatusCode != 403 || !strings.Contains(body, "this takes the role "+needed+"; token:the-"+role+" has the role "+role) {
					t.Errorf("%s %s, %s: %d %s", r.method, r.path, role, resp.StatusCode, body)
				}
			case resp.StatusCode == 401 || resp.StatusCode == 403:
				t.Errorf("%s %s, %s: %d %s", r.method, r.path, role, resp.StatusCode, body)
			}
		}
	}
	if len(n.source.audit)+len(n.source.devices) != 0 {
		t.Errorf("something has changed: %+v", n.source.audit)
	}
}

// ask makes one request as it is.
func ask(t *testing.T, c *Client, method, path string, change func(*http.Request)) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, c.base+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if change != nil {
		change(req)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestCertificatesOfOperators(t *testing.T) {
	s := &source{stored: []*gateway.Transaction{transaction(1, gateway.StateHeld, nil)}}
	n := serveTLS(t, s)
	stranger := newAuthority(t)
	stranger.cert = stranger.sign(t, &x509.Certificate{
		Subject: n.operators.cert.Subject, IsCA: true, BasicConstraintsValid: true, NotBefore: noon.AddDate(-1, 0, 0), NotAfter: noon.AddDate(1, 0, 0),
	}, stranger.key)
	expired, early, server := person("alice"), person("alice"), person("alice")
	expired.NotAfter = noon.Add(-time.Hour)
	early.NotBefore = noon.AddDate(0, 6, 0)
	server.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	twin := person("alice")
	twin.Subject.OrganizationalUnit = []string{"Elsewhere"}
	ours := func(change func(*gateway.Certificate)) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			kept := &gateway.Certificate{Issuer: c.RawIssuer, Serial: c.SerialNumber.Bytes(), State: gateway.StateIssued}
			change(kept)
			s.certs = append(s.certs, kept)
		}
	}
	for name, x := range map[string]struct {
		from   *authority
		cert   *x509.Certificate
		known  func(*x509.Certificate)
		status int // of an approval
	}{
		"approver":            {n.operators, person("alice"), nil, 200},
		"admin":               {n.operators, person("root"), nil, 200},
		"not listed":          {n.operators, person("bob"), nil, 401},
		"another subject":     {n.operators, twin, nil, 401},
		"expired":             {n.operators, expired, nil, 401},
		"not yet valid":       {n.operators, early, nil, 401},
		"for servers":         {n.operators, server, nil, 401},
		"of another CA":       {stranger, person("alice"), nil, 401},
		"issued by us":        {n.operators, person("alice"), ours(func(*gateway.Certificate) {}), 200},
		"revoked by us":       {n.operators, person("alice"), ours(func(c *gateway.Certificate) { c.RevokedAt = noon }), 401},
		"never confirmed":     {n.operators, person("alice"), ours(func(c *gateway.Certificate) { c.State = gateway.StateUnconfirmed }), 401},
		"rejected, certainly": {n.operators, person("alice"), ours(func(c *gateway.Certificate) { c.State = gateway.StateRejected }), 401},
	} {
		t.Run(name, func(t *testing.T) {
			certFile, keyFile, cert := x.from.pair(t, t.TempDir(), "client", x.cert)
			if x.known != nil {
				x.known(cert)
			}
			s.approved = ""
			c := n.client(t, RemoteOptions{Cert: certFile, Key: keyFile})
			_, err := c.Approve(t.Context(), id(1), "fine")
			if x.status == 200 {
				want := "approve " + id(1) + " cert:CN=" + x.cert.Subject.CommonName + ",O=Ops fine"
				if err != nil || s.approved != want {
					t.Errorf("%v, %q, want %q", err, s.approved, want)
				}
				return
			}
			if status(err) != x.status || err.Error() != errUnknown.message || s.approved != "" {
				t.Errorf("%v, %q", err, s.approved)
			}
		})
	}
	// A wrong token is no reason to look at the certificate.
	certFile, keyFile, _ := n.operators.pair(t, t.TempDir(), "client", person("root"))
	if _, err := n.client(t, RemoteOptions{Cert: certFile, Key: keyFile, Token: tokenOf("nobody")}).Status(t.Context()); status(err) != 401 {
		t.Errorf("a good certificate and a wrong token: %v", err)
	}
	s.err = context.DeadlineExceeded
	if _, err := n.client(t, RemoteOptions{Cert: certFile, Key: keyFile}).Status(t.Context()); status(err) != 503 {
		t.Errorf("whether it is revoked is not known: %v", err)
	}
}

func TestWrongTokens(t *testing.T) {
	s := &source{}
	n := serveTLS(t, s)
	c := n.client(t, RemoteOptions{Token: tokenOf("admin")})
	if _, err := c.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	good := "Bearer " + tokenOf("admin")
	if resp, body := ask(t, c, "GET", "/v1/status", func(r *http.Request) { r.Header.Set("Authorization", "bearer"+good[6:]) }); resp.StatusCode != 200 {
		t.Errorf("the scheme in another case: %s", body)
	}
	var first string
	for _, headers := range [][]string{nil, {""}, {"Bearer"}, {"Bearer "}, {"Basic " + tokenOf("admin")}, {tokenOf("admin")}, {good + "x"}, {good[:len(good)-1]},
		{good, good}, {"Bearer " + strings.Repeat("x", 8000)}} {
		for _, path := range []string{"/v1/status", "/v1/nothing", "/metrics"} {
			resp, body := ask(t, c, "GET", path, func(r *http.Request) {
				r.Header.Del("Authorization")
				if headers != nil {
					r.Header["Authorization"] = headers
				}
			})
			if first == "" {
				first = body
			}
			if resp.StatusCode != 401 || body != first {
				t.Errorf("%q, %s: %d %s", headers, path, resp.StatusCode, body)
			}
		}
	}
	if said := strings.Count(s.log.String(), "did not prove who they are"); said == 0 || said > 30 || strings.Contains(s.log.String(), tokenOf("admin")) {
		t.Errorf("said %d times: %s", said, s.log.String())
	}
	_, metrics := ask(t, c, "GET", "/metrics", nil)
	if !strings.Contains(metrics, `muster_admin_denied_total{shown="token"} 27`) || !strings.Contains(metrics, `muster_admin_denied_total{shown="none"} 3`) {
		t.Errorf("metrics: %s", metrics)
	}
}

// Denials are told once a minute.
func TestDenialsAreSummedUp(t *testing.T) {
	s := &source{}
	d := newServer(t, s).denied
	now := noon
	d.clock = func() time.Time { return now }
	for range 100 {
		d.count("token", "192.0.2.1")
	}
	now = now.Add(denialsEvery)
	d.count("token", "192.0.2.1")
	if said := strings.Count(s.log.String(), "did not prove"); said != 2 {
		t.Errorf("said %d times", said)
	}
}

func TestNotForBrowsers(t *testing.T) {
	n := serveTLS(t, &source{})
	c := n.client(t, RemoteOptions{Token: tokenOf("admin")})
	for name, x := range map[string]struct {
		change func(*http.Request)
		status int
	}{
		"as it is":         {func(*http.Request) {}, 200},
		"by hand":          {func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "none") }, 200},
		"localhost":        {func(r *http.Request) { r.Host = "localhost:9443" }, 200},
		"of a page":        {func(r *http.Request) { r.Header.Set("Origin", "https://example.com") }, 403},
		"of no origin":     {func(r *http.Request) { r.Header.Set("Origin", "null") }, 403},
		"of another site":  {func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, 403},
		"of our own site":  {func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-origin") }, 403},
		"rebound":          {func(r *http.Request) { r.Host = "attacker.example" }, 421},
		"another address":  {func(r *http.Request) { r.Host = "192.0.2.1" }, 421},
		"a page's preface": {func(r *http.Request) { r.Method = "OPTIONS"; r.Header.Set("Origin", "https://example.com") }, 403},
	} {
		resp, body := ask(t, c, "GET", "/v1/status", x.change)
		if resp.StatusCode != x.status || resp.Header.Get("Access-Control-Allow-Origin") != "" || x.status == 200 && resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %s", name, resp.StatusCode, body)
		}
	}
	// Without a certificate of its own there is no host that could be meant.
	early := httptest.NewRecorder()
	r := httptest.NewRequest("GET", "https://localhost/v1/status", nil)
	n.server.Remote(&Access{serving: func() *x509.Certificate { return nil }}).ServeHTTP(early, r)
	if early.Code != 421 {
		t.Errorf("no certificate yet: %d %s", early.Code, early.Body)
	}
	// What a form can send is no body.
	for _, kind := range []string{"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"} {
		resp, body := ask(t, c, "POST", "/v1/challenges", func(r *http.Request) {
			r.Body = io.NopCloser(strings.NewReader(`{"endpoint": "ran"}`))
			r.Header.Set("Content-Type", kind)
		})
		if resp.StatusCode != 415 {
			t.Errorf("%q: %d %s", kind, resp.StatusCode, body)
		}
	}
	// Should somebody serve it without TLS.
	rec := httptest.NewRecorder()
	a := &Access{serving: func() *x509.Certificate { return nil }}
	n.server.Remote(a).ServeHTTP(rec, httptest.NewRequest("GET", "http://localhost/v1/status", nil))
	if rec.Code != 403 || !strings.Contains(rec.Body.String(), "TLS only") {
		t.Errorf("plain: %d %s", rec.Code, rec.Body)
	}
}

func TestTokenFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "tokens")
	good := tokenLine("ci", "viewer", "x")
	for text, want := range map[string]string{
		good:                                 "",
		"# nobody\n":                         "",
		good + tokenLine("b", "x", ""):       `tokens:2: "x" is no role`,
		good + good:                          "tokens:2: there is a token named ci already",
		good + tokenLine("b", "viewer", "x"): "tokens:2: this is token ci",
		"geheim":                             "tokens:1: want NAME:ROLE:{sha256}HEX",
		"a:admin:geheim":                     "tokens:1: want NAME:ROLE:{sha256}HEX",
		"a:admin:{sha256}geheim":             "tokens:1: want NAME:ROLE:{sha256}HEX",
		":admin:{sha256}00":                  "tokens:1: a token's name",
		strings.Repeat("#\n", 1<<20):         "larger than 1048576 bytes",
	} {
		put(t, path, []byte(text))
		_, err := readTokens(path)
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "geheim")) {
			t.Errorf("%.40q: %v", text, err)
		}
	}
	var many strings.Builder
	for i := range maxTokens + 1 {
		many.WriteString(tokenLine(fmt.Sprint(i), "viewer", fmt.Sprint(i)))
	}
	put(t, path, []byte(many.String()))
	if _, err := readTokens(path); err == nil || !strings.Contains(err.Error(), "more than 1000") {
		t.Errorf("many: %v", err)
	}
	put(t, path, []byte(good))
	if err := os.Chmod(path, 0o620); err != nil {
		t.Fatal(err)
	}
	if _, err := readTokens(path); err == nil || !strings.Contains(err.Error(), "its mode is 0620") {
		t.Errorf("others write: %v", err)
	}
	if _, err := readTokens(filepath.Join(dir, "none")); err == nil {
		t.Error("no file")
	}
}

func TestRemoteConfig(t *testing.T) {
	certs := func(pairs ...string) map[string]string {
		m := map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i]] = pairs[i+1]
		}
		return m
	}
	for name, x := range map[string]struct {
		config RemoteConfig
		key    string
		want   string
	}{
		"tokens":         {RemoteConfig{Tokens: "t"}, "", ""},
		"certificates":   {RemoteConfig{ClientCA: "c", Certificates: certs("CN=a", "viewer")}, "", ""},
		"nobody":         {RemoteConfig{}, "", "nobody could come in"},
		"no CA":          {RemoteConfig{Certificates: certs("CN=a", "viewer")}, "client-ca", "belong together"},
		"no certificate": {RemoteConfig{Tokens: "t", ClientCA: "c"}, "client-ca", "belong together"},
		"no role":        {RemoteConfig{ClientCA: "c", Certificates: certs("CN=a", "root")}, "certificates CN=a", `"root" is no role`},
		"no name":        {RemoteConfig{ClientCA: "c", Certificates: certs("alice", "admin")}, "certificates alice", "alice"},
		"twice":          {RemoteConfig{ClientCA: "c", Certificates: certs("CN=a,O=b", "admin", "cn=a, o=b", "viewer")}, "", "the same subject"},
	} {
		key, err := x.config.Check()
		if (err == nil) != (x.want == "") || err != nil && !strings.Contains(err.Error(), x.want) || x.key != "" && strings.Join(key, " ") != x.key {
			t.Errorf("%s: %v, %v", name, key, err)
		}
	}
	dir := t.TempDir()
	put(t, filepath.Join(dir, "empty"), nil)
	for _, c := range []RemoteConfig{{Tokens: "none"}, {ClientCA: "empty", Certificates: certs("CN=a", "admin")}, {ClientCA: "none", Certificates: certs("CN=a", "admin")}, {}} {
		if _, err := NewAccess(&c, dir, nil); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
}

func TestRemoteClient(t *testing.T) {
	for address, want := range map[string]string{
		"http://a:1": "https only", "a:1": "https", "": "is no address", "https://a/x": "without more", "https://u:p@a": "without more", "https://a?x=1": "without more",
	} {
		if _, err := NewRemoteClient(address, RemoteOptions{Token: tokenOf("admin")}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", address, err)
		}
	}
	for want, o := range map[string]RemoteOptions{
		"asks who comes":         {},
		"belong together":        {Cert: "x"},
		"a token has 22 to 256":  {Token: "short"},
		"printable ASCII":        {Token: "0123456789 0123456789\n0123456789"},
		"no such file":           {Token: tokenOf("admin"), CA: "/nonexistent"},
		"certificate /nonexiste": {Cert: "/nonexistent", Key: "/nonexistent"},
	} {
		if _, err := NewRemoteClient("https://127.0.0.1:1", o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	n := serveTLS(t, &source{})
	stranger, err := NewRemoteClient(n.url, RemoteOptions{Token: tokenOf("admin")}) // with the system's roots
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.Status(t.Context()); err == nil || !strings.Contains(err.Error(), n.url) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a server that nobody vouches for: %v", err)
	}
	// A redirection does not take the token elsewhere.
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("asked with %q", r.Header.Get("Authorization"))
	}))
	defer elsewhere.Close()
	moved := httptest.NewTLSServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	defer moved.Close()
	put(t, n.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: moved.Certificate().Raw}))
	c, err := NewRemoteClient(moved.URL, RemoteOptions{CA: n.ca, Token: tokenOf("admin")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Status(t.Context()); status(err) != http.StatusTemporaryRedirect {
		t.Errorf("redirected: %v", err)
	}
}
