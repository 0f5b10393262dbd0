package gateway_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// liar is a CA whose answers are others than its certificates.
type liar struct {
	*backendtest.Memory
	other *backendtest.Memory // another CA
	key   *ecdsa.PrivateKey   // of a CA that lets itself be told what to certify
	cert  *x509.Certificate
	lie   func(l *liar, r *backend.IssueRequest, is *backend.Issuance) (*backend.Issuance, error)
	cas   func(l *liar, list []backend.CA) ([]backend.CA, error)
	asked int // for its certificates
}

func (l *liar) Issue(ctx context.Context, r *backend.IssueRequest) (*backend.Issuance, error) {
	got, err := l.Memory.Issue(ctx, r)
	if err != nil || l.lie == nil {
		return got, err
	}
	return l.lie(l, r, got)
}

func (l *liar) CACertificates(ctx context.Context) ([]backend.CA, error) {
	l.asked++
	list, err := l.Memory.CACertificates(ctx)
	if err != nil || l.cas == nil {
		return list, err
	}
	return l.cas(l, list)
}

// signs certifies the template, changed, with the liar's other CA.
func (l *liar) signs(r *backend.IssueRequest, change func(c *x509.Certificate)) (*backend.Issuance, error) {
	pub, err := x509.ParsePKIXPublicKey(r.Template.PublicKey)
	if err != nil {
		return nil, err
	}
	c := &x509.Certificate{RawSubject: r.Template.Subject, NotBefore: r.Template.NotBefore, NotAfter: r.Template.NotAfter, KeyUsage: r.Template.KeyUsage, UnknownExtKeyUsage: r.Template.ExtKeyUsage}
	if r.Template.SubjectAltName != nil {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: r.Template.SubjectAltName}}
	}
	key := any(pub)
	if change != nil {
		change(c)
		if c.PublicKey != nil {
			key = c.PublicKey
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, l.cert, key, l.key)
	return &backend.Issuance{Certificate: der, Chain: [][]byte{l.cert.Raw}}, err
}

// names has CACertificates name the liar's other CA, too.
func names(l *liar, list []backend.CA) ([]backend.CA, error) {
	return []backend.CA{{Name: list[0].Name, Chain: [][]byte{l.cert.Raw}}}, nil
}

func newLiar(t *testing.T, w *world) *liar {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Elsewhere"}, NotBefore: w.clock.now().AddDate(-1, 0, 0), NotAfter: w.clock.now().AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &liar{Memory: w.memory, other: backendtest.NewMemory(backendtest.MemoryOptions{Seed: "elsewhere", Clock: w.clock.now}), key: key, cert: cert}
}

// Whatever a CA answers that is not what was granted, by the CA that it says it is, reaches nobody, and an operator reads what is wrong with it.
func TestLies(t *testing.T) {
	another, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	type lie = func(l *liar, r *backend.IssueRequest, is *backend.Issuance) (*backend.Issuance, error)
	changed := func(change func(c *x509.Certificate)) lie {
		return func(l *liar, r *backend.IssueRequest, _ *backend.Issuance) (*backend.Issuance, error) {
			return l.signs(r, change)
		}
	}
	for _, c := range []struct {
		name string
		lie  lie
		own  bool // the CA that signs is the backend's
		says string
	}{
		{"another key", changed(func(c *x509.Certificate) { c.PublicKey = another.Public() }), true, "another public key"},
		{"another subject", changed(func(c *x509.Certificate) { c.RawSubject = nil; c.Subject.CommonName = "root" }), true, `subject "CN=root" instead of`},
		{"another subjectAltName", changed(func(c *x509.Certificate) { c.DNSNames = []string{"bank.example"} }), true, `subjectAltName "dns:bank.example" instead of "none"`},
		{"CA:TRUE", changed(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), true, "it is a CA certificate"},
		{"a longer validity", changed(func(c *x509.Certificate) { c.NotAfter = c.NotAfter.AddDate(1, 0, 0) }), true, "valid .* instead of"},
		{"wider usages", changed(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }), true, "key usage digitalSignature keyCertSign instead of digitalSignature"},
		{"another purpose", changed(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }), true, "extended key usage .* instead of"},
		{"a foreign chain", changed(nil), false, "issued by CN=Elsewhere, and its chain leads to none of the certificates that the CA says it has"},
		{"another CA's certificate", func(l *liar, r *backend.IssueRequest, _ *backend.Issuance) (*backend.Issuance, error) {
			return l.other.Issue(context.Background(), r)
		}, false, "its chain leads to none of the certificates"},
		{"another CA's certificate with the right chain", func(l *liar, r *backend.IssueRequest, is *backend.Issuance) (*backend.Issuance, error) {
			got, err := l.signs(r, nil)
			return &backend.Issuance{Certificate: got.Certificate, Chain: is.Chain}, err
		}, false, "the chain's first certificate did not issue it"},
		{"the right chain after a foreign one", func(l *liar, r *backend.IssueRequest, is *backend.Issuance) (*backend.Issuance, error) {
			got, err := l.signs(r, nil)
			got.Chain = slices.Concat(got.Chain, is.Chain)
			return got, err
		}, false, "chain certificate 2 did not issue the one before it"},
		{"the chain backwards", func(_ *liar, _ *backend.IssueRequest, is *backend.Issuance) (*backend.Issuance, error) {
			slices.Reverse(is.Chain)
			return is, nil
		}, false, "did not issue"},
		{"no chain", func(_ *liar, _ *backend.IssueRequest, is *backend.Issuance) (*backend.Issuance, error) {
			return &backend.Issuance{Certificate: is.Certificate}, nil
		}, false, "no chain"},
		{"self-signed", func(l *liar, r *backend.IssueRequest, _ *backend.Issuance) (*backend.Issuance, error) {
			der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{RawSubject: r.Template.Subject, NotBefore: r.Template.NotBefore, NotAfter: r.Template.NotAfter,
				IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, &x509.Certificate{RawSubject: r.Template.Subject}, l.key.Public(), l.key)
			return &backend.Issuance{Certificate: der, Chain: [][]byte{der}}, err
		}, false, "another public key"},
		{"garbage", func(_ *liar, _ *backend.IssueRequest, is *backend.Issuance) (*backend.Issuance, error) {
			return &backend.Issuance{Certificate: []byte("no certificate"), Chain: is.Chain}, nil
		}, false, "it does not parse"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var l *liar
			var logs strings.Builder
			w := newWorld(t, backendtest.FaultPlan{}, func(w *world) {
				l = newLiar(t, w)
				if l.lie = c.lie; c.own {
					l.cas = names
				}
				w.ca, w.logs = backendtest.Faulty(l, backendtest.FaultPlan{}), &logs
			})
			r := w.request("device-1")
			if _, err := w.gw.Enroll(t.Context(), r); reason(err) != gateway.Internal {
				t.Fatal(err)
			}
			tr, err := w.store.Transaction(t.Context(), r.ID)
			if err != nil || tr.State != gateway.StateFailed || !regexp.MustCompile(c.says).MatchString(tr.Note) {
				t.Errorf("%v, %s: %q", err, tr.State, tr.Note)
			}
			if !strings.Contains(logs.String(), "ALARM: the CA's certificate is not what was granted") {
				t.Error("no alarm")
			}
		})
	}
}

