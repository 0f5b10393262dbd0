package host

import (
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestLines(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	for _, c := range []struct{ name, in, want string }{
		{"text", "hello\n", "level=INFO msg=hello plugin=ca\n"},
		{"no end of line", "hello", "level=INFO msg=hello plugin=ca\n"},
		{"empty", "\n\r\n", ""},
		{"carriage return", "hello\r\n", "level=INFO msg=hello plugin=ca\n"},
		{"slog", `{"time":"2030-01-01T00:00:00Z","level":"WARN","msg":"m","b":1,"a":"x"}` + "\n", "level=WARN msg=m plugin=ca a=x b=1\n"},
		{"hclog", `{"@level":"error","@message":"m","@module":"x","@timestamp":"then","k":true}` + "\n", "level=ERROR msg=m plugin=ca k=true\n"},
		{"trace", `{"@level":"trace","@message":"m"}` + "\n", "level=DEBUG-4 msg=m plugin=ca\n"},
		{"a message that is none", `{"@level":7,"@message":{}}` + "\n", "level=INFO msg=\"\" plugin=ca\n"},
		{"large numbers", `{"msg":"m","a":1000003,"b":0.5}` + "\n", "level=INFO msg=m plugin=ca a=1000003 b=0.5\n"},
		{"another's name", `{"msg":"m","plugin":"other"}` + "\n", "level=INFO msg=m plugin=ca\n"},
		{"no object", "{\"msg\"\n", "level=INFO msg=\"{\\\"msg\\\"\" plugin=ca\n"},
		{"not UTF-8", "a\xffb\n", "level=INFO msg=a?b plugin=ca\n"},
		{"forged line", "{\"msg\":\"m\\nlevel=ERROR msg=forged\"}\n", "level=INFO msg=\"m\\nlevel=ERROR msg=forged\" plugin=ca\n"},
		{"crash", "panic: x\n\ngoroutine 1\n", "level=ERROR msg=\"panic: x\" plugin=ca\nlevel=ERROR msg=\"goroutine 1\" plugin=ca\n"},
		{"just fits", long + "\nnext\n", "level=INFO msg=" + long + " plugin=ca\nlevel=INFO msg=next plugin=ca\n"},
		{"too long", long + "yz\nnext\n", "level=INFO msg=" + long + " plugin=ca truncated=true\nlevel=INFO msg=next plugin=ca\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, size := range []int{1, 7, len(c.in)} { // as pieces may come
				var out strings.Builder
				log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.Level(-8), ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
					if a.Key == slog.TimeKey {
						return slog.Attr{}
					}
					return a
				}}))
				l := &lines{log: log.With("plugin", "ca")}
				for in := c.in; in != ""; in = in[min(size, len(in)):] {
					if _, err := l.Write([]byte(in[:min(size, len(in))])); err != nil {
						t.Fatal(err)
					}
				}
				l.flush()
				if out.String() != c.want {
					t.Errorf("in pieces of %d: %.300q, not %.300q", size, out.String(), c.want)
				}
			}
		})
	}
}

func TestLinesBoundAttributes(t *testing.T) {
	var in strings.Builder
	in.WriteString(`{"msg":"m"`)
	for i := range 100 {
		in.WriteString(`,"k` + strings.Repeat("x", i) + `":1`)
	}
	in.WriteString("}\n")
	var out strings.Builder
	l := &lines{log: slog.New(slog.NewTextHandler(&out, nil))}
	if _, err := l.Write([]byte(in.String())); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "=1"); n != maxAttrs {
		t.Errorf("%d attributes, not %d", n, maxAttrs)
	}
}

func FuzzLines(f *testing.F) {
	for _, s := range []string{"text\n", `{"level":"WARN","msg":"m","a":{"b":[1,2]}}` + "\n", `{"@message":1}` + "\n", "panic: \n{", "\xff\n"} {
		f.Add([]byte(s), 3)
	}
	f.Fuzz(func(t *testing.T, in []byte, size int) {
		var out strings.Builder
		l := &lines{log: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.Level(-100)}))}
		for size = max(size, 1); len(in) > 0; in = in[min(size, len(in)):] {
			if _, err := l.Write(in[:min(size, len(in))]); err != nil {
				t.Fatal(err)
			}
			if len(l.buf) > maxLine {
				t.Fatalf("%d bytes kept", len(l.buf))
			}
		}
		l.flush()
	})
}

// A plugin that writes without end fills no log, and the log tells so.
func TestLinesAreCounted(t *testing.T) {
	var out strings.Builder
	now := time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)
	budget := &lineBudget{clock: func() time.Time { return now }}
	log := slog.New(slog.NewTextHandler(&out, nil))
	one, other := &lines{log: log, budget: budget}, &lines{log: log, budget: budget} // two lives
	written := func(n int) int {
		out.Reset()
		for i := range n {
			l := one
			if i%2 == 0 {
				l = other
			}
			if _, err := l.Write([]byte("again\n")); err != nil {
				t.Fatal(err)
			}
		}
		return strings.Count(out.String(), "msg=again")
	}
	if n := written(3 * linesBurst); n != linesBurst {
		t.Errorf("%d lines of a burst", n)
	}
	now = now.Add(time.Second - 1)
	if n := written(10); n != 0 {
		t.Errorf("%d lines before a second has passed", n)
	}
	now = now.Add(1)
	if n := written(2 * linesBurst); n != 500 || strings.Count(out.String(), "dropped=10010") != 1 {
		t.Errorf("%d lines a second later\n%.300s", n, out.String())
	}
	now = now.Add(time.Hour)
	if n := written(3 * linesBurst); n != linesBurst {
		t.Errorf("%d lines of a burst an hour later", n)
	}
}
