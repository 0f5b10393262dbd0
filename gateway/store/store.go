// Package store keeps what must survive: transactions, claims, work, certificates and the audit trail. It implements
// gateway.Store with one SQL text over database/sql for SQLite and PostgreSQL (dialect.go holds all that differs).
//
// It decides nothing about requests and calls no CA. cmd/muster opens it; the gateway and the authz stages read and
// write through the interfaces that they declare. What it has to do is tested by storetest, on both databases.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/audit"
	"github.com/muster-pki/muster/plugins/backend/groupcommit"
)

// Options of Open. The zero value works.
type Options struct {
	Instance string           // name of this process among its replicas: owner of leases, audit stream; the host's name when ""
	Clock    func() time.Time // time.Now when nil. When given it stands in for PostgreSQL's clock too
	Log      *slog.Logger     // nil for none

	AuditKey  *audit.Key // signs this instance's stream of the audit trail; nil: nobody does, as in tests
	AuditHead string     // file that keeps the stream's last record outside of the store, "" for none; its folder exists
}

// Store is a gateway.Store. Its methods may be called concurrently.
type Store struct {
	instance string
	dialect  *dialect
	clock    func() time.Time
	dbClock  bool // leases go by the database's own clock
	log      *slog.Logger

	writeDB  *sql.DB // one connection, the writer's
	readDB   *sql.DB
	paceDB   *sql.DB // PostgreSQL alone; nil for SQLite
	writer   *groupcommit.Writer
	texts    [statements]string    // in the database's dialect
	prepared [statements]*sql.Stmt // the reads
	lock     io.Closer             // what keeps a second process away

	head     head         // of the audit stream; the writer's goroutine alone, and so the next four
	signed   checkpointed // in it
	signedIn int64        // the writer's session in which that was
	told     int64        // Seq in the head file
	untold   bool         // the head file could not be written last
	key      *audit.Key   // nil: the stream is not signed
	heads    *audit.HeadFile
	headPath string
	left     audit.Head   // how this instance's stream ended that was removed as a whole since; Seq 0 for none
	sessions atomic.Int64 // that the writer has had
	chains   sync.Map     // hashes of chains known to be in the table

	ships    atomic.Pointer[shipping]               // nil when there are no sinks
	shipLock sync.Mutex                             // of who changes them
	after    func(d time.Duration) <-chan time.Time // time.After

	paceLock chan struct{}       // holds one element while somebody reads or changes paces
	paces    map[string]*ownPace // by backend; SQLite alone

	inventory chan struct{} // holds one element while this instance has or waits for the inventory's lock
	commits   prometheus.Histogram
	behind    sync.WaitGroup // what runs beside: see sweepBehind
	stop      func()         // ends it
}

var _ gateway.Store = (*Store)(nil)

// database is an opened, empty or older or current database.
type database struct {
	dialect *dialect
	write   *sql.DB
	read    *sql.DB
	pace    *sql.DB // with commits that wait for no disk; nil where memory paces
	lock    io.Closer
	timeout time.Duration // of one transaction; 0 for none
	begin   string        // groupcommit.Options.Begin

	doubt func() error // groupcommit.Options.Doubt
}

func (d *database) close() error {
	var errs []error
	for _, db := range []*sql.DB{d.read, d.write, d.pace} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	if d.lock != nil {
		errs = append(errs, d.lock.Close())
	}
	return errors.Join(errs...)
}

