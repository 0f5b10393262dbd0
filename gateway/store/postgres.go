package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/muster-pki/muster/plugins/backend/pgprimary"
)

const (
	postgresReaders = 8
	postgresPacers  = 2
	instanceWait    = "2s" // for the session of a process of this name that has just ended
)

// postgresTimeout is that of one transaction, connecting included.
var postgresTimeout = 10 * time.Second

// openPostgres connects, and calls connected whenever the writer has a new session. The writer's session holds the instance's advisory lock, so that all that this instance writes
// is written by one process; whoever loses the connection loses the lock with it.
func openPostgres(ctx context.Context, dsn, instance string, log *slog.Logger, connected func()) (*database, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err) // pgx leaves the password out
	}
	for name, value := range map[string]string{
		"application_name": "muster " + instance,
		// The server notices within half a minute that this host is gone, and lets go of its lock.
		"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3",
	} {
		if config.RuntimeParams[name] == "" {
			config.RuntimeParams[name] = value
		}
	}
	p := pgprimary.Watch(config, postgresTimeout)
	d := &database{dialect: &postgresDialect, timeout: postgresTimeout, doubt: p.Doubt()}
	d.write = stdlib.OpenDB(*config, append(p.Options(p.Find), stdlib.OptionAfterConnect(func(ctx context.Context, c *pgx.Conn) error {
		if err := enter(ctx, c, instance, log); err != nil {
			return errors.Join(err, c.Close(ctx)) // the pool forgets a connection that it was not given
		}
		connected()
		return nil
	}))...)
	d.write.SetMaxOpenConns(1)
	d.write.SetMaxIdleConns(1)
	d.read = stdlib.OpenDB(*config, p.Options(p.Prefer)...)
	d.read.SetMaxOpenConns(postgresReaders)
	d.read.SetMaxIdleConns(postgresReaders)
	// Opened when a CA has a rate: a turn that a crash forgets is one issuance more, and each commit waits for no disk.
	relaxed := config.Copy()
	relaxed.RuntimeParams["synchronous_commit"] = "off"
	d.pace = stdlib.OpenDB(*relaxed, p.Options(p.Prefer)...)
	d.pace.SetMaxOpenConns(postgresPacers)
	d.pace.SetMaxIdleConns(postgresPacers)
	err = ping(ctx, d.write, d.read)
	if err == nil {
		err = ownSessions(ctx, d.write, d.read)
	}
	// duplicate_prepared_statement, invalid_sql_statement_name
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && (e.Code == "42P05" || e.Code == "26000") {
		err = fmt.Errorf("%w: %w", errPooled, err)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("postgres: %w", err), d.close())
	}
	return d, nil
}

var errPooled = errors.New("a pooler gives one PostgreSQL session to several connections (PgBouncer's pool_mode transaction or statement), and locks need sessions of their own: connect to PostgreSQL itself, or set pool_mode = session")

// ownSessions fails with errPooled where a pooler gives one session to two connections in turn: the writer's locks would be anybody's.
func ownSessions(ctx context.Context, dbs ...*sql.DB) error {
	seen := map[int]bool{}
	for _, db := range dbs {
		var pid int
		if err := db.QueryRowContext(ctx, `SELECT pg_backend_pid()`, pgx.QueryExecModeSimpleProtocol).Scan(&pid); err != nil {
			return err
		}
		if seen[pid] {
			return errPooled
		}
		seen[pid] = true
	}
	return nil
}

func ping(ctx context.Context, dbs ...*sql.DB) error {
	for _, db := range dbs {
		if err := db.PingContext(ctx); err != nil {
			return err
		}
	}
	return nil
}

// enter readies the writer's session.
func enter(ctx context.Context, c *pgx.Conn, instance string, log *slog.Logger) error {
	var commit, fsync, standbys string
	var following int
	err := c.QueryRow(ctx, `SELECT current_setting('synchronous_commit'), current_setting('fsync'), current_setting('synchronous_standby_names'),
		(SELECT count(*) FROM pg_stat_replication)`).Scan(&commit, &fsync, &standbys, &following)
	if err != nil {
		return err
	}
	if fsync == "off" {
		log.Warn("PostgreSQL runs with fsync = off: a crash of its host may lose what was acknowledged")
	}
	if following > 0 && standbys == "" {
		log.Warn("PostgreSQL has a standby, and synchronous_standby_names is empty: a fail-over may lose what was acknowledged")
	}
	if commit == "off" || commit == "local" {
		if _, err := c.Exec(ctx, `SET synchronous_commit = on`); err != nil {
			return err
		}
	}
	key := lockKey(instance)
	if _, err := c.Exec(ctx, `SET lock_timeout = '`+instanceWait+`'`); err != nil {
		return err
	}
	if _, err := c.Exec(ctx, `SELECT pg_advisory_lock($1)`, key); err != nil {
		// lock_not_available
		if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == "55P03" {
			return fmt.Errorf("the instance name %q is in use by %s: each replica needs a name of its own", instance, holder(ctx, c, key))
		}
		return err
	}
	_, err = c.Exec(ctx, `SET lock_timeout = 0`)
	return err
}

// lockKey is the advisory lock of an instance name.
func lockKey(instance string) int64 {
	sum := sha256.Sum256([]byte("muster instance " + instance))
	return int64(binary.BigEndian.Uint64(sum[:8]))
}

// holder describes the session that holds the lock.
func holder(ctx context.Context, c *pgx.Conn, key int64) string {
	var pid int
	var address string
	err := c.QueryRow(ctx, `SELECT a.pid, COALESCE(host(a.client_addr), 'the database''s host') FROM pg_locks l
		JOIN pg_stat_activity a ON a.pid = l.pid
		WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
		AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
		AND l.classid::bigint = $1 AND l.objid::bigint = $2`, int64(uint64(key)>>32), int64(uint32(key))).Scan(&pid, &address)
	if err != nil {
		return "another process"
	}
	return fmt.Sprintf("a process on %s (PostgreSQL session %d)", address, pid)
}

// unable is groupcommit.Options.Unable: insufficient_resources, a full disk among them.
func unable(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && strings.HasPrefix(e.Code, "53")
}
