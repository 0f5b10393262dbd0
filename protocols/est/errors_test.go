package est

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
)

func TestEveryReasonHasAStatus(t *testing.T) {
	for _, reason := range gateway.Reasons {
		for _, challenge := range []bool{false, true} {
			status, known := statusOf(reason, challenge)
			if !known {
				t.Errorf("%s falls to the default", reason)
			}
			if status < 400 || status > 599 {
				t.Errorf("%s renders as %d", reason, status)
			}
			if status == http.StatusUnauthorized && !challenge {
				t.Errorf("%s: 401 without a challenge to offer", reason)
			}
		}
	}
	if _, known := statusOf("no-such-reason", true); known {
		t.Error("an unknown reason counts as known: this test could not fail")
	}
}

// The table of the error rendering, over TLS, with the headers that belong to a status.
func TestRendering(t *testing.T) {
	type want struct {
		status     int
		retryAfter string
	}
	wants := map[gateway.Reason]want{
		gateway.Malformed: {400, ""}, gateway.Undecryptable: {400, ""}, gateway.BadIntegrity: {400, ""},
		gateway.WrongProtection: {400, ""}, gateway.Untrusted: {403, ""}, gateway.Unauthenticated: {401, ""},
		gateway.BadAlgorithm: {400, ""}, gateway.BadTime: {400, ""}, gateway.BadPOP: {400, ""},
		gateway.BadTemplate: {400, ""}, gateway.UnknownCert: {400, ""}, gateway.Revoked: {403, ""},
		gateway.NotAuthorized: {403, ""}, gateway.DuplicateCert: {409, ""}, gateway.Unsupported: {501, ""},
		gateway.Busy: {503, "3"}, gateway.Unavailable: {503, "3"}, gateway.Internal: {500, ""},
	}
	w := newWorld(t, worldOptions{})
	client, body := w.client(nil, nil, nil), b64(makeCSR(t, csrOptions{key: newP256()}))
	for _, reason := range gateway.Reasons {
		want, ok := wants[reason]
		if !ok {
			t.Errorf("%s is not in this table", reason)
			continue
		}
		w.gateway.enroll = func(*gateway.Request) (*gateway.Result, error) {
			return nil, &gateway.Error{Reason: reason, Detail: "this is why", RetryAfter: 2100 * time.Millisecond, Transaction: testReference,
				Err: errSecretCause}
		}
		got := send(t, client, w.enrollment(root+"/simpleenroll", body))
		if got.StatusCode != want.status {
			t.Errorf("%s: %d, want %d", reason, got.StatusCode, want.status)
		}
		if got.Header.Get("Retry-After") != want.retryAfter {
			t.Errorf("%s: Retry-After %q, want %q", reason, got.Header.Get("Retry-After"), want.retryAfter)
		}
		challenge := got.Header.Get("WWW-Authenticate")
		if (challenge == `Basic realm="ran", charset="UTF-8"`) != (want.status == 401) {
			t.Errorf("%s: WWW-Authenticate %q with %d", reason, challenge, got.StatusCode)
		}
		if got.body != "this is why (reference "+testReference+")\n" {
			t.Errorf("%s: body %q", reason, got.body)
		}
		if got.Header.Get("Content-Type") != "text/plain; charset=utf-8" || got.ContentLength != int64(len(got.body)) {
			t.Errorf("%s: type %q, length %d", reason, got.Header.Get("Content-Type"), got.ContentLength)
		}
	}
	if len(w.gateway.rejected) != 0 {
		t.Error("what Enroll refused was reported once more")
	}

	// Where no password is looked at, there is nothing to ask for (RFC 9110 section 15.5.2).
	w.gateway.accepts = false
	w.gateway.enroll = func(*gateway.Request) (*gateway.Result, error) {
		return nil, &gateway.Error{Reason: gateway.Unauthenticated, Transaction: testReference}
	}
	got := send(t, client, w.enrollment(root+"/simpleenroll", body))
	if got.StatusCode != 403 || got.Header.Get("WWW-Authenticate") != "" {
		t.Errorf("without Basic: %d, WWW-Authenticate %q", got.StatusCode, got.Header.Get("WWW-Authenticate"))
	}
	if got.body != "forbidden (reference "+testReference+")\n" {
		t.Errorf("without a detail: %q", got.body)
	}
}

var errSecretCause = &gateway.Error{Reason: gateway.Internal, Detail: "the cause is for the log"}

// libest's client knows the header by its exact letters, which net/http would change to Www-Authenticate.
func TestChallengeIsSpelledAsInTheRFC(t *testing.T) {
	w := newWorld(t, worldOptions{})
	conn, err := tls.Dial("tcp", w.server.Listener.Addr().String(), w.client(nil, nil, nil).Transport.(*http.Transport).TLSClientConfig)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST %s/simpleenroll HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/pkcs10\r\nContent-Length: 0\r\n\r\n", root)
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(answer), "HTTP/1.1 401 ") || !strings.Contains(string(answer), "\r\nWWW-Authenticate: Basic ") {
		t.Errorf("%q", answer)
	}
}

// BouncyCastle's ESTService sends no User-Agent, and gives up where 401 or 202 has a body.
func TestNoWordsForWhomTheyStop(t *testing.T) {
	w := newWorld(t, worldOptions{})
	client, body := w.client(nil, nil, nil), b64(makeCSR(t, csrOptions{key: newP256()}))
	for _, c := range []struct {
		status int
		agent  string
		words  bool
	}{{401, "", false}, {401, "curl/7.88.1", true}, {202, "", false}, {202, "curl/7.88.1", true}, {403, "", true}} {
		w.gateway.enroll = func(*gateway.Request) (*gateway.Result, error) {
			switch c.status {
			case 401:
				return nil, &gateway.Error{Reason: gateway.Unauthenticated, Detail: "this is why"}
			case 403:
				return nil, &gateway.Error{Reason: gateway.NotAuthorized, Detail: "this is why"}
			}
			return &gateway.Result{Kind: gateway.ResultPending, Transaction: testReference}, nil
		}
		r := w.enrollment(root+"/simpleenroll", body)
		r.Header["User-Agent"] = []string{c.agent} // "" sends none
		got := send(t, client, r)
		if got.StatusCode != c.status || (got.body != "") != c.words || got.ContentLength != int64(len(got.body)) {
			t.Errorf("%d for %q: %d, %d bytes, %q", c.status, c.agent, got.StatusCode, got.ContentLength, got.body)
		}
		if (got.Header.Get("Retry-After") != "") != (c.status == 202) || (got.Header.Get("WWW-Authenticate") != "") != (c.status == 401) {
			t.Errorf("%d for %q: %v", c.status, c.agent, got.Header)
		}
	}
}
