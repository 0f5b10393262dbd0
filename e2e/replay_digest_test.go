package e2e

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
)

// bearing sends every request with an Authorization header as it was recorded.
type bearing struct {
	*http.Transport
	authorization string
}

func (b bearing) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", b.authorization)
	return b.Transport.RoundTrip(r)
}

// bears is a client that sends the header.
func (w *replays) bears(authorization string) *http.Client {
	return &http.Client{Transport: bearing{w.client(nil).Transport.(*http.Transport), authorization}}
}

var digestNonce = regexp.MustCompile(`Digest .*nonce="([^"]+)"`)

// digestLogin answers a new challenge of the endpoint (RFC 7616, SHA-256, qop auth, which says nothing of the request's body).
func (w *replays) digestLogin(endpoint, user, password string) string {
	w.t.Helper()
	path := endpoint + "/simpleenroll"
	a, err := w.post(w.t.Context(), w.client(nil), path, "", "", "application/pkcs10", []byte(toBase64(newDevice(w.t, "nobody").csr)))
	if err != nil {
		w.t.Fatal(err)
	}
	nonce := digestNonce.FindStringSubmatch(strings.Join(a.header.Values("WWW-Authenticate"), "\n"))
	if a.status != http.StatusUnauthorized || nonce == nil {
		w.t.Fatalf("no challenge: %d %v", a.status, a.header)
	}
	uri := "/.well-known/est/" + path
	return fmt.Sprintf(`Digest username="%s", realm="%s", nonce="%s", uri="%s", cnonce="c", nc=00000001, qop=auth, algorithm=SHA-256, response="%s"`, user, endpoint, nonce[1], uri,
		sha256Hex(sha256Hex(user+":"+endpoint+":"+password)+":"+nonce[1]+":00000001:c:auth:"+sha256Hex("POST:"+uri)))
}

// recordDigest records an enrollment by HTTP Digest: the request with the Authorization header that it was sent with.
func (w *replays) recordDigest() {
	w.t.Helper()
	d := newDevice(w.t, "replayed-digest")
	header := w.digestLogin("digest", "device-1", "password 1")
	a, err := w.post(w.t.Context(), w.bears(header), "digest/simpleenroll", "", "", "application/pkcs10", []byte(toBase64(d.csr)))
	if err != nil || a.cert == nil {
		w.t.Fatal(a, err)
	}
	r := &recorded{name: "EST simpleenroll by Digest", endpoint: "digest", other: "digest2", der: d.csr, csr: d.csr, cert: a.cert}
	r.send = func(endpoint string, der []byte) string {
		return w.overEST(r, w.bears(header), endpoint+"/simpleenroll", "", der)
	}
	altered := func(from, to string) func() string {
		return func() string {
			changed := strings.Replace(header, from, to, 1)
			if changed == header {
				w.t.Fatalf("no %s in the header", from)
			}
			return w.overEST(r, w.bears(changed), "digest/simpleenroll", "", d.csr)
		}
	}
	anew := func(user, password string) func() string {
		return func() string {
			return w.overEST(r, w.bears(w.digestLogin("digest", user, password)), "digest/simpleenroll", "", d.csr)
		}
	}
	unused := w.digestLogin("digest", "device-1", "password 1")
	r.changes = map[string]func() string{
		"its header with another request": func() string { return r.send("digest", newDevice(w.t, "replayed-by-header").csr) },
		"its header as simplereenroll":    func() string { return w.overEST(r, w.bears(header), "digest/simplereenroll", "", d.csr) },
		"nc":                              altered("nc=00000001", "nc=00000002"),
		"cnonce":                          altered(`cnonce="c"`, `cnonce="d"`),
		"another user's name":             altered(`username="device-1"`, `username="device-2"`),
		"another endpoint's realm":        altered(`realm="digest"`, `realm="digest2"`),
		"an unused header elsewhere":      func() string { return w.overEST(r, w.bears(unused), "digest2/simpleenroll", "", d.csr) },
		"logged in anew":                  anew("device-1", "password 1"),
		"logged in anew by another":       anew("device-2", "password 2"),
		"by Basic":                        func() string { return w.overEST(r, w.client(nil), "digest/simpleenroll", "device-1", d.csr) },
	}
	w.record(r)
}
