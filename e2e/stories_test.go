package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/muster-pki/muster/e2e/running"
)

// The pages of the worked deployments tell stories that are run here as they stand. What stands in the blocks
//
//	```console
//	$ muster device import units.csv --data data
//	imported 3 devices (3 new, 0 replaced) in …s
//	```
//
// of a page is one session of a shell in an empty folder, with the folder configs in it and muster on the PATH:
//
//   - "$ " begins a command, and "> " goes on with it, as the shell's own prompts do.
//   - What follows is all that the command prints, errors too; … stands for anything within a line, a line that is nothing but … for any
//     number of lines. Space at the end of lines does not count. Where nothing follows, nothing is printed.
//   - A command succeeds; one that ends with "# refused" fails.
//   - "muster serve" goes on until the page ends; what it prints is its log up to when it is ready. Its listeners take free ports: the
//     configuration is changed so before, and commands and what they print are read as if the ports were those of the page.
//   - "<!-- not run: why -->" before a block leaves it out (docs_blocks_test.go).
//   - "systemctl stop muster" and "start muster" are the gateway's end and its next beginning.
//   - "<!-- story: NAME -->" between blocks is a step that no command line can do, such as a phone's.
type story struct {
	page, config string
	steps        map[string]func(*telling) // by NAME
}

var stories = []story{
	{"edge.md", "edge.yaml", nil},
	{"3gpp.md", "3gpp.yaml", nil},
	{"onem2m.md", "onem2m-mef.yaml", nil},
	{"ios.md", "ios-mdm.yaml", iosStory},
	{"factory-scep.md", "factory-scep.yaml", nil},
}

func TestStories(t *testing.T) {
	for _, s := range stories {
		t.Run(s.page, func(t *testing.T) {
			t.Parallel()
			text := page(t, s.page)
			for what, want := range map[string]string{
				"copies its configuration":   "\n$ cp configs/" + s.config,
				"starts it":                  "\n$ muster serve --config " + s.config,
				"shows a certificate":        "\n$ openssl x509 ",
				"has a refusal explained":    "was refused by the stage ",
				"asks why":                   "\n$ muster explain ",
				"says that a test runs it":   "`TestStories`",
				"says what comes after that": "# Next\n",
			} {
				if !strings.Contains(text, want) {
					t.Errorf("docs/%s nowhere %s: no %q", s.page, what, want)
				}
			}
			tell(t, s, commandsOf(t, text), time.Minute)
		})
	}
}

// What an operator has to change stands in each example as a comment, "# CHANGE: why", on five lines at most, and the page lists them.
func TestExamplesSayWhatToChange(t *testing.T) {
	for _, s := range stories {
		text, told := string(fileOf(t, "../configs", s.config)), page(t, s.page)
		n := 0
		for line := range strings.Lines(text) {
			if strings.Contains(line, "# CHANGE: ") {
				n++
				if line = strings.TrimSpace(line); !strings.Contains(told, line+"\n") {
					t.Errorf("docs/%s does not list the line of configs/%s\n%s", s.page, s.config, line)
				}
			}
		}
		if n < 3 || n > 5 {
			t.Errorf("configs/%s: %d lines to change, want 3 to 5", s.config, n)
		}
		if !strings.Contains(text, "docs/"+s.page) {
			t.Errorf("configs/%s does not name docs/%s", s.config, s.page)
		}
	}
}

func page(t testing.TB, name string) string { return string(fileOf(t, "../docs", name)) }

// told is a command of a page with what it prints, or a step.
type told struct {
	line    int
	command string
	script  bool // the command is lines that all have to succeed, whatever they print
	prints  []string
	refused bool
	step    string
}

var stepMark = regexp.MustCompile(`^<!-- story: (\S+) -->$`)

// commandsOf takes the commands and steps out of a page.
func commandsOf(t testing.TB, text string) []told {
	t.Helper()
	var all []told
	in, before := false, ""
	for i, line := range strings.Split(text, "\n") {
		switch m := stepMark.FindStringSubmatch(line); {
		case !in && m != nil:
			all = append(all, told{line: i + 1, step: m[1]})
		case !in:
			in = line == "```console" && !notRunMark.MatchString(before)
		case line == "```":
			in = false
		case strings.HasPrefix(line, "$ "):
			all = append(all, told{line: i + 1, command: line[2:], refused: strings.HasSuffix(line, "# refused")})
		case len(all) == 0 || all[len(all)-1].step != "":
			t.Fatalf("line %d: what prints this? %s", i+1, line)
		default:
			last := &all[len(all)-1]
			if more, ok := strings.CutPrefix(line, "> "); ok && len(last.prints) == 0 {
				last.command += "\n" + more
				last.refused = last.refused || strings.HasSuffix(more, "# refused")
			} else {
				last.prints = append(last.prints, line)
			}
		}
		before = line
	}
	return all
}

