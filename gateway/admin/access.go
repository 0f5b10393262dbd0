package admin

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// RemoteConfig is how the admin API is reached over the network, beside its Unix socket. It is TLS always; who comes shows a
// token or a client certificate. At least one of Tokens and Certificates is needed.
type RemoteConfig struct {
	// Address is host:port. Port 0 takes a free one.
	Address string `yaml:"address,required"`
	// TLS is the listener's certificate and key. Default: the gateway has one issued for itself.
	TLS *RemoteTLS `yaml:"tls"`
	// ClientCA is a PEM file with the CAs of operators' certificates: one that issues to nobody else, since whoever gets it to
	// certify a name below is that operator.
	ClientCA string `yaml:"client-ca"`
	// Certificates maps subjects, as "CN=alice,O=Ops" (RFC 4514), to roles: viewer, approver or admin.
	Certificates map[string]string `yaml:"certificates"`
	// Tokens is a file of lines NAME:ROLE:{sha256}HEX, where HEX is the SHA-256 of a random token. Reread at a reload.
	Tokens string `yaml:"tokens"`
	// People are those who have more than one way in, by name, with their ways as the audit trail would have them: "cert:CN=alice,O=Ops",
	// "oidc:alice", "token:alice". They are person:NAME there, and one approver. Default: each way is somebody of its own.
	People map[string][]string `yaml:"people"`
	// Console switches the pages for browsers on. Default: there are none.
	Console *ConsoleConfig `yaml:"console"`
}

// RemoteTLS is a certificate of the operator's own.
type RemoteTLS struct {
	// Cert is a PEM file: the certificate, then its chain.
	Cert string `yaml:"cert,required"`
	// Key is a PEM file with the private key of Cert.
	Key string `yaml:"key,required"`
}

const maxCertificates = 1000 // in RemoteConfig

// Check finds what is wrong without reading a file. key is what is at fault, below the configuration's.
func (c *RemoteConfig) Check() (key []string, err error) {
	byProvider := c.Console != nil && c.Console.OIDC != nil
	if c.Console != nil {
		if key, err := c.Console.Check(); err != nil {
			return append([]string{"console"}, key...), err
		}
		if len(c.Certificates) == 0 && !byProvider {
			return []string{"console"}, errors.New("nobody could sign in: give client-ca with certificates, or oidc; tokens are not for browsers")
		}
	}
	if c.Tokens == "" && len(c.Certificates) == 0 && !byProvider {
		return nil, errors.New("nobody could come in: give tokens, or client-ca with certificates")
	}
	if (c.ClientCA == "") != (len(c.Certificates) == 0) {
		return []string{"client-ca"}, errors.New("client-ca and certificates belong together: whose certificates, and who may do what")
	}
	if len(c.Certificates) > maxCertificates {
		return []string{"certificates"}, fmt.Errorf("more than %d", maxCertificates)
	}
	seen := map[string]string{}
	for subject, role := range c.Certificates {
		if _, err := ParseRole(role); err != nil {
			return []string{"certificates", subject}, err
		}
		name, err := canonicalName(subject)
		if err != nil {
			return []string{"certificates", subject}, err
		}
		if other, twice := seen[name]; twice {
			return []string{"certificates", subject}, fmt.Errorf("%q and %q are the same subject", subject, other)
		}
		seen[name] = subject
	}
	_, key, err = c.people()
	return key, err
}

// Access says who may come in over the network, by one configuration. It never changes.
type Access struct {
	tokens  tokens
	chain   *pkix.ChainPolicy // nil: no certificates
	roles   map[string]Role   // by subject, as pkix.FormatName writes it
	people  map[string]string // actors, by the way in which they come
	serving func() *x509.Certificate
}

// NewAccess reads the files of a configuration; dir is what relative paths start from. serving is the certificate that the
// listener shows at the moment: requests for other hosts than its names are refused.
func NewAccess(c *RemoteConfig, dir string, serving func() *x509.Certificate) (*Access, error) {
	if _, err := c.Check(); err != nil {
		return nil, err
	}
	a := &Access{roles: map[string]Role{}, serving: serving}
	var err error
	if a.people, _, err = c.people(); err != nil {
		return nil, err
	}
	if c.Tokens != "" {
		if a.tokens, err = readTokens(strictyaml.Below(dir, c.Tokens)); err != nil {
			return nil, fmt.Errorf("tokens: %w", err)
		}
	}
	for subject, word := range c.Certificates {
		name, _ := canonicalName(subject) // Check has looked at it
		a.roles[name], _ = ParseRole(word)
	}
	if c.ClientCA != "" {
		roots, err := readCertificates(strictyaml.Below(dir, c.ClientCA))
		if err != nil {
			return nil, fmt.Errorf("client-ca: %w", err)
		}
		a.chain = &pkix.ChainPolicy{Roots: roots}
	}
	return a, nil
}

// ClientCAs are the CAs that TLS names to clients.
func (a *Access) ClientCAs() []*x509.Certificate {
	if a.chain == nil {
		return nil
	}
	return a.chain.Roots
}

func readCertificates(path string) ([]*x509.Certificate, error) {
	data, err := strictyaml.ReadFile("", path, maxPEM)
	if err != nil {
		return nil, err
	}
	var all []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: no certificate in it (PEM)", path)
	}
	return all, nil
}

