package e2e

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Each fuzz target of the module has a corpus beside it, in testdata/fuzz/TARGET, which `go test` runs always: seeds that a target makes for itself
// depend on what its code makes today.
func TestFuzzTargetsHaveACorpus(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("go", "list", "-json=Dir", "./...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	targets := 0
	for list := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct{ Dir string }
		if err := list.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		known := map[string]bool{}
		tests, err := filepath.Glob(filepath.Join(p.Dir, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range tests {
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range file.Decls {
				f, ok := d.(*ast.FuncDecl)
				if !ok || f.Recv != nil || !strings.HasPrefix(f.Name.Name, "Fuzz") {
					continue
				}
				targets++
				known[f.Name.Name] = true
				if n := corpus(t, filepath.Join(p.Dir, "testdata", "fuzz", f.Name.Name)); n == 0 {
					t.Errorf("%s: %s has no corpus: put messages into testdata/fuzz/%s", name, f.Name.Name, f.Name.Name)
				}
			}
		}
		left, err := os.ReadDir(filepath.Join(p.Dir, "testdata", "fuzz"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		for _, e := range left {
			if !known[e.Name()] {
				t.Errorf("%s: a corpus without its target", filepath.Join(p.Dir, "testdata", "fuzz", e.Name()))
			}
		}
	}
	if targets < 75 {
		t.Errorf("%d fuzz targets are found", targets)
	}
}

// corpus counts the files of one that are in Go's format, and refuses others.
func corpus(t *testing.T, dir string) (n int) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range files {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(data), "go test fuzz v1\n") {
			t.Errorf("%s: not in the format of go test", filepath.Join(dir, e.Name()))
		}
		n++
	}
	return n
}

// One command fuzzes all: .ci/fuzz goes on after a finding, counts, and fails in the end with a list. A go command that answers like the real one
// stands in for it.
func TestFuzzRun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a/a_test.go": "package a\n\nfunc FuzzOne(f *testing.F) {\n}\n\nfunc FuzzTwo(f *testing.F) {\n}\n",
		"b/b_test.go": "package b\n\nfunc FuzzThree(f *testing.F) {\n}\n",
		"c/c_test.go": "package c\n\nfunc TestNone(t *testing.T) {\n}\n",
		"go": `#!/bin/sh
dir=$(dirname "$0")
if [ "$1" = list ]; then for p in a b c; do echo "example/$p $dir/$p"; done; exit; fi
echo "$*" >>"$dir/asked"
case "$*" in *FuzzOne*)
	mkdir -p "$dir/a/testdata/fuzz/FuzzOne"; echo x >"$dir/a/testdata/fuzz/FuzzOne/deadbeef"
	echo "fuzz: elapsed: 1s, execs: 7 (7/sec), new interesting: 1 (total: 2)"; echo "--- FAIL: FuzzOne"; exit 1 ;;
esac
echo "fuzz: elapsed: 3s, execs: 1234 (411/sec), new interesting: 5 (total: 10)"
`,
	} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) (string, error) {
		cmd := exec.Command("sh", append([]string{filepath.Join("..", ".ci", "fuzz")}, args...)...)
		cmd.Env = append(os.Environ(), "GO="+filepath.Join(dir, "go"), "FUZZONLY=", "FUZZFLAGS=")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := run("all", "1m")
	if err == nil {
		t.Error("a finding, and it says that all is well")
	}
	for _, want := range []string{
		"1 of 3  example/a FuzzOne  7 execs, 1 new inputs  FAILED  (1 findings)\n", "    --- FAIL: FuzzOne\n",
		"2 of 3  example/a FuzzTwo  1234 execs, 5 new inputs  ok  (1 findings)\n", "3 of 3  example/b FuzzThree  1234 execs, 5 new inputs  ok  (1 findings)\n",
		"1 of 3 targets failed:\n  example/a FuzzOne: " + dir + "/a/testdata/fuzz/FuzzOne/deadbeef\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	asked, err := os.ReadFile(filepath.Join(dir, "asked"))
	if err != nil || strings.Count(string(asked), "-fuzztime 20s") != 3 {
		t.Errorf("a minute for three targets: %s, %v", asked, err)
	}
	for _, bad := range [][]string{{}, {"all"}, {"all", "x"}, {"none", "1s"}, {"all", "2s"}} {
		if out, err := run(bad...); err == nil {
			t.Errorf("%v: %s", bad, out)
		}
	}
}
