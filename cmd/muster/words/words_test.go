package words

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// What strangers sent drives nothing.
func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"ünï, plain": "ünï, plain", "a\x1b[2Jb": `a\x1b[2Jb`, "a\r\nb\tc": `a\r\nb\tc`, "a\u202eb": `a\u202eb`, "a\xffb\x00": `a\ufffdb\x00`, "": "",
	} {
		if got := Plain(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{
		`a "b"`: `"a \"b\""`, "a\x1b\xff": `"a\x1b` + "\ufffd" + `"`, strings.Repeat("ü", 40): `"` + strings.Repeat("ü", 40) + `"`, strings.Repeat("ü", 41): `"` + strings.Repeat("ü", 39) + `…"`,
	} {
		if got := Quote(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func TestCounted(t *testing.T) {
	for n, want := range map[int]string{0: "0 devices", 1: "1 device", 2: "2 devices"} {
		if got := Counted(n, "device"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestMoment(t *testing.T) {
	at := time.Date(2026, 3, 1, 14, 0, 0, 7, time.FixedZone("", 2*3600))
	if got := Moment(at); got != "2026-03-01 12:00:00 UTC" {
		t.Error(got)
	}
}

func TestReadLine(t *testing.T) {
	r := bufio.NewReaderSize(strings.NewReader("a\r\n\n"+strings.Repeat("x", 100)+"\nlast"), 16)
	for _, want := range []struct {
		line string
		long bool
	}{{"a", false}, {"", false}, {strings.Repeat("x", 16), true}, {"last", false}} {
		line, long, err := ReadLine(r)
		if err != nil || long != want.long || !long && string(line) != want.line {
			t.Errorf("%q %v %v, want %+v", line, long, err, want)
		}
	}
	if line, long, err := ReadLine(r); !errors.Is(err, io.EOF) || line != nil || long {
		t.Errorf("behind the last: %q %v %v", line, long, err)
	}
	broken := errors.New("a broken disk")
	if _, _, err := ReadLine(bufio.NewReader(io.MultiReader(strings.NewReader("a"), iotest.ErrReader(broken)))); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}
