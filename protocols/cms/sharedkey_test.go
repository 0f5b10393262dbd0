package cms

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// RFC 5652 section 6.2.3, RFC 3565 section 2.3.2: a shared key of each size, opened by openssl, and by nobody with another.
func TestSharedKeyRecipient(t *testing.T) {
	w := newWorkshop(t)
	id := []byte("kek-0001")
	for _, size := range []int{16, 24, 32} {
		key := bytes.Repeat([]byte{byte(size)}, size)
		for _, c := range []Cipher{AES128, AES192, AES256} {
			e, err := NewEnvelope(c, &SharedKey{Key: key})
			if err != nil {
				t.Fatal(err)
			}
			e.ID = RecipientID{KeyID: id}
			if version, tag, recipient := w.put(t, e); version != 2 || tag != 2 || recipient != 4 {
				t.Errorf("version %d with a recipient [%d] of version %d", version, tag, recipient)
			}
			right := "-secretkey " + hex.EncodeToString(key) + " -secretkeyid " + hex.EncodeToString(id)
			if out, ok := w.opened(t, right); !ok || !bytes.Equal(out, content) {
				t.Errorf("%d octets, %v: openssl does not decrypt it", size, c)
			}
			wrong := "-secretkey " + hex.EncodeToString(bytes.Repeat([]byte{9}, size)) + " -secretkeyid " + hex.EncodeToString(id)
			if out, ok := w.opened(t, wrong); ok && bytes.Equal(out, content) {
				t.Errorf("%d octets: another key decrypts it", size)
			}
		}
	}
	for _, size := range []int{0, 8, 20, 33} {
		if _, err := NewEnvelope(AES256, &SharedKey{Key: make([]byte, size)}); !errors.Is(err, ErrAlgorithm) {
			t.Errorf("a key of %d octets: %v", size, err)
		}
	}
	e, err := NewEnvelope(AES256, &SharedKey{Key: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	e.ID = RecipientOf(w.certify(t, "plain", elliptic.P256(), true))
	if der, err := e.Seal(OIDData, content); err == nil {
		t.Errorf("a shared key under a certificate's name: %x", der)
	}
}

// PKCS #8 in a package (RFC 5958 section 2): version 1, which OpenSSL 3.0 reads.
func TestPackageOfPKCS8(t *testing.T) {
	w := newWorkshop(t)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(w.ec.key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := PackageOf(pkcs8)
	if err != nil {
		t.Fatal(err)
	}
	in := cryptobyte.String(der)
	var one cryptobyte.String
	if !in.ReadASN1(&in, cbasn1.SEQUENCE) || !in.ReadASN1Element(&one, cbasn1.SEQUENCE) || !in.Empty() || !bytes.Equal(one, pkcs8) {
		t.Fatalf("%x", der)
	}
	w.write(t, "one", one)
	w.openssl(t, "pkey -inform DER -in one -noout")
}

// capabilities encodes SMIMECapabilities of OIDs, each with parameters behind a slash or without.
func capabilities(t testing.TB, oids ...string) []byte {
	t.Helper()
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, text := range oids {
			oid, params, _ := strings.Cut(text, "/")
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(parseOID(t, oid))
				if params != "" {
					addAlgorithm(b, parseOID(t, params), false)
				}
			})
		}
	})
	return b.BytesOrPanic()
}

func parseOID(t testing.TB, text string) []int {
	t.Helper()
	var oid []int
	for _, part := range strings.Split(text, ".") {
		var n int
		if _, err := fmt.Sscan(part, &n); err != nil {
			t.Fatal(err)
		}
		oid = append(oid, n)
	}
	return oid
}

const (
	cap128, cap192, cap256     = "2.16.840.1.101.3.4.1.2", "2.16.840.1.101.3.4.1.22", "2.16.840.1.101.3.4.1.42"
	wrap128, wrap192, wrap256  = "2.16.840.1.101.3.4.1.5", "2.16.840.1.101.3.4.1.25", "2.16.840.1.101.3.4.1.45"
	cap3DES                    = "1.2.840.113549.3.7"
	capRSA, capOAEP            = "1.2.840.113549.1.1.1", "1.2.840.113549.1.1.7"
	stdDH256, stdDH384, stdDH1 = "1.3.132.1.11.1", "1.3.132.1.11.2", "1.3.133.16.840.63.0.2"
)

