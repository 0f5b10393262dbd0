package policy

import (
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"

	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// faultsOf says what CEL found, in words for people, with the names that were perhaps meant. parsed is nil where it did not
// parse: then it is the first fault, since the others follow from it.
func faultsOf(issues *cel.Issues, text string, parsed *ast.AST) []fault {
	var all []fault
	for _, e := range issues.Errors() {
		f := fault{line: e.Location.Line(), column: e.Location.Column() + 1, message: wordsOf(e.Message)}
		if f.line < 1 {
			f.line, f.column = 0, 0
		}
		if parsed == nil {
			return []fault{f}
		}
		f.message = explainName(parsed, e.ExprID, e.Message, f.message)
		f.line, f.column = nameAt(parsed, e.ExprID, text, f.line, f.column)
		if !slices.Contains(all, f) {
			all = append(all, f)
		}
	}
	return all
}

// nameAt is where the name stands that is at fault: CEL has a selection where its dot is, and a call where its parenthesis is.
func nameAt(parsed *ast.AST, id int64, text string, line, column int) (int, int) {
	e, _ := find(parsed.Expr(), id, nil)
	if e == nil {
		return line, column
	}
	if call, ok := parsed.SourceInfo().GetMacroCall(id); ok && e.Kind() == ast.SelectKind && len(call.AsCall().Args()) == 1 { // has(a.b)
		e = call.AsCall().Args()[0]
		at := faultAt(parsed, e.ID())
		line, column = at.line, at.column
	}
	switch {
	case e.Kind() == ast.SelectKind:
		return line, column + 1
	case e.Kind() == ast.CallKind && line >= 1:
		lines := strings.Split(text, "\n")
		name := []rune(e.AsCall().FunctionName())
		if start := column - 1 - len(name); line <= len(lines) && start >= 0 {
			if row := []rune(lines[line-1]); column-1 <= len(row) && string(row[start:column-1]) == string(name) {
				return line, start + 1
			}
		}
	}
	return line, column
}

var (
	undefinedField = regexp.MustCompile(`^undefined field '([^']*)'`)
	undeclared     = regexp.MustCompile(`^undeclared reference to '([^']*)'`)
	noOverload     = regexp.MustCompile(`^found no matching overload for '([^']*)' applied to '(.*)'$`)
	invalidLiteral = regexp.MustCompile(`^invalid (\S+) argument`)
	operatorName   = regexp.MustCompile(`^[_!@\-?]`)
	factsName      = regexp.MustCompile(`gateway\.Facts([A-Z]\w*)`)
)

// explainName says more of a name that is not known.
func explainName(parsed *ast.AST, id int64, message, words string) string {
	if m := undefinedField.FindStringSubmatch(message); m != nil {
		operand, scope := selected(parsed, id)
		if operand == nil {
			return words
		}
		t := typeOf(operand, scope)
		if t == nil || t.Kind() != reflect.Struct {
			return pathOf(operand) + "." + m[1] + ": no such field"
		}
		var known []string
		for _, f := range factsFields(t) {
			known = append(known, f.Name)
		}
		return pathOf(operand) + "." + m[1] + ": no such field" + meant(m[1], known)
	}
	if m := undeclared.FindStringSubmatch(message); m != nil {
		e, scope := find(parsed.Expr(), id, nil)
		if e != nil && e.Kind() == ast.CallKind {
			return m[1] + "(): no such function" + meant(m[1], functionNames())
		}
		var known []string
		for _, v := range variables {
			known = append(known, v.Name)
		}
		known = append(known, slices.Sorted(maps.Keys(scope))...)
		if near := strictyaml.Nearest(m[1], known); near != "" {
			return m[1] + ": no such variable; did you mean " + near + "?"
		}
		for _, v := range variables { // a field whose variable was left out
			if v.Type.Kind() != reflect.Struct {
				continue
			}
			if _, ok := fieldNamed(v.Type, m[1]); ok {
				return m[1] + ": no such variable; did you mean " + v.Name + "." + m[1] + "?"
			}
		}
		return m[1] + ": no such variable" + meant(m[1], known)
	}
	if m := invalidLiteral.FindStringSubmatch(message); m != nil { // of ASTValidators
		if e, _ := find(parsed.Expr(), id, nil); e != nil {
			return invalidWords(m[1], literal(e), words)
		}
	}
	return words
}

// invalidWords says what is wrong with a text that stands for something else.
func invalidWords(function, text, words string) string {
	switch function {
	case "cidr":
		return strconv.Quote(text) + ` is no network, as in "10.0.0.0/8"`
	case "ip":
		return strconv.Quote(text) + ` is no address, as in "10.0.0.1"`
	case "duration":
		return strconv.Quote(text) + ` is no duration, as in "36h" or "90m"`
	case "timestamp":
		return strconv.Quote(text) + ` is no time, as in "2027-01-31T12:00:00Z"`
	}
	if _, err := regexp.Compile(text); err != nil {
		return "the pattern does not parse: " + strings.TrimPrefix(err.Error(), "error parsing regexp: ")
	}
	return words
}

func meant(got string, known []string) string {
	if near := strictyaml.Nearest(got, known); near != "" {
		return "; did you mean " + near + "?"
	}
	if len(known) > 24 {
		return ""
	}
	return "; there are " + strings.Join(known, ", ")
}

// functionNames are those that people write.
func functionNames() []string {
	var names []string
	for name := range environment().Functions() {
		if !operatorName.MatchString(name) {
			names = append(names, name)
		}
	}
	for _, m := range environment().Macros() {
		names = append(names, m.Function())
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// wordsOf says in fewer words what CEL says.
func wordsOf(message string) string {
	message, syntax := strings.CutPrefix(message, "Syntax error: ")
	if m := noOverload.FindStringSubmatch(message); m != nil {
		return overloadWords(m[1], typeWords(m[2]))
	}
	switch {
	case message == "invalid argument to has() macro":
		return "has() takes a field or a key, as in has(request.notAfter) or has(attributes.site)"
	case syntax && strings.Contains(message, "'<EOF>'") && !strings.Contains(message, "expecting <EOF>"):
		return "the expression ends here, and is not complete"
	case syntax && strings.HasPrefix(message, "token recognition error at: '= "), syntax && strings.HasPrefix(message, "token recognition error at: '='"):
		return "= is no operator: == compares"
	}
	if at := strings.Index(message, " expecting {"); at > 0 {
		message = message[:at] // every token that there is
	}
	return typeWords(message)
}

// overloadWords says that a function or operator does not take what it is given. The signature is "(int, string)", or
// "string.(int)" of what is called with a dot.
func overloadWords(name, signature string) string {
	if operator, ok := operators.FindReverse(name); ok && operator != "" {
		name = operator
	} else if name == operators.Conditional {
		name = "? :"
	} else if name == operators.Index {
		name = "[ ]"
	}
	var parts []string
	if i := strings.Index(signature, ".("); i >= 0 {
		parts, signature = append(parts, signature[:i]), signature[i+1:]
	}
	depth, start := 0, 1
	for i, r := range signature {
		switch r {
		case '(':
			depth++
		case ')':
			depth--
		}
		if i > start && (depth == 0 || depth == 1 && r == ',') {
			parts = append(parts, strings.TrimSpace(signature[start:i]))
			start = i + 1
		}
	}
	words := name + " does not take " + strings.Join(parts, " and ")
	for _, part := range parts {
		for _, t := range factsTypes() {
			if t := t.(reflect.Type); typeWords(structName(t)) == part {
				var names []string
				for _, f := range factsFields(t) {
					names = append(names, f.Name)
				}
				return words + "; the fields of a " + part + " are " + strings.Join(names, ", ")
			}
		}
	}
	return words
}

// typeWords has types by the names that people write, those of Facts by short ones: FactsName is Name.
func typeWords(s string) string { return protobufType.Replace(factsName.ReplaceAllString(s, "$1")) }

var protobufType = strings.NewReplacer("google.protobuf.Timestamp", "timestamp", "google.protobuf.Duration", "duration")

// scope has the variables of the loops around an expression.
type scope map[string]reflect.Type

// find returns the part of an expression that has an ID, and the variables there.
func find(e ast.Expr, id int64, in scope) (ast.Expr, scope) {
	if e.ID() == id {
		return e, in
	}
	if e.Kind() == ast.ComprehensionKind {
		c := e.AsComprehension()
		if found, s := find(c.IterRange(), id, in); found != nil {
			return found, s
		}
		inner := maps.Clone(in)
		if inner == nil {
			inner = scope{}
		}
		bindLoop(inner, c, typeOf(c.IterRange(), in))
		for _, child := range []ast.Expr{c.AccuInit(), c.LoopCondition(), c.LoopStep(), c.Result()} {
			if found, s := find(child, id, inner); found != nil {
				return found, s
			}
		}
		return nil, nil
	}
	for _, child := range children(e) {
		if found, s := find(child, id, in); found != nil {
			return found, s
		}
	}
	return nil, nil
}

func bindLoop(inner scope, c ast.ComprehensionExpr, over reflect.Type) {
	one, two := reflect.TypeFor[string](), reflect.Type(nil)
	switch {
	case over == nil:
		one = nil
	case over.Kind() == reflect.Slice && c.HasIterVar2():
		one, two = reflect.TypeFor[int](), over.Elem()
	case over.Kind() == reflect.Slice:
		one = over.Elem()
	case over.Kind() == reflect.Map:
		two = over.Elem()
	}
	for name, t := range map[string]reflect.Type{c.IterVar(): one, c.IterVar2(): two} {
		if name != "" && !strings.ContainsAny(name, "@#") {
			inner[name] = t
		}
	}
}

// typeOf is the type that an expression has in Facts, nil where it is none of theirs.
func typeOf(e ast.Expr, in scope) reflect.Type {
	switch e.Kind() {
	case ast.IdentKind:
		if t, ok := in[e.AsIdent()]; ok {
			return t
		}
		for _, v := range variables {
			if v.Name == e.AsIdent() {
				return v.Type
			}
		}
	case ast.SelectKind:
		return below(typeOf(e.AsSelect().Operand(), in), e.AsSelect().FieldName())
	case ast.CallKind:
		call := e.AsCall()
		switch call.FunctionName() {
		case operators.Index, operators.OptIndex:
			if t := typeOf(call.Args()[0], in); t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Map) {
				return t.Elem()
			}
		case operators.OptSelect:
			return below(typeOf(call.Args()[0], in), literal(call.Args()[1]))
		}
	}
	return nil
}

// below is the type of a field, or of a map's value.
func below(t reflect.Type, field string) reflect.Type {
	switch {
	case t == nil:
	case t.Kind() == reflect.Map:
		return t.Elem()
	case t.Kind() == reflect.Struct && t != typeTime:
		if f, ok := fieldNamed(t, field); ok {
			return f.Type
		}
	}
	return nil
}

func literal(e ast.Expr) string {
	if e.Kind() != ast.LiteralKind {
		return ""
	}
	s, _ := e.AsLiteral().Value().(string)
	return s
}

// selected is what a selection of the ID selects from, and the variables there.
func selected(a *ast.AST, id int64) (ast.Expr, scope) {
	e, in := find(a.Expr(), id, nil)
	switch {
	case e == nil:
	case e.Kind() == ast.SelectKind:
		return e.AsSelect().Operand(), in
	case e.Kind() == ast.CallKind && e.AsCall().FunctionName() == operators.OptSelect:
		return e.AsCall().Args()[0], in
	}
	return nil, nil
}

// pathOf writes a chain of selections as it stands there.
func pathOf(e ast.Expr) string {
	switch e.Kind() {
	case ast.IdentKind:
		return e.AsIdent()
	case ast.SelectKind:
		return pathOf(e.AsSelect().Operand()) + "." + e.AsSelect().FieldName()
	case ast.CallKind:
		call := e.AsCall()
		switch call.FunctionName() {
		case operators.Index, operators.OptIndex:
			return pathOf(call.Args()[0]) + "[...]"
		case operators.OptSelect:
			return pathOf(call.Args()[0]) + ".?" + literal(call.Args()[1])
		}
		return call.FunctionName() + "(...)"
	}
	return "(...)"
}
