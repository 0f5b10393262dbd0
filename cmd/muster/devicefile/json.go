package devicefile

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// readJSON reads an array of objects, or objects one after another (NDJSON). Keys are the columns of a CSV file; beside
// them stand `identifiers`, an object of kinds (or an array of {kind, value}), and `attributes`, an object.
func (d *reader) readJSON(r *bufio.Reader) error {
	s := &objectScanner{r: r, line: 1}
	for {
		object, line, err := s.next()
		var syntax *objectError
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.As(err, &syntax):
			d.add(fault{line: line, why: syntax.why})
			if syntax.fatal {
				return nil
			}
			d.rows++
			continue
		case err != nil:
			return err
		}
		if d.full(line) {
			return nil
		}
		d.object(line, object)
	}
}

// objectScanner parts a text into its objects, without looking into them.
type objectScanner struct {
	r     *bufio.Reader
	line  int
	array bool // within the brackets
	begun bool
	ended bool // behind the closing bracket
	comma bool // one stands before what follows
	any   bool // an object came already
	buf   []byte
}

// objectError is a fault of the text. Behind one that is not fatal, next goes on.
type objectError struct {
	why   string
	fatal bool
}

func (e *objectError) Error() string { return e.why }

func stop(format string, args ...any) *objectError {
	return &objectError{why: fmt.Sprintf(format, args...), fatal: true}
}

// next returns an object, good until the next call, and the line where it begins. io.EOF comes alone.
func (s *objectScanner) next() (object []byte, line int, err error) {
	for {
		c, err := s.r.ReadByte()
		switch {
		case errors.Is(err, io.EOF) && s.array:
			return nil, s.line, stop("the array does not end: the file is cut short")
		case err != nil:
			return nil, s.line, err
		case c == '\n':
			s.line++
		case c == ' ' || c == '\t' || c == '\r':
		case s.ended:
			return nil, s.line, stop("something stands behind the array")
		case c == '[' && !s.begun:
			s.array, s.begun = true, true
		case c == ']' && s.array && (!s.comma || !s.any):
			s.array, s.ended = false, true
		case c == ',' && s.array && s.any && !s.comma:
			s.comma = true
		case c == '{' && (!s.array || !s.any || s.comma):
			s.begun, s.any, s.comma = true, true, false
			return s.object()
		default:
			return nil, s.line, stop("want an object for each device, in an array or one after another; found %q", rune(c))
		}
	}
}

// object reads to the brace that ends it.
func (s *objectScanner) object() (object []byte, line int, err error) {
	line = s.line
	s.buf = append(s.buf[:0], '{')
	for depth, text, escaped, size := 1, false, false, 1; depth > 0; size++ {
		c, err := s.r.ReadByte()
		if errors.Is(err, io.EOF) {
			return nil, line, stop("the object does not end: the file is cut short, or a quote or brace is missing")
		}
		if err != nil {
			return nil, line, err
		}
		switch {
		case c == '\n':
			s.line++
		case escaped:
			escaped = false
		case text && c == '\\':
			escaped = true
		case c == '"':
			text = !text
		case !text && (c == '{' || c == '['):
			depth++
		case !text && (c == '}' || c == ']'):
			depth--
		}
		if size < maxLine {
			s.buf = append(s.buf, c)
		} else if depth == 0 {
			return nil, line, &objectError{why: fmt.Sprintf("the object is longer than %d bytes", maxLine)}
		}
	}
	return s.buf, line, nil
}

// object reads one device.
func (d *reader) object(line int, raw []byte) {
	faults := len(d.faults) + d.more
	if !utf8.Valid(raw) {
		d.rows++
		d.add(fault{line: line, why: "this is not UTF-8: save the file as UTF-8"})
		return
	}
	e := &Entry{line: line}
	seen := map[string]bool{}
	err := members(raw, func(key string, value json.RawMessage, offset int) {
		at := fieldValue{line: line + bytes.Count(raw[:offset], []byte("\n")), label: key}
		switch key {
		case "attributes":
			d.within(e, at, value, AttrPrefix)
		case "identifiers":
			d.identifiers(e, at, value)
		default:
			var err error
			if at.field, err = jsonField(key); err != nil {
				d.add(fault{line: at.line, label: "key", value: words.Quote(key), why: err.Error()})
				return
			}
			d.value(e, at, value)
			key = at.field.name
		}
		if seen[key] {
			d.add(fault{line: at.line, label: key, why: "stands twice in this object"})
		}
		seen[key] = true
	})
	if err != nil {
		d.add(fault{line: line, why: "this is not JSON: " + err.Error()})
	}
	d.entry(e, faults)
}

