package cms

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
)

var (
	sha2 = []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512}
	all  = []crypto.Hash{crypto.MD5, crypto.SHA1, crypto.SHA224, crypto.SHA256, crypto.SHA384, crypto.SHA512}
)

// Each rule of ParseSigned and Verify: parse is what ParseSigned answers, verify what Verify does after it.
func TestSignedRules(t *testing.T) {
	odd := tlv(0x30, tlv(0x30, "\x02\x01\x05"), tlv(0x30), "\x03\x01\x00") // a SEQUENCE that is no certificate
	tests := []struct {
		name   string
		edit   func(p *signedParts)
		parse  error
		verify error
	}{
		{name: "sound", edit: func(p *signedParts) {}},
		{name: "rsaEncryption", edit: func(p *signedParts) { p.signatureAlgorithm = rsaTransport }},
		{name: "digest with NULL", edit: func(p *signedParts) { p.digestAlgorithm = algorithm(digests[0].oid, null) }},
		{name: "SKI", edit: func(p *signedParts) {
			p.siVersion, p.sid = "\x02\x01\x03", tlv(0x80, string(p.signer.cert.SubjectKeyId))
		}},
		{name: "SKI of nobody", edit: func(p *signedParts) { p.sid = tlv(0x80, "nobody") }, verify: ErrSignature},
		{name: "empty SKI", edit: func(p *signedParts) { p.sid = tlv(0x80) }, parse: ErrSyntax},
		{name: "another serial", edit: func(p *signedParts) {
			p.sid = tlv(0x30, string(p.signer.cert.RawIssuer), intDER(big.NewInt(7)))
		}, verify: ErrSignature},
		{name: "another issuer", edit: func(p *signedParts) {
			p.sid = tlv(0x30, string(ecPair().cert.RawIssuer), intDER(p.signer.cert.SerialNumber))
		}, verify: ErrSignature},
		{name: "certificates absent", edit: func(p *signedParts) { p.certificates = "" }, verify: ErrSignature},
		{name: "signer second", edit: func(p *signedParts) {
			p.certificates = tlv(0xa0, string(ecPair().cert.Raw), string(p.signer.cert.Raw))
		}},
		{name: "another's key", edit: func(p *signedParts) { p.signer.key = otherRSA().key }, verify: ErrSignature},
		{name: "odd certificate", edit: func(p *signedParts) { p.certificates = tlv(0xa0, odd, string(p.signer.cert.Raw), odd) }},
		{name: "attribute certificate", edit: func(p *signedParts) { p.certificates = tlv(0xa0, tlv(0xa2, odd), string(p.signer.cert.Raw)) }},
		{name: "odd signer", edit: func(p *signedParts) {
			issuer := string(p.signer.cert.RawIssuer)
			p.certificates = tlv(0xa0, tlv(0x30, tlv(0x30, "\x02\x01\x05", tlv(0x30), issuer)))
			p.sid = tlv(0x30, issuer, "\x02\x01\x05")
		}, parse: ErrSyntax},
		{name: "16 certificates", edit: func(p *signedParts) {
			p.certificates = tlv(0xa0, strings.Repeat(odd, 15), string(p.signer.cert.Raw))
		}},
		{name: "17 certificates", edit: func(p *signedParts) {
			p.certificates = tlv(0xa0, strings.Repeat(odd, 16), string(p.signer.cert.Raw))
		}, parse: ErrLimit},
		{name: "CRLs", edit: func(p *signedParts) { p.crls = tlv(0xa1, tlv(0x30)) }},
		{name: "unsigned attributes", edit: func(p *signedParts) { p.unsign = tlv(0xa1, attributeDER(transactionID, null)) }},
		{name: "version 3", edit: func(p *signedParts) { p.version = "\x02\x01\x03" }},
		{name: "version 0", edit: func(p *signedParts) { p.version = "\x02\x01\x00" }, parse: ErrSyntax},
		{name: "SignerInfo version 2", edit: func(p *signedParts) { p.siVersion = "\x02\x01\x02" }, parse: ErrSyntax},
		{name: "no signer", edit: func(p *signedParts) { p.noSigner = true }, parse: ErrSyntax},
		{name: "two signers", edit: func(p *signedParts) { p.moreSigners = tlv(0x30) }, parse: ErrSyntax},
		{name: "more after signers", edit: func(p *signedParts) { p.afterSigners = null }, parse: ErrSyntax},
		{name: "data", edit: func(p *signedParts) { p.outer = oidData }, parse: ErrSyntax},

		{name: "content absent", edit: func(p *signedParts) { p.eContent = "" }, verify: ErrSignature},
		{name: "content absent and signed as empty", edit: func(p *signedParts) { p.eContent, p.content = "", "" }, verify: ErrSignature},
		{name: "content empty", edit: func(p *signedParts) { p.eContent, p.content = tlv(0xa0, tlv(4)), "" }},
		{name: "content changed", edit: func(p *signedParts) { p.eContent = tlv(0xa0, tlv(4, "hallo")) }, verify: ErrSignature},
		{name: "content of another type", edit: func(p *signedParts) { p.eContent = tlv(0xa0, tlv(0x30)) }, parse: ErrSyntax},
		{name: "content twice", edit: func(p *signedParts) { p.eContent = tlv(0xa0, tlv(4), tlv(4)) }, parse: ErrSyntax},

		{name: "no attributes", edit: func(p *signedParts) { p.noAttrs = true }},
		{name: "no attributes, content changed", edit: func(p *signedParts) { p.noAttrs = true; p.eContent = tlv(0xa0, tlv(4, "hallo")) }, verify: ErrSignature},
		{name: "no attributes, another content type", edit: func(p *signedParts) {
			p.noAttrs, p.contentType = true, oidDER(oidEnvelopedData)
		}, verify: ErrSignature},
		{name: "attributes passed off as content", edit: func(p *signedParts) {
			attrs := p.attributes()
			slices.Sort(attrs)
			p.noAttrs, p.content = true, tlv(0x31, attrs...)
			p.eContent = tlv(0xa0, tlv(4, p.content))
		}, verify: ErrSignature},
		{name: "another content type", edit: func(p *signedParts) { p.contentType = oidDER(oidEnvelopedData) }},
		{name: "attributes empty", edit: func(p *signedParts) { p.attrs = []string{}; p.sign() }, parse: ErrSyntax},
		{name: "contentType attribute absent", edit: func(p *signedParts) { p.attrs = p.attributes()[1:] }, verify: ErrSignature},
		{name: "contentType attribute of another type", edit: func(p *signedParts) {
			p.attrs = p.attributes()
			p.attrs[0] = attributeDER(oidContentType, oidDER(oidSignedData))
		}, verify: ErrSignature},
		{name: "contentType attribute with two values", edit: func(p *signedParts) {
			p.attrs = p.attributes()
			p.attrs[0] = attributeDER(oidContentType, oidDER(oidData), oidDER(oidData))
		}, verify: ErrSignature},
		{name: "messageDigest absent", edit: func(p *signedParts) { p.attrs = p.attributes()[:2] }, verify: ErrSignature},
		{name: "messageDigest wrong", edit: func(p *signedParts) {
			p.attrs = p.attributes()
			p.attrs[2] = attributeDER(oidMessageDigest, tlv(4, sum(p.hash, "other")))
		}, verify: ErrSignature},
		{name: "attribute twice", edit: func(p *signedParts) { p.attrs = append(p.attributes(), p.attributes()[1]) }, parse: ErrSyntax},
		{name: "attribute twice with another value", edit: func(p *signedParts) {
			p.attrs = append(p.attributes(), attributeDER(transactionID, tlv(0x13, "5678")))
		}, parse: ErrSyntax},
		{name: "16 attributes", edit: func(p *signedParts) { p.attrs = append(p.attributes(), manyAttributes(13)...) }},
		{name: "17 attributes", edit: func(p *signedParts) { p.attrs = append(p.attributes(), manyAttributes(14)...) }, parse: ErrLimit},
		{name: "attribute that asn1 cannot hold", edit: func(p *signedParts) {
			p.attrs = append(p.attributes(), tlv(0x30, "\x06\x0b\x69\x83\x80\x80\x80\x80\x80\x80\x80\x80\x01", tlv(0x31, null)))
		}},
		{name: "unsorted, hashed sorted", edit: func(p *signedParts) { p.attrs = p.attributes(); slices.Reverse(p.attrs) }},
		{name: "unsorted, hashed as sent", edit: func(p *signedParts) { p.attrs = p.attributes(); slices.Reverse(p.attrs); p.sorted = false }},
		{name: "unsorted, hashed otherwise", edit: func(p *signedParts) {
			p.attrs = p.attributes()
			p.signBytes = tlv(0x31, p.attrs[1], p.attrs[2], p.attrs[0])
			slices.Reverse(p.attrs)
		}, verify: ErrSignature},
		{name: "attributes hashed under [0]", edit: func(p *signedParts) { p.signBytes = tlv(0xa0, p.attributes()...) }, verify: ErrSignature},
		{name: "attribute changed", edit: func(p *signedParts) {
			p.sign()
			p.attrs[1] = attributeDER(transactionID, tlv(0x13, "5678"))
		}, verify: ErrSignature},

		{name: "digests differ", edit: func(p *signedParts) { p.signatureAlgorithm = algorithm(digests[1].rsa, null) }, verify: ErrSignature},
		{name: "digest not accepted", edit: func(p *signedParts) { p.hash, p.digestAlgorithm = crypto.SHA1, algorithm(digests[4].oid, "") }, verify: ErrAlgorithm},
		{name: "MD5", edit: func(p *signedParts) {
			p.hash, p.digestAlgorithm, p.signatureAlgorithm = crypto.MD5, algorithm(digests[5].oid, null), algorithm(digests[5].rsa, null)
		}, verify: ErrAlgorithm},
		{name: "unknown digest", edit: func(p *signedParts) { p.digestAlgorithm = algorithm(asn1.ObjectIdentifier{1, 2, 3}, "") }, verify: ErrAlgorithm},
		{name: "unknown signature", edit: func(p *signedParts) {
			p.signatureAlgorithm = algorithm(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}, "")
		}, verify: ErrAlgorithm},
		{name: "ECDSA named for RSA", edit: func(p *signedParts) { p.signatureAlgorithm = algorithm(digests[0].ecdsa, "") }, verify: ErrSignature},
		{name: "ECDSA", edit: func(p *signedParts) { p.be(ecPair()); p.signatureAlgorithm = algorithm(digests[0].ecdsa, "") }},
		{name: "RSA named for ECDSA", edit: func(p *signedParts) { p.be(ecPair()) }, verify: ErrSignature},
		{name: "long OBJECT IDENTIFIER", edit: func(p *signedParts) { p.digestAlgorithm = tlv(0x30, tlv(6, "\x2a"+strings.Repeat("\x01", 64))) }, parse: ErrSyntax},
		{name: "signature too short", edit: func(p *signedParts) { p.sign(); p.signature = tlv(4, "abc") }, verify: ErrSignature},
		{name: "signature empty", edit: func(p *signedParts) { p.signature = tlv(4) }, verify: ErrSignature},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newSigned(t)
			tt.edit(p)
			der := p.sign().der()
			for name, message := range map[string][]byte{"DER": der, "BER": clumsy(der, false)} {
				s, err := ParseSigned(message, Limits{})
				if !errors.Is(err, tt.parse) || (s == nil) == (err == nil) {
					t.Fatalf("%s: ParseSigned: %v, want %v", name, err, tt.parse)
				}
				if err != nil {
					continue
				}
				if err := s.Verify(sha2); !errors.Is(err, tt.verify) || (err == nil) != (tt.verify == nil) {
					t.Errorf("%s: Verify: %v, want %v", name, err, tt.verify)
				}
			}
		})
	}
}

