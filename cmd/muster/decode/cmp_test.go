package decode

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	ourpkix "github.com/muster-pki/muster/gateway/pkix"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/cms"
)

// decodeTestWorld has keys from seeds and fixed dates, so that views are the same in every run.
type decodeTestWorld struct {
	caKey, deviceKey   ed25519.PrivateKey
	ca, device         *x509.Certificate
	mac                *cmpmsg.MAC
	secret             []byte
	caName, deviceName []byte // DER GeneralName
}

func decodeWorld(t testing.TB) *decodeTestWorld {
	t.Helper()
	w := &decodeTestWorld{
		caKey:     ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize)),
		deviceKey: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, ed25519.SeedSize)),
		secret:    []byte("correct horse"),
	}
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	caTemplate := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test CA", Organization: []string{"Muster"}},
		NotBefore: from, NotAfter: from.AddDate(10, 0, 0), IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	w.ca = certify(t, caTemplate, caTemplate, w.caKey.Public(), w.caKey)
	w.device = certify(t, &x509.Certificate{
		SerialNumber: big.NewInt(0x1234), Subject: pkix.Name{CommonName: "device-1"},
		NotBefore: from, NotAfter: from.AddDate(1, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, SubjectKeyId: []byte{7, 7, 7},
		DNSNames: []string{"device-1.example"}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)},
	}, w.ca, w.deviceKey.Public(), w.caKey)
	w.caName = cmpmsg.GeneralDirectoryName(w.ca.RawSubject)
	w.deviceName = cmpmsg.GeneralDirectoryName(w.device.RawSubject)
	var err error
	if w.mac, err = cmpmsg.NewPBM(crypto.SHA256, crypto.SHA256, 500, []byte("0123456789abcdef")); err != nil {
		t.Fatal(err)
	}
	return w
}

