package policy

import (
	"reflect"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"
)

// sizes says how large the parts of Facts can be at most, which withinBounds sees to.
type sizes struct{}

// EstimateSize is what cost.Estimator wants: a string's bytes, a list's or map's elements. nil leaves it to CEL, which knows
// what is computed.
func (sizes) EstimateSize(node cost.AstNode) *cost.SizeEstimate {
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
	var s cost.SizeEstimate
	switch node.Type().Kind() {
	case types.StringKind:
		s = cost.RangedSizeEstimate(0, uint64(lengthOf(field)))
	case types.ListKind, types.MapKind:
		s = cost.RangedSizeEstimate(0, boundItems)
	case types.StructKind: // compared as a whole
		t := structNamed(node.Type().TypeName())
		if t == nil {
			return nil
		}
		s = cost.RangedSizeEstimate(0, largest(t, ""))
	default:
		return nil
	}
	return &s
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
		return boundItems * largest(t.Elem(), field)
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

// EstimateCallCost leaves calls to CEL.
func (sizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

// costOf is the most that an expression can cost.
func costOf(checked *cel.Ast) (uint64, error) {
	estimate, err := environment().EstimateCost(checked, sizes{})
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
