package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// FileSink appends records to a file, as AppendLine writes them, and has them on the disk before it says so. It opens the file again
// where it was moved away, as logrotate does, and keeps other processes of this kind from it. A line that a crash or a full disk cut
// off is taken away.
type FileSink struct {
	path string
	f    *os.File // nil while it is not open
	buf  []byte
}

// NewFileSink makes a sink of a file in an existing directory. Nothing is opened before the first Write.
func NewFileSink(path string) *FileSink { return &FileSink{path: path} }

// Name is Sink.
func (s *FileSink) Name() string { return "file " + s.path }

// Write is Sink.
func (s *FileSink) Write(_ context.Context, records []Record) error {
	if err := s.open(); err != nil {
		return err
	}
	if len(records) == 0 {
		return nil
	}
	s.buf = s.buf[:0]
	for _, r := range records {
		s.buf = AppendLine(s.buf, r)
	}
	before, err := s.f.Seek(0, io.SeekEnd)
	if err != nil {
		return s.broken(err)
	}
	if _, err = s.f.Write(s.buf); err == nil {
		err = sync(s.f)
	}
	if err != nil {
		// What came of it is written again. Should this fail too, the next one to open the file looks at its end.
		_ = s.f.Truncate(before)
		return s.broken(err)
	}
	return nil
}

// open opens the file unless it is open, and still where it was.
func (s *FileSink) open() error {
	if s.f != nil {
		here, err1 := s.f.Stat()
		there, err2 := os.Stat(s.path)
		if err1 == nil && err2 == nil && os.SameFile(here, there) {
			return nil
		}
		if err := s.Close(); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(s.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if err := s.take(f); err != nil {
		return errors.Join(err, f.Close())
	}
	s.f = f
	return nil
}

// take keeps others out of a file that was opened, and makes it end with a whole line.
func (s *FileSink) take(f *os.File) error {
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() { // a device or a pipe has neither
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("%s: another process writes it: %w", s.path, err)
	}
	end, err := lastLine(f, info.Size())
	if err == nil && end < info.Size() {
		err = f.Truncate(end)
	}
	if err == nil {
		err = sync(f)
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(s.path)) // that it is there at all
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// lastLine is where the last whole line of a file ends.
func lastLine(f *os.File, size int64) (end int64, err error) {
	part := make([]byte, 64<<10)
	for end = size; end > 0; {
		n := min(end, int64(len(part)))
		if _, err := f.ReadAt(part[:n], end-n); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(part[:n], '\n'); i >= 0 {
			return end - n + int64(i) + 1, nil
		}
		end -= n
	}
	return 0, nil
}

// sync has what was written on the disk; a device has none.
func sync(f *os.File) error {
	if err := f.Sync(); !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}

// broken closes the file, to be opened anew: after an error of fsync nobody knows what of it is on the disk.
func (s *FileSink) broken(err error) error { return errors.Join(err, s.Close()) }

// Close is Sink.
func (s *FileSink) Close() error {
	if s.f == nil {
		return nil
	}
	f := s.f
	s.f = nil
	return f.Close()
}
