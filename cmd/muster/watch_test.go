package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// watching is a fileWatch in a test's hands: its time stands still, and changes settle when the test says so.
type watching struct {
	t        *testing.T
	w        *fileWatch
	file     string
	log      *safeBuffer
	asked    chan struct{}  // holds one element once a change waits to settle
	settle   chan time.Time // for changes to settle
	reloaded chan struct{}
}

func watchFiles(t *testing.T, file string) *watching {
	t.Helper()
	s := &watching{t: t, file: file, log: &safeBuffer{}, asked: make(chan struct{}, 1), settle: make(chan time.Time), reloaded: make(chan struct{}, 100)}
	s.w = newFileWatch(slog.New(slog.NewTextHandler(s.log, nil)), func(context.Context) {
		seen := lookAt(s.file) // before the test goes on to change it
		s.w.tell(true, seen)
		s.reloaded <- struct{}{}
	})
	s.w.now = func() time.Time { return time.Time{}.Add(time.Hour) }
	s.w.after = func(time.Duration) <-chan time.Time {
		select {
		case s.asked <- struct{}{}:
		default:
		}
		return s.settle
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.w.run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return s
}

// told has the watch take note of what was read, before the test goes on: when it takes the second note, it is done with the first.
func (s *watching) told(on bool) {
	s.t.Helper()
	for range 2 {
		s.w.tell(on, lookAt(s.file))
		for len(s.w.changed) > 0 {
			time.Sleep(time.Millisecond)
		}
	}
}

// changes expects that what was done to files has one reload come.
func (s *watching) changes() {
	s.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case <-s.asked:
		case s.settle <- time.Time{}:
		case <-s.reloaded:
			return
		case <-deadline:
			s.t.Fatalf("no reload\n%s", s.log)
		}
	}
}

// Files are read again when another one takes their place, by whatever way; each state once.
func TestFileWatch(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir, "muster.yaml", "version: 1\nusers: users\n")
	write(t, dir, "users", "anna")
	s := watchFiles(t, file)
	s.told(true)
	write(t, dir, "users", "berta")
	s.changes()
	write(t, dir, "new", "carla")
	if err := os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "users")); err != nil {
		t.Fatal(err)
	}
	s.changes()
	// A bad one is read once, and what it lacks is waited for.
	write(t, dir, "muster.yaml", "version: 1\nusers: elsewhere/users\n")
	s.changes()
	write(t, folder(t, dir, "elsewhere"), "users", "dora")
	s.changes()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	s.changes()
	write(t, dir, "muster.yaml", "version: 1\nusers: users\n")
	s.changes()
	if n := len(s.reloaded); n > 0 {
		t.Errorf("%d more reloads", n)
	}
	if strings.Contains(s.log.String(), "level=ERROR") {
		t.Error(s.log)
	}
}

// A ConfigMap of Kubernetes changes by one link: ..data leads to another folder.
func TestFileWatchConfigMap(t *testing.T) {
	mount := t.TempDir()
	for version, text := range map[string]string{"..1": "version: 1 # one\n", "..2": "version: 1 # two\n", "..3": "version: 1 # three\n"} {
		write(t, folder(t, mount, version), "muster.yaml", text)
	}
	link(t, "..1", filepath.Join(mount, "..data"))
	link(t, "..data/muster.yaml", filepath.Join(mount, "muster.yaml"))
	s := watchFiles(t, filepath.Join(mount, "muster.yaml"))
	s.told(true)
	for _, version := range []string{"..2", "..3"} {
		link(t, version, filepath.Join(mount, "..data"))
		s.changes()
	}
}

