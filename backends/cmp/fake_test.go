package cmp

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	stdpkix "crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// fake is a CMP CA that answers as protocols/cmp does, as far as this backend asks: the same message again gets the same answer, another
// under the same transactionID transactionIdInUse; a certificate that was granted no implicit confirmation waits for certConf.
type fake struct {
	t       testing.TB
	dir     string
	url     string
	rootKey *ecdsa.PrivateKey
	key     *ecdsa.PrivateKey // issuing CA's
	root    *x509.Certificate
	cert    *x509.Certificate // issuing CA's
	ra      *x509.Certificate // of who asks

	answerKey  *ecdsa.PrivateKey
	answerCert *x509.Certificate

	mu        sync.Mutex
	byID      map[string]*transaction
	ledger    map[string][]*transaction // by public key
	heard     [][]byte                  // messages, in their order
	closes    bool                      // the connection of the last one ends with it
	confirmed int
	rejected  int
	revoked   map[string]bool
	// What it is to do otherwise; each may be nil. before and after the work on a body; true: the connection is cut.
	before, after func(cmpmsg.BodyType) bool
	change        func(out *cmpmsg.Outgoing)          // of an answer, before it is protected
	instead       func(m *cmpmsg.Message) cmpmsg.Body // an answer in the place of the real one
	status        int                                 // an HTTP status in the place of any answer
	explicit      bool                                // grants no implicit confirmation
	waits         int                                 // so many polls until it decides
	refuses       cmpmsg.FailInfo                     // what it waits for, in the end
	wrongKey      bool
	bare          bool                // errors without protection
	told          []*x509.Certificate // caCerts; nil: root and issuing CA
	// What it answers to rootCaCert; nil: an error, as one that does not know the question.
	update func(root []byte) *cmpmsg.General
	asked  int // rootCaCert
}

type transaction struct {
	hash   [32]byte
	m      *cmpmsg.Message
	answer []byte
	cert   *x509.Certificate
	open   bool // waits for certConf
}

func p256() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

var serials int64 = 1000

