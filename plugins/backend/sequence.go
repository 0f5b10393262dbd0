package backend

import (
	"errors"
	"fmt"
)

// sequence checks, piece by piece, that what passes is one DER SEQUENCE of at most limit bytes in all:
//
//	identifier 0x30, length definite and minimal (X.690 sections 8.1.3 and 10.1), exactly as many octets
//
// It does not look inside.
type sequence struct {
	limit  int
	header []byte // until the length is known
	total  int    // 0 until the length is known
	got    int
}

var errNotSequence = errors.New("no DER SEQUENCE")

// add takes the next piece.
func (s *sequence) add(p []byte) error {
	s.got += len(p)
	if s.total == 0 {
		s.header = append(s.header, p[:min(len(p), 6)]...)
		if err := s.parse(); err != nil {
			return err
		}
	}
	if s.got > s.limit || s.total > s.limit {
		return fmt.Errorf("%d bytes or more, more than %d", max(s.got, s.total), s.limit)
	}
	if s.total > 0 && s.got > s.total {
		return errors.New("bytes after the DER SEQUENCE")
	}
	return nil
}

// parse sets total once the header is whole.
func (s *sequence) parse() error {
	h := s.header
	if len(h) > 0 && h[0] != 0x30 {
		return errNotSequence
	}
	if len(h) < 2 {
		return nil
	}
	if h[1] < 0x80 {
		s.total = 2 + int(h[1])
		return nil
	}
	n := int(h[1] & 0x7f)
	if n == 0 || n > 4 {
		return errNotSequence
	}
	if len(h) < 2+n {
		return nil
	}
	length := 0
	for _, b := range h[2 : 2+n] {
		length = length<<8 | int(b)
	}
	if length < 0x80 || n > 1 && h[2] == 0 {
		return errNotSequence
	}
	s.total = 2 + n + length
	return nil
}

// end is called after the last piece.
func (s *sequence) end() error {
	if s.total == 0 || s.got != s.total {
		return errNotSequence
	}
	return nil
}

func checkSequence(der []byte, limit int) error {
	s := sequence{limit: limit}
	if err := s.add(der); err != nil {
		return err
	}
	return s.end()
}
