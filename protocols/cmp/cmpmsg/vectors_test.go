package cmpmsg

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"testing"
	"time"
)

var secret = []byte("vector-secret-1")

// messages are the files of testdata/cmp, with the number of extraCerts.
var messages = []struct {
	name  string
	body  BodyType
	extra int
	sha1  bool
}{
	{"ir-pbm", TypeIR, 0, false}, {"ip-pbm", TypeIP, 1, false}, {"certconf-pbm", TypeCertConf, 0, false}, {"pkiconf-pbm", TypePKIConf, 0, false},
	{"cr-pbm-sha512", TypeCR, 0, false}, {"cp-pbm-sha512", TypeCP, 1, false}, {"cr-pbm-384", TypeCR, 0, false},
	{"cr-pbm-mixed", TypeCR, 0, false}, {"cr-pbm-sha1", TypeCR, 0, true},
	{"p10cr-pbm", TypeP10CR, 0, false}, {"cp-p10cr", TypeCP, 1, false}, {"certconf-p10cr", TypeCertConf, 0, false},
	{"ir-sig", TypeIR, 2, false}, {"ip-sig", TypeIP, 1, false}, {"certconf-sig", TypeCertConf, 2, false}, {"pkiconf-sig", TypePKIConf, 1, false},
	{"kur-sig", TypeKUR, 1, false}, {"kup-sig", TypeKUP, 1, false}, {"rr-sig", TypeRR, 1, false}, {"rp-sig", TypeRP, 1, false},
	{"genm-sig", TypeGenM, 1, false}, {"genp-sig", TypeGenP, 1, false},
	{"error-pbm", TypeError, 0, false}, {"cp-rejection", TypeCP, 1, false}, {"cp-waiting", TypeCP, 0, false},
	{"pollreq-pbm", TypePollReq, 0, false}, {"pollrep-pbm", TypePollRep, 0, false},
	{"ir-pop-none", TypeIR, 0, false}, {"ir-pop-raverified", TypeIR, 0, false}, {"ir-pop-keyenc", TypeIR, 0, false},
	{"ir-no-subject", TypeIR, 0, false},
}

func TestOpenSSLMessages(t *testing.T) {
	for _, tt := range messages {
		t.Run(tt.name, func(t *testing.T) {
			m := parsed(t, tt.name)
			if m.Body.Type() != tt.body || len(m.ExtraCerts) != tt.extra || m.Header.PVNO != 2 {
				t.Errorf("%v with %d extraCerts, pvno %d", m.Body.Type(), len(m.ExtraCerts), m.Header.PVNO)
			}
			if len(m.Header.TransactionID) != 16 || len(m.Header.SenderNonce) != 16 || m.Header.MessageTime.Year() != 2026 {
				t.Errorf("header %+v", m.Header)
			}
			alg := m.Header.ProtectionAlg
			if alg.IsMAC() {
				checkMAC(t, m, tt.sha1)
			} else {
				signer := certificate(t, m.ExtraCerts[0])
				if err := signer.CheckSignature(x509.ECDSAWithSHA256, m.Protected(), m.Protection); err != nil {
					t.Error(err)
				}
			}
			// What OpenSSL writes is what this package would have written.
			sameBytes(t, "with raw fields", again(t, m), m.Raw)
			strip(m)
			sameBytes(t, "from the fields", again(t, m), read(t, tt.name))
		})
	}
}

func checkMAC(t *testing.T, m *Message, sha1 bool) {
	t.Helper()
	mac, err := ParseMAC(m.Header.ProtectionAlg, MACPolicy{})
	if sha1 {
		if !errors.Is(err, ErrAlgorithm) {
			t.Errorf("SHA-1: %v", err)
		}
		mac, err = ParseMAC(m.Header.ProtectionAlg, MACPolicy{AllowSHA1: true})
	}
	if err != nil {
		t.Fatal(err)
	}
	if !mac.Verify(secret, m.Protected(), m.Protection) {
		t.Error("the MAC does not verify")
	}
	if mac.Verify([]byte("vector-secret-2"), m.Protected(), m.Protection) {
		t.Error("the MAC verifies under another secret")
	}
	if mac.Verify(secret, append(m.Protected(), 0), m.Protection) {
		t.Error("the MAC verifies over something else")
	}
}

