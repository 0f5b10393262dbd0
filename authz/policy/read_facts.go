package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// MaxFacts is how many bytes of JSON ReadFacts takes.
const MaxFacts = 1 << 20

// ReadFacts reads gateway.Facts from JSON, strictly: a name that Facts do not have is an error, with the nearest one. It takes
// Facts as such, and a transaction of the admin API (`muster explain ID --json`) that has them.
func ReadFacts(data []byte) (*gateway.Facts, error) {
	if len(data) > MaxFacts {
		return nil, fmt.Errorf("larger than %d bytes", MaxFacts)
	}
	var top map[string]json.RawMessage
	if err := decodeOne(data, &top); err != nil {
		return nil, jsonFault(data, err)
	}
	_, bare := top["request"]
	switch facts, ok := top["facts"]; {
	case ok && !bare:
		data = facts
	case !bare && top["state"] != nil:
		return nil, errors.New("the transaction has no facts: the gateway keeps none of a request that was refused before a stage saw it, or that had too many")
	}
	var raw any
	if err := decodeOne(data, &raw); err != nil {
		return nil, jsonFault(data, err)
	}
	if err := known(raw, reflect.TypeFor[gateway.Facts](), ""); err != nil {
		return nil, err
	}
	if m, ok := raw.(map[string]any); !ok || m["request"] == nil {
		return nil, errors.New("has no request: want what `muster explain ID --json` prints, or its facts alone")
	}
	f := &gateway.Facts{}
	if err := decodeOne(data, f); err != nil {
		return nil, jsonFault(data, err)
	}
	return f, nil
}

func decodeOne(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something stands behind the JSON value")
	}
	return nil
}

// jsonFault says where JSON is wrong.
func jsonFault(data []byte, err error) error {
	if len(bytes.TrimSpace(data)) == 0 {
		return errors.New("is empty")
	}
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("line %d: not JSON: %w", 1+bytes.Count(data[:min(int(e.Offset), len(data))], []byte("\n")), err)
	}
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && e.Field == "" {
		return fmt.Errorf("is %s, and not one request, as `muster explain ID --json` prints it", e.Value)
	} else if ok {
		return fmt.Errorf("%s wants %s, not %s", e.Field, wanted(e.Type), e.Value)
	}
	return err
}

func wanted(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	case reflect.Slice:
		return "a list"
	}
	return "an object"
}

// known refuses names that Facts do not have.
func known(v any, t reflect.Type, path string) error {
	switch v := v.(type) {
	case map[string]any:
		if t.Kind() == reflect.Map {
			for name, value := range v {
				if err := known(value, t.Elem(), path+"."+name); err != nil {
					return err
				}
			}
			return nil
		}
		if t.Kind() != reflect.Struct || t == typeTime {
			return nil // said when it is decoded
		}
		var names []string
		for _, f := range factsFields(t) {
			names = append(names, f.Name)
		}
		given := make([]string, 0, len(v))
		for name := range v {
			given = append(given, name)
		}
		slices.Sort(given)
		for _, name := range given {
			f, ok := fieldNamed(t, name)
			at := strings.TrimPrefix(path+"."+name, ".")
			if !ok {
				return fmt.Errorf("%s: no such field%s", at, meant(name, names))
			}
			if err := known(v[name], f.Type, at); err != nil {
				return err
			}
		}
	case string:
		if t == typeTime {
			if _, err := time.Parse(time.RFC3339, v); err != nil {
				return fmt.Errorf("%s wants a time, as in \"2027-01-31T12:00:00Z\", not %q", path, v)
			}
		}
	case []any:
		if t.Kind() != reflect.Slice {
			return nil
		}
		for i, item := range v {
			if err := known(item, t.Elem(), fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return err
			}
		}
	}
	return nil
}
