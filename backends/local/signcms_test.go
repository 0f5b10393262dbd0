package local

import (
	"bytes"
	"encoding/asn1"
	"slices"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/muster-pki/muster/plugins/backend"
)

// nearly are the parts of a degenerate SignedData (RFC 5652 section 5.1), each to be changed on its own.
type nearly struct {
	kind, inner                                       asn1.ObjectIdentifier
	version                                           int64
	digest, content, signer                           bool
	behindAll, behindContent, behindSigned, withinAll []byte
	certs                                             [][]byte
}

func (n nearly) der() []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(n.kind)
		b.AddASN1(tagCMSContent, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1Int64(n.version)
				b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
					if n.digest {
						b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {})
					}
				})
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier(n.inner)
					if n.content {
						b.AddASN1(tagCMSContent, func(b *cryptobyte.Builder) { b.AddASN1OctetString([]byte("x")) })
					}
				})
				b.AddASN1(tagCMSContent, func(b *cryptobyte.Builder) { b.AddBytes(slices.Concat(n.certs...)) })
				b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
					if n.signer {
						b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {})
					}
				})
				b.AddBytes(n.behindSigned)
			})
			b.AddBytes(n.behindContent)
		})
		b.AddBytes(n.withinAll)
	})
	return append(b.BytesOrPanic(), n.behindAll...)
}

// A CA's key signs nothing that has room for anything beside certificates: each part of what it signs is looked at.
// RFC 8894 sections 3.4 and 4.7.1.
func TestCertsOnly(t *testing.T) {
	one := []byte{0x30, 1, 0}
	null := []byte{5, 0}
	good := func() nearly {
		return nearly{kind: oidCMSSigned, inner: oidCMSData, version: 1, certs: [][]byte{one, one}}
	}
	list, err := certsOnly(good().der())
	if err != nil || len(list) != 2 || !bytes.Equal(list[0], one) {
		t.Fatalf("%x, %v", list, err)
	}
	for what, change := range map[string]func(*nearly){
		"another content type": func(n *nearly) { n.kind = oidCMSData }, "another kind of content": func(n *nearly) { n.inner = oidCMSSigned },
		"another version": func(n *nearly) { n.version = 3 }, "a digest algorithm": func(n *nearly) { n.digest = true }, "a content": func(n *nearly) { n.content = true },
		"a signer": func(n *nearly) { n.signer = true }, "no certificate": func(n *nearly) { n.certs = nil },
		"what is no certificate": func(n *nearly) { n.certs = [][]byte{one, null} }, "too many": func(n *nearly) { n.certs = slices.Repeat([][]byte{one}, backend.MaxChain+1) },
		"more behind it": func(n *nearly) { n.behindAll = null }, "more behind the SignedData": func(n *nearly) { n.behindContent = null },
		"more in the SignedData": func(n *nearly) { n.behindSigned = null }, "more in the ContentInfo": func(n *nearly) { n.withinAll = null },
	} {
		n := good()
		change(&n)
		if list, err := certsOnly(n.der()); err == nil || list != nil {
			t.Errorf("%s: %x, %v", what, list, err)
		}
	}
}
