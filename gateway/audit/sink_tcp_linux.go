package audit

import (
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// giveUp has a TCP connection end when nothing of what was written has been acknowledged for givesUp (tcp(7), TCP_USER_TIMEOUT): without, a host that is
// switched off takes records for a quarter of an hour.
func giveUp(network, _ string, c syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(givesUp.Milliseconds()))
	})
	if err != nil {
		return err
	}
	return failed
}
