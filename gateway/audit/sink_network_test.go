package audit

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tlsServer is a listener with a certificate for a name, and the roots that it is checked against.
func tlsServer(t *testing.T, name string) (net.Listener, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: noon, NotAfter: noon.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return l, roots
}

// TestSyslogTLS: records go to the server that the certificate names, framed (RFC 5425), and to no other.
func TestSyslogTLS(t *testing.T) {
	l, roots := tlsServer(t, "siem.example.com")
	ctx, records := context.Background(), chained(2)
	sink := func(name string, roots *x509.CertPool) *SyslogSink {
		return NewSyslogSink(Syslog{Network: "tls", Address: l.Addr().String(), Facility: 13, AppName: "muster",
			TLS: &tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS12, Time: func() time.Time { return noon }}})
	}
	got := make(chan string, len(records))
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for r := bufio.NewReader(conn); ; {
					m, err := octets(r)
					if err != nil {
						return
					}
					got <- m
				}
			}()
		}
	}()
	for name, s := range map[string]*SyslogSink{"another name": sink("other.example.com", roots), "roots that are not its": sink("siem.example.com", x509.NewCertPool())} {
		if err := s.Write(ctx, records); err == nil {
			t.Errorf("%s: it has the records", name)
		}
	}
	s := sink("siem.example.com", roots)
	if err := s.Write(ctx, records); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"1", "2"} {
		if parts := message5424.FindStringSubmatch(<-got); parts == nil || parts[3] != want {
			t.Errorf("%q, want record %s", parts, want)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestSyslogDatagrams: one message each, over UDP (RFC 5426) and to a local socket; what is too long is cut off.
func TestSyslogDatagrams(t *testing.T) {
	for network, address := range map[string]string{"udp": "127.0.0.1:0", "unixgram": filepath.Join(t.TempDir(), "log")} {
		conn, err := net.ListenPacket(network, address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		o := Syslog{Network: network, Address: conn.LocalAddr().String(), Facility: 13, AppName: "muster"}
		if network == "unixgram" {
			o.Network = "unix"
		}
		s := NewSyslogSink(o)
		records := chained(2)
		records[1].Body = `{"kind":"` + strings.Repeat("x", 2*maxDatagram) + `"}`
		if err := s.Write(t.Context(), records); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1<<17)
		n, _, err := conn.ReadFrom(b)
		if parts := message5424.FindStringSubmatch(string(b[:n])); err != nil || parts == nil || parts[3] != "1" {
			t.Errorf("%s: %q, %v", network, b[:n], err)
		}
		if n, _, err = conn.ReadFrom(b); err != nil || n != maxDatagram {
			t.Errorf("%s: %d bytes of what is too long, %v", network, n, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestSyslogUnsure: what may still have been on its way when a connection broke comes again, however many batches it was, and no more than that.
func TestSyslogUnsure(t *testing.T) {
	now := noon
	s := NewSyslogSink(Syslog{Network: "tcp", Clock: func() time.Time { return now }})
	count := func() (n int) {
		for _, b := range s.last {
			n += len(b.records)
		}
		return n
	}
	for range 10 {
		s.remember(chained(1))
	}
	if count() != 10 {
		t.Errorf("%d of 10 are kept", count())
	}
	now = now.Add(unsureFor + time.Second)
	s.remember(chained(1))
	if count() != 1 {
		t.Errorf("%d are kept for longer", count())
	}
	all := chained(256)
	for range 100 {
		s.remember(all)
	}
	if n := count(); n > unsure || n < unsure-len(all) {
		t.Errorf("%d are kept", n)
	}
	now = now.Add(-time.Hour) // the clock is set back
	s.remember(all)
	if n := count(); n > unsure {
		t.Errorf("%d are kept with the clock set back", n)
	}
}
