package serve

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// Proxy is a peer that ends TLS in front of the gateway, and whose word about its clients counts: which certificate a client has
// proven to hold the key of in its handshake with the proxy, from where it came, and whether over TLS (X-Forwarded-Proto: https,
// or proto=https of Forwarded). From everybody else such headers are taken away. docs/tls.md
type Proxy struct {
	// Name stands in the log and in `muster explain`.
	Name string `yaml:"name,required"`
	// Addresses that it connects from: addresses or networks. One of Addresses and CA has to be given; both: both have to fit.
	Addresses []string `yaml:"addresses"`
	// CA is a PEM file of the CAs that certify the proxy, which shows its certificate to this listener.
	CA string `yaml:"ca"`
	// Names: one of them has to be in that certificate, as a DNS name, an address or a URI.
	Names []string `yaml:"names"`
	// ClientCertificate is how it passes on the client's: rfc9440 (Client-Cert and Client-Cert-Chain), nginx (PEM, escaped as in a
	// URL), haproxy (DER in base64), envoy (X-Forwarded-Client-Cert). Default: not at all.
	ClientCertificate string `yaml:"client-certificate"`
	// Header that nginx's or haproxy's form comes in. Default: X-SSL-Client-Cert
	Header string `yaml:"header"`
	// ClientAddress is how it says where the client is: x-forwarded-for (default), forwarded (RFC 7239), or none.
	ClientAddress string `yaml:"client-address"`
}

const (
	defaultCertHeader = "X-SSL-Client-Cert"
	maxForwarded      = 32       // hops that are looked at
	maxCertHeader     = 32 << 10 // bytes, all lines together
	maxNames          = 64       // of a proxy's names, addresses, and a listener's proxies
	addressForwarded  = "forwarded"
	addressForwardFor = "x-forwarded-for"
	addressNone       = "none"
)

// spoofable are the headers in which proxies speak of their clients. What an operator names beside them is added.
var spoofable = []string{
	"Client-Cert", "Client-Cert-Chain", "X-Forwarded-Client-Cert", defaultCertHeader,
	"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Real-Ip", "Forwarded",
}

// checkProxies finds what is wrong with a listener's proxies without reading a file. The error begins with the key at fault.
func (l *Listener) checkProxies() error {
	if len(l.Proxies) > maxNames {
		return fmt.Errorf("proxies: more than %d", maxNames)
	}
	names := map[string]bool{}
	for i, p := range l.Proxies {
		if err := p.check(l.TLS != nil); err != nil {
			return fmt.Errorf("proxies.%d.%w", i, err)
		}
		if names[p.Name] {
			return fmt.Errorf("proxies.%d.name: %q stands twice", i, p.Name)
		}
		names[p.Name] = true
		for j, before := range l.Proxies[:i] {
			if before.covers(p) {
				return fmt.Errorf("proxies.%d.addresses: proxies.%d has all of them, and comes first, so that this one would never be it: put it before that one", i, j)
			}
		}
	}
	return nil
}

// covers reports whether every peer that is q is p already. Both have been checked.
func (p *Proxy) covers(q *Proxy) bool {
	if p.CA != "" || len(q.Addresses) == 0 {
		return false
	}
	outer, _ := networks(p.Addresses)
	inner, _ := networks(q.Addresses)
	return !slices.ContainsFunc(inner, func(n netip.Prefix) bool {
		return !slices.ContainsFunc(outer, func(o netip.Prefix) bool { return o.Bits() <= n.Bits() && o.Contains(n.Addr()) })
	})
}

