package cms

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/subtle"
	"encoding/asn1"
)

// Cipher is a content-encryption algorithm.
type Cipher int

// The ciphers that RFC 8894 and its clients know, all in CBC mode.
const (
	CipherUnknown Cipher = iota
	DES
	TripleDES
	AES128
	AES192
	AES256
)

// ciphers are the properties of each Cipher: RFC 3370 section 5.1, RFC 3565; DES by its OIW name.
var ciphers = [...]struct {
	name       string
	oid        asn1.ObjectIdentifier
	key, block int // octets
}{
	CipherUnknown: {name: "unknown cipher"},
	DES:           {"DES-CBC", asn1.ObjectIdentifier{1, 3, 14, 3, 2, 7}, 8, des.BlockSize},
	TripleDES:     {"DES-EDE3-CBC", asn1.ObjectIdentifier{1, 2, 840, 113549, 3, 7}, 24, des.BlockSize},
	AES128:        {"AES-128-CBC", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 2}, 16, aes.BlockSize},
	AES192:        {"AES-192-CBC", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 22}, 24, aes.BlockSize},
	AES256:        {"AES-256-CBC", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}, 32, aes.BlockSize},
}

func (c Cipher) known() bool { return c > CipherUnknown && int(c) < len(ciphers) }

func (c Cipher) String() string {
	if !c.known() {
		c = CipherUnknown
	}
	return ciphers[c].name
}

func cipherByOID(oid asn1.ObjectIdentifier) Cipher {
	for c := DES; c.known(); c++ {
		if ciphers[c].oid.Equal(oid) {
			return c
		}
	}
	return CipherUnknown
}

// newBlock sets the cipher up. The key has the cipher's length.
func (c Cipher) newBlock(key []byte) (cipher.Block, error) {
	switch c {
	case DES:
		return des.NewCipher(key)
	case TripleDES:
		return des.NewTripleDESCipher(key)
	}
	return aes.NewCipher(key)
}

// pad appends the padding of RFC 5652 section 6.3: n octets of value n, at least one.
func pad(content []byte, block int) []byte {
	n := block - len(content)%block
	out := make([]byte, len(content)+n)
	copy(out, content)
	for i := len(content); i < len(out); i++ {
		out[i] = byte(n)
	}
	return out
}

// unpad finds the length without padding, in constant time. data is at least one block. good is 1 or 0, and with 0 the
// length is one that a sound message of this size could have.
func unpad(data []byte, block int) (length, good int) {
	last := data[len(data)-1]
	n := int(last)
	good = subtle.ConstantTimeLessOrEq(1, n) & subtle.ConstantTimeLessOrEq(n, block)
	for i := 1; i <= block; i++ {
		within := subtle.ConstantTimeLessOrEq(i, n)
		same := subtle.ConstantTimeByteEq(data[len(data)-i], last)
		good &= same | (within ^ 1)
	}
	return len(data) - subtle.ConstantTimeSelect(good, n, 1), good
}
