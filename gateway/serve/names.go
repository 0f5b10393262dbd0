package serve

import (
	"crypto/x509"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Names are what the certificate is to be good for: DNS names and addresses.
type Names struct {
	DNS []string
	IP  []netip.Addr
}

// NamesOf collects localhost, both loopback addresses, the host's name, the hosts that the addresses (host:port) name,
// and further names as configured.
func NamesOf(hostname string, addresses, further []string) Names {
	n := Names{}
	add := func(s string) {
		s = strings.ToLower(strings.TrimSuffix(s, "."))
		if a, err := netip.ParseAddr(s); err == nil {
			if a = a.Unmap().WithZone(""); !a.IsUnspecified() && !slices.Contains(n.IP, a) {
				n.IP = append(n.IP, a)
			}
		} else if validDNS(s) && !slices.Contains(n.DNS, s) {
			n.DNS = append(n.DNS, s)
		}
	}
	for _, s := range []string{"localhost", "127.0.0.1", "::1", hostname} {
		add(s)
	}
	for _, a := range addresses {
		if host, _, err := net.SplitHostPort(a); err == nil {
			add(host)
		}
	}
	for _, s := range further {
		add(s)
	}
	return n
}

// validDNS reports whether s can stand in a certificate as a host name (RFC 5280 section 4.2.1.6).
func validDNS(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return true
}

// Equal reports whether a certificate is good for exactly these names.
func (n Names) Equal(cert *x509.Certificate) bool {
	if len(cert.DNSNames) != len(n.DNS) || len(cert.IPAddresses) != len(n.IP) || len(cert.EmailAddresses)+len(cert.URIs) > 0 {
		return false
	}
	for _, d := range cert.DNSNames {
		if !slices.Contains(n.DNS, d) {
			return false
		}
	}
	for _, ip := range cert.IPAddresses {
		a, ok := netip.AddrFromSlice(ip)
		if !ok || !slices.Contains(n.IP, a.Unmap()) {
			return false
		}
	}
	return true
}

// String lists them for the log.
func (n Names) String() string {
	all := slices.Clone(n.DNS)
	for _, a := range n.IP {
		all = append(all, a.String())
	}
	return strings.Join(all, " ")
}
