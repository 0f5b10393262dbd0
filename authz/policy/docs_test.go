package policy

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

// The page says what is: its rules are read, its errors are printed, and every field stands in its tables.
func TestDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(page)
	for _, g := range Fields() {
		for _, f := range g.Fields {
			if row := fmt.Sprintf("| `%s` | %s | %s |\n", f.Path, f.Type, f.Meaning); !strings.Contains(text, row) {
				t.Errorf("docs/policy.md lacks %s", row)
			}
		}
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(rules:\n.*?)```").FindAllStringSubmatch(text, -1)
	if len(blocks) != 3 {
		t.Fatalf("%d blocks of rules", len(blocks))
	}
	mustParse(t, blocks[0][1])
	mustParse(t, blocks[1][1])
	printed := strings.Split(parseError(t, blocks[2][1]), "\n")
	for _, line := range printed {
		line = strings.Replace(line, "policy.yaml:", "bad.yaml:", 1)
		line = strings.Replace(line, ": rules[", ": endpoints.ran.enroll[2].policy.rules[", 1)
		if !strings.Contains(text, line+"\n") {
			t.Errorf("docs/policy.md lacks the error\n%s", line)
		}
	}
	if len(printed) != 7 {
		t.Errorf("%d errors", len(printed))
	}
}
