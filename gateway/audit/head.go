package audit

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Head names one record, the last of its stream at some time.
type Head struct {
	Stream string
	Seq    int64
	Hash   []byte
}

// String is STREAM:SEQ:HASH, which ParseHead reads.
func (h Head) String() string { return fmt.Sprintf("%s:%d:%x", h.Stream, h.Seq, h.Hash) }

// ParseHead reads STREAM:SEQ:HASH. A stream's name may hold colons.
func ParseHead(s string) (Head, error) {
	rest, sum, ok := cutLast(s)
	stream, number, numbered := cutLast(rest)
	seq, err := strconv.ParseInt(number, 10, 64)
	hash, hexed := hex.DecodeString(sum)
	if !ok || !numbered || stream == "" || err != nil || seq < 1 || hexed != nil || len(hash) != len(Genesis()) {
		return Head{}, fmt.Errorf("%q is no STREAM:SEQ:HASH, as `muster audit head` prints it", s)
	}
	return Head{stream, seq, hash}, nil
}

func cutLast(s string) (before, after string, found bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// Left is how an instance left its stream.
type Left struct {
	Head        // Seq 0: it has written nothing
	Closed bool // it stopped gracefully
}

// The head file has one slot for each stream that was written from this data directory: a line of text, and spaces. A slot is one sector, and
// written at once.
const (
	slotSize  = 512
	maxSlots  = 64
	slotMagic = "muster-audit-head 1 "
)

// HeadFile keeps the head of one stream outside of the store. It is written after each commit and never flushed: a crash of the
// host may leave it behind the store, never ahead of it.
type HeadFile struct {
	f      *os.File
	slot   int
	stream []byte // as JSON
	buf    []byte
}

// OpenHeads opens the file for a stream, and makes it when there is none. left is what it says of the stream, nil for nothing; damaged says
// that a part of it could not be read.
func OpenHeads(path, stream string) (h *HeadFile, left *Left, damaged bool, err error) {
	name, err := json.Marshal(stream)
	if err != nil {
		return nil, nil, false, err
	}
	h = &HeadFile{stream: name, buf: make([]byte, 0, slotSize)}
	if _, err := h.line(Head{stream, 1 << 62, Genesis()}, false); err != nil {
		return nil, nil, false, err
	}
	if h.f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, nil, false, err
	}
	slots, broken, err := readSlots(h.f)
	if err != nil {
		return nil, nil, false, errors.Join(fmt.Errorf("%s: %w", path, err), h.f.Close())
	}
	h.slot = len(slots)
	for i, s := range slots {
		switch {
		case s != nil && s.Stream == stream:
			h.slot, left = i, s
		case s == nil && left == nil:
			h.slot = i
		}
	}
	if h.slot >= maxSlots {
		return nil, nil, false, errors.Join(fmt.Errorf("%s holds %d streams: too many instance names were used in this data directory", path, maxSlots), h.f.Close())
	}
	if left == nil {
		// There after a crash: without it, a key and a stream that it signed look as if somebody had taken the file away.
		if err := errors.Join(h.Write(Head{stream, 0, Genesis()}, false), h.f.Sync(), syncDir(filepath.Dir(path))); err != nil {
			return nil, nil, false, errors.Join(err, h.f.Close())
		}
	}
	return h, left, broken > 0, nil
}

// Write says which record is the stream's last.
func (h *HeadFile) Write(last Head, closed bool) error {
	line, err := h.line(last, closed)
	if err == nil {
		_, err = h.f.WriteAt(line, int64(h.slot)*slotSize)
	}
	return err
}

// Close flushes and closes the file.
func (h *HeadFile) Close() error { return errors.Join(h.f.Sync(), h.f.Close()) }

func (h *HeadFile) line(last Head, closed bool) ([]byte, error) {
	b := append(h.buf[:0], slotMagic...)
	if closed {
		b = append(b, "closed "...)
	} else {
		b = append(b, "open "...)
	}
	b = append(strconv.AppendInt(b, last.Seq, 10), ' ')
	b = append(hex.AppendEncode(b, last.Hash), ' ')
	b = append(append(b, h.stream...), ' ')
	b = append(fmt.Appendf(b, "%08x", crc32.ChecksumIEEE(b)), '\n')
	if len(b) > slotSize {
		return nil, fmt.Errorf("the instance name of %d bytes is too long", len(h.stream)-2)
	}
	for len(b) < slotSize-1 {
		b = append(b, ' ')
	}
	if len(b) < slotSize {
		b = append(b, '\n')
	}
	return b, nil
}

// ReadHeads reads the file, which a gateway may be writing. A missing one is fs.ErrNotExist.
func ReadHeads(path string) ([]Left, error) {
	for try := 0; ; try++ {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		slots, broken, err := readSlots(f)
		err = errors.Join(err, f.Close())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if broken > 0 {
			if try < 10 {
				continue // read while it was written
			}
			return nil, fmt.Errorf("%s is damaged: somebody changed it, or a power cut did", path)
		}
		var all []Left
		for _, s := range slots {
			all = append(all, *s)
		}
		return all, nil
	}
}

// readSlots reads all slots, nil for those that are damaged.
func readSlots(f *os.File) (slots []*Left, broken int, err error) {
	content, err := io.ReadAll(io.NewSectionReader(f, 0, maxSlots*slotSize))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, 0, err
	}
	for len(content) > 0 {
		n := min(len(content), slotSize)
		s := parseSlot(content[:n])
		if s == nil {
			broken++
		}
		slots, content = append(slots, s), content[n:]
	}
	return slots, broken, nil
}

func parseSlot(b []byte) *Left {
	line, _, ok := bytes.Cut(b, []byte("\n"))
	rest, magic := strings.CutPrefix(string(line), slotMagic)
	if !ok || !magic || len(b) != slotSize || len(rest) < 9 || rest[len(rest)-9] != ' ' { // a space and the checksum
		return nil
	}
	if fmt.Sprintf("%08x", crc32.ChecksumIEEE(line[:len(line)-8])) != string(line[len(line)-8:]) {
		return nil
	}
	parts := strings.SplitN(rest[:len(rest)-9], " ", 4)
	if len(parts) != 4 {
		return nil
	}
	var l Left
	var err error
	l.Closed = parts[0] == "closed"
	if l.Seq, err = strconv.ParseInt(parts[1], 10, 64); err != nil {
		return nil
	}
	if l.Hash, err = hex.DecodeString(parts[2]); err != nil || len(l.Hash) != len(Genesis()) {
		return nil
	}
	if json.Unmarshal([]byte(parts[3]), &l.Stream) != nil {
		return nil
	}
	return &l
}
