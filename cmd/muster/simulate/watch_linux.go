package simulate

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// clockTick is the unit of CPU times in /proc: USER_HZ, 100 on all of Linux's architectures that Go knows.
const clockTick = 10 * time.Millisecond

// ListenerOf is the process that listens on a Unix socket.
func ListenerOf(socket string) (pid int, err error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) { cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if failed != nil {
		return 0, failed
	}
	return int(cred.Pid), nil
}

// SampleOf says what a process and its children use now, from /proc.
func SampleOf(pid int) (Sample, bool) {
	s := Sample{PID: pid}
	own, ok := readStat(pid)
	if !ok {
		return s, false
	}
	s.RSS, s.CPU = own.rss, own.cpu
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return s, true
	}
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if child, ok := readStat(n); ok && child.parent == pid {
			s.Plugins += child.rss
			s.CPU += child.cpu
		}
	}
	return s, true
}

type stat struct {
	parent int
	cpu    time.Duration
	rss    int64 // bytes
}

// readStat reads /proc/PID/stat (proc_pid_stat(5)). The name of the program, in brackets, may hold anything.
func readStat(pid int) (stat, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	end := bytes.LastIndexByte(b, ')')
	if err != nil || end < 0 {
		return stat{}, false
	}
	fields := strings.Fields(string(b[end+1:])) // from the third on
	if len(fields) < 22 {
		return stat{}, false
	}
	number := func(field int) int64 {
		n, _ := strconv.ParseInt(fields[field-3], 10, 64) // the kernel's
		return n
	}
	return stat{int(number(4)), time.Duration(number(14)+number(15)) * clockTick, number(24) * int64(os.Getpagesize())}, true
}
