package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Every command that the pages show is run by a test, or says why not. In front of a block stands, where renderers show nothing, one of
//
//	<!-- run: protocols/est TestRecipes -->      by this test, in that folder; its file names the page
//	<!-- run all sh: protocols/est TestRecipes --> likewise all blocks of that kind from here on that have no mark of their own
//	<!-- not run: why -->                        by nobody
//	<!-- before:
//	commands that the page's reader has no need of, run at this place by TestDocs
//	-->
//
// Blocks of YAML need no mark: they are parts of a configuration (docs_yaml_test.go), unless one says that they are not.
type block struct {
	page string // relative to the repository
	line int    // of its fence
	kind string // behind the fence
	text string
	run  string // "FOLDER TEST"
	not  string // why it is not run
	hide bool   // <!-- before:
	step string // <!-- story: NAME -->
}

var (
	runMark    = regexp.MustCompile(`^<!-- run: (\S+ \S+) -->$`)
	runAllMark = regexp.MustCompile(`^<!-- run all (\S+): (\S+ \S+) -->$`)
	notRunMark = regexp.MustCompile(`^<!-- not run: (.+) -->$`)
)

// pages are README.md, those of docs, and the others that stand beside what they tell of.
func pages(t testing.TB) []string {
	t.Helper()
	all := []string{"README.md", "CONTRIBUTING.md", "configs/README.md"}
	err := filepath.WalkDir("../docs", func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".md") {
			all = append(all, strings.TrimPrefix(path, "../"))
		}
		return err
	})
	if err != nil || len(all) < 40 {
		t.Fatalf("%d pages, %v", len(all), err)
	}
	return all
}

// blocksOf takes the fenced blocks out of a page, with what is said of them.
func blocksOf(page, text string) (all []block, faults []string) {
	fault := func(line int, format string, a ...any) {
		faults = append(faults, fmt.Sprintf("%s:%d: ", page, line)+fmt.Sprintf(format, a...))
	}
	runAll := map[string]string{}
	var next block // marks that wait for their block
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		line := strings.TrimSpace(lines[i])
		marked := next.run != "" || next.not != ""
		switch {
		case line == "<!-- before:":
			b := block{page: page, line: i + 1, kind: "sh", run: "e2e TestDocs", hide: true}
			for i++; i < len(lines) && lines[i] != "-->"; i++ {
				b.text += lines[i] + "\n"
			}
			all = append(all, b)
		case strings.HasPrefix(line, "```"):
			b := next
			b.page, b.line, b.kind = page, i+1, strings.TrimPrefix(line, "```")
			if !marked {
				b.run = runAll[b.kind]
			}
			next = block{}
			indent := lines[i][:strings.Index(lines[i], "`")]
			for i++; i < len(lines) && strings.TrimSpace(lines[i]) != "```"; i++ {
				b.text += strings.TrimPrefix(lines[i], indent) + "\n"
			}
			if i == len(lines) {
				fault(b.line, "this block does not end")
			}
			all = append(all, b)
		case !marked && stepMark.MatchString(line):
			all = append(all, block{page: page, line: i + 1, step: stepMark.FindStringSubmatch(line)[1]})
		case marked && line != "":
			fault(i+1, "a block has to follow its mark")
			next = block{}
		case runAllMark.MatchString(line):
			m := runAllMark.FindStringSubmatch(line)
			runAll[m[1]] = m[2]
		case runMark.MatchString(line):
			next.run = runMark.FindStringSubmatch(line)[1]
		case notRunMark.MatchString(line):
			next.not = notRunMark.FindStringSubmatch(line)[1]
		case strings.HasPrefix(line, "<!-- run") || strings.HasPrefix(line, "<!-- not run") || strings.HasPrefix(line, "<!-- before"):
			fault(i+1, "this mark is not understood: %s", line)
		case strings.HasPrefix(lines[i], "    ") && commandLine.MatchString(line):
			fault(i+1, "a command in an indented block: put it into a fenced one")
		}
	}
	return all, faults
}

