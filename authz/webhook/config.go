// Package webhook asks a service of the operator's over HTTP: a question in JSON by POST, an answer in JSON. It knows nothing of
// enrollment. Whatever is not a whole, well-formed answer of the expected shape, in time, is an error: the caller fails closed.
package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// Config says where the service is, how both sides know each other, and what a question may take. Files are read with the
// configuration; relative paths are below its folder.
type Config struct {
	// URL is where questions are posted: https, or http on a loopback address. No user, password or fragment.
	URL string `yaml:"url"`
	// CA is a PEM file of the CA certificates that the service's certificate stands under. Default: the system's.
	CA string `yaml:"ca"`
	// Cert and Key are PEM files of the certificate (with its chain) and key that the gateway shows the service.
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	// TokenFile holds a token, which goes with each question as `Authorization: Bearer`.
	TokenFile string `yaml:"token-file"`
	// SecretFile holds a secret of 16 to 1024 bytes; one line end after it is cut. Each question is signed with it: HMAC-SHA-256 over
	// the body, as `Muster-Signature: sha256=` and 64 hexadecimal digits.
	SecretFile string `yaml:"secret-file"`
	// SignedAnswers takes an answer only that is signed with the same secret: HMAC-SHA-256 over the value of the question's
	// Muster-Signature, a dot and the answer's body, written likewise. So it is the answer to this question. Needs SecretFile.
	SignedAnswers bool `yaml:"signed-answers"`
	// Timeout bounds a question with all its attempts, and the wait for its turn: 100ms to 30s. Default: 5s.
	Timeout strictyaml.Duration `yaml:"timeout"`
	// Retries is how often a question is repeated that met a broken connection, or one of 429, 500, 502, 503 and 504: 0 to 3. Default: 1.
	Retries *int `yaml:"retries"`
	// Concurrency bounds the questions under way: 1 to 256, of which one device has a quarter. Default: 16. 128 more wait for their turn.
	Concurrency int `yaml:"concurrency"`
	// Private lets the name in URL lead to loopback, private or link-local addresses. An address that stands in URL needs no leave.
	Private bool `yaml:"private"`
}

const (
	defaultTimeout     = 5 * time.Second
	defaultConcurrency = 16
	maxConcurrency     = 256
	maxRetries         = 3
	maxFile            = 1 << 20
	minSecret          = 16
	maxSecret          = 1024
)

