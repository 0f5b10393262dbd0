package simulate

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cms"
)

// scepRA answers pkiMessages with pkiStatus after pkiStatus; 0 has the certificate of the first request.
type scepRA struct {
	t        *testing.T
	key      *rsa.PrivateKey
	cert     *x509.Certificate
	statuses []string
	edit     func(*cms.SignOptions)
	kinds    []string
	tids     []string
	issued   []byte
}

func (s *scepRA) text(m *cms.Signed, oid asn1.ObjectIdentifier) string {
	value, _ := m.Attribute(oid)
	text, _ := cms.StringValue(value)
	return text
}

func (s *scepRA) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("operation") == "GetCACert" {
		w.Write(s.cert.Raw) //nolint:errcheck // the client says what it got
		return
	}
	body, _ := io.ReadAll(r.Body)
	m, err := cms.ParseSigned(body, cms.Limits{})
	if err != nil || m.Verify([]crypto.Hash{crypto.SHA256}) != nil {
		s.t.Errorf("the message: %v", err)
		return
	}
	kind, tid := s.text(m, cms.SCEPMessageType), s.text(m, cms.SCEPTransactionID)
	s.kinds, s.tids = append(s.kinds, kind), append(s.tids, tid)
	sealed, err := cms.ParseEnveloped(m.Content, cms.Limits{})
	if err != nil {
		s.t.Error(err)
		return
	}
	content, err := sealed.Decrypt(s.key, s.cert)
	if err != nil {
		s.t.Error(err)
		return
	}
	if kind == pkcsReq {
		csr, err := pkix.ParseCSR(content)
		if err != nil {
			s.t.Error(err)
			return
		}
		if challenge, _, err := csr.ChallengePassword(); challenge != "secret" || err != nil {
			s.t.Errorf("challenge %q, %v", challenge, err)
		}
	}
	value, _ := m.Attribute(cms.SCEPSenderNonce)
	nonce, _ := cms.OctetsValue(value)
	status := s.statuses[0]
	s.statuses = s.statuses[1:]
	o := cms.SignOptions{Content: []byte{}, Key: s.key, Certificate: s.cert, Certificates: []*x509.Certificate{s.cert}, Digest: crypto.SHA256, Attributes: []cms.Attribute{
		cms.AttributePrintable(cms.SCEPMessageType, "3"), cms.AttributePrintable(cms.SCEPTransactionID, tid), cms.AttributePrintable(cms.SCEPPKIStatus, status),
		cms.AttributeOctets(cms.SCEPSenderNonce, random(16)), cms.AttributeOctets(cms.SCEPRecipientNonce, nonce),
	}}
	switch status {
	case "0":
		only, err := cms.CertsOnly(s.issued)
		if err != nil {
			s.t.Error(err)
		}
		if o.Content, err = cms.Encrypt(only, m.Signer, cms.AES128); err != nil {
			s.t.Error(err)
		}
	case "2":
		o.Attributes = append(o.Attributes, cms.AttributePrintable(cms.SCEPFailInfo, "2"), cms.AttributeUTF8(cms.SCEPFailInfoText, "so it is (reference 06abc)"))
	}
	if s.edit != nil {
		s.edit(&o)
	}
	der, err := cms.Sign(o)
	if err != nil {
		s.t.Error(err)
	}
	w.Write(der) //nolint:errcheck // as above
}

// scepOf is a client, a device and the RA.
func scepOf(t *testing.T, statuses ...string) (*SCEP, Device, *scepRA) {
	t.Helper()
	f, err := NewFleet(2, RSA2048, "CN=sim-{{n}}")
	if err != nil {
		t.Fatal(err)
	}
	d, err := f.at(0, Enroll)
	if err != nil {
		t.Fatal(err)
	}
	s := &scepRA{t: t, key: f.keys.pool[1], statuses: statuses, issued: certificate(d)}
	name, _ := f.name(1)
	if s.cert, err = selfSigned(s.key, name); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	c, err := NewSCEP(t.Context(), Target{URL: server.URL + "/scep", Timeout: 10 * time.Second}, "secret")
	if err != nil {
		t.Fatal(err)
	}
	return c, d, s
}

