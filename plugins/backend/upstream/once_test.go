package upstream

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// get asks for what asks for nothing.
func get(t *testing.T, url string) *http.Request {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, url, bytes.NewReader(nil))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A server may close a connection that waits just when the next request is sent on it: this one reads the second request of a
// connection, and closes without a word, as one does whose time was over. Whether it did anything is not known then; with Once nothing
// but what asks for nothing goes over a connection that waited.
func TestOnce(t *testing.T) {
	for _, once := range []bool{false, true} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		var serving sync.WaitGroup
		serving.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				serving.Go(func() {
					defer c.Close()
					in := bufio.NewReader(c)
					for n := range 2 {
						r, err := http.ReadRequest(in)
						if err != nil {
							return
						}
						io.Copy(io.Discard, r.Body) //nolint:errcheck // it is in a string
						if n == 0 {
							io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") //nolint:errcheck // the client sees
						}
					}
				})
			}
		})
		c := client(t, &Config{URL: "http://" + l.Addr().String(), Once: once})
		if _, err := c.Do(t.Context(), get(t, c.URL("/")), 10); err != nil {
			t.Error(err)
		}
		for range 3 { // of which the first finds the connection of the GET
			if _, err := c.Do(t.Context(), post(t, c.URL("/")), 10); once && err != nil {
				t.Errorf("over a connection that waited: %v", err)
			}
		}
		l.Close()
		c.http.CloseIdleConnections()
		c.once.CloseIdleConnections()
		serving.Wait()
	}
}

// TLS 1.3 turns a client certificate down after the client has sent its request: nobody has read that.
func TestClientCertificateNotTaken(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		for _, once := range []bool{false, true} {
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was asked") }))
			s.EnableHTTP2 = http2
			s.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool()}
			s.Config.ErrorLog = log.New(io.Discard, "", 0)
			s.StartTLS()
			t.Cleanup(s.Close)
			dir := t.TempDir()
			cert, key := pair(t, "a stranger")
			config := &Config{URL: s.URL, Once: once, Roots: x509.NewCertPool()}
			config.Roots.AddCert(s.Certificate())
			for _, with := range []bool{true, false} {
				if with {
					config.Cert, config.Key = write(t, filepath.Join(dir, "ra.pem"), cert), write(t, filepath.Join(dir, "ra.key"), key)
				} else {
					config.Cert, config.Key = "", ""
				}
				c := client(t, config)
				for range 20 {
					r, err := http.NewRequest(http.MethodPost, c.URL("/"), strings.NewReader(strings.Repeat("x", 10_000)))
					if err != nil {
						t.Fatal(err)
					}
					if _, err := c.Do(t.Context(), r, 10); asked(err) != "FailedPrecondition, definite" && !(!once && asked(err) == "Unavailable") {
						t.Fatalf("HTTP/2 %t, once %t, with a certificate %t: %v", http2, once, with, err)
					}
				}
			}
		}
	}
}

// A CA that repeats what it was sent does not bring it into a log.
func TestSaidHides(t *testing.T) {
	_, config := serve(t, false, func(w http.ResponseWriter, r *http.Request) {
		_, password, _ := r.BasicAuth()
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, "who is "+r.Header.Get("Authorization")+" with "+password+"\x1b]0;\u202e") //nolint:errcheck // the client sees
	})
	c := client(t, config)
	r := post(t, c.URL("/"))
	r.SetBasicAuth("ra", "secret-word")
	a, err := c.Do(t.Context(), r, 1000)
	if err != nil {
		t.Fatal(err)
	}
	a.Hide("who")
	if got := a.Refused(string(a.Body)).Error(); strings.Contains(got, "secret-word") || strings.Contains(got, strings.TrimPrefix(r.Header.Get("Authorization"), "Basic ")) ||
		!strings.HasSuffix(got, "HTTP 403: who is Basic [hidden] with [hidden] ]0;") {
		t.Error(got)
	}
}

// What a server that does not speak HTTP says is cut, on one line.
func TestErrorTexts(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		c.SetDeadline(time.Now().Add(time.Minute))                                         //nolint:errcheck // for a test that fails
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\x1b["+strings.Repeat("x", 5000)+"\r\n\r\n") //nolint:errcheck // the client sees
		c.(*net.TCPConn).CloseWrite()                                                      //nolint:errcheck,forcetypeassert // it is one
		io.Copy(io.Discard, c)                                                             //nolint:errcheck // until the client goes
	}()
	c := client(t, &Config{URL: "http://" + l.Addr().String()})
	if _, err := c.Do(t.Context(), post(t, c.URL("/")), 10); err == nil || len(err.Error()) > maxSaid+100 || strings.ContainsAny(err.Error(), "\x1b\n") {
		t.Errorf("%q", err)
	}
}

// What grows when it is unpacked, or never ends, is read up to the limit.
func TestEndless(t *testing.T) {
	for name, pack := range map[string]bool{"gzip": true, "chunks": false} {
		_, config := serve(t, false, func(w http.ResponseWriter, _ *http.Request) {
			out := io.Writer(w)
			if pack {
				w.Header().Set("Content-Encoding", "gzip")
				out = gzip.NewWriter(w)
			}
			for zeros := make([]byte, 1<<16); ; {
				if _, err := out.Write(zeros); err != nil {
					return // the client has gone
				}
			}
		})
		c := client(t, config)
		if _, err := c.Do(t.Context(), post(t, c.URL("/")), 1<<20); asked(err) != "Internal" || !strings.Contains(err.Error(), "more than 1048576 bytes") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Cost of a connection for each request: BenchmarkOnce/once against /kept.
func BenchmarkOnce(b *testing.B) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) //nolint:errcheck // it is short
	}))
	defer s.Close()
	for name, once := range map[string]bool{"kept": false, "once": true} {
		b.Run(name, func(b *testing.B) {
			config := &Config{URL: s.URL, Once: once, Roots: x509.NewCertPool()}
			config.Roots.AddCert(s.Certificate())
			c, err := config.New()
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				r, _ := http.NewRequest(http.MethodPost, c.URL("/"), strings.NewReader("a request")) //nolint:errcheck // it is one
				if _, err := c.Do(b.Context(), r, 10); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
