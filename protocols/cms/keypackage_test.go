package cms

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"testing"
)

// A package holds one key of version 2 with its public key (RFC 5958 section 2).
func TestKeyPackage(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.Signer{rsaKey, edKey, ecKey} {
		der, err := KeyPackage(key)
		if err != nil {
			t.Fatalf("%T: %v", key, err)
		}
		var list []struct {
			Raw       asn1.RawContent
			Version   int
			Algorithm asn1.RawValue
			Private   []byte
			Public    asn1.BitString `asn1:"tag:1"`
		}
		if rest, err := asn1.Unmarshal(der, &list); err != nil || len(rest) > 0 || len(list) != 1 || list[0].Version != 1 {
			t.Fatalf("%T: %+v, %v", key, list, err)
		}
		var spki struct {
			Algorithm asn1.RawValue
			Public    asn1.BitString
		}
		want, _ := x509.MarshalPKIXPublicKey(key.Public())
		if _, err := asn1.Unmarshal(want, &spki); err != nil || !bytes.Equal(spki.Public.Bytes, list[0].Public.Bytes) {
			t.Errorf("%T: public key %x, %v", key, list[0].Public.Bytes, err)
		}
		got, err := x509.ParsePKCS8PrivateKey(list[0].Raw)
		if err != nil || !key.(interface{ Equal(crypto.PrivateKey) bool }).Equal(got) {
			t.Errorf("%T: %v", key, err)
		}
	}
	if der, err := KeyPackage(distant{rsaKey}); err == nil {
		t.Errorf("a key that cannot be encoded: %x", der)
	}
}

// distant is a key that is held elsewhere.
type distant struct{ crypto.Signer }

// A signer by key identifier (RFC 5652 section 5.3), verified by openssl.
func TestSignByKeyID(t *testing.T) {
	w := newWorkshop(t)
	o := SignOptions{Content: content, ContentType: OIDAsymmetricKeys, Key: w.ec.key, Certificate: w.ec.cert, Certificates: []*x509.Certificate{w.ec.cert},
		Digest: FittingDigest(w.ec.key.Public()), ByKeyID: true}
	bare, err := SignBare(o)
	if err != nil {
		t.Fatal(err)
	}
	if string(bare[4:7]) != "\x02\x01\x03" {
		t.Errorf("version %x", bare[4:7])
	}
	info, err := ContentInfo(OIDSignedData, bare)
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, "signed", info)
	if got := w.openssl(t, "cms -verify -in signed -inform DER -binary -CAfile ec.pem -purpose any"); !bytes.Equal(got, content) {
		t.Error("other content")
	}
	parsed, err := ParseSigned(info, Limits{})
	if err != nil || parsed.Verify([]crypto.Hash{crypto.SHA256}) != nil || !bytes.Contains(bare, append([]byte{0x80, 4}, w.ec.cert.SubjectKeyId...)) {
		t.Errorf("%v: %v", err, parsed.Verify([]crypto.Hash{crypto.SHA256}))
	}
	o.Certificate = w.certify(t, "plain", elliptic.P256(), true)
	if der, err := SignBare(o); err == nil {
		t.Errorf("a certificate without key identifier: %x", der)
	}
}

// RFC 8419: Ed25519 over the attributes themselves, with SHA-512 as the digest of the content.
func TestSignEd25519(t *testing.T) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := selfSigned(key, key.Public(), 9)
	o := SignOptions{Content: content, Key: key, Certificate: p.cert, Digest: FittingDigest(key.Public())}
	info, err := Sign(o)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := ParseSigned(info, Limits{})
	if err != nil || parsed.Digest != crypto.SHA512 || parsed.SignatureOID.String() != "1.3.101.112" {
		t.Fatalf("%+v, %v", parsed, err)
	}
	attrs := append([]byte{0x31}, parsed.rawAttrs[1:]...)
	if !ed25519.Verify(key.Public().(ed25519.PublicKey), attrs, parsed.signature) {
		t.Error("the signature is not over the attributes")
	}
	sum := sha512.Sum512(content)
	if value, ok := parsed.Attribute(oidMessageDigest); !ok || !bytes.Equal(value[2:], sum[:]) {
		t.Errorf("messageDigest %x", value)
	}
	o.Digest = crypto.SHA256
	if der, err := Sign(o); !errors.Is(err, ErrAlgorithm) {
		t.Errorf("with SHA-256: %x, %v", der, err)
	}
	o.Digest, o.Certificate = crypto.SHA512, ecPair().cert
	if der, err := Sign(o); err == nil {
		t.Errorf("with another's certificate: %x", der)
	}
}

func TestFittingDigest(t *testing.T) {
	for curve, want := range map[elliptic.Curve]crypto.Hash{elliptic.P256(): crypto.SHA256, elliptic.P384(): crypto.SHA384, elliptic.P521(): crypto.SHA512} {
		if got := FittingDigest(&ecdsa.PublicKey{Curve: curve}); got != want {
			t.Errorf("%s: %v", curve.Params().Name, got)
		}
	}
	if got := FittingDigest(rsaPair(t).key.Public()); got != crypto.SHA256 {
		t.Errorf("RSA: %v", got)
	}
}
