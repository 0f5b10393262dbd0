package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/muster-pki/muster/cmd/muster/bundle"
)

// siteFiles are the files of a site that a bundle replaces: those below the configuration's folder.
type siteFiles struct {
	dir    string // of the configuration
	config string // its name there
	files  []siteFile
	made   []string // folders below dir that replace made, each before those in it
}

type siteFile struct {
	path   string // below dir, with slashes
	before []byte // nil: there is none
	after  []byte
	as     ownership
	done   bool
}

// ownership is whose a file is, and who may touch it.
type ownership struct {
	mode     fs.FileMode
	uid, gid int
}

func ownershipOf(info fs.FileInfo) ownership {
	s := ownership{info.Mode().Perm(), os.Getuid(), os.Getgid()}
	if is, ok := info.Sys().(*syscall.Stat_t); ok {
		s.uid, s.gid = int(is.Uid), int(is.Gid)
	}
	return s
}

// plan finds out what would change, and checks the configuration as it would be. It changes nothing.
func (s *siteFiles) plan(ctx context.Context, b *bundle.Bundle) error {
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	// What is new belongs to whom the configuration does: whoever imports may be another than whom the gateway runs as.
	_, owner, err := stands(root, s.config)
	if err != nil {
		return err
	}
	// The configuration is replaced last: until then the files that it names are more than it names.
	for _, f := range append(b.Of(bundle.Trust), b.Of(bundle.Configuration)...) {
		name := f.Path
		if f.Kind == bundle.Configuration {
			name = s.config
		} else if strings.EqualFold(name, s.config) {
			return fmt.Errorf("%s is the configuration here", name)
		}
		before, as, err := stands(root, name)
		if err != nil {
			return err
		}
		if f.Kind == bundle.Trust && before != nil && bundle.Public(before) != nil {
			return fmt.Errorf("%s is no file of trust anchors at this site, and is not replaced by one", name)
		}
		if before == nil {
			as.uid, as.gid = owner.uid, owner.gid
		}
		s.files = append(s.files, siteFile{path: name, before: before, after: f.Data, as: as})
	}
	return s.checked(ctx)
}

// stands is a file as it is; nil where there is none, and then as one of whoever runs this. What is no regular file, or is reached
// through a symbolic link, is refused.
func stands(root *os.Root, name string) ([]byte, ownership, error) {
	none := ownership{0o644, os.Getuid(), os.Getgid()}
	parts := strings.Split(name, "/")
	for i := range parts {
		at := path.Join(parts[:i+1]...)
		info, err := root.Lstat(at)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, none, nil
		case err != nil:
			return nil, none, err
		case i+1 < len(parts) && !info.IsDir(), i+1 == len(parts) && !info.Mode().IsRegular():
			return nil, none, fmt.Errorf("%s is a link, or no file: it is not replaced", at)
		case i+1 == len(parts) && info.Size() > bundle.MaxFile:
			return nil, none, fmt.Errorf("%s is larger than any file of a bundle", at)
		case i+1 == len(parts):
			data, err := root.ReadFile(at)
			if data == nil {
				data = []byte{}
			}
			return data, ownershipOf(info), err
		}
	}
	return nil, none, nil
}

