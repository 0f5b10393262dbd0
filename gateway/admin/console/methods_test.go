package console

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"text/template/parse"
)

// Templates call no methods: the program that is shipped has none by name (.ci/build), and its page would fail where it passes here. So what stands
// after a dot is a field of what the pages are made of, and the name of no method there.
func TestTemplatesCallNoMethods(t *testing.T) {
	fields, methods := map[string]bool{}, map[string]bool{}
	for _, dir := range []string{".", ".."} {
		declared(t, dir, fields, methods)
	}
	k := &Console{}
	k.Plain = func(s string) string { return s }
	all, err := k.parse()
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]string{}
	for page, own := range all {
		for _, part := range own.Templates() {
			if part.Tree != nil {
				names(reflect.ValueOf(part.Tree.Root), func(name string) { used[name] = page })
			}
		}
	}
	if len(used) < 100 {
		t.Fatalf("the templates of %d pages have %d names", len(all), len(used))
	}
	for _, name := range slices.Sorted(maps.Keys(used)) {
		if !fields[name] || methods[name] {
			t.Errorf("%s: .%s is no field, or is the name of a method: give the template a field or a function", used[name], name)
		}
	}
}

// names calls found for each name after a dot in a part of a template.
func names(v reflect.Value, found func(string)) {
	switch v.Kind() {
	case reflect.Interface:
		names(v.Elem(), found)
	case reflect.Pointer:
		if v.IsNil() || v.Type() == reflect.TypeFor[*parse.Tree]() {
			return
		}
		switch n := v.Interface().(type) {
		case *parse.FieldNode:
			each(n.Ident, found)
		case *parse.ChainNode:
			each(n.Field, found)
		case *parse.VariableNode:
			each(n.Ident[1:], found)
		}
		names(v.Elem(), found)
	case reflect.Slice:
		for i := range v.Len() {
			names(v.Index(i), found)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				names(v.Field(i), found)
			}
		}
	}
}

func each(all []string, found func(string)) {
	for _, name := range all {
		found(name)
	}
}

// never are types that no page is given a value of.
var never = []string{"Client", "Server", "Access", "Console", "visit", "RemoteConfig", "ConsoleConfig", "Error", "ImportError", "NotReloadedError", "refusal", "wrong"}

func receiver(f *ast.FuncDecl) string {
	of := f.Recv.List[0].Type
	if star, ok := of.(*ast.StarExpr); ok {
		of = star.X
	}
	name, _ := of.(*ast.Ident)
	if name == nil {
		return ""
	}
	return name.Name
}

// declared adds the fields of a package's structs, and the methods of its types.
func declared(t *testing.T, dir string, fields, methods map[string]bool) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %v, %v", dir, files, err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.StructType:
				for _, f := range n.Fields.List {
					for _, name := range f.Names {
						fields[name.Name] = true
					}
				}
			case *ast.FuncDecl:
				if n.Recv != nil && !slices.Contains(never, receiver(n)) {
					methods[n.Name.Name] = true
				}
			}
			return true
		})
	}
}
