package e2e

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"testing"
	"time"

	x509pkix "crypto/x509/pkix"

	"github.com/muster-pki/muster/cmd/muster/simulate"
	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// cmpDevice is a CMP client of our own: for what takes thousands of them, and for messages that no good client sends. What it
// proves about the wire, openssl proves better.
type cmpDevice struct {
	t       testing.TB
	url     string
	http    *http.Client
	subject []byte // DER Name asked for
	key     crypto.Signer
	mac     *cmpmsg.MAC // protection by MAC
	ref     string
	secret  []byte
	signer  crypto.Signer // protection by signature
	chain   [][]byte      // the signer's certificate first
	tid     []byte
	nonce   []byte // our last one
	peer    []byte // the gateway's last one
	cert    *x509.Certificate
	edit    func(*cmpmsg.Outgoing) // changes a message before it is protected; nil for none
}

// cmpDevice makes a device that shares the quickstart's secret.
func (g *instance) cmpDevice(name string) *cmpDevice {
	g.t.Helper()
	subject, err := asn1.Marshal(x509pkix.Name{CommonName: name}.ToRDNSequence())
	if err != nil {
		g.t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		g.t.Fatal(err)
	}
	return &cmpDevice{
		t: g.t, url: g.env["MUSTER_HTTP"] + "/.well-known/cmp", http: &http.Client{Timeout: 30 * time.Second}, subject: subject, key: key,
		mac: pbm(g.t), ref: g.env["MUSTER_CMP_REF"], secret: []byte(g.env["MUSTER_CMP_SECRET"]), tid: random(16),
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) //nolint:errcheck // crypto/rand.Read never fails (Go 1.24)
	return b
}

// pbm is password-based MAC with SHA-256 and 500 iterations, as openssl makes it.
func pbm(t testing.TB) *cmpmsg.MAC {
	t.Helper()
	m, err := cmpmsg.NewPBM(crypto.SHA256, crypto.SHA256, 500, random(16))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// message protects a body as the device does, with a fresh nonce.
func (d *cmpDevice) message(body cmpmsg.Body) []byte {
	d.t.Helper()
	d.nonce = random(16)
	out := &cmpmsg.Outgoing{
		Header: cmpmsg.Header{
			PVNO: 2, Sender: cmpmsg.GeneralDirectoryName([]byte{0x30, 0}), Recipient: cmpmsg.GeneralDirectoryName([]byte{0x30, 0}),
			MessageTime: time.Now().UTC().Truncate(time.Second), TransactionID: d.tid, SenderNonce: d.nonce, RecipNonce: d.peer,
		},
		Body: body,
	}
	var protect func([]byte) ([]byte, error)
	if d.signer != nil {
		cert, err := x509.ParseCertificate(d.chain[0])
		if err != nil {
			d.t.Fatal(err)
		}
		alg, err := pkix.SignatureAlgorithm(d.signer)
		if err != nil {
			d.t.Fatal(err)
		}
		out.Header.Sender, out.Header.SenderKID = cmpmsg.GeneralDirectoryName(cert.RawSubject), cert.SubjectKeyId
		out.Header.ProtectionAlg = &cmpmsg.AlgorithmIdentifier{Raw: alg}
		out.ExtraCerts = d.chain
		protect = func(part []byte) ([]byte, error) {
			_, sig, err := pkix.Sign(d.signer, part)
			return sig, err
		}
	} else {
		alg := d.mac.Algorithm()
		out.Header.SenderKID, out.Header.ProtectionAlg = []byte(d.ref), &alg
		protect = func(part []byte) ([]byte, error) { return d.mac.Sum(d.secret, part), nil }
	}
	if d.edit != nil {
		if d.edit(out); out.Header.ProtectionAlg == nil {
			protect = nil
		}
	}
	der, err := out.Protect(protect)
	if err != nil {
		d.t.Fatal(err)
	}
	return der
}

// request is an ir, cr or kur with proof of possession.
func (d *cmpDevice) request(kind cmpmsg.BodyType) *cmpmsg.CertReqMessages {
	d.t.Helper()
	m, err := simulate.CertRequest(kind, d.subject, d.key)
	if err != nil {
		d.t.Fatal(err)
	}
	return m
}

// post sends a message and returns the answer as it came.
func (d *cmpDevice) post(der []byte) ([]byte, error) {
	res, err := d.http.Post(d.url, "application/pkixcmp", bytes.NewReader(der))
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return body, fmt.Errorf("HTTP %d: %s", res.StatusCode, body)
	}
	return body, nil
}

// take reads an answer to our last message. Its MAC is checked where it has one.
func (d *cmpDevice) take(der []byte) (*cmpmsg.Message, error) {
	m, err := cmpmsg.Parse(der)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(m.Header.TransactionID, d.tid) || !bytes.Equal(m.Header.RecipNonce, d.nonce) {
		return m, fmt.Errorf("an answer to another message: %x %x", m.Header.TransactionID, m.Header.RecipNonce)
	}
	if m.Header.ProtectionAlg == nil {
		return m, fmt.Errorf("an answer without protection")
	}
	if m.Header.ProtectionAlg.IsMAC() {
		mac, err := cmpmsg.ParseMAC(m.Header.ProtectionAlg, cmpmsg.MACPolicy{})
		if err != nil {
			return m, err
		}
		if !mac.Verify(d.secret, m.Protected(), m.Protection) {
			return m, fmt.Errorf("the answer's MAC is wrong")
		}
	}
	d.peer = m.Header.SenderNonce
	if rep, ok := m.Body.(*cmpmsg.CertRepMessage); ok && len(rep.Responses) == 1 && rep.Responses[0].Certificate != nil {
		d.cert, err = x509.ParseCertificate(rep.Responses[0].Certificate)
	}
	return m, err
}

// exchange sends a body and reads the answer.
func (d *cmpDevice) exchange(body cmpmsg.Body) (*cmpmsg.Message, error) {
	answer, err := d.post(d.message(body))
	if err != nil {
		return nil, err
	}
	return d.take(answer)
}

// certConf accepts the certificate that the device got.
func (d *cmpDevice) certConf() *cmpmsg.CertConf {
	sum := sha256.Sum256(d.cert.Raw) // the local CA signs P-256 with SHA-256
	return &cmpmsg.CertConf{Statuses: []cmpmsg.CertStatus{{CertHash: sum[:], ReqID: big.NewInt(0)}}}
}

// enroll is ir, ip, certConf, pkiConf.
func (d *cmpDevice) enroll() error {
	m, err := d.exchange(d.request(cmpmsg.TypeIR))
	if err != nil {
		return err
	}
	if m.Body.Type() != cmpmsg.TypeIP || d.cert == nil {
		return fmt.Errorf("answered %s: %s", m.Body.Type(), failure(m))
	}
	if m, err = d.exchange(d.certConf()); err != nil {
		return err
	}
	if m.Body.Type() != cmpmsg.TypePKIConf {
		return fmt.Errorf("certConf answered %s: %s", m.Body.Type(), failure(m))
	}
	return nil
}

// failure is what an answer says went wrong, "" for nothing.
func failure(m *cmpmsg.Message) string {
	var s cmpmsg.PKIStatusInfo
	switch b := m.Body.(type) {
	case *cmpmsg.ErrorMsg:
		s = b.Status
	case *cmpmsg.CertRepMessage:
		if len(b.Responses) == 1 {
			s = b.Responses[0].Status
		}
	}
	if s.FailInfo == 0 {
		return ""
	}
	return fmt.Sprint(s.FailInfo)
}