// certify makes a certificate; parent nil: self-signed.
func certify(t testing.TB, cn string, pub crypto.PublicKey, parent *x509.Certificate, key *ecdsa.PrivateKey, ca bool, purposes ...asn1.ObjectIdentifier) *x509.Certificate {
	t.Helper()
	serials++
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(serials), Subject: stdpkix.Name{CommonName: cn}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: ca, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, UnknownExtKeyUsage: purposes, SubjectKeyId: []byte(cn),
	}
	if ca {
		tmpl.KeyUsage |= x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	if parent == nil {
		parent = tmpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// folder is t.TempDir without the test's name, which YAML might read as its own.
func folder(t testing.TB) string {
	dir, err := os.MkdirTemp("", "cmp-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func newFake(t testing.TB) *fake {
	t.Helper()
	rootKey, key, raKey, answerKey := p256(), p256(), p256(), p256()
	f := &fake{t: t, dir: folder(t), rootKey: rootKey, key: key, answerKey: answerKey, byID: map[string]*transaction{}, ledger: map[string][]*transaction{}, revoked: map[string]bool{}}
	f.root = certify(t, "Root", rootKey.Public(), nil, rootKey, true)
	f.cert = certify(t, "Issuing", key.Public(), f.root, rootKey, true)
	f.ra = certify(t, "RA", raKey.Public(), f.cert, key, false, oidCMCRA)
	f.answerCert = certify(t, "CMP server", answerKey.Public(), f.cert, key, false, oidCMCRA)
	f.write("root.pem", f.root)
	f.write("chain.pem", f.cert, f.root)
	f.write("ra.pem", f.ra, f.cert)
	der, err := x509.MarshalPKCS8PrivateKey(raKey)
	if err != nil {
		t.Fatal(err)
	}
	f.file("ra.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	f.file("secret", []byte("a shared secret\n"))
	server := httptest.NewServer(http.HandlerFunc(f.serve))
	t.Cleanup(server.Close)
	f.url = server.URL + "/pkix/"
	return f
}

func (f *fake) file(name string, text []byte) {
	if err := os.WriteFile(filepath.Join(f.dir, name), text, 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fake) write(name string, certs ...*x509.Certificate) {
	var text []byte
	for _, c := range certs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	f.file(name, text)
}

// config is one that asks it; $ stands for its folder.
func (f *fake) config(more string) []byte {
	return []byte("url: " + f.url + "\n" + strings.ReplaceAll(more, "$", f.dir))
}

const signed = "sign: {cert: $/ra.pem, key: $/ra.key}\ntrust: $/root.pem\nchain: $/chain.pem\ncrl: true\n"

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	der, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	m, err := cmpmsg.Parse(der)
	if err != nil || r.Header.Get("Content-Type") != mediaType || r.URL.Path != "/pkix/" {
		http.Error(w, "no message", http.StatusBadRequest)
		return
	}
	f.mu.Lock()
	f.heard, f.closes = append(f.heard, der), r.Close
	before, after, status := f.before, f.after, f.status
	f.mu.Unlock()
	if before != nil && before(m.Body.Type()) {
		panic(http.ErrAbortHandler)
	}
	answer := f.answer(m)
	if after != nil && after(m.Body.Type()) {
		panic(http.ErrAbortHandler)
	}
	if status != 0 {
		http.Error(w, "secret words of a proxy", status)
		return
	}
	w.Header().Set("Content-Type", mediaType)
	w.Write(answer) //nolint:errcheck // the client may be gone
}

func (f *fake) answer(m *cmpmsg.Message) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	hash := sha256.Sum256(m.Protected())
	id := string(m.Header.TransactionID)
	if f.instead != nil {
		if b := f.instead(m); b != nil {
			return f.protect(m, b)
		}
	}
	if why := f.authentic(m); why != "" {
		return f.protect(m, failure(cmpmsg.NotAuthorized, why))
	}
	t := f.byID[id]
	switch b := m.Body.(type) {
	case *cmpmsg.CertReqMessages, *cmpmsg.PKCS10:
		if t != nil && t.hash != hash {
			return f.protect(m, failure(cmpmsg.TransactionIDInUse, "in use"))
		}
		if t == nil {
			t = &transaction{hash: hash, m: m}
			t.answer = f.decide(m, t)
			if t.cert != nil || f.waits > 0 {
				f.byID[id] = t
			}
		}
		return t.answer
	case *cmpmsg.PollReq:
		if f.waits--; f.waits > 0 {
			return f.protect(m, &cmpmsg.PollRep{Responses: []cmpmsg.PollResponse{{ReqID: b.ReqIDs[0], CheckAfter: 7}}})
		}
		f.waits = 0
		answer := f.decide(t.m, t)
		return f.again(m, answer)
	case *cmpmsg.CertConf:
		sum := sha256.Sum256(t.cert.Raw)
		if !t.open {
			return f.protect(m, failure(cmpmsg.CertConfirmed, "confirmed"))
		}
		if len(b.Statuses) != 1 || !bytes.Equal(b.Statuses[0].CertHash, sum[:]) {
			return f.protect(m, failure(cmpmsg.BadCertID, "another hash"))
		}
		t.open = false
		if s := b.Statuses[0].Status; s != nil && s.Status == cmpmsg.StatusRejection {
			f.rejected++
		} else {
			f.confirmed++
		}
		return f.protect(m, &cmpmsg.PKIConf{})
	case *cmpmsg.RevReq:
		return f.protect(m, &cmpmsg.RevRep{Statuses: []cmpmsg.PKIStatusInfo{f.revoke(b)}})
	case *cmpmsg.General:
		return f.protect(m, f.general(b))
	case *cmpmsg.Nested:
		inner, err := cmpmsg.Parse(b.Messages[0])
		if err != nil {
			f.t.Error(err)
		}
		return f.protect(inner, failure(cmpmsg.BadRequest, "heard"))
	}
	return f.protect(m, failure(cmpmsg.BadRequest, "no such body"))
}

// again is an answer that was made for another message of the transaction.
func (f *fake) again(m *cmpmsg.Message, answer []byte) []byte {
	a, err := cmpmsg.Parse(answer)
	if err != nil {
		f.t.Error(err)
		return nil
	}
	return f.protect(m, a.Body)
}

func failure(f cmpmsg.FailInfo, text string) cmpmsg.Body {
	return &cmpmsg.ErrorMsg{Status: cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusRejection, FailInfo: f, Text: []string{text}}}
}

// authentic says what is wrong with a message's protection.
func (f *fake) authentic(m *cmpmsg.Message) string {
	alg := m.Header.ProtectionAlg
	if alg == nil || len(m.Header.SenderNonce) != 16 || m.Header.MessageTime.IsZero() {
		return "header"
	}
	if alg.IsMAC() {
		mac, err := cmpmsg.ParseMAC(alg, cmpmsg.MACPolicy{})
		if err != nil || !mac.Verify([]byte("a shared secret"), m.Protected(), m.Protection) || string(m.Header.SenderKID) != "ref" {
			return "MAC"
		}
		return ""
	}
	if len(m.ExtraCerts) == 0 || !bytes.Equal(m.ExtraCerts[0], f.ra.Raw) || pkix.VerifySignature(f.ra.PublicKey, alg.Raw, m.Protected(), m.Protection) != nil {
		return "signature"
	}
	return ""
}

// decide answers a request: waiting, a refusal, or a certificate as its template has it.
func (f *fake) decide(m *cmpmsg.Message, t *transaction) []byte {
	rep := &cmpmsg.CertRepMessage{Kind: cmpmsg.TypeCP}
	s := cmpmsg.CertResponse{ReqID: big.NewInt(0)}
	if m.Body.Type() == cmpmsg.TypeIR {
		rep.Kind = cmpmsg.TypeIP
	}
	if m.Body.Type() == cmpmsg.TypeP10CR {
		s.ReqID = big.NewInt(-1)
	}
	switch {
	case f.waits > 0:
		s.Status.Status = cmpmsg.StatusWaiting
	case f.refuses != 0:
		s.Status = cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusRejection, FailInfo: f.refuses}
	default:
		t.cert = f.issue(m)
		s.Certificate = t.cert.Raw
		f.ledger[string(t.cert.RawSubjectPublicKeyInfo)] = append(f.ledger[string(t.cert.RawSubjectPublicKeyInfo)], t)
		_, t.open = m.Header.Info(cmpmsg.OIDImplicitConfirm)
		t.open = !t.open || f.explicit
	}
	rep.Responses = []cmpmsg.CertResponse{s}
	var info []cmpmsg.InfoTypeAndValue
	if t.cert != nil && !t.open {
		info = append(info, cmpmsg.InfoTypeAndValue{Type: cmpmsg.OIDImplicitConfirm, Value: []byte{5, 0}})
	}
	return f.protect(m, rep, info...)
}

func (f *fake) issue(m *cmpmsg.Message) *x509.Certificate {
	serials++
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(serials << 32)}
	var spki []byte
	switch b := m.Body.(type) {
	case *cmpmsg.PKCS10:
		csr, err := x509.ParseCertificateRequest(b.CSR)
		if err != nil {
			f.t.Error(err)
		}
		tmpl.RawSubject, spki, tmpl.ExtraExtensions = csr.RawSubject, csr.RawSubjectPublicKeyInfo, csr.Extensions
		tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(24*time.Hour)
	case *cmpmsg.CertReqMessages:
		q := &b.Messages[0]
		if q.POP == nil || q.POP.Kind != cmpmsg.POPRAVerified {
			f.t.Error("no raVerified")
		}
		tmpl.RawSubject, spki, tmpl.NotBefore, tmpl.NotAfter = q.Template.Subject, q.Template.PublicKey, q.Template.NotBefore, q.Template.NotAfter
		if q.Template.Extensions != nil {
			if _, err := asn1.Unmarshal(q.Template.Extensions, &tmpl.ExtraExtensions); err != nil {
				f.t.Error(err)
			}
		}
	}
	pub, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		f.t.Error(err)
	}
	if f.wrongKey {
		pub = p256().Public()
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, f.cert, pub, f.key)
	if err != nil {
		f.t.Error(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		f.t.Error(err)
	}
	return c
}

