package scep

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	smallscep "github.com/smallstep/scep"

	"github.com/muster-pki/muster/gateway"
)

func TestEveryReasonIsRendered(t *testing.T) {
	for _, reason := range gateway.Reasons {
		r, known := render(reason)
		if !known {
			t.Errorf("%s falls to the default", reason)
		}
		if r.status < 400 || r.status > 599 || (r.failInfo == "") != (r.status == 503 || r.status == 500) {
			t.Errorf("%s renders as %d, failInfo %q", reason, r.status, string(r.failInfo))
		}
	}
	if _, known := render("no-such-reason"); known {
		t.Error("an unknown reason counts as known: this test could not fail")
	}
}

// The table of the rendering, as clients see it.
// RFC 8894 sections 3.2.1.4 (failInfo), 3.2.1.4.4 (failInfoText) and 4.3.
func TestRendering(t *testing.T) {
	type want struct {
		failInfo   smallscep.FailInfo
		status     int
		retryAfter string
	}
	wants := map[gateway.Reason]want{
		gateway.Malformed: {"2", 200, ""}, gateway.Undecryptable: {"2", 200, ""}, gateway.BadIntegrity: {"1", 200, ""},
		gateway.WrongProtection: {"2", 200, ""}, gateway.Untrusted: {"2", 200, ""}, gateway.Unauthenticated: {"2", 200, ""},
		gateway.BadAlgorithm: {"0", 200, ""}, gateway.BadTime: {"3", 200, ""}, gateway.BadPOP: {"2", 200, ""},
		gateway.BadTemplate: {"2", 200, ""}, gateway.UnknownCert: {"4", 200, ""}, gateway.Revoked: {"2", 200, ""},
		gateway.NotAuthorized: {"2", 200, ""}, gateway.DuplicateCert: {"2", 200, ""}, gateway.Unsupported: {"2", 200, ""},
		gateway.Busy: {"", 503, "3"}, gateway.Unavailable: {"", 503, "3"}, gateway.Internal: {"", 500, ""},
	}
	w := newWorld(t, worldOptions{})
	message := w.message(wish{})
	for _, reason := range gateway.Reasons {
		want, ok := wants[reason]
		if !ok {
			t.Errorf("%s is not in this table", reason)
			continue
		}
		w.gateway.enroll = func(*gateway.Request) (*gateway.Result, error) {
			return nil, &gateway.Error{Reason: reason, Detail: "this is\r\nwhy", RetryAfter: 2100 * time.Millisecond, Transaction: testReference,
				Err: errors.New("the cause is for the log")}
		}
		got := w.post("/scep", message)
		if got.StatusCode != want.status || got.Header.Get("Retry-After") != want.retryAfter {
			t.Errorf("%s: %d, Retry-After %q", reason, got.StatusCode, got.Header.Get("Retry-After"))
		}
		text := string(got.body)
		if want.status == 200 {
			a := w.read(t, got, nil, nil)
			text = a.text + "\n"
			if a.status != "2" || a.failInfo != string(want.failInfo) {
				t.Errorf("%s: %+v", reason, a)
			}
		}
		switch {
		case reason == gateway.Undecryptable:
			if text != undecryptable+"\n" {
				t.Errorf("%s: %q", reason, text)
			}
		case text != "this is  why (reference "+testReference+")\n":
			t.Errorf("%s: %q", reason, text)
		}
	}
	if w.gateway.rejections() != 0 {
		t.Error("what Enroll refused was reported once more")
	}
	w.gateway.enroll = func(*gateway.Request) (*gateway.Result, error) {
		return nil, &gateway.Error{Reason: gateway.NotAuthorized}
	}
	if a := w.read(t, w.post("/scep", message), nil, nil); a.text != "the request is refused" {
		t.Errorf("without a detail: %q", a.text)
	}
}

// A panic ends one request, with 500, and nothing of it reaches the client.
func TestPanics(t *testing.T) {
	for _, twice := range []bool{false, true} {
		w := newWorld(t, worldOptions{})
		w.gateway.panics = twice
		w.gateway.enroll = func(*gateway.Request) (*gateway.Result, error) { panic("a secret") }
		got := w.post("/scep", w.message(wish{}))
		if got.StatusCode != 500 || strings.Contains(string(got.body), "secret") {
			t.Errorf("twice %v: %d %s", twice, got.StatusCode, got.body)
		}
		if !strings.Contains(w.log.String(), "a secret") {
			t.Error("the panic is not in the log")
		}
	}
	w := newWorld(t, worldOptions{})
	w.gateway.enroll = func(*gateway.Request) (*gateway.Result, error) { panic(http.ErrAbortHandler) }
	defer func() {
		if recover() != http.ErrAbortHandler {
			t.Error("net/http's own panic is held up")
		}
	}()
	w.router.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/scep", strings.NewReader(string(w.message(wish{})))))
}

// No nonce, no answer.
func TestNoRandomness(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.handler.rand = strings.NewReader("short")
	if got := w.post("/scep", w.message(wish{})); got.StatusCode != 500 {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
}
