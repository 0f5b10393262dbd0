package gateway_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"testing"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
)

func (w *queryWorld) askFor(issuer []byte, serial *big.Int, crl bool) (*gateway.Result, error) {
	w.t.Helper()
	r := w.request("unused")
	r.Subject, r.PublicKey, r.Content, r.POP, r.Operation = nil, nil, nil, gateway.POPNone, gateway.Query
	if issuer != nil {
		r.Target = &gateway.CertID{Issuer: issuer, Serial: serial}
	}
	if crl {
		return w.gw.QueryCRL(w.t.Context(), r)
	}
	return w.gw.QueryCertificate(w.t.Context(), r)
}

// RFC 8894 section 4.5 (GetCert). The victim test: one's own certificate is told of, another's is as unknown as one that there is not.
func TestQueryCertificate(t *testing.T) {
	w := newQueryWorld(t)
	mine, second, elsewhere := w.has("device-a", "est"), w.has("device-a", "est"), w.has("device-a", "other")
	others, nobodys := w.has("device-b", "est"), w.has("", "est")
	revoked := w.has("device-a", "est")
	if _, _, err := w.gw.RevokeCertificate(t.Context(), revoked.RawIssuer, revoked.SerialNumber.Bytes(), 1, "ops", ""); err != nil {
		t.Fatal(err)
	}
	gets := func(what string, c *x509.Certificate, told bool) {
		t.Helper()
		res, err := w.askFor(c.RawIssuer, c.SerialNumber, false)
		switch {
		case told && (err != nil || res.Kind != gateway.ResultAnswer || len(res.Certificates) != 1 || !res.Certificates[0].Equal(c)):
			t.Errorf("%s: %+v, %v", what, res, err)
		case !told && (res != nil || reason(err) != gateway.UnknownCert || gateway.AsError(err).Detail != "there is no such certificate of this client"):
			t.Errorf("%s: %+v, %v", what, res, err)
		}
	}
	w.asks = func(g *gateway.Grant) { g.NameDevice("device-a"); g.Owned = shows(mine, "est") }
	gets("the one that it shows", mine, true)
	gets("another of its own", second, true)
	gets("its own at another endpoint", elsewhere, false)
	w.asks = func(g *gateway.Grant) { g.NameDevice("device-a"); g.Owned = shows(mine, "est", "other") }
	gets("its own at another endpoint, which a stage names", elsewhere, true)
	w.asks = func(g *gateway.Grant) { g.NameDevice("device-a"); g.Owned = shows(mine, "est") }
	gets("another device's", others, false)
	gets("nobody's", nobodys, false)
	gets("a revoked one", revoked, false)
	gets("one that there is not", &x509.Certificate{RawIssuer: mine.RawIssuer, SerialNumber: big.NewInt(7)}, false)
	gets("one of another CA", &x509.Certificate{RawIssuer: []byte{0x30, 0}, SerialNumber: mine.SerialNumber}, false)
	for what, serial := range map[string]*big.Int{"no serial number": nil, "serial number 0": new(big.Int), "a negative one": big.NewInt(-5)} {
		if res, err := w.askFor(mine.RawIssuer, serial, false); res != nil || reason(err) != gateway.UnknownCert {
			t.Errorf("%s: %+v, %v", what, res, err)
		}
	}
	if res, err := w.askFor(nil, nil, false); res != nil || reason(err) != gateway.UnknownCert {
		t.Errorf("no target: %+v, %v", res, err)
	}
	// Where no stage knows the device it is the certificate that was shown, and no other.
	w.asks = func(g *gateway.Grant) { g.Owned = shows(nobodys, "est") }
	gets("what it shows, without a device", nobodys, true)
	gets("another without a device", w.has("", "est"), false)
	gets("a device's", mine, false)
	w.asks = func(*gateway.Grant) {}
	gets("what nobody has shown", nobodys, false)

	// The pipeline comes first, whatever is asked for.
	w.query = gateway.Pipeline{password{"another"}}
	w.put()
	for _, issuer := range [][]byte{nil, mine.RawIssuer} {
		for _, crl := range []bool{false, true} {
			if res, err := w.askFor(issuer, mine.SerialNumber, crl); res != nil || reason(err) != gateway.Unauthenticated {
				t.Errorf("a stranger: %+v, %v", res, err)
			}
		}
	}
	w.query = nil
	w.put()
	for _, crl := range []bool{false, true} {
		if res, err := w.askFor(mine.RawIssuer, mine.SerialNumber, crl); res != nil || reason(err) != gateway.NotAuthorized {
			t.Errorf("without a pipeline: %+v, %v", res, err)
		}
	}
}