// expression is what matches the lines that a page shows.
func expression(lines []string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString(`\A`)
	for _, line := range lines {
		if line = strings.TrimRight(line, " "); line == "…" {
			b.WriteString(`(?:.*\n)*?`)
			continue
		}
		b.WriteString(strings.ReplaceAll(regexp.QuoteMeta(line), "…", ".*?") + `\n`)
	}
	b.WriteString(`\z`)
	return regexp.MustCompile(b.String())
}

// telling is a story under way.
type telling struct {
	t      testing.TB
	dir    string
	g      *instance
	serves string            // the command that g runs
	env    []string          // of it, beside that of this process
	ports  map[string]string // of the page to those that were free
	in     io.Writer         // the shell's
	out    *bufio.Reader

	maker    *deviceMaker // docs/ios.md's
	phone    *iPhone
	identity signer
}

const storyMark = "--- end of the command:"

// tell runs a page's commands, for as long as patience lasts.
func tell(t *testing.T, s story, all []told, patience time.Duration) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	a := &telling{t: t, dir: t.TempDir(), ports: map[string]string{}}
	if err := os.CopyFS(filepath.Join(a.dir, "configs"), os.DirFS("../configs")); err != nil {
		t.Fatal(err)
	}
	shell := exec.CommandContext(ctx, "sh")
	shell.Dir, shell.Env = a.dir, a.environment()
	shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // what it has started ends with it
	shell.Cancel = func() error { return syscall.Kill(-shell.Process.Pid, syscall.SIGKILL) }
	in, err := shell.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := shell.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	a.in, a.out = in, bufio.NewReader(out)
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		shell.Wait() //nolint:errcheck // its commands have said what they have to say
	}()
	for _, c := range all {
		where := fmt.Sprintf("%s:%d", path.Join("docs", s.page), c.line)
		var got string
		code := 0
		switch {
		case c.step != "":
			step := s.steps[c.step]
			if step == nil {
				t.Fatalf("%s: no step %s", where, c.step)
			}
			step(a)
			continue
		case c.script:
			if got, code = a.run(where, "(\nset -e\n"+c.command+"\n)"); code != 0 {
				t.Fatalf("%s: exit %d of\n%s\n%s", where, code, c.command, got)
			}
			continue
		case c.command == "muster serve":
			got = a.quickstart()
		case strings.HasPrefix(c.command, "muster serve "):
			got = a.serve(c.command)
		case strings.HasPrefix(c.command, "systemctl "):
			a.systemctl(c.command)
		default:
			got, code = a.run(where, c.command)
		}
		if (code != 0) != c.refused {
			t.Fatalf("%s: exit %d of\n%s\n%s", where, code, c.command, got)
		}
		if !expression(c.prints).MatchString(got) {
			t.Errorf("%s: %s\nprints\n%s\nthe page shows\n%s", where, c.command, got, strings.Join(c.prints, "\n"))
		}
	}
}

func (a *telling) environment() []string {
	return append(append(os.Environ(), a.env...), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"), "HOME="+a.dir, "LC_ALL=C.UTF-8", "TZ=UTC",
		"MUSTER_FAULT_RSA=") // the pages show the default
}

// run has the shell run a command, and returns what it prints, with the page's ports.
func (a *telling) run(where, command string) (out string, code int) {
	a.t.Helper()
	// Standard input is the shell's own script; no command is to read on in it.
	fmt.Fprintf(a.in, "{ %s\n} </dev/null 2>&1\nprintf '\\n%s %%d\\n' $?\n", a.local(command), storyMark)
	var b strings.Builder
	for {
		line, err := a.out.ReadString('\n')
		if err != nil {
			a.t.Fatalf("%s: %v after\n%s\n%s", where, err, command, b.String())
		}
		if end, ok := strings.CutPrefix(line, storyMark); ok {
			if code, err = strconv.Atoi(strings.TrimSpace(end)); err != nil {
				a.t.Fatal(err)
			}
			return a.told(b.String()), code
		}
		b.WriteString(line)
	}
}

// told is what was printed as the page shows it: without space at the end of lines, a line's end at the end.
func (a *telling) told(out string) string {
	for page, local := range a.ports {
		out = strings.NewReplacer("127.0.0.1:"+local, "127.0.0.1:"+page, "localhost:"+local, "localhost:"+page).Replace(out)
	}
	out = regexp.MustCompile(`[ \r]+\n`).ReplaceAllString(out, "\n")
	if out = strings.TrimRight(out, "\n"); out == "" {
		return ""
	}
	return out + "\n"
}

func (a *telling) local(command string) string {
	for page, local := range a.ports {
		command = regexp.MustCompile(`\b(127\.0\.0\.1|localhost):`+page+`\b`).ReplaceAllString(command, "${1}:"+local)
	}
	return command
}

var addressKey = regexp.MustCompile(`(\baddress: *)[^ ,}\n]+`)

