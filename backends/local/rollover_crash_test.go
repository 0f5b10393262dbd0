package local

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"google.golang.org/grpc/codes"
)

// TestCrashInRollover: whatever point a process dies at, the next one finds the old generation or the new one, whole, and the
// same ID ends in one new generation.
func TestCrashInRollover(t *testing.T) {
	for _, root := range []bool{false, true} {
		for _, point := range RolloverCrashPoints {
			t.Run(point, func(t *testing.T) {
				dir := standing(t)
				q := backend.RolloverRequest{ID: "roll", Issuer: IssuerEC, Kind: backend.RolloverRekey, Root: root}
				c := open(t, dir, Options{Crash: func(at string) {
					if at == point {
						panic(point)
					}
				}})
				first := func() *backend.Issuance {
					a, err := c.Issue(t.Context(), request(t, "before"))
					if err != nil {
						t.Fatal(err)
					}
					return a
				}()
				func() {
					defer func() {
						if r := recover(); r != point {
							t.Errorf("the call ended with %v", r)
						}
					}()
					_, _ = c.Rollover(t.Context(), &q)
				}()
				shut(t, c)
				c = open(t, dir, Options{})
				stands := c.open.Load().issuers[0].number
				if want := map[string]int{CrashBeforeRollover: 1, CrashMidRollover: 1, CrashAfterRollover: 2, CrashRolloverLedger: 2}[point]; stands != want {
					t.Errorf("generation %d after the crash, want %d", stands, want)
				}
				if left, err := exists(filepath.Join(dir, unfinishedDir)); left || err != nil {
					t.Errorf("an unfinished key is left: %v", err)
				}
				again, err := c.Issue(t.Context(), request(t, "before"))
				if err != nil || !bytes.Equal(again.Certificate, first.Certificate) || !bytes.Equal(again.Chain[0], first.Chain[0]) {
					t.Errorf("another certificate for an ID from before: %v", err)
				}
				ca := roll(t, c, q)
				i := c.open.Load().issuers[0]
				if i.number != 2 || !bytes.Equal(ca.Chain[0], i.cert.Raw) || !c.open.Load().live(i.all[0], now) {
					t.Errorf("generation %d", i.number)
				}
				after := issue(t, c, request(t, "after"))
				if err := after.CheckSignatureFrom(i.cert); err != nil {
					t.Error(err)
				}
				known, err := c.open.Load().ledger.generations(t.Context())
				if err != nil || len(known) != 3 || known[generationID{IssuerEC, 1}].Int64 != parsed(t, first.Certificate).NotAfter.Unix() || known[generationID{IssuerEC, 2}].Valid {
					t.Errorf("the ledger knows %v, %v", known, err)
				}
			})
		}
	}
}

// TestRolloverLedgerFails: when the disk has the new generation and the ledger cannot be told, nobody issues by the old
// one: its end is settled perhaps. The next process has the new one.
func TestRolloverLedgerFails(t *testing.T) {
	dir := standing(t)
	c := open(t, dir, Options{})
	q := backend.RolloverRequest{ID: "roll", Issuer: IssuerEC, Kind: backend.RolloverRekey}
	if err := c.open.Load().ledger.writer.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, err := c.Rollover(t.Context(), &q)
		want(t, err, codes.Unavailable)
		_, err = c.Issue(t.Context(), request(t, "x"))
		want(t, err, codes.Unavailable)
	}
	shut(t, c)
	c = open(t, dir, Options{})
	roll(t, c, q)
	if n := c.open.Load().issuers[0].number; n != 2 {
		t.Errorf("generation %d", n)
	}
}

