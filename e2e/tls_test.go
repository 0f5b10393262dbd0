package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	x509pkix "crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const tlsConfig = `version: 1
listeners:
  http: {address: 127.0.0.1:0}
  https: {address: 127.0.0.1:0, tls: {}}
  modern: {address: 127.0.0.1:0, tls: {min: "1.3"}}
  mef: {address: 127.0.0.1:0, tls: {max: "1.2", suites: [TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256]}}
  files: {address: 127.0.0.1:0, tls: {cert: tls.pem, key: tls.pem}}
store: sqlite:muster.db
backends:
  local: {plugin: local, config: {dir: ca}}
server-certificate: {backend: local}
profiles:
  device: {backend: local, validity: 90d}
endpoints:
  plant:
    protocol: est
    listeners: [https, modern, mef, files]
    default: true
    profile: device
    enroll:
      - client-certificate: {cas: [vendor-ca.pem]}
      - names: {san: {dns: {}}}
    renew:
      - own-certificate: {}
`

// serverPEM is a certificate of its own issue with its key, for 127.0.0.1, between two times from now.
func serverPEM(t *testing.T, cn string, from, to time.Duration) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: x509pkix.Name{CommonName: cn}, NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(to),
		KeyUsage: x509.KeyUsageDigitalSignature, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

// handshake is what openssl says of a connection to a listener, and of the request for / that it makes.
func (g *instance) handshake(listener, options string) string {
	out, _ := g.run(g.dir, "sh", "-c", `printf 'GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n' | timeout 20 openssl s_client -ign_eof -connect `+g.listening(listener)+` `+options+` 2>&1`)
	return out
}

// reload has the configuration read again.
func (g *instance) reload() {
	g.t.Helper()
	const done = "reload: "
	before := strings.Count(g.stderr.String(), done)
	if err := g.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		g.t.Fatal(err)
	}
	for range 2000 {
		if log := g.stderr.String(); strings.Count(log, done) > before {
			if strings.Contains(log, "nothing has changed") {
				g.t.Fatalf("the reload failed\n%s", log)
			}
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	g.t.Fatalf("no reload\n%s", g.stderr)
}

// Each listener speaks the versions and suites of its policy, and nothing else.
func TestTLSPolicies(t *testing.T) {
	caPEM, _ := certifier(t, "Vendor CA")
	g := configured(t, tlsConfig, "vendor-ca.pem", caPEM, "tls.pem", serverPEM(t, "first", -time.Hour, 24*time.Hour))
	const old, cbc, gcm = `-tls1_1 -cipher ALL:@SECLEVEL=0`, `-tls1_2 -cipher ECDHE-ECDSA-AES128-SHA256`, `-tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256`
	for _, c := range []struct{ listener, options, speaks string }{
		{"https", old, ""}, {"modern", old, ""}, {"mef", old, ""}, {"files", old, ""},
		{"https", "-tls1_2", "TLSv1.2"}, {"https", "-tls1_3", "TLSv1.3"}, {"https", gcm, "TLSv1.2"}, {"https", cbc, ""},
		{"https", "-tls1_2 -cipher AES128-GCM-SHA256", ""}, // RSA key exchange
		{"modern", "-tls1_2", ""}, {"modern", "-tls1_3", "TLSv1.3"},
		{"mef", "-tls1_3", ""}, {"mef", gcm, ""}, {"mef", cbc, "TLSv1.2"},
		// oneM2M TS-0003 clause 10.2: this suite, also for a client that would rather speak HTTP/2.
		{"mef", cbc + " -alpn h2,http/1.1", "ALPN protocol: http/1.1"},
		{"files", "-tls1_3", "CN = first"},
	} {
		out := g.handshake(c.listener, c.options)
		connected := strings.Contains(out, "HTTP/1.1 404")
		if connected != (c.speaks != "") || !strings.Contains(out, c.speaks) {
			t.Errorf("%s with %s: want %q in\n%s", c.listener, c.options, c.speaks, out)
		}
	}
}

// A reload changes what TLS names and speaks, while connections live on; sessions of before are not resumed.
func TestTLSReload(t *testing.T) {
	vendorCA, certify := certifier(t, "Vendor CA")
	otherCA, _ := certifier(t, "Other CA")
	g := configured(t, tlsConfig, "vendor-ca.pem", vendorCA, "tls.pem", serverPEM(t, "first", -10*time.Hour, time.Hour))
	put := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(g.dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	named := func(want, not string) {
		t.Helper()
		for _, version := range []string{"-tls1_2", "-tls1_3"} {
			out := g.handshake("https", version)
			_, list, _ := strings.Cut(out, "Acceptable client certificate CA names")
			if list, _, _ = strings.Cut(list, "Requested Signature Algorithms"); !strings.Contains(list, want) || strings.Contains(list, not) {
				t.Errorf("%s: TLS names\n%s", version, list)
			}
		}
	}
	if warning := "TLS certificate ends soon, or has ended"; strings.Count(g.stderr.String(), warning) != 1 || !strings.Contains(g.stderr.String(), "listener=files not-after=") {
		t.Errorf("the log does not tell that a certificate ends:\n%s", g.stderr)
	}
	named("CN = Vendor CA", "CN = Other CA")

	// One connection that stays, and one client that makes a new one each time.
	alive, again := g.client(certify("alive")), g.client(certify("again"))
	resumed := g.resuming(again)
	get := func(c *http.Client) (reused bool) {
		t.Helper()
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }})
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.env["MUSTER_HTTPS"]+"/.well-known/est/cacerts", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != 200 {
			t.Fatalf("%d %v", res.StatusCode, err)
		}
		return reused
	}
	get(alive)
	get(again)
	if get(again); !*resumed {
		t.Error("the second connection did not resume")
	}
	if out := g.handshake("https", "-tls1_2 -reconnect"); strings.Count(out, "Reused, TLSv1.2") != 5 {
		t.Errorf("openssl resumed %d of 5 times", strings.Count(out, "Reused, TLSv1.2"))
	}

	put("vendor-ca.pem", otherCA)
	put("tls.pem", serverPEM(t, "second", -time.Hour, 24*time.Hour))
	if out := g.handshake("files", ""); !strings.Contains(out, "CN = first") {
		t.Error("the certificate changed before the reload")
	}
	g.reload()
	named("CN = Other CA", "CN = Vendor CA")
	if out := g.handshake("files", ""); !strings.Contains(out, "CN = second") {
		t.Errorf("the certificate on disk is not served:\n%s", out)
	}
	if n := strings.Count(g.stderr.String(), "ends soon, or has ended"); n != 1 {
		t.Errorf("%d warnings", n)
	}
	if !get(alive) {
		t.Error("the connection did not live on")
	}
	if get(again); *resumed {
		t.Error("a session of before the reload was resumed")
	}
	// Whom a stage does not trust any more is not let in, on the old connection either.
	a, err := g.post(context.Background(), alive, "simpleenroll", "", "", "application/pkcs10", []byte(toBase64(newDevice(t, "alive").csr)))
	if err != nil || a.status != http.StatusForbidden {
		t.Errorf("on the old connection: %v %v", a, err)
	}

	put("gateway.yaml", strings.Replace(tlsConfig, `tls: {}`, `tls: {max: "1.2", suites: [ECDHE_ECDSA_AES_256_GCM_SHA384], resumption: false}`, 1))
	g.reload()
	for options, speaks := range map[string]bool{"-tls1_3": false, "-tls1_2": true, "-tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256": false} {
		if out := g.handshake("https", options); strings.Contains(out, "HTTP/1.1 404") != speaks {
			t.Errorf("%s after the policy changed:\n%s", options, out)
		}
	}
	if out := g.handshake("https", "-tls1_2 -reconnect"); strings.Contains(out, "Reused,") {
		t.Error("openssl resumed where resumption is off")
	}
}

// resuming has a client make a connection for each request, and keep its sessions; resumed is whether the last one did.
func (g *instance) resuming(c *http.Client) (resumed *bool) {
	resumed = new(bool)
	tr := c.Transport.(*http.Transport)
	tr.DisableKeepAlives = true
	tr.TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	tr.TLSClientConfig.VerifyConnection = func(s tls.ConnectionState) error { *resumed = s.DidResume; return nil }
	return resumed
}

// A resumed session says who the client is, and what that is worth is judged anew: a certificate that was revoked meanwhile renews nothing.
func TestTLSResumedIsNotTrusted(t *testing.T) {
	caPEM, certify := certifier(t, "Vendor CA")
	g := configured(t, tlsConfig, "vendor-ca.pem", caPEM, "tls.pem", serverPEM(t, "first", -time.Hour, 24*time.Hour))
	d := newDevice(t, "resumed")
	a, err := g.post(t.Context(), g.client(certify("vendor-1")), "simpleenroll", "", "", "application/pkcs10", []byte(toBase64(d.csr)))
	if err != nil || a.cert == nil {
		t.Fatalf("%+v %v", a, err)
	}
	d.cert = a.cert
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		c := g.client(d)
		c.Transport.(*http.Transport).TLSClientConfig.MinVersion, c.Transport.(*http.Transport).TLSClientConfig.MaxVersion = version, version
		resumed := g.resuming(c)
		renew := func(status int, words string) {
			t.Helper()
			a, err := g.post(t.Context(), c, "simplereenroll", "", "", "application/pkcs10", []byte(toBase64(d.csr)))
			if err != nil || a.status != status || !strings.Contains(a.body, words) {
				t.Errorf("TLS %x: %+v %v", version, a, err)
			}
		}
		if version == tls.VersionTLS12 {
			renew(200, "")
			if renew(200, ""); !*resumed {
				t.Error("the second connection did not resume")
			}
			continue
		}
		renew(200, "")
		g.muster("revoke", fmt.Sprintf("%x", d.cert.SerialNumber), "--reason", "keyCompromise")
		if renew(403, "revoked"); !*resumed {
			t.Error("the connection after the revocation did not resume")
		}
	}
}