func (f *fake) revoke(b *cmpmsg.RevReq) cmpmsg.PKIStatusInfo {
	d := b.Details[0].Certificate
	for _, list := range f.ledger {
		for _, t := range list {
			if t.cert.SerialNumber.Cmp(d.SerialNumber) != 0 || !bytes.Equal(t.cert.RawIssuer, d.Issuer) {
				continue
			}
			if f.revoked[t.cert.SerialNumber.String()] {
				return cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusRejection, FailInfo: cmpmsg.CertRevoked}
			}
			f.revoked[t.cert.SerialNumber.String()] = true
			return cmpmsg.PKIStatusInfo{}
		}
	}
	return cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusRejection, FailInfo: cmpmsg.BadCertID}
}

func (f *fake) general(b *cmpmsg.General) cmpmsg.Body {
	v := cmpmsg.InfoTypeAndValue{Type: b.Info[0].Type}
	var err error
	switch {
	case v.Type.Equal(cmpmsg.OIDCACerts):
		list := [][]byte{f.root.Raw, f.cert.Raw}
		if f.told != nil {
			list = ders(f.told)
		}
		v.Value, err = cmpmsg.MarshalSequences(list...)
	case v.Type.Equal(cmpmsg.OIDRootCACert):
		if f.asked++; f.update == nil {
			return failure(cmpmsg.BadRequest, "what is that")
		}
		return f.update(b.Info[0].Value)
	case v.Type.Equal(cmpmsg.OIDCurrentCRL):
		list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(time.Hour)}
		for s := range f.revoked {
			n, _ := new(big.Int).SetString(s, 10)
			list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: n, RevocationTime: time.Now()})
		}
		v.Value, err = x509.CreateRevocationList(rand.Reader, list, f.cert, f.key)
	}
	if err != nil {
		f.t.Error(err)
	}
	return &cmpmsg.General{Kind: cmpmsg.TypeGenP, Info: []cmpmsg.InfoTypeAndValue{v}}
}

