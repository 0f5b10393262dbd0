package cms

import (
	"bytes"
	"crypto"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"math/big"
)

// ErrKey is a recipient's key that could not be used: it says nothing of the message.
var ErrKey = errors.New("the private key could not be used")

// HeldKey is an RSA key that is not in memory, as one in an HSM.
type HeldKey interface {
	crypto.Signer
	// Decrypt is crypto.Decrypter's, with *rsa.OAEPOptions, where rsa.ErrDecryption is a ciphertext that is none, or with *rsa.PKCS1v15DecryptOptions that name a SessionKeyLen: then what
	// it reads of rand takes the place of a key that cannot be had, without a sign of it.
	crypto.Decrypter
	// Secret derives octets, always the same, that nobody without the key can know.
	Secret() ([]byte, error)
}

// heldRecipient is an RSA key elsewhere.
type heldRecipient struct {
	key    HeldKey
	public *rsa.PublicKey
	failed error // of the holder
}

func newHeldRecipient(key HeldKey) *heldRecipient {
	public, ok := key.Public().(*rsa.PublicKey)
	if !ok {
		return nil
	}
	return &heldRecipient{key: key, public: public}
}

func (r *heldRecipient) modulus() *big.Int { return r.public.N }

func (r *heldRecipient) standIn(encrypted []byte) (out [sha256.Size]byte) {
	secret, err := r.key.Secret()
	if err != nil {
		r.failed = err
		return out
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write(encrypted)
	mac.Sum(out[:0])
	return out
}

func (r *heldRecipient) unwrap(t transport, encrypted, key []byte) {
	if r.failed != nil {
		return
	}
	if t.kind != transportOAEP {
		//lint:ignore SA1019 RFC 8894 clients know no other key transport; the stand-in keeps it from being an oracle.
		plain, err := r.key.Decrypt(bytes.NewReader(key), encrypted, &rsa.PKCS1v15DecryptOptions{SessionKeyLen: len(key)})
		if err != nil {
			r.failed = err
		} else if len(plain) == len(key) {
			copy(key, plain)
		}
		return
	}
	switch plain, err := r.key.Decrypt(nil, encrypted, &rsa.OAEPOptions{Hash: t.hash, MGFHash: t.mgf, Label: t.label}); {
	case errors.Is(err, rsa.ErrDecryption):
	case err != nil:
		r.failed = err
	case len(plain) == len(key):
		copy(key, plain)
	}
}

func (r *heldRecipient) newCBC(c Cipher, key, iv []byte) cipher.BlockMode {
	return (&rsaRecipient{}).newCBC(c, key, iv)
}
