package policy

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"

	"github.com/muster-pki/muster/gateway"
)

// read is a field that an expression looks at.
type read struct {
	path  string   // as people write it
	steps []string // names of fields and keys, the variable first
}

// readsOf are the fields that an expression looks at, each once, in the order in which they stand there. A key or position
// that is computed is not one: what it is taken from stands there whole.
func readsOf(a *ast.AST) []*read {
	var all []*read
	seen := map[string]bool{}
	var walk func(e ast.Expr)
	walk = func(e ast.Expr) {
		if r := chain(e); r != nil {
			if !seen[r.path] {
				seen[r.path] = true
				all = append(all, r)
			}
			return
		}
		for _, child := range children(e) {
			walk(child)
		}
	}
	walk(a.Expr())
	return all
}

// chain is the field that a chain of selections is, nil where it is none of Facts.
func chain(e ast.Expr) *read {
	switch e.Kind() {
	case ast.IdentKind:
		for _, v := range variables {
			if v.Name == e.AsIdent() {
				return &read{path: v.Name, steps: []string{v.Name}}
			}
		}
	case ast.SelectKind:
		return chain(e.AsSelect().Operand()).step(e.AsSelect().FieldName(), "."+e.AsSelect().FieldName())
	case ast.CallKind:
		call := e.AsCall()
		switch call.FunctionName() {
		case operators.Index, operators.OptIndex, operators.OptSelect:
			r := chain(call.Args()[0])
			if r == nil || call.Args()[1].Kind() != ast.LiteralKind {
				return nil
			}
			switch key := call.Args()[1].AsLiteral().Value().(type) {
			case string:
				if call.FunctionName() == operators.OptSelect {
					return r.step(key, "."+key)
				}
				return r.step(key, fmt.Sprintf("[%q]", key))
			case int64:
				return r.step(fmt.Sprint(key), fmt.Sprintf("[%d]", key))
			}
		}
	}
	return nil
}

func (r *read) step(name, shown string) *read {
	if r == nil {
		return nil
	}
	return &read{path: r.path + shown, steps: append(r.steps, name)}
}

// Seen is a value that an expression looked at.
type Seen struct {
	Path  string `json:"path"`            // "request.key.bits"
	Value any    `json:"value,omitempty"` // nil where there is none
}

// String is "request.key.bits = 2048".
func (s Seen) String() string { return s.Path + " = " + shown(s.Value) }

// maxSeen bounds a value where it is shown, in bytes.
const maxSeen = 160

func shown(v any) string {
	if v == nil {
		return "(none)"
	}
	if t, ok := v.(time.Time); ok {
		return t.Format(time.RFC3339)
	}
	var text strings.Builder
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return "(not shown)"
	}
	s := strings.TrimSuffix(text.String(), "\n")
	if len(s) > maxSeen {
		s = strings.ToValidUTF8(s[:maxSeen], "") + "..."
	}
	return s
}

// seen are the values that the expression looks at.
func (x *expression) seen(f *gateway.Facts) []Seen {
	all := make([]Seen, 0, len(x.reads))
	for _, r := range x.reads {
		all = append(all, Seen{Path: r.path, Value: valueAt(reflect.ValueOf(f).Elem(), r.steps)})
	}
	return all
}

// valueAt is what stands at a path, nil where nothing does.
func valueAt(v reflect.Value, steps []string) any {
	for _, step := range steps {
		switch {
		case v.Kind() == reflect.Struct && v.Type() != typeTime:
			f, ok := fieldNamed(v.Type(), step)
			if !ok {
				return nil
			}
			v = v.Field(f.index)
		case v.Kind() == reflect.Map:
			if v = v.MapIndex(reflect.ValueOf(step)); !v.IsValid() {
				return nil
			}
		case v.Kind() == reflect.Slice:
			n := 0
			if _, err := fmt.Sscan(step, &n); err != nil || n < 0 || n >= v.Len() {
				return nil
			}
			v = v.Index(n)
		default:
			return nil
		}
	}
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		if v.Len() == 0 {
			return nil
		}
	case reflect.Struct:
		if v.IsZero() {
			return nil
		}
	}
	return v.Interface()
}