func certify(t testing.TB, template, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(nil, template, parent, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func (w *decodeTestWorld) header() cmpmsg.Header {
	return cmpmsg.Header{
		PVNO: 2, Sender: w.deviceName, Recipient: w.caName, MessageTime: time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC),
		TransactionID: bytes.Repeat([]byte{0xaa}, 16), SenderNonce: bytes.Repeat([]byte{0xbb}, 16),
	}
}

// plain is a message without protection.
func (w *decodeTestWorld) plain(t testing.TB, body cmpmsg.Body) []byte {
	t.Helper()
	return protect(t, &cmpmsg.Outgoing{Header: w.header(), Body: body}, nil)
}

// signed is a message signed by the device.
func (w *decodeTestWorld) signed(t testing.TB, body cmpmsg.Body, extra ...*x509.Certificate) []byte {
	t.Helper()
	o := &cmpmsg.Outgoing{Header: w.header(), Body: body}
	alg, err := ourpkix.SignatureAlgorithm(w.deviceKey)
	if err != nil {
		t.Fatal(err)
	}
	oid, _, _ := readWholeAlgorithm(alg)
	o.Header.ProtectionAlg = &cmpmsg.AlgorithmIdentifier{Raw: alg, OID: oid}
	o.Header.SenderKID = w.device.SubjectKeyId
	for _, c := range extra {
		o.ExtraCerts = append(o.ExtraCerts, c.Raw)
	}
	return protect(t, o, func(part []byte) ([]byte, error) {
		_, signature, err := ourpkix.Sign(w.deviceKey, part)
		return signature, err
	})
}

// maced is a message protected with the secret.
func (w *decodeTestWorld) maced(t testing.TB, mac *cmpmsg.MAC, body cmpmsg.Body) []byte {
	t.Helper()
	o := &cmpmsg.Outgoing{Header: w.header(), Body: body}
	alg := mac.Algorithm()
	o.Header.ProtectionAlg, o.Header.SenderKID = &alg, []byte("device-1")
	return protect(t, o, func(part []byte) ([]byte, error) { return mac.Sum(w.secret, part), nil })
}

func protect(t testing.TB, o *cmpmsg.Outgoing, f func([]byte) ([]byte, error)) []byte {
	t.Helper()
	der, err := o.Protect(f)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// request is a CertReqMessages with everything that a request may have.
func (w *decodeTestWorld) request(t testing.TB, kind cmpmsg.BodyType) *cmpmsg.CertReqMessages {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(w.deviceKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	// GeneralNames { dNSName "new.example", rfc822Name "a@example" }, critical
	extensions, err := asn1.Marshal([]pkix.Extension{{
		Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: []byte("\x30\x18\x82\x0bnew.example\x81\x09a@example"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	old, err := (&cmpmsg.CertID{Issuer: w.caName, Serial: w.device.SerialNumber}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	token, err := cmpmsg.MarshalText("s3cret token")
	if err != nil {
		t.Fatal(err)
	}
	m := cmpmsg.CertReqMsg{
		ReqID: big.NewInt(0), Template: cmpmsg.CertTemplate{Subject: w.device.RawSubject, PublicKey: spki, Extensions: extensions},
		Controls: []cmpmsg.AttributeTypeAndValue{{Type: cmpmsg.OIDRegToken, Value: token}, {Type: cmpmsg.OIDOldCertID, Value: old}},
	}
	raw, err := m.Request()
	if err != nil {
		t.Fatal(err)
	}
	alg, signature, err := ourpkix.Sign(w.deviceKey, raw)
	if err != nil {
		t.Fatal(err)
	}
	oid, _, _ := readWholeAlgorithm(alg)
	m.POP = &cmpmsg.ProofOfPossession{Kind: cmpmsg.POPSignature, Signing: &cmpmsg.POPOSigningKey{
		Algorithm: cmpmsg.AlgorithmIdentifier{Raw: alg, OID: oid}, Signature: signature,
	}}
	return &cmpmsg.CertReqMessages{Kind: kind, Messages: []cmpmsg.CertReqMsg{m}}
}

func (w *decodeTestWorld) ir(t testing.TB) []byte {
	t.Helper()
	return w.signed(t, w.request(t, cmpmsg.TypeIR), w.device, w.ca)
}

// secretArgs are the arguments that give the secret.
func (w *decodeTestWorld) secretArgs(t testing.TB, secret []byte) []string {
	t.Helper()
	return []string{"cmp", "-", "--secret-file", tempFile(t, append(bytes.Clone(secret), '\n'))}
}

func TestDecodeCMPViews(t *testing.T) {
	w := decodeWorld(t)
	pbmac1, err := cmpmsg.NewPBMAC1(crypto.SHA256, crypto.SHA512, 1000, []byte("fedcba9876543210"))
	if err != nil {
		t.Fatal(err)
	}
	answer := &cmpmsg.CertRepMessage{Kind: cmpmsg.TypeIP, CAPubs: [][]byte{w.ca.Raw}, Responses: []cmpmsg.CertResponse{
		{ReqID: big.NewInt(0), Status: cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusGrantedWithMods}, Certificate: w.device.Raw},
		{ReqID: big.NewInt(1), Status: cmpmsg.PKIStatusInfo{
			Status: cmpmsg.StatusRejection, FailInfo: cmpmsg.BadPOP | cmpmsg.NotAuthorized, Text: []string{"no", "never"},
		}},
	}}
	golden(t, "ir-signed", decoded(t, w.ir(t), "cmp", "-"))
	golden(t, "kur-mac", decoded(t, w.maced(t, w.mac, w.request(t, cmpmsg.TypeKUR)), w.secretArgs(t, w.secret)...))
	golden(t, "ip-pbmac1", decoded(t, w.maced(t, pbmac1, answer), w.secretArgs(t, w.secret)...))
}

func TestDecodeCMPProtection(t *testing.T) {
	w := decodeWorld(t)
	conf := &cmpmsg.PKIConf{}
	flip := func(der []byte, part string) []byte {
		i := bytes.Index(der, []byte(part))
		if i < 0 {
			t.Fatalf("no %q", part)
		}
		der[i] ^= 1
		return der
	}
	broken := w.header()
	broken.ProtectionAlg = &cmpmsg.AlgorithmIdentifier{OID: asn1.ObjectIdentifier{1, 3, 101, 112}}
	for _, tt := range []struct {
		name string
		der  []byte
		args []string
		want []string
	}{
		{"none", w.plain(t, conf), nil, []string{"protection none"}},
		{"signature", w.signed(t, conf, w.device), nil, []string{"signature verifies with extraCerts 1, CN=device-1"}},
		{"signer is not first", w.signed(t, conf, w.ca, w.device), nil, []string{"signature verifies with extraCerts 2, CN=device-1"}},
		{"not the signer", w.signed(t, conf, w.ca), nil, []string{"signature DOES NOT VERIFY with extraCerts 1, CN=Test CA,O=Muster"}},
		{"changed", flip(w.signed(t, conf, w.ca, w.device), "\xaa\xaa"), nil,
			[]string{"signature DOES NOT VERIFY with extraCerts 2, CN=device-1, nor with any other"}},
		{"no extraCerts", w.signed(t, conf), nil, []string{"signature not checked: no extraCerts to check it with"}},
		{"no secret", w.maced(t, w.mac, conf), []string{"cmp", "-"},
			[]string{"MAC not checked: --secret-file names the file with the shared secret", `senderKID 6465766963652d31 ("device-1")`}},
		{"secret", w.maced(t, w.mac, conf), w.secretArgs(t, w.secret), []string{"MAC verifies with the secret", "iterations 500"}},
		{"wrong secret", w.maced(t, w.mac, conf), w.secretArgs(t, []byte("wrong")), []string{"MAC DOES NOT VERIFY with the secret"}},
		{"changed under a MAC", flip(w.maced(t, w.mac, conf), "\xaa\xaa"), w.secretArgs(t, w.secret), []string{"MAC DOES NOT VERIFY with the secret"}},
	} {
		args := tt.args
		if args == nil {
			args = []string{"cmp", "-"}
		}
		t.Run(tt.name, func(t *testing.T) { has(t, decoded(t, tt.der, args...), tt.want...) })
	}
	if _, err := runDecode(t, w.ir(t), w.secretArgs(t, nil)...); err == nil || !strings.Contains(err.Error(), "the secret is empty") {
		t.Errorf("empty secret: %v", err)
	}
}

// The parameters are shown, but what would cost minutes is not computed.
func TestDecodeShowsUnacceptableMAC(t *testing.T) {
	w := decodeWorld(t)
	md5 := pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 5}}
	parameters, err := asn1.Marshal(struct {
		Salt       []byte
		OWF        pkix.AlgorithmIdentifier
		Iterations int
		MAC        pkix.AlgorithmIdentifier
	}{[]byte("salt"), md5, 2_000_000_000, md5})
	if err != nil {
		t.Fatal(err)
	}
	o := &cmpmsg.Outgoing{Header: w.header(), Body: &cmpmsg.PKIConf{}}
	o.Header.ProtectionAlg = &cmpmsg.AlgorithmIdentifier{OID: cmpmsg.OIDPasswordBasedMac, Parameters: parameters}
	der := protect(t, o, func([]byte) ([]byte, error) { return []byte("mac"), nil })
	view := decoded(t, der, w.secretArgs(t, w.secret)...)
	has(t, view, "iterations 2000000000", "one-way function MD5", "salt 73616c74")
	if !strings.Contains(view, "not checked: ") || strings.Contains(view, "VERIFY") {
		t.Error(view)
	}
}

// A batch makes the decoder compute a bounded number of MACs.
func TestDecodeCMPBoundsMACs(t *testing.T) {
	w := decodeWorld(t)
	var batch cmpmsg.Nested
	for range maxMACs + 5 {
		batch.Messages = append(batch.Messages, w.maced(t, w.mac, &cmpmsg.PKIConf{}))
	}
	view := decoded(t, w.plain(t, &batch), w.secretArgs(t, w.secret)...)
	if n := strings.Count(view, "verifies with the secret"); n != maxMACs {
		t.Errorf("%d MACs were computed, want %d", n, maxMACs)
	}
	has(t, view, "MAC not checked: over 20 of them")
}

// Keys and certificates that are encrypted: for whom, and with what.
func TestDecodeCMPEncryptedKey(t *testing.T) {
	w, s := decodeWorld(t), scepWorld(t)
	content := contentOf(s.encrypted(t, w.device.Raw, cms.AES256))
	enveloped := append([]byte{0xa0}, content[1:]...) // [0] IMPLICIT EnvelopedData
	body := &cmpmsg.CertRepMessage{Kind: cmpmsg.TypeIP, Responses: []cmpmsg.CertResponse{{ReqID: big.NewInt(0), EncrCert: enveloped, RspInfo: []byte{1}}}}
	view := decoded(t, w.plain(t, body), "cmp", "-")
	has(t, view, fmt.Sprintf("encryptedCert EnvelopedData, %d bytes", len(enveloped)), "key encryption rsaEncryption", "cipher AES-256-CBC", "rspInfo 01")
}

func TestDecodeCRL(t *testing.T) {
	w := decodeWorld(t)
	crl, err := x509.CreateRevocationList(nil, &x509.RevocationList{
		Number: big.NewInt(8), ThisUpdate: w.ca.NotBefore, NextUpdate: w.ca.NotAfter,
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(1), RevocationTime: w.ca.NotBefore}},
	}, w.ca, w.caKey)
	if err != nil {
		t.Fatal(err)
	}
	view := decoded(t, w.plain(t, &cmpmsg.CRLAnn{CRLs: [][]byte{crl}}), "cmp", "-")
	has(t, view, "CRL 1 of CN=Test CA,O=Muster", "revoked 1", "next update 2036-01-01 00:00:00 UTC", "cRLNumber 8")
}

func TestDecodeCMPBodies(t *testing.T) {
	w := decodeWorld(t)
	rejected := cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusRejection, FailInfo: cmpmsg.BadPOP}
	waiting := cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusWaiting}
	when, err := asn1.MarshalWithParams(time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC), "generalized")
	if err != nil {
		t.Fatal(err)
	}
	list := func(parts ...[]byte) []byte {
		var b cryptobyte.Builder
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			for _, p := range parts {
				b.AddBytes(p)
			}
		})
		return b.BytesOrPanic()
	}
	profile, err := cmpmsg.MarshalText("base-station")
	if err != nil {
		t.Fatal(err)
	}
	template, err := (&cmpmsg.CertReqTemplate{Template: cmpmsg.CertTemplate{Subject: w.ca.RawSubject},
		KeySpec: []cmpmsg.AttributeTypeAndValue{{Type: cmpmsg.OIDRSAKeyLen, Value: []byte{2, 2, 0x0c, 0}}}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	statuses, err := cmpmsg.MarshalCRLStatusList(cmpmsg.CRLStatus{Issuer: list(w.caName), ThisUpdate: w.ca.NotBefore})
	if err != nil {
		t.Fatal(err)
	}
	crlEntry := []byte("\x30\x0c\x30\x0a\x06\x03\x55\x1d\x15\x04\x03\x0a\x01\x01")
	id := cmpmsg.CertID{Issuer: w.caName, Serial: big.NewInt(0x1234)}
	for _, tt := range []struct {
		name string
		body cmpmsg.Body
		want []string
	}{
		{"error", &cmpmsg.ErrorMsg{Status: rejected, Code: big.NewInt(7), Details: []string{"why\x1b[m"}},
			[]string{"body error (23)", "status rejection (2)", "failInfo badPOP (9)", "errorCode 7", `errorDetails "why\x1b[m"`}},
		{"waiting", &cmpmsg.CertRepMessage{Kind: cmpmsg.TypeCP, Responses: []cmpmsg.CertResponse{{ReqID: big.NewInt(-1), Status: waiting}}},
			[]string{"body cp (3)", "certReqId -1", "status waiting (3)"}},
		{"certConf", &cmpmsg.CertConf{Statuses: []cmpmsg.CertStatus{{CertHash: []byte{1, 2}, ReqID: big.NewInt(0)},
			{CertHash: []byte{3}, ReqID: big.NewInt(1), Status: &rejected}}},
			[]string{"certHash 0102", "status accepted (no statusInfo)", "certHash 03", "status rejection (2)"}},
		{"empty certConf", &cmpmsg.CertConf{}, []string{"statuses none: every certificate is rejected"}},
		{"pollReq", &cmpmsg.PollReq{ReqIDs: []*big.Int{big.NewInt(5)}}, []string{"body pollReq (25)", "certReqId 5"}},
		{"pollRep", &cmpmsg.PollRep{Responses: []cmpmsg.PollResponse{{ReqID: big.NewInt(5), CheckAfter: 60, Reason: []string{"busy"}}}},
			[]string{"body pollRep (26)", "checkAfter 60 s", `reason "busy"`}},
		{"rr", &cmpmsg.RevReq{Details: []cmpmsg.RevDetails{{
			Certificate: cmpmsg.CertTemplate{Issuer: w.ca.RawSubject, SerialNumber: big.NewInt(0x1234)}, Extensions: crlEntry}}},
			[]string{"body rr (11)", "serialNumber 1234", "issuer CN=Test CA,O=Muster", "reasonCode keyCompromise (1)"}},
		{"rp", &cmpmsg.RevRep{Statuses: []cmpmsg.PKIStatusInfo{{}}, CertIDs: []cmpmsg.CertID{id}},
			[]string{"certificate serial 1234 of CN=Test CA,O=Muster", "status accepted (0)"}},
		{"rann", &cmpmsg.RevAnn{Status: cmpmsg.StatusRevocationWarning, Certificate: id, WillBeRevoked: w.ca.NotBefore, BadSince: w.ca.NotBefore},
			[]string{"status revocationWarning (4)", "badSinceDate 2026-01-01 00:00:00 UTC"}},
		{"cann", &cmpmsg.CertAnn{Certificate: w.ca.Raw}, []string{"certificate CN=Test CA,O=Muster"}},
		{"ckuann", &cmpmsg.CAKeyUpdate{NewWithNew: w.ca.Raw}, []string{"newWithNew CN=Test CA,O=Muster"}},
		{"genm", &cmpmsg.General{Kind: cmpmsg.TypeGenM, Info: []cmpmsg.InfoTypeAndValue{{Type: cmpmsg.OIDCACerts},
			{Type: asn1.ObjectIdentifier{1, 2, 3}, Value: []byte{0x30, 3, 2, 1, 5}}}},
			[]string{"body genm (21)", "caCerts", "1.2.3 SEQUENCE", "INTEGER 5"}},
		{"genp", &cmpmsg.General{Kind: cmpmsg.TypeGenP, Info: []cmpmsg.InfoTypeAndValue{
			{Type: cmpmsg.OIDCACerts, Value: list(w.ca.Raw)}, {Type: cmpmsg.OIDConfirmWaitTime, Value: when},
			{Type: cmpmsg.OIDCertProfile, Value: list(profile)}, {Type: cmpmsg.OIDRootCAKeyUpdate, Value: list(w.ca.Raw)},
			{Type: cmpmsg.OIDCertReqTemplate, Value: template}, {Type: cmpmsg.OIDCRLStatusList, Value: statuses},
			{Type: cmpmsg.OIDUnsupportedOIDs, Value: list([]byte("\x06\x03\x2b\x65\x70"))},
			{Type: cmpmsg.OIDImplicitConfirm, Value: []byte{5, 0}}}},
			[]string{"caCerts 1", "confirmWaitTime 2026-05-06 07:08:09 UTC", `certProfile "base-station"`, "newWithNew CN=Test CA,O=Muster",
				"subject CN=Test CA,O=Muster", "rsaKeyLen 3072", "issuer CN=Test CA,O=Muster", "thisUpdate 2026-01-01 00:00:00 UTC",
				"unsupportedOIDs Ed25519", "implicitConfirm"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			view := decoded(t, w.plain(t, tt.body), "cmp", "-")
			has(t, view, tt.want...)
			assertPrintable(t, view)
		})
	}
}

// What OpenSSL sends is shown without a fault, and verifies.
func TestDecodeCMPVectors(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "..", "..", "testdata", "cmp", "*-*.der"))
	if err != nil || len(files) < 20 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	args := decodeWorld(t).secretArgs(t, []byte("vector-secret-1"))
	for _, file := range files {
		args[1] = file
		view := decoded(t, nil, args...)
		assertPrintable(t, view)
		if !strings.Contains(view, "MAC        verifies with the secret") && !strings.Contains(view, "signature  verifies with extraCerts 1") {
			t.Errorf("%s:\n%s", file, view)
		}
		if strings.Contains(view, "outline") || strings.Contains(view, "(not a") {
			t.Errorf("%s is not shown in full:\n%s", file, view)
		}
	}
	args[1] = filepath.Join("..", "..", "..", "testdata", "cmp", "cp-rejection.der")
	has(t, decoded(t, nil, args...), "status rejection (2)", "failInfo badCertTemplate (19)", `statusString "not this template"`)
}

