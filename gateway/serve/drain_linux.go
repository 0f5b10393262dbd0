package serve

import "golang.org/x/sys/unix"

// refuseSYN has the kernel drop the packets by which clients begin to connect to a listening TCP socket, so that its queue of connections
// can be emptied before it is closed; what is under way goes on. Who is dropped sends again after a second, and then finds another
// process there, or nobody. It is a classic BPF filter (socket(7), SO_ATTACH_FILTER), which sees a segment from its TCP header on:
// byte 13 has the flags (RFC 9293 section 3.1).
func refuseSYN(fd int) {
	const syn = 0x02
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 13},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, Jf: 1, K: syn},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},          // drop it
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff}, // pass it whole
	}
	unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}) //nolint:errcheck // where it may not be, the queue is emptied as well as it goes
}
