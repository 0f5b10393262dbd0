package store

import (
	"errors"
	"io"
	"io/fs"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pressly/goose/v3"
)

// dialect is all that differs between the two databases in SQL text. Both take $1 for a parameter.
type dialect struct {
	goose goose.Dialect
	// now replaces now($n): the database's clock in microseconds, unless the parameter gives the time.
	now string
	// words replaces {words} in statements and migrations.
	words *strings.Replacer
	// retryable reports that the database gave up the transaction in favour of another.
	retryable func(error) bool
}

var sqliteDialect = dialect{
	goose: goose.DialectSQLite3,
	// One process owns the file, so its clock is the database's.
	now: "$$$1",
	words: strings.NewReplacer(
		"{blob}", "BLOB",
		"{id}", "TEXT",
		"{clustered}", "WITHOUT ROWID",
		"{skip locked}", "",
	),
	retryable: func(error) bool { return false }, // one writer
}

var postgresDialect = dialect{
	goose: goose.DialectPostgres,
	now:   "COALESCE($$$1::bigint, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)",
	words: strings.NewReplacer(
		"{blob}", "BYTEA",
		"{id}", `TEXT COLLATE "C"`, // IDs sort as bytes, whatever the database's locale
		"{clustered}", "",
		"{skip locked}", "FOR UPDATE SKIP LOCKED",
	),
	retryable: func(err error) bool {
		// serialization_failure, deadlock_detected
		e, ok := errors.AsType[*pgconn.PgError](err)
		return ok && (e.Code == "40001" || e.Code == "40P01")
	},
}

var nowCall = regexp.MustCompile(`now\(\$(\d+)\)`)

// sql renders a statement.
func (d *dialect) sql(text string) string {
	return nowCall.ReplaceAllString(d.words.Replace(text), d.now)
}

// migrations is a file system of migrations in which the words are replaced.
type migrations struct {
	fs.FS
	dialect *dialect
}

// Open is fs.FS.
func (m migrations) Open(name string) (fs.File, error) {
	f, err := m.FS.Open(name)
	if err != nil || !strings.HasSuffix(name, ".sql") {
		return f, err
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &migration{File: f, Reader: strings.NewReader(m.dialect.words.Replace(string(text)))}, nil
}

type migration struct {
	fs.File
	*strings.Reader
}

// Read is fs.File.
func (m *migration) Read(p []byte) (int, error) { return m.Reader.Read(p) }
