package simulate

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// maxBody is how large an answer may be, in bytes.
const maxBody = 1 << 20

// maxCause is how many bytes of an answer's text are kept as a cause.
const maxCause = 200

// Target is the gateway that is loaded.
type Target struct {
	URL     string         // of the protocol's service, such as https://127.0.0.1:8443/.well-known/est
	Roots   *x509.CertPool // of its TLS certificate; nil: the system's
	Timeout time.Duration  // of one request, connecting included
	// Elsewhere allows a gateway that is not on this machine. Without it no connection leaves the loopback interface, whatever the
	// URL's name resolves to.
	Elsewhere bool
	// Keep has requests without a TLS client certificate go over connections that stay open, as a proxy's or an RA's do.
	Keep bool
}

// link makes one connection for each request, as devices do, unless Target.Keep: redirects are not followed, no proxy is asked.
type link struct {
	target Target
	url    *url.URL
	dialer net.Dialer
	tls    *tls.Config // nil for http
	kept   kept
}

var (
	errElsewhere = errors.New("the gateway is not on this machine: load only a gateway of your own, and say so with --yes-i-own-it")
	errPlainEST  = errors.New("EST needs https (RFC 7030 section 3.2.1)")
)

func newLink(t Target) (*link, error) {
	u, err := url.Parse(t.URL)
	switch {
	case err != nil:
		return nil, err
	case u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return nil, fmt.Errorf("%q is no address of a gateway: want https://HOST:PORT/PATH", t.URL)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("the gateway's URL has no user, query or fragment")
	}
	l := &link{target: t, url: u}
	if ip := net.ParseIP(u.Hostname()); !t.Elsewhere && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("%s: %w", u.Host, errElsewhere)
	}
	if !t.Elsewhere {
		l.dialer.Control = func(_, address string, _ syscall.RawConn) error {
			if a, err := net.ResolveTCPAddr("tcp", address); err != nil || !a.IP.IsLoopback() {
				return errElsewhere
			}
			return nil
		}
	}
	if u.Scheme == "https" {
		l.tls = &tls.Config{RootCAs: t.Roots, ServerName: u.Hostname(), MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	}
	return l, nil
}

func (l *link) address() string {
	port := l.url.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[l.url.Scheme]
	}
	return net.JoinHostPort(l.url.Hostname(), port)
}

// response is an answer, read as a whole.
type response struct {
	status int
	header http.Header
	body   []byte
}

// call is one HTTP request. path and query are added to the URL.
type call struct {
	method, path, query string
	contentType         string
	body                []byte
	base64              bool   // the body is: EST's header for that, without which some servers take none (RFC 7030 section 4.2.1; not asked for by RFC 8951)
	user, password      string // Basic, unless user is ""
	cert                []byte // the TLS client's certificate; nil for none
	key                 crypto.Signer
}

// do makes a call.
func (l *link) do(ctx context.Context, c call) (*response, error) {
	ctx, cancel := context.WithTimeout(ctx, l.target.Timeout)
	defer cancel()
	if !l.target.Keep || c.cert != nil {
		conn, err := l.dial(ctx, c)
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		out, _, err := l.over(ctx, conn, c)
		return out, err
	}
	conn := l.kept.take()
	old := conn != nil
	for {
		if conn == nil {
			made, err := l.dial(ctx, c)
			if err != nil {
				return nil, err
			}
			conn = newOpen(made)
		}
		out, stays, err := l.over(ctx, conn, c)
		switch {
		case err == nil && stays:
			l.kept.give(conn)
			return out, nil
		case err != nil && old && ctx.Err() == nil: // the server has closed it meanwhile
			conn.Close()
			conn, old = nil, false
			continue
		}
		conn.Close()
		return out, err
	}
}

