package local

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/store/storetest/pgtest"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// sharing is a database in which tests have ledgers.
type sharing struct {
	cluster *pgtest.Cluster
	db, url string
	names   atomic.Int64
}

func share(t testing.TB) *sharing {
	t.Helper()
	s := &sharing{cluster: pgtest.Start(t, pgtest.Volatile)}
	s.db = s.cluster.NewDatabase(t)
	s.url = s.cluster.DSN(s.db)
	return s
}

// ledger is the configuration of a ledger of its own.
func (s *sharing) ledger() string {
	return fmt.Sprintf("ledger: %q\nledger-name: t%d", s.url, s.names.Add(1))
}

// entries lists what a ledger has.
func (s *sharing) entries(t testing.TB, config string) []Entry {
	t.Helper()
	_, name, _ := strings.Cut(config, "ledger-name: ")
	entries, err := ReadPostgresLedger(t.Context(), LedgerURL(s.url), name)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// replicas opens the CA in dir and in a copy of its authority, over one ledger.
func (s *sharing) replicas(t testing.TB, o ...Options) (a, b *CA, config string) {
	t.Helper()
	o = append(o, Options{}, Options{})
	config = s.ledger()
	dir := standing(t)
	a = open(t, dir, o[0], config)
	return a, open(t, replicaOf(t, dir), o[1], config), config
}

// replicaOf is a new directory with a copy of the authority.
func replicaOf(t testing.TB, dir string) string {
	t.Helper()
	other := t.TempDir()
	if err := os.Rename(copied(t, filepath.Join(dir, authorityDir)), filepath.Join(other, authorityDir)); err != nil {
		t.Fatal(err)
	}
	return other
}

// refusedOpening configures a CA, which is to fail with a message that has all of says.
func refusedOpening(t testing.TB, dir, config string, code codes.Code, says ...string) {
	t.Helper()
	c := New(Options{Clock: func() time.Time { return now }})
	err := c.Configure(t.Context(), []byte("dir: "+dir+"\n"+config))
	if err == nil {
		shut(t, c)
		t.Fatal("it opens")
	}
	want(t, err, code)
	for _, text := range says {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%v\ndoes not say %q", err, text)
		}
	}
}

// TestShared is what holds for the ledger in PostgreSQL.
func TestShared(t *testing.T) {
	s := share(t)
	t.Run("conformance", func(t *testing.T) {
		backendtest.Run(t, backendtest.Subject{
			New: newBackend,
			Config: func(t *testing.T) []byte {
				return []byte("dir: " + strconv.Quote(standing(t)) + "\n" + s.ledger())
			},
			BadConfig: []byte("{dir: /nowhere, ledger: mysql://x}"),
			Plugin:    "local",
			Now:       func() time.Time { return now },
		})
	})
	for name, test := range map[string]func(*testing.T, *sharing){
		"one certificate for an ID":          testSharedOnce,
		"a process dies between":             testSharedCrash,
		"one token for all":                  testSharedToken,
		"never is never":                     testSharedNever,
		"revocations and CRLs":               testSharedCRL,
		"OCSP":                               testSharedOCSP,
		"CRL shards":                         testSharedShards,
		"first starts":                       testSharedFirstStarts,
		"a first start that broke off":       testSharedHalfMade,
		"another authority":                  testSharedOtherAuthority,
		"rollover":                           testSharedRollover,
		"a rollover while others issue":      testSharedRolloverRace,
		"a record waits for a rollover":      testSharedFence,
		"a rollover waits for a record":      testSharedFenceRollover,
		"the first revocation stands":        testSharedFirstRevocation,
		"two rollovers":                      testSharedTwoRollovers,
		"a rollover that broke off":          testSharedRolloverCrash,
		"an announcement":                    testSharedAnnounce,
		"a new issuer":                       testSharedNewIssuer,
		"one authority for all":              testSharedFolder,
		"the connection is lost":             testSharedCut,
		"the ledger of a file moves":         testSharedMove,
		"a user without CREATE":              testSharedPoor,
		"two ledgers in one database":        testSharedTwo,
		"a ledger that a newer release made": testSharedNewer,
	} {
		t.Run(name, func(t *testing.T) { test(t, s) })
	}
}

