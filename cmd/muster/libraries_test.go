package main

import (
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// A service that answers more than it says has nothing of it in our log.
func TestLibrariesQuoteNothing(t *testing.T) {
	out, flags, before := log.Writer(), log.Flags(), slog.Default()
	t.Cleanup(func() { slog.SetDefault(before); log.SetOutput(out); log.SetFlags(flags) })
	lines := make(chan string, 1)
	listenToLibraries(slog.New(slog.NewTextHandler(lineWriter(lines), nil)))
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, b, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		fmt.Fprint(b, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}the-challenge-4711")
		_ = b.Flush()
	}))
	defer service.Close()
	res, err := new(http.Transport).RoundTrip(httptest.NewRequest(http.MethodGet, service.URL, nil).WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	var line string
	select {
	case line = <-lines:
	case <-time.After(10 * time.Second):
		t.Fatal("net/http has said nothing of it: is the rule still wanted?")
	}
	if strings.Contains(line, "4711") || !strings.Contains(line, `msg="Unsolicited response received on idle HTTP channel"`) {
		t.Errorf("%s", line)
	}
}

type lineWriter chan string

func (w lineWriter) Write(p []byte) (int, error) {
	select {
	case w <- string(p):
	default: // the first line is the one
	}
	return len(p), nil
}