func (p *Proxy) check(overTLS bool) error {
	switch {
	case p.Name == "" || len(p.Name) > 64 || strings.ContainsFunc(p.Name, func(r rune) bool { return r < '!' || r > '~' }):
		return errors.New("name: up to 64 visible ASCII characters, without spaces")
	case len(p.Addresses) == 0 && p.CA == "":
		return errors.New("addresses: say how the proxy is known: by the addresses that it connects from, or by its certificate (ca and names)")
	case p.CA != "" && !overTLS:
		return errors.New("ca: the listener has no TLS, so that no proxy shows a certificate: name its addresses, or give the listener `tls: {}`")
	case p.CA != "" && len(p.Names) == 0:
		return errors.New("names: a CA certifies others than the proxy, too: say which names are the proxy's")
	case p.CA == "" && len(p.Names) > 0:
		return errors.New("names: they are those of a certificate: name its CA by ca")
	case len(p.Addresses) > maxNames || len(p.Names) > maxNames:
		return fmt.Errorf("addresses: at most %d, and as many names", maxNames)
	}
	if _, err := networks(p.Addresses); err != nil {
		return fmt.Errorf("addresses: %w", err)
	}
	if slices.Contains(p.Names, "") {
		return errors.New("names: one is empty")
	}
	form, known := forms[p.ClientCertificate]
	switch {
	case !known:
		return fmt.Errorf("client-certificate: %q is none of rfc9440, nginx, haproxy, envoy", p.ClientCertificate)
	case p.Header != "" && !form.named:
		return errors.New("header: it is for the forms nginx and haproxy; the others have headers of their own")
	case p.Header != "" && !validHeader(p.Header):
		return fmt.Errorf("header: %q is not the name of a header of its own", p.Header)
	}
	switch p.ClientAddress {
	case "", addressForwardFor, addressForwarded, addressNone:
		return nil
	}
	return fmt.Errorf("client-address: %q is none of x-forwarded-for, forwarded, none", p.ClientAddress)
}

// validHeader refuses names that the request needs for itself, or that another form has.
func validHeader(name string) bool {
	canonical := http.CanonicalHeaderKey(name)
	const token = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	return len(name) <= 64 && strings.Trim(name, token) == "" &&
		(strings.EqualFold(name, defaultCertHeader) || !slices.ContainsFunc(spoofable, func(h string) bool { return strings.EqualFold(h, name) })) &&
		!slices.Contains([]string{"Authorization", "Connection", "Content-Encoding", "Content-Length", "Content-Type", "Content-Transfer-Encoding", "Expect", "Host", "Transfer-Encoding", "User-Agent"}, canonical)
}

// networks reads addresses and networks (CIDR).
func networks(list []string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, s := range list {
		if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
			a = a.Unmap()
			all = append(all, netip.PrefixFrom(a, a.BitLen()))
			continue
		}
		p, err := netip.ParsePrefix(s)
		if err != nil || p.Masked() != p || p.Addr().Is4In6() {
			return nil, fmt.Errorf("%q is neither an address nor a network such as 192.0.2.0/24 or 2001:db8::/32", s)
		}
		if p.Bits() == 0 {
			return nil, fmt.Errorf("%q is everybody, who could then be any client: name the proxy's own addresses", s)
		}
		all = append(all, p)
	}
	return all, nil
}

func within(all []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(all, func(p netip.Prefix) bool { return p.Contains(a) })
}

// namedProxy is a Proxy in use.
type namedProxy struct {
	*Proxy
	networks []netip.Prefix
	chain    *pkix.ChainPolicy // nil: its certificate does not count
	form     certForm
	header   string
	doubted  atomic.Pointer[time.Time] // when the log last told of a certificate in its name
}

// doubtEvery is how often the log tells of certificates in a proxy's name that do not count: strangers can show such ones at will.
const doubtEvery = time.Minute

// Clients is the handler that says who a listener's clients are: it takes away what strangers claim, and puts what a named proxy says
// of its client into the request, as if the client had come itself: r.RemoteAddr is the client's address, r.TLS the client's TLS,
// of which only the certificates are known (Version 0, no channel binding), nil where it came without.
type Clients struct {
	proxies  []*namedProxy
	trusted  []netip.Prefix // of the proxies that are known by address alone
	headers  []string       // that are taken away
	listener string
	clock    func() time.Time
	log      *slog.Logger
}

// Clients reads the CAs of the listener's proxies; dir is what relative paths start from. The error begins with the key at fault.
func (l *Listener) Clients(dir, listener string, clock func() time.Time, log *slog.Logger) (*Clients, error) {
	c := &Clients{headers: slices.Clone(spoofable), listener: listener, clock: clock, log: log}
	for i, p := range l.Proxies {
		nets, err := networks(p.Addresses)
		if err != nil {
			return nil, fmt.Errorf("proxies.%d.addresses: %w", i, err)
		}
		n := &namedProxy{Proxy: p, networks: nets, form: forms[p.ClientCertificate], header: p.Header}
		if n.header == "" {
			n.header = defaultCertHeader
		}
		if p.CA != "" {
			roots, err := readCAs(strictyaml.Below(dir, p.CA))
			if err != nil {
				return nil, fmt.Errorf("proxies.%d.ca: %w", i, err)
			}
			n.chain = &pkix.ChainPolicy{Roots: roots, Known: &pkix.KnownPaths{}}
		} else {
			// Where a certificate is wanted too, others may share the network: an address on the way is not the proxy yet.
			c.trusted = append(c.trusted, nets...)
		}
		c.proxies = append(c.proxies, n)
		c.headers = append(c.headers, n.header)
	}
	return c, nil
}

