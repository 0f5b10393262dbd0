package gateway

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"
)

// What is not among States is counted nowhere, and cannot be asked for.
func TestStatesAreAll(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "store.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	ast.Inspect(file, func(n ast.Node) bool {
		c, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if kind, ok := c.Type.(*ast.Ident); !ok || kind.Name != "State" {
			return true
		}
		found++
		word := State(strings.Trim(c.Values[0].(*ast.BasicLit).Value, `"`))
		if !slices.Contains(States[:], word) {
			t.Errorf("%s is not among States", word)
		}
		return true
	})
	if found < 15 || found != len(States) {
		t.Errorf("%d states in store.go, %d in States", found, len(States))
	}
}
