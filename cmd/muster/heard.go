package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/muster-pki/muster/gateway/serve"
	"github.com/muster-pki/muster/plugins/backend"
)

// What a gateway last heard of its CAs is kept in its data directory, so that one that does not answer keeps no start from happening. Not in
// the store, which replicas may share: the CA certificates are what devices, and our own TLS, are told to trust. Whoever can write
// to the data directory has the gateway's keys already; whoever can write to a database has not. And a replica that never reached a CA
// has proven nothing of its own network, credentials and configuration: that another one did is no reason to start it.
const (
	heardDir   = "heard"                // in the data directory, a file for each backend
	heardHead  = "muster heard 1 "      // and the SHA-256 of all that follows the first line, hexadecimal
	heardLimit = 2 * backend.MaxMessage // bytes of a file: base64 of what one message can hold
	heardAnew  = time.Hour              // how old the time in a file may be, while what was heard is the same
	heardCall  = 20 * time.Second       // for a CA to answer at a start, where it can be done without; longer than a call of one may take by default
)

// heard is what a backend told.
type heard struct {
	Backend       string              `json:"backend"`
	Configuration string              `json:"configuration"` // heardUnder
	At            time.Time           `json:"at"`
	Description   backend.Description `json:"description"`
	CAs           []backend.CA        `json:"cas"`
}

// heardUnder is the SHA-256 of a plugin's name, hash and configuration (keyOf), hexadecimal.
func heardUnder(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

// hearing keeps files of what was heard.
type hearing struct {
	dir string

	mu   sync.Mutex
	last map[string]*heard // by backend, what this process wrote
}

func newHearing(dir string) *hearing { return &hearing{dir: dir, last: map[string]*heard{}} }

func (h *hearing) path(name string) string {
	return filepath.Join(h.dir, raName("backend", name)+".json")
}

// errUnheard says that a backend was never heard.
var errUnheard = errors.New("nothing was ever heard of it")

// recall reads what was last heard of a backend that is run by the key (keyOf). The error is errUnheard, or says why a file cannot be used.
func (h *hearing) recall(name, key string) (*heard, error) {
	path := h.path(name)
	data, err := readHeard(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errUnheard
	}
	var one *heard
	if err == nil {
		one, err = parseHeard(data)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("what was last heard of it, %s, cannot be used: %w", path, err)
	case one.Backend != name:
		return nil, fmt.Errorf("what was last heard of it, %s, cannot be used: it is of the backend %.40q", path, one.Backend)
	case one.Configuration != heardUnder(key):
		return nil, fmt.Errorf("what was last heard of it, at %s, was under another configuration of it", one.At.UTC().Format(time.RFC3339))
	}
	return one, nil
}

// readHeard reads a file of at most heardLimit.
func readHeard(path string) ([]byte, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if o := ownershipOf(info); !info.Mode().IsRegular() || o.mode&0o022 != 0 || o.uid != os.Geteuid() && o.uid != 0 {
		return nil, errors.New("it is no file that its owner alone can write to, and that is the gateway's user")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, heardLimit+1))
	if err == nil && len(data) > heardLimit {
		err = fmt.Errorf("it has more than %d bytes", heardLimit)
	}
	return data, err
}

// parseHeard reads the content of a file: nothing but what format writes.
func parseHeard(data []byte) (*heard, error) {
	head, body, ok := bytes.Cut(data, []byte("\n"))
	sum, has := strings.CutPrefix(string(head), heardHead)
	if !ok || !has {
		return nil, errors.New("it is another kind of file, or of another release")
	}
	if is := sha256.Sum256(body); sum != hex.EncodeToString(is[:]) {
		return nil, errors.New("it is damaged")
	}
	one := &heard{}
	strict := json.NewDecoder(bytes.NewReader(body))
	strict.DisallowUnknownFields()
	if err := strict.Decode(one); err != nil {
		return nil, err
	}
	if _, err := strict.Token(); err != io.EOF {
		return nil, errors.New("something follows its end")
	}
	if one.At.IsZero() {
		return nil, errors.New("it does not say when that was")
	}
	if err := backend.CheckHeard(&one.Description, one.CAs); err != nil {
		return nil, err
	}
	return one, nil
}

// format is the content of a file.
func (one *heard) format() ([]byte, error) {
	body, err := json.MarshalIndent(one, "", " ")
	if err != nil {
		return nil, err
	}
	body = append(body, '\n')
	sum := sha256.Sum256(body)
	return slices.Concat([]byte(heardHead), []byte(hex.EncodeToString(sum[:])), []byte("\n"), body), nil
}

// keep writes what was heard of a backend, unless the file says the same and is not old.
func (h *hearing) keep(one *heard) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if last := h.last[one.Backend]; last != nil && last.sameAs(one) && one.At.Sub(last.At) < heardAnew && one.At.Sub(last.At) >= 0 {
		return nil
	}
	data, err := one.format()
	if err == nil {
		err = serve.MakeDir(h.dir)
	}
	if err == nil {
		err = serve.WriteFile(h.path(one.Backend), data, 0o600)
	}
	if err == nil {
		h.last[one.Backend] = one
	}
	return err
}

func (one *heard) sameAs(other *heard) bool {
	a, b := one.Description, other.Description
	return one.Configuration == other.Configuration && a.Version == b.Version && a.Name == b.Name && a.Idempotency == b.Idempotency &&
		slices.Equal(a.Forms, b.Forms) && slices.Equal(a.Overrides, b.Overrides) && slices.Equal(a.Decides, b.Decides) && slices.Equal(a.Capabilities, b.Capabilities) &&
		sameCAs(map[string][]backend.CA{"": one.CAs}, map[string][]backend.CA{"": other.CAs})
}
