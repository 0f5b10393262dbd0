package decode

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"flag"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
)

var updateGolden = flag.Bool("update", false, "write the views in testdata anew")

// runDecode runs "muster cmp|scep decode" as the program does and returns what it prints.
func runDecode(t testing.TB, stdin []byte, args ...string) (string, error) {
	t.Helper()
	cmd := NewCMPCommand()
	if args[0] == "scep" {
		cmd = NewSCEPCommand()
	}
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetIn(bytes.NewReader(stdin))
	cmd.SetArgs(args[1:])
	err := cmd.Execute()
	return out.String(), err
}

// decoded is runDecode of a message that is sound.
func decoded(t testing.TB, stdin []byte, args ...string) string {
	t.Helper()
	out, err := runDecode(t, stdin, args...)
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	return out
}

// golden compares a view with the one in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".txt")
	if *updateGolden {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: the view is\n%s\nwant\n%s", name, got, want)
	}
}

// has checks that a view has lines, blanks between label and value folded.
func has(t testing.TB, view string, lines ...string) {
	t.Helper()
	folded := make(map[string]bool)
	for line := range strings.Lines(view) {
		folded[strings.Join(strings.Fields(line), " ")] = true
	}
	for _, want := range lines {
		if !folded[want] {
			t.Errorf("no line %q in\n%s", want, view)
		}
	}
}

func tempFile(t testing.TB, data []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Every form that a capture comes in shows the same.
func TestDecodeInputForms(t *testing.T) {
	der := decodeWorld(t).ir(t)
	want := decoded(t, der, "cmp", "-")
	b64 := base64.StdEncoding.EncodeToString(der)
	wrapped := strings.Join(splitEvery(b64, 60), "\r\n") + "\r\n"
	for name, data := range map[string][]byte{
		"PEM":          pem.EncodeToMemory(&pem.Block{Type: "ANYTHING", Bytes: der}),
		"PEM and text": append([]byte("seen at noon\n"), pem.EncodeToMemory(&pem.Block{Type: "PKIMESSAGE", Bytes: der})...),
		"base64":       []byte(b64),
		"wrapped":      []byte(wrapped),
		"URL alphabet": []byte(base64.URLEncoding.EncodeToString(der)),
		"no padding":   []byte(base64.RawStdEncoding.EncodeToString(der)),
		"from a URL":   []byte(url.QueryEscape(b64)),
	} {
		if got := decoded(t, data, "cmp", "-"); got != want {
			t.Errorf("%s: %s", name, got)
		}
		if got := decoded(t, nil, "cmp", tempFile(t, data)); got != want {
			t.Errorf("%s from a file: %s", name, got)
		}
	}
	two := bytes.Repeat(pem.EncodeToMemory(&pem.Block{Type: "PKIMESSAGE", Bytes: der}), 2)
	if got := decoded(t, two, "cmp", "-"); got != want+"\n"+want {
		t.Errorf("two blocks: %s", got)
	}
}

func splitEvery(s string, n int) (out []string) {
	for len(s) > n {
		out, s = append(out, s[:n]), s[n:]
	}
	return append(out, s)
}

func TestDecodeRefusesWhatIsNoMessage(t *testing.T) {
	for _, tt := range []struct {
		name string
		data []byte
		want string
	}{
		{"empty", nil, "-: empty"},
		{"text", []byte("hello, world!\n"), "-: byte 0: neither DER, nor PEM, nor base64"},
		{"blanks", []byte(" \n"), "-: byte 0: neither DER, nor PEM, nor base64"},
		{"large", bytes.Repeat([]byte{0x30}, maxCapture+1), "-: over 16 MiB"},
	} {
		for _, command := range []string{"cmp", "scep"} {
			if out, err := runDecode(t, tt.data, command, "-"); err == nil || err.Error() != tt.want {
				t.Errorf("%s %s: %v, want %s\n%s", command, tt.name, err, tt.want, out)
			}
		}
	}
	if _, err := runDecode(t, nil, "cmp", filepath.Join(t.TempDir(), "none")); !os.IsNotExist(err) {
		t.Errorf("no such file: %v", err)
	}
	if _, err := runDecode(t, nil, "cmp"); err == nil {
		t.Error("no FILE")
	}
}

// What the message brings is shown, and drives nothing: neither the terminal nor the layout.
func TestViewEscapes(t *testing.T) {
	root := &node{label: "a\x1b[2J", value: "b\nc\u202e\xff\x00"}
	root.add("x", strings.Repeat("y", maxViewText+1))
	root.add(strings.Repeat("z", 3*maxViewText), "1")
	var out bytes.Buffer
	if err := root.render(&out); err != nil {
		t.Fatal(err)
	}
	assertPrintable(t, out.String())
	lines := strings.Split(out.String(), "\n")
	if len(lines) != 4 || lines[0] != `a\x1b[2J  b\nc\u202e\ufffd\x00` {
		t.Errorf("%q", lines)
	}
	if want := "... (2001 characters in all)"; !strings.HasSuffix(lines[1], want) || len(lines[1]) > maxViewText+60 {
		t.Errorf("not cut: %q", lines[1])
	}
	if len(lines[2]) > maxViewText+60 {
		t.Errorf("label not cut: %d", len(lines[2]))
	}
}

func assertPrintable(t testing.TB, view string) {
	t.Helper()
	for i, r := range view {
		if r != '\n' && (!unicode.IsPrint(r) || r == unicode.ReplacementChar) {
			t.Fatalf("%q at %d of the view:\n%q", r, i, view)
		}
	}
}

func TestViewIsAlignedAndBounded(t *testing.T) {
	root := &node{label: "root"}
	root.add("a", "1")
	below := root.add("long", "2")
	below.add("inner", "3")
	root.add("title", "").add("x", "4")
	root.add(strings.Repeat("w", maxViewLabel+1), "5")
	var out bytes.Buffer
	if err := root.render(&out); err != nil {
		t.Fatal(err)
	}
	want := "root\n  a     1\n  long  2\n    inner  3\n  title\n    x  4\n  " + strings.Repeat("w", maxViewLabel+1) + "  5\n"
	if out.String() != want {
		t.Errorf("%s\nwant\n%s", out.String(), want)
	}

	deep := &node{label: "deep"}
	for at, i := deep, 0; i < 10*maxViewDepth; i++ {
		at = at.add("d", "")
	}
	wide := &node{label: "wide"}
	for range maxViewLines + 10 {
		wide.add("w", "")
	}
	for _, tt := range []struct {
		root  *node
		lines int
		last  string
	}{{deep, maxViewDepth + 2, "(deeper than 32 levels: left out)"}, {wide, maxViewLines, "(over 200000 lines: the rest is left out)"}} {
		out.Reset()
		if err := tt.root.render(&out); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(out.String(), "\n"); n != tt.lines || !strings.HasSuffix(out.String(), tt.last+"\n") {
			t.Errorf("%s: %d lines", tt.root.label, n)
		}
	}
}
