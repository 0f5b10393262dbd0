package local

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// What stands in Config.Dir.
const (
	lockFile      = "lock"          // held while a process runs the CA
	ledgerFile    = "ledger.db"     // SQLite
	rootsFile     = "roots.pem"     // the root certificates in use, for relying parties
	authorityDir  = "authority"     // keys, certificates, secret: it, and each folder in it, appears complete or not at all
	unfinishedDir = "authority.new" // authority, or a folder in it, while it is being made; worth nothing
)

// makeDir makes the directory of a CA, and those above it, for its owner alone, and their names durable: losing the name
// would lose the ledger with it. It refuses one that stands and that everyone may write in.
func makeDir(path string) error {
	info, err := os.Stat(path)
	switch {
	case err == nil && !info.IsDir():
		return fmt.Errorf("%s is not a directory", path)
	case err == nil && info.Mode().Perm()&0o002 != 0:
		return fmt.Errorf("%s has mode %04o: everyone could put another CA there; chmod 700 it", path, info.Mode().Perm())
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	parent := filepath.Dir(path)
	if there, err := exists(parent); err != nil {
		return err
	} else if !there {
		if err := makeDir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	return syncDir(parent)
}

// writeUnfinished writes the files, which may be in folders, into a new directory. finishDir gives it its name, when all of them are on
// the disk.
func writeUnfinished(unfinished string, files map[string][]byte) error {
	if err := os.RemoveAll(unfinished); err != nil {
		return err
	}
	if err := os.Mkdir(unfinished, 0o700); err != nil {
		return err
	}
	folders := map[string]bool{unfinished: true}
	for name, data := range files {
		path := filepath.Join(unfinished, name)
		if folder := filepath.Dir(path); !folders[folder] {
			if err := os.Mkdir(folder, 0o700); err != nil {
				return err
			}
			folders[folder] = true
		}
		if err := writeSynced(path, data); err != nil {
			return err
		}
	}
	for folder := range folders {
		if err := syncDir(folder); err != nil {
			return err
		}
	}
	return nil
}

func finishDir(path, unfinished string) error {
	if err := os.Rename(unfinished, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// writeFile replaces a file: whoever reads it sees the old content or the new one.
func writeFile(path string, data []byte) error {
	unfinished := path + ".new"
	if err := os.Remove(unfinished); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := writeSynced(unfinished, data); err != nil {
		return err
	}
	if err := os.Rename(unfinished, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// writeSynced makes a file that only its owner reads.
func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// syncDir makes the names in a directory durable.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// readPrivate reads a file that nobody but its owner may be able to read.
func readPrivate(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o: others can read it; chmod 600 it, and consider whether someone has", path, mode)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxPrivateSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxPrivateSize {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxPrivateSize)
	}
	return data, nil
}

const maxPrivateSize = 64 << 10
