package simulate

import (
	"bufio"
	"net"
	"sync"
)

// open is a connection that more than one request may use, with what was read of it already.
type open struct {
	net.Conn
	r *bufio.Reader
}

func newOpen(c net.Conn) *open { return &open{c, bufio.NewReader(c)} }

// kept are the connections that nobody uses now, the newest last: as many as requests were under way at a time.
type kept struct {
	mu   sync.Mutex
	idle []*open
}

// take is nil when there is none.
func (k *kept) take() (o *open) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if n := len(k.idle); n > 0 {
		o, k.idle = k.idle[n-1], k.idle[:n-1]
	}
	return o
}

func (k *kept) give(o *open) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.idle = append(k.idle, o)
}
