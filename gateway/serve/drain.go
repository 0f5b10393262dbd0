package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A request that a client has sent whole, on a connection that was made, is answered: when a listener stops, too. http.Server.Shutdown
// alone does not hold that. It closes an idle connection on which a request is just coming in, drops a request whose header it reads
// while it shuts down, and closes the socket with connections in the kernel's queue. So it comes last, when no connection is left:
//
//  1. The kernel makes no new connections (where it can be told so), and those that it has made are accepted; then the socket is closed.
//  2. Each answer says "Connection: close" (RFC 9112 section 9.6).
//  3. A connection between two requests, or before its first one, is closed once it has been quiet for a while and nothing has come
//     in on it: see conn.ask.

// Times of a drain.
const (
	lull         = 100 * time.Millisecond // without another connection: the kernel's queue is empty, handshakes under way are through
	idleGrace    = 150 * time.Millisecond // of a connection between two requests
	stalledGrace = 5 * time.Second        // of one that has not sent a whole request: a small device takes seconds to compute a handshake
	longestLull  = 2 * time.Second        // where the kernel goes on making connections
	drainTick    = 10 * time.Millisecond
)

// drain stops accepting, and returns when every connection has ended. When ctx ends it cuts off what is left; that some of it were
// requests that had arrived whole is an error.
func (s *server) drain(ctx context.Context) error {
	s.stopConnecting()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-s.accepted
		tick := time.NewTicker(drainTick)
		defer tick.Stop()
		for s.places.usage().open > 0 && ctx.Err() == nil {
			s.places.askQuiet()
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	}()
	select {
	case <-ended:
	case <-ctx.Done():
	}
	cut := s.places.underWay()
	s.stopAccepting()
	if ctx.Err() != nil {
		s.http.Close()
	}
	<-ended
	if ctx.Err() == nil || cut == 0 {
		// What is left are goroutines of connections that are closed.
		rest, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		s.http.Shutdown(rest) //nolint:errcheck // as above
		return nil
	}
	return fmt.Errorf("listener %s: %d requests were cut off: %w", s.name, cut, ctx.Err())
}

// stopConnecting has Accept take what the kernel has connected, and end then.
func (s *server) stopConnecting() {
	if c, ok := s.socket.(syscall.Conn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			raw.Control(func(fd uintptr) { refuseSYN(int(fd)) }) //nolint:errcheck // without it a client may connect until the socket is closed
		}
	}
	s.latest = time.Now().Add(longestLull)
	s.draining.Store(true)
	s.untilLull() // wakes Accept
}

// untilLull has Accept give up when no connection comes for a while.
func (s *server) untilLull() {
	if d, ok := s.socket.(interface{ SetDeadline(time.Time) error }); ok {
		until := time.Now().Add(lull)
		if until.After(s.latest) {
			until = s.latest
		}
		d.SetDeadline(until) //nolint:errcheck // a socket that is closed has nobody waiting
	} else {
		s.stopAccepting()
	}
}

// lastAccepted reports whether err of Accept says that no more connections come.
func (s *server) lastAccepted(err error) bool {
	return s.draining.Load() && errors.Is(err, os.ErrDeadlineExceeded)
}

// sayClose says that an answer is the last one on its connection, while the listener drains.
func (s *server) sayClose(w http.ResponseWriter) {
	if s.draining.Load() {
		w.Header().Set("Connection", "close")
	}
}

// askQuiet asks each connection that has been quiet for its client's sake to look once more and end.
func (p *places) askQuiet() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for e := p.waiting.Front(); e != nil; e = e.Next() {
		if c := e.Value.(*conn); c.quiet() {
			c.ask()
		}
	}
}

// quiet reports whether a connection waits for its client for so long that a drain ends it.
func (p *places) quiet(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return c.among != nil && c.quiet()
}

// underWay is how many connections have a request that has arrived whole.
func (p *places) underWay() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open - p.waiting.Len()
}

func (c *conn) quiet() bool {
	grace := stalledGrace
	if c.between.Load() {
		grace = c.places.idleGrace
	}
	return time.Since(c.accepted)-time.Duration(c.heard.Load()) >= grace
}

// hears notes that the connection has made progress: between is set when its client has been answered, and has sent nothing since.
func (c *conn) hears(between bool) {
	c.heard.Store(int64(time.Since(c.accepted)))
	c.between.Store(between)
}

// ask ends the Read that waits for the client, and has it look for itself whether something came in at the last moment. Closing the
// connection from here would lose that.
func (c *conn) ask() {
	c.deadline.Lock()
	defer c.deadline.Unlock()
	c.asked = true
	c.Conn.SetReadDeadline(time.Unix(1, 0)) //nolint:errcheck // one that is closed needs no asking
}

// wasAsked reports whether Read ended for ask's sake, and puts http.Server's deadline back.
func (c *conn) wasAsked() bool {
	c.deadline.Lock()
	defer c.deadline.Unlock()
	was := c.asked
	if was {
		c.asked = false
		c.Conn.SetReadDeadline(c.deadline.read) //nolint:errcheck // the next Read tells
	}
	return was
}

// SetReadDeadline notes what http.Server wants.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.deadline.Lock()
	defer c.deadline.Unlock()
	c.deadline.read, c.asked = t, false
	return c.Conn.SetReadDeadline(t)
}

// SetDeadline likewise.
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// read is Read of the connection, which ask can end.
func (c *conn) read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if errors.Is(err, os.ErrDeadlineExceeded) && c.wasAsked() {
			if !c.places.quiet(c) {
				continue // a request has come in meanwhile
			}
			n, err = c.readNow(b)
		}
		if n > 0 {
			c.hears(false)
		}
		return n, err
	}
}

// readNow reads what is there, and is at the end when that is nothing.
func (c *conn) readNow(b []byte) (n int, err error) {
	s, ok := c.Conn.(syscall.Conn)
	if !ok {
		return 0, io.EOF
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return 0, err
	}
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		for {
			if n, failed = unix.Read(int(fd), b); failed != unix.EINTR {
				return true
			}
		}
	})
	switch {
	case err != nil:
		return 0, err
	case failed == unix.EAGAIN, failed == nil && n == 0:
		return 0, io.EOF
	case failed != nil:
		return 0, &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", failed)}
	}
	return n, nil
}
