package cmp

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	stdpkix "crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"io"
	"math"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
	"github.com/muster-pki/muster/protocols/cms"
)

// newRSA is one key for all tests.
var newRSA = sync.OnceValue(func() crypto.Signer {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// wideRSA is an RSA key with a public exponent above 2^31-1, which is verified here, and with which crypto/rsa neither signs nor
// encrypts.
type wideRSA struct{ *rsa.PrivateKey }

var newWideRSA = sync.OnceValue(func() crypto.Signer {
	key := *newRSA().(*rsa.PrivateKey)
	one := big.NewInt(1)
	phi := new(big.Int).Mul(new(big.Int).Sub(key.Primes[0], one), new(big.Int).Sub(key.Primes[1], one))
	for key.E = math.MaxInt32; ; {
		key.E += 2
		if key.D = new(big.Int).ModInverse(big.NewInt(int64(key.E)), phi); key.D != nil {
			return wideRSA{&key}
		}
	}
})

// Sign is PKCS #1 v1.5 with SHA-256 (RFC 8017 section 9.2).
func (k wideRSA) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	info := append([]byte("\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20"), digest...)
	em := append(append([]byte{0, 1}, bytes.Repeat([]byte{0xff}, k.Size()-len(info)-3)...), 0)
	em = append(em, info...)
	return new(big.Int).Exp(new(big.Int).SetBytes(em), k.D, k.N).FillBytes(make([]byte, k.Size())), nil
}

// makeKey makes the key that a request asks for, as the gateway does.
func (g *fakeGateway) makeKey(t *gateway.Transaction, r *gateway.Request) error {
	if r.KeyGen == nil {
		return nil
	}
	key := newP256()
	if r.KeyGen.Algorithm == gateway.AnyRSA {
		key = newRSA()
	}
	sealed, err := r.KeyGen.Seal(key)
	if err != nil {
		return err
	}
	if g.made == nil {
		g.made = map[string]crypto.Signer{}
	}
	g.made[t.ID], t.SealedKey = key, sealed
	return nil
}

func (g *fakeGateway) publicKey(t *gateway.Transaction, r *gateway.Request) (crypto.PublicKey, error) {
	if key := g.made[t.ID]; key != nil {
		return key.Public(), nil
	}
	return x509.ParsePKIXPublicKey(r.PublicKey)
}

// without makes a request for a key that is made here: its template has the algorithm alone, or nothing when that is nil.
func without(kind cmpmsg.BodyType, algorithm []byte) *cmpmsg.CertReqMessages {
	m := cmpmsg.CertReqMsg{ReqID: new(big.Int), Template: cmpmsg.CertTemplate{Subject: cn("device-1")}}
	if algorithm != nil {
		m.Template.PublicKey = append([]byte{0x30, byte(len(algorithm) + 3)}, append(algorithm, 0x03, 0x01, 0x00)...)
	}
	return &cmpmsg.CertReqMessages{Kind: kind, Messages: []cmpmsg.CertReqMsg{m}}
}

// algorithmOf is the AlgorithmIdentifier of a key.
func algorithmOf(t testing.TB, pub crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	var spki struct {
		Algorithm asn1.RawValue
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &spki); err != nil {
		t.Fatal(err)
	}
	return spki.Algorithm.FullBytes
}

// keyClient signs with a key of its own whose certificate has the usages and a key identifier.
func (w *world) keyClient(key crypto.Signer, usage x509.KeyUsage) *client {
	vendor := newTestCA(w.t, "Vendor", newP256())
	cert := vendor.issue(w.t, &x509.Certificate{Subject: stdpkix.Name{CommonName: "device-1"}, KeyUsage: usage, SubjectKeyId: []byte("kid")}, key.Public())
	c := w.signer(cert, key)
	c.extra = [][]byte{cert.Raw, vendor.issuer.Raw}
	return c
}

// decrypt has openssl open an EncryptedKey that is an EnvelopedData, with the client's secret or key, and returns what is in it;
// nil when it does not open.
func (c *client) decrypt(encrypted []byte, key crypto.Signer) []byte {
	t := c.w.t
	t.Helper()
	if len(encrypted) == 0 || encrypted[0] != 0xa0 {
		t.Fatalf("not an EnvelopedData: %x", encrypted)
	}
	bare := bytes.Clone(encrypted)
	bare[0] = 0x30
	info, err := cms.ContentInfo(cms.OIDEnvelopedData, bare)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("in", info)
	args := []string{"cms", "-decrypt", "-inform", "DER", "-binary", "-in", "in"}
	if key == nil {
		args = append(args, "-pwri_password", string(c.secret))
	} else {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		write("key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
		args = append(args, "-inkey", "key")
		if c.cert != nil {
			write("cert", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw}))
			args = append(args, "-recip", "cert")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "openssl", args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		if _, ok := err.(*exec.ExitError); !ok {
			t.Fatal(err)
		}
		return nil
	}
	return out
}

// madeKey takes the key out of an answer: signed by the server, and that of the certificate (RFC 9483 section 4.1.6).
func (c *client) madeKey(m *cmpmsg.Message, kind cmpmsg.BodyType) (*x509.Certificate, crypto.Signer) {
	t := c.w.t
	t.Helper()
	cert := certificate(t, m, kind)
	opens := c.key
	plain := c.decrypt(response(t, m, kind).PrivateKey, opens)
	if plain == nil {
		t.Fatal("the key does not decrypt")
	}
	info, err := cms.ContentInfo(cms.OIDSignedData, plain)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := cms.ParseSigned(info, cms.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if err := signed.Verify([]crypto.Hash{crypto.SHA256}); err != nil {
		t.Fatal(err)
	}
	id := c.w.identity
	if kid := id.Certificate.SubjectKeyId; !bytes.Contains(plain, append([]byte{0x80, byte(len(kid))}, kid...)) {
		t.Error("the signer is not named by its key identifier")
	}
	type oneKey struct {
		Raw       asn1.RawContent
		Version   int
		Algorithm asn1.RawValue
		Private   []byte
		Public    asn1.BitString `asn1:"tag:1"`
	}
	list, contentType := make([]oneKey, 1), cms.OIDAsymmetricKeys
	var rest []byte
	if m.Header.PVNO == 2 { // as OpenSSL 3.5 reads it
		contentType = cms.OIDData
		rest, err = asn1.Unmarshal(signed.Content, &list[0])
	} else {
		rest, err = asn1.Unmarshal(signed.Content, &list)
	}
	if err != nil || len(rest) > 0 || len(list) != 1 || list[0].Version != 1 {
		t.Fatalf("AsymmetricKeyPackage: %v", err)
	}
	if !signed.Signer.Equal(id.Certificate) || !signed.ContentType.Equal(contentType) || len(signed.Certificates) != 1+len(id.Chain) ||
		!signed.Certificates[0].Equal(id.Certificate) {
		t.Errorf("signer %v, content %v, %d certificates", signed.Signer.Subject, signed.ContentType, len(signed.Certificates))
	}
	key, err := x509.ParsePKCS8PrivateKey(list[0].Raw)
	if err != nil {
		t.Fatal(err)
	}
	made := key.(crypto.Signer)
	if !made.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(cert.PublicKey) {
		t.Error("the key is not the certificate's")
	}
	return cert, made
}

// secretOf is the part of a private key that nobody else knows.
func secretOf(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	switch key := key.(type) {
	case *rsa.PrivateKey:
		return key.Primes[0].Bytes()
	case *ecdsa.PrivateKey:
		secret, err := key.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		return secret
	}
	t.Fatalf("%T", key)
	return nil
}

const usages = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement

func p384() crypto.Signer {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

// A key is made for whoever protects the request, encrypted by what protects it (RFC 9810 sections 5.2.2 and 5.3.4, RFC 9483
// section 4.1.6), confirmed explicitly, and given again, byte for byte, until it is confirmed.
func TestCentralKey(t *testing.T) {
	ec := algorithmOf(t, newP256().Public())
	for name, tt := range map[string]struct {
		client func(*world) *client
		body   *cmpmsg.CertReqMessages
		wrap   gateway.WrapKind
		kind   string
		op     gateway.Operation
	}{
		"MAC, no key":      {func(w *world) *client { return w.macClient("ref-1") }, without(cmpmsg.TypeIR, nil), gateway.WrapPassword, "", gateway.Enroll},
		"MAC, cr, P-256":   {func(w *world) *client { return w.macClient("ref-1") }, without(cmpmsg.TypeCR, ec), gateway.WrapPassword, "P-256", gateway.Enroll},
		"MAC, RSA":         {func(w *world) *client { return w.macClient("ref-1") }, without(cmpmsg.TypeIR, algorithmOf(t, newRSA().Public())), gateway.WrapPassword, gateway.AnyRSA, gateway.Enroll},
		"RSA":              {func(w *world) *client { return w.keyClient(newRSA(), x509.KeyUsageKeyEncipherment) }, without(cmpmsg.TypeIR, ec), gateway.WrapAsymmetric, "P-256", gateway.Enroll},
		"RSA, no keyUsage": {func(w *world) *client { return w.keyClient(newRSA(), 0) }, without(cmpmsg.TypeIR, ec), gateway.WrapAsymmetric, "P-256", gateway.Enroll},
		"EC":               {func(w *world) *client { return w.keyClient(newP256(), x509.KeyUsageKeyAgreement) }, without(cmpmsg.TypeIR, ec), gateway.WrapAsymmetric, "P-256", gateway.Enroll},
		"P-384, kur":       {func(w *world) *client { return w.keyClient(p384(), 0) }, without(cmpmsg.TypeKUR, ec), gateway.WrapAsymmetric, "P-256", gateway.Rekey},
	} {
		for _, pvno := range []int{2, 3} {
			w := newWorld(t, worldOptions{})
			c := tt.client(w)
			c.pvno = pvno
			c.info = []cmpmsg.InfoTypeAndValue{implicitConfirm()}
			der := c.message(tt.body)
			first := w.post(der)
			m := c.accept(der, first)
			if _, granted := m.Header.Info(cmpmsg.OIDImplicitConfirm); granted {
				t.Errorf("%s: implicitConfirm is granted", name)
			}
			cert, made := c.madeKey(m, answerTo(tt.body.Kind))
			r := w.gateway.last(t)
			if r.KeyGen == nil || r.KeyGen.Wrap != tt.wrap || r.KeyGen.Algorithm != tt.kind || r.PublicKey != nil || r.POP != gateway.POPNone || !r.Confirm || r.Operation != tt.op {
				t.Errorf("%s: %+v, %+v", name, r, r.KeyGen)
			}
			if bytes.Contains(first, secretOf(t, made)) {
				t.Errorf("%s: the key is in the clear", name)
			}
			w.now = testTime.Add(time.Hour)
			if !bytes.Equal(w.post(der), first) || !bytes.Equal(w.again().post(der), first) {
				t.Errorf("%s: another answer to the same message", name)
			}
			w.now = testTime
			if m := c.ask(confirmation(certHash(cert), 0)); m.Body.Type() != cmpmsg.TypePKIConf {
				t.Fatalf("%s: %+v", name, m.Body)
			}
			again := c.accept(der, w.post(der))
			if fail, text, reject := failure(again); fail != cmpmsg.DuplicateCertReq || !reject || !strings.Contains(text, "given already") {
				t.Errorf("%s: after certConf: %v, %q", name, fail, text)
			}
			if strings.Contains(w.log.String(), string(c.secret)) && len(c.secret) > 0 {
				t.Errorf("%s: the secret is in the log", name)
			}
		}
	}
}

// A key that was made for a request which is decided later comes with the certificate (RFC 9810 section 5.3.22); and to who asks
// again because the answer was lost.
func TestCentralKeyLater(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.gateway.decide = func(*gateway.Request) (*gateway.Error, gateway.State) { return nil, gateway.StateHeld }
	c := w.macClient("ref-1")
	if r := response(t, c.ask(without(cmpmsg.TypeIR, nil)), cmpmsg.TypeIP); r.Status.Status != cmpmsg.StatusWaiting || r.PrivateKey != nil {
		t.Fatalf("%+v", r)
	}
	w.gateway.settle(w.gateway.tx(t), w.gateway.last(t))
	cert, _ := c.madeKey(c.ask(&cmpmsg.PollReq{ReqIDs: []*big.Int{new(big.Int)}}), cmpmsg.TypeIP)

	lost := w.macClient("ref-1")
	again, _ := lost.madeKey(lost.ask(without(cmpmsg.TypeIR, nil)), cmpmsg.TypeIP)
	if !again.Equal(cert) || w.gateway.issued != 1 {
		t.Errorf("%d issued", w.gateway.issued)
	}
	w.gateway.decide = nil
	other := w.macClient("ref-1")
	if cert, _ := other.madeKey(other.ask(without(cmpmsg.TypeIR, algorithmOf(t, newP256().Public()))), cmpmsg.TypeIP); cert.Equal(again) || w.gateway.issued != 2 {
		t.Error("another kind of key gets the same")
	}
	// What is sealed for one version is not read under the other, so that another key is made.
	newer := w.macClient("ref-1")
	newer.pvno = 3
	if cert, _ := newer.madeKey(newer.ask(without(cmpmsg.TypeIR, nil)), cmpmsg.TypeIP); cert.Equal(again) || w.gateway.issued != 3 {
		t.Error("another version gets the same")
	}
	// Poll once more when it is over.
	if m := lost.ask(confirmation(certHash(again), 0)); m.Body.Type() != cmpmsg.TypePKIConf {
		t.Fatalf("%+v", m.Body)
	}
	over := lost.ask(&cmpmsg.PollReq{ReqIDs: []*big.Int{new(big.Int)}})
	if fail, text, _ := failure(over); fail != cmpmsg.DuplicateCertReq || over.Body.Type() != cmpmsg.TypeIP {
		t.Errorf("%v, %q, %v", fail, text, over.Body.Type())
	}
}

// What an algorithm without a key asks for (RFC 3279, RFC 5480, RFC 8410).
func TestKeyKind(t *testing.T) {
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for want, key := range map[string]crypto.Signer{"P-256": newP256(), "P-384": p384(), "P-521": p521, "Ed25519": newEd25519(), gateway.AnyRSA: newRSA()} {
		spki := without(cmpmsg.TypeIR, algorithmOf(t, key.Public())).Messages[0].Template.PublicKey
		if got, ref := keyKind(spki); ref != nil || got != want {
			t.Errorf("%s, want %s: %v", got, want, ref)
		}
	}
	if got, ref := keyKind(nil); ref != nil || got != "" {
		t.Errorf("nothing asked for: %q, %v", got, ref)
	}
	for name, spki := range map[string]string{
		"P-256 and more": "\x30\x1c\x30\x15\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x05\x00\x03\x01\x00",
		"no algorithm":   "\x30\x05\x30\x00\x03\x01\x00", "nothing": "", "rubbish": "hello",
	} {
		if got, ref := keyKind([]byte(spki)); ref == nil {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestCentralKeyRefused(t *testing.T) {
	ec := algorithmOf(t, newP256().Public())
	curve := bytes.Clone(ec)
	curve[len(curve)-1]++ // no curve that is served
	for name, tt := range map[string]struct {
		client func(*world) *client
		body   cmpmsg.Body
		want   cmpmsg.FailInfo
		text   string
	}{
		"proof without a key":       {body: crmf{kind: cmpmsg.TypeIR, key: newP256(), subject: "device-1", noKey: true}.body(t), want: cmpmsg.BadPOP, text: "leave the proof out"},
		"proof with an empty key":   {body: proven(without(cmpmsg.TypeIR, ec)), want: cmpmsg.BadPOP, text: "leave the proof out"},
		"RSA signer that may not":   {client: func(w *world) *client { return w.keyClient(newRSA(), usages&^x509.KeyUsageKeyEncipherment) }, want: cmpmsg.BadRequest, text: "keyEncipherment"},
		"EC signer that may not":    {client: func(w *world) *client { return w.keyClient(newP256(), usages&^x509.KeyUsageKeyAgreement) }, want: cmpmsg.BadRequest, text: "keyAgreement"},
		"RSA signer, wide exponent": {client: func(w *world) *client { return w.keyClient(newWideRSA(), usages) }, want: cmpmsg.BadRequest, text: "exponent above"},
		"Ed25519 signer":            {client: func(w *world) *client { return w.keyClient(newEd25519(), 0) }, want: cmpmsg.BadRequest, text: "Ed25519"},
		"another curve":             {body: without(cmpmsg.TypeIR, curve), want: cmpmsg.BadAlg, text: "curve"},
		"no curve":                  {body: without(cmpmsg.TypeIR, []byte("\x30\x09\x06\x07\x2a\x86\x48\xce\x3d\x02\x01")), want: cmpmsg.BadAlg, text: "curve"},
		"another algorithm":         {body: without(cmpmsg.TypeIR, []byte("\x30\x09\x06\x07\x2a\x86\x48\xce\x38\x04\x01")), want: cmpmsg.BadAlg, text: "algorithm"},
		"p10cr":                     {body: &cmpmsg.PKCS10{CSR: []byte{0x30, 0}}, want: cmpmsg.BadDataFormat},
		"the gateway refuses":       {client: refusing(gateway.NotAuthorized), want: cmpmsg.NotAuthorized},
		"with somebody's KUR, MAC":  {body: without(cmpmsg.TypeKUR, ec), want: cmpmsg.WrongIntegrity},
	} {
		w := newWorld(t, worldOptions{})
		if tt.client == nil {
			tt.client = func(w *world) *client { return w.macClient("ref-1") }
		}
		if tt.body == nil {
			tt.body = without(cmpmsg.TypeIR, ec)
		}
		fail, text, _ := failure(tt.client(w).ask(tt.body))
		if fail != tt.want || !strings.Contains(text, tt.text) {
			t.Errorf("%s: %v, %q, want %v, %q", name, fail, text, tt.want, tt.text)
		}
		if w.gateway.issued != 0 {
			t.Errorf("%s: issued", name)
		}
	}
}

func refusing(reason gateway.Reason) func(*world) *client {
	return func(w *world) *client {
		w.gateway.decide = func(*gateway.Request) (*gateway.Error, gateway.State) { return &gateway.Error{Reason: reason}, "" }
		return w.macClient("ref-1")
	}
}

// proven adds a proof of possession to a request for a key.
func proven(b *cmpmsg.CertReqMessages) *cmpmsg.CertReqMessages {
	b.Messages[0].POP = &cmpmsg.ProofOfPossession{Kind: cmpmsg.POPKeyEncipherment, PrivKey: &cmpmsg.POPOPrivKey{Method: 1}}
	return b
}

// An RA's key signs what is made for its devices too, whatever its kind (RFC 8419).
func TestCentralKeyByEd25519(t *testing.T) {
	w := newWorld(t, worldOptions{identity: newEd25519()})
	c := w.macClient("ref-1")
	m := c.ask(without(cmpmsg.TypeIR, nil))
	plain := c.decrypt(response(t, m, cmpmsg.TypeIP).PrivateKey, nil)
	info, err := cms.ContentInfo(cms.OIDSignedData, plain)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := cms.ParseSigned(info, cms.Limits{})
	if err != nil || signed.SignatureOID.String() != "1.3.101.112" || !signed.Signer.Equal(w.identity.Certificate) {
		t.Fatalf("%+v, %v", signed, err)
	}
}

// BouncyCastle says raVerified in a request for a key: there is nothing to vouch for, and nobody is taken for an RA by it.
func TestCentralKeyWithRAVerified(t *testing.T) {
	w := newWorld(t, worldOptions{})
	c := w.macClient("ref-1")
	b := without(cmpmsg.TypeIR, nil)
	b.Messages[0].POP = &cmpmsg.ProofOfPossession{Kind: cmpmsg.POPRAVerified}
	if response(t, c.ask(b), cmpmsg.TypeIP).PrivateKey == nil {
		t.Error("no key")
	}
	if w.gateway.issued != 1 {
		t.Errorf("%d issued", w.gateway.issued)
	}
}
