package e2e

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// An endpoint where RAs ask, and devices with the secret, directly or not; and one that devices reach through an RA only.
const raConfig = onLocalCA + `profiles:
  device: {backend: local, validity: 90d}
endpoints:
  ran:
    protocol: cmp
    listeners: [http]
    default: true
    profile: device
    enroll:
      - anyOf:
          - [ra: {cas: [ra-ca.pem]}, keys: {pop: [signature, ra]}]
          - [shared-secret: {secrets: {factory: {file: factory.secret}}}, keys: {}]
      - names: {}
    renew:
      - anyOf: [[ra: {cas: [ra-ca.pem]}, own-certificate: {}], own-certificate: {}]
    revoke:
      - ra: {cas: [ra-ca.pem]}
  field:
    protocol: cmp
    listeners: [http]
    profile: device
    enroll:
      - ra: {certificates: [lra.pem], nested: true}
      - shared-secret: {secrets: {factory: {file: factory.secret}}}
      - names: {}
  est:
    protocol: est
    listeners: [https]
    profile: device
    enroll:
      - password: {users: {factory: "{sha256}e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}}
      - names: {}
`

// cmpRA is a registration authority of our own, which signs for devices or passes on what they send.
type cmpRA struct {
	g    *instance
	key  crypto.Signer
	cert *x509.Certificate
}

const raSecret = "what all devices of the factory share"

// withRAs starts a gateway with an RA that may ask, one that passes on, and somebody with a certificate of the same CA.
func withRAs(t *testing.T) (g *instance, asks, passes, nobody *cmpRA) {
	t.Helper()
	caPEM, certify := certifier(t, "RA CA")
	leaf := func(name string, purposes ...asn1.ObjectIdentifier) *cmpRA {
		d := certify(name, purposes...)
		return &cmpRA{key: d.key, cert: d.cert}
	}
	asks, passes, nobody = leaf("RA", oidEKUcmcRA), leaf("LRA"), leaf("nobody")
	g = configured(t, raConfig, "ra-ca.pem", caPEM, "lra.pem", certificatePEM(passes.cert), "factory.secret", raSecret)
	asks.g, passes.g, nobody.g = g, g, g
	return g, asks, passes, nobody
}

// device is one that has the factory's secret.
func (r *cmpRA) device(name, endpoint string) *cmpDevice {
	d := r.g.cmpDevice(name)
	d.url, d.ref, d.secret = r.g.env["MUSTER_HTTP"]+"/.well-known/cmp/p/"+endpoint, "factory", []byte(raSecret)
	return d
}

// forDevice is the RA in the place of a device.
func (r *cmpRA) forDevice(name string) *cmpDevice {
	d := r.device(name, "ran")
	d.signer, d.chain = r.key, [][]byte{r.cert.Raw}
	return d
}

