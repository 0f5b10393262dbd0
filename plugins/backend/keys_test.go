//lint:file-ignore SA1019 PKCS #1 v1.5 is what SCEP's clients encrypt with.

package backend

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// keyring holds keys in memory.
type keyring struct {
	*double
	keys map[string]crypto.Signer
	lies atomic.Bool // signs something else, and answers with the wrong length
}

func (k *keyring) key(label string) (crypto.Signer, error) {
	if key := k.keys[label]; key != nil {
		return key, nil
	}
	return nil, Refuse(codes.NotFound, "no key")
}

func (k *keyring) PublicKey(_ context.Context, label string) ([]byte, error) {
	key, err := k.key(label)
	if err != nil {
		return nil, err
	}
	if k.lies.Load() {
		return []byte("no key"), nil
	}
	return x509.MarshalPKIXPublicKey(key.Public())
}

func (k *keyring) Sign(_ context.Context, r *SignRequest) ([]byte, error) {
	key, err := k.key(r.Label)
	if err != nil {
		return nil, err
	}
	if k.lies.Load() {
		r.Digest[0] ^= 1
	}
	opts := crypto.SignerOpts(r.Hash)
	if r.PSS {
		opts = &rsa.PSSOptions{Hash: r.Hash, SaltLength: rsa.PSSSaltLengthEqualsHash}
	}
	return key.Sign(rand.Reader, r.Digest, opts)
}

func (k *keyring) Decrypt(_ context.Context, r *DecryptRequest) ([]byte, error) {
	key, err := k.key(r.Label)
	if err != nil {
		return nil, err
	}
	private := key.(*rsa.PrivateKey)
	if r.OAEP != nil {
		plain, err := private.Decrypt(nil, r.Ciphertext, r.OAEP)
		if err != nil {
			err = Refuse(codes.InvalidArgument, "%v", err)
		}
		return plain, err
	}
	out := bytes.Clone(r.StandIn)
	_ = rsa.DecryptPKCS1v15SessionKey(nil, private, r.Ciphertext, out)
	if k.lies.Load() {
		out = out[1:]
	}
	return out, nil
}

// keysOver is the client of a plugin that holds keys.
func keysOver(t *testing.T, b Backend) *Client {
	t.Helper()
	c := connect(t, func(s *grpc.Server) { Register(s, b, quiet) })
	if err := c.Configure(t.Context(), []byte("x: 1")); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestHeldKey signs and decrypts with keys that a backend holds, over a connection.
func TestHeldKey(t *testing.T) {
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	e, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	holder := &keyring{double: new(double), keys: map[string]crypto.Signer{"rsa": r, "ec": e, "ed": ed}}
	client := keysOver(t, holder)
	digest := sha256.Sum256([]byte("message"))
	for label, opts := range map[string]crypto.SignerOpts{"rsa": crypto.SHA256, "ec": crypto.SHA256, "ed": crypto.Hash(0)} {
		k := NewHeldKey(label, holder.keys[label].Public())
		if _, err := k.Sign(nil, digest[:], opts); err == nil {
			t.Errorf("%s: a key that was not opened signs", label)
		}
		if err := k.Open(t.Context(), client); err != nil {
			t.Fatal(err)
		}
		if _, err := k.Sign(rand.Reader, digest[:], opts); err != nil {
			t.Errorf("%s: %v", label, err)
		}
		holder.lies.Store(true)
		if _, err := k.Sign(rand.Reader, digest[:], opts); err == nil || !strings.Contains(err.Error(), "does not verify") {
			t.Errorf("%s: a signature over something else: %v", label, err)
		}
		if err := k.Open(t.Context(), client); status.Code(err) != codes.Internal {
			t.Errorf("%s: a public key that is none: %v", label, err)
		}
		holder.lies.Store(false)
	}
	if err := NewHeldKey("gone", e.Public()).Open(t.Context(), client); status.Code(err) != codes.NotFound {
		t.Errorf("a key that is not there: %v", err)
	}
	if err := NewHeldKey("rsa", e.Public()).Open(t.Context(), client); err == nil {
		t.Error("another key than the certificate's was opened")
	}

	k := NewHeldKey("rsa", r.Public())
	if err := k.Open(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	pss := &rsa.PSSOptions{Hash: crypto.SHA256, SaltLength: rsa.PSSSaltLengthEqualsHash}
	if s, err := k.Sign(nil, digest[:], pss); err != nil || rsa.VerifyPSS(&r.PublicKey, crypto.SHA256, digest[:], s, pss) != nil {
		t.Errorf("PSS: %v", err)
	}
	standIn := []byte("a stand-in, 16 b")
	sealed, err := rsa.EncryptPKCS1v15(rand.Reader, &r.PublicKey, []byte("0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	opts := &rsa.PKCS1v15DecryptOptions{SessionKeyLen: 16}
	for want, c := range map[string][]byte{"0123456789abcdef": sealed, string(standIn): make([]byte, r.Size())} {
		if plain, err := k.Decrypt(bytes.NewReader(standIn), c, opts); err != nil || string(plain) != want {
			t.Errorf("%q, %v, want %q", plain, err, want)
		}
	}
	holder.lies.Store(true)
	if _, err := k.Decrypt(bytes.NewReader(standIn), sealed, opts); status.Code(err) != codes.Internal {
		t.Errorf("a plaintext of another length: %v", err)
	}
	holder.lies.Store(false)
	if _, err := k.Decrypt(nil, sealed, &rsa.PKCS1v15DecryptOptions{}); err == nil {
		t.Error("decryption that tells of bad padding")
	}
	if sealed, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, &r.PublicKey, []byte("plain"), []byte("label")); err != nil {
		t.Fatal(err)
	}
	if plain, err := k.Decrypt(nil, sealed, &rsa.OAEPOptions{Hash: crypto.SHA256, Label: []byte("label")}); err != nil || string(plain) != "plain" {
		t.Errorf("OAEP: %q, %v", plain, err)
	}
	if _, err := k.Decrypt(nil, sealed, &rsa.OAEPOptions{Hash: crypto.SHA256, Label: []byte("other")}); err != rsa.ErrDecryption {
		t.Errorf("OAEP with another label: %v", err)
	}
	one, err := k.Secret()
	if two, again := k.Secret(); err != nil || again != nil || !bytes.Equal(one, two) || len(one) != 32 {
		t.Errorf("secrets: %v, %v", err, again)
	}
}

// TestKeysBounds: what the server refuses before the holder sees it.
func TestKeysBounds(t *testing.T) {
	client := keysOver(t, &keyring{double: new(double)})
	for name, err := range map[string]error{
		"a digest of another length": second(client.Sign(t.Context(), &SignRequest{Label: "k", Digest: []byte{1}, Hash: crypto.SHA256})),
		"PSS without a hash":         second(client.Sign(t.Context(), &SignRequest{Label: "k", PSS: true})),
		"a hash that is none":        second(client.Sign(t.Context(), &SignRequest{Label: "k", Digest: make([]byte, 16), Hash: crypto.MD5})),
		"no stand-in":                second(client.Decrypt(t.Context(), &DecryptRequest{Label: "k", Ciphertext: []byte{1}})),
		"a long ciphertext":          second(client.Decrypt(t.Context(), &DecryptRequest{Label: "k", Ciphertext: make([]byte, maxKeyMessage+1), StandIn: []byte{1}})),
	} {
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	without := keysOver(t, new(double))
	if _, err := without.PublicKey(t.Context(), "k"); status.Code(err) != codes.Unimplemented {
		t.Errorf("a backend without keys: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }
