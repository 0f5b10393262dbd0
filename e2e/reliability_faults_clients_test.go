package e2e

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/cms"
)

// insistent is a client that sends one message again and again.
type insistent interface {
	// send sends the same bytes once more, and returns the certificate, or nil when it is told to come back.
	send(ctx context.Context) (*x509.Certificate, error)
	// goOn asks as the protocol has it of who was told to come back.
	goOn(ctx context.Context) (*x509.Certificate, error)
	// took ends what the client has to end once it has its certificate.
	took(ctx context.Context) error
}

// fiveTimes sends the same bytes five times. kind 0: three at once, then one after another; 1: the first gives up after a
// moment, the others follow one after another; 2: all at once. Whatever certificates come back are one.
func fiveTimes(ctx context.Context, c insistent, kind int) (cert *x509.Certificate, err error) {
	var mu sync.Mutex
	send := func(ctx context.Context, mayFail bool) {
		got, failed := c.send(ctx)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case failed != nil && !mayFail:
			err = errors.Join(err, failed)
		case got != nil && cert != nil && !bytes.Equal(got.Raw, cert.Raw):
			err = errors.Join(err, fmt.Errorf("two certificates: %x and %x", cert.SerialNumber, got.SerialNumber))
		case got != nil:
			cert = got
		}
	}
	atOnce := []int{3, 0, 5}[kind%3]
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() { send(ctx, false) })
	}
	wg.Wait()
	for i := range 5 - atOnce {
		if kind%3 == 1 && i == 0 {
			short, cancel := context.WithTimeout(ctx, 30*time.Millisecond)
			send(short, true)
			cancel()
			continue
		}
		send(ctx, false)
	}
	return cert, err
}

// estInsists is one over EST.
type estInsists struct {
	g    *instance
	http *http.Client
	d    *device
	lost *atomic.Int64 // requests whose connection was closed
}

func (c *estInsists) send(ctx context.Context) (*x509.Certificate, error) {
	a, err := c.g.enroll(ctx, c.http, c.d)
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET):
		c.lost.Add(1)
		return nil, nil // the connection was closed under it; it sends the same again anyway
	case err != nil:
		return nil, err
	case a.status == http.StatusAccepted || a.status == http.StatusServiceUnavailable:
		if a.header.Get("Retry-After") == "" {
			return nil, fmt.Errorf("%d without Retry-After", a.status)
		}
		return nil, nil
	case a.status != http.StatusOK:
		return nil, fmt.Errorf("EST: %d %s", a.status, a.body)
	}
	return a.cert, nil
}

func (c *estInsists) goOn(ctx context.Context) (*x509.Certificate, error) { return c.send(ctx) }

func (*estInsists) took(context.Context) error { return nil }

// cmpInsists is one over CMP. Its certificate counts when it is confirmed.
type cmpInsists struct {
	mu    sync.Mutex
	d     *cmpDevice
	ir    []byte
	conf  []byte // the certConf, once it is made
	waits bool   // it was told so, and polls
}

func (c *cmpInsists) post(ctx context.Context, der []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.d.url, bytes.NewReader(der))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/pkixcmp")
	res, err := c.d.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	return io.ReadAll(io.LimitReader(res.Body, 1<<20))
}

func (c *cmpInsists) exchange(ctx context.Context, der []byte) (*x509.Certificate, error) {
	answer, err := c.post(ctx, der)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.d.cert = nil
	m, err := c.d.take(answer)
	if err != nil {
		return nil, err
	}
	if c.d.cert != nil || failure(m) == "systemUnavail" {
		return c.d.cert, nil
	}
	switch b := m.Body.(type) {
	case *cmpmsg.CertRepMessage:
		if len(b.Responses) == 1 && b.Responses[0].Status.Status == cmpmsg.StatusWaiting {
			c.waits = true
			return nil, nil
		}
	case *cmpmsg.PollRep:
		return nil, nil
	}
	return nil, fmt.Errorf("CMP: %s %s", m.Body.Type(), failure(m))
}

func (c *cmpInsists) send(ctx context.Context) (*x509.Certificate, error) {
	return c.exchange(ctx, c.ir)
}