func testSharedOnce(t *testing.T, s *sharing) {
	a, b, config := s.replicas(t)
	const ids, callers = 20, 4
	got := make([][]*backend.Issuance, ids)
	var wg sync.WaitGroup
	for n := range ids {
		got[n] = make([]*backend.Issuance, callers)
		for k := range callers {
			wg.Go(func() {
				var err error
				if got[n][k], err = []*CA{a, b}[k%2].Issue(t.Context(), request(t, fmt.Sprintf("id-%d", n))); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for n := range ids {
		for k := range callers {
			if !bytes.Equal(got[n][k].Certificate, got[n][0].Certificate) {
				t.Errorf("two certificates for id-%d", n)
			}
		}
	}
	if entries := s.entries(t, config); len(entries) != ids {
		t.Errorf("%d rows", len(entries))
	}
	other := request(t, "id-0")
	other.Template.NotAfter = other.Template.NotAfter.Add(-time.Hour)
	_, err := b.Issue(t.Context(), other)
	want(t, err, codes.AlreadyExists)
}

// A replica that dies between the signature and the record has done nothing; after the record the other one answers with it.
func testSharedCrash(t *testing.T, s *sharing) {
	for _, point := range CrashPoints {
		t.Run(point, func(t *testing.T) {
			a, b, config := s.replicas(t, Options{Crash: func(at string) {
				if at == point {
					panic(point)
				}
			}})
			func() {
				defer func() { _ = recover() }()
				_, _ = a.Issue(t.Context(), request(t, "x"))
				t.Error("it does not die")
			}()
			before := s.entries(t, config)
			leaf := issue(t, b, request(t, "x"))
			after := s.entries(t, config)
			if want := map[bool]int{point == CrashAfterLedger: 1}[true]; len(before) != want || len(after) != 1 || !bytes.Equal(after[0].Certificate, leaf.Raw) {
				t.Errorf("%d rows before, %d after", len(before), len(after))
			}
		})
	}
}

// What Lookup has said never of is not recorded by a call that began before it, in whatever process.
func testSharedNever(t *testing.T, s *sharing) {
	signed, goOn := make(chan struct{}), make(chan struct{})
	a, b, config := s.replicas(t, Options{Crash: func(at string) {
		if at == CrashAfterSign {
			signed <- struct{}{}
			<-goOn
		}
	}})
	answer := make(chan error)
	go func() {
		_, err := a.Issue(t.Context(), request(t, "x"))
		answer <- err
	}()
	<-signed
	if o, err := a.Lookup(t.Context(), &backend.IssueRequest{ID: "x"}); err != nil || o.State != backend.OutcomeUnknown {
		t.Errorf("in the process that signs: %v, %v", o, err)
	}
	if o, err := b.Lookup(t.Context(), &backend.IssueRequest{ID: "x"}); err != nil || o.State != backend.OutcomeNever {
		t.Errorf("in the other one: %v, %v", o, err)
	}
	close(goOn)
	err := <-answer
	want(t, err, codes.Unavailable)
	if entries := s.entries(t, config); len(entries) != 0 {
		t.Fatalf("%d rows of what was never issued", len(entries))
	}
	for range 2 {
		if o, err := b.Lookup(t.Context(), &backend.IssueRequest{ID: "x"}); err != nil || o.State != backend.OutcomeNever {
			t.Errorf("%v, %v", o, err)
		}
	}
	leaf := issue(t, b, request(t, "x"))
	if o, err := a.Lookup(t.Context(), &backend.IssueRequest{ID: "x"}); err != nil || o.State != backend.OutcomeIssued || !bytes.Equal(o.Issuance.Certificate, leaf.Raw) {
		t.Errorf("%v, %v", o, err)
	}
}

func testSharedCRL(t *testing.T, s *sharing) {
	a, b, _ := s.replicas(t)
	empty := crl(t, a, "")
	if other := crl(t, b, ""); !bytes.Equal(other.Raw, empty.Raw) {
		t.Error("two CRLs at first")
	}
	seen := map[int64][]byte{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for n := range 12 {
		leaf := issue(t, a, request(t, fmt.Sprint("leaf-", n)))
		for k, c := range []*CA{a, b} {
			wg.Go(func() {
				if err := c.Revoke(t.Context(), &backend.RevokeRequest{Issuer: leaf.RawIssuer, Serial: leaf.SerialNumber.Bytes(), Reason: 1 + k*3, At: now.Add(-time.Duration(k) * time.Minute)}); err != nil {
					t.Error(err)
				}
				var got bytes.Buffer
				if err := []*CA{b, a}[k].CRL(t.Context(), "", &got); err != nil {
					t.Error(err)
					return
				}
				list, err := x509.ParseRevocationList(got.Bytes())
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if was := seen[list.Number.Int64()]; was != nil && !bytes.Equal(was, got.Bytes()) {
					t.Errorf("two CRLs with the number %s", list.Number)
				}
				seen[list.Number.Int64()] = bytes.Clone(got.Bytes())
				for _, e := range list.RevokedCertificateEntries {
					if e.SerialNumber.Cmp(leaf.SerialNumber) == 0 {
						return
					}
				}
				t.Error("what one replica revoked is not on the other's CRL")
			})
		}
	}
	wg.Wait()
	x, y := crl(t, a, ""), crl(t, b, "")
	if !bytes.Equal(x.Raw, y.Raw) || len(x.RevokedCertificateEntries) != 12 || x.Number.Cmp(empty.Number) <= 0 {
		t.Errorf("in the end: numbers %s and %s, %d entries", x.Number, y.Number, len(x.RevokedCertificateEntries))
	}
	// Each revocation counts once, and the first one stands.
	state, err := a.open.Load().ledger.crlState(t.Context(), "ec.1")
	if err != nil || state.revocations != 12 {
		t.Errorf("%d revocations, %v", state.revocations, err)
	}
	for _, e := range x.RevokedCertificateEntries {
		if !(e.ReasonCode == 1 && e.RevocationTime.Equal(now)) && !(e.ReasonCode == 4 && e.RevocationTime.Equal(now.Add(-time.Minute))) {
			t.Errorf("reason %d at %s: of two revocations", e.ReasonCode, e.RevocationTime)
		}
	}
}

// A lost connection refuses nothing for good, and comes back by itself.
func testSharedCut(t *testing.T, s *sharing) {
	config := s.ledger()
	c := open(t, standing(t), Options{}, config)
	_, name, _ := strings.Cut(config, "ledger-name: ")
	for n := range 3 {
		s.cluster.Cut(t, s.db, "muster ca "+name)
		ok := false
		for try := 0; try < 40 && !ok; try++ { // as many as there are connections
			_, err := c.Issue(t.Context(), request(t, fmt.Sprint("x-", n)))
			if ok = err == nil; !ok && backend.Definite(err) {
				t.Fatalf("a definite refusal: %v", err)
			}
		}
		if !ok {
			t.Error("it does not come back")
		}
		if _, err := c.Lookup(t.Context(), &backend.IssueRequest{ID: "y"}); err != nil && status.Code(err) != codes.Unavailable {
			t.Error(err)
		}
	}
	if n := len(s.entries(t, config)); n != 3 {
		t.Errorf("%d rows", n)
	}
	refusedOpening(t, standing(t), "ledger: postgres://u:hidden@127.0.0.1:1/d", codes.Unavailable, "127.0.0.1")
}

// TestSharedFailOver: when the standby takes over, it has what was issued, and the ledger goes on there; a primary that comes back as
// it was is not written, nor believed.
func TestSharedFailOver(t *testing.T) {
	primary := pgtest.Start(t, pgtest.Volatile)
	db := primary.NewDatabase(t)
	standby := primary.Standby(t, pgtest.Volatile)
	config := fmt.Sprintf("ledger: %q\nledger-name: over", pgtest.DSNs(db, primary, standby))
	dir := standing(t)
	c := open(t, dir, Options{}, config)
	before := issue(t, c, request(t, "before"))
	persist := func(c *CA, id string) *x509.Certificate {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) { // servers are processes of their own
			got, err := c.Issue(t.Context(), request(t, id))
			if err == nil {
				return parsed(t, got.Certificate)
			}
			if backend.Definite(err) || time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	primary.Crash(t)
	standby.Promote(t)
	primary.Launch(t, "synchronous_standby_names=") // it takes writes, and waits for nobody
	persist(c, "after")
	if again := persist(c, "before"); !bytes.Equal(again.Raw, before.Raw) {
		t.Error("another certificate")
	}
	fresh := open(t, replicaOf(t, dir), Options{}, config) // which has seen no fail-over
	for n, c := range []*CA{c, fresh} {
		standby.Cut(t, db, "muster ca over")
		persist(c, fmt.Sprint("later-", n))
	}
	entries, err := ReadPostgresLedger(t.Context(), LedgerURL(standby.DSN(db)), "over")
	if err != nil || len(entries) != 4 {
		t.Errorf("%d rows at the new primary, %v", len(entries), err)
	}
	old, err := ReadPostgresLedger(t.Context(), LedgerURL(primary.DSN(db)), "over")
	if err != nil || len(old) != 1 {
		t.Errorf("%d rows at the old one, %v", len(old), err)
	}
}
