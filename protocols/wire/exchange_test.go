package wire

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/muster-pki/muster/gateway"
)

var testTime = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// begin returns an exchange with what it writes and logs.
func begin(r *http.Request) (*Exchange, *httptest.ResponseRecorder, *bytes.Buffer) {
	rec, log := httptest.NewRecorder(), &bytes.Buffer{}
	x := New(rec, r, gateway.EST, testTime, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	return &x, rec, log
}

func TestNew(t *testing.T) {
	x, _, _ := begin(httptest.NewRequest("GET", "/", nil))
	if q := x.Request; !gateway.ValidID(q.ID) || q.Protocol != gateway.EST || q.POP != gateway.POPNone || !q.Received.Equal(testTime) || q.Source.String() != "192.0.2.1" {
		t.Errorf("%+v", q)
	}
}

func TestNewThroughAProxy(t *testing.T) {
	r := httptest.NewRequest("GET", "/", nil)
	x, _, _ := begin(r.WithContext(gateway.ThroughProxy(r.Context(), "edge")))
	if x.Request.Proxy != "edge" {
		t.Errorf("%+v", x.Request)
	}
}

func TestSource(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1:443": "192.0.2.1", "[2001:db8::1]:443": "2001:db8::1", "[::ffff:192.0.2.1]:80": "192.0.2.1",
		"": "invalid IP", "@": "invalid IP", "example.org:80": "invalid IP",
	} {
		if got := source(remote).String(); got != want {
			t.Errorf("%q: %s", remote, got)
		}
	}
}

func TestWrite(t *testing.T) {
	for _, method := range []string{"GET", "HEAD"} {
		x, rec, _ := begin(httptest.NewRequest(method, "/", nil))
		x.Write(201, "text/x", []byte("four"))
		want := "four"
		if method == "HEAD" {
			want = ""
		}
		h := rec.Header()
		if rec.Code != 201 || h.Get("Content-Type") != "text/x" || h.Get("Content-Length") != "4" || h.Get("Cache-Control") != "no-store" || rec.Body.String() != want || !x.Answered {
			t.Errorf("%s: %d %v %q", method, rec.Code, h, rec.Body)
		}
	}
}

type gone struct{ http.ResponseWriter }

func (gone) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestAnswerNotDelivered(t *testing.T) {
	x, rec, log := begin(httptest.NewRequest("GET", "/", nil))
	x.W = gone{rec}
	x.Text(200, "x", "")
	if !strings.Contains(log.String(), "broken pipe") || !strings.Contains(log.String(), x.Request.ID) {
		t.Errorf("%s", log)
	}
}

// Each status has its own header, and no other.
func TestError(t *testing.T) {
	for status, want := range map[int][3]string{ // Allow, Connection, Retry-After
		405: {"GET, HEAD", "", ""}, 413: {"", "close", ""}, 503: {"", "", "3"}, 404: {}, 500: {},
	} {
		x, rec, _ := begin(httptest.NewRequest("GET", "/", nil))
		x.Error(status, &gateway.Error{Detail: "why", RetryAfter: 2100 * time.Millisecond, Transaction: "abc"}, "GET, HEAD")
		h := rec.Header()
		if got := [3]string{h.Get("Allow"), h.Get("Connection"), h.Get("Retry-After")}; rec.Code != status || got != want {
			t.Errorf("%d: %d %q", status, rec.Code, got)
		}
		if h.Get("Content-Type") != "text/plain; charset=utf-8" || rec.Body.String() != "why (reference abc)\n" {
			t.Errorf("%d: %v %q", status, h, rec.Body)
		}
	}
	x, rec, _ := begin(httptest.NewRequest("GET", "/", nil))
	x.Error(403, &gateway.Error{Reason: gateway.NotAuthorized, Err: errors.New("secret")}, "")
	if rec.Body.String() != "forbidden\n" {
		t.Errorf("without a detail: %q", rec.Body)
	}
}

func TestLine(t *testing.T) {
	got := Line("first\r\nSet-Cookie: x\tend\x7f\xff", "abc")
	if strings.ContainsAny(got, "\r\n\t\x7f") || !utf8.ValidString(got) || !strings.HasSuffix(got, "(reference abc)") {
		t.Errorf("%q", got)
	}
	if got := Line("why", ""); got != "why" {
		t.Errorf("without a transaction: %q", got)
	}
	for _, long := range []string{strings.Repeat("é", 5000), "x" + strings.Repeat("é", 5000), strings.Repeat("\xff", 5000)} {
		got := Line(long, "abc")
		if len(got) > MaxDetail+20 || !strings.HasSuffix(got, "... (reference abc)") || !utf8.ValidString(got) {
			t.Errorf("%d bytes: %q", len(got), got)
		}
	}
}

func TestRetryAfterIsWholeSeconds(t *testing.T) {
	x := Exchange{Limits: Limits{RetryAfter: 45e9}}
	for d, want := range map[time.Duration]int64{
		time.Millisecond: 1, time.Second: 1, 1500 * time.Millisecond: 2, 0: 45, -time.Second: 45, time.Hour: 3600,
	} {
		if got := x.RetryAfter(d); got != want {
			t.Errorf("%v: %d, want %d", d, got, want)
		}
	}
	if got := (&Exchange{}).RetryAfter(0); got != 30 {
		t.Errorf("without an endpoint: %d", got)
	}
}

