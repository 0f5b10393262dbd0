package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// box is a spool whose Process answers "answer to REQUEST", and keeps what it was asked.
type box struct {
	t     *testing.T
	dir   string
	now   time.Time
	log   bytes.Buffer
	asked []string
	hook  func(ctx context.Context, request string) error
	*Spool
}

func newBox(t *testing.T) *box {
	t.Helper()
	b := &box{t: t, dir: filepath.Join(t.TempDir(), "spool"), now: time.Now()}
	b.open()
	return b
}

func (b *box) config() Config {
	return Config{
		Dir: b.dir, Limit: 100, Clock: func() time.Time { return b.now }, Log: slog.New(slog.NewTextHandler(&b.log, nil)),
		Process: func(ctx context.Context, request []byte) ([]byte, error) {
			b.asked = append(b.asked, string(request))
			if b.hook != nil {
				if err := b.hook(ctx, string(request)); err != nil {
					return nil, err
				}
			}
			if strings.HasPrefix(string(request), "garbage") {
				return nil, errors.New("the message does not parse\x1b[31m")
			}
			return []byte("answer to " + string(request)), nil
		},
	}
}

func (b *box) open() {
	b.t.Helper()
	s, err := Open(b.config())
	if err != nil {
		b.t.Fatal(err)
	}
	b.Spool = s
	b.t.Cleanup(s.Close)
}

