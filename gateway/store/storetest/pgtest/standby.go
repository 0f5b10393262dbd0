package pgtest

import (
	"database/sql"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Standby makes a synchronous standby of a running cluster: from when it returns no commit is acknowledged that the standby has not got.
// It is stopped and removed with the test.
func (c *Cluster) Standby(t testing.TB, settings ...string) *Cluster {
	t.Helper()
	s := newCluster(t, settings)
	host, port, _ := net.SplitHostPort(c.host)
	backup, out := s.command(t, "pg_basebackup", "-h", host, "-p", port, "-U", "muster", "-D", "data", "-R", "-X", "stream", "-c", "fast", "--no-sync")
	if err := backup.Run(); err != nil {
		t.Fatalf("pg_basebackup: %v\n%s", err, out)
	}
	s.Launch(t)
	c.exec(t, `ALTER SYSTEM SET synchronous_standby_names = '*'`)
	c.exec(t, `SELECT pg_reload_conf()`)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) { // a process of its own
		if c.Count(t, "postgres", `SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'`) == 1 {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatal("the standby does not follow")
		}
	}
}

// Promote makes a standby a primary, and returns when it takes writes.
func (c *Cluster) Promote(t testing.TB) {
	t.Helper()
	c.exec(t, `SELECT pg_promote(true, 60)`)
}

// Crash ends the server at once: what it has not written to its log is gone, and its clients are not told.
func (c *Cluster) Crash(t testing.TB) {
	t.Helper()
	_ = c.server.Process.Signal(syscall.SIGQUIT) // immediate shutdown: all processes end, and the shared memory is given back, as after a kill of each
	<-c.exited
}

// Freeze stops a server's processes where they are: it takes connections, and answers nobody. Thaw has them go on.
func (c *Cluster) Freeze(t testing.TB) { c.signal(t, syscall.SIGSTOP) }

// Thaw undoes Freeze.
func (c *Cluster) Thaw(t testing.TB) { c.signal(t, syscall.SIGCONT) }

// signal reaches the server and what it has started.
func (c *Cluster) signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	for _, pid := range append(children(c.server.Process.Pid), c.server.Process.Pid) {
		if err := syscall.Kill(pid, s); err != nil && err != syscall.ESRCH {
			t.Fatal(err)
		}
	}
}

// children are the processes that a process has started.
func children(of int) (pids []int) {
	text, err := exec.Command("pgrep", "-P", strconv.Itoa(of)).Output()
	if err != nil {
		return nil
	}
	for _, field := range strings.Fields(string(text)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Count runs a query for one number on a database.
func (c *Cluster) Count(t testing.TB, database, query string, args ...any) (n int) {
	t.Helper()
	db, err := sql.Open("pgx", c.DSN(database))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRowContext(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

// DSNs is the address of a database on several servers, of which one takes writes.
func DSNs(database string, servers ...*Cluster) string {
	hosts := make([]string, len(servers))
	for i, c := range servers {
		hosts[i] = c.host
	}
	return "postgres://muster@" + strings.Join(hosts, ",") + "/" + database + "?sslmode=disable&target_session_attrs=read-write"
}
