package serve

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/muster-pki/muster/gateway"
)

// stapleWorld is a CA, and a certificate of the gateway's own.
func stapleWorld(t *testing.T, now time.Time, responder ...string) (own *tls.Certificate, answer func(status int) []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	certify := func(c, parent *x509.Certificate) *x509.Certificate {
		c.NotBefore, c.NotAfter = now.Add(-time.Hour), now.Add(1000*time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		made, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true}
	ca := certify(tmpl, tmpl)
	leaf := certify(&x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"}, OCSPServer: responder}, ca)
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw, ca.Raw}, PrivateKey: key, Leaf: leaf}, func(status int) []byte {
		der, err := ocsp.CreateResponse(ca, ca, ocsp.Response{Status: status, SerialNumber: leaf.SerialNumber, ThisUpdate: now, NextUpdate: now.Add(time.Hour), IssuerHash: crypto.SHA1}, key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
}

func TestStaple(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	clock := now
	own, answer := stapleWorld(t, now, "http://ca.test/ocsp")
	good, asked, failure := answer(ocsp.Good), 0, error(nil)
	s := &Stapler{Own: func() *tls.Certificate { return own }, Clock: func() time.Time { return clock }, Log: slog.New(slog.DiscardHandler),
		OCSP: func(_ context.Context, request []byte) ([]byte, *gateway.OCSPInfo, error) {
			asked++
			if q, err := ocsp.ParseRequest(request); err != nil || q.SerialNumber.Cmp(own.Leaf.SerialNumber) != 0 {
				t.Errorf("asked %+v, %v", q, err)
			}
			if len(good) == 5 {
				return good, nil, failure
			}
			return good, &gateway.OCSPInfo{Planned: clock.Add(30 * time.Minute), NextUpdate: clock.Add(time.Hour)}, failure
		}}
	staples := func(what string, want bool, calls int) {
		t.Helper()
		s.asking.Wait()
		c := s.Certificate()
		s.asking.Wait()
		if got := len(c.OCSPStaple) > 0; got != want || asked != calls {
			t.Errorf("%s: stapled: %t after %d questions, not %t after %d", what, got, asked, want, calls)
		}
		if len(own.OCSPStaple) > 0 {
			t.Error("the certificate itself was changed")
		}
	}
	staples("the first handshake does not wait", false, 1)
	staples("the next one has it", true, 1)
	clock = now.Add(30*time.Minute - time.Second)
	staples("before the next is planned", true, 1)
	clock, failure = now.Add(30*time.Minute), errors.New("away")
	staples("the CA is away", true, 2)
	staples("and not asked by each handshake", true, 2)
	clock = now.Add(time.Hour)
	staples("it has ended", false, 3)
	failure, clock = nil, clock.Add(stapleEvery)
	staples("the CA is back", false, 4)
	staples("the CA is back", true, 4)
	own, answer = stapleWorld(t, now, "http://ca.test/ocsp")
	clock = clock.Add(stapleEvery)
	good = answer(ocsp.Revoked)
	staples("another certificate", false, 5)
	staples("revoked", false, 5)
	clock = clock.Add(stapleEvery)
	good = []byte{0x30, 3, 0x0a, 1, 6}
	staples("not known", false, 6)
	staples("not known", false, 6)
	own, _ = stapleWorld(t, now)
	clock = clock.Add(stapleEvery)
	staples("it names no responder", false, 6)
	own = nil
	if s.Certificate() != nil {
		t.Error("there is none yet")
	}
}