// RFC 8894 section 7: while the store or the CA does not answer, a target that can be read and one that cannot have the same answer.
func TestQueryTargetUnavailable(t *testing.T) {
	w := newQueryWorld(t)
	mine := w.has("device-a", "est")
	w.asks = func(g *gateway.Grant) { g.NameDevice("device-a") }
	w.reads = func() error { return errors.New("disk") }
	for _, issuer := range [][]byte{mine.RawIssuer, nil} {
		if res, err := w.askFor(issuer, mine.SerialNumber, false); res != nil || reason(err) != gateway.Unavailable {
			t.Errorf("the certificate of %x: %+v, %v", issuer, res, err)
		}
	}
	if res, err := w.askFor(mine.RawIssuer, mine.SerialNumber, true); res != nil || reason(err) != gateway.Unavailable {
		t.Errorf("%+v, %v", res, err)
	}
	w.reads = func() error { return nil }
	w.wrapped = func(b backend.Backend) backend.Backend { return noCRL{b} }
	w.put()
	for _, issuer := range [][]byte{mine.RawIssuer, mine.RawSubject, nil} {
		if res, err := w.askFor(issuer, mine.SerialNumber, true); res != nil || reason(err) != gateway.Unavailable {
			t.Errorf("the CRL of %x: %+v, %v", issuer, res, err)
		}
	}
}

// noCRL is a CA that gives no CRL now.
type noCRL struct{ backend.Backend }

func (noCRL) CRL(context.Context, string, io.Writer) error { return errors.New("away") }

// RFC 8894 section 4.6 (GetCRL): the CRL of the CA that is named, by the key that signed the certificate that is named.
func TestQueryCRL(t *testing.T) {
	w := newQueryWorld(t)
	mine, others := w.has("device-a", "est"), w.has("device-b", "est")
	w.asks = func(g *gateway.Grant) { g.NameDevice("device-a") }
	by := func(what string, serial *big.Int, signer *x509.Certificate) {
		t.Helper()
		res, err := w.askFor(mine.RawIssuer, serial, true)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		crl, err := x509.ParseRevocationList(res.Answer)
		if err != nil || res.Kind != gateway.ResultAnswer || len(res.Certificates) != 0 || crl.CheckSignatureFrom(signer) != nil {
			t.Errorf("%s: not the CRL by %x: %v", what, signer.SubjectKeyId, err)
		}
	}
	ca, err := w.gw.Authority(t.Context(), "est")
	if err != nil {
		t.Fatal(err)
	}
	by("its own", mine.SerialNumber, ca.Chain[0])
	by("another's: a CRL is public", others.SerialNumber, ca.Chain[0])
	by("one that there is not", big.NewInt(7), ca.Chain[0])
	// The same names in other string types (RFC 5280 section 7.1), as a client may write them that encodes anew.
	other := bytes.ReplaceAll(mine.RawIssuer, []byte{0x13}, []byte{0x0c}) // PrintableString, UTF8String
	if bytes.Equal(other, mine.RawIssuer) {
		other = bytes.ReplaceAll(mine.RawIssuer, []byte{0x0c}, []byte{0x13})
	}
	if res, err := w.askFor(other, mine.SerialNumber, true); err != nil || len(res.Answer) == 0 || bytes.Equal(other, mine.RawIssuer) {
		t.Errorf("%x: %v", other, err)
	}
	if res, err := w.askFor(other, mine.SerialNumber, false); err != nil || !res.Certificates[0].Equal(mine) || bytes.Equal(other, mine.RawIssuer) {
		t.Errorf("%x: %v", other, err)
	}
	if res, err := w.askFor(bytes.Clone(ca.Chain[1].RawIssuer), ca.Chain[0].SerialNumber, true); res != nil || reason(err) != gateway.UnknownCert {
		t.Errorf("the root's CRL, which is not published here: %+v, %v", res, err)
	}
	if res, err := w.askFor(nil, nil, true); res != nil || reason(err) != gateway.UnknownCert {
		t.Errorf("no target: %+v, %v", res, err)
	}
	if _, err := w.gw.Rollover(t.Context(), "ca", &backend.RolloverRequest{ID: "1", Kind: backend.RolloverRekey}, "ops"); err != nil {
		t.Fatal(err)
	}
	next, err := w.gw.Authority(t.Context(), "est")
	if err != nil || next.Chain[0].Equal(ca.Chain[0]) {
		t.Fatalf("no rollover: %v", err)
	}
	by("its own, by the key before", mine.SerialNumber, ca.Chain[0])
	by("its own, by the new key", w.has("device-a", "est").SerialNumber, next.Chain[0])
	by("one that there is not, after the rollover", big.NewInt(7), next.Chain[0])
}
