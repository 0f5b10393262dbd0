//go:build !linux

package serve

// refuseSYN is not to be had here: a client that connects right before the socket is closed is reset.
func refuseSYN(int) {}