// A proof that is wrong is called so.
func TestDecodeCMPProofOfPossession(t *testing.T) {
	w := decodeWorld(t)
	bad := w.request(t, cmpmsg.TypeIR)
	bad.Messages[0].POP.Signing.Signature[3] ^= 1
	has(t, decoded(t, w.plain(t, bad), "cmp", "-"), "popo signature (1)", "proof DOES NOT VERIFY")
	ra := w.request(t, cmpmsg.TypeIR)
	ra.Messages[0].POP = &cmpmsg.ProofOfPossession{Kind: cmpmsg.POPRAVerified}
	has(t, decoded(t, w.plain(t, ra), "cmp", "-"), "popo raVerified (0)")
	none := w.request(t, cmpmsg.TypeIR)
	none.Messages[0].POP = nil
	has(t, decoded(t, w.plain(t, none), "cmp", "-"), "popo none")
	encr := w.request(t, cmpmsg.TypeIR)
	encr.Messages[0].POP = &cmpmsg.ProofOfPossession{Kind: cmpmsg.POPKeyEncipherment, PrivKey: &cmpmsg.POPOPrivKey{Method: 1}}
	has(t, decoded(t, w.plain(t, encr), "cmp", "-"), "popo keyEncipherment (2)", "method subsequentMessage (1), encrCert (0)")
}

