//go:build docs

package e2e

import (
	"strings"
	"testing"
	"time"
)

// documented are the pages whose commands TestDocs runs, beside the deployments' (TestStories) and those that other tests run, as their marks
// say. Each is one session of a shell in a folder with configs in it: blocks of console are read as in stories_test.go, those of sh are lines that
// have to succeed.
var documented = []string{
	"../README.md",
}

func TestDocs(t *testing.T) {
	for _, page := range documented {
		t.Run(strings.TrimPrefix(page, "../"), func(t *testing.T) {
			t.Parallel()
			tell(t, story{page: page}, commandsOfDocs(t, page), 5*time.Minute)
		})
	}
}

// TestDocsAreRun: the list above has all pages that count on it.
func TestDocsAreRun(t *testing.T) {
	listed := map[string]bool{}
	for _, page := range documented {
		listed[strings.TrimPrefix("docs/"+page, "docs/../")] = true
	}
	for _, page := range pages(t) {
		blocks, _ := blocksOf(page, string(fileOf(t, "..", page)))
		has := false
		for _, b := range blocks {
			has = has || b.run == "e2e TestDocs" && !b.hide
		}
		if has != listed[page] {
			t.Errorf("%s has blocks for TestDocs: %v; it is listed: %v", page, has, listed[page])
		}
	}
}

// commandsOfDocs takes what is this test's out of a page.
func commandsOfDocs(t *testing.T, page string) []told {
	t.Helper()
	text := string(fileOf(t, "../docs", page))
	lines := strings.Split(text, "\n")
	blocks, faults := blocksOf(page, text)
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	var all []told
	for _, b := range blocks {
		switch {
		case b.run != "e2e TestDocs":
		case b.kind == "console":
			// Its own place in the page, so that lines count from there.
			blank := strings.Repeat("\n", b.line-1)
			all = append(all, commandsOf(t, blank+strings.Join(lines[b.line-1:b.line+strings.Count(b.text, "\n")+1], "\n"))...)
		default:
			all = append(all, told{line: b.line, command: b.text, script: true})
		}
	}
	for i, c := range all {
		all[i].command = strings.ReplaceAll(c.command, "go run ./cmd/muster", "muster")
	}
	return all
}
