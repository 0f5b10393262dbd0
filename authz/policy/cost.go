package policy

import (
	"reflect"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
)

// sizes says how large the parts of Facts can be at most, which withinBounds sees to.
type sizes struct{ checked *ast.AST }

// EstimateSize is what cost.Estimator wants: a string's bytes, a list's or map's elements, with what these are. nil leaves it
// to CEL, which knows what is computed.
func (s sizes) EstimateSize(node cost.AstNode) *cost.SizeEstimate {
	if e := node.Expr(); e != nil && e.Kind() == ast.SelectKind { // wherever the struct comes from: a filter's list has no path
		if t := structNamed(s.checked.GetType(e.AsSelect().Operand().ID()).TypeName()); t != nil {
			if f, ok := fieldNamed(t, e.AsSelect().FieldName()); ok {
				return sizeOf(f.Type, f.Name)
			}
		}
	}
	path := node.Path()
	if len(path) == 0 || node.Type() == nil {
		return nil
	}
	field := path[len(path)-1]
	switch field {
	case "@items": // of the list that has the name
		field = ""
		if len(path) > 1 {
			field = path[len(path)-2]
		}
	case "@keys", "@values":
		field = ""
	}
	var size cost.SizeEstimate
	switch node.Type().Kind() {
	case types.StringKind:
		size = cost.RangedSizeEstimate(0, uint64(lengthOf(field)))
	case types.ListKind, types.MapKind:
		size = cost.RangedSizeEstimate(0, uint64(itemsOf(field)))
	case types.StructKind: // compared as a whole
		t := structNamed(node.Type().TypeName())
		if t == nil {
			return nil
		}
		size = cost.RangedSizeEstimate(0, largest(t, ""))
	default:
		return nil
	}
	return &size
}

// sizeOf is the size of a field of Facts, nil where all have the same.
func sizeOf(t reflect.Type, field string) *cost.SizeEstimate {
	size := cost.RangedSizeEstimate(0, 0)
	switch t.Kind() {
	case reflect.String:
		size.Max = uint64(lengthOf(field))
	case reflect.Slice:
		size.Max, size.Elem = uint64(itemsOf(field)), sizeOf(t.Elem(), field)
	case reflect.Map:
		size.Max, size.Key, size.Elem = uint64(itemsOf(field)), sizeOf(t.Key(), ""), sizeOf(t.Elem(), "")
	case reflect.Struct:
		if t == typeTime {
			return nil
		}
		size.Max = largest(t, "")
	default:
		return nil
	}
	return &size
}

func structNamed(name string) reflect.Type {
	for _, t := range factsTypes() {
		if t := t.(reflect.Type); structName(t) == name {
			return t
		}
	}
	return nil
}

// largest is the most bytes that a value of Facts has.
func largest(t reflect.Type, field string) uint64 {
	switch t.Kind() {
	case reflect.String:
		return uint64(lengthOf(field))
	case reflect.Slice:
		return uint64(itemsOf(field)) * largest(t.Elem(), field)
	case reflect.Map:
		return boundItems * (boundLength + largest(t.Elem(), ""))
	case reflect.Struct:
		if t == typeTime {
			return 1
		}
		var sum uint64
		for _, f := range factsFields(t) {
			sum += largest(f.Type, f.Name)
		}
		return sum
	}
	return 1
}

// EstimateCallCost leaves calls to CEL, but for the comparison of lists of lists: CEL counts the outer ones only.
func (s sizes) EstimateCallCost(_, overload string, _ *cost.AstNode, args []cost.AstNode) *cost.CallEstimate {
	switch overload {
	case overloads.Equals, overloads.NotEquals, overloads.InList:
	default:
		return nil
	}
	var most uint64
	for _, arg := range args {
		if nesting(arg.Type()) > 1 {
			most = max(most, elements(arg.Type(), arg.ComputedSize()))
		}
	}
	if most == 0 {
		return nil
	}
	return &cost.CallEstimate{CostEstimate: cost.RangedCostEstimate(1, most)}
}

// elements is how many elements lists and maps have at most, with those of the inner ones, each counted as a text.
func elements(t *types.Type, size *cost.SizeEstimate) uint64 {
	if nesting(t) == 0 {
		if size == nil {
			return boundLength / 10
		}
		return 1 + size.Max/10
	}
	if size == nil { // of Facts: what is computed has one
		return cost.SafeMultiply(boundItems, elements(t.Parameters()[len(t.Parameters())-1], nil))
	}
	return cost.SafeMultiply(size.Max, elements(t.Parameters()[len(t.Parameters())-1], size.Elem))
}

// nesting is how many lists and maps are within each other.
func nesting(t *types.Type) int {
	deepest := 0
	for _, p := range t.Parameters() {
		deepest = max(deepest, nesting(p))
	}
	if t.Kind() == types.ListKind || t.Kind() == types.MapKind {
		deepest++
	}
	return deepest
}

// costOf is the most that an expression can cost.
func costOf(checked *cel.Ast) (uint64, error) {
	estimate, err := environment().EstimateCost(checked, sizes{checked.NativeRep()})
	return estimate.Max, err
}

// costliest is the part of an expression that makes it cost so much: the outermost comprehension, else the call with the most
// arguments to look at, else the whole.
func costliest(e ast.Expr) ast.Expr {
	var call ast.Expr
	var find func(e ast.Expr) ast.Expr
	find = func(e ast.Expr) ast.Expr {
		if e.Kind() == ast.ComprehensionKind {
			return e
		}
		for _, child := range children(e) {
			if found := find(child); found != nil {
				return found
			}
		}
		if e.Kind() == ast.CallKind && e.AsCall().IsMemberFunction() && call == nil {
			call = e
		}
		return nil
	}
	if found := find(e); found != nil {
		return found
	}
	if call != nil {
		return call
	}
	return e
}

// children are the parts of an expression, as they are evaluated.
func children(e ast.Expr) []ast.Expr {
	var all []ast.Expr
	switch e.Kind() {
	case ast.CallKind:
		if call := e.AsCall(); call.IsMemberFunction() {
			all = append(all, call.Target())
		}
		all = append(all, e.AsCall().Args()...)
	case ast.ComprehensionKind:
		c := e.AsComprehension()
		all = append(all, c.IterRange(), c.AccuInit(), c.LoopCondition(), c.LoopStep(), c.Result())
	case ast.ListKind:
		all = append(all, e.AsList().Elements()...)
	case ast.MapKind:
		for _, entry := range e.AsMap().Entries() {
			all = append(all, entry.AsMapEntry().Key(), entry.AsMapEntry().Value())
		}
	case ast.SelectKind:
		all = append(all, e.AsSelect().Operand())
	case ast.StructKind:
		for _, field := range e.AsStruct().Fields() {
			all = append(all, field.AsStructField().Value())
		}
	}
	return all
}