func TestSCEPPending(t *testing.T) {
	c, d, s := scepOf(t, "3", "3", "0", "0")
	for range 2 {
		a := c.Ask(t.Context(), d)
		if a.Away != "PENDING" || a.Open == nil {
			t.Fatalf("%+v", a)
		}
		d.Open = a.Open
	}
	a := c.Ask(t.Context(), d)
	if !certifies(a.Cert, d.Key) {
		t.Fatalf("%+v", a)
	}
	d.Open, d.Cert = nil, a.Cert
	if a = c.Ask(t.Context(), d); !certifies(a.Cert, d.Key) {
		t.Fatalf("%+v", a)
	}
	if strings.Join(s.kinds, " ") != "19 20 20 17" || s.tids[0] != s.tids[1] || s.tids[1] != s.tids[2] || s.tids[3] == s.tids[0] {
		t.Errorf("messages %v of %v", s.kinds, s.tids)
	}
}

func TestSCEPAnswers(t *testing.T) {
	c, d, s := scepOf(t, "2", "0", "0", "0")
	if a := c.Ask(t.Context(), d); a.Refused != "pkiStatus 2, failInfo 2: so it is" {
		t.Errorf("%+v", a)
	}
	s.edit = func(o *cms.SignOptions) { o.Attributes[4] = cms.AttributeOctets(cms.SCEPRecipientNonce, random(16)) }
	if a := c.Ask(t.Context(), d); a.Refused != errForeign.Error() {
		t.Errorf("%+v", a)
	}
	s.edit = func(o *cms.SignOptions) { o.Attributes[1] = cms.AttributePrintable(cms.SCEPTransactionID, "other") }
	if a := c.Ask(t.Context(), d); a.Refused != errForeign.Error() {
		t.Errorf("%+v", a)
	}
	s.edit = func(o *cms.SignOptions) {
		o.Key = d.Key
		o.Certificate, _ = selfSigned(d.Key.(*rsa.PrivateKey), d.Subject)
		o.Certificates = []*x509.Certificate{o.Certificate}
	}
	if a := c.Ask(t.Context(), d); a.Refused != "the answer is not signed by the RA certificate" {
		t.Errorf("%+v", a)
	}
	if c.Fits(P256) == nil || c.Fits(RSA2048) != nil {
		t.Error("EC keys over SCEP")
	}
}

// Devices that share a key have certificates of their own to sign with: a gateway tells repeats by them.
func TestSelfSignedByName(t *testing.T) {
	_, d, _ := scepOf(t)
	a, err := selfSigned(d.Key.(*rsa.PrivateKey), d.Subject)
	if err != nil || string(a.RawSubject) != string(d.Subject) {
		t.Errorf("%v", err)
	}
}

// Of a server's certificates messages are encrypted to the RA's that is for it, wherever it stands; without keyEncipherment to what there is.
func TestSCEPEncipherer(t *testing.T) {
	ec, ok := one(t, P256).Key.Public().(*ecdsa.PublicKey)
	if !ok {
		t.Fatal("no key on P-256")
	}
	of := new(rsa.PublicKey)
	ca := &x509.Certificate{IsCA: true, PublicKey: of, RawSubject: []byte("ca"), RawIssuer: []byte("root")}
	able := &x509.Certificate{IsCA: true, PublicKey: of, KeyUsage: x509.KeyUsageKeyEncipherment}
	signs := &x509.Certificate{PublicKey: of, KeyUsage: x509.KeyUsageDigitalSignature, RawIssuer: []byte("ca")}
	opens := &x509.Certificate{PublicKey: of, KeyUsage: x509.KeyUsageKeyEncipherment}
	onEC := &x509.Certificate{PublicKey: ec, KeyUsage: x509.KeyUsageKeyEncipherment}
	for i, c := range []struct {
		all  []*x509.Certificate
		want *x509.Certificate
	}{{[]*x509.Certificate{ca}, ca}, {[]*x509.Certificate{ca, signs}, signs}, {[]*x509.Certificate{ca, signs, opens}, opens}, {[]*x509.Certificate{opens, signs, ca}, opens},
		{[]*x509.Certificate{onEC, ca, able}, able}, {[]*x509.Certificate{signs, able}, able}} {
		if got := encipherer(c.all); got != c.want {
			t.Errorf("%d: %+v", i, got)
		}
	}
	if string((&SCEP{ra: ca}).issuer()) != "ca" || string((&SCEP{ra: signs}).issuer()) != "ca" {
		t.Error("the CA's name")
	}
}
