package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // zones of rules are there wherever the gateway runs

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"

	"github.com/muster-pki/muster/gateway"
)

// maxLists is how many lists and maps may be within each other: Facts have two. What is deeper has a size that nobody can tell.
const maxLists = 2

// refused says what CEL takes and rules do not have: what can never be what it looks like, and what cannot be bounded.
func refused(checked *ast.AST) []fault {
	var all []fault
	fail := func(e ast.Expr, format string, args ...any) {
		at := faultAt(checked, beginning(checked, e))
		at.message = fmt.Sprintf(format, args...)
		all = append(all, at)
	}
	var walk func(e ast.Expr)
	walk = func(e ast.Expr) {
		if len(all) > 0 {
			return // the others follow from it, or are said the next time
		}
		t := checked.TypeMap()[e.ID()]
		switch {
		case t == nil: // a name, as of a key
		case e.Kind() == ast.StructKind:
			fail(e, "%s{...}: rules read values, and make none of these", typeWords(e.AsStruct().TypeName()))
		case e.Kind() == ast.CallKind && hasDyn(t):
			fail(e, "the type of this is not known before it is evaluated (%s)", typeWords(t.String()))
		case nesting(t) > maxLists:
			fail(e, "lists within lists within lists: %d within each other are the most", maxLists)
		case e.Kind() == ast.CallKind:
			refusedCall(checked, e.AsCall(), fail)
		}
		for _, child := range children(e) {
			walk(child)
		}
	}
	walk(checked.Expr())
	return all
}

func refusedCall(checked *ast.AST, call ast.CallExpr, fail func(e ast.Expr, format string, args ...any)) {
	switch name := call.FunctionName(); {
	case name == operators.Equals || name == operators.NotEquals:
		for i, arg := range call.Args() {
			if checked.GetType(arg.ID()).Kind() == types.NullTypeKind {
				fail(call.Args()[1-i], "nothing here is ever null: what is absent is empty; has(request.notAfter) tells, or request.target.serial != \"\"")
				return
			}
		}
		for i, arg := range call.Args() {
			refusedWord(checked, call.Args()[1-i], arg, fail)
		}
	case name == operators.In && call.Args()[1].Kind() == ast.ListKind:
		for _, element := range call.Args()[1].AsList().Elements() {
			refusedWord(checked, call.Args()[0], element, fail)
		}
	case name == "lists.range": // as much memory as somebody writes a number for
		fail(call.Args()[0], "lists.range() is not for rules")
	case strings.HasPrefix(name, "sets.") || name == "distinct":
		args := call.Args()
		if call.IsMemberFunction() {
			args = append(args, call.Target())
		}
		for _, arg := range args {
			if nesting(checked.GetType(arg.ID())) > 1 {
				fail(arg, "%s() does not take lists of lists", name)
				return
			}
		}
	case strings.HasPrefix(name, "get") && call.IsMemberFunction() && len(call.Args()) == 1 && checked.GetType(call.Target().ID()).Kind() == types.TimestampKind:
		zone := call.Args()[0]
		switch {
		case zone.Kind() != ast.LiteralKind:
			fail(zone, "a time zone is a text that stands here, as in \"Europe/Berlin\"")
		case !offset.MatchString(literal(zone)):
			if _, err := time.LoadLocation(literal(zone)); err != nil {
				fail(zone, "%q is no time zone, as in \"Europe/Berlin\" or \"+01:00\"", literal(zone))
			}
		}
	}
}

// valuesOf are what fields have that have one of few words, beside "".
var valuesOf = map[string][]string{
	"Request.protocol":  words(gateway.CMP, gateway.EST, gateway.SCEP, gateway.MDM),
	"Request.operation": words(gateway.Operations...),
	"Request.pop":       words(gateway.POPNone, gateway.POPSignature, gateway.POPLinked, gateway.POPRA, gateway.POPConfirm),
	"Credential.kind": words(gateway.CredentialTLS, gateway.CredentialSigner, gateway.CredentialMAC, gateway.CredentialPassword, gateway.CredentialChallenge,
		gateway.CredentialDevice, gateway.CredentialKey, gateway.CredentialNested),
	"Key.algorithm": {"EC", "RSA", "Ed25519"},
}

func words[T ~string](values ...T) []string {
	all := make([]string, 0, len(values))
	for _, v := range values {
		all = append(all, string(v))
	}
	return all
}

// refusedWord refuses a word that a field never has: the rule would never hold, and nobody would notice.
func refusedWord(checked *ast.AST, field, word ast.Expr, fail func(e ast.Expr, format string, args ...any)) {
	if field.Kind() != ast.SelectKind || word.Kind() != ast.LiteralKind {
		return
	}
	name := typeWords(checked.GetType(field.AsSelect().Operand().ID()).TypeName()) + "." + field.AsSelect().FieldName()
	if known := valuesOf[name]; known != nil && literal(word) != "" && !slices.Contains(known, literal(word)) {
		fail(word, "%s is never %q%s", pathOf(field), literal(word), meant(literal(word), known))
	}
}

// offset is a time zone by its distance from UTC.
var offset = regexp.MustCompile(`^[+-]?([01][0-9]|2[0-3]):[0-5][0-9]$`)

// hasDyn reports whether a type, or a part of it, is only known when it is there.
func hasDyn(t *types.Type) bool {
	switch t.Kind() {
	case types.DynKind, types.AnyKind:
		return true
	case types.TypeKind: // type(x): which one, nobody needs
		return false
	}
	for _, p := range t.Parameters() {
		if hasDyn(p) {
			return true
		}
	}
	return false
}
