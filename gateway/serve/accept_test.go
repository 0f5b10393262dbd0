package serve

import (
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"
)

// exhausted is a socket of a process without file descriptors.
type exhausted struct{ net.Listener }

func (exhausted) Accept() (net.Conn, error) {
	return nil, &net.OpError{Op: "accept", Net: "tcp", Err: syscall.EMFILE}
}

// http.Server tries again after such an error, for ever: the operator has to hear of it, and not each time.
func TestAcceptErrorsAreLoggedOnce(t *testing.T) {
	var log strings.Builder
	s, err := open("a", Spec{Address: "127.0.0.1:0", Connections: 1}, newGate(), slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	working := s.socket
	defer working.Close()
	s.socket = exhausted{working}
	for range 3 { // of one place, which is given back each time
		if _, err := (acceptor{s}).Accept(); err == nil {
			t.Fatal("accepted")
		}
	}
	if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, `level=ERROR msg="clients cannot be accepted" listener=a err="accept tcp: too many open files"`) {
		t.Errorf("the log: %s", got)
	}
	log.Reset()
	s.stopAccepting()
	s.socket = working
	if _, err := (acceptor{s}).Accept(); err == nil || log.Len() > 0 {
		t.Errorf("at the end: %v, and the log: %s", err, &log)
	}
}
