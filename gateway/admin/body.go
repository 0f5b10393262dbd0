package admin

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/labstack/echo/v4"
)

const maxBody = 16 << 10 // bytes, of a body and of an entry of an import

// decode reads the body, one JSON object. Unknown fields and whatever follows are refused. into is a pointer to a struct.
func decode(c echo.Context, into any) error {
	if err := contentType(c, "application/json"); err != nil {
		return err
	}
	data, err := io.ReadAll(http.MaxBytesReader(c.Response(), c.Request().Body, maxBody))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return &refusal{status: http.StatusRequestEntityTooLarge, message: fmt.Sprintf("the body is larger than %d bytes", maxBody)}
	} else if err != nil {
		return badRequest("the body ended early")
	}
	if err := strictJSON(data, into); err != nil {
		return badRequest("the body: %v", err)
	}
	return nil
}

// contentType refuses another one than is wanted: what a page in a browser can send without asking is none of them.
func contentType(c echo.Context, want string) error {
	got, _, err := mime.ParseMediaType(c.Request().Header.Get("Content-Type"))
	if err != nil || got != want {
		return &refusal{status: http.StatusUnsupportedMediaType, message: "the body's Content-Type has to be " + want}
	}
	return nil
}

// strictJSON decodes one object. Its errors hold names of fields and nothing else of the data, which may be secret.
func strictJSON(data []byte, into any) error {
	if !utf8.Valid(data) {
		return errors.New("not UTF-8")
	}
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return jsonFault(err)
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("more than one JSON object")
	}
	if name, twice := twiceNamed(data); twice {
		return fmt.Errorf("field %q stands twice", name[:min(len(name), 100)])
	}
	return nil
}

// twiceNamed finds a field that stands twice in one object: encoding/json merges the second into the first, so that another
// reader of the same text may see something else. Names of structs' fields count as equal in any case, as encoding/json takes
// them; those in an object within an object are a map's. data is valid JSON.
func twiceNamed(data []byte) (name string, twice bool) {
	type level struct {
		object, folded bool
		key            bool // a string here is a name
		names          []string
	}
	var at []level
	for i := 0; i < len(data); i++ {
		top := len(at) - 1
		switch data[i] {
		case '{':
			at = append(at, level{object: true, key: true, folded: top < 0 || !at[top].object})
		case '[':
			at = append(at, level{})
		case '}', ']':
			at = at[:top]
		case ',':
			at[top].key = at[top].object
		case '"':
			from := i
			for i++; data[i] != '"'; i++ {
				if data[i] == '\\' {
					i++
				}
			}
			if top < 0 || !at[top].key {
				continue
			}
			at[top].key = false
			name := string(data[from+1 : i])
			if strings.Contains(name, `\`) {
				_ = json.Unmarshal(data[from:i+1], &name) // it was decoded before
			}
			for _, other := range at[top].names {
				if other == name || at[top].folded && strings.EqualFold(other, name) {
					return name, true
				}
			}
			at[top].names = append(at[top].names, name)
		}
	}
	return "", false
}

func jsonFault(err error) error {
	const unknown = "json: unknown field "
	if name, ok := strings.CutPrefix(err.Error(), unknown); ok {
		return fmt.Errorf("unknown field %s", name[:min(len(name), 100)])
	}
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if e.Field == "" {
			return errors.New("not a JSON object")
		}
		return fmt.Errorf("field %q is of another type", e.Field)
	}
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("no JSON at byte %d", e.Offset)
	}
	if _, ok := errors.AsType[base64.CorruptInputError](err); ok {
		return errors.New("what is binary is written in base64")
	}
	if _, ok := errors.AsType[*time.ParseError](err); ok {
		return errors.New("a time is written as 2026-01-31T15:04:05Z")
	}
	if errors.Is(err, errEnrollments) {
		return errEnrollments
	}
	return errors.New("not a JSON object")
}

// param is a part of the path, as it was before it was escaped.
func param(c echo.Context, name string) string {
	given := c.Param(name)
	if c.Request().URL.RawPath != "" { // then the router took the path as it came
		if plain, err := url.PathUnescape(given); err == nil {
			return plain
		}
	}
	return given
}

// flagOf reads a parameter that is "true" or "false"; nil for an absent one.
func flagOf(name, value string) (*bool, error) {
	switch value {
	case "":
		return nil, nil
	case "true", "false":
		yes := value == "true"
		return &yes, nil
	}
	return nil, badRequest(`%s is "true" or "false"`, name)
}

// known reads the query's parameters and refuses those that the call does not know, so that a misspelt filter does
// not list everything.
func known(c echo.Context, names ...string) (map[string]string, error) {
	got := make(map[string]string)
	for name, values := range c.QueryParams() {
		if !slices.Contains(names, name) {
			return nil, badRequest("unknown parameter %q (known: %s)", name, strings.Join(names, ", "))
		}
		if len(values) != 1 {
			return nil, badRequest("parameter %q stands %d times", name, len(values))
		}
		got[name] = values[0]
	}
	return got, nil
}

const maxNote = 1024 // bytes

// line checks what an operator wrote: one line that can be printed, "" for none.
func line(what, s string) error {
	switch {
	case len(s) > maxNote:
		return badRequest("%s has at most %d bytes", what, maxNote)
	case strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		return badRequest("%s has characters that cannot be printed", what)
	}
	return nil
}
