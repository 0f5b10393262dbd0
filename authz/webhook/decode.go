package webhook

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds how deep an answer nests.
const maxDepth = 8

// Errors of decode. None quotes the answer, which may hold what was asked.
var (
	errForm    = errors.New("its answer is not one JSON object (RFC 8259) of the documented shape")
	errUnknown = errors.New("its answer has a name that is not documented: names are spelled as they stand there, case and all")
	errTwice   = errors.New("its answer has a name twice in an object")
	errDepth   = errors.New("its answer nests too deep")
	errText    = errors.New("its answer has text that is not UTF-8, an escape that is no character, or U+FFFD, which stands for such")
)

// decode reads one JSON object into a struct. encoding/json takes names in any case and twice, of which the last counts, and mends text
// that is not UTF-8: what two readers can read in two ways is refused here.
func decode(data []byte, into any) error {
	if !utf8.Valid(data) {
		return errText
	}
	known := map[string]bool{}
	for t, i := reflect.TypeOf(into).Elem(), 0; i < t.NumField(); i++ {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		known[name] = true
	}
	if err := walk(json.NewDecoder(bytes.NewReader(data)), known); err != nil {
		return err
	}
	if json.Unmarshal(data, into) != nil {
		return errForm
	}
	return nil
}

// walk looks at the names of all objects, and that nothing comes behind the first value.
func walk(d *json.Decoder, known map[string]bool) error {
	var open []map[string]bool // the names of each open object so far; nil for an array
	wantName := false
	for n := 0; ; n++ {
		t, err := d.Token()
		if err != nil {
			return errForm
		}
		delim, _ := t.(json.Delim)
		if n == 0 && delim != '{' {
			return errForm
		}
		text, ok := t.(string)
		if strings.ContainsRune(text, utf8.RuneError) { // also what half of a surrogate pair becomes (RFC 8259 section 8.2)
			return errText
		}
		if name := text; ok && wantName {
			names := open[len(open)-1]
			switch {
			case len(open) == 1 && !known[name]:
				return errUnknown
			case names[name]:
				return errTwice
			}
			names[name], wantName = true, false
			continue
		}
		switch delim {
		case '{':
			open = append(open, map[string]bool{})
		case '[':
			open = append(open, nil)
		case '}', ']':
			open = open[:len(open)-1]
		}
		if len(open) > maxDepth {
			return errDepth
		}
		if len(open) == 0 {
			break
		}
		wantName = open[len(open)-1] != nil
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errForm
	}
	return nil
}