// commandLine is a line that somebody would type.
var commandLine = regexp.MustCompile(`^(\$ |(sudo )?(muster|curl|openssl|go|make|docker|podman|kubectl|helm|systemctl|apt|apt-get|dpkg|psql|pg_dump|sqlite3|gpg|git|tar|cp|mkdir|cat|sh|umask|export|vault|step|pki|getcert|sscep|scepclient|pkcs11-tool|softhsm2-util) )`)

// typed tells whether a block has commands in it.
func (b block) typed() bool {
	switch b.kind {
	case "sh", "console", "bash", "shell":
		return true
	case "yaml", "go", "json", "nginx", "haproxy", "hcl", "ini", "promql", "sql", "html":
		return false
	}
	return slices.ContainsFunc(strings.Split(b.text, "\n"), commandLine.MatchString)
}

// TestDocsCommands: no page shows a command that no test runs, but those that say why.
func TestDocsCommands(t *testing.T) {
	files := map[string]map[string]string{} // the text of the file of each test, by folder and name
	function := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	testFile := func(folder, name string) (string, error) {
		if files[folder] == nil {
			files[folder] = map[string]string{}
			all, err := filepath.Glob(filepath.Join("..", folder, "*_test.go"))
			if err != nil {
				return "", err
			}
			for _, file := range all {
				text, err := os.ReadFile(file)
				if err != nil {
					return "", err
				}
				for _, m := range function.FindAllStringSubmatch(string(text), -1) {
					files[folder][m[1]] = string(text)
				}
			}
		}
		text, ok := files[folder][name]
		if !ok {
			return "", fmt.Errorf("there is no test %s in %s", name, folder)
		}
		return text, nil
	}
	run, not := 0, 0
	for _, page := range pages(t) {
		blocks, faults := blocksOf(page, string(fileOf(t, "..", page)))
		for _, f := range faults {
			t.Error(f)
		}
		for _, b := range blocks {
			switch {
			case b.step != "":
			case b.run != "":
				folder, name, _ := strings.Cut(b.run, " ")
				text, err := testFile(folder, name)
				if err != nil {
					t.Errorf("%s:%d: %v", page, b.line, err)
				} else if !strings.Contains(text, strings.TrimPrefix(page, "docs/")) {
					t.Errorf("%s:%d: the file of %s does not name this page", page, b.line, name)
				}
				run++
			case b.not != "":
				not++
			case b.typed():
				t.Errorf("%s:%d: no test runs this block of %q, nor does it say why not", page, b.line, b.kind)
			}
		}
	}
	t.Logf("%d blocks are run, %d say why not", run, not)
}

// What a mark may be, and what it may not.
func TestDocsMarksAreRead(t *testing.T) {
	text := "<!-- run all sh: a TestA -->\n```sh\none\n```\n<!-- run: b TestB -->\n\n```sh\ntwo\n```\n  ```\n  curl x\n  ```\n" +
		"<!-- not run: it is somebody else's -->\n```sh\nthree\n```\n<!-- before:\nfour\n-->\n```json\n{}\n```\n"
	blocks, faults := blocksOf("p.md", text)
	var got []string
	for _, b := range blocks {
		got = append(got, fmt.Sprintf("%d %s %q run=%q not=%q %v %v", b.line, b.kind, b.text, b.run, b.not, b.hide, b.typed()))
	}
	want := []string{
		`2 sh "one\n" run="a TestA" not="" false true`, `7 sh "two\n" run="b TestB" not="" false true`, `10  "curl x\n" run="" not="" false true`,
		`14 sh "three\n" run="" not="it is somebody else's" false true`, `17 sh "four\n" run="e2e TestDocs" not="" true true`, `20 json "{}\n" run="" not="" false false`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") || len(faults) != 0 {
		t.Errorf("got\n%s\nwant\n%s\n%v", strings.Join(got, "\n"), strings.Join(want, "\n"), faults)
	}
	for _, bad := range []string{"<!-- run: TestA -->\n", "<!-- not run: x -->\ntext\n```sh\n```\n", "    curl http://x\n", "```sh\nfor ever\n", "<!-- run sh: a B -->\n"} {
		if _, faults := blocksOf("p.md", bad); len(faults) == 0 {
			t.Errorf("nothing is wrong with %q", bad)
		}
	}
}
