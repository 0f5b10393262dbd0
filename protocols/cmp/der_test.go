package cmp

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/crypto/cryptobyte"

	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// pbm is a PasswordBasedMac whose one-way function has the OID.
func pbm(owf string, iterations int) *cmpmsg.AlgorithmIdentifier {
	var oid asn1.ObjectIdentifier
	for _, arc := range strings.Split(owf, ".") {
		n, _ := strconv.Atoi(arc)
		oid = append(oid, n)
	}
	algorithm := func(oid asn1.ObjectIdentifier) []byte {
		der, err := asn1.Marshal(oid)
		if err != nil {
			panic(err)
		}
		return element(0x30, der)
	}
	count, err := asn1.Marshal(iterations)
	if err != nil {
		panic(err)
	}
	params := element(0x30, element(0x04, []byte("salt of 16 bytes")), algorithm(oid), count, algorithm(asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}))
	return &cmpmsg.AlgorithmIdentifier{OID: cmpmsg.OIDPasswordBasedMac, Parameters: params}
}

func profiles(names ...string) []cmpmsg.InfoTypeAndValue {
	var parts []byte
	for _, n := range names {
		parts = append(parts, element(0x0c, []byte(n))...)
	}
	return []cmpmsg.InfoTypeAndValue{{Type: cmpmsg.OIDCertProfile, Value: element(0x30, parts)}}
}

// element is a DER element.
func element(tag byte, parts ...[]byte) []byte {
	var b cryptobyte.Builder
	content := bytes.Join(parts, nil)
	switch n := len(content); {
	case n < 128:
		b.AddBytes([]byte{tag, byte(n)})
	case n < 256:
		b.AddBytes([]byte{tag, 0x81, byte(n)})
	default:
		b.AddBytes([]byte{tag, 0x82, byte(n >> 8), byte(n)})
	}
	b.AddBytes(content)
	return b.BytesOrPanic()
}

func splice(t testing.TB, c *client, f func(*cmpmsg.Message) []byte, der []byte) []byte {
	t.Helper()
	m, err := cmpmsg.Parse(der)
	if err != nil {
		t.Fatal(err)
	}
	c.lastSent = f(m)
	return c.lastSent
}

// tamper changes the common name that is asked for.
func tamper(_ *client, der []byte) []byte {
	// The template's subject stands after the header's sender and before the extraCerts.
	m, err := cmpmsg.Parse(der)
	if err != nil {
		panic(err)
	}
	i := bytes.Index(der, m.RawBody) + bytes.Index(m.RawBody, []byte("device-1"))
	out := bytes.Clone(der)
	out[i+7] = '2'
	return out
}

// badBody puts rubbish under the tag of ir, with a good MAC over it.
func badBody(c *client, der []byte) []byte {
	m, err := cmpmsg.Parse(der)
	if err != nil {
		panic(err)
	}
	body := element(0xa0, element(0x30, element(0x02, []byte{1})))
	mac, err := cmpmsg.ParseMAC(m.Header.ProtectionAlg, cmpmsg.MACPolicy{})
	if err != nil {
		panic(err)
	}
	sum := mac.Sum(c.secret, element(0x30, m.RawHeader, body))
	return element(0x30, m.RawHeader, body, element(0xa0, element(0x03, append([]byte{0}, sum...))))
}

func flip(der []byte) []byte {
	out := bytes.Clone(der)
	i := bytes.Index(out, []byte("device-1"))
	out[i] ^= 1
	return out
}

func spkiOf(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// popInputDER is what cmpmsg writes for poposkInput, with the tag that is signed.
func popInputDER(t testing.TB, s *cmpmsg.POPOSigningKey) []byte {
	t.Helper()
	if s.KeyMAC != nil {
		alg := s.KeyMAC.Algorithm.Raw
		return element(0x30, element(0x30, alg, element(0x03, append([]byte{0}, s.KeyMAC.Value...))), s.PublicKey)
	}
	return element(0x30, element(0xa0, s.Sender), s.PublicKey)
}
