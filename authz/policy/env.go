// Package policy judges requests by rules that an operator writes: expressions of CEL (the Common Expression Language,
// https://cel.dev) over gateway.Facts. Rules are read, type-checked and their cost bounded when a configuration is loaded, so
// that what can be wrong with them is said with file, line and column before any device asks; they are then safe for concurrent use.
//
// It is a leaf: it reads Facts and says what the rules say. The stage `policy` (authz) makes a verdict of it, and `muster
// policy test` a table. It knows no HTTP, no store and no grant.
package policy

import (
	"fmt"
	"reflect"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/ext"

	"github.com/muster-pki/muster/gateway"
)

// Bounds of an expression.
const (
	MaxExpression = 4 << 10 // bytes
	maxNodes      = 2000    // of its syntax tree
	maxNesting    = 50      // of its parts
	maxRegex      = 1000    // instructions of a compiled pattern
	// MaxCost is what evaluating one expression may cost, in CEL's units: about one per field that is read, element that is
	// visited, and ten bytes that are compared. The most that an expression could cost is estimated at load, from the bounds
	// of what it reads; what it does cost is counted when it runs.
	MaxCost = 5_000_000
)

// variables are what an expression can read, by the JSON names of gateway.Facts.
var variables = factsFields(reflect.TypeFor[gateway.Facts]())

// factsTypes are the structs of gateway.Facts, each once.
func factsTypes() []any {
	var all []any
	seen := map[reflect.Type]bool{}
	var walk func(t reflect.Type)
	walk = func(t reflect.Type) {
		switch {
		case t.Kind() == reflect.Slice || t.Kind() == reflect.Map || t.Kind() == reflect.Pointer:
			walk(t.Elem())
		case t.Kind() == reflect.Struct && t != typeTime && !seen[t]:
			seen[t] = true
			all = append(all, t)
			for _, f := range factsFields(t) {
				walk(f.Type)
			}
		}
	}
	walk(reflect.TypeFor[gateway.Facts]())
	return all
}

// celType is the type of a Go type in expressions.
func celType(t reflect.Type) *types.Type {
	switch {
	case t == typeTime:
		return types.TimestampType
	case t.Kind() == reflect.Bool:
		return types.BoolType
	case t.Kind() == reflect.Int:
		return types.IntType
	case t.Kind() == reflect.String:
		return types.StringType
	case t.Kind() == reflect.Slice:
		return types.NewListType(celType(t.Elem()))
	case t.Kind() == reflect.Map:
		return types.NewMapType(types.StringType, celType(t.Elem()))
	case t.Kind() == reflect.Struct:
		return types.NewObjectType(structName(t))
	}
	panic(fmt.Sprintf("policy: Facts have a field of %v, which expressions cannot read", t))
}

// structName is the name of a struct of Facts in expressions.
func structName(t reflect.Type) string { return "gateway." + t.Name() }

// environment is what expressions are compiled in.
var environment = sync.OnceValue(func() *cel.Env {
	options := []cel.EnvOption{
		ext.NativeTypes(append(factsTypes(), ext.ParseStructTag("json"))...),
		cel.OptionalTypes(),
		ext.Strings(), ext.Sets(), ext.Lists(), ext.Regex(), ext.TwoVarComprehensions(), ext.Bindings(), ext.Network(),
		cel.EnableMacroCallTracking(),
		cel.ParserRecursionLimit(maxNesting), cel.ExpressionNodeLimit(maxNodes), cel.RegexProgramSizeLimit(maxRegex),
		cel.ASTValidators(cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateRegexLiterals(), cel.ValidateHomogeneousAggregateLiterals()),
	}
	for _, v := range variables {
		options = append(options, cel.Variable(v.Name, celType(v.Type)))
	}
	env, err := cel.NewEnv(options...)
	if err != nil {
		panic(fmt.Sprintf("policy: %v", err)) // nothing that is configured has a part in it
	}
	return env
})
