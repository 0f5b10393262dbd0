package spool

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// own checks a folder: it is one, ours, and nobody writes into it but us and its group. A group that writes into in/ is how
// others get their files there.
func (s *Spool) own(dir string) error {
	info, err := s.root.Lstat(dir)
	if err != nil {
		return err
	}
	path := strings.TrimSuffix(s.Dir+"/"+dir, "/.")
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return fmt.Errorf("%s is not a folder", path)
	case !ok || int(stat.Uid) != os.Geteuid():
		return fmt.Errorf("%s does not belong to the user that runs the gateway", path)
	case info.Mode().Perm()&0o002 != 0:
		return fmt.Errorf("%s may be written by everybody: chmod o-w", path)
	case dir != dirIn && info.Mode().Perm()&0o020 != 0 && info.Mode()&fs.ModeSticky == 0:
		return fmt.Errorf("%s may be written by its group: chmod g-w, or chmod +t so that nobody takes away what is not theirs; only %s is for others to write", path, dirIn)
	}
	return nil
}

// sweep takes away the temporary files of a process that is gone.
func (s *Spool) sweep(dir string) error {
	names, _, err := s.names(dir, func(name string) bool { return strings.HasPrefix(name, temporary) })
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := s.root.Remove(dir + "/" + name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// names lists the entries of a folder that are wanted, sorted. more says that there are others beyond the bounds.
func (s *Spool) names(dir string, wanted func(name string) bool) (names []string, more bool, err error) {
	f, err := s.root.Open(dir)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	seen := 0
	for more = true; more && seen < maxSeen; {
		some, err := f.Readdirnames(256)
		seen += len(some)
		for _, name := range some {
			if wanted(name) {
				names = append(names, name)
			}
		}
		if errors.Is(err, io.EOF) {
			more = false
		} else if err != nil {
			return nil, false, err
		}
	}
	slices.Sort(names)
	return names, more, nil
}

// changing is why a file is not read yet.
const changing = "changing"

// read reads a file that info was seen of. why says what is wrong with it.
func (s *Spool) read(dir, name string, info fs.FileInfo) (data []byte, why string, err error) {
	if info.Size() > s.Limit {
		return nil, fmt.Sprintf("it is larger than %d bytes", s.Limit), nil
	}
	// What became something else since then is not waited for, nor followed.
	f, err := s.root.OpenFile(dir+"/"+name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, changing, nil
	case errors.Is(err, fs.ErrPermission):
		return nil, "the gateway may not read it", nil
	case err != nil:
		return nil, "", err
	}
	defer f.Close()
	opened, err := f.Stat()
	if err != nil {
		return nil, "", err
	}
	if !opened.Mode().IsRegular() || !same(info, opened) {
		return nil, changing, nil
	}
	if data, err = io.ReadAll(io.LimitReader(f, s.Limit+1)); err != nil {
		return nil, "", err
	}
	after, err := f.Stat()
	if err != nil {
		return nil, "", err
	}
	if !same(info, after) || int64(len(data)) != info.Size() {
		return nil, changing, nil
	}
	return data, "", nil
}

// line is text for a file that somebody shows in a terminal.
func line(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}

// temporary is how the names of files begin that are not whole yet.
const temporary = ".muster-"

// write makes a file that is there whole or not at all, also after the power fails. The group may read it where it may read
// the folder.
func (s *Spool) write(dir, name string, data []byte) (err error) {
	info, err := s.root.Lstat(dir)
	if err != nil {
		return err
	}
	temp := dir + "/" + temporary + name
	if err := s.root.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := s.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o600|info.Mode().Perm()&0o040), f.Sync(), f.Close())
	if err == nil {
		err = s.root.Rename(temp, dir+"/"+name)
	}
	if err != nil {
		s.root.Remove(temp) //nolint:errcheck // swept at the next start
		return err
	}
	return s.sync(dir)
}

// move moves a file out of in/.
func (s *Spool) move(name, to string) error {
	if err := s.root.Rename(dirIn+"/"+name, to+"/"+name); err != nil {
		return err
	}
	return cmp.Or(s.sync(to), s.sync(dirIn))
}

// sync makes what happened in a folder durable.
func (s *Spool) sync(dir string) error {
	f, err := s.root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
