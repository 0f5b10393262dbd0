//go:build bench

package bench

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

// seed multiplies the rows of the one enrollment that a gateway has had, which does not run, in its store and in the CA's ledger, until there are n. Keys
// and names are spread over all that they can be, as those of real ones are; texts that nobody looks for are cut short, to spare disk and time:
// the indexes are as large as real ones.
func seed(t testing.TB, g *server, dsn string, n int) {
	t.Helper()
	lite := dsn == ""
	driver, name := "pgx", dsn
	if lite {
		driver, name = "sqlite", filepath.Join(g.dir, "muster.db")
	}
	db := open(t, driver, name)
	defer db.Close()
	id, key, blob := liteID, liteKey, liteBlob
	if !lite {
		id, key, blob = `'s' || lpad(i::text, 10, '0')`, `md5(i::text)`, `decode(md5(i::text), 'hex')`
	}
	multiply(t, db, lite, "transactions", n, map[string]string{
		"id": id, "wire_id": key + ` || 'wire'`, "device": key, "subject": `'CN=' || ` + key, "repeat": key, "resume": key,
		"verdicts": `''`, "facts": `NULL`, "exchange": `NULL`,
	})
	multiply(t, db, lite, "certificates", n, map[string]string{
		"serial": blob, "tx": id, "device": key, "subject": `'CN=' || ` + key, "subject_raw": blob, "key_hash": blob, "der": blob,
		"not_after": "not_after + i * 1000000",
	})
	ledger := db // a CA whose gateway's store is in PostgreSQL has its ledger there, in a schema of its own
	if lite {
		ledger = open(t, "sqlite", filepath.Join(g.dir, "ca", "ledger.db"))
		defer ledger.Close()
	} else {
		var schema string
		if err := db.QueryRow(`SELECT schemaname FROM pg_tables WHERE tablename = 'ledger_version'`).Scan(&schema); err != nil {
			t.Fatal(err)
		}
		must(t, db, `SET search_path = `+schema)
	}
	// Far from the numbers that the CA gives.
	multiply(t, ledger, lite, "certificates", n, map[string]string{"number": "number + 1000000000 + i", "id": id, "serial": blob, "certificate": blob})
	if !lite {
		must(t, db, `ANALYZE`)
	}
}

// In SQLite's words: a number's name, and what is spread over all values of its kind.
const (
	liteID   = `'s' || substr('0000000000' || i, -10)`
	liteKey  = `lower(hex(randomblob(16)))`
	liteBlob = `randomblob(16)`
)

func open(t testing.TB, driver, name string) *sql.DB {
	t.Helper()
	db, err := sql.Open(driver, name)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	if driver == "sqlite" { // nothing here has to survive a power cut
		must(t, db, `PRAGMA synchronous = OFF`)
		must(t, db, `PRAGMA cache_size = -200000`)
	}
	return db
}

func must(t testing.TB, db *sql.DB, query string, args ...any) {
	t.Helper()
	if _, err := db.Exec(query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

var made atomic.Int64

// multiply makes n rows of a table's newest, in which the columns named are what an expression of i says.
func multiply(t testing.TB, db *sql.DB, lite bool, table string, n int, changed map[string]string) {
	t.Helper()
	rows, err := db.Query(fmt.Sprintf(`SELECT * FROM %s LIMIT 0 -- %d`, table, made.Add(1))) // pgx keeps the plan of a text
	if err != nil {
		t.Fatal(err)
	}
	columns, err := rows.Columns()
	rows.Close()
	if err != nil {
		t.Fatal(err)
	}
	values := slices.Clone(columns)
	for i, c := range columns {
		if expression, ok := changed[c]; ok {
			values[i] = expression
		}
	}
	series := `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ` + fmt.Sprint(n) + `) `
	of := `n`
	if !lite {
		series, of = ``, fmt.Sprintf(`generate_series(1::bigint, %d) AS n(i)`, n)
	}
	// From a table of its own, so that no row is read that was just written.
	one := `one_of_` + table + strconv.FormatInt(made.Add(1), 10)
	must(t, db, `CREATE TEMP TABLE `+one+` AS SELECT * FROM `+table+` LIMIT 1`)
	must(t, db, series+`INSERT INTO `+table+` (`+strings.Join(columns, ", ")+`) SELECT `+strings.Join(values, ", ")+` FROM `+one+`, `+of)
}