// caller is who asks.
type caller struct {
	actor string // "unix:root", "token:ops", "cert:CN=alice,O=Ops"
	role  Role
}

// errUnknown is the one answer to all who do not prove who they are: it tells nothing of what was wrong.
var errUnknown = &refusal{status: http.StatusUnauthorized, message: "this takes a token (Authorization: Bearer) or a client certificate of an operator"}

// gate finds out who asks.
type gate func(r *http.Request) (caller, error)

type peerKey struct{}

// local is the gate of the Unix socket: whoever may open it is an administrator.
func local(r *http.Request) (caller, error) {
	actor, ok := r.Context().Value(peerKey{}).(string)
	if !ok {
		return caller{}, errUnknown
	}
	return caller{actor, Admin}, nil
}

// remote is the gate of the network.
func (s *Server) remote(a *Access) gate {
	return func(r *http.Request) (caller, error) {
		if err := a.addressed(r); err != nil {
			return caller{}, err
		}
		who, how, err := s.identify(a, r)
		if errors.Is(err, errUnknown) {
			s.denied.count(how, r.RemoteAddr)
		}
		return who, err
	}
}

// addressed refuses what a browser sends for a page of somebody else's, and what was meant for another host: a browser sends
// a client certificate along without asking its user, and a host name that resolves to here makes any page's origin ours.
func (a *Access) addressed(r *http.Request) error {
	if r.TLS == nil {
		return &refusal{status: http.StatusForbidden, message: "the admin API speaks TLS only"}
	}
	site := r.Header.Get("Sec-Fetch-Site")
	if len(r.Header["Origin"]) > 0 || site != "" && site != "none" {
		return &refusal{status: http.StatusForbidden, message: "the admin API is not for web pages"}
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if !a.Hosted(host) {
		return &refusal{status: http.StatusMisdirectedRequest, message: "the gateway's certificate is not for the host that was asked for"}
	}
	return nil
}

// identify looks at the token, where there is one, else at the certificate. how is for the metric.
func (s *Server) identify(a *Access, r *http.Request) (who caller, how string, err error) {
	if headers := r.Header["Authorization"]; len(headers) > 0 {
		scheme, presented, _ := strings.Cut(headers[0], " ")
		// The scheme's case does not matter (RFC 9110 section 11.1).
		if t, found := a.tokens.find(presented); strings.EqualFold(scheme, "Bearer") && found && len(headers) == 1 {
			return caller{a.Named("token:" + t.name), t.role}, "token", nil
		}
		return caller{}, "token", errUnknown
	}
	return s.certified(a, r)
}

// certified looks at the client certificate.
func (s *Server) certified(a *Access, r *http.Request) (who caller, how string, err error) {
	if a.chain == nil || len(r.TLS.PeerCertificates) == 0 {
		return caller{}, "none", errUnknown
	}
	leaf := r.TLS.PeerCertificates[0]
	// Names first: a stranger's chain then costs no signature check.
	subject := pkix.FormatName(leaf.RawSubject)
	role := a.roles[subject]
	if role == nobody {
		return caller{}, "certificate", errUnknown
	}
	if _, err := a.chain.Verify(r.TLS.PeerCertificates, s.config.Clock()); err != nil {
		return caller{}, "certificate", errUnknown
	}
	// Where the gateway itself has issued it, it knows whether it still counts.
	switch c, err := s.config.Store.Certificate(r.Context(), leaf.RawIssuer, leaf.SerialNumber.Bytes()); {
	case errors.Is(err, gateway.ErrNotFound):
	case err != nil:
		return caller{}, "certificate", err
	case !c.RevokedAt.IsZero() || c.State != gateway.StateIssued:
		return caller{}, "certificate", errUnknown
	}
	return caller{a.Named("cert:" + subject), role}, "certificate", nil
}

// denials counts who was not let in, and tells so, once a minute.
type denials struct {
	total *prometheus.CounterVec
	log   *slog.Logger
	clock func() time.Time
	said  chan time.Time // holds when it was told last
}

const denialsEvery = time.Minute

func newDenials(c *Config) *denials {
	d := &denials{log: c.Log, clock: c.Clock, said: make(chan time.Time, 1), total: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "muster_admin_denied_total", Help: "Requests of the admin API over the network by those who did not prove who they are.",
	}, []string{"shown"})}
	d.said <- time.Time{}
	return d
}

func (d *denials) count(how, source string) {
	d.total.WithLabelValues(how).Inc()
	select {
	case last := <-d.said:
		now := d.clock()
		if now.Sub(last) >= denialsEvery {
			d.log.Warn("admin API: somebody who did not prove who they are; further ones are counted only, for a minute", "shown", how, "source", source)
			last = now
		}
		d.said <- last
	default: // somebody else is just telling
	}
}

// withPeer is http.Server.ConnContext of the Unix socket.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	if actor, err := peerOf(c); err == nil {
		return context.WithValue(ctx, peerKey{}, actor)
	}
	return ctx
}

// Remote is the API for the network, with who may come in by a. It has to be served with TLS, which asks for client
// certificates and need not verify them.
func (s *Server) Remote(a *Access) http.Handler { return s.handler(s.remote(a)) }
