package main

import (
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// timerSlack is how much later than asked for the kernel may wake a thread, in nanoseconds.
	timerSlack = 1_000_000
	// calmed marks the second start in the environment.
	calmed = "MUSTER_CALMED"
)

// calm starts this program once more, in the same process, with more timer slack. While anything runs, Go's runtime looks
// after its threads every 20 µs; with the kernel's 50 µs of slack these looks take a seventh of the CPU that a lone
// client's enrollment uses. A thread inherits its slack from the one that made it, and the one that looks is older than
// main, so it takes an exec, which keeps the slack. Plugins inherit it. Where it cannot be had, all runs without.
func calm() {
	if os.Getenv(calmed) != "" {
		_ = os.Unsetenv(calmed)
		return
	}
	self, err := os.Executable()
	if err != nil {
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil || slack >= timerSlack || unix.Prctl(unix.PR_SET_TIMERSLACK, timerSlack, 0, 0, 0) != nil {
		return
	}
	_ = syscall.Exec(self, os.Args, append(os.Environ(), calmed+"=1"))
}