// New checks the configuration and reads its files; dir is the folder of the configuration. It connects to nobody. Errors begin with
// the key that is at fault, and hold no secrets.
func New(c Config, dir string) (*Service, error) {
	u, err := checkURL(c.URL)
	if err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	s := &Service{
		url: u.String(), where: u.Scheme + "://" + u.Host + u.EscapedPath(), host: u.Hostname(), timeout: time.Duration(c.Timeout), retries: 1, private: c.Private, signed: c.SignedAnswers,
		deadline: context.WithTimeout, pause: pause, lookup: net.DefaultResolver.LookupNetIP, connect: new(net.Dialer).DialContext,
	}
	if s.timeout == 0 {
		s.timeout = defaultTimeout
	}
	if s.timeout < 100*time.Millisecond || s.timeout > 30*time.Second {
		return nil, errors.New("timeout: 100ms to 30s")
	}
	if c.Retries != nil {
		s.retries = *c.Retries
	}
	if s.retries < 0 || s.retries > maxRetries {
		return nil, fmt.Errorf("retries: 0 to %d", maxRetries)
	}
	if c.Concurrency == 0 {
		c.Concurrency = defaultConcurrency
	}
	if c.Concurrency < 1 || c.Concurrency > maxConcurrency {
		return nil, fmt.Errorf("concurrency: 1 to %d", maxConcurrency)
	}
	s.turns = newTurns(c.Concurrency)
	if c.TokenFile != "" {
		if s.token, err = readSecret(dir, c.TokenFile, 1); err != nil {
			return nil, fmt.Errorf("token-file: %w", err)
		}
		for _, b := range s.token {
			if b <= ' ' || b > '~' {
				return nil, errors.New("token-file: a token is printable ASCII without spaces (RFC 6750 section 2.1)")
			}
		}
	}
	if c.SecretFile != "" {
		if s.secret, err = readSecret(dir, c.SecretFile, minSecret); err != nil {
			return nil, fmt.Errorf("secret-file: %w", err)
		}
	}
	if s.signed && s.secret == nil {
		return nil, errors.New("signed-answers: with which secret? Give secret-file")
	}
	conf, err := c.tls(u, dir)
	if err != nil {
		return nil, err
	}
	s.client = &http.Client{
		// No proxy of the environment: it would be told whom the gateway asks, and over http what.
		Transport: &http.Transport{
			DialContext: s.dial, TLSClientConfig: conf, TLSHandshakeTimeout: 10 * time.Second, MaxConnsPerHost: c.Concurrency,
			MaxIdleConnsPerHost: c.Concurrency, IdleConnTimeout: 30 * time.Second, MaxResponseHeaderBytes: 16 << 10, DisableCompression: true,
		},
		// A redirection would carry the question elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return s, nil
}

func checkURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case text == "":
		return nil, errors.New("where the service is has to be given, as https://HOST/PATH")
	case err != nil: // whose text quotes it
		return nil, errors.New("not a URL: want https://HOST/PATH")
	case u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.Opaque != "":
		return nil, errors.New("want https://HOST/PATH")
	case u.User != nil:
		return nil, errors.New("no user or password in it: there are token-file, secret-file, and cert with key")
	case u.Port() != "" && !isPort(u.Port()):
		return nil, errors.New("its port is not one of 1 to 65535")
	case u.Fragment != "":
		return nil, errors.New("no fragment in it")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return nil, errors.New("http is for loopback addresses only, since what is asked is secret: use https")
	}
	return u, nil
}

func isPort(text string) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return err == nil && n > 0
}

// isLoopback reports whether a host of a URL is this machine, by its spelling.
func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback() || strings.EqualFold(host, "localhost")
}

func (c Config) tls(u *url.URL, dir string) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if u.Scheme == "http" && (c.CA != "" || c.Cert != "" || c.Key != "") {
		return nil, errors.New("ca, cert and key are for https, and url is http")
	}
	if c.CA != "" {
		data, err := readFile(dir, c.CA)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("ca: %s: no certificate in it (PEM)", c.CA)
		}
	}
	if (c.Cert == "") != (c.Key == "") {
		return nil, errors.New("cert and key belong together: give both")
	}
	if c.Cert == "" {
		return conf, nil
	}
	cert, err := readFile(dir, c.Cert)
	if err != nil {
		return nil, fmt.Errorf("cert: %w", err)
	}
	key, err := readPrivate(dir, c.Key)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("cert, key: %w", err)
	}
	conf.Certificates = []tls.Certificate{pair}
	return conf, nil
}

func readFile(dir, path string) ([]byte, error) { return strictyaml.ReadFile(dir, path, maxFile) }

func readPrivate(dir, path string) ([]byte, error) { return strictyaml.ReadSecret(dir, path, maxFile) }

func readSecret(dir, path string, least int) (secret, error) {
	data, err := readPrivate(dir, path)
	if err != nil {
		return nil, err
	}
	data = bytes.TrimSuffix(bytes.TrimSuffix(data, []byte("\n")), []byte("\r"))
	if len(data) < least || len(data) > 4*maxSecret || least == minSecret && len(data) > maxSecret {
		return nil, fmt.Errorf("%s has %d bytes: %d to %d are taken", path, len(data), least, map[bool]int{true: maxSecret, false: 4 * maxSecret}[least == minSecret])
	}
	return data, nil
}

// secret is never printed.
type secret []byte

func (secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, "[secret]") }
