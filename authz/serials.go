package authz

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/muster-pki/muster/gateway"
)

// Bounds of a vendor's list. A million serial numbers take about 40 MB of memory and less than a second to read.
const (
	maxListSize   = 512 << 20 // bytes of the file
	maxListLine   = 64 << 10  // bytes of a line
	maxListSerial = 5_000_000
)

// serialList is a vendor's list of serial numbers, in a file that may change at any time. A file that cannot be read, or is
// no list, changes nothing: the list before counts on, and the log says so once.
type serialList struct {
	*watched[serialLook]
	log *slog.Logger
}

// serialLook is what the file held at a time.
type serialLook struct {
	size     int64
	modified time.Time
	sum      [sha256.Size]byte // of the last content that was read, good or bad
	fault    error             // why that is no list
	problem  string            // what was said last
	serials  map[string]struct{}
}

// newSerialList makes the list; the first look reads it.
func newSerialList(path string, log *slog.Logger, now func() time.Time) *serialList {
	l := &serialList{log: log}
	l.watched = newWatched(path, now, l.read)
	return l
}

// read reads the file if it changed. Its error is that there has never been a list.
func (l *serialList) read(last *serialLook, at time.Time) (*serialLook, error) {
	next := &serialLook{}
	if last != nil {
		*next = *last
	}
	err := l.reread(next, at)
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	switch {
	case next.serials == nil:
		next.problem = problem
		return next, err
	case problem != "" && problem != next.problem:
		l.log.Warn("a vendor's list cannot be read: the one before counts on", "file", l.path, "serials", len(next.serials), "error", err)
	case problem == "" && last != nil && last.sum != next.sum:
		l.log.Info("a vendor's list was read again", "file", l.path, "serials", len(next.serials))
	}
	next.problem = problem
	return next, nil
}

// reread puts into the look what the file holds now.
func (l *serialList) reread(next *serialLook, at time.Time) error {
	// Before it is opened: opening a named pipe waits for a writer, and every request would wait with it.
	if info, err := os.Stat(l.path); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a file", l.path)
	}
	f, err := os.Open(l.path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // opened for reading
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() > maxListSize {
		return fmt.Errorf("%s is larger than %d bytes", l.path, maxListSize)
	}
	// A file changed just now may change again without another size or time: it is read until it has come to rest.
	resting := at.Sub(info.ModTime()) > watchStale
	if resting && next.size == info.Size() && next.modified.Equal(info.ModTime()) {
		return next.fault
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(f, maxListSize)); err != nil {
		return err
	}
	sum := [sha256.Size]byte(h.Sum(nil))
	if next.sum == sum {
		next.size, next.modified = info.Size(), info.ModTime()
		return next.fault
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	serials, err := parseSerials(io.LimitReader(f, maxListSize), maxListSerial)
	next.size, next.modified, next.sum, next.fault = info.Size(), info.ModTime(), sum, nil
	if err != nil {
		next.fault = fmt.Errorf("%s:%w", l.path, err)
		return next.fault
	}
	next.serials = serials
	return nil
}

// parseSerials reads a list: a serial number a line, or the first column of a CSV with commas, semicolons or tabs, whose
// first line may be a header. Empty lines and those that begin with # are left out. Errors begin with the line's number; more
// than most serial numbers are one.
func parseSerials(r io.Reader, most int) (map[string]struct{}, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4<<10), maxListLine)
	serials := make(map[string]struct{})
	first, n := true, 0
	for lines.Scan() {
		n++
		line := lines.Bytes()
		if n == 1 {
			line = bytes.TrimPrefix(line, []byte("\ufeff"))
		}
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		serial, err := firstColumn(line)
		if err != nil {
			return nil, fmt.Errorf("%d: %w", n, err)
		}
		header := first && isHeader(serial)
		if first && !header {
			if title := furtherHeader(line); title != "" {
				return nil, fmt.Errorf("%d: the column %s is not the first one: the serial numbers have to stand first", n, shown(title))
			}
		}
		first = false
		if header {
			continue
		}
		if len(serials) == most {
			return nil, fmt.Errorf("%d: more than %d serial numbers", n, most)
		}
		serials[serial] = struct{}{}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, fmt.Errorf("%d: the line is longer than %d bytes", n+1, maxListLine)
	case err != nil:
		return nil, fmt.Errorf("%d: %w", n+1, err)
	case len(serials) == 0:
		return nil, fmt.Errorf("%d: the file holds no serial number", max(n, 1))
	}
	return serials, nil
}

// firstColumn returns the first field of a line of CSV (RFC 4180).
func firstColumn(line []byte) (string, error) {
	if !utf8.Valid(line) {
		return "", errors.New("it is not UTF-8 text")
	}
	if bytes.Count(line, []byte{'"'})%2 != 0 {
		return "", errors.New(`a quotation mark is not closed in its line`)
	}
	var value string
	if line[0] == '"' {
		rest := line[1:]
		var field []byte
		for {
			i := bytes.IndexByte(rest, '"') // there is one: their number is even
			field, rest = append(field, rest[:i]...), rest[i+1:]
			if len(rest) == 0 || rest[0] != '"' {
				break
			}
			field, rest = append(field, '"'), rest[1:]
		}
		if rest = bytes.TrimLeft(rest, " "); len(rest) > 0 && bytes.IndexByte([]byte(",;\t"), rest[0]) < 0 {
			return "", errors.New("something stands behind a quoted field")
		}
		value = string(field)
	} else {
		if i := bytes.IndexAny(line, ",;\t"); i >= 0 {
			line = line[:i]
		}
		value = string(line)
	}
	value = strings.TrimSpace(value)
	switch {
	case value == "":
		return "", errors.New("the first column is empty")
	case len(value) > gateway.MaxDeviceName:
		return "", fmt.Errorf("the serial number has %d bytes, at most %d are taken", len(value), gateway.MaxDeviceName)
	case !printable(value):
		return "", errors.New("the serial number has control or invisible characters")
	}
	return value, nil
}

// furtherHeader returns the title of a column of serial numbers that stands behind the first, "" where there is none. It is for
// a message: what stands in quotes is not taken apart.
func furtherHeader(line []byte) string {
	fields := strings.FieldsFunc(string(line), func(r rune) bool { return strings.ContainsRune(",;\t", r) })
	for i, f := range fields {
		f = strings.TrimSpace(strings.Trim(strings.TrimSpace(f), `"`))
		if i > 0 && isHeader(f) && strings.HasPrefix(strings.ToLower(f), "s") {
			return f
		}
	}
	return ""
}

// isHeader reports whether a first line's first column is a title.
func isHeader(s string) bool {
	s = strings.Map(func(r rune) rune {
		if r == ' ' || r == '_' || r == '-' || r == '.' {
			return -1
		}
		return r
	}, strings.ToLower(s))
	switch s {
	case "serial", "serialnumber", "serialno", "serialnr", "sn", "seriennummer", "device", "deviceserial", "deviceserialnumber", "name", "id":
		return true
	}
	return false
}
