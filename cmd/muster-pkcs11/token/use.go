//go:build cgo

package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"math/big"

	"github.com/miekg/pkcs11"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// use calls fn with the key's handle in a session of the token.
func (k *Key) use(fn func(m *pkcs11.Ctx, s pkcs11.SessionHandle, key pkcs11.ObjectHandle) error) error {
	return k.t.do(true, func(m *pkcs11.Ctx, s pkcs11.SessionHandle) error {
		k.mu.Lock()
		if k.opened != k.t.opened {
			h, err := findOne(m, s, pkcs11.CKO_PRIVATE_KEY, k.label)
			if err != nil {
				k.mu.Unlock()
				return err
			}
			k.handle, k.opened = h, k.t.opened
		}
		key := k.handle
		k.mu.Unlock()
		return fn(m, s, key)
	})
}

// digestInfo begins the DigestInfo of a hash (RFC 8017 section 9.2, note 1).
var digestInfo = map[crypto.Hash][]byte{
	crypto.SHA1:   {0x30, 0x21, 0x30, 0x09, 0x06, 0x05, 0x2b, 0x0e, 0x03, 0x02, 0x1a, 0x05, 0x00, 0x04, 0x14},
	crypto.SHA224: {0x30, 0x2d, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x04, 0x05, 0x00, 0x04, 0x1c},
	crypto.SHA256: {0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20},
	crypto.SHA384: {0x30, 0x41, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00, 0x04, 0x30},
	crypto.SHA512: {0x30, 0x51, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03, 0x05, 0x00, 0x04, 0x40},
}

// masks are a hash's mechanism and its MGF1.
var masks = map[crypto.Hash][2]uint{
	crypto.SHA1:   {pkcs11.CKM_SHA_1, pkcs11.CKG_MGF1_SHA1},
	crypto.SHA224: {pkcs11.CKM_SHA224, pkcs11.CKG_MGF1_SHA224},
	crypto.SHA256: {pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256},
	crypto.SHA384: {pkcs11.CKM_SHA384, pkcs11.CKG_MGF1_SHA384},
	crypto.SHA512: {pkcs11.CKM_SHA512, pkcs11.CKG_MGF1_SHA512},
}

// Sign is crypto.Signer's; the random source is the token's own.
func (k *Key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	mechanism, message, err := k.signing(digest, opts)
	if err != nil {
		return nil, err
	}
	var signature []byte
	err = k.use(func(m *pkcs11.Ctx, s pkcs11.SessionHandle, key pkcs11.ObjectHandle) error {
		if err := m.SignInit(s, []*pkcs11.Mechanism{mechanism}, key); err != nil {
			return said("C_SignInit", err)
		}
		if signature, err = m.Sign(s, message); err != nil {
			return said("C_Sign", err)
		}
		return nil
	})
	if _, ec := k.public.(*ecdsa.PublicKey); ec && err == nil {
		return sequence(signature)
	}
	return signature, err
}

// signing is the mechanism by which a digest is signed, and what it is given.
func (k *Key) signing(digest []byte, opts crypto.SignerOpts) (*pkcs11.Mechanism, []byte, error) {
	hash := opts.HashFunc()
	if hash != 0 && len(digest) != hash.Size() {
		return nil, nil, errors.New("the digest has not the length of its hash")
	}
	switch pub := k.public.(type) {
	case *rsa.PublicKey:
		if _, pss := opts.(*rsa.PSSOptions); pss {
			mask, ok := masks[hash]
			if !ok {
				return nil, nil, fmt.Errorf("no PSS with %v", hash)
			}
			return pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_PSS, pkcs11.NewPSSParams(mask[0], mask[1], uint(hash.Size()))), digest, nil
		}
		prefix, ok := digestInfo[hash]
		if !ok {
			return nil, nil, fmt.Errorf("no signature over %v", hash)
		}
		return pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS, nil), append(append([]byte(nil), prefix...), digest...), nil
	case *ecdsa.PublicKey:
		// The leftmost bits (FIPS 186-5 section 6.4.1): not every token cuts them itself.
		if size := (pub.Curve.Params().N.BitLen() + 7) / 8; len(digest) > size {
			digest = digest[:size]
		}
		return pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil), digest, nil
	}
	if hash != 0 {
		return nil, nil, errors.New("Ed25519 signs a message and no digest")
	}
	return pkcs11.NewMechanism(ckmEdDSA, nil), digest, nil
}

