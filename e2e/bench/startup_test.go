//go:build bench

package bench

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"testing"
	"time"
)

func dials(address string) bool {
	c, err := net.DialTimeout("tcp", address, time.Second)
	if err == nil {
		c.Close()
	}
	return err == nil
}

// memory is what gateway and CA process have resident, in bytes.
type memory struct{ Idle, Plugins, Connected int64 }

// startup is how long a gateway takes until it is ready, in milliseconds, and what memory it has.
func startup(t *testing.T, s scale) (started []float64, m memory) {
	t.Helper()
	g := gateway(t, "muster", "")
	for range s.starts {
		g.stop()
		started = append(started, float64(g.again().Microseconds())/1000)
	}
	m.Idle, m.Plugins = resident(t, g.processes[:1]), resident(t, g.processes[1:])
	pem, err := os.ReadFile(g.env["MUSTER_CA"])
	g.ok(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	for range s.connections { // each has asked for something, and stays
		c, err := tls.Dial("tcp", g.https, &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12})
		g.ok(err)
		defer c.Close()
		_, err = fmt.Fprintf(c, "GET /.well-known/est/cacerts HTTP/1.1\r\nHost: %s\r\n\r\n", g.https)
		g.ok(err)
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		g.ok(err)
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Fatalf("cacerts: HTTP %d", res.StatusCode)
		}
	}
	m.Connected = resident(t, g.processes)
	g.stop()
	return started, m
}
