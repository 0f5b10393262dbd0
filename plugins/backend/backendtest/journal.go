package backendtest

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"time"

	"crypto/x509"

	"google.golang.org/grpc/codes"
	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/plugins/backend"
)

// memoryConfig is Memory's configuration.
type memoryConfig struct {
	Journal string `yaml:"journal"` // absolute path
}

func parseMemoryConfig(config []byte) (memoryConfig, error) {
	var c memoryConfig
	d := yaml.NewDecoder(bytes.NewReader(config))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return c, backend.Refuse(codes.InvalidArgument, "%v", err)
	}
	return c, nil
}

// Validate is Backend.Validate.
func (m *Memory) Validate(_ context.Context, config []byte) error {
	_, err := parseMemoryConfig(config)
	return err
}

// Configure is Backend.Configure. `journal: FILE` is MemoryOptions.Journal.
func (m *Memory) Configure(_ context.Context, config []byte) error {
	c, err := parseMemoryConfig(config)
	if err != nil {
		return err
	}
	if c.Journal == "" {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.journal != nil {
		return backend.Refuse(codes.FailedPrecondition, "the journal is open")
	}
	if err := m.open(c.Journal); err != nil {
		return backend.Refuse(codes.FailedPrecondition, "%v", err)
	}
	return nil
}

// journalLine is one line of the journal: an issuance, a revocation, or a rollover.
type journalLine struct {
	ID          string    `json:"id,omitempty"`
	Content     string    `json:"content,omitempty"` // hexadecimal
	Certificate []byte    `json:"certificate,omitempty"`
	Revoked     []byte    `json:"revoked,omitempty"` // serial
	Reason      int       `json:"reason,omitempty"`
	At          time.Time `json:"at,omitzero"`

	Rollover *backend.RolloverRequest `json:"rollover,omitempty"`
}

// open replays the journal and appends to it from then on. A last line cut short by a kill was never answered
// for: it is dropped.
func (m *Memory) open(file string) error {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	lines, whole, err := readJournal(f)
	if err == nil {
		err = f.Truncate(whole)
	}
	if err == nil {
		_, err = f.Seek(whole, io.SeekStart)
	}
	if err != nil {
		f.Close() //nolint:errcheck // nothing was written
		return fmt.Errorf("journal %s: %w", file, err)
	}
	for _, l := range lines {
		if l.Rollover != nil {
			m.roll(*l.Rollover)
		} else if l.ID != "" {
			var e entry
			e.der, e.generation = l.Certificate, len(m.generations)-1
			if n, err := hex.Decode(e.content[:], []byte(l.Content)); err != nil || n != len(e.content) {
				f.Close() //nolint:errcheck // nothing was written
				return fmt.Errorf("journal %s: malformed line for ID %s", file, l.ID)
			}
			m.remember(l.ID, e)
		} else {
			m.revocations = append(m.revocations, x509.RevocationListEntry{
				SerialNumber: new(big.Int).SetBytes(l.Revoked), RevocationTime: l.At.UTC(), ReasonCode: l.Reason})
		}
	}
	m.journal = f
	return nil
}

func readJournal(r io.Reader) (lines []journalLine, whole int64, err error) {
	all, err := io.ReadAll(r)
	if err != nil {
		return nil, 0, err
	}
	for {
		raw, rest, complete := bytes.Cut(all[whole:], []byte("\n"))
		if !complete {
			return lines, whole, nil
		}
		var l journalLine
		if err := json.Unmarshal(raw, &l); err != nil {
			return nil, 0, err
		}
		lines = append(lines, l)
		whole = int64(len(all) - len(rest))
	}
}

// record appends to the journal, if there is one. A write reaches the kernel in one call, so that it outlives
// the process; a test CA does not fsync.
func (m *Memory) record(l journalLine) error {
	if m.journal == nil {
		return nil
	}
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	_, err = m.journal.Write(append(b, '\n'))
	return err
}

// Journal reads a journal file while its CA lives or after it died, and returns the certificates by ID.
// An ID with more than one certificate is a CA that issued twice.
func Journal(file string) (map[string][][]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	lines, _, err := readJournal(f)
	if err != nil {
		return nil, err
	}
	issued := map[string][][]byte{}
	for _, l := range lines {
		if l.ID != "" {
			issued[l.ID] = append(issued[l.ID], l.Certificate)
		}
	}
	return issued, nil
}