// protect makes an answer to a message, protected as that is.
func (f *fake) protect(m *cmpmsg.Message, body cmpmsg.Body, info ...cmpmsg.InfoTypeAndValue) []byte {
	out := &cmpmsg.Outgoing{Body: body, Header: cmpmsg.Header{
		PVNO: 2, Sender: cmpmsg.GeneralDirectoryName(f.answerCert.RawSubject), Recipient: m.Header.Sender, MessageTime: time.Now().UTC().Truncate(time.Second),
		TransactionID: m.Header.TransactionID, SenderNonce: random(), RecipNonce: m.Header.SenderNonce, GeneralInfo: info,
	}}
	protect := func(part []byte) ([]byte, error) {
		_, s, err := pkix.Sign(f.answerKey, part)
		return s, err
	}
	alg := m.Header.ProtectionAlg
	_, failed := body.(*cmpmsg.ErrorMsg)
	switch {
	case failed && f.bare:
		alg, protect = nil, nil
	case alg != nil && alg.IsMAC():
		mac, err := cmpmsg.ParseMAC(alg, cmpmsg.MACPolicy{})
		if err != nil {
			f.t.Error(err)
			return nil
		}
		protect = func(part []byte) ([]byte, error) { return mac.Sum([]byte("a shared secret"), part), nil }
		out.Header.SenderKID = []byte("ref")
	default:
		der, err := pkix.SignatureAlgorithm(f.answerKey)
		if err != nil {
			f.t.Error(err)
		}
		alg = &cmpmsg.AlgorithmIdentifier{Raw: der}
		out.ExtraCerts = [][]byte{f.answerCert.Raw, f.cert.Raw, f.root.Raw}
	}
	out.Header.ProtectionAlg = alg
	if f.change != nil {
		f.change(out)
	}
	der, err := out.Protect(protect)
	if err != nil {
		f.t.Error(err)
	}
	return der
}

// issued is how many certificates there are for a public key.
func (f *fake) issued(spki []byte) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.ledger[string(spki)])
}