func (c *cmpInsists) goOn(ctx context.Context) (*x509.Certificate, error) {
	if !c.waits {
		return c.send(ctx)
	}
	return c.exchange(ctx, c.d.message(&cmpmsg.PollReq{ReqIDs: []*big.Int{big.NewInt(0)}}))
}

func (c *cmpInsists) took(ctx context.Context) error {
	if c.d.cert == nil { // a later answer to the same bytes said less
		return errors.New("no certificate to confirm")
	}
	if c.conf == nil {
		c.conf = c.d.message(c.d.certConf())
	}
	answer, err := c.post(ctx, c.conf)
	if err != nil {
		return err
	}
	m, err := c.d.take(answer)
	switch {
	case err != nil:
		return err
	case failure(m) == "systemUnavail":
		return errNotYet
	case m.Body.Type() != cmpmsg.TypePKIConf:
		return fmt.Errorf("certConf: %s %s", m.Body.Type(), failure(m))
	}
	return nil
}

// errNotYet is what took returns to a client that has to come back.
var errNotYet = errors.New("not yet")

// scepInsists is one over SCEP. It shares its key with others: the request is the transactionID's.
type scepInsists struct {
	d     *scepDevice
	m     *scepMessage
	waits bool
	mu    sync.Mutex
}

func (c *scepInsists) exchange(ctx context.Context, m *scepMessage) (*x509.Certificate, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.d.g.env["MUSTER_HTTP"]+c.d.path+"?operation=PKIOperation", bytes.NewReader(m.der))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-pki-message")
	res, err := c.d.http.Do(req)
	if err != nil {
		return nil, err
	}
	a, err := c.d.take(m, res)
	switch {
	case err != nil:
		return nil, err
	case a.status == "3":
		c.mu.Lock()
		defer c.mu.Unlock()
		c.waits = true
		return nil, nil
	case a.http == http.StatusServiceUnavailable:
		return nil, nil
	case a.cert == nil:
		return nil, fmt.Errorf("SCEP: %s", a)
	}
	return a.cert, nil
}

func (c *scepInsists) send(ctx context.Context) (*x509.Certificate, error) {
	return c.exchange(ctx, c.m)
}

func (c *scepInsists) goOn(ctx context.Context) (*x509.Certificate, error) {
	if !c.waits {
		return c.send(ctx)
	}
	envelope, err := cms.Encrypt([]byte{0x30, 4, 0x30, 0, 0x30, 0}, c.d.ra, cms.AES128) // IssuerAndSubject (RFC 8894 section 3.3.3)
	if err != nil {
		return nil, err
	}
	return c.exchange(ctx, c.d.message(scepWish{kind: "20", tid: c.m.tid, envelope: envelope}))
}

func (*scepInsists) took(context.Context) error { return nil }

// insistents makes clients of all protocols. EST's share connections, SCEP's a key, too.
type insistents struct {
	g      *instance
	est    *http.Client
	shared *http.Client // CMP's and SCEP's
	scep   *scepDevice
	lost   atomic.Int64 // requests over EST whose connection was closed
}

func (g *instance) insistents() *insistents {
	g.t.Helper()
	s := &insistents{g: g, est: g.client(nil), scep: g.scepDevice(), shared: &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 256}}}
	s.est.Transport.(*http.Transport).MaxIdleConnsPerHost, s.scep.http = 256, s.shared
	return s
}

// make makes the i-th client, of the three protocols in turn.
func (s *insistents) make(i int, name string) insistent {
	s.g.t.Helper()
	switch i % 3 {
	case 0:
		return &estInsists{g: s.g, http: s.est, d: newDevice(s.g.t, name), lost: &s.lost}
	case 1:
		d := s.g.cmpDevice(name)
		d.http = s.shared
		return &cmpInsists{d: d, ir: d.message(d.request(cmpmsg.TypeIR))}
	}
	return &scepInsists{d: s.scep, m: s.scep.message(scepWish{name: name, challenge: s.g.env["MUSTER_SCEP_CHALLENGE"]})}
}

// hangUp closes the connections that are kept.
func (s *insistents) hangUp() {
	s.est.CloseIdleConnections()
	s.shared.CloseIdleConnections()
}
