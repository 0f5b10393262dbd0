package local

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"
)

func TestReadLedger(t *testing.T) {
	dir := standing(t)
	if _, err := ReadLedger(t.Context(), t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a ledger: %v", err)
	}
	if e := rows(t, dir); len(e) != 0 {
		t.Errorf("%d entries in a new ledger", len(e))
	}
	c := open(t, dir, Options{})
	a, q := issue(t, c, request(t, "a")), request(t, "b")
	q.Issuer = IssuerRSA
	b := issue(t, c, q)
	revoke(t, c, b, 5, now)
	wanted := []Entry{
		{ID: "a", Issuer: "ec", Generation: 1, Serial: hex.EncodeToString(a.SerialNumber.Bytes()), Subject: "CN=device-a,O=Operator", Device: "device-a",
			IssuedAt: now, NotAfter: a.NotAfter, Certificate: a.Raw},
		{ID: "b", Issuer: "rsa", Generation: 1, Serial: hex.EncodeToString(b.SerialNumber.Bytes()), Subject: "CN=device-b,O=Operator", Device: "device-b",
			IssuedAt: now, NotAfter: b.NotAfter, RevokedAt: now, Reason: 5, Certificate: b.Raw},
	}
	if e := rows(t, dir); !reflect.DeepEqual(e, wanted) {
		t.Errorf("while the CA runs: %+v", e)
	}
	issue(t, c, request(t, "c")) // a reader leaves nothing behind that disturbs the writer
	shut(t, c)
	before := state(t, dir)
	if e := rows(t, dir); len(e) != 3 || !reflect.DeepEqual(e[:2], wanted) {
		t.Errorf("when the CA is closed: %+v", e)
	}
	if after := state(t, dir); before != after {
		t.Errorf("reading changed the directory:\n%safter:\n%s", before, after)
	}
	// A path that means something in a URI.
	odd := filepath.Join(t.TempDir(), "a?mode=ro#%20 ä")
	if err := os.Mkdir(odd, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(odd, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if e := rows(t, odd); len(e) != 3 {
		t.Errorf("%d entries under an odd path", len(e))
	}
	execLedger(t, dir, `PRAGMA user_version = 99`)
	if _, err := ReadLedger(t.Context(), dir); !errors.Is(err, errNewerLedger) {
		t.Errorf("a newer ledger: %v", err)
	}
}

// TestLedgerPragmas: what record answers is on the disk, and those who read only read.
func TestLedgerPragmas(t *testing.T) {
	c := open(t, standing(t), Options{})
	l := c.open.Load().ledger
	for pragma, wanted := range map[string]string{"synchronous": "2", "journal_mode": "wal"} {
		var got string
		if err := l.write.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != wanted {
			t.Errorf("%s is %s, %v; want %s", pragma, got, err, wanted)
		}
	}
	if _, err := l.read.Exec(`DELETE FROM certificates`); err == nil {
		t.Error("a reading connection writes")
	}
}

// TestSerialTaken: a serial number that another ID has is not used twice, whatever the arithmetic says.
func TestSerialTaken(t *testing.T) {
	c := open(t, standing(t), Options{})
	l := c.open.Load().ledger
	e := &entry{id: "a", issuer: "ec", serial: []byte{1}, template: []byte{2}, certificate: []byte{3}, issuedAt: now, notAfter: now.Add(time.Hour)}
	if _, err := l.record(e); err != nil {
		t.Fatal(err)
	}
	twin := *e
	twin.id = "b"
	if _, err := l.record(&twin); err == nil {
		t.Error("one serial number for two IDs")
	}
	again := *e
	again.certificate = []byte{4}
	if stands, err := l.record(&again); err != nil || stands.certificate[0] != 3 {
		t.Errorf("the row of an ID was replaced: %v, %v", stands, err)
	}
}
