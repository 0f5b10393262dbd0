package groupcommit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Settle makes durable what SQLite is about to recover: it writes the write-ahead log of a database over itself and has it reach
// the disk, its name included. It is called under the lock that keeps other writers away, before the database is opened;
// without a log it does nothing.
//
// After an fsync that failed, the kernel calls the pages clean that it could not write, and the next fsync says that all is well. A
// process that ends then leaves a log of which the page cache has frames that the disk has not. Who recovers from it goes on behind
// these frames, each commit with an fsync that succeeds; a power cut takes them away, and SQLite, which reads its log
// up to the first gap, forgets every commit behind. (Within one process this does not happen: a commit that failed is overwritten
// by the next one.) See Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020.
func Settle(database string) error {
	f, err := os.OpenFile(database+"-wal", os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("the write-ahead log: %w", err)
	}
	defer f.Close()
	if err := overwrite(f); err != nil {
		return fmt.Errorf("the write-ahead log: %w", err)
	}
	// The first fsync of a file that is opened tells of a failure before it, once, which was just made good.
	if err := f.Sync(); err != nil {
		if err := errors.Join(overwrite(f), f.Sync()); err != nil {
			return fmt.Errorf("the write-ahead log: %w", err)
		}
	}
	return syncDir(filepath.Dir(database))
}

func overwrite(f *os.File) error {
	buf := make([]byte, 1<<20)
	for at := int64(0); ; {
		n, err := f.ReadAt(buf, at)
		if err != nil && err != io.EOF {
			return err
		}
		if n == 0 {
			return nil
		}
		if _, err := f.WriteAt(buf[:n], at); err != nil {
			return err
		}
		at += int64(n)
	}
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
