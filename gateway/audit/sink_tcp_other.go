//go:build !linux

package audit

import "syscall"

// giveUp leaves it to the system when a connection ends whose peer acknowledges nothing.
func giveUp(string, string, syscall.RawConn) error { return nil }