// sequence makes of r and s, side by side in octets of equal number, an ECDSA-Sig-Value (RFC 3279 section 2.2.3).
func sequence(signature []byte) ([]byte, error) {
	half := len(signature) / 2
	if half == 0 || len(signature)%2 != 0 {
		return nil, fmt.Errorf("the token signed with %d octets", len(signature))
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(new(big.Int).SetBytes(signature[:half]))
		b.AddASN1BigInt(new(big.Int).SetBytes(signature[half:]))
	})
	return b.Bytes()
}

// SessionKey decrypts a session key by PKCS #1 v1.5 (RFC 8017 section 7.2.2): what has another length than standIn, or no sound
// padding, is standIn. Where the token can, it does the bare RSA operation, and the padding is looked at here in constant time; else
// the token looks at it, in the time that it takes.
func (k *Key) SessionKey(ciphertext, standIn []byte) ([]byte, error) {
	pub, ok := k.public.(*rsa.PublicKey)
	if !ok {
		return nil, errors.New("the key is no RSA key")
	}
	if len(ciphertext) != pub.Size() || len(standIn)+11 > pub.Size() || new(big.Int).SetBytes(ciphertext).Cmp(pub.N) >= 0 {
		return nil, errors.New("the ciphertext is no number of the key's size")
	}
	bare := k.t.decrypts(pkcs11.CKM_RSA_X_509)
	mechanism := uint(pkcs11.CKM_RSA_PKCS)
	if bare {
		mechanism = pkcs11.CKM_RSA_X_509
	}
	plain, refused, err := k.decrypt(pkcs11.NewMechanism(mechanism, nil), ciphertext)
	if err != nil {
		return nil, err
	}
	out := append([]byte(nil), standIn...)
	if bare {
		if refused != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, refused)
		}
		message := make([]byte, pub.Size())
		copy(message[max(0, len(message)-len(plain)):], plain)
		clear(plain)
		unpad(message, out)
		clear(message)
		return out, nil
	}
	if refused == nil && len(plain) == len(out) {
		copy(out, plain)
	}
	clear(plain)
	return out, nil
}

// unpad takes the last octets of an encoded message over out when it is 0x00 0x02, 8 or more octets that are not zero, 0x00, and as
// many octets as out has. It takes the same time for all messages.
func unpad(message, out []byte) {
	at := len(message) - len(out)
	good := subtle.ConstantTimeByteEq(message[0], 0) & subtle.ConstantTimeByteEq(message[1], 2) & subtle.ConstantTimeByteEq(message[at-1], 0)
	for _, b := range message[2 : at-1] {
		good &= 1 - subtle.ConstantTimeByteEq(b, 0)
	}
	subtle.ConstantTimeCopy(good, out, message[at:])
}

// OAEP decrypts by RSAES-OAEP. Every failure that is not the token's is the one error rsa.ErrDecryption.
func (k *Key) OAEP(ciphertext []byte, o *rsa.OAEPOptions) ([]byte, error) {
	mgf := o.MGFHash
	if mgf == 0 {
		mgf = o.Hash
	}
	hash, ok := masks[o.Hash]
	mask, also := masks[mgf]
	if _, isRSA := k.public.(*rsa.PublicKey); !isRSA || !ok || !also {
		return nil, rsa.ErrDecryption
	}
	params := pkcs11.NewOAEPParams(hash[0], mask[1], pkcs11.CKZ_DATA_SPECIFIED, o.Label)
	plain, refused, err := k.decrypt(pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_OAEP, params), ciphertext)
	if err == nil && refused != nil {
		err = rsa.ErrDecryption
	}
	return plain, err
}

// decrypt returns a plaintext, or what C_Decrypt said of the ciphertext: tokens say bad padding in many ways, and one that was
// willing to begin is there.
func (k *Key) decrypt(mechanism *pkcs11.Mechanism, ciphertext []byte) (plain []byte, refused, err error) {
	err = k.use(func(m *pkcs11.Ctx, s pkcs11.SessionHandle, key pkcs11.ObjectHandle) error {
		if err := m.DecryptInit(s, []*pkcs11.Mechanism{mechanism}, key); err != nil {
			return said("C_DecryptInit", err)
		}
		plain, refused = m.Decrypt(s, ciphertext)
		if is(refused, pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_TOKEN_NOT_PRESENT,
			pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, pkcs11.CKR_USER_NOT_LOGGED_IN, pkcs11.CKR_DEVICE_ERROR) {
			return said("C_Decrypt", refused)
		}
		return nil
	})
	return plain, refused, err
}

// decrypts reports whether the token decrypts by a mechanism.
func (t *Token) decrypts(mechanism uint) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.mechs[mechanism]
}

var _ crypto.Signer = (*Key)(nil)