// Networks are the addresses that proxies connect from, of those that are known by addresses.
func (c *Clients) Networks() []netip.Prefix {
	var all []netip.Prefix
	for _, p := range c.proxies {
		all = append(all, p.networks...)
	}
	return all
}

// CAs are those of the proxies, which TLS has to name where it names any.
func (c *Clients) CAs() []*x509.Certificate {
	var all []*x509.Certificate
	for _, p := range c.proxies {
		if p.chain != nil {
			all = append(all, p.chain.Roots...)
		}
	}
	return all
}

// Handler is next behind it.
func (c *Clients) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := c.proxy(r)
		if p == nil {
			if c.strip(r.Header) && len(c.proxies) > 0 {
				c.log.Debug("headers that only a proxy may send were taken away", "listener", c.listener, "source", r.RemoteAddr)
			}
			next.ServeHTTP(w, r)
			return
		}
		via := r.RemoteAddr
		told, err := c.client(p, r)
		if err != nil {
			c.log.Warn("what a proxy says of its client is not understood", "listener", c.listener, "proxy", p.Name, "source", via, "err", err)
			refuse(w, http.StatusBadRequest, "the proxy "+p.Name+" in front of this server does not say who its client is as it should: "+err.Error())
			return
		}
		c.strip(r.Header)
		r = r.WithContext(gateway.ThroughProxy(r.Context(), p.Name))
		r.TLS = nil
		if told.overTLS {
			r.TLS = &tls.ConnectionState{HandshakeComplete: true, PeerCertificates: told.chain}
		}
		if told.address.IsValid() {
			r.RemoteAddr = net.JoinHostPort(told.address.String(), "0")
		}
		next.ServeHTTP(w, r)
	})
}

// strip takes the headers away. found: there was one.
func (c *Clients) strip(h http.Header) (found bool) {
	for _, name := range c.headers {
		if key := http.CanonicalHeaderKey(name); h[key] != nil {
			found = true
			delete(h, key)
		}
	}
	return found
}

// proxy is the first of the proxies that the peer is, nil for none of them.
func (c *Clients) proxy(r *http.Request) *namedProxy {
	if len(c.proxies) == 0 {
		return nil
	}
	var from netip.Addr
	if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		from = ap.Addr().Unmap().WithZone("")
	}
	for _, p := range c.proxies {
		if len(p.networks) > 0 && !within(p.networks, from) {
			continue
		}
		now := c.clock()
		known, err := p.shown(r.TLS, now)
		if known {
			return p
		}
		if last := p.doubted.Load(); err != nil && (last == nil || now.Sub(*last) >= doubtEvery) && p.doubted.CompareAndSwap(last, &now) {
			c.log.Warn("a certificate in a proxy's name does not count: who shows it is a client like any other", "listener", c.listener, "proxy", p.Name, "source", r.RemoteAddr, "err", err)
		}
	}
	return nil
}

// shown reports whether the peer has shown the proxy's certificate, where the proxy has one. The error is about one with its name that does not
// verify.
func (p *namedProxy) shown(s *tls.ConnectionState, now time.Time) (bool, error) {
	if p.chain == nil {
		return true, nil
	}
	if s == nil || len(s.PeerCertificates) == 0 {
		return false, nil
	}
	leaf := s.PeerCertificates[0]
	// Names first: a stranger's chain then costs no signature check.
	if !slices.ContainsFunc(p.Names, func(name string) bool { return certifies(leaf, name) }) {
		return false, nil
	}
	_, err := p.chain.Verify(s.PeerCertificates, now)
	return err == nil, err
}

// certifies reports whether a name stands in the certificate, as it is: a certificate for *.example.com is not the proxy's.
func certifies(leaf *x509.Certificate, name string) bool {
	if a, err := netip.ParseAddr(name); err == nil {
		return slices.ContainsFunc(leaf.IPAddresses, func(ip net.IP) bool {
			b, ok := netip.AddrFromSlice(ip)
			return ok && b.Unmap() == a.Unmap()
		})
	}
	if strings.Contains(name, ":") {
		for _, u := range leaf.URIs {
			if u.String() == name {
				return true
			}
		}
		return false
	}
	return slices.ContainsFunc(leaf.DNSNames, func(d string) bool { return strings.EqualFold(d, name) })
}
