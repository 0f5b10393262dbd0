package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// maxKeyFile is more than a private key, or fifty public ones, take in PEM.
const maxKeyFile = 16 << 10

// Key signs the checkpoints of one instance. It has no text form: %v shows its ID.
type Key struct {
	public  PublicKey
	private ed25519.PrivateKey
}

// PublicKey verifies checkpoints.
type PublicKey struct {
	ID  string // SHA-256 of its SubjectPublicKeyInfo, hexadecimal
	key ed25519.PublicKey
}

// Public is the key that verifies what k signs.
func (k *Key) Public() PublicKey { return k.public }

// String is the key's ID.
func (k *Key) String() string { return "audit key " + k.public.ID }

// GoString too.
func (k *Key) GoString() string { return k.String() }

// NewKey makes a key.
func NewKey() (*Key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return keyOf(private)
}

func keyOf(private ed25519.PrivateKey) (*Key, error) {
	public, err := publicOf(private.Public())
	if err != nil {
		return nil, err
	}
	return &Key{public, private}, nil
}

func publicOf(key any) (PublicKey, error) {
	public, ok := key.(ed25519.PublicKey)
	if !ok {
		return PublicKey{}, errors.New("it is not an Ed25519 key")
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return PublicKey{}, err
	}
	id := sha256.Sum256(spki)
	return PublicKey{hex.EncodeToString(id[:]), public}, nil
}

// LoadKey reads the key of an instance, a PEM file (PKCS #8), and makes it when there is none (0600, its folder exists). Beside it, in the file
// public, stand all public keys that the instance has had, so that a key that was lost and made anew leaves the old one known; made reports that the
// key is new. A file that others than its owner may read is refused. Errors hold nothing of the key.
func LoadKey(private, public string) (k *Key, made bool, err error) {
	k, err = readKey(private)
	if errors.Is(err, fs.ErrNotExist) {
		made = true
		if err = generate(private); err == nil {
			k, err = readKey(private)
		}
	}
	if err != nil {
		return nil, false, fmt.Errorf("audit key %s: %w", private, err)
	}
	known, err := ReadPublicKeys(public)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, false, err
	}
	for _, one := range known {
		if one.ID == k.public.ID {
			return k, made, nil
		}
	}
	var text bytes.Buffer
	for _, one := range append(known, k.public) {
		spki, err := x509.MarshalPKIXPublicKey(one.key)
		if err == nil {
			err = pem.Encode(&text, &pem.Block{Type: "PUBLIC KEY", Bytes: spki})
		}
		if err != nil {
			return nil, false, err
		}
	}
	if err := place(public, text.Bytes(), 0o644, true); err != nil {
		return nil, false, fmt.Errorf("public audit key %s: %w", public, err)
	}
	return k, made, nil
}

// ReadPublicKeys reads a PEM file with public keys.
func ReadPublicKeys(path string) ([]PublicKey, error) {
	text, err := readBounded(path, 0)
	if err != nil {
		return nil, fmt.Errorf("public audit key %s: %w", path, err)
	}
	var keys []PublicKey
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "PUBLIC KEY" {
			return nil, fmt.Errorf("public audit key %s: it holds a %s, want PUBLIC KEY: give the file audit.pub", path, block.Type)
		}
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("public audit key %s: %w", path, err)
		}
		one, err := publicOf(key)
		if err != nil {
			return nil, fmt.Errorf("public audit key %s: %w", path, err)
		}
		keys = append(keys, one)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("public audit key %s: it holds no PEM of a PUBLIC KEY", path)
	}
	return keys, nil
}

func readKey(path string) (*Key, error) {
	text, err := readBounded(path, 0o077)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("it does not hold a PRIVATE KEY in PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("it does not hold a key in PKCS #8")
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, errors.New("it is not an Ed25519 key")
	}
	return keyOf(private)
}

// readBounded reads a regular file none of whose mode bits are among the forbidden ones.
func readBounded(path string, forbidden fs.FileMode) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO would wait for a writer
	if err != nil {
		return nil, plain(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, plain(err)
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	if mode := info.Mode().Perm(); mode&forbidden != 0 {
		return nil, fmt.Errorf("its mode is %04o: group or others may use it; make it 0600 (chmod 600), or remove it for a new one if anybody has read it", mode)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, plain(err)
	}
	if len(text) > maxKeyFile {
		return nil, errors.New("it is too long for keys")
	}
	return text, nil
}

func generate(path string) error {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	return place(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600, false)
}

// place makes a file, whole or not at all, that is there after a crash. Where one stands, it is replaced or kept.
func place(path string, content []byte, mode fs.FileMode, replace bool) (err error) {
	dir, name := filepath.Split(path)
	dir = filepath.Clean(dir)
	f, err := os.CreateTemp(dir, "."+name+".*.tmp") // O_EXCL, 0600
	if err != nil {
		return plain(err)
	}
	defer func() {
		if e := os.Remove(f.Name()); !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, plain(e))
		}
	}()
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return plain(err)
	}
	if replace {
		err = os.Rename(f.Name(), path)
	} else if err = os.Link(f.Name(), path); errors.Is(err, fs.ErrExist) { // a link takes nobody's place
		err = nil
	}
	if err != nil {
		return plain(err)
	}
	return plain(syncDir(dir))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// plain takes the path off an error that is told with one.
func plain(err error) error {
	var p *fs.PathError
	var l *os.LinkError
	switch {
	case errors.As(err, &p):
		return fmt.Errorf("%s: %w", p.Op, p.Err)
	case errors.As(err, &l):
		return fmt.Errorf("%s: %w", l.Op, l.Err)
	}
	return err
}
