package cms

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math"
	"math/big"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// opened is what openssl decrypts the file to, and whether it does.
func (w *workshop) opened(t *testing.T, args string) ([]byte, bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "openssl", strings.Fields("cms -decrypt -inform DER -binary -in envelope "+args)...)
	cmd.Dir = w.dir
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out, err == nil
}

// put writes an EnvelopedData for openssl to read, and returns its version and the tag and version of its RecipientInfo.
func (w *workshop) put(t *testing.T, e *Envelope) (version int64, tag int, recipient int64) {
	t.Helper()
	bare, err := e.Seal(OIDData, content)
	if err != nil {
		t.Fatal(err)
	}
	if err := Check(bare, Limits{}); err != nil {
		t.Fatalf("not DER: %v", err)
	}
	var parsed struct {
		Version    int64
		Recipients []asn1.RawValue `asn1:"set"`
		Content    asn1.RawValue
	}
	if rest, err := asn1.Unmarshal(bare, &parsed); err != nil || len(rest) > 0 || len(parsed.Recipients) != 1 {
		t.Fatalf("%d recipients, %v", len(parsed.Recipients), err)
	}
	r := parsed.Recipients[0]
	if _, err := asn1.Unmarshal(r.Bytes, &recipient); err != nil {
		t.Fatal(err)
	}
	info, err := ContentInfo(OIDEnvelopedData, bare)
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, "envelope", info)
	if r.Class == asn1.ClassUniversal {
		r.Tag = -1
	}
	return parsed.Version, r.Tag, recipient
}

