package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/gateway/store"
)

func newStoreCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "store", Short: "Move the store from SQLite to PostgreSQL, or back"}
	cmd.AddCommand(newStoreMigrateCommand())
	return cmd
}

// storeMigrateFlags say what is moved where.
type storeMigrateFlags struct {
	storeFlags
	from, to string
	json     bool
}

// migrated is what `muster store migrate --json` prints.
type migrated struct {
	Rows    map[string]int64 `json:"rows"` // by table
	Total   int64            `json:"total"`
	Already bool             `json:"already,omitempty"` // an earlier run had moved it all
	Took    float64          `json:"took_s"`            // seconds
	Fault   string           `json:"audit_fault,omitempty"`
}

func newStoreMigrateCommand() *cobra.Command {
	f := &storeMigrateFlags{}
	cmd := &cobra.Command{
		Use: "migrate --to ADDRESS", Short: "Copy all that the store holds into an empty one of the other kind, while the gateway is stopped",
		Long: `Copies everything: transactions, what is held or under way, repeats, certificates, challenges, secrets, the inventory, limits, the audit
trail. The target is empty, and has all of it or nothing: a run that was broken off is begun anew. The old store stays as it is.

ADDRESS is postgres://USER@HOST/DATABASE or sqlite:PATH. --to postgres alone goes by the environment: PGHOST, PGDATABASE, PGUSER,
PGPASSWORD. Without --from, or with --from sqlite, it is the configuration's store that is copied.`,
		Example: "  muster store migrate --from sqlite --to postgres://muster@db1,db2/muster\n  PGHOST=db1 PGUSER=muster PGDATABASE=muster muster store migrate --to postgres",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.from, "from", "", "the store to copy, `ADDRESS`, sqlite or postgres (default: the configuration's)")
	cmd.Flags().StringVar(&f.to, "to", "", "the empty store, `ADDRESS` or postgres")
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON")
	cmd.MarkFlagRequired("to") //nolint:errcheck // it is there
	return cmd
}

func (f *storeMigrateFlags) run(cmd *cobra.Command) error {
	data, from, to, err := f.addresses()
	if err != nil {
		return err
	}
	lock, err := lockData(data)
	if err == nil {
		defer lock.Close()
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	begun := time.Now()
	p := &progress{w: cmd.ErrOrStderr(), what: "rows", width: widthOf(cmd.ErrOrStderr()), now: time.Now}
	copied, err := store.Copy(cmd.Context(), from, to, store.CopyOptions{
		Log: slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn})),
		Progress: func(done, total int64) {
			p.what = fmt.Sprintf("rows, %.0f/s", float64(done)/max(time.Since(begun).Seconds(), 0.001))
			p.show(int(done), int(total))
		},
	})
	p.end()
	if err != nil {
		return err
	}
	if f.json {
		err = printJSON(cmd.OutOrStdout(), migrated{copied.Rows, copied.Total(), copied.Already, copied.Took.Seconds(), copied.Fault})
	} else {
		_, err = io.WriteString(cmd.OutOrStdout(), migratedScreen(copied, data, from, to))
	}
	if err == nil && copied.Fault != "" {
		err = fmt.Errorf("the audit trail was moved as it was, and it was not whole: %s", copied.Fault)
	}
	return err
}

// addresses are the data directory and the two stores.
func (f *storeMigrateFlags) addresses() (data, from, to string, err error) {
	if from = f.from; from == "" || !strings.Contains(from, ":") {
		if data, from, err = f.find(); err != nil {
			return "", "", "", fmt.Errorf("which store to copy (or give it by --from): %w", err)
		}
		if kind, _, _ := strings.Cut(from, ":"); f.from != "" && f.from != kind {
			return "", "", "", fmt.Errorf("--from %s: the configuration's store is %s: give the address of another one", f.from, redacted(from))
		}
	} else if data, err = (&serveOptions{config: f.config, data: f.data}).dataDir(); err != nil {
		return "", "", "", err
	}
	switch to = f.to; to {
	case "postgres", "postgresql":
		to = "postgres://"
	case "sqlite":
		return "", "", "", errors.New("--to sqlite: give the file, sqlite:PATH")
	}
	return data, from, to, nil
}

// redacted is an address without its password.
func redacted(dsn string) string {
	if kind, _, _ := strings.Cut(dsn, ":"); kind == "sqlite" {
		return dsn
	}
	u, err := url.Parse(dsn)
	if err != nil {
		return "postgres://..."
	}
	if q := u.Query(); q.Has("password") {
		q.Set("password", "xxxxx")
		u.RawQuery = q.Encode()
	}
	if u.Host == "" && u.Path == "" { // all of it from PG... variables: net/url would write postgres:
		return strings.Replace(u.Redacted(), ":", "://", 1)
	}
	return u.Redacted()
}

// migratedScreen says what was done, and what comes next.
func migratedScreen(c *store.Copied, data, from, to string) string {
	a := &story{}
	if c.Already {
		a.printf("The target has all %s of the source already, by an earlier run: nothing was copied.\n\n", words.Counted(int(c.Total()), "row"))
	} else {
		a.printf("Copied %s of %s in %.1fs. Counts and audit trail agree.\n\n", words.Counted(int(c.Total()), "row"), words.Counted(len(c.Rows), "table"), c.Took.Seconds())
	}
	a.printf("Write into the configuration:\n\n  store: %s\n\n", words.Plain(redacted(to)))
	if strings.HasPrefix(to, "postgres") {
		a.printf(`Every replica needs, the same on all (docs/postgres.md):

  seal: {file: ...}          a copy of %s, or of the file that stands there now
  ra: {cert: ..., key: ...}  at each CMP and SCEP endpoint
  the files that the configuration names

and a name of its own: muster serve --instance NAME. Requests under way go on where they were.

`, words.Plain(filepath.Join(data, sealKey)))
	}
	a.printf("Let no gateway start on the old store again, %s: two stores would issue twice.\n", words.Plain(redacted(from)))
	return a.text.String()
}
