package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/interpreter"

	"github.com/muster-pki/muster/gateway"
)

// expression is one that has been compiled, and is safe for concurrent use.
type expression struct {
	program cel.Program
	limit   uint64 // of its cost
	root    *ast.AST
	reads   []*read // what it looks at, in the order in which that stands there
}

// fault is what is wrong in an expression. Line counts from 1, column from 1 in characters, both within its text; 0 for the whole.
type fault struct {
	line, column int
	message      string
}

// compile checks an expression that has to say yes or no.
func compile(text string) (*expression, []fault) { return compileWithin(text, MaxCost, MaxCost) }

// compileWithin is compile with bounds of the estimated cost and of what it may come to.
func compileWithin(text string, estimated, actual uint64) (*expression, []fault) {
	if len(text) > MaxExpression {
		return nil, []fault{{message: fmt.Sprintf("an expression of %d bytes; %d are the most", len(text), MaxExpression)}}
	}
	if strings.TrimSpace(text) == "" {
		return nil, []fault{{message: "an expression is missing"}}
	}
	env := environment()
	parsed, issues := env.Parse(text)
	if issues.Err() != nil {
		return nil, faultsOf(issues, text, nil)
	}
	checked, issues := env.Check(parsed)
	if issues.Err() != nil {
		return nil, faultsOf(issues, text, parsed.NativeRep())
	}
	root := checked.NativeRep()
	if faults := refused(root); len(faults) > 0 {
		return nil, faults
	}
	if !checked.OutputType().IsExactType(types.BoolType) {
		at := faultAt(root, beginning(root, root.Expr()))
		at.message = fmt.Sprintf("this is %s, and a condition is true or false%s", typeWords(checked.OutputType().String()), comparisonFor(text, checked.OutputType()))
		return nil, []fault{at}
	}
	most, err := costOf(checked)
	if err != nil {
		return nil, []fault{{message: fmt.Sprintf("its cost cannot be estimated: %v", err)}}
	}
	if most > estimated {
		at := faultAt(root, beginning(root, costliest(root.Expr())))
		at.message = fmt.Sprintf("this could cost %s units, and %d are the most: say it with fewer loops within loops, as with x in list, or sets.contains(a, b)", figure(most), estimated)
		return nil, []fault{at}
	}
	program, err := env.Program(checked, cel.CostLimit(actual), cel.InterruptCheckFrequency(64), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		at := faultAt(root, beginning(root, root.Expr()))
		at.message = "a part that is always the same cannot be evaluated: " + err.Error()
		return nil, []fault{at}
	}
	return &expression{program: program, limit: actual, root: root, reads: readsOf(root)}, nil
}

func figure(n uint64) string {
	if n > 1<<60 {
		return "any number of"
	}
	return fmt.Sprint(n)
}

// comparisonFor says what was perhaps meant.
func comparisonFor(text string, t *types.Type) string {
	text = strings.TrimSpace(text)
	if len(text) > 40 || strings.ContainsAny(text, " \n") {
		return ""
	}
	switch t.Kind() {
	case types.StringKind:
		return fmt.Sprintf(", as in %s != \"\"", text)
	case types.IntKind:
		return fmt.Sprintf(", as in %s > 0", text)
	}
	return ""
}

// faultAt is where an expression of the ID stands.
func faultAt(a *ast.AST, id int64) fault {
	at := a.SourceInfo().GetStartLocation(id)
	if at.Line() < 1 {
		return fault{}
	}
	return fault{line: at.Line(), column: at.Column() + 1}
}

// beginning is the ID of the part of an expression that stands first in its text: a call has the place of its parenthesis, and
// a comparison that of its operator.
func beginning(a *ast.AST, e ast.Expr) int64 {
	if call, ok := a.SourceInfo().GetMacroCall(e.ID()); ok {
		e = call
	}
	switch e.Kind() {
	case ast.CallKind:
		if call := e.AsCall(); call.IsMemberFunction() {
			return beginning(a, call.Target())
		}
	case ast.ComprehensionKind:
		return beginning(a, e.AsComprehension().IterRange())
	case ast.SelectKind:
		return beginning(a, e.AsSelect().Operand())
	}
	return e.ID()
}

// evaluate says whether the expression holds of the facts. An error is that it cannot be said: a key is missing, a text is not
// an address, the cost is beyond its bound, the time is over.
func (x *expression) evaluate(ctx context.Context, f *gateway.Facts) (bool, fault) {
	result, _, err := x.program.ContextEval(ctx, activation{f})
	if err != nil {
		at := fault{}
		if e, ok := errors.AsType[*types.Err](err); ok && e.NodeID() > 0 {
			at = faultAt(x.root, e.NodeID())
			at.line, at.column = nameAt(x.root, e.NodeID(), "", at.line, at.column)
		}
		switch {
		case ctx.Err() != nil:
			at.message = "not evaluated in time: " + ctx.Err().Error()
		case isCost(err):
			at.message = fmt.Sprintf("it costs more than %d units", x.limit)
		default:
			at.message = strings.TrimSpace(err.Error())
		}
		return false, at
	}
	yes, ok := result.Value().(bool)
	if !ok {
		return false, fault{message: fmt.Sprintf("it gave %v, neither true nor false", result.Type())}
	}
	return yes, fault{}
}

func isCost(err error) bool {
	e, ok := errors.AsType[interpreter.EvalCancelledError](err)
	return ok && e.Cause == interpreter.CostLimitExceeded
}

// activation shows facts to an expression.
type activation struct{ f *gateway.Facts }

func (a activation) ResolveName(name string) (any, bool) {
	switch name {
	case "request":
		return &a.f.Request, true
	case "credentials":
		return a.f.Credentials, true
	case "requester":
		return a.f.Requester, true
	case "device":
		return &a.f.Device, true
	case "grant":
		return &a.f.Grant, true
	case "attributes":
		return a.f.Attributes, true
	case "now":
		return a.f.Now, true
	}
	return nil, false
}

func (activation) Parent() interpreter.Activation { return nil }
