package local

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/plugins/backend"
	"google.golang.org/grpc/codes"
)

// sharded is a configuration with shards of ten, at two URLs.
const sharded = `crl-shard-size: 10
issuers: {ec: {crl: ["http://pki.test/crl/local/{name}.crl", "http://pki2.test/{name}.crl"]}}`

// unsharded is the same without shards.
var unsharded = strings.SplitN(sharded, "\n", 2)[1]

func shardURIs(name string) []string {
	return []string{"http://pki.test/crl/local/" + name + ".crl", "http://pki2.test/" + name + ".crl"}
}

// issueMany issues n certificates, whose IDs begin with what.
func issueMany(t testing.TB, c *CA, what string, n int) []*x509.Certificate {
	t.Helper()
	var all []*x509.Certificate
	for i := range n {
		all = append(all, issue(t, c, request(t, fmt.Sprintf("%s-%d", what, i))))
	}
	return all
}

// at tests which CRL certificates name.
func at(t testing.TB, crl string, certs ...*x509.Certificate) {
	t.Helper()
	for _, c := range certs {
		if !slices.Equal(c.CRLDistributionPoints, shardURIs(crl)) {
			t.Errorf("%s names the CRLs %q, not %s", c.Subject, c.CRLDistributionPoints, crl)
		}
	}
}

// lists tests what a CRL lists, and what its issuingDistributionPoint says: that of a shard "critical" and its URIs.
func lists(t testing.TB, c *CA, name string, certs ...*x509.Certificate) *x509.RevocationList {
	t.Helper()
	list := crlOf(t, c, name)
	var got, want []string
	for _, e := range list.RevokedCertificateEntries {
		got = append(got, e.SerialNumber.String())
	}
	for _, x := range certs {
		want = append(want, x.SerialNumber.String())
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("CRL %s: lists %q, not %q", name, got, want)
	}
	var point []byte
	for _, e := range list.Extensions {
		if e.Id.Equal(oidIssuingDistribution) {
			point = e.Value
			if !e.Critical {
				t.Errorf("CRL %s: its issuingDistributionPoint is not critical", name)
			}
		}
	}
	if strings.Count(name, ".") < 2 {
		if point != nil {
			t.Errorf("CRL %s: lists all, and has an issuingDistributionPoint", name)
		}
		return list
	}
	// SEQUENCE { [0] { [0] { [6] URI, [6] URI } }, [1] TRUE }
	var names []byte
	for _, u := range shardURIs(name) {
		names = append(append(names, 0x86, byte(len(u))), u...)
	}
	n := byte(len(names))
	wanted := append(append([]byte{0x30, n + 7, 0xa0, n + 2, 0xa0, n}, names...), 0x81, 1, 0xff)
	if !bytes.Equal(point, wanted) {
		t.Errorf("CRL %s: issuingDistributionPoint %x, not %x", name, point, wanted)
	}
	return list
}

func shardNames(t testing.TB, c *CA) []string {
	t.Helper()
	cas, err := c.CACertificates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range cas[0].Shards {
		names = append(names, s.Name)
		if !slices.Equal(s.URIs, shardURIs(s.Name)) {
			t.Errorf("shard %s at %q", s.Name, s.URIs)
		}
	}
	return names
}

// olden takes the schema of a ledger back to what it was before shards, when it has none.
const olden = `DROP INDEX sharded; DROP INDEX listed; DROP INDEX shards;
ALTER TABLE certificates DROP COLUMN shard;
ALTER TABLE keys DROP COLUMN shard; ALTER TABLE keys DROP COLUMN uris; ALTER TABLE keys DROP COLUMN taken;
CREATE INDEX listed ON certificates (issuer) WHERE revoked_at IS NOT NULL AND delisted = 0;
`

