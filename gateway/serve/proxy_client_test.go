package serve

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestClientAddress(t *testing.T) {
	ca := newTestCA(t)
	cert := sfBinary(ca.leaf(t, "device"))
	for _, tc := range []struct {
		name, form string
		headers    []string
		status     int
		want       string
	}{
		{"nothing said", "", nil, 0, "192.0.2.1:1 edge clear"},
		{"one", "", []string{"X-Forwarded-For", "203.0.113.9"}, 0, "203.0.113.9:0 edge clear"},
		{"with a port", "", []string{"X-Forwarded-For", "203.0.113.9:55"}, 0, "203.0.113.9:0 edge clear"},
		{"IPv6", "", []string{"X-Forwarded-For", "2001:db8::9"}, 0, "[2001:db8::9]:0 edge clear"},
		{"IPv6 in brackets", "", []string{"X-Forwarded-For", "[2001:db8::9]"}, 0, "[2001:db8::9]:0 edge clear"},
		{"the client's own invention", "", []string{"X-Forwarded-For", "198.51.100.1, x, 203.0.113.9"}, 0, "203.0.113.9:0 edge clear"},
		{"in two lines", "", []string{"X-Forwarded-For", "198.51.100.1", "X-Forwarded-For", "203.0.113.9"}, 0, "203.0.113.9:0 edge clear"},
		{"a proxy behind it", "", []string{"X-Forwarded-For", "198.51.100.1, 203.0.113.9, 192.0.2.8"}, 0, "203.0.113.9:0 edge clear"},
		{"proxies alone", "", []string{"X-Forwarded-For", "192.0.2.9, 192.0.2.8"}, 0, "192.0.2.9:0 edge clear"},
		{"no address", "", []string{"X-Forwarded-For", "203.0.113.9, unknown"}, 400, `"unknown" is not an address`},
		{"IPv4 as IPv6", "", []string{"X-Forwarded-For", "203.0.113.9, ::ffff:192.0.2.8, [::ffff:192.0.2.8]:55"}, 0, "203.0.113.9:0 edge clear"},
		{"IPv4 as IPv6, with a port", "", []string{"X-Forwarded-For", "[::ffff:203.0.113.9]:55"}, 0, "203.0.113.9:0 edge clear"},
		{"a zone with a port", "", []string{"X-Forwarded-For", "[fe80::1%eth0]:55"}, 400, "is not an address"},
		{"a zone", "", []string{"X-Forwarded-For", "fe80::1%eth0"}, 400, "is not an address"},
		{"an empty end", "", []string{"X-Forwarded-For", "203.0.113.9,"}, 400, "is not an address"},
		{"not looked at", "none", []string{"X-Forwarded-For", "203.0.113.9", "Forwarded", "for=203.0.113.9"}, 0, "192.0.2.1:1 edge clear"},
		{"https", "", []string{"X-Forwarded-Proto", "HTTPS"}, 0, "192.0.2.1:1 edge tls"},
		{"http", "", []string{"X-Forwarded-Proto", "http"}, 0, "192.0.2.1:1 edge clear"},
		{"http and https", "", []string{"X-Forwarded-Proto", "https,http"}, 400, "neither https nor http"},
		{"https twice", "", []string{"X-Forwarded-Proto", "https", "X-Forwarded-Proto", "https"}, 400, "X-Forwarded-Proto stands twice"},
		{"a certificate in clear", "", []string{"X-Forwarded-Proto", "http", "Client-Cert", cert}, 400, "did not come over TLS"},
		{"a certificate over who knows what", "", []string{"Client-Cert", cert}, 400, "did not come over TLS"},
		{"a certificate that Forwarded calls https", "", []string{"Client-Cert", cert, "Forwarded", "for=203.0.113.9;proto=https"}, 400, "did not come over TLS"},

		{"Forwarded, nothing said", "forwarded", []string{"X-Forwarded-For", "203.0.113.9", "X-Forwarded-Proto", "https"}, 0, "192.0.2.1:1 edge clear"},
		{"Forwarded", "forwarded", []string{"Forwarded", `For="[2001:db8::9]:44";Proto=https;by=_x;host="a,b;c"`, "Client-Cert", cert}, 0, "[2001:db8::9]:0 edge tls/device"},
		{"Forwarded, invented", "forwarded", []string{"Forwarded", "for=198.51.100.1;proto=https, for=203.0.113.9"}, 0, "203.0.113.9:0 edge clear"},
		{"Forwarded by two", "forwarded", []string{"Forwarded", "for=203.0.113.9;proto=https", "Forwarded", "for=192.0.2.8;proto=http"}, 0, "203.0.113.9:0 edge tls"},
		{"Forwarded by two, of which one does not say how", "forwarded", []string{"Forwarded", "for=203.0.113.9, for=192.0.2.8;proto=https"}, 0, "203.0.113.9:0 edge clear"},
		{"Forwarded by two, of which one does not say for whom", "forwarded", []string{"Forwarded", "proto=https, for=192.0.2.8"}, 400, "for whom"},
		{"Forwarded, quoted with escapes", "forwarded", []string{"Forwarded", `for="203.0.113.\9"`}, 0, "203.0.113.9:0 edge clear"},
		{"Forwarded, for twice", "forwarded", []string{"Forwarded", "for=203.0.113.9;for=203.0.113.8"}, 400, "may stand there"},
		{"Forwarded, hidden", "forwarded", []string{"Forwarded", "for=_hidden"}, 400, "not an address"},
		{"Forwarded for nobody", "forwarded", []string{"Forwarded", "proto=https"}, 400, "for whom"},
		{"Forwarded, a client's open quote", "forwarded", []string{"Forwarded", `for="203.0.113.1`, "Forwarded", `for="203.0.113.9"`}, 400, "quote is not closed"},
		{"Forwarded, a client's escape", "forwarded", []string{"Forwarded", `for="\`, "Forwarded", `for="203.0.113.9";proto=https`}, 400, "Forwarded"},
		{"Forwarded, half quoted", "forwarded", []string{"Forwarded", `for=203.0.113.9"x"`}, 400, "neither a token nor"},
		{"Forwarded, gopher", "forwarded", []string{"Forwarded", `for=203.0.113.9;proto=gopher`}, 400, "neither https nor http"},
	} {
		c := clientsOf(t, "", &Listener{Proxies: []*Proxy{{Name: "edge", Addresses: []string{"192.0.2.0/24"}, ClientCertificate: "rfc9440", ClientAddress: tc.form}}})
		status, says := asks(c, "192.0.2.1:1", nil, tc.headers...)
		if tc.status == 0 && (status != 200 || says != tc.want) || tc.status != 0 && (status != tc.status || !strings.Contains(says, tc.want)) {
			t.Errorf("%s: %d %q, want %d %q", tc.name, status, says, tc.status, tc.want)
		}
	}
	// A network that proxies have to show a certificate in is others' too: who comes from there is the client.
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), []byte(pemOf(ca.cert)), 0o600); err != nil {
		t.Fatal(err)
	}
	shared := clientsOf(t, dir, &Listener{TLS: &TLS{}, Proxies: []*Proxy{
		{Name: "edge", Addresses: []string{"192.0.2.1"}},
		{Name: "mesh", Addresses: []string{"198.51.100.0/24"}, CA: "ca.pem", Names: []string{"x"}},
	}})
	if _, says := asks(shared, "192.0.2.1:1", nil, "X-Forwarded-For", "203.0.113.9, 198.51.100.7, 192.0.2.1"); says != "198.51.100.7:0 edge clear" {
		t.Errorf("a client in a proxies' network: %q", says)
	}
	// One proxy, however its address is written.
	for address, from := range map[string]string{"::ffff:192.0.2.1": "192.0.2.1:1", "192.0.2.1": "[::ffff:192.0.2.1]:1", "fe80::1": "[fe80::1%eth0]:1"} {
		c := clientsOf(t, "", &Listener{Proxies: []*Proxy{{Name: "edge", Addresses: []string{address}}}})
		if _, says := asks(c, from, nil, "X-Forwarded-For", "203.0.113.9"); says != "203.0.113.9:0 edge clear" {
			t.Errorf("%s from %s: %q", address, from, says)
		}
	}
	// The walk ends.
	c := clientsOf(t, "", &Listener{Proxies: []*Proxy{{Name: "edge", Addresses: []string{"192.0.2.0/24"}}}})
	if _, says := asks(c, "192.0.2.1:1", nil, "X-Forwarded-For", "203.0.113.9"+strings.Repeat(",192.0.2.5", maxForwarded)); says != "192.0.2.5:0 edge clear" {
		t.Errorf("a long list: %q", says)
	}
	c = clientsOf(t, "", &Listener{Proxies: []*Proxy{{Name: "edge", Addresses: []string{"192.0.2.0/24"}, ClientAddress: "forwarded"}}})
	if _, says := asks(c, "192.0.2.1:1", nil, "Forwarded", "for=203.0.113.9"+strings.Repeat(",for=192.0.2.5", maxForwarded)); says != "192.0.2.5:0 edge clear" {
		t.Errorf("a long list of Forwarded: %q", says)
	}
}

// RFC 9110 sections 5.6.2 and 5.6.4.
func TestUnquote(t *testing.T) {
	for s, want := range map[string]string{`a`: "a", ``: "", `""`: "", `"a;b"`: "a;b", `"a\"b\\"`: `a"b\`} {
		if got, err := unquote(s); err != nil || got != want {
			t.Errorf("%s: %q %v", s, got, err)
		}
	}
	for _, s := range []string{`"`, `"a`, `"a"b`, `"a""b"`, `"a\"`, `a"`, `a b`, `a\b`} {
		if got, err := unquote(s); err == nil {
			t.Errorf("%s: %q", s, got)
		}
	}
}
