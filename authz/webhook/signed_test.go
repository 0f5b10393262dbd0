package webhook

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func signature(secret string, parts ...string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	for _, p := range parts {
		mac.Write([]byte(p))
	}
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

// With signed-answers an answer counts only with the signature of this question's.
func TestSignedAnswers(t *testing.T) {
	const none, wrong = "has no Muster-Signature", "the signature of its answer is wrong"
	for name, tt := range map[string]struct {
		headers func(question string) []string
		want    string // "": it counts
	}{
		"signed":                 {func(q string) []string { return []string{signature(signedBy, q, ".", goodReply)} }, ""},
		"not signed":             {func(string) []string { return nil }, none},
		"empty":                  {func(string) []string { return []string{""} }, wrong},
		"twice":                  {func(q string) []string { s := signature(signedBy, q, ".", goodReply); return []string{s, s} }, none},
		"another secret":         {func(q string) []string { return []string{signature("another secret of bytes", q, ".", goodReply)} }, wrong},
		"another answer":         {func(q string) []string { return []string{signature(signedBy, q, ".", goodReply+" ")} }, wrong},
		"another question's":     {func(string) []string { return []string{signature(signedBy, signature(signedBy, "x"), ".", goodReply)} }, wrong},
		"no question's":          {func(string) []string { return []string{signature(signedBy, goodReply)} }, wrong},
		"the question's own":     {func(q string) []string { return []string{q} }, wrong},
		"without the dot":        {func(q string) []string { return []string{signature(signedBy, q, goodReply)} }, wrong},
		"without the algorithm":  {func(q string) []string { return []string{signature(signedBy, q, ".", goodReply)[7:]} }, wrong},
		"in upper-case letters":  {func(q string) []string { return []string{strings.ToUpper(signature(signedBy, q, ".", goodReply))} }, wrong},
		"cut after some letters": {func(q string) []string { return []string{signature(signedBy, q, ".", goodReply)[:20]} }, wrong},
	} {
		p := newPeer(t, false, func(n int, w http.ResponseWriter, r *http.Request) {
			for _, h := range tt.headers(r.Header.Get(SignatureHeader)) {
				w.Header().Add(SignatureHeader, h)
			}
			says("application/json", goodReply)(n, w, r)
		})
		dir := t.TempDir()
		c := Config{URL: p.URL, SecretFile: file(t, dir, "secret", []byte(signedBy)), SignedAnswers: true}
		_, err := made(t, c, dir).test(t)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && (strings.Contains(err.Error(), signedBy) || strings.Contains(err.Error(), "sha256=")) {
			t.Errorf("%s: the error says too much: %v", name, err)
		}
		if n := len(p.requests()); n != 1 { // asking again mends nothing
			t.Errorf("%s: asked %d times", name, n)
		}
		// Without the setting nothing is looked at.
		c.SignedAnswers = false
		if _, err := made(t, c, dir).test(t); err != nil {
			t.Errorf("%s, not wanted: %v", name, err)
		}
	}
	if _, err := New(Config{URL: "https://example.com", SignedAnswers: true}, ""); err == nil || !strings.Contains(err.Error(), "signed-answers: with which secret") {
		t.Error(err)
	}
}

// Close gives up what is idle, and what becomes idle later.
func TestClose(t *testing.T) {
	var open atomic.Int64
	gone := make(chan struct{}, 9)
	left := func() {
		select {
		case <-gone:
		case <-time.After(10 * time.Second): // what is idle is given up after 30
			t.Fatal("the connection is open")
		}
	}
	entered, release := make(chan struct{}), make(chan struct{})
	p := newPeer(t, false, func(n int, w http.ResponseWriter, r *http.Request) {
		if n == 1 {
			entered <- struct{}{}
			<-release
		}
		says("application/json", goodReply)(n, w, r)
	})
	s := made(t, Config{URL: p.URL}, "")
	connect := s.connect
	s.connect = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := connect(ctx, network, address)
		open.Add(1)
		return &counted{Conn: c, close: sync.OnceFunc(func() { open.Add(-1); gone <- struct{}{} })}, err
	}
	if _, err := s.test(t); err != nil || open.Load() != 1 {
		t.Fatalf("%v, %d connections", err, open.Load())
	}
	s.Close()
	left()
	if n := open.Load(); n != 0 {
		t.Errorf("%d connections are open after the end", n)
	}
	errs := make(chan error)
	go func() { _, err := s.test(t); errs <- err }()
	<-entered
	s.Close() // while a question is under way, which is answered
	close(release)
	if err := <-errs; err != nil {
		t.Error(err)
	}
	left()
	if n := open.Load(); n != 0 {
		t.Errorf("%d connections are open after the end", n)
	}
}

// counted is a connection that tells when it is closed.
type counted struct {
	net.Conn
	close func()
}

func (c *counted) Close() error {
	defer c.close()
	return c.Conn.Close()
}
