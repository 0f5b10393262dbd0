package backend

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/muster-pki/muster/plugins/backend/backendpb/v1"
)

// KeyHolder is implemented by a backend that holds private keys of the gateway's own, as an RA's in an HSM: the gateway has the
// certificates, and asks for every operation with a key. Optional.
//
// NOT_FOUND: there is no such key, or not for the gateway. UNAVAILABLE: not now. A key of a CA is never one of these: whoever has
// it signed here would have certificates that no ledger knows.
type KeyHolder interface {
	// PublicKey returns the SubjectPublicKeyInfo of the key with the label, DER.
	PublicKey(ctx context.Context, label string) ([]byte, error)
	// Sign signs a digest, and returns the signature as a certificate has it (ECDSA: DER).
	Sign(ctx context.Context, r *SignRequest) ([]byte, error)
	// Decrypt decrypts with an RSA key.
	Decrypt(ctx context.Context, r *DecryptRequest) ([]byte, error)
}

// SignRequest asks for a signature.
type SignRequest struct {
	Label  string
	Digest []byte      // of Hash; the message where that is 0 (Ed25519)
	Hash   crypto.Hash // SHA-1 to SHA-512
	PSS    bool        // RSASSA-PSS with MGF1 and a salt of Hash's; else PKCS #1 v1.5
}

// DecryptRequest asks for a plaintext. RSAES-OAEP where OAEP is not nil: a failure is INVALID_ARGUMENT. Else PKCS #1 v1.5, which
// must not tell whether the padding was sound: then, and when the plaintext has another length than StandIn, StandIn is what is
// returned, after the same time as far as the holder can (RFC 3218 section 2.3.2).
type DecryptRequest struct {
	Label      string
	Ciphertext []byte
	StandIn    []byte
	OAEP       *rsa.OAEPOptions
}

// maxKeyMessage bounds what is signed and decrypted: a message for Ed25519, a number of an RSA key's size.
const maxKeyMessage = 64 << 10

var hashNames = map[pb.KeyHash]crypto.Hash{
	pb.KeyHash_KEY_HASH_UNSPECIFIED: 0,
	pb.KeyHash_KEY_HASH_SHA1:        crypto.SHA1,
	pb.KeyHash_KEY_HASH_SHA224:      crypto.SHA224,
	pb.KeyHash_KEY_HASH_SHA256:      crypto.SHA256,
	pb.KeyHash_KEY_HASH_SHA384:      crypto.SHA384,
	pb.KeyHash_KEY_HASH_SHA512:      crypto.SHA512,
}

func (s *server) keyHolder(call string) (KeyHolder, error) {
	if h, ok := s.b.(KeyHolder); ok {
		return h, nil
	}
	return nil, unimplemented(call)
}

func (s *server) PublicKey(ctx context.Context, r *pb.PublicKeyRequest) (*pb.PublicKeyResponse, error) {
	return serve(s, ctx, "PublicKey", configured, func(ctx context.Context) (*pb.PublicKeyResponse, error) {
		h, err := s.keyHolder("PublicKey")
		if err != nil {
			return nil, err
		}
		key, err := h.PublicKey(ctx, r.Label)
		return &pb.PublicKeyResponse{PublicKey: key}, err
	})
}

func (s *server) Sign(ctx context.Context, r *pb.SignRequest) (*pb.SignResponse, error) {
	return serve(s, ctx, "Sign", configured, func(ctx context.Context) (*pb.SignResponse, error) {
		h, err := s.keyHolder("Sign")
		if err != nil {
			return nil, err
		}
		hash, ok := hashNames[r.Hash]
		switch {
		case !ok || hash == 0 && r.Pss:
			return nil, badRequest(errors.New("no such hash"))
		case hash != 0 && len(r.Digest) != hash.Size() || len(r.Digest) > maxKeyMessage:
			return nil, badRequest(fmt.Errorf("a digest of %d octets", len(r.Digest)))
		}
		signature, err := h.Sign(ctx, &SignRequest{Label: r.Label, Digest: r.Digest, Hash: hash, PSS: r.Pss})
		return &pb.SignResponse{Signature: signature}, err
	})
}

