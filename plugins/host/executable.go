package host

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// executable is what to run: a path and its arguments.
type executable struct {
	path string
	args []string // with argv[0]
}

// maxExecutable bounds the copy of a third party's plugin.
const maxExecutable = 1 << 30

// prepare finds what to run. A third party's executable is copied into the run directory and hashed on the way;
// that copy, which nobody else can write, is what runs from then on, at every restart.
func (c *Config) prepare(run *runDir) (executable, error) {
	if c.shipped() {
		return executable{path: c.Self, args: []string{"muster", "plugin", c.Plugin}}, nil
	}
	want, err := hex.DecodeString(c.SHA256)
	if err != nil {
		return executable{}, err
	}
	to := filepath.Join(run.path, "plugin")
	sum, err := copyHashed(to, c.Plugin)
	if err != nil {
		return executable{}, err
	}
	if subtle.ConstantTimeCompare(sum, want) != 1 {
		return executable{}, errors.Join(
			fmt.Errorf("%s has the SHA-256 %x, not %s: it is not run", c.Plugin, sum, c.SHA256), os.Remove(to))
	}
	return executable{path: to, args: []string{c.Plugin}}, nil
}

// copyHashed copies a file and returns the SHA-256 of what it wrote.
func copyHashed(to, from string) ([]byte, error) {
	// A child forked between open and close of the copy would hold it open for writing until its own exec, and
	// running the copy would fail with ETXTBSY (golang.org/issue/22315): no fork meanwhile.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	// O_NONBLOCK: a FIFO in the file's place must not hold us, and with us every fork.
	in, err := os.OpenFile(from, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer in.Close() //nolint:errcheck // only read
	if fi, err := in.Stat(); err != nil {
		return nil, err
	} else if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", from)
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o500)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, h), io.LimitReader(in, maxExecutable+1))
	if err == nil && n > maxExecutable {
		err = fmt.Errorf("%s is larger than %d bytes", from, maxExecutable)
	}
	if err := errors.Join(err, out.Close()); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}
