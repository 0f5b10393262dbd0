package serve

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// tells writes what a handler learns of its client.
var tells = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	over := "clear"
	if r.TLS != nil {
		over = "tls"
		for _, c := range r.TLS.PeerCertificates {
			over += "/" + c.Subject.CommonName
		}
	}
	for _, name := range append([]string{"X-Own", "X-Real-Ip"}, spoofable...) {
		if r.Header[http.CanonicalHeaderKey(name)] != nil {
			over += " " + name
		}
	}
	fmt.Fprintf(w, "%s %s %s", r.RemoteAddr, gateway.ProxyOf(r.Context()), over)
})

func clientsOf(t *testing.T, dir string, l *Listener) *Clients {
	t.Helper()
	c, err := l.Clients(dir, "a", time.Now, quiet())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// asks sends a request from an address with headers, name and value by turns.
func asks(c *Clients, from string, state *tls.ConnectionState, headers ...string) (int, string) {
	r := httptest.NewRequest(http.MethodPost, "/x", nil)
	r.RemoteAddr, r.TLS = from, state
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	c.Handler(tells).ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

// The ways in which a certificate is written into headers.
func sfBinary(c *x509.Certificate) string {
	return ":" + base64.StdEncoding.EncodeToString(c.Raw) + ":"
}

func pemOf(certs ...*x509.Certificate) string {
	var b strings.Builder
	for _, c := range certs {
		pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	return b.String()
}

// escaped is nginx's: everything but what RFC 3986 leaves unreserved.
func escaped(certs ...*x509.Certificate) string {
	return strings.ReplaceAll(url.QueryEscape(pemOf(certs...)), "+", "%20")
}

func hashOf(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// leaf is a certificate of the CA's.
func (ca *testCA) leaf(t *testing.T, cn string, dns ...string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := ca.sign(key.Public(), &x509.Certificate{Subject: pkix.Name{CommonName: cn}, DNSNames: dns, KeyUsage: x509.KeyUsageDigitalSignature})
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestProxyForms(t *testing.T) {
	ca := newTestCA(t)
	leaf, other := ca.leaf(t, "device"), ca.leaf(t, "other")
	const proxy, https = "192.0.2.1:4000", "X-Forwarded-Proto"
	one, chain := sfBinary(leaf), sfBinary(ca.cert)
	many := strings.TrimSuffix(strings.Repeat(chain+", ", 16), ", ")
	der := base64.StdEncoding.EncodeToString(leaf.Raw)
	p := escaped(leaf)
	for _, tc := range []struct {
		name    string
		proxy   Proxy
		headers []string
		status  int    // 0: 200
		want    string // what is said of the client, or of the fault
	}{
		{"no certificate", Proxy{ClientCertificate: "rfc9440"}, nil, 0, "tls"},
		{"RFC 9440", Proxy{ClientCertificate: "rfc9440"}, []string{"Client-Cert", one}, 0, "tls/device"},
		{"RFC 9440 without padding", Proxy{ClientCertificate: "rfc9440"}, []string{"Client-Cert", ":" + strings.Trim(one, ":=") + ":"}, 0, "tls/device"},
		{"RFC 9440 with a chain", Proxy{ClientCertificate: "rfc9440"}, []string{"Client-Cert", one, "Client-Cert-Chain", chain + " , " + sfBinary(other)}, 0, "tls/device/" + ca.cert.Subject.CommonName + "/other"},
		{"RFC 9440, a chain in two lines", Proxy{ClientCertificate: "rfc9440"}, []string{"Client-Cert", one, "Client-Cert-Chain", chain, "Client-Cert-Chain", sfBinary(other)}, 0, "tls/device/" + ca.cert.Subject.CommonName + "/other"},
		{"RFC 9440, empty", Proxy{ClientCertificate: "rfc9440"}, []string{"Client-Cert", ""}, 0, "tls"},
		{"RFC 9440 twice", Proxy{ClientCertificate: "rfc9440"}, []string{"Client-Cert", one, "Client-Cert", sfBinary(other)}, 400, "Client-Cert stands twice"},
		{"RFC 9440, a list", Proxy{ClientCertificate: "rfc9440"}, []string{"Client-Cert", one + "," + one}, 400, "it is not base64"},
		{"RFC 9440 without colons", Proxy{ClientCertificate: "rfc9440"}, []string{"Client-Cert", strings.Trim(one, ":")}, 400, "between colons"},
		{"RFC 9440, one colon", Proxy{ClientCertificate: "rfc9440"}, []string{"Client-Cert", ":"}, 400, "between colons"},
		{"RFC 9440 of nothing", Proxy{ClientCertificate: "rfc9440"}, []string{"Client-Cert", "::"}, 400, "certificate in DER"},
		{"RFC 9440 with more behind the DER", Proxy{ClientCertificate: "rfc9440"}, []string{"Client-Cert", ":" + base64.StdEncoding.EncodeToString(append(leaf.Raw[:len(leaf.Raw):len(leaf.Raw)], 0)) + ":"}, 400, "certificate in DER"},
		{"RFC 9440, a chain alone", Proxy{ClientCertificate: "rfc9440"}, []string{"Client-Cert-Chain", chain}, 400, "Client-Cert-Chain without Client-Cert"},
		{"RFC 9440, a broken chain", Proxy{ClientCertificate: "rfc9440"}, []string{"Client-Cert", one, "Client-Cert-Chain", chain + ",x"}, 400, "Client-Cert-Chain: base64 between colons"},
		{"RFC 9440, sixteen and one", Proxy{ClientCertificate: "rfc9440"}, []string{"Client-Cert", one, "Client-Cert-Chain", many}, 400, "more than 16"},
		{"RFC 9440, huge", Proxy{ClientCertificate: "rfc9440"}, []string{"Client-Cert", ":" + strings.Repeat("A", maxCertHeader) + ":"}, 400, "longer than"},
		{"RFC 9440, a huge chain", Proxy{ClientCertificate: "rfc9440"}, []string{"Client-Cert", one, "Client-Cert-Chain", ":" + strings.Repeat("A", maxCertHeader) + ":"}, 400, "longer than"},

		{"nginx", Proxy{ClientCertificate: "nginx"}, []string{"X-SSL-Client-Cert", p}, 0, "tls/device"},
		{"nginx, a header of its own", Proxy{ClientCertificate: "nginx", Header: "X-Own"}, []string{"X-Own", p, "X-SSL-Client-Cert", escaped(other)}, 0, "tls/device"},
		{"nginx, empty", Proxy{ClientCertificate: "nginx"}, []string{"X-SSL-Client-Cert", ""}, 0, "tls"},
		{"PEM with a chain, plus signs as they are", Proxy{ClientCertificate: "nginx"}, []string{"X-SSL-Client-Cert", strings.ReplaceAll(escaped(leaf, ca.cert), "%2B", "+")}, 0, "tls/device/" + ca.cert.Subject.CommonName},
		{"nginx twice", Proxy{ClientCertificate: "nginx"}, []string{"X-SSL-Client-Cert", p, "x-ssl-client-cert", p}, 400, "X-SSL-Client-Cert stands twice"},
		{"nginx, not escaped well", Proxy{ClientCertificate: "nginx"}, []string{"X-SSL-Client-Cert", p + "%2"}, 400, "percent-encoded"},
		{"nginx with DER", Proxy{ClientCertificate: "nginx"}, []string{"X-SSL-Client-Cert", der}, 400, "in PEM"},
		{"nginx with a key", Proxy{ClientCertificate: "nginx"}, []string{"X-SSL-Client-Cert", p + url.PathEscape("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")}, 400, "nothing else"},
		{"nginx with text before it", Proxy{ClientCertificate: "nginx"}, []string{"X-SSL-Client-Cert", "x" + p}, 400, "nothing else"},
		{"nginx, seventeen", Proxy{ClientCertificate: "nginx"}, []string{"X-SSL-Client-Cert", escaped(leaf) + strings.Repeat(escaped(ca.cert), 16)}, 400, "more than 16"},
		{"nginx with a line before it", Proxy{ClientCertificate: "nginx"}, []string{"X-SSL-Client-Cert", "x%0A" + p}, 400, "nothing else"},
		{"nginx, a broken block before another", Proxy{ClientCertificate: "nginx"}, []string{"X-SSL-Client-Cert", url.PathEscape("-----BEGIN CERTIFICATE-----\n!\n") + p}, 400, "nothing else"},
		{"nginx, a broken certificate", Proxy{ClientCertificate: "nginx"}, []string{"X-SSL-Client-Cert", escaped(&x509.Certificate{Raw: []byte{0x30, 0}})}, 400, "does not hold a certificate"},
		{"nginx, white space", Proxy{ClientCertificate: "nginx"}, []string{"X-SSL-Client-Cert", "%0A"}, 400, "holds no certificate"},

		{"haproxy", Proxy{ClientCertificate: "haproxy"}, []string{"X-SSL-Client-Cert", der}, 0, "tls/device"},
		{"haproxy, empty", Proxy{ClientCertificate: "haproxy"}, []string{"X-SSL-Client-Cert", ""}, 0, "tls"},
		{"haproxy twice", Proxy{ClientCertificate: "haproxy"}, []string{"X-SSL-Client-Cert", der, "X-SSL-Client-Cert", der}, 400, "stands twice"},
		{"haproxy with PEM", Proxy{ClientCertificate: "haproxy"}, []string{"X-SSL-Client-Cert", p}, 400, "not base64"},

		{"Envoy, Cert", Proxy{ClientCertificate: "envoy"}, []string{"X-Forwarded-Client-Cert", `By=spiffe://x;Hash=` + hashOf(leaf) + `;Cert="` + p + `";Subject="CN=a\",b;c";URI=a;URI=b`}, 0, "tls/device"},
		{"Envoy, Chain", Proxy{ClientCertificate: "envoy"}, []string{"X-Forwarded-Client-Cert", `Hash=` + hashOf(leaf) + `;Cert="` + p + `";Chain="` + escaped(leaf, ca.cert) + `"`}, 0, "tls/device/" + ca.cert.Subject.CommonName},
		{"Envoy, the last element counts", Proxy{ClientCertificate: "envoy"}, []string{"X-Forwarded-Client-Cert", `Cert="` + escaped(other) + `",Cert="` + p + `"`}, 0, "tls/device"},
		{"Envoy, empty", Proxy{ClientCertificate: "envoy"}, []string{"X-Forwarded-Client-Cert", ""}, 0, "tls"},
		{"Envoy without a certificate", Proxy{ClientCertificate: "envoy"}, []string{"X-Forwarded-Client-Cert", `Cert="` + p + `",Hash=` + hashOf(leaf)}, 400, "set_current_client_cert_details"},
		{"Envoy, another hash", Proxy{ClientCertificate: "envoy"}, []string{"X-Forwarded-Client-Cert", `Hash=` + hashOf(other) + `;Cert="` + p + `"`}, 400, "Hash"},
		{"Envoy, another chain", Proxy{ClientCertificate: "envoy"}, []string{"X-Forwarded-Client-Cert", `Cert="` + p + `";Chain="` + escaped(other, ca.cert) + `"`}, 400, "Chain does not begin with Cert"},
		{"Envoy, two in Cert", Proxy{ClientCertificate: "envoy"}, []string{"X-Forwarded-Client-Cert", `Cert="` + escaped(leaf, other) + `"`}, 400, "it is one certificate"},
		{"Envoy, Cert twice", Proxy{ClientCertificate: "envoy"}, []string{"X-Forwarded-Client-Cert", `Cert="` + p + `";cert="` + p + `"`}, 400, "cert stands twice"},
		{"Envoy twice", Proxy{ClientCertificate: "envoy"}, []string{"X-Forwarded-Client-Cert", `Cert="` + p + `"`, "X-Forwarded-Client-Cert", `Cert="` + p + `"`}, 400, "stands twice"},
		{"Envoy, an open quote", Proxy{ClientCertificate: "envoy"}, []string{"X-Forwarded-Client-Cert", `Subject="a,Cert="` + p + `"`}, 400, "quote is not closed"},
		{"Envoy, no pair", Proxy{ClientCertificate: "envoy"}, []string{"X-Forwarded-Client-Cert", "x"}, 400, "is not a pair"},
		{"Envoy, only commas", Proxy{ClientCertificate: "envoy"}, []string{"X-Forwarded-Client-Cert", ","}, 400, "not a list"},

		{"a form that is not this proxy's", Proxy{ClientCertificate: "nginx"}, []string{"Client-Cert", one, "X-Forwarded-Client-Cert", `Cert="` + p + `"`}, 0, "tls"},
		{"a proxy that passes none on", Proxy{}, []string{"Client-Cert", one, "X-SSL-Client-Cert", p}, 0, "tls"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.proxy.Name, tc.proxy.Addresses = "edge", []string{"192.0.2.1"}
			l := &Listener{Address: ":0", Proxies: []*Proxy{&tc.proxy}}
			if err := l.Check(); err != nil {
				t.Fatal(err)
			}
			status, says := asks(clientsOf(t, "", l), proxy, nil, append(tc.headers, https, "https")...)
			want := proxy + " edge " + tc.want
			if tc.status == 0 && (status != 200 || says != want) {
				t.Errorf("%d %q, want %q", status, says, want)
			}
			if tc.status != 0 && (status != tc.status || !strings.Contains(says, tc.want) || !strings.Contains(says, "the proxy edge")) {
				t.Errorf("%d %q, want %d %q", status, says, tc.status, tc.want)
			}
		})
	}
}

// What a stranger says of himself is taken away, on every listener; so is what a proxy's own certificate would say of its client.
func TestStrangersCannotSpeakForClients(t *testing.T) {
	ca := newTestCA(t)
	leaf := ca.leaf(t, "device")
	spoofed := []string{
		"Client-Cert", sfBinary(leaf), "Client-Cert-Chain", sfBinary(ca.cert), "X-SSL-Client-Cert", escaped(leaf), "X-Own", escaped(leaf), "X-Forwarded-Client-Cert", `Cert="` + escaped(leaf) + `"`,
		"X-Forwarded-For", "203.0.113.9", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "x", "X-Forwarded-Port", "1", "X-Real-IP", "203.0.113.9", "Forwarded", "for=203.0.113.9;proto=https",
	}
	for _, form := range []string{"rfc9440", "nginx", "envoy", "haproxy"} {
		p := &Proxy{Name: "edge", Addresses: []string{"192.0.2.0/24"}, ClientCertificate: form}
		if form == "nginx" {
			p.Header = "X-Own"
		}
		c := clientsOf(t, "", &Listener{Proxies: []*Proxy{p}})
		for _, from := range []string{"192.0.3.1:4000", "[2001:db8::1]:4000", "@", ""} {
			want := from + "  clear"
			if form != "nginx" {
				want += " X-Own" // nobody's header
			}
			if status, says := asks(c, from, nil, spoofed...); status != 200 || says != want {
				t.Errorf("%s, from %s: %d %q, want %q", form, from, status, says, want)
			}
			// The stranger's own TLS counts as ever.
			if _, says := asks(c, from, &tls.ConnectionState{Version: tls.VersionTLS13, PeerCertificates: []*x509.Certificate{ca.cert}}, spoofed...); !strings.HasPrefix(says, from+"  tls/"+ca.cert.Subject.CommonName) || strings.Contains(says, "device") {
				t.Errorf("%s, from %s over TLS: %q", form, from, says)
			}
		}
	}
	if _, says := asks(clientsOf(t, "", &Listener{}), "192.0.2.1:4000", nil, spoofed...); says != "192.0.2.1:4000  clear X-Own" {
		t.Errorf("a listener without proxies: %q", says)
	}
	// A client without a certificate has none, whatever the proxy has shown.
	c := clientsOf(t, "", &Listener{Proxies: []*Proxy{{Name: "edge", Addresses: []string{"192.0.2.1"}, ClientCertificate: "rfc9440"}}})
	over := &tls.ConnectionState{Version: tls.VersionTLS13, PeerCertificates: []*x509.Certificate{leaf}}
	if _, says := asks(c, "192.0.2.1:1", over, "X-Forwarded-Proto", "https"); says != "192.0.2.1:1 edge tls" {
		t.Errorf("the proxy's certificate became its client's: %q", says)
	}
	// The proxy's TLS is not its client's.
	if _, says := asks(c, "192.0.2.1:1", over); says != "192.0.2.1:1 edge clear" {
		t.Errorf("the proxy's TLS became its client's: %q", says)
	}
}

// many are n addresses.
func many(n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprintf("10.0.0.%d", i))
	}
	return all
}

func TestProxyCheck(t *testing.T) {
	good := Proxy{Name: "edge", Addresses: []string{"10.0.0.0/8", "::1"}}
	for _, tc := range []struct {
		change func(*Proxy)
		want   string
	}{
		{func(*Proxy) {}, ""},
		{func(p *Proxy) { p.ClientCertificate, p.Header = "nginx", "X-Client" }, ""},
		{func(p *Proxy) { p.Name = "" }, "proxies.0.name: "},
		{func(p *Proxy) { p.Name = "a b" }, "proxies.0.name: "},
		{func(p *Proxy) { p.Name = strings.Repeat("a", 65) }, "proxies.0.name: "},
		{func(p *Proxy) { p.Addresses = many(65) }, "proxies.0.addresses: at most 64"},
		{func(p *Proxy) { p.Addresses = []string{"fe80::1%eth0"} }, "proxies.0.addresses: "},
		{func(p *Proxy) { p.Addresses = []string{"::ffff:10.0.0.0/104"} }, "proxies.0.addresses: "},
		{func(p *Proxy) { p.ClientCertificate, p.Header = "nginx", "x-ssl-client-cert" }, ""},
		{func(p *Proxy) { p.ClientCertificate, p.Header = "nginx", strings.Repeat("X", 65) }, "proxies.0.header: "},
		{func(p *Proxy) { p.Addresses = nil }, "proxies.0.addresses: say how"},
		{func(p *Proxy) { p.Addresses = []string{"10.0.0.1/8"} }, `proxies.0.addresses: "10.0.0.1/8" is neither`},
		{func(p *Proxy) { p.Addresses = []string{"proxy.example"} }, "proxies.0.addresses: "},
		{func(p *Proxy) { p.Addresses = []string{"10.0.0.2", "0.0.0.0/0"} }, `proxies.0.addresses: "0.0.0.0/0" is everybody`},
		{func(p *Proxy) { p.Addresses = []string{"::/0"} }, `proxies.0.addresses: "::/0" is everybody`},
		{func(p *Proxy) { p.CA, p.Names = "ca.pem", []string{"x"} }, "proxies.0.ca: the listener has no TLS"},
		{func(p *Proxy) { p.Names = []string{"x"} }, "proxies.0.names: "},
		{func(p *Proxy) { p.ClientCertificate = "apache" }, `proxies.0.client-certificate: "apache" is none of`},
		{func(p *Proxy) { p.Header = "X-Client" }, "proxies.0.header: "},
		{func(p *Proxy) { p.ClientCertificate, p.Header = "rfc9440", "X-Client" }, "proxies.0.header: "},
		{func(p *Proxy) { p.ClientCertificate, p.Header = "nginx", "Authorization" }, "proxies.0.header: "},
		{func(p *Proxy) { p.ClientCertificate, p.Header = "nginx", "Client-Cert" }, "proxies.0.header: "},
		{func(p *Proxy) { p.ClientCertificate, p.Header = "nginx", "X Y" }, "proxies.0.header: "},
		{func(p *Proxy) { p.ClientAddress = "x-real-ip" }, "proxies.0.client-address: "},
	} {
		p := good
		tc.change(&p)
		err := (&Listener{Address: ":80", Proxies: []*Proxy{&p}}).Check()
		if (tc.want == "") != (err == nil) || err != nil && !strings.HasPrefix(err.Error(), tc.want) {
			t.Errorf("%+v: %v, want %q", p, err, tc.want)
		}
	}
	for what, names := range map[string][]string{"no name": nil, "an empty name": {"x", ""}} {
		withCA := Proxy{Name: "edge", CA: "ca.pem", Names: names}
		if err := (&Listener{Address: ":80", TLS: &TLS{}, Proxies: []*Proxy{&withCA}}).Check(); err == nil || !strings.HasPrefix(err.Error(), "proxies.0.names: ") {
			t.Errorf("a CA with %s: %v", what, err)
		}
	}
	var crowd []*Proxy
	for i, a := range many(65) {
		crowd = append(crowd, &Proxy{Name: fmt.Sprint(i), Addresses: []string{a}})
	}
	if err := (&Listener{Address: ":80", Proxies: crowd}).Check(); err == nil || !strings.HasPrefix(err.Error(), "proxies: more than 64") {
		t.Errorf("65 proxies: %v", err)
	}
	for _, tc := range []struct {
		first, second Proxy
		shadowed      bool
	}{
		{good, Proxy{Addresses: []string{"10.2.0.0/16", "::1"}}, true},
		{good, Proxy{Addresses: []string{"10.2.3.4"}, CA: "ca.pem", Names: []string{"x"}}, true},
		{good, Proxy{Addresses: []string{"10.2.0.0/16", "::2"}}, false},
		{good, Proxy{Addresses: []string{"0.0.0.0/1"}}, false},
		{good, Proxy{CA: "ca.pem", Names: []string{"x"}}, false},
		{Proxy{Name: "edge", Addresses: []string{"10.0.0.0/8"}, CA: "ca.pem", Names: []string{"x"}}, Proxy{Addresses: []string{"10.2.3.4"}}, false},
	} {
		tc.second.Name = "other"
		err := (&Listener{Address: ":80", TLS: &TLS{}, Proxies: []*Proxy{&tc.first, &tc.second}}).Check()
		if (err != nil) != tc.shadowed || err != nil && !strings.HasPrefix(err.Error(), "proxies.1.addresses: proxies.0 has all of them") {
			t.Errorf("%+v before %+v: %v", tc.first, tc.second, err)
		}
	}
	twice := &Listener{Address: ":80", Proxies: []*Proxy{&good, &good}}
	if err := twice.Check(); err == nil || !strings.HasPrefix(err.Error(), "proxies.1.name: ") {
		t.Errorf("two of a name: %v", err)
	}
}

// The handler stands in front of a real listener, where net/http looks at the request once more.
func TestProxyOverHTTP(t *testing.T) {
	ca := newTestCA(t)
	s := NewSet(quiet())
	defer drain(t, s)
	l := &Listener{Proxies: []*Proxy{{Name: "edge", Addresses: []string{"127.0.0.1"}, ClientCertificate: "rfc9440"}}}
	apply(t, s, map[string]Spec{"a": {Address: "127.0.0.1:0", Handler: clientsOf(t, "", l).Handler(tells)}})
	for name, tc := range map[string]struct {
		cert   string
		status int
	}{"good": {sfBinary(ca.leaf(t, "device")), 200}, "bad": {"x", 400}} {
		req, _ := http.NewRequest(http.MethodPost, "http://"+s.Addrs()["a"].String(), strings.NewReader("body"))
		req.Header.Set("Client-Cert", tc.cert)
		req.Header.Set("X-Forwarded-Proto", "https")
		req.Header.Set("X-Forwarded-For", "203.0.113.9")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != tc.status || tc.status == 200 && string(body) != "203.0.113.9:0 edge tls/device" {
			t.Errorf("%s: %d %q", name, res.StatusCode, body)
		}
	}
}