func (s *server) Decrypt(ctx context.Context, r *pb.DecryptRequest) (*pb.DecryptResponse, error) {
	return serve(s, ctx, "Decrypt", configured, func(ctx context.Context) (*pb.DecryptResponse, error) {
		h, err := s.keyHolder("Decrypt")
		if err != nil {
			return nil, err
		}
		q := &DecryptRequest{Label: r.Label, Ciphertext: r.Ciphertext, StandIn: r.StandIn}
		hash, known := hashNames[r.OaepHash]
		mgf, alsoKnown := hashNames[r.OaepMgfHash]
		switch {
		case !known || !alsoKnown || hash == 0 && (mgf != 0 || len(r.OaepLabel) > 0):
			return nil, badRequest(errors.New("no such hash"))
		case (hash == 0) != (len(r.StandIn) > 0):
			return nil, badRequest(errors.New("a stand-in belongs to PKCS #1 v1.5, and to that always"))
		case len(r.Ciphertext) > maxKeyMessage || len(r.StandIn) > maxKeyMessage || len(r.OaepLabel) > maxKeyMessage:
			return nil, badRequest(errors.New("the ciphertext is too long"))
		case hash != 0:
			q.OAEP = &rsa.OAEPOptions{Hash: hash, MGFHash: mgf, Label: r.OaepLabel}
		}
		plain, err := h.Decrypt(ctx, q)
		return &pb.DecryptResponse{Plaintext: plain}, err
	})
}

// PublicKey is KeyHolder.PublicKey.
func (c *Client) PublicKey(ctx context.Context, label string) ([]byte, error) {
	w, err := c.rpc.PublicKey(sendRequestID(ctx, ""), &pb.PublicKeyRequest{Label: label}, messageBounds...)
	if err != nil {
		return nil, c.fail(ctx, err)
	}
	if err := checkSequence(w.PublicKey, maxKeyMessage); err != nil {
		return nil, c.garbage("PublicKey", err)
	}
	return w.PublicKey, nil
}

// Sign is KeyHolder.Sign. Whether the signature is sound is for the caller to check.
func (c *Client) Sign(ctx context.Context, r *SignRequest) ([]byte, error) {
	hash, ok := wireOf(hashNames, r.Hash)
	if !ok {
		return nil, Refuse(codes.InvalidArgument, "%s: no signatures over %v", c.name, r.Hash)
	}
	w, err := c.rpc.Sign(sendRequestID(ctx, ""), &pb.SignRequest{Label: r.Label, Digest: r.Digest, Hash: hash, Pss: r.PSS}, messageBounds...)
	if err != nil {
		return nil, c.fail(ctx, err)
	}
	if n := len(w.Signature); n == 0 || n > maxKeyMessage {
		return nil, c.garbage("Sign", fmt.Errorf("a signature of %d octets", n))
	}
	return w.Signature, nil
}

// Decrypt is KeyHolder.Decrypt.
func (c *Client) Decrypt(ctx context.Context, r *DecryptRequest) ([]byte, error) {
	q := &pb.DecryptRequest{Label: r.Label, Ciphertext: r.Ciphertext, StandIn: r.StandIn}
	if o := r.OAEP; o != nil {
		mgf := o.MGFHash
		if mgf == 0 {
			mgf = o.Hash
		}
		hash, ok := wireOf(hashNames, o.Hash)
		mgfHash, also := wireOf(hashNames, mgf)
		if !ok || !also || o.Hash == 0 {
			return nil, Refuse(codes.InvalidArgument, "%s: no OAEP with %v and %v", c.name, o.Hash, mgf)
		}
		q.OaepHash, q.OaepMgfHash, q.OaepLabel = hash, mgfHash, o.Label
	}
	w, err := c.rpc.Decrypt(sendRequestID(ctx, ""), q, messageBounds...)
	if err != nil {
		return nil, c.fail(ctx, err)
	}
	if n := len(w.Plaintext); n > len(r.Ciphertext) || r.OAEP == nil && n != len(r.StandIn) {
		return nil, c.garbage("Decrypt", fmt.Errorf("a plaintext of %d octets", n))
	}
	return w.Plaintext, nil
}

var _ KeyHolder = (*Client)(nil)

// HeldKey is a key of a KeyHolder as crypto.Signer and crypto.Decrypter. Each signature is verified before it is given out.
type HeldKey struct {
	label  string
	public crypto.PublicKey
	holder KeyHolder // nil until Open

	mu     sync.Mutex
	secret []byte // Secret's
}

// NewHeldKey makes a key that Open gives a holder.
func NewHeldKey(label string, public crypto.PublicKey) *HeldKey {
	return &HeldKey{label: label, public: public}
}

