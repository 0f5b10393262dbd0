package bundle

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2" // the package without the 2 asks nothing of hashes and of the length of keys
)

// Keys are OpenPGP keys: of who may sign, or who signs.
type Keys openpgp.EntityList

// maxKeys bounds a file of keys, in bytes.
const maxKeys = 1 << 20

// ReadKeys reads keys as `gpg --export` and `gpg --export-secret-keys` write them, armored or not.
func ReadKeys(data []byte) (Keys, error) {
	if len(data) > maxKeys {
		return nil, fmt.Errorf("more than %d bytes of keys", maxKeys)
	}
	read := openpgp.ReadKeyRing
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("-----BEGIN PGP")) {
		read = openpgp.ReadArmoredKeyRing
	}
	all, err := read(bytes.NewReader(data))
	switch {
	case err != nil:
		return nil, fmt.Errorf("no OpenPGP key: %w", err)
	case len(all) == 0:
		return nil, errors.New("no OpenPGP key")
	}
	return Keys(all), nil
}

// config is what is taken of OpenPGP: no MD5, SHA-1 or RIPEMD-160, no RSA key below 2048 bits (the library's own refusals beside it).
func config(now time.Time) *packet.Config {
	most := int64(maxContent + 1)
	return &packet.Config{
		Time: func() time.Time { return now }, DefaultHash: crypto.SHA256, MinRSABits: 2048, MaxDecompressedMessageSize: &most,
		RejectHashAlgorithms: weakHashes, RejectMessageHashAlgorithms: weakHashes,
	}
}

var weakHashes = map[crypto.Hash]bool{crypto.MD5: true, crypto.SHA1: true, crypto.RIPEMD160: true}

// Sign makes the file of a bundle: an OpenPGP message, signed with the one key, which `gpg --verify` takes. passphrase unlocks it where it is locked.
func Sign(content []byte, keys Keys, passphrase []byte, now time.Time) ([]byte, error) {
	if len(keys) != 1 {
		return nil, fmt.Errorf("%d keys to sign with: give one", len(keys))
	}
	e := keys[0]
	if len(passphrase) > 0 {
		if err := e.DecryptPrivateKeys(passphrase); err != nil {
			return nil, errors.New("the passphrase does not unlock the key")
		}
	}
	key, ok := e.SigningKey(now, config(now))
	switch {
	case !ok:
		return nil, fmt.Errorf("the key %s cannot sign: it has expired or was revoked, or is for something else", fingerprint(e))
	case key.PrivateKey == nil:
		return nil, errors.New("that is a public key: `gpg --export-secret-keys --armor KEY` writes the one to sign with")
	case key.PrivateKey.Encrypted:
		return nil, errors.New("the key is locked: give its passphrase with --passphrase FILE")
	}
	var buf bytes.Buffer
	w, err := openpgp.Sign(&buf, []*openpgp.Entity{e}, &openpgp.FileHints{FileName: "bundle.tar", ModTime: now}, config(now))
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	if _, err := w.Write(content); err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	return buf.Bytes(), nil
}

// Verify returns the tar of a bundle, and the fingerprint of the key that signed it. file is an OpenPGP message as Sign and `gpg --sign`
// make it; or the tar itself, with a detached signature as `gpg --detach-sign` makes it, armored or not.
func Verify(file, signature []byte, trust Keys, now time.Time) (content []byte, signer string, err error) {
	if len(file) > MaxFile || len(signature) > maxKeys {
		return nil, "", fmt.Errorf("larger than the %d bytes of any bundle", MaxFile)
	}
	c := config(now)
	var e *openpgp.Entity
	var sig *packet.Signature
	if signature != nil {
		var in io.Reader = bytes.NewReader(signature)
		if bytes.HasPrefix(signature, []byte("-----BEGIN PGP SIGNATURE")) {
			block, err := armor.Decode(in)
			if err != nil {
				return nil, "", fmt.Errorf("the signature: %w", err)
			}
			in = block.Body
		}
		if sig, e, err = openpgp.VerifyDetachedSignature(openpgp.EntityList(trust), bytes.NewReader(file), in, c); err != nil {
			return nil, "", refused(err)
		}
		content = file
	} else {
		if isTar(file) {
			return nil, "", errors.New("it is not signed: give its detached signature with --signature FILE")
		}
		d, err := openpgp.ReadMessage(bytes.NewReader(file), openpgp.EntityList(trust), nil, c)
		if err != nil {
			return nil, "", fmt.Errorf("it is no signed bundle: %w", err)
		}
		if d.IsEncrypted || !d.IsSigned {
			return nil, "", errors.New("it is not signed, or encrypted")
		}
		if content, err = io.ReadAll(io.LimitReader(d.UnverifiedBody, maxContent+1)); err != nil {
			return nil, "", refused(err)
		}
		if len(content) > maxContent {
			return nil, "", fmt.Errorf("it holds more than %d bytes", maxContent)
		}
		switch { // the signature stands behind the content: it was verified when all of that was read
		case !d.IsVerified:
			return nil, "", errors.New("it ends before its signature")
		case errors.Is(d.SignatureError, pgperrors.ErrUnknownIssuer) && d.SelectedCandidate != nil:
			return nil, "", fmt.Errorf("it is signed with the key %016X, which is not among the keys of --trust", d.SelectedCandidate.IssuerKeyId)
		case d.SignatureError != nil:
			return nil, "", refused(d.SignatureError)
		case d.Signature == nil || d.SignedBy == nil:
			return nil, "", errors.New("it ends before its signature")
		}
		sig, e = d.Signature, d.SignedBy.Entity
	}
	if sig.SigType != packet.SigTypeBinary { // that of a text says nothing of how its lines end
		return nil, "", errors.New("its signature is one of a text: without --textmode")
	}
	id := uint64(0)
	if sig.IssuerKeyId != nil {
		id = *sig.IssuerKeyId
	}
	if _, good := e.SigningKeyById(now, id, c); !good || id == 0 {
		return nil, "", fmt.Errorf("the key %s that signed it has expired, was revoked, or is not for signing", fingerprint(e))
	}
	return content, fingerprint(e), nil
}

func refused(err error) error { return fmt.Errorf("its signature is not good: %w", err) }

func fingerprint(e *openpgp.Entity) string {
	return strings.ToUpper(fmt.Sprintf("%x", e.PrimaryKey.Fingerprint))
}

// isTar reports whether a file is a POSIX tar.
func isTar(file []byte) bool { return len(file) > 262 && string(file[257:262]) == "ustar" }
