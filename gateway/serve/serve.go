// Package serve opens the gateway's listeners: sockets, TLS policy, limits, draining, health, and the certificate
// that the gateway has issued for itself. cmd/muster builds the handlers and calls it.
//
// It knows no protocol and trusts no client certificate: TLS asks for one and names the CAs that the configuration
// knows; what a certificate is worth is judged per request, by the endpoint's pipeline.
//
// Listeners speak HTTP/1.1 only. No enrollment protocol gains from HTTP/2: a device sends a handful of small
// requests, one after the other. And RFC 9113 section 9.2.2 blocks CBC cipher suites under HTTP/2, so that a client that
// offers both HTTP/2 and the suite that oneM2M TS-0003 demands, TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256, fails once
// HTTP/2 is agreed on.
package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Listener is the configuration of one listener.
type Listener struct {
	// Address is host:port. Port 0 takes a free one.
	Address string `yaml:"address,required"`
	// TLS makes it an HTTPS listener. An empty block is TLS with the certificate that the gateway has issued for itself.
	TLS *TLS `yaml:"tls"`
	// Connections is how many are open at once. A further client gets the place of the one that has waited longest for its client; where
	// each has a request under way it waits until one is answered. 0: 1536.
	Connections int `yaml:"connections"`
	// PerAddress is how many of them one address has, or one IPv6 network of 64 bits. The addresses of proxies are not bound by it.
	// 0: half of connections.
	PerAddress int `yaml:"per-address"`
	// Proxies in front of it whose word about their clients counts. Default: nobody's
	Proxies []*Proxy `yaml:"proxies"`
}

// Private reports whether clients can reach it by TLS, its own or that of a proxy which then says so. From one without, what needs TLS
// is refused as it comes.
func (l *Listener) Private() bool { return l.TLS != nil || len(l.Proxies) > 0 }

// Check finds what is wrong with a listener without opening it. It names the key at fault.
func (l *Listener) Check() error {
	host, port, err := net.SplitHostPort(l.Address)
	if err != nil {
		return fmt.Errorf("address must be host:port, e.g. 127.0.0.1:8443 or :8443")
	}
	if _, err := net.DefaultResolver.LookupPort(context.Background(), "tcp", port); err != nil {
		return fmt.Errorf("address: %q is not a port", port)
	}
	if host == "*" {
		return errors.New(`address: write ":PORT" for every interface`)
	}
	if l.Connections < 0 {
		return errors.New("connections must not be negative")
	}
	if l.PerAddress < 0 {
		return errors.New("per-address must not be negative")
	}
	if err := l.checkProxies(); err != nil {
		return err
	}
	return l.TLS.check()
}

// Limits of a connection. They bound what a silent or slow client can hold.
const (
	headerTimeout  = 10 * time.Second // TLS handshake, then request line and headers
	readTimeout    = 30 * time.Second // a whole request
	writeTimeout   = 60 * time.Second // from the end of the headers to the end of the answer: a CA may take 20 s
	idleTimeout    = 75 * time.Second
	maxHeaderBytes = 32 << 10 // a proxy may pass a client certificate chain in a header (RFC 9440)
	connections    = 1536     // some 16 KB each: two listeners full of silent clients take 64 MB at most
)

// Spec is what a listener is to be from now on.
type Spec struct {
	Address     string
	TLS         *tls.Config // nil for plain HTTP; Policy makes it
	Connections int         // 0: 1536
	PerAddress  int         // 0: half of Connections
	Proxies     []netip.Prefix
	Handler     http.Handler
}

func (s *Spec) bounds() bounds {
	b := bounds{all: s.Connections, each: s.PerAddress, proxies: s.Proxies}
	if b.all == 0 {
		b.all = connections
	}
	if b.each == 0 {
		b.each = max(1, b.all/2)
	}
	return b
}

// policy is the part of a Spec that is swapped while the socket stays.
type policy struct {
	tls     *tls.Config
	handler http.Handler
}

// server is one open socket.
type server struct {
	name    string
	address string // as configured
	log     *slog.Logger
	socket  net.Listener
	http    *http.Server
	policy  atomic.Pointer[policy]
	places  *places
	gate    *gate
	closing chan struct{}
	close   sync.Once

	draining atomic.Bool
	latest   time.Time     // when it takes no more connections, set before draining
	accepted chan struct{} // closed when Accept takes no more

	// What Accept, which one goroutine calls, has said in the log already.
	saidFull bool
	saidBusy bool
	calm     int // accepted since the last error
}

