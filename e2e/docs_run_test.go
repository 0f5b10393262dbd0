//go:build docs

package e2e

import (
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
)

// documented are the pages whose commands TestDocs runs, beside the deployments' (TestStories) and those that other tests run, as their marks
// say. Each is one session of a shell in a folder with configs in it: blocks of console are read as in stories_test.go, those of sh are lines that
// have to succeed.
var documented = []string{
	"../README.md",
	"admin.md",
	"audit.md",
	"cli.md",
	"cmp.md",
	"crl.md",
	"est.md",
	"ocsp.md",
	"operations.md",
	"postgres.md",
	"reload.md",
	"rollover.md",
}

// docSteps are what no command line can do for them.
var docSteps = map[string]func(*telling){
	// Somebody pastes what the quick start's screen shows: all of it, or what is for EST.
	"paste":     func(a *telling) { a.paste("What happened") },
	"paste-est": func(a *telling) { a.paste("CMP, with openssl") },
	// A database of an own server, by the variables of libpq.
	"postgres": func(a *telling) {
		server := pgtest.Start(a.t)
		at, err := url.Parse(server.DSN(server.NewDatabase(a.t)))
		if err != nil {
			a.t.Fatal(err)
		}
		a.env = []string{"PGHOST=" + at.Hostname(), "PGPORT=" + at.Port(), "PGUSER=" + at.User.Username(), "PGDATABASE=" + strings.Trim(at.Path, "/")}
		a.run("postgres", "export "+strings.Join(a.env, " "))
	},
}

// paste runs the commands that the screen shows before these words.
func (a *telling) paste(end string) {
	screen := a.g.stdout.String()
	_, commands, ok := strings.Cut(screen, "in a second shell:")
	commands, _, ended := strings.Cut(commands, end)
	if !ok || !ended {
		a.t.Fatalf("the screen has no commands\n%s", screen)
	}
	script := "set -e\n"
	for line := range strings.Lines(commands) {
		if strings.HasPrefix(line, "  ") {
			script += line
		}
	}
	if out, code := a.run("the screen", "(\n"+script+")"); code != 0 {
		a.t.Fatalf("%s\n%s", script, out)
	}
}

func TestDocs(t *testing.T) {
	// The shells of the pages have homes of their own; what Go has fetched and built is not made again for each.
	for _, name := range []string{"GOMODCACHE", "GOCACHE"} {
		out, err := exec.Command("go", "env", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		os.Setenv(name, strings.TrimSpace(string(out))) //nolint:errcheck // it is a name
	}
	for _, page := range documented {
		t.Run(strings.TrimPrefix(page, "../"), func(t *testing.T) {
			t.Parallel()
			tell(t, story{page: page, steps: docSteps}, commandsOfDocs(t, page), 5*time.Minute)
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
		case b.step != "":
			all = append(all, told{line: b.line, step: b.step})
		case b.run != "e2e TestDocs":
		case b.text == "muster serve\n" || b.text == "go run ./cmd/muster serve\n" || b.text == "systemctl stop muster\n":
			all = append(all, told{line: b.line, command: strings.TrimSpace(b.text), prints: []string{"…"}})
		case b.hide: // its variables and functions are there for what follows
			all = append(all, told{line: b.line, command: "set -e\n" + b.text + "set +e", prints: []string{"…"}})
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