// nested puts messages into one that the RA signs. With one, its transactionID and senderNonce are that message's.
func (r *cmpRA) nested(messages ...[]byte) []byte {
	t := r.g.t
	t.Helper()
	alg, err := pkix.SignatureAlgorithm(r.key)
	if err != nil {
		t.Fatal(err)
	}
	out := &cmpmsg.Outgoing{
		Header: cmpmsg.Header{
			PVNO: 2, Sender: cmpmsg.GeneralDirectoryName(r.cert.RawSubject), Recipient: cmpmsg.GeneralDirectoryName([]byte{0x30, 0}),
			MessageTime: time.Now().UTC().Truncate(time.Second), TransactionID: random(16), SenderNonce: random(16), SenderKID: r.cert.SubjectKeyId,
			ProtectionAlg: &cmpmsg.AlgorithmIdentifier{Raw: alg},
		},
		Body: &cmpmsg.Nested{Messages: messages}, ExtraCerts: [][]byte{r.cert.Raw},
	}
	if len(messages) == 1 {
		m, err := cmpmsg.Parse(messages[0])
		if err != nil {
			t.Fatal(err)
		}
		out.Header.TransactionID, out.Header.SenderNonce = m.Header.TransactionID, m.Header.SenderNonce
	}
	der, err := out.Protect(func(part []byte) ([]byte, error) {
		_, signature, err := pkix.Sign(r.key, part)
		return signature, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// through sends a device's body through the RA.
func (d *cmpDevice) through(r *cmpRA, body cmpmsg.Body) *cmpmsg.Message {
	d.t.Helper()
	answer, err := d.post(r.nested(d.message(body)))
	if err != nil {
		d.t.Fatal(err)
	}
	m, err := d.take(answer)
	if err != nil {
		d.t.Fatal(err)
	}
	return m
}

// vouched is a request in which an RA says that the device has the key.
func vouched(d *cmpDevice, kind cmpmsg.BodyType) *cmpmsg.CertReqMessages {
	body := d.request(kind)
	body.Messages[0].POP = &cmpmsg.ProofOfPossession{Kind: cmpmsg.POPRAVerified}
	return body
}

// RA mode: the RA signs in the device's place, from the ir to the kur (RFC 9810 sections 5.2.8.1 and 5.3.5).
func TestCMPRAMode(t *testing.T) {
	g, ra, lra, nobody := withRAs(t)
	d := ra.forDevice("device-1")
	mustBe := func(m *cmpmsg.Message, err error, want cmpmsg.BodyType, fail string) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if m.Body.Type() != want || failure(m) != fail {
			t.Fatalf("%s, %s", m.Body.Type(), failure(m))
		}
	}
	m, err := d.exchange(vouched(d, cmpmsg.TypeIR))
	mustBe(m, err, cmpmsg.TypeIP, "")
	if d.cert == nil || d.cert.Subject.CommonName != "device-1" {
		t.Fatalf("%v", d.cert)
	}
	m, err = d.exchange(d.certConf())
	mustBe(m, err, cmpmsg.TypePKIConf, "")
	trail := g.muster("explain", g.transactions("device-1")[0].ID)
	if !strings.Contains(trail, "possession shown by ra") || !strings.Contains(trail, "RA by message-signer CN=RA") {
		t.Errorf("%s", trail)
	}

	// The RA renews the device's certificate, with a new key.
	old := d.cert
	next := ra.forDevice("device-1")
	id := cmpmsg.CertID{Issuer: cmpmsg.GeneralDirectoryName(old.RawIssuer), Serial: old.SerialNumber}
	value, err := id.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	kur := vouched(next, cmpmsg.TypeKUR)
	kur.Messages[0].Controls = []cmpmsg.AttributeTypeAndValue{{Type: cmpmsg.OIDOldCertID, Value: value}}
	m, err = next.exchange(kur)
	// The renewing pipeline's keys have no `pop: [ra]`.
	mustBe(m, err, cmpmsg.TypeKUP, "badPOP")
	next = ra.forDevice("device-1")
	kur = next.request(cmpmsg.TypeKUR)
	request := &kur.Messages[0]
	request.Controls = []cmpmsg.AttributeTypeAndValue{{Type: cmpmsg.OIDOldCertID, Value: value}}
	der, err := request.Request()
	if err != nil {
		t.Fatal(err)
	}
	alg, signature, err := pkix.Sign(next.key, der)
	if err != nil {
		t.Fatal(err)
	}
	request.POP.Signing = &cmpmsg.POPOSigningKey{Algorithm: cmpmsg.AlgorithmIdentifier{Raw: alg}, Signature: signature}
	m, err = next.exchange(kur)
	mustBe(m, err, cmpmsg.TypeKUP, "")
	if next.cert == nil || !bytes.Equal(next.cert.RawSubject, old.RawSubject) || bytes.Equal(next.cert.RawSubjectPublicKeyInfo, old.RawSubjectPublicKeyInfo) {
		t.Fatalf("%v", next.cert)
	}
	m, err = next.exchange(next.certConf())
	mustBe(m, err, cmpmsg.TypePKIConf, "")

	// The RA revokes what the device has no more use for (section 5.3.9); nobody else does.
	rr := &cmpmsg.RevReq{Details: []cmpmsg.RevDetails{{Certificate: cmpmsg.CertTemplate{Issuer: old.RawIssuer, SerialNumber: old.SerialNumber}}}}
	for _, other := range []*cmpRA{nobody, lra} {
		if m, err = other.forDevice("device-1").exchange(rr); err != nil {
			t.Fatal(err)
		}
		rep, ok := m.Body.(*cmpmsg.RevRep)
		if !ok || rep.Statuses[0].FailInfo != cmpmsg.SignerNotTrusted {
			t.Errorf("rr by %s: %s %+v", other.cert.Subject, m.Body.Type(), m.Body)
		}
	}
	m, err = ra.forDevice("device-1").exchange(rr)
	mustBe(m, err, cmpmsg.TypeRP, "")
	if rep := m.Body.(*cmpmsg.RevRep); rep.Statuses[0].Status != cmpmsg.StatusAccepted {
		t.Errorf("%+v", rep)
	}

	// raVerified from whoever else.
	for name, d := range map[string]*cmpDevice{
		"the shared secret": ra.device("device-2", "ran"), "another certificate of the CA": nobody.forDevice("device-2"), "an RA that passes on": lra.forDevice("device-2"),
	} {
		m, err := d.exchange(vouched(d, cmpmsg.TypeIR))
		if err != nil || failure(m) != "notAuthorized" {
			t.Errorf("%s: %s, %v", name, failure(m), err)
		}
	}
	if n := len(g.ledger("device-2")); n != 0 {
		t.Errorf("%d certificates", n)
	}
}

// A local RA adds its protection to what devices have protected (RFC 9810 section 5.1.3.5).
func TestCMPNested(t *testing.T) {
	g, ra, lra, nobody := withRAs(t)
	for _, endpoint := range []string{"ran", "field"} {
		relay := map[string]*cmpRA{"ran": ra, "field": lra}[endpoint]
		name := "nested-" + endpoint
		d := ra.device(name, endpoint)
		ir := d.message(d.request(cmpmsg.TypeIR))
		first, err := d.post(relay.nested(ir))
		if err != nil {
			t.Fatal(err)
		}
		m, err := d.take(first)
		if err != nil || m.Body.Type() != cmpmsg.TypeIP || d.cert == nil || !m.Header.ProtectionAlg.IsMAC() {
			t.Fatalf("%s: %v, %v", endpoint, m, err)
		}
		// The same message, passed on anew or come directly, has the same answer.
		for i, again := range [][]byte{relay.nested(ir), ir} {
			if answer, err := d.post(again); err != nil || !bytes.Equal(answer, first) {
				t.Errorf("%s: repeat %d differs, %v", endpoint, i, err)
			}
		}
		if m := d.through(relay, d.certConf()); m.Body.Type() != cmpmsg.TypePKIConf {
			t.Errorf("%s: %s %s", endpoint, m.Body.Type(), failure(m))
		}
		if n := len(g.ledger(name)); n != 1 {
			t.Errorf("%s: %d certificates", endpoint, n)
		}
		trail := g.muster("explain", g.transactions(name)[0].ID)
		if !strings.Contains(trail, "nested-signer:") || !strings.Contains(trail, "added by "+relay.cert.Subject.String()) {
			t.Errorf("%s", trail)
		}
	}

	for name, tt := range map[string]struct {
		endpoint string
		send     func(d *cmpDevice) []byte
		want     string
	}{
		"directly, where an RA is a condition": {"field", func(d *cmpDevice) []byte { return d.message(d.request(cmpmsg.TypeIR)) }, "notAuthorized"},
		"by an RA of another endpoint":         {"field", func(d *cmpDevice) []byte { return ra.nested(d.message(d.request(cmpmsg.TypeIR))) }, "notAuthorized"},
		"by somebody": {"ran", func(d *cmpDevice) []byte {
			return nobody.nested(d.message(d.request(cmpmsg.TypeIR)))
		}, "notAuthorized"},
		"with a MAC around it": {"ran", func(d *cmpDevice) []byte {
			return d.message(&cmpmsg.Nested{Messages: [][]byte{d.message(d.request(cmpmsg.TypeIR))}})
		}, "wrongIntegrity"},
		"within nested": {"ran", func(d *cmpDevice) []byte { return ra.nested(ra.nested(d.message(d.request(cmpmsg.TypeIR)))) }, "badRequest"},
		"a wrong secret": {"ran", func(d *cmpDevice) []byte {
			d.secret = []byte("wrong")
			return ra.nested(d.message(d.request(cmpmsg.TypeIR)))
		}, "badMessageCheck"},
		"a device whom no stage knows": {"ran", func(d *cmpDevice) []byte {
			d.signedBy("refused")
			return ra.nested(d.message(d.request(cmpmsg.TypeIR)))
		}, "signerNotTrusted"},
	} {
		d := ra.device("refused", tt.endpoint)
		answer, err := d.post(tt.send(d))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		m, err := cmpmsg.Parse(answer)
		if err != nil || m.Header.ProtectionAlg == nil || failure(m) != tt.want {
			t.Errorf("%s: %s, %v", name, failure(m), err)
		}
	}
	if n := len(g.ledger("refused")); n != 0 {
		t.Errorf("%d certificates", n)
	}
}

// A batch, over HTTP: the answers come back in order, and the certificates in them are confirmed in another.
func TestCMPBatch(t *testing.T) {
	g, ra, _, _ := withRAs(t)
	var devices []*cmpDevice
	var list [][]byte
	for _, name := range []string{"batch-1", "batch-2", "batch-3"} {
		d := ra.device(name, "ran")
		if name == "batch-2" {
			d.secret = []byte("wrong")
		}
		devices, list = append(devices, d), append(list, d.message(d.request(cmpmsg.TypeIR)))
	}
	send := func(list [][]byte) [][]byte {
		t.Helper()
		batch := ra.nested(list...)
		answer, err := devices[0].post(batch)
		if err != nil {
			t.Fatal(err)
		}
		asked, _ := cmpmsg.Parse(batch)
		m, err := cmpmsg.Parse(answer)
		if err != nil {
			t.Fatal(err)
		}
		b, ok := m.Body.(*cmpmsg.Nested)
		if !ok || len(b.Messages) != len(list) || m.Header.ProtectionAlg.IsMAC() || !bytes.Equal(m.Header.TransactionID, asked.Header.TransactionID) || !bytes.Equal(m.Header.RecipNonce, asked.Header.SenderNonce) {
			t.Fatalf("%s %s", m.Body.Type(), failure(m))
		}
		signer, err := x509.ParseCertificate(m.ExtraCerts[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := pkix.VerifySignature(signer.PublicKey, m.Header.ProtectionAlg.Raw, m.Protected(), m.Protection); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "answer.pki")
		if err := os.WriteFile(path, answer, 0o600); err != nil {
			t.Fatal(err)
		}
		if view, code := g.run(g.dir, binary, "cmp", "decode", path); code != 0 || strings.Count(view, "PKIMessage") < len(list)+1 {
			t.Errorf("muster cmp decode shows\n%s", view)
		}
		return b.Messages
	}
	answers := send(list)
	var confirmations [][]byte
	for i, d := range devices {
		if i == 1 {
			m, err := cmpmsg.Parse(answers[i])
			if err != nil || failure(m) != "badMessageCheck" {
				t.Errorf("%s, %v", failure(m), err)
			}
			continue
		}
		if _, err := d.take(answers[i]); err != nil || d.cert == nil || d.cert.Subject.CommonName != "batch-"+string(rune('1'+i)) {
			t.Fatalf("%d: %v, %v", i, d.cert, err)
		}
		confirmations = append(confirmations, d.message(d.certConf()))
	}
	for i, der := range send(confirmations) {
		m, err := devices[2*i].take(der)
		if err != nil || m.Body.Type() != cmpmsg.TypePKIConf {
			t.Errorf("%d: %s, %v", i, failure(m), err)
		}
	}
	for name, want := range map[string]int{"batch-1": 1, "batch-2": 0, "batch-3": 1} {
		if n := len(g.ledger(name)); n != want {
			t.Errorf("%s: %d certificates", name, n)
		}
	}
}
