package serve

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"
)

// resumer is a client that keeps its sessions and no connection.
type resumer struct {
	t     *testing.T
	ca    *testCA
	addr  string
	cfg   *tls.Config
	state tls.ConnectionState // the last connection's
}

func newResumer(t *testing.T, ca *testCA, addr string, version uint16, certs ...tls.Certificate) *resumer {
	return &resumer{t: t, ca: ca, addr: addr, cfg: &tls.Config{
		RootCAs: ca.pool(), MinVersion: version, MaxVersion: version, Certificates: certs, ClientSessionCache: tls.NewLRUClientSessionCache(8), Time: func() time.Time { return ca.now },
	}}
}

// resumes connects, and reports whether that resumed a session; body is the answer.
func (r *resumer) resumes() (bool, string) {
	r.t.Helper()
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: r.cfg, DisableKeepAlives: true}}
	res, err := c.Get("https://" + r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	r.state = *res.TLS
	return res.TLS.DidResume, string(body)
}

// wants fails unless the next connections resume as said, and show the same client.
func (r *resumer) wants(when string, peer string, all ...bool) {
	r.t.Helper()
	for i, want := range all {
		if got, body := r.resumes(); got != want || body != peer {
			r.t.Errorf("TLS %x, %s, connection %d: resumed %v, want %v; the client is %q", r.cfg.MinVersion, when, i+1, got, want, body)
		}
	}
}

// names says who the client is.
var names = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	if len(r.TLS.PeerCertificates) > 0 {
		io.WriteString(w, r.TLS.PeerCertificates[0].Subject.CommonName)
	}
})

// policed is a listener whose TLS policy, certificate and clock a test changes.
type policed struct {
	t     *testing.T
	set   *Set
	ca    *testCA
	mu    sync.Mutex
	now   time.Time
	own   tls.Certificate
	specs map[string]Spec
}

func newPoliced(t *testing.T) *policed {
	ca := newTestCA(t)
	p := &policed{t: t, set: NewSet(quiet()), ca: ca, now: ca.now, own: ca.issue(t, "server"), specs: map[string]Spec{}}
	t.Cleanup(func() { drain(t, p.set) })
	return p
}

func (p *policed) clock() time.Time { p.mu.Lock(); defer p.mu.Unlock(); return p.now }

func (p *policed) later(d time.Duration) { p.mu.Lock(); defer p.mu.Unlock(); p.now = p.now.Add(d) }

func (p *policed) certificate() *tls.Certificate {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.own
	return &c
}

// put puts a policy into force at a listener, whose others stay.
func (p *policed) put(listener string, l *TLS, cas ...*x509.Certificate) string {
	p.t.Helper()
	cfg, err := l.Policy(p.t.TempDir(), p.certificate, append(cas, p.ca.cert), p.clock)
	if err != nil {
		p.t.Fatal(err)
	}
	p.specs[listener] = Spec{Address: "127.0.0.1:0", TLS: cfg, Handler: names}
	apply(p.t, p.set, p.specs)
	return p.set.Addrs()[listener].String()
}

var bothVersions = []uint16{tls.VersionTLS12, tls.VersionTLS13}

