package policy

import (
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/muster-pki/muster/gateway"
)

var typeTime = reflect.TypeFor[time.Time]()

// factsField is a field of a struct of gateway.Facts, by the name that it has in JSON and in expressions.
type factsField struct {
	Name  string
	Type  reflect.Type
	index int
	sized bool // its size is the requester's to choose, or a service's
}

var fieldCache sync.Map // of []factsField by type

// factsFields are the fields of a struct of gateway.Facts.
func factsFields(t reflect.Type) []factsField {
	if all, ok := fieldCache.Load(t); ok {
		return all.([]factsField)
	}
	var all []factsField
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || name == "-" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		sized := f.Type != typeTime && (f.Type.Kind() == reflect.String || f.Type.Kind() == reflect.Slice || f.Type.Kind() == reflect.Map || f.Type.Kind() == reflect.Struct)
		all = append(all, factsField{name, f.Type, i, sized})
	}
	fieldCache.Store(t, all)
	return all
}

func fieldNamed(t reflect.Type, name string) (factsField, bool) {
	for _, f := range factsFields(t) {
		if f.Name == name {
			return f, true
		}
	}
	return factsField{}, false
}

// The most that the strings, lists and maps of Facts have for rules to look at them: the cost of an expression is estimated
// from these. What is larger is not judged.
const (
	boundItems       = 128      // of lists and maps: pkix takes so many names of a subjectAltName, and an entry has fewer of anything
	boundCredentials = 16       // that a request brings
	boundLength      = 1 << 10  // bytes of strings
	boundHost        = 255      // bytes of a DNS name (RFC 1035 section 2.3.4), or an IP address
	boundDN          = 16 << 10 // bytes of a whole distinguished name
)

// itemsOf is the most elements of a list or map in a field of the name.
func itemsOf(field string) int {
	if field == "credentials" {
		return boundCredentials
	}
	return boundItems
}

// lengthOf is the most bytes of a string in a field of the name.
func lengthOf(field string) int {
	switch field {
	case "dn", "issuer": // issuer: a target's, written out
		return boundDN
	case "dns", "ip":
		return boundHost
	}
	return boundLength
}

// excess is what is larger than rules look at.
type excess struct {
	path    []string // the innermost first
	n, most int
	unit    string
}

func (e *excess) in(field string) *excess {
	e.path = append(e.path, field)
	return e
}

// withinBounds refuses facts that are larger than rules look at.
func withinBounds(f *gateway.Facts) error {
	e := exceeds(reflect.ValueOf(f).Elem(), "")
	if e == nil {
		return nil
	}
	path := ""
	for _, field := range e.path {
		path = field + "." + path
	}
	return fmt.Errorf("%s has %d %s, and rules look at %d at most", strings.TrimSuffix(path, "."), e.n, e.unit, e.most)
}

func exceeds(v reflect.Value, field string) *excess {
	switch v.Kind() {
	case reflect.String:
		if most := lengthOf(field); v.Len() > most {
			return &excess{n: v.Len(), most: most, unit: "bytes"}
		}
	case reflect.Slice:
		if most := itemsOf(field); v.Len() > most {
			return &excess{n: v.Len(), most: most, unit: "elements"}
		}
		for i := range v.Len() {
			if e := exceeds(v.Index(i), field); e != nil {
				return e
			}
		}
	case reflect.Map:
		if v.Len() > boundItems {
			return &excess{n: v.Len(), most: boundItems, unit: "elements"}
		}
		for it := v.MapRange(); it.Next(); {
			if e := exceeds(it.Key(), ""); e != nil {
				return e
			}
			if e := exceeds(it.Value(), ""); e != nil {
				return e
			}
		}
	case reflect.Struct:
		for _, f := range factsFields(v.Type()) {
			if !f.sized {
				continue
			}
			if e := exceeds(v.Field(f.index), f.Name); e != nil {
				return e.in(f.Name)
			}
		}
	}
	return nil
}
