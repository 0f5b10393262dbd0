package local

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"google.golang.org/grpc/codes"
)

func generationCopied(t testing.TB, from, to, folder string) {
	t.Helper()
	if err := os.Rename(copied(t, filepath.Join(from, authorityDir, folder)), filepath.Join(to, authorityDir, folder)); err != nil {
		t.Fatal(err)
	}
}

// A rollover at one replica: the other one issues nothing any more, until the generation's folder is there.
func testSharedRollover(t *testing.T, s *sharing) {
	a, b, config := s.replicas(t)
	dirA, dirB := a.open.Load().full.Dir, b.open.Load().full.Dir
	first, old := issue(t, b, request(t, "before")), a.open.Load().issuers[0].cert
	roll(t, a, backend.RolloverRequest{ID: "roll", Issuer: IssuerEC, Kind: backend.RolloverRekey, Root: true})
	fresh := issue(t, a, request(t, "after"))
	for range 2 {
		_, err := b.Issue(t.Context(), request(t, "x"))
		want(t, err, codes.Unavailable)
		if !strings.Contains(err.Error(), "copy its folder ec.2") {
			t.Error(err)
		}
	}
	if n := len(s.entries(t, config)); n != 2 {
		t.Errorf("%d rows", n)
	}
	// What needs no new generation goes on: an ID that it is known of, another CA, a CRL that stands.
	if again := issue(t, b, request(t, "before")); !bytes.Equal(again.Raw, first.Raw) {
		t.Error("another certificate")
	}
	q := request(t, "by rsa")
	q.Issuer = IssuerRSA
	issue(t, b, q)
	_, err := b.Rollover(t.Context(), &backend.RolloverRequest{ID: "roll-b", Issuer: IssuerEC, Kind: backend.RolloverRenew})
	want(t, err, codes.FailedPrecondition)
	_, err = b.Lookup(t.Context(), &backend.IssueRequest{ID: "after"})
	want(t, err, codes.Unavailable)
	// A CRL without what was issued by the new generation is not made.
	revoke(t, a, fresh, 1, now)
	err = b.CRL(t.Context(), "ec.1", new(bytes.Buffer))
	want(t, err, codes.Unavailable)
	onA := bytes.Buffer{}
	if err := a.CRL(t.Context(), "ec.1", &onA); err != nil {
		t.Fatal(err)
	}
	onB := bytes.Buffer{}
	if err := b.CRL(t.Context(), "ec.1", &onB); err != nil || !bytes.Equal(onA.Bytes(), onB.Bytes()) {
		t.Errorf("the CRL that a has made: %v", err)
	}
	// A start without it is refused.
	refusedOpening(t, replicaOf(t, dirB), config, codes.FailedPrecondition, "copy its folder ec.2")

	generationCopied(t, dirA, dirB, "ec.2")
	leaf := issue(t, b, request(t, "x"))
	if i := a.open.Load().issuers[0]; leaf.CheckSignatureFrom(i.cert) != nil || leaf.CheckSignatureFrom(old) == nil {
		t.Error("not by the new generation")
	}
	if again := issue(t, b, request(t, "before")); !bytes.Equal(again.Raw, first.Raw) {
		t.Error("another certificate for an ID from before")
	}
	if o, err := b.Lookup(t.Context(), &backend.IssueRequest{ID: "after"}); err != nil || o.State != backend.OutcomeIssued {
		t.Errorf("%v, %v", o, err)
	}
	x, y := announced(t, a, IssuerEC), announced(t, b, IssuerEC)
	if !sameCA(&x, &y) {
		t.Error("the replicas tell two CAs")
	}
	// The next one is seen by whoever asks for the CA's certificates.
	roll(t, b, backend.RolloverRequest{ID: "roll-3", Issuer: IssuerEC, Kind: backend.RolloverRenew})
	generationCopied(t, dirB, dirA, "ec.3")
	x, y = announced(t, a, IssuerEC), announced(t, b, IssuerEC)
	if !sameCA(&x, &y) || len(y.Rollover) == 0 {
		t.Error("the replicas tell two CAs after the next rollover")
	}
}

