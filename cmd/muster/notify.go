package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// notifyWait is how long a service manager that does not read its socket holds up who tells it something.
const notifyWait = 5 * time.Second

// notices tell the service manager that started this process how far it is: sd_notify(3), a datagram of NAME=VALUE lines to the socket that
// NOTIFY_SOCKET names. Nil tells nobody. What cannot be said stands in the log and stops nothing: a manager that waits for it in vain acts by itself.
type notices struct {
	socket *net.UnixConn
	every  time.Duration        // between signs of life; zero where none are asked for
	now    func() time.Duration // CLOCK_MONOTONIC
	log    *slog.Logger

	mu      sync.Mutex
	stopped bool
}

// newNotices is nil where nobody asked to be told. getenv is the environment's, pid this process's.
func newNotices(getenv func(string) string, pid int, log *slog.Logger) *notices {
	name := getenv("NOTIFY_SOCKET")
	if name == "" {
		return nil
	}
	socket, err := dialNotify(name)
	if err != nil {
		log.Warn("the service manager cannot be told anything", "err", err)
		return nil
	}
	n := &notices{socket: socket, now: monotonic, log: log}
	if n.every, err = watchdogEvery(getenv, pid); err != nil {
		log.Warn("the service manager gets no signs of life", "err", err)
	}
	return n
}

// dialNotify opens a socket by the name that sd_notify(3) gives it: a path, or @ and the rest of an abstract one's.
func dialNotify(name string) (*net.UnixConn, error) {
	if name[0] != '/' && name[0] != '@' || len(name) < 2 {
		return nil, fmt.Errorf("NOTIFY_SOCKET=%q: want a path, or @ and a name", name)
	}
	socket, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("NOTIFY_SOCKET: %w", err)
	}
	return socket, nil
}

// watchdogEvery is how often signs of life are due, half of what sd_watchdog_enabled(3) says; zero where another process, or none, is to give them.
func watchdogEvery(getenv func(string) string, pid int) (time.Duration, error) {
	text := getenv("WATCHDOG_USEC")
	if text == "" {
		return 0, nil
	}
	if who := getenv("WATCHDOG_PID"); who != "" && who != strconv.Itoa(pid) {
		return 0, nil
	}
	us, err := strconv.ParseUint(text, 10, 63)
	if err != nil || us < 2 || us > uint64((1<<63-1)/time.Microsecond) {
		return 0, fmt.Errorf("WATCHDOG_USEC=%q: want microseconds", text)
	}
	return time.Duration(us) * time.Microsecond / 2, nil
}

// monotonic is the time that MONOTONIC_USEC means.
func monotonic() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // the clock is there, and ts is
	return time.Duration(ts.Nano())
}

// ready says that the gateway serves, after its start and after each order to reload, whatever came of it. status is a line for people, with no secret in it.
func (n *notices) ready(status string) { n.tell(false, "READY=1", "STATUS="+oneLine(status)) }

// reloading says that the configuration is being read; ready ends it.
func (n *notices) reloading() {
	if n != nil {
		n.tell(false, "RELOADING=1", "MONOTONIC_USEC="+strconv.FormatInt(n.now().Microseconds(), 10), "STATUS=Reading the configuration again")
	}
}

// stopping says that the gateway ends. It is the last notice.
func (n *notices) stopping() { n.tell(true, "STOPPING=1", "STATUS=Requests under way end") }

// watch gives a sign of life at each tick, once alive has returned: a gateway that is stuck gives none, and is started anew. What alive finds out does not
// matter: a CA or database that is away does not come back by a restart.
func (n *notices) watch(ctx context.Context, ticks <-chan time.Time, alive func(context.Context)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks:
			alive(ctx)
			n.tell(false, "WATCHDOG=1")
		}
	}
}

func (n *notices) tell(last bool, lines ...string) {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stopped {
		return
	}
	n.stopped = last
	err := n.socket.SetWriteDeadline(time.Now().Add(notifyWait))
	if err == nil {
		_, err = n.socket.Write([]byte(strings.Join(lines, "\n")))
	}
	if last {
		err = errors.Join(err, n.socket.Close())
	}
	if err != nil {
		n.log.Warn("the service manager was not told", "what", lines[0], "err", err)
	}
}

// oneLine keeps a text from being further lines of a notice.
func oneLine(s string) string { return strings.NewReplacer("\n", " ", "\r", " ").Replace(s) }

// watchdog gives the manager signs of life for as long as the gateway works, if it asked for them: whether it is ready or not, it has to know.
func (p *process) watchdog() {
	if p.notices == nil || p.notices.every == 0 {
		return
	}
	tick := time.NewTicker(p.notices.every)
	defer tick.Stop()
	p.notices.watch(p.life, tick.C, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, p.notices.every/2)
		defer cancel()
		_ = p.ready(ctx)
	})
}
