//go:build cas

package cas

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"

	_ "modernc.org/sqlite" // the local CA's ledger

	"github.com/muster-pki/muster/e2e/running"
)

// between stands between a gateway and its CA: it sees what the CA issues, and can be told to lose an answer.
type between struct {
	URL    string // where the gateway reaches it: scheme://127.0.0.1:PORT
	target *url.URL
	client *tls.Config // towards the CA
	mu     sync.Mutex
	then   func() // once, in the place of the next answer that issues
	lost   int    // answers
	made   []*x509.Certificate
	asked  int // answers that issued
}

// newBetween starts one before a CA at scheme://host:port. issues reads an answer that issues: what it has of certificates, which may be
// none where it is encrypted, and whether it does. What the proxy shows a gateway, and the CA, over TLS is own; it takes every
// certificate of the CA's server.
func newBetween(t *testing.T, target string, own *tls.Certificate, issues func(res *http.Response, body []byte) ([]*x509.Certificate, bool)) *between {
	t.Helper()
	b := new(between)
	var err error
	if b.target, err = url.Parse(target); err != nil {
		t.Fatal(err)
	}
	b.client = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // a test's own CA, on this machine
	if own != nil {
		b.client.Certificates = []tls.Certificate{*own}
	}
	quiet := log.New(io.Discard, "", 0)
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(b.target)
			r.Out.Host = r.In.Host // ACME signs URLs
		},
		Transport: &http.Transport{TLSClientConfig: b.client}, ErrorLog: quiet,
		ModifyResponse: func(res *http.Response) error {
			body, err := io.ReadAll(res.Body)
			if err != nil {
				return err
			}
			res.Body = io.NopCloser(bytes.NewReader(body))
			made, ok := issues(res, body)
			if !ok {
				return nil
			}
			b.mu.Lock()
			then := b.then
			b.then, b.made, b.asked = nil, append(b.made, made...), b.asked+1
			b.mu.Unlock()
			if then == nil {
				return nil
			}
			then()
			b.mu.Lock()
			defer b.mu.Unlock()
			b.lost++
			return errors.New("lost")
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	server := httptest.NewUnstartedServer(proxy)
	server.Config.ErrorLog = quiet
	if b.target.Scheme == "https" {
		server.TLS = &tls.Config{Certificates: []tls.Certificate{*own}, ClientAuth: tls.RequestClientCert}
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(server.Close)
	b.URL = b.target.Scheme + "://" + server.Listener.Addr().String()
	return b
}

// once has something done in the place of the next answer that issues, which is lost.
func (b *between) once(then func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.then = then
}

// lose is accidents.lose.
func (b *between) lose() func() bool {
	b.once(func() {})
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.lost
	return func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.lost > before
	}
}

// at is accidents.at of a CA that keeps no list: the certificates that it has answered with, each once.
func (b *between) at(name string) (serials []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	seen := map[string]bool{}
	for _, c := range b.made {
		if !seen[string(c.Raw)] {
			serials = append(serials, issuedFor(name, []*x509.Certificate{c})...)
		}
		seen[string(c.Raw)] = true
	}
	return serials
}

// pair reads a certificate and its key from a folder.
func pair(t *testing.T, dir, certificate, key string) *tls.Certificate {
	t.Helper()
	p, err := tls.LoadX509KeyPair(filepath.Join(dir, certificate), filepath.Join(dir, key))
	if err != nil {
		t.Fatal(err)
	}
	return &p
}

// post is issues where every POST to a path that ends so, once it is answered with the status, has issued.
func post(path string, status int) func(*http.Response, []byte) ([]*x509.Certificate, bool) {
	return func(res *http.Response, _ []byte) ([]*x509.Certificate, bool) {
		asked := res.Request.URL.Path
		return nil, res.Request.Method == http.MethodPost && len(asked) >= len(path) && asked[len(asked)-len(path):] == path && res.StatusCode == status
	}
}

// ledger are the certificates in a local CA's ledger in a folder of the gateway's, in the order of issuing.
func ledger(g *running.Gateway, dir string) (all []*x509.Certificate) {
	g.T.Helper()
	file := filepath.Join(dir, "ledger.db")
	if !filepath.IsAbs(file) {
		file = g.File(file)
	}
	if _, err := os.Stat(file); err != nil {
		g.T.Fatal(err)
	}
	db, err := sql.Open("sqlite", "file:"+file+"?_pragma=query_only(1)&_pragma=busy_timeout(60000)")
	if err != nil {
		g.T.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query("SELECT certificate FROM certificates ORDER BY number")
	if err != nil {
		g.T.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var der []byte
		if err := rows.Scan(&der); err != nil {
			g.T.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			g.T.Fatal(err)
		}
		all = append(all, c)
	}
	if err := rows.Err(); err != nil {
		g.T.Fatal(err)
	}
	return all
}
