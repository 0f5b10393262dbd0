//lint:file-ignore SA1019 PKCS #1 v1.5 is what SCEP's clients encrypt with.

package cms

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"errors"
	"io"
	"testing"
)

// elsewhere is an RSA key that is not in memory, as far as this package sees.
type elsewhere struct {
	private *rsa.PrivateKey
	away    error
	secrets error
}

func (k *elsewhere) Public() crypto.PublicKey { return &k.private.PublicKey }

func (k *elsewhere) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.private.Sign(random, digest, opts)
}

func (k *elsewhere) Secret() ([]byte, error) { return []byte("a secret"), k.secrets }

func (k *elsewhere) Decrypt(random io.Reader, c []byte, opts crypto.DecrypterOpts) ([]byte, error) {
	if k.away != nil {
		return nil, k.away
	}
	o, ok := opts.(*rsa.PKCS1v15DecryptOptions)
	if !ok {
		return k.private.Decrypt(nil, c, opts)
	}
	plain := make([]byte, o.SessionKeyLen)
	if _, err := io.ReadFull(random, plain); err != nil {
		return nil, err
	}
	_ = rsa.DecryptPKCS1v15SessionKey(nil, k.private, c, plain)
	return plain, nil
}

// A key elsewhere gives what a key in memory gives, and gives as little away: what cannot be decrypted is decrypted twice to the same.
func TestHeldKey(t *testing.T) {
	p := rsaPair(t)
	key := &elsewhere{private: p.rsa()}
	names, messages := undecryptable(t)
	for i, e := range messages {
		got, err := e.Decrypt(key, p.cert)
		want, plain := e.Decrypt(p.rsa(), p.cert)
		if i == 0 && (err != nil || plain != nil || !bytes.Equal(got, want)) {
			t.Errorf("%s: %q, %v", names[i], got, err)
		}
		again, err2 := e.Decrypt(key, p.cert)
		if !bytes.Equal(got, again) || (err == nil) != (err2 == nil) {
			t.Errorf("%s: decrypted twice, it differs", names[i])
		}
		if err != nil && (!errors.Is(err, ErrDecrypt) || errors.Is(err, ErrKey)) {
			t.Errorf("%s: %v", names[i], err)
		}
	}
	for _, k := range []*elsewhere{{private: p.rsa(), away: errors.New("away")}, {private: p.rsa(), secrets: errors.New("away")}} {
		for i, e := range messages[:1] {
			if _, err := e.Decrypt(k, p.cert); !errors.Is(err, ErrKey) {
				t.Errorf("%s with a key that cannot be used: %v", names[i], err)
			}
		}
	}
	if _, err := messages[0].Decrypt(otherKind{}, p.cert); !errors.Is(err, ErrKey) {
		t.Errorf("a key of another kind: %v", err)
	}
}

type otherKind struct{ crypto.Signer }
