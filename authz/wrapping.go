package authz

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode"

	"github.com/muster-pki/muster/gateway"
)

// WrappingConfig says which key-encryption keys devices share with the gateway: a device that asks for a key to be made (EST
// /serverkeygen) can name one of them to have it encrypted with (RFC 7030 section 4.4.1.1).
type WrappingConfig struct {
	// Keys maps the identifiers by which devices name keys to these: a printable one as it is, any other as "hex:" and
	// its bytes in hexadecimal.
	Keys map[string]WrappingKey `yaml:"keys"`
	// Devices takes the secrets in the store as well (`muster secret add`): one per device, each good at its own endpoint. They have
	// to be keys, as in File.
	Devices bool `yaml:"devices"`
	// Required has no key travel under TLS alone, which is all that protects one that the device does not ask to have encrypted:
	// neither with one of these keys nor for its certificate. Such a request is refused.
	Required bool `yaml:"required"`
}

// WrappingKey is one key-encryption key.
type WrappingKey struct {
	// File holds an AES key of 16, 24 or 32 random bytes: in hexadecimal, in base64, or as they are. Others than owner and
	// group may not have any access to it. Relative paths are below the configuration's folder.
	File string `yaml:"file"`
	// Device is the device that the key belongs to: nobody else's keys are encrypted with it. Default: whoever is let in.
	Device string `yaml:"device"`
}

// wrapping are the key-encryption keys of a stage `keys`.
type wrapping struct {
	required bool
	fixed    map[string]*sharedSecret // by the identifier's bytes
	secrets  Secrets                  // nil: none of the store
	opener   Opener
	now      func() time.Time
}

func newWrapping(c WrappingConfig, dir string, secrets Secrets, opener Opener, now func() time.Time) (*wrapping, error) {
	w := &wrapping{required: c.Required, now: now}
	if c.Devices {
		if secrets == nil || opener == nil || now == nil {
			return nil, errors.New("devices: there is no store of sealed secrets")
		}
		w.secrets, w.opener = secrets, opener
	}
	var err error
	w.fixed, err = byReference("keys: identifier", c.Keys, func(_ []byte, e WrappingKey) (*sharedSecret, error) {
		if len(e.Device) > 256 || !printable(e.Device) {
			return nil, errors.New("device: 1 to 256 bytes, without control characters")
		}
		if e.File == "" {
			return nil, errors.New("give the file that holds the key")
		}
		text, err := readPrivate(dir, e.File)
		if err != nil {
			return nil, fmt.Errorf("file: %w", err)
		}
		key, err := parseWrappingKey(text)
		if err != nil {
			return nil, fmt.Errorf("file: %w", err)
		}
		return &sharedSecret{value: key, device: e.Device}, nil
	})
	if err != nil {
		return nil, err
	}
	return w, nil
}

// parseWrappingKey reads an AES key: hexadecimal or base64, one line end behind it, or the bytes as they are. A passphrase is none.
func parseWrappingKey(data []byte) ([]byte, error) {
	isKey := func(b []byte) bool { return len(b) == 16 || len(b) == 24 || len(b) == 32 }
	text := string(trimLineEnd(data))
	if key, err := hex.DecodeString(text); err == nil && isKey(key) {
		return key, nil
	}
	if key, err := base64.StdEncoding.DecodeString(text); err == nil && isKey(key) {
		return key, nil
	}
	if isKey(data) && slices.ContainsFunc(data, func(b byte) bool { return b > unicode.MaxASCII || !unicode.IsPrint(rune(b)) }) {
		return slices.Clone(data), nil
	}
	return nil, errors.New("want an AES key of 16, 24 or 32 random bytes, in hexadecimal, in base64 or as they are (openssl rand -hex 32)")
}