// certify writes name.key and name.pem of a key on a curve; without a key identifier when plain.
func (w *workshop) certify(t *testing.T, name string, curve elliptic.Curve, plain bool) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := selfSigned(key, key.Public(), 77).cert
	if plain {
		tmpl := *cert
		tmpl.SubjectKeyId = nil
		tmpl.ExtraExtensions = nil
		der, err := x509.CreateCertificate(rand.Reader, &tmpl, &tmpl, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		if cert, err = x509.ParseCertificate(der); err != nil || len(cert.SubjectKeyId) > 0 {
			t.Fatal(err)
		}
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, name+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	w.write(t, name+".pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	return cert
}

// Each kind of recipient, opened by openssl (RFC 5652 section 6.2), and by nobody else; versions as section 6.1 has them.
func TestEnvelopeRecipients(t *testing.T) {
	w := newWorkshop(t)
	named := selfSigned(w.rsa.key, w.rsa.rsa().Public(), 5).cert
	w.write(t, "named.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: named.Raw}))
	ec := func(name string, curve elliptic.Curve) (*x509.Certificate, *KeyAgreement) {
		cert := w.certify(t, name, curve, false)
		return cert, &KeyAgreement{Key: cert.PublicKey.(*ecdsa.PublicKey)}
	}
	p256, to256 := ec("p256", elliptic.P256())
	p384, to384 := ec("p384", elliptic.P384())
	p521, to521 := ec("p521", elliptic.P521())
	plain := w.certify(t, "plain", elliptic.P256(), true)
	w.certify(t, "another", elliptic.P256(), false)
	rsaKey := w.rsa.cert.PublicKey.(*rsa.PublicKey)
	nameless := RecipientID{Issuer: []byte{0x30, 0}, Serial: new(big.Int)} // RFC 9810 section 5.2.8.3.3: a NULL-DN and the certReqId

	for name, tt := range map[string]struct {
		to           Recipient
		id           RecipientID
		right, wrong string
		version      int64
		tag          int
		recipient    int64
	}{
		"OAEP":                    {&KeyTransport{Key: rsaKey}, RecipientOf(named), "-recip named.pem -inkey rsa.key", "-inkey other.key", 2, -1, 2},
		"OAEP, issuer and serial": {&KeyTransport{Key: rsaKey}, RecipientID{Issuer: w.rsa.cert.RawIssuer, Serial: w.rsa.cert.SerialNumber}, "-recip rsa.pem -inkey rsa.key", "-inkey other.key", 0, -1, 0},
		"OAEP, NULL-DN":           {&KeyTransport{Key: rsaKey}, nameless, "-inkey rsa.key", "-inkey other.key", 0, -1, 0},
		"PKCS #1 v1.5":            {&KeyTransport{Key: rsaKey, PKCS1v15: true}, RecipientOf(named), "-recip named.pem -inkey rsa.key", "-inkey other.key", 2, -1, 2},
		"P-256":                   {to256, RecipientOf(p256), "-recip p256.pem -inkey p256.key", "-recip p256.pem -inkey another.key", 2, 1, 3},
		"P-384":                   {to384, RecipientOf(p384), "-recip p384.pem -inkey p384.key", "-recip another.pem -inkey another.key", 2, 1, 3},
		"P-521":                   {to521, RecipientOf(p521), "-recip p521.pem -inkey p521.key", "-recip another.pem -inkey another.key", 2, 1, 3},
		"P-256, issuer and serial": {&KeyAgreement{Key: plain.PublicKey.(*ecdsa.PublicKey)}, RecipientOf(plain), "-recip plain.pem -inkey plain.key",
			"-recip plain.pem -inkey another.key", 2, 1, 3},
		"password": {&Password{Secret: []byte("correct_horse"), Iterations: 1000}, RecipientID{}, "-pwri_password correct_horse", "-pwri_password wrong", 3, 3, 0},
	} {
		for _, c := range []Cipher{AES128, AES256} {
			e, err := NewEnvelope(c, tt.to)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			e.ID = tt.id
			version, tag, recipient := w.put(t, e)
			if version != tt.version || tag != tt.tag || recipient != tt.recipient {
				t.Errorf("%s: version %d with a recipient [%d] of version %d, want %d, [%d], %d", name, version, tag, recipient, tt.version, tt.tag, tt.recipient)
			}
			if out, ok := w.opened(t, tt.right); !ok || !bytes.Equal(out, content) {
				t.Errorf("%s, %v: openssl does not decrypt it", name, c)
			}
			// Against a wrong RSA key openssl may answer garbage, as Decrypt does.
			if out, ok := w.opened(t, tt.wrong); ok && bytes.Equal(out, content) {
				t.Errorf("%s, %v: another key decrypts it", name, c)
			}
		}
	}
}

// PKCS #1 v1.5 and OAEP are what Decrypt reads, too.
func TestEnvelopeDecrypt(t *testing.T) {
	p := rsaPair(t)
	for _, old := range []bool{false, true} {
		e, err := NewEnvelope(AES256, &KeyTransport{Key: &p.rsa().PublicKey, PKCS1v15: old})
		if err != nil {
			t.Fatal(err)
		}
		e.ID = RecipientOf(p.cert)
		bare, err := e.Seal(OIDSignedData, content)
		if err != nil {
			t.Fatal(err)
		}
		info, _ := ContentInfo(OIDEnvelopedData, bare)
		parsed, err := ParseEnveloped(info, Limits{})
		if err != nil || !parsed.ContentType.Equal(OIDSignedData) {
			t.Fatal(err)
		}
		if got, err := parsed.Decrypt(p.rsa(), p.cert); err != nil || !bytes.Equal(got, content) {
			t.Errorf("PKCS #1 v1.5 %v: %v", old, err)
		}
	}
}

// What is sealed again is the same, also by an envelope that was stored; the secret stays out of logs.
func TestEnvelopeKept(t *testing.T) {
	for _, to := range []Recipient{
		&KeyTransport{Key: &rsaPair(t).rsa().PublicKey}, &KeyTransport{Key: &rsaPair(t).rsa().PublicKey, PKCS1v15: true},
		&KeyAgreement{Key: ecPair().cert.PublicKey.(*ecdsa.PublicKey)}, &Password{Secret: []byte("s"), Iterations: 1},
	} {
		e, err := NewEnvelope(AES256, to)
		if err != nil {
			t.Fatal(err)
		}
		e.ID = RecipientID{KeyID: []byte{1}}
		stored, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		var again Envelope
		if err := json.Unmarshal(stored, &again); err != nil {
			t.Fatal(err)
		}
		seal := func(e *Envelope) string {
			der, err := e.Seal(OIDData, content)
			if err != nil {
				t.Fatal(err)
			}
			return string(der)
		}
		if a := seal(e); a != seal(e) || a != seal(&again) {
			t.Errorf("%T: sealed again, it differs", to)
		}
		fresh, err := NewEnvelope(AES256, to)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(fresh.Key, e.Key) || bytes.Equal(fresh.IV, e.IV) || bytes.Equal(fresh.To.Key, e.To.Key) {
			t.Errorf("%T: two envelopes share something", to)
		}
		for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
			if s := fmt.Sprintf(format, e); s != "envelope of AES-256-CBC" {
				t.Errorf("%s shows %s", format, s)
			}
		}
	}
}

// An EncryptedValue, taken apart by hand (RFC 4211 appendix B).
func TestEncryptedValue(t *testing.T) {
	p := rsaPair(t)
	e, err := NewEnvelope(AES128, &KeyTransport{Key: &p.rsa().PublicKey, PKCS1v15: true})
	if err != nil {
		t.Fatal(err)
	}
	der, err := e.SealValue([]byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	type algorithm struct {
		OID    asn1.ObjectIdentifier
		Params asn1.RawValue `asn1:"optional"`
	}
	var v struct {
		Symm   algorithm      `asn1:"tag:1"`
		Key    asn1.BitString `asn1:"tag:2"`
		KeyAlg algorithm      `asn1:"tag:3"`
		Value  asn1.BitString
	}
	if rest, err := asn1.Unmarshal(der, &v); err != nil || len(rest) > 0 {
		t.Fatalf("%x: %v", der, err)
	}
	//lint:ignore SA1019 the format has nothing else
	key, err := rsa.DecryptPKCS1v15(nil, p.rsa(), v.Key.Bytes)
	if err != nil || !v.Symm.OID.Equal(ciphers[AES128].oid) || !v.KeyAlg.OID.Equal(oidRSA) || len(key) != 16 {
		t.Fatalf("key of %d octets, %v, %+v", len(key), err, v)
	}
	read := &Envelope{Cipher: AES128, Key: key, IV: v.Symm.Params.Bytes}
	again, err := read.encrypt([]byte("hello"))
	if err != nil || !bytes.Equal(again, v.Value.Bytes) {
		t.Errorf("encValue %x, want %x: %v", v.Value.Bytes, again, err)
	}
	for _, to := range []Recipient{&KeyTransport{Key: &p.rsa().PublicKey}, &KeyAgreement{Key: ecPair().cert.PublicKey.(*ecdsa.PublicKey)}, &Password{Secret: []byte("s"), Iterations: 1}} {
		e, err := NewEnvelope(AES128, to)
		if err != nil {
			t.Fatal(err)
		}
		if der, err := e.SealValue(content); !errors.Is(err, ErrAlgorithm) {
			t.Errorf("%T: %x, %v", to, der, err)
		}
	}
}

func TestEnvelopeRefused(t *testing.T) {
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	short := small.PublicKey
	short.N = new(big.Int).Rsh(short.N, 8)
	wide, even := small.PublicKey, small.PublicKey
	wide.E, even.E = math.MaxInt32, 1<<16
	wide.E += 2
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := &KeyTransport{Key: &small.PublicKey, PKCS1v15: true}
	for name, tt := range map[string]struct {
		c    Cipher
		to   Recipient
		want error
	}{
		"no cipher":     {CipherUnknown, good, ErrAlgorithm},
		"no RSA key":    {AES256, &KeyTransport{}, ErrAlgorithm},
		"short RSA key": {AES256, &KeyTransport{Key: &short}, ErrAlgorithm},
		"wide exponent": {AES256, &KeyTransport{Key: &wide}, ErrAlgorithm},
		"even exponent": {AES256, &KeyTransport{Key: &even}, ErrAlgorithm},
		"no EC key":     {AES256, &KeyAgreement{}, ErrAlgorithm},
		"P-224":         {AES256, &KeyAgreement{Key: &p224.PublicKey}, ErrAlgorithm},
		"no secret":     {AES256, &Password{}, nil},
	} {
		if e, err := NewEnvelope(tt.c, tt.to); err == nil || tt.want != nil && !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, %v", name, e, err)
		}
	}
	e, err := NewEnvelope(AES256, good)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Envelope){
		"no name":      func(*Envelope) {},
		"no serial":    func(e *Envelope) { e.ID.Issuer = []byte{0x30, 0} },
		"short key":    func(e *Envelope) { e.ID.KeyID, e.Key = []byte{1}, e.Key[1:] },
		"short IV":     func(e *Envelope) { e.ID.KeyID, e.IV = []byte{1}, nil },
		"no recipient": func(e *Envelope) { e.ID.KeyID, e.To = []byte{1}, Wrapped{} },
		"no origin":    func(e *Envelope) { e.ID.KeyID, e.To.Kind = []byte{1}, kindAgreement },
	} {
		broken := *e
		change(&broken)
		if der, err := broken.Seal(OIDData, content); err == nil {
			t.Errorf("%s: %x", name, der)
		}
	}
}