// Open opens the store, makes or updates its schema, and keeps it for this process: a SQLite file belongs to one
// process, a PostgreSQL database to one process per instance name.
//
// dsn is "sqlite:PATH" (of a file in an existing directory) or a "postgres://" URL, which must reach one session per
// connection (no transaction pooling).
func Open(ctx context.Context, dsn string, o Options) (*Store, error) {
	s := &Store{instance: o.Instance, clock: o.Clock, log: o.Log, key: o.AuditKey, headPath: o.AuditHead, inventory: make(chan struct{}, 1), stop: func() {},
		paceLock: make(chan struct{}, 1), paces: map[string]*ownPace{}, after: time.After, commits: newCommits()}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.instance == "" {
		name, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("store: a name for this instance: %w", err)
		}
		s.instance = name
	}
	if err := validKey("instance name", s.instance); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	var db *database
	var err error
	scheme, rest, _ := strings.Cut(dsn, ":")
	switch scheme {
	case "sqlite":
		db, err = openSQLite(ctx, rest)
	case "postgres", "postgresql":
		s.dbClock = o.Clock == nil
		db, err = openPostgres(ctx, dsn, s.instance, s.log, func() { s.sessions.Add(1) })
	default:
		// The rest may hold a password.
		err = fmt.Errorf(`the scheme %q is not known: give "sqlite:PATH" or "postgres://USER@HOST/DATABASE"`, scheme)
	}
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	if s.clock == nil {
		s.clock = time.Now
	}
	s.dialect, s.writeDB, s.readDB, s.paceDB, s.lock = db.dialect, db.write, db.read, db.pace, db.lock
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("store: %w", err), db.close())
	}
	wrong, err := s.openHeads(ctx)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("store: %w", err), db.close())
	}
	s.writer = groupcommit.New(s.writeDB, groupcommit.Options{
		Log: s.log, Timeout: db.timeout, Begin: db.begin, Doubt: db.doubt, Retryable: s.dialect.retryable, Unable: unable, RolledBack: func() { s.head = head{} }, Committed: s.committed,
	})
	err = s.recordWrong(ctx, wrong)
	if err == nil {
		err = s.sweepBehind(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("store: %w", err), s.Close())
	}
	return s, nil
}

// voidLeases ends the leases of earlier runs, so that what a crash left is due at once.
const voidLeases = `UPDATE work SET due = CASE WHEN due > now($1) THEN now($1) ELSE due END, owner = '', lease_until = 0
	WHERE owner <> ''`

// start brings the schema up to date and enters this process.
func (s *Store) start(ctx context.Context) error {
	if err := migrate(ctx, s.writeDB, s.dialect); err != nil {
		return err
	}
	if err := s.prepare(ctx); err != nil {
		return err
	}
	if s.dialect == &sqliteDialect { // with PostgreSQL other instances work on: leases expire
		if _, err := s.writeDB.ExecContext(ctx, s.dialect.sql(voidLeases), s.dbNow()); err != nil {
			return fmt.Errorf("leases of earlier runs: %w", err)
		}
	}
	now := micros(s.clock())
	if _, err := s.writeDB.ExecContext(ctx, s.texts[touchInstance], s.instance, now, now); err != nil {
		return fmt.Errorf("instance %s: %w", s.instance, err)
	}
	return nil
}

// dbNow is the parameter of now($n): nil where the database's own clock is asked.
func (s *Store) dbNow() any {
	if s.dbClock {
		return nil
	}
	return micros(s.clock())
}

// Ready is gateway.Store. After a failed commit it tries one itself, since nobody else may write while it is not ready.
func (s *Store) Ready(ctx context.Context) error {
	if failed := s.writer.Healthy(); failed != nil {
		if err := s.probe(ctx); err != nil {
			return fmt.Errorf("store: the last commit failed: %w; nor can it commit now: %w", failed, err)
		}
	}
	var one int
	if err := s.read(ctx, readInstance, s.instance).Scan(&one); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return s.audible()
}

// probeSize is more than a transaction's commits need: on a disk where less fits the store is not ready, though a row
// would go in.
const probeSize = 64 << 10

// probe commits a row of probeSize and takes it away again. It lies among the chains, under a key that is no hash.
func (s *Store) probe(ctx context.Context) error {
	key := []byte("probe of " + s.instance)
	drop := func(u unit) error {
		_, err := u.exec(dropChain, key)
		return err
	}
	err := s.write(ctx, func(u unit) error {
		if err := drop(u); err != nil { // one that an earlier probe could not take away would make this one write nothing
			return err
		}
		_, err := u.exec(insertChain, key, strings.Repeat("-", probeSize))
		return err
	})
	if err == nil {
		err = s.write(ctx, drop)
	}
	return err
}

// Close waits for the writes under way and closes the database.
func (s *Store) Close() error {
	s.stopShipping()
	s.stop()
	s.behind.Wait()
	errs := []error{s.writer.Close(), s.closeHeads()}
	for _, p := range s.prepared[firstRead:] {
		errs = append(errs, p.Close())
	}
	if s.dialect != &sqliteDialect { // the name is free at once, and not a moment later when the server ends the session; a server that is gone has ended it
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_, _ = s.writeDB.ExecContext(ctx, `SELECT pg_advisory_unlock_all()`)
		cancel()
	}
	d := database{write: s.writeDB, read: s.readDB, pace: s.paceDB, lock: s.lock}
	return errors.Join(append(errs, d.close())...)
}