func TestDecodeCMPSecrets(t *testing.T) {
	der := decodeWorld(t).ir(t)
	view := decoded(t, der, "cmp", "-")
	has(t, view, "regToken present (12 characters)")
	if strings.Contains(view, "s3cret") {
		t.Error("the token is shown")
	}
	has(t, decoded(t, der, "cmp", "-", "--show-secrets"), `regToken "s3cret token"`)
	// Nor in the outline of a message that is cut off behind it.
	i := bytes.Index(der, []byte("s3cret token")) + 20
	view, err := runDecode(t, der[:i], "cmp", "-")
	if err == nil || !strings.Contains(view, "regToken") || strings.Contains(view, "s3cret") {
		t.Errorf("%v\n%s", err, view)
	}
	if view, _ = runDecode(t, der[:i], "cmp", "-", "--show-secrets"); !strings.Contains(view, "s3cret token") {
		t.Errorf("not shown:\n%s", view)
	}
}

func TestDecodeCMPNested(t *testing.T) {
	w := decodeWorld(t)
	inner := w.ir(t)
	batch := w.plain(t, &cmpmsg.Nested{Messages: [][]byte{inner, w.plain(t, &cmpmsg.Nested{Messages: [][]byte{w.plain(t, &cmpmsg.PKIConf{})}})}})
	view := decoded(t, batch, "cmp", "-")
	has(t, view, fmt.Sprintf("PKIMessage 1 ir (0), %d bytes", len(inner)), "signature verifies with extraCerts 1, CN=device-1")
	if !strings.Contains(view, "\n        PKIMessage 2.1  pkiconf (19)") {
		t.Errorf("not numbered or indented:\n%s", view)
	}

	// As deep as the guard lets through.
	deep, levels := w.plain(t, &cmpmsg.PKIConf{}), 0
	for {
		out := &cmpmsg.Outgoing{Header: w.header(), Body: &cmpmsg.Nested{Messages: [][]byte{deep}}}
		next, err := out.Protect(nil)
		if err != nil {
			break
		}
		if _, err := cmpmsg.Parse(next); err != nil {
			break
		}
		deep, levels = next, levels+1
	}
	if levels <= maxNesting {
		t.Fatalf("only %d levels: maxNesting is never reached", levels)
	}
	view = decoded(t, deep, "cmp", "-")
	if n := strings.Count(view, "PKIMessage"); n != maxNesting+2 || !strings.Contains(view, "nested deeper than 6 messages: left out") {
		t.Errorf("%d of %d levels are shown:\n%s", n, levels, view)
	}
}

