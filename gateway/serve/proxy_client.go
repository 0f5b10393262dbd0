package serve

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
)

// told is what a proxy says of its client.
type told struct {
	chain   []*x509.Certificate // the client's certificate first; nil for none
	address netip.Addr          // zero where it says nothing
	overTLS bool
}

// client reads what a named proxy says in the headers of a request. Errors are for whoever looks after the proxy.
func (c *Clients) client(p *namedProxy, r *http.Request) (t told, err error) {
	if t.chain, err = p.form.read(r.Header, p.header); err != nil {
		return told{}, err
	}
	proto := ""
	switch p.ClientAddress {
	case addressForwarded:
		t.address, proto, err = c.forwarded(r.Header)
	case addressNone:
	default:
		t.address, err = c.forwardedFor(r.Header)
	}
	if err != nil {
		return told{}, err
	}
	if p.ClientAddress != addressForwarded {
		if proto, err = single(r.Header, "X-Forwarded-Proto"); err != nil {
			return told{}, err
		}
	}
	switch strings.ToLower(proto) {
	case "https":
		t.overTLS = true
	case "http", "":
	default:
		return told{}, fmt.Errorf("the client's protocol is %q, neither https nor http", cut(proto))
	}
	if t.chain != nil && !t.overTLS {
		// A proxy's port without TLS that lets the header through would be a way in.
		return told{}, errors.New("a client certificate of a client that did not come over TLS: X-Forwarded-Proto: https (or Forwarded: proto=https) has to stand beside it")
	}
	return t, nil
}

// single is the value of a header that may stand once, "" where there is none.
func single(h http.Header, name string) (string, error) {
	switch values := h.Values(name); len(values) {
	case 0:
		return "", nil
	case 1:
		return strings.Trim(values[0], " \t"), nil
	}
	return "", fmt.Errorf("%s stands twice", name)
}

// cut bounds and cleans what an error quotes.
func cut(s string) string {
	if len(s) > 40 {
		s = s[:40] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}

// forwardedFor reads X-Forwarded-For: addresses, the client's first, to which each proxy on the way adds the peer that it saw. What stands
// left of the first address that is no proxy's, from the right, is the client's own invention.
func (c *Clients) forwardedFor(h http.Header) (client netip.Addr, err error) {
	list := strings.Join(h.Values("X-Forwarded-For"), ",")
	if strings.Trim(list, " \t") == "" {
		return netip.Addr{}, nil
	}
	for range maxForwarded {
		i := strings.LastIndexByte(list, ',')
		if client, err = peerAddress(strings.Trim(list[i+1:], " \t")); err != nil {
			return netip.Addr{}, fmt.Errorf("X-Forwarded-For: %w", err)
		}
		if i < 0 || !within(c.trusted, client) {
			break
		}
		list = list[:i]
	}
	return client, nil
}

// peerAddress reads an address with or without a port.
func peerAddress(s string) (netip.Addr, error) {
	if ap, err := netip.ParseAddrPort(s); err == nil && ap.Addr().Zone() == "" {
		return ap.Addr().Unmap(), nil
	}
	if inner, ok := strings.CutPrefix(s, "["); ok {
		s, _ = strings.CutSuffix(inner, "]")
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q is not an address", cut(s))
	}
	return a.Unmap(), nil
}

// forwarded reads Forwarded (RFC 7239 section 4), and goes through it as forwardedFor does. proto is what the element that names the client
// says, which the proxy wrote that the client connected to.
//
//	Forwarded         = 1#forwarded-element
//	forwarded-element = [ forwarded-pair ] *( ";" [ forwarded-pair ] )
//	forwarded-pair    = token "=" ( token / quoted-string )
func (c *Clients) forwarded(h http.Header) (client netip.Addr, proto string, err error) {
	hops, err := splitQuoted(strings.Join(h.Values("Forwarded"), ","), ',')
	if err != nil {
		return netip.Addr{}, "", fmt.Errorf("in Forwarded: %w", err)
	}
	for i := len(hops) - 1; i >= 0; i-- {
		if len(hops)-i > maxForwarded {
			break
		}
		client, proto = netip.Addr{}, ""
		pairs, err := splitQuoted(hops[i], ';')
		if err != nil {
			return netip.Addr{}, "", fmt.Errorf("in Forwarded: %w", err)
		}
		seen := map[string]bool{}
		for _, pair := range pairs {
			key, value, ok := strings.Cut(pair, "=")
			key = strings.ToLower(key)
			if !ok || seen[key] {
				return netip.Addr{}, "", fmt.Errorf("in Forwarded: %q is not a pair that may stand there", cut(pair))
			}
			seen[key] = true
			if value, err = unquote(value); err != nil {
				return netip.Addr{}, "", fmt.Errorf("in Forwarded: %w", err)
			}
			switch key {
			case "for":
				if client, err = peerAddress(value); err != nil {
					return netip.Addr{}, "", fmt.Errorf("in Forwarded: for: %w", err)
				}
			case "proto":
				proto = value
			}
		}
		if !client.IsValid() {
			return netip.Addr{}, "", errors.New("in Forwarded: an element does not say for whom")
		}
		if !within(c.trusted, client) {
			break
		}
	}
	return client, proto, nil
}

// splitQuoted splits a list at sep, outside of quoted strings (RFC 9110 section 5.6.4). Empty elements are left out.
func splitQuoted(s string, sep byte) ([]string, error) {
	var list []string
	quoted, start := false, 0
	add := func(part string) {
		if part = strings.Trim(part, " \t"); part != "" {
			list = append(list, part)
		}
	}
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == sep && !quoted:
			add(s[start:i])
			start = i + 1
		}
	}
	if quoted {
		return nil, errors.New("a quote is not closed")
	}
	add(s[start:])
	return list, nil
}

// unquote is a token as it is, or what a quoted string holds.
func unquote(s string) (string, error) {
	if !strings.HasPrefix(s, `"`) {
		if strings.ContainsAny(s, "\"\\ \t") {
			return "", fmt.Errorf("%q is neither a token nor a quoted string", cut(s))
		}
		return s, nil
	}
	if len(s) < 2 || s[len(s)-1] != '"' {
		return "", fmt.Errorf("%q is neither a token nor a quoted string", cut(s))
	}
	var b strings.Builder
	for i := 1; i < len(s)-1; i++ {
		if s[i] == '"' {
			return "", fmt.Errorf("%q is neither a token nor a quoted string", cut(s))
		}
		if s[i] == '\\' {
			if i++; i == len(s)-1 {
				return "", fmt.Errorf("%q is neither a token nor a quoted string", cut(s))
			}
		}
		b.WriteByte(s[i])
	}
	return b.String(), nil
}