// checked checks the configuration as `muster config check` does, in a folder that looks like the site's will.
func (s *siteFiles) checked(ctx context.Context) error {
	staged, err := os.MkdirTemp("", "muster-bundle-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(staged)
	dir, err := filepath.Abs(s.dir)
	if err != nil {
		return err
	}
	root := staged
	if staged, err = beside(root, dir); err != nil {
		return err
	}
	if err := s.overlay(staged, dir, ""); err != nil {
		return err
	}
	for _, f := range s.files {
		to := filepath.Join(staged, filepath.FromSlash(f.path))
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(to, f.after, 0o600); err != nil {
			return err
		}
	}
	if _, err := checkConfig(ctx, filepath.Join(staged, s.config)); err != nil {
		return errors.New(strings.ReplaceAll(strings.ReplaceAll(err.Error(), staged, s.dir), root, ""))
	}
	return nil
}

// beside makes below root a folder that stands where dir does, with links to all that is beside it and the folders above it: a
// configuration may name files by "..".
func beside(root, dir string) (string, error) {
	to, from := root, string(filepath.Separator)
	for part := range strings.SplitSeq(strings.Trim(filepath.ToSlash(dir), "/"), "/") {
		entries, _ := os.ReadDir(from) // what nobody may list is not named by what stands in it either, or is found missing
		for _, e := range entries {
			if e.Name() != part {
				if err := os.Symlink(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
					return "", err
				}
			}
		}
		from, to = filepath.Join(from, part), filepath.Join(to, part)
		if err := os.Mkdir(to, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
	}
	return to, nil
}

// overlay links in to whatever stands in from and is not replaced.
func (s *siteFiles) overlay(to, from, below string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		at, replaced, within := path.Join(below, e.Name()), false, false
		for _, f := range s.files {
			replaced = replaced || f.path == at
			within = within || strings.HasPrefix(f.path, at+"/")
		}
		switch target := filepath.Join(to, e.Name()); {
		case replaced:
		case within:
			if err = os.Mkdir(target, 0o700); err == nil {
				err = s.overlay(target, filepath.Join(from, e.Name()), at)
			}
		default:
			err = os.Symlink(filepath.Join(from, e.Name()), target)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// changes are lines about what becomes of each file.
func (s *siteFiles) changes() (lines []string) {
	for _, f := range s.files {
		lines = append(lines, bundled(f.path, f.before, f.after))
	}
	return lines
}

// replace writes all files, the configuration last. After an error restore puts back what it had written.
func (s *siteFiles) replace() error {
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for i := range s.files {
		f := &s.files[i]
		now, _, err := stands(root, f.path)
		switch {
		case err != nil:
			return err
		case (now == nil) != (f.before == nil) || !bytes.Equal(now, f.before):
			return fmt.Errorf("%s was changed by somebody else at this moment", f.path)
		case f.before != nil && bytes.Equal(f.before, f.after):
			continue
		}
		if err := s.makeFolders(root, path.Dir(f.path)); err != nil {
			return err
		}
		f.done = true
		if err := writeSynced(root, f.path, f.after, f.as); err != nil {
			return err
		}
	}
	return nil
}

func (s *siteFiles) makeFolders(root *os.Root, name string) error {
	if name == "." {
		return nil
	}
	if err := s.makeFolders(root, path.Dir(name)); err != nil {
		return err
	}
	err := root.Mkdir(name, 0o755)
	switch {
	case err == nil:
		s.made = append(s.made, name)
	case errors.Is(err, fs.ErrExist):
		return nil
	}
	return err
}

// restore puts back what stood there before.
func (s *siteFiles) restore() error {
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	var errs []error
	for i := len(s.files) - 1; i >= 0; i-- {
		f := &s.files[i]
		switch {
		case !f.done:
			continue
		case f.before == nil:
			err = root.Remove(f.path)
			if errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
		default:
			err = writeSynced(root, f.path, f.before, f.as)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s could not be put back as it was: %w", f.path, err))
		}
	}
	for _, name := range slices.Backward(s.made) {
		root.Remove(name) //nolint:errcheck // one in which somebody else has put something stays
	}
	return errors.Join(errs...)
}

// writeSynced has a file hold either what it did, or all of data, whenever the machine goes down. It is whose it was: one that the
// gateway could not read any more would keep it from starting.
func writeSynced(root *os.Root, name string, data []byte, as ownership) error {
	temporary := path.Join(path.Dir(name), ".muster-bundle-"+path.Base(name))
	if err := root.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err = own(f, as); err == nil {
		_, err = f.Write(data)
	}
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = root.Rename(temporary, name)
	}
	if err != nil {
		return errors.Join(err, root.Remove(temporary))
	}
	d, err := root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func own(f *os.File, as ownership) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if is := ownershipOf(info); is.uid != as.uid || is.gid != as.gid {
		if err := f.Chown(as.uid, as.gid); err != nil {
			return fmt.Errorf("it belongs to user %d and group %d, whom it would be taken from: import as that user, or as root: %w", as.uid, as.gid, err)
		}
	}
	return f.Chmod(as.mode)
}
