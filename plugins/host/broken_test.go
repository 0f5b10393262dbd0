package host

import (
	"context"
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/muster-pki/muster/plugins/backend"
)

// TestConnectionTellsFirst: whoever reads or writes learns of the end after the host has, so that a call which
// failed is not repeated on the same process; a deadline, which passes, is no end.
func TestConnectionTellsFirst(t *testing.T) {
	for _, c := range []struct {
		name   string
		use    func(conn net.Conn) error
		broken int
	}{
		{"read", func(conn net.Conn) error { _, err := conn.Read(make([]byte, 1)); return err }, 1},
		{"write", func(conn net.Conn) error { _, err := conn.Write([]byte{1}); return err }, 1},
		{"deadline", func(conn net.Conn) error {
			if err := conn.SetDeadline(time.Unix(1, 0)); err != nil {
				return err
			}
			_, err := conn.Read(make([]byte, 1))
			_, err2 := conn.Write([]byte{1})
			if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.Is(err2, os.ErrDeadlineExceeded) {
				t.Errorf("%v, %v", err, err2)
			}
			return err
		}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			if c.broken > 0 {
				if err := theirs.Close(); err != nil {
					t.Fatal(err)
				}
			}
			told := 0
			if err := c.use(&watchedConn{Conn: ours, onBroken: func() { told++ }}); err == nil || told != c.broken {
				t.Errorf("%v; told %d times, not %d", err, told, c.broken)
			}
		})
	}
}

// TestErrorsOfTheDead: whatever gRPC makes of a process's end is UNAVAILABLE; a refusal had arrived before it.
func TestErrorsOfTheDead(t *testing.T) {
	cfg, err := Config{Name: "ca", Plugin: "x"}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	gone := &instance{broken: make(chan struct{})}
	close(gone.broken)
	p := &Plugin{cfg: cfg, up: make(chan struct{}), closing: make(chan struct{}), idle: make(chan struct{}), current: gone}
	for _, c := range []struct {
		err  error
		code codes.Code
	}{
		{status.Error(codes.Internal, "stream terminated by RST_STREAM"), codes.Unavailable},
		{status.Error(codes.Unknown, "unexpected EOF"), codes.Unavailable},
		{status.Error(codes.ResourceExhausted, "message larger than max"), codes.Unavailable},
		{status.Error(codes.InvalidArgument, "no"), codes.InvalidArgument},
		{nil, codes.OK},
	} {
		_, err := call(p, t.Context(), "Issue", func(context.Context, *backend.Client) (done, error) { return done{}, c.err })
		if status.Code(err) != c.code {
			t.Errorf("%v became %v, not %s", c.err, err, c.code)
		}
	}
	if p.calls != 0 {
		t.Errorf("%d calls are still counted", p.calls)
	}
}