// TestShards: a CA of before gets shards; each certificate names its shard's CRL, which lists what is revoked of it, and no other.
func TestShards(t *testing.T) {
	clock := now
	dir := standing(t)
	start := func(config string) *CA {
		return open(t, dir, Options{Clock: func() time.Time { return clock }}, config)
	}
	c := start(unsharded)
	before := issueMany(t, c, "before", 2)
	revoke(t, c, before[0], 1, now)
	shut(t, c)
	execLedger(t, dir, olden+"PRAGMA user_version = 2")

	c = start(sharded)
	if names := shardNames(t, c); len(names) != 0 {
		t.Errorf("shards %q before a certificate", names)
	}
	certs := issueMany(t, c, "a", 12)
	at(t, "ec.1", before...)
	at(t, "ec.1.1", certs[:10]...)
	at(t, "ec.1.2", certs[10:]...)
	if again := issue(t, c, request(t, "a-0")); !again.Equal(certs[0]) {
		t.Error("another certificate for an ID")
	}
	if names := shardNames(t, c); !slices.Equal(names, []string{"ec.1.1", "ec.1.2"}) {
		t.Errorf("shards %q", names)
	}
	rsa := request(t, "rsa")
	rsa.Issuer = IssuerRSA // it has no URL
	if x := issue(t, c, rsa); len(x.CRLDistributionPoints) != 0 {
		t.Errorf("CRLs %q", x.CRLDistributionPoints)
	}

	lists(t, c, "ec", before[0])
	first := lists(t, c, "ec.1.1")
	revoke(t, c, certs[11], 1, now)
	second := lists(t, c, "ec.1.2", certs[11])
	lists(t, c, "ec.1", before[0], certs[11])
	if again := lists(t, c, "ec.1.1"); !bytes.Equal(again.Raw, first.Raw) {
		t.Error("the CRL of a shard in which nothing changed was made again")
	}
	revoke(t, c, before[1], 4, now)
	if again := lists(t, c, "ec.1.2", certs[11]); !bytes.Equal(again.Raw, second.Raw) {
		t.Error("the CRL of a shard was made again for a certificate of none")
	}
	revoke(t, c, certs[0], 1, now)
	first = lists(t, c, "ec.1.1", certs[0])
	all := lists(t, c, "ec", before[0], before[1], certs[0], certs[11])
	if first.Number.Int64() != 2 || second.Number.Int64() != 1 || all.Number.Int64() < 3 {
		t.Errorf("CRL numbers %s, %s, %s", first.Number, second.Number, all.Number)
	}
	want(t, c.CRL(t.Context(), "ec.1.3", &bytes.Buffer{}), codes.NotFound)
	want(t, c.CRL(t.Context(), "ec.1.01", &bytes.Buffer{}), codes.NotFound)
	shut(t, c)

	// A start without shards: those there are stay, and nothing is put into them. With them again, they are filled up.
	c = start(unsharded)
	without := issue(t, c, request(t, "without"))
	at(t, "ec.1", without)
	if again := lists(t, c, "ec.1.1", certs[0]); !bytes.Equal(again.Raw, first.Raw) {
		t.Error("another CRL")
	}
	shut(t, c)
	c = start(sharded)
	at(t, "ec.1.2", issueMany(t, c, "b", 8)...)
	at(t, "ec.1.3", issue(t, c, request(t, "c")))
	shut(t, c)
	// At other URLs there is another shard: its CRL names where it is.
	c = start(strings.ReplaceAll(sharded, "pki2", "pki3"))
	if x := issue(t, c, request(t, "moved")); x.CRLDistributionPoints[1] != "http://pki3.test/ec.1.4.crl" {
		t.Errorf("CRLs %q", x.CRLDistributionPoints)
	}
	// Half of the validity later each is made anew.
	clock = now.Add(4 * day)
	if next := lists(t, c, "ec.1.1", certs[0]); next.Number.Int64() != 3 || !next.ThisUpdate.Equal(clock) {
		t.Errorf("number %s of %s", next.Number, next.ThisUpdate)
	}

	testShardsVerify(t, c, map[string]*x509.RevocationList{"ec": all, "ec.1.1": first, "ec.1.2": second}, before[0], before[1], certs)
}

// testShardsVerify: what openssl makes of the CRLs, with -extended_crl and without. In certs, the first is revoked in shard 1, the last in shard 2.
func testShardsVerify(t *testing.T, c *CA, crls map[string]*x509.RevocationList, revoked, _ *x509.Certificate, certs []*x509.Certificate) {
	t.Helper()
	g := c.open.Load().issuers[0].generation
	for _, x := range []struct {
		leaf *x509.Certificate
		crl  string
		says string // "" for OK
	}{
		{certs[1], "ec.1.1", ""},
		{certs[10], "ec.1.2", ""},
		{certs[0], "ec.1.1", "certificate revoked"},
		{certs[11], "ec.1.2", "certificate revoked"},
		{certs[11], "ec.1.1", "ifferent CRL scope"}, // another shard's does not pass for its own
		{certs[1], "ec.1.2", "ifferent CRL scope"},
		{revoked, "ec.1.1", "ifferent CRL scope"},
		{certs[1], "ec", ""},
		{certs[11], "ec", "certificate revoked"},
		{revoked, "ec", "certificate revoked"},
	} {
		for _, extended := range [][]string{nil, {"-extended_crl"}} {
			args := append([]string{"-crl_check", "-CRLfile", pemFile(t, "X509 CRL", crls[x.crl].Raw)}, extended...)
			out := opensslVerifies(t, x.says == "", g.root, [][]byte{g.cert.Raw}, x.leaf.Raw, args...)
			if !strings.Contains(out, x.says) {
				t.Errorf("%s, CRL %s %s: openssl says %s", x.leaf.Subject, x.crl, extended, out)
			}
		}
	}
}