// TestRolloverCaughtUp: a failure that passes leaves nothing behind: the next call puts in force what the disk has.
func TestRolloverCaughtUp(t *testing.T) {
	dir := standing(t)
	c := open(t, dir, Options{})
	// A folder in the place of roots.pem.new cannot be replaced by the file.
	obstacle := filepath.Join(dir, rootsFile+".new")
	if err := os.MkdirAll(filepath.Join(obstacle, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	issue(t, c, request(t, "before"))
	q := backend.RolloverRequest{ID: "roll", Issuer: IssuerEC, Kind: backend.RolloverRekey, Root: true}
	_, err := c.Rollover(t.Context(), &q)
	want(t, err, codes.Unavailable)
	_, err = c.Issue(t.Context(), request(t, "x"))
	want(t, err, codes.Unavailable)
	if err := os.RemoveAll(obstacle); err != nil {
		t.Fatal(err)
	}
	leaf := issue(t, c, request(t, "x"))
	i := c.open.Load().issuers[0]
	if err := leaf.CheckSignatureFrom(i.cert); err != nil || i.number != 2 {
		t.Errorf("generation %d: %v", i.number, err)
	}
	if again := roll(t, c, q); !bytes.Equal(again.Chain[0], i.cert.Raw) {
		t.Error("another generation")
	}
}

// TestDamagedGenerationIsRefused: what no crash leaves is not repaired.
func TestDamagedGenerationIsRefused(t *testing.T) {
	made := standing(t)
	c := open(t, made, Options{})
	issue(t, c, request(t, "x"))
	roll(t, c, backend.RolloverRequest{ID: "one", Kind: backend.RolloverRekey, Root: true})
	roll(t, c, backend.RolloverRequest{ID: "two", Kind: backend.RolloverRekey})
	shut(t, c)
	remove := func(name string) func(dir string) error {
		return func(dir string) error { return os.RemoveAll(filepath.Join(dir, authorityDir, name)) }
	}
	replace := func(name, by string) func(dir string) error {
		return func(dir string) error {
			data, err := os.ReadFile(filepath.Join(dir, authorityDir, by))
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, authorityDir, name), data, 0o600)
		}
	}
	for what, x := range map[string]struct {
		damage func(dir string) error
		says   string
	}{
		"the newest gone":      {remove("ec.3"), "ec.3 is gone: restore it"},
		"one between gone":     {remove("ec.2"), "ec.2 is gone: restore it"},
		"the first gone":       {remove("ec.crt"), "no such file"},
		"key gone":             {remove("ec.2/issuing.key"), "no such file"},
		"chain gone":           {remove("ec.2/chain.crt"), "not self-signed"},
		"link gone":            {remove("ec.2/old-with-new.crt"), "no such file"},
		"origin gone":          {remove("ec.2/origin.json"), "no such file"},
		"another key":          {replace("ec.3/issuing.key", "ec.2/issuing.key"), "does not belong"},
		"links exchanged":      {replace("ec.2/old-with-new.crt", "ec.2/new-with-old.crt"), "does not link"},
		"another root":         {replace("ec.2/chain.crt", "ec-root.crt"), "was not issued by its root"},
		"root key open to all": {func(dir string) error { return os.Chmod(filepath.Join(dir, authorityDir, "ec.2/root.key"), 0o644) }, "0644"},
		"not an origin":        {replace("ec.2/origin.json", "ec-root.crt"), "origin.json"},
		"the whole issuer gone": {func(dir string) error {
			return removeAll(dir, "ec.3", "ec.2", "ec.crt", "ec.key", "ec-root.crt", "ec-root.key")
		}, "ec.1 is gone: restore it"},
		"a number left out": {func(dir string) error { return os.Mkdir(filepath.Join(dir, authorityDir, "ec.5"), 0o700) }, "ec.4 is gone"},
	} {
		t.Run(what, func(t *testing.T) {
			dir := copied(t, made)
			if err := x.damage(dir); err != nil {
				t.Fatal(err)
			}
			err := New(Options{}).Configure(t.Context(), []byte("dir: "+dir))
			want(t, err, codes.FailedPrecondition)
			if err != nil && !strings.Contains(err.Error(), x.says) {
				t.Errorf("%v, want it to say %q", err, x.says)
			}
		})
	}
}

func removeAll(dir string, names ...string) error {
	for _, n := range names {
		if err := os.RemoveAll(filepath.Join(dir, authorityDir, n)); err != nil {
			return err
		}
	}
	return nil
}

// TestFirstLayout: a directory that the first release made opens as it is, and goes on from there.
func TestFirstLayout(t *testing.T) {
	dir := copied(t, filepath.Join("testdata", "layout-1"))
	text, err := os.ReadFile(filepath.Join("testdata", "layout-1.request.json"))
	if err != nil {
		t.Fatal(err)
	}
	var q backend.IssueRequest
	if err := json.Unmarshal(text, &q); err != nil {
		t.Fatal(err)
	}
	authority, roots := state(t, filepath.Join(dir, authorityDir)), func() []byte {
		data, err := os.ReadFile(filepath.Join(dir, rootsFile))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	rootsBefore, entries := roots(), rows(t, dir) // read before this release has opened it
	if len(entries) != 3 || entries[0].ID != "old-1" || entries[0].Generation != 1 || entries[1].RevokedAt.IsZero() {
		t.Fatalf("rows %+v", entries)
	}
	c := open(t, dir, Options{}, "issuers: {rsa: {bits: 2048}}")
	if state(t, filepath.Join(dir, authorityDir)) != authority || !bytes.Equal(roots(), rootsBefore) {
		t.Error("the files of the authority have changed")
	}
	if leaf := issue(t, c, &q); !bytes.Equal(leaf.Raw, entries[0].Certificate) {
		t.Error("another certificate for a row of the first release")
	}
	for _, name := range []string{"", "ec", "ec.1"} {
		if l := crlOf(t, c, name); l.Number.Int64() != 1 || len(l.RevokedCertificateEntries) != 1 {
			t.Errorf("CRL %q: number %s, %d entries", name, l.Number, len(l.RevokedCertificateEntries))
		}
	}
	// What is not in the ledger gets the certificate that the first release would have made: serial number and signature.
	shut(t, c)
	execLedger(t, dir, `DELETE FROM certificates WHERE id = 'old-1'`)
	c = open(t, dir, Options{})
	if leaf := issue(t, c, &q); !bytes.Equal(leaf.Raw, entries[0].Certificate) {
		t.Error("another certificate, signed anew")
	}
	ca := roll(t, c, backend.RolloverRequest{ID: "roll", Kind: backend.RolloverRekey, Root: true})
	old := c.open.Load().issuers[0].all[0]
	opensslVerifies(t, true, parsed(t, ca.Chain[1]), [][]byte{old.cert.Raw, link(t, ca, old.root, parsed(t, ca.Chain[1])).Raw}, entries[0].Certificate)
	revoke(t, c, parsed(t, entries[0].Certificate), 1, now)
	if l := crlOf(t, c, "ec.1"); len(l.RevokedCertificateEntries) != 2 || l.CheckSignatureFrom(old.cert) != nil {
		t.Errorf("%d entries", len(l.RevokedCertificateEntries))
	}
	clock := now.Add(time.Hour)
	shut(t, c)
	issue(t, open(t, dir, Options{Clock: func() time.Time { return clock }}), request(t, "new"))
}