// A certificate that is being recorded by the old generation while another replica changes over is recorded before the end is
// settled, or not at all.
func testSharedRolloverRace(t *testing.T, s *sharing) {
	a, b, config := s.replicas(t)
	var wg sync.WaitGroup
	issued := make([]int, 4)
	for w := range issued {
		wg.Go(func() {
			for n := 0; ; n++ {
				q := request(t, fmt.Sprintf("w%d-%d", w, n))
				q.Template.NotAfter = now.Add(time.Hour + time.Duration(n)*time.Minute)
				if _, err := b.Issue(t.Context(), q); err != nil {
					want(t, err, codes.Unavailable)
					return
				}
				issued[w]++
			}
		})
	}
	for len(s.entries(t, config)) < 20 {
		time.Sleep(time.Millisecond) // the other replica is at work
	}
	roll(t, a, backend.RolloverRequest{ID: "roll", Issuer: IssuerEC, Kind: backend.RolloverRekey})
	known, err := a.open.Load().ledger.generations(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wg.Wait() // each ends by a refusal
	sum, last := 0, time.Time{}
	for _, n := range issued {
		sum += n
	}
	entries := s.entries(t, config)
	for _, e := range entries {
		if e.NotAfter.After(last) {
			last = e.NotAfter
		}
	}
	if len(entries) != sum || known[generationID{IssuerEC, 1}].Int64 != last.Unix() {
		t.Errorf("%d acknowledged, %d rows; the last one expires %s, the ledger says %d", sum, len(entries), last, known[generationID{IssuerEC, 1}].Int64)
	}
}

func testSharedTwoRollovers(t *testing.T, s *sharing) {
	a, b, _ := s.replicas(t)
	errs := make([]error, 2)
	var wg sync.WaitGroup
	for n, c := range []*CA{a, b} {
		wg.Go(func() {
			_, errs[n] = c.Rollover(t.Context(), &backend.RolloverRequest{ID: fmt.Sprint("roll-", n), Issuer: IssuerEC, Kind: backend.RolloverRekey})
		})
	}
	wg.Wait()
	won := 0
	for n, c := range []*CA{a, b} {
		if errs[n] == nil {
			won++
			issue(t, c, request(t, "x"))
			continue
		}
		want(t, errs[n], codes.FailedPrecondition)
		if left, err := filepath.Glob(filepath.Join(c.open.Load().authorityDir(), "ec.2*")); err != nil || len(left) > 0 {
			t.Errorf("it leaves %v, %v", left, err)
		}
	}
	if won != 1 {
		t.Errorf("%d rollovers: %v", won, errs)
	}
}

// A crash between a generation's folder, the ledger and the folder's name.
func testSharedRolloverCrash(t *testing.T, s *sharing) {
	for _, claimed := range []bool{false, true} {
		t.Run(fmt.Sprint("claimed ", claimed), func(t *testing.T) {
			a, b, config := s.replicas(t)
			dir := a.open.Load().full.Dir
			q := backend.RolloverRequest{ID: "roll", Issuer: IssuerEC, Kind: backend.RolloverRekey}
			if claimed {
				roll(t, a, q)
				shut(t, a)
				path := filepath.Join(dir, authorityDir, "ec.2")
				if err := os.Rename(path, path+halfSuffix); err != nil {
					t.Fatal(err)
				}
			} else {
				shut(t, a)
				half := filepath.Join(dir, authorityDir, "ec.2"+halfSuffix)
				if err := os.MkdirAll(half, 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(half, issuingFile), certificatePEM(b.open.Load().issuers[0].root), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			a = open(t, dir, Options{}, config)
			if n := a.open.Load().issuers[0].number; n != map[bool]int{false: 1, true: 2}[claimed] {
				t.Errorf("generation %d", n)
			}
			if left, err := filepath.Glob(filepath.Join(dir, authorityDir, "*"+halfSuffix)); err != nil || len(left) > 0 {
				t.Errorf("it leaves %v, %v", left, err)
			}
			roll(t, a, q)
			if n := a.open.Load().issuers[0].number; n != 2 {
				t.Errorf("generation %d", n)
			}
		})
	}
}

// What one replica has announced comes into force as announced, wherever that is ordered.
func testSharedAnnounce(t *testing.T, s *sharing) {
	a, b, _ := s.replicas(t)
	next := roll(t, a, backend.RolloverRequest{ID: "announce", Issuer: IssuerEC, Kind: backend.RolloverRekey, Announce: true}).Next
	for n, q := range []backend.RolloverRequest{{Kind: backend.RolloverRekey}, {Kind: backend.RolloverRekey, Announce: true}} {
		q.ID, q.Issuer = fmt.Sprint("at-b-", n), IssuerEC
		_, err := b.Rollover(t.Context(), &q)
		want(t, err, codes.FailedPrecondition)
		if !strings.Contains(err.Error(), "announced there already: copy") {
			t.Error(err)
		}
	}
	issue(t, b, request(t, "x"))
	ca := roll(t, a, backend.RolloverRequest{ID: "in-force", Issuer: IssuerEC, Kind: backend.RolloverRekey})
	if !bytes.Equal(ca.Chain[0], next[0]) {
		t.Error("another one than announced")
	}
}

// One folder authority for all, as on a volume: a rollover needs no copy.
func testSharedFolder(t *testing.T, s *sharing) {
	dir, other, config := standing(t), t.TempDir(), s.ledger()
	a := open(t, dir, Options{}, config)
	if err := os.Symlink(filepath.Join(dir, authorityDir), filepath.Join(other, authorityDir)); err != nil {
		t.Fatal(err)
	}
	b := open(t, other, Options{}, config)
	issue(t, b, request(t, "before"))
	roll(t, a, backend.RolloverRequest{ID: "roll", Issuer: IssuerEC, Kind: backend.RolloverRekey})
	if leaf := issue(t, b, request(t, "after")); leaf.CheckSignatureFrom(a.open.Load().issuers[0].cert) != nil {
		t.Error("not by the new generation")
	}
}
