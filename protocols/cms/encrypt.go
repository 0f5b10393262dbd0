package cms

import (
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"math/bits"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Encrypt makes an EnvelopedData, DER, for one RSA recipient (PKCS #1 v1.5 key transport), with a fresh key and IV. A
// cipher that is not known and a recipient's key that is not RSA of 1024 to 8192 bits are ErrAlgorithm.
//
// The Encrypt of go.mozilla.org/pkcs7 is not used: its cipher is a variable of the whole process, DES by default, with
// neither 3DES nor AES-192.
func Encrypt(content []byte, to *x509.Certificate, c Cipher) ([]byte, error) {
	if !c.known() {
		return nil, fmt.Errorf("cms: encrypt: %w: cipher", ErrAlgorithm)
	}
	pub, ok := to.PublicKey.(*rsa.PublicKey)
	if !ok || !boundedRSA(pub) {
		return nil, fmt.Errorf("cms: encrypt: %w: the recipient's key", ErrAlgorithm)
	}
	p := ciphers[c]
	fresh := make([]byte, p.key+p.block)
	if _, err := rand.Read(fresh); err != nil {
		return nil, fmt.Errorf("cms: encrypt: %w", err)
	}
	key, iv := fresh[:p.key], fresh[p.key:]
	if c == DES || c == TripleDES {
		oddParity(key)
	}
	b, err := c.newBlock(key)
	if err != nil {
		return nil, fmt.Errorf("cms: encrypt: %w", err)
	}
	ciphertext := pad(content, p.block)
	cipher.NewCBCEncrypter(b, iv).CryptBlocks(ciphertext, ciphertext)
	//lint:ignore SA1019 RFC 8894 clients know no other key transport.
	encryptedKey, err := rsa.EncryptPKCS1v15(rand.Reader, pub, key)
	if err != nil {
		return nil, fmt.Errorf("cms: encrypt: %w", err)
	}

	out := cryptobyte.NewBuilder(make([]byte, 0, len(ciphertext)+len(encryptedKey)+len(to.RawIssuer)+256))
	out.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oidEnvelopedData)
		b.AddASN1(tagContent, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1Int64(0)
				b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
					b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
						b.AddASN1Int64(0)
						addIdentifier(b, to)
						addAlgorithm(b, oidRSA, true)
						b.AddASN1OctetString(encryptedKey)
					})
				})
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier(oidData)
					b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
						b.AddASN1ObjectIdentifier(p.oid)
						b.AddASN1OctetString(iv)
					})
					b.AddASN1(tagEncryptedContent, func(b *cryptobyte.Builder) { b.AddBytes(ciphertext) })
				})
			})
		})
	})
	return out.Bytes()
}

// oddParity sets the lowest bit of each octet as DES has it: some recipients check.
func oddParity(key []byte) {
	for i, b := range key {
		key[i] = b&^1 | byte(bits.OnesCount8(b&^1)+1)&1
	}
}
