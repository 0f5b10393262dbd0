package simulate

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestListenerAndWhatItUses(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	if _, err := ListenerOf(socket); err == nil {
		t.Error("nobody listens")
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	pid, err := ListenerOf(socket)
	if err != nil || pid != os.Getpid() {
		t.Errorf("%d, %v: want %d", pid, err, os.Getpid())
	}
	own, ok := SampleOf(pid)
	if !ok || own.PID != pid || own.RSS < 1<<20 || own.RSS > 1<<40 {
		t.Errorf("%+v", own)
	}
	above, ok := SampleOf(os.Getppid())
	if !ok || above.Plugins < own.RSS/2 {
		t.Errorf("our parent's children use %d bytes, we %d", above.Plugins, own.RSS)
	}
	if _, ok := SampleOf(1 << 30); ok {
		t.Error("a process that is not there")
	}
}