// serve starts the gateway, and returns its log up to when it is ready.
func (a *telling) serve(command string) string {
	a.t.Helper()
	m := regexp.MustCompile(`--config (\S+) --data (\S+)(?: --instance \S+)?$`).FindStringSubmatch(command)
	if m == nil || a.g != nil {
		a.t.Fatalf("a page says muster serve --config FILE --data DIR, once: %s", command)
	}
	file := filepath.Join(a.dir, m[1])
	text, err := os.ReadFile(file)
	if err != nil {
		a.t.Fatal(err)
	}
	text = addressKey.ReplaceAllFunc(text, func(key []byte) []byte {
		page := string(key[bytes.LastIndexByte(key, ':')+1:])
		if a.ports[page] == "" {
			a.ports[page] = strings.TrimPrefix(running.Address(a.t), "127.0.0.1:")
		}
		return append(addressKey.FindSubmatch(key)[1], "127.0.0.1:"+a.ports[page]...)
	})
	if err := os.WriteFile(file, text, 0o600); err != nil {
		a.t.Fatal(err)
	}
	data := filepath.Join(a.dir, m[2])
	a.g = &instance{t: a.t, dir: data, env: map[string]string{"MUSTER_CA": filepath.Join(data, "ca", "roots.pem")}}
	g := a.g
	a.t.Cleanup(func() { g.stop() })
	a.serves = command
	a.begin()
	return a.told(g.stderr.String())
}

// quickstart starts a gateway without a configuration, and returns what its screen says.
func (a *telling) quickstart() string {
	a.t.Helper()
	if a.g != nil {
		a.t.Fatal("a page starts one gateway")
	}
	for _, page := range []string{"8080", "8443"} {
		a.ports[page] = strings.TrimPrefix(running.Address(a.t), "127.0.0.1:")
	}
	a.g = &instance{t: a.t, dir: filepath.Join(a.dir, "muster-data")}
	g := a.g
	a.t.Cleanup(func() { g.stop() })
	a.serves = "muster serve --http 127.0.0.1:" + a.ports["8080"] + " --https 127.0.0.1:" + a.ports["8443"]
	a.begin()
	if err := g.ready(); err != nil {
		a.t.Fatal(err)
	}
	return a.told(g.stdout.String())
}

// begin starts the gateway, and waits until it is ready.
func (a *telling) begin() {
	cmd := exec.Command("sh", "-c", "exec "+a.serves)
	cmd.Dir, cmd.Env = a.dir, a.environment()
	a.g.start(cmd)
	a.g.listening(`\S+`)
}

// systemctl does what the unit's service would be told.
func (a *telling) systemctl(command string) {
	a.t.Helper()
	switch command {
	case "systemctl stop muster":
		a.g.stop()
	case "systemctl start muster":
		a.begin()
	default:
		a.t.Fatalf("the stories know systemctl stop muster and start muster: %s", command)
	}
}

// What a page may say, and what it may not.
func TestStoriesAreRead(t *testing.T) {
	text := "# Page\n```sh\n$ not this\n```\n<!-- story: phone -->\n```console\n$ cat <<END\n> a\n> END\na\n$ false # refused\n$ one \\\n>   two # refused\n…\n```\n$ nor this\n<!-- not run: why -->\n```console\n$ nor that\nx\n```\n"
	var got []string
	for _, c := range commandsOf(t, text) {
		got = append(got, fmt.Sprintf("%d %q %q %q %v", c.line, c.step, c.command, c.prints, c.refused))
	}
	want := []string{`5 "phone" "" [] false`, `7 "" "cat <<END\na\nEND" ["a"] false`, `11 "" "false # refused" [] true`, `12 "" "one \\\n  two # refused" ["…"] true`}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, c := range []struct {
		page, prints string
		same         bool
	}{
		{"", "", true}, {"", "noise\n", false}, {"a", "a\n", true}, {"a", "", false}, {"a", "a\nb\n", false}, {"a.c", "abc\n", false},
		{"took …s", "took 0.1s\n", true}, {"took …s", "took 1\ns\n", false}, {"a …", "b a c\n", false},
		{"…", "", true}, {"…\nlast", "1\n2\nlast\n", true}, {"…\nlast", "1\nlast\n2\n", false},
	} {
		var lines []string
		if c.page != "" {
			lines = strings.Split(c.page, "\n")
		}
		if expression(lines).MatchString(c.prints) != c.same {
			t.Errorf("%q shown, %q printed: want %v", c.page, c.prints, c.same)
		}
	}
	a := &telling{ports: map[string]string{"8080": "41000", "8443": "41001"}}
	if here := a.local("curl http://127.0.0.1:8080 https://localhost:8443/ 127.0.0.1:80801 10.0.0.1:8080"); here != "curl http://127.0.0.1:41000 https://localhost:41001/ 127.0.0.1:80801 10.0.0.1:8080" {
		t.Error(here)
	}
	if out := a.told("at 127.0.0.1:41000  \nend \n\n"); out != "at 127.0.0.1:8080\nend\n" {
		t.Errorf("%q", out)
	}
}
