package serve

import (
	"container/list"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// conn is an accepted connection, which has a place, and while its TLS handshake lasts a turn at the gate whenever it computes.
type conn struct {
	net.Conn
	places *places
	peer   netip.Addr
	source netip.Addr

	// Of places, under its lock.
	among, amongOwn *list.Element // among those that wait; nil: a request is under way
	gone            bool

	gate        *gate // nil without TLS
	accepted    time.Time
	handshaking atomic.Bool // until the first request's header has been read
	inside      atomic.Bool // has a turn
	closed      atomic.Bool

	// Of a drain.
	heard    atomic.Int64 // when the client was heard or answered last, in nanoseconds after accepted
	between  atomic.Bool  // it was answered, and has sent nothing since
	asked    bool         // under deadline's lock, which is that of the connection's read deadline
	deadline struct {
		sync.Mutex
		read time.Time
	}
}

func newConn(c net.Conn, p *places, g *gate) *conn {
	made := &conn{Conn: c, places: p, gate: g, accepted: time.Now()}
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		made.peer = a.AddrPort().Addr().Unmap()
	}
	made.source = sourceOf(made.peer)
	made.handshaking.Store(g != nil)
	return made
}

// Read leaves the gate while the client is awaited.
func (c *conn) Read(b []byte) (int, error) {
	c.leave()
	n, err := c.read(b)
	if err == nil && c.handshaking.Load() {
		c.enter()
		switch {
		case c.closed.Load():
			err = net.ErrClosed
		case time.Since(c.accepted) > headerTimeout:
			err = os.ErrDeadlineExceeded // its turn has come too late for an answer
		}
	}
	return n, err
}

// Write leaves the gate too: a client that reads nothing would keep its turn.
func (c *conn) Write(b []byte) (int, error) {
	again := c.leave()
	n, err := c.Conn.Write(b)
	if again && err == nil && c.handshaking.Load() {
		c.enter()
	}
	return n, err
}

// Close gives its place and its turn back.
func (c *conn) Close() error {
	c.closed.Store(true)
	c.leave()
	c.places.give(c)
	return c.Conn.Close()
}

func (c *conn) enter() {
	c.gate.enter(c.source)
	c.inside.Store(true)
	if c.closed.Load() { // by another goroutine, which may have come before
		c.leave()
	}
}

// leave reports whether it had a turn.
func (c *conn) leave() bool {
	had := c.inside.Swap(false)
	if had {
		c.gate.leave()
	}
	return had
}

// changed is http.Server's ConnState. StateActive comes when a header has been read.
func changed(nc net.Conn, state http.ConnState) {
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	c, ok := nc.(*conn)
	if !ok {
		return
	}
	switch state {
	case http.StateActive:
		c.handshaking.Store(false)
		c.leave()
		c.places.busy(c)
	case http.StateIdle:
		c.hears(true)
		c.places.idle(c)
	}
}

// connKey is where a request's context holds its *conn.
type connKey struct{}

func withConn(ctx context.Context, nc net.Conn) context.Context {
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	return context.WithValue(ctx, connKey{}, nc)
}

// awaitBody has the connection wait for its client while the request's body has not arrived whole. It returns a copy: http.Server looks at
// the body of its own request for whether the client is still sending, and then leaves it time to read the answer.
func awaitBody(r *http.Request) *http.Request {
	c, ok := r.Context().Value(connKey{}).(*conn)
	if !ok || r.Body == nil || r.Body == http.NoBody {
		return r
	}
	awaited := *r
	awaited.Body = &body{r.Body, c}
	return &awaited
}

type body struct {
	io.ReadCloser
	conn *conn
}

// Read waits from the first byte on: one byte at a time is no progress.
func (b *body) Read(p []byte) (int, error) {
	b.conn.places.waits(b.conn)
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.conn.places.busy(b.conn)
	}
	return n, err
}
