package cms

import (
	"bytes"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"

	"go.mozilla.org/pkcs7"
)

var known = []Cipher{DES, TripleDES, AES128, AES192, AES256}

func TestEncryptDecrypt(t *testing.T) {
	p := rsaPair(t)
	for _, c := range known {
		for _, n := range []int{0, 1, 7, 8, 15, 16, 17, 3000} {
			want := bytes.Repeat([]byte{0xa5}, n)
			der, err := Encrypt(want, p.cert, c)
			if err != nil {
				t.Fatalf("%v: %v", c, err)
			}
			if err := Check(der, Limits{}); err != nil {
				t.Errorf("%v: %v", c, err)
			}
			for _, message := range [][]byte{der, clumsy(der, false)} {
				e, err := ParseEnveloped(message, Limits{})
				if err != nil {
					t.Fatalf("%v: %v", c, err)
				}
				if e.Cipher != c || !e.CipherOID.Equal(ciphers[c].oid) || !e.ContentType.Equal(oidData) {
					t.Errorf("%v: %v, %v, %v", c, e.Cipher, e.CipherOID, e.ContentType)
				}
				if !e.For(p.cert) || e.For(otherRSA().cert) {
					t.Errorf("%v: For: %v, %v", c, e.For(p.cert), e.For(otherRSA().cert))
				}
				// Twice: nothing is decrypted in place.
				for range 2 {
					if got, err := e.Decrypt(p.rsa(), p.cert); err != nil || !bytes.Equal(got, want) || got == nil {
						t.Errorf("%v, %d bytes: %x, %v", c, n, got, err)
					}
				}
			}
			if c == AES192 || n == 0 {
				continue // which the other library does not know
			}
			p7, err := pkcs7.Parse(der)
			if err != nil {
				t.Fatalf("another library: %v", err)
			}
			if got, err := p7.Decrypt(p.cert, p.key); err != nil || !bytes.Equal(got, want) {
				t.Errorf("another library: %v: %x, %v", c, got, err)
			}
		}
	}
	for name, err := range map[string]error{
		"unknown cipher":  second(Encrypt(nil, p.cert, CipherUnknown)),
		"cipher -1":       second(Encrypt(nil, p.cert, -1)),
		"cipher 6":        second(Encrypt(nil, p.cert, AES256+1)),
		"EC recipient":    second(Encrypt(nil, ecPair().cert, AES128)),
		"small recipient": second(Encrypt(nil, selfSigned(p.key, &rsa.PublicKey{N: big.NewInt(15), E: 3}, 1).cert, AES128)),
	} {
		if !errors.Is(err, ErrAlgorithm) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second(_ []byte, err error) error { return err }

func TestCipherString(t *testing.T) {
	for c, want := range map[Cipher]string{
		DES: "DES-CBC", TripleDES: "DES-EDE3-CBC", AES128: "AES-128-CBC", AES192: "AES-192-CBC", AES256: "AES-256-CBC",
		CipherUnknown: "unknown cipher", -1: "unknown cipher", 99: "unknown cipher",
	} {
		if c.String() != want {
			t.Errorf("%d: %s", int(c), c)
		}
	}
}

func TestFreshKeyAndIV(t *testing.T) {
	p := rsaPair(t)
	seen := map[string]bool{}
	for range 3 {
		der, err := Encrypt([]byte("hello"), p.cert, TripleDES)
		if err != nil {
			t.Fatal(err)
		}
		e, err := ParseEnveloped(der, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		//lint:ignore SA1019 what RFC 8894 clients do
		key, err := rsa.DecryptPKCS1v15(nil, p.rsa(), e.recipients[0].key)
		if err != nil || len(key) != 24 || seen[string(key)] || seen[string(e.iv)] {
			t.Errorf("key of %d bytes, IV of %d, or seen before: %v", len(key), len(e.iv), err)
		}
		seen[string(key)], seen[string(e.iv)] = true, true
		for _, b := range key {
			odd := false
			for ; b != 0; b &= b - 1 {
				odd = !odd
			}
			if !odd {
				t.Errorf("%x: parity", key)
				break
			}
		}
	}
}

func TestParseEnvelopedRules(t *testing.T) {
	p := rsaPair(t)
	sound := recipientInfo(p.cert, rsaTransport, wrapped(p.cert, strings.Repeat("k", 16)))
	ski := tlv(0x30, "\x02\x01\x02", tlv(0x80, string(p.cert.SubjectKeyId)), rsaTransport, tlv(4, wrapped(p.cert, strings.Repeat("k", 16))))
	foreign := recipientInfo(otherRSA().cert, rsaTransport, strings.Repeat("x", 256))
	for _, tt := range []struct {
		name    string
		edit    func(e *envelopedParts)
		parse   error
		decrypt error
	}{
		{name: "sound", edit: func(e *envelopedParts) {}},
		{name: "SKI", edit: func(e *envelopedParts) { e.version, e.recipients = "\x02\x01\x02", []string{ski} }},
		{name: "second recipient", edit: func(e *envelopedParts) { e.recipients = []string{foreign, sound} }},
		{name: "beside key agreement", edit: func(e *envelopedParts) { e.recipients = []string{tlv(0xa1, null), sound} }},
		{name: "key agreement only", edit: func(e *envelopedParts) { e.recipients = []string{tlv(0xa1, null)} }, decrypt: ErrDecrypt},
		{name: "no recipient", edit: func(e *envelopedParts) { e.recipients = nil }, parse: ErrSyntax},
		{name: "17 recipients", edit: func(e *envelopedParts) { e.recipients = slices.Repeat([]string{sound}, 17) }, parse: ErrLimit},
		{name: "16 recipients", edit: func(e *envelopedParts) { e.recipients = append(slices.Repeat([]string{foreign}, 15), sound) }},
		{name: "originator", edit: func(e *envelopedParts) { e.originator = tlv(0xa0, tlv(0xa0)) }},
		{name: "unprotected attributes", edit: func(e *envelopedParts) { e.after = tlv(0xa1, attributeDER(transactionID, null)) }},
		{name: "more", edit: func(e *envelopedParts) { e.after = null }, parse: ErrSyntax},
		{name: "version 9", edit: func(e *envelopedParts) { e.version = "\x02\x01\x09" }, parse: ErrSyntax},
		{name: "recipient of version 1", edit: func(e *envelopedParts) { e.recipients[0] = strings.Replace(sound, "\x02\x01\x00", "\x02\x01\x01", 1) }, parse: ErrSyntax},
		{name: "recipient with more", edit: func(e *envelopedParts) {
			e.recipients[0] = tlv(0x30, "\x02\x01\x00", issuerAndSerial(p.cert), rsaTransport, tlv(4), null)
		}, parse: ErrSyntax},
		{name: "no IV", edit: func(e *envelopedParts) { e.cipher = algorithm(ciphers[AES128].oid, "") }, parse: ErrSyntax},
		{name: "NULL for IV", edit: func(e *envelopedParts) { e.cipher = algorithm(ciphers[AES128].oid, null) }, parse: ErrSyntax},
		{name: "short IV", edit: func(e *envelopedParts) { e.cipher = algorithm(ciphers[AES128].oid, tlv(4, "8 octets")) }, parse: ErrSyntax},
		{name: "no content", edit: func(e *envelopedParts) { e.content = "" }, decrypt: ErrDecrypt},
		{name: "empty content", edit: func(e *envelopedParts) { e.content = tlv(0x80) }, decrypt: ErrDecrypt},
		{name: "empty content, constructed", edit: func(e *envelopedParts) { e.content = tlv(0xa0) }, decrypt: ErrDecrypt},
		{name: "content of another type", edit: func(e *envelopedParts) { e.content = tlv(0xa0, null) }, parse: ErrSyntax},
		{name: "content twice", edit: func(e *envelopedParts) { e.content += e.content }, parse: ErrSyntax},
		{name: "Blowfish", edit: func(e *envelopedParts) {
			e.cipher = algorithm(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3029, 1, 2}, tlv(4, "8 octets"))
		}, decrypt: ErrDecrypt},
	} {
		t.Run(tt.name, func(t *testing.T) {
			parts := newEnveloped(sound)
			tt.edit(parts)
			for name, message := range map[string][]byte{"DER": parts.der(), "BER": clumsy(parts.der(), false)} {
				e, err := ParseEnveloped(message, Limits{})
				if !errors.Is(err, tt.parse) || (e == nil) == (err == nil) {
					t.Fatalf("%s: ParseEnveloped: %v, want %v", name, err, tt.parse)
				}
				if err != nil {
					continue
				}
				got, err := e.Decrypt(p.rsa(), p.cert)
				if !errors.Is(err, tt.decrypt) || (err == nil) != (tt.decrypt == nil) || got == nil {
					t.Errorf("%s: Decrypt: %x, %v, want %v", name, got, err, tt.decrypt)
				}
				if err == nil && string(got) != "hello" {
					t.Errorf("%s: %q", name, got)
				}
				if tt.name == "Blowfish" && (e.Cipher != CipherUnknown || e.CipherOID.String() != "1.3.6.1.4.1.3029.1.2") {
					t.Errorf("%v, %v", e.Cipher, e.CipherOID)
				}
			}
		})
	}
}

// BouncyCastle and others send encryptedContent in octets of 1000, the last one shorter, and the encryptedKey in segments.
func TestEnvelopedSegments(t *testing.T) {
	p := rsaPair(t)
	ciphertext := encryptCBC(AES128, strings.Repeat("k", 16), string(pad(content, 16)))
	key := wrapped(p.cert, strings.Repeat("k", 16))
	indefinite := func(id string, parts ...string) string { return id + "\x80" + strings.Join(parts, "") + "\x00\x00" }
	var segments []string
	for rest := ciphertext; rest != ""; {
		n := min(1000, len(rest))
		segments = append(segments, tlv(4, rest[:n]))
		rest = rest[n:]
	}
	recipient := indefinite("\x30", "\x02\x01\x00", issuerAndSerial(p.cert), rsaTransport, indefinite("\x24", tlv(4, key[:100]), tlv(4, key[100:])))
	message := indefinite("\x30", oidDER(oidEnvelopedData), indefinite("\xa0", indefinite("\x30", "\x02\x01\x00", indefinite("\x31", recipient),
		indefinite("\x30", oidDER(oidData), aes128, indefinite("\xa0", segments...)))))
	e, err := ParseEnveloped([]byte(message), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := e.Decrypt(p.rsa(), p.cert); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func BenchmarkDecrypt(b *testing.B) {
	p := rsaPair(b)
	for _, c := range known {
		der, err := Encrypt(content[:1200], p.cert, c)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(c.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				e, err := ParseEnveloped(der, Limits{})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := e.Decrypt(p.rsa(), p.cert); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkParseEnveloped(b *testing.B) {
	der := read(b, "enveloped-ber.der")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseEnveloped(der, Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncrypt(b *testing.B) {
	p := rsaPair(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Encrypt(content[:1200], p.cert, AES256); err != nil {
			b.Fatal(err)
		}
	}
}