// A CA that changed a moment ago is asked for its certificates anew, and its certificate is given.
func TestTheCAHasChanged(t *testing.T) {
	var l *liar
	w := newWorld(t, backendtest.FaultPlan{}, func(w *world) {
		l = newLiar(t, w)
		w.ca = backendtest.Faulty(l, backendtest.FaultPlan{})
	})
	if _, err := w.gw.CACertificates(t.Context(), "est"); err != nil {
		t.Fatal(err)
	}
	l.cas = names
	l.lie = func(l *liar, r *backend.IssueRequest, _ *backend.Issuance) (*backend.Issuance, error) {
		return l.signs(r, nil)
	}
	asked := l.asked
	if _, err := w.gw.Enroll(t.Context(), w.request("device-1")); err != nil || l.asked != asked+1 {
		t.Errorf("%v; asked %d times more", err, l.asked-asked)
	}
	if _, err := w.gw.Enroll(t.Context(), w.request("device-2")); err != nil || l.asked != asked+1 {
		t.Errorf("%v; asked %d times more", err, l.asked-asked)
	}
}

// Another CA of the same backend is not the one that was to certify.
func TestTheOtherCA(t *testing.T) {
	var l *liar
	w := newWorld(t, backendtest.FaultPlan{}, func(w *world) {
		l = newLiar(t, w)
		l.lie = func(l *liar, r *backend.IssueRequest, _ *backend.Issuance) (*backend.Issuance, error) {
			return l.signs(r, nil)
		}
		l.cas = func(l *liar, list []backend.CA) ([]backend.CA, error) {
			return append(list, backend.CA{Name: "other", Chain: [][]byte{l.cert.Raw}}), nil
		}
		w.ca = backendtest.Faulty(l, backendtest.FaultPlan{})
	})
	if _, err := w.gw.Enroll(t.Context(), w.request("device-1")); reason(err) != gateway.Internal || !strings.Contains(err.Error(), `issued by the CA "other" instead of "`) {
		t.Error(err)
	}
}

// Who does not say what its certificates are: the outcome is open until it does.
func TestTheCADoesNotSay(t *testing.T) {
	var l *liar
	w := newWorld(t, backendtest.FaultPlan{}, func(w *world) {
		l = newLiar(t, w)
		l.cas = func(*liar, []backend.CA) ([]backend.CA, error) { return nil, errors.New("not today") }
		w.ca = backendtest.Faulty(l, backendtest.FaultPlan{})
	})
	r := w.request("device-1")
	if res, err := w.gw.Enroll(t.Context(), r); err != nil || res.Kind != gateway.ResultPending || w.state(r.ID) != gateway.StateUnknown {
		t.Errorf("%+v, %v, %s", res, err, w.state(r.ID))
	}
	l.cas = nil
	w.work(time.Minute)
	if got := w.state(r.ID); got != gateway.StateIssued {
		t.Errorf("%s", got)
	}
}
