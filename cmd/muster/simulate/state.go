package simulate

import (
	"bufio"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// stateFile is the fleet's file in a state directory: a header, then a line for each device.
const stateFile = "fleet.ndjson"

// maxStateLine is more than a line can have: the header has poolSize RSA keys.
const maxStateLine = 1 << 20

const stateVersion = 1

type stateHeader struct {
	Version int      `json:"muster_simulate"`
	Devices int      `json:"devices"`
	Subject string   `json:"subject"`
	Pool    [][]byte `json:"pool,omitempty"` // PKCS #1
}

type stateDevice struct {
	Key  []byte `json:"key,omitempty"` // P-256: the scalar
	Cert []byte `json:"cert,omitempty"`
}

// Save writes keys and certificates into the directory, in the place of what was there. Keys are not encrypted: the file is its
// owner's only.
func (f *Fleet) Save(dir string) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	file, err := os.CreateTemp(dir, stateFile+"-*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(file.Name())
		}
	}()
	w := bufio.NewWriter(file)
	out := json.NewEncoder(w)
	header := stateHeader{Version: stateVersion, Devices: len(f.devices), Subject: f.subject}
	for _, key := range f.keys.pool {
		header.Pool = append(header.Pool, x509.MarshalPKCS1PrivateKey(key))
	}
	err = out.Encode(header)
	for i := range f.devices {
		d := stateDevice{Cert: f.devices[i].cert}
		if f.keys.pool == nil {
			d.Key = f.keys.scalars[i*scalarSize : (i+1)*scalarSize]
		}
		if err == nil {
			err = out.Encode(d)
		}
	}
	if err = errors.Join(err, w.Flush(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), filepath.Join(dir, stateFile))
}

// ErrNoState is that a directory has no fleet.
var ErrNoState = errors.New("no devices are kept there: `muster simulate enroll --state DIR` makes them")

// Load reads a fleet from a directory: ErrNoState where there is none.
func Load(dir string) (*Fleet, error) {
	path := filepath.Join(dir, stateFile)
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dir, ErrNoState)
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	f, err := readState(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

func readState(r io.Reader) (*Fleet, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxStateLine)
	next := func(into any) error {
		if !lines.Scan() {
			return errors.Join(errors.New("it ends too early"), lines.Err())
		}
		return json.Unmarshal(lines.Bytes(), into)
	}
	var h stateHeader
	if err := next(&h); err != nil {
		return nil, err
	}
	if h.Version != stateVersion || h.Devices < 1 || h.Devices > MaxDevices || len(h.Pool) > poolSize {
		return nil, errors.New("no devices of this version of muster simulate")
	}
	f := &Fleet{subject: h.Subject, keys: &keys{}}
	for _, der := range h.Pool {
		key, err := x509.ParsePKCS1PrivateKey(der)
		if err != nil {
			return nil, err
		}
		f.keys.pool = append(f.keys.pool, key)
	}
	for i := range h.Devices {
		var d stateDevice
		if err := next(&d); err != nil {
			return nil, fmt.Errorf("device %d: %w", i+1, err)
		}
		if f.keys.pool == nil && len(d.Key) != scalarSize {
			return nil, fmt.Errorf("device %d has no key", i+1)
		}
		f.keys.scalars = append(f.keys.scalars, d.Key...)
		f.devices = append(f.devices, device{cert: d.Cert})
	}
	return f, nil
}
