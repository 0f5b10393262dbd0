package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// manager is a service manager's socket, and what it got.
func manager(t *testing.T, name string) func() string {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return func() string {
		t.Helper()
		b := make([]byte, 4096)
		n, err := c.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
}

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for _, p := range pairs {
			if k, v, _ := strings.Cut(p, "="); k == name {
				return v
			}
		}
		return ""
	}
}

// Paths and abstract names are told alike, in sd_notify(3)'s words, and after the end nothing more.
func TestNotices(t *testing.T) {
	for _, name := range []string{filepath.Join(t.TempDir(), "notify"), fmt.Sprintf("@muster-test-%d", time.Now().UnixNano())} {
		got := manager(t, name)
		n := newNotices(env("NOTIFY_SOCKET="+name), 7, slog.New(slog.DiscardHandler))
		n.now = func() time.Duration { return 5*time.Second + 7*time.Microsecond }
		n.ready("Version 1\nMAINPID=1")
		if text := got(); text != "READY=1\nSTATUS=Version 1 MAINPID=1" {
			t.Errorf("%q", text)
		}
		n.reloading()
		if text := got(); text != "RELOADING=1\nMONOTONIC_USEC=5000007\nSTATUS=Reading the configuration again" {
			t.Errorf("%q", text)
		}
		n.stopping()
		if text := got(); !strings.HasPrefix(text, "STOPPING=1\n") {
			t.Errorf("%q", text)
		}
		var log bytes.Buffer
		n.log = slog.New(slog.NewTextHandler(&log, nil))
		n.ready("late")
		if log.Len() != 0 {
			t.Errorf("it was tried: %s", &log)
		}
	}
	if us := monotonic(); us <= 0 {
		t.Error(us)
	}
}

// Who was not asked to tell anything does not, and a name that is none, or leads nowhere, stops nothing.
func TestNoNotices(t *testing.T) {
	for value, want := range map[string]string{
		"": "", "notify": "want a path", "/": "want a path", "@": "want a path", "vsock:2:1": "want a path", filepath.Join(t.TempDir(), "none"): "no such file",
	} {
		var log bytes.Buffer
		n := newNotices(env("NOTIFY_SOCKET="+value, "WATCHDOG_USEC=10"), 7, slog.New(slog.NewTextHandler(&log, nil)))
		if n != nil || !strings.Contains(log.String(), want) || want == "" && log.Len() != 0 {
			t.Errorf("%q: %v %s", value, n, &log)
		}
		n.ready("")
		n.reloading()
		n.stopping()
	}
}

func TestWatchdogEvery(t *testing.T) {
	for _, c := range []struct {
		usec, pid string
		want      time.Duration
		bad       bool
	}{
		{usec: "30000000", want: 15 * time.Second}, {usec: "30000000", pid: "7", want: 15 * time.Second}, {usec: "30000000", pid: "8"}, {},
		{usec: "0", bad: true}, {usec: "1", bad: true}, {usec: "-5", bad: true}, {usec: "30s", bad: true}, {usec: "9223372036854775807", bad: true},
	} {
		got, err := watchdogEvery(env("WATCHDOG_USEC="+c.usec, "WATCHDOG_PID="+c.pid), 7)
		if got != c.want || (err != nil) != c.bad {
			t.Errorf("%+v: %v %v", c, got, err)
		}
	}
}

// There is a sign of life once the gateway has answered for itself, whatever it said, and none before.
func TestWatchdog(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify")
	got := manager(t, name)
	n := newNotices(env("NOTIFY_SOCKET="+name, "WATCHDOG_USEC=2000000"), 7, slog.New(slog.DiscardHandler))
	if n.every != time.Second {
		t.Error(n.every)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ticks, asked, answer, ended := make(chan time.Time), make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		n.watch(ctx, ticks, func(context.Context) { asked <- struct{}{}; <-answer })
	}()
	for range 2 {
		ticks <- time.Time{}
		<-asked
		n.ready("stuck") // had there been a sign of life before the answer, it would come first
		if text := got(); !strings.HasPrefix(text, "READY=1") {
			t.Errorf("%q", text)
		}
		answer <- struct{}{}
		if text := got(); text != "WATCHDOG=1" {
			t.Errorf("%q", text)
		}
	}
	cancel()
	<-ended
}
