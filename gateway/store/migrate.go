package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed migrations/*.sql
var embedded embed.FS

// migrate brings the schema up to this binary's version and refuses one that is newer.
func migrate(ctx context.Context, db *sql.DB, d *dialect) error {
	dir, err := fs.Sub(embedded, "migrations")
	if err != nil {
		return err
	}
	options := []goose.ProviderOption{
		goose.WithDisableGlobalRegistry(true), goose.WithSlog(slog.New(slog.DiscardHandler)),
	}
	if d == &postgresDialect {
		// Replicas that start together take turns.
		locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300))
		if err != nil {
			return fmt.Errorf("schema: %w", err)
		}
		options = append(options, goose.WithSessionLocker(locker))
	}
	p, err := goose.NewProvider(d.goose, db, migrations{dir, d}, options...)
	if err != nil {
		return fmt.Errorf("schema: %w", err)
	}
	sources := p.ListSources()
	want := sources[len(sources)-1].Version
	// Without goose first: a start on a current schema is one query.
	if have, ok := version(ctx, db); ok && have >= want {
		return supported(have, want)
	}
	if _, err := p.Up(ctx); err != nil {
		// insufficient_privilege
		if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == "42501" {
			return fmt.Errorf("schema: %w: the gateway's user makes its tables, so have the database's owner let it: ALTER DATABASE ... OWNER TO it, or GRANT CREATE ON SCHEMA public TO it", err)
		}
		return fmt.Errorf("schema: %w", err)
	}
	have, ok := version(ctx, db)
	if !ok {
		return errors.New("schema: its version cannot be read")
	}
	return supported(have, want)
}

// version is the schema's, false where it cannot be read: in a new database.
func version(ctx context.Context, db *sql.DB) (v int64, ok bool) {
	err := db.QueryRowContext(ctx, `SELECT version_id FROM goose_db_version WHERE is_applied ORDER BY version_id DESC LIMIT 1`).Scan(&v)
	return v, err == nil
}

func supported(have, want int64) error {
	if have > want {
		return fmt.Errorf("the database has schema version %d, this binary knows %d: a newer release wrote it; start that one, or restore a backup from before",
			have, want)
	}
	return nil
}