// jsonField is fieldNamed, which also knows the two keys that only JSON has.
func jsonField(key string) (*field, error) {
	field, err := fieldNamed(key)
	if err == nil {
		return field, nil
	}
	if near := strictyaml.Nearest(key, []string{"identifiers", "attributes"}); near != "" {
		return nil, fmt.Errorf("unknown name (did you mean %q?)", near)
	}
	return nil, err
}

// within reads an object of fields whose names get the prefix.
func (d *reader) within(e *Entry, at fieldValue, object json.RawMessage, prefix string) {
	if string(object) == "null" {
		return
	}
	parent := at.label
	seen := map[string]bool{}
	err := members(object, func(key string, value json.RawMessage, _ int) {
		at := at
		at.label = parent + "." + key
		var err error
		at.field, err = fieldNamed(prefix + key)
		switch {
		case err != nil:
			d.add(fault{line: at.line, label: at.label, why: err.Error()})
		case seen[key]:
			d.add(fault{line: at.line, label: at.label, why: "stands twice in this object"})
		default:
			d.value(e, at, value)
		}
		seen[key] = true
	})
	if err != nil {
		d.add(fault{line: at.line, label: parent, why: "want an object, name by value"})
	}
}

// identifiers reads an object of kinds, or an array of {kind, value}, which is how the admin API writes them.
func (d *reader) identifiers(e *Entry, at fieldValue, value json.RawMessage) {
	if !bytes.HasPrefix(value, []byte("[")) {
		d.within(e, at, value, IDPrefix)
		return
	}
	var list []struct {
		Kind  string `json:"kind"`
		Value string `json:"value"`
	}
	strict := json.NewDecoder(bytes.NewReader(value))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&list); err != nil {
		d.add(fault{line: at.line, label: at.label, why: `want [{"kind": "serial", "value": "..."}], or {"serial": "..."}`})
		return
	}
	for _, id := range list {
		v := at
		var err error
		if v.field, err = fieldNamed(IDPrefix + id.Kind); err != nil {
			d.add(fault{line: at.line, label: at.label, why: err.Error()})
			continue
		}
		v.label, v.text = at.label+"."+id.Kind, strings.TrimSpace(id.Value)
		d.put(e, v)
	}
}

// value puts what stands behind a key: a string, number or truth value, or an array of them where a field takes several.
func (d *reader) value(e *Entry, at fieldValue, raw json.RawMessage) {
	if at.field.many && bytes.HasPrefix(raw, []byte("[")) {
		var list []json.RawMessage
		if err := json.Unmarshal(raw, &list); err != nil {
			d.add(fault{line: at.line, label: at.label, why: "this is not JSON"})
		}
		for _, one := range list {
			d.scalar(e, at, one)
		}
		return
	}
	d.scalar(e, at, raw)
}

func (d *reader) scalar(e *Entry, at fieldValue, raw json.RawMessage) {
	switch raw[0] {
	case 'n':
		return
	case '[', '{':
		d.add(fault{line: at.line, label: at.label, why: "want one value"})
		return
	case '"':
		if err := json.Unmarshal(raw, &at.text); err != nil {
			d.add(fault{line: at.line, label: at.label, why: "this is not JSON"})
			return
		}
		if !at.field.secret {
			at.text = strings.TrimSpace(at.text)
		}
	default: // a number as it is written, true or false
		at.text = string(raw)
		if at.field.number && rounded(at.text) {
			d.fault(at, "a program has rounded this number: write it as a string")
			return
		}
	}
	if at.text != "" {
		d.put(e, at)
	}
}

// members calls take for each member of an object, with the offset behind its key.
func members(object []byte, take func(key string, value json.RawMessage, offset int)) error {
	dec := json.NewDecoder(bytes.NewReader(object))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return errors.New("an object was expected")
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return err
		}
		offset := int(dec.InputOffset())
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return err
		}
		name, ok := key.(string)
		if !ok || len(value) == 0 {
			return errors.New("a name was expected")
		}
		take(name, value, offset)
	}
	_, err := dec.Token()
	return err
}
