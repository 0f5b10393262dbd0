// Package upstream is what backends have in common whose CA is asked over HTTP: where it is and whom to trust, credentials in files,
// bounded answers, and what an error proves.
//
// The rule behind it: only what never left this process, and what the CA itself refused, is a definite refusal (backend.Definite).
// A request that may have arrived leaves the outcome unknown.
package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc/codes"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// Config is where a CA is, and how it is reached. Embed it inline in a backend's configuration.
type Config struct {
	// URL of the CA: https://HOST[:PORT][/PATH], or http where the backend says so.
	URL string `yaml:"url,required"`
	// CA is a PEM file of the roots that the server's certificate has to lead to. Default: the system's.
	CA string `yaml:"ca"`
	// Cert and Key are PEM files of a client certificate (its chain behind it) and its key. They are read for each new connection, so that they may be replaced.
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"` // not accessible to others
	// Timeout of one call, answer included. Default 15s, at most 10m.
	Timeout strictyaml.Duration `yaml:"timeout"`
	// Traceparent tells the CA, in the header of that name (W3C Trace Context), what trace a request is part of, where it is of one. Default: false.
	Traceparent bool `yaml:"traceparent"`
	// Roots in place of CA, of a backend that finds them itself.
	Roots *x509.CertPool `yaml:"-"`
	// Once is for a CA that nobody can ask what became of a request: each goes over a connection of its own. One that waited for the next
	// request may be closed by the server just when that is sent, and then nobody knows whether it arrived. A GET without a body asks for
	// nothing that matters, and goes over any. They speak HTTP/1.1: HTTP/2 has more to say before the request, and a server that closes
	// meanwhile is not heard.
	Once bool `yaml:"-"`
}

// Paths are the keys that are paths, for those who resolve them.
var Paths = []string{"ca", "cert", "key"}

// DefaultTimeout is Config.Timeout's.
const DefaultTimeout = 15 * time.Second

// Check says what is wrong with the configuration without touching anything. plain: http will do, since messages protect themselves.
func (c *Config) Check(plain bool) error {
	u, err := url.Parse(c.URL)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return errors.New("url: wants https://HOST, with a port and a path where there are such")
	case u.Scheme == "http" && !plain:
		return errors.New("url: wants https: what is said to this CA has no protection of its own")
	case u.Scheme != "https" && u.Scheme != "http":
		return errors.New("url: wants https")
	case (c.Cert == "") != (c.Key == ""):
		return errors.New("cert and key go together")
	case c.Timeout < 0 || time.Duration(c.Timeout) > 10*time.Minute:
		return errors.New("timeout: at most 10m")
	}
	return nil
}

// Client asks one CA. It is safe for concurrent use.
type Client struct {
	http *http.Client
	once *http.Client // of Config.Once; else http
	base string
}

// New makes a client of a configuration that Check took. Files that are missing or wrong are errors.
func (c *Config) New() (*Client, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.Roots}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca: %s has no PEM certificate", c.CA)
		}
	}
	if c.Cert != "" {
		if _, err := c.certificate(); err != nil {
			return nil, err
		}
		t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.certificate() }
	}
	timeout := time.Duration(c.Timeout)
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	client := func(fresh bool) *http.Client {
		own := t.Clone()
		own.DynamicRecordSizingDisabled = fresh // a request of up to 16 KiB goes in one write: a second one may fail before the server's alert is read
		var by http.RoundTripper = &http.Transport{
			WriteBufferSize: 64 << 10, TLSClientConfig: own, ForceAttemptHTTP2: !fresh, MaxIdleConnsPerHost: 32, IdleConnTimeout: 30 * time.Second,
			TLSHandshakeTimeout: 10 * time.Second, MaxResponseHeaderBytes: 64 << 10, DisableKeepAlives: fresh,
		}
		if c.Traceparent {
			by = telling{by}
		}
		return &http.Client{
			Timeout: timeout, Transport: by,
			// A credential goes where it was meant for.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	made := &Client{base: strings.TrimSuffix(c.URL, "/"), http: client(false)}
	if made.once = made.http; c.Once {
		made.once = client(true)
	}
	return made, nil
}

func (c *Config) certificate() (*tls.Certificate, error) {
	key, err := Secret(c.Key)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	pem, err := os.ReadFile(c.Cert)
	if err != nil {
		return nil, fmt.Errorf("cert: %w", err)
	}
	pair, err := tls.X509KeyPair(pem, key)
	if err != nil {
		return nil, fmt.Errorf("cert and key: %w", err)
	}
	return &pair, nil
}

// maxSecret bounds a file with a secret, in bytes.
const maxSecret = 64 << 10

// Secret reads a file that holds a secret, without white space at its ends. One that others may read is an error.
func Secret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s is accessible to others (%s): chmod 600", path, info.Mode().Perm())
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxSecret {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxSecret)
	}
	return []byte(strings.TrimSpace(string(text))), nil
}

// Answer is what a CA answered: any status, its body whole.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte

	hidden []string // what Said leaves out
}

// URL is the CA's, with a path behind it that begins with "/".
func (c *Client) URL(path string) string { return c.base + path }

// HTTP is the client itself, for a library that asks by one. It bounds no answer.
func (c *Client) HTTP() *http.Client { return c.http }

