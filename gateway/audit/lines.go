package audit

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxLine is more than a record takes: bodies have bounded fields.
const maxLine = 16 << 20

// AppendLine appends a record as a line of JSON: stream, seq, prev, hash, and body byte for byte as it stands, which the hash covers. So nothing may
// reformat the line. A body that would not stand in a line of JSON, since somebody changed it, is given as raw, in base64.
func AppendLine(b []byte, r Record) []byte {
	name, _ := json.Marshal(r.Stream) // a string always can be
	b = append(append(b, `{"stream":`...), name...)
	b = strconv.AppendInt(append(b, `,"seq":`...), r.Seq, 10)
	b = hex.AppendEncode(append(b, `,"prev":"`...), r.Prev)
	b = hex.AppendEncode(append(b, `","hash":"`...), r.Hash)
	if body := []byte(r.Body); json.Valid(body) && bytes.Equal(bytes.TrimSpace(body), body) && !bytes.ContainsAny(body, "\r\n") {
		b = append(append(b, `","body":`...), body...)
	} else {
		b = append(base64.StdEncoding.AppendEncode(append(b, `","raw":"`...), body), '"')
	}
	return append(b, "}\n"...)
}

// line is what AppendLine writes, or the first line of an export.
type line struct {
	Export *Export `json:"export"`

	Stream string          `json:"stream"`
	Seq    int64           `json:"seq"`
	Prev   string          `json:"prev"`
	Hash   string          `json:"hash"`
	Body   json.RawMessage `json:"body"`
	Raw    *[]byte         `json:"raw"`
}

// Export is the first line of an export. What it says is signed by nobody.
type Export struct {
	Version int       `json:"version"` // 1
	At      time.Time `json:"at"`
	Filter  string    `json:"filter,omitempty"` // what was left out, so that the rest cannot be verified; "" for nothing
	Streams []string  `json:"streams"`          // Head of each
}

// AppendExport appends the first line of an export.
func AppendExport(b []byte, e *Export) ([]byte, error) {
	text, err := json.Marshal(struct {
		Export *Export `json:"export"`
	}{e})
	return append(append(b, text...), '\n'), err
}

// ReadLines reads what AppendLine and AppendExport wrote. name is the file's, for errors.
func ReadLines(in io.Reader, name string, export func(*Export) error, record func(Record) error) error {
	s := bufio.NewScanner(in)
	s.Buffer(make([]byte, 64<<10), maxLine)
	n := 0
	for s.Scan() {
		n++
		if len(bytes.TrimSpace(s.Bytes())) == 0 {
			continue
		}
		err := readLine(s.Bytes(), export, record)
		if err != nil {
			return fmt.Errorf("%s, line %d: %w", name, n, err)
		}
	}
	if err := s.Err(); errors.Is(err, bufio.ErrTooLong) {
		return fmt.Errorf("%s, line %d: longer than %d bytes", name, n+1, maxLine)
	} else if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func readLine(text []byte, export func(*Export) error, record func(Record) error) error {
	var l line
	if err := json.Unmarshal(text, &l); err != nil {
		return fmt.Errorf("no record of an audit trail: %w", err)
	}
	if l.Export != nil {
		if l.Export.Version != 1 {
			return fmt.Errorf("an export of version %d: this muster reads version 1", l.Export.Version)
		}
		return export(l.Export)
	}
	r := Record{Stream: l.Stream, Seq: l.Seq, Body: string(l.Body)}
	if l.Raw != nil {
		r.Body = string(*l.Raw)
	}
	var err1, err2 error
	r.Prev, err1 = hex.DecodeString(l.Prev)
	r.Hash, err2 = hex.DecodeString(l.Hash)
	if err := errors.Join(err1, err2); err != nil || l.Stream == "" || l.Hash == "" || l.Body == nil && l.Raw == nil {
		return errors.New("no record of an audit trail: it needs stream, seq, prev, hash and body")
	}
	return record(r)
}

// Filter says which records an export holds. The zero value takes all.
type Filter struct {
	Since, Until time.Time // Until is not in it
	Device       string
	Transaction  string
	Kinds        []string
}

// Whole reports whether nothing is left out.
func (f *Filter) Whole() bool {
	return f.Since.IsZero() && f.Until.IsZero() && f.Device == "" && f.Transaction == "" && len(f.Kinds) == 0
}

// String is what Export.Filter says.
func (f *Filter) String() string {
	var parts []string
	add := func(name, value string) {
		if value != "" {
			parts = append(parts, name+" "+value)
		}
	}
	when := func(name string, t time.Time) {
		if !t.IsZero() {
			add(name, t.UTC().Format(time.RFC3339))
		}
	}
	when("since", f.Since)
	when("until", f.Until)
	add("device", f.Device)
	add("transaction", f.Transaction)
	add("kind", strings.Join(f.Kinds, ","))
	return strings.Join(parts, ", ")
}

// Takes reports whether a record's body is among them.
func (f *Filter) Takes(body string) bool {
	if f.Whole() {
		return true
	}
	var said struct {
		Kind        string    `json:"kind"`
		At          time.Time `json:"at"`
		Device      string    `json:"device"`
		Transaction string    `json:"transaction"`
	}
	if json.Unmarshal([]byte(body), &said) != nil {
		return true // somebody changed it: whoever asked is to see it
	}
	return (f.Since.IsZero() || !said.At.Before(f.Since)) && (f.Until.IsZero() || said.At.Before(f.Until)) &&
		(f.Device == "" || f.Device == said.Device) && (f.Transaction == "" || f.Transaction == said.Transaction) &&
		(len(f.Kinds) == 0 || slices.Contains(f.Kinds, said.Kind))
}
