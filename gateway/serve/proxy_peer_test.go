package serve

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestProxyByCertificate(t *testing.T) {
	ca, stranger := newTestCA(t), newTestCA(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "proxy-ca.pem"), []byte(pemOf(ca.cert)), 0o600); err != nil {
		t.Fatal(err)
	}
	certified := func(ca *testCA, dns ...string) *x509.Certificate { return ca.leaf(t, "proxy", dns...) }
	l := &Listener{Address: ":0", TLS: &TLS{}, Proxies: []*Proxy{{Name: "edge", CA: "proxy-ca.pem", Names: []string{"proxy.example", "2001:db8::1", "spiffe://example/edge"}, ClientCertificate: "rfc9440"}}}
	if err := l.Check(); err != nil {
		t.Fatal(err)
	}
	c := clientsOf(t, dir, l)
	if cas := c.CAs(); len(cas) != 1 || !cas[0].Equal(ca.cert) {
		t.Errorf("TLS is to name %d CAs", len(cas))
	}
	device := ca.leaf(t, "device")
	for _, tc := range []struct {
		name  string
		shown []*x509.Certificate
		known bool
	}{
		{"its name", []*x509.Certificate{certified(ca, "proxy.example")}, true},
		{"its name in capitals", []*x509.Certificate{certified(ca, "Proxy.Example")}, true},
		{"another of the CA's", []*x509.Certificate{certified(ca, "other.example")}, false},
		{"a wildcard", []*x509.Certificate{certified(ca, "*.example")}, false},
		{"a device of the CA's", []*x509.Certificate{device}, false},
		{"its name by another CA", []*x509.Certificate{certified(stranger, "proxy.example"), stranger.cert}, false},
		{"nothing", nil, false},
	} {
		state := &tls.ConnectionState{Version: tls.VersionTLS13, PeerCertificates: tc.shown}
		_, says := asks(c, "192.0.2.1:1", state, "Client-Cert", sfBinary(device), "X-Forwarded-Proto", "https", "X-Forwarded-For", "203.0.113.9")
		if got := strings.HasPrefix(says, "203.0.113.9:0 edge tls/device"); got != tc.known || strings.Contains(says, "edge") != tc.known {
			t.Errorf("%s: %q", tc.name, says)
		}
	}
	if _, says := asks(c, "192.0.2.1:1", nil, "Client-Cert", sfBinary(device), "X-Forwarded-Proto", "https"); says != "192.0.2.1:1  clear" {
		t.Errorf("without TLS: %q", says)
	}
	// Both are wanted where both are named.
	l.Proxies[0].Addresses = []string{"192.0.2.7"}
	c = clientsOf(t, dir, l)
	state := &tls.ConnectionState{Version: tls.VersionTLS13, PeerCertificates: []*x509.Certificate{certified(ca, "proxy.example")}}
	for from, known := range map[string]bool{"192.0.2.7:1": true, "[::ffff:192.0.2.7]:1": true, "192.0.2.8:1": false} {
		if _, says := asks(c, from, state, "X-Forwarded-For", "203.0.113.9"); strings.Contains(says, "edge") != known {
			t.Errorf("from %s: %q", from, says)
		}
	}
	for file, want := range map[string]string{"none.pem": "proxies.0.ca: ", "": "proxies.0.ca: "} {
		l.Proxies[0].CA = file
		if file == "" {
			l.Proxies[0].CA = "empty.pem"
			os.WriteFile(filepath.Join(dir, "empty.pem"), nil, 0o600) //nolint:errcheck // read at once
		}
		if _, err := l.Clients(dir, "a", time.Now, quiet()); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("CA file %q: %v", file, err)
		}
	}
}

// A proxy whose certificate counts no more is a client like any other, and the log tells, also while strangers show such certificates.
func TestProxyWhoseCertificateEnded(t *testing.T) {
	ca, stranger := newTestCA(t), newTestCA(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), []byte(pemOf(ca.cert)), 0o600); err != nil {
		t.Fatal(err)
	}
	leaf := ca.leaf(t, "proxy", "proxy.example")
	now := leaf.NotAfter
	var log bytes.Buffer
	l := &Listener{TLS: &TLS{}, Proxies: []*Proxy{{Name: "edge", CA: "ca.pem", Names: []string{"proxy.example"}}}}
	c, err := l.Clients(dir, "a", func() time.Time { return now }, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	comes := func(after time.Duration, known bool, lines int, chain ...*x509.Certificate) {
		t.Helper()
		now = now.Add(after)
		_, says := asks(c, "192.0.2.1:1", &tls.ConnectionState{Version: tls.VersionTLS13, PeerCertificates: chain}, "X-Forwarded-Proto", "https")
		if strings.Contains(says, "edge") != known || strings.Count(log.String(), "\n") != lines {
			t.Errorf("%q, and the log:\n%s", says, &log)
		}
	}
	comes(0, true, 0, leaf)
	comes(0, false, 0, ca.leaf(t, "device"))
	comes(time.Second, false, 1, leaf)
	if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), "proxy=edge") || !strings.Contains(log.String(), "validity") {
		t.Errorf("the log does not tell why:\n%s", &log)
	}
	comes(time.Second, false, 1, stranger.leaf(t, "proxy", "proxy.example"))
	comes(doubtEvery-2*time.Second, false, 1, leaf)
	comes(time.Second, false, 2, leaf)
}

func TestNamesOfAProxy(t *testing.T) {
	spiffe, err := url.Parse("spiffe://example/edge")
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{Subject: pkix.Name{CommonName: "cn.example"}, DNSNames: []string{"a.example"}, IPAddresses: []net.IP{net.IPv4(192, 0, 2, 1)}, URIs: []*url.URL{spiffe}}
	for name, want := range map[string]bool{
		"a.example": true, "A.EXAMPLE": true, "192.0.2.1": true, "::ffff:192.0.2.1": true, "spiffe://example/edge": true,
		"b.example": false, "192.0.2.2": false, "spiffe://example/edge2": false, "spiffe://example/ed": false, "cn.example": false,
	} {
		if certifies(leaf, name) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
}
