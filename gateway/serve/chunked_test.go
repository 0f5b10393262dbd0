package serve

import (
	"bufio"
	"io"
	"net/http"
	"testing"
	"time"
)

// What stands behind a body in chunks is served by nobody: beside a Content-Length a proxy could have taken it for another client's.
func TestNothingFollowsAChunkedBody(t *testing.T) {
	s := NewSet(quiet())
	defer drain(t, s)
	apply(t, s, map[string]Spec{"a": {Address: "127.0.0.1:0", Handler: says("x")}})
	for _, length := range []string{"", "Content-Length: 5\r\n"} {
		c := from(t, "127.0.0.1", s.Addrs()["a"].String(),
			"POST / HTTP/1.1\r\nHost: x\r\n"+length+"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		r := bufio.NewReader(c)
		res, err := http.ReadResponse(r, nil)
		if err != nil || res.StatusCode != http.StatusOK || !res.Close {
			t.Fatalf("%v, %v", res, err)
		}
		io.Copy(io.Discard, res.Body)
		if rest, _ := io.ReadAll(r); len(rest) > 0 {
			t.Errorf("after it came %q", rest)
		}
	}
}
