package est

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	cryptobyteasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// csrOptions describe a PKCS#10 request. The zero value with a key is a good one.
type csrOptions struct {
	key        crypto.Signer
	subject    string // CN; "" for device-0001
	san        []string
	attributes [][]byte // DER, further ones
	breakSig   bool
}

func makeCSR(t testing.TB, o csrOptions) []byte {
	t.Helper()
	if o.subject == "" {
		o.subject = "device-0001"
	}
	if o.san != nil {
		value := must(asn1.Marshal(generalNames(o.san...)))
		ext := must(asn1.Marshal([]pkix.Extension{{Id: oidSubjectAltName, Value: value}}))
		o.attributes = append(o.attributes, attribute(oidExtensionRequest, ext))
	}
	spki := must(x509.MarshalPKIXPublicKey(o.key.Public()))
	var b cryptobyte.Builder
	b.AddASN1(cryptobyteasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(0)
		b.AddBytes(nameDER(o.subject))
		b.AddBytes(spki)
		b.AddASN1(cryptobyteasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			for _, a := range o.attributes {
				b.AddBytes(a)
			}
		})
	})
	info := b.BytesOrPanic()
	sum := crypto.SHA256.New()
	sum.Write(info)
	sig := must(o.key.Sign(rand.Reader, sum.Sum(nil), crypto.SHA256))
	if o.breakSig {
		sum.Write([]byte{1})
		sig = must(o.key.Sign(rand.Reader, sum.Sum(nil), crypto.SHA256))
	}
	var out cryptobyte.Builder
	out.AddASN1(cryptobyteasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(info)
		b.AddASN1(cryptobyteasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			if _, ok := o.key.(*ecdsa.PrivateKey); ok {
				b.AddASN1ObjectIdentifier(asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2})
			} else {
				b.AddASN1ObjectIdentifier(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11})
				b.AddASN1NULL()
			}
		})
		b.AddASN1BitString(sig)
	})
	return out.BytesOrPanic()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func b64(der []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(der)) }

func nameDER(cn string) []byte {
	return must(asn1.Marshal(pkix.Name{CommonName: cn}.ToRDNSequence()))
}

func generalNames(dns ...string) []asn1.RawValue {
	var names []asn1.RawValue
	for _, n := range dns {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 2, Bytes: []byte(n)})
	}
	return names
}

// attribute is a PKCS#10 attribute with the DER values.
func attribute(oid asn1.ObjectIdentifier, values ...[]byte) []byte {
	var b cryptobyte.Builder
	b.AddASN1(cryptobyteasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oid)
		b.AddASN1(cryptobyteasn1.SET, func(b *cryptobyte.Builder) {
			for _, v := range values {
				b.AddBytes(v)
			}
		})
	})
	return b.BytesOrPanic()
}

func printable(s string) []byte {
	return append([]byte{19, byte(len(s))}, s...)
}
