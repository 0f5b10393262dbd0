package cms

import (
	"bytes"
	"crypto"
	"slices"
	"testing"
)

// A message that somebody has recorded stays the same message, whatever of it can be changed while its signature holds.
func TestSignedHash(t *testing.T) {
	p := newSigned(t).sign()
	hash := func(change func(p *signedParts)) []byte {
		t.Helper()
		again := *p
		change(&again)
		s, err := ParseSigned(again.der(), Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Verify([]crypto.Hash{crypto.SHA256}); err != nil {
			t.Fatal(err)
		}
		return s.SignedHash()
	}
	want := hash(func(*signedParts) {})
	for name, change := range map[string]func(p *signedParts){
		"order of the attributes": func(p *signedParts) {
			p.attrs = slices.Clone(p.attrs)
			slices.Reverse(p.attrs)
		},
		"unsignedAttrs": func(p *signedParts) { p.unsign = tlv(0xa1, attributeDER(transactionID, tlv(0x13, "5678"))) },
		"certificates":  func(p *signedParts) { p.certificates = tlv(0xa0, string(p.signer.cert.Raw), string(p.signer.cert.Raw)) },
	} {
		if !bytes.Equal(hash(change), want) {
			t.Errorf("%s: another message", name)
		}
	}
	if bytes.Equal(hash(func(p *signedParts) {
		p.attrs, p.signature, p.content, p.eContent = nil, "", "else", tlv(0xa0, tlv(4, "else"))
		p.sign()
	}), want) {
		t.Error("the content does not matter")
	}
}
