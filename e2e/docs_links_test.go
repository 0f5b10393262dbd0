package e2e

import (
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	linkTo    = regexp.MustCompile(`\]\(([^()\s]+(?:\([^()]*\))?[^()\s]*)\)`)
	heading   = regexp.MustCompile(`(?m)^#{1,6} +(.+?) *#*$`)
	ownAnchor = regexp.MustCompile(`<a (?:id|name)="([^"]+)"`)
	fenced    = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
)

// anchors are the names that GitHub gives the headings of a page: in lower case, without punctuation, with hyphens for spaces.
func anchors(text string) map[string]bool {
	all := map[string]bool{}
	text = fenced.ReplaceAllString(text, "")
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		title := regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`).ReplaceAllString(m[1], "$1")
		name := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r > 0x7f && r != '…' && r != '→':
				return r
			}
			return -1
		}, strings.ToLower(title))
		for n, free := 1, name; ; n++ {
			if !all[free] {
				all[free] = true
				break
			}
			free = name + "-" + string(rune('0'+n))
		}
	}
	for _, m := range ownAnchor.FindAllStringSubmatch(text, -1) {
		all[m[1]] = true
	}
	return all
}

// TestDocsLinks: each link between pages leads to a file that is there, and to a heading in it.
func TestDocsLinks(t *testing.T) {
	texts := map[string]string{}
	text := func(page string) string {
		if _, ok := texts[page]; !ok {
			texts[page] = string(fileOf(t, "..", page))
		}
		return texts[page]
	}
	n := 0
	for _, page := range pages(t) {
		for i, line := range strings.Split(text(page), "\n") {
			for _, m := range linkTo.FindAllStringSubmatch(line, -1) {
				to, anchor, _ := strings.Cut(m[1], "#")
				if strings.Contains(to, ":") || strings.HasPrefix(to, "/") {
					continue // elsewhere
				}
				n++
				file := page
				if to != "" {
					file = path.Join(path.Dir(page), to)
				}
				if _, err := os.Stat(filepath.Join("..", file)); err != nil {
					t.Errorf("%s:%d: there is no %s", page, i+1, m[1])
				} else if anchor != "" && strings.HasSuffix(file, ".md") && !anchors(text(file))[anchor] {
					t.Errorf("%s:%d: %s has no heading for #%s", page, i+1, file, anchor)
				}
			}
		}
	}
	if n < 200 {
		t.Errorf("only %d links were found", n)
	}
}

// TestDocsAnchors: what GitHub makes of headings.
func TestDocsAnchors(t *testing.T) {
	got := anchors("# Next\n```sh\n# no heading\n```\n## What `csrattrs` asks for\n## A [link](x.md#y), too!\n## Next\n<a id=\"own\"></a>\n")
	for _, want := range []string{"next", "what-csrattrs-asks-for", "a-link-too", "next-1", "own"} {
		if !got[want] {
			t.Errorf("no %s in %v", want, got)
		}
	}
	if len(got) != 5 {
		t.Error(got)
	}
}

// TestDocsNameTests: a page that says which test shows something names one that is there.
func TestDocsNameTests(t *testing.T) {
	out, err := exec.Command("grep", "-rhoE", "--include=*_test.go", "^func (Test|Bench|Fuzz)[A-Za-z0-9_]+", "..").Output()
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		there[strings.TrimSpace(strings.TrimPrefix(line, "func "))] = true
	}
	named := regexp.MustCompile(`\b(Test|Benchmark|Fuzz)[A-Z][A-Za-z0-9_]+`)
	for _, page := range pages(t) {
		text := string(fileOf(t, "..", page))
		for _, block := range regexp.MustCompile("(?ms)^```go$.*?^```$").FindAllString(text, -1) {
			text = strings.Replace(text, block, "", 1) // what a plugin's author writes
		}
		for _, name := range named.FindAllString(text, -1) {
			// What stands behind -run, or before "...", is the beginning of several.
			if !there[name] && !regexp.MustCompile("-run '?"+name+"|"+name+"[.]{3}").MatchString(text) {
				t.Errorf("%s: there is no %s", page, name)
			}
		}
	}
}
