package e2e

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

// A conformance page names tests that exist, and each section in it is cited by one of those beside it.
func TestConformancePages(t *testing.T) {
	const root = ".."
	pages, err := filepath.Glob(root + "/docs/*-conformance.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("no pages, %v", err)
	}
	folders := map[string]map[string]string{}
	for _, page := range pages {
		protocol, _, _ := strings.Cut(filepath.Base(page), "-")
		t.Run(protocol, func(t *testing.T) { checkConformance(t, root, page, "protocols/"+protocol, folders) })
	}
}

var (
	namedTest    = regexp.MustCompile("`(?:([a-z0-9/]+)/)?(Test[A-Za-z0-9]+)`")
	namedSection = regexp.MustCompile(`(?:RFC (\d{4}) )?([0-9]+(?:\.[0-9]+)*)`)
)

// checkConformance checks one page, whose tests are in the folder unless they say otherwise. folders are those that were read.
func checkConformance(t *testing.T, root, page, folder string, folders map[string]map[string]string) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 || !namedSection.MatchString(cells[1]) {
			continue
		}
		rows++
		cited := ""
		for _, m := range namedTest.FindAllStringSubmatch(cells[3], -1) {
			dir := filepath.Join(root, folder)
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
		for _, s := range namedSection.FindAllStringSubmatch(cells[1], -1) {
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
