// Package bundle is the format in which a site that no network reaches is given its configuration, its trust anchors and its devices: a
// tar with a manifest, signed with OpenPGP (RFC 9580). It writes and reads bytes; what a gateway does with them is the command's.
//
// Nothing of a bundle is looked at before its signature is verified over all of it, and no key, secret or password is carried.
package bundle

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// Format is the only one there is.
const Format = 1

// Bounds of what is read.
const (
	MaxFile     = 48 << 20 // bytes of a bundle, signature included
	maxContent  = 32 << 20 // bytes of its tar
	maxManifest = 256 << 10
	maxFiles    = 256
	maxPath     = 200 // bytes
)

const manifestName = "manifest.json"

// Kind is what a file of a bundle is for.
type Kind string

const (
	Configuration Kind = "configuration" // the one YAML file
	Trust         Kind = "trust"         // PEM of certificates, CRLs and public keys, nothing else
	Inventory     Kind = "inventory"     // CSV as `muster device import` takes it, without secrets
)

// Manifest stands first in a bundle.
type Manifest struct {
	Format   int       `json:"format"`
	Sequence uint64    `json:"sequence"` // grows with each bundle for a site
	Created  time.Time `json:"created"`
	Version  string    `json:"version"` // of the program that made it
	Site     string    `json:"site,omitempty"`
	Files    []Entry   `json:"files"`
}

