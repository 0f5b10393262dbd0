//lint:file-ignore SA1019 PKCS #1 v1.5 is what SCEP's clients encrypt with.

package scep

import (
	"crypto"
	"crypto/rsa"
	"errors"
	"io"
	"testing"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cms"
)

// heldKey is the RA's key as one in an HSM.
type heldKey struct {
	crypto.Signer
	away error
}

func (k *heldKey) Secret() ([]byte, error) { return []byte("a secret"), nil }

func (k *heldKey) Decrypt(random io.Reader, c []byte, opts crypto.DecrypterOpts) ([]byte, error) {
	if k.away != nil {
		return nil, k.away
	}
	plain := make([]byte, opts.(*rsa.PKCS1v15DecryptOptions).SessionKeyLen)
	if _, err := io.ReadFull(random, plain); err != nil {
		return nil, err
	}
	_ = rsa.DecryptPKCS1v15SessionKey(nil, raKey(), c, plain)
	return plain, nil
}

// TestHeldKey: an RA whose key is in no memory of ours enrolls, and while the key cannot be used nobody is refused: 503, as RFC 9110
// section 15.6.4 has it.
func TestHeldKey(t *testing.T) {
	key := &heldKey{Signer: raKey()}
	w := newWorld(t, worldOptions{identity: func(w *world) *gateway.Identity { return &gateway.Identity{Key: key, Certificate: w.ca.ra} }})
	message := w.message(wish{})
	signer := must(cms.ParseSigned(message, cms.Limits{})).Signer
	if a := w.read(t, w.post("/scep", message), deviceKey(), signer); a.status != "0" || len(a.certs) != 1 {
		t.Errorf("%+v", a)
	}
	key.away = errors.New("CKR_DEVICE_REMOVED")
	if got := w.post("/scep", w.message(wish{})); got.StatusCode != 503 {
		t.Errorf("with a key that is away: %d", got.StatusCode)
	}
}
