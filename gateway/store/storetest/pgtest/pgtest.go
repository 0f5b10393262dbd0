// Package pgtest runs a private PostgreSQL for tests, from the distribution's package. Nothing outside of tests
// imports it. A machine without PostgreSQL fails the tests that ask for it: the store is promised on both databases.
package pgtest

import (
	"bytes"
	"database/sql"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
)

// Cluster is a server with durability as it is in production (fsync on), unless it is Volatile.
type Cluster struct {
	host string // 127.0.0.1:PORT
	dir  string // which the server's user owns
	args []string
	last atomic.Int64
	db   *sql.DB

	server *exec.Cmd // the running one, or the last one
	out    *bytes.Buffer
	exited chan struct{}
}

// Volatile does not wait for the disk. What a process wrote before it was killed is there all the same; only a power cut
// would tell, and no test cuts the power.
const Volatile = "fsync=off"

// Start makes a cluster in a temporary directory and starts it, with settings such as Volatile. It is stopped and removed
// with the test.
func Start(t testing.TB, settings ...string) *Cluster {
	t.Helper()
	c := newCluster(t, settings)
	initdb, out := c.command(t, "initdb", "-D", "data", "-U", "muster", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
	if err := initdb.Run(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	c.Launch(t)
	return c
}

// newCluster makes the folder of a cluster, and takes it away with the test.
func newCluster(t testing.TB, settings []string) *Cluster {
	t.Helper()
	// Not t.TempDir: its parents are closed to the server's user.
	dir, err := os.MkdirTemp("", "pgtest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the cluster: %v", err)
		}
	})
	if owner := attributes(t).Credential; owner != nil {
		if err := os.Chown(dir, int(owner.Uid), int(owner.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	c := &Cluster{host: freeAddress(t), dir: dir}
	_, port, _ := net.SplitHostPort(c.host)
	c.args = []string{"-D", "data", "-p", port}
	for _, s := range append([]string{
		"listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=200", "deadlock_timeout=100ms", "log_min_messages=fatal",
	}, settings...) {
		c.args = append(c.args, "-c", s)
	}
	if c.db, err = sql.Open("pgx", c.DSN("postgres")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.stop(t); c.db.Close() })
	return c
}

// attributes are those of the server's processes, which refuse to be root's.
func attributes(t testing.TB) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT}
	if os.Geteuid() == 0 {
		attr.Credential = serverUser(t)
	}
	return attr
}

// command is one of PostgreSQL's, in the cluster's folder.
func (c *Cluster) command(t testing.TB, name string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(filepath.Join(binaries(t), name), args...)
	cmd.Dir, cmd.SysProcAttr, cmd.Stdout, cmd.Stderr = c.dir, attributes(t), &out, &out
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + c.dir, "LC_ALL=C"}
	return cmd, &out
}

// Launch starts the server, again after Crash, with settings beside those that Start was given, and returns when it answers.
func (c *Cluster) Launch(t testing.TB, settings ...string) {
	t.Helper()
	args := c.args
	for _, s := range settings {
		args = append(args[:len(args):len(args)], "-c", s)
	}
	c.server, c.out = c.command(t, "postgres", args...)
	if err := c.server.Start(); err != nil {
		t.Fatalf("postgres: %v", err)
	}
	server, exited := c.server, make(chan struct{})
	c.exited = exited
	go func() { _ = server.Wait(); close(exited) }()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := c.db.PingContext(t.Context())
		if err == nil {
			return
		}
		select {
		case <-exited:
			t.Fatalf("PostgreSQL ended at its start:\n%s", c.out)
		case <-time.After(20 * time.Millisecond): // a process of its own: there is nothing to wait on but its port
		}
		if time.Now().After(deadline) {
			t.Fatalf("PostgreSQL does not answer: %v", err)
		}
	}
}

// stop shuts the server down, if it runs.
func (c *Cluster) stop(t testing.TB) {
	if c.exited == nil {
		return
	}
	_ = c.server.Process.Signal(syscall.SIGINT) // fast shutdown
	select {
	case <-c.exited:
	case <-time.After(20 * time.Second):
		_ = c.server.Process.Kill()
		<-c.exited
		t.Error("PostgreSQL did not stop in time")
	}
	if t.Failed() && c.out.Len() > 0 {
		t.Logf("PostgreSQL said:\n%s", c.out)
	}
}

// DSN is the address of a database.
func (c *Cluster) DSN(database string) string {
	return "postgres://muster@" + c.host + "/" + database + "?sslmode=disable"
}

// NewDatabase makes an empty database, which lasts as long as the cluster, and returns its name.
func (c *Cluster) NewDatabase(t testing.TB) string {
	t.Helper()
	name := "test" + strconv.FormatInt(c.last.Add(1), 10)
	c.exec(t, `CREATE DATABASE `+name)
	return name
}

// Cut ends the sessions on a database whose application name is the given one, as a network failure would, and
// returns when the server has ended them.
func (c *Cluster) Cut(t testing.TB, database, application string) {
	t.Helper()
	c.exec(t, `SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = $1 AND application_name = $2`,
		database, application)
}

// CutAll ends all sessions on a database.
func (c *Cluster) CutAll(t testing.TB, database string) {
	t.Helper()
	c.exec(t, `SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = $1`, database)
}

func (c *Cluster) exec(t testing.TB, query string, args ...any) {
	t.Helper()
	if _, err := c.db.ExecContext(t.Context(), query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// binaries is the folder of the newest PostgreSQL.
func binaries(t testing.TB) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil {
		t.Fatal(err)
	}
	newest, best := "", 0
	for _, path := range found {
		if v, err := strconv.Atoi(strings.Split(path, "/")[4]); err == nil && v > best {
			newest, best = filepath.Dir(path), v
		}
	}
	if newest == "" {
		t.Fatal("PostgreSQL is not installed: apt-get install postgresql")
	}
	return newest
}

func serverUser(t testing.TB) *syscall.Credential {
	t.Helper()
	u, err := user.Lookup("postgres")
	if err != nil {
		t.Fatalf("%v: apt-get install postgresql", err)
	}
	var uid, gid uint32
	if _, err := fmt.Sscan(u.Uid+" "+u.Gid, &uid, &gid); err != nil {
		t.Fatal(err)
	}
	return &syscall.Credential{Uid: uid, Gid: gid}
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