func request(t *testing.T, name string) *CertReqMsg {
	t.Helper()
	b, ok := parsed(t, name).Body.(*CertReqMessages)
	if !ok || len(b.Messages) != 1 {
		t.Fatalf("%s: %+v", name, b)
	}
	return &b.Messages[0]
}

func TestOpenSSLRequest(t *testing.T) {
	for _, name := range []string{"ir-pbm", "cr-pbm-sha512", "ir-sig", "kur-sig", "ir-no-subject"} {
		r := request(t, name)
		pub, err := x509.ParsePKIXPublicKey(r.Template.PublicKey)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		hash := sha256.Sum256(r.RawRequest)
		if name == "cr-pbm-sha512" {
			continue // another digest; the others show what is signed
		}
		if r.POP.Kind != POPSignature || r.POP.Signing.RawInput != nil || !ecdsa.VerifyASN1(pub.(*ecdsa.PublicKey), hash[:], r.POP.Signing.Signature) {
			t.Errorf("%s: POP %+v", name, r.POP)
		}
		if r.ReqID.Sign() != 0 {
			t.Errorf("%s: certReqId %v", name, r.ReqID)
		}
		made, err := r.Request()
		if err != nil {
			t.Fatal(err)
		}
		sameBytes(t, name, made, r.RawRequest)
	}
	r := request(t, "ir-pbm")
	sameBytes(t, "subject", r.Template.Subject, []byte("\x30\x13\x31\x11\x30\x0f\x06\x03\x55\x04\x03\x0c\x08device-1"))
	if d := r.Template.NotAfter.Sub(r.Template.NotBefore); d != 30*24*time.Hour {
		t.Errorf("validity of %v", d)
	}
	var exts []struct {
		ID       asn1.ObjectIdentifier
		Critical bool `asn1:"optional"`
		Value    []byte
	}
	if rest, err := asn1.Unmarshal(r.Template.Extensions, &exts); err != nil || len(rest) != 0 || len(exts) != 1 {
		t.Errorf("extensions %x: %v", r.Template.Extensions, err)
	}
	if request(t, "ir-no-subject").Template.Subject != nil {
		t.Error("a subject")
	}
	if pop := request(t, "ir-pop-none").POP; pop != nil {
		t.Errorf("POP %+v", pop)
	}
	if pop := request(t, "ir-pop-raverified").POP; pop.Kind != POPRAVerified {
		t.Errorf("POP %+v", pop)
	}
	if pop := request(t, "ir-pop-keyenc").POP; pop.Kind != POPKeyEncipherment || pop.PrivKey.Method != 1 || pop.PrivKey.Subsequent != 0 {
		t.Errorf("POP %+v", pop)
	}
	old, ok := request(t, "kur-sig").Control(OIDOldCertID)
	if !ok {
		t.Fatal("no oldCertID")
	}
	id, err := ParseCertID(old)
	if err != nil || id.Serial.Cmp(big.NewInt(3)) != 0 {
		t.Fatalf("%+v, %v", id, err)
	}
	issuer, ok := DirectoryName(id.Issuer)
	if !ok {
		t.Error("issuer is no directoryName")
	}
	sameBytes(t, "issuer", issuer, certificate(t, read(t, "ca")).RawSubject)

	csr, err := x509.ParseCertificateRequest(parsed(t, "p10cr-pbm").Body.(*PKCS10).CSR)
	if err != nil || csr.CheckSignature() != nil {
		t.Error(err)
	}
	d := parsed(t, "rr-sig").Body.(*RevReq).Details
	if len(d) != 1 || d[0].Certificate.SerialNumber.Int64() != 3 || len(d[0].Certificate.Issuer) == 0 || len(d[0].Extensions) == 0 {
		t.Errorf("rr %+v", d)
	}
}

