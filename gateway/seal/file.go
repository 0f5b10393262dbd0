package seal

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// maxFile is more than a key file has: a key and a line's end.
const maxFile = 128

// Load reads the key file, 32 random bytes in base64; create makes it when there is none (0600, its folder exists). Processes
// that make it at once end with one key.
//
// A file that others than its owner may read or write is refused. Without create, a missing one is fs.ErrNotExist.
func Load(path string, create bool) (*Sealer, error) {
	key, err := read(path)
	if create && errors.Is(err, fs.ErrNotExist) {
		if err = generate(path); err == nil {
			key, err = read(path)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("seal: key file %s: %w", path, err)
	}
	return New(key)
}

// read reads a key. Its errors hold nothing of the file. A symbolic link is followed: mounted secrets often are one.
func read(path string) ([]byte, error) {
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
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("its mode is %04o: group or others may use it; make it 0600 (chmod 600), and enter its secrets again if anybody has read it", mode)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, plain(err)
	}
	if len(text) > maxFile {
		return nil, errors.New("it is too long for a key")
	}
	key := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Strict().Decode(key, bytes.TrimSpace(text))
	if err != nil || n != KeySize {
		return nil, fmt.Errorf("it does not hold %d bytes in base64", KeySize)
	}
	return key[:n], nil
}

// generate makes a key file, unless there is one by then. It appears whole or not at all, and when generate returns it is
// there after a crash, whoever made it: what is sealed next would otherwise be lost.
func generate(path string) (err error) {
	key := make([]byte, KeySize)
	rand.Read(key) //nolint:errcheck // never fails
	dir, name := filepath.Split(path)
	f, err := os.CreateTemp(filepath.Clean(dir), "."+name+".*.tmp") // O_EXCL, 0600
	if err != nil {
		return plain(err)
	}
	defer func() { err = errors.Join(err, plain(os.Remove(f.Name()))) }()
	_, err = f.WriteString(base64.StdEncoding.EncodeToString(key) + "\n")
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return plain(err)
	}
	// A link takes nobody's place, as a rename would.
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return plain(err)
	}
	return plain(syncDir(filepath.Clean(dir)))
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