// A message whose body alone is broken shows the rest; the offset is the body's, in nested messages too.
func TestDecodeCMPBroken(t *testing.T) {
	w := decodeWorld(t)
	der := w.signed(t, &cmpmsg.ErrorMsg{Status: cmpmsg.PKIStatusInfo{Status: cmpmsg.StatusRejection}}, w.device)
	at := bytes.Index(der, []byte{0x30, 3, 2, 1, 2}) + 2
	der[at] = 4 // OCTET STRING in the place of status
	view, err := runDecode(t, der, "cmp", tempFile(t, der))
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("file: byte %d: PKIMessage: ", at)) {
		t.Errorf("%v, want byte %d", err, at)
	}
	has(t, view, "transactionID aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "1 CN=device-1", fmt.Sprintf("%d: OCTET STRING 02", at))

	nested := w.plain(t, &cmpmsg.Nested{Messages: [][]byte{w.plain(t, &cmpmsg.PKIConf{}), der}})
	start := bytes.Index(nested, der)
	if _, err = runDecode(t, nested, "cmp", "-"); err == nil ||
		!strings.HasPrefix(err.Error(), fmt.Sprintf("-: byte %d: PKIMessage 2: ", start+at)) {
		t.Errorf("nested: %v, want byte %d", err, start+at)
	}

	// Cut anywhere, what is there is shown.
	whole := w.ir(t)
	for n := 1; n < len(whole); n += 7 {
		view, err := runDecode(t, whole[:n], "cmp", "-")
		if err == nil || !strings.HasPrefix(err.Error(), "-: byte ") {
			t.Fatalf("cut to %d: %v", n, err)
		}
		if n > 200 && !strings.Contains(view, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa") {
			t.Fatalf("cut to %d, the transactionID is not shown:\n%s", n, view)
		}
	}
	if _, err := runDecode(t, append(bytes.Clone(whole), 0), "cmp", "-"); err == nil {
		t.Error("trailing byte")
	}
}
