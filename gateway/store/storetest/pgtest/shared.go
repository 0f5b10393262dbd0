package pgtest

import (
	"database/sql"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
)

// Main runs a package's tests, of which some take Shared, and stops that server after them. In TestMain:
//
//	os.Exit(pgtest.Main{M: m}.Run())
//	goleak.VerifyTestMain(pgtest.Main{M: m})
type Main struct{ *testing.M }

// Run is testing.M's.
func (m Main) Run() int {
	shared.Lock()
	shared.allowed = true
	shared.Unlock()
	code := m.M.Run()
	shared.Lock()
	defer shared.Unlock()
	if shared.owner != nil {
		shared.owner.end()
		if shared.owner.failed && code == 0 {
			return 1
		}
	}
	return code
}

var shared struct {
	sync.Mutex
	allowed bool // Main runs: it will be stopped
	owner   *outliving
	cluster *Cluster
}

// Shared is a Volatile server for all tests of a process, each of which makes databases of its own on it: half of the time of a
// test with a server of its own is making that server. Tests that stop a server, or fill it, or change its roles, Start theirs.
func Shared(t testing.TB) *Cluster {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	switch {
	case !shared.allowed:
		t.Fatal("pgtest.Shared needs pgtest.Main in TestMain")
	case shared.cluster == nil:
		shared.owner = &outliving{TB: t}
		shared.cluster = Start(shared.owner, Volatile)
	}
	return shared.cluster
}

// outliving is the test that started a shared server, and has ended when that is stopped.
type outliving struct {
	testing.TB
	cleanups []func()
	ended    bool
	failed   bool
}

func (o *outliving) Cleanup(f func()) { o.cleanups = append(o.cleanups, f) }

func (o *outliving) Failed() bool { return o.failed || !o.ended && o.TB.Failed() }

func (o *outliving) Error(args ...any) {
	o.failed = true
	fmt.Fprintln(os.Stderr, args...)
}

func (o *outliving) Errorf(format string, args ...any) { o.Error(fmt.Sprintf(format, args...)) }

func (o *outliving) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func (o *outliving) end() {
	o.ended = true
	for _, f := range slices.Backward(o.cleanups) {
		f()
	}
}

// Pool gives out databases that are copies of a template, and takes them back: emptying one costs a tenth of making one, which is
// some hundred files.
type Pool struct {
	c        *Cluster
	template string
	shape    string
	mu       sync.Mutex
	free     []string
}

// many rows are not worth deleting: the dead ones would slow what comes next.
const many = 2000

// NewPool begins with a database that nobody is connected to. What it holds now, the copies hold when they are taken.
func (c *Cluster) NewPool(t testing.TB, template string) *Pool {
	t.Helper()
	p := &Pool{c: c, template: template}
	db := c.open(t, template)
	defer db.Close()
	for _, s := range []string{
		`CREATE SCHEMA pristine`,
		`DO $$ DECLARE t name; n bigint; BEGIN
			FOR t IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
				EXECUTE format('SELECT count(*) FROM public.%I', t) INTO n;
				IF n > 0 THEN EXECUTE format('CREATE TABLE pristine.%I AS TABLE public.%I', t, t); END IF;
			END LOOP; END $$`,
	} {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	p.shape = shape(t, db)
	return p
}

// Take is a database for one test, at whose end it is taken back.
func (p *Pool) Take(t testing.TB) string {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	name := ""
	if n := len(p.free); n > 0 {
		name, p.free = p.free[n-1], p.free[:n-1]
	} else {
		name = "test" + strconv.FormatInt(p.c.last.Add(1), 10)
		p.c.exec(t, `CREATE DATABASE `+name+` TEMPLATE `+p.template)
	}
	t.Cleanup(func() { p.back(t, name) })
	return name
}

// back empties a database. One that a test changed otherwise, or that a failed test may want to show, is left alone.
func (p *Pool) back(t testing.TB, name string) {
	if t.Failed() {
		return
	}
	db := p.c.open(t, "postgres")
	defer db.Close()
	if _, err := db.Exec(`SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = $1`, name); err != nil {
		t.Error(err)
		return
	}
	of := p.c.open(t, name)
	defer of.Close()
	of.SetMaxOpenConns(1)
	if shape(t, of) != p.shape {
		return
	}
	var deleted int64
	if _, err := of.Exec(`SET session_replication_role = replica`); err != nil { // no triggers, no foreign keys
		t.Error(err)
		return
	}
	if err := of.QueryRow(`WITH d AS (SELECT sum(n_live_tup + n_dead_tup) AS n FROM pg_stat_user_tables) SELECT coalesce(n, 0)::bigint FROM d`).Scan(&deleted); err != nil || deleted > many {
		if err != nil {
			t.Error(err)
		}
		return
	}
	if _, err := of.Exec(`DO $$ DECLARE t name; BEGIN
		FOR t IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP EXECUTE format('DELETE FROM public.%I', t); END LOOP;
		FOR t IN SELECT tablename FROM pg_tables WHERE schemaname = 'pristine' LOOP
			EXECUTE format('INSERT INTO public.%I OVERRIDING SYSTEM VALUE TABLE pristine.%I', t, t); END LOOP;
		END $$`); err != nil {
		t.Error(err)
		return
	}
	p.mu.Lock()
	p.free = append(p.free, name)
	p.mu.Unlock()
}

// open is a database by its owner. The caller closes it.
func (c *Cluster) open(t testing.TB, name string) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", c.DSN(name))
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// shape tells databases apart whose tables, columns, constraints, indexes, triggers or functions are not the same.
func shape(t testing.TB, db *sql.DB) (sum string) {
	t.Helper()
	if err := db.QueryRow(`SELECT md5(coalesce(string_agg(x, E'\n' ORDER BY x), '')) FROM (
		SELECT format('%s %s %s %s %s', a.attrelid::regclass, a.attname, a.atttypid::regtype, a.attnotnull, pg_get_expr(d.adbin, d.adrelid))
			FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
			WHERE c.relnamespace = 'public'::regnamespace AND a.attnum > 0
		UNION ALL SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace
		UNION ALL SELECT pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class ON pg_class.oid = indrelid WHERE relnamespace = 'public'::regnamespace
		UNION ALL SELECT pg_get_triggerdef(g.oid) FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid WHERE c.relnamespace = 'public'::regnamespace AND NOT g.tgisinternal
		UNION ALL SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace) AS all_of_it(x)`).Scan(&sum); err != nil {
		t.Fatal(err)
	}
	return sum
}