// RFC 7030 section 4.4.2: the algorithms are among those that the client names, where it names some of the kind.
func TestCapabilitiesFit(t *testing.T) {
	w := newWorkshop(t)
	shared := &SharedKey{Key: make([]byte, 16)}
	agree := &KeyAgreement{Key: w.certify(t, "p256", elliptic.P256(), false).PublicKey.(*ecdsa.PublicKey)}
	transport := &KeyTransport{Key: w.rsa.cert.PublicKey.(*rsa.PublicKey)}
	for name, tt := range map[string]struct {
		can     []string // nil: nothing is said
		to      Recipient
		cipher  Cipher
		wrap    string // an OID in keyEncryptionAlgorithm
		missing string
	}{
		"nothing said":                  {nil, shared, AES256, wrap128, ""},
		"an empty list":                 {[]string{}, shared, AES256, wrap128, ""},
		"one cipher":                    {[]string{cap128}, shared, AES128, wrap128, ""},
		"the largest key":               {[]string{cap128, cap256, cap192, cap3DES}, shared, AES256, wrap128, ""},
		"AES-192":                       {[]string{cap3DES, cap192, cap128}, agree, AES192, wrap256, ""},
		"3DES alone":                    {[]string{cap3DES}, shared, 0, "", "AES-256-CBC, AES-192-CBC or AES-128-CBC"},
		"3DES and a key wrap":           {[]string{cap3DES, wrap128}, shared, 0, "", "AES-256-CBC"},
		"a key wrap alone":              {[]string{wrap128}, shared, AES128, wrap128, ""},
		"another key wrap":              {[]string{cap256, wrap256}, shared, 0, "", "AES key wrap"},
		"agreement, the key wrap named": {[]string{cap256, wrap128}, agree, AES256, wrap128, ""},
		"agreement, the largest":        {[]string{cap128, wrap128, wrap192}, agree, AES128, wrap192, ""},
		"agreement, by its scheme":      {[]string{cap256, stdDH256 + "/" + wrap128}, agree, AES256, wrap128, ""},
		"agreement, another scheme":     {[]string{cap256, stdDH1 + "/" + wrap256, stdDH384}, agree, 0, "", "the key agreement of the key's curve"},
		"transport":                     {[]string{cap256}, transport, AES256, capOAEP, ""},
		"transport, PKCS #1 v1.5":       {[]string{cap256, capRSA}, transport, AES256, capRSA, ""},
		"transport, both":               {[]string{cap256, capRSA, capOAEP}, transport, AES256, capOAEP, ""},
	} {
		var c *Capabilities
		if tt.can != nil {
			var err error
			if c, err = ParseCapabilities(capabilities(t, tt.can...)); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		e, err := c.Fit(tt.to)
		if tt.missing != "" {
			var own *Error
			if !errors.Is(err, ErrAlgorithm) || !errors.As(err, &own) || !strings.HasPrefix(own.What, tt.missing) || !errors.Is(c.Allow(tt.to), ErrAlgorithm) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || c.Allow(tt.to) != nil {
			t.Errorf("%s: %v, %v", name, err, c.Allow(tt.to))
			continue
		}
		var b cryptobyte.Builder
		b.AddASN1ObjectIdentifier(parseOID(t, tt.wrap))
		if e.Cipher != tt.cipher || !bytes.Contains(e.To.Algorithm, b.BytesOrPanic()) {
			t.Errorf("%s: %v, %x", name, e.Cipher, e.To.Algorithm)
		}
	}
	// Key agreement with the smaller wraps is what openssl opens, too.
	for _, wrap := range []string{wrap128, wrap192} {
		cert := w.certify(t, "small", elliptic.P256(), false)
		c, err := ParseCapabilities(capabilities(t, wrap))
		if err != nil {
			t.Fatal(err)
		}
		e, err := c.Fit(&KeyAgreement{Key: cert.PublicKey.(*ecdsa.PublicKey)})
		if err != nil {
			t.Fatal(err)
		}
		e.ID = RecipientOf(cert)
		w.put(t, e)
		if out, ok := w.opened(t, "-recip small.pem -inkey small.key"); !ok || !bytes.Equal(out, content) {
			t.Errorf("key wrap %s: openssl does not decrypt it", wrap)
		}
	}
}

func TestCapabilitiesRefused(t *testing.T) {
	many := make([]string, maxCapabilities+1)
	for i := range many {
		many[i] = cap3DES
	}
	for name, tt := range map[string]struct {
		der  []byte
		want error
	}{
		"nothing": {nil, ErrSyntax}, "not a SEQUENCE": {[]byte{4, 0}, ErrSyntax}, "more behind it": {[]byte{0x30, 0, 5, 0}, ErrSyntax},
		"an OID bare": {[]byte{0x30, 3, 6, 1, 42}, ErrSyntax}, "two parameters": {[]byte{0x30, 9, 0x30, 7, 6, 1, 42, 5, 0, 5, 0}, ErrSyntax},
		"too many": {capabilities(t, many...), ErrLimit},
	} {
		if c, err := ParseCapabilities(tt.der); !errors.Is(err, tt.want) {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
	if _, err := ParseCapabilities(capabilities(t, many[1:]...)); err != nil {
		t.Error(err)
	}
}

func FuzzParseCapabilities(f *testing.F) {
	f.Add(capabilities(f, cap128, wrap256, capRSA, stdDH256+"/"+wrap128))
	f.Add(capabilities(f, cap3DES))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseCapabilities(data)
		if (c == nil) != (err != nil) {
			t.Fatalf("%v, %v", c, err)
		}
		if c == nil {
			return
		}
		// Whatever a client names, what is chosen is made, or refused as an algorithm.
		if e, err := c.Fit(&SharedKey{Key: make([]byte, 32)}); err != nil && !errors.Is(err, ErrAlgorithm) || err == nil && e.Cipher < AES128 {
			t.Fatalf("%v, %v", e, err)
		}
	})
}
