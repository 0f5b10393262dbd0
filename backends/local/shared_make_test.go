package local

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"google.golang.org/grpc/codes"
)

// Of replicas that start at once with empty directories one has made the CA.
func testSharedFirstStarts(t *testing.T, s *sharing) {
	config := s.ledger() + "\nissuers: {rsa: {bits: 2048}}"
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	cas, errs := make([]*CA, len(dirs)), make([]error, len(dirs))
	var wg sync.WaitGroup
	for n, dir := range dirs {
		cas[n] = New(Options{Clock: func() time.Time { return now }})
		wg.Go(func() { errs[n] = cas[n].Configure(t.Context(), []byte("dir: "+dir+"\n"+config)) })
	}
	wg.Wait()
	made := -1
	for n := range dirs {
		if errs[n] == nil {
			if made >= 0 {
				t.Fatal("two CAs in one ledger")
			}
			made = n
			t.Cleanup(func() { shut(t, cas[n]) })
		}
	}
	if made < 0 {
		t.Fatal(errs)
	}
	leaf := issue(t, cas[made], request(t, "x"))
	for n, dir := range dirs {
		if n == made {
			continue
		}
		if want(t, errs[n], codes.FailedPrecondition); !strings.Contains(errs[n].Error(), filepath.Join(dir, authorityDir)) {
			t.Error(errs[n])
		}
		left, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil || len(left) != 1 || filepath.Base(left[0]) != lockFile {
			t.Errorf("it leaves %v, %v", left, err)
		}
		refusedOpening(t, dir, config, codes.FailedPrecondition, "another replica has made it", "ledger-name")
		// As the message says.
		if err := os.Rename(copied(t, filepath.Join(dirs[made], authorityDir)), filepath.Join(dir, authorityDir)); err != nil {
			t.Fatal(err)
		}
		if same := issue(t, open(t, dir, Options{}, config), request(t, "x")); !bytes.Equal(same.Raw, leaf.Raw) {
			t.Error("another certificate")
		}
	}
}

func testSharedHalfMade(t *testing.T, s *sharing) {
	dir, config := t.TempDir(), s.ledger()+"\nissuers: {rsa: {bits: 2048}}"
	c := open(t, dir, Options{}, config)
	leaf := issue(t, c, request(t, "x"))
	shut(t, c)
	if err := os.Rename(filepath.Join(dir, authorityDir), filepath.Join(dir, unfinishedDir)); err != nil {
		t.Fatal(err)
	}
	if same := issue(t, open(t, dir, Options{}, config), request(t, "x")); !bytes.Equal(same.Raw, leaf.Raw) {
		t.Error("another CA")
	}
}

