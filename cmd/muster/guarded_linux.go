package main

import "golang.org/x/sys/unix"

// guarded keeps what is in the memory of this process out of core dumps, and, as PR_SET_DUMPABLE has it, /proc/PID/environ, mem and fd
// from the other processes of its user, who could read keys and secrets there; root can. The limit goes to plugins too; the flag ends with
// an exec, so those that are part of this program set it themselves. What cannot be had is done without.
func guarded() {
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}