// put writes a file that has rested.
func (b *box) put(name, text string) {
	b.t.Helper()
	path := filepath.Join(b.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Time{}, b.now.Add(-resting)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) get(name string) string {
	b.t.Helper()
	text, err := os.ReadFile(filepath.Join(b.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return "-"
	} else if err != nil {
		b.t.Fatal(err)
	}
	return string(text)
}

// want compares files with what they should hold, "-" for none: names and contents.
func (b *box) want(pairs ...string) {
	b.t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if got := b.get(pairs[i]); got != pairs[i+1] {
			b.t.Errorf("%s: %q, want %q", pairs[i], got, pairs[i+1])
		}
	}
}

func (b *box) look() { b.Look(b.t.Context()) }

func TestAnswers(t *testing.T) {
	b := newBox(t)
	b.put("in/b.pki", "two")
	b.put("in/a.pki", "one")
	b.look()
	b.want("out/a.pki", "answer to one", "out/b.pki", "answer to two", "done/a.pki", "one", "done/b.pki", "two", "in/a.pki", "-", "in/b.pki", "-")
	if fmt.Sprint(b.asked) != "[one two]" {
		t.Errorf("asked %q: not in the order of names", b.asked)
	}
	b.look()
	if len(b.asked) != 2 {
		t.Errorf("asked %q: more than once", b.asked)
	}
	for path, mode := range map[string]fs.FileMode{"out/a.pki": 0o600, "in": 0o700, "out": 0o700, "done": 0o700, "failed": 0o700, ".": 0o700} {
		if info, err := os.Stat(filepath.Join(b.dir, path)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
}

// Who may read out/ by its group may read the answers.
func TestAnswersOfAGroup(t *testing.T) {
	b := newBox(t)
	if err := os.Chmod(filepath.Join(b.dir, "out"), 0o750); err != nil {
		t.Fatal(err)
	}
	b.put("in/a.pki", "one")
	b.look()
	if info, err := os.Stat(filepath.Join(b.dir, "out/a.pki")); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestFailed(t *testing.T) {
	b := newBox(t)
	b.put("in/a.pki", "garbage")
	b.put("in/b.pki", strings.Repeat("x", 101))
	b.put("in/c.pki", strings.Repeat("x", 100))
	b.look()
	b.want("failed/a.pki", "garbage", "failed/a.pki.txt", "the message does not parse [31m\n", "out/a.pki", "-", "in/a.pki", "-", "done/a.pki", "-",
		"failed/b.pki.txt", "it is larger than 100 bytes\n", "in/b.pki", "-", "out/c.pki", "answer to "+strings.Repeat("x", 100))
	if len(b.asked) != 2 {
		t.Errorf("%d asked: the file that is too large too", len(b.asked))
	}
}

// Nothing is read that is not ours to read, or not there whole.
func TestLeftAlone(t *testing.T) {
	b := newBox(t)
	in := filepath.Join(b.dir, "in")
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		os.Symlink(secret, filepath.Join(in, "link.pki")), os.Symlink("done/x.pki", filepath.Join(in, "inner.pki")), os.Mkdir(filepath.Join(in, "folder.pki"), 0o700), syscall.Mkfifo(filepath.Join(in, "fifo.pki"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	b.put("done/x.pki", "one")
	for _, name := range []string{".hidden.pki", "a.txt", "a.pki.part", "a.PKI", strings.Repeat("x", maxName-3) + ".pki"} {
		b.put("in/"+name, "one")
	}
	for range 3 {
		b.look()
		b.now = b.now.Add(time.Hour)
	}
	if len(b.asked) != 0 {
		t.Errorf("asked %q", b.asked)
	}
	for _, dir := range []string{"out", "failed"} {
		if entries, err := os.ReadDir(filepath.Join(b.dir, dir)); err != nil || len(entries) != 0 {
			t.Errorf("%s: %v, %v", dir, entries, err)
		}
	}
	if n := strings.Count(b.log.String(), "not a regular file"); n != 4 {
		t.Errorf("told %d times:\n%s", n, b.log.String())
	}
}

func TestWaitsUntilAFileRests(t *testing.T) {
	b := newBox(t)
	path := filepath.Join(b.dir, "in/a.pki")
	b.put("in/a.pki", "half")
	change := func(text string, at time.Time) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chtimes(path, time.Time{}, at)); err != nil {
			t.Fatal(err)
		}
	}
	change("half", b.now)
	b.look()
	b.now = b.now.Add(resting - 1)
	b.look()
	change("whole", b.now)
	b.now = b.now.Add(resting - 1)
	b.look()
	if len(b.asked) != 0 {
		t.Fatalf("asked %q before the file rested", b.asked)
	}
	b.now = b.now.Add(1)
	b.look()
	b.want("out/a.pki", "answer to whole")

	// By a clock that is not ours it may be tomorrow: what counts is that nothing changes.
	path = filepath.Join(b.dir, "in/b.pki")
	change("half", b.now.Add(24*time.Hour))
	b.look()
	b.now = b.now.Add(resting - 1)
	change("whole", b.now.Add(24*time.Hour))
	b.look()
	b.now = b.now.Add(resting - 1)
	b.look()
	b.want("out/b.pki", "-")
	b.now = b.now.Add(1)
	b.look()
	b.want("out/b.pki", "answer to whole")
}

// A crash between any two steps: what is in in/ is asked again, and what was half written is gone.
func TestRestart(t *testing.T) {
	b := newBox(t)
	b.put("in/a.pki", "one")
	b.put("out/a.pki", "answer to one") // its answer was written, and the gateway ended
	b.put("out/.muster-b.pki", "answ")  // and here before
	b.put("in/b.pki", "two")
	b.put("in/c.pki", "garbage")
	b.put("failed/c.pki.txt", "the mess")
	b.Spool.Close()
	b.open()
	b.want("out/.muster-b.pki", "-")
	b.look()
	b.want("out/a.pki", "answer to one", "out/b.pki", "answer to two", "done/a.pki", "one", "done/b.pki", "two", "failed/c.pki", "garbage",
		"failed/c.pki.txt", "the message does not parse [31m\n")
}

// A name is for one request: its answer may not have been fetched yet. The same request gets its answer again.
func TestNameUsedTwice(t *testing.T) {
	b := newBox(t)
	b.put("in/a.pki", "one")
	b.look()
	b.put("in/a.pki", "two")
	b.look()
	b.want("out/a.pki", "answer to one", "done/a.pki", "one", "failed/a.pki", "two")
	if got := b.get("failed/a.pki.txt"); !strings.Contains(got, "a name of its own") {
		t.Error(got)
	}
	if err := os.Remove(filepath.Join(b.dir, "out/a.pki")); err != nil {
		t.Fatal(err)
	}
	b.put("in/a.pki", "one")
	b.look()
	b.want("out/a.pki", "answer to one", "in/a.pki", "-")
	if fmt.Sprint(b.asked) != "[one one]" {
		t.Errorf("asked %q", b.asked)
	}
}

// What cannot be answered now stays, is told of once and tried again; others are answered.
func TestLater(t *testing.T) {
	b := newBox(t)
	b.hook = func(_ context.Context, request string) error {
		if request == "one" {
			return fmt.Errorf("%w: no key yet", ErrLater)
		}
		return nil
	}
	b.put("in/a.pki", "one")
	b.put("in/b.pki", "two")
	b.look()
	b.now = b.now.Add(pause - 1)
	b.look()
	b.want("in/a.pki", "one", "out/a.pki", "-", "failed/a.pki", "-", "out/b.pki", "answer to two")
	if len(b.asked) != 2 {
		t.Errorf("asked %q within the pause", b.asked)
	}
	b.now = b.now.Add(1)
	b.look()
	if n := strings.Count(b.log.String(), "no key yet"); n != 1 || len(b.asked) != 3 {
		t.Errorf("told %d times, asked %q", n, b.asked)
	}
	b.hook = nil
	b.now = b.now.Add(pause)
	b.look()
	b.want("out/a.pki", "answer to one", "done/a.pki", "one")
}

// An answer that cannot be written leaves the request where it is; nothing is tried again at once.
func TestDiskFull(t *testing.T) {
	b := newBox(t)
	out := filepath.Join(b.dir, "out")
	if err := os.Remove(out); err != nil {
		t.Fatal(err)
	}
	b.put("in/a.pki", "one")
	b.look()
	b.now = b.now.Add(pause - 1)
	b.look()
	if b.want("in/a.pki", "one", "done/a.pki", "-"); len(b.asked) != 1 || strings.Count(b.log.String(), "requests wait") != 1 {
		t.Errorf("asked %q\n%s", b.asked, b.log.String())
	}
	if err := os.Mkdir(out, 0o700); err != nil {
		t.Fatal(err)
	}
	b.now = b.now.Add(1)
	b.look()
	b.want("out/a.pki", "answer to one", "done/a.pki", "one", "in/a.pki", "-")
}

// What has begun is ended when the gateway stops; the next file is the next gateway's.
func TestStops(t *testing.T) {
	b := newBox(t)
	ctx, stop := context.WithCancel(t.Context())
	b.hook = func(limited context.Context, _ string) error {
		stop()
		if _, bounded := limited.Deadline(); !bounded {
			t.Error("without a bound")
		}
		return limited.Err()
	}
	b.put("in/a.pki", "one")
	b.put("in/b.pki", "two")
	b.Run(ctx)
	b.want("out/a.pki", "answer to one", "in/a.pki", "-", "in/b.pki", "two", "out/b.pki", "-")
}

func TestManyFiles(t *testing.T) {
	b := newBox(t)
	for i := range maxAtOnce + 1 {
		name := fmt.Sprintf("%05d", i*7%(maxAtOnce+1)) // in no order
		b.put("in/"+name+".pki", name)
	}
	b.look()
	if len(b.asked) != maxAtOnce || !slices.IsSorted(b.asked) {
		t.Errorf("%d at once, or not in the order of names: %q", len(b.asked), b.asked[:10])
	}
	b.look()
	if len(b.asked) != maxAtOnce+1 {
		t.Errorf("%d after the second look", len(b.asked))
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		prepare func(dir string) error
		want    string
	}{
		"everybody writes":         {func(dir string) error { return os.Chmod(dir, 0o777) }, "may be written by everybody"},
		"everybody writes into in": {func(dir string) error { return os.Chmod(dir+"/in", 0o777) }, "in may be written by everybody"},
		"a group writes":           {func(dir string) error { return os.Chmod(dir, 0o770) }, "may be written by its group"},
		"a group writes into out":  {func(dir string) error { return os.Chmod(dir+"/out", 0o770) }, "out may be written by its group"},
		"a group writes, sticky":   {func(dir string) error { return os.Chmod(dir, 0o770|fs.ModeSticky) }, ""},
		"a group writes into in":   {func(dir string) error { return os.Chmod(dir+"/in", 0o770) }, ""},
		"out is a link":            {func(dir string) error { return errors.Join(os.Remove(dir+"/out"), os.Symlink("in", dir+"/out")) }, "out is not a folder"},
		"done is a file": {func(dir string) error {
			return errors.Join(os.Remove(dir+"/done"), os.WriteFile(dir+"/done", nil, 0o600))
		}, "done is not a folder"},
		"the folder above is gone":   {func(dir string) error { return os.RemoveAll(filepath.Dir(dir)) }, "no such file"},
		"the spool itself is a file": {func(dir string) error { return errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)) }, "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t)
			b.Spool.Close()
			if err := tt.prepare(b.dir); err != nil {
				t.Fatal(err)
			}
			s, err := Open(b.config())
			if err == nil {
				s.Close()
			}
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Error(err)
			}
		})
	}
	b := newBox(t)
	if _, err := Open(b.config()); err == nil || !strings.Contains(err.Error(), "another gateway") {
		t.Errorf("twice: %v", err)
	}
	b.Spool.Close()
	b.open() // given free
}

// A folder of another user's would be one where he could take our answers away. Only root could make one here.
func TestOfAnotherUser(t *testing.T) {
	dir := "/"
	owner := 0
	if os.Geteuid() == 0 {
		dir, owner = t.TempDir(), 65534
		if err := os.Chown(dir, owner, -1); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := &Spool{Config: Config{Dir: dir}, root: root}
	defer s.Close()
	if err := s.own("."); err == nil || !strings.Contains(err.Error(), "does not belong to the user") {
		t.Error(err)
	}
}

// A folder that is full of other things is read up to a bound, and said so once.
func TestCrowdedFolder(t *testing.T) {
	b := newBox(t)
	first := filepath.Join(b.dir, "in/0")
	if err := os.WriteFile(first, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range maxSeen {
		if err := os.Link(first, fmt.Sprintf("%s-%d", first, i)); err != nil {
			t.Fatal(err)
		}
	}
	b.look()
	b.look()
	if n := strings.Count(b.log.String(), "more entries"); n != 1 {
		t.Errorf("told %d times:\n%s", n, b.log.String())
	}
}
