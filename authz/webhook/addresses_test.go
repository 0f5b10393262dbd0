package webhook

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// A name leads into the operator's own network by leave only; an address in the URL is the operator's word.
func TestAddresses(t *testing.T) {
	p := newPeer(t, true, says("application/json", goodReply))
	c, dir := trusting(t, p)
	_, port, _ := net.SplitHostPort(p.Listener.Addr().String())
	for _, tt := range []struct {
		host    string
		leads   []string
		private bool
		want    string // "": it is connected to
	}{
		{"example.com", []string{"192.0.2.1"}, false, ""},
		{"example.com", []string{"2001:db8::1"}, false, ""},
		{"example.com", []string{"127.0.0.1"}, false, "127.0.0.1, a private one: say `private: true`"},
		{"example.com", []string{"127.0.0.1"}, true, ""},
		{"example.com", []string{"192.0.2.1", "10.0.0.1"}, false, "10.0.0.1, a private one"},
		{"example.com", []string{"10.0.0.1"}, true, ""},
		{"example.com", []string{"172.16.0.1"}, false, "private"}, {"example.com", []string{"192.168.1.1"}, false, "private"},
		{"example.com", []string{"169.254.169.254"}, false, "private"}, {"example.com", []string{"100.64.0.1"}, false, "private"},
		{"example.com", []string{"0.1.2.3"}, false, "private"}, {"example.com", []string{"64:ff9b::a00:1"}, false, "private"},
		{"example.com", []string{"::1"}, false, "private"}, {"example.com", []string{"fd00::1"}, false, "private"}, {"example.com", []string{"fe80::1%eth0"}, false, "private"},
		{"example.com", []string{"::ffff:10.0.0.1"}, false, "private"}, {"example.com", []string{"::7f00:1"}, false, "private"},
		{"example.com", []string{"2002:7f00:1::"}, false, "private"}, {"example.com", []string{"2001:0:1::1"}, false, "private"}, {"example.com", []string{"fec0::1"}, false, "private"},
		{"example.com", []string{"198.18.0.1"}, false, "private"}, {"example.com", []string{"192.0.0.1"}, false, "private"}, {"example.com", []string{"255.255.255.255"}, false, "private"},
		{"example.com", []string{"0.0.0.0"}, true, "leads to 0.0.0.0"}, {"example.com", []string{"::"}, true, "leads to ::"},
		{"example.com", []string{"224.0.0.1"}, true, "leads to 224.0.0.1"}, {"example.com", []string{"ff02::1"}, true, "leads to ff02::1"},
		{"example.com", nil, true, "no address"},
		// Nobody is asked about localhost, nor what is below it. No other name is exempt, however much it looks like it.
		{"localhost", nil, false, ""}, {"LocalHost", nil, false, ""},
		{"localhost.", nil, false, "127.0.0.1, a private one"}, {"x.Localhost", nil, false, "127.0.0.1, a private one"}, {"x.localhost.", nil, true, ""},
		{"localhost.localdomain", []string{"127.0.0.1"}, false, "private"}, {"xlocalhost", []string{"127.0.0.1"}, false, "private"},
		{"127.0.0.1", nil, false, ""},
	} {
		c.URL, c.Private = "https://"+tt.host+":"+port, tt.private
		s := made(t, c, dir)
		s.client.Transport.(*http.Transport).TLSClientConfig.ServerName = "example.com"
		s.lookup = func(_ context.Context, _, host string) (ips []netip.Addr, err error) {
			if host != tt.host || tt.leads == nil && tt.host != "example.com" {
				t.Errorf("%s was looked up", host)
			}
			for _, ip := range tt.leads {
				ips = append(ips, netip.MustParseAddr(ip))
			}
			return ips, nil
		}
		s.pause = func(context.Context, time.Duration) error {
			if len(tt.leads) > 0 {
				t.Errorf("%s %v: asked again", tt.host, tt.leads) // which changes nothing
			}
			return nil
		}
		connected := 0
		s.connect = func(ctx context.Context, network, address string) (net.Conn, error) {
			connected++
			return new(net.Dialer).DialContext(ctx, network, p.Listener.Addr().String())
		}
		_, err := s.test(t)
		if tt.want == "" && (err != nil || connected != 1) || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || connected != 0) {
			t.Errorf("%s %v, private %v: %v, connected %d times", tt.host, tt.leads, tt.private, err, connected)
		}
	}
	// Further addresses are tried.
	c.URL = "https://example.com:" + port
	s := made(t, c, dir)
	s.lookup = func(context.Context, string, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}, nil
	}
	s.connect = func(ctx context.Context, network, address string) (net.Conn, error) {
		if strings.HasPrefix(address, "192.0.2.1:") {
			return nil, errors.New("refused")
		}
		return new(net.Dialer).DialContext(ctx, network, p.Listener.Addr().String())
	}
	if _, err := s.test(t); err != nil {
		t.Error(err)
	}
	// The name has to be the certificate's.
	c.URL = "https://elsewhere.test:" + port
	bad := made(t, c, dir)
	bad.lookup, bad.connect = s.lookup, s.connect
	if _, err := bad.test(t); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("another's certificate: %v", err)
	}
	// And the certificate one of the CA's that is configured.
	c.URL, c.CA = p.URL, ""
	if _, err := made(t, c, dir).test(t); err == nil || !strings.Contains(err.Error(), "certificate") || len(p.requests()) == 0 {
		t.Errorf("the system's CAs: %v", err)
	}
}

// No proxy of the environment is told anything.
func TestNoProxy(t *testing.T) {
	s := made(t, Config{URL: "https://example.com"}, "")
	if s.client.Transport.(*http.Transport).Proxy != nil {
		t.Error("a proxy")
	}
}