// Do sends a request and reads an answer of at most limit bytes. Its errors are gRPC statuses that mean for Issue what they say: one
// that did not reach the CA is backend.Exhausted (busy, nothing was asked), one whose client certificate its TLS did not take is
// FAILED_PRECONDITION; after any other the outcome is unknown.
func (c *Client) Do(ctx context.Context, r *http.Request, limit int64) (*Answer, error) {
	// Whoever has no connection has sent nothing. That headers were not written yet says less: a cancelled request may write them still.
	connected := false
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected = true }}
	by := c.once
	if r.Method == http.MethodGet && (r.Body == nil || r.Body == http.NoBody) {
		by = c.http
	}
	res, err := by.Do(r.WithContext(httptrace.WithClientTrace(ctx, trace)))
	switch {
	case err != nil && !connected:
		return nil, NotAsked(err)
	case err != nil && notTaken(err):
		return nil, backend.Refuse(codes.FailedPrecondition, "not asked: the CA's server does not take the client certificate (cert): %s", bare(err))
	case err != nil:
		return nil, backend.Refuse(codes.Unavailable, "%s", bare(err))
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	if err != nil {
		return nil, backend.Refuse(codes.Unavailable, "reading the answer: %s", bare(err))
	}
	if int64(len(body)) > limit {
		return nil, backend.Refuse(codes.Internal, "an answer of more than %d bytes", limit)
	}
	a := &Answer{Status: res.StatusCode, Header: res.Header, Body: body}
	if _, password, basic := r.BasicAuth(); basic {
		a.Hide(password)
	}
	if _, credentials, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok {
		a.Hide(credentials)
	}
	return a, nil
}

// alerts are those of TLS 1.3 by which a server turns a client certificate down (RFC 8446 section 6.2), as crypto/tls words them. The
// client has sent its request by then: its half of the handshake is over first. Nobody has read it.
var alerts = []string{"bad certificate", "unsupported certificate", "revoked certificate", "expired certificate", "unknown certificate",
	"unknown certificate authority", "access denied", "certificate required"}

// notTaken reports whether an error is such an alert of the server.
func notTaken(err error) bool {
	o, ok := errors.AsType[*net.OpError](err)
	return ok && o.Op == "remote error" && slices.Contains(alerts, strings.TrimPrefix(o.Err.Error(), "tls: "))
}

// retryUnreached is when a CA that could not be reached is worth another try.
const retryUnreached = 5 * time.Second

// NotAsked is the refusal of a request that did not leave this process: the CA could not be reached.
func NotAsked(err error) error {
	return backend.Exhausted(retryUnreached, "not asked: "+bare(err))
}

// bare is the text of an error of net/http without method and URL, of which the query may hold a secret. The server's words may stand in it.
func bare(err error) string {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	return Line(err.Error())
}

// RetryAfter is the answer's Retry-After in seconds or as a date (RFC 9110 section 10.2.3), bounded to 1 s to 1 h; or the default.
func (a *Answer) RetryAfter(or time.Duration, now time.Time) time.Duration {
	text := a.Header.Get("Retry-After")
	d := or
	if n, err := strconv.Atoi(text); err == nil {
		d = time.Duration(min(max(n, 0), 3600)) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, time.Second), time.Hour)
}

// maxSaid bounds what is repeated of a CA's words, in bytes.
const maxSaid = 512

// Line is a text of somebody else's on one line, without what a log or a screen would obey, and not longer than 512 bytes.
func Line(text string) string {
	if len(text) > maxSaid {
		text = text[:maxSaid] + "..."
	}
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return ' '
		}
		return r
	}, text)
	return strings.Join(strings.Fields(text), " ")
}

// minHidden is how long a secret is that Said can leave out, in bytes; shorter ones would take words apart.
const minHidden = 4

// Hide has Said leave out secrets that were sent, should the CA repeat them. Do hides those of the header Authorization.
func (a *Answer) Hide(secrets ...string) {
	for _, s := range secrets {
		if len(s) >= minHidden {
			a.hidden = append(a.hidden, s)
		}
	}
}

// Said is Line of the CA's words, without the secrets that were sent.
func (a *Answer) Said(text string) string {
	for _, s := range a.hidden {
		text = strings.ReplaceAll(text, s, "[hidden]")
	}
	return Line(text)
}

// Refused makes the error of Issue out of an answer that is none of the CA's good ones. said is what the CA said of it, for the
// operator. 4xx refuse: 429 until Retry-After, 401 and 403 as PERMISSION_DENIED, the others as INVALID_ARGUMENT; but for 408, they
// prove that the CA did not issue. Everything else leaves the outcome unknown.
func (a *Answer) Refused(said string) error {
	text := fmt.Sprintf("HTTP %d", a.Status)
	if said = a.Said(said); said != "" {
		text += ": " + said
	}
	switch {
	case a.Status == http.StatusTooManyRequests:
		return backend.Exhausted(a.RetryAfter(retryUnreached, time.Now()), text)
	case a.Status == http.StatusUnauthorized || a.Status == http.StatusForbidden:
		return backend.Refuse(codes.PermissionDenied, "%s", text)
	case a.Status >= 400 && a.Status < 500 && a.Status != http.StatusRequestTimeout:
		return backend.Refuse(codes.InvalidArgument, "%s", text)
	}
	return backend.Refuse(codes.Unavailable, "%s", text)
}
