package authz

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// maxFolder bounds the files of a folder, maxFolderFile each of them: these are CA certificates.
const (
	maxFolder     = 1000
	maxFolderFile = 1 << 20
)

// caFolder is a folder of CA certificates that may change at any time.
//
// A file that is not (yet) a CA's certificate is left out, and said so once; the others count. A folder that does not
// exist holds nothing. One that cannot be read otherwise is an error: whether a CA was taken out cannot be told then.
type caFolder struct {
	*watched[folderLook]
	log *slog.Logger
}

// folderLook is what the folder held at a time.
type folderLook struct {
	files map[string]*folderFile
	certs []*x509.Certificate // of all files, in the order of their names, each once
	err   error               // the folder cannot be read
}

// folderFile is one file as it was read.
type folderFile struct {
	size     int64
	modified time.Time
	sum      [sha256.Size]byte
	certs    []*x509.Certificate
	problem  string // why it does not count
}

func newCAFolder(path string, log *slog.Logger, now func() time.Time) *caFolder {
	f := &caFolder{log: log}
	f.watched = newWatched(path, now, f.read)
	return f
}

// read looks at the folder, and into the files that changed since the last look. What it warns of, it warns of once.
func (f *caFolder) read(last *folderLook, at time.Time) (*folderLook, error) {
	if last == nil {
		last = &folderLook{}
	}
	next := &folderLook{files: make(map[string]*folderFile)}
	names, err := f.names()
	if err != nil {
		next.err = fmt.Errorf("the folder of trusted CAs cannot be read: %w", err)
		if last.err == nil || last.err.Error() != next.err.Error() {
			f.log.Warn("a folder of trusted CAs cannot be read: nobody is let in by it", "folder", f.path, "error", err)
		}
		// What is known of the files is kept: a folder that comes back says nothing twice.
		next.files = last.files
		return next, next.err
	}
	for _, name := range names {
		before := last.files[name]
		file := f.file(name, before, at)
		if file == nil {
			continue
		}
		next.files[name] = file
		if file.problem != "" && (before == nil || before.sum != file.sum || before.problem != file.problem) {
			f.log.Warn("a file in a folder of trusted CAs is left out", "folder", f.path, "file", name, "error", file.problem)
		}
		next.certs = addNew(next.certs, file.certs)
	}
	return next, nil
}

// names lists the files that count by their names. Hidden ones are other programs' temporary files.
func (f *caFolder) names() ([]string, error) {
	entries, err := os.ReadDir(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if isCertificateFile(e.Name()) && e.Name()[0] != '.' {
			names = append(names, e.Name())
		}
	}
	if len(names) > maxFolder {
		return nil, fmt.Errorf("%s holds %d certificate files, more than %d", f.path, len(names), maxFolder)
	}
	slices.Sort(names)
	return names, nil
}

// file reads one file, or takes it as it was read before when size and time of change are the same. nil when it is gone.
func (f *caFolder) file(name string, before *folderFile, at time.Time) *folderFile {
	path := filepath.Join(f.path, name)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return &folderFile{problem: err.Error()}
	}
	file := &folderFile{size: info.Size(), modified: info.ModTime()}
	switch {
	case !info.Mode().IsRegular():
		file.problem = "it is not a file"
		return file
	case info.Size() > maxFolderFile:
		file.problem = fmt.Sprintf("it is larger than %d bytes", maxFolderFile)
		return file
	}
	// A file changed just now may change again without another size or time: it is read until it has come to rest.
	resting := at.Sub(file.modified) > watchStale
	if before != nil && resting && before.size == file.size && before.modified.Equal(file.modified) && before.sum != [sha256.Size]byte{} {
		return before
	}
	data, err := os.ReadFile(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		file.problem = err.Error()
		return file
	}
	file.sum = sha256.Sum256(data)
	if before != nil && before.sum == file.sum {
		file.certs, file.problem = before.certs, before.problem
		return file
	}
	if len(bytes.TrimSpace(data)) == 0 {
		file.problem = "it is empty"
	} else if file.certs, err = parseCAs(name, data); err != nil {
		file.problem = err.Error()
	}
	return file
}
