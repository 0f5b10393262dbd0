package cmp

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// testsOf are the test functions of a folder with their comments, by name.
func testsOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: no tests, %v", dir, err)
	}
	tests := map[string]string{}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, name, text, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") {
				from := fn.Pos()
				if fn.Doc != nil {
					from = fn.Doc.Pos()
				}
				tests[fn.Name.Name] = string(text[set.Position(from).Offset:set.Position(fn.End()).Offset])
			}
		}
	}
	return tests
}

// docs/cmp-conformance.md names tests that exist, and each section in it is cited by one of those beside it.
func TestConformancePage(t *testing.T) {
	const root = "../.."
	page, err := os.ReadFile(root + "/docs/cmp-conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	named, section := regexp.MustCompile("`(?:([a-z0-9/]+)/)?(Test[A-Za-z0-9]+)`"), regexp.MustCompile(`(?:RFC (\d{4}) )?([0-9]+(?:\.[0-9]+)*)`)
	folders := map[string]map[string]string{}
	rows := 0
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 || !section.MatchString(cells[1]) {
			continue
		}
		rows++
		cited := ""
		for _, m := range named.FindAllStringSubmatch(cells[3], -1) {
			dir := "."
			if m[1] != "" {
				dir = filepath.Join(root, m[1])
			}
			if folders[dir] == nil {
				folders[dir] = testsOf(t, dir)
			}
			text, ok := folders[dir][m[2]]
			if !ok {
				t.Errorf("%s: there is no %s in %s", strings.TrimSpace(cells[1]), m[2], dir)
			}
			cited += strings.Join(strings.Fields(strings.ReplaceAll(text, "//", " ")), " ") + "\n"
		}
		for _, s := range section.FindAllStringSubmatch(cells[1], -1) {
			number := regexp.MustCompile(`[^0-9.]` + regexp.QuoteMeta(s[2]) + `(?:[^0-9.]|\.[^0-9])`)
			if !number.MatchString(cited) || s[1] != "" && !strings.Contains(cited, "RFC "+s[1]) {
				t.Errorf("%q: none of its tests cites %s", strings.TrimSpace(cells[1]), s[0])
			}
		}
	}
	if rows < 20 {
		t.Errorf("%d rows", rows)
	}
}