// heldKeyTimeout bounds an operation with a key.
const heldKeyTimeout = 15 * time.Second

// Open finds the key, and fails when it is not that of the public key.
func (k *HeldKey) Open(ctx context.Context, holder KeyHolder) error {
	is, err := holder.PublicKey(ctx, k.label)
	if err != nil {
		return err
	}
	want, err := x509.MarshalPKIXPublicKey(k.public)
	if err != nil {
		return err
	}
	if !bytes.Equal(is, want) {
		return fmt.Errorf("the key %q is another one than the certificate's", k.label)
	}
	k.holder = holder
	return nil
}

// Public is crypto.Signer's.
func (k *HeldKey) Public() crypto.PublicKey { return k.public }

var errNotOpen = errors.New("the key was not opened")

// Sign is crypto.Signer's. The random source is the holder's own.
func (k *HeldKey) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if k.holder == nil {
		return nil, errNotOpen
	}
	r := &SignRequest{Label: k.label, Digest: digest, Hash: opts.HashFunc()}
	if pss, ok := opts.(*rsa.PSSOptions); ok {
		r.PSS = true
		if n := pss.SaltLength; n != rsa.PSSSaltLengthEqualsHash && n != rsa.PSSSaltLengthAuto && n != r.Hash.Size() {
			return nil, errors.New("PSS with a salt of another length than the hash")
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), heldKeyTimeout)
	defer cancel()
	signature, err := k.holder.Sign(ctx, r)
	if err != nil {
		return nil, err
	}
	if !k.verifies(r, signature) {
		return nil, fmt.Errorf("the signature by the key %q does not verify", k.label)
	}
	return signature, nil
}

func (k *HeldKey) verifies(r *SignRequest, signature []byte) bool {
	switch pub := k.public.(type) {
	case *rsa.PublicKey:
		if r.PSS {
			return rsa.VerifyPSS(pub, r.Hash, r.Digest, signature, nil) == nil
		}
		return rsa.VerifyPKCS1v15(pub, r.Hash, r.Digest, signature) == nil
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(pub, r.Digest, signature)
	case ed25519.PublicKey:
		return r.Hash == 0 && ed25519.Verify(pub, r.Digest, signature)
	}
	return false
}

// Decrypt is crypto.Decrypter's, of an RSA key: with *rsa.OAEPOptions, or with *rsa.PKCS1v15DecryptOptions that name a
// SessionKeyLen, so many octets of random taking the place of what cannot be had. rsa.ErrDecryption: OAEP, and the ciphertext is none.
func (k *HeldKey) Decrypt(random io.Reader, ciphertext []byte, opts crypto.DecrypterOpts) ([]byte, error) {
	if k.holder == nil {
		return nil, errNotOpen
	}
	r := &DecryptRequest{Label: k.label, Ciphertext: ciphertext}
	switch o := opts.(type) {
	case *rsa.OAEPOptions:
		r.OAEP = o
	//lint:ignore SA1019 RFC 8894 clients know no other key transport; the stand-in keeps it from being an oracle.
	case *rsa.PKCS1v15DecryptOptions:
		if o.SessionKeyLen <= 0 {
			return nil, errors.New("PKCS #1 v1.5 without the length of a session key would tell of bad padding")
		}
		r.StandIn = make([]byte, o.SessionKeyLen)
		if _, err := io.ReadFull(random, r.StandIn); err != nil {
			return nil, err
		}
	default:
		return nil, errors.New("decryption of this kind is not had here")
	}
	ctx, cancel := context.WithTimeout(context.Background(), heldKeyTimeout)
	defer cancel()
	plain, err := k.holder.Decrypt(ctx, r)
	if r.OAEP != nil && status.Code(err) == codes.InvalidArgument {
		return nil, rsa.ErrDecryption
	}
	return plain, err
}

// Secret derives 32 octets, always the same, that nobody without the RSA key can know: of a signature, by PKCS #1 v1.5 without a
// random part, over a text that nothing else signs.
func (k *HeldKey) Secret() ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.secret == nil {
		digest := sha256.Sum256([]byte("muster: a secret of this key's, for nothing that leaves the gateway"))
		signature, err := k.Sign(nil, digest[:], crypto.SHA256)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(signature)
		k.secret = sum[:]
	}
	return bytes.Clone(k.secret), nil
}

var (
	_ crypto.Signer    = (*HeldKey)(nil)
	_ crypto.Decrypter = (*HeldKey)(nil)
)