func TestOpenSSLAnswers(t *testing.T) {
	minusOne := big.NewInt(-1)
	ip := parsed(t, "ip-pbm").Body.(*CertRepMessage)
	if len(ip.CAPubs) != 1 || len(ip.Responses) != 1 || ip.Responses[0].Status.Status != StatusAccepted {
		t.Errorf("ip %+v", ip)
	}
	cert := ip.Responses[0].Certificate
	if certificate(t, cert).SerialNumber.Int64() != 3 {
		t.Error("another certificate")
	}
	conf := parsed(t, "certconf-pbm").Body.(*CertConf).Statuses[0]
	hash := sha256.Sum256(cert)
	sameBytes(t, "certHash", conf.CertHash, hash[:])

	if r := parsed(t, "cp-p10cr").Body.(*CertRepMessage).Responses[0]; r.ReqID.Cmp(minusOne) != 0 {
		t.Errorf("certReqId %v", r.ReqID)
	}
	if s := parsed(t, "certconf-p10cr").Body.(*CertConf).Statuses[0]; s.ReqID.Cmp(minusOne) != 0 {
		t.Errorf("certReqId %v", s.ReqID)
	}
	s := parsed(t, "cp-rejection").Body.(*CertRepMessage).Responses[0].Status
	equal(t, "rejection", s, PKIStatusInfo{StatusRejection, []string{"not this template"}, BadCertTemplate})
	if s := parsed(t, "cp-waiting").Body.(*CertRepMessage).Responses[0].Status; s.Status != StatusWaiting {
		t.Errorf("status %v", s.Status)
	}
	if p := parsed(t, "pollreq-pbm").Body.(*PollReq); len(p.ReqIDs) != 1 || p.ReqIDs[0].Sign() != 0 {
		t.Errorf("pollReq %+v", p)
	}
	if p := parsed(t, "pollrep-pbm").Body.(*PollRep); len(p.Responses) != 1 || p.Responses[0].CheckAfter != 1 {
		t.Errorf("pollRep %+v", p)
	}
	e := parsed(t, "error-pbm").Body.(*ErrorMsg)
	if e.Status.Status != StatusRejection || e.Code == nil || len(e.Details) == 0 {
		t.Errorf("error %+v", e)
	}
	if p := parsed(t, "rp-sig").Body.(*RevRep); len(p.Statuses) != 1 || len(p.CertIDs) != 1 || p.CertIDs[0].Serial.Int64() != 3 {
		t.Errorf("rp %+v", p)
	}
	genm := parsed(t, "genm-sig")
	if g := genm.Body.(*General); len(g.Info) != 1 || !g.Info[0].Type.Equal(OIDSignKeyPairTypes) {
		t.Errorf("genm %+v", g)
	}
	v, ok := genm.Header.Info(asn1.ObjectIdentifier{1, 2, 3, 4})
	if !ok || string(v) != seq(integer(56789)) && string(v) != integer(56789) {
		t.Errorf("generalInfo %x, %v", v, ok)
	}
	for _, name := range []string{"cr-pbm-sha512", "cp-pbm-sha512"} {
		m := parsed(t, name)
		if v, ok := m.Header.Info(OIDImplicitConfirm); !ok || string(v) != "\x05\x00" {
			t.Errorf("%s: implicitConfirm %x, %v", name, v, ok)
		}
		if _, ok := m.Header.Info(OIDConfirmWaitTime); ok {
			t.Errorf("%s: confirmWaitTime", name)
		}
	}
	if h := parsed(t, "ir-pbm").Header; string(h.SenderKID) != "device-1" || h.FreeText != nil || h.RecipNonce != nil {
		t.Errorf("header %+v", h)
	}
	// The answers of the mock server are from the RA.
	sameBytes(t, "signer", parsed(t, "ip-sig").ExtraCerts[0], read(t, "ra"))
}

// PEM is a common mistake at the first attempt.
func TestPEMIsNoMessage(t *testing.T) {
	in := pem.EncodeToMemory(&pem.Block{Type: "PKIMESSAGE", Bytes: read(t, "ir-pbm")})
	var e *Error
	if m, err := Parse(in); m != nil || !errors.As(err, &e) || e.Body {
		t.Errorf("%v, %v", m, err)
	}
}
