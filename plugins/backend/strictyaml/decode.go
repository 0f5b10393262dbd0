package strictyaml

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

var (
	typeNode        = reflect.TypeFor[yaml.Node]()
	typeDuration    = reflect.TypeFor[Duration]()
	typeStdDuration = reflect.TypeFor[time.Duration]()
)

type decoder struct {
	file string
	errs []*Error
}

func (d *decoder) fail(n *yaml.Node, path, format string, args ...any) {
	e := Errorf(d.file, n, format, args...)
	e.Path, e.form = path, predicate
	d.errs = append(d.errs, e)
}

func (d *decoder) root(n *yaml.Node, into any, path string) {
	v := reflect.ValueOf(into)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		d.fail(n, path, "cannot be read into a %T: the caller must give a pointer", into)
		return
	}
	if n == nil || n.Kind == 0 {
		n = &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"}
	}
	if n.Kind == yaml.DocumentNode && len(n.Content) == 1 {
		n = n.Content[0]
	}
	d.value(n, v.Elem(), path)
}

// value decodes n into v, which is addressable.
func (d *decoder) value(n *yaml.Node, v reflect.Value, path string) {
	if v.Type() == typeNode {
		v.Set(reflect.ValueOf(*n))
		return
	}
	if v.Type() == reflect.PointerTo(typeNode) {
		v.Set(reflect.ValueOf(n))
		return
	}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" && n.Value != "" {
		d.fail(n, path, "is %s: leave the key out instead", n.Value)
		return
	}
	if v.Kind() == reflect.Pointer {
		// A key without a value reads as an empty map: `tls:` means TLS as it is by default, not no TLS.
		v.Set(reflect.New(v.Type().Elem()))
		d.value(n, v.Elem(), path)
		return
	}
	if u, ok := v.Addr().Interface().(Unmarshaler); ok {
		d.foreign(n, path, u.UnmarshalStrict(d.file, n))
		return
	}
	if v.Type() == typeDuration || v.Type() == typeStdDuration {
		d.duration(n, v, path)
		return
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		if s, ok := d.text(n, path); ok {
			d.foreign(n, path, u.UnmarshalText([]byte(s)))
		}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.structure(n, v, path)
	case reflect.Map:
		d.mapping(n, v, path)
	case reflect.Slice:
		d.list(n, v, path)
	case reflect.String:
		if s, ok := d.text(n, path); ok {
			v.SetString(s)
		}
	case reflect.Bool:
		if d.scalar(n, path, "true or false", "!!bool") {
			// YAML 1.2's core schema: anything else, yes and on included, is text.
			v.SetBool(strings.EqualFold(n.Value, "true"))
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if d.scalar(n, path, "a whole number", "!!int") {
			i, err := strconv.ParseInt(n.Value, 0, v.Type().Bits())
			d.number(n, path, err)
			v.SetInt(i)
		}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if d.scalar(n, path, "a whole number, not negative", "!!int") {
			u, err := strconv.ParseUint(n.Value, 0, v.Type().Bits())
			d.number(n, path, err)
			v.SetUint(u)
		}
	case reflect.Float32, reflect.Float64:
		if d.scalar(n, path, "a number", "!!int", "!!float") {
			f, err := strconv.ParseFloat(n.Value, v.Type().Bits())
			d.number(n, path, err)
			v.SetFloat(f)
		}
	default:
		d.fail(n, path, "cannot be read into a Go %s", v.Type())
	}
}

// foreign takes over the error of a type that decodes itself: it knows its path from its own top only, and one
// without a place is given n's.
func (d *decoder) foreign(n *yaml.Node, path string, err error) {
	if err == nil {
		return
	}
	placed := placedErrors(err)
	if len(placed) == 0 {
		d.fail(n, path, "is wrong: %v", err)
		return
	}
	d.errs = append(d.errs, under(path, placed)...)
}

func under(path string, errs []*Error) []*Error {
	moved := make([]*Error, len(errs))
	for i, e := range errs {
		at := *e
		at.Path = below(path, e.Path)
		moved[i] = &at
	}
	return moved
}

// Under says that the paths in err, an error of DecodeNode or Errorf or several joined, start at path. Any other
// error, which names no place, becomes one of n.
func Under(file, path string, n *yaml.Node, err error) error {
	if err == nil {
		return nil
	}
	if placed := placedErrors(err); placed != nil {
		return join(under(path, placed))
	}
	e := Errorf(file, n, "%v", err)
	e.Path = path
	return e
}