// find looks a key up that is good now.
func (w *wrapping) find(ctx context.Context, endpoint string, id []byte) (*sharedSecret, error) {
	if len(id) == 0 || len(id) > maxReference {
		return nil, gateway.ErrNotFound
	}
	one := w.fixed[string(id)]
	if w.secrets == nil {
		if one == nil {
			return nil, gateway.ErrNotFound
		}
		return one, nil
	}
	// The store is asked in any case: a key takes as long whether there is one or not.
	t, err := w.secrets.Secret(ctx, endpoint, string(id))
	switch {
	case one != nil:
		return one, nil
	case err != nil:
		return nil, err
	case t == nil || t.Endpoint != endpoint || t.Reference != string(id):
		return nil, errors.New("the look-up gave another secret than was asked for")
	case !t.NotAfter.IsZero() && w.now().After(t.NotAfter):
		return nil, fmt.Errorf("it was good until %s: %w", t.NotAfter.UTC().Format(time.RFC3339), gateway.ErrNotFound)
	}
	text, err := w.opener.Open(t.Sealed, sealedInStore, t.Endpoint, t.Reference, t.Device)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	key, err := parseWrappingKey(text)
	if err != nil {
		return nil, fmt.Errorf("the secret that is stored is no key: %w: %w", err, gateway.ErrNotFound)
	}
	return &sharedSecret{value: key, device: t.Device, notAfter: t.NotAfter, stored: t}, nil
}

// WrappingKey returns the key-encryption key that devices name by the identifier; gateway.ErrNotFound when there is none.
func (s *Keys) WrappingKey(ctx context.Context, endpoint string, id []byte) (gateway.Secret, error) {
	one, err := s.wrapping.find(ctx, endpoint, id)
	if err != nil {
		return nil, err
	}
	return slices.Clone(one.value), nil
}

// wraps judges with what a key that is to be made would be encrypted: with a key that the device has, where it is one of this stage.
// Whoever has not authenticated is told nothing of which keys there are.
func (s *Keys) wraps(ctx context.Context, r *gateway.Request, g *gateway.Grant) (gateway.Verdict, bool) {
	switch {
	case r.KeyGen.Wrap == gateway.WrapNone && s.wrapping.required:
		return gateway.Denied(gateway.BadTemplate, "a key is only given encrypted here: the request has to say with what (RFC 7030 section 4.4.1: DecryptKeyIdentifier or AsymmetricDecryptKeyIdentifier)",
			"the key that is to be made would travel under TLS alone, and the stage wants it encrypted (wrapping: {required: true})"), false
	case r.KeyGen.Wrap != gateway.WrapSymmetric:
		return gateway.Verdict{}, true
	}
	if g.Requester == "" {
		return gateway.Denied(gateway.Unauthenticated, "a key is encrypted with a shared one only for who has authenticated",
			"the key that is to be made would be encrypted with a shared one, and no stage before this one has authenticated the requester: put keys behind it"), false
	}
	const unknown = "there is no key-encryption key under the identifier that the request gives (DecryptKeyIdentifier)"
	id := shown(gateway.ReferenceID(r.KeyGen.KeyID))
	one, err := s.wrapping.find(ctx, r.Endpoint, r.KeyGen.KeyID)
	switch {
	case errors.Is(err, gateway.ErrNotFound):
		return gateway.Denied(gateway.BadTemplate, unknown, fmt.Sprintf("key-encryption key %s is none of this stage's (wrapping): %v", id, err)), false
	case err != nil:
		return gateway.Unanswered(fmt.Errorf("key-encryption key %s cannot be looked up: %w", id, err)), false
	case subtle.ConstantTimeCompare(one.value, r.KeyGen.WrapKey) != 1:
		return gateway.Denied(gateway.BadTemplate, unknown, fmt.Sprintf("the key would be encrypted with another one than this stage's %s: two stages have one identifier", id)), false
	}
	if one.device == "" {
		return gateway.Verdict{}, true
	}
	const another = "the key-encryption key that the request names is not this device's"
	if g.Device == "" {
		return gateway.Denied(gateway.NotAuthorized, another, fmt.Sprintf("key-encryption key %s is device %s's, and no stage before this one says which device asks: put keys behind one that does",
			id, shown(one.device))), false
	}
	if !g.NameDevice(one.device) {
		return gateway.Denied(gateway.NotAuthorized, another, fmt.Sprintf("key-encryption key %s is device %s's, and %s asks", id, shown(one.device), shown(g.Device))), false
	}
	return gateway.Verdict{}, true
}