// Entry is a file of a bundle, in the order in which they follow.
type Entry struct {
	Path   string `json:"path"` // below the configuration's folder; of an inventory, a name only
	Kind   Kind   `json:"kind"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // hexadecimal
}

// File is one with its content.
type File struct {
	Entry
	Data []byte
}

// Bundle is what a bundle holds.
type Bundle struct {
	Manifest
	Contents []File
}

// Of returns the files of a kind.
func (b *Bundle) Of(k Kind) (all []File) {
	for _, f := range b.Contents {
		if f.Kind == k {
			all = append(all, f)
		}
	}
	return all
}

// Pack makes the tar of a bundle. Sizes and hashes of the manifest are computed here.
func Pack(m Manifest, files []File) ([]byte, error) {
	m.Format, m.Files = Format, nil
	for i := range files {
		f := &files[i]
		sum := sha256.Sum256(f.Data)
		f.Size, f.SHA256 = int64(len(f.Data)), hex.EncodeToString(sum[:])
		m.Files = append(m.Files, f.Entry)
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range append([]File{{Entry: Entry{Path: manifestName}, Data: append(text, '\n')}}, files...) {
		h := &tar.Header{Name: f.Path, Mode: 0o644, Size: int64(len(f.Data)), ModTime: m.Created.UTC().Truncate(time.Second), Format: tar.FormatUSTAR, Typeflag: tar.TypeReg}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.Data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if buf.Len() > maxContent {
		return nil, fmt.Errorf("%d bytes, and a bundle has at most %d", buf.Len(), maxContent)
	}
	if _, err := Unpack(buf.Bytes()); err != nil { // what nobody could read is not given away
		return nil, err
	}
	return buf.Bytes(), nil
}

// Unpack reads the tar of a bundle whose signature was verified. Whatever is not as the manifest says is an error.
func Unpack(content []byte) (*Bundle, error) {
	if len(content) > maxContent {
		return nil, fmt.Errorf("more than %d bytes", maxContent)
	}
	r := tar.NewReader(bytes.NewReader(content))
	text, err := next(r, manifestName, maxManifest)
	if err != nil {
		return nil, err
	}
	b := &Bundle{}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&b.Manifest); err != nil {
		return nil, fmt.Errorf("%s: %w", manifestName, err)
	}
	if d.More() {
		return nil, fmt.Errorf("%s: something follows its object", manifestName)
	}
	if err := b.check(); err != nil {
		return nil, err
	}
	for _, e := range b.Files {
		data, err := next(r, e.Path, e.Size)
		if err != nil {
			return nil, err
		}
		if sum := sha256.Sum256(data); int64(len(data)) != e.Size || hex.EncodeToString(sum[:]) != e.SHA256 {
			return nil, fmt.Errorf("%s: its content is not what the manifest says", e.Path)
		}
		if e.Kind == Trust {
			if err := Public(data); err != nil {
				return nil, fmt.Errorf("%s: %w", e.Path, err)
			}
		} else if bytes.Contains(data, []byte("PRIVATE KEY-----")) {
			return nil, fmt.Errorf("%s: holds a private key", e.Path)
		}
		b.Contents = append(b.Contents, File{e, data})
	}
	if h, err := r.Next(); !errors.Is(err, io.EOF) {
		if err == nil {
			err = fmt.Errorf("%q is not in the manifest", h.Name)
		}
		return nil, err
	}
	return b, nil
}

// next is the content of the next file, which has to be a regular one with the name, of at most limit bytes.
func next(r *tar.Reader, name string, limit int64) ([]byte, error) {
	h, err := r.Next()
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s is not there: %w", name, err)
	case h.Typeflag != tar.TypeReg:
		return nil, fmt.Errorf("%q is no regular file", h.Name)
	case h.Name != name:
		return nil, fmt.Errorf("%q in the place of %q", h.Name, name)
	case h.Size > limit:
		return nil, fmt.Errorf("%s: larger than %d bytes", name, limit)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return data, nil
}

// check says what is wrong with a manifest.
func (m *Manifest) check() error {
	switch {
	case m.Format != Format:
		return fmt.Errorf("format %d: this muster reads format %d", m.Format, Format)
	case m.Sequence == 0:
		return errors.New("a bundle has a sequence number, from 1 on")
	case m.Created.IsZero():
		return errors.New("a bundle says when it was created")
	case len(m.Files) == 0 || len(m.Files) > maxFiles:
		return fmt.Errorf("%d files: a bundle has 1 to %d", len(m.Files), maxFiles)
	case !named(m.Site):
		return errors.New("site: letters, digits, . _ - and 64 of them at most")
	}
	counts, seen, total := map[Kind]int{}, map[string]bool{manifestName: true}, int64(0)
	for _, e := range m.Files {
		if err := validPath(e.Path); err != nil {
			return err
		}
		if e.Kind == Inventory && strings.Contains(e.Path, "/") {
			return fmt.Errorf("%s: an inventory stands in no folder", e.Path)
		}
		// Names that differ in case alone are one file on some systems.
		if key := strings.ToLower(e.Path); seen[key] {
			return fmt.Errorf("%s: there twice", e.Path)
		} else {
			seen[key] = true
		}
		if !slices.Contains([]Kind{Configuration, Trust, Inventory}, e.Kind) {
			return fmt.Errorf("%s: of the unknown kind %q", e.Path, e.Kind)
		}
		if counts[e.Kind]++; e.Kind != Trust && counts[e.Kind] > 1 {
			return fmt.Errorf("%s: a second file of the kind %s", e.Path, e.Kind)
		}
		if total += e.Size; e.Size < 0 || e.Size > maxContent || total > maxContent {
			return fmt.Errorf("%s: the files are larger than %d bytes", e.Path, maxContent)
		}
	}
	if counts[Configuration] != 1 {
		return errors.New("there is no configuration in it")
	}
	return nil
}

func named(site string) bool {
	return len(site) <= 64 && strings.Trim(site, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == ""
}

// validPath refuses whatever could lead out of a folder, or into what is hidden in it.
func validPath(p string) error {
	if len(p) > maxPath || !fs.ValidPath(p) || p == "." || strings.ContainsAny(p, `\:`) || strings.ContainsFunc(p, func(r rune) bool { return r < 0x20 || r > 0x7e }) {
		return fmt.Errorf("%q is no path of a bundle's: relative, of printable ASCII, no . or .. in it", p)
	}
	for part := range strings.SplitSeq(p, "/") {
		if strings.HasPrefix(part, ".") {
			return fmt.Errorf("%q: hidden files are not carried", p)
		}
	}
	return nil
}

// Public reports why a file is not one of trust anchors: PEM of certificates, CRLs and public keys alone.
func Public(data []byte) error {
	found := 0
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		switch block.Type {
		case "CERTIFICATE", "X509 CRL", "PUBLIC KEY":
			found++
		default:
			return fmt.Errorf("holds %s, which is no trust anchor", block.Type)
		}
	}
	switch {
	case bytes.Contains(data, []byte("PRIVATE KEY")):
		return errors.New("holds a private key")
	case found == 0:
		return errors.New("holds no PEM certificate, CRL or public key")
	}
	return nil
}
