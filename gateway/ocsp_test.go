package gateway_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// responder is a CA whose OCSP answers can be told.
type responder struct {
	*backendtest.Memory
	ocsp func(ctx context.Context, issuer string, request []byte) ([]byte, error)
}

func (r *responder) OCSP(ctx context.Context, issuer string, request []byte) ([]byte, error) {
	if r.ocsp != nil {
		return r.ocsp(ctx, issuer, request)
	}
	return r.Memory.OCSP(ctx, issuer, request)
}

// A signed answer is handed out when it is about the certificate that was asked about, current, and signed in the CA's name.
func TestOCSPIsChecked(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{})
	r := &responder{Memory: w.memory}
	w.publish(r)
	result, err := w.issue("device-1", nil)
	if err != nil {
		t.Fatal(err)
	}
	leaf := result.Certificate
	ca := w.memory.Issuer()
	request, err := ocsp.CreateRequest(leaf, ca, nil)
	if err != nil {
		t.Fatal(err)
	}
	ask := func() ([]byte, *gateway.OCSPInfo, error) { return w.gw.OCSP(t.Context(), "ca", "ec", request) }
	now := w.clock.now().UTC().Truncate(time.Second)
	der, info, err := ask()
	if err != nil || !info.ThisUpdate.Equal(now) || !info.NextUpdate.Equal(now.Add(24*time.Hour)) || !info.Planned.Equal(now.Add(12*time.Hour)) || len(info.Tag) != 64 {
		t.Fatalf("%+v, %v", info, err)
	}
	if a, err := ocsp.ParseResponseForCert(der, leaf, ca); err != nil || a.Status != ocsp.Good {
		t.Errorf("%+v, %v", a, err)
	}
	if _, _, err := w.gw.OCSP(t.Context(), "ca", "none", request); !errors.Is(err, gateway.ErrNotFound) {
		t.Errorf("another CA: %v", err)
	}
	if _, info, err := w.gw.OCSP(t.Context(), "ca", "", request); err != nil || info == nil {
		t.Errorf("the default CA: %v", err)
	}
	if _, _, err := w.gw.OCSP(t.Context(), "none", "ec", request); !errors.Is(err, gateway.ErrNotFound) {
		t.Errorf("another backend: %v", err)
	}
	if der, info, err := w.gw.OCSP(t.Context(), "ca", "ec", []byte("GET /")); err != nil || info != nil || !bytes.Equal(der, ocsp.MalformedRequestErrorResponse) {
		t.Errorf("no request: %x, %v", der, err)
	}
	if _, _, err := w.gw.OCSP(t.Context(), "ca", "ec", make([]byte, gateway.MaxOCSPRequest+1)); reason(err) != gateway.Unavailable {
		t.Errorf("a long request: %v", err)
	}

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	made := func(c *x509.Certificate, parent *x509.Certificate, by crypto.Signer) *x509.Certificate {
		c.SerialNumber, c.Subject, c.NotBefore = big.NewInt(7), pkix.Name{CommonName: "Responder"}, now.Add(-time.Hour)
		if parent == nil {
			parent = c
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), by)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	purpose := []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}
	another := backendtest.NewMemory(backendtest.MemoryOptions{Seed: "another"})
	signed := func(by *x509.Certificate, key crypto.Signer, change func(a *ocsp.Response)) func(context.Context, string, []byte) ([]byte, error) {
		return func(context.Context, string, []byte) ([]byte, error) {
			a := ocsp.Response{Status: ocsp.Good, SerialNumber: leaf.SerialNumber, ThisUpdate: now, NextUpdate: now.Add(time.Hour), IssuerHash: crypto.SHA1, Certificate: by}
			if change != nil {
				change(&a)
			}
			return ocsp.CreateResponse(ca, by, a, key)
		}
	}
	delegate := func(life time.Duration, usage []x509.ExtKeyUsage) *x509.Certificate {
		return made(&x509.Certificate{NotAfter: now.Add(life), ExtKeyUsage: usage}, ca, w.memory.Key())
	}
	right := delegate(time.Hour, purpose)
	for name, tt := range map[string]struct {
		ocsp func(context.Context, string, []byte) ([]byte, error)
		want string // "": it is good
	}{
		"delegated":             {signed(right, key, nil), ""},
		"without the purpose":   {signed(delegate(time.Hour, nil), key, nil), "may not answer"},
		"for a longer time":     {signed(delegate(time.Minute, purpose), key, nil), "its signer's certificate"},
		"by itself":             {signed(made(&x509.Certificate{NotAfter: now.Add(time.Hour), ExtKeyUsage: purpose}, nil, key), key, nil), "signed by none"},
		"by another CA":         {signed(another.Issuer(), another.Key(), nil), "signed by none"},
		"about another":         {signed(right, key, func(a *ocsp.Response) { a.SerialNumber = big.NewInt(1) }), "another certificate"},
		"unknown":               {signed(right, key, func(a *ocsp.Response) { a.Status = ocsp.Unknown }), "does not know"},
		"in the future":         {signed(right, key, func(a *ocsp.Response) { a.ThisUpdate = now.Add(10 * time.Minute) }), "in the future"},
		"ended":                 {signed(right, key, func(a *ocsp.Response) { a.ThisUpdate, a.NextUpdate = now.Add(-time.Hour), now }), "ended"},
		"for no time":           {signed(right, key, func(a *ocsp.Response) { a.NextUpdate = a.ThisUpdate }), "nextUpdate"},
		"cut":                   {func(context.Context, string, []byte) ([]byte, error) { return der[:len(der)-1], nil }, "OCSP"},
		"an error of no status": {func(context.Context, string, []byte) ([]byte, error) { return []byte{0x30, 3, 0x0a, 1, 4}, nil }, "OCSP"},
		"away":                  {func(context.Context, string, []byte) ([]byte, error) { return nil, errors.New("away") }, "away"},
	} {
		r.ocsp = tt.ocsp
		for range 2 { // what was refused is refused again
			der, info, err := ask()
			if tt.want == "" && (err != nil || info == nil) || tt.want != "" && (reason(err) != gateway.Unavailable || !strings.Contains(err.Error(), tt.want) || der != nil) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	// One that was found good, and is given for too long.
	r.ocsp = signed(right, key, nil)
	fixed, _, err := ask()
	if err != nil {
		t.Fatal(err)
	}
	r.ocsp = func(context.Context, string, []byte) ([]byte, error) { return fixed, nil }
	w.clock.add(time.Hour)
	if _, _, err := ask(); reason(err) != gateway.Unavailable {
		t.Errorf("for too long: %v", err)
	}
	// A flood waits in front of the CA, and gives up in time.
	stuck, cancel := context.WithCancel(t.Context())
	entered := make(chan struct{})
	r.ocsp = func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
		entered <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	ended := make(chan struct{})
	for range gateway.OCSPCalls {
		go func() { _, _, _ = w.gw.OCSP(stuck, "ca", "ec", request); ended <- struct{}{} }()
		<-entered
	}
	over, done := context.WithCancel(t.Context())
	done()
	if _, _, err := w.gw.OCSP(over, "ca", "ec", request); reason(err) != gateway.Unavailable {
		t.Errorf("one too many: %v", err)
	}
	cancel()
	for range gateway.OCSPCalls {
		<-ended
	}
}
