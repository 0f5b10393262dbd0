package strictyaml

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Below is a path that stands in a configuration: as it is when absolute, else below the configuration's folder.
func Below(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// ReadFile reads a regular file of at most that many bytes that a configuration in dir names.
func ReadFile(dir, path string, most int64) ([]byte, error) {
	return readChecked(Below(dir, path), most, func(fs.FileInfo) error { return nil })
}

// ReadSecret is ReadFile for a file that others than its owner and group may not touch.
func ReadSecret(dir, path string, most int64) ([]byte, error) {
	path = Below(dir, path)
	return readChecked(path, most, func(info fs.FileInfo) error {
		if mode := info.Mode().Perm(); mode&0o007 != 0 {
			return fmt.Errorf("%s has mode %#o: others may not have access to a secret (chmod 600)", path, mode)
		}
		return nil
	})
}

func readChecked(path string, most int64, check func(fs.FileInfo) error) ([]byte, error) {
	// A pipe is not opened: that would wait for its other end.
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // opened for reading
	if info, err = f.Stat(); err == nil {
		err = check(info) // of what was opened, whatever has its name by now
	}
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(data)) > most:
		return nil, fmt.Errorf("%s is larger than %d bytes", path, most)
	}
	return data, nil
}