func testSharedOtherAuthority(t *testing.T, s *sharing) {
	config := s.ledger()
	dir := standing(t)
	issue(t, open(t, dir, Options{}, config), request(t, "x"))
	other := filepath.Join(t.TempDir(), "ca")
	shut(t, open(t, other, Options{}, "issuers: {rsa: {bits: 2048}}"))
	if err := os.Remove(filepath.Join(other, ledgerFile)); err != nil {
		t.Fatal(err)
	}
	refusedOpening(t, other, config, codes.FailedPrecondition, "another CA", "put a copy of that replica's folder authority", other)
	// The same secret, and another certificate of the issuing CA.
	third := replicaOf(t, dir)
	for _, name := range []string{"ec.crt", "ec.key", "ec-root.crt", "ec-root.key"} {
		text, err := os.ReadFile(filepath.Join(other, authorityDir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(third, authorityDir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	refusedOpening(t, third, config, codes.FailedPrecondition, "generation 1 of CA ec is another one here")
	// A ledger that was lost, or is looked for in the wrong place.
	refusedOpening(t, replicaOf(t, dir), s.ledger(), codes.FailedPrecondition, "restore the ledger, or correct `ledger` and `ledger-name`")
	// And the way back to a file would be a second ledger.
	refusedOpening(t, replicaOf(t, dir), "", codes.FailedPrecondition, "ledger.db is gone")
}

// An issuer that is configured later is made by one replica, and imported by each.
func testSharedNewIssuer(t *testing.T, s *sharing) {
	a, b, config := s.replicas(t)
	dirA, dirB := a.open.Load().full.Dir, b.open.Load().full.Dir
	shut(t, a)
	shut(t, b)
	config += "\nissuers: {plant: {}}"
	a = open(t, dirA, Options{}, config)
	refusedOpening(t, dirB, config, codes.FailedPrecondition, "copy its folder plant.1")
	generationCopied(t, dirA, dirB, "plant.1")
	b = open(t, dirB, Options{}, config)
	q := request(t, "x")
	q.Issuer = "plant"
	if x, y := issue(t, a, q), issue(t, b, q); !bytes.Equal(x.Raw, y.Raw) {
		t.Error("two certificates")
	}
	shut(t, a)
	shut(t, b)
	cert, key := new(operator).add(t, "P-256", "Root", nil).files(t)
	config = strings.Replace(config, "issuers: {plant: {}}", importing(cert, key, ""), 1)
	a, b = open(t, dirA, Options{}, config), open(t, dirB, Options{}, config)
	q.ID, q.Issuer = "y", "factory"
	if x, y := issue(t, a, q), issue(t, b, q); !bytes.Equal(x.Raw, y.Raw) {
		t.Error("two certificates of what each has imported")
	}
	shut(t, b)
	cert, key = new(operator).add(t, "P-256", "Another Root", nil).files(t)
	other := replicaOf(t, dirA)
	if err := os.RemoveAll(filepath.Join(other, authorityDir, "factory.1")); err != nil {
		t.Fatal(err)
	}
	refusedOpening(t, other, strings.Split(config, "\nissuers")[0]+"\n"+importing(cert, key, ""), codes.FailedPrecondition, "made or announced there already")
}

// TestLedgerURLIsHidden: no error and no print tells a password.
func TestLedgerURLIsHidden(t *testing.T) {
	for _, text := range []string{
		"postgres://u:hidden@127.0.0.1:1/d", "postgres://u:hidden@127.0.0.1:1/d?sslmode=odd", "postgres://u@h/d?password=hidden&sslmode=odd",
		"postgres://u:hid den@h:x/d", "mysql://u:hidden@h/d", "postgres://u:hidden@h/d?sslrootcert=/nowhere&sslmode=verify-full", "u:hidden@h/d",
		"postgres://u@127.0.0.1:1/d?password=hidden", "postgres://u:hidden@h:port/d", "postgres://u:%zzhidden@h/d",
	} {
		c := New(Options{})
		config := []byte(fmt.Sprintf("dir: %s\nledger: %q", t.TempDir(), text))
		for _, err := range []error{c.Validate(t.Context(), config), c.Configure(t.Context(), config)} {
			if err != nil && (strings.Contains(err.Error(), "hidden") || strings.Contains(err.Error(), "hid den")) {
				t.Errorf("%s is told: %v", text, err)
			}
		}
		x := Config{Ledger: LedgerURL(text)}
		if told := fmt.Sprintf("%v %+v %#v %s %q", x, x, x, x.Ledger, x.Ledger); strings.Contains(told, "hidden") {
			t.Errorf("%s is printed: %s", text, told)
		}
	}
	c := New(Options{})
	want(t, c.Validate(t.Context(), []byte("{dir: /x, ledger-name: y}")), codes.InvalidArgument)
	want(t, c.Validate(t.Context(), []byte("{dir: /x, ledger: 'postgres://u@h/d', ledger-name: 'a b'}")), codes.InvalidArgument)
	if err := c.Validate(t.Context(), []byte("{dir: /x, ledger: 'postgres://u@a:1,b:2/d?target_session_attrs=read-write'}")); err != nil {
		t.Error(err)
	}
}

// The ledger of a file becomes one in PostgreSQL, with all that is in it, once.
func testSharedMove(t *testing.T, s *sharing) {
	dir, config := standing(t), s.ledger()
	c := open(t, dir, Options{})
	if MoveTime([]byte("dir: "+dir)) != 0 || MoveTime([]byte("dir: "+dir+"\n"+config)) == 0 {
		t.Error("a start takes longer where a ledger's file moves, and nowhere else")
	}
	first := issue(t, c, request(t, "a"))
	revoke(t, c, issue(t, c, request(t, "b")), 1, now)
	roll(t, c, backend.RolloverRequest{ID: "roll", Issuer: IssuerEC, Kind: backend.RolloverRekey})
	issue(t, c, request(t, "c"))
	list, file := crl(t, c, ""), rows(t, dir)
	shut(t, c)
	before := copied(t, dir)

	c = open(t, dir, Options{}, config)
	if moved := s.entries(t, config); fmt.Sprint(moved) != fmt.Sprint(file) || len(moved) != 3 {
		t.Errorf("%+v\nwas %+v", moved, file)
	}
	if again := crl(t, c, ""); !bytes.Equal(again.Raw, list.Raw) {
		t.Error("another CRL")
	}
	if again := issue(t, c, request(t, "a")); !bytes.Equal(again.Raw, first.Raw) {
		t.Error("another certificate")
	}
	if _, err := os.Stat(filepath.Join(dir, ledgerFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
	if extra := MoveTime([]byte("dir: " + dir + "\n" + config)); extra != 0 {
		t.Errorf("a start takes %s longer after the move", extra)
	}
	shut(t, c)
	// A crash before the file had its new name.
	if err := os.Rename(filepath.Join(dir, ledgerFile+movedSuffix), filepath.Join(dir, ledgerFile)); err != nil {
		t.Fatal(err)
	}
	c = open(t, dir, Options{}, config)
	issue(t, c, request(t, "d"))
	// A file that went on after it was moved is another ledger.
	other := open(t, before, Options{})
	issue(t, other, request(t, "e"))
	shut(t, other)
	refusedOpening(t, before, config, codes.FailedPrecondition, "two ledgers")
	if n := len(s.entries(t, config)); n != 4 {
		t.Errorf("%d rows", n)
	}
}

// A user who may not make the schema is told who can.
func testSharedPoor(t *testing.T, s *sharing) {
	config := s.ledger()
	if _, err := open(t, standing(t), Options{}, s.ledger()).open.Load().ledger.write.Exec(`CREATE ROLE poor LOGIN`); err != nil {
		t.Fatal(err)
	}
	refusedOpening(t, standing(t), strings.Replace(config, "muster@", "poor@", 1), codes.FailedPrecondition, "CREATE SCHEMA", `AUTHORIZATION "poor"`)
}

func testSharedTwo(t *testing.T, s *sharing) {
	a, b := s.ledger(), s.ledger()
	issue(t, open(t, standing(t), Options{}, a), request(t, "x"))
	issue(t, open(t, standing(t), Options{}, b), request(t, "y"))
	if x, y := s.entries(t, a), s.entries(t, b); len(x) != 1 || len(y) != 1 || x[0].ID != "x" || y[0].ID != "y" {
		t.Errorf("%v, %v", x, y)
	}
}

func testSharedNewer(t *testing.T, s *sharing) {
	dir, config := standing(t), s.ledger()
	c := open(t, dir, Options{}, config)
	var commit string
	if err := c.open.Load().ledger.write.QueryRow(`SELECT current_setting('synchronous_commit')`).Scan(&commit); err != nil || commit != "on" {
		t.Errorf("synchronous_commit is %s, %v", commit, err)
	}
	if _, err := c.open.Load().ledger.write.Exec(`UPDATE ledger_version SET version = version + 1`); err != nil {
		t.Fatal(err)
	}
	shut(t, c)
	refusedOpening(t, dir, config, codes.FailedPrecondition, errNewerLedger.Error())
}
