package local

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/muster-pki/muster/plugins/backend"
)

// testSharedShards: replicas fill the same shards, none beyond its size, and each makes the CRL of any.
func testSharedShards(t *testing.T, s *sharing) {
	config := s.ledger()
	dir := standing(t)
	// What a file had moves, its shards too.
	c := open(t, dir, Options{}, sharded)
	first := issueMany(t, c, "file", 2)
	revoke(t, c, first[0], 1, now)
	list := lists(t, c, "ec.1.1", first[0])
	shut(t, c)
	config += "\n" + sharded
	a := open(t, dir, Options{}, config)
	b := open(t, replicaOf(t, dir), Options{}, config)
	if again := lists(t, b, "ec.1.1", first[0]); again.Number.Cmp(list.Number) != 0 {
		t.Errorf("CRL number %s after the move, not %s", again.Number, list.Number)
	}
	const each = 24
	var wg sync.WaitGroup
	for n, c := range []*CA{a, b} {
		for half := range 2 {
			wg.Go(func() {
				for i := range each / 2 {
					if _, err := c.Issue(t.Context(), request(t, fmt.Sprintf("r%d-%d-%d", n, half, i))); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	in := map[string][]string{}
	for _, e := range s.entries(t, strings.SplitN(config, "\n", 3)[0]+"\n"+strings.SplitN(config, "\n", 3)[1]) {
		leaf := parsed(t, e.Certificate)
		in[leaf.CRLDistributionPoints[0]] = append(in[leaf.CRLDistributionPoints[0]], e.ID)
	}
	total := 0
	for uri, ids := range in {
		if total += len(ids); len(ids) > 10 {
			t.Errorf("%d certificates name %s", len(ids), uri)
		}
	}
	if total != 2+2*each || len(in) != 5 {
		t.Errorf("%d certificates in %d shards", total, len(in))
	}
	names := shardNames(t, b)
	if !slices.Equal(names, []string{"ec.1.1", "ec.1.2", "ec.1.3", "ec.1.4", "ec.1.5"}) {
		t.Errorf("shards %q", names)
	}
	// Revoked through one, on the CRL of its shard at the other.
	bad := issue(t, a, request(t, "r0-0-0"))
	shard := strings.TrimSuffix(strings.TrimPrefix(bad.CRLDistributionPoints[1], "http://pki2.test/"), ".crl")
	others := slices.DeleteFunc(names, func(n string) bool { return n == shard || n == "ec.1.1" })
	revoke(t, a, bad, 1, now)
	if shard == "ec.1.1" {
		lists(t, b, shard, first[0], bad)
	} else {
		lists(t, b, shard, bad)
	}
	lists(t, b, "ec", first[0], bad)
	lists(t, a, others[0])
	if x, y := lists(t, a, "ec", first[0], bad), lists(t, b, "ec.1", first[0], bad); x.Number.Cmp(y.Number) != 0 {
		t.Errorf("CRLs %s and %s", x.Number, y.Number)
	}
	roll(t, a, backend.RolloverRequest{ID: "roll", Issuer: IssuerEC, Kind: backend.RolloverRenew})
	at(t, "ec.1.6", issueMany(t, a, "after", 2)...)
	shut(t, a)
	shut(t, b)

	// A ledger of before shards.
	config = s.ledger()
	dir = standing(t)
	a = open(t, dir, Options{}, config+"\n"+unsharded)
	old := issue(t, a, request(t, "old"))
	if _, err := a.open.Load().ledger.write.Exec(olden + `UPDATE ledger_version SET version = 1`); err != nil {
		t.Fatal(err)
	}
	shut(t, a)
	a = open(t, dir, Options{}, config+"\n"+sharded)
	at(t, "ec.1", old)
	at(t, "ec.1.1", issue(t, a, request(t, "new")))
	revoke(t, a, old, 1, now)
	lists(t, a, "ec.1", old)
	lists(t, a, "ec.1.1")
}