// TestShardsRollover: a shard is a key's, and stays as long as its certificates.
func TestShardsRollover(t *testing.T) {
	clock := now
	dir := standing(t)
	c := open(t, dir, Options{Clock: func() time.Time { return clock }}, sharded)
	old := c.open.Load().issuers[0].generation
	short := request(t, "short")
	short.Template.NotAfter = now.Add(30 * day)
	brief := issue(t, c, short)
	kept := issue(t, c, request(t, "kept"))
	ca := roll(t, c, backend.RolloverRequest{ID: "renew", Kind: backend.RolloverRenew})
	if len(ca.Shards) != 1 {
		t.Errorf("%d shards", len(ca.Shards))
	}
	at(t, "ec.1.1", brief, kept, issue(t, c, request(t, "renewed")))
	roll(t, c, backend.RolloverRequest{ID: "rekey", Kind: backend.RolloverRekey, Root: true})
	next := issue(t, c, request(t, "next"))
	at(t, "ec.3.2", next)
	for _, x := range []*x509.Certificate{brief, next} {
		revoke(t, c, x, 1, now)
	}
	issuing := c.open.Load().issuers[0].generation
	for range 2 {
		if names := shardNames(t, c); !slices.Equal(names, []string{"ec.1.1", "ec.3.2"}) {
			t.Errorf("shards %q", names)
		}
		if l := lists(t, c, "ec.1.1", brief); l.CheckSignatureFrom(old.cert) != nil {
			t.Error("the CRL of an earlier key's shard is not signed by that key")
		}
		if l := lists(t, c, "ec.3.2", next); l.CheckSignatureFrom(issuing.cert) != nil {
			t.Error("the CRL of the new key's shard is not signed by that key")
		}
		lists(t, c, "ec.1", brief, next)
		lists(t, c, "ec.3", brief, next)
		shut(t, c)
		c = open(t, dir, Options{Clock: func() time.Time { return clock }}, sharded)
	}
	// The complete CRL does not take off what its shard's CRL has not listed after its end.
	clock = now.Add(31 * day)
	lists(t, c, "ec.1", brief, next)
	lists(t, c, "ec.3", brief, next)
	clock = now.Add(36 * day)
	lists(t, c, "ec.1", brief, next)
	lists(t, c, "ec.1.1", brief)
	clock = now.Add(40 * day)
	lists(t, c, "ec.1.1")
	lists(t, c, "ec.3", next)
	// A CRL's validity after the last certificate the shard is over, and its CRL with it.
	clock = kept.NotAfter.Add(7 * day)
	if names := shardNames(t, c); !slices.Equal(names, []string{"ec.1.1", "ec.3.2"}) {
		t.Errorf("shards %q", names)
	}
	clock = clock.Add(time.Second)
	if names := shardNames(t, c); !slices.Equal(names, []string{"ec.3.2"}) {
		t.Errorf("shards %q", names)
	}
	want(t, c.CRL(t.Context(), "ec.1.1", &bytes.Buffer{}), codes.NotFound)
}

// TestShardsOver: what nobody asked a shard's CRL about is taken off the complete one when the shard is over.
func TestShardsOver(t *testing.T) {
	clock := now
	c := open(t, standing(t), Options{Clock: func() time.Time { return clock }}, sharded)
	q := request(t, "short")
	q.Template.NotAfter = now.Add(30 * day)
	brief := issue(t, c, q)
	revoke(t, c, brief, 1, now)
	for n := range 10 { // the next shard is open
		issue(t, c, request(t, fmt.Sprint("other-", n)))
	}
	clock = now.Add(397 * day)
	lists(t, c, "ec", brief)
	if names := shardNames(t, c); !slices.Equal(names, []string{"ec.1.1", "ec.1.2"}) {
		t.Errorf("shards %q", names)
	}
	clock = now.Add(405 * day)
	lists(t, c, "ec", brief)
	clock = now.Add(410 * day)
	lists(t, c, "ec")
}