// placedErrors returns the *Errors that err joins; none when any part of it is something else.
func placedErrors(err error) []*Error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []*Error
		for _, e := range joined.Unwrap() {
			placed := placedErrors(e)
			if placed == nil {
				return nil
			}
			all = append(all, placed...)
		}
		return all
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return []*Error{e}
	}
	return nil
}

func (d *decoder) number(n *yaml.Node, path string, err error) {
	switch {
	case errors.Is(err, strconv.ErrRange):
		d.fail(n, path, "is out of range")
	case err != nil:
		d.fail(n, path, "is not a number as this file writes them")
	}
}

// scalar reports whether n is a scalar with one of the tags, and fails otherwise.
func (d *decoder) scalar(n *yaml.Node, path, wants string, tags ...string) bool {
	if n.Kind == yaml.ScalarNode && slices.Contains(tags, n.ShortTag()) {
		return true
	}
	d.fail(n, path, "wants %s, not %s", wants, kindOf(n))
	return false
}

func (d *decoder) text(n *yaml.Node, path string) (string, bool) {
	switch {
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str":
		return n.Value, true
	case n.Kind == yaml.ScalarNode && n.ShortTag() != "!!null":
		d.fail(n, path, "wants text, not %s: put it in quotes", kindOf(n))
	default:
		d.fail(n, path, "wants text, not %s", kindOf(n))
	}
	return "", false
}

func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a map"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!bool":
		return "true or false"
	case "!!int", "!!float":
		return "a number"
	case "!!timestamp":
		return "a date"
	}
	return "text"
}

// empty reports whether n is a key's missing value, which reads as an empty map or list.
func empty(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

type field struct {
	name     string
	index    []int
	required bool
}

// fieldsOf lists the keys of a struct type, in the order of its fields.
func fieldsOf(t reflect.Type, index []int) []field {
	var all []field
	for f := range t.Fields() {
		at := append(slices.Clone(index), f.Index...)
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		inline := slices.Contains(strings.Split(options, ","), "inline")
		switch {
		case name == "-" || !f.IsExported() && !inline:
		case inline && f.Type.Kind() == reflect.Struct:
			all = append(all, fieldsOf(f.Type, at)...)
		default:
			if name == "" {
				name = strings.ToLower(f.Name)
			}
			all = append(all, field{name, at, slices.Contains(strings.Split(options, ","), "required")})
		}
	}
	return all
}

func (d *decoder) structure(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode && !empty(n) {
		d.fail(n, path, "wants a map, not %s", kindOf(n))
		return
	}
	fields := fieldsOf(v.Type(), nil)
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	found := make(map[string]bool, len(fields))
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		at := slices.Index(names, key.Value)
		if at < 0 {
			e := Errorf(d.file, key, "unknown key %q", key.Value)
			e.Path, e.form, e.suffix = path, unknownKey, Suggest(key.Value, names)
			d.errs = append(d.errs, e)
			continue
		}
		found[key.Value] = true
		d.value(n.Content[i+1], v.FieldByIndex(fields[at].index), below(path, key.Value))
	}
	for _, f := range fields {
		if f.required && !found[f.name] {
			if path == "" {
				d.fail(n, "", "key %q is missing", f.name)
			} else {
				d.fail(n, path, "lacks %q", f.name)
			}
		}
	}
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, path string) {
	if v.Type().Key().Kind() != reflect.String {
		d.fail(n, path, "cannot be read into a Go %s", v.Type())
		return
	}
	if n.Kind != yaml.MappingNode && !empty(n) {
		d.fail(n, path, "wants a map, not %s", kindOf(n))
		return
	}
	m := reflect.MakeMapWithSize(v.Type(), len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		e := reflect.New(v.Type().Elem()).Elem()
		d.value(n.Content[i+1], e, below(path, key.Value))
		m.SetMapIndex(reflect.ValueOf(key.Value).Convert(v.Type().Key()), e)
	}
	v.Set(m)
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.SequenceNode && !empty(n) {
		d.fail(n, path, "wants a list, not %s", kindOf(n))
		return
	}
	s := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, c := range n.Content {
		d.value(c, s.Index(i), fmt.Sprintf("%s[%d]", path, i))
	}
	v.Set(s)
}

func below(path, key string) string {
	switch {
	case path == "":
		return key
	case key == "" || key[0] == '[':
		return path + key
	}
	return path + "." + key
}
