package admin

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/http/httptest"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestListenMode(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "admin.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
	if _, err := Listen(path); !errors.Is(err, ErrInUse) {
		t.Errorf("a second one: %v", err)
	}
	if _, err := net.Dial("unix", path); err != nil {
		t.Errorf("the attempt of a second one broke the first: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
}

func TestListenReplacesAStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if l.Addr().String() != path {
		t.Errorf("listens on %s", l.Addr())
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestListenLeavesOthersAlone(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(file); err == nil || !strings.Contains(err.Error(), "is no socket") {
		t.Errorf("over a file: %v", err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(link); err == nil || !strings.Contains(err.Error(), "is no socket") {
		t.Errorf("over a link: %v", err)
	}
	if got, err := os.ReadFile(file); string(got) != "precious" {
		t.Errorf("the file holds %q, %v", got, err)
	}
	if _, err := Listen(filepath.Join(dir, strings.Repeat("x", 120))); err == nil || !strings.Contains(err.Error(), "may have 107") {
		t.Errorf("a long path: %v", err)
	}
	if _, err := Listen(filepath.Join(dir, "absent", "admin.sock")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in no folder: %v", err)
	}
}

// A gateway that closes late does not take its successor's socket away.
func TestCloseLeavesTheSuccessor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	first, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	second, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	first.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the successor's socket is gone: %v", err)
	}
}

func TestClientWithoutGateway(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "admin.sock")
	if _, err := NewClient(path).Status(context.Background()); !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), path) {
		t.Errorf("no socket: %v", err)
	}
	long := filepath.Join(dir, strings.Repeat("x", 110))
	if _, err := NewClient(long).Status(context.Background()); err == nil || !strings.Contains(err.Error(), "a socket's may have 107") {
		t.Errorf("a path that is too long: %v", err)
	}
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	if _, err := NewClient(path).Status(context.Background()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("a stale socket: %v", err)
	}
}

// Somebody else answers on the socket.
func TestClientWithAnotherServer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for answer, want := range map[string]string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello":    "not an answer of this version's API",
		"HTTP/1.1 500 Oh no\r\nContent-Length: 5\r\n\r\nhello": "HTTP status 500",
		"SSH-2.0\r\n": "malformed HTTP",
	} {
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			conn.Read(make([]byte, 4096)) //nolint:errcheck // whatever was asked
			conn.Write([]byte(answer))    //nolint:errcheck // the client says so
		}()
		if _, err := NewClient(path).Status(context.Background()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", answer, err)
		}
	}
}

// The kernel says who has opened the socket.
func TestPeer(t *testing.T) {
	s := &source{}
	c, _ := serve(t, s)
	if _, err := c.AddDevice(t.Context(), Device{Name: "a"}, false); err != nil {
		t.Fatal(err)
	}
	want := "unix:" + strconv.Itoa(os.Getuid())
	if u, err := user.Current(); err == nil {
		want = "unix:" + u.Username
	}
	if s.audit[0].Actor != want {
		t.Errorf("%q, want %q", s.audit[0].Actor, want)
	}
	one, other := net.Pipe()
	defer one.Close()
	defer other.Close()
	if actor, err := peerOf(one); err == nil {
		t.Errorf("not a socket: %q", actor)
	}
	// Where that is not known, nobody is an administrator.
	rec := httptest.NewRecorder()
	newServer(t, s).handler(local).ServeHTTP(rec, httptest.NewRequest("GET", "/v1/status", nil))
	if rec.Code != 401 {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
}