// TestShardsCrash: wherever a process dies, each certificate is in the shard that it names, and no shard has more than its size.
func TestShardsCrash(t *testing.T) {
	for _, point := range crashPoints {
		t.Run(point, func(t *testing.T) {
			dir := standing(t)
			var dies string
			crash := Options{Crash: func(at string) {
				if at == dies {
					panic(at)
				}
			}}
			c := open(t, dir, crash, sharded)
			for n := range 22 {
				q := request(t, fmt.Sprint("id-", n))
				if n == 0 || n == 10 || n == 15 { // the first of a shard, and one between
					dies = point
					func() {
						defer func() { _ = recover() }()
						_, _ = c.Issue(t.Context(), q)
						t.Error("it lives")
					}()
					dies = ""
					shut(t, c)
					c = open(t, dir, crash, sharded)
				}
				issue(t, c, q)
			}
			r := c.open.Load()
			in := map[int64]int{}
			for _, e := range rows(t, dir) {
				leaf := parsed(t, e.Certificate)
				var number int64
				serial, err := hex.DecodeString(e.Serial)
				if err != nil {
					t.Fatal(err)
				}
				if err := r.ledger.read.QueryRow(`SELECT shard FROM certificates WHERE serial = $1`, serial).Scan(&number); err != nil {
					t.Fatal(err)
				}
				at(t, fmt.Sprintf("ec.1.%d", number), leaf)
				in[number]++
			}
			total := 0
			for number, n := range in {
				if total += n; n > 10 || number < 1 || number > 3 {
					t.Errorf("%d certificates in shard %d", n, number)
				}
			}
			if total != 22 {
				t.Errorf("%d certificates", total)
			}
		})
	}
}

// TestShardsBound: there are no more shards than a backend may name, and what comes then goes into the newest one.
func TestShardsBound(t *testing.T) {
	dir := standing(t)
	c := open(t, dir, Options{}, sharded)
	issueMany(t, c, "a", 10)
	shut(t, c)
	fill := func(to int) {
		execLedger(t, dir, fmt.Sprintf(`WITH RECURSIVE n(x) AS (SELECT 2 UNION ALL SELECT x + 1 FROM n WHERE x < %d)
			INSERT OR IGNORE INTO keys (name, issuer, shard, uris, taken) SELECT 'ec.1.' || x, 'ec', x,
				'http://pki.test/crl/local/ec.1.' || x || '.crl' || char(10) || 'http://pki2.test/ec.1.' || x || '.crl', 10 FROM n;
			WITH RECURSIVE n(x) AS (SELECT 2 UNION ALL SELECT x + 1 FROM n WHERE x < %[1]d)
			INSERT OR IGNORE INTO certificates (id, issuer, serial, device, template, certificate, issued_at, not_after, shard)
				SELECT 'x' || x, 'ec', CAST('x' || x AS BLOB), '', x'00', x'00', 0, %d, x FROM n`, to, now.Add(day).Unix()))
	}
	fill(maxShardsFilled)
	c = open(t, dir, Options{}, sharded)
	last := fmt.Sprint("ec.1.", maxShardsFilled)
	at(t, last, issueMany(t, c, "more", 3)...)
	if names := shardNames(t, c); len(names) != maxShardsFilled || names[maxShardsFilled-1] != last {
		t.Errorf("%d shards", len(names))
	}
	shut(t, c)
	fill(backend.MaxShards - 1)
	c = open(t, dir, Options{}, strings.ReplaceAll(sharded, "pki2", "pki3"))
	_, err := c.Issue(t.Context(), request(t, "none"))
	want(t, err, codes.Unavailable)
}

func TestShardsConfig(t *testing.T) {
	for config, says := range map[string]string{
		"crl-shard-size: 9\n" + unsharded:                                        "crl-shard-size: 10 to 1000000",
		"crl-shard-size: 1000001\n" + unsharded:                                  "crl-shard-size: 10 to 1000000",
		"crl-shard-size: -1\n" + unsharded:                                       "crl-shard-size: 10 to 1000000",
		"crl-shard-size: 10":                                                     "no CA puts the URL of a CRL",
		`crl-shard-size: 10` + "\n" + `issuers: {ec: {crl: ["http://a/x.crl"]}}`: `issuers.ec.crl: "http://a/x.crl" has no {name}`,
		`crl-shard-size: 10` + "\n" + `issuers: {ec: {crl: ["http://a/{name}", "http://a/{name}"]}}`:               "comes twice",
		`crl-shard-size: 10` + "\n" + `issuers: {ec: {crl: ["http://a/` + strings.Repeat("x", 1000) + `{name}"]}}`: "at most 1024 octets",
		`crl-shard-size: 10` + "\n" + `issuers: {ec: {crl: [` + strings.Repeat(`"http://a/{name}", `, 9) + `]}}`:   "at most 8 URLs",
	} {
		err := New(Options{}).Validate(t.Context(), []byte("dir: /nowhere\n"+config))
		if want(t, err, codes.InvalidArgument); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", config, err)
		}
	}
}
