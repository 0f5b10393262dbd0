package scep

import (
	"crypto"
	"encoding/asn1"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/protocols/cms"
)

// blowfish is a cipher that clients name and protocols/cms does not know.
const blowfish = cms.CipherUnknown

var (
	oidBlowfish   = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3029, 1, 2}
	oidDES        = asn1.ObjectIdentifier{1, 3, 14, 3, 2, 7}
	oidMD5        = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 5}
	oidMD5WithRSA = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 4}
	oidSHA256     = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
)

// messageIn is a message with a digest and a cipher, MD5 and Blowfish among them: such a message names them, which is all that the
// server looks at.
func (w *world) messageIn(r wish, digest crypto.Hash, cipher cms.Cipher) []byte {
	w.t.Helper()
	r.digest, r.cipher = digest, cipher
	if cipher == blowfish {
		r.cipher = cms.DES // as long a block
		r.envelope = func(e []byte) []byte { return renamed(e, oidDES, oidBlowfish) }
	}
	if digest != crypto.MD5 {
		return w.message(r)
	}
	r.digest = crypto.SHA256
	return renamed(renamed(w.message(r), oidSHA256, oidMD5), oidSHA256WithRSA, oidMD5WithRSA)
}

// renamed puts one object identifier into the place of another, wherever it stands in the DER, and corrects the lengths around it. What
// is in OCTET STRINGs stays.
func renamed(der []byte, old, with asn1.ObjectIdentifier) []byte {
	from := must(asn1.Marshal(old))
	in := cryptobyte.String(der)
	var b cryptobyte.Builder
	for !in.Empty() {
		var element, content cryptobyte.String
		var tag cbasn1.Tag
		if !in.ReadAnyASN1Element(&element, &tag) {
			panic("not DER")
		}
		switch whole := element; {
		case string(whole) == string(from):
			b.AddASN1ObjectIdentifier(with)
		case tag&0x20 != 0:
			if !element.ReadAnyASN1(&content, &tag) {
				panic("not DER")
			}
			b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes(renamed(content, old, with)) })
		default:
			b.AddBytes(whole)
		}
	}
	return b.BytesOrPanic()
}
