package main

import (
	"errors"
	"os"
	"path/filepath"
)

// once returns what stands in a file, and makes it when there is none. It stands there whole and for good, or not at all, and never
// becomes another, even while a process of an earlier host still lives: link(2) does not replace.
func once(path string, content func() ([]byte, error)) ([]byte, error) {
	if b, err := os.ReadFile(path); err == nil || !errors.Is(err, os.ErrNotExist) {
		return b, err
	}
	b, err := content()
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // a leftover harms nobody
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil { // the name, too, outlives a power cut
		return nil, err
	}
	return os.ReadFile(path)
}