// A panic ends one exchange: with what refuse makes of it, or with plain text when that panics too.
func TestContain(t *testing.T) {
	for name, tt := range map[string]struct {
		serve  func(*Exchange)
		refuse func(*Exchange, *Refusal)
		code   int
		body   string
		logged []string
	}{
		"none": {func(x *Exchange) { x.Text(200, "fine", "") }, nil, 200, "fine\n", nil},
		"one": {func(*Exchange) { panic("stage 42 broke") }, func(x *Exchange, ref *Refusal) {
			if ref.Err.Reason != gateway.Internal || ref.Err.Detail != "" || !strings.Contains(ref.Err.Err.Error(), "stage 42 broke") {
				panic("wrong refusal")
			}
			x.Error(500, ref.Err, "")
		}, 500, "internal server error\n", []string{"stage 42 broke", "exchange_test.go", "protocol=est"}},
		"two":   {func(*Exchange) { panic("first") }, func(*Exchange, *Refusal) { panic("second") }, 500, "internal server error (reference ID)\n", []string{"first", "second"}},
		"after": {func(x *Exchange) { x.Text(200, "fine", ""); panic("late") }, func(*Exchange, *Refusal) { t.Error("answered twice") }, 200, "fine\n", []string{"late"}},
		"two, the second after": {func(*Exchange) { panic("first") }, func(x *Exchange, _ *Refusal) { x.Text(503, "no", ""); panic("second") },
			503, "no\n", []string{"first", "second"}},
	} {
		x, rec, log := begin(httptest.NewRequest("GET", "/", nil))
		func() {
			defer x.Contain(func(ref *Refusal) { tt.refuse(x, ref) })
			tt.serve(x)
		}()
		if want := strings.Replace(tt.body, "ID", x.Request.ID, 1); rec.Code != tt.code || rec.Body.String() != want {
			t.Errorf("%s: %d %q", name, rec.Code, rec.Body)
		}
		for _, want := range tt.logged {
			if !strings.Contains(log.String(), want) {
				t.Errorf("%s: the log does not say %q: %s", name, want, log)
			}
		}
		if tt.logged == nil && log.Len() > 0 {
			t.Errorf("%s: logged %s", name, log)
		}
	}
	defer func() {
		if recover() != http.ErrAbortHandler {
			t.Error("net/http's own panic is held up")
		}
	}()
	x, _, _ := begin(httptest.NewRequest("GET", "/", nil))
	defer x.Contain(func(*Refusal) { t.Error("refused") })
	panic(http.ErrAbortHandler)
}

type cut struct{}

func (cut) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestReadBody(t *testing.T) {
	header := func(name string, values ...string) func(*http.Request) {
		return func(r *http.Request) { r.Header[name] = values }
	}
	for name, tt := range map[string]struct {
		accepts string
		body    io.Reader
		change  func(*http.Request)
		status  int // 0: read
		detail  string
	}{
		"as it should be":            {"a/b", strings.NewReader("x"), header("Content-Type", "a/b"), 0, ""},
		"in any case, parameters":    {"a/b", strings.NewReader("x"), header("Content-Type", " A/B ; charset"), 0, ""},
		"no type":                    {"a/b", strings.NewReader("x"), nil, 415, "the request needs one Content-Type header: a/b"},
		"two types":                  {"a/b", strings.NewReader("x"), header("Content-Type", "a/b", "a/b"), 415, "the request needs one Content-Type header: a/b"},
		"another type":               {"a/b", strings.NewReader("x"), header("Content-Type", "a/bc"), 415, "the Content-Type of a request is a/b"},
		"any type, none":             {"", strings.NewReader("x"), nil, 0, ""},
		"any type":                   {"", strings.NewReader("x"), header("Content-Type", "a/b", "c/d"), 0, ""},
		"identity":                   {"", strings.NewReader("x"), header("Content-Encoding", "Identity", ""), 0, ""},
		"gzip":                       {"", strings.NewReader("x"), header("Content-Encoding", "identity", "gzip"), 415, "a Content-Encoding is not accepted"},
		"as large as may be":         {"", strings.NewReader(strings.Repeat("x", 8192)), nil, 0, ""},
		"larger":                     {"", strings.NewReader(strings.Repeat("x", 8193)), nil, 413, "the request is larger than 8192 bytes"},
		"announced larger, not read": {"", cut{}, func(r *http.Request) { r.ContentLength = 8193 }, 413, "the request is larger than 8192 bytes"},
		"larger, unannounced":        {"", io.MultiReader(strings.NewReader(strings.Repeat("x", 8193))), nil, 413, "the request is larger than 8192 bytes"},
		"cut off":                    {"", cut{}, nil, 400, "the request's body did not arrive whole"},
	} {
		r := httptest.NewRequest("POST", "/", tt.body)
		if tt.change != nil {
			tt.change(r)
		}
		x, _, _ := begin(r)
		x.Limits.MaxBody = 8192
		body, ref := x.ReadBody(tt.accepts)
		switch {
		case ref == nil:
			if tt.status != 0 || len(body) == 0 {
				t.Errorf("%s: read %d bytes", name, len(body))
			}
		case ref.Status != tt.status || ref.Err.Reason != gateway.Malformed || ref.Err.Detail != tt.detail || body != nil || (ref.Err.Err != nil) != (name == "cut off"):
			t.Errorf("%s: %d %+v", name, ref.Status, ref.Err)
		}
	}
	// Without limits the default holds.
	x, _, _ := begin(httptest.NewRequest("POST", "/", strings.NewReader(strings.Repeat("x", 256<<10+1))))
	if _, ref := x.ReadBody(""); ref == nil || ref.Status != 413 {
		t.Errorf("%+v", ref)
	}
}

func TestNotAllowed(t *testing.T) {
	if ref := NotAllowed("takes GET", "GET", "HEAD"); ref.Status != 405 || ref.Allow != "GET, HEAD" || ref.Err.Reason != gateway.Malformed || ref.Err.Detail != "takes GET" {
		t.Errorf("%+v", ref)
	}
}