func (p *signedParts) be(q pair) {
	p.signer, p.sid, p.certificates = q, issuerAndSerial(q.cert), tlv(0xa0, string(q.cert.Raw))
}

func manyAttributes(n int) (list []string) {
	for i := range n {
		list = append(list, attributeDER(asn1.ObjectIdentifier{2, 5, 4, i + 100}, null))
	}
	return list
}

// MD5 is told apart from the unknown, but is not verified even for a caller that would have it.
func TestMD5IsNameOnly(t *testing.T) {
	p := newSigned(t)
	p.hash, p.digestAlgorithm, p.signatureAlgorithm = crypto.MD5, algorithm(digests[5].oid, null), algorithm(digests[5].rsa, null)
	s, err := ParseSigned(p.sign().der(), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if s.Digest != crypto.MD5 || s.DigestOID.String() != "1.2.840.113549.2.5" {
		t.Errorf("%v, %v", s.Digest, s.DigestOID)
	}
	if err := s.Verify(all); !errors.Is(err, ErrAlgorithm) {
		t.Error(err)
	}
	if _, err := Sign(SignOptions{Key: p.signer.key, Certificate: p.signer.cert, Digest: crypto.MD5}); !errors.Is(err, ErrAlgorithm) {
		t.Errorf("Sign: %v", err)
	}
}

func TestVerifyDetached(t *testing.T) {
	p := newSigned(t)
	p.eContent = ""
	s, err := ParseSigned(p.sign().der(), Limits{})
	if err != nil || s.Content != nil {
		t.Fatalf("%q, %v", s.Content, err)
	}
	if err := s.VerifyDetached([]byte("hello"), sha2); err != nil {
		t.Error(err)
	}
	for _, content := range []string{"", "hallo"} {
		if err := s.VerifyDetached([]byte(content), sha2); !errors.Is(err, ErrSignature) {
			t.Errorf("%q: %v", content, err)
		}
	}
	attached, err := ParseSigned(newSigned(t).sign().der(), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if err := attached.VerifyDetached([]byte("hello"), sha2); !errors.Is(err, ErrSignature) {
		t.Errorf("with content of its own: %v", err)
	}
}

// A key of absurd size is refused before any arithmetic with it: that would take seconds.
func TestVerifyBoundsTheKey(t *testing.T) {
	for _, bits := range []uint{512, 1016, 8200, 131072} {
		n := new(big.Int).Lsh(big.NewInt(1), bits-1)
		n.SetBit(n, 0, 1)
		p := newSigned(t)
		p.be(pair{p.signer.key, selfSigned(p.signer.key, &rsa.PublicKey{N: n, E: 65537}, 1).cert})
		p.signature = tlv(4, strings.Repeat("\x01", int(bits/8)))
		s, err := ParseSigned(p.sign().der(), Limits{})
		if err != nil || s.Signer == nil {
			t.Fatalf("%d bits: %v", bits, err)
		}
		if err := s.Verify(sha2); !errors.Is(err, ErrSignature) || !strings.Contains(err.Error(), "size") {
			t.Errorf("%d bits: %v", bits, err)
		}
	}
}

func TestAttributes(t *testing.T) {
	p := newSigned(t)
	p.attrs = append(p.attributes(), attributeDER(asn1.ObjectIdentifier{2, 5, 4, 3}), attributeDER(asn1.ObjectIdentifier{2, 5, 4, 4}, null, null))
	s, err := ParseSigned(p.sign().der(), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := s.Attribute(transactionID); !ok || string(v) != tlv(0x13, "1234") {
		t.Errorf("transactionID: %x, %v", v, ok)
	}
	for _, oid := range []asn1.ObjectIdentifier{{2, 5, 4, 3}, {2, 5, 4, 4}, {2, 5, 4, 5}, {2, 16, 840, 1, 113733, 1, 9}, {9, 9}, nil} {
		if v, ok := s.Attribute(oid); ok {
			t.Errorf("%v: %x", oid, v)
		}
	}
	if list := s.Attributes(); len(list) != 3 || !list[1].Type.Equal(transactionID) || string(list[1].Value) != tlv(0x13, "1234") {
		t.Errorf("%v", list)
	}
}

func TestAttributeValues(t *testing.T) {
	oid := asn1.ObjectIdentifier{1, 2, 3}
	long := strings.Repeat("x", 300)
	for name, tt := range map[string]struct {
		got  Attribute
		want string
	}{
		"PrintableString":             {AttributePrintable(oid, "a+/= _"), tlv(0x13, "a+/= _")},
		"PrintableString, empty":      {AttributePrintable(oid, ""), tlv(0x13)},
		"PrintableString, long":       {AttributePrintable(oid, long), tlv(0x13, long)},
		"UTF8String":                  {AttributeUTF8(oid, "é"), tlv(0x0c, "é")},
		"OCTET STRING":                {AttributeOctets(oid, []byte{0, 1}), tlv(4, "\x00\x01")},
		"OCTET STRING without octets": {AttributeOctets(oid, nil), tlv(4)},
	} {
		if string(tt.got.Value) != tt.want || !tt.got.Type.Equal(oid) {
			t.Errorf("%s: %x", name, tt.got.Value)
		}
		s, isString := StringValue(tt.got.Value)
		o, isOctets := OctetsValue(tt.got.Value)
		if isOctets != strings.HasPrefix(name, "OCTET") || isString == isOctets || !strings.HasSuffix(tt.want, s+string(o)) {
			t.Errorf("%s: %q %v, %x %v", name, s, isString, o, isOctets)
		}
	}
	for _, bad := range []string{"", "\x13", "\x13\x02a", "\x13\x01ab", "\x02\x01\x01", "\x04\x01ab", "\x24\x03\x04\x01a", "\x33\x03\x04\x01a"} {
		if s, ok := StringValue([]byte(bad)); ok {
			t.Errorf("%x: %q", bad, s)
		}
		if o, ok := OctetsValue([]byte(bad)); ok {
			t.Errorf("%x: %x", bad, o)
		}
	}
}

// What is parsed cannot write over the rest of the message.
func TestSignedPartsAreClipped(t *testing.T) {
	der := newSigned(t).sign().der()
	before := bytes.Clone(der)
	s, err := ParseSigned(der, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	value, _ := s.Attribute(transactionID)
	for _, part := range [][]byte{s.Content, s.Signer.Raw, value} {
		_ = append(part, "overwritten"...)
	}
	if !bytes.Equal(der, before) {
		t.Error("the message is changed")
	}
}

// What is DER is verified as it was sent, though a signed attribute looks like what Normalize takes for an encryptedContent.
func TestSignedDERIsNotConverted(t *testing.T) {
	p := newSigned(t)
	p.attrs = append(p.attributes(), attributeDER(asn1.ObjectIdentifier{1, 2, 3}, tlv(0x30, oidDER(oidData), tlv(0x30), tlv(0xa0, tlv(4, "x")))))
	s, err := ParseSigned(p.sign().der(), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(sha2); err != nil {
		t.Error(err)
	}
}

// The offset of an error is that of the element at fault.
func TestErrorOffset(t *testing.T) {
	p := newSigned(t)
	p.certificates = tlv(0xa0, strings.Repeat(tlv(0x30), 17))
	der := p.sign().der()
	_, err := ParseSigned(append(make([]byte, 0, len(der)+100), der...), Limits{})
	var e *Error
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
	if want := bytes.Index(der, []byte(strings.Repeat(tlv(0x30), 17))) + 32; e.Offset != want {
		t.Errorf("offset %d, want %d", e.Offset, want)
	}
}

func BenchmarkParseSigned(b *testing.B) {
	der, _ := signedForBenchmark(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseSigned(der, Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	der, _ := signedForBenchmark(b)
	s, err := ParseSigned(der, Limits{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Verify(sha2); err != nil {
			b.Fatal(err)
		}
	}
}
