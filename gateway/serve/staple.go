package serve

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/muster-pki/muster/gateway"
)

// Stapler sends an OCSP answer with the gateway's own TLS certificate (RFC 6066 section 8), to clients that ask for one, where the
// certificate names a responder. No handshake waits for it: until the CA has answered, and when it does not, none is sent.
type Stapler struct {
	Own func() *tls.Certificate // the certificate with its chain; nil before there is one
	// OCSP asks the CA that has issued it.
	OCSP  func(ctx context.Context, request []byte) (der []byte, info *gateway.OCSPInfo, err error)
	Clock func() time.Time
	Log   *slog.Logger

	current atomic.Pointer[stapled]
	mu      sync.Mutex
	asked   time.Time // when the last question was put; zero before
	asking  sync.WaitGroup
}

// stapled is a certificate with an answer. It is never changed.
type stapled struct {
	of            *tls.Certificate // without
	with          *tls.Certificate
	planned, next time.Time
}

// stapleEvery is how long after a question the next is put, whatever came of that one.
const stapleEvery = time.Minute

// Certificate is Own's, with an answer where there is one.
func (s *Stapler) Certificate() *tls.Certificate {
	own, now := s.Own(), s.Clock()
	if own == nil || own.Leaf == nil || len(own.Leaf.OCSPServer) == 0 || len(own.Certificate) < 2 {
		return own
	}
	c := s.current.Load()
	if c != nil && c.of != own {
		c = nil
	}
	if c == nil || !now.Before(c.planned) {
		s.ask(own, now)
	}
	if c == nil || !now.Before(c.next) {
		return own
	}
	return c.with
}

// ask puts a question, one at a time and not too often.
func (s *Stapler) ask(own *tls.Certificate, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if since := now.Sub(s.asked); !s.asked.IsZero() && since >= 0 && since < stapleEvery {
		return
	}
	s.asked = now
	s.asking.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), distributionTimeout)
		defer cancel()
		made, err := s.staple(ctx, own)
		if err != nil {
			s.Log.Warn("the gateway's own TLS certificate is sent without an OCSP answer", "err", err)
			return
		}
		s.current.Store(made)
	})
}

func (s *Stapler) staple(ctx context.Context, own *tls.Certificate) (*stapled, error) {
	issuer, err := x509.ParseCertificate(own.Certificate[1])
	if err != nil {
		return nil, err
	}
	request, err := ocsp.CreateRequest(own.Leaf, issuer, nil)
	if err != nil {
		return nil, err
	}
	der, info, err := s.OCSP(ctx, request)
	if err != nil {
		return nil, err
	}
	if info == nil {
		return nil, fmt.Errorf("the CA does not answer for it: %x", der)
	}
	if a, err := ocsp.ParseResponseForCert(der, own.Leaf, issuer); err != nil || a.Status != ocsp.Good {
		return nil, fmt.Errorf("the answer is no good one (%v)", err)
	}
	with := *own
	with.OCSPStaple = der
	return &stapled{of: own, with: &with, planned: info.Planned, next: info.NextUpdate}, nil
}