func open(name string, s Spec, g *gate, log *slog.Logger) (*server, error) {
	var plain net.ListenConfig
	plain.SetMultipathTCP(false) // a filter (refuseSYN) has no effect on its sockets, and nothing here gains from it
	socket, err := plain.Listen(context.Background(), "tcp", s.Address)
	if err != nil {
		return nil, &ListenError{Listener: name, Err: err}
	}
	srv := &server{
		name: name, address: s.Address, log: log, socket: socket,
		places: newPlaces(s.bounds()), gate: g, closing: make(chan struct{}), accepted: make(chan struct{}), calm: calmAgain,
	}
	srv.policy.Store(&policy{s.TLS, s.Handler})
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	srv.http = &http.Server{
		Handler:           http.HandlerFunc(srv.serveHTTP),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		Protocols:         &protocols,
		ConnState:         changed,
		ConnContext:       withConn,
		// Failed handshakes and the like: strangers cause them at will.
		ErrorLog: slog.NewLogLogger(log.With("listener", name).Handler(), slog.LevelDebug),
	}
	return srv, nil
}

// run serves until drain.
func (s *server) run() {
	defer close(s.accepted)
	if err := s.http.Serve(acceptor{s}); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		s.log.Error("listener stopped", "listener", s.name, "err", err)
	}
}

func (s *server) stopAccepting() {
	s.close.Do(func() { close(s.closing); s.socket.Close() })
}

func (s *server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		if p := recover(); p != nil {
			if p != http.ErrAbortHandler {
				s.log.Error("a handler panicked", "listener", s.name, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			}
			panic(http.ErrAbortHandler) // the answer may be half written: cut it off
		}
	}()
	s.sayClose(w)
	if len(r.TransferEncoding) > 0 {
		// There may have been a Content-Length as well, which net/http takes away, and by which a proxy found where the next request
		// begins: what comes behind this one is nobody's (RFC 9112 section 6.1).
		w.Header().Set("Connection", "close")
	}
	p := s.policy.Load()
	if (r.TLS != nil) != (p.tls != nil) {
		// The address was another listener's when this connection was opened, or the same one's before it had TLS.
		w.Header().Set("Connection", "close")
		http.Error(w, "this address is served otherwise by now, with TLS or without: connect again", http.StatusMisdirectedRequest)
		return
	}
	r = awaitBody(r)
	p.handler.ServeHTTP(w, r)
}

// acceptor is the socket with the limit on connections, and with TLS as it is configured when a client connects.
type acceptor struct{ *server }

func (a acceptor) Accept() (net.Conn, error) {
	for {
		if a.draining.Load() {
			a.untilLull()
		}
		accepted, err := a.socket.Accept()
		if err != nil {
			if a.lastAccepted(err) {
				return nil, net.ErrClosed
			}
			if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
				if c := a.places.evict(); c != nil {
					c.Close()
				}
			}
			a.notAccepted(err)
			return nil, err
		}
		a.calm++
		cfg := a.policy.Load().tls
		var g *gate
		if cfg != nil {
			g = a.gate
		}
		c := newConn(accepted, a.places, g)
		evicted, how := a.places.admit(c)
		for ; how == full; evicted, how = a.places.admit(c) {
			a.sayFull(&a.saidBusy, "all connections have a request under way: new clients wait")
			select {
			case <-a.places.freed:
				c.accepted = time.Now()
			case <-a.closing:
				accepted.Close()
				return nil, net.ErrClosed
			}
		}
		if evicted != nil {
			evicted.Close()
		}
		if how == crowded {
			accepted.Close()
			continue
		}
		if u := a.places.usage(); u.open >= u.all {
			a.sayFull(&a.saidFull, "all connections are taken: those that wait longest for their client are closed for new ones")
		} else if u.open <= u.all/2 {
			a.saidFull, a.saidBusy = false, false
		}
		if cfg != nil {
			// http.Server does the handshake of a *tls.Conn, within ReadHeaderTimeout.
			return tls.Server(c, cfg), nil
		}
		return c, nil
	}
}

// sayFull tells it once, until half of the places are free again.
func (s *server) sayFull(said *bool, what string) {
	if !*said {
		*said = true
		s.log.Warn(what, "listener", s.name, "connections", s.places.usage().all)
	}
}

// calmAgain is how many clients are accepted after an error until the next one is news. http.Server tries again at
// once and without end, and what it says about that is lost among what strangers cause.
const calmAgain = 1000

// notAccepted tells that clients cannot connect, above all for want of file descriptors.
func (s *server) notAccepted(err error) {
	if errors.Is(err, net.ErrClosed) {
		return
	}
	if s.calm >= calmAgain {
		s.log.Error("clients cannot be accepted", "listener", s.name, "err", err)
	}
	s.calm = 0
}

func (a acceptor) Close() error   { a.stopAccepting(); return nil }
func (a acceptor) Addr() net.Addr { return a.socket.Addr() }
