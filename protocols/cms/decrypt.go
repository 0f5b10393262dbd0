package cms

import (
	"crypto"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"fmt"
	"math/big"
)

// Decrypt decrypts with the recipient's key. It does the same work, and gives the one error ErrDecrypt, whatever is wrong
// between RecipientInfo and content (wrong recipient, bad PKCS #1 padding, a key of the wrong length, a ciphertext that is no
// multiple of the block, bad CBC padding): a stand-in of the right length takes the place of a key that cannot be had, as RFC
// 3218 section 2.3.2 has it. Even with ErrDecrypt the returned bytes are garbage of a plausible length, never nil, so that
// the caller can go on and do with them what it would have done with a plaintext.
//
// A wrong key and its stand-in look the same: one in 256 of them gives garbage and no error, whose padding happens to be
// sound. So the caller must answer content that does not parse exactly as it answers ErrDecrypt.
//
// The key is one that crypto/x509 parsed or crypto/rsa made, or had Precompute called, of at least 1024 bits; it is used
// exactly once.
//
// The Decrypt of go.mozilla.org/pkcs7 is not used: it tells bad padding from a wrong key length from bad content, and
// panics on a ciphertext that is not aligned.
//
// A key elsewhere is a HeldKey. ErrKey: it could not be used, whatever the message is; the content is garbage then, too.
func (e *Enveloped) Decrypt(key crypto.Signer, cert *x509.Certificate) (content []byte, err error) {
	switch k := key.(type) {
	case *rsa.PrivateKey:
		return e.decrypt(&rsaRecipient{k}, cert)
	case HeldKey:
		if r := newHeldRecipient(k); r != nil {
			content, err = e.decrypt(r, cert)
			if r.failed != nil {
				err = fmt.Errorf("cms: %w: %w", ErrKey, r.failed)
			}
			return content, err
		}
	}
	return nil, fmt.Errorf("cms: %w: it is no RSA key but %T", ErrKey, key)
}

// recipientKey is the recipient's private key, in the calls that decrypt makes of it; tests count them.
type recipientKey interface {
	modulus() *big.Int
	// standIn derives octets from a ciphertext that nobody without the key can foretell.
	standIn(encrypted []byte) [sha256.Size]byte
	// unwrap decrypts encrypted, a number below the modulus, over key if that has the length of the outcome; else key
	// stays as it is.
	unwrap(t transport, encrypted, key []byte)
	// newCBC sets up the content cipher.
	newCBC(c Cipher, key, iv []byte) cipher.BlockMode
}

func (e *Enveloped) decrypt(k recipientKey, cert *x509.Certificate) (content []byte, err error) {
	// What is decided before the operation with the key is public: the sender knows it. Still the work goes on.
	good := 1
	must := func(ok bool) {
		if !ok {
			good = 0
		}
	}
	c, iv := e.Cipher, e.iv
	if !c.known() {
		must(false)
		c = AES256
		iv = make([]byte, ciphers[c].block)
	}
	r := e.recipient(cert)
	if r == nil {
		must(false)
		r = new(recipient)
		if len(e.recipients) > 0 {
			r = &e.recipients[0]
		}
	}
	t := r.transport
	if t.kind == transportUnknown {
		must(false)
		t.kind = transportPKCS1
	}
	encrypted, ok := inRange(r.key, k.modulus())
	must(ok)

	// The stand-in depends on the ciphertext, so that a message sent twice is decrypted twice to the same: were it random,
	// the difference would tell good padding from bad.
	standIn := k.standIn(encrypted)
	sessionKey := standIn[:ciphers[c].key]
	k.unwrap(t, encrypted, sessionKey)

	block := ciphers[c].block
	size := len(e.ciphertext) / block * block
	must(size == len(e.ciphertext) && size > 0)
	content = make([]byte, max(size, block))
	copy(content, e.ciphertext[:size])
	k.newCBC(c, sessionKey, iv).CryptBlocks(content, content)
	length, padded := unpad(content, block)
	if good&padded != 1 {
		err = fmt.Errorf("cms: %w", ErrDecrypt)
	}
	return content[:length], err
}

// inRange makes of encryptedKey a number below the modulus n, in as many octets, and reports whether it was one.
// A number that lacks leading zeros gets them.
func inRange(encrypted []byte, n *big.Int) (number []byte, ok bool) {
	size := (n.BitLen() + 7) / 8
	number = make([]byte, size)
	ok = len(encrypted) <= size && len(encrypted) > 0
	encrypted = encrypted[max(0, len(encrypted)-size):]
	copy(number[size-len(encrypted):], encrypted)
	if new(big.Int).SetBytes(number).Cmp(n) >= 0 {
		number[0] = 0
		ok = false
	}
	return number, ok
}

// rsaRecipient is an RSA key in memory.
type rsaRecipient struct{ key *rsa.PrivateKey }

func (r *rsaRecipient) modulus() *big.Int { return r.key.N }

func (r *rsaRecipient) standIn(encrypted []byte) (out [sha256.Size]byte) {
	d := r.key.D.FillBytes(make([]byte, r.key.Size()))
	secret := sha256.Sum256(append([]byte("muster cms stand-in\x00"), d...))
	clear(d)
	mac := hmac.New(sha256.New, secret[:])
	mac.Write(encrypted)
	mac.Sum(out[:0])
	return out
}

func (r *rsaRecipient) unwrap(t transport, encrypted, key []byte) {
	if t.kind == transportOAEP {
		// Unlike PKCS #1 v1.5, OAEP gives nothing away by one error for all failures (RFC 8017 section 7.1.2).
		plain, err := r.key.Decrypt(nil, encrypted, &rsa.OAEPOptions{Hash: t.hash, MGFHash: t.mgf, Label: t.label})
		if err == nil && len(plain) == len(key) {
			subtle.ConstantTimeCopy(1, key, plain)
		}
		return
	}
	// An error would be a ciphertext out of range or a key below 1024 bits, and leaves key alone.
	//lint:ignore SA1019 RFC 8894 clients know no other key transport; this is the call that keeps it from being an oracle.
	_ = rsa.DecryptPKCS1v15SessionKey(nil, r.key, encrypted, key)
}

func (r *rsaRecipient) newCBC(c Cipher, key, iv []byte) cipher.BlockMode {
	b, err := c.newBlock(key)
	if err != nil {
		panic(err) // lengths come from the table of ciphers
	}
	return cipher.NewCBCDecrypter(b, iv)
}