// RFC 8446 section 2.2, RFC 5077: a session resumes under the policy that it began under, and shows the client that it began with.
func TestResumption(t *testing.T) {
	p := newPoliced(t)
	addr := p.put("a", &TLS{})
	device := p.ca.issue(t, "device")
	for _, version := range bothVersions {
		r := newResumer(t, p.ca, addr, version, device)
		r.wants("at first", "device", false, true, true)
		if version == tls.VersionTLS12 && len(r.state.TLSUnique) == 0 {
			t.Error("a resumed session with the extended master secret has no tls-unique")
		}
		newResumer(t, p.ca, addr, version).wants("without a certificate", "", false, true)

		// Another listener's are no good here, nor are this one's once its policy is another, or the same put into force again.
		r.addr = p.put("b", &TLS{})
		r.wants("at another listener", "device", false, true)
		r.addr = addr
		r.cfg.ClientSessionCache = tls.NewLRUClientSessionCache(8)
		r.wants("anew", "device", false, true)
		for _, change := range []struct {
			what string
			to   *TLS
			cas  []*x509.Certificate
		}{
			{"with other client CAs", &TLS{}, []*x509.Certificate{newTestCA(t).cert}},
			{"after a reload", &TLS{}, nil},
			{"with other suites", &TLS{Suites: []string{"ECDHE_ECDSA_AES_256_GCM_SHA384"}}, nil},
		} {
			p.put("a", change.to, change.cas...)
			r.wants(change.what, "device", false, true)
		}
		if version == tls.VersionTLS12 {
			if r.state.CipherSuite != tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 {
				t.Errorf("suite %s", tls.CipherSuiteName(r.state.CipherSuite))
			}
			p.put("a", &TLS{Min: "1.3"})
			if _, err := tls.Dial("tcp", addr, r.cfg); err == nil {
				t.Error("a session of TLS 1.2 survived min: 1.3")
			}
		}
		off := false
		p.put("a", &TLS{Resumption: &off})
		r.wants("switched off", "device", false, false)
		p.put("a", &TLS{})
	}
}

// A session goes on for 12 hours, however often it is resumed, and not beyond the server's certificate.
func TestResumptionEnds(t *testing.T) {
	for _, version := range bothVersions {
		p := newPoliced(t)
		addr := p.put("a", &TLS{})
		r := newResumer(t, p.ca, addr, version, p.ca.issue(t, "device"))
		r.wants("at first", "device", false, true)
		p.later(sessionLife - time.Minute)
		r.wants("within its life", "device", true, true)
		p.later(2 * time.Minute)
		r.wants("at the end", "device", false, true)

		p.mu.Lock()
		p.own = p.ca.issue(t, "server")
		p.mu.Unlock()
		r.wants("with another server certificate", "device", false, true)
		p.later(-time.Hour)
		r.wants("with a clock set back", "device", false)
	}
}

// A ticket that no client would send back in one piece is none; the connection goes on.
func TestLongTicketsAreNotGivenOut(t *testing.T) {
	p := newPoliced(t)
	addr := p.put("a", &TLS{})
	device := p.ca.issue(t, "device")
	for range 15 {
		device.Certificate = append(device.Certificate, p.ca.leaf(t, "CA", longNames()...).Raw)
	}
	for _, version := range bothVersions {
		newResumer(t, p.ca, addr, version, device).wants("with 75 KB of certificates", "device", false, false)
	}
}

func longNames() []string {
	var all []string
	for i := range 80 {
		all = append(all, string(rune('a'+i%26))+".a-name-that-is-rather-long-as-names-in-certificates-go.example")
	}
	return all
}

// What resumption spares: CPU of both ends together, client certificates on both sides P-256.
func BenchmarkHandshake(b *testing.B) {
	for _, mode := range []string{"full", "resumed"} {
		b.Run(mode, func(b *testing.B) {
			t := &testing.T{}
			ca := newTestCA(t)
			own, device := ca.issue(t, "server"), ca.issue(t, "device")
			cfg, err := (&TLS{}).Policy("", func() *tls.Certificate { return &own }, nil, time.Now)
			if err != nil {
				b.Fatal(err)
			}
			client := &tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{device}, ServerName: "127.0.0.1"}
			if mode == "resumed" {
				client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
			}
			l, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					c.Write([]byte{1}) //nolint:errcheck // the client tells
					c.Close()
				}
			}()
			for b.Loop() {
				c, err := tls.Dial("tcp", l.Addr().String(), client)
				if err != nil {
					b.Fatal(err)
				}
				// Behind the first byte the ticket has arrived.
				if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
					b.Fatal(err)
				}
				c.Close()
			}
		})
	}
}
