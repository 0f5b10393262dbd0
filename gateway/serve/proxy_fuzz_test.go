package serve

import (
	"net/http"
	"testing"

	"github.com/muster-pki/muster/gateway/pkix"
)

// What a proxy says, of which its clients may have chosen a part: nothing of it is more than the bounds allow, and a certificate counts over TLS only.
func FuzzToldByProxy(f *testing.F) {
	leaf := newTestCA(f).cert
	f.Add("rfc9440", "Client-Cert", sfBinary(leaf), "Client-Cert-Chain", sfBinary(leaf)+", "+sfBinary(leaf), "x-forwarded-for", "203.0.113.9, [2001:db8::1]:5", "https")
	f.Add("nginx", "X-SSL-Client-Cert", escaped(leaf, leaf), "", "", "none", "", "HTTPS")
	f.Add("haproxy", "X-SSL-Client-Cert", sfBinary(leaf), "", "", "forwarded", `for="[2001:db8::9]:44";proto=https;by=_x;host="a,b\"c", for=192.0.2.8`, "")
	f.Add("envoy", "X-Forwarded-Client-Cert", `By=spiffe://x;Hash=`+hashOf(leaf)+`;Cert="`+escaped(leaf)+`";Chain="`+escaped(leaf)+`";Subject="CN=a\",b;c"`, "", "", "forwarded", "for=203.0.113.9;proto=http", "")
	f.Fuzz(func(t *testing.T, form, name, value, name2, value2, address, from, proto string) {
		if _, ok := forms[form]; !ok {
			return
		}
		l := &Listener{Proxies: []*Proxy{{Name: "edge", Addresses: []string{"192.0.2.0/24"}, ClientCertificate: form, ClientAddress: address}}}
		c, err := l.Clients("", "a", nil, quiet())
		if err != nil {
			t.Fatal(err)
		}
		h := http.Header{"X-Forwarded-For": {from}, "Forwarded": {from}, "X-Forwarded-Proto": {proto}}
		h.Add(name, value)
		h.Add(name2, value2)
		told, err := c.client(c.proxies[0], &http.Request{Header: h})
		if err != nil {
			return
		}
		if len(told.chain) > pkix.MaxChain || len(told.chain) > 0 && (!told.overTLS || told.chain[0] == nil) {
			t.Errorf("%d certificates, over TLS %v", len(told.chain), told.overTLS)
		}
		if told.address.Zone() != "" || told.address.Is4In6() {
			t.Errorf("address %s", told.address)
		}
	})
}