// dial makes a connection, with the call's certificate.
func (l *link) dial(ctx context.Context, c call) (net.Conn, error) {
	conn, err := l.dialer.DialContext(ctx, "tcp", l.address())
	if err != nil || l.tls == nil {
		return conn, err
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	conf := l.tls
	if c.cert != nil {
		conf = l.tls.Clone()
		conf.Certificates = []tls.Certificate{{Certificate: [][]byte{c.cert}, PrivateKey: c.key}}
	}
	secure := tls.Client(conn, conf)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return secure, nil
}

// over makes a call over a connection, and says whether another one can follow.
func (l *link) over(ctx context.Context, conn net.Conn, c call) (_ *response, stays bool, err error) {
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	u := *l.url
	u.Path, u.RawQuery = strings.TrimSuffix(u.Path, "/")+c.path, c.query
	req, err := http.NewRequestWithContext(ctx, c.method, u.String(), bytes.NewReader(c.body))
	if err != nil {
		return nil, false, err
	}
	of, keep := conn.(*open)
	req.Close = !keep // the gateway closes first, and has the port to wait for
	req.Header.Set("User-Agent", "muster-simulate")
	if c.contentType != "" {
		req.Header.Set("Content-Type", c.contentType)
	}
	if c.base64 {
		req.Header.Set("Content-Transfer-Encoding", "base64")
	}
	if c.user != "" {
		req.SetBasicAuth(c.user, c.password)
	}
	if err := req.Write(conn); err != nil {
		return nil, false, err
	}
	r := bufio.NewReaderSize(conn, 2048)
	if keep {
		r = of.r
	}
	res, err := http.ReadResponse(r, req)
	if err != nil {
		return nil, false, err
	}
	defer res.Body.Close()
	out := &response{status: res.StatusCode, header: res.Header}
	if out.body, err = io.ReadAll(io.LimitReader(res.Body, maxBody+1)); err == nil && len(out.body) > maxBody {
		err = fmt.Errorf("an answer of more than %d bytes", maxBody)
	}
	return out, keep && !res.Close, err
}

// away is an answer that tells a device to come back.
func (r *response) away(what string) Answer { return Answer{Away: what, After: r.retryAfter()} }

// retryAfter is the header of that name: seconds, or a date (RFC 9110 section 10.2.3). 0: there is none that says something.
func (r *response) retryAfter() time.Duration {
	value := r.header.Get("Retry-After")
	if n, err := strconv.Atoi(value); err == nil {
		return time.Duration(min(max(n, 0), maxTold)) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return min(max(time.Until(at), 0), maxTold*time.Second)
	}
	return 0
}

// failed is any other answer that brings no certificate: told to come back, refused, or broken.
func (r *response) failed() Answer {
	said := fmt.Sprintf("HTTP %d: %s", r.status, firstLine(r.body))
	switch {
	case r.status == http.StatusServiceUnavailable || r.status == http.StatusTooManyRequests:
		return r.away(strconv.Itoa(r.status))
	case r.status >= 500 && r.status != http.StatusNotImplemented:
		return Answer{Broken: said}
	}
	return Answer{Refused: said}
}

// firstLine is the first line of a text without the reference to a transaction, which is another one for each device.
func firstLine(body []byte) string {
	line, _, _ := strings.Cut(string(body[:min(len(body), 2*maxCause)]), "\n")
	line, _, _ = strings.Cut(line, " (reference ")
	return strings.ToValidUTF8(line[:min(len(line), maxCause)], "")
}

// broken is an error on the way, in words that are the same for all devices.
func broken(err error) Answer {
	if errors.Is(err, errElsewhere) {
		return Answer{Refused: errElsewhere.Error()}
	}
	if wrong, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return Answer{Refused: "the gateway's TLS certificate: " + wrong.Err.Error()}
	}
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		return Answer{Broken: "no answer in time"}
	}
	for _, known := range []struct {
		err  error
		said string
	}{
		{syscall.ECONNREFUSED, "connection refused"}, {syscall.ECONNRESET, "connection reset"}, {syscall.EPIPE, "connection reset"},
		{syscall.EMFILE, "too many open files here: a lower --concurrency, or a higher ulimit -n"}, {syscall.EADDRNOTAVAIL, "no free ports here: a lower --concurrency"},
		{io.ErrUnexpectedEOF, "connection closed"}, {io.EOF, "connection closed"}, {net.ErrClosed, "no answer in time"},
	} {
		if errors.Is(err, known.err) {
			return Answer{Broken: known.said}
		}
	}
	return Answer{Broken: firstLine([]byte(err.Error()))}
}