// A folder that goes and comes back is watched on, be it the same one, and by whatever name of several.
func TestFileWatchFoldersThatComeBack(t *testing.T) {
	dir := t.TempDir()
	sub := folder(t, dir, "sub")
	write(t, sub, "users", "anna")
	link(t, "sub", filepath.Join(dir, "other"))
	link(t, "users", filepath.Join(sub, "names"))
	file := write(t, dir, "muster.yaml", "version: 1\na: sub/users\nb: other/names\n") // the folder by two names
	s := watchFiles(t, file)
	s.told(true)
	for _, move := range [][2]string{{"sub", "away"}, {"away", "sub"}} {
		if err := os.Rename(filepath.Join(dir, move[0]), filepath.Join(dir, move[1])); err != nil {
			t.Fatal(err)
		}
	}
	write(t, sub, "users", "berta") // seen with the move
	s.changes()
	write(t, sub, "users", "bianca")
	s.changes()
	write(t, folder(t, dir, "new"), "users", "carla")
	link(t, "users", filepath.Join(dir, "new", "names"))
	link(t, "new", filepath.Join(dir, "other")) // one of the two names is another folder's
	s.changes()
	write(t, sub, "users", "dora")
	s.changes()
	write(t, filepath.Join(dir, "new"), "users", "emma")
	s.changes()
	if err := os.RemoveAll(sub); err != nil {
		t.Fatal(err)
	}
	write(t, folder(t, dir, "sub"), "users", "franka")
	s.changes()
	write(t, sub, "users", "gerda")
	s.changes()
}

// What changes in the folder and is none of the files, has no reload come; nor does anything once watching is off.
func TestFileWatchPassesOver(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir, "muster.yaml", "version: 1\n")
	s := watchFiles(t, file)
	s.told(true)
	write(t, dir, "muster.db", "x")
	<-s.asked
	s.settle <- time.Time{}
	s.told(true) // the change before has been looked at when this is
	if len(s.reloaded) > 0 {
		t.Error("a reload for another file")
	}
	s.told(false)
	write(t, dir, "muster.yaml", "version: 1 # changed\n")
	s.told(true) // which is how the file is now
	write(t, dir, "muster.yaml", "version: 1 # changed again\n")
	s.changes()
	if n := len(s.reloaded); n > 0 {
		t.Errorf("%d more reloads", n)
	}
}

func TestSettling(t *testing.T) {
	first := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for since, want := range map[time.Duration]time.Duration{
		0: settleQuiet, 3 * time.Second: settleQuiet, settleMost - 100*time.Millisecond: 100 * time.Millisecond, settleMost: 0, time.Minute: 0,
	} {
		if got := settleIn(first, first.Add(since)); got != want {
			t.Errorf("%v after the first change: %v, want %v", since, got, want)
		}
	}
}

// Requests are under way until they end; who waits for that before they begin waits for nobody.
func TestUnderway(t *testing.T) {
	var u underway
	done := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	if !done(u.ended()) {
		t.Error("nobody is under way")
	}
	u.enter()
	u.enter()
	first, second := u.ended(), u.ended()
	u.leave()
	if done(first) || done(second) {
		t.Error("one is under way")
	}
	u.leave()
	if !done(first) || !done(second) || !done(u.ended()) {
		t.Error("all have ended")
	}
}

// A Runtime is left when nobody is under way in it or in the one before, whose plugins it may share; or when its time is over.
func TestRuntimeIsLeftAfterTheOneBefore(t *testing.T) {
	before, latest, end := make(chan struct{}), make(chan time.Time), make(chan struct{})
	rt := &Runtime{before: before}
	left := make(chan struct{})
	leave := func() {
		rt.leaves(latest, end)
		left <- struct{}{}
	}
	for name, what := range map[string]func(){
		"the one before": func() { before <- struct{}{} }, "its time": func() { latest <- time.Time{} }, "the end": func() { end <- struct{}{} },
	} {
		go leave()
		what() // it is waiting when this is taken
		<-left
		rt.underway.enter()
		go leave()
		if name == "the one before" {
			rt.underway.leave()
		}
		what()
		<-left
		if name != "the one before" {
			rt.underway.leave()
		}
	}
	rt.before = nil
	rt.leaves(latest, end)
}
